"""Each kind of file, and each fault that a disk has until somebody mends it: what is refused, and what is done.

Three tables, for a store in use, for one that is opened, and for one that is made. Whatever a disk refuses is said in
one sentence that names the file and the reason; memory and file are as before, reading goes on, and when the disk is
well again the next try works. And at the end: a file of each kind that somebody, or something, made shorter.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from oplog_world import QuickDisk
from store_disk import snapshot, using
from store_faults import FAULTS, KINDS, Sick, table

from backrest.errors import BackrestError, CorruptError, StorageError
from backrest.store import opsaved

# What is appended to a file that is open needs no name. The index is a cache: that it is not saved is a warning. The
# configuration is read before it is changed, for somebody may have edited it.
IN_USE = table("""
                full   write  sync   names  rename directory read-only read   closed
    operations  no     no     no     done   done   done      no        done   done
    compaction  no     no     no     no     no     no        no        no     done
    index       done   done   done   done   done   done      done      done   done
    config      no     no     no     no     no     no        no        no     no
    peers       no     no     no     no     no     no        no        done   done
    audit       no     no     no     done   done   done      no        done   done
    pushes      no     no     no     no     no     no        no        done   done
    shares      no     no     no     no     no     no        no        done   done
    parked      no     no     no     no     no     no        no        done   done
""")

# What is opened is read, and a log is opened for writing, and synced once more: a killed process may have left lines in
# memory only. (The index is read with the log here: alone, below.)
OPENED = table("""
                full   write  sync   names  rename directory read-only read   closed
    operations  done   done   no     done   done   done      no        no     no
    compaction  done   done   no     done   done   done      no        no     no
    index       done   done   no     done   done   done      no        no     no
    config      done   done   done   done   done   done      done      no     no
    peers       done   done   done   done   done   done      done      no     no
    audit       done   done   no     done   done   done      no        no     no
    pushes      done   done   done   done   done   done      done      no     no
    shares      done   done   done   done   done   done      done      no     no
    parked      done   done   done   done   done   done      done      no     no
""")

# The logs are made when they are first opened, the other files when there is something to keep.
MADE = table("""
                full   write  sync   names  rename directory read-only read   closed
    operations  no     no     no     no     no     no        no        no     no
    compaction  no     no     no     no     no     no        no        no     no
    index       no     no     no     no     no     no        no        no     no
    config      done   done   done   done   done   done      done      done   done
    peers       done   done   done   done   done   done      done      done   done
    audit       no     done   no     no     done   no        no        done   done
    pushes      done   done   done   done   done   done      done      done   done
    shares      done   done   done   done   done   done      done      done   done
    parked      done   done   done   done   done   done      done      done   done
""")


@pytest.fixture(autouse=True)
def _small_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of a log of any size is saved."""
    monkeypatch.setattr(opsaved, "is_worth", lambda length, covered: length > covered)


class Refuses:
    """What is tried in it is done, or else refused in a sentence that names file and reason."""

    def __init__(self, kind: str, fault: str, done: bool) -> None:
        self.file, self.words, self.done = KINDS[kind].file, FAULTS[fault].words, done

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> bool:
        if self.done or (error is not None and not isinstance(error, StorageError)):
            return False
        assert error is not None, "it was not refused"
        said = str(error)
        assert said.startswith("Cannot "), said
        assert self.file.split(".")[0] in said, said
        assert said.endswith(f": {self.words}."), said
        return True


class InUse:
    """A store that is used while its disk fails."""

    def __init__(self, root: Path, kind: str, fault: str) -> None:
        self.kind, self.root = KINDS[kind], root / kind
        self.refuses = Refuses(kind, fault, IN_USE[kind, fault])
        self.readable = not FAULTS[fault].calls & {"read"} or kind not in (
            "operations",
            "compaction",
            "index",
        )
        self.root.mkdir()
        self.store = self.kind.open(self.root)
        self.kind.change(self.store, 0)

    def try_it(self, number: int) -> None:
        before = self.kind.held(self.store) if self.readable else None
        with self.refuses:
            self.kind.change(self.store, number)
        if self.readable and not self.refuses.done and self.kind is not KINDS["compaction"]:
            assert self.kind.held(self.store) == before

    def after(self) -> None:
        """The disk is well again."""
        self.kind.change(self.store, 9)
        held = self.kind.held(self.store)
        self.kind.close(self.store)
        store = self.kind.open(self.root)
        assert self.kind.held(store) == held
        self.kind.close(store)
        assert not [name for name in os.listdir(self.root) if name.endswith(".tmp")]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_use(tmp_path: Path, kind: str, fault: str) -> None:
    disk = Sick(FAULTS[fault])
    with using(disk):
        store = InUse(tmp_path, kind, fault)
        before = snapshot(tmp_path)
        disk.on = True
        for number in (1, 2, 3):  # and again: each refusal leaves things as they were
            store.try_it(number)
            if not IN_USE[kind, fault] and kind != "compaction":
                assert snapshot(tmp_path) == before
        disk.on = False
        store.after()


@pytest.mark.parametrize("fault", FAULTS)
def test_all_kinds_in_use_at_once(tmp_path: Path, fault: str) -> None:
    disk = Sick(FAULTS[fault])
    with using(disk):
        stores = [InUse(tmp_path, kind, fault) for kind in KINDS]
        disk.on = True
        for number in (1, 2, 3):
            for store in stores:
                store.try_it(number)
        disk.on = False
        for store in stores:
            store.after()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_opened(tmp_path: Path, kind: str, fault: str) -> None:
    one = KINDS[kind]
    with using(QuickDisk()):
        store = one.open(tmp_path)
        one.change(store, 0)
        held = one.held(store)
        one.close(store)
    before = snapshot(tmp_path)
    with using(Sick(FAULTS[fault], on=True)), Refuses(kind, fault, OPENED[kind, fault]):
        store = one.open(tmp_path)
        assert one.held(store) == held
        one.close(store)
    assert snapshot(tmp_path) == before
    with using(QuickDisk()):
        store = one.open(tmp_path)
        assert one.held(store) == held
        one.close(store)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_made(tmp_path: Path, kind: str, fault: str) -> None:
    one = KINDS[kind]
    with using(Sick(FAULTS[fault], on=True)), Refuses(kind, fault, MADE[kind, fault]):
        one.close(one.open(tmp_path))
    if not MADE[kind, fault] and fault not in ("read", "closed"):  # these meet what was made well
        assert snapshot(tmp_path) == ({"audit.jsonl": b""} if (kind, fault) == ("audit", "sync") else {})
    with using(QuickDisk()):
        store = one.open(tmp_path)
        one.change(store, 0)
        one.close(store)


@pytest.mark.parametrize("fault", ["read", "closed"])
def test_index_that_cannot_be_read_is_not_needed(tmp_path: Path, fault: str) -> None:
    one = KINDS["index"]
    with using(QuickDisk()):
        log = one.open(tmp_path)
        one.change(log, 0)
        held = one.held(log)
        one.close(log)
    with using(Sick(FAULTS[fault], only="oplog.index", on=True)):
        log = one.open(tmp_path)
        assert one.held(log) == held
        one.change(log, 1)
        held = one.held(log)
        one.close(log)
    with using(QuickDisk()):
        log = one.open(tmp_path)
        assert one.held(log) == held
        one.close(log)


# --- shorter than it was


def shorten(path: Path) -> bytes:
    """The file ends in the middle of its last line, or of what it says. What is left of it."""
    content = path.read_bytes()
    os.truncate(path, len(content.rstrip()) - 8)
    return path.read_bytes()


# What is in memory is the truth of these, and the next change writes it; a log cannot know what it is appended to; and
# of the configuration the file is the truth.
SHRUNK_IN_USE = {
    "operations": "shrank while in use: restart the program.",
    "compaction": "shrank while in use: restart the program.",
    "index": "",
    "config": "it is not JSON",
    "peers": "",
    "audit": "shrank while in use: restart the program.",
    "pushes": "",
    "shares": "",
    "parked": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_shorter_while_in_use(tmp_path: Path, kind: str) -> None:
    one, words = KINDS[kind], SHRUNK_IN_USE[kind]
    path = tmp_path / one.file
    with using(QuickDisk()):
        store = one.open(tmp_path)
        for number in range(3):
            one.change(store, number)
        left = shorten(path)
        if words:
            for _ in range(2):
                with pytest.raises(BackrestError, match=words) as caught:
                    store.compact() if kind == "compaction" else one.change(store, 3)
                assert str(path) in str(caught.value)
                assert path.read_bytes() == left
            if kind == "config":
                assert store.current.instance == "me2", "it stays in force"
                assert f"the newest backup is {path}.bak." in str(caught.value)
        else:
            one.change(store, 3)
            held = one.held(store)
            one.close(store)
            store = one.open(tmp_path)
            assert one.held(store) == held
        one.close(store)


# A log without the end of its last line is what a crash leaves, and is cut. Of the others the daemon would write over
# what a person can mend; but the peers' states come back by themselves.
SHRUNK_OPENED = {
    "operations": "",
    "compaction": "",
    "index": "",
    "config": "it is not JSON",
    "peers": "",
    "audit": "",
    "pushes": "repair it, or move it away to do without the pushes that wait",
    "shares": "repair it, or move it away to do without the addresses of shared repositories",
    "parked": "repair it, or move it away to do without the plans that are parked",
}


@pytest.mark.parametrize("kind", KINDS)
def test_shorter_when_it_is_opened(tmp_path: Path, kind: str) -> None:
    one, words = KINDS[kind], SHRUNK_OPENED[kind]
    path = tmp_path / one.file
    with using(QuickDisk()):
        store = one.open(tmp_path)
        for number in range(3):
            one.change(store, number)
        held = one.held(store)
        one.close(store)
        left = shorten(path)
        if words:
            with pytest.raises(BackrestError, match=words) as caught:
                one.open(tmp_path)
            assert str(path) in str(caught.value)
            assert isinstance(caught.value, CorruptError) or kind == "config"
            assert path.read_bytes() == left
            return
        store = one.open(tmp_path)
        now = one.held(store)
        match kind:
            case "peers":
                assert now == []
                assert (tmp_path / "peers.json.bad").read_bytes() == left
            case "audit":
                assert now == [0, 1, None], "that the last one was cut is an event"
            case _:  # what ends a log is no operation, when it was closed in order
                assert now == held
        one.change(store, 3)
        one.close(store)

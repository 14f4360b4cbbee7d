"""A disk that does not give back what it was given: the operation log says so once, loses nothing, and serves the rest.

Each read of what the log does fails once: while it is opened, queried, changed, compacted, verified and repaired. Files
that shrink meanwhile are here, too, for it is the reads that notice them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from oplog_world import PEER, Operation, QuickDisk, everything, op, received
from store_disk import broken_disk, snapshot, using

from backrest.errors import CorruptError, StorageError
from backrest.store import opcompact, opload, opsaved
from backrest.store.oplog import Applied, OpLog, Query

T = TypeVar("T")

# The log's own name, or that of the new one, which is made beside it and read once before it takes its place.
SAID = r"^Cannot read \S*/(|\.)oplog\.jsonl(|\.\w+\.tmp): the disk reported an input/output error\.$"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small blocks and batches, so that there are many reads; every index is saved; syncs are free."""
    for module in (opload, opcompact, opsaved):
        monkeypatch.setattr(module, "BLOCK", 1000)
    monkeypatch.setattr(opcompact, "_LINES", 4)
    monkeypatch.setattr(opsaved, "is_worth", lambda length, covered: length > covered)
    with using(QuickDisk()):
        yield


class Reads(QuickDisk):
    """Does ``fault`` at the read of that number, or, without one, at none: it counts them."""

    def __init__(self, at: int | None = None, fault: Callable[[], object] = lambda: None) -> None:
        self.at, self.fault = at, fault
        self.count = 0

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self.count += 1
        if self.at == self.count - 1:
            self.fault()
        return super().read(fd, size, offset)


def broken() -> None:
    raise broken_disk()


def when_each_read_has_failed(work: Callable[[], T], unchanged: Callable[[], None]) -> tuple[int, T]:
    """Its first read fails, then its second, and so on, until it works: how often that was, and what it gave."""
    failed = 0
    while True:
        disk = Reads(failed, broken)
        try:
            with using(disk):
                result = work()
        except StorageError as error:
            said = str(error)
        else:
            assert disk.count == failed, "a read failed, and nobody noticed"
            return failed, result
        assert re.search(SAID, said), said
        unchanged()
        failed += 1


def same(path: Path, content: bytes, beside: list[str]) -> None:
    """The log is as it was, and nothing but that is beside it."""
    assert path.read_bytes() == content
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *beside])


class BadSector(QuickDisk):
    """What stands at this place of the log cannot be read."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if offset <= self.offset < offset + size:
            raise broken_disk()
        return super().read(fd, size, offset)


@contextmanager
def opened(path: Path) -> Iterator[OpLog]:
    log = OpLog.open(path)
    try:
        yield log
    finally:
        log.close()


def place_of(path: Path, text: str) -> int:
    return path.read_bytes().index(text.encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of twelve operations, far enough from each other that they are not read together."""
    path = tmp_path / "oplog.jsonl"
    with opened(path) as log:
        log.add([op(display_message=f"n{n}:" + "x" * 5000) for n in range(12)])
    return path


def test_bad_sector_costs_only_what_is_on_it(path: Path) -> None:
    with opened(path) as log:
        before = everything(log)
        with using(BadSector(place_of(path, "n5:"))):
            for work in (
                lambda: log.get(6),
                lambda: list(log.query(Query())),
                lambda: list(log.read([5, 6, 7])),
            ):
                with pytest.raises(StorageError, match=SAID):
                    work()
            assert [log.get(number) for number in (5, 7)] == [before[5], before[7]]
            assert (log.count(), log.matching(Query()), len(log.select(Query()))) == (12, 12, 12)
            [new] = log.add([op()])
            assert log.get(new.id) == new
            log.delete([6])  # needs nothing of what it held
        del before[6]
        assert everything(log) == {**before, new.id: new}


def test_commit_that_must_read_what_it_cannot_fails_alone(path: Path) -> None:
    """A peer repeats an operation: whether it is the same is read from the disk."""
    with opened(path) as log:
        log.apply(PEER, [received(1, display_message="held:" + "x" * 5000)])
        before = everything(log)
        with using(BadSector(place_of(path, "held:"))):
            with pytest.raises(StorageError, match=SAID):
                log.apply(PEER, [received(2), received(1, display_message="other")])
            applied: Applied = log.apply(PEER, [received(3)])
            assert len(applied.stored) == 1
        found = everything(log)
        assert {number: found[number] for number in before} == before
        assert sorted(log.held(PEER)) == [1, 3]
        log.apply(PEER, [received(2), received(1, display_message="other")])
        assert sorted(log.held(PEER)) == [1, 2, 3]


def test_opening_fails_at_any_read_of_the_log_and_changes_nothing(path: Path) -> None:
    def reopen() -> OpLog:
        path.with_name("oplog.index").unlink(missing_ok=True)
        return OpLog.open(path)

    content = path.read_bytes()
    failed, log = when_each_read_has_failed(reopen, lambda: same(path, content, []))
    assert failed > 50
    assert log.count() == 12
    log.close()


def test_opening_does_without_the_index_when_any_read_for_it_fails(path: Path) -> None:
    before = snapshot(path.parent)
    with using(disk := Reads()), opened(path) as log:
        held = everything(log)
    for at in range(disk.count):
        with using(Reads(at, broken)):
            log = OpLog.open(path)
        assert everything(log) == held
        log.close()
        assert snapshot(path.parent) == before
    assert disk.count > 50, "the log is compared with what its index says of it"


def test_unfinished_write_that_cannot_be_read_is_not_cut_off(path: Path) -> None:
    path.with_name("oplog.index").unlink()
    with path.open("ab") as file:  # two lines of a commit that a power cut tore: they are kept aside
        file.write(b' {"id":"13"\n{"id":"14"')
    content = path.read_bytes()
    failed, log = when_each_read_has_failed(lambda: OpLog.open(path), lambda: same(path, content, []))
    assert failed > 50
    assert log.count() == 12
    log.close()
    [aside] = path.parent.glob("oplog.jsonl.bad-*")
    assert aside.read_bytes() == b' {"id":"13"\n{"id":"14"'


COPIES = pytest.mark.parametrize("scattered", [False, True], ids=["neighbours", "single lines"])


def prepare(log: OpLog, scattered: bool) -> None:
    """What lives stands together, or there is something dead between any two."""
    log.add([op(display_message=f"m{n}") for n in range(40)])
    log.delete(range(1, 53, 2) if scattered else range(1, 13))


@COPIES
def test_compaction_fails_at_any_read_and_changes_nothing(path: Path, scattered: bool) -> None:
    with opened(path) as log:
        prepare(log, scattered)
        held, content = everything(log), path.read_bytes()

        def unchanged() -> None:
            same(path, content, ["oplog.index"])
            with using(QuickDisk()):
                assert everything(log) == held

        failed, done = when_each_read_has_failed(log.compact, unchanged)
        assert failed > 20
        assert done.after < done.before
        assert everything(log) == held
        log.add([op()])


@COPIES
def test_log_that_shrinks_while_it_is_compacted_is_said(path: Path, scattered: bool) -> None:
    """And not half a line goes into the new file, which there is none of."""
    said: set[str] = set()
    at = 0
    while _shrinks(path, scattered, at, said):
        at += 1
    assert at > 10
    assert f"{path} shrank while in use: restart the program." in said
    assert all(str(path) in text for text in said)


def _shrinks(path: Path, scattered: bool, at: int, said: set[str]) -> bool:
    """Whether compaction has a read of that number, at which the log is cut short."""
    for old in path.parent.iterdir():
        old.unlink()
    with opened(path) as log:
        prepare(log, scattered)
        content = path.read_bytes()
        left = content[: content.index(b"m30") + 1]
        with using(Reads(at, lambda: os.truncate(path, len(left)))):
            try:
                log.compact()
            except StorageError as error:
                said.add(str(error))
            else:
                return False
        same(path, left, ["oplog.index"])
        assert log.get(20).display_message == "m19"
        with pytest.raises(CorruptError, match="the file ends before it"):
            log.get(40)
        with pytest.raises(StorageError, match="shrank while in use: restart the program"):
            log.add([op()])
        return True


def adding(log: OpLog, added: list[Operation]) -> Callable[[int, int], None]:
    """Told of a compaction's progress: adds three operations as soon as it has begun."""
    first = [True]

    def progress(done: int, total: int) -> None:
        if done and first:
            first.clear()
            with using(QuickDisk()):
                added.extend(log.add([op(display_message="late" + "x" * 700) for _ in range(3)]))

    return progress


# What came meanwhile is copied before the writers are made to wait, or, when it is little, while they do.
MEANWHILE = pytest.mark.parametrize("catch_up", [0, 1 << 20], ids=["much", "little"])


@MEANWHILE
@pytest.mark.parametrize("shrinks", [False, True], ids=["broken", "shrinks"])
def test_compaction_fails_at_any_read_of_what_came_meanwhile(
    path: Path, catch_up: int, shrinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "CATCH_UP", catch_up)
    said: list[str] = []
    late = 0
    while True:
        for old in path.parent.iterdir():
            old.unlink()
        with opened(path) as log:
            log.add([op(display_message=f"m{n}") for n in range(8)])
            held = everything(log)
            added: list[Operation] = []
            cut = lambda: os.truncate(path, path.stat().st_size - 10)  # noqa: E731
            try:
                with using(Reads(len(said), cut if shrinks else broken)):
                    log.compact(adding(log, added))
            except StorageError as error:
                said.append(str(error))
            else:
                break
            late += bool(added)
            assert not [name for name in os.listdir(path.parent) if name.endswith(".tmp")]
            if not shrinks:
                assert everything(log) == held | {operation.id: operation for operation in added}
            elif added:
                assert log.get(added[1].id) == added[1]
                with pytest.raises(CorruptError, match="the file ends before it"):
                    log.get(added[2].id)
    assert late > 5, "so often it was under way"
    assert all(str(path.name) in text for text in said)


def damage(path: Path) -> None:
    """Two lines in the middle become what nobody wrote."""
    content = path.read_bytes().splitlines(keepends=True)
    content[3] = b"{" + content[3]
    content[7] = b"rubbish\n"
    path.write_bytes(b"".join(content))


def test_verify_fails_at_any_read(path: Path) -> None:
    damage(path)
    content = path.read_bytes()
    failed, report = when_each_read_has_failed(
        lambda: OpLog.verify(path), lambda: same(path, content, ["oplog.index"])
    )
    assert failed > 50
    assert report.bad_lines == 2


def test_repair_fails_at_any_read_and_changes_nothing(path: Path) -> None:
    damage(path)
    content = path.read_bytes()
    failed, _ = when_each_read_has_failed(
        lambda: OpLog.repair(path), lambda: same(path, content, ["oplog.index"])
    )
    assert failed > 100, "it is read, copied, and the copy read"
    with opened(path) as log:
        assert log.count() == 10


def test_log_that_shrinks_while_it_is_repaired_is_said(path: Path) -> None:
    damage(path)
    content = path.read_bytes()
    cut = content.index(b"n9:")
    disk = Reads()
    with using(disk):
        OpLog.verify(path)  # that many reads to scan it; what repair reads next, it copies
    with (
        using(Reads(disk.count, lambda: os.truncate(path, cut))),
        pytest.raises(StorageError, match="shrank"),
    ):
        OpLog.repair(path)
    assert snapshot(path.parent)["oplog.jsonl"] == content[:cut]
    assert not [name for name in os.listdir(path.parent) if name.endswith(".tmp") or ".bad" in name]

"""The saved index (oplog.index): opening with it is as without it, but for the time; whatever became of the files."""

from __future__ import annotations

import logging
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from oplog_world import OTHER, PEER, QuickDisk, everything, op, received
from store_disk import TestDisk, broken_disk, full_disk, using

from backrest.errors import CorruptError, StorageError
from backrest.store import opload, opsaved
from backrest.store.oplog import OpLog, Query


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The index of a log of any size is saved; a sync takes long."""
    monkeypatch.setattr(opsaved, "is_worth", lambda length, covered: length > covered)
    with using(QuickDisk()):
        yield


def make(path: Path) -> tuple[bytes, bytes]:
    """A log with something of everything, and its index."""
    log = OpLog.open(path)
    log.add([op(), op(snapshot_id="ab" * 32), op(snapshot_id="not hexadecimal" * 4 + "abcd")])
    log.apply(PEER, [received(n, n, flow_id=1 + n // 3) for n in (5, 1, 4, 9)])
    log.apply(OTHER, [received(2, 7, plan_id="music"), received(1)])
    log.delete([2])
    log.update([log.get(1)])
    log.apply(PEER, [received(1, 20, plan_id="music")], [4])
    log.close()
    return path.read_bytes(), saved(path).read_bytes()


def saved(path: Path) -> Path:
    return path.with_name("oplog.index")


def written(path: Path) -> tuple[int, int]:
    """Tells one saved index from the next."""
    info = saved(path).stat()
    return info.st_ino, info.st_mtime_ns


def outcome(path: Path) -> Any:
    """What opening gives, and leaves behind of the log."""
    try:
        log = OpLog.open(path)
    except CorruptError as error:
        return error.line, str(error), path.read_bytes()
    try:
        flows = [log.select(Query(origin=PEER, original_flow_id=flow)) for flow in range(5)]
        snapshots = [log.select(Query(snapshot_id=operation.snapshot_id)) for operation in log.query(Query())]
        originals = [log.select(Query(original_id=number)) for number in range(10)]
        return everything(log), log.highest, log.size, flows, snapshots, originals, path.read_bytes()
    finally:
        log._file.retire()  # as a killed process leaves it


def both(path: Path, log: bytes, index: bytes) -> tuple[Any, Any]:
    """The outcome with this index beside the log, and that without any."""
    path.write_bytes(log)
    saved(path).write_bytes(index)
    first = outcome(path)
    path.write_bytes(log)
    saved(path).unlink(missing_ok=True)
    return first, outcome(path)


def test_log_opens_from_its_index_as_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data, index = make(path)
    before = written(path)
    assert stat.S_IMODE(saved(path).stat().st_mode) == 0o600
    outcome(path)
    assert written(path) == before  # it was good, and no other was written
    first, second = both(path, data, index)
    assert first == second
    assert len(first[0]) == 7


def test_operations_behind_the_index_are_read_from_the_log(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    _, index = make(path)
    log = OpLog.open(path)
    log.delete([1])
    log.apply(PEER, [received(1, 21, plan_id="video"), received(30, flow_id=2)])
    log.add([op()])
    log.close()
    first, second = both(path, path.read_bytes(), index)
    assert first == second
    assert 1 not in first[0]


def test_damage_anywhere_in_the_log_is_found_as_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data, index = make(path)
    refused = []
    for place in range(0, len(data), 7):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        first, second = both(path, damaged, index)
        assert first == second, place
        refused.append(isinstance(first[0], int))
    assert refused.count(True) > 100
    assert refused.count(False) > 100  # where text became other text


def test_log_cut_short_anywhere_opens_as_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data, index = make(path)
    for length in range(0, len(data), 11):
        first, second = both(path, data[:length], index)
        assert first == second, length


def test_torn_end_behind_the_index_is_cut_and_damage_there_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data, index = make(path)
    lines = data.count(b"\n")
    for tail in (
        b' {"id":"50","mod',
        b' {"id":"50"}\n',
        b' {"deleted":["1"]}\n#\n',
        b' {"deleted":["1"]}\n{"id',
    ):
        first, second = both(path, data + tail, index)
        assert first == second
        assert len(first) > 3
    first, second = both(path, data + b'{"deleted":["1"]}\n#\n' + b' {"deleted":["1"]}\n', index)
    assert first == second
    assert first[0] == lines + 2
    # what was cut is not in the next index
    path.write_bytes(data + b' {"deleted":["1"]}\n#\n{"id')
    saved(path).write_bytes(index)
    OpLog.open(path).close()
    before = written(path)
    OpLog.open(path).close()
    assert written(path) == before


def test_damaged_index_is_put_aside_for_the_log(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data, index = make(path)
    path.write_bytes(data)
    saved(path).unlink()
    good = outcome(path)
    for damaged in (
        *(
            index[:place] + bytes([index[place] ^ 1]) + index[place + 1 :]
            for place in range(0, len(index), 9)
        ),
        *(index[:length] for length in range(0, len(index), 99)),
        index + b"\0",
        bytes(len(index)),
    ):
        path.write_bytes(data)
        saved(path).write_bytes(damaged)
        assert outcome(path) == good
        assert saved(path).read_bytes() == index  # written anew


@pytest.mark.parametrize(
    "odd",
    [
        [],
        5,
        {"length": None},
        {"rows": 1 << 60},
        {"rows": "x"},
        {"groups": [["", ""]]},
        {"origins": [7]},
        {"highestId": "x", "rows": 3},
    ],
    ids=str,
)
def test_index_that_is_whole_and_odd_keeps_no_log_from_opening(tmp_path: Path, odd: Any) -> None:
    """Whoever can write there can make its checksum; it must not take more than removing it."""
    path = tmp_path / "oplog.jsonl"
    data, _ = make(path)
    path.write_bytes(data)
    saved(path).unlink()
    good = outcome(path)
    path.write_bytes(data)
    header: Any = odd
    if isinstance(odd, dict):
        sound = {"length": len(data), "crc32": zlib.crc32(data), "rows": 0, "groups": [], "origins": []}
        marks = {"highestId": 0, "highestModno": 0, "live": 0, "liveBytes": 0}
        header = opsaved._FORMAT | sound | marks | odd
    image = orjson.dumps(header) + b"\n"
    saved(path).write_bytes(image + zlib.crc32(image).to_bytes(4, "big"))
    assert outcome(path) == good


@pytest.mark.parametrize("what", ["directory", "pipe", "link", "unreadable"])
def test_anything_else_in_its_place_keeps_no_log_from_opening(tmp_path: Path, what: str) -> None:
    path = tmp_path / "oplog.jsonl"
    make(path)
    good = outcome(path)
    index = saved(path)
    index.rename(tmp_path / "other")
    if what == "directory":
        index.mkdir()
    elif what == "pipe":
        os.mkfifo(index)
    elif what == "link":
        index.symlink_to(tmp_path / "other")
    else:
        index.write_bytes(b"")
        index.chmod(0)
    assert outcome(path) == good
    assert (tmp_path / "other").exists()


def test_edited_log_of_the_same_length_is_read_again(tmp_path: Path) -> None:
    """Inode, length and time may all be as they were."""
    path = tmp_path / "oplog.jsonl"
    data, _ = make(path)
    info = path.stat()
    with path.open("r+b") as file:
        file.write(data.replace(b'"planId":"photos"', b'"planId":"videos"'))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    log = OpLog.open(path)
    assert not log.select(Query(plan_id="photos"))
    assert len(log.select(Query(plan_id="videos"))) == 5
    log.close()


def test_log_restored_from_a_backup_forgets_what_only_the_index_knew(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data, _ = make(path)
    old = outcome(path)
    log = OpLog.open(path)
    [new] = log.add([op()])
    log.close()
    path.write_bytes(data)
    assert outcome(path) == old
    log = OpLog.open(path)
    assert log.meta(new.id) is None
    log.close()


def test_what_was_damaged_while_in_use_is_in_no_index(tmp_path: Path) -> None:
    """The checksum is of what was written, so an index never says that a damaged log is good."""
    path = tmp_path / "oplog.jsonl"
    data, _ = make(path)
    log = OpLog.open(path)
    place = data.index(b'{"id":"4"')
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"#")
    log.add([op()])
    with pytest.raises(StorageError, match="changed or damaged while in use"):
        log.compact()
    log.add([op()])
    log.close()
    with pytest.raises(CorruptError, match="not JSON"):
        OpLog.open(path)


def test_compaction_leaves_the_index_of_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    make(path)
    log = OpLog.open(path)
    log.compact(lambda done, total: log.add([op()]) and None)
    before = written(path)
    log._file.retire()  # as a killed process leaves it
    first = outcome(path)
    assert written(path) == before  # it was good, and no other was written
    saved(path).unlink()
    assert outcome(path) == first


def test_index_that_cannot_be_written_is_said_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(QuickDisk):
        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            if ".oplog.index." in path:
                raise full_disk()
            return super().open(path, flags, mode)

    path = tmp_path / "oplog.jsonl"
    _, index = make(path)
    with using(Full()), caplog.at_level(logging.WARNING):
        log = OpLog.open(path)
        [new] = log.add([op()])
        log.close()
    assert "no space is left on the disk. Opening" in caplog.text
    assert saved(path).read_bytes() == index
    log = OpLog.open(path)
    assert log.get(new.id) == new
    log.close()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_every_step_of_saving_may_fail_once_and_no_operation_is_lost(tmp_path: Path) -> None:
    class Faulty(TestDisk):
        def fsync(self, fd: int) -> None:
            pass

        def fsync_dir(self, path: str) -> None:
            pass

        def _step(self, name: str, what: object) -> None:
            if name == "write" or "oplog.index" in str(what):
                super()._step(name, what)

    def run(at: int | None) -> int:
        path = tmp_path / str(at) / "oplog.jsonl"
        path.parent.mkdir()
        OpLog.open(path).close()
        disk, done = Faulty(at, broken_disk), []
        with using(disk):
            log = OpLog.open(path)
            for work in (
                lambda: log.add([op(), op()]),
                log.maybe_compact,
                lambda: log.delete([1]),
                log.compact,
            ):
                try:
                    work()
                    done.append(work)
                except StorageError:
                    assert at is not None
            log.close()
        with using(QuickDisk()):
            state = outcome(path)
            saved(path).unlink(missing_ok=True)
            assert outcome(path) == state
        assert len(state[0]) <= 2
        return len(disk.steps)

    assert all(map(run, range(run(None))))


def test_short_log_has_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    path = tmp_path / "oplog.jsonl"
    with using(QuickDisk()):
        log = OpLog.open(path)
        log.add([op()])
        assert not log.maybe_compact()
        log.close()
    assert not saved(path).exists()
    size = opsaved.WORTH_BYTES
    assert not opsaved.is_worth(size, 0)
    assert opsaved.is_worth(size + 1, 0)
    assert not opsaved.is_worth(9 * size, 8 * size)
    assert opsaved.is_worth(27 * size + 1, 24 * size)


def test_daemon_saves_the_index_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    log = OpLog.open(path)
    first = saved(path).read_bytes()
    log.add([op()])
    assert saved(path).read_bytes() == first
    assert not log.maybe_compact()
    assert saved(path).read_bytes() != first
    state = everything(log)
    log._file.retire()  # as a killed process leaves it
    log = OpLog.open(path)
    assert everything(log) == state
    log.close()


def test_index_of_another_version_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "oplog.jsonl"
    make(path)
    good = outcome(path)
    monkeypatch.setitem(opsaved._FORMAT, "statuses", {"STATUS_NEW": 99})
    assert outcome(path) == good
    assert b"STATUS_NEW" in saved(path).read_bytes()


@pytest.mark.parametrize("block", [1, 7, 300, 1000])
def test_log_read_in_blocks_of_any_size_gets_a_good_index(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oplog.jsonl"
    data, _ = make(path)
    monkeypatch.setattr(opload, "BLOCK", block)
    for tail in (
        b"",
        b'{"id',
        b' {"deleted":["1"]}\n#\n',
        b' {"deleted":["1"]}\n{"deleted":["3"]}\n#\n{"id":"5',
    ):
        path.write_bytes(data + tail)
        saved(path).unlink()
        OpLog.open(path).close()
        before = written(path)
        OpLog.open(path).close()
        assert written(path) == before, tail

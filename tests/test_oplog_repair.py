"""Verify and repair of a log that is damaged."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oplog_world import PEER, QuickDisk, everything, fill, op, received
from store_disk import TestDisk, count_steps, full_disk, using

from backrest.errors import CorruptError, StorageError
from backrest.store import opcompact, opload
from backrest.store.opformat import HIGHEST, mark
from backrest.store.oplog import OpLog


def damaged(path: Path, change: Callable[[list[bytes]], None]) -> tuple[dict[int, Any], bytes]:
    """A log whose lines were changed; what it held before, and the bytes it now has."""
    log = OpLog.open(path)
    fill(log)
    state = everything(log)
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
    return state, path.read_bytes()


def held(path: Path) -> dict[int, Any]:
    """What the log holds, which must open."""
    log = OpLog.open(path)
    try:
        return everything(log)
    finally:
        log.close()


def place_of(lines: list[bytes], number: int) -> int:
    return max(n for n, line in enumerate(lines) if line.lstrip().startswith(b'{"id":"%d"' % number))


def test_verify_of_a_good_log_says_so_and_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    state, content = damaged(path, lambda lines: None)
    path.chmod(0o400)
    told: list[tuple[int, int]] = []
    report = OpLog.verify(path, lambda done, total: told.append((done, total)))
    assert (report.bad, report.bad_lines, report.torn, report.opens) == ([], 0, 0, True)
    assert (report.operations, report.size, report.lines) == (len(state), len(content), content.count(b"\n"))
    assert 0 < report.needed < report.size
    assert told[-1] == (len(content), len(content))
    assert OpLog.repair(path).set_aside == ""
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["oplog.jsonl"]


def test_repair_sets_bad_lines_aside_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    bad: list[bytes] = []

    def change(lines: list[bytes]) -> None:
        for number, junk in ((12, b"\0" * 40 + b"\n"), (30, b'{"id":"30","modno":5}\n'), (47, b"\n")):
            place = place_of(lines, number)
            bad.append(junk)
            lines[place] = junk

    state, _ = damaged(path, change)
    with pytest.raises(CorruptError, match="no text"):
        OpLog.open(path)
    report = OpLog.verify(path)
    assert (report.bad_lines, report.opens, report.torn) == (3, False, 0)
    report = OpLog.repair(path)
    assert sorted(Path(report.set_aside).read_bytes().splitlines()) == sorted(b.strip(b"\n") for b in bad)
    assert Path(report.set_aside).stat().st_mode & 0o777 == 0o600
    log = OpLog.open(path)
    assert everything(log) == {n: o for n, o in state.items() if n not in (12, 30, 47)}
    assert OpLog.verify(path).bad_lines == 0
    [new] = log.add([op()])
    assert new.id > max(state)
    log.close()


def test_repair_keeps_the_older_line_of_a_damaged_update(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        lines[place_of(lines, 3)] = b"#\n"

    state, _ = damaged(path, change)
    OpLog.repair(path)
    log = OpLog.open(path)
    assert log.get(3).modno == 3 < state[3].modno
    log.close()


def test_repair_keeps_an_update_whose_first_line_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        first = min(n for n, line in enumerate(lines) if line.startswith(b'{"id":"3"'))
        lines[first] = b"#\n"

    state, _ = damaged(path, change)
    assert OpLog.verify(path).bad_lines == 2
    report = OpLog.repair(path)
    assert Path(report.set_aside).read_bytes() == b"#\n"
    assert held(path) == state


def test_repair_of_a_log_without_its_first_line_gives_out_no_number_twice(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    log = OpLog.open(path)
    log.add([op() for _ in range(500)])
    log.delete(range(2, 501))
    log.compact()
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"#\n" + lines[1])
    with pytest.raises(CorruptError, match="line 1: not JSON"):
        OpLog.open(path)
    OpLog.repair(path)
    log = OpLog.open(path)
    [new] = log.add([op()])
    assert new.id > 500
    assert new.modno > 500
    log.close()


def test_repair_of_lines_in_another_order_restores_it(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    log = OpLog.open(path)
    log.add([op() for _ in range(50)])
    log.compact()
    state = everything(log)
    log.close()
    lines = [line.strip() + b"\n" for line in path.read_bytes().splitlines()]
    path.write_bytes(lines[0] + b"".join(reversed(lines[1:])))
    with pytest.raises(CorruptError, match="comes after one with a higher id"):
        OpLog.open(path)
    report = OpLog.repair(path)
    assert report.set_aside == ""
    assert held(path) == state


def test_repair_of_a_torn_end_and_of_an_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opload, "MAX_LINE", 5_000)
    monkeypatch.setattr(opload, "BLOCK", 1_000)
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        lines.insert(10, b"y" * 20_000 + b"\n")
        lines.append(b'{"id":"99')

    state, _ = damaged(path, change)
    report = OpLog.verify(path)
    assert (report.bad_lines, report.torn, report.opens) == (1, 9, False)
    assert report.bad[0].number == 11
    report = OpLog.repair(path)
    assert Path(report.set_aside).read_bytes() == b"y" * 20_000 + b"\n" + b'{"id":"99'
    assert held(path) == state


def test_verify_finds_what_opening_does_not_look_at(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        place = place_of(lines, 10)
        lines[place] = lines[place].replace(b'"operationBackup":{}', b'"operationBackup":{"errors":5}')

    damaged(path, change)
    OpLog.open(path).close()
    report = OpLog.verify(path)
    assert report.bad[0].reason == "operationBackup.errors: must be an array, not a number"
    OpLog.repair(path)
    assert OpLog.verify(path).bad_lines == 0


def test_repair_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    def change(lines: list[bytes]) -> None:
        lines[15] = b"#\n"

    damaged(tmp_path / "count", change)
    steps = count_steps(lambda: OpLog.repair(tmp_path / "count"))
    for at in range(steps - 1):
        path = tmp_path / str(at) / "oplog.jsonl"
        path.parent.mkdir()
        _, content = damaged(path, change)
        with using(TestDisk(at, full_disk)), pytest.raises(StorageError):
            OpLog.repair(path)
        assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["oplog.jsonl"]
        assert OpLog.repair(path).bad_lines == 1


def test_repair_of_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        OpLog.verify(tmp_path / "none")
    with pytest.raises(StorageError):
        OpLog.repair(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    assert not OpLog.verify(tmp_path / "empty").opens
    OpLog.repair(tmp_path / "empty")
    OpLog.open(tmp_path / "empty").close()


# The first line, and the numbers that are given out


def without_first(data: bytes) -> bytes:
    return data.split(b"\n", 1)[1]


def without_marks(data: bytes) -> bytes:
    return b"".join(line for line in data.splitlines(keepends=True) if b'"oplog"' not in line)


FIRST_LINE = [
    (without_first, opload.NO_FIRST_LINE, 0),
    (without_marks, opload.NO_FIRST_LINE, 0),
    (lambda data: b"{}\n" + without_marks(data), "neither an operation", 1),
    (lambda data: b'{"deleted":["999"]}\n' + without_first(data), opload.NO_FIRST_LINE, 0),
    (lambda data: b"", opload.EMPTY, 0),
    (lambda data: data[:20], opload.NO_END, 1),
    (lambda data: data.replace(b'"highestId":"5', b'"highestId":"x'), "without its high-water", 2),
    (lambda data: data.replace(b'"oplog":1', b'"oplog":2'), "another version", 2),
    (lambda data: data.replace(b'"oplog":1', b'"oplog":1,"deleted":[]'), "without a list of ids", 2),
    (
        lambda data: data.replace(b'"highestModno":"', b'"highestModno":"9' + b"0" * 16),
        "no log has come to",
        2,
    ),
    (lambda data: b"y" * 30_000 + b"\n" + without_first(data), "too long", 1),
]


@pytest.mark.parametrize(("damage", "reason", "aside"), FIRST_LINE, ids=range(len(FIRST_LINE)))
def test_without_its_first_line_a_log_is_bad_and_gives_out_no_number_twice(
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    reason: str,
    aside: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opload, "MAX_LINE", 20_000)
    monkeypatch.setattr(opload, "BLOCK", 10_000)
    path = tmp_path / "oplog.jsonl"
    log = OpLog.open(path)
    log.add([op() for _ in range(51)])
    log.delete(range(20, 52))
    log.compact()  # what the highest were, the marks alone know now
    state = everything(log)
    log.close()
    path.write_bytes(damage(path.read_bytes()))
    left = path.read_bytes().count(b'{"id"')
    report = OpLog.verify(path)
    assert not report.opens
    assert report.bad[0].number == 1
    assert reason in report.bad[0].reason
    with pytest.raises(CorruptError, match="line 1: "):
        OpLog.open(path)
    before_ms = time.time_ns() // 1_000_000
    report = OpLog.repair(path)
    assert (report.repaired, report.unmarked, report.aside) == (True, True, aside)
    log = OpLog.open(path)
    kept = everything(log)
    assert kept == {number: state[number] for number in list(state)[:left]}
    [new] = log.add([op()])
    assert new.id > 1_000_000
    assert new.modno > before_ms
    log.close()
    assert OpLog.verify(path).opens


@pytest.mark.parametrize("above", [0, 1])
def test_marks_are_bounded_so_that_numbers_can_always_be_given_out(tmp_path: Path, above: int) -> None:
    path = tmp_path / "oplog.jsonl"
    path.write_bytes(mark(HIGHEST + above, HIGHEST + above))
    assert OpLog.verify(path).opens is not bool(above)
    if above:
        with pytest.raises(CorruptError, match="no log has come to"):
            OpLog.open(path)
        OpLog.repair(path)
    OpLog.open(path).close()


@pytest.mark.parametrize("dropped", [False, True])
def test_numbers_on_bad_and_dropped_lines_are_not_given_out_again(tmp_path: Path, dropped: bool) -> None:
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        third = lines[3]
        lines[3] = b'{"deleted":["3"]}\n'
        if dropped:  # its first line is damaged, and another of it comes behind its deletion
            lines[-1:] = [third.replace(b'"modno":"3"', b'"modno":"8000"')]
            lines[:] = [line for line in lines if not line.startswith(b'{"id":"3"') or b"8000" in line]
        else:
            lines.insert(5, b'{"id":"7000","modno":"8000",\n')

    damaged(path, change)
    assert OpLog.repair(path).aside > 0
    log = OpLog.open(path)
    [new] = log.add([op()])
    assert new.id > (0 if dropped else 7000)
    assert new.modno > 8000
    log.close()


# Lines that contradict each other


def test_of_two_ids_of_a_peers_operation_the_newer_counts(tmp_path: Path) -> None:
    """Its deletion, which stood between them, is damaged."""
    path = tmp_path / "oplog.jsonl"
    log = OpLog.open(path)
    log.apply(PEER, [received(7, 5, display_message="old")])
    log.apply(PEER, [], [7])
    log.apply(PEER, [received(7, 1, display_message="new")])
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line.replace(b'{"deleted"', b"{'deleted'") for line in lines))
    report = OpLog.repair(path)
    assert Path(report.set_aside).read_bytes() == lines[1][1:] + lines[2].replace(
        b'{"deleted"', b"{'deleted'"
    )
    assert [one.display_message for one in held(path).values()] == ["new"]


def test_of_two_operations_with_one_id_the_later_counts_and_the_other_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    log = OpLog.open(path)
    log.add([op()])
    log.apply(PEER, [received(7)])
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"id":"2"', b'"id":"1"')
    path.write_bytes(b"".join(lines))
    report = OpLog.repair(path)
    assert Path(report.set_aside).read_bytes() == lines[1][1:]
    assert [one.original_id for one in held(path).values()] == [7]


def test_an_older_line_behind_a_newer_one_is_found_and_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        first = min(n for n, line in enumerate(lines) if line.startswith(b'{"id":"3"'))
        gone = min(n for n, line in enumerate(lines) if line.startswith(b'{"id":"18"'))
        lines[-1:-1] = [lines[first], lines[gone]]

    state, _ = damaged(path, change)
    report = OpLog.verify(path)
    assert [bad.reason for bad in report.bad] == [
        "operation 3 is older here than on a line before",
        "operation 18 was deleted on a line before",
    ]
    assert OpLog.repair(path).aside == 2
    assert held(path) == state


@pytest.mark.parametrize("order", [sorted, reversed, lambda lines: sorted(lines, key=len)])
def test_lines_in_another_order_are_put_in_order(tmp_path: Path, order: Any) -> None:
    """What was deleted stays so, and of our own operations the last state counts."""
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        lines[:] = order(lines)

    state, _ = damaged(path, change)
    report = OpLog.repair(path)
    assert report.moved > 0
    kept = held(path)
    assert set(kept) == set(state)
    for number, one in kept.items():
        assert one.original_instance_keyid == state[number].original_instance_keyid
        assert one.original_id == state[number].original_id
        if not one.original_id:
            assert one == state[number]


def test_a_null_in_the_place_of_a_text_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"

    def change(lines: list[bytes]) -> None:
        place = place_of(lines, 10)
        lines[place] = lines[place].replace(b'"unixTimeStartMs"', b'"snapshotId":null,"unixTimeStartMs"')

    state, _ = damaged(path, change)
    assert "snapshotId" in OpLog.verify(path).bad[0].reason
    assert OpLog.repair(path).aside == 1
    assert held(path) == {number: one for number, one in state.items() if number != 10}


# What it costs, and how it ends


def test_bad_lines_cost_no_sync_each(tmp_path: Path) -> None:
    steps = []
    for count in (1, 1000):
        path = tmp_path / str(count)
        damaged(path, lambda lines, count=count: lines.insert(9, b"x\n" * count))
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"y\n".join(lines))  # between all the others, too
        steps.append(count_steps(lambda path=path: OpLog.repair(path)))
    assert steps[0] == steps[1]


def test_stopped_at_any_step_repair_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"

    class Stopped(BaseException):
        pass

    told = 0
    last = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        told += 1
        if told == last:
            raise Stopped

    def change(lines: list[bytes]) -> None:
        lines[5] = b"#\n" * 5000
        lines[9:] = [b"#\n" + line for line in reversed(lines[9:])]

    _, content = damaged(path, change)
    with using(QuickDisk()):
        while True:
            told, last = 0, last + 1
            try:
                OpLog.repair(path, progress)
            except Stopped:
                assert path.read_bytes() == content
                assert os.listdir(tmp_path) == ["oplog.jsonl"]
            else:
                break
    assert last > 10


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "oplog.jsonl")
    for work in (OpLog.verify, OpLog.repair):
        with pytest.raises(StorageError, match=r"it is (not a regular file|a directory)\."):
            work(tmp_path / "oplog.jsonl")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_repaired_log_belongs_to_whom_the_old_one_did(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    damaged(path, lambda lines: lines.insert(3, b"#\n"))
    os.chown(path, 65534, 65533)
    report = OpLog.repair(path)
    for made in (path, Path(report.set_aside)):
        info = made.stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (65534, 65533, 0o600)


def test_repair_is_refused_when_it_would_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "oplog.jsonl"
    _, data = damaged(path, lambda lines: lines.insert(3, b"#\n"))
    monkeypatch.setattr(opcompact, "_ROOM", 1 << 60)
    with pytest.raises(StorageError, match=r"Cannot repair .*: the disk has less than"):
        OpLog.repair(path)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["oplog.jsonl"]

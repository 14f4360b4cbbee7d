"""Compaction while serving."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from oplog_world import OTHER, PEER, everything, fill, op, received, reopened
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, using

from backrest.errors import StorageError
from backrest.store import opcompact
from backrest.store.opindex import Index
from backrest.store.oplog import OpLog, Query
from backrest.store.opsnapshot import Snapshot


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpLog]:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    yield log
    log.close()


def beside(log: OpLog) -> list[str]:
    return sorted(os.listdir(Path(log.path).parent))


# Compaction


def test_compaction_gives_up_when_the_program_ends_and_the_log_stays(log: OpLog) -> None:
    log.add([op() for _ in range(opcompact._LINES * 2)])
    log.delete(range(1, 100))
    before, size = everything(log), log.size
    steps: list[int] = []

    def progress(done: int, total: int) -> None:
        steps.append(done)
        if done:  # in the middle of it
            log.stop_compacting()

    with pytest.raises(StorageError, match="the program is ending"):
        log.compact(progress)
    assert steps == [0, opcompact._LINES], "it went on for no further batch"
    assert log.size == size
    assert beside(log) == ["oplog.jsonl"]
    log.add([op()])
    assert len(everything(log)) == len(before) + 1
    reopened(log).close()


def test_compaction_keeps_everything_and_drops_the_dead(log: OpLog) -> None:
    fill(log)
    before, size, highest = everything(log), log.size, log.highest
    result = log.compact()
    assert everything(log) == before
    assert log.highest == highest
    assert result.before == size[0]
    assert result.after == log.size[0] == Path(log.path).stat().st_size < result.before
    content = [json.loads(line) for line in Path(log.path).read_text().splitlines()]
    assert [int(line["id"]) for line in content[1:-1]] == sorted(before)
    assert content[0] == content[-1]
    assert beside(log) == ["oplog.jsonl"]
    assert Path(log.path).stat().st_mode & 0o777 == 0o600
    log.add([op()])
    reopened(log).close()


def test_compacting_twice_changes_nothing_more(log: OpLog) -> None:
    fill(log)
    log.compact()
    content = Path(log.path).read_bytes()
    assert log.compact().after == len(content)
    assert Path(log.path).read_bytes() == content


def test_reading_and_writing_go_on_during_a_compaction(log: OpLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step of it something is written, read and deleted; an old reader stays in the old file."""
    monkeypatch.setattr(opcompact, "_LINES", 4)
    monkeypatch.setattr(opcompact, "CATCH_UP", 100)
    fill(log)
    expected = everything(log)
    old_reader = log.query(Query())
    next(old_reader)
    steps = iter(range(100))

    def meanwhile(done: int, total: int) -> None:
        n = next(steps)
        [new] = log.add([op(display_message=str(n))])
        expected[new.id] = new
        if n in expected and not expected[n].original_instance_keyid:
            [expected[n]] = log.update([expected[n]])
        for number in log.apply(PEER, [received(50, 100 + n), received(1000 + n)]).stored:
            expected[number] = log.get(number)
        for gone in log.delete(log.select(Query(origin=OTHER, limit=1))):
            del expected[gone]
        assert everything(log) == expected

    log.compact(meanwhile)
    assert next(steps) > 5
    assert everything(log) == expected
    assert len(list(old_reader)) > 50
    assert everything(reopened(log)) == expected


def test_flow_that_is_left_during_a_compaction_keeps_its_number(log: OpLog) -> None:
    log.apply(PEER, [received(1, modno=1, flow_id=5)])

    def meanwhile(done: int, total: int) -> None:
        log.apply(PEER, [received(1, modno=2, flow_id=6)])

    log.compact(meanwhile)
    before = log.get(log.apply(PEER, [received(2, flow_id=5)]).stored[0])
    again = reopened(log)
    after = again.get(again.apply(PEER, [received(3, flow_id=5)]).stored[0])
    again.close()
    assert before.flow_id == after.flow_id


@pytest.mark.parametrize("by", ["another log", "nothing", "a longer one"])
def test_nothing_is_renamed_over_a_log_that_is_not_ours_any_more(log: OpLog, by: str) -> None:
    """A backup put back while the daemon runs, a second program: what they hold must not be lost to a compaction."""
    fill(log)
    path = Path(log.path)
    if by == "another log":
        other = OpLog.open(path.with_name("restored"))
        other.add([op(display_message="restored")])
        other.close()
        path.with_name("restored").replace(path)
    elif by == "nothing":
        path.unlink()
    else:
        with path.open("ab") as file:
            file.write(b'{"deleted":["1"]}\n')
    content = path.read_bytes() if path.exists() else None
    with pytest.raises(StorageError, match="while in use: restart the program"):
        log.compact()
    assert (path.read_bytes() if path.exists() else None) == content
    assert beside(log) == (["oplog.jsonl"] if content else [])
    with pytest.raises(StorageError):
        log.add([op()])


def test_what_a_killed_compaction_left_goes_at_the_next_start(log: OpLog) -> None:
    """However recent it is: it is as large as the log, and a daemon that is killed again and again makes many."""
    fill(log)

    steps = count_steps(log.compact)
    with using(TestDisk(steps // 2)), pytest.raises(Died):
        log.compact()
    assert len(beside(log)) == 2
    assert beside(reopened(log)) == ["oplog.jsonl"]


def test_nobody_waits_while_the_new_index_is_made(log: OpLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a million operations that takes seconds: who reads and who writes must not notice."""
    fill(log)
    expected = everything(log)
    make = Snapshot.index

    def slowly(self: Snapshot, offsets: array[int]) -> Index:
        added = pool.submit(log.add, [op(display_message="while it was made")]).result()
        expected[added[0].id] = added[0]
        assert pool.submit(everything, log).result() == expected
        return make(self, offsets)

    monkeypatch.setattr(Snapshot, "index", slowly)
    with ThreadPoolExecutor(1) as pool:  # another thread: the locks are not those of this one
        log.compact()
    assert everything(log) == expected
    assert everything(reopened(log)) == expected


def test_compaction_by_itself_when_it_is_worth_it(log: OpLog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opcompact.is_worth(40 << 20, 16 << 20)
    assert not opcompact.is_worth(40 << 20, 21 << 20)
    assert not opcompact.is_worth(16 << 20, 0)
    monkeypatch.setattr(opcompact, "WORTH_BYTES", 1000)
    log.add([op() for _ in range(20)])
    assert not log.maybe_compact()
    log.delete(range(1, 16))
    assert log.maybe_compact()
    assert not log.maybe_compact()


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_compaction_that_fails_leaves_the_log_as_it_was(
    tmp_path: Path, fault: Callable[[], OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 16)
    counted = OpLog.open(tmp_path / "count")
    fill(counted)
    disk = TestDisk()
    with using(disk):
        counted.compact()
    counted.close()
    assert disk.names()[-2:] == ["rename", "fsync_dir"]
    for at in range(len(disk.steps)):
        (tmp_path / str(at)).mkdir()
        log = OpLog.open(tmp_path / str(at) / "oplog.jsonl")
        fill(log)
        before, content = everything(log), Path(log.path).read_bytes()
        failing = TestDisk(at, fault)
        with using(failing):
            if failing.at == len(disk.steps) - 1:
                log.compact()  # the new file is in place; the sync of its name is made up for
            else:
                with pytest.raises(StorageError):
                    log.compact()
                assert Path(log.path).read_bytes() == content
        assert everything(log) == before
        assert beside(log) == ["oplog.jsonl"]
        log.add([op()])
        reopened(log).close()


def test_nothing_is_appended_until_the_new_name_is_durable(log: OpLog) -> None:
    """Else a power cut could bring the old file back, without what was acknowledged in the new one."""

    class NoDirectory(TestDisk):
        def fsync_dir(self, path: str) -> None:
            self._step("fsync_dir", path)
            if "rename" in self.names():
                raise broken_disk()

    fill(log)
    with using(NoDirectory()):
        log.compact()
        content = Path(log.path).read_bytes()
        with pytest.raises(StorageError, match="input/output error"):
            log.add([op()])
        assert Path(log.path).read_bytes() == content
        everything(log)
    disk = TestDisk()
    with using(disk):
        log.add([op()])
    assert disk.names() == ["fsync_dir", "write", "fsync"]


def test_power_cut_at_any_step_of_a_compaction_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 16)
    counted = OpLog.open(tmp_path / "count")
    fill(counted)
    steps = count_steps(counted.compact)
    counted.close()
    for at in range(steps):
        log = OpLog.open(tmp_path / str(at))
        fill(log)
        before = everything(log)
        with using(TestDisk(at)), pytest.raises(Died):
            log.compact()
        again = OpLog.open(tmp_path / str(at))
        assert everything(again) == before
        again.close()


def test_compaction_is_refused_when_it_would_fill_the_disk(
    log: OpLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log)
    monkeypatch.setattr(opcompact, "_ROOM", 1 << 60)
    with pytest.raises(StorageError, match=r"Cannot compact .*: the disk has less than"):
        log.compact()
    assert beside(log) == ["oplog.jsonl"]

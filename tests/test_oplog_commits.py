"""Commits: durable before they are acknowledged, joined, told in order; and a disk that fails at any step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oplog_world import OTHER, PEER, QuickDisk, everything, op, received, reopened
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, using

from backrest.errors import StorageError
from backrest.store import opcore
from backrest.store.opformat import HIGHEST
from backrest.store.oplog import Change, Meta, OpLog, Query
from backrest.store.syscalls import Disk


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpLog]:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    yield log
    log.close()


class SlowDisk(Disk):
    """A sync takes until the test lets it go on."""

    def __init__(self) -> None:
        self.syncs = 0
        self.began = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def fsync(self, fd: int) -> None:
        self.syncs += 1
        self.began.release()
        assert self.go_on.acquire(timeout=30)


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """The results, or the exceptions, of what runs side by side."""
    results: list[Any] = [None] * len(work)

    def run(place: int) -> None:
        try:
            results[place] = work[place]()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def start(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_until(condition: Callable[[], bool]) -> None:
    """Lets the other threads go on until it holds; a deadlock is ended by the time limit of the test."""
    waiting = threading.Event()
    while not condition():
        waiting.wait(0.001)


# Group commit


def test_nothing_is_seen_told_or_acknowledged_before_it_is_synced(log: OpLog) -> None:
    told: list[Change] = []
    log.subscribe(told.append)
    done: list[Any] = []
    disk = SlowDisk()
    with using(disk):
        writer = start(lambda: done.append(log.add([op()])))
        assert disk.began.acquire(timeout=30)
        assert (done, told, list(log.query(Query())), log.count(), log.highest) == ([], [], [], 0, (0, 0))
        disk.go_on.release()
        writer.join(30)
    assert len(done) == len(told) == log.count() == 1


def test_writers_that_wait_share_one_sync(log: OpLog) -> None:
    disk = SlowDisk()
    results: list[Any] = []
    with using(disk):
        threads = [start(lambda: results.append(log.add([op()])))]
        assert disk.began.acquire(timeout=30)
        threads += [start(lambda: results.append(log.add([op(), op()]))) for _ in range(20)]
        threads.append(start(lambda: results.append(log.apply(PEER, [received(1)]))))
        wait_until(lambda: len(log._waiting) == 21)
        disk.go_on.release(2)
        for thread in threads:
            thread.join(30)
        assert disk.syncs == 2
    assert len(results) == 22
    assert sorted(everything(log)) == list(range(1, 43))
    reopened(log).close()


def test_requests_of_one_commit_see_each_other(log: OpLog) -> None:
    """Joined in one commit they must come to what they come to one after the other."""
    log.apply(PEER, [received(1), received(2)])
    disk = SlowDisk()
    results: dict[str, Any] = {}

    def run(name: str, work: Callable[[], Any]) -> threading.Thread:
        def body() -> None:
            try:
                results[name] = work()
            except Exception as error:
                results[name] = error

        return start(body)

    with using(disk):
        threads = [run("first", lambda: log.add([op()]))]
        assert disk.began.acquire(timeout=30)
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("flow", lambda: log.apply(PEER, [received(10, flow_id=77)])),
            ("again", lambda: log.apply(PEER, [received(10, flow_id=77)])),
            ("same flow", lambda: log.apply(PEER, [received(11, flow_id=77)])),
            ("delete", lambda: log.delete([1])),
            ("delete again", lambda: log.delete([1])),
            ("create deleted", lambda: log.apply(PEER, [received(1)])),
            ("bad", lambda: log.add([op(), op(repo_id="")])),
            ("update deleted", lambda: log.update([op(id=1, flow_id=1)])),
            ("update", lambda: log.update([op(id=3, flow_id=3, plan_id="music")])),
            ("purge", lambda: log.purge(PEER)),
            ("other", lambda: log.apply(OTHER, [received(10, flow_id=77)])),
            ("bug", lambda: log._submit(_broken_plan)),
            ("last", lambda: log.add([op()])),
        ]
        for waiting, (name, work) in enumerate(steps, 1):
            threads.append(run(name, work))
            wait_until(lambda waiting=waiting: len(log._waiting) == waiting)  # type: ignore[misc]
        disk.go_on.release(2)
        for thread in threads:
            thread.join(30)
        assert disk.syncs == 2
    assert results["flow"].stored == [4]
    assert results["again"].unchanged == 1
    assert results["same flow"].stored == [5]
    assert (results["delete"], results["delete again"]) == ([1], [])
    assert results["create deleted"].stored == [6]
    assert "no repo_id" in str(results["bad"])
    assert "does not exist" in str(results["update deleted"])
    assert results["update"][0].modno == 2
    assert results["purge"] == 4
    assert results["other"].stored == [7]
    assert isinstance(results["bug"], ZeroDivisionError)
    assert results["last"][0].id == 8
    assert sorted(everything(log)) == [3, 7, 8]
    assert log.get(3).plan_id == "music"
    reopened(log).close()


def _broken_plan(stage: Any) -> Any:
    stage.delete([3])
    raise ZeroDivisionError


def test_many_threads_write_and_read_at_once(log: OpLog) -> None:
    stop = threading.Event()

    def write(name: str) -> Callable[[], int]:
        def work() -> int:
            for n in range(40):
                [one] = log.add([op(plan_id=name)])
                log.apply(name, [received(n + 1, n + 1, plan_id=name)])
                one.display_message = str(n)
                log.update([one])
                if n % 4 == 0:
                    log.delete([one.id])
            return 1

        return work

    def read() -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            for operation in log.query(Query()):
                assert operation.plan_id in {"a", "b", "c"}
            rounds += 1
        return rounds

    def compact() -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            log.compact()
            rounds += 1
        return rounds

    def writers() -> int:
        try:
            return sum(in_threads(write("a"), write("b"), write("c")))
        finally:
            stop.set()

    with using(QuickDisk()):
        results = in_threads(writers, read, read, compact)
    assert results[0] == 3, results
    assert all(isinstance(rounds, int) and rounds for rounds in results), results
    assert (log.count(), log.count("a"), log.count("b"), log.count("c")) == (90, 40, 40, 40)
    reopened(log).close()


# A disk that fails


WORK: list[tuple[str, Callable[[OpLog], Any]]] = [
    ("add", lambda log: log.add([op(), op()])),
    ("update", lambda log: log.update([log.get(1)])),
    ("apply", lambda log: log.apply(PEER, [received(1, 9, plan_id="x"), received(7)], [2])),
    ("delete", lambda log: log.delete([1])),
    ("purge", lambda log: log.purge(PEER)),
]


def prepared(path: Path) -> OpLog:
    log = OpLog.open(path)
    log.add([op(), op()])
    log.apply(PEER, [received(1), received(2)])
    return log


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
@pytest.mark.parametrize(("name", "work"), WORK)
def test_write_that_fails_at_any_step_changes_nothing(
    tmp_path: Path, name: str, work: Callable[[OpLog], Any], fault: Callable[[], OSError]
) -> None:
    counted = prepared(tmp_path / "count")
    steps = count_steps(lambda: work(counted))
    counted.close()
    assert steps == 2  # the write and its sync
    for at in range(steps):
        log = prepared(tmp_path / f"{name}{at}")
        before, content, highest = everything(log), Path(log.path).read_bytes(), log.highest
        told: list[Change] = []
        log.subscribe(told.append)
        with using(TestDisk(at, fault)), pytest.raises(StorageError, match=r"Cannot append to .*: .*\."):
            work(log)
        assert everything(log) == before
        assert Path(log.path).read_bytes() == content
        assert (told, log.highest) == ([], highest)
        work(log)  # the disk is well again: the same call works
        assert len(told) > 0
        assert everything(log) != before
        reopened(log).close()


class Stuck(TestDisk):
    """Writes, and neither syncs nor cuts off."""

    def fsync(self, fd: int) -> None:
        raise broken_disk()

    def truncate(self, fd: int, length: int) -> None:
        raise broken_disk()


def test_failed_sync_and_failed_truncate_is_mended_before_the_next_append(tmp_path: Path) -> None:
    log = prepared(tmp_path / "oplog.jsonl")
    before, size = everything(log), log.size
    with using(Stuck()):
        for _ in range(2):
            with pytest.raises(StorageError):
                log.add([op()])
            assert (everything(log), log.size) == (before, size)
    assert Path(log.path).stat().st_size > size[0]
    [new] = log.add([op()])
    assert new.id == 5
    assert list(everything(reopened(log))) == [*before, 5]


def test_refused_write_does_not_come_back_by_a_clean_end(tmp_path: Path) -> None:
    """Its sync failed, and cutting it off too; then the disk is well again, and nothing more is added."""

    log = prepared(tmp_path / "oplog.jsonl")
    reopened(log).close()
    log = OpLog.open(log.path)
    with using(Stuck()), pytest.raises(StorageError):
        log.add([op(display_message="refused")])
    assert b"refused" in Path(log.path).read_bytes()
    reopened(log).close()
    assert b"refused" not in Path(log.path).read_bytes()


@pytest.mark.parametrize(
    "marks", [b'"highestId":"%d","highestModno":"5"', b'"highestId":"5","highestModno":"%d"']
)
def test_log_whose_numbers_cannot_be_right_is_read_and_not_added_to(tmp_path: Path, marks: bytes) -> None:
    path = tmp_path / "oplog.jsonl"
    most = HIGHEST - (1 << 32)
    for highest, works in ((most, True), (most + 1, False)):
        path.write_bytes(b' {"oplog":1,' + marks % highest + b"}\n")
        log = OpLog.open(path)
        if works:
            log.add([op()])
        else:
            with pytest.raises(StorageError, match="no numbers left"):
                log.add([op()])
            with pytest.raises(StorageError, match="no numbers left"):
                log.apply(PEER, [received(1)])
        assert len(everything(log)) == works
        reopened(log).close()


def test_failure_reaches_everybody_who_shared_the_write(log: OpLog) -> None:
    class Failing(SlowDisk):
        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            raise full_disk()

    disk = Failing()
    results: list[Any] = []

    def writer() -> None:
        try:
            log.add([op()])
        except StorageError as error:
            results.append(error)

    with using(disk):
        threads = [start(writer)]
        assert disk.began.acquire(timeout=30)
        threads += [start(writer) for _ in range(5)]
        wait_until(lambda: len(log._waiting) == 5)
        disk.go_on.release(10)
        for thread in threads:
            thread.join(30)
    assert len(results) == len({id(error) for error in results}) == 6
    assert log.count() == 0
    log.add([op()])


def test_power_cut_at_any_step_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    def story(log: OpLog, acknowledged: list[dict[int, Any]]) -> None:
        for work in (
            lambda: log.add([op(), op()]),
            lambda: log.apply(PEER, [received(n) for n in range(1, 6)]),
            lambda: log.update([log.get(1)]),
            lambda: log.delete([2, 3]),
            lambda: log.compact(),
            lambda: log.apply(PEER, [received(1, 2)], [2]),
            lambda: log.add([op()]),
        ):
            work()
            acknowledged.append(everything(log))

    states: list[dict[int, Any]] = []
    whole = OpLog.open(tmp_path / "whole")
    steps = count_steps(lambda: story(whole, states))
    highest = whole.highest
    whole.close()
    for at in range(steps):
        path = tmp_path / f"cut{at}"
        log = OpLog.open(path)
        kept: list[dict[int, Any]] = [{}]
        with using(TestDisk(at)), pytest.raises(Died):
            story(log, kept)
        again = OpLog.open(path)
        now = everything(again)
        following = states[len(kept) - 1]
        assert now.keys() >= kept[-1].keys() & following.keys()
        assert now.keys() <= kept[-1].keys() | following.keys()
        for number, operation in now.items():
            assert operation in (kept[-1].get(number), following.get(number))
        [new] = again.add([op()])
        assert new.id <= highest[0] + 1
        assert new.id not in now
        again.close()


def test_what_a_killed_process_left_unsynced_is_synced_before_it_is_served(tmp_path: Path) -> None:
    """Else it would be shown, and synced on to hubs, and gone after a power cut."""
    prepared(tmp_path / "oplog.jsonl").close()
    disk = TestDisk()
    with using(disk):
        OpLog.open(tmp_path / "oplog.jsonl")
    assert disk.names() == ["open", "fsync"]


def test_memory_out_of_step_refuses_writes_until_reopened(
    log: OpLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cannot happen but by a mistake in this program: then nothing more is written on top of it."""
    with monkeypatch.context() as patch:
        patch.setattr(opcore.Stage, "settle", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.add([op()])
    with pytest.raises(StorageError, match="restart the program"):
        log.add([op()])
    log.close()
    assert OpLog.open(log.path).count() == 1


# Being told


def test_each_call_is_told_once_with_what_it_did(log: OpLog) -> None:
    told: list[Change] = []
    stop = log.subscribe(told.append)
    added = log.add([op(), op()])
    updated = log.update([added[0]])
    log.apply(PEER, [received(1, 1), received(2, 1)])
    log.apply(PEER, [received(1, 2), received(3, 1)], [2])
    log.apply(PEER, [received(1, 2)], [99])
    log.delete([1, 3, 77])
    log.add([])
    assert [(change.kind, change.origin, change.ids) for change in told] == [
        ("created", "", (1, 2)),
        ("updated", "", (1,)),
        ("created", PEER, (3, 4)),
        ("created", PEER, (5,)),
        ("updated", PEER, (3,)),
        ("deleted", PEER, (4,)),
        ("deleted", "", (1,)),
        ("deleted", PEER, (3,)),
    ]
    assert list(told[0].operations) == added
    assert list(told[1].operations) == updated
    assert [o.modno for o in told[4].operations] == [2]
    assert told[5].operations == ()
    assert told[1].before == told[1].metas == (Meta("", "nas", "ab" * 32, "photos", "laptop"),)
    assert told[0].before == (None, None)
    stop()
    stop()
    log.add([op()])
    assert len(told) == 8


def test_subscriber_may_read_but_not_write(log: OpLog) -> None:
    seen: list[Any] = []

    def callback(change: Change) -> None:
        seen.extend(operation.id for operation in log.query(Query()))
        for write in (
            lambda: log.add([op()]),
            lambda: log.subscribe(callback),
            lambda: log.attach(callback, bool),
        ):
            with pytest.raises(RuntimeError, match="must not"):
                write()
        seen.append("ended")

    log.subscribe(callback)
    log.add([op()])
    assert seen == [1, "ended"]


def test_failing_subscriber_harms_neither_the_writer_nor_the_others(
    log: OpLog, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Change] = []
    log.subscribe(lambda change: 1 / 0)
    log.subscribe(told.append)
    assert len(log.add([op()])) == len(told) == 1
    assert "a subscriber of the operation log failed" in caplog.text


def test_attachment_sees_its_share_alone(log: OpLog) -> None:
    log.add([op(), op(plan_id="secret"), op()])
    log.apply(PEER, [received(1)])
    told: list[Change] = []
    asked: list[Meta] = []

    def predicate(meta: Meta) -> bool:
        asked.append(meta)
        return meta.plan_id != "secret"

    attachment = log.attach(told.append, predicate)
    assert (list(attachment.manifest_ids), list(attachment.manifest_modnos)) == ([1, 3], [1, 3])
    assert len(asked) == 2
    assert [o.id for o in attachment.read([4, 3, 2, 1, 9])] == [3, 1]
    log.apply(PEER, [received(1, 2)], [])
    log.add([op(plan_id="secret")])
    assert told == []
    one, two, three = log.get(1), log.get(2), log.get(3)
    one.plan_id = two.plan_id = "secret"
    log.update([one, two, three])  # one leaves the share, two never was in it
    one.plan_id = two.plan_id = "photos"
    log.update([one, two])
    log.delete([2, 3, 5])
    assert [(change.kind, change.ids, [o.id for o in change.operations]) for change in told] == [
        ("updated", (3,), [3]),
        ("deleted", (1,), []),
        ("created", (1, 2), [1, 2]),
        ("deleted", (2, 3), []),
    ]
    attachment.close()
    attachment.close()
    log.add([op()])
    assert len(told) == 4


def test_no_change_is_lost_or_told_twice_around_a_manifest(log: OpLog) -> None:
    """What a hub would hold that follows manifest and changes is what the log holds, whenever it attached."""
    writing = threading.Event()
    finished = threading.Event()

    def write() -> int:
        ids: list[int] = []
        for n in range(150):
            ids += [o.id for o in log.add([op(plan_id="secret" if n % 5 == 0 else "photos")])]
            writing.set()
            if n % 3 == 0:
                log.update([log.get(ids[n // 2])])
            if n % 7 == 0:
                log.delete([ids[n]])
                ids[n] = ids[n - 1] if n else log.add([op()])[0].id
        return 1

    def hub() -> int:
        copies = []
        assert writing.wait(30)
        while not copies or (len(copies) < 15 and not finished.is_set()):
            held: dict[int, int] = {}
            ready = threading.Event()

            def follow(change: Change, held: dict[int, int] = held, ready: threading.Event = ready) -> None:
                assert ready.wait(30)
                for operation in change.operations:
                    known = operation.id in held
                    assert known is (change.kind == "updated")
                    assert held.get(operation.id, 0) < operation.modno
                    held[operation.id] = operation.modno
                for number in change.ids if change.kind == "deleted" else ():
                    del held[number]

            attachment = log.attach(follow, lambda meta: meta.plan_id != "secret")
            held.update(zip(attachment.manifest_ids, attachment.manifest_modnos, strict=True))
            ready.set()
            copies.append((attachment, held))
        assert finished.wait(30)
        real = {o.id: o.modno for o in log.query(Query(plan_id="photos"))}
        for attachment, held in copies:
            assert held == real
            attachment.close()
        return len(copies)

    def writers() -> int:
        try:
            return sum(in_threads(write, write))
        finally:
            finished.set()

    errors: list[str] = []
    log_exception = opcore.log.exception
    opcore.log.exception = lambda message, *args: errors.append(message)  # type: ignore[method-assign, assignment]
    try:
        with using(QuickDisk()):
            results = in_threads(writers, hub)
    finally:
        opcore.log.exception = log_exception  # type: ignore[method-assign]
    assert errors == []
    assert results[0] == 2, results
    assert isinstance(results[1], int), results

"""What the operation log does while the power fails: its stories, with the look at what is left (store_crash.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from oplog_world import OTHER, PEER, everything, op, received
from store_crash import History, Lost

from backrest.errors import CorruptError
from backrest.store.oplog import OpLog, Query


def held(log: OpLog) -> dict[Hashable, Any]:
    """Every operation by its id; cheaper than ``everything``, which also compares the ways to ask."""
    return {operation.id: operation for operation in log.query(Query())}


class Operations:
    """The operation log: adding, updating, deleting, what peers send, purging, closing and opening again."""

    name = "oplog.jsonl"

    def prepare(self, root: Path) -> None:
        pass

    def steps(self, log: OpLog) -> list[Callable[[], object]]:
        return [
            lambda: log.add([op(), op(display_message="two")]),
            lambda: log.apply(PEER, [received(n, n, flow_id=1 + n // 2) for n in range(1, 7)]),
            lambda: log.update([log.get(1)]),
            lambda: log.delete([2]),
            lambda: log.apply(OTHER, [received(1), received(2)]),
            lambda: log.apply(PEER, [received(1, 9, plan_id="music"), received(9)], [2, 3]),
            lambda: log.purge(OTHER),
            lambda: log.add([op(display_message="long" * 400) for _ in range(6)]),  # on several blocks
        ]

    def run(self, root: Path, history: History) -> None:
        log = OpLog.open(root / self.name)
        history.look = lambda: held(log)
        for work in self.steps(log):
            history.call(work)
        highest = log.highest
        log.close()
        again = OpLog.open(root / self.name)
        assert again.highest == highest
        history.look = lambda: held(again)
        history.call(lambda: again.delete([highest[0]]))
        history.call(lambda: again.add([op()]))
        self.go_on(again, history)
        again.close()

    def go_on(self, log: OpLog, history: History) -> None:
        pass

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        log = OpLog.open(root / self.name)
        found: dict[Hashable, Any] = dict(everything(log))
        history.compare(found, at)
        if work_on:
            told = [value for _, value in history.acknowledged(at)]
            [new] = log.add([op()])
            number = max((operation.id for operation in told), default=0)
            own = [operation.modno for operation in told if not operation.original_instance_keyid]
            if new.id <= number or new.modno <= max(own, default=0):
                raise Lost(f"id {new.id} or modno {new.modno} was given out before")
            assert log.apply("ed25519.third", [received(5, flow_id=4)]).stored == [new.id + 1]
            log.delete([new.id])
            found = dict(everything(log))
        log.close()
        log = OpLog.open(root / self.name)
        assert held(log) == found
        log.close()


class Compacting(Operations):
    """The same, and compaction with writes in its midst, twice."""

    def go_on(self, log: OpLog, history: History) -> None:
        call = history.call

        def meanwhile(done: int, total: int) -> None:
            call(lambda: log.add([op(display_message=f"{done} of {total}")]))
            call(lambda: log.delete([log.highest[0] - 1, 1]))
            call(lambda: log.apply(PEER, [received(4, 20 + done)]))

        call(lambda: log.compact(meanwhile))
        call(lambda: log.add([op()]))
        call(lambda: log.delete([log.highest[0]]))
        call(lambda: log.compact())  # the highest id and modno are in the marks alone then
        call(lambda: log.apply(PEER, [received(30)]))


class Together(Operations):
    """Three threads write at once, and share their commits."""

    def run(self, root: Path, history: History) -> None:
        log = OpLog.open(root / self.name)
        events = history.recorder.events
        start = threading.Barrier(3)
        told = threading.Lock()

        def note(begun: int, number: int, value: Any) -> None:
            ended = len(events)
            with told:
                history.note(begun, ended, number, value)

        def write(name: str) -> None:
            start.wait()
            for turn in range(4):
                begun = len(events)
                first, second = log.add([op(plan_id=name), op(plan_id=name)])
                note(begun, first.id, first)
                note(begun, second.id, second)
                if turn == 2:
                    begun = len(events)
                    log.delete([first.id])
                    note(begun, first.id, None)

        threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log.close()


class Torn(Operations):
    """Opening a log whose last write an earlier power cut left unfinished."""

    def prepare(self, root: Path) -> None:
        log = OpLog.open(root / self.name)
        log.add([op(), op()])
        self.kept = held(log)
        log.close()
        with (root / self.name).open("ab") as file:
            file.write(b' {"deleted":["1"]}\n{"id":"9","modno"\n{"id":"1')

    def run(self, root: Path, history: History) -> None:
        for number, operation in self.kept.items():
            history.note(-1, 0, number, operation)
        log = OpLog.open(root / self.name)
        history.look = lambda: held(log)
        assert log.meta(1) is None  # the first line of that write is whole
        history.note(-1, len(history.recorder.events), 1, None)
        history.call(lambda: log.add([op()]))
        log.close()


class Indexed(Operations):
    """Opening and closing with a saved index, which is replaced without syncs; a compaction."""

    def prepare(self, root: Path) -> None:
        log = OpLog.open(root / self.name)
        log.add([op(), op(), op()])
        self.kept = held(log)
        log.close()
        assert (root / "oplog.index").exists()

    def run(self, root: Path, history: History) -> None:
        for number, operation in self.kept.items():
            history.note(-1, 0, number, operation)
        log = OpLog.open(root / self.name)
        history.look = lambda: held(log)
        history.call(lambda: log.delete([3]))
        history.call(log.compact)
        history.call(lambda: log.add([op(display_message="longer than the index knew it" * 99)]))
        log.close()


class Repairing:
    """``oplog repair`` of a log with a bad line: the old file, or a good one with the bad line beside it."""

    name = "oplog.jsonl"
    bad = b"# this is rot\n"

    def prepare(self, root: Path) -> None:
        log = OpLog.open(root / self.name)
        log.add([op(), op()])
        log.apply(PEER, [received(1), received(2)])
        log.delete([2])
        self.kept, self.highest = held(log), log.highest
        log.close()
        lines = (root / self.name).read_bytes().splitlines(keepends=True)
        (root / self.name).write_bytes(b"".join([*lines[:2], self.bad, *lines[2:]]))

    def run(self, root: Path, history: History) -> None:
        assert OpLog.repair(root / self.name).bad_lines == 1
        history.note(0, len(history.recorder.events), "repaired", True)

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        path = root / self.name
        try:
            log = OpLog.open(path)
        except CorruptError:
            if history.allowed("repaired", at) == [True]:
                raise Lost("the repair was done") from None
            assert self.bad in path.read_bytes()
            OpLog.repair(path)
            log = OpLog.open(path)
        assert held(log) == self.kept
        assert all(new >= old for new, old in zip(log.highest, self.highest, strict=True))
        log.close()
        if not any(self.bad == other.read_bytes() for other in root.glob(f"{self.name}.bad-*")):
            raise Lost("the bad line is nowhere")

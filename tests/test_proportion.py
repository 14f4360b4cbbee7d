"""What one operation costs does not grow with their number: shown at sizes 1, 10 and 100, without a clock.

Work is counted: function calls, Python's and those of C, on both sides together; bytes written and syncs. What a single
call in C may take the square of is not seen; scripts/bench --sizes shows that, on a machine at rest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from oplog_world import PEER, op, received
from store_disk import TestDisk, using
from sync_world import CONNECTED, Instance, World, paired
from trio.testing import MockClock

from backrest.store.oplog import OpLog, Query

SIZES = (60, 600, 6000)


@dataclass
class Work:
    calls: int = 0
    syncs: int = 0
    written: int = 0  # bytes


class Counting(TestDisk):
    """A sync is counted, and not waited for."""

    __test__ = False

    def fsync(self, fd: int) -> None:
        self._step("fsync", fd)

    def fsync_dir(self, path: str) -> None:
        self._step("fsync_dir", path)


@contextmanager
def counted() -> Iterator[Work]:
    """The work that is done in this block."""
    work, disk = Work(), Counting()

    def note(_frame: Any, event: str, _arg: Any) -> None:
        work.calls += event in ("call", "c_call")

    with using(disk):
        sys.setprofile(note)
        try:
            yield work
        finally:
            sys.setprofile(None)
    for name, what in disk.steps:
        work.syncs += name.startswith("fsync")
        work.written += len(what[1]) if name == "write" else 0


def in_proportion(costs: list[int], slack: float = 1.25) -> bool:
    """Whether the last tenfold growth costs no more for each than the one before it did."""
    small, medium, large = costs
    first = (medium - small) / (SIZES[1] - SIZES[0])
    return large - medium <= first * (SIZES[2] - SIZES[1]) * slack


def test_growth_with_the_square_is_told_from_growth_in_proportion() -> None:
    assert in_proportion([1000 + 7 * size for size in SIZES])
    assert not in_proportion([1000 + 7 * size + size * size // 100 for size in SIZES])


async def test_first_sync_and_reconnect(
    autojump_clock: MockClock, inline_threads: None, tmp_path: Path
) -> None:
    firsts, agains = [], []
    for size in SIZES:
        world = World(tmp_path / str(size))
        async with trio.open_nursery() as world.nursery:
            hub, client = paired(world)
            client.oplog.add([client.operation() for _ in range(size)])
            with counted() as first:
                await synced(hub, client)
            with counted() as again:
                await synced(hub, client)
            world.nursery.cancel_scope.cancel()
        assert hub.oplog.count(client.keyid) == size
        firsts.append(first)
        agains.append(again)
    for works in (firsts, agains):
        assert in_proportion([work.calls for work in works]), works
        assert in_proportion([work.written for work in works]), works
    assert firsts[-1].syncs <= 2 * firsts[0].syncs + SIZES[-1] / 512, "a sync for each message at most"
    assert agains[-1].syncs == agains[0].syncs
    assert agains[-1].written <= agains[0].written + 100, "nothing has changed"


async def synced(hub: Instance, client: Instance) -> None:
    """One session, until the hub holds all that the client has and has compared the manifest."""
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        size = client.oplog.count()
        await hub.world.until(hub.oplog.subscribe, lambda: hub.oplog.count(client.keyid), size.__eq__)
        await trio.sleep(1)  # simulated


def test_what_is_done_with_a_log(tmp_path: Path) -> None:
    for name, act in ACTS.items():
        works = []
        for size in SIZES:
            path = tmp_path / name / str(size) / "oplog.jsonl"
            path.parent.mkdir(parents=True)
            log = OpLog.open(path)
            log.add([op() for _ in range(size)])
            log.apply(PEER, [received(n, n) for n in range(1, size + 1)])
            with counted() as work:
                act(log)
            works.append(work)
            log.close()
        assert in_proportion([work.calls for work in works]), (name, works)
        assert in_proportion([work.written for work in works]), (name, works)


ACTS: dict[str, Callable[[OpLog], object]] = {
    "opening": lambda log: OpLog.open(log.path).close(),
    "verify": lambda log: OpLog.verify(log.path),
    "compaction": lambda log: log.compact(),
    "reading all": lambda log: sum(1 for _ in log.query(Query())),
    "deleting each": lambda log: [log.delete([number]) for number in log.select(Query(origin=PEER))],
    "changing each": lambda log: [log.update([log.get(number)]) for number in log.select(Query(origin=""))],
    "telling a peer's again": lambda log: log.apply(
        PEER, [received(n, n) for n in range(1, log.count(PEER))]
    ),
    "purging": lambda log: log.purge(PEER),
}

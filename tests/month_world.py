"""The machines of the simulated month: each has its own disk (month_disk.py), network and clock, and a witness.

- The network can be cut with a sign or without; what a dead machine would still say reaches nobody.
- The clock is the one that all code of that machine reads: which machine is at work is known by ``HERE``.
- The witness hears of each change as every subscriber of the log does, and remembers: what a log acknowledged must be
  in it, and in each copy of its file; no id and no modno may ever mean two things.

All stores are the real ones, in one thread; time is simulated.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import trio
from month_disk import Disks
from store_medium import lay_out
from sync_world import Instance, Pipe, World

from backrest import wire
from backrest.errors import BackrestError
from backrest.protocol.session import Limits
from backrest.store.oplog import Change, OpLog, Query

HEARTBEAT_S = (
    600.0  # the reference's: with ours a month would be two hundred thousand records and prove no more
)
STOP_S = 5.0  # for what a machine that is switched off in good order still has to say
MOMENT_S = 60.0  # a machine that writes nothing for so long dies, or is copied, between two writes
HERE: ContextVar[Machine | None] = ContextVar("the machine at work", default=None)
Operation = wire.operations.Operation


class Broken(AssertionError):
    """What must hold each day for each machine does not."""


# --- what a log has said


class Seen(NamedTuple):
    """An operation as a log has it, without the numbers that are only that log's."""

    origin: str
    original: int
    modno: int
    label: str
    content: bytes

    def __repr__(self) -> str:
        return f"{self.label!r} with modno {self.modno}"


def seen(operation: Operation) -> Seen:
    copy = Operation()
    copy.CopyFrom(operation)
    for name in ("id", "modno", "flow_id", "original_id", "original_flow_id", "original_instance_keyid"):
        copy.ClearField(name)
    content = copy.SerializeToString(deterministic=True)
    whose = operation.original_instance_keyid, operation.original_id
    return Seen(*whose, operation.modno, operation.display_message, content)


def all_of(log: OpLog) -> dict[int, Seen]:
    return {operation.id: seen(operation) for operation in log.query(Query())}


@dataclass(eq=False)
class Word:
    """What a log must hold, and what it may: a change that was under way, and of which nobody had been told."""

    must: dict[int, Seen]
    may: defaultdict[int, list[Seen | None]] = field(default_factory=lambda: defaultdict(list))

    def compare(self, log: OpLog, where: str) -> None:
        found = all_of(log)
        for number in sorted(self.must.keys() | self.may.keys() | found.keys()):
            must, there = self.must.get(number), found.get(number)
            if there != must and there not in self.may.get(number, ()):
                said = f"{must} was acknowledged" if must else "its end was acknowledged, or nobody made it"
                raise Broken(f"{where}: operation {number} is {there}, and {said}")


class Witness:
    """Hears what one log says to its subscribers. Faults are kept: a subscriber that raises is only logged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.word = Word({})
        self.copies: list[Word] = []
        self.deaf = False  # the machine is dead: what its last turn still does was told to nobody
        self.faults: list[str] = []
        self._meant: dict[int, tuple[str, int, str]] = {}  # id -> what it means
        self._counted: dict[tuple[str, int], tuple[int, bytes]] = {}  # (whose, modno) -> what it counts

    def told(self, change: Change) -> None:
        now = dict.fromkeys(change.ids) | {op.id: seen(op) for op in change.operations}
        for number, state in now.items():
            for word in (*self.copies, *([self.word] if self.deaf else [])):
                word.may[number].append(state)
            if not self.deaf and state is not None:
                self.word.must[number] = state
                self._note(number, state)
            elif not self.deaf:
                self.word.must.pop(number, None)

    def _note(self, number: int, state: Seen) -> None:
        meant = self._meant.setdefault(number, (state.origin, state.original, state.label))
        if meant != (state.origin, state.original, state.label):
            self.faults.append(
                f"{self.name}: the id {number} of {meant[2]!r} was given out twice: to {state}"
            )
        what = state.original or number, state.content
        counted = self._counted.setdefault((state.origin, state.modno), what)
        if counted != what:
            self.faults.append(f"{self.name}: the modno {state.modno} was given out twice: now to {state}")

    def reopened(self, log: OpLog, how: str) -> None:
        self.word.compare(log, f"{self.name}, {how}")
        self.word, self.deaf = Word(all_of(log)), False
        for number, state in self.word.must.items():
            self._note(number, state)


# --- machines


class Network:
    """What one machine sees of the world; stands for the World of sync_world.py in its Instance."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.up = world.up
        self.cut = False
        self.awake = trio.Event()  # of a machine that sleeps: its tasks do not dial
        self.awake.set()
        self.ahead = 0.0  # seconds by which its clock is wrong
        self.dials: list[float] = []
        self.streams: list[Pipe] = []

    def wall(self) -> float:
        return self._world.wall() + self.ahead

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator[Pipe]:
        await self.awake.wait()
        if self.cut:
            await trio.lowlevel.checkpoint()
            raise ConnectionRefusedError("the network is unreachable")
        self.dials.append(trio.current_time())
        async with self._world.dial(url) as stream:
            self.streams.append(stream)
            try:
                yield stream
            finally:
                self.streams.remove(stream)

    def fall_silent(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self.cut = True
        lose(self.streams)


def lose(streams: Iterable[Pipe]) -> None:
    for stream in streams:
        stream.lost = stream.other.lost = True


class Town(World):
    """All machines; a stream that one accepts ends with it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.machines: dict[str, Machine] = {}

    def _accept(self, target: Instance, stream: Pipe) -> None:
        self.connections.clear()  # kept for other tests: a month of them is much
        self.dials.clear()
        (self.machines.get(target.name) or target).accept(stream)  # type: ignore[attr-defined]


@contextmanager
def here(machine: Machine) -> Iterator[None]:
    """What runs in this block runs on that machine: by its clock."""
    token = HERE.set(machine)
    try:
        yield
    finally:
        HERE.reset(token)


class Machine:
    """One installation, which can be switched off and on, killed, and lose its power."""

    def __init__(self, town: Town, name: str, disks: Disks, nursery: trio.Nursery) -> None:
        self.name = name
        self.network = Network(town)
        self.witness = Witness(name)
        self.inside: trio.Nursery | None = None  # what runs on it, ends with it
        self.serving: set[Pipe] = set()
        self.doomed = ""
        self.switch = trio.Lock()
        self._root = town.directory / name
        self._disks = disks
        self._nursery = nursery
        self._off, self._gone = trio.Event(), trio.Event()
        self._last_event = 0
        (self._root / "data").mkdir(parents=True, mode=0o700)
        self.disk = disks.put_in(self._root)
        limits = Limits(heartbeat_s=HEARTBEAT_S)
        with here(self):
            self.instance = Instance(self.network, name, self._root, limits)  # type: ignore[arg-type]
            self._config = self.instance.config.current
            self.close()
            self._open("when it was new")
        town.machines[name] = self

    def accept(self, stream: Pipe) -> None:
        if self.inside is None:
            raise ConnectionRefusedError("connection refused")
        self.do(self._serve, stream)

    async def _serve(self, stream: Pipe) -> None:
        self.serving.add(stream)
        try:
            await self.instance.hub.serve(stream)
        finally:
            self.serving.discard(stream)
            if not self.doomed:
                stream.close()

    def do(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Work on this machine, if it is on: it ends when the machine does."""

        async def at_work() -> None:
            HERE.set(self)
            await work(*args)

        if self.inside is not None:
            self.inside.start_soon(at_work)

    async def switch_on(self) -> None:
        self._off, self._gone = trio.Event(), trio.Event()
        await self._nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        HERE.set(self)
        async with trio.open_nursery() as inside:
            async with self.instance.running():
                self.inside = inside
                inside.start_soon(self.instance.hub.prune_tokens)
                task_status.started()
                await self._off.wait()
                self.inside = None
                if self.doomed:
                    inside.cancel_scope.cancel()
            inside.cancel_scope.deadline = trio.current_time() + STOP_S
        self._gone.set()

    async def switch_off(self) -> None:
        """In good order, with all that a daemon does then."""
        self._off.set()
        await self._gone.wait()
        with here(self):
            self.instance.peers.flush()
            self.close()
            self._open("restarted")

    async def die(self, how: str, chance: random.Random, work: Callable[[], Awaitable[None]]) -> None:
        """Be "killed", or have the "power cut", in the middle of ``work``, or soon behind it."""
        self.disk.in_steps(chance.randrange(chance.choice([6, 40])), lambda: self._die(how))
        self.do(work)
        with trio.move_on_after(MOMENT_S):
            await self._gone.wait()
        if not self.doomed:
            self._die(how)
        await self._gone.wait()
        state = self.disk.left(self._last_event, chance if how == "power cut" else None)
        self._disks.close_all(self.disk)
        shutil.rmtree(self._root)
        lay_out(state, self._root)
        then = self.network.wall()
        for path in self._root.rglob("*"):
            os.utime(path, (then, then))
        self.disk = self._disks.put_in(self._root)
        with here(self):
            self._open(f"after a {how}" if how == "power cut" else "after it was killed")

    def _die(self, how: str) -> None:
        """At this very moment, and only once. What the turn under way still does is seen by nobody."""
        if self.doomed:
            return
        self.doomed = how
        self.witness.deaf = True
        self._last_event = len(self.disk.events)
        self._config = self.instance.config.current
        for stream in (*self.network.streams, *self.serving):
            if how == "power cut":
                lose([stream])
            else:  # the system closes what a killed process had open
                stream.break_off()
        self._off.set()

    def close(self) -> None:
        """In good order, as a program that ends."""
        self._config = self.instance.config.current
        self.instance.oplog.close()
        self.instance.audit.close()

    def _open(self, how: str) -> None:
        """All that is known is what is on the disk, and the daemon's first look at it."""
        under_way = self.instance.config.current
        try:
            self.instance.open()
            config = self.instance.config.current
            self.instance.shares.prune(config)
            self.instance.pushes.forget_removed(config)
            self.instance.parked.settle(config)
        except BackrestError as error:
            raise Broken(f"{self.name} does not start {how}: {error}") from error
        if config not in (self._config, under_way):
            raise Broken(f"{self.name}, {how}: its configuration is not the one that was acknowledged")
        self.doomed = ""
        self.witness.reopened(self.instance.oplog, how)
        self.instance.oplog.subscribe(self.witness.told)

    async def copy_the_log(self, steps: int, work: Callable[[], Awaitable[None]]) -> None:
        """A backup program copies the file in the middle of a write: the copy opens, and holds what was said."""
        copy = self._root.parent / "copies" / self.name / "oplog.jsonl"
        word = Word({})

        def take() -> None:
            copy.parent.mkdir(parents=True)
            shutil.copyfile(self.instance.paths.oplog, copy)
            word.must |= self.witness.word.must
            self.witness.copies.append(word)

        try:
            self.disk.in_steps(steps, take)
            await work()
            await trio.sleep(MOMENT_S)  # simulated
            if not copy.exists():
                take()
            where = f"a copy of the log of {self.name}"
            try:
                log = OpLog.open(copy)
            except BackrestError as error:
                raise Broken(f"{where} does not open: {error}") from error
            word.compare(log, where)
            log.close()
        finally:
            self.disk.in_steps(0, lambda: None)
            if word in self.witness.copies:
                self.witness.copies.remove(word)
            shutil.rmtree(copy.parent, ignore_errors=True)

"""The light clients that behave: idle, steady, slow and storm. The hub must serve them whatever the others do.

Each knows what it has told (``made``), which the hub must hold at the end, and notices when its session ends without
its doing, which the hub must not do.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from benchmarks import operations
from benchmarks.light import BATCH, Item, LightClient

from backrest import wire
from backrest.errors import BackrestError
from backrest.protocol import events
from loads.scene import Scene, WrongError

CHANGE_S = 1.0  # between two changes of a steady one, at most
SLOW_S = 1.5  # a slow one takes so long over each item, at most: minutes less than what a hub lets pass
RETRY_S = 0.5  # a real one waits longer
GOODBYE_S = 2.0  # for what a client still has to say when it leaves


class Client(LightClient):
    """A light client whose history changes while it is connected, and that comes back with all of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.slow: random.Random | None = None
        self._announced = False
        self._leaving = False

    def listed(self) -> dict[int, int]:
        """Id -> modno of what the hub must hold."""
        return {number: operation.modno for number, operation in self.made.items()}

    async def change(self, chance: random.Random) -> None:
        """Make an operation, or at times change or delete one."""
        draw = chance.random()
        if draw < 0.6 or not self.made:
            await self.make()
        elif draw < 0.9:
            await self.alter(chance.choice(list(self.made)))
        else:
            await self.delete(chance.choice(list(self.made)))

    async def make(self) -> int:
        """A new operation. Its id."""
        event = wire.operations.OperationEvent()
        self.count += 1  # the modno, and of a new one the id
        operation = self.made[self.count] = operations.make(self.count, self.name)
        event.created_operations.operations.append(operation)
        await self._tell(event)
        return self.count

    async def alter(self, number: int) -> None:
        event = wire.operations.OperationEvent()
        self.count += 1
        operation = self.made[number]
        operation.modno = self.count
        operation.status = wire.operations.STATUS_WARNING
        event.updated_operations.operations.append(operation)
        await self._tell(event)

    async def delete(self, number: int) -> None:
        event = wire.operations.OperationEvent()
        self.count += 1
        del self.made[number]
        event.deleted_operations.values.append(number)
        await self._tell(event)

    async def _tell(self, event: wire.operations.OperationEvent) -> None:
        """At once, if somebody listens. Before its manifest nothing is sent: what changed until then is in it."""
        if self._announced and self._link is not None:
            await self._link.send("receive_operations", Item.SyncActionReceiveOperations(event=event))

    @asynccontextmanager
    async def visit(self, scene: Scene, *, politely: bool = True) -> AsyncIterator[None]:
        """Be let in, and stay until the block ends; if the hub ends it before, that is wrong, and it dials again.
        WrongError when it is not let in in time."""
        self._leaving = False
        async with trio.open_nursery() as nursery:
            inside = trio.Event()
            nursery.start_soon(self._stay, scene, inside)
            with trio.move_on_after(scene.patience):
                await inside.wait()
            if not inside.is_set():
                raise WrongError(f"{self.name} was not let in within {scene.patience:g} s")
            yield
            self._leaving = True
            if politely:
                self.leave()
                nursery.cancel_scope.deadline = trio.current_time() + GOODBYE_S
            else:
                nursery.cancel_scope.cancel()

    async def _stay(self, scene: Scene, inside: trio.Event) -> None:
        while True:
            self._established, self._announced = trio.Event(), False
            scene.counts["dials"] += 1
            why = "without a word"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_when_in, scene, inside)
                try:
                    await self._run(scene.target)
                except (BackrestError, OSError) as error:
                    why = str(error)
                nursery.cancel_scope.cancel()
            self._announced = False
            if self._leaving:
                return
            if self._established.is_set():
                scene.says(f"{self.name}: the hub ended its session: {why}")
            else:
                scene.counts["dials in vain"] += 1
            await trio.sleep(RETRY_S)

    async def _tell_when_in(self, scene: Scene, inside: trio.Event) -> None:
        await self._established.wait()
        scene.counts["sessions"] += 1
        inside.set()

    async def _handle(self, event: events.Event) -> None:
        await super()._handle(event)
        if self.slow is not None and isinstance(event, events.Received):
            await trio.sleep(self.slow.random() * SLOW_S)

    async def _announce(self) -> None:
        assert self._link is not None
        self._announced = True  # what changes from here on is sent behind it
        listed = self.listed()
        manifest = Item.SyncActionOperationManifest(op_ids=list(listed), modnos=list(listed.values()))
        await self._link.send("operation_manifest", manifest)

    async def _answer(self, asked: Sequence[int]) -> None:
        assert self._link is not None
        for start in range(0, len(asked), BATCH):
            event = wire.operations.OperationEvent()
            here = (self.made.get(number) for number in asked[start : start + BATCH])
            event.updated_operations.operations.extend(
                operation for operation in here if operation is not None
            )
            await self._link.send("receive_operations", Item.SyncActionReceiveOperations(event=event))


Play = Callable[
    ..., Awaitable[None]
]  # client, scene, its chance; started when it is let in for the first time
IGNORED = trio.TASK_STATUS_IGNORED


async def idle(
    client: Client, scene: Scene, _: random.Random, task_status: trio.TaskStatus[None] = IGNORED
) -> None:
    async with client.visit(scene):
        task_status.started()
        await scene.arrived.wait()


async def steady(
    client: Client, scene: Scene, chance: random.Random, task_status: trio.TaskStatus[None] = IGNORED
) -> None:
    """Changes something every now and then."""
    async with client.visit(scene):
        task_status.started()
        while not scene.over.is_set():
            await client.change(chance)
            with trio.move_on_after(chance.random() * CHANGE_S):
                await scene.over.wait()
        await scene.arrived.wait()


async def slow(
    client: Client, scene: Scene, chance: random.Random, task_status: trio.TaskStatus[None] = IGNORED
) -> None:
    """Reads little, and late: less than the hub has to show, until the round is over."""
    client.slow = chance
    async with client.visit(scene):
        task_status.started()
        await client.change(chance)
        await scene.over.wait()
        client.slow = None
        await scene.arrived.wait()


async def storm(
    client: Client, scene: Scene, chance: random.Random, task_status: trio.TaskStatus[None] = IGNORED
) -> None:
    """Leaves, and comes back at once, when all the others do, each time with a little more to tell."""
    while True:
        await client.change(chance)
        await client.change(chance)
        async with client.visit(scene, politely=chance.random() < 0.5):
            task_status.started()
            task_status = IGNORED
            if not scene.over.is_set():
                await scene.storm.wait()
                await client.change(chance)  # the hub may never hear of it before the next manifest
            if scene.over.is_set():
                await scene.arrived.wait()
                return


GOOD: dict[str, Play] = {"idle": idle, "steady": steady, "slow": slow, "storm": storm}

"""A simulated month of a hub and five clients: nights, restarts, a week without a network, clocks that jump, a rotated
identity, changed permissions. Each evening, when nothing has been disturbed for half an hour, the hub must hold exactly
what every reachable client has made, and at the end nothing may have grown that should not.

One script of events, drawn from a seed, played in the order of time. The stores are the real ones.
BACKREST_MONTHS=n plays n months, each with a seed of its own.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from sync_world import BOTH, GUID, Instance, Pipe, World
from trio.testing import MockClock

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.permissions import parse_grant
from backrest.protocol.session import Limits
from backrest.store.audit import verify as verify_audit
from backrest.store.oplog import OpLog, Query
from backrest.sync import clients

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
DAYS = 30
HEARTBEAT_S = (
    600.0  # the reference's; a month of ours would be two hundred thousand records and prove no more
)
NAMES = ("attic", "barn", "cellar", "desk", "espresso")
SLEEPER, TRAVELLER, RENEWED, NARROWED = "barn", "cellar", "desk", "espresso"
KEPT_OPERATIONS = 12  # of each client: older ones are deleted, as its garbage collection would


class Network:
    """What one machine sees of the world: it can be cut off, noisily or without a sign, and has a clock of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.up = world.up
        self.until = world.until
        self.cut = False
        self.clock_ahead = 0.0
        self.dials: list[float] = []
        self._open: list[Pipe] = []

    def wall(self) -> float:
        return self._world.wall() + self.clock_ahead

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator[Pipe]:
        if self.cut:
            await trio.lowlevel.checkpoint()
            raise ConnectionRefusedError("the network is unreachable")
        self.dials.append(trio.current_time())
        async with self._world.dial(url) as stream:
            self._open.append(stream)
            try:
                yield stream
            finally:
                self._open.remove(stream)

    def fall_silent(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self.cut = True
        for stream in self._open:
            stream.lost = stream.other.lost = True


@dataclass
class Machine:
    """One installation, which can be switched off and on."""

    instance: Instance
    network: Network
    nursery: trio.Nursery
    off: trio.Event | None = None
    gone: trio.Event = field(default_factory=trio.Event)

    async def switch_on(self) -> None:
        if self.off is None:
            self.off, self.gone = trio.Event(), trio.Event()
            await self.nursery.start(self._run, self.off)

    async def _run(self, off: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        async with self.instance.running():
            task_status.started()
            await off.wait()
        self.gone.set()

    async def switch_off(self) -> None:
        """And back to what is on disk: nothing else survives."""
        if self.off is not None:
            self.off.set()
            self.off = None
            await self.gone.wait()
            self.instance.peers.flush()
            self.instance.oplog.close()
            self.instance.audit.close()
            self.instance.open()

    async def restart(self) -> None:
        if self.off is not None:
            await self.switch_off()
            await self.switch_on()


class Month:
    """The machines, and what happens to them."""

    def __init__(self, world: World, nursery: trio.Nursery, seed: int) -> None:
        self.world = world
        self.draw = random.Random(seed)
        self.hub = self._machine("hub", nursery)
        self.clients = {name: self._machine(name, nursery) for name in NAMES}
        self.copies = 0
        self.evenings = 0
        self.former: list[str] = []  # key ids that are used no more

    def _machine(self, name: str, nursery: trio.Nursery) -> Machine:
        network = Network(self.world)
        limits = Limits(heartbeat_s=HEARTBEAT_S)
        instance = Instance(network, name, self.world.directory / name, limits)  # type: ignore[arg-type]
        return Machine(instance, network, nursery)

    def pair(self, name: str) -> None:
        self.clients[name].instance.add_host(
            self.hub.instance.token(*BOTH, label=f"{name} {trio.current_time():.0f}")
        )

    def script(self) -> list[tuple[float, int, Callable[[], Awaitable[None]]]]:
        """All events with their times. The number keeps the order of what falls together."""
        events: list[tuple[float, Callable[[], Awaitable[None]]]] = []
        draw = self.draw
        for day in range(DAYS):
            midnight = day * DAY
            for name in NAMES:
                for _ in range(draw.randint(1, 4)):
                    events.append((midnight + draw.uniform(8, 22) * HOUR, partial(self.backup, name)))
                if draw.random() < 0.3:
                    at = midnight + draw.uniform(8, 22) * HOUR
                    events.append((at, self.clients[name].restart))
            if draw.random() < 0.3:
                events.append((midnight + draw.uniform(8, 22) * HOUR, self.hub.restart))
            events.append((midnight + draw.uniform(8, 22) * HOUR, self.copy_of_the_log))
            if draw.random() < 0.2:
                jump = draw.choice([-3 * HOUR, 3 * HOUR, 40.0, -5.0])
                who = draw.choice(NAMES)
                events.append((midnight + draw.uniform(8, 22) * HOUR, partial(self.clock_jump, who, jump)))
            events.append((midnight + 22.1 * HOUR, partial(self.sleep, SLEEPER)))
            events.append((midnight + 30.0 * HOUR, partial(self.wake, SLEEPER, 7.9 * HOUR)))
            events.append((midnight + 23 * HOUR, self.evening))
        events += [
            (8 * DAY + 9 * HOUR, partial(self.leave, TRAVELLER)),
            (15 * DAY + 9 * HOUR, partial(self.come_home, TRAVELLER)),
            (11 * DAY + 12 * HOUR, partial(self.rotate, RENEWED)),
            (5 * DAY + 12 * HOUR, partial(self.permit, NARROWED, "read-operations=*,!plan:secret")),
            (20 * DAY + 12 * HOUR, partial(self.permit, NARROWED, "read-operations=*")),
            (17 * DAY + 12 * HOUR, self.share_a_repo),
        ]
        return sorted((at, number, event) for number, (at, event) in enumerate(events))

    # --- what happens

    async def backup(self, name: str) -> None:
        """An operation that begins, goes on and ends; now and then old ones are thrown away."""
        instance = self.clients[name].instance
        plan = self.draw.choice(["photos", "mail", "secret"])
        started = int(self.clients[name].network.wall() * 1000)
        operation = instance.operation(
            plan_id=plan, unix_time_start_ms=started, status=wire.operations.STATUS_INPROGRESS
        )
        [kept] = instance.oplog.add([operation])
        await trio.sleep(self.draw.uniform(0, 20))  # simulated
        kept.status = self.draw.choice([wire.operations.STATUS_SUCCESS, wire.operations.STATUS_ERROR])
        kept.unix_time_end_ms = started + 20_000
        # The machine may have been restarted meanwhile: what is on its disk counts.
        instance.oplog.update([kept])
        ids = list(instance.history())
        if len(ids) > KEPT_OPERATIONS:
            instance.oplog.delete(ids[: len(ids) - KEPT_OPERATIONS])

    async def copy_of_the_log(self) -> None:
        """A backup program copies the file while it is in use; the copy opens and holds what was committed."""
        copy = self.world.directory / f"copy-{self.copies}.jsonl"
        shutil.copyfile(self.hub.instance.paths.oplog, copy)
        self.copies += 1
        log = OpLog.open(copy)
        held = {op.id: op.modno for op in log.query(Query())}
        log.close()
        there = {op.id: op.modno for op in self.hub.instance.oplog.query(Query())}
        assert held == there
        copy.unlink()

    async def clock_jump(self, name: str, seconds: float) -> None:
        self.clients[name].network.clock_ahead += seconds

    async def sleep(self, name: str) -> None:
        self.clients[name].network.fall_silent()

    async def wake(self, name: str, slept: float) -> None:
        self.clients[name].network.cut = False
        self.clients[name].network.clock_ahead += slept

    async def leave(self, name: str) -> None:
        self.clients[name].network.fall_silent()

    async def come_home(self, name: str) -> None:
        self.clients[name].network.cut = False

    async def rotate(self, name: str) -> None:
        """A new key: the hub's owner removes the old entry, and the client pairs again."""
        machine, old = self.clients[name], self.clients[name].instance.keyid
        self.former.append(old)

        def renew(config: wire.config.Config) -> bool:
            config.multihost.identity.CopyFrom(Identity.generate().to_proto())
            del config.multihost.known_hosts[:]
            return True

        machine.instance.config.transform(renew, replace_identity=True)

        def forget(config: wire.config.Config) -> bool:
            clients = config.multihost.authorized_clients
            clients.remove(next(entry for entry in clients if entry.keyid == old))
            return True

        self.hub.instance.config.transform(forget)
        self.pair(name)

    async def permit(self, name: str, grant: str) -> None:
        keyid = self.clients[name].instance.keyid

        def change(config: wire.config.Config) -> bool:
            entry = next(e for e in config.multihost.authorized_clients if e.keyid == keyid)
            del entry.permissions[:]
            entry.permissions.extend([parse_grant(grant), parse_grant("receive-shared-repos=*")])
            return True

        self.hub.instance.config.transform(change)

    async def share_a_repo(self) -> None:
        def share(config: wire.config.Config) -> bool:
            config.repos.add(id="nas", guid=GUID, uri="sftp:nas:/backups", password="p", shared=True)
            return True

        self.hub.instance.config.transform(share)

    # --- what must hold

    async def evening(self) -> None:
        """Nothing was disturbed for half an hour: the hub is up to date with everybody who is there."""
        self.evenings += 1
        hub = self.hub.instance
        for name, machine in self.clients.items():
            client = machine.instance
            if machine.network.cut:
                assert hub.peer(client).state != CONNECTED, f"{name} is away, day {self.evenings}"
                continue
            assert client.peer(hub).state == CONNECTED, f"{name}, day {self.evenings}: {client.peer(hub)}"
            assert hub.peer(client).state == CONNECTED, f"{name}, day {self.evenings}: {hub.peer(client)}"
            held = hub.history(client)
            for number, state in client.history().items():
                hidden = client.oplog.get(number).plan_id == "secret" and self._hides_secret(client)
                if not hidden:
                    assert held.pop(number, None) == state, f"{name}, day {self.evenings}, operation {number}"
            if not self._hides_secret(client):
                assert not held, f"{name}, day {self.evenings}: the hub holds what the client has thrown away"

    def _hides_secret(self, client: Instance) -> bool:
        entries = self.hub.instance.config.current.multihost.authorized_clients
        entry = next(e for e in entries if e.keyid == client.keyid)
        return any("!plan:secret" in permission.scopes for permission in entry.permissions)


@pytest.fixture
def simulated_wall(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's wall clock runs with the simulated time, too; and clients look at theirs every ten minutes, not every
    five seconds (two and a half million times in this month)."""
    monkeypatch.setattr(clients, "SLEEP_CHECK_S", 10 * MINUTE)
    monkeypatch.setattr(time, "time", world.wall)
    monkeypatch.setattr(time, "time_ns", lambda: int(world.wall() * 1e9))


@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("BACKREST_MONTHS", "1"))))
async def test_a_month_of_a_hub_and_five_clients(
    autojump_clock: MockClock, world: World, simulated_wall: None, seed: int
) -> None:
    async with trio.open_nursery() as nursery:
        month = Month(world, nursery, seed)
        await month.hub.switch_on()
        for name in NAMES:
            month.pair(name)
            await month.clients[name].switch_on()
        began = trio.current_time()
        for at, _, event in month.script():
            await trio.sleep_until(began + at)
            nursery.start_soon(event)
        await trio.sleep(HOUR)
        tasks_at_work = len(trio.lowlevel.current_task().parent_nursery.child_tasks)  # type: ignore[union-attr]
        await check_the_end(month, tasks_at_work)
        for machine in (month.hub, *month.clients.values()):
            await machine.switch_off()
    assert month.evenings == DAYS


async def check_the_end(month: Month, tasks: int) -> None:
    hub = month.hub.instance
    for name, machine in month.clients.items():
        client = machine.instance
        [repo] = client.config.current.repos
        assert (repo.id, repo.origin_instance_id) == ("nas", "hub"), name
        minutes = [int(at // MINUTE) for at in machine.network.dials]
        assert max(minutes.count(minute) for minute in set(minutes)) <= 11, f"{name} dials without rest"
        assert len(machine.network.dials) < 200, f"{name} dialled {len(machine.network.dials)} times"
    assert set(hub.oplog.origins()) <= {
        *(machine.instance.keyid for machine in month.clients.values()),
        *month.former,
    }
    assert len(hub.peers.all()) <= len(NAMES) + len(month.former), "one record for each peer there ever was"
    assert len(hub.config.current.multihost.authorized_clients) == len(NAMES)
    assert not hub.config.current.multihost.pairing_tokens
    for machine in (month.hub, *month.clients.values()):
        machine.instance.peers.flush()
        events = [json.loads(line) for line in machine.instance.paths.audit.read_text().splitlines()]
        assert len(events) < 200, "one line for each thing that happened, not for each try"
        leftovers = [name for name in os.listdir(machine.instance.paths.data_dir) if "tmp" in name]
        assert not leftovers
    gc.collect()
    alive: list[Any] = [thing for thing in gc.get_objects() if type(thing).__name__ == "Inbound"]
    assert len(alive) <= len(NAMES) + 1, "sessions that ended are let go of"
    assert tasks < 40
    verify_audit(hub.paths.audit)

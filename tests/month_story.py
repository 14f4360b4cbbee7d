"""What happens in the simulated month to a hub and its clients; month_checks.py has what must hold.

One script of events, drawn from a seed, in the order of time. The configurations change at noon, when no machine is
switched off and no clock jumps, so that it is known what was told to whom; all else falls where it falls.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count

import trio
from go_hub import GoProgram
from month_checks import (
    DAY,
    GO,
    HOUR,
    MANAGED,
    MINUTE,
    NAMES,
    NARROWED,
    NO_SECRETS,
    RENEWED,
    SLEEPER,
    TRAVELLER,
    Standing,
)  # fmt: skip
from month_disk import Disks
from month_world import Broken, Machine, Town, all_of, here
from sync_world import BOTH, GUID

from backrest import wire
from backrest.admin import clients, hosts, identity, plans, pushes, sharing

URL = "http://hub:9898"
KEPT_OPERATIONS = 12  # of each client: older ones are deleted, as its garbage collection would
LOCAL = "b" * 64


async def _ignore(event: dict[str, object]) -> None:
    await trio.lowlevel.checkpoint()


class Month(Standing):
    """The script, and who plays it."""

    def __init__(
        self,
        town: Town,
        disks: Disks,
        nursery: trio.Nursery,
        seed: int,
        days: int,
        names: tuple[str, ...] = NAMES,
        go: bool = False,
    ) -> None:
        """``go``: every client has another hub besides, with the habits of the Go program."""
        hub = Machine(town, "hub", disks, nursery)
        if go:
            town.nursery = nursery
            self.go = GoProgram(town, GO, kept=3)
        super().__init__(hub, {name: Machine(town, name, disks, nursery) for name in names}, days)
        self.seed, self.names = seed, names
        self.draw = random.Random(seed)
        random.seed(seed)  # of which the program draws how long it waits
        self.nursery = nursery
        self.fault: Broken | None = None
        self.happened: Counter[str] = Counter()
        self._labels = count(1)

    # --- the script

    def script(self) -> list[tuple[float, int, Callable[[], Awaitable[None]]]]:
        """All events with their times. The number keeps the order of what falls together."""
        draw, events = self.draw, list[tuple[float, Callable[[], Awaitable[None]]]]()
        everybody = ("hub", *self.names)
        for day in range(self.days):

            def at(first: float, last: float, event: Callable[[], Awaitable[None]], day: int = day) -> None:
                events.append((day * DAY + draw.uniform(first, last) * HOUR, event))

            for name in everybody:
                for _ in range(draw.randint(1, 3)):
                    at(8, 22, partial(self.on, name, self.backup, draw.random()))
                then = draw.choice(["", "restart", "kill", "power cut"])
                at(8, 10, partial(self.tidy, name, then, draw.random()))
                if draw.random() < 0.3:
                    how = draw.choice(["restart", "restart", "kill", "power cut"])
                    at(13, 21, partial(self.turn_off, name, how, draw.random()))
            for name in ("hub", draw.choice(self.names)):
                at(13, 22, partial(self.on, name, self.copy, draw.randrange(6), draw.random()))
            if draw.random() < 0.3:
                jump = draw.choice([-3 * HOUR, 3 * HOUR, 40.0, -5.0, 20 * DAY, -20 * DAY])
                at(13, 22, partial(self.clock_jump, draw.choice(everybody), jump))
            if day in (int(0.3 * self.days), int(0.6 * self.days)):
                at(13, 22, partial(self.clock_jump, "hub", 20 * DAY if day < self.days / 2 else -30 * DAY))
            if self.go is not None:
                for _ in range(3):
                    at(9, 22, self.collect)
                if draw.random() < 0.2:
                    at(13, 21, self.restart_go)
            at(23, 23, self.evening)
            if SLEEPER in self.names:
                at(23.5, 23.5, partial(self.sleep, SLEEPER))
                at(29.9, 29.9, self.night)
                at(30, 30, partial(self.wake, SLEEPER))
        for number, (part, who, event) in enumerate(self._plans()):
            if who in everybody:
                events.append((int(part * self.days) * DAY + 12 * HOUR + number * MINUTE, event))
        if TRAVELLER in self.names:
            left = int(0.27 * self.days)
            week = min(7, self.days // 3)
            events.append((left * DAY + 9 * HOUR, partial(self.leave, TRAVELLER)))
            events.append(((left + week // 2) * DAY + 12.5 * HOUR, partial(self.push, TRAVELLER, "/refused")))
            events.append(((left + week) * DAY + 9 * HOUR, partial(self.come_home, TRAVELLER)))
        return sorted((at, number, event) for number, (at, event) in enumerate(events))

    def _plans(self) -> list[tuple[float, str, Callable[[], Awaitable[None]]]]:
        """Changes of the configurations: when in the month, at whom."""
        everything = "read-operations=*"
        return [
            (0.1, "hub", self.share),
            (0.15, NARROWED, partial(self.permit, NARROWED, NO_SECRETS)),
            (0.2, MANAGED, partial(self.push, MANAGED, "/one")),
            (0.25, MANAGED, partial(self.let, MANAGED, NO_SECRETS)),
            *((0.3, name, partial(self.plan, name, "/new")) for name in self.names),
            (0.37, RENEWED, partial(self.rotate, RENEWED)),
            (0.45, MANAGED, partial(self.let, MANAGED, everything)),
            (0.5, "hub", self.unshare),
            (0.55, MANAGED, partial(self.push, MANAGED, "/two")),
            (0.6, NARROWED, partial(self.permit, NARROWED, everything)),
            (0.7, "hub", self.share),
            (0.8, "hub", self.rotate_the_hub),
            (0.9, RENEWED, self.purge),
        ]

    async def play(self) -> None:
        """Switch everything on, and let it happen. Ends early with ``fault`` when something is broken."""
        for machine in self.machines:
            await machine.switch_on()
        for name, machine in self.clients.items():
            self._furnish(machine)
            await self.pair(name)
            if self.go is not None:
                with here(machine):
                    self.go.known_to(machine.instance, f"{len(self.go.clients) + 1:064}")
                await trio.sleep(MINUTE)  # simulated
        began = trio.current_time()
        for at, _, event in self.script():
            await trio.sleep_until(began + at)
            self.nursery.start_soon(self._let_happen, event)
        await trio.sleep(HOUR)  # simulated
        await self._let_happen(self.the_end)

    async def _let_happen(self, event: Callable[[], Awaitable[None]]) -> None:
        try:
            await event()
            for machine in self.machines:
                if machine.witness.faults:
                    raise Broken(machine.witness.faults[0])
        except Broken as fault:
            self._end_with(fault)
        except Exception as error:
            failure = Broken(f"the program fails: {error!r}")
            failure.__cause__ = error
            self._end_with(failure)

    def _end_with(self, fault: Broken) -> None:
        if self.fault is None:
            day = min(self.day + 1, self.days)
            fault.add_note(f"seed {self.seed}, day {day} of {self.days}, {len(self.names)} clients")
            self.fault = fault
        self.nursery.cancel_scope.cancel()

    async def on(self, name: str, event: Callable[..., Awaitable[None]], *args: object) -> None:
        """What a machine does while it is on, and what ends with it."""
        machine = self._machine(name)
        machine.do(self._let_happen, partial(event, machine, *args))
        await trio.lowlevel.checkpoint()

    def _machine(self, name: str) -> Machine:
        return self.hub if name == "hub" else self.clients[name]

    # --- what happens to the histories

    async def backup(self, machine: Machine, seed: float) -> None:
        """An operation that begins, goes on and ends; now and then old ones are thrown away."""
        draw, log = random.Random(seed), machine.instance.oplog
        kept = self._begin(machine, draw.choice(["photos", "mail", "secret"]))
        await trio.sleep(draw.uniform(0, 20))  # simulated
        kept.status = draw.choice([wire.operations.STATUS_SUCCESS, wire.operations.STATUS_ERROR])
        kept.unix_time_end_ms = kept.unix_time_start_ms + 20_000
        log.update([kept])
        ids = [number for number, state in all_of(log).items() if not state.origin]
        if len(ids) > KEPT_OPERATIONS:
            log.delete(ids[: len(ids) - KEPT_OPERATIONS])

    def _begin(self, machine: Machine, plan: str) -> wire.operations.Operation:
        operation = machine.instance.operation(
            plan_id=plan,
            unix_time_start_ms=int(machine.network.wall() * 1000),
            status=wire.operations.STATUS_INPROGRESS,
            display_message=f"{machine.name} {next(self._labels)}",
        )
        [kept] = machine.instance.oplog.add([operation])
        return kept

    async def tidy(self, name: str, then: str, seed: float) -> None:
        """The newest operations go, right behind it the file is written anew, and right behind that it may be opened
        again: all that is left of their numbers is the high-water marks."""
        draw, machine = random.Random(seed), self._machine(name)
        machine.do(self._let_happen, partial(self.compact, machine, draw.random()))
        await trio.sleep(10)  # simulated
        if then:
            await self.turn_off(name, then, draw.random())
            machine.do(self._let_happen, partial(self.backup, machine, draw.random()))

    async def compact(self, machine: Machine, seed: float) -> None:
        made = [self._begin(machine, "photos") for _ in range(2)]
        wait = random.Random(seed).choice([0, 5])  # nobody, or everybody, has seen them
        await trio.sleep(wait)  # simulated
        machine.instance.peers.flush()  # before: it syncs the directory, and would hide a compaction that does not
        machine.instance.oplog.delete([operation.id for operation in made])
        machine.instance.oplog.compact()
        self.happened["compacted"] += 1

    async def copy(self, machine: Machine, steps: int, seed: float) -> None:
        await machine.copy_the_log(steps, partial(self.backup, machine, seed))
        self.happened["copied"] += 1

    async def collect(self) -> None:
        assert self.go is not None
        await self.go.change_configuration()
        self.happened["collected"] += 1

    # --- what happens to the machines

    async def turn_off(self, name: str, how: str, seed: float) -> None:
        """And on again within twenty minutes."""
        machine, draw = self._machine(name), random.Random(seed)
        async with machine.switch:
            if how == "restart":
                await machine.switch_off()
            else:
                work = partial(draw.choice([self.backup, self.backup, self.compact]), machine, draw.random())
                await machine.die(how, draw, partial(self._let_happen, work))
            await trio.sleep(draw.choice([0, draw.uniform(0, 20 * MINUTE)]))  # simulated
            await machine.switch_on()
        self.happened[how] += 1

    async def restart_go(self) -> None:
        assert self.go is not None
        self.go.restart()
        self.happened["Go restarted"] += 1

    async def clock_jump(self, name: str, seconds: float) -> None:
        self._machine(name).network.ahead += seconds
        self.happened["clock jump of the hub" if name == "hub" else "clock jump"] += 1

    async def sleep(self, name: str) -> None:
        """Its clock goes on, its tasks do not: to itself it seems that the clock jumps when it wakes."""
        network = self.clients[name].network
        network.fall_silent()
        network.awake = trio.Event()
        network.ahead -= 6 * HOUR

    async def wake(self, name: str) -> None:
        network = self.clients[name].network
        network.cut = False
        network.awake.set()
        network.ahead += 6 * HOUR

    async def leave(self, name: str) -> None:
        self.clients[name].network.fall_silent()
        self.happened["left"] += 1

    async def come_home(self, name: str) -> None:
        self.clients[name].network.cut = False

    # --- what happens to the configurations

    def _furnish(self, machine: Machine) -> None:
        """A repository of its own, with a plan."""

        def add(config: wire.config.Config) -> None:
            config.repos.add(id="local", uri="/srv/local", guid=LOCAL, password="p")

        with here(machine):
            machine.instance.config.transform(add)
            plan = {"id": "mine", "repo": "local", "paths": ["/old"]}
            plans.add(machine.instance.context(), plan)

    async def pair(self, name: str, *, new_key: bool = False) -> None:
        """With a token of the hub, as at the first time and after each rotation."""
        client = self.clients[name]
        with here(self.hub):
            expires = int(self.hub.network.wall() + DAY)
            label = f"{name} {next(self._labels)}"
            token = self.hub.instance.token(*BOTH, expires=expires, label=label)
        with here(client):
            context, lets = client.instance.context(), self._lets[name]
            await hosts.add(context, _ignore, token, URL, permissions=lets, wait=False, new_key=new_key)

    async def rotate(self, name: str) -> None:
        """A client gets a new key: the hub's owner removes the old entry, and it is paired again."""
        client, old = self.clients[name], self.clients[name].instance.keyid
        with here(client):
            identity.rotate(client.instance.context(), old)
        if self.go is not None:
            self.go.clients.add(client.instance.keyid)
        await trio.sleep(MINUTE)  # simulated
        with here(self.hub):
            removed = clients.remove(self.hub.instance.context(), name)
        self._archived[old] = self._held(old)
        assert removed["operations"] == len(self._archived[old])
        await self.pair(name)
        self.happened["rotated"] += 1

    async def purge(self) -> None:
        for keyid in list(self._archived):
            with here(self.hub):
                clients.remove(self.hub.instance.context(), keyid, purge=True)
            self._archived[keyid] = {}

    async def rotate_the_hub(self) -> None:
        """Every client is told the hub's new key by its owner."""
        with here(self.hub):
            identity.rotate(self.hub.instance.context(), self.hub.instance.keyid)
        for name in self.names:
            await self.pair(name, new_key=True)
        self.happened["the hub rotated"] += 1

    async def permit(self, name: str, grant: str) -> None:
        """The hub's owner says what it keeps of a client."""
        with here(self.hub):
            clients.set_permissions(self.hub.instance.context(), name, [grant, "receive-shared-repos=*"])
        held = self._held(self.clients[name].instance.keyid, "secret")
        self._kept.pop(name, None)
        if grant == NO_SECRETS:
            self._kept[name] = held

    async def let(self, name: str, grant: str) -> None:
        """The client's owner says what the hub may have."""
        self._lets[name][0] = grant
        with here(self.clients[name]):
            hosts.grant(self.clients[name].instance.context(), "hub", self._lets[name])

    async def plan(self, name: str, path: str) -> None:
        with here(self.clients[name]):
            plans.set_plan(self.clients[name].instance.context(), "mine", {"paths": [path]})

    async def push(self, name: str, path: str) -> None:
        """A plan for a client: of one that lets it, and is there, and of one that does neither."""
        plan = {"id": "pushed", "repo": "local", "paths": [path]}
        with here(self.hub):
            context = self.hub.instance.context()
            result = await pushes.push(context, _ignore, name, [], [plan], [], [])
        self.happened[f"push {result['result']}"] += 1
        if name == MANAGED:
            self._pushed[name] = path

    async def share(self) -> None:
        def add(config: wire.config.Config) -> bool:
            if any(repo.id == "nas" for repo in config.repos):
                return False
            config.repos.add(id="nas", guid=GUID, uri="sftp:nas:/backups", password="p")
            return True

        with here(self.hub):
            self.hub.instance.config.transform(add)
            await sharing.share(self.hub.instance.context(), _ignore, "nas", wait=False)
        self._shared = True

    async def unshare(self) -> None:
        with here(self.hub):
            sharing.unshare(self.hub.instance.context(), "nas")
        self._shared = False

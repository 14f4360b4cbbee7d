"""One run: a hub, a real client behind a bad network, the light clients, and the rounds they play.

Every round is as much load: the same clients, by draws of its own. After each, everybody but the real client leaves,
and it is looked at: the hub must have all that was listed, and both daemons must be back where they began. Memory is
compared with that after the round before and after the first: what a daemon takes once (modules, caches, the heap's
shape) is taken there. Then the hub falls (fall.py), and a last round is for the one that is started again; unless
something is wrong by then.

Nothing waits for ever: whoever ends by itself ends the run (living.py), and what must come has our patience.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import trio
from benchmarks import operations
from benchmarks.light import Target
from benchmarks.machines import Daemon, Machine
from shared.daemons import ask, mistakes

from backrest import wire
from backrest.permissions import parse_grant
from backrest.wire import codec
from loads import look
from loads.bad import cast, misbehave, missed
from loads.fall import Ids, fall
from loads.good import GOOD, Client
from loads.living import Living
from loads.network import Network
from loads.scene import Scene, WrongError

# Of each role in turn: of eight clients two misbehave, and the first six are one of each.
ROLES = ("idle", "steady", "storm", "half-open", "slow", "garbage", "steady", "storm")
BATCH = 5  # operations of the real client in one go
IMPORT_S = 0.5  # between two of them, at most
CONFIG_EVERY_S = 1.0  # a change of the hub's configuration: something to show to all
STORM_EVERY_S = 2.0
PLANS = 40  # of the hub's configuration, which it shows to the slow ones: 20 KiB
# A hub may take 25 s until it refuses somebody: that, and an answer of a busy one, has at least so long.
LEAST_S = 30.0
SAME = 8  # looks in a row before we believe that a daemon has come to rest


@dataclass(slots=True)
class Options:
    clients: int
    seconds: float
    seed: int
    rounds: int = 2
    cuts: int = 2  # in each round
    patience: float = 120.0  # s
    hub_code: str = ""  # Python that the hub runs first: to show that a fault is found
    attacks: int = 0  # attackers of each kind, instead of all this (siege.py)
    kinds: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()


@dataclass(slots=True)
class Result:
    """``wrong`` is empty when all is as it should be."""

    wrong: list[str] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)


class World:
    def __init__(self, options: Options, directory: Path, say: Callable[[str], None]) -> None:
        self.options = options
        self.result = Result()
        self._say = say
        self.hub, self.laptop = Machine(directory, "hub"), Machine(directory, "laptop")
        self.hub.program, self.laptop.program = look.hub(options.hub_code), look.client(options.patience)
        self._copy = directory / "copy" / "oplog.jsonl"
        self._ids = Ids(self.hub)
        self._killed: Daemon | None = None
        self._least = max(options.patience, LEAST_S)
        self._daemons = ExitStack()
        self._living = Living(self._daemons, self._least)
        self.roles = [ROLES[number % len(ROLES)] for number in range(options.clients)]
        self.clients = [Client(f"{role}-{number}") for number, role in enumerate(self.roles)]
        known = [(one.name, one.identity.keyid) for one in self.clients]
        self.hub.let_in([(self.laptop.name, self.laptop.identity.keyid), *known])
        self.hub.configure(self._something_to_show)
        self.imported = 0
        self._started = time.monotonic()

    def _something_to_show(self, config: wire.config.Config) -> bool:
        repo = config.repos.add(id="nas", guid=operations.GUID, uri="/srv/nas", password="x" * 20)
        repo.prune_policy.schedule.disabled = repo.check_policy.schedule.disabled = True
        for number in range(PLANS):
            plan = config.plans.add(id=f"plan-{number}", repo="nas", paths=[f"/srv/{'x' * 400}/{number}"])
            plan.schedule.disabled = True
        for entry in config.multihost.authorized_clients:
            if entry.instance_id.startswith("slow-"):
                entry.permissions.append(parse_grant("read-config=*"))
        return True

    async def run(self) -> Result:
        network = Network(f"{self.options.seed}/network")
        with self._daemons:
            async with trio.open_nursery() as nursery:
                await nursery.start(network.run)
                self.laptop.know(self.hub, f"http://127.0.0.1:{network.port}")
                hub = self._living.serve(self.hub)
                network.target = _port(hub)
                laptop = self._living.serve(self.laptop)
                async with self._living.watched():
                    await self._work_once()
                    await self._until(self._missing, "before the load")
                    first = {
                        "hub": await self._rest(self.hub, hub),
                        "client": await self._rest(self.laptop, laptop),
                    }
                    self._say(f"before:  hub: {first['hub']}")
                    seen = {name: list[look.Figures]() for name in first}
                    for number in range(1, self.options.rounds + 1):
                        await self._round(number, hub, laptop, network, first, seen)
                    # Once, and after memory was judged: the more a daemon has to show, the more room it takes for that.
                    self.result.wrong += await self._living.in_time(self._what_the_hub_shows)
                    if not self.result.wrong:
                        await self._fall(hub)
                    if not self.result.wrong:
                        hub = self._living.serve(self.hub)
                        network.target = _port(hub)
                        del seen["hub"][1:]  # of those before it, the first is what one takes at least
                        await self._work_once()
                        await self._until(self._missing, "after the hub was started again")
                        await self._round(self.options.rounds + 1, hub, laptop, network, first, seen)
                nursery.cancel_scope.cancel()
        for daemon in (hub, laptop):
            if daemon is not self._killed:  # that was looked at
                self._look_at_the_end_of(daemon)
        if not self.result.wrong:
            self._look_at_the_files()
        return self.result

    async def _round(
        self,
        number: int,
        hub: Daemon,
        laptop: Daemon,
        network: Network,
        first: dict[str, look.Figures],
        seen: dict[str, list[look.Figures]],
    ) -> None:
        """Play it, and look. ``seen``: what was left after each round."""
        scene = self._scene(hub)
        began, made = time.monotonic(), self._made()
        # The last one comes after the fall, which was a cut.
        cuts = self.options.cuts if number <= self.options.rounds else 0
        await self._play(number, scene, network, cuts)
        wrong = [*scene.wrong]
        for name, machine, daemon in (("hub", self.hub, hub), ("client", self.laptop, laptop)):
            now, left = await self._back(name, machine, daemon, first[name])
            seen[name].append(now)
            wrong += [*left, *look.growth(name, seen[name])]
        absent = self._absent(scene, network, cuts)
        seconds = time.monotonic() - began
        self._report(number, scene, network, seen, seconds, self._made() - made, absent, wrong)

    def _scene(self, hub: Daemon) -> Scene:
        return Scene(Target(hub.url, self.hub.identity.keyid, self.hub.name), self._least)

    def _absent(self, scene: Scene, network: Network, cuts: int) -> list[str]:
        """What a round was to have, and had not: it was too short, or there were too few clients."""
        absent = []
        if network.counts["cuts"] < cuts:
            absent.append(f"{network.counts['cuts']} of {cuts} cuts")
        for what, names in (
            ("roles", [role for role in dict.fromkeys(ROLES) if role not in self.roles]),
            ("kinds", missed(self.roles, scene.counts)),
        ):
            if names:
                absent.append(f"{what} never played: {', '.join(names)}")
        return absent

    async def _fall(self, hub: Daemon) -> None:
        """The hub is killed, and its file has what it held."""
        began = time.monotonic()
        scene, client = self._scene(hub), self.clients[0]
        await fall(self.hub, hub, scene, client, self._missing, self._until, self._ids, self._living)
        self._killed = hub
        self._look_at_the_end_of(hub)
        held = await trio.to_thread.run_sync(look.stored, self.hub, self._copy)
        self.result.wrong += self._differences(held, ", in its file when it was killed,")
        self._say(
            f"the hub was killed when it held all, {time.monotonic() - began:.1f} s; it is started again"
        )

    async def _play(self, number: int, scene: Scene, network: Network, cuts: int) -> None:
        """One round: the good ones come, then all the rest begins, and all but the good ones ends before these go."""
        seed = f"{self.options.seed}/{number}"
        chances = [random.Random(f"{seed}/{client.name}") for client in self.clients]
        work = random.Random(f"{seed}/work")
        network.worsen(cuts)
        async with trio.open_nursery() as good:
            async with trio.open_nursery() as first:
                for role, client, chance in zip(self.roles, self.clients, chances, strict=True):
                    if role in GOOD:
                        first.start_soon(good.start, GOOD[role], client, scene, chance)
            async with trio.open_nursery() as bad:
                for who, part in cast(self.roles, number).items():
                    bad.start_soon(misbehave, *part, self.clients[who], scene, chances[who])
                bad.start_soon(self._storm, scene)
                bad.start_soon(self._change_config)
                with trio.move_on_after(self.options.seconds):
                    while True:
                        await self._work_once()
                        await trio.sleep(work.random() * IMPORT_S)
                scene.over.set()
                bad.cancel_scope.cancel()
            scene.blow()
            network.calm = True
            late = await self._until(self._missing, "")
            if late:
                scene.says(f"not everything has arrived after {self.options.patience:g} s: {late}")
            scene.arrived.set()
            good.cancel_scope.deadline = trio.current_time() + self._least
        if good.cancel_scope.cancelled_caught:
            raise WrongError(f"not all clients could leave within {self._least:g} s")

    async def _work_once(self) -> None:
        """The real client has something new."""
        some = [operations.make(self.imported + n + 1, self.laptop.name) for n in range(BATCH)]
        body = {"operations": [codec.to_dict(operation) for operation in some]}
        with trio.CancelScope(shield=True):
            await self._living.in_time(ask, self.laptop, "ImportOperations", body)
            self.imported += BATCH

    async def _storm(self, scene: Scene) -> None:
        while True:
            await trio.sleep(min(STORM_EVERY_S, self.options.seconds / 4))
            scene.blow()

    async def _change_config(self) -> None:
        number = 0
        while True:
            number += 1
            plan = {"plan_id": f"plan-{number % PLANS}", "changes": {"paths": [f"/srv/{'y' * 400}/{number}"]}}
            with trio.CancelScope(shield=True):
                await self._living.in_time(ask, self.hub, "SetPlan", plan)
            await trio.sleep(CONFIG_EVERY_S)

    # --- looking

    def _made(self) -> int:
        return self.imported + sum(client.count for client in self.clients)

    def _missing(self) -> str:
        """Whose number of operations at the hub is not what it should be; blocking."""
        wanted = {client.name: len(client.made) for client in self.clients} | {
            self.laptop.name: self.imported
        }
        found = look.counts(self.hub)
        wrong = [f"{name} {found[name]} of {count}" for name, count in wanted.items() if found[name] != count]
        return ", ".join(wrong[:5]) + f" and {len(wrong) - 5} more" * (len(wrong) > 5)

    async def _until(self, wrong: Callable[[], str], when: str, pause: float = look.LOOK_S) -> str:
        """Ask until nothing is wrong any more. What still is when we lose patience; WrongError if ``when`` is given."""
        limit = time.monotonic() + self.options.patience
        while what := await self._living.in_time(wrong):
            if time.monotonic() > limit:
                if when:
                    raise WrongError(f"{when}: {what}")
                return what
            await trio.sleep(pause)
        return ""

    async def _rest(self, machine: Machine, daemon: Daemon) -> look.Figures:
        """The figures when they stand still. Of files, tasks and threads the least seen: the connection of the look
        before may not be closed yet. WrongError when they never do."""
        seen: list[look.Figures] = []
        limit = time.monotonic() + self._least
        while len(seen) < SAME or len({(f.tasks, f.held) for f in seen[-SAME:]}) > 1:
            if time.monotonic() > limit:
                raise WrongError(f"the {machine.name} did not come to rest within {self._least:g} s")
            await trio.sleep(look.LOOK_S)
            seen.append(await self._living.in_time(look.figures, machine, daemon))
        look.give_back(daemon)
        last = await self._living.in_time(look.figures, machine, daemon)
        least = [*seen[-SAME:], last]
        return replace(
            last,
            files=min(f.files for f in least),
            tasks=min(f.tasks for f in least),
            threads=min(f.threads for f in least),
        )

    async def _back(
        self, name: str, machine: Machine, daemon: Daemon, first: look.Figures
    ) -> tuple[look.Figures, list[str]]:
        """The figures when they are no more than they were at ``first``, and what is left over if that never comes."""
        limit = time.monotonic() + self.options.patience
        while True:
            now = await self._rest(machine, daemon)
            left = [
                f"the {name} has {more} {what} more than before the load"
                for what, more in (
                    ("file descriptors", now.files - first.files),
                    ("tasks", now.tasks - first.tasks),
                    ("threads", now.threads - first.threads),
                )
                if more > 0
            ]
            if not left or time.monotonic() > limit:
                return now, left
            await trio.sleep(look.LOOK_S)

    def _report(
        self,
        number: int,
        scene: Scene,
        network: Network,
        seen: dict[str, list[look.Figures]],
        seconds: float,
        made: int,
        absent: list[str],
        wrong: list[str],
    ) -> None:
        self.result.wrong += [f"round {number}: {sentence}" for sentence in wrong]
        self.result.rounds.append(
            {
                "seconds": round(seconds, 1),
                "changes": made,
                "did": dict(sorted(scene.counts.items())),
                "network": dict(sorted(network.counts.items())),
                "absent": absent,
                **{name: figures[-1].as_json() for name, figures in seen.items()},
            }
        )
        done = ", ".join(f"{count} {what}" for what, count in sorted(scene.counts.items()))
        net = ", ".join(f"{count} {what}" for what, count in sorted(network.counts.items()))
        self._say(f"round {number}: {made} changes; {done}; the network: {net}; {seconds:.1f} s")
        if absent:
            self._say(f"without: {'; '.join(absent)}")
        for name, figures in seen.items():
            self._say(f"after:   {name}: {figures[-1]}")

    def _look_at_the_end_of(self, daemon: Daemon) -> None:
        name = daemon.machine.name
        if daemon.process.returncode and daemon is not self._killed:
            self.result.wrong.append(f"{name} ended with {daemon.process.returncode} after SIGTERM")
        self.result.wrong += mistakes(daemon)

    def _look_at_the_files(self) -> None:
        """All histories, and whose the hub's ids were, read from the disk when both daemons have ended."""
        ours = look.stored(self.laptop, self._copy)[""]
        if len(ours) != self.imported:
            self.result.wrong.append(f"the client holds {len(ours)} operations and was given {self.imported}")
        self.result.wrong += self._differences(look.stored(self.hub, self._copy), ", at the end,", ours)
        self._ids.look()
        names = {one.identity.keyid: one.name for one in (self.laptop, *self.clients)}
        self.result.wrong += self._ids.twice(names)

    def _what_the_hub_shows(self) -> list[str]:
        return self._differences(look.shown(self.hub), "")

    def _differences(
        self, held: dict[str, look.History], when: str, ours: look.History | None = None
    ) -> list[str]:
        """What the hub holds, and what everybody lists; ``ours``, when it is not as the client says."""
        if ours is None:
            ours = look.shown(self.laptop, peer="local")[""]
        listed = {self.laptop.name: (self.laptop.identity.keyid, ours)}
        for client in self.clients:
            made = {number: (op.modno, look.content(op)) for number, op in client.made.items()}
            listed[client.name] = (client.identity.keyid, made)
        wrong = []
        for name, (keyid, history) in listed.items():
            if said := look.difference(held.pop(keyid, {}), history):
                wrong.append(f"of what {name} lists the hub{when} {said}")
        if held:
            wrong.append(f"the hub{when} holds operations of nobody that we know: {list(held)}")
        return wrong


def _port(hub: Daemon) -> int:
    return httpx.URL(hub.url).port or 80

"""What must hold in the simulated month: each evening, each night, and at its end.

``Standing`` knows how things must stand, as whoever changes them says: who may read what, what was shared and pushed,
which keys are gone. A check raises Broken with the name of the machine and the day.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from typing import Any

import trio
from go_hub import GoProgram
from month_world import Broken, Machine, all_of
from sync_world import BOTH, CONNECTED, GUID

from backrest.errors import CorruptError
from backrest.protocol.session import Session
from backrest.store.audit import verify as verify_audit
from backrest.sync.inbound import Inbound
from backrest.sync.link import Link
from backrest.sync.outbound import Outbound

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NAMES = ("attic", "barn", "cellar", "desk", "espresso")
MANAGED, SLEEPER, TRAVELLER, RENEWED, NARROWED = NAMES
NO_SECRETS = "read-operations=*,!plan:secret"
GO = "go"
OF_A_SESSION = (Session, Link, Inbound, Outbound)
DIALS_A_DAY = 30  # three times what nights and restarts need
AUDITED_A_DAY = 20  # three times what there is to say

State = tuple[int, bytes]  # an operation's modno and content


def living() -> Counter[type]:
    """How many objects there are of each kind that a session is made of."""
    gc.collect()
    return Counter(type(thing) for thing in gc.get_objects() if type(thing) in OF_A_SESSION)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))


class Standing:
    """The machines, and how things must stand with them."""

    go: GoProgram | None = None

    def __init__(self, hub: Machine, clients: dict[str, Machine], days: int) -> None:
        self.hub, self.clients, self.days = hub, clients, days
        self.day = 0
        self._lets: dict[str, list[str]] = {}  # what a client lets the hub do
        for name in clients:
            self._lets[name] = [*BOTH, "read-write-config=*" if name == MANAGED else "read-config=*"]
        # Of whom the hub may not read the secret plan any more: what it held of it at that moment.
        self._kept: dict[str, dict[int, State]] = {}
        self._archived: dict[str, dict[int, State]] = {}  # by the key ids that are used no more
        self._pushed: dict[str, str] = {}  # client -> the path of the plan that the hub gave it
        self._shared = False
        self._audits: dict[str, bytes] = {}
        self._tasks = 0
        self._before = living()

    @property
    def machines(self) -> tuple[Machine, ...]:
        return (self.hub, *self.clients.values())

    def _held(self, keyid: str, plan: str = "") -> dict[int, State]:
        """What the hub holds of a key: the id there -> modno and content."""
        log = self.hub.instance.oplog
        return {
            state.original: (state.modno, state.content)
            for number, state in all_of(log).items()
            if state.origin == keyid and (not plan or log.get(number).plan_id == plan)
        }

    async def evening(self) -> None:
        """Nothing was disturbed for an hour: the hub is up to date with everybody who is there."""
        home = [name for name, machine in self.clients.items() if not machine.network.cut]
        for name, machine in self.clients.items():
            where = f"{name}, day {self.day + 1}"
            if name in home:
                self._check_client(machine, where)
                if self.go is not None:
                    self._check_go(self.go, machine, where)
            elif self.hub.instance.peer(machine.instance).state == CONNECTED:
                raise Broken(f"{where}: it is away, and the hub shows it as connected")
        for keyid, history in self._archived.items():
            if self._held(keyid) != history:
                raise Broken(f"day {self.day + 1}: the archived history of a key that is gone has changed")
        for machine in self.machines:
            self._check_audit(machine)
        if len(home) == len(self.clients):
            tasks = trio.lowlevel.current_statistics().tasks_living
            self._tasks = self._tasks or tasks
            if tasks != self._tasks:
                raise Broken(f"day {self.day + 1}: {tasks} tasks, where there were {self._tasks} before")
        self.day += 1

    def _check_client(self, machine: Machine, where: str) -> None:
        hub, client, name = self.hub.instance, machine.instance, machine.name
        for one, other in ((hub, client), (client, hub)):
            record = one.peers.get(other.keyid)
            if record is None or record.state != CONNECTED:
                why = record and (record.state, record.message)
                raise Broken(f"{where}: {one.name} is not connected with {other.name}: {why}")
        self._check_history(machine, where)
        view = hub.peer(client).remote_config
        ours, shown = _paths(client.config.current.plans), _paths(view.plans if view else ())
        if ours != shown:
            raise Broken(f"{where}: its plans are {ours}, and the hub shows {shown}")
        if ours.get("pushed") != self._pushed.get(name) or hub.pushes.waiting(client.keyid):
            raise Broken(f"{where}: a plan was pushed, and its plans are {ours}")
        has = [repo.origin_instance_id for repo in client.config.current.repos if repo.id == "nas"]
        offered = client.peer(hub).offered
        if self._shared and (has != ["hub"] or offered != (GUID,)):
            raise Broken(f"{where}: it lacks the shared repository: {has}, {offered}")
        if not self._shared and (offered or (has and name == MANAGED)):
            raise Broken(f"{where}: it is still offered what is not shared: {has}, {offered}")

    def _check_go(self, go: GoProgram, machine: Machine, where: str) -> None:
        """It holds the newest state of all that it has not thrown away."""
        client = machine.instance
        record = client.peers.get(go.keyid)
        if record is None or record.state != CONNECTED:
            raise Broken(f"{where}: it is not connected with {GO}: {record}")
        held = {number: op.modno for number, op in go.rows[client.keyid].items()}
        for number, state in all_of(client.oplog).items():
            if (
                not state.origin
                and number not in go.collected[client.keyid]
                and held.get(number) != state.modno
            ):
                raise Broken(f"{where}: {GO} lacks operation {number}, or its newest state")
        if more := held.keys() - all_of(client.oplog).keys():
            raise Broken(f"{where}: {GO} holds operations that the client has not: {sorted(more)}")

    def _check_history(self, machine: Machine, where: str) -> None:
        """By id, modno and content."""
        name, client = machine.name, machine.instance
        secret = {op.id for op in client.oplog.read(all_of(client.oplog)) if op.plan_id == "secret"}
        hidden = secret if name in self._kept or self._lets[name][0] == NO_SECRETS else set()
        wanted = {
            number: (state.modno, state.content)
            for number, state in all_of(client.oplog).items()
            if number not in hidden and not state.origin
        } | self._kept.get(name, {})
        held = self._held(client.keyid)
        for number in sorted(wanted.keys() | held.keys()):
            if number not in held:
                raise Broken(f"{where}: the hub lacks operation {number}")
            if number not in wanted:
                raise Broken(
                    f"{where}: the hub holds operation {number}, which the client has not, or does not show"
                )
            if wanted[number] != held[number]:
                raise Broken(f"{where}: the hub holds another state of operation {number}")

    def _check_audit(self, machine: Machine) -> None:
        path, before = machine.instance.paths.audit, self._audits.get(machine.name, b"")
        try:
            verify_audit(path)
        except CorruptError as error:
            raise Broken(f"{machine.name}: its audit log does not verify: {error}") from error
        now = self._audits[machine.name] = path.read_bytes()
        if not now.startswith(before):
            raise Broken(f"{machine.name}: its audit log lost what it had recorded")

    async def night(self) -> None:
        hub, sleeper = self.hub.instance, self.clients[SLEEPER].instance
        if hub.peer(sleeper).state == CONNECTED:
            raise Broken(f"day {self.day}: {SLEEPER} sleeps, and the hub shows it as connected")

    async def the_end(self) -> None:
        """Nothing has grown that should not."""
        clients, hub = len(self.clients), self.hub.instance
        hubs = 1 if self.go is None else 2
        due = Counter({Session: clients, Link: clients, Inbound: clients})
        due.update({Session: hubs * clients, Link: hubs * clients, Outbound: hubs * clients})
        if more := living() - self._before - due:
            raise Broken(f"sessions that ended are not let go of: {dict(more)}")
        if set(hub.oplog.origins()) - {m.instance.keyid for m in self.clients.values()} - set(self._archived):
            raise Broken("the hub holds a history of nobody")
        if len(hub.peers.all()) > clients + len(self._archived):
            raise Broken(f"there is more than one record for a peer: {hub.peers.all()}")
        sync = hub.config.current.multihost
        if len(sync.authorized_clients) != clients:
            raise Broken(f"the hub has {len(sync.authorized_clients)} clients")
        if any(token.expires_at_unix < self.hub.network.wall() - 2 * DAY for token in sync.pairing_tokens):
            raise Broken("a pairing token that expired days ago is still there")
        for name, machine in self.clients.items():
            minutes = Counter(int(at // MINUTE) for at in machine.network.dials)
            if (
                max(minutes.values()) > 11 * hubs
                or len(machine.network.dials) > DIALS_A_DAY * hubs * self.days
            ):
                raise Broken(f"{name} dials without rest: {len(machine.network.dials)} times")
        for machine in self.machines:
            if self._audits[machine.name].count(b"\n") > 50 + AUDITED_A_DAY * self.days:
                raise Broken(f"{machine.name}: its audit log has a line for each try")
        for machine in self.machines:
            machine.network.ahead += HOUR  # what a dead program left behind is swept up an hour later
            await machine.switch_off()
            left = machine.instance.paths.config_file.parent.rglob("*.tmp")
            old = [path for path in left if path.stat().st_mtime < machine.network.wall() - HOUR]
            if old:
                raise Broken(f"{machine.name}: files of a dead program stay: {old}")


def _paths(all_plans: Any) -> dict[str, str]:
    return {plan.id: ",".join(plan.paths) for plan in all_plans}

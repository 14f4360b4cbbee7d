"""What a peer reaches, seen from outside: every row of the shared table, for every type, at both ends, in sessions.

The expected columns are data (``conformance/vectors/permissions.json``, "reach"); which of them a type opens, and
where a peer sees it, is what these tests say. A type opens its own doors and no other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from go_hub import GoHub, GoMachine
from stranger import Stranger, visitor
from sync_world import Instance, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import permissions as perms
from backrest import wire
from backrest.permissions import Grants, Permission
from backrest.protocol.framing import EndOfStream
from backrest.store.oplog import Query

REACH = json.loads((Path(__file__).parent.parent / "conformance/vectors/permissions.json").read_text())[
    "reach"
]
PLANS: dict[str, str] = REACH["plans"] | REACH["new_plan"]
Item = wire.sync.SyncStreamItem
Row = dict[str, Any]

ROWS = pytest.mark.parametrize("row", REACH["rows"], ids=lambda row: row["name"])
TYPES = pytest.mark.parametrize("kind", perms.TYPE_NAMES)


def permissions(row: Row, kind: str) -> list[Permission]:
    return [Permission(type=perms.TYPE_NAMES[kind], scopes=scopes) for scopes in row["entries"]]


def guid(repo: str) -> str:
    return repo[0].encode().hex() * 32


def repo(ident: str, **fields: Any) -> wire.config.Repo:
    return wire.config.Repo(
        **{"id": ident, "uri": f"/srv/{ident}", "guid": guid(ident), "password": f"secret-of-{ident}"}
        | fields
    )


def plan(ident: str, path: str = "/home") -> wire.config.Plan:
    return wire.config.Plan(id=ident, repo=PLANS[ident], paths=[path])


def furnish(instance: Instance, *, shared: tuple[str, ...] = ()) -> None:
    def fill(config: wire.config.Config) -> bool:
        config.repos.extend(repo(ident, shared=ident in shared) for ident in REACH["repos"])
        config.plans.extend(plan(ident) for ident in REACH["plans"])
        return True

    instance.config.transform(fill)


def operations(instance: Instance, name: str) -> list[wire.operations.Operation]:
    made = []
    for place in REACH["operations"]:
        repo_id, _, plan_id = place.partition("/")
        op = instance.operation(
            repo_id=repo_id, plan_id=plan_id, repo_guid=guid(repo_id), instance_id=name, display_message=place
        )
        made.append(op)
    return made


def change(**fields: Any) -> wire.sync.SyncStreamItem:
    return Item.SyncActionSetConfig(**fields)


PUSH = change(
    repos=[repo(ident, flags=["--no-cache"]) for ident in (*REACH["repos"], REACH["new_repo"])],
    plans=[plan(ident, "/pushed") for ident in PLANS],
)
DELETE = change(repos_to_delete=REACH["repos"], plans_to_delete=list(REACH["plans"]))


def pushed(config: wire.config.Config) -> tuple[set[str], set[str]]:
    return (
        {r.id for r in config.repos if "--no-cache" in r.flags},
        {p.id for p in config.plans if list(p.paths) == ["/pushed"]},
    )


def left_after_deleting(row: Row) -> tuple[set[str], set[str]]:
    """What stays of what was there and came, when all in reach is deleted; a repo that a plan uses is not."""
    new_plan, new_repo = next(iter(REACH["new_plan"])), REACH["new_repo"]
    plans = {p for p in REACH["plans"] if p not in row["plans"]}
    plans |= {new_plan} & set(row["plans"])
    used = {PLANS[p] for p in plans}
    repos = {r for r in REACH["repos"] if r not in row["repos"] or r in used}
    return repos | ({new_repo} & set(row["repos"])), plans


@dataclass
class Heard:
    """All that came from the other side, by kind."""

    items: dict[str, list[Any]] = field(default_factory=dict)
    end: EndOfStream | None = None

    def note(self, item: Any) -> None:
        kind = str(item.WhichOneof("action"))
        self.items.setdefault(kind, []).append(getattr(item, kind))

    def last(self, kind: str) -> Any:
        return self.items[kind][-1]

    def view(self) -> tuple[set[str], set[str]]:
        config = self.last("receive_config").config
        return {r.id for r in config.repos}, {p.id for p in config.plans}

    def resources(self) -> tuple[set[str], set[str]]:
        message = self.last("receive_resources")
        assert all(r.guid == guid(r.id) for r in message.repos)
        return {r.id for r in message.repos}, {p.id for p in message.plans}

    def operations(self) -> set[str]:
        """Where the operations belong that came, in any message."""
        return {
            f"{op.repo_id}/{op.plan_id}"
            for message in self.items.get("receive_operations", ())
            for event in [message.event]
            for op in (*event.created_operations.operations, *event.updated_operations.operations)
        }


def visible(row: Row) -> tuple[set[str], set[str]]:
    """What of the row's reach is there to be seen."""
    return {r for r in REACH["repos"] if r in row["repos"]}, {p for p in REACH["plans"] if p in row["plans"]}


NOTHING: tuple[set[str], set[str]] = (set(), set())


# --- the one place that decides


@ROWS
@TYPES
def test_the_grants_say_what_the_row_says(row: Row, kind: str) -> None:
    grants, number = Grants(permissions(row, kind)), perms.TYPE_NAMES[kind]
    everything = (*REACH["repos"], REACH["new_repo"])
    assert [r for r in everything if grants.repo(r, number)] == row["repos"]
    assert [p for p, on in PLANS.items() if grants.plan(p, on, number)] == row["plans"]
    if number == perms.READ_OPERATIONS:
        assert [o for o in REACH["operations"] if grants.operation(*o.split("/"))] == row["operations"]
    others = [other for other in perms.TYPE_NAMES.values() if other != number]
    assert not any(grants.repo(r, *others) for r in everything)
    assert not any(grants.plan(p, on, *others) for p, on in PLANS.items())


# --- a client before our hub


async def listen(peer: Stranger, heard: Heard) -> None:
    while (item := await peer.hear()) is not None:
        if isinstance(item, EndOfStream):
            heard.end = item
        else:
            heard.note(item)


@ROWS
@TYPES
async def test_what_a_client_reaches_at_our_hub(
    autojump_clock: MockClock, world: World, row: Row, kind: str
) -> None:
    hub = world.instance("hub")
    furnish(hub, shared=("a", "b"))
    writes = kind == "read-write-config"
    async with hub.running(), trio.open_nursery() as nursery:
        peer, heard = visitor(world, hub), Heard()

        def authorize(config: wire.config.Config) -> bool:
            config.multihost.authorized_clients.add(
                instance_id=peer.name, keyid=peer.identity.keyid, permissions=permissions(row, kind)
            )
            return True

        hub.config.transform(authorize)
        await peer.shake_hands()
        nursery.start_soon(listen, peer, heard)
        sent = operations(hub, peer.name)
        for n, op in enumerate(sent, 1):
            op.id = op.modno = op.flow_id = n
        ids = [op.id for op in sent]
        await peer.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
        await peer.operations(*sent[:3])
        event = wire.operations.OperationEvent()
        event.created_operations.operations.extend(sent[3:])
        await peer.say(receive_operations=Item.SyncActionReceiveOperations(event=event))
        await wait_all_tasks_blocked()

        sees = kind in ("read-config", "read-write-config")
        assert heard.view() == (visible(row) if sees else NOTHING)
        assert heard.resources() == (visible(row) if sees else NOTHING)
        assert not any(r.password.startswith("secret") for r in heard.last("receive_config").config.repos)
        shared = [r for m in heard.items.get("set_config", ()) for r in m.repos]
        receives = kind == "receive-shared-repos"
        assert {r.id for r in shared} == ({"a", "b"} & set(row["repos"]) if receives else set())
        assert all(r.password == f"secret-of-{r.id}" and r.origin_instance_id == "hub" for r in shared)
        held = {op.display_message for op in hub.oplog.query(Query(origin=peer.identity.keyid))}
        assert held == (set(row["operations"]) if kind == "read-operations" else set())

        await peer.say(set_config=PUSH)
        await wait_all_tasks_blocked()
        assert (heard.end is not None and heard.end.code) == (not writes and "invalid_argument")
        assert pushed(hub.config.current) == ((set(row["repos"]), set(row["plans"])) if writes else NOTHING)
        if writes:
            await peer.say(set_config=DELETE)
            await wait_all_tasks_blocked()
            assert heard.end is None
            now = hub.config.current
            assert ({r.id for r in now.repos}, {p.id for p in now.plans}) == left_after_deleting(row)
        nursery.cancel_scope.cancel()


# --- a hub before our client


@ROWS
@TYPES
async def test_what_a_hub_reaches_at_our_client(
    autojump_clock: MockClock, world: World, row: Row, kind: str
) -> None:
    client = world.instance("laptop")
    furnish(client)
    client.oplog.add(operations(client, "laptop")[:4])
    heard = Heard()
    hubs: list[GoHub] = []

    async def script(go: GoHub) -> None:
        await go.let_in()
        hubs.append(go)
        while True:
            heard.note(await go.hear())

    machine = GoMachine(world, script)

    def know(config: wire.config.Config) -> bool:
        config.multihost.known_hosts.add(
            instance_id="hub",
            keyid=machine.keyid,
            instance_url="http://hub:9898",
            permissions=permissions(row, kind),
        )
        return True

    client.config.transform(know)
    async with client.running():
        await client.until_peer(machine, wire.sync.CONNECTION_STATE_CONNECTED)  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
        sees = kind in ("read-config", "read-write-config")
        assert heard.view() == (visible(row) if sees else NOTHING)
        assert heard.resources() == (visible(row) if kind != "receive-shared-repos" else NOTHING)
        assert not any(r.password.startswith("secret") for r in heard.last("receive_config").config.repos)

        reads = kind == "read-operations"
        places = {op.id: op.display_message for op in client.oplog.query(Query(origin=""))}
        manifest = {places[op_id] for op_id in heard.last("operation_manifest").op_ids}
        assert manifest == (set(row["operations"]) & set(REACH["operations"][:4]) if reads else set())

        client.oplog.add(operations(client, "laptop")[4:])  # live
        await wait_all_tasks_blocked()
        assert heard.operations() == (
            set(row["operations"]) & set(REACH["operations"][4:]) if reads else set()
        )

        (go,) = hubs
        ids = list(range(1, len(REACH["operations"]) + 1))
        await go.say(request_operation_data=Item.SyncActionRequestOperationData(op_ids=ids))
        await wait_all_tasks_blocked()
        assert heard.operations() == (set(row["operations"]) if reads else set())

        client.oplog.update(client.oplog.query(Query(origin="")))
        client.oplog.delete(ids)
        await wait_all_tasks_blocked()
        assert heard.operations() == (set(row["operations"]) if reads else set())
        taken_back = [
            i for m in heard.items.get("receive_operations", ()) for i in m.event.deleted_operations.values
        ]
        assert {REACH["operations"][i - 1] for i in taken_back} == (
            set(row["operations"]) if reads else set()
        )

        await go.say(set_config=PUSH)
        await wait_all_tasks_blocked()
        now = client.config.current
        if kind == "read-write-config":
            assert pushed(now) == (set(row["repos"]), set(row["plans"]))
        else:  # a shared repo is a new one; scopes of a client's own entry for the hub do not narrow that
            shared = {REACH["new_repo"]} if kind == "receive-shared-repos" else set()
            assert pushed(now) == (shared, set())
            assert {r.id for r in now.repos if r.origin_instance_id} == shared
        await go.say(set_config=DELETE)
        await wait_all_tasks_blocked()
        now = client.config.current
        if kind == "read-write-config":
            assert ({r.id for r in now.repos}, {p.id for p in now.plans}) == left_after_deleting(row)
        else:
            assert {r.id for r in now.repos} == set(REACH["repos"]) | shared
            assert {p.id for p in now.plans} == set(REACH["plans"])
        assert len(world.dials) == 1, "what was refused did not end the session"


# --- several types at once


async def test_an_exclusion_keeps_out_of_its_own_type_only(autojump_clock: MockClock, world: World) -> None:
    """All may be read, b may not be written, and only a is shared."""
    hub = world.instance("hub")
    furnish(hub, shared=("a", "b", "c"))
    granted = (
        "read-config=*",
        "read-write-config=*,!repo:b",
        "receive-shared-repos=repo:a",
        "read-operations=plan:p",
    )
    async with hub.running(), trio.open_nursery() as nursery:
        peer, heard = visitor(world, hub), Heard()

        def authorize(config: wire.config.Config) -> bool:
            config.multihost.authorized_clients.add(
                instance_id=peer.name,
                keyid=peer.identity.keyid,
                permissions=[perms.parse_grant(text) for text in granted],
            )
            return True

        hub.config.transform(authorize)
        await peer.shake_hands()
        await peer.say(receive_resources=wire.sync.SyncStreamItem.SyncActionReceiveResources())
        nursery.start_soon(listen, peer, heard)
        await wait_all_tasks_blocked()
        assert heard.view() == ({"a", "b", "c"}, {"p", "q", "r"})
        assert [r.id for m in heard.items["set_config"] for r in m.repos] == ["a"]
        await peer.say(set_config=PUSH)
        await wait_all_tasks_blocked()
        assert pushed(hub.config.current) == ({"a", "c", "n"}, {"p", "q"})
        nursery.cancel_scope.cancel()

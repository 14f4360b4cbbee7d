"""Rights that are taken, given and given back while a session lives, from both sides, in simulated time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from stranger import Stranger, authorize, visitor
from sync_world import CONNECTED, ERROR_AUTH, Instance, World, paired, pipes
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.admin import clients, hosts


async def test_a_removed_client_is_disconnected_within_a_second_and_hears_why(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await hub.until_history(client)
        removed = trio.current_time()
        assert clients.remove(hub.context(), "laptop")["operations"] == 1
        record = await client.until_peer(hub, ERROR_AUTH)
        assert trio.current_time() - removed <= 1
        assert "removed from this hub" in record.message
        client.oplog.add([client.operation()])
        await trio.sleep(600)
        assert len(hub.history(client)) == 1, "nothing of it is stored any more"
        assert not hub.hub._live


async def test_a_removed_client_that_reads_nothing_is_disconnected_within_a_second_too(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    here, there = pipes()
    ended: list[float] = []

    async def serve() -> None:
        await hub.hub.serve(there)
        ended.append(trio.current_time())

    async with hub.running():
        assert world.nursery is not None
        world.nursery.start_soon(serve)
        stranger = Stranger(here, name="laptop")
        authorize(hub, stranger)
        await stranger.shake_hands()
        await wait_all_tasks_blocked()
        there.stuck = True
        hub.config.transform(lambda c: c.repos.add(id="r", uri="/r", guid="f" * 64, password="p") and None)
        await wait_all_tasks_blocked()
        removed = trio.current_time()
        clients.remove(hub.context(), "laptop")
        await trio.sleep(1)
        assert len(ended) == 1
        assert ended[0] - removed <= 1


async def test_a_removed_client_that_pairs_again_finds_its_history_live_and_reconciled(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    gone, changed = client.oplog.add([client.operation(), client.operation()])
    async with hub.running(), client.running():
        await hub.until_history(client)
        before = {op.original_id: op.id for op in _held(hub, client)}
        clients.remove(hub.context(), "laptop")
        await client.until_peer(hub, ERROR_AUTH)
        assert [one["instanceId"] for one in clients.list_all(hub.context())["archived"]] == ["laptop"]
        client.oplog.delete([gone.id])
        changed.display_message = "changed meanwhile"
        client.oplog.update([changed])
        client.oplog.add([client.operation()])
        token = hub.token()
        await hosts.add(client.context(), _ignore, token, "http://hub:9898", wait=False)
        await hub.until_history(client)
        assert clients.list_all(hub.context())["archived"] == []
        assert hub.peer(client).archived_ms == 0
        assert {op.original_id: op.id for op in _held(hub, client)}[changed.id] == before[changed.id]


async def test_a_hub_that_was_removed_loses_its_session_and_its_state_at_once(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        removed = trio.current_time()
        hosts.remove(client.context(), "hub")
        await hub.until_peer(client, wire.sync.CONNECTION_STATE_DISCONNECTED)
        assert trio.current_time() - removed <= 1
        await wait_all_tasks_blocked()
        assert client.peers.get(hub.keyid) is None
        dials = len(world.dials)
        await trio.sleep(3600)
        assert len(world.dials) == dials, "nobody dials it any more"


def test_a_hub_removed_while_no_daemon_runs_leaves_no_state_behind(world_files: Instance) -> None:
    here, keyid = world_files, "ed25519." + "A" * 43
    here.config.transform(
        lambda c: (
            c.multihost.known_hosts.add(keyid=keyid, instance_id="hub", instance_url="http://h") and None
        )
    )
    here.peers.update(keyid, instance_id="hub", role="host", state=ERROR_AUTH)
    hosts.remove(here.context(), "hub")
    assert here.peers.all() == []


@pytest.fixture
def world_files(tmp_path: object) -> Instance:
    from pathlib import Path

    from backrest.protocol.session import Limits

    return Instance(World(Path(str(tmp_path))), "laptop", Path(str(tmp_path)) / "laptop", Limits())


# --- permissions, for a live session: (which side changes, what it had, what it gets, what the hub then holds)


def _plans(hub: Instance, client: Instance) -> set[str]:
    return {op.plan_id for op in _held(hub, client)}


@pytest.mark.parametrize("side", ["hub", "client"])
async def test_wider_permissions_bring_the_history_that_they_allow(
    autojump_clock: MockClock, world: World, side: str
) -> None:
    narrow, both = ("read-operations=plan:photos",), ("read-operations=*", "receive-shared-repos=*")
    hub, client = world.instance("hub"), world.instance("laptop")
    client.add_host(hub.token(*(narrow if side == "hub" else both)), *(narrow if side == "client" else both))
    client.oplog.add([client.operation(), client.operation(plan_id="mail")])
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await wait_all_tasks_blocked()
        assert _plans(hub, client) == {"photos"}
        changed = trio.current_time()
        _change(hub, client, side)(["read-operations=plan:photos,plan:mail"])
        await hub.until_history(client)
        assert trio.current_time() - changed <= 5, "in force at once, not when somebody reconnects some day"


async def test_what_a_client_no_longer_grants_goes_from_the_hub(
    autojump_clock: MockClock, world: World
) -> None:
    """The client is the source of truth for its history: what it does not show any more, the hub drops."""
    hub, client = paired(world)
    client.oplog.add([client.operation(), client.operation(plan_id="mail")])
    async with hub.running(), client.running():
        await hub.until_history(client)
        _change(hub, client, "client")(["read-operations=!plan:mail"])
        await world.until(hub.oplog.subscribe, lambda: _plans(hub, client), lambda plans: plans == {"photos"})


async def test_what_a_hub_no_longer_allows_stays_as_it_was_and_is_not_asked_for(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    photos, mail, old = client.oplog.add(
        [client.operation(), client.operation(plan_id="mail"), client.operation(plan_id="mail")]
    )
    async with hub.running(), client.running():
        await hub.until_history(client)
        _change(hub, client, "hub")(["read-operations=!plan:mail"])
        await hub.until_peer(client, CONNECTED)
        mail.display_message = photos.display_message = "new"
        client.oplog.update([photos, mail])
        client.oplog.add([client.operation(plan_id="mail")])
        client.oplog.delete([old.id])
        await world.until(
            hub.oplog.subscribe, lambda: hub.history(client), lambda h: h[photos.id][1] == "new"
        )
        await trio.sleep(600)
        held = hub.history(client)
        assert held.keys() == {photos.id, mail.id, old.id}, "nothing new of that plan, nothing of it deleted"
        assert held[mail.id][1] == "", "and nothing of it changed"
        sessions = len(world.dials)
        await trio.sleep(3600)
        assert len(world.dials) == sessions, "no loop of reconnects"
        _change(hub, client, "hub")(["read-operations=*"])
        await hub.until_history(client)


async def test_a_client_without_read_operations_keeps_what_is_held_and_sends_nothing(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await hub.until_history(client)
        _change(hub, client, "hub")([])
        await hub.until_peer(client, CONNECTED)
        client.oplog.add([client.operation()])
        client.oplog.delete([1])
        await trio.sleep(600)
        assert hub.history(client).keys() == {1}
        assert "READ_OPERATIONS" in hub.peer(client).message


def _change(hub: Instance, client: Instance, side: str) -> Callable[[list[str]], object]:
    if side == "hub":
        return lambda grants: clients.set_permissions(hub.context(), "laptop", grants)
    return lambda grants: hosts.grant(client.context(), "hub", grants)


def _held(hub: Instance, client: Instance) -> list[wire.operations.Operation]:
    from backrest.store.oplog import Query

    return list(hub.oplog.query(Query(origin=client.keyid)))


async def _ignore(event: dict[str, object]) -> None:
    await trio.lowlevel.checkpoint()


async def test_an_operation_after_the_removal_is_refused_even_if_the_session_has_not_noticed(
    autojump_clock: MockClock, world: World
) -> None:
    """The check stands inside the store's commit: a session that was not told yet cannot store."""
    hub = world.instance("hub")
    async with hub.running():
        stranger = visitor(world, hub)
        authorize(hub, stranger)
        await stranger.shake_hands()
        await wait_all_tasks_blocked()
        session = hub.hub._live[stranger.identity.keyid]
        hub.config._listeners = []  # the news does not travel
        await stranger.operations(_sent(hub, 1))
        await wait_all_tasks_blocked()
        assert hub.oplog.count(session.keyid) == 1
        assert clients.remove(hub.context(), "stranger")["operations"] == 1
        await stranger.operations(_sent(hub, 2))
        await wait_all_tasks_blocked()
        assert hub.oplog.count(session.keyid) == 1


def _sent(hub: Instance, number: int) -> wire.operations.Operation:
    return hub.operation(id=number, modno=number, flow_id=number, instance_id="stranger")


@pytest.mark.parametrize("goaway", [True, False])
async def test_a_goaway_behind_a_clean_end_means_come_back_at_once(
    autojump_clock: MockClock, world: World, goaway: bool
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await wait_all_tasks_blocked()
        here, dials, began = world.connections[-1], len(world.dials), trio.current_time()
        here.goaway = goaway
        here.other.close()
        await hub.until_peer(client, wire.sync.CONNECTION_STATE_DISCONNECTED)
        await hub.until_peer(client, CONNECTED)
        assert len(world.dials) == dials + 1
        assert (trio.current_time() - began < 1) is goaway


async def test_a_goaway_behind_a_refusal_changes_nothing_of_it(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        dials = len(world.dials)
        clients.remove(hub.context(), "laptop")
        for pipe in world.connections:
            pipe.goaway = True
        await client.until_peer(hub, ERROR_AUTH)
        await trio.sleep(0.9)
        assert len(world.dials) == dials

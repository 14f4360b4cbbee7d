"""Hub and client together: pairing, history, ends and returns, in simulated time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from sync_world import BOTH, CONNECTED, ERROR_AUTH, Instance, World, paired
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.permissions import parse_grant

RETRY_WAIT = wire.sync.CONNECTION_STATE_RETRY_WAIT


async def test_a_token_pairs_once_and_is_forgotten_on_both_sides(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await hub.until_peer(client, CONNECTED)
        await world.until(
            client.config.subscribe,
            lambda: client.config.current.multihost.known_hosts[0].initial_pairing_secret,
            lambda secret: secret == "",
        )
    authorized = hub.config.current.multihost.authorized_clients
    assert [(e.instance_id, e.keyid) for e in authorized] == [("laptop", client.keyid)]
    assert [parse_grant(g) for g in BOTH] == list(authorized[0].permissions)
    assert not hub.config.current.multihost.pairing_tokens
    assert len(world.dials) == 1, "let in at once, in the session that paired"
    assert [e["event"] for e in hub.audited()] == ["paired", "let-in"]


async def test_history_made_before_and_during_a_session_arrives(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    client.oplog.add([client.operation(display_message=f"before {n}") for n in range(700)])
    hub.oplog.add([hub.operation(display_message="the hub's own")])
    async with hub.running(), client.running():
        await hub.until_history(client)
        [op] = client.oplog.add([client.operation(display_message="live")])
        await hub.until_history(client)
        op.status = wire.operations.STATUS_ERROR
        client.oplog.update([op])
        await hub.until_history(client)
        client.oplog.delete([op.id, 1, 2, 3])
        await hub.until_history(client)
    assert len(hub.history(client)) == 697
    assert len(hub.history()) == 1, "the hub's own history is its own"
    assert not client.history(hub), "a hub sends no operations"


async def test_changes_made_offline_converge_at_the_next_session(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    draw = random.Random(42)
    async with hub.running():
        for _ in range(4):
            async with client.running():
                await hub.until_history(client)
            for _ in range(40):
                ids = list(client.history())
                what = draw.random()
                if what < 0.5 or not ids:
                    client.oplog.add([client.operation(status=draw.choice([1, 2, 3, 4]))])
                elif what < 0.8:
                    op = client.oplog.get(draw.choice(ids))
                    op.display_message = str(draw.random())
                    client.oplog.update([op])
                else:
                    client.oplog.delete([draw.choice(ids)])
        async with client.running():
            await hub.until_history(client)


async def test_a_reset_client_log_replaces_what_the_hub_held(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    client.oplog.add([client.operation(display_message="old") for _ in range(5)])
    async with hub.running():
        async with client.running():
            await hub.until_history(client)
        client.oplog.close()
        client.paths.oplog.unlink()
        client.open()
        for _ in range(
            2
        ):  # an equal (id, modno) says "the same": nothing in the protocol could tell them apart
            client.oplog.update(client.oplog.add([client.operation(display_message="new")]))
        async with client.running():
            await hub.until_history(client)


async def test_only_what_the_client_grants_is_sent(autojump_clock: MockClock, world: World) -> None:
    hub, client = world.instance("hub"), world.instance("laptop")
    client.add_host(hub.token(), "read-operations=repo:nas")
    [mine] = client.oplog.add([client.operation()])
    client.oplog.add([client.operation(repo_id="secret"), client.operation(instance_id="another")])
    async with hub.running(), client.running():
        await world.until(
            hub.oplog.subscribe, lambda: hub.history(client), lambda held: set(held) == {mine.id}
        )
        client.oplog.add([client.operation(repo_id="secret")])
        [more] = client.oplog.add([client.operation()])
        await world.until(hub.oplog.subscribe, lambda: hub.history(client), lambda held: more.id in held)
    assert set(hub.history(client)) == {mine.id, more.id}


async def test_the_hub_keeps_only_what_its_own_entry_allows(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world, "read-operations=*,!plan:private")
    client.oplog.add([client.operation(plan_id="private"), client.operation(plan_id="photos")])
    async with hub.running(), client.running():
        await world.until(hub.oplog.subscribe, lambda: hub.history(client), lambda held: set(held) == {2})
        await world.until(hub.peers.subscribe, lambda: hub.peer(client).refused, lambda n: n == 1)


async def test_an_invalid_operation_is_refused_alone(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        assert client.clients._running[hub.keyid].host._link is not None
        link = client.clients._running[hub.keyid].host._link
        event = wire.operations.OperationEvent()
        bad = client.operation(id=7, modno=7)  # no flow id
        good = client.operation(id=8, modno=8, flow_id=8)
        event.created_operations.operations.extend([bad, good])
        link.send_now("receive_operations", wire.sync.SyncStreamItem.SyncActionReceiveOperations(event=event))
        await world.until(hub.oplog.subscribe, lambda: hub.history(client), lambda held: set(held) == {8})
        assert hub.peer(client).state == CONNECTED


@pytest.mark.parametrize("what", ["wrong", "expired", "used up"])
async def test_a_token_that_does_not_hold_is_refused_and_audited(
    autojump_clock: MockClock, world: World, what: str
) -> None:
    hub, client = world.instance("hub"), world.instance("laptop")
    token = hub.token(expires=1 if what == "expired" else 0, label="mine")
    if what == "used up":
        first = world.instance("first")
        first.add_host(token)
        async with hub.running(), first.running():
            await first.until_peer(hub, CONNECTED)
    if what == "wrong":
        head, _, tail = token.partition(":")
        token = f"{head}:{'0' * 64}{tail[64:]}"
    client.add_host(token)
    modno = hub.config.current.modno
    async with hub.running(), client.running():
        record = await client.until_peer(hub, ERROR_AUTH)
        assert "token" in record.message
        assert ("mine" in record.message) == (what == "expired"), "a detail only for a secret that matched"
    assert hub.peers.get(client.keyid) is None
    assert hub.config.current.modno == modno
    assert client.config.current.multihost.known_hosts[0].initial_pairing_secret, (
        "a refusal does not cost the token"
    )
    assert hub.audited()[-1]["event"] == "refused"
    assert "secret" not in hub.paths.audit.read_text().lower()


async def test_a_mistake_in_a_session_with_a_hub_is_got_over(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, client = paired(world)
    dial, dials = world.dial, 0

    def mistaken(url: str) -> Any:
        nonlocal dials
        dials += 1
        if dials in (1, 2):
            raise RuntimeError("a mistake")
        return dial(url)

    monkeypatch.setattr(world, "dial", mistaken)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
    assert dials == 3


async def test_two_clients_racing_for_the_last_use_cannot_both_win(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    token = hub.token(max_uses=1)
    clients = [world.instance(f"client{n}") for n in range(5)]
    for client in clients:
        client.add_host(token)
    async with hub.running(), trio.open_nursery() as nursery:

        async def keep(client: Instance) -> None:
            async with client.running():
                await client.until_peer(hub, CONNECTED)
                nursery.cancel_scope.cancel()

        for client in clients:
            nursery.start_soon(keep, client)
    assert len(hub.config.current.multihost.authorized_clients) == 1


async def test_an_instance_id_that_is_taken_is_refused_and_costs_no_use(
    autojump_clock: MockClock, world: World
) -> None:
    hub, first = world.instance("hub"), world.instance("laptop")
    token = hub.token(max_uses=3)
    first.add_host(token)
    async with hub.running(), first.running():
        await first.until_peer(hub, CONNECTED)
    second = Instance(world, "laptop", world.directory / "second", first.limits)
    second.add_host(token)
    async with hub.running(), second.running():
        record = await second.until_peer(hub, ERROR_AUTH)
    assert "instance id" in record.message
    assert [t.uses for t in hub.config.current.multihost.pairing_tokens] == [1]


async def test_a_client_that_was_removed_is_ended_and_refused(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await hub.until_history(client)

        def remove(config: wire.config.Config) -> bool:
            del config.multihost.authorized_clients[:]
            return True

        hub.config.transform(remove)
        record = await client.until_peer(hub, ERROR_AUTH)
        assert "authorized" in record.message or "removed" in record.message
        client.oplog.add([client.operation()])
        await wait_all_tasks_blocked()
        assert len(hub.history(client)) == 1, "nothing more is stored, what was stored is kept"
        archived = hub.peer(client)
        assert (archived.instance_id, archived.message) == ("laptop", "")
        assert archived.archived_ms


async def test_changed_permissions_are_in_force_at_the_next_session(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world, "receive-shared-repos=*")
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await wait_all_tasks_blocked()
        assert not hub.history(client)

        def grant(config: wire.config.Config) -> bool:
            config.multihost.authorized_clients[0].permissions.append(parse_grant("read-operations=*"))
            return True

        hub.config.transform(grant)
        await hub.until_history(client)


async def test_a_client_without_any_permission_connects_and_stays_connected(
    autojump_clock: MockClock, world: World
) -> None:
    def permit_nothing(config: wire.config.Config) -> bool:
        for one in (*config.multihost.pairing_tokens, *config.multihost.known_hosts):
            del one.permissions[:]
        return True

    def share(config: wire.config.Config) -> bool:
        config.repos.add(id="nas", guid="a" * 64, uri="/srv/nas", shared=True)
        return True

    hub, client = paired(world)
    hub.config.transform(share)
    hub.config.transform(permit_nothing)
    client.config.transform(permit_nothing)
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await hub.until_peer(client, CONNECTED)
        assert not hub.config.current.multihost.authorized_clients[0].permissions
        client.oplog.add([client.operation()])
        await trio.sleep(3600)
        assert (client.peer(hub).state, hub.peer(client).state) == (CONNECTED, CONNECTED)
        assert len(world.dials) == 1, "it is one session"
        assert not hub.history(client)
        assert not client.config.current.repos


async def test_a_change_that_concerns_nobody_keeps_the_session_and_is_shown(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world, "read-operations=*", "read-config=*")
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        hub.token(label="another")
        await world.until(
            client.peers.subscribe,
            lambda: client.peer(hub).remote_config,
            lambda view: view is not None and view.modno == hub.config.current.modno,
        )
        assert len(world.dials) == 1


async def test_the_hub_away_for_an_hour_is_found_within_the_backoff(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with client.running():
        async with hub.running():
            await client.until_peer(hub, CONNECTED)
        await trio.sleep(3600)  # simulated
        client.oplog.add([client.operation() for _ in range(10)])
        away = trio.current_time()
        async with hub.running():
            await hub.until_history(client)
            assert trio.current_time() - away <= 300
    times = [t for t, _ in world.dials]
    for start in times:
        assert sum(start <= t < start + 60 for t in times) <= 10
    assert len(times) < 60, "an hour of attempts is not a flood"


async def test_a_broken_connection_is_made_again_within_moments(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await trio.sleep(120)
        world.connections[-1].break_off()
        await client.until_peer(hub, RETRY_WAIT)
        broke = trio.current_time()
        await client.until_peer(hub, CONNECTED)
        assert trio.current_time() - broke <= 2
        client.oplog.add([client.operation()])
        await hub.until_history(client)


async def test_a_newer_session_displaces_the_older_at_once(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    async with hub.running():
        async with client.running():
            await hub.until_peer(client, CONNECTED)
            # The hub does not see that this client is gone: its end of the pipe stays open.
            stale = world.connections[-1]
            stale.close = lambda: None  # type: ignore[method-assign]
        async with client.running():
            await client.until_peer(hub, CONNECTED)
            await wait_all_tasks_blocked()
            assert hub.peer(client).state == CONNECTED, "the end of the older one is not shown"
            assert len(hub.hub._live) == 1
            client.oplog.add([client.operation()])
            await hub.until_history(client)


async def test_silence_ends_a_session_on_both_sides(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await trio.sleep(600)
        assert len(world.dials) == 1, "heartbeats keep it alive"
        lost = world.connections[-1]
        lost.lost = lost.other.lost = True
        cut = trio.current_time()
        await client.until_peer(hub, RETRY_WAIT)
        assert trio.current_time() - cut <= 160
        await client.until_peer(hub, CONNECTED)


async def test_a_machine_that_wakes_reconnects_at_once(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        world.slept += 3600
        await client.until_peer(hub, wire.sync.CONNECTION_STATE_PENDING)
        assert trio.current_time() < 10
        await client.until_peer(hub, CONNECTED)


async def test_the_impostor_at_the_hubs_address_gets_no_secret(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client, impostor = world.instance("hub"), world.instance("laptop"), world.instance("impostor")
    client.add_host(hub.token())
    secret = client.config.current.multihost.known_hosts[0].initial_pairing_secret
    async with impostor.running(), client.running():
        world.up["hub"] = impostor
        record = await client.until_peer(hub, ERROR_AUTH)
        del world.up["hub"]
    assert "another key" in record.message
    assert [e["event"] for e in client.audited()] == ["hub-refused"]
    # Nothing but the key exchange left the client: its handshake, with the secret in it, was never sealed.
    assert all(len(b"".join(pipe.sent)) < 1700 for pipe in world.connections)
    assert client.config.current.multihost.known_hosts[0].initial_pairing_secret == secret


async def test_removing_a_known_host_ends_its_session_and_its_state(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)

        def remove(config: wire.config.Config) -> bool:
            del config.multihost.known_hosts[:]
            return True

        client.config.transform(remove)
        await hub.until_peer(client, wire.sync.CONNECTION_STATE_DISCONNECTED)
        await world.until(
            client.peers.subscribe, lambda: client.peers.get(hub.keyid), lambda gone: gone is None
        )
        dials = len(world.dials)
        await trio.sleep(600)
        assert len(world.dials) == dials


async def test_many_clients_come_back_together_and_all_get_in(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    token = hub.token(max_uses=0)
    clients = [world.instance(f"c{n}") for n in range(40)]
    for client in clients:
        client.add_host(token)
    async with hub.running(), trio.open_nursery() as nursery:

        async def keep(client: Instance) -> None:
            async with client.running():
                await client.until_peer(hub, CONNECTED)

        for client in clients:
            nursery.start_soon(keep, client)
    assert len(hub.config.current.multihost.authorized_clients) == 40


async def test_a_shared_repo_reaches_the_client_and_only_with_both_permissions(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    stranger = world.instance("stranger")
    stranger.add_host(hub.token(), "read-operations=*")

    def share(config: wire.config.Config) -> bool:
        config.repos.add(id="nas", uri="/srv/nas", guid=GUID, password="correct-horse", shared=True)
        return True

    hub.config.transform(share)
    async with hub.running(), client.running(), stranger.running():
        repos = await world.until(
            client.config.subscribe, lambda: client.config.current.repos, lambda repos: len(repos) == 1
        )
        assert (repos[0].id, repos[0].origin_instance_id, repos[0].password) == (
            "nas",
            "hub",
            "correct-horse",
        )
        await world.until(
            stranger.peers.subscribe, lambda: stranger.peer(hub).warnings, lambda warnings: len(warnings) == 1
        )
        assert not stranger.config.current.repos
        modno = client.config.current.modno
        await trio.sleep(300)
        assert client.config.current.modno == modno, "nothing new: nothing written, no loop"


GUID = "a" * 64

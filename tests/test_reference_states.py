"""The states of the peers through the admin API: all of them, then what changes, and nobody is held up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from admin_world import World, add_client, add_host
from reference_api import STATES, Codec, Refused, ask, following
from sync_world import inline_threads as inline_threads
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.reference import states
from backrest.refusals import Why, refusal
from backrest.store.config import ConfigStore
from backrest.store.mask import MASK
from backrest.store.peers import PeerStore

Sync = wire.sync
PATH = f"{STATES}GetPeerSyncStatesStream"
LAPTOP = "ed25519." + "B" * 43
DESK = "ed25519." + "C" * 43


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    add_client(made, "laptop", LAPTOP)
    add_client(made, "desk", DESK)
    add_host(made)
    return made


@pytest.mark.parametrize("kind", ["json", "proto"])
def test_without_subscribing_all_come_and_a_clean_end(world: World, kind: Codec) -> None:
    with world.daemon() as daemon:
        hub = daemon.config.current.multihost.known_hosts[0].keyid
        secret = wire.config.Repo(id="r", password="hunter2")
        for keyid, name in ((LAPTOP, "laptop"), (hub, "hub"), ("ed25519." + "D" * 43, "gone")):
            view = Sync.RemoteConfig(repos=[secret])
            daemon.peers.update(keyid, instance_id=name, state=2, remote_config=view, last_heartbeat_ms=5)
        with following(world, PATH, Sync.SyncStateStreamRequest(), Sync.PeerState, kind) as found:
            got = list(found)
    assert [state.peer_instance_id for state in got] == ["hub", "laptop"], (
        "hosts first; only those with a state"
    )
    assert got[0].state == Sync.CONNECTION_STATE_CONNECTED
    assert got[0].last_heartbeat_millis == 5
    assert got[0].remote_config.repos[0].password == MASK


def test_changes_of_any_peer_follow_and_a_removal(world: World) -> None:
    with world.daemon() as daemon:
        daemon.peers.update(LAPTOP, instance_id="laptop", role="client", state=2)
        request = Sync.SyncStateStreamRequest(subscribe=True)
        with following(world, PATH, request, Sync.PeerState) as found:
            assert next(found).peer_keyid == LAPTOP
            daemon.peers.update(DESK, instance_id="desk", role="client", state=2)
            assert next(found).peer_keyid == DESK
            daemon.peers.update(LAPTOP, state=3, message="gone")
            changed = next(found)
            assert (changed.peer_keyid, changed.state, changed.status_message) == (LAPTOP, 3, "gone")
            world.call("RemoveClient", ident="laptop")
            removed = next(found)
            assert (removed.peer_keyid, removed.peer_instance_id, removed.state) == (LAPTOP, "laptop", 0)
            assert "was removed" in removed.status_message


async def test_a_slow_reader_gets_the_newest_state_of_each_peer_and_holds_up_nobody(
    autojump_clock: MockClock, inline_threads: None, world: World
) -> None:
    context = Context(
        world.paths, config=ConfigStore.open(world.paths.config_file), peers=PeerStore.open(world.paths.peers)
    )
    context.peers.update(LAPTOP, instance_id="laptop", state=2)
    got: list[tuple[str, str]] = []
    may_go_on = trio.Event()

    async def send(state: Sync.PeerState) -> None:
        got.append((state.peer_instance_id, state.status_message))
        await may_go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            states.get_peer_sync_states, context, Sync.SyncStateStreamRequest(subscribe=True), send
        )
        await wait_all_tasks_blocked()
        for number in range(1000):
            context.peers.update(LAPTOP, message=f"{number}")
            context.peers.update(DESK, instance_id="desk", message=f"{number}")
        may_go_on.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert got == [("laptop", ""), ("laptop", "999"), ("desk", "999")]


# --- pushes


def push(world: World, **fields: Any) -> None:
    request = Sync.SetRemoteClientConfigRequest(**fields)
    ask(world, f"{STATES}SetRemoteClientConfig", request, Sync.SetRemoteClientConfigResponse)


def test_a_push_to_nobody_or_to_who_is_away_is_refused_and_not_queued(world: World) -> None:
    with world.daemon() as daemon:
        with pytest.raises(Refused, match="key id of the client is missing") as refused:
            push(world, plans_to_delete=["p"])
        assert refused.value.code == "invalid_argument"
        for keyid in (LAPTOP, "ed25519." + "D" * 43):
            with pytest.raises(Refused, match="connected") as refused:
                push(world, peer_keyid=keyid, plans_to_delete=["p"])
            assert refused.value.code == "not_found"
        assert not daemon.pushes.waiting()


@pytest.mark.parametrize("result", ["applied", "refused"])
def test_a_push_is_answered_with_what_the_client_said(world: World, result: Any) -> None:
    with world.daemon() as daemon:
        daemon.peers.update(LAPTOP, instance_id="laptop", role="client", state=2)

        def told() -> None:  # as the session does, when the client's answer has come
            for waiting in daemon.pushes.waiting(LAPTOP):
                assert list(waiting.message.plans_to_delete) == ["p"]
                refused = [refusal("plan", "p", Why.DELETE_NOT_GRANTED)] * (result == "refused")
                daemon.pushes.answer(waiting.id, result, refused)

        daemon.pushes.subscribe(told)
        daemon.peers.update(LAPTOP, answers=False)
        with pytest.raises(Refused, match="the password: give the value in full"):
            push(
                world,
                peer_keyid=LAPTOP,
                repos=[{"id": "nas", "guid": "a" * 64, "uri": "/r", "password": MASK}],
            )
        if result == "applied":
            push(world, peer_keyid=LAPTOP, plans_to_delete=["p"])
        else:
            with pytest.raises(Refused, match="plan 'p': READ_WRITE_CONFIG is not granted to delete it"):
                push(world, peer_keyid=LAPTOP, plans_to_delete=["p"])
        assert not daemon.pushes.waiting()

"""Our hub with a client of the reference's habits (go_client.py): pairing, who is connected, edits of permissions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from go_client import GoClient, a_repo
from stranger import authorize, visitor
from sync_world import BOTH, CONNECTED, GUID, Instance, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.permissions import parse_grant

PENDING = wire.sync.CONNECTION_STATE_PENDING
DISCONNECTED = wire.sync.CONNECTION_STATE_DISCONNECTED
COMMIT_S = 0.2  # of a slow disk


@asynccontextmanager
async def started(go: GoClient) -> AsyncIterator[None]:
    async with go.hub.running(), trio.open_nursery() as nursery:
        nursery.start_soon(go.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def slow_disk(inline_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inline = trio.to_thread.run_sync

    async def slow(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        await trio.sleep(COMMIT_S)  # simulated
        return await inline(function, *args, **more)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)


def secret_of(hub: Instance, token: str = "") -> str:
    return (token or hub.token()).partition(":")[2].rpartition("#")[0]


async def until(hub: Instance, go: GoClient, state: int) -> None:
    await hub.until_peer(go, state)  # type: ignore[arg-type]


def state_of(hub: Instance, go: GoClient) -> int | None:
    record = hub.peers.get(go.keyid)
    return record.state if record is not None else None


# --- pairing


@pytest.mark.parametrize("agent", ["connect-go/1.18.1 (go1.24.5)", ""], ids=["named", "behind a proxy"])
async def test_it_pairs_within_a_second(
    autojump_clock: MockClock, world: World, slow_disk: None, agent: str
) -> None:
    hub = world.instance("hub")
    go = GoClient(world, hub, secret=secret_of(hub), user_agent=agent)
    go.add()
    async with started(go):
        await until(hub, go, CONNECTED)
        assert trio.current_time() < 1
        await hub.until_history(go)  # type: ignore[arg-type]
    assert len(go.dials) == 2
    assert not go.ends
    assert hub.config.current.multihost.authorized_clients[0].keyid == go.keyid


async def test_refused_it_keeps_its_secret_and_hears_why(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    secret = secret_of(hub, hub.token(expires=1))
    go = GoClient(world, hub, secret=secret)
    async with started(go):
        await trio.sleep(100)
        assert go.secret == secret
        assert go.dials == [0, 60]
        assert "handshake" not in go.heard
        assert all("has expired" in end.message for end in go.ends)
        go.secret = secret_of(hub)  # a person pastes a new one
        await until(hub, go, CONNECTED)


async def test_where_it_loses_its_secret_the_reason_is_said_again_for_some_minutes(
    autojump_clock: MockClock, world: World
) -> None:
    """Behind a proxy that takes its name away."""
    hub = world.instance("hub")
    go = GoClient(world, hub, secret=secret_of(hub, hub.token(expires=1)), user_agent="")
    async with started(go):
        await trio.sleep(599)
        assert go.dials == [0, 0, 60, 240, 540]
        assert len(go.ends) == 4  # it did not wait for the first
        assert all("has expired" in end.message for end in go.ends)
        await trio.sleep(600)
        assert "not authorized" in go.ends[-1].message
    refused = [event for event in hub.audited() if event["event"] == "refused"]
    assert ["has expired" in event["reason"] for event in refused] == [True] * 5 + [False]


async def test_a_reason_is_not_said_of_a_pairing_that_worked_later(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    go = GoClient(world, hub, secret=secret_of(hub, hub.token(expires=1)))
    async with started(go):
        await wait_all_tasks_blocked()
        go.secret = secret_of(hub)
        await until(hub, go, CONNECTED)

        def remove(config: wire.config.Config) -> bool:
            del config.multihost.authorized_clients[:]
            return True

        hub.config.transform(remove)
        await trio.sleep(100)
        assert "not authorized" in go.ends[-1].message


# --- who is connected


def paired_with(hub: Instance, go: GoClient, *grants: str) -> None:
    def add(config: wire.config.Config) -> bool:
        config.multihost.authorized_clients.add(
            instance_id=go.name, keyid=go.keyid, permissions=[parse_grant(grant) for grant in grants or BOTH]
        )
        return True

    hub.config.transform(add)


def share(hub: Instance) -> None:
    def add(config: wire.config.Config) -> bool:
        config.repos.add(id="nas", guid=GUID, uri="/srv/nas", password="sesame", shared=True)
        return True

    hub.config.transform(add)


async def test_it_stays_connected_and_costs_one_question_in_two_minutes(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    go = GoClient(world, hub)
    paired_with(hub, go)
    async with started(go):
        await trio.sleep(2 * 3600)
        assert state_of(hub, go) == CONNECTED
        assert len(go.dials) == 1
        assert 40 < go.heard.count("request_resources") <= 60


async def test_it_is_pending_until_it_says_something(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        await wait_all_tasks_blocked()
        record = hub.peers.get(go.identity.keyid)
        assert record is not None
        assert record.state == PENDING
        await trio.sleep(31)
        record = hub.peers.get(go.identity.keyid)
        assert record is not None
        assert record.state == DISCONNECTED
        assert record.last_heartbeat_ms == 0


async def test_it_leaves_without_a_sign_and_is_missed_within_150_s(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    go = GoClient(world, hub)
    paired_with(hub, go)
    async with started(go):
        await trio.sleep(1000)
        go.fall_silent(for_good=True)
        await trio.sleep(151)
        assert state_of(hub, go) == DISCONNECTED


@pytest.mark.parametrize("why", ["no grant", "a local repo of that guid"])
async def test_it_leaves_over_a_shared_repo_and_is_missed_within_half_a_minute(
    autojump_clock: MockClock, world: World, why: str
) -> None:
    hub = world.instance("hub")
    mine = [a_repo("mine")] if why != "no grant" else []
    go = GoClient(world, hub, takes_shared=bool(mine), repos=mine)
    paired_with(hub, go)
    async with started(go):
        await trio.sleep(10)
        assert state_of(hub, go) == CONNECTED
        share(hub)
        await trio.sleep(31)
        assert state_of(hub, go) == DISCONNECTED


async def test_it_takes_a_shared_repo_and_comes_back_at_once(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    go = GoClient(world, hub)
    paired_with(hub, go)
    async with started(go):
        await trio.sleep(10)
        share(hub)
        await wait_all_tasks_blocked()
        assert go.dials == [0, 10]
        assert list(go.repos) == [GUID]
        await trio.sleep(1000)
        assert state_of(hub, go) == CONNECTED
        assert len(go.dials) == 2


async def test_it_loads_more_than_fits_into_half_a_minute_and_stays(
    autojump_clock: MockClock, world: World
) -> None:
    """A slow line: the answer that is due stands behind what it sends."""
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        for number in range(1, 20):
            await trio.sleep(20)
            await go.operations(hub.operation(id=number, modno=number, flow_id=number))
        await wait_all_tasks_blocked()
        record = hub.peers.get(go.identity.keyid)
        assert record is not None
        assert record.state == CONNECTED


# --- edits of its permissions


def regrant(hub: Instance, *grants: str) -> None:
    def change(config: wire.config.Config) -> bool:
        [entry] = config.multihost.authorized_clients
        del entry.permissions[:]
        entry.permissions.extend(parse_grant(grant) for grant in grants)
        return True

    hub.config.transform(change)


async def test_what_adds_to_its_permissions_keeps_the_session_and_brings_what_came_into_scope(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    share(hub)
    go = GoClient(world, hub)
    paired_with(hub, go, "read-operations=repo:nas")
    go.add(repo_id="nas")
    go.add(repo_id="disk")
    async with started(go):
        await trio.sleep(10)
        assert set(hub.history(go)) == {1}  # type: ignore[arg-type]
        assert hub.peers.get(go.keyid).refused == 1  # type: ignore[union-attr]
        regrant(hub, "read-operations=*", "read-config=*")
        await wait_all_tasks_blocked()
        assert set(hub.history(go)) == {1, 2}  # type: ignore[arg-type]
        assert hub.peers.get(go.keyid).refused == 0  # type: ignore[union-attr]
        assert [repo.id for repo in go.views[-1].repos] == ["nas"]
        assert go.dials == [0]
        regrant(hub, "read-operations=*", "read-config=*", "receive-shared-repos=*")
        await wait_all_tasks_blocked()
        assert list(go.repos) == [GUID]


async def test_what_takes_something_away_ends_the_session_and_nothing_more_is_stored(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    go = GoClient(world, hub)
    paired_with(hub, go, "read-operations=*", "read-config=*")
    go.add(repo_id="nas")
    async with started(go):
        await trio.sleep(10)
        regrant(hub, "read-operations=!repo:nas", "read-config=*", "receive-shared-repos=*")
        go.add(repo_id="nas")  # in the same moment
        await wait_all_tasks_blocked()
        assert [end.code for end in go.ends] == ["internal"]
        assert state_of(hub, go) == DISCONNECTED
        await trio.sleep(100)
        assert state_of(hub, go) == CONNECTED
        assert set(hub.history(go)) == {1}  # type: ignore[arg-type]


async def test_what_came_between_an_edit_and_its_notice_is_not_lost(
    autojump_clock: MockClock, world: World, slow_disk: None
) -> None:
    """What is being stored when the permissions change is not stored under the old ones."""
    hub = world.instance("hub")
    go = GoClient(world, hub)
    paired_with(hub, go)
    async with started(go):
        await trio.sleep(10)
        go.add()
        await trio.sleep(COMMIT_S / 2)
        regrant(hub, *BOTH, "read-config=*")
        await hub.until_history(go)  # type: ignore[arg-type]
        assert go.dials == [0]

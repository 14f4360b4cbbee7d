"""How a client leaves: every session says goodbye, and no hub can hold up the program's end."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from sync_world import CONNECTED, World, paired
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.sync.client import GOODBYE_S
from backrest.sync.clients import LEAVE_S

RETRY_WAIT = wire.sync.CONNECTION_STATE_RETRY_WAIT


async def test_a_client_that_is_stopped_says_goodbye_and_comes_back_for_nobody(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        client.clients.stop()
        record = await hub.until_peer(client, wire.sync.CONNECTION_STATE_DISCONNECTED)
        assert record.message == "", "it is shown as an end, not as an accident"
        dials = len(world.dials)
        await trio.sleep(600)
        assert len(world.dials) == dials
        assert client.peer(hub).state == wire.sync.CONNECTION_STATE_DISCONNECTED


@pytest.mark.parametrize("goodbye", [True, False])
async def test_what_a_session_took_at_the_hub_is_free_when_it_is_over(
    autojump_clock: MockClock, world: World, goodbye: bool
) -> None:
    """And not when Python next looks for circles: a thousand clients that come and go must leave nothing."""
    hub, client = paired(world)
    gc.collect()
    gc.disable()
    try:
        async with hub.running(), client.running():
            await hub.until_peer(client, CONNECTED)
            await wait_all_tasks_blocked()
            sessions = [weakref.ref(made) for made in (hub.hub._live[client.keyid], *hub.hub._links)]
            if goodbye:
                client.clients.stop()
            else:
                del world.up["hub"]
                world.connections[-1].break_off()
            await hub.until_peer(client, wire.sync.CONNECTION_STATE_DISCONNECTED)
            await wait_all_tasks_blocked()
            assert [session() for session in sessions] == [None, None]
            world.up["hub"] = hub
    finally:
        gc.enable()


@pytest.mark.parametrize(("hub_is", "takes_s"), [("away", 0.0), ("deaf", LEAVE_S + GOODBYE_S)])
async def test_a_hub_that_is_no_help_does_not_hold_up_a_stop(
    autojump_clock: MockClock, world: World, hub_is: str, takes_s: float
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        if hub_is == "away":
            hub_there = world.up.pop("hub")
            world.connections[-1].break_off()
            await client.until_peer(hub, RETRY_WAIT)
            world.up["hub"] = hub_there
        else:
            world.connections[-1].stuck = True
            world.connections[-1].end = _never  # type: ignore[method-assign, assignment]
            client.oplog.add([client.operation()])
            await wait_all_tasks_blocked()
        stopped = trio.current_time()
        client.clients.stop()
        await client.until_peer(hub, wire.sync.CONNECTION_STATE_DISCONNECTED)
        assert trio.current_time() - stopped <= takes_s < 5


async def test_why_a_hub_was_not_reached_is_known_after_the_stop(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with client.running():
        failed = await client.until_peer(hub, RETRY_WAIT)
        client.clients.stop()
        stopped = await client.until_peer(hub, wire.sync.CONNECTION_STATE_DISCONNECTED)
        assert "refused" in failed.message
        assert stopped.message == failed.message
    client.open()
    async with hub.running(), client.running():
        assert (await client.until_peer(hub, CONNECTED)).message == "", "until it is reached"


async def test_a_session_that_rests_after_a_mistake_of_ours_does_not_hold_up_a_stop(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, client = paired(world)

    def broken(url: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world, "dial", broken)
    async with client.running():
        await wait_all_tasks_blocked()
        running = client.clients._running[hub.keyid]
        stopped = trio.current_time()
        client.clients.stop()
        await running.done.wait()
        assert trio.current_time() - stopped <= LEAVE_S


async def _never(*_: object) -> None:
    await trio.sleep_forever()

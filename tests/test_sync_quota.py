"""A client's quota: what has no room is refused alone, remembered, counted, and asked for again when there is room."""

from __future__ import annotations

import pytest
import trio
from stranger import Stranger, authorize, visitor
from sync_world import Instance, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.store import opcompact
from backrest.store.quota import Quota
from backrest.sync import leftout

Item = wire.sync.SyncStreamItem
PLENTY = 1 << 30


async def stored(hub: Instance, peer: Stranger) -> None:
    """What the peer said was read, and is stored: that is done in threads, which trio does not wait for."""
    await wait_all_tasks_blocked()
    client = hub.hub._live[peer.identity.keyid]
    while client._queued_bytes:
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()


async def manifest(hub: Instance, peer: Stranger, ids: list[int]) -> None:
    await peer.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=[1] * len(ids)))
    await stored(hub, peer)


async def delete(peer: Stranger, number: int) -> None:
    event = wire.operations.OperationEvent()
    event.deleted_operations.values.append(number)
    await peer.say(receive_operations=Item.SyncActionReceiveOperations(event=event))


async def heard(peer: Stranger, kind: str) -> Item:
    while True:
        item = await peer.hear()
        if item.WhichOneof("action") == kind:
            return item


def over(hub: Instance, peer: Stranger) -> int:
    record = hub.peers.get(peer.identity.keyid)
    assert record is not None
    return record.over_quota


async def ready(world: World, hub: Instance, quota: Quota) -> Stranger:
    peer = visitor(world, hub)
    authorize(hub, peer)
    hub.shares.set_quota(peer.identity.keyid, quota)
    await peer.shake_hands()
    await peer.say(receive_resources=Item.SyncActionReceiveResources())  # else it counts as gone after 30 s
    return peer


async def test_no_more_is_asked_for_than_there_is_room_for(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    async with hub.running():
        peer = await ready(world, hub, Quota(PLENTY, 3))
        await manifest(hub, peer, [1, 2, 3, 4, 5])
        assert list((await heard(peer, "request_operation_data")).request_operation_data.op_ids) == [1, 2, 3]
        assert over(hub, peer) == 2
        await peer.operations(*(hub.operation(id=n, modno=1, flow_id=n) for n in (1, 2, 3)))
        await stored(hub, peer)
        await peer.operations(hub.operation(id=6, modno=1, flow_id=6))
        await stored(hub, peer)
        assert hub.oplog.count(peer.identity.keyid) == 3
        assert over(hub, peer) == 3
        # In force at once: the client is asked for all it has.
        hub.shares.set_quota(peer.identity.keyid, Quota(PLENTY, 5))
        await heard(peer, "operation_manifest")
        await manifest(hub, peer, [1, 2, 3, 4, 5, 6])
        assert list((await heard(peer, "request_operation_data")).request_operation_data.op_ids) == [4, 5]
        assert over(hub, peer) == 1


async def test_what_is_too_large_is_refused_alone_and_not_asked_for_again(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    async with hub.running():
        peer = await ready(world, hub, Quota(5000, 100))
        large = hub.operation(id=1, modno=1, flow_id=1, display_message="x" * 10_000)
        await peer.operations(large, hub.operation(id=2, modno=1, flow_id=2))
        await stored(hub, peer)
        assert hub.oplog.count(peer.identity.keyid) == 1
        assert over(hub, peer) == 1
        await manifest(hub, peer, [1, 2, 3])
        assert list((await heard(peer, "request_operation_data")).request_operation_data.op_ids) == [3]
        assert over(hub, peer) == 1
        # It is gone there: it is counted no more.
        await manifest(hub, peer, [2])
        assert over(hub, peer) == 0


async def test_room_that_was_made_is_used_but_once_a_minute(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    async with hub.running():
        peer = await ready(world, hub, Quota(PLENTY, 2))
        asked = 0

        async def listen() -> None:
            nonlocal asked
            while isinstance(item := await peer.hear(), Item):
                asked += item.WhichOneof("action") == "operation_manifest"

        assert world.nursery is not None
        world.nursery.start_soon(listen)
        for n in range(1, 50):
            await peer.operations(hub.operation(id=n, modno=1, flow_id=n))
            await peer.operations(hub.operation(id=n + 100, modno=1, flow_id=n + 100))
            await peer.operations(hub.operation(id=n + 200, modno=1, flow_id=n + 200))
            await delete(peer, n)
            await stored(hub, peer)
        assert asked == 1
        await trio.sleep(leftout.ASK_AGAIN_S)
        await delete(peer, 101)
        await peer.say(heartbeat=Item.SyncActionHeartbeat())
        await stored(hub, peer)
        assert asked == 2


async def test_more_than_can_be_remembered_is_not_asked_for(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftout, "REMEMBERED", 2)
    hub = world.instance("hub")
    async with hub.running():
        peer = await ready(world, hub, Quota(1000, 10_000))
        await manifest(hub, peer, list(range(1, 9001)))
        await heard(peer, "request_operation_data")
        some = [hub.operation(id=n, modno=1, flow_id=n, display_message="x" * 2000) for n in range(1, 4001)]
        for start in range(0, 4000, 500):
            await peer.operations(*some[start : start + 500])
        await stored(hub, peer)
        assert over(hub, peer) > 0
        client = hub.hub._live[peer.identity.keyid]
        assert client._pacer is None
        assert not hub.oplog.count(peer.identity.keyid)


async def test_a_client_that_updates_for_ever_does_not_fill_the_disk(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon looks once a minute; this one has written a hundred times what is needed before that."""
    monkeypatch.setattr(opcompact, "WORTH_BYTES", 50_000)
    hub = world.instance("hub")
    async with hub.running():
        peer = await ready(world, hub, Quota(20_000, 10))
        largest = 0
        for modno in range(1, 400):
            await peer.operations(hub.operation(id=1, modno=modno, flow_id=1, display_message="x" * 5000))
            await stored(hub, peer)
            largest = max(largest, hub.oplog.size[0])
        assert largest < 4 * 50_000 + 20_000
        assert [op.modno for op in hub.oplog.read(range(1, 9))] == [399]

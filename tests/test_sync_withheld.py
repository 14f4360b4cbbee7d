"""A hub that collected garbage and cannot take again what it threw away: the newest still arrives (MIXING.md, 2)."""

from __future__ import annotations

import contextlib
import math
import time

import pytest
import trio
from go_hub import GoProgram
from sync_world import CONNECTED, Instance, World
from trio.testing import MockClock

from backrest import wire
from backrest.admin.context import Context
from backrest.permissions import parse_grant
from backrest.sync.withheld import Withheld

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def wall(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", world.wall)


async def live(client: Instance, count: int = 1, plan: str = "photos") -> list[int]:
    """Operations that begin and end while the hub looks on: it is sent each twice."""
    now_ms = int(client.world.wall() * 1000)
    made = client.oplog.add(
        [client.operation(plan_id=plan, unix_time_start_ms=now_ms + n) for n in range(count)]
    )
    await trio.sleep(5)  # simulated
    for op in made:
        op.display_message = "done"
    client.oplog.update(made)
    await trio.sleep(5)  # simulated
    return [op.id for op in made]


def cut(hub: GoProgram) -> None:
    """The network breaks once."""
    for session in hub.sessions.values():
        session.stream.pipe.break_off()


def held(hub: GoProgram, client: Instance) -> dict[int, int]:
    return {number: op.modno for number, op in hub.rows[client.keyid].items()}


def history(client: Instance) -> dict[int, int]:
    return {number: modno for number, (modno, *_) in client.history().items()}


@pytest.mark.parametrize("count", [3, 100, 1000])
async def test_the_newest_arrives_at_a_hub_that_collected_garbage(
    autojump_clock: MockClock, world: World, wall: None, count: int
) -> None:
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    async with client.running():
        await client.until_peer(hub, CONNECTED)  # type: ignore[arg-type]
        old = await live(client, count)
        await trio.sleep(HOUR)  # simulated
        await hub.change_configuration()
        assert len(hub.collected[client.keyid]) == count - 2
        cut(hub)
        [offline] = client.oplog.add([client.operation(unix_time_start_ms=int(world.wall() * 1000))])
        await trio.sleep(10)  # simulated
        assert client.peer(hub).state == CONNECTED  # type: ignore[arg-type]
        [new] = await live(client)
        assert held(hub, client) == {
            n: m for n, m in history(client).items() if n in (*old[-2:], offline.id, new)
        }
        assert hub.ends == [None]
        ends = len(hub.ends)
        await trio.sleep(DAY - HOUR)  # simulated
        assert len(hub.ends) == ends


async def poisoned(hub: GoProgram, client: Instance, count: int = 20) -> tuple[set[int], set[int]]:
    """What the hub threw away and cannot store again, and what it kept; its client is about to connect again."""
    await client.until_peer(hub, CONNECTED)  # type: ignore[arg-type]
    old = await live(client, count)
    await trio.sleep(HOUR)  # simulated
    await hub.change_configuration()
    return set(old[:-2]), set(old[-2:])


async def test_what_is_withheld_is_tried_once_a_day_and_when_the_hub_was_restarted(
    autojump_clock: MockClock, world: World, wall: None
) -> None:
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    async with client.running():
        lost, kept = await poisoned(hub, client)
        cut(hub)
        await trio.sleep(DAY - 60)  # simulated
        assert hub.ends == [None]
        assert set(held(hub, client)) == kept
        listings = len(hub.listed)
        await trio.sleep(120)  # simulated
        assert hub.ends == [None, None]
        assert set(hub.listed[listings]) == lost | kept  # in the session that went on
        assert set(hub.listed[-1]) == lost | kept, "asked for again: now it is known once more"
        assert client.peer(hub).state == CONNECTED  # type: ignore[arg-type]
        await trio.sleep(2 * HOUR)  # simulated
        hub.restart()
        await trio.sleep(10)  # simulated
        assert held(hub, client) == history(client)
        assert hub.ends == [None, None]


async def test_a_connection_that_is_lost_again_and_again_does_not_try_each_time(
    autojump_clock: MockClock, world: World, wall: None
) -> None:
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    async with client.running():
        await poisoned(hub, client)
        for _ in range(20):
            cut(hub)
            await trio.sleep(5 * 60)  # simulated
        assert len(hub.ends) <= 3


async def test_it_is_known_after_a_restart_of_ours(
    autojump_clock: MockClock, world: World, wall: None
) -> None:
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    async with client.running():
        lost, kept = await poisoned(hub, client)
        cut(hub)
        await trio.sleep(60)  # simulated
    client.peers.flush()
    client.oplog.close()
    client.open()
    async with client.running():
        await trio.sleep(60)  # simulated
        assert set(hub.listed[-1]) == kept
        client.oplog.update(list(client.oplog.read(lost)))  # is not told
        client.oplog.delete(list(lost)[:5])  # nor is that
        [new] = await live(client)
    assert hub.ends == [None]
    assert set(held(hub, client)) == kept | {new}


@pytest.mark.parametrize("count", [5, 300])
async def test_a_record_that_is_lost_costs_some_sessions_and_no_operation(
    autojump_clock: MockClock, world: World, wall: None, count: int
) -> None:
    """As after an update of a program that kept none: nothing says what the hub had."""
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    async with client.running():
        _, kept = await poisoned(hub, client, count)
    client.peers.remove(hub.keyid)
    began = trio.current_time()
    async with client.running():
        [new] = await live(client)
        await trio.sleep(30)  # simulated
        assert {*kept, new} <= set(held(hub, client))  # the newest: at once
        await trio.sleep(20 * 60)  # simulated
        assert client.peer(hub).state == CONNECTED  # type: ignore[arg-type]
    assert len(hub.ends) <= 2 + math.log2(count)
    assert len([at for at, _ in world.dials if at > began]) <= 3 + math.log2(count)


async def test_what_the_hub_never_had_is_not_taken_for_lost(
    autojump_clock: MockClock, world: World, wall: None
) -> None:
    """A wider grant lets out operations that are older than those which the hub threw away."""
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    grant(client, "read-operations=*,!plan:mail")
    secret = {op.id for op in client.oplog.add([client.operation(plan_id="mail") for _ in range(2)])}
    async with client.running():
        _, kept = await poisoned(hub, client)
        more = {op.id for op in client.oplog.add([client.operation(plan_id="mail")])}
        assert set(held(hub, client)) == kept
        grant(client, "read-operations=*")
        await trio.sleep(30)  # simulated
        assert set(held(hub, client)) == kept | secret | more
    assert hub.ends == [None]


async def test_a_change_of_what_the_hub_holds_arrives_beside_what_it_lost(
    autojump_clock: MockClock, world: World, wall: None
) -> None:
    hub, client = GoProgram(world, kept=2), world.instance("laptop")
    hub.known_to(client)
    async with client.running():
        lost, kept = await poisoned(hub, client)
        cut(hub)
        client.oplog.update(list(client.oplog.read([*kept, *sorted(lost)[:3]])))
        for _ in range(60):
            await trio.sleep(1)  # simulated
            assert set(held(hub, client)) == kept, "nothing that it holds is taken from it"
        assert held(hub, client) == {n: m for n, m in history(client).items() if n in kept}
        await trio.sleep(HOUR)  # simulated
        assert client.peer(hub).state == CONNECTED  # type: ignore[arg-type]


async def test_a_hub_of_our_kind_is_answered_as_it_asks(world: World) -> None:
    client = world.instance("laptop")
    client.oplog.add([client.operation() for _ in range(9)])
    withheld = Withheld("hub", client.peers, client.oplog)
    for _ in range(5):
        withheld.session((), ours=True)
        listed = withheld.manifest(range(1, 10), range(1, 10))
        assert listed == (range(1, 10), range(1, 10))
        assert list(withheld.to_answer(range(9, 0, -1))) == list(range(9, 0, -1))
        withheld.ended(clean=True, lost=False, absent=False)
    assert client.peers.get("hub") is None


def grant(client: Instance, *grants: str) -> None:
    def change(config: wire.config.Config) -> None:
        [host] = config.multihost.known_hosts
        del host.permissions[:]
        host.permissions.extend(parse_grant(text) for text in grants)

    client.config.transform(change)


@pytest.mark.parametrize("hubs", [0, 1])
async def test_a_log_that_was_made_anew_gives_out_no_id_again(world: World, hubs: int) -> None:
    client = world.instance("laptop")
    if hubs:
        GoProgram(world).known_to(client)
    client.oplog.close()
    client.paths.oplog.unlink()
    with contextlib.closing(Context(client.paths)) as context:
        [op] = context.oplog.add([client.operation()])
        assert op.id == op.modno == op.flow_id
        assert op.id > time.time_ns() // 1_000_000 - 60_000 if hubs else op.id == 1

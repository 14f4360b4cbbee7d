"""Days of simulated time in which something is refused: it is said once, and then nothing happens any more.

No reconnects, nothing written, nothing logged. What does come back again and again is the other side's doing (a client
of the reference leaves over a refused repo, and returns): then each round costs the same, and leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from go_hub import GoHub, GoMachine
from hostile_model import Log, logged
from stranger import Stranger, authorize, visitor
from sync_world import GUID, Instance, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.protocol.framing import EndOfStream
from backrest.store.oplog import Query

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
HOUR = 3600.0
DAY = 24 * HOUR
Item = wire.sync.SyncStreamItem


@pytest.fixture
def log() -> Iterator[Log]:
    with logged() as kept:
        yield kept
        assert not kept.bad


def files(*instances: Instance) -> dict[str, str]:
    """All that is on disk; what the peers' states are is not part of it."""
    found: dict[str, str] = {}
    for instance in instances:
        root: Path = instance.paths.config_file.parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != "peers.json":
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


async def quiet_day(world: World, log: Log, *instances: Instance) -> None:
    """After an hour in which all is said, a day in which nothing is."""
    await trio.sleep(HOUR)  # simulated
    before = (len(world.dials), log.lines, files(*instances))
    await trio.sleep(DAY)  # simulated
    assert (len(world.dials), log.lines, files(*instances)) == before


def share(config: wire.config.Config) -> bool:
    config.repos.add(id="nas", uri="/srv/nas", guid=GUID, password="p", shared=True)
    return True


def have_the_same(config: wire.config.Config) -> bool:
    config.repos.add(id="mine", uri="/srv/mine", guid=GUID, password="q")
    return True


def joined(world: World, *grants: str, on_hub: tuple[str, ...] = ()) -> tuple[Instance, Instance]:
    hub, client = world.instance("hub"), world.instance("laptop")
    client.add_host(hub.token(*on_hub), *grants)
    return hub, client


async def test_an_operation_out_of_the_hubs_scope(autojump_clock: MockClock, world: World, log: Log) -> None:
    hub, client = joined(world, on_hub=("read-operations=*,!repo:private",))
    client.oplog.add([client.operation(repo_id="private") for _ in range(20)])
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await world.until(
            hub.peers.subscribe,
            lambda: hub.peers.get(client.keyid),
            lambda record: record is not None and record.refused == 20,
        )
        await quiet_day(world, log, hub, client)
        assert len(hub.history(client)) == 1


async def test_an_operation_out_of_scope_is_asked_for_once_however_often_its_client_comes_back(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    hub, asked = world.instance("hub"), []
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go, "read-operations=repo:nas")
        for round_ in range(48):
            go = Stranger(visitor(world, hub).pipe, identity=go.identity, name="go")
            await go.shake_hands()
            ids = [1, 2, 3]
            await go.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
            if not round_:
                while (item := await go.hear()).WhichOneof("action") != "request_operation_data":
                    pass
                asked.append(list(item.request_operation_data.op_ids))
                out_of_scope = hub.operation(id=1, modno=1, flow_id=1, repo_id="private", instance_id="go")
                invalid = hub.operation(id=2, modno=2, instance_id="go")  # no flow
                good = hub.operation(id=3, modno=3, flow_id=3, instance_id="go")
                await go.operations(out_of_scope, invalid, good)
            await wait_all_tasks_blocked()
            go.pipe.close()
            while (heard := await go.hear()) is not None:
                assert isinstance(heard, EndOfStream) or not heard.HasField("request_operation_data")
            if round_ == 1:
                before = files(hub)
            await trio.sleep(HOUR / 2)
        assert asked == [[1, 2, 3]]
        assert [op.original_id for op in hub.oplog.query(Query(origin=go.identity.keyid))] == [3]
        assert files(hub) == before


async def test_a_shared_repo_that_the_client_does_not_accept(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    hub, client = joined(world, "read-operations=*")
    hub.config.transform(share)
    async with hub.running(), client.running():
        await world.until(client.peers.subscribe, lambda: client.peers.get(hub.keyid), warned)
        await quiet_day(world, log, hub, client)
        assert not client.config.current.repos


async def test_a_shared_repo_that_the_client_has_already(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    hub, client = joined(world)
    hub.config.transform(share)
    client.config.transform(have_the_same)
    async with hub.running(), client.running():
        await world.until(client.peers.subscribe, lambda: client.peers.get(hub.keyid), warned)
        await quiet_day(world, log, hub, client)
        assert [repo.id for repo in client.config.current.repos] == ["mine"]


async def test_a_shared_repo_that_is_taken_without_what_runs_programs(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    """What was stripped differs from what is sent, each time: that must not count as a change."""

    def share_with_hook(config: wire.config.Config) -> bool:
        share(config)
        config.repos[0].hooks.add(conditions=[1]).action_command.command = "evil"
        config.repos[0].env.append("RESTIC_PASSWORD_COMMAND=evil")
        return True

    hub, client = joined(world)
    hub.config.transform(share_with_hook)
    async with hub.running(), client.running():
        await world.until(client.peers.subscribe, lambda: client.peers.get(hub.keyid), warned)
        await quiet_day(world, log, hub, client)
        assert not client.config.current.repos[0].hooks


async def test_a_shared_repo_that_makes_the_configuration_invalid(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    client = world.instance("laptop")
    bad = wire.config.Repo(id="bad", uri="/srv/bad", guid=GUID, origin_instance_id="hub")
    bad.prune_policy.schedule.cron = "*/0 * * * *"

    async def push(go: GoHub) -> None:
        await go.let_in()
        await go.say(set_config=Item.SyncActionSetConfig(repos=[bad]))
        while True:
            await go.say(heartbeat=Item.SyncActionHeartbeat())
            with trio.move_on_after(600):
                await listen(go)

    machine = GoMachine(world, push)
    machine.known_to(client)
    async with client.running():
        await world.until(client.peers.subscribe, lambda: client.peers.get(machine.keyid), warned)
        await quiet_day(world, log, client)
        assert not client.config.current.repos


async def test_a_reference_hub_that_sends_what_is_refused_at_each_change_of_its_own(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    """Every ten minutes: the same refusal again costs a line of the log at most, and nothing on disk."""
    client = world.instance("laptop")
    client.config.transform(have_the_same)
    refused = wire.config.Repo(id="nas", uri="/srv/nas", guid=GUID, origin_instance_id="hub")

    async def push(go: GoHub) -> None:
        await go.let_in()
        while True:
            await go.say(set_config=Item.SyncActionSetConfig(repos=[refused], plans_to_delete=["none"]))
            await go.say(receive_config=Item.SyncActionReceiveConfig())
            await go.say(heartbeat=Item.SyncActionHeartbeat())
            with trio.move_on_after(600):
                await listen(go)

    machine = GoMachine(world, push)
    machine.known_to(client)
    async with client.running():
        await world.until(client.peers.subscribe, lambda: client.peers.get(machine.keyid), warned)
        await trio.sleep(HOUR)
        lines, before = log.lines, files(client)
        await trio.sleep(DAY)
        assert files(client) == before
        assert len(world.dials) == 1
        assert log.lines - lines <= 2 * DAY / 600


async def test_a_reference_client_that_leaves_over_every_refused_repo(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    """It comes back after 60, 180, 300 and then every 540 s, and leaves its old stream open (PROTOCOL.md section 5)."""
    hub = world.instance("hub")
    hub.config.transform(share)
    async with hub.running():
        first = visitor(world, hub, "go")
        authorize(hub, first)
        first.pipe.close()
        rounds: list[tuple[int, dict[str, str], int]] = []
        for number, wait in enumerate((60, 180, 300, *[540] * 150)):
            go = Stranger(visitor(world, hub).pipe, identity=first.identity, name="go")
            await go.shake_hands()
            offered = False
            with trio.move_on_after(30):
                while not offered:
                    offered = (await go.hear()).WhichOneof("action") == "set_config"
            assert offered == (number < 2), "it is spared what makes it leave"
            rounds.append((log.lines, files(hub), len(hub.hub._links)))
            await trio.sleep(wait)
        assert rounds[-1][1] == rounds[3][1]
        assert max(links for _, _, links in rounds) <= 2
        assert rounds[-1][0] - rounds[3][0] <= 4 * len(rounds)


async def test_a_permission_that_is_wanting_on_both_sides(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    hub, client = joined(world, "read-config=*", on_hub=("read-config=*",))
    client.oplog.add([client.operation() for _ in range(5)])
    hub.config.transform(share)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await quiet_day(world, log, hub, client)
        assert not hub.history(client)


async def test_a_client_that_was_removed_comes_back_seldom(
    autojump_clock: MockClock, world: World, log: Log
) -> None:
    hub, client = joined(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)

        def remove(config: wire.config.Config) -> bool:
            del config.multihost.authorized_clients[:]
            return True

        hub.config.transform(remove)
        await trio.sleep(HOUR)
        dials, before = len(world.dials), files(client)
        await trio.sleep(DAY)
        assert len(world.dials) - dials <= DAY / 60
        assert files(client) == before


def warned(record: Any) -> bool:
    return record is not None and len(record.warnings) > 0


async def listen(go: GoHub) -> None:
    while True:
        await go.hear()

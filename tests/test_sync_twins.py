"""Two machines with one key (a cloned disk): the hub holds one history, whole, and says that there are two.

In simulated time. A copy is one of all that is on the disk at that moment.
"""

from __future__ import annotations

import shutil

import pytest
import trio
from go_client import GoClient
from sync_world import CONNECTED, ERROR_AUTH, Instance, Pipe, World, paired
from trio.testing import MockClock

from backrest import wire
from backrest.sync.twins import GONE_S, TWIN_GONE_S


def copy(machine: Instance) -> Instance:
    """The machine's disk in another one: the same key and name."""
    machine.peers.flush()
    world = machine.world
    directory = world.directory / f"copy{len(list(world.directory.iterdir()))}"
    made = Instance(world, directory.name, directory, machine.limits)
    shutil.rmtree(directory)
    shutil.copytree(machine.paths.config_file.parent, directory)
    made.open()
    assert made.keyid == machine.keyid
    return made


def add(machine: Instance, *messages: str) -> None:
    name = machine.config.current.instance
    machine.oplog.add([machine.operation(instance_id=name, display_message=message) for message in messages])


def twins(hub: Instance) -> int:
    return [event["event"] for event in hub.audited()].count("twin")


async def three(world: World) -> tuple[Instance, Instance, Instance]:
    """A hub, a client that was there, and its copy. Each of the two has gone on for itself, with the same ids."""
    hub, client = paired(world)
    add(client, "common", "past")
    async with hub.running(), client.running():
        await hub.until_history(client)
    made = copy(client)
    for machine, word in ((client, "first"), (made, "second")):
        add(machine, *(f"{word} {n}" for n in range(5)))
    numbers = [{id: op[0] for id, op in machine.history().items()} for machine in (client, made)]
    assert numbers[0] == numbers[1], "nothing in a manifest tells them apart"
    return hub, client, made


async def test_the_first_stays_and_both_sides_say_that_there_are_two(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client, made = await three(world)
    async with hub.running(), client.running():
        await hub.until_history(client)
        async with made.running():
            refused = await made.until_peer(hub, ERROR_AUTH)
            assert "another machine with this key is connected" in refused.message
            assert "identity rotate" in refused.message
            add(client, "more of the first")
            add(made, "more of the second")
            dials = len(world.dials)
            await trio.sleep(3600)
            assert hub.history(client) == client.history()
            assert client.peer(hub).state == hub.peer(client).state == CONNECTED
            assert 1 < len(world.dials) - dials < 60, "only the second comes again, and slowly"
    assert twins(hub) == 1, "recorded once"
    assert hub.peer(client).has_twin(int(world.wall() * 1000))


async def test_the_copy_is_kept_out_for_a_while_and_takes_over_when_the_first_is_gone(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client, made = await three(world)
    async with hub.running():
        async with client.running():
            await hub.until_history(client)
        stopped = trio.current_time()
        async with made.running():
            refused = await made.until_peer(hub, ERROR_AUTH)
            assert "another machine with this key was here 0 min ago" in refused.message
            assert "is refused" in hub.peer(client).message
            await trio.sleep(GONE_S / 2)
            assert hub.history(client) == client.history()
            await hub.until_history(made)
            assert trio.current_time() - stopped > GONE_S - 120
            assert not hub.peer(client).mixed
            async with client.running():
                await client.until_peer(hub, ERROR_AUTH)
                assert hub.history(client) == made.history()
        assert twins(hub) == 1
        # Two were alive at once: a night does not change who is kept.
        for away, state in ((TWIN_GONE_S - 60, ERROR_AUTH), (TWIN_GONE_S + 60, CONNECTED)):
            now_ms = int(world.wall() * 1000)
            hub.peers.update(client.keyid, last_heartbeat_ms=now_ms - int(away * 1000))
            async with client.running():
                await client.until_peer(hub, state)


async def test_a_machine_that_restarts_or_comes_from_another_network_displaces_its_old_session_at_once(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running():
        for _ in range(20):  # more than the names that it announces
            async with client.running():
                await client.until_peer(hub, CONNECTED)
                await hub.until_peer(client, CONNECTED)
                add(client, "one more")
                await hub.until_history(client)
                world.connections[-1].lost = world.connections[-1].other.lost = True  # the old one lingers
            client.peers.flush()
            client.open()
        assert trio.current_time() < 20 * 10
    assert twins(hub) == 0


async def test_a_machine_restored_from_a_backup_is_let_in_and_its_history_replaces_what_was_held(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    add(client, "common")
    async with hub.running(), client.running():
        await hub.until_history(client)
    backup = copy(client)
    add(client, "lost", "lost, too")
    async with hub.running(), client.running():
        await hub.until_history(client)
    add(backup, "after the restore", "and more", "and more")
    async with hub.running():
        async with backup.running():
            await hub.until_history(backup)
        assert trio.current_time() < GONE_S + 400
        # A person who pairs it again decides it.
        again = copy(client)
        token = hub.token().partition(":")[2].partition("#")[0]

        def give(config: wire.config.Config) -> bool:
            config.multihost.known_hosts[0].initial_pairing_secret = token
            return True

        again.config.transform(give)
        began = trio.current_time()
        async with again.running():
            await hub.until_history(again)
        assert trio.current_time() - began < 60
    assert twins(hub) == 0


async def test_a_takeover_that_breaks_off_is_begun_again(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, client, made = await three(world)
    add(client, *(f"first {n}" for n in range(1000)))
    add(made, *(f"second {n}" for n in range(1000)))
    async with hub.running(), client.running():
        await hub.until_history(client)
    await trio.sleep(GONE_S)
    sent, put = 0, Pipe.put

    def cut(self: Pipe, data: bytes) -> None:
        nonlocal sent
        put(self, data)
        if self is world.connections[-1] and len(data) > 20_000 and not sent:
            sent += 1
            self.break_off()

    monkeypatch.setattr(Pipe, "put", cut)
    async with hub.running(), made.running():
        await hub.until_peer(client, CONNECTED)
        await hub.until_history(made)
        assert sent
        await world.until(hub.peers.subscribe, lambda: hub.peer(client).mixed, lambda mixed: not mixed)


async def test_a_disk_that_refuses_the_name_of_a_session_keeps_nobody_out(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backrest.errors import StorageError

    hub, client = paired(world)

    def full() -> None:
        raise StorageError("no space left")

    async with hub.running():
        async with client.running():
            await hub.until_history(client)
        monkeypatch.setattr(client.peers, "flush", full)
        async with client.running():
            await client.until_peer(hub, CONNECTED)
    assert hub.peer(client).last_session == ""


async def test_two_go_clients_with_one_key_stop_displacing_each_other(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    first = GoClient(world, hub, secret=hub.token().partition(":")[2].partition("#")[0])
    async with hub.running(), trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        await trio.sleep(30)
        second = GoClient(world, hub)
        second.identity, second.keyid = first.identity, first.keyid
        for client, word in ((first, "first"), (second, "second")):
            for n in range(5):
                client.add(display_message=f"{word} {n}")
        nursery.start_soon(second.run)
        await trio.sleep(3600)
        dials = len(first.dials), len(second.dials)
        await trio.sleep(3600)
        held = hub.history(first)  # type: ignore[arg-type]
        now = len(first.dials), len(second.dials)
        assert held == (first if now[0] == dials[0] else second).history(), "the one that stays, whole"
        assert dials[0] == now[0] or dials[1] == now[1], "one of the two is not displaced any more"
        nursery.cancel_scope.cancel()
    assert twins(hub) == 1

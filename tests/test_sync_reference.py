"""The reference's habits (PROTOCOL.md sections 4 to 6), scripted: as a hub of our client, as a client of our hub."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from go_hub import GoHub, GoMachine, GoProgram
from stranger import Stranger, authorize, visitor
from sync_world import ERROR_AUTH, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.errors import Code, StorageError
from backrest.store.oplog import OpLog
from backrest.sync import link

Item = wire.sync.SyncStreamItem
CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED


async def test_refused_right_after_a_pairing_that_worked(autojump_clock: MockClock, world: World) -> None:
    secrets: list[str] = []
    done = trio.Event()

    async def refuse(go: GoHub) -> None:
        secrets.append(await go.open())
        await go.end(Code.PERMISSION_DENIED)

    async def welcome(go: GoHub) -> None:
        secrets.append(await go.let_in())
        await go.until("operation_manifest")
        done.set()
        await trio.sleep_forever()

    client = world.instance("laptop")
    machine = GoMachine(world, refuse, refuse, welcome)
    machine.known_to(client, "5" * 64)
    async with client.running():
        await done.wait()
        assert trio.current_time() <= 4
        await wait_all_tasks_blocked()
    assert secrets == ["5" * 64] * 3
    assert client.config.current.multihost.known_hosts[0].initial_pairing_secret == ""


@pytest.mark.parametrize("right", [True, False])
async def test_its_refusal_after_a_pairing_is_told_only_when_it_lasts(
    autojump_clock: MockClock, world: World, right: bool
) -> None:
    hub, client = GoProgram(world), world.instance("laptop")
    hub.known_to(client, "5" * 64)
    if not right:
        hub.secrets = {"6" * 64}
    states: list[tuple[float, int]] = []
    client.peers.subscribe(
        lambda keyid: states.append((trio.current_time(), client.peer(hub).state))  # type: ignore[arg-type]
    )
    async with client.running():
        await client.until_peer(hub, CONNECTED if right else ERROR_AUTH)  # type: ignore[arg-type]
        assert trio.current_time() < 4
    refused = [at for at, state in states if state == ERROR_AUTH]
    assert refused == [] if right else refused[0] >= 3


async def test_the_next_try_is_always_ahead(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the number of attempts in a minute is what keeps the next one back."""
    monkeypatch.setattr("time.time", world.wall)

    async def go_away(go: GoHub) -> None:
        await go.let_in()
        go.pipe.other.goaway = True
        await go.end(Code.UNAVAILABLE)

    client, machine = world.instance("laptop"), GoMachine(world, go_away)
    machine.known_to(client)
    async with client.running():
        await trio.sleep(1)  # simulated
        assert len(world.dials) == 10, "at once, as after a proxy's reload"
        for _ in range(50):
            record = client.peer(machine)  # type: ignore[arg-type]
            assert record.state == wire.sync.CONNECTION_STATE_RETRY_WAIT
            assert record.next_try_ms / 1000 >= world.wall() - 0.01
            await trio.sleep(1)  # simulated


async def test_a_clean_end_after_a_failure_means_reconnect(autojump_clock: MockClock, world: World) -> None:
    done = trio.Event()

    async def clean_end(go: GoHub) -> None:
        await go.let_in()
        await go.until("operation_manifest")
        await go.end()  # and the stream stays open: END_STREAM does not follow
        await trio.sleep_forever()

    async def stay(go: GoHub) -> None:
        await go.let_in()
        await go.until("operation_manifest")
        done.set()
        await trio.sleep_forever()

    client = world.instance("laptop")
    GoMachine(world, clean_end, clean_end, stay).known_to(client)
    async with client.running():
        await done.wait()
        assert trio.current_time() < 60


async def test_a_hub_that_asks_for_all_at_once_and_for_what_is_not_its_own(
    autojump_clock: MockClock, world: World
) -> None:
    client = world.instance("laptop")
    client.oplog.add([client.operation() for _ in range(1500)])
    [foreign] = client.oplog.add([client.operation(instance_id="another")])
    got: list[list[int]] = []
    done = trio.Event()

    async def ask(go: GoHub) -> None:
        await go.let_in()
        manifest = await go.until("operation_manifest")
        assert len(manifest.op_ids) == 1500
        ids = [foreign.id, -4, 0, 2**63 - 1, *manifest.op_ids]
        await go.say(request_operation_data=Item.SyncActionRequestOperationData(op_ids=ids))
        for one in (1, 2, 3):
            await go.say(request_operation_data=Item.SyncActionRequestOperationData(op_ids=[one]))
        while sum(map(len, got)) < 1503:
            event = (await go.until("receive_operations")).event
            got.append([op.id for op in event.updated_operations.operations])
        done.set()
        await trio.sleep_forever()

    GoMachine(world, ask).known_to(client)
    async with client.running():
        await done.wait()
    assert max(map(len, got)) <= 512
    sent = [op_id for ids in got for op_id in ids]
    assert sent == [*range(1, 1501), 1, 2, 3]


async def test_large_operations_come_in_messages_of_a_bounded_size(
    autojump_clock: MockClock, world: World
) -> None:
    client = world.instance("laptop")
    client.oplog.add([client.operation(display_message="x" * 900_000) for _ in range(25)])
    got: list[tuple[int, list[int]]] = []
    done = trio.Event()

    async def ask(go: GoHub) -> None:
        await go.let_in()
        manifest = await go.until("operation_manifest")
        await go.say(request_operation_data=Item.SyncActionRequestOperationData(op_ids=manifest.op_ids))
        while sum(len(ids) for _, ids in got) < 25:
            event = (await go.until("receive_operations")).event
            got.append((event.ByteSize(), [op.id for op in event.updated_operations.operations]))
        done.set()
        await trio.sleep_forever()

    GoMachine(world, ask).known_to(client)
    async with client.running():
        await done.wait()
    assert [ids for _, ids in got] == [[*range(1, 11)], [*range(11, 21)], [*range(21, 26)]]
    assert max(size for size, _ in got) <= 9 << 20


async def test_a_hub_that_asks_without_end_and_reads_nothing_costs_little(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ROOM_BYTES", 1000)
    client = world.instance("laptop")
    client.oplog.add([client.operation() for _ in range(20)])

    async def never_read(go: GoHub) -> None:
        await go.let_in()
        go.pipe.other.stuck = True
        for _ in range(2000):
            await go.say(request_resources=Item.SyncActionRequestResources())
            await go.say(request_operation_data=Item.SyncActionRequestOperationData())
        await trio.sleep_forever()

    machine = GoMachine(world, never_read)
    machine.known_to(client)
    async with client.running():
        await client.until_peer(machine, CONNECTED)  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
        running = client.clients._running[machine.keyid].host._link
        assert running is not None
        assert running.session.outbox_size < 10_000


async def test_a_manifest_that_is_asked_for_while_nothing_goes_out_is_sent_in_the_end(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ROOM_BYTES", 1000)
    client = world.instance("laptop")
    answered = trio.Event()

    async def read_late(go: GoHub) -> None:
        await go.let_in()
        await go.until("operation_manifest")
        go.pipe.other.stuck = True
        for _ in range(100):  # until there is no room for one answer more
            await go.say(request_resources=Item.SyncActionRequestResources())
            await wait_all_tasks_blocked()
        await go.say(operation_manifest=Item.SyncActionOperationManifest())
        await wait_all_tasks_blocked()
        go.pipe.other.unstick()
        await go.until("operation_manifest")
        answered.set()
        await trio.sleep_forever()

    machine = GoMachine(world, read_late)
    machine.known_to(client)
    async with client.running():
        await answered.wait()


async def test_what_was_never_announced_is_not_said_to_be_deleted(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created, and gone before its content was read: the reference hub ends the session over such a deletion."""
    client = world.instance("laptop")
    said: list[str] = []
    ready, done = trio.Event(), trio.Event()

    async def listen(go: GoHub) -> None:
        await go.let_in()
        await go.until("operation_manifest")
        ready.set()
        while True:
            event = (await go.until("receive_operations")).event
            said.append(str(event.WhichOneof("event")))
            if [op.display_message for op in event.created_operations.operations] == ["last"]:
                done.set()

    machine = GoMachine(world, listen)
    machine.known_to(client)
    read_into = OpLog.read_into

    def deleting(log: OpLog, target: Any, ids: Any, predicate: Any = None, most_bytes: float = 1e9) -> int:
        some = wire.operations.OperationList().operations
        read_into(log, some, ids)
        if not said and any(op.display_message == "short-lived" for op in some):
            log.delete(list(ids))
        return read_into(log, target, ids, predicate, most_bytes)

    monkeypatch.setattr(OpLog, "read_into", deleting)
    async with client.running():
        await ready.wait()
        client.oplog.add([client.operation(display_message="short-lived")])
        await wait_all_tasks_blocked()
        client.oplog.add([client.operation(display_message="last")])
        await done.wait()
    assert said == ["created_operations"]


async def test_a_client_of_the_reference_is_taken_as_it_is(autojump_clock: MockClock, world: World) -> None:
    """Its manifest lists operations attributed to others; it deletes what is unknown and creates what was deleted."""
    hub = world.instance("hub")
    hub.oplog.add([hub.operation()])
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        await go.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=[3, 4], modnos=[3, 4]))
        while (item := await go.hear()).WhichOneof("action") != "request_operation_data":
            pass
        assert list(item.request_operation_data.op_ids) == [3, 4]
        await go.operations(
            hub.operation(id=3, modno=3, flow_id=3, instance_id="hub"),  # claims to be the hub's own
            hub.operation(id=4, modno=4, flow_id=4, original_instance_keyid=hub.keyid, original_id=1),
        )
        await deleted(go, 99, 3, 3)
        await go.operations(hub.operation(id=3, modno=9, flow_id=3, instance_id="go"))
        await world.until(
            hub.oplog.subscribe,
            lambda: dict(hub.oplog.held(go.identity.keyid)),
            lambda held: held == {3: 9, 4: 4},
        )
        again = Stranger(
            visitor(world, hub).pipe, identity=go.identity, name="go"
        )  # the old stream stays open
        await again.shake_hands()
        assert (await go.until_end()).code == "internal"
        await again.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=[4], modnos=[4]))
        await world.until(
            hub.oplog.subscribe, lambda: dict(hub.oplog.held(go.identity.keyid)), lambda held: held == {4: 4}
        )
    assert hub.oplog.count("") == 1
    assert hub.oplog.get(1).instance_id == "hub"


async def deleted(go: Stranger, *ids: int) -> None:
    event = wire.operations.OperationEvent()
    event.deleted_operations.values.extend(ids)
    await go.say(receive_operations=Item.SyncActionReceiveOperations(event=event))


@pytest.mark.parametrize(
    "action",
    [
        {"receive_operations": Item.SyncActionReceiveOperations()},
        {"operation_manifest": Item.SyncActionOperationManifest(op_ids=[1], modnos=[])},
        {"request_operation_data": Item.SyncActionRequestOperationData(op_ids=[1])},
        {"request_resources": Item.SyncActionRequestResources()},
        {"set_config": Item.SyncActionSetConfig(repos_to_delete=["nas"])},
        {},
    ],
)
async def test_what_has_no_place_at_a_hub_ends_that_session(
    autojump_clock: MockClock, world: World, action: dict[str, Any]
) -> None:
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        await go.say(**action)
        assert (await go.until_end()).code == "invalid_argument"
        again = Stranger(visitor(world, hub).pipe, identity=go.identity, name="go")
        await again.shake_hands()
        while (await again.hear()).WhichOneof("action") != "receive_config":
            pass


async def test_a_secret_that_cannot_be_cleared_does_not_end_the_session(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, done = world.instance("laptop"), trio.Event()

    async def welcome(go: GoHub) -> None:
        await go.let_in()
        await go.until("operation_manifest")
        await go.until("heartbeat")
        done.set()
        await trio.sleep_forever()

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left on device")

    GoMachine(world, welcome).known_to(client, "5" * 64)
    monkeypatch.setattr(client.config, "transform", full)
    async with client.running():
        await done.wait()
    assert len(world.dials) == 1

"""The history through the admin API: read, followed, cleared."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import trio
from admin_world import GUID, World, add_client, operation
from google.protobuf.empty_pb2 import Empty
from reference_api import BACKREST, Codec, Refused, ask, following
from sync_world import inline_threads as inline_threads
from trio.testing import MockClock

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.reference import operations as reference
from backrest.net.connect import ConnectError
from backrest.store.oplog import OpLog

Service = wire.service
OperationEvent = wire.operations.OperationEvent
OperationList = wire.operations.OperationList
ERROR = wire.operations.STATUS_ERROR
INPROGRESS = wire.operations.STATUS_INPROGRESS
LAPTOP = "ed25519." + "B" * 43


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


def of_laptop(number: int, **fields: Any) -> wire.operations.Operation:
    given = {"id": number, "flow_id": number, "modno": number, "instance_id": "laptop"}
    return operation(number, **(given | fields))


# --- following


@pytest.mark.parametrize("kind", ["json", "proto"])
def test_every_change_is_told_as_what_it_is(world: World, kind: Codec) -> None:
    add_client(world, keyid=LAPTOP)
    with (
        world.daemon() as daemon,
        following(world, f"{BACKREST}GetOperationEvents", Empty(), OperationEvent, kind) as events,
    ):
        assert next(events).HasField("keep_alive"), "from here on nothing is missed"
        daemon.oplog.add([operation(1), operation(2)])
        created = next(events).created_operations.operations
        assert [op.id for op in created] == [1, 2]
        created[0].status = ERROR
        daemon.oplog.update([created[0]])
        assert [op.status for op in next(events).updated_operations.operations] == [ERROR]
        daemon.oplog.delete([1, 2])
        assert list(next(events).deleted_operations.values) == [1, 2]
        daemon.oplog.apply(LAPTOP, [of_laptop(9)])
        [received] = next(events).created_operations.operations
        assert (received.original_id, received.original_instance_keyid) == (9, LAPTOP), "of all instances"


def test_a_reader_that_falls_behind_gets_an_error_and_holds_up_nobody(world: World) -> None:
    long = "x" * 4000
    with (
        world.daemon() as daemon,
        following(world, f"{BACKREST}GetOperationEvents", Empty(), OperationEvent) as events,
    ):
        next(events)
        for _ in range(40):  # 16 MB, read by nobody
            daemon.oplog.add([operation(n, display_message=long) for n in range(100)])
        seen = 0

        def read_on() -> None:
            nonlocal seen
            for event in events:
                seen += len(event.created_operations.operations)

        with pytest.raises(Refused, match="read the operations again") as refused:
            read_on()
        assert refused.value.code == "resource_exhausted"
        assert 0 < seen < 4000
        assert daemon.oplog.count() == 4000


@pytest.fixture
def context(tmp_path: Path) -> Context:
    world = World(tmp_path)
    world.paths.data_dir.mkdir(parents=True)
    return Context(world.paths, oplog=OpLog.open(world.paths.oplog))


async def test_a_reader_that_takes_nothing_is_not_waited_for(
    autojump_clock: MockClock, inline_threads: None, context: Context
) -> None:
    started = trio.Event()

    async def send(event: OperationEvent) -> None:
        started.set()
        await trio.sleep_forever()

    async def fill() -> None:
        await started.wait()
        for _ in range(3):
            context.oplog.add([operation(n, display_message="x" * 4000) for n in range(1000)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        with pytest.raises(ConnectError, match="more happened"):
            await reference.get_operation_events(context, Empty(), send)
    assert trio.current_time() <= reference.LAST_SEND_S


async def test_silence_is_broken_every_minute(
    autojump_clock: MockClock, inline_threads: None, context: Context
) -> None:
    told: list[tuple[float, str | None]] = []

    async def send(event: OperationEvent) -> None:
        told.append((trio.current_time(), event.WhichOneof("event")))
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(150):
        await reference.get_operation_events(context, Empty(), send)
    assert told == [(0, "keep_alive"), (60, "keep_alive"), (120, "keep_alive")]


async def test_who_stops_following_leaves_nothing_behind(
    autojump_clock: MockClock, inline_threads: None, context: Context
) -> None:
    async def send(event: OperationEvent) -> None:
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(1):
        await reference.get_operation_events(context, Empty(), send)
    assert context.oplog._subscribers == ()


# --- reading


@pytest.mark.parametrize("kind", ["json", "proto"])
def test_a_history_that_comes_in_pieces_is_one_list(
    world: World, kind: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "AT_A_TIME", 2)

    def read(**wanted: Any) -> list[int]:
        request = Service.GetOperationsRequest(**wanted)
        return [
            op.id for op in ask(world, f"{BACKREST}GetOperations", request, OperationList, kind).operations
        ]

    with world.daemon() as daemon:
        assert read() == []
        # the later the id, the earlier it began
        daemon.oplog.add([operation(9 - n, snapshot_id=f"{n % 2}" * 64) for n in range(1, 8)])
        daemon.oplog.delete([3, 4])
        assert read() == [1, 2, 5, 6, 7], "by id"
        assert read(last_n=2) == [1, 2], "the newest by their start"
        assert read(selector=Service.OpSelector(snapshot_id="1" * 64)) == [1, 5, 7]


@pytest.mark.parametrize("kind", ["json", "proto"])
def test_a_long_history_is_not_held_to_be_sent(context: Context, kind: Codec) -> None:
    size = 0
    context.oplog.add([operation(n, display_message="x" * 4000) for n in range(5000)])
    tracemalloc.start()
    for piece in reference.get_operations(context, Service.GetOperationsRequest(), kind):
        size += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 20_000_000
    assert peak < 10_000_000


# --- clearing


def clear(world: World, selector: dict[str, Any] | None, *, only_failed: bool = False) -> None:
    request = Service.ClearHistoryRequest(only_failed=only_failed)
    if selector is not None:
        request.selector.CopyFrom(Service.OpSelector(**selector))
    ask(world, f"{BACKREST}ClearHistory", request, Empty)


def left(world: World) -> list[int]:
    found = ask(
        world, f"{BACKREST}GetOperations", Service.GetOperationsRequest(), wire.operations.OperationList
    )
    return [op.id for op in found.operations]


def test_what_the_selector_means_is_deleted(world: World) -> None:
    with world.daemon() as daemon:
        daemon.oplog.add(
            [operation(n, plan_id=f"p{n % 2}", status=ERROR if n > 4 else 3) for n in range(1, 7)]
        )
        clear(world, {"plan_id": "p1"}, only_failed=True)
        assert left(world) == [1, 2, 3, 4, 6]
        clear(world, {"plan_id": "p1"})
        assert left(world) == [2, 4, 6]
        clear(world, {"ids": [2]})
        assert left(world) == [4, 6]
        clear(world, {})
        assert left(world) == []
        clear(world, {})  # nothing is left to clear, which is no error
    assert world.audit_events().count("history-cleared") == 4


def test_without_a_selector_nothing_is_deleted(world: World) -> None:
    with world.daemon() as daemon:
        daemon.oplog.add([operation(1)])
        with pytest.raises(Refused, match="selector is missing"):
            clear(world, None)
        assert left(world) == [1]


def test_what_a_client_sent_is_the_clients(world: World) -> None:
    add_client(world, keyid=LAPTOP)
    with world.daemon() as daemon:
        daemon.oplog.add([operation(1), operation(2)])
        daemon.oplog.apply(LAPTOP, [of_laptop(7, plan_id="theirs"), of_laptop(8)])
        for selector in (
            {"original_instance_keyid": LAPTOP},
            {"plan_id": "theirs"},
            {"ids": [1, 3]},
        ):
            with pytest.raises(Refused, match=r"history of laptop, .* clear it there") as refused:
                clear(world, selector)
            assert refused.value.code == "failed_precondition"
            assert left(world) == [1, 2, 3, 4], "nothing at all was deleted"
        clear(world, {"repo_guid": GUID})
        assert left(world) == [3, 4], "our own is what a filter means"


def test_the_history_of_a_removed_client_can_be_cleared(world: World) -> None:
    with world.daemon() as daemon:
        daemon.oplog.apply(LAPTOP, [of_laptop(7), of_laptop(8)])
        clear(world, {"original_instance_keyid": LAPTOP})
        assert left(world) == []


def test_what_runs_right_now_stays(world: World) -> None:
    with world.daemon() as daemon:
        daemon.oplog.add([operation(1), operation(2, status=INPROGRESS)])
        clear(world, {})
        assert left(world) == [2]
        with pytest.raises(Refused, match="cancel it first"):
            clear(world, {"ids": [2]})
        assert left(world) == [2]


# --- reading


def test_a_selector_has_ids_or_filters(world: World) -> None:
    with world.daemon(), pytest.raises(Refused, match="not both"):
        clear(world, {"ids": [1], "plan_id": "p1"})


# --- the rest


@pytest.mark.parametrize("name", ["Restore", "RunCommand", "GetSummaryDashboard", "SetupSftp"])
def test_what_this_program_has_not_is_said(world: World, name: str) -> None:
    with world.daemon(), pytest.raises(Refused, match="this program has not") as refused:
        ask(world, f"{BACKREST}{name}", Empty(), Empty)
    assert refused.value.code == "unimplemented"


def test_a_stream_that_this_program_has_not_ends_with_that(world: World) -> None:
    with world.daemon(), following(world, f"{BACKREST}GetLogs", Empty(), Empty) as events:
        with pytest.raises(Refused) as refused:
            next(events)
        assert refused.value.code == "unimplemented"


def test_a_task_that_this_program_has_not_is_said(world: World) -> None:
    world.add_repo()
    task = Service.DoRepoTaskRequest
    with world.daemon():
        for number, code in ((task.TASK_PRUNE, "unimplemented"), (task.TASK_NONE, "invalid_argument")):
            request = task(repo_id="r1", task=number)
            with pytest.raises(Refused, match="TASK_INDEX_SNAPSHOTS is what it has") as refused:
                ask(world, f"{BACKREST}DoRepoTask", request, Service.ScheduleTaskResponse)
            assert refused.value.code == code


@pytest.mark.parametrize(
    "fields",
    [{"ttl_seconds": -1}, {"max_uses": -1}, {"label": "a\nb"}, {"label": "x" * 101}, {"ttl_seconds": 2**62}],
)
def test_a_token_beyond_the_limits_is_refused(world: World, fields: dict[str, Any]) -> None:
    request = Service.GeneratePairingTokenRequest(**fields)
    with world.daemon() as daemon:
        with pytest.raises(Refused) as refused:
            ask(world, f"{BACKREST}GeneratePairingToken", request, Service.GeneratePairingTokenResponse)
        assert refused.value.code == "invalid_argument"
        assert not daemon.config.current.multihost.pairing_tokens


def test_a_token_with_a_scope_that_is_none_is_refused(world: World) -> None:
    request = Service.GeneratePairingTokenRequest(label="x")
    request.permissions.add(type=1, scopes=["everything"])
    with world.daemon(), pytest.raises(Refused, match="is not a scope"):
        ask(world, f"{BACKREST}GeneratePairingToken", request, Service.GeneratePairingTokenResponse)

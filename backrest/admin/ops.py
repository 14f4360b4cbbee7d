"""The history: listed, shown, followed, imported into.

A list is sent in batches, so that neither end ever holds a history of a million operations. What is imported
becomes this instance's own: new ids, its name; what was one flow stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.peers import resolve
from backrest.admin.registry import Emit
from backrest.errors import BackrestError, UserError
from backrest.wire import codec

if TYPE_CHECKING:
    from backrest.store.oplog import Change, Meta, Query

Operation = wire.operations.Operation
OperationEvent = wire.operations.OperationEvent
Status = wire.operations.OperationStatus

# Some 300 KB of JSON: one write of the socket, one turn of the reader.
BATCH = 500

# Changes waiting for a caller of ``tail`` who reads slowly. More is memory that a stopped terminal could make
# us hold.
TAIL_QUEUE = 4096

# An import's line: an operation has well under a kilobyte, one with many errors some tens.
LONGEST_LINE = 16 * 1024 * 1024


def _query(
    context: Context,
    peer: str | None,
    repo_id: str | None,
    plan_id: str | None,
    status: Sequence[str] | None,
    since_ms: int,
) -> Query:
    from backrest.store.oplog import Query

    numbers: list[int] | None = None
    if status is not None:
        known = Status.keys()
        for name in status:
            if name not in known:
                raise UserError(f"there is no status {name!r} (there are: {', '.join(known)})")
        numbers = [Status.Value(name) for name in status]
    return Query(
        origin=None if peer is None else resolve(context, peer),
        repo_id=repo_id,
        plan_id=plan_id,
        status=numbers,
        since_ms=since_ms or None,
    )


async def list_operations(
    context: Context,
    emit: Emit,
    peer: str | None = None,
    repo_id: str | None = None,
    plan_id: str | None = None,
    status: list[str] | None = None,
    since_ms: int = 0,
    limit: int = 0,
) -> dict[str, Any]:
    """Operations that fit, by start time and id, in events of up to BATCH; the last ``limit`` of them, or all
    for 0.
    """
    import trio

    def select() -> tuple[list[int], bool]:
        wanted = _query(context, peer, repo_id, plan_id, status, since_ms)
        ids = context.oplog.select(wanted)
        more = 0 < limit < len(ids)
        return list(ids[-limit:] if more else ids), more

    def load(ids: Sequence[int]) -> list[dict[str, Any]]:
        return [codec.to_dict(operation) for operation in context.oplog.read(ids)]

    ids, more = await trio.to_thread.run_sync(select)
    for at in range(0, len(ids), BATCH):
        await emit({"operations": await trio.to_thread.run_sync(load, ids[at : at + BATCH])})
    return {"count": len(ids), "more": more}


def show(context: Context, op_id: int) -> dict[str, Any]:
    """One operation."""
    return {"operation": codec.to_dict(context.oplog.get(op_id))}


async def tail(
    context: Context,
    emit: Emit,
    peer: str | None = None,
    repo_id: str | None = None,
    plan_id: str | None = None,
    last: int = 10,
) -> dict[str, Any]:
    """The last operations, then every change as an OperationEvent, until the caller leaves."""
    import trio

    if context.daemon is None:
        raise UserError("no daemon runs here, so nothing can be followed: start `backrest serve`")
    origin = None if peer is None else await trio.to_thread.run_sync(resolve, context, peer)

    def fits(meta: Meta) -> bool:
        return (repo_id is None or meta.repo_id == repo_id) and (plan_id is None or meta.plan_id == plan_id)

    sender, changes = trio.open_memory_channel["Change"](TAIL_QUEUE)
    token = trio.lowlevel.current_trio_token()
    overflow = False

    def keep(change: Change) -> None:
        nonlocal overflow
        try:
            sender.send_nowait(change)
        except trio.WouldBlock:
            overflow = True

    def on_change(change: Change) -> None:  # in whichever thread made it
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(keep, change)

    unsubscribe = context.oplog.subscribe(on_change)  # before the list: nothing slips between
    try:
        await emit({"keepAlive": {}})  # from here on nothing is missed: whoever compares can begin
        if last:
            await list_operations(context, _as_created(emit), peer, repo_id, plan_id, limit=last)
        async for change in changes:
            if overflow:
                raise BackrestError("more happened than could be shown: start again")
            if origin is not None and change.origin != origin:
                continue
            event = change_event(change, fits)
            if event is not None:
                await emit(codec.to_dict(event))
    finally:
        unsubscribe()
    return {}


def _as_created(emit: Emit) -> Emit:
    async def created(event: dict[str, Any]) -> None:
        await emit({"createdOperations": {"operations": event["operations"]}})

    return created


def change_event(change: Change, fits: Callable[[Meta], bool]) -> OperationEvent | None:
    """The change as the message that peers get too, without what does not fit; None when nothing is left."""
    event = OperationEvent()
    if change.kind == "deleted":
        event.deleted_operations.values.extend(change.ids)
        return event
    if not any(fits(meta) for meta in change.metas):
        return None
    operations = [one for one, meta in zip(change.operations, change.metas, strict=True) if fits(meta)]
    target = event.created_operations if change.kind == "created" else event.updated_operations
    target.operations.extend(operations)
    return event


# --- import

_REQUIRED = ("repo_id", "plan_id", "unix_time_start_ms")
_JSON_NAMES = {field.name: field.json_name for field in Operation.DESCRIPTOR.fields}


def read_import(lines: Iterable[bytes]) -> tuple[list[dict[str, Any]], list[str]]:
    """(operations, problems) of a file of JSON lines. One problem a line; empty lines do not count."""
    import orjson

    operations: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > LONGEST_LINE:
            problems.append(f"line {number}: it is longer than {LONGEST_LINE >> 20} MiB")
            continue
        try:
            entry = orjson.loads(line)
            check_import(entry)
            operations.append(entry)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    return operations, problems


def check_import(entry: Any) -> Operation:
    """The operation; ValueError says what is wrong with it."""
    operation = codec.from_dict(Operation, entry)
    missing = [_JSON_NAMES[name] for name in _REQUIRED if not getattr(operation, name)]
    if missing:
        raise ValueError(f"the operation has no {' and no '.join(missing)}")
    if operation.unix_time_start_ms < 0:
        raise ValueError("its unixTimeStartMs is negative")
    if operation.snapshot_id and len(operation.snapshot_id) != 64:
        raise ValueError("its snapshotId has not 64 characters")
    if operation.repo_guid and len(operation.repo_guid) > 64:
        raise ValueError("its repoGuid has more than 64 characters")
    return operation


def import_operations(
    context: Context, operations: list[dict[str, Any]], flows: dict[str, int] | None = None
) -> dict[str, Any]:
    """Adds a batch as new operations of this instance. ``flows`` maps flow ids of the file to ours, from one
    batch of a file to the next. All or nothing for each batch that is right; UserError otherwise.
    """
    config = context.identified()
    guids = {repo.id: repo.guid for repo in config.repos if repo.guid}
    mapped = dict(flows or {})
    leaders: list[tuple[str, Operation]] = []
    followers: list[tuple[str, Operation]] = []
    for number, entry in enumerate(operations, 1):
        try:
            operation = check_import(entry)
        except ValueError as error:
            raise UserError(f"operation {number} cannot be imported: {error}") from None
        flow = str(operation.flow_id or operation.id or "")
        _make_own(operation, config.instance, guids)
        (followers if flow in mapped else leaders).append((flow, operation))
        if flow:
            mapped.setdefault(flow, 0)  # its number comes when its first operation is added
    return {"imported": _add(context, leaders, followers, mapped), "flows": mapped}


def _make_own(operation: Operation, instance: str, guids: Mapping[str, str]) -> None:
    for name in ("id", "modno", "flow_id", "original_id", "original_flow_id", "original_instance_keyid"):
        operation.ClearField(name)
    operation.instance_id = instance
    if not operation.repo_guid:
        operation.repo_guid = guids.get(operation.repo_id, "") or _guid_of(operation.repo_id)


def _guid_of(repo_id: str) -> str:
    # What the reference gives operations of a time when there were no guids (ENGINE.md 2.6).
    import hashlib

    return hashlib.sha256(repo_id.encode()).hexdigest()


def _add(
    context: Context,
    leaders: list[tuple[str, Operation]],
    followers: list[tuple[str, Operation]],
    mapped: dict[str, int],
) -> int:
    """The first of each flow gets the flow's number, then the others join it."""
    for (flow, _), stored in zip(leaders, context.oplog.add([op for _, op in leaders]), strict=True):
        if flow:
            mapped[flow] = stored.flow_id
    for flow, operation in followers:
        operation.flow_id = mapped[flow]
    if followers:
        context.oplog.add([operation for _, operation in followers])
    return len(leaders) + len(followers)

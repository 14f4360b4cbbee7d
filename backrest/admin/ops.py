"""The history: listed, shown, followed.

A list is sent in batches, so that neither end ever holds a history of a million operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backrest import wire
from backrest.admin.archive import archived_keys
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

# Some 300 KB of JSON: one write of the socket, one turn of the reader. And not far above 1 MiB: both ends hold it as
# objects, which take several times that.
BATCH = 500
BATCH_BYTES = 1 << 20

# Changes waiting for a caller of ``tail`` who reads slowly, and bytes of their lines. More is memory that a stopped
# terminal could make us hold.
TAIL_QUEUE = 4096
TAIL_BYTES = 8 << 20


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
    for 0. ``archived`` is true for those of a peer that was removed.
    """
    import trio

    def select() -> tuple[list[int], bool]:
        wanted = _query(context, peer, repo_id, plan_id, status, since_ms)
        ids = context.oplog.select(wanted)
        more = 0 < limit < len(ids)
        return list(ids[-limit:] if more else ids), more

    def load(ids: Sequence[int]) -> list[dict[str, Any]]:
        return [_shown(operation, gone) for operation in context.oplog.read(ids)]

    ids, more = await trio.to_thread.run_sync(select)
    gone = archived_keys(context)
    for some in context.oplog.pieces(ids, BATCH, BATCH_BYTES):
        await emit({"operations": await trio.to_thread.run_sync(load, some)})
    return {"count": len(ids), "more": more}


def _shown(operation: Operation, gone: set[str]) -> dict[str, Any]:
    """The operation, with ``archived`` when it came from one of the keys ``gone``."""
    shown = codec.to_dict(operation)
    if operation.original_instance_keyid in gone:
        shown["archived"] = True
    return shown


def show(context: Context, op_id: int) -> dict[str, Any]:
    """One operation."""
    return {"operation": _shown(context.oplog.get(op_id), archived_keys(context))}


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
    waiting = 0

    def keep(change: Change) -> None:
        nonlocal overflow, waiting
        try:
            if waiting and waiting + change.size > TAIL_BYTES:
                raise trio.WouldBlock
            sender.send_nowait(change)
            waiting += change.size
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
            waiting -= change.size
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

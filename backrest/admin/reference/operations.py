"""GetOperations, GetOperationEvents and ClearHistory.

Events: a caller that follows subscribes first and reads the present state then, so nothing may slip between; the
first keep-alive says that it is subscribed. What waits for a slow reader is bounded, and a reader that falls behind
that far gets an error as the end and is not waited for. It never misses a change without being told.

ClearHistory is for this instance's own history. What a client sent is the client's: it would be back with its next
manifest, so it is cleared there, or goes with ``client remove --purge``.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio
from google.protobuf.empty_pb2 import Empty

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.ops import change_event
from backrest.errors import Code, UserError
from backrest.net.connect import ConnectError
from backrest.store.oplog import Query
from backrest.wire import codec

if TYPE_CHECKING:
    from backrest.store.oplog import Change

Service = wire.service
OperationEvent = wire.operations.OperationEvent
OperationList = wire.operations.OperationList

KEEP_ALIVE_S = 60.0  # as the reference's
# What may wait for a reader: some 12,000 operations, or two of the largest commits of a first sync.
BUFFER_BYTES = 8 << 20
# A reader that fell behind may still take what is being sent to it, so that its end comes whole.
LAST_SEND_S = 5.0
AT_A_TIME = 100  # operations in a piece of an answer: some 60 KB of JSON
AT_A_TIME_BYTES = 1 << 20  # and not far above so many
DELETED_AT_A_TIME = 4096  # others write in between

FELL_BEHIND = (
    "more happened than was read: follow again, and then read the operations again with GetOperations"
)


def query(selector: Service.OpSelector) -> Query:
    """The reference's OpSelector as a query: ids, or the other filters, not both."""
    filters = [field.name for field, _ in selector.ListFields() if field.name != "ids"]
    if selector.ids and filters:
        raise UserError(f"a selector has ids or other filters, not both (it has {', '.join(filters)})")
    if selector.ids:
        return Query(ids=list(selector.ids))
    names = {"original_instance_keyid": "origin"}
    return Query(**{names.get(name, name): getattr(selector, name) for name in filters})


def get_operations(context: Context, request: Service.GetOperationsRequest, kind: str) -> Iterator[bytes]:
    """An OperationList by id, as "json" or "proto". Without a selector all (W-33); with ``last_n`` the newest by their
    start. Of a history of a million operations only the ids are held."""
    wanted = query(request.selector)
    if request.last_n > 0:
        wanted = replace(wanted, reversed=True, limit=request.last_n)
    ids = array("q", sorted(context.oplog.select(wanted)))
    opening = b'{"operations":['
    for piece in context.oplog.pieces(ids, AT_A_TIME, AT_A_TIME_BYTES):
        some = _read(context, wanted, piece)
        if not some.operations:  # deleted meanwhile
            continue
        if kind == "proto":
            yield some.SerializeToString()  # messages in a row are one, with all that is in their lists
        else:
            yield opening + b",".join(map(codec.dumps, some.operations))
            opening = b","
    if kind == "json":
        yield b"]}" if opening == b"," else b"{}"


def _read(context: Context, wanted: Query, ids: Sequence[int]) -> OperationList:
    some = OperationList()
    context.oplog.read_into(some.operations, ids)
    if wanted.snapshot_id is not None:  # the index knows its hash
        return OperationList(
            operations=[op for op in some.operations if op.snapshot_id == wanted.snapshot_id]
        )
    return some


class _Waiting:
    """Changes that wait for the reader; used in the event loop alone."""

    def __init__(self) -> None:
        self._changes: deque[tuple[Change, int]] = deque()
        self._bytes = 0
        self._some = trio.Event()
        self.overflowed = trio.Event()

    def put(self, change: Change) -> None:
        """One change alone may be larger than the bound: it is in memory already."""
        size = change.size
        if self.overflowed.is_set():
            return
        if self._changes and self._bytes + size > BUFFER_BYTES:
            self._changes.clear()
            self.overflowed.set()
        else:
            self._changes.append((change, size))
            self._bytes += size
        self._some.set()

    async def next(self) -> Change | None:
        """The oldest; None when nothing came for KEEP_ALIVE_S. ConnectError when some were lost."""
        with trio.move_on_after(KEEP_ALIVE_S):
            while not self._changes and not self.overflowed.is_set():
                self._some = trio.Event()
                await self._some.wait()
        if self.overflowed.is_set():
            raise ConnectError(Code.RESOURCE_EXHAUSTED, FELL_BEHIND)
        if not self._changes:
            return None
        change, size = self._changes.popleft()
        self._bytes -= size
        return change


async def get_operation_events(
    context: Context, _: Empty, send: Callable[[OperationEvent], Awaitable[None]]
) -> None:
    """Every change of every operation, own and received, until the caller leaves."""
    waiting = _Waiting()
    token = trio.lowlevel.current_trio_token()

    def on_change(change: Change) -> None:  # in whichever thread made it
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(waiting.put, change)

    unsubscribe = await trio.to_thread.run_sync(context.oplog.subscribe, on_change)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up, waiting, nursery.cancel_scope)
            await send(_keep_alive())
            while True:
                change = await waiting.next()
                await send(_keep_alive() if change is None else await _event(change))
    finally:
        unsubscribe()
    raise ConnectError(Code.RESOURCE_EXHAUSTED, FELL_BEHIND)


async def _give_up(waiting: _Waiting, scope: trio.CancelScope) -> None:
    await waiting.overflowed.wait()
    scope.deadline = trio.current_time() + LAST_SEND_S


def _keep_alive() -> OperationEvent:
    event = OperationEvent()
    event.keep_alive.SetInParent()
    return event


async def _event(change: Change) -> OperationEvent:
    event = await trio.to_thread.run_sync(change_event, change, lambda _: True)
    return event or _keep_alive()


def clear_history(context: Context, request: Service.ClearHistoryRequest) -> Empty:
    """Deletes what the selector means of this instance's own history, and of that of removed clients; with
    ``only_failed`` only what ended in an error. What runs right now stays.

    When nothing but what stays would be meant, or one of the ids is such, nothing is deleted and the answer says
    why. Else what stays is counted in the audit log.
    """
    if not request.HasField("selector"):
        raise UserError("the selector is missing; {} selects all of this instance's history")
    wanted = query(request.selector)
    if request.only_failed:
        wanted = replace(wanted, status=wire.operations.STATUS_ERROR)
    log = context.oplog
    clients = {peer.keyid: peer.instance_id for peer in context.config.current.multihost.authorized_clients}
    ids = log.select(wanted)
    running = set(log.select(Query(origin="", status=wire.operations.STATUS_INPROGRESS)))
    mine, names = [], set()
    for number in ids:
        meta = log.meta(number)
        if meta is not None and meta.origin in clients:
            names.add(clients[meta.origin])
        elif meta is not None and number not in running:
            mine.append(number)
    stay = len(ids) - len(mine)
    if stay and (wanted.ids is not None or not mine):
        if names:
            raise ConnectError(
                Code.FAILED_PRECONDITION,
                f"this is the history of {', '.join(sorted(names))}, and would be back with the next manifest: clear "
                "it there, or remove the client with `backrest client remove ID --purge`",
            )
        raise ConnectError(Code.FAILED_PRECONDITION, "this operation runs right now: cancel it first")
    context.ready_to_record()
    deleted = 0
    for start in range(0, len(mine), DELETED_AT_A_TIME):
        deleted += len(log.delete(mine[start : start + DELETED_AT_A_TIME]))
    if mine:
        context.record("history-cleared", operations=deleted, kept=stay)
    return Empty()

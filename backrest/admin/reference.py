"""The admin API under the reference's names, in JSON and in protobuf, so that curl and existing scripts work.

Each is a line or two around a use case. Configurations go out masked (the reference sends passwords in
clear).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from backrest import wire
from backrest.admin import faults, tokens
from backrest.admin.context import Context
from backrest.errors import UserError
from backrest.net.connect import Stream, Unary, UnaryRequest
from backrest.store.mask import config_masked
from backrest.store.oplog import Query
from backrest.wire import codec

Service = wire.service
OperationList = wire.operations.OperationList


def routes(context: Context) -> dict[str, Unary | Stream]:
    """Path and handler of each method."""
    table: dict[str, tuple[type[Message], Callable[[Context, Message], Message]]] = {
        "/v1.Backrest/GetConfig": (Empty, _get_config),
        "/v1.Backrest/GetOperations": (Service.GetOperationsRequest, _get_operations),
        "/v1.Backrest/GeneratePairingToken": (Service.GeneratePairingTokenRequest, _generate_pairing_token),
    }
    return {path: Unary(partial(_unary, context, *entry)) for path, entry in table.items()}


async def _unary(
    context: Context,
    kind: type[Message],
    function: Callable[[Context, Message], Message],
    request: UnaryRequest,
) -> bytes:
    def work() -> bytes:
        answer = function(context, _parse(kind, request))
        return codec.dumps(answer) if request.codec == "json" else answer.SerializeToString()

    with faults.as_connect():
        return await trio.to_thread.run_sync(work)


def _parse(kind: type[Message], request: UnaryRequest) -> Message:
    try:
        if request.codec == "json":
            return codec.loads(kind, request.body or b"{}")
        return kind.FromString(request.body)
    except (ValueError, DecodeError) as error:
        raise UserError(f"the request cannot be read: {error}") from None


def _get_config(context: Context, _: Message) -> Message:
    return config_masked(context.config.current)


def query(selector: wire.service.OpSelector) -> Query:
    """The reference's OpSelector as a query: ids, or the other filters, not both."""
    filters = [field.name for field, _ in selector.ListFields() if field.name != "ids"]
    if selector.ids and filters:
        raise UserError(f"a selector has ids or other filters, not both (it has {', '.join(filters)})")
    if selector.ids:
        return Query(ids=list(selector.ids))
    names = {"original_instance_keyid": "origin"}
    return Query(**{names.get(name, name): getattr(selector, name) for name in filters})


def _get_operations(context: Context, request: Message) -> Message:
    assert isinstance(request, Service.GetOperationsRequest)
    if not request.HasField("selector"):
        raise UserError("the selector is missing; {} selects everything")
    wanted = query(request.selector)
    if request.last_n > 0:
        wanted = _newest(wanted, request.last_n)
    found = sorted(context.oplog.query(wanted), key=lambda operation: operation.id)
    return OperationList(operations=found)


def _newest(wanted: Query, count: int) -> Query:
    from dataclasses import replace

    return replace(wanted, reversed=True, limit=count)


def _generate_pairing_token(context: Context, request: Message) -> Message:
    assert isinstance(request, Service.GeneratePairingTokenRequest)
    made = tokens.make(
        context,
        request.label,
        max(0, request.ttl_seconds),
        request.max_uses,
        list(request.permissions),
        unique=False,
    )
    return Service.GeneratePairingTokenResponse(token=made["token"])

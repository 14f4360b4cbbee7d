"""The admin API, which the daemon serves on its Unix socket: every use case, and the reference's names beside
them.

``/backrest.Admin/<Method>`` takes the arguments as one JSON object: unary, or as Connect's server streaming
for those that report on their way (events, and last ``{"result": ...}``). Who may open the socket may do
everything: it is 0600 in a directory of mode 0700. A caller that leaves cancels what it asked for, unless
that is one step of a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
import trio

from backrest.admin import faults, reference, streaming
from backrest.admin.client import SERVICE
from backrest.admin.context import Context, following_up
from backrest.admin.registry import METHODS, Method, arguments
from backrest.errors import Code, UserError
from backrest.net.connect import ConnectApp, ConnectError, ConnectStream, Stream, Unary, UnaryRequest


def admin_app(context: Context) -> ConnectApp:
    """The ASGI application of the admin socket."""
    routes: dict[str, Unary | Stream] = {}
    for name, method in METHODS.items():
        if method.daemonless:
            routes[SERVICE + name] = Unary(_needs_no_daemon)
        elif method.reports:
            routes[SERVICE + name] = Stream(partial(_report, context, method), http2_only=False)
        else:
            routes[SERVICE + name] = Unary(partial(_answer, context, method))
    return ConnectApp(routes | reference.routes(context))


async def _needs_no_daemon(_: UnaryRequest) -> bytes:
    raise ConnectError(Code.FAILED_PRECONDITION, "the daemon has this file open: stop it first")


async def _answer(context: Context, method: Method, request: UnaryRequest) -> bytes:
    function = method.load()
    with faults.as_connect():
        given = arguments(function, _parse(request.codec, request.body))
        # A step that has begun finishes, whoever leaves. Only what merely reads is given up when the daemon ends:
        # the check of a long history would hold it up for half a minute.
        work = partial(function, context, **given)
        with following_up() as unfinished:
            result = await trio.to_thread.run_sync(work, abandon_on_cancel=method.only_reads)
    return orjson.dumps(result | context.remarks(unfinished))


async def _report(context: Context, method: Method, stream: ConnectStream) -> None:
    function = method.load()

    async def handle(request: bytes, send: streaming.Send) -> None:
        given = arguments(function, _parse(stream.codec, request))

        async def emit(event: dict[str, Any]) -> None:
            await send(orjson.dumps(event))

        with following_up() as unfinished:
            result = await function(context, emit, **given)
        await emit({"result": result | context.remarks(unfinished)})

    await streaming.answer(stream, handle)


def _parse(codec: str, body: bytes) -> Mapping[str, Any]:
    if codec != "json":
        raise UserError("these methods are JSON only")
    try:
        given = orjson.loads(body) if body else {}
    except ValueError:
        raise UserError("the request is not JSON") from None
    if not isinstance(given, dict):
        raise UserError("the request must be a JSON object of arguments")
    return given

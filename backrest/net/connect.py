"""The Connect protocol on ASGI: unary calls and streams, and the HTTP answers to everything else.

One table of routes decides what exists. A request is checked in a fixed order, and the first thing wrong with
it is the answer: path (404), HTTP version (505, a route may need HTTP/2), method (405), content type (415),
Connect version, compression, timeout. What a route's handler then does is its own; whatever it raises ends
its request and nothing else.

Facts: the Connect protocol's specification ("Unary-Request", "Streaming-RPCs", "Error Codes"). Nothing here
knows messages: bodies and envelopes pass as bytes.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import orjson
import trio

from backrest.errors import Code
from backrest.net.connectstream import CODECS, FINAL_SEND_S, ConnectError, ConnectStream, end_of_stream
from backrest.net.h2server import log_failure
from backrest.net.h2stream import H2Stream, Message, Scope

__all__ = ["ConnectApp", "ConnectError", "ConnectStream", "Stream", "Unary", "UnaryRequest"]

log = logging.getLogger("backrest.net")

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# A unary body, decompressed. The largest is a file of operations to import (about 660 bytes each).
MAX_BODY = 64 * 1024 * 1024

# How long a unary request's body may take to come: a slow sender holds what it has sent in our memory.
BODY_S = 60.0

ENCODINGS = ("gzip", "identity")

# Connect's table of codes (Connect protocol, "Error Codes").
HTTP_STATUS = {
    Code.CANCELED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


@dataclass(frozen=True, slots=True)
class UnaryRequest:
    path: str
    body: bytes = field(repr=False)  # decompressed; may hold secrets
    codec: str  # "proto" or "json"
    headers: Mapping[str, str] = field(repr=False)
    client: str  # the socket's peer address, "" for a Unix socket


# An answer's body. A large one comes in pieces, made in a thread as the client takes them; what fails between two of
# them breaks the answer off, which no client takes for its end.
Body = bytes | Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one answer. The handler may raise ConnectError."""

    handler: Callable[[UnaryRequest], Awaitable[Body]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Envelopes both ways. The handler writes its own end-of-stream message, unless it raises."""

    handler: Callable[[ConnectStream], Awaitable[None]]
    http2_only: bool = True


@dataclass(frozen=True, slots=True)
class _Call:
    """What all the checks and both kinds of handlers need of a request."""

    path: str
    headers: dict[str, str]
    codec: str
    content_type: str
    client: str
    receive: Receive
    send: Send
    direct: H2Stream | None  # the stream itself, where it is one of HTTP/2


class ConnectApp:
    """An ASGI application that serves ``routes`` (exact paths) and nothing else."""

    def __init__(self, routes: Mapping[str, Unary | Stream], *, max_body: int = MAX_BODY) -> None:
        self._routes = dict(routes)
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                await self._request(scope, receive, send)
            except OSError as error:
                log.debug("%s: the client left: %s", scope["path"][:80], error)
        else:
            raise RuntimeError(f"no {scope['type']} here")

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"])
        if route is None:
            await _answer(send, 404)
            return
        streams = isinstance(route, Stream)
        if isinstance(route, Stream) and route.http2_only and scope["http_version"] != "2":
            await _answer(send, 505, {"connection": "close"})
            return
        if scope["method"] != "POST":
            await _answer(send, 405, {"allow": "POST"})
            return
        headers = _headers(scope)
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        served = {kind.media_type(streams): kind.name for kind in CODECS}
        if content_type not in served:
            await _answer(send, 415, {"accept-post": ", ".join(sorted(served))})
            return
        client = scope.get("client")
        call = _Call(
            path=scope["path"],
            headers=headers,
            codec=served[content_type],
            content_type=content_type,
            client=client[0] if client else "",
            receive=receive,
            send=send,
            direct=scope.get("extensions", {}).get("backrest.stream"),
        )
        if isinstance(route, Stream):
            await _stream(route, call)
        else:
            await self._unary(route, call)

    async def _unary(self, route: Unary, call: _Call) -> None:
        content_type = call.content_type
        try:
            _check_version(call.headers)
            encoding = _check_encoding(call.headers.get("content-encoding", ""))
            timeout = parse_timeout(call.headers.get("connect-timeout-ms"))
            body: Body = await self._run_unary(route, call, encoding, timeout)
            status = 200
        except ConnectError as error:
            status, content_type = HTTP_STATUS[error.code], "application/json"
            body = orjson.dumps({"code": error.code, "message": error.message})
        await _answer(call.send, status, {"content-type": content_type}, body)

    async def _run_unary(self, route: Unary, call: _Call, encoding: str, timeout_s: float | None) -> Body:
        answer: Body | None = None
        with trio.move_on_after(timeout_s if timeout_s is not None else float("inf")):
            body = _decompress(await self._read_body(call), encoding, self._max_body)
            request = UnaryRequest(call.path, body, call.codec, call.headers, call.client)
            try:
                answer = await route.handler(request)
            except ConnectError:
                raise
            except Exception as error:
                # Its text could name what a caller must not see (a path, a secret): it goes to the log only.
                log_failure(f"the handler of {call.path} failed", error)
                raise ConnectError(Code.INTERNAL, "the server failed; its log says why") from error
        if answer is None:
            raise ConnectError(Code.DEADLINE_EXCEEDED, f"not done within {timeout_s} s")
        return answer

    async def _read_body(self, call: _Call) -> bytes:
        body = bytearray()
        with trio.move_on_after(BODY_S):
            while True:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise BrokenPipeError("the client left before its request was complete")
                body += message.get("body", b"")
                if len(body) > self._max_body:
                    raise ConnectError(Code.RESOURCE_EXHAUSTED, f"a request may have {self._max_body} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
        raise ConnectError(Code.DEADLINE_EXCEEDED, f"the request's body did not come within {BODY_S:.0f} s")


async def _stream(route: Stream, call: _Call) -> None:
    """The head at once: the client may wait for it before it says anything."""
    head = [(b"content-type", call.content_type.encode()), (b"connect-accept-encoding", b"gzip")]
    await call.send({"type": "http.response.start", "status": 200, "headers": head})
    end: ConnectError | None = None
    try:
        _check_version(call.headers)
        encoding = _check_encoding(call.headers.get("connect-content-encoding", ""))
        timeout_s = parse_timeout(call.headers.get("connect-timeout-ms"))
        stream = ConnectStream(
            path=call.path,
            codec=call.codec,
            encoding=encoding,
            headers=call.headers,
            client=call.client,
            timeout_s=timeout_s,
            receive=call.receive,
            send=call.send,
            direct=call.direct,
        )
        end = await stream.run(route.handler)
    except ConnectError as error:
        end = error
    # The handler's reader is stopped by now, so the disconnect that this very message brings disturbs nobody.
    with trio.move_on_after(FINAL_SEND_S):
        body = end_of_stream(end) if end is not None else b""
        await call.send({"type": "http.response.body", "body": body, "more_body": False})


def _headers(scope: Scope) -> dict[str, str]:
    """Lower-case names; a repeated header's values joined by a comma (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _check_version(headers: Mapping[str, str]) -> None:
    version = headers.get("connect-protocol-version", "1")  # optional: curl does not send it
    if version != "1":
        raise ConnectError(Code.INVALID_ARGUMENT, f"connect-protocol-version is {version[:20]!r}, not 1")


def _check_encoding(name: str) -> str:
    encoding = name.strip().lower() or "identity"
    if encoding not in ENCODINGS:
        raise ConnectError(
            Code.UNIMPLEMENTED, f"unknown compression {encoding[:20]!r}: supported are {', '.join(ENCODINGS)}"
        )
    return encoding


def parse_timeout(text: str | None) -> float | None:
    """connect-timeout-ms in seconds; None when absent. ConnectError unless it is 1 to 10 digits."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ConnectError(Code.INVALID_ARGUMENT, f"connect-timeout-ms is {text[:20]!r}, not 1 to 10 digits")
    return int(text) / 1000


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """A gzip body may unpack to a thousand times its size, so it is unpacked only up to the limit."""
    if encoding == "identity" or not body:
        return body
    unpacker = zlib.decompressobj(wbits=31)  # gzip's header and checksum
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"the gzip body is damaged: {error}") from error
    if len(plain) > limit:
        raise ConnectError(Code.RESOURCE_EXHAUSTED, f"a request may unpack to {limit} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise ConnectError(Code.INVALID_ARGUMENT, "the gzip body is cut off or followed by something else")
    return plain


async def _answer(
    send: Send, status: int, headers: Mapping[str, str] | None = None, body: Body = b""
) -> None:
    fields = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    if isinstance(body, bytes):
        fields.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    if not isinstance(body, bytes):
        while piece := await trio.to_thread.run_sync(next, body, b""):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return

"""The client's side of the network: an httpx transport whose requests and responses run at the same time.

Rule: httpx is the public face (its URLs, headers, errors, and `DuplexTransport` for any of its clients); the
connection itself is in h2client.py, the way to it in dial.py. Here stands, too, what an unexpected answer
means to a person.

`open_stream` asks the transport directly: `AsyncClient.send` returns only with the response's headers, the
reference hub sends those only with its first message, and that is an answer to the client's first.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType

import httpx
import trio

from backrest.net.dial import GoAway, NetError, parse_url, place, reach, rpc_url, secure, speaks_tls
from backrest.net.h2client import Connection

__all__ = ["DuplexStream", "DuplexTransport", "GoAway", "NetError", "open_stream", "parse_url", "rpc_url"]

CONNECT_TIMEOUT = 15.0  # s for DNS, TCP and TLS together, and again for the server's first byte

Connect = Callable[[httpx.URL], Awaitable[trio.abc.Stream]]


class DuplexTransport(httpx.AsyncBaseTransport):
    """HTTP/2 in full duplex for ``httpx.AsyncClient(transport=DuplexTransport(), timeout=None)``, on trio.

    The request's body (an async iterator) is sent while the response is read. Each request has a connection
    of its own: the streams here live for days, and must not fall with one another. ``http://`` is HTTP/2
    by prior knowledge, ``https://`` needs TLS with ALPN ``h2``; other schemes are refused. ``ca_file`` (or
    SSL_CERT_FILE) replaces the system's certificate authorities.

    HTTP_PROXY, HTTPS_PROXY and their like are ignored on purpose: such proxies are made for short requests
    and would cut a stream that lives for days; whoever needs one opens a tunnel below TCP.

    Of httpx's timeouts only ``connect`` is heard: silence is normal on a duplex stream, and trio's cancel
    scopes end what the caller does not want to wait for. Enter it before use (``async with``, as AsyncClient
    does by itself). ``connect`` replaces the dialling, for tests.
    """

    def __init__(
        self,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        connect: Connect | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._connect_timeout = connect_timeout
        self._connect = connect
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self._open: set[Connection] = set()

    async def __aenter__(self) -> DuplexTransport:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close all connections. The nursery never sees the caller's exception: it would wrap it."""
        assert self._nursery is not None
        await self.aclose()
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        await self._manager.__aexit__(None, None, None)

    async def aclose(self) -> None:
        while self._open:
            await self._close(next(iter(self._open)))

    async def open(self, request: httpx.Request) -> DuplexStream:
        """Connect and send the request's headers. The caller sends the body on the stream returned."""
        connection = await self._start(request, None)
        return DuplexStream(connection, request.headers.get("content-type"), self._close)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        connection = await self._start(request, request.stream.__aiter__())
        try:
            await connection.wait_headers()
        except BaseException:
            await self._close(connection)
            raise
        assert connection.status is not None
        body = _ResponseBody(connection, self._close)
        extensions = {"http_version": b"HTTP/2"}
        return httpx.Response(
            connection.status, headers=connection.headers, stream=body, extensions=extensions
        )

    async def _start(self, request: httpx.Request, body: AsyncIterator[bytes] | None) -> Connection:
        if self._nursery is None:
            raise RuntimeError("enter the transport with 'async with' before the first request")
        url = request.url
        if url.scheme not in ("http", "https"):
            raise NetError(f"the scheme of {url} must be https or http")
        limit = request.extensions.get("timeout", {}).get("connect") or self._connect_timeout
        stream: trio.abc.Stream | None = None
        failure = f"no connection to {place(url)} within {limit:g} s: is it up, and does a firewall drop the packets?"
        with trio.move_on_after(limit):
            if self._connect:
                stream = await self._connect(url)
            else:
                tcp = await reach(url)
                failure = f"{place(url)} accepted the connection and then said nothing to TLS for {limit:g} s"
                stream = await secure(url, tcp, ca_file=self._ca_file)
        if stream is None:
            raise NetError(failure)
        ask = speaks_tls if url.scheme == "http" and not self._connect else None
        connection = Connection(request, stream, limit, ask)
        self._open.add(connection)
        self._nursery.start_soon(_run, connection, body if connection.has_body else None)
        return connection

    async def _close(self, connection: Connection) -> None:
        self._open.discard(connection)
        await connection.close()


async def _run(connection: Connection, body: AsyncIterator[bytes] | None) -> None:
    if body is None:
        await connection.run()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_body, connection, body)
        await connection.run()
        nursery.cancel_scope.cancel()


async def _send_body(connection: Connection, body: AsyncIterator[bytes]) -> None:
    """A body that raises ends its own stream, not the program: the response's reader is told."""
    try:
        async for data in body:
            await connection.send(data)
            if connection.ended:
                break
        await connection.end()
    except NetError as exc:
        connection.abandon(exc)  # as a rule the connection's own, which whoever reads is told anyway
    except Exception as exc:
        failure = NetError(f"the request's body failed: {exc!r}")
        failure.__cause__ = exc
        connection.abandon(failure)
    finally:
        if isinstance(body, AsyncGenerator):
            with trio.CancelScope(shield=True):
                await body.aclose()


class _ResponseBody(httpx.AsyncByteStream):
    def __init__(self, connection: Connection, close: Callable[[Connection], Awaitable[None]]) -> None:
        self._connection = connection
        self._close = close

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while data := await self._connection.receive():
            yield data

    async def aclose(self) -> None:
        await self._close(self._connection)


class DuplexStream:
    """One request and its response, both open. See `open_stream`.

    One task may send while another receives. Every call may be cancelled and repeated: nothing gets lost.
    """

    def __init__(
        self, connection: Connection, content_type: str | None, close: Callable[[Connection], Awaitable[None]]
    ) -> None:
        self._connection = connection
        self._content_type = content_type
        self._close = close

    @property
    def status(self) -> int | None:
        """The HTTP status, None while no response headers have come."""
        return self._connection.status

    @property
    def response_headers(self) -> httpx.Headers:
        return self._connection.headers

    @property
    def goaway(self) -> bool:
        """The server sent GOAWAY: reconnect, whatever the stream's end looked like."""
        return self._connection.goaway

    async def send(self, data: bytes) -> None:
        """Send ``data`` in order; waits while the server's window and 64 KiB of ours are full (backpressure).

        Raises what ended the connection. Once the response has ended it does nothing: `receive` tells why.
        """
        await self._connection.send(data)

    @property
    def has_room(self) -> bool:
        """Whether ``send`` would not wait."""
        return self._connection.has_room

    def put(self, data: bytes) -> None:
        """As ``send``, without waiting: for who looks at ``has_room`` first."""
        self._connection.put(data)

    async def wait_room(self) -> None:
        """Until ``has_room``. Raises what ended the connection."""
        await self._connection.wait_room()

    async def end(self) -> None:
        """END_STREAM: no more will be sent. Returns when everything is on its way; `receive` goes on."""
        await self._connection.end()

    async def wait_response(self) -> int:
        """Wait for the response's headers. NetError when they do not promise the kind of stream asked for."""
        await self._connection.wait_headers()
        status = self._connection.status
        assert status is not None
        if problem := _wrong_answer(
            self._connection.url, status, self._connection.headers, self._content_type
        ):
            raise NetError(problem, absent=status in (502, 503))  # a proxy says it of what is behind it
        return status

    async def receive(self) -> bytes:
        """What came next, at least a byte; b"" is the server's END_STREAM.

        Raises NetError (see `wait_response`, too) and GoAway, after all that came before has been handed out.
        """
        await self.wait_response()
        return await self._connection.receive()

    async def aclose(self) -> None:
        """Leave: RST_STREAM if the stream is open, GOAWAY, and the connection closed, all within a second."""
        await self._close(self._connection)


@asynccontextmanager
async def open_stream(
    url: str,
    *,
    headers: Mapping[str, str],
    ca_file: str | os.PathLike[str] | None = None,
    connect_timeout: float = CONNECT_TIMEOUT,
    connect: Connect | None = None,
) -> AsyncGenerator[DuplexStream, None]:
    """POST to ``url`` in full duplex; ready to send as soon as the connection stands, before any response.

    Entering raises NetError when there is no way to the server; what the server makes of the request comes
    out of `wait_response` and `receive`. Leaving closes the stream. The block's exceptions pass unwrapped.
    """
    target = parse_url(url)
    async with DuplexTransport(
        ca_file=ca_file, connect_timeout=connect_timeout, connect=connect
    ) as transport:
        request = httpx.Request(
            "POST", target, headers={**headers, "transfer-encoding": "chunked"}, stream=_NoBody()
        )
        yield await transport.open(request)


class _NoBody(httpx.AsyncByteStream):
    """Keeps httpx from adding ``content-length: 0``: the body is sent by hand."""

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return
        yield


_ANSWERS = {
    401: "asks for a login: whatever proxy stands there must let the sync path through",
    403: "forbids the sync path: whatever proxy stands there must let it through",
    404: "does not know {path}: is the URL right, and does the proxy forward {service}?",
    405: "does not take a POST at {path}: something else than a Backrest hub answers there",
    408: "waited too long for the request: a proxy's timeout on the request is too short for a stream",
    413: "limits the size of a request: the proxy must not, on {service}",
    415: "does not know the sync stream's content type: something else than a Backrest hub answers there",
    421: "does not serve the name {host}: is the name in the URL that of the certificate?",
    429: "refuses for now: too many requests",
    500: "failed inside",
    502: "cannot reach the hub behind it (or not over h2c): is the hub running?",
    503: "has no hub to forward to at the moment",
    504: "got no answer from the hub behind it in time",
    505: "got the request over HTTP/1.1: the proxy must speak HTTP/2 (h2c) to the hub",
}


def _wrong_answer(
    url: httpx.URL, status: int, headers: httpx.Headers, content_type: str | None
) -> str | None:
    """What to tell a person about a response that is not the stream asked for; None when it is."""
    got = headers.get("content-type", "")
    if status == 200:
        if content_type is None or got.partition(";")[0].strip().lower() == content_type.lower():
            return None
        what = f"of the type {got[:60]!r}" if got else "of no type"
        return f"{place(url)} answered with something {what}, not with a sync stream: is the URL right?"
    service = url.path.rpartition("/")[0] + "/"
    if 300 <= status < 400:
        text = (
            f"redirects to {headers.get('location', 'elsewhere')[:100]!r}: put the final address into the URL"
        )
    else:
        text = _ANSWERS.get(status, "did not accept the request")
    by = headers.get("server", "")[:40]
    said = text.format(path=url.path, service=service, host=url.host) if status in _ANSWERS else text
    return f"{place(url)} {said} (status {status}{f' from {by}' if by else ''})"

"""HTTP/2 for a suite that must be able to misbehave: a thin, unhardened layer on h2 and trio, both ends.

`Connection` reads by itself and wakes whoever waits; it sends what it is told to, also bytes that h2 would refuse
(``write_raw``). Nothing is validated that a case may want to send wrong or see wrong.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

from conformance.model import Failed

Headers = list[tuple[str, str]]

DATA, HEADERS, RST_STREAM, PING, GOAWAY, CONTINUATION = 0, 1, 3, 6, 7, 9  # frame types
END_STREAM_FLAG, END_HEADERS_FLAG, PADDED_FLAG = 0x1, 0x4, 0x8


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame's bytes, whether h2 would send it or not."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


class Broken(Exception):
    """The stream cannot be written to any more."""


class RawStream:
    """One HTTP/2 stream."""

    def __init__(self, connection: Connection, id: int, headers: Headers | None = None) -> None:
        self.connection = connection
        self.id = id
        self.headers: dict[str, str] | None = None if headers is None else dict(headers)
        self.ended = False
        self.reset: int | None = None
        self.credit = True
        """Give flow-control credit back at once; False plays a peer that does not read."""
        self._data: deque[bytes] = deque()
        self._owed = 0

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None or self.connection.closed

    @property
    def status(self) -> int:
        assert self.headers is not None
        return int(self.headers[":status"])

    async def response(self) -> dict[str, str]:
        """The response's headers; Failed when the stream ends before."""
        await self.connection.until(lambda: self.headers is not None or self.over)
        if self.headers is None:
            raise Failed("the stream ended before any response headers")
        return self.headers

    async def receive(self) -> bytes | None:
        """The next bytes; None when there are no more (see ended, reset, connection.closed)."""
        await self.connection.until(lambda: self._data or self.over)
        return self._data.popleft() if self._data else None

    async def body(self) -> bytes:
        """All that comes until the stream ends."""
        parts = []
        while (data := await self.receive()) is not None:
            parts.append(data)
        return b"".join(parts)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send within the flow-control windows; Broken when the other side is gone."""
        h2c = self.connection.h2
        view = memoryview(data)
        while view:
            await self.connection.until(
                lambda: self.reset is not None or self.connection.closed or self.window > 0
            )
            if self.reset is not None or self.connection.closed:
                raise Broken
            size = min(self.window, h2c.max_outbound_frame_size, len(view))
            part, view = bytes(view[:size]), view[size:]
            await self._try(partial(h2c.send_data, self.id, part))
        if end:
            await self._try(lambda: h2c.send_data(self.id, b"", end_stream=True))

    @property
    def window(self) -> int:
        try:
            return self.connection.h2.local_flow_control_window(self.id)
        except h2.exceptions.ProtocolError:
            return 1  # closed: the sender finds out by sending

    async def respond(self, headers: Headers, *, end: bool = False) -> None:
        await self._try(lambda: self.connection.h2.send_headers(self.id, headers, end_stream=end))

    async def abort(self, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        try:
            self.connection.h2.reset_stream(self.id, code)
        except h2.exceptions.ProtocolError:
            return
        await self.connection.flush()

    async def pay(self) -> None:
        """Give back all credit that is owed, and from now on give it at once."""
        self.credit = True
        if self._owed:
            owed, self._owed = self._owed, 0
            await self._try(lambda: self.connection.h2.acknowledge_received_data(owed, self.id))

    async def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except h2.exceptions.ProtocolError as error:
            raise Broken from error
        await self.connection.flush()

    def _got(self, data: bytes, flow: int) -> None:
        if data:
            self._data.append(data)
        if self.credit and flow and not self.ended:
            self.connection.h2.acknowledge_received_data(flow, self.id)
        else:
            self._owed += flow


class Connection:
    """One HTTP/2 connection. ``run`` must be running; it returns when the connection is closed."""

    def __init__(self, transport: trio.abc.Stream, *, client: bool, window: int = 1 << 20) -> None:
        self.transport = transport
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding="latin-1",
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        values = {
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1000,
        }
        self.h2.local_settings = h2.settings.Settings(client=client, initial_values=values)
        self.streams: dict[int, RawStream] = {}
        self.closed = False
        self.goaway: int | None = None
        self.error = ""
        self.requests_send, self.requests = trio.open_memory_channel[RawStream](1000)
        self._pongs = 0
        self._changed = trio.Event()
        self._sending = trio.Lock()

    async def start(self) -> None:
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(16 << 20)
        await self.flush()

    async def run(self) -> None:
        try:
            while True:
                data = await self.transport.receive_some(65536)
                if not data:
                    break
                for event in self.h2.receive_data(data):
                    self._handle(event)
                await self.flush()
                self._wake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except h2.exceptions.ProtocolError as error:
            self.error = f"the other side broke HTTP/2: {type(error).__name__}: {error}"
        finally:
            self.closed = True
            self._wake()

    def _handle(self, event: h2.events.Event) -> None:
        stream_id = getattr(event, "stream_id", None)
        stream = self.streams.get(stream_id) if stream_id else None
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            stream = RawStream(self, event.stream_id, _pairs(event.headers))
            self.streams[stream.id] = stream
            self.requests_send.send_nowait(stream)
        elif isinstance(event, h2.events.PingAckReceived):
            self._pongs += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(_pairs(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            stream._got(event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until ``holds()``; it is asked after each read."""
        while not holds():
            await self._changed.wait()

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.write_raw(data)

    async def write_raw(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self.transport.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.closed = True
            self._wake()

    async def open(self, headers: Headers, *, end: bool = False) -> RawStream:
        try:
            stream = RawStream(self, self.h2.get_next_available_stream_id())
            self.streams[stream.id] = stream
            self.h2.send_headers(stream.id, headers, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise Broken from error
        await self.flush()
        return stream

    async def ping(self) -> None:
        """Return when the other side has answered a PING; Failed when it is gone."""
        before = self._pongs
        try:
            self.h2.ping(b"conforms")
        except h2.exceptions.ProtocolError:
            raise Failed("the connection was closed") from None
        await self.flush()
        await self.until(lambda: self._pongs > before or self.closed)
        if self._pongs == before:
            raise Failed("the connection was closed instead of answering a PING")

    async def go_away(self) -> None:
        """Announce the end of the connection (NO_ERROR) without closing anything."""
        last = max(self.streams, default=0)
        await self.write_raw(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4)))

    async def close(self) -> None:
        self.closed = True
        await trio.aclose_forcefully(self.transport)


def _pairs(headers: object) -> Headers:
    return [(_text(name), _text(value)) for name, value in headers]  # type: ignore[attr-defined]


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


async def open_transport(url: str, ca_file: str | None = None, alpn: str = "h2") -> trio.abc.Stream:
    """TCP to the URL's host, with TLS and ALPN for https://."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    tcp = await trio.open_tcp_stream(host, parts.port or (443 if parts.scheme == "https" else 80))
    if parts.scheme != "https":
        return tcp
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols([alpn])
    tls = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
    await tls.do_handshake()
    return tls


@asynccontextmanager
async def connect(
    url: str, ca_file: str | None = None, *, window: int = 1 << 20
) -> AsyncIterator[Connection]:
    """A client's connection for the length of the block."""
    transport = await open_transport(url, ca_file)
    connection = Connection(transport, client=True, window=window)
    try:
        async with trio.open_nursery() as nursery:
            await connection.start()
            nursery.start_soon(connection.run)
            yield connection
            # Not in a finally: a scope that is cancelled while the case's exception passes could swallow it.
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await connection.close()

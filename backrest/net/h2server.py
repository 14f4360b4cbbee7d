"""The HTTP/2 side of the server: what takes the place of Hypercorn's H2Protocol.

One connection is one H2Protocol: a reader, a single writer, and a task for each request's application. Three
rules keep peers apart from each other and from us.

- Only the writer writes to the socket. Reader and applications leave what they have (``_out`` for frames of
  the protocol, each stream's outbox for bodies), so nobody waits behind somebody else's write, and the order
  of the bytes is the order in which h2 made them: a GOAWAY cannot overtake an END_STREAM.
- The reader never waits for an application. What an application does not take is bounded by its stream's
  window, which is small until the peer is let in, and counted (net/crowd). Credit of the connection goes back at
  once: who is not read holds nothing that others need. The reader waits only while ``_out`` is long, that is when
  the peer makes us answer and does not read.
- Nothing here raises because of a peer. A malformed request is reset, a broken protocol ends the connection
  with GOAWAY, and each says so in one line.

What is absent: server push, trailers and priorities (nobody here uses them; h2 parses and we ignore them),
and extended CONNECT (no WebSockets).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from backrest.net.crowd import Crowd, Guest
from backrest.net.h2guard import FloodError, FrameGuard
from backrest.net.h2settings import ServerSettings, open_h2
from backrest.net.h2stream import H2Stream, Message, Scope, build_scope, check_trailers, declared_length
from backrest.net.tcp import close_now

log = logging.getLogger("backrest.net")

# hpack logs each header, whole, at DEBUG: noise, and a secret is among them sooner or later.
logging.getLogger("hpack").setLevel(logging.WARNING)

App = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

RECEIVE_SIZE = 64 * 1024  # one read of the socket
WRITE_SIZE = 128 * 1024  # one write: two streams' HIGH_WATER, and a system call is not the cost any more

# A peer may allow frames of 16 MiB; the other streams of the connection should not wait for one.
FRAME_SIZE = 64 * 1024

# Frames of the protocol that wait for a peer which does not read (answers to its PINGs, resets, credit).
# Longer than that, we do not read from it either.
OUT_LIMIT = 64 * 1024

# What h2 keeps of each stream that has ended, up to ServerConnection.MAX_CLOSED_STREAMS of them.
CLOSED_COST = 100

# How long a connection that is over may still drain: closing a socket with unread data in it sends a TCP
# reset, which would destroy the last thing we said.
LINGER_S = 1.0


class H2Protocol:
    """Serves one HTTP/2 connection. ``run`` returns when it is over and its applications are done."""

    def __init__(
        self,
        app: App,
        transport: trio.abc.Stream,
        *,
        settings: ServerSettings,
        scheme: str,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        extra_headers: Callable[[], list[tuple[bytes, bytes]]] = list,
        crowd: Crowd | None = None,
    ) -> None:
        """``crowd``: where who is not let in is counted. None when whoever reaches the socket is let in."""
        self._app = app
        self._transport = transport
        self._settings = settings
        self._scheme, self._client, self._server = scheme, client, server
        self._extra_headers = extra_headers
        self._crowd = crowd
        self._window = settings.stream_window if crowd is None else settings.guest_window
        self._h2 = open_h2(settings, self._window)
        self._guest: Guest | None = None  # while nobody on this connection is let in
        self._known = 0  # streams that are let in
        self._uncredited = 0  # bytes for which the connection has not given its credit back
        self._streams: dict[int, H2Stream] = {}  # those whose response has not ended
        self._ready: dict[int, H2Stream] = {}  # an ordered set: those with bytes to send, next one first
        self._guard = FrameGuard(self._streams, trio.current_time())
        self._apps = 0
        self._out = bytearray()
        self._writer_lot = trio.lowlevel.ParkingLot()
        self._out_lot = trio.lowlevel.ParkingLot()
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._shutting_down = False
        self._closing = False  # GOAWAY is queued or the peer is gone: no more frames are parsed

    async def run(self, first: bytes, *, deadline: float) -> None:
        """``first`` is what was already read; ``deadline`` is when a stream must have been opened."""
        self._reading.deadline = deadline
        self._be_guest()
        self._flush_h2()
        try:
            await self._run(first)
        finally:
            if self._guest is not None:
                self._guest.leave()
                self._guest = None

    async def _run(self, first: bytes) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write)
            with self._reading:
                await self._read(first)
            if self._reading.cancelled_caught and not self._closing:
                self._close("" if self._h2.highest_inbound_stream_id else "no request came")
                with trio.move_on_after(LINGER_S):
                    await self._discard()
            self._abandon("the connection is closed")
            await close_now(self._transport)
        self._nursery = None
        self._h2.forget()

    def shut_down(self) -> None:
        """Take no more streams, and close the connection when the open ones have ended."""
        self._shutting_down = True
        self._maybe_close()

    def cancel_apps(self) -> None:
        """The grace is nearly over: what has not ended is cancelled, and its streams are reset."""
        for stream in list(self._streams.values()):
            stream.working.cancel()

    # The reader.

    async def _read(self, data: bytes) -> None:
        try:
            while data:
                if not self._closing:
                    await self._take_in(data)
                data = bytes(await self._transport.receive_some(RECEIVE_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._closing = True

    async def _discard(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._transport.receive_some(RECEIVE_SIZE):
                pass

    async def _take_in(self, data: bytes) -> None:
        try:
            for number, piece in enumerate(self._guard.split(data, trio.current_time())):
                if self._guest is not None:
                    assert self._crowd is not None
                    await self._crowd.turn()
                elif number:
                    await trio.lowlevel.checkpoint()
                if self._closing:
                    return
                self._weigh()  # before the events: what was an incomplete frame may be a stream's now
                for event in self._h2.receive_data(piece):
                    self._handle(event)
                    if self._closing:
                        return
                self._flush_h2()
                while len(self._out) > OUT_LIMIT and not self._closing:
                    await self._out_lot.park()
        except FloodError as error:
            self._close(str(error), error.code)
        except ProtocolError as error:  # h2 has its GOAWAY ready
            self._close(f"HTTP/2 protocol error: {error}", None)

    def _handle(self, event: Event) -> None:
        match event:
            case DataReceived(stream_id=stream_id, data=data, flow_controlled_length=length):
                self._credit_connection(length)
                # Without one it is late DATA of a stream whose response has ended: nobody waits for it.
                if (stream := self._streams.get(stream_id)) is not None and not stream.feed(data, length):
                    self._malformed(stream_id, "a body that is longer than its content-length")
            case StreamEnded(stream_id=stream_id):
                if (stream := self._streams.get(stream_id)) is not None and not stream.feed_end():
                    self._malformed(stream_id, "a body that is shorter than its content-length")
            case TrailersReceived(stream_id=stream_id):
                try:
                    check_trailers([(bytes(name), bytes(value)) for name, value in event.headers or ()])
                except ValueError as error:
                    self._malformed(stream_id, str(error))
            case RequestReceived():
                self._open(event)
            case StreamReset(stream_id=stream_id):
                self._guard.reset()
                if stream_id in self._streams:
                    self._forget(stream_id, "the client cancelled the stream")
            case WindowUpdated(stream_id=stream_id):
                self._resume(stream_id)
            case RemoteSettingsChanged(changed_settings=changed):
                if SettingCodes.INITIAL_WINDOW_SIZE in changed:
                    self._ready.update((key, value) for key, value in self._streams.items() if value.pending)
                    self._writer_lot.unpark_all()
            case ConnectionTerminated():
                # A peer that says GOAWAY opens no more streams, and h2 lets us send nothing more.
                self._close("", None)
            case _:
                pass

    def _open(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        # Not h2's count of open streams: those that were reset at once still run their application.
        if self._shutting_down or self._apps >= self._settings.max_streams:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        try:
            scope = build_scope(
                [(bytes(name), bytes(value)) for name, value in event.headers or ()],
                scheme=self._scheme,
                client=self._client,
                server=self._server,
            )
            length = declared_length(scope)
        except ValueError as error:
            self._malformed(stream_id, str(error))
            return
        stream = H2Stream(
            self,
            stream_id,
            head_only=scope["method"] == "HEAD",
            stall_s=self._settings.stall_s,
            window=self._window,
            full_window=self._settings.stream_window,
            length=length,
        )
        scope["extensions"]["backrest.stream"] = stream
        scope["state"]["backrest.let_in"] = stream.let_in
        self._streams[stream_id] = stream
        if self._crowd is not None:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            stream.guest = self._crowd.stream(self._peer, headers, stream.turn_away)
            if stream.finished or self._closing:
                return  # the first to go was this one
        self._reading.deadline = float("inf")
        self._apps += 1
        assert self._nursery is not None
        self._nursery.start_soon(self._run_app, scope, stream, name=f"request {scope['path'][:80]}")

    def _malformed(self, stream_id: int, what: str) -> None:
        """A fault of that stream only (RFC 9113, 8.1.1)."""
        log.info("%s: a malformed request: %s", self._peer, what)
        self._reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
        if stream_id in self._streams:
            self._forget(stream_id, "the request is malformed")
        self._guard.reset()

    # Who is let in.

    def _be_guest(self) -> None:
        if self._crowd is not None:
            self._guest = self._crowd.connection(self._peer, self.turn_away, tls=self._scheme == "https")

    def _weigh(self) -> None:
        if self._guest is not None:
            closed = len(self._h2._closed_streams) * CLOSED_COST
            self._guest.weigh(self._guest.cost + self._guard.held + len(self._out) + closed)

    def turn_away(self) -> None:
        """Others need the room: this connection ends now, and says nothing to who does not listen."""
        self._abandon("there was no room for it")
        self._out.clear()
        self._out_lot.unpark_all()
        self._reading.cancel()

    def let_in(self, stream: H2Stream) -> None:
        """The application knows whose this is."""
        self._known += 1
        if self._guest is not None:
            self._guest.leave()
            self._guest = None

    def left(self, stream: H2Stream) -> None:
        """A stream that was let in is over."""
        self._known -= 1
        if not self._known and not self._closing:
            self._be_guest()

    async def _run_app(self, scope: Scope, stream: H2Stream) -> None:
        try:
            with stream.working:
                if stream.guest is not None and self._crowd is not None:
                    await self._crowd.turn()
                await self._app(scope, stream.receive, stream.send)
        except Exception as error:
            if not stream.gone.is_set():
                log_failure(f"{self._peer}: the handler of {scope['path'][:80]!r} failed", error)
        finally:
            self._apps -= 1
            self._settle(stream)

    def _settle(self, stream: H2Stream) -> None:
        """The application is done: whatever it left open is closed, so that the client does not wait."""
        if stream.finished:
            return
        if not stream.started:
            status = 503 if stream.working.cancel_called else 500
            self.start_response(stream, status, [(b"content-length", b"0")])
            stream.started = stream.ending = True
            self.wants_to_send(stream)
        elif not stream.ending or stream.pending:
            self.break_off(stream, "the handler ended without ending its response", ErrorCodes.INTERNAL_ERROR)

    # What streams ask for (h2stream.Owner).

    def start_response(self, stream: H2Stream, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        fields = [(b":status", b"%d" % status), *headers, *self._extra_headers()]
        self._h2.send_headers(stream.id, fields)
        self._flush_h2()

    def wants_to_send(self, stream: H2Stream) -> None:
        if stream.pending:
            self._ready[stream.id] = stream
            self._writer_lot.unpark_all()
        elif stream.ending:
            self._h2.end_stream(stream.id)
            self._ended(stream)

    def give_credit(self, stream: H2Stream, octets: int) -> None:
        if not self._closing and not stream.request_ended and stream.id in self._streams:
            self._h2.increment_flow_control_window(octets, stream.id)
            self._flush_h2()

    def _credit_connection(self, octets: int) -> None:
        """At once, whoever reads it: see ServerSettings.connection_window."""
        self._uncredited += octets
        if self._uncredited >= self._settings.connection_window // 4 and not self._closing:
            self._h2.increment_flow_control_window(self._uncredited)
            self._uncredited = 0

    def break_off(self, stream: H2Stream, reason: str, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        if not stream.finished:
            self._reset(stream.id, code)
            self._forget(stream.id, reason)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        if not self._closing:
            # h2 refuses when the peer was quicker, as with a HEADERS and a RST_STREAM in one packet.
            with suppress(ProtocolError):
                self._h2.reset_stream(stream_id, code)
            self._flush_h2()

    def _ended(self, stream: H2Stream) -> None:
        """END_STREAM is with h2. A request that is still open is cut off, as RFC 9113, 8.1 has it: it would
        otherwise hold one of the client's streams, and the client would send on for nobody."""
        if not stream.request_ended:
            self._reset(stream.id, ErrorCodes.NO_ERROR)
        self._streams.pop(stream.id, None)
        self._ready.pop(stream.id, None)
        stream.finish()
        self._flush_h2()
        self._maybe_close()

    def _forget(self, stream_id: int, reason: str) -> None:
        stream = self._streams.pop(stream_id, None)
        self._ready.pop(stream_id, None)
        if stream is not None:
            stream.lose(reason)
        self._maybe_close()

    def _resume(self, stream_id: int) -> None:
        """A window opened: of a stream, or (0) of the connection, for which streams wait in ``_ready``."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.pending:
            self._ready[stream_id] = stream
        self._writer_lot.unpark_all()

    # The end of the connection.

    def _maybe_close(self) -> None:
        if self._streams or self._closing:
            return
        if self._shutting_down:
            self._close("")
        else:
            self._reading.deadline = trio.current_time() + self._settings.idle_s

    def _close(self, reason: str, code: ErrorCodes | None = ErrorCodes.NO_ERROR) -> None:
        """GOAWAY after all that waits already (``code`` None: h2 made its own). Logs ``reason``, if any."""
        if self._closing:
            return
        if code is not None:
            with suppress(ProtocolError):
                self._h2.close_connection(code)
        self._flush_h2()
        self._closing = True
        if reason:
            log.info("%s: connection closed: %s", self._peer, reason)
        self._abandon(reason or "the connection is closed")
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + LINGER_S)
        self._writer_lot.unpark_all()
        self._out_lot.unpark_all()

    def _abandon(self, reason: str) -> None:
        self._closing = True
        self._ready.clear()
        for stream_id in list(self._streams):
            self._forget(stream_id, reason)
        self._writer_lot.unpark_all()

    @property
    def _peer(self) -> str:
        return self._client[0] if self._client else "local"

    # The writer.

    def _flush_h2(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._out += data
            self._writer_lot.unpark_all()

    async def _write(self) -> None:
        try:
            with trio.CancelScope() as sending:  # one for all: a new one costs more than most writes
                while data := await self._next_data():
                    sending.deadline = trio.current_time() + self._settings.stall_s
                    await self._transport.send_all(data)
                    sending.deadline = math.inf
                if isinstance(self._transport, trio.abc.HalfCloseableStream):
                    await self._transport.send_eof()
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._closing = True
        self._reading.cancel()

    async def _next_data(self) -> bytes:
        """Empty when there is nothing left to say, ever."""
        while not (data := self._collect()) and not self._closing:
            await self._writer_lot.park()
        return data

    def _collect(self) -> bytes:
        """What goes out next: frames of the protocol, then a frame of each stream in turn."""
        while self._ready and len(self._out) < WRITE_SIZE and self._h2.outbound_flow_control_window > 0:
            stream_id, stream = next(iter(self._ready.items()))
            del self._ready[stream_id]
            window = self._h2.local_flow_control_window(stream_id)
            limit = min(window, self._h2.max_outbound_frame_size, FRAME_SIZE)
            if limit <= 0:
                continue  # until its window opens: see _resume
            data = stream.take(limit)
            last = stream.ending and not stream.pending
            self._h2.send_data(stream_id, data, end_stream=last)
            self._guard.sent(len(data))
            if last:
                self._ended(stream)
            else:
                if stream.pending:
                    self._ready[stream_id] = stream
                self._out += self._h2.data_to_send()
        data = bytes(self._out)
        self._out.clear()
        self._out_lot.unpark_all()
        return data


def log_failure(what: str, error: BaseException) -> None:
    """One line for a failure; the traceback only for who debugs."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    log.error("%s: %s: %s", what, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))

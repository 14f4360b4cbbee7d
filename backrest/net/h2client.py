"""One HTTP/2 connection that carries one stream, for the client: its state, and the tasks that move bytes.

Rule: what ends the connection is noted once, in `_fail`, and told to whoever waits; what came before is
handed out first; and once END_STREAM has come the response is whole, whatever follows (the RST_STREAM of
Go's server after an early answer, GOAWAY, late DATA, a TCP reset). The tasks themselves never raise.

Between two awaits each step is complete, so a call that is cancelled neither loses nor repeats a byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import httpx
import trio

from backrest.net.dial import ASKING_S, GoAway, NetError, not_http2, place, uses_tls
from backrest.net.h2cut import BadFrameError, FrameCutter, new_h2

OUTBOX = 64 << 10  # bytes waiting to be sent before send() waits: four frames keep the writer busy
WRITE_AT_ONCE = 256 << 10  # bytes made into frames at once: a peer's huge window must not become our memory
READ_AT_ONCE = 64 << 10
FRAMES_AT_ONCE = 32  # half a millisecond, then others get their turn: a read may bring 7,000 empty frames
MAX_ANSWERS = 1000  # replies to PING and SETTINGS held for a peer that floods us and does not read
# s without a byte, then PING. More than our hub's heartbeat (60 s), which saves it; the Go hub's is 600 s.
PROBE_AFTER = 90.0
PROBE_ANSWER = 30.0  # s for any byte in return; TCP alone notices a vanished peer after a quarter of an hour
CLOSING = 1.0  # s for the farewell to a peer that may not read any more
STREAM = 1  # the first stream that a client opens (RFC 9113, 5.1.1)

_CLOSED_HERE = "the stream was closed on this side"
_NOT_IN_HTTP2 = {b"host", b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


class _Bell:
    """Wakes all who wait. Whoever is woken looks for himself what has changed, so no ring can be missed."""

    def __init__(self) -> None:
        lot = trio.lowlevel.ParkingLot()
        self.ring = lot.unpark_all
        self.wait = lot.park


class Connection:
    """``run`` does the work in the background; the other coroutines belong to the stream's owner.

    ``patience``: seconds until the server must have said its first byte. ``speaks_tls``: asked when the server closed
    before it said one, whether it speaks TLS.
    """

    def __init__(
        self,
        request: httpx.Request,
        stream: trio.abc.Stream,
        patience: float,
        speaks_tls: Callable[[httpx.URL], Awaitable[bool]] | None = None,
    ) -> None:
        self.url = request.url
        # httpx's way to say so; without one END_STREAM goes out with the headers.
        self.has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        self.status: int | None = None
        self.headers = httpx.Headers()
        self.goaway = False
        self.failure: NetError | None = None
        self.ended = False  # END_STREAM has come
        self._stream = stream
        self._patience = patience
        self._speaks_tls = speaks_tls
        self._scope = trio.CancelScope()
        self._writing = True
        self._h2 = new_h2()
        self._received = bytearray()
        self._credit = 0  # bytes of window to give back when _received is read; more than it with padding
        self._outbox: deque[memoryview] = deque()
        self._outbox_size = 0
        self._end_wanted = False  # end() was called
        self._end_sent = False
        self._unwanted = False  # the server, or TCP, takes no more of the request
        self._answers = 0
        self._greeted = False  # a byte has come, and it could be HTTP/2
        self._cutter = FrameCutter()
        self._started = self._heard = trio.current_time()
        self._work = _Bell()  # for the writer
        self._news = _Bell()  # for all others
        self._open(request)

    def _open(self, request: httpx.Request) -> None:
        headers = [
            (b":method", request.method.encode("ascii")),
            (b":scheme", self.url.raw_scheme),
            (b":authority", request.headers.get("host", "").encode("ascii") or self.url.netloc),
            (b":path", self.url.raw_path),
        ]
        headers += [
            (n, v) for n, v in ((n.lower(), v) for n, v in request.headers.raw) if n not in _NOT_IN_HTTP2
        ]
        self._h2.send_headers(STREAM, headers, end_stream=not self.has_body)
        self._end_wanted = self._end_sent = not self.has_body

    # -- for the owner of the stream

    async def run(self) -> None:
        """Read, write and watch until `close`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
        finally:
            self._fail(NetError(_CLOSED_HERE))

    async def send(self, data: bytes) -> None:
        """Queue ``data``; wait while more than OUTBOX bytes are queued. If cancelled, it still goes out.

        After the end of the response it does nothing: the reader is about to learn why the server ended,
        and a failure here would come in between. Otherwise raises what ended the connection.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self.put(data)
        if self.ended or self._unwanted:
            await trio.lowlevel.checkpoint()  # a loop that only sends must let the others run
            return
        await self.wait_room()

    @property
    def has_room(self) -> bool:
        return self._outbox_size <= OUTBOX

    def put(self, data: bytes) -> None:
        """As ``send``, without waiting: for who looks at ``has_room`` first."""
        if self._end_wanted and not self.ended:
            raise RuntimeError("send() after end()")
        if self.ended or self._unwanted:
            return
        self._raise_failure()
        if data:
            self._outbox.append(memoryview(data))
            self._outbox_size += len(data)
            self._work.ring()

    async def wait_room(self) -> None:
        """Until ``has_room``. Raises what ended the connection."""
        while not self.has_room:
            await self._news.wait()
            if not self.ended:
                self._raise_failure()

    async def end(self) -> None:
        """Send END_STREAM after all that was sent, and wait until it is on its way."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._end_wanted = True
        self._work.ring()
        while not (self._end_sent or self._unwanted):
            if self.ended and self.failure is not None:
                return
            self._raise_failure()
            await self._news.wait()

    async def wait_headers(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.status is None:
            self._raise_failure()
            await self._news.wait()

    async def receive(self) -> bytes:
        """All that has come, at least a byte; b"" after END_STREAM. Raises what ended the connection."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._received:
            if self.ended:
                return b""
            self._raise_failure()
            await self._news.wait()
        data, credit = bytes(self._received), self._credit
        self._received.clear()
        self._credit = 0
        self._give_back(credit)
        return data

    def abandon(self, failure: NetError) -> None:
        """End the stream for a cause on this side: RST_STREAM, and ``failure`` for whoever waits."""
        if self.failure is None:
            self._say_goodbye()
            self._fail(failure)

    async def close(self) -> None:
        """Take leave as far as a second allows, then drop the connection, also if cancelled."""
        with trio.move_on_after(CLOSING, shield=True):
            self.abandon(NetError(_CLOSED_HERE))
            while self._writing and not self._scope.cancel_called:
                await self._news.wait()
            self._scope.cancel()
            await self._stream.aclose()
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            # Several tasks may be told: without this each would add its frames to the other's traceback.
            raise self.failure.with_traceback(None)

    # -- the tasks

    async def _read(self) -> None:
        try:
            while self.failure is None:
                data = await self._stream.receive_some(READ_AT_ONCE)
                if not data:
                    await self._closed(NetError(f"{place(self.url)} closed the connection {self._when()}"))
                    return
                self._heard = trio.current_time()
                if not self._greeted:
                    self._greet(data)
                for number, piece in enumerate(self._cutter.cut(bytes(data)), 1):
                    if self.failure is not None:
                        return
                    self._take(piece)
                    if number % FRAMES_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
        except BadFrameError as exc:
            self._fail(self._against_the_rules(exc))
        except trio.BrokenResourceError as exc:
            await self._closed(self._broken(exc))
        except trio.ClosedResourceError:
            pass  # by close()

    async def _closed(self, failure: NetError) -> None:
        """The server has closed. One that said nothing may have expected TLS."""
        ask = self._speaks_tls if not self._greeted and self.failure is None else None
        if ask is not None and await ask(self.url):
            failure = uses_tls(self.url)
        self._fail(failure)

    async def _write(self) -> None:
        """Sends what h2 has to say; after a failure its last words (RST_STREAM, GOAWAY), and then no more."""
        try:
            while True:
                if self.failure is None:
                    self._make_frames()
                data = self._h2.data_to_send()
                if data:
                    await self._stream.send_all(data)
                    self._answers = 0
                elif self.failure is not None:
                    return
                else:
                    await self._work.wait()
        except trio.BrokenResourceError as exc:
            # What the server said before it closed may still be on its way in: the reader may tell it first.
            self._unwanted = True
            with trio.move_on_after(CLOSING if self._greeted else CLOSING + ASKING_S):
                while self.failure is None:
                    await self._news.wait()
            self._fail(self._broken(exc))
        except trio.ClosedResourceError:
            pass  # by close()
        finally:
            self._writing = False
            self._news.ring()

    async def _watch(self) -> None:
        """Ends a connection on which nothing comes: no first byte, or later no answer to a PING."""
        await trio.sleep_until(self._started + self._patience)
        if not self._greeted:
            text = f"{place(self.url)} accepted the connection and then said nothing for {self._patience:g} s"
            self._fail(NetError(text))
        while self.failure is None:
            silent_since = self._heard
            if trio.current_time() < silent_since + PROBE_AFTER:
                await trio.sleep_until(silent_since + PROBE_AFTER)
                continue
            self._h2.ping(b"backrest")
            self._work.ring()
            await trio.sleep(PROBE_ANSWER)
            if self._heard == silent_since:
                silence = f"nothing came for {PROBE_AFTER + PROBE_ANSWER:g} s, not even the answer to a PING"
                self._fail(NetError(f"{place(self.url)} is gone: {silence}"))

    # -- no await from here on

    def _fail(self, failure: NetError) -> None:
        """Note what ended the connection: the first cause counts, the rest are its consequences."""
        if self.failure is None:
            self.failure = failure
        self._drop_outbox()
        self._work.ring()
        self._news.ring()

    def _drop_outbox(self) -> None:
        self._outbox.clear()
        self._outbox_size = 0

    def _broken(self, exc: trio.BrokenResourceError) -> NetError:
        cause = exc.__cause__
        why = (cause.strerror if isinstance(cause, OSError) else None) or str(exc) or "no reason is known"
        return NetError(f"the connection to {place(self.url)} broke off {self._when()}: {why}")

    def _when(self) -> str:
        if not self._greeted:
            return "without an answer; is HTTP/2 served there?"
        return "in mid-stream" if self.status is not None else "before it answered the request"

    def _say_goodbye(self) -> None:
        try:
            if not (self.ended and self._end_sent) and not self._unwanted:
                self._h2.reset_stream(STREAM, h2.errors.ErrorCodes.CANCEL)
            self._h2.close_connection()
        except h2.exceptions.ProtocolError:
            pass  # it is over already, in h2's eyes

    def _make_frames(self) -> None:
        """Hand the outbox to h2 as far as the windows go. Small pieces are joined: the cost is per frame."""
        budget = WRITE_AT_ONCE
        while self._outbox:
            room = min(budget, self._h2.local_flow_control_window(STREAM), self._h2.max_outbound_frame_size)
            if room <= 0:
                break
            frame = self._cut(room)
            self._h2.send_data(STREAM, frame)
            budget -= len(frame)
            self._outbox_size -= len(frame)
        if self._end_wanted and not self._end_sent and not self._outbox and not self._unwanted:
            self._h2.end_stream(STREAM)
            self._end_sent = True
        self._news.ring()

    def _cut(self, room: int) -> bytes | memoryview:
        parts: list[memoryview] = []
        while room and self._outbox:
            part = self._outbox.popleft()
            if len(part) > room:
                self._outbox.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            room -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _give_back(self, credit: int) -> None:
        """Let the server send as much again. h2 joins small amounts into one WINDOW_UPDATE."""
        if self.failure is None and credit:
            self._h2.acknowledge_received_data(credit, STREAM)
            self._work.ring()

    def _greet(self, data: bytes | bytearray) -> None:
        """Look at the first bytes: the first frame must be SETTINGS (type 4), and short (a zero in front)."""
        if data[0] == 0 and data[3:4] in (b"", b"\x04"):
            self._greeted = True
        else:  # "HTTP/1.1 400", a TLS alert, anything
            self._fail(not_http2(self.url, bytes(data)))

    def _take(self, piece: memoryview) -> None:
        """At most one frame."""
        try:
            events = self._h2.receive_data(piece)
        except h2.exceptions.ProtocolError as exc:
            self._fail(self._against_the_rules(exc))
            return
        for event in events:
            self._on(event)
        self._work.ring()
        self._news.ring()

    def _against_the_rules(self, what: object) -> NetError:
        return NetError(f"{place(self.url)} broke the rules of HTTP/2: {what}")

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                if event.data:
                    self._received += event.data
                    self._credit += event.flow_controlled_length
                else:
                    self._give_back(event.flow_controlled_length)  # padding only: nobody will read it
            case h2.events.ResponseReceived():
                self._on_headers(event.headers)
            case h2.events.StreamEnded():
                self.ended = True
                self._drop_outbox()
            case h2.events.StreamReset():
                self._on_reset(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goaway = True
                note = (event.additional_data or b"")[:100].decode("ascii", "replace")
                text = f"{place(self.url)} announced the end of the connection ({_name(event.error_code)})"
                self._fail(GoAway(text + (f": {note!r}" if note else "")))
            case h2.events.PingReceived() | h2.events.RemoteSettingsChanged():
                self._answers += 1
                if self._answers > MAX_ANSWERS:
                    self._fail(
                        NetError(f"{place(self.url)} floods us with questions and does not read the answers")
                    )

    def _on_headers(self, headers: object) -> None:
        assert isinstance(headers, list)
        fields = [(bytes(name), bytes(value)) for name, value in headers]
        status = dict(fields).get(b":status", b"")
        if len(status) != 3 or not status.isdigit() or status < b"100":
            self._fail(self._against_the_rules(f"a status of {status[:20]!r}"))
            return
        self.headers = httpx.Headers([f for f in fields if not f[0].startswith(b":")], encoding="latin-1")
        self.status = int(status)

    def _on_reset(self, code: h2.errors.ErrorCodes | int | None) -> None:
        self._unwanted = True
        self._drop_outbox()
        if self.ended:
            return
        if code == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED:
            self._fail(NetError(f"{place(self.url)} insists on HTTP/1.1 here; the sync stream needs HTTP/2"))
        else:
            self._fail(NetError(f"{place(self.url)} broke the stream off (RST_STREAM, {_name(code)})"))


def _name(code: h2.errors.ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else f"code {code}"

"""One HTTP/2 request as an ASGI application sees it: a scope, ``receive`` and ``send``.

Two bounded buffers, each with one rule. What the peer sends waits in the inbox, and its flow-control credit
goes back only when the application has taken it: the window is the bound. It is small until the application says
who the peer is (``let_in``), and then as large as a round trip needs. What the application sends waits
in the outbox, and ``send`` waits while that holds more than HIGH_WATER: a slow peer slows the application
and nothing else. Neither ever waits for another stream.

A stream ends once. Afterwards ``receive`` says http.disconnect, ``send`` raises OSError, ``gone`` is set.
The application is never cancelled because its peer left.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import unquote

import trio

from backrest.net.crowd import Guest

# Four DATA frames of the usual 16 KiB: enough to keep the writer busy while the application makes more.
HIGH_WATER = 64 * 1024

# Messages smaller than this are copied together instead of kept one by one: a queue of a million one-byte
# objects would take a hundred times its bytes.
JOIN_BELOW = 4 * 1024
JOIN_LIMIT = 16 * 1024

# An application that sends in a loop must not keep the others from running, and a write for each message of
# 100 bytes would cost eight times the message: so every so many sends, and always when the stream is gone.
YIELD_EVERY = 16

_TOKEN = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9a-z]+"
)  # a lower-case field name (RFC 9110, 5.6.2; RFC 9113, 8.2.1)
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(rb"/[!-~]*|\*")  # visible ASCII: anything else must come percent-encoded
_BAD_VALUE = re.compile(rb"[\x00\r\n]")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")  # RFC 3986, 3.1
_LENGTH = re.compile(rb"[0-9]{1,18}")  # more digits than any body has bytes; int() is slow with thousands
_OF_THE_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":path", b":scheme", b":authority"))

Scope = dict[str, Any]
Message = dict[str, Any]


class Owner(Protocol):
    """What a stream needs of its connection. None of it blocks."""

    def start_response(self, stream: H2Stream, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
    def wants_to_send(self, stream: H2Stream) -> None: ...
    def give_credit(self, stream: H2Stream, octets: int) -> None: ...
    def break_off(self, stream: H2Stream, reason: str) -> None: ...
    def let_in(self, stream: H2Stream) -> None: ...
    def left(self, stream: H2Stream) -> None: ...


def build_scope(
    headers: list[tuple[bytes, bytes]],
    *,
    scheme: str,
    client: tuple[str, int] | None,
    server: tuple[str, int] | None,
) -> Scope:
    """The ASGI scope of a request. ValueError when the request is malformed (RFC 9113, 8.2 and 8.3): a fault of that
    stream only.

    h2's own check is off, because it ends the whole connection, and a proxy shares one among many clients:
    one of them could throw out all the others with a header that its proxy passes on.
    """
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    host: bytes | None = None
    for name, raw_value in headers:
        value = raw_value.strip(b" \t")
        if _BAD_VALUE.search(value):
            raise ValueError("a line break or a zero byte in a header")
        if name.startswith(b":"):
            if name not in _PSEUDO or name in pseudo or fields or host is not None:
                raise ValueError("a pseudo-header that is unknown, repeated or late")
            pseudo[name] = value
        elif not _TOKEN.fullmatch(name) or name in _OF_THE_CONNECTION:
            raise ValueError("a header name that HTTP/2 does not allow")
        elif name == b"te" and value.lower() != b"trailers":
            raise ValueError("a te header that is not trailers")
        elif name != b"host":
            fields.append((name, value))
        elif host is not None:
            raise ValueError("more than one host")
        else:
            host = value
    authority = pseudo.get(b":authority", host or b"")
    if host is not None and host.lower() != authority.lower():
        raise ValueError("an :authority and a host that differ")
    if b"@" in authority:  # RFC 9113, 8.3.1: user information would make one host look like another
        raise ValueError("an :authority with a user name")
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method) or not _PATH.fullmatch(target):
        raise ValueError("no usable method or path")
    if target == b"*" and method != b"OPTIONS":
        raise ValueError("a path of * that is not for OPTIONS")
    if not _SCHEME.fullmatch(pseudo.get(b":scheme", b"")):
        raise ValueError("no usable scheme")
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "http_version": "2",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": method.decode("ascii").upper(),
        "scheme": scheme,
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", authority), *fields],
        "client": client,
        "server": server,
        "state": {},
        "extensions": {},
    }


def check_trailers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """ValueError for trailers that HTTP/2 does not allow. Nobody reads them."""
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or name in _OF_THE_CONNECTION or _BAD_VALUE.search(value):
            raise ValueError("a trailer that HTTP/2 does not allow")


def declared_length(scope: Scope) -> int | None:
    """How long the request says its body is, None when it does not say. ValueError."""
    declared = {value for name, value in scope["headers"] if name == b"content-length"}
    if not declared:
        return None
    value = declared.pop()
    if declared or not _LENGTH.fullmatch(value):
        raise ValueError("no usable content-length")
    return int(value)


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The application's headers as HTTP/2 wants them; those of a connection are left out. ValueError.

    Checked here and not by h2, which would notice in the middle of compressing them: what the compressor has
    remembered by then never reaches the peer, and every later response of the connection is unreadable.
    """
    checked: list[tuple[bytes, bytes]] = []
    for raw_name, raw_value in headers:
        name, value = bytes(raw_name).strip().lower(), bytes(raw_value).strip()
        if not _TOKEN.fullmatch(name) or _BAD_VALUE.search(value):
            raise ValueError(f"the response header {name[:40]!r} cannot be sent")
        if name not in _OF_THE_CONNECTION:
            checked.append((name, value))
    return checked


class H2Stream:
    """One request. ``receive`` and ``send`` belong to the application, the rest to the connection."""

    __slots__ = (
        "_credit",
        "_expected",
        "_full_window",
        "_inbox",
        "_let_in",
        "_moved_at",
        "_offset",
        "_outbox",
        "_owed",
        "_owner",
        "_readable",
        "_reason",
        "_request_reported",
        "_room",
        "_stall_s",
        "_unyielded",
        "_wanted",
        "_window",
        "ending",
        "finished",
        "gone",
        "guest",
        "head_only",
        "id",
        "pending",
        "request_ended",
        "standing",
        "started",
        "turned_away",
        "working",
    )

    def __init__(
        self,
        owner: Owner,
        stream_id: int,
        *,
        head_only: bool,
        stall_s: float,
        window: int,
        full_window: int,
        length: int | None = None,
    ) -> None:
        """``window``: what the peer may send unread; ``full_window``, once it is let in. ``length``: of the body, if it
        was declared."""
        self._owner = owner
        self.id = stream_id
        self.head_only = head_only
        self._stall_s = stall_s
        self._inbox = bytearray()
        self._credit = 0  # flow-controlled bytes of the inbox, padding included
        self._window = window
        self._wanted = window  # as large as the window is to be
        self._full_window = full_window
        self._owed = 0  # bytes that were taken, and whose credit is still to go back
        self._expected = length  # bytes of the body that are still to come
        self._let_in = False
        self.working = trio.CancelScope()  # around the application
        self.guest: Guest | None = None  # while the peer is not let in
        self.turned_away = False
        self.standing = self.working  # what ends when there is no room for a stranger
        self._outbox: deque[bytes | bytearray] = deque()
        self._offset = 0  # bytes of the outbox's first element that are already gone
        self.pending = 0  # bytes in the outbox
        self._moved_at = 0.0  # when the outbox began to wait for the peer, or last got shorter
        self.request_ended = False  # END_STREAM came
        self._request_reported = False  # and the application knows
        self.started = False  # the response's headers are out
        self.ending = False  # the application has given the last of its body
        self.finished = False  # END_STREAM or RST_STREAM of ours is out, or the peer is gone
        self.gone = trio.Event()  # the peer cannot be reached through this stream any more
        self._unyielded = 0  # sends since the last one that let other tasks run
        self._reason = "the response has ended"
        self._readable = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    # For the connection.

    def feed(self, data: bytes, credit: int) -> bool:
        """DATA came: whether it is no more than was declared. Credit for bytes that carry nothing goes back."""
        if self._expected is not None:
            self._expected -= len(data)
            if self._expected < 0:
                return False
        if not data:
            self._give_back(credit)
            return True
        self._inbox += data
        self._credit += credit
        if self.guest is not None:
            self.guest.weigh(self.guest.size + credit)  # read or not, it is kept until the peer is known
        self._readable.unpark_all()
        return True

    def feed_end(self) -> bool:
        """The body has ended: whether it is as long as was declared."""
        self.request_ended = True
        self._readable.unpark_all()
        return not self._expected

    def _give_back(self, credit: int) -> None:
        """Bytes were taken. A WINDOW_UPDATE for half a window at least: they are not free, at neither end."""
        self._owed += credit
        if self._owed >= self._window // 2 and not self.finished:
            grown = self._wanted - self._window
            self._window = self._wanted
            owed, self._owed = self._owed + grown, 0
            self._owner.give_credit(self, owed)

    def turn_away(self) -> None:
        """There is no room for a stranger: its application ends, and a scope of its own can say more than a 503."""
        self.turned_away = True
        self.standing.cancel()

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of the outbox."""
        parts: list[bytes] = []
        while limit > 0 and self._outbox:
            head = self._outbox[0]
            part = bytes(head[self._offset : self._offset + limit])
            self._offset += len(part)
            limit -= len(part)
            parts.append(part)
            if self._offset == len(head):
                self._outbox.popleft()
                self._offset = 0
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.pending -= len(data)
        self._moved_at = trio.current_time()
        if self.pending <= HIGH_WATER:
            self._room.unpark_all()
        return data

    def finish(self) -> None:
        """Our END_STREAM is out."""
        self.finished = True
        self._drop()

    def lose(self, reason: str) -> None:
        """The stream broke off: the peer's doing, or ours by RST_STREAM. What it held is given up."""
        if not self.finished:
            self.finished = True
            self._reason = reason
        self._drop()
        self.gone.set()

    def _drop(self) -> None:
        self._credit = 0  # the stream's alone, and that is over
        if self.guest is not None:
            self.guest.leave()
            self.guest = None
        if self._let_in:
            self._let_in = False
            self._owner.left(self)
        self._inbox.clear()
        self._outbox.clear()
        self._offset = self.pending = 0
        self._readable.unpark_all()
        self._room.unpark_all()

    # For the application.

    def let_in(self) -> None:
        """The peer is known. Its window grows with the next credit: who sends nothing more does not need it."""
        if self.finished or self._let_in:
            return
        self._let_in = True
        self._wanted = self._full_window
        if self.guest is not None:
            self.guest.leave()
            self.guest = None
        self._owner.let_in(self)

    async def receive(self) -> Message:
        """All that has come since the last call as one http.request, or http.disconnect."""
        if self._has_news():
            await trio.lowlevel.checkpoint()
        while not self._has_news():
            await self._readable.park()
        if self.finished:
            return {"type": "http.disconnect"}
        body = bytes(self._inbox)
        self._inbox.clear()
        credit, self._credit = self._credit, 0
        if credit:
            self._give_back(credit)
        self._request_reported = self.request_ended
        return {"type": "http.request", "body": body, "more_body": not self.request_ended}

    def _has_news(self) -> bool:
        return bool(self._inbox) or self.finished or (self.request_ended and not self._request_reported)

    async def send(self, message: Message) -> None:
        """Raises OSError when the stream is gone; returns when there is room for more (or all is out)."""
        self._unyielded += 1
        if self._unyielded < YIELD_EVERY and not self.finished:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()
        if self.finished:
            raise BrokenPipeError(self._reason)
        if message["type"] == "http.response.start":
            if self.started:
                raise RuntimeError("the response has started already")
            headers = response_headers(message.get("headers", ()))
            self._owner.start_response(self, int(message["status"]), headers)
            self.started = True
        elif message["type"] == "http.response.body":
            if not self.started or self.ending:
                raise RuntimeError("a body before the response's start or after its end")
            self._push(message.get("body", b""))
            self.ending = not message.get("more_body", False)
            self._owner.wants_to_send(self)
            if self.ending:
                await self._flush()
            else:
                await self.wait_room()
        else:
            raise RuntimeError(f"unknown message {message['type']!r}")

    @property
    def has_room(self) -> bool:
        """False while the peer is slow: see HIGH_WATER."""
        return self.pending <= HIGH_WATER

    def put(self, body: bytes) -> None:
        """As ``send`` of a part of the body, without waiting: for who looks at ``has_room`` first. OSError when the
        stream is gone."""
        if self.finished:
            raise BrokenPipeError(self._reason)
        self._push(body)
        self._owner.wants_to_send(self)

    async def wait_room(self) -> None:
        """Until ``has_room``. OSError when the stream is gone."""
        while not self.has_room and not self.finished:
            await self._progress()
        if self.finished:
            raise BrokenPipeError(self._reason)

    def _push(self, body: bytes) -> None:
        if not body or self.head_only:
            return
        if not self.pending:
            self._moved_at = trio.current_time()
        self.pending += len(body)
        last = self._outbox[-1] if self._outbox else None
        if len(body) >= JOIN_BELOW:
            self._outbox.append(bytes(body))
        elif isinstance(last, bytearray) and len(last) < JOIN_LIMIT:
            last += body
        else:
            self._outbox.append(bytearray(body))

    async def _flush(self) -> None:
        """Until END_STREAM is out, so that a caller can bound how long the end may take."""
        while not self.finished:
            await self._progress()
        if self.gone.is_set():
            raise BrokenPipeError(self._reason)

    async def _progress(self) -> None:
        """Waits for the outbox to shrink. A peer that keeps the window shut for too long is given up."""
        with trio.move_on_at(self._moved_at + self._stall_s):
            await self._room.park()
            return
        if trio.current_time() >= self._moved_at + self._stall_s and not self.finished:
            self._owner.break_off(self, f"the peer has not read for {self._stall_s:.0f} s")

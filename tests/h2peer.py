"""The server's end of an HTTP/2 connection, on h2 and in the hands of a test: it does nothing by itself.

`Peer` is driven step by step (``until``, ``headers``, ``data``, ...). `echo` is a server that answers each
byte; `answer` one that answers a request with fixed text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpx
import pytest
import trio
import trio.testing

from backrest.net.duplex import DuplexStream, NetError, open_stream

E = TypeVar("E", bound=h2.events.Event)
TYPE = "application/connect+proto"
URL = "http://hub.test/v1sync.BackrestSyncService/Sync"
HEADERS = {"content-type": TYPE, "connect-protocol-version": "1"}


class Peer:
    def __init__(self, stream: trio.abc.Stream, *, window: int = 65535, credit: bool = True) -> None:
        """``window``: what the client may send at first; ``credit``: give back what ``until`` reads."""
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self.h2.initiate_connection()
        self.credit = credit
        self.body = bytearray()  # all DATA so far
        self.frames: list[int] = []  # the sizes of the DATA frames
        self.stream_id = 1
        self._events: deque[h2.events.Event] = deque()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            with suppress(
                trio.BrokenResourceError
            ):  # a client that has left: its last words can still be read
                await self.stream.send_all(data)

    async def until(self, kind: type[E]) -> E:
        """The next event of this kind; reads on until it comes. EOFError when the client closes before."""
        await self.flush()
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, h2.events.DataReceived):
                    self.body += event.data
                    self.frames.append(len(event.data))
                    if self.credit and event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if isinstance(event, kind):
                    await self.flush()
                    return event
            await self.flush()
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._events.extend(self.h2.receive_data(data))

    async def until_body(self, size: int) -> bytes:
        while len(self.body) < size:
            await self.until(h2.events.DataReceived)
        return bytes(self.body)

    async def request(self) -> dict[str, str]:
        event = await self.until(h2.events.RequestReceived)
        self.stream_id = event.stream_id or 0
        return dict(event.headers)  # type: ignore[arg-type]

    async def headers(
        self, status: int = 200, *, end: bool = False, content_type: str = TYPE, **more: str
    ) -> None:
        fields = [(":status", str(status)), ("content-type", content_type), *more.items()]
        self.h2.send_headers(self.stream_id, fields, end_stream=end)
        await self.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(self.stream_id, data, end_stream=end)
        await self.flush()

    async def reset(self, code: h2.errors.ErrorCodes) -> None:
        self.h2.reset_stream(self.stream_id, code)
        await self.flush()

    async def go_away(
        self, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.NO_ERROR, note: bytes = b""
    ) -> None:
        self.h2.close_connection(code, additional_data=note or None)
        await self.flush()


async def echo(stream: trio.abc.Stream) -> None:
    """Headers at once, then every byte back, END_STREAM after END_STREAM."""
    peer = Peer(stream)
    try:
        await peer.request()
        await peer.headers()
        while True:
            event = await peer.until(h2.events.Event)
            if isinstance(event, h2.events.DataReceived) and event.data:
                await peer.data(bytes(event.data))
            elif isinstance(event, h2.events.StreamEnded):
                await peer.data(b"", end=True)
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                break
    except (EOFError, trio.BrokenResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


def raw(kind: int, flags: int, payload: bytes, stream_id: int = 1) -> bytes:
    """A frame's bytes, also one that h2 would not send."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


DATA, HEADERS_FRAME, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 4, 6, 7, 8, 9  # frame types


@asynccontextmanager
async def scene(
    url: str = URL, *, window: int = 65535, credit: bool = True, pair: object = None
) -> AsyncGenerator[tuple[DuplexStream, Peer], None]:
    """An open stream and its other end, on memory streams."""
    ours, theirs = pair or trio.testing.memory_stream_pair()  # type: ignore[misc]

    async def connect(_: httpx.URL) -> trio.abc.Stream:
        return ours

    async with open_stream(url, headers=HEADERS, connect=connect) as stream:
        peer = Peer(theirs, window=window, credit=credit)
        if window != 65535:  # until a client has the server's SETTINGS it sends as much as the default allows
            await peer.flush()
            await trio.testing.wait_all_tasks_blocked()
        yield stream, peer


async def fails(stream: DuplexStream) -> NetError:
    """The NetError with which reading ends."""
    try:
        while await stream.receive():
            pass
    except NetError as exc:
        return exc
    pytest.fail("the stream ended cleanly")

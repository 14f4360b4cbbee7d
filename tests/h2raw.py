"""A raw HTTP/2 client over a real socket, polite or hostile, and servers to point it at.

``RawClient`` says exactly what it is told and reads only when told; ``ours`` and ``stock`` serve an ASGI
application with our server or with Hypercorn as it comes, so that a test can show the difference.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h2.config
import h2.connection
import h2.events
import hypercorn.trio
import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame

from backrest.net.h2server import H2Protocol
from backrest.net.h2settings import ServerSettings
from backrest.net.server import serve

App = Any
Clock = trio.testing.MockClock
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

START = {"type": "http.response.start", "status": 200, "headers": []}

# Real sockets and simulated time: time jumps only after everything has been idle for this long, so that
# what the kernel still has under way between two of our sockets arrives first.
IDLE_S = 0.05


@pytest.fixture
def jump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=IDLE_S)


class ClosedByServer(Exception):
    """The server closed the connection."""


class RawClient:
    """One connection. Nothing is read, and no credit given, unless a method says so."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.events: list[h2.events.Event] = []
        self._sending = trio.Lock()

    async def start(self, *, window: int | None = None) -> None:
        """Preface and settings; ``window`` opens the connection's window that far (the streams' too)."""
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
            if window > 65_535:
                self.h2.increment_flow_control_window(window - 65_535)
        await self.flush()

    async def flush(self) -> None:
        await self._send(self.h2.data_to_send())

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self.stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise ClosedByServer from error

    async def raw(self, *frames: Frame | bytes) -> None:
        """Bytes that h2 would not send, after all it has to say."""
        said = self.h2.data_to_send()
        for frame in frames:
            said += frame if isinstance(frame, bytes) else frame.serialize()
        await self._send(said)

    async def request(
        self,
        path: bytes = b"/",
        *extra: tuple[bytes, bytes],
        method: bytes = b"POST",
        body: bytes = b"",
        end: bool = False,
    ) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        headers = [(b":method", method), (b":path", path), (b":scheme", b"http"), (b":authority", b"x")]
        self.h2.send_headers(stream_id, [*headers, *extra], end_stream=end and not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=end)
        await self.flush()
        return stream_id

    async def head(self, stream_id: int, headers: list[tuple[bytes, bytes]], *, end: bool = False) -> None:
        self.h2.send_headers(stream_id, headers, end_stream=end)
        await self.flush()

    async def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream_id, data, end_stream=end)
        await self.flush()

    async def late_data(self, stream_id: int, data: bytes) -> None:
        """DATA whether h2 thinks the stream is open or not."""
        await self.raw(DataFrame(stream_id, data))

    async def read(self) -> None:
        """Whatever comes next, into ``events``. ClosedByServer at the end."""
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError as error:
            raise ClosedByServer from error
        if not data:
            raise ClosedByServer
        self.events += self.h2.receive_data(bytes(data))
        await self.flush_if_open()

    async def flush_if_open(self) -> None:
        with suppress(ClosedByServer):  # what is still to be read says why
            await self.flush()

    async def until(self, kind: type[h2.events.Event], **attributes: Any) -> Any:
        """Reads until there is such an event, and takes it out of ``events``."""
        return await self._take(
            lambda event: (
                isinstance(event, kind) and all(getattr(event, k) == v for k, v in attributes.items())
            )
        )

    async def _take(self, wanted: Callable[[h2.events.Event], bool]) -> Any:
        while True:
            for event in self.events:
                if wanted(event):
                    self.events.remove(event)
                    return event
            await self.read()

    async def response(self, stream_id: int) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status (0 if its head was taken already), headers and body of a complete response.

        Credit for the body is given back.
        """
        body = b""
        head: dict[bytes, bytes] = {}
        while True:
            event = await self._take(lambda event: getattr(event, "stream_id", None) == stream_id)
            if isinstance(event, h2.events.ResponseReceived):
                head = dict(event.headers or ())
            elif isinstance(event, h2.events.DataReceived):
                body += event.data or b""
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
                await self.flush_if_open()
            elif isinstance(event, h2.events.StreamEnded):
                return int(head.get(b":status", 0)), head, body
            elif isinstance(event, h2.events.StreamReset):
                raise AssertionError(f"stream {stream_id} was reset: {event.error_code}")


@dataclass
class Server:
    """A running server. ``ended`` is set when it has returned or crashed."""

    name: str
    port: int = 0
    shutdown: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    crash: BaseException | None = None

    @asynccontextmanager
    async def client(self, *, window: int | None = None) -> AsyncGenerator[RawClient, None]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        try:
            client = RawClient(stream)
            await client.start(window=window)
            yield client
        finally:
            await trio.aclose_forcefully(stream)

    async def answers(self) -> bool:
        """Whether a new connection gets any response at all."""
        with trio.move_on_after(30):
            try:
                async with self.client() as client:
                    await client.response(await client.request(b"/", end=True))
            except (OSError, ClosedByServer):
                return False
            return True
        return False


@asynccontextmanager
async def _running(server: Server, run: Callable[..., Any]) -> AsyncGenerator[Server, None]:
    async def guarded(task_status: trio.TaskStatus[Any]) -> None:
        try:
            await run(task_status=task_status)
        except* Exception as error:
            server.crash = error
        finally:
            server.ended.set()

    async with trio.open_nursery() as nursery:
        bound = await nursery.start(guarded)
        first = bound[0]
        server.port = first[1] if isinstance(first, tuple) else int(first.rsplit(":", 1)[1])
        yield server
        server.shutdown.set()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def ours(
    app: App, *, settings: ServerSettings | None = None, grace_s: float = 5.0, **kwargs: Any
) -> AsyncGenerator[Server, None]:
    server = Server("ours")
    run = partial(
        serve,
        app,
        binds=["127.0.0.1:0"],
        shutdown=server.shutdown,
        grace_s=grace_s,
        settings=settings,
        **kwargs,
    )
    async with _running(server, run) as running:
        yield running


@asynccontextmanager
async def stock(app: App, *, grace_s: float = 5.0, **_: Any) -> AsyncGenerator[Server, None]:
    """Hypercorn as it comes, with the settings that it offers for the purpose."""
    server = Server("stock")
    config = hypercorn.Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = grace_s
    config.keep_alive_timeout = 1_000

    async def http_only(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "no lifespan here"
        await app(scope, receive, send)

    run = partial(hypercorn.trio.serve, http_only, config, shutdown_trigger=server.shutdown.wait, mode="asgi")
    async with _running(server, run) as running:
        yield running


# -- small applications


def body(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def done(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send(START)
    await send(body(b"done", more=False))


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send(START)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await send(body(message["body"], more=message["more_body"]))
        if not message["more_body"]:
            return


async def deaf(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Neither reads nor notices that its client is gone."""
    await send(START)
    await trio.sleep_forever()


async def goaway(client: RawClient) -> ErrorCodes:
    event = await client.until(h2.events.ConnectionTerminated)
    with suppress(ClosedByServer):
        while True:
            await client.read()
    return ErrorCodes(event.error_code)


@asynccontextmanager
async def protocol(app: Any) -> AsyncGenerator[RawClient, None]:
    """H2Protocol on a stream without any buffer of its own: what one end sends, the other must take."""
    ours_, theirs = trio.testing.lockstep_stream_pair()
    server = H2Protocol(app, ours_, settings=ServerSettings(), scheme="http", client=None, server=None)
    async with trio.open_nursery() as nursery:
        client = RawClient(theirs)
        client.h2.initiate_connection()
        first = client.h2.data_to_send()
        nursery.start_soon(lambda: server.run(first, deadline=float("inf")))
        yield client
        nursery.cancel_scope.cancel()

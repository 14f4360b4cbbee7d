"""The HTTP/1.1 side of the server: Hypercorn's H11Protocol, given a connection that cannot hang.

It answers curl on the admin socket, and tells everybody else with a 505 that the sync stream needs HTTP/2.
H11Protocol parses and formats; what surrounds it in Hypercorn is replaced, for these reasons:

- a write there cannot be cancelled (shutdown waits for a slow reader), and to a peer that is gone it is a
  silent no-op: here it raises OSError;
- an application that answers before it has read a long body waits there for ever, on its own queue of
  body messages: here the disconnect ends the queue instead of being put into it;
- an upgrade to h2c and WebSockets are not offered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as IoEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from backrest.net.h2server import LINGER_S, RECEIVE_SIZE, App, log_failure
from backrest.net.h2stream import Message, Scope

# Body messages (of at most 64 KiB) that wait for the application; then we do not read from the socket.
QUEUE = 4

# A peer that takes nothing of what waits for it.
STALL_S = 600.0


class _Protocol(H11Protocol):
    async def _check_protocol(self, event: Any) -> None:
        """No upgrade: a client that wants HTTP/2 starts with it."""


class _Tasks(TaskGroup):
    """Where Hypercorn starts the application of a request."""

    def __init__(self, peer: str) -> None:
        super().__init__()
        self._peer = peer

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        to_app, from_server = trio.open_memory_channel[Message](QUEUE)
        assert self._nursery is not None
        self._nursery.start_soon(self._run, app, scope, from_server, send)

        async def put(message: Message) -> None:
            if message["type"].endswith(".disconnect"):
                to_app.close()
            else:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await to_app.send(message)

        return put

    async def _run(
        self,
        app: Any,
        scope: Scope,
        from_server: trio.MemoryReceiveChannel[Message],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        async def receive() -> Message:
            try:
                return await from_server.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        try:
            if scope["type"] == "http":
                await app(scope, receive, send, None, None)
            else:
                await send({"type": "websocket.close"})
        except OSError:
            pass  # the peer is gone, and its connection ends by itself
        except Exception as error:
            log_failure(f"{self._peer}: the handler of {scope['path'][:80]!r} failed", error)
        finally:
            from_server.close()
            # Whatever the application left open is closed, or a 500 if it said nothing at all.
            with suppress(OSError):
                await send(None)


class H1Connection:
    """One connection. ``run`` returns when it is over; the caller closes the stream."""

    def __init__(
        self,
        app: App,
        stream: trio.abc.Stream,
        config: Config,
        worker: WorkerContext,
        *,
        scheme: str,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        let_in: Callable[[], None],
    ) -> None:
        """``let_in`` is for the application to call, once it knows whose the connection is."""
        self._stream = stream
        self._worker = worker
        self._lock = trio.Lock()
        self._reading = trio.CancelScope()
        self._idle_s = 0.0
        self._idle = True
        self._tasks = _Tasks(client[0] if client else "local")
        self._protocol = _Protocol(
            ASGIWrapper(cast(Any, app)),
            config,
            worker,
            self._tasks,
            ConnectionState({"backrest.let_in": let_in}),
            scheme == "https",
            client,
            server,
            self._send,
        )

    async def run(self, first: bytes, *, deadline: float, idle_s: float) -> None:
        """``deadline`` is when the first request must be there, ``idle_s`` how long to wait for another."""
        self._reading.deadline = deadline
        self._idle_s = idle_s
        async with self._tasks:
            with self._reading:
                await self._read(first)
            self._reading = trio.CancelScope()  # what Hypercorn cancels from now on is over already
            await self._protocol.handle(Closed())
            with trio.move_on_after(LINGER_S):
                await self._linger()
            await trio.aclose_forcefully(self._stream)

    def shut_down(self) -> None:
        """Close when no request is being answered (the protocol closes by itself after one)."""
        if self._idle:
            self._reading.cancel()

    def turn_away(self) -> None:
        """Others need the room: it ends now."""
        self._reading.cancel()
        self.cancel_apps()

    def cancel_apps(self) -> None:
        nursery = self._tasks._nursery
        if nursery is not None:
            nursery.cancel_scope.cancel()

    async def _read(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            while data:
                await self._protocol.handle(RawData(data))
                data = bytes(await self._stream.receive_some(RECEIVE_SIZE))

    async def _linger(self) -> None:
        """Closing a socket with unread data in it sends a TCP reset, which would destroy our answer."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._lock:
                if isinstance(self._stream, trio.abc.HalfCloseableStream):
                    await self._stream.send_eof()
                    while await self._stream.receive_some(RECEIVE_SIZE):
                        pass

    async def _send(self, event: IoEvent) -> None:
        if isinstance(event, RawData):
            try:
                async with self._lock:
                    with trio.fail_after(STALL_S):
                        await self._stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                self._reading.cancel()
                raise BrokenPipeError("the client is gone") from error
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated):
            self._idle = event.idle
            still = self._worker.terminated.is_set()
            wait = 0.0 if still else self._idle_s
            self._reading.deadline = trio.current_time() + wait if event.idle else float("inf")

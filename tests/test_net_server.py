"""The server against what stock Hypercorn gets wrong: one scenario for each fault, run against both.

A scenario drives a server and says in a word what it saw. The table below holds what must be seen of ours
and what stock Hypercorn 0.18.0 shows, so that each scenario is known to catch the fault it is about. When
a newer Hypercorn no longer shows one, its replacement here may have become unnecessary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import h2.events
import hypercorn.protocol.http_stream
import pytest
import trio
import trio.testing
from h2raw import START, ClosedByServer, RawClient, Receive, Send, Server, body, done, jump_clock, ours, stock
from hyperframe.frame import GoAwayFrame

import backrest.net.h2server

__all__ = ["jump_clock"]

Serve = Callable[..., Any]

END = {"type": "http.response.body", "body": b"", "more_body": False}
LARGE = bytes(64 * 1024)

# Simulated time, within which something must happen or is said not to.
LONG_S = 100


async def late_data(serve: Serve) -> str:
    async with serve(done) as server, server.client() as client:
        stream_id = await client.request()
        await client.response(stream_id)
        # In all more than the connection's window: it must come back.
        try:
            for _ in range(5 * 64):
                await client.late_data(stream_id, bytes(16_384))
        except ClosedByServer:
            await server.ended.wait()
            return "the server ended"
        await client.response(await client.request(end=True))
        return "ignored"


async def malformed(serve: Serve, headers: list[tuple[bytes, bytes]]) -> str:
    hold = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            await hold.wait()
        await done(scope, receive, send)

    async with serve(app) as server, server.client() as client:
        other = await client.request(b"/wait", end=True)
        stream_id = client.h2.get_next_available_stream_id()
        await client.head(stream_id, headers)
        try:
            await client.until(h2.events.StreamReset, stream_id=stream_id)
        except ClosedByServer:
            await server.ended.wait()
            return "the server ended"
        hold.set()
        await client.response(other)
        return "reset, the connection goes on"


async def new_stream_during_shutdown(serve: Serve) -> str:
    hold = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        await hold.wait()
        await send(END)

    async with serve(app) as server, server.client() as client:
        first = await client.request()
        await client.until(h2.events.ResponseReceived, stream_id=first)
        server.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        second = await client.request(body=b"hello")
        try:
            await client.until(h2.events.StreamReset, stream_id=second)
            hold.set()
            await client.until(h2.events.StreamEnded, stream_id=first)
        except ClosedByServer:
            await server.ended.wait()
            return "the server crashed"
        await server.ended.wait()
        return "refused"


async def failure_inside_a_connection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> str:
    def fails(*args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        raise KeyError("a mistake of ours")

    async with serve(done) as server, server.client() as client:
        if serve is stock:
            monkeypatch.setattr(hypercorn.protocol.http_stream.HTTPStream, "handle", fails)
        else:
            monkeypatch.setattr(backrest.net.h2server, "build_scope", fails)
        stream_id = await client.request()
        with pytest.raises(ClosedByServer):
            await client.response(stream_id)
        return "contained" if await server.answers() else "the server ended"


async def slow_reader_window_full(serve: Serve) -> str:
    taken = 0
    all_taken = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal taken
        await send(START)
        for _ in range(1000):
            await send(body(LARGE))
            taken += len(LARGE)
        all_taken.set()

    async with serve(app) as server, server.client() as client:
        stream_id = await client.request()
        received = 0
        while received < 65_535:
            received += len((await client.until(h2.events.DataReceived, stream_id=stream_id)).data)
        with trio.move_on_after(LONG_S):
            await all_taken.wait()
            return "send took 64 MB that nobody reads"
        assert taken <= 4 * len(LARGE)
        return "send waits"


async def slow_reader_tcp_full(serve: Serve) -> str:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        while True:
            await send(body(LARGE))

    async with serve(app) as server, server.client(window=2**30) as client:
        await client.request()
        await trio.testing.wait_all_tasks_blocked(0.05)
        server.shutdown.set()
        with trio.move_on_after(server_grace(server)):
            await server.ended.wait()
            return "ended in time"
        # Let go of it, or it hangs for ever.
        await trio.aclose_forcefully(client.stream)
        return "hangs"


def server_grace(server: Server) -> float:
    return 5.0 + 1.0


async def application_does_not_read(serve: Serve) -> str:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/busy":
            await trio.sleep_forever()
        await done(scope, receive, send)

    async with serve(app) as server, server.client() as client:
        busy = await client.request(b"/busy")
        for _ in range(50):
            await client.data(busy, b"frame")
        other = await client.request(end=True)
        client.h2.ping(b"12345678")
        await client.flush()
        with trio.move_on_after(LONG_S):
            await client.response(other)
            await client.until(h2.events.PingAckReceived)
            return "the others go on"
        return "the connection stalls"


async def application_raises(serve: Serve, *, started: bool, raises: bool) -> str:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if started:
            await send(START)
            await send(body(b"some"))
        if raises:
            raise RuntimeError("a mistake in the handler")

    async with serve(app) as server, server.client() as client:
        stream_id = await client.request(end=True)
        with trio.move_on_after(LONG_S):
            if not started:
                return str((await client.response(stream_id))[0])
            await client.until(h2.events.StreamReset, stream_id=stream_id)
            return "reset"
        return "the client hangs"


async def leave_by_reset(client: RawClient, stream_id: int) -> None:
    client.h2.reset_stream(stream_id)
    await client.flush()


async def leave_by_goaway(client: RawClient, stream_id: int) -> None:
    await client.raw(GoAwayFrame(0, last_stream_id=0, error_code=0))


async def leave_by_fin(client: RawClient, stream_id: int) -> None:
    await client.stream.send_eof()  # type: ignore[attr-defined]


async def leave_by_tcp_reset(client: RawClient, stream_id: int) -> None:
    linger_0 = b"\x01\0\0\0\0\0\0\0"
    client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger_0)  # type: ignore[attr-defined]
    await trio.aclose_forcefully(client.stream)


async def client_gone(serve: Serve, leave: Callable[[RawClient, int], Awaitable[None]]) -> str:
    """The application fills the window and never asks for more input."""
    outcome = ""
    left = trio.Event()
    done = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal outcome
        await send(START)
        await left.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        try:
            with trio.move_on_after(LONG_S) as scope_:
                for _ in range(1000):
                    await send(body(b"anybody there?" * 100))
            outcome = "send hangs" if scope_.cancelled_caught else "send does nothing"
        except OSError:
            outcome = "OSError"
        done.set()

    async with serve(app) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.ResponseReceived)
        await leave(client, stream_id)
        left.set()
        await done.wait()
        return outcome


async def tight_loop_after_reset(serve: Serve) -> str:
    outcome = ""
    left = trio.Event()
    done = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal outcome
        await send(START)
        await left.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        try:
            with trio.testing.assert_checkpoints(), suppress(OSError):
                await send(body(b"once more"))
            outcome = "others may run"
        except AssertionError:
            outcome = "nobody else runs"
        done.set()

    async with serve(app) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.ResponseReceived)
        await leave_by_reset(client, stream_id)
        left.set()
        await done.wait()
        return outcome


async def end_at_shutdown(serve: Serve) -> str:
    """Stock's fault depends on which of two tasks runs first, so it gets its chances."""

    async def once() -> str:
        async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
            await send(START)
            await server.shutdown.wait()
            await trio.testing.wait_all_tasks_blocked()
            await send(body(b"the end", more=False))

        async with serve(app) as server, server.client() as client:
            await client.request(end=True)
            await client.until(h2.events.ResponseReceived)
            server.shutdown.set()
            with suppress(ClosedByServer):
                while True:
                    await client.read()
            await server.ended.wait()
            kinds = [type(event) for event in client.events]
            if h2.events.StreamEnded not in kinds:
                return "END_STREAM is lost"
            assert kinds.index(h2.events.StreamEnded) < kinds.index(h2.events.ConnectionTerminated)
            return "END_STREAM, then GOAWAY"

    for _ in range(40 if serve is stock else 5):
        seen = await once()
        if seen != "END_STREAM, then GOAWAY":
            break
    return seen


async def windows(serve: Serve) -> str:
    async with serve(done) as server, server.client() as client:
        await client.response(await client.request(end=True))
        stream_id = await client.request(b"/")
        stream = client.h2.streams[stream_id].outbound_flow_control_window
        return f"{stream} and {client.h2.outbound_flow_control_window}"


@dataclass(frozen=True)
class Row:
    name: str
    scenario: Callable[..., Awaitable[str]]
    ours: str
    stock: str


METHOD, PATH = (b":method", b"POST"), (b":path", b"/")
REST = [(b":scheme", b"http"), (b":authority", b"x")]
RESET = "reset, the connection goes on"

TABLE = [
    Row("late DATA", late_data, "ignored", "the server ended"),
    Row(
        "non-ASCII path",
        partial(malformed, headers=[METHOD, (b":path", b"/\xc3\xa4"), *REST]),
        RESET,
        "the server ended",
    ),
    Row(
        "non-ASCII method",
        partial(malformed, headers=[(b":method", b"P\xc3\x84"), PATH, *REST]),
        RESET,
        "the server ended",
    ),
    Row(
        "CONNECT without path",
        partial(malformed, headers=[(b":method", b"CONNECT"), (b":authority", b"x")]),
        RESET,
        "the server ended",
    ),
    Row("new stream during shutdown", new_stream_during_shutdown, "refused", "the server crashed"),
    Row("failure inside a connection", failure_inside_a_connection, "contained", "the server ended"),
    Row("window full", slow_reader_window_full, "send waits", "send took 64 MB that nobody reads"),
    Row("TCP buffer full at shutdown", slow_reader_tcp_full, "ended in time", "hangs"),
    Row("application does not read", application_does_not_read, "the others go on", "the connection stalls"),
    Row(
        "application raises after its head",
        partial(application_raises, started=True, raises=True),
        "reset",
        "the client hangs",
    ),
    Row(
        "application returns without an end",
        partial(application_raises, started=True, raises=False),
        "reset",
        "the client hangs",
    ),
    Row("client resets", partial(client_gone, leave=leave_by_reset), "OSError", "send does nothing"),
    Row("client says GOAWAY", partial(client_gone, leave=leave_by_goaway), "OSError", "send hangs"),
    Row("client closes", partial(client_gone, leave=leave_by_fin), "OSError", "send hangs"),
    Row("client's TCP resets", partial(client_gone, leave=leave_by_tcp_reset), "OSError", "send hangs"),
    Row("tight loop after a reset", tight_loop_after_reset, "others may run", "nobody else runs"),
    Row("end at shutdown", end_at_shutdown, "END_STREAM, then GOAWAY", "END_STREAM is lost"),
    Row("windows", windows, f"{16 * 1024} and {4 * 1024 * 1024}", "65535 and 65535"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_ours_does_not_show_the_fault(
    row: Row, jump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await run(row, ours, monkeypatch) == row.ours


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_stock_hypercorn_shows_the_fault(
    row: Row, jump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await run(row, stock, monkeypatch) == row.stock


async def run(row: Row, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> str:
    if row.scenario is failure_inside_a_connection:
        return await failure_inside_a_connection(serve, monkeypatch)
    return await row.scenario(serve)

"""The HTTP/1.1 side, TLS, and what surrounds both protocols in serve()."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.events
import pytest
import trio
import trio.testing
from certs import CA
from h2raw import START, Clock, RawClient, Receive, Send, Server, body, deaf, done, echo, jump_clock, ours

from backrest.net.server import TlsFiles

__all__ = ["jump_clock"]

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"1000\r\n" + bytes(4096) + b"\r\n"


@asynccontextmanager
async def connect(server: Server) -> AsyncGenerator[trio.SocketStream, None]:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    """What comes until the server closes the connection."""
    return b"".join([bytes(part) async for part in stream])


async def one_response(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = await stream.receive_some()
        assert part, f"closed after {data!r}"
        data += part
    return data


async def test_several_requests_share_a_connection_which_then_idles_out(jump_clock: Clock) -> None:
    async with ours(done) as server, connect(server) as stream:
        for _ in range(3):
            await stream.send_all(GET)
            answer = await one_response(stream, b"\r\n0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 \r\n")
        began = trio.current_time()
        assert await everything(stream) == b""
        assert trio.current_time() - began == pytest.approx(75, abs=2)


async def test_pipelined_requests_are_answered_in_order(jump_clock: Clock) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(scope["path"].encode(), more=False))

    async with ours(app) as server, connect(server) as stream:
        await stream.send_all(GET.replace(b"/ ", b"/one ") + GET.replace(b"/ ", b"/two "))
        assert (await one_response(stream, b"/two\r\n0\r\n\r\n")).count(b"/one\r\n") == 1


async def test_an_answer_before_a_long_body_arrives_whole_and_ends_the_connection(jump_clock: Clock) -> None:
    """Stock Hypercorn waits here for ever: it puts the disconnect into a queue that is full of body."""
    async with ours(done) as server, connect(server) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_endlessly, stream, CHUNKED, CHUNK)
            answer = await everything(stream)
            nursery.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 200 \r\n")
        assert answer.endswith(b"done\r\n0\r\n\r\n")


async def test_a_body_that_still_comes_after_the_answer_is_read_and_not_reset(jump_clock: Clock) -> None:
    """A TCP reset could destroy the answer before a slow client has it."""
    async with ours(done) as server, connect(server) as stream:
        await stream.send_all(CHUNKED)
        await one_response(stream, b"done\r\n0\r\n\r\n")
        await stream.send_all(CHUNK * 250)
        await stream.send_eof()
        assert await everything(stream) == b""


async def send_endlessly(stream: trio.SocketStream, head: bytes, part: bytes) -> None:
    try:
        await stream.send_all(head)
        while True:
            await stream.send_all(part)
    except trio.BrokenResourceError:
        return


async def test_a_body_that_nobody_reads_is_not_collected(jump_clock: Clock) -> None:
    async with ours(deaf) as server, connect(server) as stream:
        sent = 0
        with trio.move_on_after(1000):
            await stream.send_all(CHUNKED)
            while True:
                await stream.send_all(CHUNK)
                sent += 4096
        assert sent < 20_000_000  # the kernel's buffers and little more


async def test_a_client_that_leaves_is_noticed_by_a_reader_and_by_a_writer(jump_clock: Clock) -> None:
    noticed: list[str] = []
    both = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        if scope["path"] == "/reads":
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            with pytest.raises(OSError, match="gone"):  # noqa: PT012  one of many sends
                while True:
                    await send(body(bytes(50_000)))
        noticed.append(scope["path"])
        if len(noticed) == 2:
            both.set()

    async with ours(app) as server, connect(server) as first, connect(server) as second:
        await first.send_all(GET.replace(b"/ ", b"/reads "))
        await second.send_all(GET.replace(b"/ ", b"/writes "))
        await first.receive_some(10)
        await second.receive_some(10)
        await trio.aclose_forcefully(first)
        await trio.aclose_forcefully(second)
        with trio.fail_after(1000):
            await both.wait()


@pytest.mark.parametrize("path", ["/raises", "/returns", "/halfway"])
async def test_a_failing_application_ends_its_request_only(
    path: str, jump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/halfway":
            await send(START)
            await send(body(b"some"))
        if scope["path"] != "/returns":
            raise RuntimeError("a mistake in the handler")

    async with ours(app) as server, connect(server) as stream:
        await stream.send_all(GET.replace(b"/ ", path.encode() + b" "))
        if path == "/halfway":
            answer = await everything(stream)
            assert answer.endswith(b"some\r\n")  # and not the last chunk: a client knows that it is cut
        else:
            assert b" 500 " in await one_response(stream, b"\r\n\r\n")
    assert len(caplog.records) == (path != "/returns")
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n", id="h2c"),
        pytest.param(b"PRI * HTTP/2.0\r\n", id="half a preface"),
    ],
)
async def test_an_upgrade_is_not_offered(request_: bytes, jump_clock: Clock) -> None:
    async with ours(done) as server, connect(server) as stream:
        await stream.send_all(request_ + b"connection: upgrade\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_websocket_is_refused(jump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async with ours(done) as server, connect(server) as stream:
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        assert (await everything(stream)).startswith(b"HTTP/1.1 403 ")
        assert await server.answers()
    assert not caplog.records


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"hello\r\n\r\n", b"\x00" * 100_000])
async def test_junk_is_answered_with_400_or_nothing(junk: bytes, jump_clock: Clock) -> None:
    async with ours(done) as server, connect(server) as stream:
        await stream.send_all(junk)
        answer = await everything(stream)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert await server.answers()


async def test_shutdown_closes_idle_connections_lets_requests_end_and_cuts_the_rest(
    jump_clock: Clock,
) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        if scope["path"] == "/slow":
            while True:
                await send(body(bytes(50_000)))
        await server.shutdown.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await send(body(b"the end", more=False))

    async with ours(app) as server, connect(server) as idle, connect(server) as ends, connect(server) as slow:
        await ends.send_all(GET)
        await slow.send_all(GET.replace(b"/ ", b"/slow "))
        await ends.receive_some(10)
        await trio.testing.wait_all_tasks_blocked(0.05)
        began = trio.current_time()
        server.shutdown.set()
        assert await everything(idle) == b""
        assert (await everything(ends)).endswith(b"the end\r\n0\r\n\r\n")
        assert trio.current_time() - began < 1
        await server.ended.wait()
        assert trio.current_time() - began <= 5


# -- TLS


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


@pytest.fixture
def tls(ca: CA, tmp_path: Path) -> TlsFiles:
    cert, key = ca.issue("127.0.0.1").write(tmp_path)
    return TlsFiles(str(cert), str(key))


@asynccontextmanager
async def secure(server: Server, ca: CA, *alpn: str) -> AsyncGenerator[trio.SSLStream[Any], None]:
    context = ssl.create_default_context(cadata=ca.pem.decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    async with connect(server) as raw:
        stream = trio.SSLStream(raw, context, server_hostname="127.0.0.1", https_compatible=True)
        await stream.do_handshake()
        yield stream


async def test_tls_with_alpn_speaks_http2(ca: CA, tls: TlsFiles, jump_clock: Clock) -> None:
    schemes: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    async with ours(app, tls=tls) as server, secure(server, ca, "h2", "http/1.1") as stream:
        assert stream.selected_alpn_protocol() == "h2"
        client = RawClient(stream)
        await client.start()
        stream_id = await client.request(body=bytes(16_000), end=True)
        assert (await client.response(stream_id))[2] == bytes(16_000)
        server.shutdown.set()
        await client.until(h2.events.ConnectionTerminated)
    assert schemes == ["https"]


async def test_tls_without_alpn_speaks_http1(ca: CA, tls: TlsFiles, jump_clock: Clock) -> None:
    async with ours(done, tls=tls) as server, secure(server, ca) as stream:
        await stream.send_all(GET.replace(b"host: x", b"host: x\r\nconnection: close"))
        assert (await everything(stream)).endswith(b"done\r\n0\r\n\r\n")


async def test_a_failed_handshake_is_one_line_and_nothing_else(
    ca: CA, tls: TlsFiles, jump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backrest.net")
    async with ours(done, tls=tls) as server, connect(server) as plain, connect(server) as silent:
        await plain.send_all(GET)
        await everything(plain)
        assert await everything(silent) == b""  # after ten seconds
        async with secure(server, ca, "h2") as stream:
            client = RawClient(stream)
            await client.start()
            await client.response(await client.request(end=True))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("127.0.0.1: the TLS handshake failed: ")
    assert said[1] == "127.0.0.1: connection closed: no request came"
    assert not any(record.exc_info for record in caplog.records)

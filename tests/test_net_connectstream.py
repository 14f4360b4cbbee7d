"""Connect streams: the head at once, bytes both ways, every way to end, and clients that leave."""

from __future__ import annotations

import json
import logging
from typing import Any

import h2.events
import pytest
import trio
import trio.testing
from connect_client import APP, JSON, PROTO, Http2, both, headers, http2
from h2raw import Clock, RawClient, Server, jump_clock, ours, stock

from backrest.net.connect import ConnectApp, ConnectStream, Stream

__all__ = ["both", "jump_clock"]


async def test_the_head_comes_before_any_message(jump_clock: Clock) -> None:
    async with http2() as client:
        for content_type in (PROTO, JSON):
            await client.request(*headers("/s.S/Sync", content_type))
            event = await client.until(h2.events.ResponseReceived)
            head = dict(event.headers)
            assert (head[b":status"], head[b"content-type"]) == (b"200", content_type.encode())


async def test_a_stream_passes_bytes_both_ways_until_the_handler_returns(jump_clock: Clock) -> None:
    async with http2() as client:
        stream_id = await client.request(*headers("/s.S/Sync"))
        for word in (b"one", b"two"):
            await client.data(stream_id, word)
            assert (await client.until(h2.events.DataReceived)).data == word
        await client.data(stream_id, b"", end=True)
        assert (await client.response(stream_id))[2] == b""


async def test_a_stream_echoes_over_both_versions(both: Http2) -> None:
    answer = await both.call("/s.S/Tail", PROTO, bytes(10_000))
    assert (answer.status, answer.body) == (200, bytes(10_000))


async def test_a_handler_knows_its_request(both: Http2) -> None:
    answer = await both.call(
        "/s.S/DescribeStream",
        JSON,
        connect_content_encoding="gzip",
        connect_timeout_ms="1500",
        x_name="value",
    )
    assert json.loads(answer.body) == ["/s.S/DescribeStream", "json", "gzip", "127.0.0.1", 1.5, "value"]


async def test_an_unknown_compression_ends_the_stream_with_what_is_supported(both: Http2) -> None:
    answer = await both.call("/s.S/Tail", PROTO, b"ignored", connect_content_encoding="zstd")
    assert (answer.status, answer.headers["content-type"]) == (200, PROTO)
    assert answer.error == ("unimplemented", "unknown compression 'zstd': supported are gzip, identity")


async def test_a_timeout_ends_the_stream(both: Http2, jump_clock: Clock) -> None:
    answer = await both.call("/s.S/FailStream", PROTO, b"late", connect_timeout_ms="59000")
    assert (answer.status, answer.error[0]) == (200, "deadline_exceeded")
    assert answer.body.startswith(b"first")
    answer = await both.call("/s.S/FailStream", PROTO, b"late", connect_timeout_ms="61000")
    assert answer.body == b"first"
    answer = await both.call("/s.S/FailStream", PROTO, b"", connect_timeout_ms="soon")
    assert answer.error[0] == "invalid_argument"


async def test_a_handlers_error_ends_the_stream_with_its_code(both: Http2) -> None:
    answer = await both.call("/s.S/FailStream", PROTO, b"permission_denied")
    assert answer.error == ("permission_denied", "because")


async def test_a_handlers_mistake_ends_the_stream_with_internal_and_one_line(
    both: Http2, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await both.call("/s.S/FailStream", PROTO, b"bug")
    assert answer.error[0] == "internal"
    assert b"secret" not in answer.body
    assert [record.getMessage() for record in caplog.records] == [
        "the handler of /s.S/FailStream failed: FileNotFoundError: /etc/secret"
    ]


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_client_that_leaves_is_noticed_at_once_whatever_the_handler_does(
    version: str, jump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One waits for something else, one reads, one writes; and none of it is an error."""
    noticed: list[str] = []
    all_noticed = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        try:
            match stream.headers["x-does"]:
                case "waits":
                    await stream.gone.wait()
                case "reads":
                    while await stream.receive():
                        pass
                case _:
                    while True:
                        await stream.send(bytes(10_000))
        finally:
            noticed.append(stream.headers["x-does"])
            if len(noticed) == 3:
                all_noticed.set()

    caplog.set_level(logging.INFO, "backrest.net")
    app = ConnectApp({"/s": Stream(handler, http2_only=False)})
    async with ours(app) as server:
        left = [await leave_open(server, version, does) for does in ("waits", "reads", "writes")]
        for stream in left:
            await trio.aclose_forcefully(stream)
        with trio.fail_after(5):
            await all_noticed.wait()
    assert not caplog.records


async def leave_open(server: Server, version: str, does: str) -> trio.SocketStream:
    """A client with an open stream whose head has come."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if version == "2":
        client = RawClient(stream)
        await client.start()
        await client.request(*headers("/s", x_does=does))
        await client.until(h2.events.ResponseReceived)
    else:
        await stream.send_all(
            b"POST /s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"content-type: %s\r\nx-does: %s\r\n\r\n" % (PROTO.encode(), does.encode())
        )
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    return stream


async def test_a_client_that_does_not_take_the_end_is_not_waited_for(jump_clock: Clock) -> None:
    ended = trio.Event()

    async def handler(stream: ConnectStream) -> None:
        await stream.send(bytes(65_535 + 1))
        ended.set()

    async with http2(ConnectApp({"/s": Stream(handler)})) as client:
        stream_id = await client.request(*headers("/s"))
        await ended.wait()
        began = trio.current_time()
        await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert trio.current_time() - began == pytest.approx(5, abs=1)


async def test_it_runs_on_any_asgi_server_with_lifespan(jump_clock: Clock) -> None:
    """Stock Hypercorn tells nobody that a client is gone; then the stream has a reader of its own."""
    async with stock(APP) as server:
        answer = await Http2(server).call("/s.S/Tail", PROTO, b"some")
        assert (answer.status, answer.body) == (200, b"some")
    said: list[str] = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        said.append(message["type"])

    await APP({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

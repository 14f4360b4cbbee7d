"""The transport and its streams: leaving them, answers that were not expected, and httpx on top."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import h2.errors
import h2.events
import h2peer
import httpx
import pytest
import trio
import trio.testing
from h2peer import URL, Peer, fails, scene

from backrest.errors import BackrestError
from backrest.net.duplex import DuplexTransport, NetError

Codes = h2.errors.ErrorCodes


# -- cancelling and leaving


async def test_a_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with scene() as (stream, peer):
        await peer.request()
        with trio.move_on_after(5):
            await stream.receive()
        await peer.headers()
        with trio.move_on_after(5):
            await stream.receive()
        await peer.data(b"here")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        assert await stream.receive() == b"here"


async def test_a_cancelled_send_still_goes_out_whole(autojump_clock: trio.testing.MockClock) -> None:
    async with scene(window=1000) as (stream, peer):
        with trio.move_on_after(5) as scope:
            await stream.send(b"m" * 100_000)
        assert scope.cancelled_caught
        assert await peer.until_body(100_000) == b"m" * 100_000
        await stream.send(b"n")
        assert await peer.until_body(100_001) == b"m" * 100_000 + b"n"


async def test_leaving_tells_the_server() -> None:
    async with scene() as (stream, peer):
        await stream.send(b"x")
        await peer.until_body(1)
    assert (await peer.until(h2.events.StreamReset)).error_code == Codes.CANCEL
    assert (await peer.until(h2.events.ConnectionTerminated)).error_code == Codes.NO_ERROR
    with pytest.raises(EOFError):
        await peer.until(h2.events.Event)


async def test_an_exception_of_the_block_passes_unwrapped() -> None:
    with pytest.raises(ZeroDivisionError):
        async with scene():
            raise ZeroDivisionError


async def test_cancelling_the_block_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(3) as scope:
        async with scene() as (stream, peer):
            await peer.request()
            await stream.receive()
    assert scope.cancelled_caught


async def test_a_closed_stream_says_so() -> None:
    async with scene() as (stream, _):
        await stream.aclose()
        assert "closed on this side" in str(await fails(stream))
        await stream.aclose()


# -- what stands there is not what was expected


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n", "it answered 'HTTP/1.1 400 Bad Request'"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "speaks TLS: write https://"),
        (b"220 mail.test ESMTP\r\n", "it answered '220 mail.test ESMTP'"),
        (b"\xff\x00\x07", "it answered with something else"),
    ],
)
async def test_a_server_that_is_not_http2_is_named(first: bytes, text: str) -> None:
    async with scene() as (stream, peer):
        await peer.stream.send_all(first)
        await peer.stream.aclose()
        assert text in str(await fails(stream))


@pytest.mark.parametrize(
    ("status", "content_type", "text"),
    [
        (404, "", "does the proxy forward /v1sync.BackrestSyncService/? (status 404 from Caddy)"),
        (405, "", "does not take a POST"),
        (415, "", "content type"),
        (502, "", "cannot reach the hub behind it"),
        (503, "", "no hub to forward to"),
        (505, "", "the proxy must speak HTTP/2 (h2c) to the hub"),
        (418, "", "did not accept the request (status 418"),
        (200, "text/html; charset=utf-8", "something of the type 'text/html; charset=utf-8'"),
        (200, "", "something of no type"),
    ],
)
async def test_an_unexpected_answer_is_explained(status: int, content_type: str, text: str) -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers(status, content_type=content_type, server="Caddy", end=True)
        with pytest.raises(NetError) as caught:
            await stream.wait_response()
        assert text in str(caught.value)
        assert str(await fails(stream)) == str(caught.value)


async def test_a_redirect_is_not_followed_but_shown() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers(301, location="https://hub.test/{x}")
        assert "redirects to 'https://hub.test/{x}'" in str(await fails(stream))


async def test_parameters_of_the_content_type_do_not_matter() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers(content_type="Application/Connect+Proto; x=1")
        assert await stream.wait_response() == 200


async def test_header_bytes_that_are_no_text_do_no_harm() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        peer.h2.send_headers(
            1, [(b":status", b"200"), (b"content-type", h2peer.TYPE.encode()), (b"x", b"\xff\xfe")]
        )
        await peer.flush()
        assert await stream.wait_response() == 200
        assert stream.response_headers["x"] == "\xff\xfe"


# -- httpx


@asynccontextmanager
async def httpx_scene() -> AsyncGenerator[tuple[httpx.AsyncClient, Peer], None]:
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect(_: httpx.URL) -> trio.abc.Stream:
        return ours

    async with httpx.AsyncClient(transport=DuplexTransport(connect=connect), timeout=None) as client:
        yield client, Peer(theirs)


async def test_httpx_sends_a_body_while_the_response_comes() -> None:
    to_server, body = trio.open_memory_channel[bytes](0)
    async with httpx_scene() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.request()
            await peer.headers()
            while True:
                event = await peer.until(h2.events.Event)
                if isinstance(event, h2.events.DataReceived):
                    await peer.data(bytes(event.data).upper())
                elif isinstance(event, h2.events.StreamEnded):
                    return await peer.data(b"", end=True)

        nursery.start_soon(serve)
        async with client.stream("POST", URL, content=body) as response:
            assert response.status_code == 200
            assert response.http_version == "HTTP/2"
            parts = response.aiter_raw()
            await to_server.send(b"one")
            assert await anext(parts) == b"ONE"
            await to_server.send(b"two")
            assert await anext(parts) == b"TWO"
            await to_server.aclose()
            assert [p async for p in parts] == []


async def test_httpx_get_without_a_body() -> None:
    async with httpx_scene() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.until(h2.events.StreamEnded)
            await peer.headers(404, content_type="text/plain")
            await peer.data(b"nothing here", end=True)

        nursery.start_soon(serve)
        response = await client.get(URL)
        assert (response.status_code, response.text) == (404, "nothing here")


async def test_a_body_that_raises_ends_its_own_request_only() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"part"
        raise ZeroDivisionError("made up")

    async with httpx_scene() as (client, peer):
        with pytest.raises(httpx.TransportError, match="made up"):
            await client.post(URL, content=body())
        assert (await peer.until(h2.events.StreamReset)).error_code == Codes.CANCEL


async def test_httpx_sees_our_errors_as_its_own() -> None:
    async with httpx_scene() as (client, peer):
        await peer.stream.aclose()
        with pytest.raises(httpx.TransportError) as caught:
            await client.get(URL)
        assert isinstance(caught.value, BackrestError)
        assert caught.value.request.url == URL


async def test_the_transport_must_be_entered_first() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await DuplexTransport().handle_async_request(httpx.Request("GET", URL))


async def test_other_schemes_are_refused_by_the_transport() -> None:
    async with DuplexTransport() as transport:
        with pytest.raises(NetError, match="must be https or http"):
            await transport.handle_async_request(httpx.Request("GET", "ws://hub.test/"))

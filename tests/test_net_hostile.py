"""Hostile HTTP/2 peers: what they can make us do or hold, and that nobody else notices."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import h2.events
import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from h2raw import (
    Clock,
    ClosedByServer,
    RawClient,
    Receive,
    Send,
    done,
    echo,
    goaway,
    jump_clock,
    ours,
    protocol,
)
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, RstStreamFrame, WindowUpdateFrame

from backrest.net import h2guard, h2server
from backrest.net.h2settings import ServerSettings

__all__ = ["jump_clock"]


def flood_of_pings() -> bytes:
    return PingFrame(0, b"12345678").serialize() * (h2guard.BURST + 1)


def flood_of_resets() -> bytes:
    # 0x83 and so on: POST / over http from HPACK's static table, then authority x.
    block = b"\x83\x84\x86\x41\x01x"
    frames = bytearray()
    for stream_id in range(1, 2 * h2guard.RESET_BURST + 4, 2):
        frames += HeadersFrame(stream_id, block, flags=["END_HEADERS"]).serialize()
        frames += RstStreamFrame(stream_id).serialize()
    return bytes(frames)


def flood_of_credit() -> bytes:
    return WindowUpdateFrame(0, 1).serialize() * (h2guard.BURST + 1)


def long_frame() -> bytes:
    return (2**24 - 1).to_bytes(3, "big") + b"\x00\x00\x00\x00\x00\x01"


def header_bomb() -> bytes:
    """One header of 4 KB goes into HPACK's table, and is then named seven times by one byte each."""
    name, value = b"\x40\x01a", b"\x7f\xa1\x1e" + bytes(b"v" * 4000)
    return HeadersFrame(1, name + value + b"\xbe" * 7, flags=["END_HEADERS"]).serialize()


def broken_hpack() -> bytes:
    return HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"]).serialize()


HOSTILE = [
    pytest.param(flood_of_pings, ErrorCodes.ENHANCE_YOUR_CALM, id="pings"),
    pytest.param(flood_of_resets, ErrorCodes.ENHANCE_YOUR_CALM, id="rapid reset"),
    pytest.param(flood_of_credit, ErrorCodes.ENHANCE_YOUR_CALM, id="window updates"),
    pytest.param(long_frame, ErrorCodes.FRAME_SIZE_ERROR, id="a frame's length alone"),
    pytest.param(header_bomb, ErrorCodes.ENHANCE_YOUR_CALM, id="header bomb"),
    pytest.param(broken_hpack, ErrorCodes.PROTOCOL_ERROR, id="broken header block"),
]


@pytest.mark.parametrize(("attack", "code"), HOSTILE)
async def test_a_hostile_connection_ends_alone_and_in_one_line(
    attack: Callable[[], bytes], code: ErrorCodes, jump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backrest.net")
    async with ours(done) as server, server.client() as other, server.client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_quietly, client, attack())
            assert await goaway(client) == code
        await other.response(await other.request(end=True))
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None or not caplog.records[0].exc_info


async def send_quietly(client: RawClient, data: bytes) -> None:
    try:
        await client.raw(data)
    except (ClosedByServer, trio.ClosedResourceError):
        return


async def test_others_run_while_a_flood_is_parsed() -> None:
    """Between two slices of few frames every other task has had a turn."""
    async with protocol(echo) as client:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            stream_id = await client.request()
            before = turns
            await client.raw(DataFrame(stream_id, b"x").serialize() * 3200)
            received = 0
            while received < 3200:
                received += len((await client.until(h2.events.DataReceived)).data)
            nursery.cancel_scope.cancel()
        assert turns - before >= 3200 // h2guard.SLICE_FRAMES


async def test_a_peer_that_makes_us_answer_and_does_not_read_is_not_read_either() -> None:
    ping = PingFrame(0, b"12345678").serialize()
    sent = 0
    async with protocol(done) as client:

        async def pings() -> None:
            nonlocal sent
            while True:
                await client.stream.send_all(ping * 60)
                sent += 60

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pings)
            await trio.testing.wait_all_tasks_blocked()
            # What waits in our memory, one slice beyond, and what the stream between us held up.
            assert h2server.OUT_LIMIT / 17 - 200 <= sent <= h2server.OUT_LIMIT / 17 + 200
            nursery.cancel_scope.cancel()


async def test_applications_of_streams_reset_at_once_still_count(jump_clock: Clock) -> None:
    """Rapid reset: h2 counts only streams that are open, but their applications still run."""

    async def lingers(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with ours(lingers, settings=ServerSettings(max_streams=3)) as server, server.client() as client:
        for _ in range(3):
            client.h2.reset_stream(await client.request())
        await client.flush()
        refused = await client.request()
        event = await client.until(h2.events.StreamReset, stream_id=refused)
        assert event.error_code == ErrorCodes.REFUSED_STREAM


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([(b"x", b"a\nb")], id="line break"),
        pytest.param([(b"X", b"a")], id="upper case"),
        pytest.param([(b"", b"a")], id="no name"),
        pytest.param([(b"connection", b"close")], id="connection header"),
        pytest.param([(b"transfer-encoding", b"chunked")], id="transfer-encoding"),
        pytest.param([(b"x", b"a"), (b":path", b"/b")], id="late pseudo-header"),
        pytest.param([(b":path", b"/b")], id="second path"),
        pytest.param([(b":protocol", b"websocket")], id="extended CONNECT"),
        pytest.param([(b":status", b"200")], id="pseudo-header of a response"),
        pytest.param([(b"keep-alive", b"5")], id="keep-alive"),
        pytest.param([(b"proxy-connection", b"close")], id="proxy-connection"),
        pytest.param([(b"upgrade", b"h2c")], id="upgrade"),
        pytest.param([(b"te", b"gzip")], id="te"),
        pytest.param([(b"te", b"trailers, gzip")], id="te of two"),
        pytest.param([(b"host", b"y")], id="another host"),
        pytest.param([(b"host", b"x"), (b"host", b"x")], id="two hosts"),
        pytest.param([(b"content-length", b"+1")], id="content-length of no digits"),
        pytest.param([(b"content-length", b"1"), (b"content-length", b"2")], id="two content-lengths"),
        pytest.param([(b"content-length", b"9" * 5000)], id="endless content-length"),
    ],
)
async def test_a_malformed_request_harms_only_its_stream(
    extra: list[tuple[bytes, bytes]], jump_clock: Clock
) -> None:
    async with ours(echo) as server, server.client() as client:
        other = await client.request()
        stream_id = await client.request(b"/", *extra)
        event = await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert event.error_code == ErrorCodes.PROTOCOL_ERROR
        await client.data(other, b"still here", end=True)
        assert (await client.response(other))[2] == b"still here"


WHOLE = {b":method": b"POST", b":path": b"/", b":scheme": b"http", b":authority": b"x"}


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: None} for name in (b":method", b":path", b":scheme")),
        *({name: b""} for name in (b":method", b":path", b":scheme")),
        {b":path": b"*"},
        {b":path": b"x"},
        {b":scheme": b"1"},
        {b":authority": b"you@x"},
    ],
    ids=repr,
)
async def test_a_request_without_good_pseudo_headers_harms_only_its_stream(
    wrong: dict[bytes, bytes | None], jump_clock: Clock
) -> None:
    async with ours(echo) as server, server.client() as client:
        other = await client.request()
        stream_id = client.h2.get_next_available_stream_id()
        headers = [(name, value) for name, value in {**WHOLE, **wrong}.items() if value is not None]
        await client.head(stream_id, headers)
        event = await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert event.error_code == ErrorCodes.PROTOCOL_ERROR
        await client.data(other, b"still here", end=True)
        assert (await client.response(other))[2] == b"still here"


@pytest.mark.parametrize("extra", [[(b"te", b"trailers")], [(b"host", b"X")], [(b"content-length", b"4")]])
async def test_what_http2_allows_is_answered(extra: list[tuple[bytes, bytes]], jump_clock: Clock) -> None:
    async with ours(echo) as server, server.client() as client:
        stream_id = await client.request(b"/", *extra, body=b"four", end=True)
        assert (await client.response(stream_id))[2] == b"four"


@pytest.mark.parametrize(
    ("declared", "sent"), [(b"3", b"four"), (b"5", b"four"), (b"0", b"four"), (b"1", b"")]
)
async def test_a_body_that_is_not_as_long_as_declared_harms_only_its_stream(
    declared: bytes, sent: bytes, jump_clock: Clock
) -> None:
    async with ours(echo) as server, server.client() as client:
        other = await client.request()
        stream_id = await client.request(b"/", (b"content-length", declared), body=sent, end=True)
        event = await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert event.error_code == ErrorCodes.PROTOCOL_ERROR
        await client.data(other, b"still here", end=True)
        assert (await client.response(other))[2] == b"still here"


async def test_trailers_with_a_pseudo_header_harm_only_their_stream(jump_clock: Clock) -> None:
    async with ours(echo) as server, server.client() as client:
        good, bad = await client.request(), await client.request()
        await client.head(bad, [(b":path", b"/")], end=True)
        event = await client.until(h2.events.StreamReset, stream_id=bad)
        assert event.error_code == ErrorCodes.PROTOCOL_ERROR
        await client.data(good, b"good")
        await client.head(good, [(b"x", b"y")], end=True)
        assert (await client.response(good))[2] == b"good"


async def test_surrounding_blanks_in_a_header_are_taken_off(jump_clock: Clock) -> None:
    """h2's own check would end the connection, which a proxy shares among its clients, for a blank."""
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])
        await done(scope, receive, send)

    async with ours(app) as server, server.client() as client:
        await client.response(await client.request(b"/", (b"x", b" a b "), end=True))
    assert seen == [(b"host", b"x"), (b"x", b"a b")]

"""One HTTP/2 connection and a scripted server, on memory streams: windows, chunks, ends, time that jumps."""

from __future__ import annotations

import contextlib
import itertools

import h2.errors
import h2.events
import h2peer
import hpack
import httpx
import pytest
import trio
import trio.testing
from h2peer import HEADERS, URL, Peer, fails, raw, scene
from hypothesis import given, settings
from hypothesis import strategies as st

from backrest.errors import BackrestError
from backrest.net import h2client, h2cut
from backrest.net.duplex import GoAway, NetError, open_stream
from backrest.net.h2cut import MAX_FRAME

Codes = h2.errors.ErrorCodes


# -- full duplex


async def test_a_message_arrives_before_any_response_header() -> None:
    async with scene() as (stream, peer):
        await stream.send(b"key")
        request = await peer.request()
        assert await peer.until_body(3) == b"key"
        assert stream.status is None
        await peer.headers()
        await peer.data(b"encapsulation")
        assert await stream.receive() == b"encapsulation"
        assert stream.status == 200
        await stream.send(b"more")
        assert await peer.until_body(7) == b"keymore"
    assert request[":method"] == "POST"
    assert request[":path"] == "/v1sync.BackrestSyncService/Sync"
    assert request[":authority"] == "hub.test"
    assert request["content-type"] == h2peer.TYPE
    assert "content-length" not in request
    assert "transfer-encoding" not in request


async def test_response_goes_on_after_the_request_has_ended() -> None:
    async with scene() as (stream, peer):
        await stream.send(b"all")
        await stream.end()
        await peer.until(h2.events.StreamEnded)
        await peer.headers()
        await peer.data(b"one")
        assert await stream.receive() == b"one"
        await peer.data(b"two", end=True)
        assert await stream.receive() == b"two"
        assert await stream.receive() == b""
        assert await stream.receive() == b""


async def test_sending_after_end_is_a_mistake_of_the_caller() -> None:
    async with scene() as (stream, _):
        await stream.end()
        with pytest.raises(RuntimeError, match="after end"):
            await stream.send(b"x")


async def test_small_messages_are_joined_into_frames() -> None:
    async with scene() as (stream, peer):
        for _ in range(4000):
            await stream.send(b"0123456789")
        assert await peer.until_body(40_000) == b"0123456789" * 4000
    assert len(peer.frames) <= 4
    assert max(peer.frames) <= 16384


# -- flow control


async def test_send_waits_for_the_servers_window() -> None:
    async with scene(window=1000, credit=False) as (stream, peer), trio.open_nursery() as nursery:
        done = trio.Event()

        async def send() -> None:
            await stream.send(bytes(h2client.OUTBOX + 2000))
            done.set()

        nursery.start_soon(send)
        await peer.until_body(1000)
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.body) == 1000
        assert not done.is_set()
        peer.credit = True
        peer.h2.acknowledge_received_data(1000, 1)
        await peer.until_body(h2client.OUTBOX + 2000)
        await done.wait()


async def test_a_window_of_seven_bytes_delivers_everything() -> None:
    text = bytes(range(256)) * 8
    async with scene(window=7) as (stream, peer):
        await stream.send(text)
        assert await peer.until_body(len(text)) == text
    assert max(peer.frames) <= 7


async def test_what_nobody_reads_is_bounded_and_reading_gives_credit() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        sent = 0
        while room := min(peer.h2.local_flow_control_window(1), 16384):
            await peer.data(b"x" * room)
            sent += room
        assert sent == h2cut.STREAM_WINDOW
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await peer.until(h2.events.WindowUpdated)
        assert peer.h2.local_flow_control_window(1) == 0

        got = len(await stream.receive())
        await peer.until(h2.events.WindowUpdated)
        while peer.h2.local_flow_control_window(1) < got:
            await peer.until(h2.events.WindowUpdated)
        assert got == sent


async def test_many_windows_full_pass_while_the_reader_keeps_up() -> None:
    total = 5 * h2cut.STREAM_WINDOW
    async with scene() as (stream, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.request()
            await peer.headers()
            left = total
            while left:
                room = min(peer.h2.local_flow_control_window(1), peer.h2.max_outbound_frame_size, left)
                if room:
                    await peer.data(b"y" * room)
                    left -= room
                else:
                    await peer.until(h2.events.WindowUpdated)
            await peer.data(b"", end=True)

        nursery.start_soon(serve)
        got = 0
        while data := await stream.receive():
            got += len(data)
        assert got == total


async def test_padding_gives_its_credit_back_too() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        for _ in range(2 * h2cut.STREAM_WINDOW // 200):  # more padding than any window
            if peer.h2.local_flow_control_window(1) < 200:
                await peer.until(h2.events.WindowUpdated)
            peer.h2.send_data(1, b"", pad_length=199)
            await peer.flush()
        await peer.data(b"through")
        assert await stream.receive() == b"through"


async def test_one_byte_frames_do_not_cost_more_memory_than_their_bytes() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        await peer.stream.send_all(b"".join(raw(h2peer.DATA, 0, bytes([i % 256])) for i in range(5000)))
        await trio.testing.wait_all_tasks_blocked()
        assert await stream.receive() == bytes(i % 256 for i in range(5000))


# -- how it ends


@pytest.mark.parametrize("code", [Codes.NO_ERROR, Codes.INTERNAL_ERROR])
async def test_end_of_stream_and_then_a_reset_is_a_clean_end(code: Codes) -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        await peer.data(b"last words", end=True)
        await peer.reset(code)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send(b"too late, and no error: the reader is about to learn why")
        await stream.end()
        assert await stream.receive() == b"last words"
        assert await stream.receive() == b""


async def test_the_end_of_the_response_frees_a_sender_that_waits() -> None:
    async with scene(window=10, credit=False) as (stream, peer), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, bytes(1 << 20))
        await peer.request()
        await peer.headers()
        await peer.data(b"refused", end=True)
        assert await stream.receive() == b"refused"
        assert await stream.receive() == b""


async def test_a_loop_that_only_sends_lets_others_run_after_the_end() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers(end=True)
        assert await stream.receive() == b""
        ran = trio.Event()
        async with trio.open_nursery() as nursery:

            async def other() -> None:
                ran.set()

            nursery.start_soon(other)
            for _ in range(10):
                await stream.send(b"x")
            assert ran.is_set()


async def test_reset_is_named_after_what_came_before_it() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        await peer.data(b"before")
        await peer.reset(Codes.INTERNAL_ERROR)
        await trio.testing.wait_all_tasks_blocked()
        assert await stream.receive() == b"before"
        error = await fails(stream)
        assert "RST_STREAM, INTERNAL_ERROR" in str(error)
        assert not error.retry_at_once
        assert not stream.goaway


async def test_reset_because_of_http_1_1_says_so() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.reset(Codes.HTTP_1_1_REQUIRED)
        assert "insists on HTTP/1.1" in str(await fails(stream))


@pytest.mark.parametrize(
    ("code", "note", "text"),
    [
        (Codes.NO_ERROR, b"", "(NO_ERROR)"),
        (Codes.ENHANCE_YOUR_CALM, b"too_many_pings", "(ENHANCE_YOUR_CALM): 'too_many"),
    ],
)
async def test_goaway_means_reconnect_now(code: Codes, note: bytes, text: str) -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        peer.h2.send_data(1, b"before")
        await peer.go_away(code, note)  # in the same write, and frames follow it that nobody may stumble over
        await peer.stream.send_all(raw(h2peer.DATA, 0, b"after") + raw(h2peer.GOAWAY, 0, bytes(8), 0))
        assert await stream.receive() == b"before"
        error = await fails(stream)
        assert isinstance(error, GoAway)
        assert isinstance(error, BackrestError)
        assert error.retry_at_once
        assert stream.goaway
        assert text in str(error)
        with pytest.raises(GoAway):
            await stream.send(b"x")


async def test_goaway_reaches_a_sender_that_waits_for_window() -> None:
    async with scene(window=10, credit=False) as (stream, peer), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(GoAway):
                await stream.send(bytes(1 << 20))

        nursery.start_soon(send)
        await peer.until_body(10)
        await peer.go_away()


async def test_goaway_before_the_response_is_told_too() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.go_away()
        with pytest.raises(GoAway):
            await stream.wait_response()


async def test_goaway_behind_the_end_leaves_the_end_clean_and_is_flagged() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        peer.h2.send_data(1, b"bye", end_stream=True)
        await peer.go_away()
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send(b"x")
        assert await stream.receive() == b"bye"
        assert await stream.receive() == b""
        assert stream.goaway


async def test_data_after_the_end_is_harmless() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        await peer.data(b"all", end=True)
        await peer.stream.send_all(raw(h2peer.DATA, 0, b"late") * 20)
        await trio.testing.wait_all_tasks_blocked()
        assert await stream.receive() == b"all"
        assert await stream.receive() == b""


async def test_a_close_in_mid_stream_is_an_error() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        await peer.data(b"part")
        await peer.stream.aclose()
        assert await stream.receive() == b"part"
        assert "closed the connection in mid-stream" in str(await fails(stream))
        with pytest.raises(NetError):
            await stream.send(b"x")


async def test_a_close_without_a_byte_asks_whether_http2_is_served() -> None:
    async with scene() as (stream, peer):
        await peer.stream.aclose()
        assert "is HTTP/2 served there?" in str(await fails(stream))


async def test_a_frame_against_the_rules_ends_the_stream_after_what_was_good() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        good, bad = raw(h2peer.DATA, 0, b"good"), raw(h2peer.WINDOW_UPDATE, 0, bytes(3), 0)
        await peer.stream.send_all(good + bad)
        assert await stream.receive() == b"good"
        assert "broke the rules of HTTP/2" in str(await fails(stream))


async def test_a_frame_larger_than_allowed_is_refused_by_its_length() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.stream.send_all((MAX_FRAME + 1).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1]))
        assert "broke the rules of HTTP/2: a frame of 65537 bytes" in str(await fails(stream))


async def test_a_frame_as_large_as_announced_passes() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        await peer.stream.send_all(raw(h2peer.DATA, 0, bytes(MAX_FRAME)))
        assert await stream.receive() == bytes(MAX_FRAME)


async def test_a_header_block_without_end_is_refused() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        block = raw(h2peer.HEADERS_FRAME, 0, bytes(30_000)) + raw(h2peer.CONTINUATION, 0, bytes(30_000)) * 2
        await peer.stream.send_all(block)
        assert "a header block that is too long" in str(await fails(stream))


@pytest.mark.parametrize(
    "fields",
    [
        [("content-type", h2peer.TYPE)],
        [(":status", "")],
        [(":status", "20")],
        [(":status", "101")],
        [(":status", "099")],
        [(":status", "2000")],
        [(":status", "\u0662\u0660\u0660")],
        [(":status", "200"), (":status", "200")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), (":new", "x")],
        [("content-type", h2peer.TYPE), (":status", "200")],
        [(":status", "200"), ("Content-Type", h2peer.TYPE)],
        [(":status", "200"), ("connection", "close")],
        [(":status", "200"), ("keep-alive", "5")],
        [(":status", "200"), ("proxy-connection", "close")],
        [(":status", "200"), ("transfer-encoding", "chunked")],
        [(":status", "200"), ("upgrade", "h2c")],
        [(":status", "200"), ("x", "a\nb")],
        [(":status", "200"), ("", "x")],
        [(":status", "200"), ("content-length", "1"), ("content-length", "2")],
    ],
    ids=repr,
)
async def test_a_malformed_response_is_no_response(fields: list[tuple[str, str]]) -> None:
    """RFC 9113, 8.2 and 8.3.2."""
    async with scene() as (stream, peer):
        await peer.request()
        block = hpack.Encoder().encode(fields)
        await peer.stream.send_all(raw(h2peer.HEADERS_FRAME, 4, block))
        await peer.stream.send_all(raw(h2peer.DATA, 0, b"as if it were good"))
        assert "broke the rules of HTTP/2" in str(await fails(stream))
        assert stream.status is None


async def test_settings_without_end_are_refused() -> None:
    async with scene() as (stream, peer):
        await peer.request()
        for start in range(0, 600, 100):
            values = b"".join((1000 + start + i).to_bytes(2, "big") + bytes(4) for i in range(100))
            await peer.stream.send_all(raw(h2peer.SETTINGS, 0, values, 0))
        assert "too many settings" in str(await fails(stream))


# -- any chunking, any bytes


def server_bytes(messages: list[bytes]) -> bytes:
    """What a server writes for a response of these messages, in one piece."""
    server = Peer(trio.testing.memory_stream_pair()[0]).h2
    client = h2cut.new_h2()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", "/")])
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", "200"), ("content-type", h2peer.TYPE)])
    for message in messages:
        server.send_data(1, message)
    server.end_stream(1)
    return server.data_to_send()


async def play(chunks: list[bytes]) -> bytes:
    """What the client makes of these bytes from a server that then closes."""
    async with scene() as (stream, peer):
        for chunk in chunks:
            await peer.stream.send_all(chunk)
            await trio.lowlevel.checkpoint()
        await peer.stream.aclose()
        result = bytearray()
        while data := await stream.receive():
            result += data
        return bytes(result)


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(st.binary(max_size=400), max_size=6),
    cuts=st.lists(st.integers(0, 3000), max_size=12),
)
def test_any_chunking_gives_the_same_response(messages: list[bytes], cuts: list[int]) -> None:
    data = server_bytes(messages)
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert trio.run(play, chunks) == b"".join(messages)


def test_single_bytes_give_the_same_response() -> None:
    data = server_bytes([b"one", b"two" * 50])
    assert trio.run(play, [data[i : i + 1] for i in range(len(data))]) == b"one" + b"two" * 50


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 200), noise=st.binary(min_size=1, max_size=60))
def test_wrong_bytes_never_raise_anything_but_a_net_error(position: int, noise: bytes) -> None:
    data = server_bytes([b"message" * 10])
    position = min(position, len(data))
    with contextlib.suppress(NetError):
        trio.run(play, [data[:position] + noise + data[position + len(noise) :]])


# -- time


async def test_a_server_that_says_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with scene() as (stream, _):
        assert "said nothing for 15 s" in str(await fails(stream))
    assert trio.current_time() == pytest.approx(15, abs=2)


async def test_pings_are_answered_while_nobody_reads() -> None:
    async with scene() as (_, peer):
        await peer.request()
        peer.h2.ping(b"12345678")
        assert (await peer.until(h2.events.PingAckReceived)).ping_data == b"12345678"


async def test_silence_is_probed_and_an_answer_keeps_the_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        for _ in range(3):
            await peer.until(h2.events.PingReceived)
            await peer.flush()
        assert trio.current_time() == pytest.approx(3 * h2client.PROBE_AFTER, abs=3)
        await peer.data(b"still there")
        assert await stream.receive() == b"still there"


async def test_silence_without_an_answer_to_the_probe_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    async with scene() as (stream, peer):
        await peer.request()
        await peer.headers()
        assert "nothing came for 120 s" in str(await fails(stream))
    assert trio.current_time() == pytest.approx(120, abs=2)


async def test_no_connection_in_time_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async def never(_: httpx.URL) -> trio.abc.Stream:
        return await trio.sleep_forever()

    with pytest.raises(NetError, match=r"no connection to hub\.test:80 within 15 s"):
        async with open_stream(URL, headers=HEADERS, connect=never):
            pass


async def test_leaving_takes_a_second_when_the_other_side_does_not_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pair = trio.testing.lockstep_stream_pair()
    async with scene(pair=pair) as (stream, _):
        await stream.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == pytest.approx(1, abs=0.1)


async def test_a_flood_of_pings_is_not_remembered_without_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scene(pair=_half_lockstep()) as (stream, peer):
        await peer.flush()
        for _ in range(3):  # the answers are never read
            await peer.stream.send_all(raw(h2peer.PING, 0, bytes(8), 0) * h2client.MAX_ANSWERS)
            await trio.testing.wait_all_tasks_blocked()
        assert "floods us" in str(await fails(stream))


def _half_lockstep() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Ours and theirs: what we send must be read by them at once, what they send is buffered."""
    up_send, up_receive = trio.testing.lockstep_stream_one_way_pair()
    down_send, down_receive = trio.testing.memory_stream_one_way_pair()
    return trio.StapledStream(up_send, down_receive), trio.StapledStream(down_send, up_receive)

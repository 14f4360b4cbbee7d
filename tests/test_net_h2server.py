"""Our HTTP/2 side by itself: deadlines, credit, fairness, and the order of the end."""

from __future__ import annotations

from typing import Any

import h2.events
import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from h2raw import (
    START,
    Clock,
    RawClient,
    Receive,
    Send,
    body,
    deaf,
    done,
    echo,
    goaway,
    jump_clock,
    ours,
)
from hyperframe.frame import DataFrame

from backrest.net.h2settings import ServerSettings

__all__ = ["jump_clock"]


DAY_S = 24 * 3600.0


# -- deadlines


@pytest.mark.parametrize("said", [b"", b"PRI * HT", b"POST / HTTP/1.1\r\nhost: x\r\n"])
async def test_a_connection_that_asks_for_nothing_is_closed_after_10_s(
    said: bytes, jump_clock: Clock
) -> None:
    async with ours(done) as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        began = trio.current_time()
        if said:
            await stream.send_all(said)
        assert await stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(10, abs=1)


async def test_http2_without_a_stream_is_closed_after_10_s_with_goaway(jump_clock: Clock) -> None:
    async with ours(done) as server, server.client() as client:
        began = trio.current_time()
        for _ in range(9):
            await trio.sleep(1)
            client.h2.ping(b"12345678")
            await client.flush()
        assert await goaway(client) == ErrorCodes.NO_ERROR
        assert trio.current_time() - began == pytest.approx(10, abs=2)


async def test_a_stream_may_be_silent_for_days(jump_clock: Clock) -> None:
    async with ours(echo) as server, server.client() as client:
        stream_id = await client.request()
        await trio.sleep(3 * DAY_S)
        await client.data(stream_id, b"good morning", end=True)
        assert (await client.response(stream_id))[2] == b"good morning"


async def test_a_connection_without_streams_is_kept_for_a_while_and_then_closed(jump_clock: Clock) -> None:
    async with ours(done) as server, server.client() as client:
        for _ in range(3):
            await trio.sleep(ServerSettings().idle_s - 5 if client.h2.highest_outbound_stream_id else 0)
            await client.response(await client.request(end=True))
        began = trio.current_time()
        assert await goaway(client) == ErrorCodes.NO_ERROR
        assert trio.current_time() - began == pytest.approx(ServerSettings().idle_s, abs=2)


async def test_a_peer_that_does_not_read_for_ten_minutes_loses_its_stream(jump_clock: Clock) -> None:
    outcome: list[float] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        began = trio.current_time()
        await send(START)
        with pytest.raises(OSError, match="has not read for 600 s"):
            await send(body(bytes(500_000)))
        outcome.append(trio.current_time() - began)

    async with ours(app) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.StreamReset, stream_id=stream_id)
    assert outcome == [pytest.approx(600, abs=2)]


async def test_a_peer_that_reads_slowly_keeps_its_stream(jump_clock: Clock) -> None:
    async with ours(large) as server, server.client() as client:
        stream_id = await client.request(end=True)
        received = 0
        while received < LARGE:
            event = await client.until(h2.events.DataReceived)
            received += len(event.data)
            if received % 65_535 < 20_000:
                await trio.sleep(500)
            client.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
            await client.flush()
        await client.until(h2.events.StreamEnded)


LARGE = 400_000


async def large(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send(START)
    await send(body(bytes(LARGE), more=False))


# -- credit


async def test_credit_comes_back_when_the_application_reads_and_not_before(jump_clock: Clock) -> None:
    read = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        await read.wait()
        await echo_length(receive, send)

    async with ours(app) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.ResponseReceived)
        await fill(client, stream_id)
        with trio.move_on_after(DAY_S):
            await client.until(h2.events.WindowUpdated, stream_id=stream_id)
            pytest.fail("credit for what nobody has read")
        read.set()
        await client.until(h2.events.WindowUpdated, stream_id=stream_id)
        await client.data(stream_id, b"more", end=True)
        assert (await client.response(stream_id))[2] == b"%d" % (16 * 1024 + 4)


async def echo_length(receive: Receive, send: Send) -> None:
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    await send(body(b"%d" % length, more=False))


async def fill(client: RawClient, stream_id: int) -> int:
    """Sends as much as the stream's window lets us."""
    sent = 0
    while size := min(client.h2.local_flow_control_window(stream_id), 16_384):
        await client.data(stream_id, bytes(size))
        sent += size
    return sent


async def test_streams_that_nobody_reads_do_not_hold_the_connection(jump_clock: Clock) -> None:
    """A proxy shares it: 300 full windows are more than the connection's, and another stream goes on."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await (echo if scope["path"] == "/live" else deaf)(scope, receive, send)

    async with ours(app) as server, server.client() as client:
        live = await client.request(b"/live")
        await client.until(h2.events.RemoteSettingsChanged)
        for _ in range(300):
            assert await fill(client, await client.request(b"/unread")) == 16 * 1024
            await client.data(live, b"?")
            await client.until(h2.events.DataReceived, stream_id=live)


async def test_a_body_that_comes_before_the_peer_knows_our_window_arrives_whole(jump_clock: Clock) -> None:
    """Its stream begins with HTTP/2's own window, which is larger."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        await echo_length(receive, send)

    async with ours(app) as server, server.client() as client:
        stream_id = await client.request()
        for _ in range(3):
            await client.data(stream_id, bytes(16_384))
        await client.data(stream_id, bytes(16_383), end=True)
        assert (await client.response(stream_id))[2] == b"65535"


@pytest.mark.parametrize(("let_in", "window"), [(False, 16 * 1024), (True, 1024 * 1024)])
async def test_the_window_grows_when_a_peer_that_is_let_in_sends(
    let_in: bool, window: int, jump_clock: Clock
) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        if let_in:
            scope["state"]["backrest.let_in"]()
        for _ in range(2):
            await receive()
            await send(body(b"read"))
        await trio.sleep_forever()

    async with ours(app) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.RemoteSettingsChanged)
        await client.data(stream_id, bytes(8 * 1024 - 1))
        await client.until(h2.events.DataReceived)
        assert client.h2.local_flow_control_window(stream_id) == 8 * 1024 + 1, "credit for half a window"
        await client.data(stream_id, b"x")
        await client.until(h2.events.WindowUpdated, stream_id=stream_id)
        assert client.h2.local_flow_control_window(stream_id) == window


async def test_bodies_of_refused_requests_are_credited_to_the_connection(jump_clock: Clock) -> None:
    """They come in one packet with their heads, so h2 has them before the stream is reset."""
    async with ours(done) as server, server.client() as client:
        for _ in range(5 * 64):
            stream_id = client.h2.get_next_available_stream_id()
            client.h2.send_headers(stream_id, [(b":method", b"?"), (b":path", b"no path")])
            await client.raw(DataFrame(stream_id, bytes(16_384)))
            await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert (await client.response(await client.request(body=b"some", end=True)))[2] == b"done"


async def test_padding_is_credited_though_nobody_reads_it(jump_clock: Clock) -> None:
    async with ours(deaf) as server, server.client() as client:
        stream_id = await client.request()
        padding = DataFrame(stream_id, b"", flags=["PADDED"], pad_length=255).serialize()
        await client.raw(padding * 2_100)  # a little more than half a window
        await client.until(h2.events.WindowUpdated, stream_id=stream_id)


async def test_settings_that_open_the_windows_let_waiting_streams_go_on(jump_clock: Clock) -> None:
    async with ours(done) as server, server.client(window=0) as client:
        stream_id = await client.request(end=True)
        await client.until(h2.events.ResponseReceived)
        with trio.move_on_after(100):
            await client.until(h2.events.DataReceived)
            pytest.fail("DATA into a closed window")
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        await client.flush()
        assert (await client.response(stream_id))[2] == b"done"


async def test_an_upload_of_many_windows_arrives_whole(jump_clock: Clock) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(START)
        await echo_length(receive, send)

    total = 20 * 1024 * 1024
    async with ours(app) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.RemoteSettingsChanged)
        sent = 0
        while sent < total:
            sent += await fill(client, stream_id)
            await client.read()
        await client.data(stream_id, b"", end=True)
        assert (await client.response(stream_id))[2] == b"%d" % sent


async def test_streams_share_the_connection_evenly(jump_clock: Clock) -> None:
    async with ours(large) as server, server.client() as client:
        received = {await client.request(end=True): 0 for _ in range(4)}
        while max(received.values()) < LARGE:
            event = await client.until(h2.events.DataReceived)
            received[event.stream_id] += len(event.data)
            client.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            await client.flush()
            assert max(received.values()) - min(received.values()) <= 3 * 65_535


async def test_a_thousand_streams_fit_in_one_connection(jump_clock: Clock) -> None:
    async with ours(echo) as server, server.client() as client:
        await client.until(h2.events.RemoteSettingsChanged)
        streams = [await client.request() for _ in range(1_000)]
        for stream_id in streams:
            client.h2.send_data(stream_id, b"%d" % stream_id, end_stream=True)
        await client.flush()
        received: dict[int, bytes] = dict.fromkeys(streams, b"")
        ended = 0
        while ended < 1_000:
            await client.read()
            for event in client.events:
                if isinstance(event, h2.events.DataReceived):
                    received[event.stream_id] += event.data or b""
                ended += isinstance(event, h2.events.StreamEnded)
            client.events.clear()
        assert all(value == b"%d" % key for key, value in received.items())


# -- the end


async def test_an_idle_connection_does_not_delay_the_shutdown(jump_clock: Clock) -> None:
    async with ours(done) as server, server.client() as client:
        await client.response(await client.request(end=True))
        began = trio.current_time()
        server.shutdown.set()
        assert await goaway(client) == ErrorCodes.NO_ERROR
        await server.ended.wait()
        assert trio.current_time() - began < 2


async def test_an_application_that_ignores_the_shutdown_is_cut_within_the_grace(jump_clock: Clock) -> None:
    async with ours(deaf, grace_s=5) as server, server.client() as client:
        stream_id = await client.request()
        await client.until(h2.events.ResponseReceived)
        began = trio.current_time()
        server.shutdown.set()
        await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert await goaway(client) == ErrorCodes.NO_ERROR
        await server.ended.wait()
        assert 4 <= trio.current_time() - began <= 5


async def test_an_application_that_says_nothing_gets_503_at_the_end(jump_clock: Clock) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with ours(app) as server, server.client() as client:
        stream_id = await client.request()
        await trio.testing.wait_all_tasks_blocked(0.01)
        server.shutdown.set()
        assert (await client.response(stream_id))[0] == 503


async def test_no_new_connections_during_the_shutdown(jump_clock: Clock) -> None:
    async with ours(deaf) as server, server.client() as client:
        await client.until(h2.events.RemoteSettingsChanged)
        await client.request()
        await client.until(h2.events.ResponseReceived)
        server.shutdown.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream("127.0.0.1", server.port)


async def test_a_response_that_ends_before_its_request_cuts_the_request_without_error(
    jump_clock: Clock,
) -> None:
    async with ours(done) as server, server.client() as client:
        stream_id = await client.request()
        assert (await client.response(stream_id))[2] == b"done"
        event = await client.until(h2.events.StreamReset, stream_id=stream_id)
        assert event.error_code == ErrorCodes.NO_ERROR


@pytest.mark.parametrize("bad", [(b":path", b"/"), (b"x", b"a\r\nb: c"), (b"a b", b""), (b"", b"")])
async def test_headers_that_cannot_be_sent_end_the_stream_only(
    bad: tuple[bytes, bytes], jump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """h2 notices them in the middle of compressing, which spoils every later response of the connection."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        good = [(b"X-Name", b" value "), (b"connection", b"close")]
        await send({**START, "headers": [*good, bad] if scope["path"] == "/bad" else good})
        await send(body(b"", more=False))

    async with ours(app) as server, server.client() as client:
        for _ in range(2):
            assert (await client.response(await client.request(b"/bad", end=True)))[0] == 500
            status, headers, _ = await client.response(await client.request(end=True))
            assert (status, headers[b"x-name"], b"connection" in headers) == (200, b"value", False)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_a_disconnect_is_told_at_once_and_the_application_lives_on(jump_clock: Clock) -> None:
    told = trio.Event()
    finished = trio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"
        told.set()
        await trio.sleep(60)
        finished.set()

    async with ours(app) as server, server.client() as client:
        await client.request()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.aclose_forcefully(client.stream)
        await told.wait()
        await finished.wait()

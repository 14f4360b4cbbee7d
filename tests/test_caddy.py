"""The repository's Caddyfile in a real Caddy, with TLS and its own CA, between our client and our server."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio
from caddy import Caddy, running_caddy
from certs import CA
from h2peer import HEADERS, TYPE, Peer, fails

from backrest.net.connect import ConnectApp, ConnectStream, Stream
from backrest.net.duplex import DuplexStream, DuplexTransport, GoAway, NetError, open_stream, rpc_url
from backrest.net.server import serve

PATH = "/v1sync.BackrestSyncService/Sync"
MOMENTS_S = 5.0  # "connected again within 5 s"


async def echo(stream: ConnectStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


@asynccontextmanager
async def hub() -> AsyncGenerator[tuple[str, int], None]:
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
            app = ConnectApp({PATH: Stream(echo)})
            await serve(app, binds=["127.0.0.1:0"], shutdown=shutdown, grace_s=0.5, task_status=task_status)

        addresses = await nursery.start(run)
        yield addresses[0]
        shutdown.set()


@asynccontextmanager
async def dialled(caddy: Caddy, path: str = PATH) -> AsyncGenerator[DuplexStream, None]:
    with trio.fail_after(30):
        async with open_stream(rpc_url(caddy.url, path), headers=HEADERS, ca_file=caddy.ca_file) as stream:
            yield stream


async def says(stream: DuplexStream, data: bytes) -> None:
    """``data`` comes back, whole."""
    await stream.send(data)
    back = b""
    while len(back) < len(data):
        part = await stream.receive()
        assert part, "the stream ended"
        back += part
    assert back == data


async def test_a_stream_runs_both_ways_through_caddy_and_ends_cleanly() -> None:
    async with hub() as address, running_caddy(address) as caddy, dialled(caddy) as stream:
        await says(stream, b"hello")
        assert stream.response_headers["server"] == "Caddy"
        await says(stream, os.urandom(100_000))
        await stream.end()
        assert await stream.receive() == b""


async def test_large_amounts_pass_caddy_whole() -> None:
    data = os.urandom(8 << 20)
    async with hub() as address, running_caddy(address) as caddy, dialled(caddy) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send, data)
            back = bytearray()
            while len(back) < len(data):
                back += await stream.receive()
        assert back == data


async def test_only_the_sync_path_is_open() -> None:
    async with hub() as address, running_caddy(address) as caddy:
        async with httpx.AsyncClient(
            transport=DuplexTransport(ca_file=caddy.ca_file), timeout=None
        ) as client:
            for path in ("/", "/v1.Backrest/GetConfig", "/metrics", "/v1sync.BackrestSyncService"):
                assert (await client.post(caddy.url + path, content=b"{}")).status_code == 404
        async with dialled(caddy, "/elsewhere/Sync") as stream:
            assert "does the proxy forward /elsewhere/? (status 404 from Caddy)" in str(await fails(stream))


async def test_a_certificate_of_caddys_ca_is_not_trusted_without_it() -> None:
    async with hub() as address, running_caddy(address) as caddy:
        caddy.ca_file.write_bytes(CA().pem)
        with pytest.raises(NetError, match="is not valid here"):
            async with dialled(caddy):
                pass


async def test_a_name_that_caddy_does_not_serve_is_named() -> None:
    async with hub() as address, running_caddy(address) as caddy:
        caddy.url = caddy.url.replace("localhost", "127.0.0.1")
        with pytest.raises(NetError, match="has no certificate for this name"):
            async with dialled(caddy):
                pass


async def test_a_reload_of_caddy_is_noticed_at_once_and_a_new_stream_works() -> None:
    async with hub() as address, running_caddy(address) as caddy:
        async with dialled(caddy) as stream:
            await says(stream, b"before")
            await caddy.reload()
            with trio.fail_after(MOMENTS_S):
                error = await fails(stream)
        assert isinstance(error, GoAway)
        assert stream.goaway
        with trio.fail_after(MOMENTS_S):
            async with dialled(caddy) as stream:
                await says(stream, b"after")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_of_caddy_is_noticed_at_once_and_a_new_stream_works(sign: signal.Signals) -> None:
    async with hub() as address, running_caddy(address) as caddy:
        async with dialled(caddy) as stream:
            await says(stream, b"before")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caddy.stop, sign)
                with trio.fail_after(MOMENTS_S):
                    error = await fails(stream)
                await stream.aclose()  # as the client does: it lets Caddy end in peace
        assert isinstance(error, GoAway) or sign is signal.SIGKILL
        with pytest.raises(NetError, match="refused the connection"):
            async with dialled(caddy):
                pass
        await caddy.start()
        with trio.fail_after(MOMENTS_S):
            async with dialled(caddy) as stream:
                await says(stream, b"after")


async def test_a_hub_that_is_down_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: it refuses
        async with running_caddy(taken.getsockname()) as caddy, dialled(caddy) as stream:
            assert "cannot reach the hub behind it" in str(await fails(stream))


async def test_a_hub_that_crashes_looks_like_a_clean_end_or_an_error_but_never_hangs() -> None:
    """Caddy makes a clean END_STREAM of it: only the end-of-stream message tells success (PROTOCOL.md 1)."""

    async def crash(stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        await peer.request()
        await peer.headers()
        await peer.data(b"part")
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, crash, listeners)
        async with running_caddy(listeners[0].socket.getsockname()) as caddy, dialled(caddy) as stream:
            assert await stream.wait_response() == 200
            assert stream.response_headers["content-type"] == TYPE
            assert await stream.receive() == b"part"
            with suppress(NetError):  # a later Caddy may pass it on as an error
                assert await stream.receive() == b""
        nursery.cancel_scope.cancel()

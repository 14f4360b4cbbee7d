"""Accepted connections as trio streams: they wait, they break and they close as trio's own do."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from backrest.net.tcp import TcpListener, TcpStream


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[TcpStream, trio.SocketStream], None]:
    """The accepted end, and the other."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    async with TcpListener(listening) as listener:
        other = await trio.open_tcp_stream(*listening.getsockname())
        async with other, await listener.accept() as stream:
            yield stream, other


async def test_bytes_pass_both_ways_and_each_side_ends_by_itself() -> None:
    async with connected() as (stream, other):
        await other.send_all(b"ping")
        assert await stream.receive_some() == b"ping"
        await other.send_eof()
        assert await stream.receive_some() == b""
        await stream.send_all(b"pong")
        await stream.send_eof()
        assert await other.receive_some() == b"pong"
        assert await other.receive_some() == b""


async def test_a_large_write_waits_for_its_reader_and_arrives_whole() -> None:
    data = bytes(range(256)) * 100_000
    async with connected() as (stream, other), trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks, "nobody reads, so it waits"
        got = bytearray()
        while len(got) < len(data):
            got += await other.receive_some()
        assert got == data


async def test_who_waits_for_a_stream_that_is_closed_is_told() -> None:
    async with connected() as (stream, _), trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        stream.close()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"late")
        stream.close()  # again


async def test_a_reset_by_the_other_side_breaks_reads_and_writes() -> None:
    async with connected() as (stream, other):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(other)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"late")

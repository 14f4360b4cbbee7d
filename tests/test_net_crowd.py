"""How many connections one address may hold: a file descriptor is the server's, whoever opens it."""

from __future__ import annotations

import pytest
import trio
from h2raw import done, ours

from backrest.net.h2settings import ServerSettings
from backrest.net.server import _Crowd


async def test_an_address_gets_its_connections_and_not_one_more() -> None:
    settings = ServerSettings(max_per_address=3, unlimited=())
    async with ours(done, settings=settings) as server:
        held = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(3)]
        for stream in held:
            await stream.send_all(b"PRI")  # accepted, and never asks for anything
        with pytest.raises(ClosedByServer):
            await _ask(server.port)
        await held[0].aclose()
        await _until_served(server.port)
        for stream in held:
            await stream.aclose()


class ClosedByServer(Exception):
    pass


async def _ask(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await stream.receive_some()
        except trio.BrokenResourceError:
            answer = b""
        if not answer.startswith(b"HTTP/1.1"):
            raise ClosedByServer


async def _until_served(port: int) -> None:
    """The server sees that a connection was left when it next looks; the limit of the test bounds this."""
    while True:
        try:
            return await _ask(port)
        except ClosedByServer:
            await trio.lowlevel.checkpoint()


def test_a_proxy_and_a_unix_socket_are_not_counted() -> None:
    async def main() -> None:
        crowd = _Crowd(1, ("127.0.0.0/8", "192.0.2.7"))
        for address in ("127.0.0.1", "192.0.2.7", "", "::ffff:127.0.0.1"):
            with crowd.place(address) as first, crowd.place(address) as second:
                assert (first, second) == (True, True), address

    trio.run(main)


def test_a_network_of_ipv6_is_one_address_and_the_table_does_not_grow() -> None:
    async def main() -> None:
        crowd = _Crowd(1, ())
        with crowd.place("2001:db8::1") as first, crowd.place("2001:db8::2") as second:
            assert (first, second) == (True, False)
            with crowd.place("2001:db8:1::1") as other, crowd.place("::ffff:192.0.2.1") as mapped:
                assert (other, mapped) == (True, True)
                with crowd.place("192.0.2.1") as same:
                    assert not same
        assert not crowd._count

    trio.run(main)

"""What connections and streams may take all together, and whose turn it is to go: a descriptor, and memory, is the
server's, whoever asks for it."""

from __future__ import annotations

from functools import partial
from typing import Any

import h2.events
import pytest
import trio
from connect_client import PROTO, headers
from h2raw import Clock, RawClient, done, jump_clock, ours
from hypothesis import given
from hypothesis import strategies as st

from backrest.net.connect import ConnectApp, ConnectStream, Stream
from backrest.net.crowd import CONNECTION_COST, STREAM_COST, Crowd, Guest
from backrest.net.h2settings import ServerSettings

__all__ = ["jump_clock"]


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
        crowd = Crowd(ServerSettings(max_per_address=1, unlimited=("127.0.0.0/8", "192.0.2.7")))
        for address in ("127.0.0.1", "192.0.2.7", "", "::ffff:127.0.0.1"):
            with crowd.place(address) as first, crowd.place(address) as second:
                assert (first, second) == (True, True), address

    trio.run(main)


def test_a_network_of_ipv6_is_one_address_and_the_table_does_not_grow() -> None:
    async def main() -> None:
        crowd = Crowd(ServerSettings(max_per_address=1, unlimited=()))
        with crowd.place("2001:db8::1") as first, crowd.place("2001:db8::2") as second:
            assert (first, second) == (True, False)
            with crowd.place("2001:db8:1::1") as other, crowd.place("::ffff:192.0.2.1") as mapped:
                assert (other, mapped) == (True, True)
                with crowd.place("192.0.2.1") as same:
                    assert not same
        assert not crowd._count

    trio.run(main)


# -- guests: who is not let in


class Party:
    """Guests of a crowd, and in which order they were turned away."""

    def __init__(self, **settings: Any) -> None:
        self.crowd = Crowd(ServerSettings(**settings))
        self.gone: list[str] = []

    def stream(self, name: str, address: str) -> Guest:
        return self.crowd.stream(address, {}, partial(self.gone.append, name))

    def connection(self, name: str, address: str) -> Guest:
        return self.crowd.connection(address, partial(self.gone.append, name), tls=False)


async def test_when_there_is_no_room_the_address_with_the_most_loses_its_oldest() -> None:
    party = Party(max_guest_streams=4)
    for number in range(3):
        party.stream(f"a{number}", "192.0.2.1")
    party.stream("b0", "192.0.2.2")
    assert party.gone == []
    party.stream("c0", "192.0.2.3")
    assert party.gone == ["a0"]
    party.stream("c1", "192.0.2.3")
    assert party.gone == ["a0", "a1"]
    party.stream("c2", "192.0.2.3")
    assert party.gone == ["a0", "a1", "c0"], "a newcomer is never the first to go"


async def test_who_is_let_in_or_over_makes_room_and_is_not_turned_away() -> None:
    party = Party(max_guest_streams=2)
    known, over = party.stream("known", "192.0.2.1"), party.stream("over", "192.0.2.1")
    known.leave()
    over.leave()
    known.leave()
    party.stream("a", "192.0.2.1")
    party.stream("b", "192.0.2.1")
    assert party.gone == []
    party.stream("c", "192.0.2.1")
    assert party.gone == ["a"]


async def test_the_memory_of_all_guests_has_one_bound() -> None:
    party = Party(max_guest_bytes=2 * STREAM_COST + CONNECTION_COST + 1000)
    party.connection("x", "192.0.2.9")
    party.stream("a", "192.0.2.1")
    b = party.stream("b", "192.0.2.2")
    b.weigh(STREAM_COST + 1000)
    assert party.gone == []
    b.weigh(STREAM_COST + 1001)
    assert len(party.gone) == 1
    b.leave()
    party.crowd.make_room()
    assert len(party.gone) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_the_first_to_go_is_always_of_an_address_with_the_most(steps: list[tuple[bool, int]]) -> None:
    async def main() -> None:
        party = Party(max_guest_streams=10)
        held: list[tuple[str, Guest]] = []
        for number, (comes, who) in enumerate(steps):
            if comes:
                counts = [sum(address == f"192.0.2.{n}" for address, _ in held) for n in range(6)]
                address, before = f"192.0.2.{who}", len(party.gone)
                counts[who] += 1
                held.append((address, party.stream(f"{number}", address)))
                if len(held) > 10:
                    assert len(party.gone) == before + 1
                    index = next(i for i, (_, guest) in enumerate(held) if guest._line is None)
                    loser = held.pop(index)[0]
                    assert counts[int(loser[-1])] == max(counts)
                    assert loser not in [address for address, _ in held[:index]], "its oldest"
            elif held:
                held.pop(who % len(held))[1].leave()
        for _, guest in held:
            guest.leave()
        line = party.crowd._streams
        assert (line.count, line.octets, line._guests, line._with) == (0, 0, {}, {})

    trio.run(main)


# -- on a real server


async def _waits(stream: ConnectStream) -> None:
    if "let-in" in stream.headers:
        stream.let_in()
        await stream.send(b"in")
    while data := await stream.receive():
        await stream.send(data)


SYNC = ConnectApp({"/s": Stream(_waits)})


async def _open(client: RawClient, address: str, *extra: tuple[bytes, bytes]) -> int:
    named, more = headers("/s", PROTO), (b"x-forwarded-for", address.encode())
    stream_id = await client.request(*named, more, *extra)
    await client.until(h2.events.ResponseReceived, stream_id=stream_id)
    return stream_id


async def test_a_stranger_behind_a_proxy_does_not_take_the_place_of_others(jump_clock: Clock) -> None:
    """One connection, as Caddy has it: who has too many streams hears unavailable, and nobody else notices."""
    async with ours(SYNC, settings=ServerSettings(max_guest_streams=3)) as server, server.client() as client:
        known = await _open(client, "192.0.2.1", (b"let-in", b"1"))
        greedy = [await _open(client, "192.0.2.1") for _ in range(3)]
        honest = await _open(client, "192.0.2.2")
        assert b'"code":"unavailable"' in (await client.response(greedy[0]))[2]
        for stream_id in (known, greedy[1], greedy[2], honest):
            await client.data(stream_id, b"still here", end=True)
            assert (await client.response(stream_id))[2].endswith(b"still here")


async def test_a_connection_with_somebody_who_is_let_in_is_never_turned_away(jump_clock: Clock) -> None:
    settings = ServerSettings(max_connections=2)
    async with ours(SYNC, settings=settings) as server, server.client() as proxy:
        known = await _open(proxy, "192.0.2.1", (b"let-in", b"1"))
        async with server.client() as stranger:
            await _open(stranger, "192.0.2.2")
            async with server.client() as newcomer:
                stream_id = await _open(newcomer, "192.0.2.3", (b"let-in", b"1"))
                with pytest.raises(ClosedByServer):
                    await _closed(stranger)
                async with server.client() as one_too_many:
                    with pytest.raises(ClosedByServer):
                        await _closed(one_too_many)
                for client, mine in ((proxy, known), (newcomer, stream_id)):
                    await client.data(mine, b"still here", end=True)
                    assert (await client.response(mine))[2].endswith(b"still here")
                # With nobody on it, it is a guest again.
                async with server.client() as next_one:
                    await _open(next_one, "192.0.2.4")
                with pytest.raises(ClosedByServer):
                    await _closed(proxy)


async def _closed(client: RawClient) -> None:
    """Reads until the server has closed it."""
    try:
        while await client.stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    raise ClosedByServer


async def test_connections_without_number_are_closed_oldest_first(jump_clock: Clock) -> None:
    """Silent ones, of plain TCP and of HTTP/1.1 and 2, and those that are served go on."""
    async with ours(done, settings=ServerSettings(max_connections=4)) as server:
        silent = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(20)]
        await silent[-2].send_all(b"GET / HTTP/1.1\r\n")
        await silent[-1].send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        for stream in silent[:16]:
            with pytest.raises(ClosedByServer):
                await _closed(RawClient(stream))
        assert await server.answers()
        for stream in silent:
            await stream.aclose()


async def test_what_a_stranger_has_sent_counts_whether_it_was_read_or_not(jump_clock: Clock) -> None:
    room = STREAM_COST * 5 + CONNECTION_COST + 30_000
    async with ours(SYNC, settings=ServerSettings(max_guest_bytes=room)) as server, server.client() as client:
        first, second, *_ = [await _open(client, f"192.0.2.{number}") for number in range(5)]
        await client.data(first, bytes(16_000))
        await client.until(h2.events.DataReceived, stream_id=first)  # the application has taken it
        await client.data(second, bytes(16_000))
        assert b'"code":"unavailable"' in (await client.response(first))[2]
        await client.data(second, b"", end=True)
        assert (await client.response(second))[2] == bytes(16_000)

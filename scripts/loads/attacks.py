"""What strangers and paired peers do to a hub to cost it something: one coroutine for each kind, over and over.

A player is one attacker with a connection, or as many as the kind needs. It plays its kind until it is cancelled, and
again from the beginning when the hub ends it. Who is paired has an identity that the hub lets in.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx
import trio
from benchmarks import operations
from benchmarks.light import Item, Target
from h2.settings import SettingCodes

from backrest.crypto.identity import Identity
from backrest.errors import BackrestError
from backrest.net.duplex import DuplexStream, open_stream
from backrest.protocol.session import Role, Session, State
from backrest.sync.client import SYNC_PATH

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)
UNREAD = b"\x00\x00\x00\x3f\xf0"  # a message of 16,368 bytes begins
WINDOW = 16 * 1024
STREAMS = 100  # of one attacker, when it has many
HOLD = 40  # connections of one attacker, when it has many
AGAIN_S = 0.2  # before it begins again, at most
EMPTY = 400_000  # sub-messages without content: 800 kB
LARGE = 4 * 1024 * 1024  # one operation; 64 attackers in one process make and hold one each
PUSHED = 200 * 1024  # one configuration that nobody asked for

GONE = (
    BackrestError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    h2.exceptions.ProtocolError,
)


@dataclass(frozen=True, slots=True)
class Player:
    target: Target
    source: str  # the address that it dials from
    identity: Identity  # the hub knows it as ``name``
    name: str
    chance: random.Random

    async def tcp(self) -> trio.SocketStream:
        url = httpx.URL(self.target.url)
        return await trio.open_tcp_stream(url.host, url.port or 80, local_address=self.source)

    @asynccontextmanager
    async def session(
        self, upto: State, *, paired: bool = False, secret: str = ""
    ) -> AsyncIterator[tuple[Session, DuplexStream]]:
        session = Session(
            Role.CLIENT,
            identity=self.identity if paired else Identity.generate(),
            instance_id=self.name if paired else f"stranger-{self.chance.randrange(10**9)}",
            now=trio.current_time(),
            pairing_secret=secret,
            expected_keyid=self.target.keyid,
            expected_instance_id=self.target.instance_id,
        )

        async def connect(url: httpx.URL) -> trio.abc.Stream:
            return await self.tcp()

        headers = {"content-type": "application/connect+proto", "connect-protocol-version": "1"}
        async with open_stream(self.target.rpc, headers=headers, connect=connect) as stream:
            await stream.send(session.data_to_send())
            while session.state is not upto:
                data = await stream.receive()
                if not data:
                    raise trio.BrokenResourceError("the hub ended the stream")
                session.receive_data(data, trio.current_time())
                await stream.send(session.data_to_send())
            yield session, stream


class Raw:
    """A connection of HTTP/2, frame by frame, that knows which of its streams are open."""

    def __init__(self, stream: trio.SocketStream, url: httpx.URL, window: int = 2**31 - 1) -> None:
        """``url``: whose name the requests hold. A proxy passes on what is addressed to its own site alone."""
        self.stream = stream
        self.authority = url.netloc.decode()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.open: set[int] = set()

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    def request(self, path: str = SYNC_PATH) -> int:
        number = self.h2.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", self.authority)]
        self.h2.send_headers(number, [*pseudo, ("content-type", "application/connect+proto")])
        self.open.add(number)
        return number

    async def read(self) -> None:
        data = await self.stream.receive_some(65_536)
        if not data:
            raise trio.BrokenResourceError("the hub closed the connection")
        for event in self.h2.receive_data(bytes(data)):
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.open.discard(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise trio.BrokenResourceError("GOAWAY")
        await self.flush()


async def silent_connections(player: Player) -> None:
    """No byte, the preface and nothing more, half a request: until the hub has enough of it."""
    async with await player.tcp() as stream:
        await stream.send_all(player.chance.choice((b"", PREFACE + SETTINGS, b"GET / HTTP/1.1\r\n")))
        while await stream.receive_some():
            pass


async def descriptors(player: Player) -> None:
    """As many connections as it can hold, and a new one for each that is closed."""

    async def hold() -> None:
        while True:
            try:
                await silent_connections(player)
            except GONE:
                await trio.sleep(AGAIN_S)

    async with trio.open_nursery() as nursery:
        for _ in range(HOLD):
            nursery.start_soon(hold)


async def waiting_streams(player: Player, data: bytes = b"") -> None:
    """Streams that say nothing, as many as one connection may have of them, and a new one for each that ends."""
    async with await player.tcp() as stream:
        raw = Raw(stream, httpx.URL(player.target.url))
        await raw.flush()
        await raw.read()
        while True:
            while len(raw.open) < STREAMS:
                number = raw.request()
                room = min(
                    raw.h2.local_flow_control_window(number), len(data), raw.h2.max_outbound_frame_size
                )
                if room:
                    raw.h2.send_data(number, data[:room])
            await raw.flush()
            await raw.read()


async def unread_streams(player: Player) -> None:
    """Streams with a window full of the beginning of a message, that nobody can go on with."""
    await waiting_streams(player, UNREAD + bytes(WINDOW - len(UNREAD)))


async def unread_answers(player: Player) -> None:
    """Asks, and takes none of the answers: no window, and not a byte read from the socket."""
    async with await player.tcp() as stream:
        raw = Raw(stream, httpx.URL(player.target.url), window=0)
        await raw.flush()
        with trio.move_on_after(5):
            while True:
                for _ in range(20):
                    raw.request("/elsewhere" if player.chance.random() < 0.5 else SYNC_PATH)
                await raw.flush()
                await stream.send_all(PING * 100)
                await trio.sleep(0.05)


async def half_handshakes(player: Player) -> None:
    """The key exchange costs the hub most of what a stranger can ask for; then nothing more comes."""
    async with player.session(State.KEM) as (_, stream):
        while await stream.receive():
            pass


async def failed_pairings(player: Player) -> None:
    """A whole handshake with a secret that is none."""
    async with player.session(State.OPEN, secret=f"{player.chance.randrange(2**64):064x}"):
        pass


async def empty_messages(player: Player) -> None:
    """Paired: messages of less than 1 MiB that are hundreds of times as large once they are parsed."""
    await _repeat(player, _EMPTY)


async def large_operations(player: Player) -> None:
    """Paired: one operation of 4 MiB after the other, each with a number of its own."""
    text = "x" * LARGE
    async with player.session(State.OPEN, paired=True) as (session, stream):
        for number in range(1, 10**6):
            item = Item()
            operation = operations.make(number, player.name)
            operation.display_message = text
            item.receive_operations.event.created_operations.operations.append(operation)
            await _say(session, stream, item)


async def refused_pushes(player: Player) -> None:
    """Paired: configuration that it may not set, in whatever quantity."""
    item = Item()
    for number in range(100):
        item.set_config.repos.add(id=f"evil-{number}", guid="ab" * 32, uri="/etc/" + "x" * (PUSHED // 100))
    await _repeat(player, item)


async def unread_views(player: Player) -> None:
    """Paired: it makes the hub answer, and does not read."""
    async with player.session(State.OPEN, paired=True) as (session, stream):
        ids = list(range(1, 20_000))
        for number in range(1, 10**6):
            item = Item()
            item.operation_manifest.op_ids.extend(ids)
            item.operation_manifest.modnos.extend(number + one for one in ids)
            await _say(session, stream, item)


async def _repeat(player: Player, item: Item) -> None:
    async with player.session(State.OPEN, paired=True) as (session, stream), trio.open_nursery() as nursery:

        async def listen() -> None:
            while await stream.receive():
                pass
            raise trio.BrokenResourceError("the hub ended the stream")

        nursery.start_soon(listen)
        while True:
            await _say(session, stream, item)


async def _say(session: Session, stream: DuplexStream, item: Item) -> None:
    session._records.seal(item)  # our own session would refuse to send some of it
    await stream.send(session.data_to_send())


def _empties() -> Item:
    item = Item()
    empty = item.receive_operations.event.created_operations
    empty.MergeFromString(b"\x0a\x00" * EMPTY)
    return item


_EMPTY = _empties()

Kind = Callable[[Player], Awaitable[None]]
STRANGERS: tuple[Kind, ...] = (
    silent_connections,
    descriptors,
    waiting_streams,
    unread_streams,
    unread_answers,
    half_handshakes,
    failed_pairings,
)
PAIRED: tuple[Kind, ...] = (empty_messages, large_operations, refused_pushes, unread_views)
KINDS: dict[str, Kind] = {kind.__name__.replace("_", "-"): kind for kind in STRANGERS + PAIRED}


async def play(kind: Kind, player: Player) -> None:
    """Until cancelled."""
    while True:
        try:
            await kind(player)
        except* GONE:
            pass
        await trio.sleep(player.chance.random() * AGAIN_S)

"""The light clients that misbehave: those that begin and do not go on (half-open), and those that talk nonsense
(garbage). Nothing of what they do may stay behind at the hub, or be noticed by anybody else.

A table names each kind; a client plays them by turns, and those of a role begin at different ones. They come from a few
addresses, as attackers do: of one, eight streams at a time are worked on.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import count
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import trio
from benchmarks.light import Item

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import BackrestError
from backrest.net.dial import reach, rpc_url
from backrest.net.duplex import DuplexStream, open_stream
from backrest.protocol.framing import encode
from backrest.protocol.session import Role, Session, State
from backrest.sync.client import SYNC_PATH
from loads.good import Client
from loads.scene import Scene, WrongError

ADDRESSES = 4  # so they have at most half of the hub's 64 places for strangers
ONWARD = 3  # kinds from round to round; in eight rounds each is the first
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # an empty frame of that type
NOISE = 5000  # bytes, at most
STAY_S = 3.0  # one that does nothing leaves after at most so long, or when the hub has enough of it
AGAIN_S = 0.5  # before the next one, at most
RESET = struct.pack("ii", 1, 0)  # close() sends RST

GONE = (BackrestError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Visit:
    """One appearance of a bad client."""

    def __init__(self, client: Client, scene: Scene, chance: random.Random, address: str) -> None:
        self.chance = chance
        self._client = client
        self._target = scene.target
        self._headers = {
            "content-type": "application/connect+proto",
            "connect-protocol-version": "1",
            "x-forwarded-for": address,
        }
        self._socket: trio.SocketStream | None = None

    def noise(self, most: int = NOISE) -> bytes:
        return self.chance.randbytes(self.chance.randint(1, most))

    @asynccontextmanager
    async def tcp(self) -> AsyncIterator[trio.SocketStream]:
        url = httpx.URL(self._target.url)
        async with await trio.open_tcp_stream(url.host, url.port or 80) as stream:
            yield stream

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[DuplexStream]:
        """A sync stream, opened in good order."""

        async def connect(url: httpx.URL) -> trio.abc.Stream:
            stream = await reach(url)
            assert isinstance(stream, trio.SocketStream)
            self._socket = stream
            return stream

        url = rpc_url(self._target.url, SYNC_PATH)
        async with open_stream(url, headers=self._headers, connect=connect) as stream:
            yield stream

    @asynccontextmanager
    async def session(
        self, upto: State, *, stranger: bool = False
    ) -> AsyncIterator[tuple[Session, DuplexStream]]:
        """A session that got as far as ``upto``, and says nothing more by itself. Of a stranger, or of this client."""
        session = Session(
            Role.CLIENT,
            identity=Identity.generate() if stranger else self._client.identity,
            instance_id=self._client.name,
            now=trio.current_time(),
            expected_keyid=self._target.keyid,
            expected_instance_id=self._target.instance_id,
        )
        async with self.stream() as stream:
            await stream.send(session.data_to_send())
            while session.state is not upto:
                data = await stream.receive()
                if not data:
                    raise trio.BrokenResourceError("the hub ended the stream")
                session.receive_data(data, trio.current_time())
                await stream.send(session.data_to_send())
            yield session, stream

    def reset_at_the_end(self) -> None:
        """Closing will be a RST: no goodbye of any layer."""
        assert self._socket is not None
        self._socket.setsockopt(SOL_SOCKET, SO_LINGER, RESET)

    async def stay(self, receive: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Until the hub ends it, or for a while; without ``receive``, reading nothing."""
        with trio.move_on_after(self.chance.random() * STAY_S):
            if receive is None:
                await trio.sleep_forever()
            while await receive():
                pass


Kind = Callable[[Visit], Awaitable[None]]


async def no_byte(visit: Visit) -> None:
    async with visit.tcp() as tcp:
        await visit.stay(tcp.receive_some)


async def preface_alone(visit: Visit) -> None:
    async with visit.tcp() as tcp:
        await tcp.send_all(PREFACE[: visit.chance.randint(1, len(PREFACE))])
        await visit.stay(tcp.receive_some)


async def no_message(visit: Visit) -> None:
    async with visit.stream() as stream:
        await visit.stay(stream.receive)


async def half_a_message(visit: Visit) -> None:
    async with visit.stream() as stream:
        await stream.send(b"\x00\x00\x00\x10\x00half of what it promised")
        await visit.stay(stream.receive)


async def half_a_handshake(visit: Visit) -> None:
    """Its key, and nothing more: it does not even read the answer."""
    async with visit.session(State.KEM):
        await visit.stay()


async def vanished(visit: Visit) -> None:
    """Let in, and then it neither reads nor writes, as a machine without power; the socket closes long after."""
    async with visit.session(State.OPEN):
        await visit.stay()


async def reset(visit: Visit) -> None:
    """Let in, and then the connection is gone at once."""
    async with visit.session(State.OPEN):
        visit.reset_at_the_end()


async def reset_at_the_handshake(visit: Visit) -> None:
    async with visit.session(State.KEM):
        visit.reset_at_the_end()


async def noise_on_tcp(visit: Visit) -> None:
    async with visit.tcp() as tcp:
        await tcp.send_all(visit.noise())
        await visit.stay(tcp.receive_some)


async def noise_on_http2(visit: Visit) -> None:
    async with visit.tcp() as tcp:
        await tcp.send_all(PREFACE + SETTINGS + visit.noise())
        await visit.stay(tcp.receive_some)


async def noise_in_the_stream(visit: Visit) -> None:
    async with visit.stream() as stream:
        await stream.send(visit.noise())
        await visit.stay(stream.receive)


async def noise_as_a_key(visit: Visit) -> None:
    """A message as it should be, but for its content; in half of them only the key is nonsense."""
    item = Item()
    item.establish_shared_secret.protocol_version = 1
    item.establish_shared_secret.kem_public_key = visit.noise(2000)
    payload = item.SerializeToString() if visit.chance.random() < 0.5 else visit.noise()
    async with visit.stream() as stream:
        await stream.send(encode(0, payload))
        await visit.stay(stream.receive)


async def noise_as_a_handshake(visit: Visit) -> None:
    """Behind a good key exchange: a record that nobody sealed."""
    async with visit.session(State.KEM) as (_, stream):
        await stream.receive()
        await stream.send(encode(0, _record(visit)))
        await visit.stay(stream.receive)


async def stranger(visit: Visit) -> None:
    """Good in everything, and unknown."""
    async with visit.session(State.OPEN, stranger=True):
        raise WrongError("a stranger was let in")


async def noise_as_a_record(visit: Visit) -> None:
    """Let in, and then a record that nobody sealed, or no record at all."""
    async with visit.session(State.OPEN) as (_, stream):
        await stream.send(encode(0, _record(visit)) if visit.chance.random() < 0.5 else visit.noise())
        await visit.stay(stream.receive)


async def nonsense(visit: Visit) -> None:
    """Let in, and then items in good order that make no sense."""
    async with visit.session(State.OPEN) as (session, stream):
        for item in _nonsense(visit.chance):
            session._records.seal(item)  # our own session would refuse to send it
        await stream.send(session.data_to_send())
        await visit.stay(stream.receive)


def _record(visit: Visit) -> bytes:
    sealed = Item.SyncActionEncrypted(nonce=visit.chance.randbytes(12), ciphertext=visit.noise())
    return Item(encrypted=sealed).SerializeToString()


def _nonsense(chance: random.Random) -> list[Item]:
    item = Item()
    kind = chance.randrange(4)
    if kind == 0:
        item.operation_manifest.op_ids.extend((1, 2, 3))  # and no modnos
    elif kind == 1:
        item.receive_operations.event.CopyFrom(_impossible(chance))
    elif kind == 2:
        item.set_config.repos.add(id="evil", guid="ab" * 32, uri="/etc")
        item.set_config.repos_to_delete.append("everything")
    else:
        item.heartbeat.SetInParent()
        return [item] * chance.randrange(200)
    return [item]


def _impossible(chance: random.Random) -> wire.operations.OperationEvent:
    """Operations that no hub may keep: without a repo, with a negative id, of no time."""
    event = wire.operations.OperationEvent()
    for _ in range(chance.randint(1, 20)):
        event.created_operations.operations.add(
            id=chance.choice((-1, 0, 7)),
            modno=chance.randint(-5, 5),
            flow_id=0,
            plan_id="evil",
            instance_id="",
        )
    return event


HALF_OPEN: tuple[Kind, ...] = (
    no_byte,
    preface_alone,
    no_message,
    half_a_message,
    half_a_handshake,
    vanished,
    reset,
    reset_at_the_handshake,
)
GARBAGE: tuple[Kind, ...] = (
    noise_on_tcp,
    noise_on_http2,
    noise_in_the_stream,
    noise_as_a_key,
    noise_as_a_handshake,
    stranger,
    noise_as_a_record,
    nonsense,
)
BAD: dict[str, tuple[Kind, ...]] = {"half-open": HALF_OPEN, "garbage": GARBAGE}


async def misbehave(
    kinds: Sequence[Kind], turn: int, address: int, client: Client, scene: Scene, chance: random.Random
) -> None:
    """One kind after the other, from number ``turn`` on, until cancelled."""
    for at in count(turn):
        kind = kinds[at % len(kinds)]
        scene.counts[name_of(kind)] += 1
        try:
            await kind(Visit(client, scene, chance, f"203.0.113.{address % ADDRESSES}"))
        except* GONE:
            pass  # as it should be
        await trio.sleep(chance.random() * AGAIN_S)


def name_of(kind: Kind) -> str:
    return kind.__name__.replace("_", " ")


def cast(roles: Sequence[str], number: int) -> dict[int, tuple[tuple[Kind, ...], int, int]]:
    """For a round: number of a bad client among all -> its kinds, with which it begins, and its address. Those of a
    role are spread over its kinds, and all of them over the addresses; each round begins with others."""
    found: dict[int, tuple[tuple[Kind, ...], int, int]] = {}
    played = Counter(roles)
    turns: Counter[str] = Counter()
    for who, role in enumerate(roles):
        if role in BAD:
            kinds = BAD[role]
            turn = turns[role] * len(kinds) // min(played[role], len(kinds)) + ONWARD * (number - 1)
            found[who] = kinds, turn, len(found)
            turns[role] += 1
    return found


def missed(roles: Collection[str], counts: Counter[str]) -> list[str]:
    """The kinds of these roles that nobody came to play."""
    kinds = [name_of(kind) for role in BAD if role in roles for kind in BAD[role]]
    return [name for name in kinds if not counts[name]]

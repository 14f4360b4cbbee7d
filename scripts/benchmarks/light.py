"""Clients that are a session and a connection and nothing else: a thousand of them fit into one process.

They send what a real client sends. A history is known by its ids only; its operations are made when they are asked
for. Whether a hub has stored all it was sent is asked in the protocol's own words, which works with any hub: a fresh
manifest with one id more, the probe. A hub works on a client's items in their order, so when it asks for the probe
alone, everything before is stored.

Each says that it has an address of its own (X-Forwarded-For, which a hub believes on loopback): they stand for as many
machines behind a proxy, and not for one machine that dials a thousand times, which a hub works on eight at a time.

Nothing of a session is left out: a key exchange, a signature and an HTTP/2 connection of its own for each. Only the
dialling is plainer than a real client's, which asks for the name, tries several addresses and speaks TLS.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx
import trio

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.net.dial import reach, rpc_url
from backrest.net.duplex import open_stream
from backrest.net.tcp import TcpStream
from backrest.protocol import events
from backrest.protocol.session import Role, Session
from backrest.sync.client import SYNC_PATH
from backrest.sync.link import Link
from benchmarks import operations
from benchmarks.model import FailedError

Item = wire.sync.SyncStreamItem
RETRY_S = 0.5  # a real client waits longer and at random; here the storm goes on
PAIRING_RETRY_S = 1.0
DEADLINE_S = (
    9.9  # the shortest that a hub of ours has for who is not let in yet, from the accept to the stream (10 s)
)
_BUSY = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED)
BATCH = 512  # operations in one message of an answer, as the reference does

_addresses = (f"198.18.{number >> 8 & 255}.{number & 255}" for number in count())  # RFC 2544: for benchmarks


@dataclass(frozen=True, slots=True)
class Target:
    """The hub: where, and who it must be. ``secret`` of a token that still has uses left, or ""."""

    url: str
    keyid: str
    instance_id: str
    secret: str = ""
    rpc: str = field(init=False)  # made once, not by each client

    def __post_init__(self) -> None:
        object.__setattr__(self, "rpc", rpc_url(self.url, SYNC_PATH))


async def _connect(url: httpx.URL) -> trio.abc.Stream:
    """To a hub on this machine, by its address."""
    if url.scheme != "http" or url.host != "127.0.0.1" or url.port is None:
        return await reach(url)
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if sock.connect_ex((url.host, url.port)) == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
        if failed := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(failed, os.strerror(failed), f"{url.host}:{url.port}")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return TcpStream(sock)


def is_busy(error: BackrestError, waited_s: float) -> bool:
    """Whether a hub that cannot do more right now ended an attempt after so many seconds.

    By its code; or because a deadline passed, which may end in any words: our hub says "permission denied" to who has
    not shown a key in time. A refusal that is meant comes sooner, or again.
    """
    return waited_s >= DEADLINE_S or (isinstance(error, PeerError) and error.code in _BUSY)


class LightClient:
    """One client. It has no operations before ``prepare``; then they are numbered from 1."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity = Identity.generate()
        self.count = 0
        self.made: dict[int, wire.operations.Operation] = {}
        self.dialled = 0.0
        self._paired = False
        self._left = False
        self._link: Link | None = None
        self._established = trio.Event()
        self._stored = trio.Event()
        self.retries = 0
        self._stored_at = 0.0
        self._answered = 0
        self._probing = False
        self._address = next(_addresses)

    def prepare(self, count: int) -> None:
        """Make its operations before the clock runs: making them is not what is measured."""
        self.count = count
        self.made = {op.id: op for op in operations.several(self.count, self.name)}

    @asynccontextmanager
    async def connected(self, target: Target, *, probe: bool = False) -> AsyncIterator[LightClient]:
        """Dial, and stay until the block ends; ``probe`` puts the probe into the first manifest already."""
        async with trio.open_nursery() as nursery:
            self.start(nursery, target, probe=probe)
            await self._established.wait()
            yield self
            self.leave()

    def start(self, nursery: trio.Nursery, target: Target, *, probe: bool = False) -> None:
        """Dial in the background. The session ends by ``leave``; the nursery gets what ended it otherwise."""
        self._established, self._stored, self._answered = trio.Event(), trio.Event(), 0
        self._probing = probe
        self.dialled = time.monotonic()
        nursery.start_soon(self._run, target)

    def start_stubbornly(self, nursery: trio.Nursery, target: Target, patience_s: float) -> None:
        """As ``start``, but when the hub was too busy it dials again, and counts that in ``retries``.

        For ``patience_s``; after that, and for every other reason not to be let in, the nursery gets what was wrong.
        """
        self.retries = 0
        last = trio.current_time() + patience_s

        async def run() -> None:
            while True:
                began = trio.current_time()
                try:
                    return await self._run(target)
                except BackrestError as error:
                    now = trio.current_time()
                    if self._established.is_set() or not is_busy(error, now - began):
                        raise
                    if now > last:
                        raise FailedError(f"not all were let in within {patience_s:.3g} s: {error}") from None
                    self.retries += 1
                    await trio.sleep(RETRY_S)

        self._established, self._stored, self._answered = trio.Event(), trio.Event(), 0
        nursery.start_soon(run)

    async def introduce(self, target: Target) -> None:
        """Connect, pair where there is a token, and leave: none of that is measured, of whatever hub."""
        try:
            await self._visit(target)
        except (PeerError, BaseExceptionGroup) as error:
            other = isinstance(error, BaseExceptionGroup) and error.split(PeerError)[1] is not None
            if other or not target.secret:
                raise
        if not self._paired:
            # The reference hub refuses the first session after a pairing that worked. A second refusal is one.
            await trio.sleep(PAIRING_RETRY_S)
            await self._visit(target)

    async def _visit(self, target: Target) -> None:
        async with self.connected(target):
            pass

    async def _run(self, target: Target) -> None:
        headers = {
            "content-type": "application/connect+proto",
            "connect-protocol-version": "1",
            "x-forwarded-for": self._address,
        }
        self._left = False
        async with open_stream(target.rpc, headers=headers, connect=_connect) as stream:
            session = Session(
                Role.CLIENT,
                identity=self.identity,
                instance_id=self.name,
                now=trio.current_time(),
                pairing_secret="" if self._paired else target.secret,
                expected_keyid=target.keyid,
                expected_instance_id=target.instance_id,
            )
            self._link = Link(session, stream)
            await self._link.run(self._handle)
        if not self._left:
            raise PeerError(Fault.ENDED, Code.UNAVAILABLE, "the hub ended the session without a reason")

    def leave(self) -> None:
        self._left = True
        if self._link is not None:
            self._link.end()

    async def until_established(self) -> None:
        await self._established.wait()

    async def until_stored(self) -> float:
        """Until the hub asked for nothing but the probe; when that was."""
        await self._stored.wait()
        return self._stored_at

    async def _handle(self, event: events.Event) -> None:
        assert self._link is not None
        if isinstance(event, events.PeerIdentified):
            self._link.send_now(
                "receive_config", Item.SyncActionReceiveConfig(config=wire.sync.RemoteConfig())
            )
            self._link.send_now("receive_resources", Item.SyncActionReceiveResources())
            await self._announce()
        elif isinstance(event, events.Established):
            self._paired = True
            self._established.set()
        elif isinstance(event, events.Received) and event.kind == "request_resources":
            self._link.send_now("receive_resources", Item.SyncActionReceiveResources())
        elif isinstance(event, events.Received) and event.kind == "request_operation_data":
            assert isinstance(event.message, Item.SyncActionRequestOperationData)
            await self._answer(event.message.op_ids)

    async def _announce(self) -> None:
        assert self._link is not None
        ids = range(1, self.count + 1 + self._probing)
        await self._link.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))

    async def _answer(self, asked: Sequence[int]) -> None:
        assert self._link is not None
        wanted = [number for number in asked if number <= self.count]
        if not wanted and asked:
            self._stored_at = time.monotonic()
            self._stored.set()
        for start in range(0, len(wanted), BATCH):
            event = wire.operations.OperationEvent()
            event.updated_operations.operations.extend(
                map(self.made.__getitem__, wanted[start : start + BATCH])
            )
            await self._link.send("receive_operations", Item.SyncActionReceiveOperations(event=event))
        self._answered += len(wanted)
        if wanted and self._answered >= self.count:
            self._probing = True
            await self._announce()

"""Instances in one process, joined by memory streams, in simulated time.

The stores are the real ones, on disk; only the HTTP between the two sides is replaced by two channels of bytes.
``trio.to_thread.run_sync`` runs inline here: with an autojump clock, a thread at work would count as idleness.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from backrest import wire
from backrest.admin.context import Context, Daemon
from backrest.crypto.identity import Identity
from backrest.crypto.tokens import PairingToken, new_secret
from backrest.permissions import parse_grant
from backrest.protocol.session import Limits
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.files import Paths
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerRecord, PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.removal import ParkedPlans
from backrest.store.shares import Shares
from backrest.store.waiting import WaitingRepos
from backrest.sync.clients import Clients
from backrest.sync.hub import Hub
from backrest.sync.watch import ConfigWatch

GUID = "a" * 64
PIECES = 1000  # that a pipe holds
CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
ERROR_AUTH = wire.sync.CONNECTION_STATE_ERROR_AUTH
BOTH = ("read-operations=*", "receive-shared-repos=*")


async def _inline(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*args)


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", _inline)


class Pipe:
    """One end of a stream: what the other end sends, in pieces; b"" is END_STREAM."""

    codec = "proto"
    encoding = "identity"
    client = "192.0.2.7"
    timeout_s = None

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.response_headers: dict[str, str] = {}
        self._in_send, self._in = trio.open_memory_channel[bytes](math.inf)
        self._taken = trio.Event()
        self.other: Pipe = self
        self.sent: list[bytes] = []
        self.stuck = False  # what this end sends is not taken, until ``unstick``
        self.broken = False
        self.goaway = False  # as of HTTP/2
        self.lost = False  # nobody hears what is sent, and nobody says so: a machine asleep, a cable pulled

    async def receive(self) -> bytes:
        try:
            data = await self._in.receive()
        except trio.EndOfChannel:
            if self.broken:
                raise ConnectionResetError("broken") from None
            return b""
        self.other._look_for_room()
        return data

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        await self.wait_room()
        self.put(data)

    @property
    def has_room(self) -> bool:
        return not self.stuck and self.other._in_send.statistics().current_buffer_used < PIECES

    def put(self, data: bytes) -> None:
        self.sent.append(data)
        if not self.lost:
            try:
                self.other._in_send.send_nowait(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionResetError("broken") from None

    async def wait_room(self) -> None:
        while not self.has_room:
            await self._taken.wait()

    def unstick(self) -> None:
        self.stuck = False
        self._look_for_room()

    def _look_for_room(self) -> None:
        self._taken.set()
        self._taken = trio.Event()

    def close(self) -> None:
        if not self.lost:
            self.other._in_send.close()

    def let_in(self) -> None: ...

    async def end(self) -> None:
        await trio.lowlevel.checkpoint()
        self.close()

    def break_off(self) -> None:
        for end in (self, self.other):
            end.broken = True
            end._in_send.close()


def pipes() -> tuple[Pipe, Pipe]:
    a, b = Pipe(), Pipe()
    a.other, b.other = b, a
    return a, b


class Instance:
    """One installation: its stores on disk and, while ``running``, its tasks."""

    def __init__(self, world: World, name: str, directory: Path, limits: Limits) -> None:
        self.world = world
        self.name = name
        self.paths = Paths(directory / "config.json", directory / "data")
        self.paths.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.limits = limits
        self.ahead = 0.0  # its wall clock, of the world's
        self.config = ConfigStore.open(self.paths.config_file)

        def begin(config: wire.config.Config) -> bool:
            config.instance = name
            config.multihost.identity.CopyFrom(Identity.generate().to_proto())
            return True

        self.config.transform(begin)
        self.open()

    def open(self) -> None:
        self.config = ConfigStore.open(self.paths.config_file)
        self.oplog = OpLog.open(self.paths.oplog)
        self.peers = PeerStore.open(self.paths.peers)
        self.audit = AuditLog.open(self.paths.audit)
        self.watch = ConfigWatch(self.config)
        self.shares = Shares.open(self.paths.shares)
        self.pushes = PushQueue.open(self.paths.pushes)
        self.parked = ParkedPlans.open(self.paths.parked_plans)
        self.waiting_repos = WaitingRepos.open(self.paths.waiting_repos)

    @property
    def keyid(self) -> str:
        return self.config.current.multihost.identity.keyid

    def wall(self) -> float:
        return self.world.wall() + self.ahead

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As one run of the daemon."""
        self.hub = Hub(
            config=self.config,
            oplog=self.oplog,
            peers=self.peers,
            audit=self.audit,
            watch=self.watch,
            shares=self.shares,
            pushes=self.pushes,
            limits=self.limits,
            wall=self.wall,
        )
        self.clients = Clients(
            config=self.config,
            watch=self.watch,
            oplog=self.oplog,
            peers=self.peers,
            audit=self.audit,
            dial=self.world.dial,
            parked=self.parked,
            waiting_repos=self.waiting_repos,
            pushes=self.pushes,
            limits=self.limits,
            wall=self.wall,
        )
        with self.watch.running():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.hub.run)
                nursery.start_soon(self.clients.run)
                self.world.up[self.name] = self
                try:
                    yield
                finally:
                    del self.world.up[self.name]
                    self.hub.end_all("the hub is shutting down")
                    nursery.cancel_scope.cancel()

    def token(self, *grants: str, max_uses: int = 1, expires: int = 0, label: str = "t") -> str:
        secret = new_secret()

        def add(config: wire.config.Config) -> bool:
            config.multihost.pairing_tokens.add(
                secret=secret,
                label=label,
                max_uses=max_uses,
                expires_at_unix=expires,
                permissions=[parse_grant(g) for g in grants or BOTH],
            )
            return True

        self.config.transform(add)
        return str(PairingToken(self.keyid, secret, self.name).format())

    def add_host(self, token: str, *grants: str) -> None:
        parsed = PairingToken.parse(token)

        def add(config: wire.config.Config) -> bool:
            config.multihost.known_hosts.add(
                instance_id=parsed.instance_id,
                keyid=parsed.keyid,
                instance_url=f"http://{parsed.instance_id}:9898",
                initial_pairing_secret=parsed.secret,
                permissions=[parse_grant(g) for g in grants or BOTH],
            )
            return True

        self.config.transform(add)

    def operation(self, **fields: Any) -> wire.operations.Operation:
        values = {
            "repo_id": "nas",
            "repo_guid": GUID,
            "plan_id": "photos",
            "instance_id": self.name,
            "unix_time_start_ms": 1_700_000_000_000 + next(_COUNTER),
            "status": wire.operations.STATUS_SUCCESS,
        }
        op = wire.operations.Operation(**{**values, **fields})
        op.operation_backup.SetInParent()
        return op

    def history(self, origin: Instance | None = None) -> dict[int, tuple[int, str, int]]:
        """What is held (from ``origin``): id there -> (modno, display message, status)."""
        from backrest.store.oplog import Query

        ops = self.oplog.query(Query(origin=origin.keyid if origin else ""))
        return {
            (op.original_id if origin else op.id): (op.modno, op.display_message, op.status) for op in ops
        }

    def context(self) -> Context:
        """As the daemon's commands have it."""
        return Context(
            self.paths,
            config=self.config,
            oplog=self.oplog,
            peers=self.peers,
            audit=self.audit,
            parked=self.parked,
            waiting_repos=self.waiting_repos,
            shares=self.shares,
            pushes=self.pushes,
            daemon=Daemon(pid=1, started_ms=0, addresses=()),
        )

    def audited(self) -> list[dict[str, Any]]:
        """The events of the audit log."""
        return [json.loads(line) for line in self.paths.audit.read_text().splitlines()]

    def peer(self, other: Instance) -> PeerRecord:
        record = self.peers.get(other.keyid)
        assert record is not None
        return record

    async def until_peer(self, other: Instance, state: int) -> PeerRecord:
        return await self.world.until(
            self.peers.subscribe,
            lambda: self.peers.get(other.keyid),
            lambda record: record is not None and record.state == state,
        )

    async def until_history(self, origin: Instance) -> None:
        """Until all of ``origin``'s own history is here, and nothing else of it."""
        await self.world.until(
            self.oplog.subscribe, lambda: self.history(origin), lambda held: held == origin.history()
        )


class World:
    """All instances that can reach each other, and the wall clock they share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.up: dict[str, Instance] = {}
        self.dials: list[tuple[float, str]] = []
        self.connections: list[Pipe] = []
        self.slept = 0.0
        self.nursery: trio.Nursery | None = None

    def wall(self) -> float:
        return 1_700_000_000.0 + trio.current_time() + self.slept

    def instance(self, name: str, **limits: Any) -> Instance:
        return Instance(self, name, self.directory / name, Limits(**limits))

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator[Pipe]:
        self.dials.append((trio.current_time(), url))
        await trio.lowlevel.checkpoint()
        target = self.up.get(url.removeprefix("http://").removesuffix(":9898"))
        if target is None:
            raise ConnectionRefusedError("connection refused")
        here, there = pipes()
        self.connections.append(here)
        self._accept(target, there)
        try:
            yield here
        finally:
            here.close()

    def _accept(self, target: Instance, stream: Pipe) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._serve, target, stream)

    async def _serve(self, target: Instance, stream: Pipe) -> None:
        await target.hub.serve(stream)
        stream.close()

    async def until(
        self,
        subscribe: Callable[..., Callable[[], None]],
        read: Callable[[], Any],
        good: Callable[[Any], bool],
    ) -> Any:
        """Wait, by the store's own notifications, until what ``read`` gives is good; and give it."""
        with _told(subscribe) as event:
            while not good(value := read()):
                event[0] = trio.Event()
                await event[0].wait()
            return value


def paired(world: World, *grants: str) -> tuple[Instance, Instance]:
    """A hub, and a client that has its token, which carries ``grants``."""
    hub, client = world.instance("hub"), world.instance("laptop")
    client.add_host(hub.token(*grants))
    return hub, client


@contextmanager
def _told(subscribe: Callable[..., Callable[[], None]]) -> Iterator[list[trio.Event]]:
    event = [trio.Event()]
    unsubscribe = subscribe(lambda *_: event[0].set())
    try:
        yield event
    finally:
        unsubscribe()


@pytest.fixture
async def world(tmp_path: Path, inline_threads: None) -> AsyncIterator[World]:
    made = World(tmp_path)
    async with trio.open_nursery() as nursery:
        made.nursery = nursery
        yield made
        nursery.cancel_scope.cancel()


_COUNTER = itertools.count()

"""A hub with the habits of the Go program (PROTOCOL.md 4 to 6), as a peer for our client, in simulated time.

It stores what it is sent, throws old operations away after each change of its configuration, and keeps a cache of ids
that still points at the rows which are gone: whoever sends such an operation again has its session ended with a clean
``{}``, until ``restart``. It is stricter than the program where that is not known exactly: every operation that it was
sent twice is in the cache, and none that it once deleted is ever taken again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from sync_world import BOTH, Instance, Pipe, World

from backrest import wire
from backrest.crypto.channel import Channel, respond
from backrest.crypto.identity import Identity, make_handshake
from backrest.errors import Code
from backrest.permissions import parse_grant
from backrest.protocol.framing import Decoder, encode, end_of_stream

Item = wire.sync.SyncStreamItem
Operation = wire.operations.Operation

QUEUE = 256  # messages that wait for a client which does not read, and
QUEUE_S = 0.1  # how long a full queue is borne
HEARTBEAT_S = 600.0
COLLECTS_AFTER_S = 1.0  # a change of its configuration
DAY_MS = 86_400_000
KEPT_DAYS, KEPT_DAYS_OF_REPOS = 30, 365


class GoHub:
    """The hub's end of one stream, by hand. Its handshake goes out as soon as the transport is up."""

    def __init__(self, pipe: Pipe, identity: Identity, name: str = "hub") -> None:
        self.pipe = pipe
        self.identity = identity
        self.name = name
        self.channel: Channel | None = None
        self._decoder = Decoder(1 << 26, ends=False)

    async def hear(self) -> Any:
        while (envelope := self._decoder.next()) is None:
            data = await self.pipe.receive()
            if not data:
                raise trio.EndOfChannel
            self._decoder.feed(data)
        item = Item.FromString(envelope.payload)
        if self.channel is not None:
            item = Item.FromString(self.channel.open(item.encrypted.nonce, item.encrypted.ciphertext))
        return item

    async def say(self, **action: Any) -> None:
        assert self.channel is not None
        nonce, ciphertext = self.channel.seal(Item(**action).SerializeToString())
        item = Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext))
        await self.pipe.send(encode(0, item.SerializeToString()))

    async def shake_hands(self) -> Any:
        """Both handshakes; returns the client's."""
        key = (await self.hear()).establish_shared_secret.kem_public_key
        encapsulation, self.channel = respond(key)
        answer = Item.SyncEstablishSharedSecret(protocol_version=1, kem_encapsulation=encapsulation)
        await self.pipe.send(encode(0, Item(establish_shared_secret=answer).SerializeToString()))
        await self.say(handshake=make_handshake(self.identity, self.name, "", self.channel.transcript))
        return (await self.hear()).handshake

    async def open(self) -> str:
        """Both handshakes; returns the pairing secret that the client showed."""
        return str((await self.shake_hands()).pairing_secret)

    async def let_in(self) -> str:
        secret = await self.open()
        await self.say(receive_config=Item.SyncActionReceiveConfig())
        await self.say(receive_resources=Item.SyncActionReceiveResources())
        return secret

    async def until(self, kind: str) -> Any:
        while (item := await self.hear()).WhichOneof("action") != kind:
            pass
        return getattr(item, kind)

    async def end(self, code: Code | None = None) -> None:
        await self.pipe.send(end_of_stream(code, "as it happens"))


class Failed(Exception):
    """What ends a session; ``code`` None is the clean ``{}``."""

    def __init__(self, code: Code | None = None) -> None:
        self.code = code


class _Session:
    """One client's stream, once it is let in: what it is to be told waits in a queue."""

    def __init__(self, stream: GoHub, keyid: str) -> None:
        self.stream = stream
        self.keyid = keyid
        self.scope = trio.CancelScope()
        self.displaced = False
        self._queue, self._queued = trio.open_memory_channel[dict[str, Any]](QUEUE)

    async def tell(self, **action: Any) -> None:
        with trio.move_on_after(QUEUE_S) as full:
            await self._queue.send(action)
        if full.cancelled_caught:
            raise Failed(Code.INTERNAL)

    async def write(self) -> None:
        async for action in self._queued:
            await self.stream.say(**action)

    async def beat(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_S)  # simulated
            await self.tell(heartbeat=Item.SyncActionHeartbeat())


class GoProgram:
    """The whole program, as a hub of any number of clients. Takes the place of an Instance in the world."""

    def __init__(
        self, world: World, name: str = "hub", *, kept: int = 100, forgets: int = 30, repos: int = 12
    ) -> None:
        """``kept``, ``forgets`` and ``repos`` (prunes, checks): operations of each repo, plan, instance and kind."""
        self.name = name
        self.identity = Identity.generate()
        self.keyid = self.identity.keyid
        self.hub = self
        self.secrets: set[str] = set()
        self.clients: set[str] = set()  # key ids
        self.rows: defaultdict[str, dict[int, Operation]] = defaultdict(dict)  # key id -> by original id
        self.collected: defaultdict[str, set[int]] = defaultdict(set)
        self.asked: list[list[int]] = []  # each request
        self.listed: list[list[int]] = []  # each manifest
        self.ends: list[Code | None] = []  # of each session that it ended
        self.operation_s = 0.0  # what storing one takes; nothing is read meanwhile
        self._world = world
        self._limits = {"other": kept, "operation_forget": forgets}
        self._limits |= {"operation_prune": repos, "operation_check": repos}
        self._sent: Counter[tuple[str, int]] = Counter()
        self._cache: set[tuple[str, int]] = set()  # may point at a row that is gone
        self._deleted: set[tuple[str, int]] = set()
        self.sessions: dict[str, _Session] = {}
        self.start()

    def start(self) -> None:
        self._world.up[self.name] = self  # type: ignore[assignment]

    def stop(self) -> None:
        """Killed: the streams break off. What was stored is on its disk, the caches are not."""
        self._world.up.pop(self.name, None)
        for session in self.sessions.values():
            session.stream.pipe.break_off()
        self._cache.clear()
        self._deleted.clear()

    def restart(self) -> None:
        self.stop()
        self.start()

    def known_to(self, client: Instance, secret: str = "") -> None:
        """Be a known host of ``client``: paired already, or with a token's secret."""
        (self.secrets if secret else self.clients).add(secret or client.keyid)
        make_known(client, self.identity, self.name, secret)

    async def change_configuration(self) -> None:
        """Whatever it is: every client hears of it, and a second later garbage is collected."""
        for session in list(self.sessions.values()):
            await self._show(session)
        await trio.sleep(COLLECTS_AFTER_S)  # simulated
        self.collect()

    def collect(self) -> None:
        now_ms = self._world.wall() * 1000
        for keyid, rows in self.rows.items():
            kinds: defaultdict[tuple[str, ...], list[Operation]] = defaultdict(list)
            gone: list[int] = []
            for number, op in rows.items():
                kind = op.WhichOneof("op") or ""
                days = KEPT_DAYS
                if kind in ("operation_stats", "operation_check", "operation_prune"):
                    days = KEPT_DAYS_OF_REPOS
                forgotten = kind == "operation_index_snapshot" and op.operation_index_snapshot.forgot
                if forgotten or op.unix_time_start_ms < now_ms - days * DAY_MS:
                    gone.append(number)
                else:
                    kinds[op.repo_id, op.plan_id, op.instance_id, kind].append(op)
            for (*_, kind), ops in kinds.items():
                ops.sort(key=lambda op: op.unix_time_start_ms)
                kept = self._limits.get(kind, self._limits["other"])
                gone += [op.id for op in ops[: max(len(ops) - kept, 0)]]
            for number in gone:
                del rows[number]
            self.collected[keyid].update(gone)

    # --- a session

    def accept(self, pipe: Pipe) -> None:
        assert self._world.nursery is not None
        self._world.nursery.start_soon(self.serve, pipe)

    async def serve(self, pipe: Pipe) -> None:
        stream = GoHub(pipe, self.identity, self.name)
        with suppress(trio.EndOfChannel, OSError):  # the client left
            try:
                await self._serve(stream)
            except Failed as failed:
                self.ends.append(failed.code)
                await stream.end(failed.code)
        pipe.close()

    async def _serve(self, stream: GoHub) -> None:
        hello = await stream.shake_hands()
        keyid = hello.public_key.keyid
        if keyid not in self.clients:
            if hello.pairing_secret in self.secrets:
                self.secrets.remove(hello.pairing_secret)
                self.clients.add(keyid)  # but this session is judged by the configuration of before
            raise Failed(Code.PERMISSION_DENIED)
        session = _Session(stream, keyid)
        if older := self.sessions.get(keyid):
            older.displaced = True
            older.scope.cancel()
        self.sessions[keyid] = session
        failed: Failed | None = None
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.write)
                    nursery.start_soon(session.beat)
                    try:
                        await self._show(session)
                        while True:
                            await self._handle(session, await stream.hear())
                    except (
                        Failed,
                        trio.EndOfChannel,
                        OSError,
                    ) as end:  # out of the nursery, which would wrap it
                        failed = end if isinstance(end, Failed) else None
                    nursery.cancel_scope.cancel()
        finally:
            if self.sessions.get(keyid) is session:
                del self.sessions[keyid]
        if session.displaced:
            failed = Failed(Code.INTERNAL)
        if failed is not None:
            raise failed

    async def _show(self, session: _Session) -> None:
        await session.tell(receive_config=Item.SyncActionReceiveConfig())
        await session.tell(receive_resources=Item.SyncActionReceiveResources())

    async def _handle(self, session: _Session, item: Any) -> None:
        kind = item.WhichOneof("action")
        if kind == "operation_manifest":
            await self._compare(session, item.operation_manifest)
        elif kind == "receive_operations":
            event = item.receive_operations.event
            ops = [*event.created_operations.operations, *event.updated_operations.operations]
            for op in ops:
                if self.operation_s:
                    await trio.sleep(self.operation_s)  # simulated
                self._store(session.keyid, op)
            for number in event.deleted_operations.values:
                if self.rows[session.keyid].pop(number, None) is None:
                    raise Failed
                self._deleted.add((session.keyid, number))
        elif kind not in ("heartbeat", "receive_config", "receive_resources"):
            raise Failed(Code.INVALID_ARGUMENT)

    async def _compare(self, session: _Session, manifest: Any) -> None:
        listed = dict(zip(manifest.op_ids, manifest.modnos, strict=True))
        rows = self.rows[session.keyid]
        for number in rows.keys() - listed.keys():
            del rows[number]
            self._deleted.add((session.keyid, number))
        wanted = [n for n, modno in listed.items() if n not in rows or rows[n].modno != modno]
        self.listed.append(list(listed))
        if wanted:
            self.asked.append(wanted)
            await session.tell(request_operation_data=Item.SyncActionRequestOperationData(op_ids=wanted))

    def _store(self, keyid: str, op: Operation) -> None:
        key, rows = (keyid, op.id), self.rows[keyid]
        self._sent[key] += 1
        if op.id not in rows and key in self._cache | self._deleted:
            raise Failed
        if self._sent[key] > 1:
            self._cache.add(key)
        rows[op.id] = op


Script = Callable[[GoHub], Awaitable[None]]


class GoMachine:
    """Takes the place of a hub in the world: each script serves one connection, the last one all that follow."""

    def __init__(self, world: World, *scripts: Script) -> None:
        self.identity = Identity.generate()
        self.keyid = self.identity.keyid
        self.hub = self
        self._scripts = list(scripts)
        world.up["hub"] = self  # type: ignore[assignment]

    async def serve(self, pipe: Pipe) -> None:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        with suppress(trio.EndOfChannel, OSError):  # the client left
            await script(GoHub(pipe, self.identity))

    def known_to(self, client: Instance, secret: str = "") -> None:
        make_known(client, self.identity, "hub", secret)


def make_known(client: Instance, identity: Identity, name: str, secret: str = "") -> None:
    def add(config: wire.config.Config) -> bool:
        config.multihost.known_hosts.add(
            instance_id=name,
            keyid=identity.keyid,
            instance_url=f"http://{name}:9898",
            initial_pairing_secret=secret,
            permissions=[parse_grant(grant) for grant in BOTH],
        )
        return True

    client.config.transform(add)

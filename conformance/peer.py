"""The suite's own side of a session: envelopes, the key exchange, handshakes and items, each step by itself.

`AsClient` plays a client against a hub, `AsHub` a hub against a client. Nothing happens that a case did not ask for,
and every step has a form that lets a case do it wrong. What is sent to a peer that has gone is dropped: what
matters is what comes back.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from backrest import wire
from backrest.crypto import hpke
from backrest.crypto.channel import Channel, ChannelError, Initiator, respond
from backrest.crypto.identity import Identity, handshake_digest, verify_handshake
from conformance.framing import COMPRESSED, END, End, Reader, envelope, parse_end
from conformance.h2raw import Broken, RawStream
from conformance.model import Failed, check
from conformance.outcome import announce

Item = wire.sync.SyncStreamItem
Handshake = Item.SyncActionHandshake

PATH = "/v1sync.BackrestSyncService/Sync"
SOON_S = 12.0
"""Less than the 15 s after which a hub ends every stream of a stranger, with an error too."""
PUSHED = ("receive_config", "receive_resources", "set_config", "heartbeat")
"""What the other side may send at any time: a configuration changes whenever another case pairs a client."""

FROM_HUB = (*PUSHED, "request_resources")
"""What a hub may send at any time: it may ask a client whether it is still there."""


@asynccontextmanager
async def patience(seconds: float, what: str) -> AsyncIterator[None]:
    """Fail the case when the block takes longer."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise Failed(f"waited {seconds:g} s for {what}, in vain")


def item(kind: str, message: Message | None = None) -> Item:
    """An item of this kind; without a message an empty one."""
    result = Item()
    target = getattr(result, kind)
    target.SetInParent()
    if message is not None:
        target.CopyFrom(message)
    return result


def kind_of(received: Item | End) -> str:
    if isinstance(received, End):
        return str(received)
    return received.WhichOneof("action") or "an item without an action"


def handshake(
    identity: Identity, instance_id: str, secret: str, transcript: bytes, *, version: int = 3
) -> Handshake:
    """A handshake that is true in itself; a case then changes a field."""
    return Handshake(
        protocol_version=version,
        public_key=identity.public_proto(),
        instance_id=instance_id,
        pairing_secret=secret,
        signature=identity.sign(handshake_digest(version, instance_id, secret, transcript)),
    )


class Talk:
    """One stream, from either end."""

    def __init__(self, stream: RawStream, seconds: float, *, codec: str = "proto") -> None:
        self.stream = stream
        self.seconds = seconds
        self.codec = codec
        self.channel: Channel | None = None
        self.flags: list[int] = []
        """The flags of every envelope received."""
        self.items: list[str] = []
        """The kinds received so far."""
        self.end: End | None = None
        self._reader = Reader()

    # --- sending

    async def send_bytes(self, data: bytes, *, end: bool = False) -> None:
        with suppress(Broken):
            await self.stream.send(data, end=end)

    async def send_envelope(self, payload: bytes, flags: int = 0) -> None:
        await self.send_bytes(envelope(payload, flags))

    def encode(self, outer: Item) -> bytes:
        if self.codec == "json":
            return json_format.MessageToJson(outer).encode()
        return outer.SerializeToString()

    async def send_clear(self, kind: str, message: Message | None = None) -> None:
        await self.send_envelope(self.encode(item(kind, message)))

    def seal(self, plaintext: bytes) -> bytes:
        """The envelope of the next record."""
        assert self.channel is not None
        nonce, ciphertext = self.channel.seal(plaintext)
        return envelope(self.encode(self.record(nonce, ciphertext)))

    @staticmethod
    def record(nonce: bytes, ciphertext: bytes) -> Item:
        return Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext))

    async def send_record(self, nonce: bytes, ciphertext: bytes) -> None:
        await self.send_envelope(self.encode(self.record(nonce, ciphertext)))

    async def send_inner(self, plaintext: bytes) -> None:
        await self.send_bytes(self.seal(plaintext))

    async def send(self, kind: str, message: Message | None = None) -> None:
        await self.send_inner(item(kind, message).SerializeToString())

    # --- receiving

    async def envelope(self) -> tuple[int, bytes] | End:
        """The next envelope, decompressed, or how the stream ended."""
        while (whole := self._reader.next()) is None:
            data = await self.stream.receive()
            if data is None:
                return self._end_of_stream()
            self._reader.feed(data)
        flags, payload = whole
        self.flags.append(flags)
        if flags & COMPRESSED:
            declared = (self.stream.headers or {}).get("connect-content-encoding")
            check(declared == "gzip", f"a compressed message came, and the encoding declared is {declared}")
            payload = zlib.decompress(payload, wbits=31)
        if not flags & END:
            return flags, payload
        try:
            return parse_end(payload)
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"the end-of-stream message {payload[:200]!r} is malformed: {error}") from None

    def _end_of_stream(self) -> End:
        if self.stream.ended:
            return End("end")
        if self.stream.reset is not None:
            return End("reset", text=f"error code {self.stream.reset}")
        return End("closed")

    async def next(self, what: str = "anything") -> Item | End:
        """The next item, decrypted, or the end of the stream."""
        if self.end is not None:
            return self.end
        async with patience(self.seconds, what):
            whole = await self.envelope()
        if isinstance(whole, End):
            self.end = whole
            return whole
        outer = self._decode(whole[1])
        if self.channel is not None:
            check(outer.WhichOneof("action") == "encrypted", f"{kind_of(outer)} came in the clear")
            try:
                inner = self.channel.open(outer.encrypted.nonce, outer.encrypted.ciphertext)
                outer = Item.FromString(inner)
            except (ChannelError, DecodeError) as error:
                raise Failed(f"a record of the other side does not open: {error}") from None
        self.items.append(kind_of(outer))
        return outer

    def _decode(self, payload: bytes) -> Item:
        try:
            if self.codec == "json":
                return json_format.ParseDict(json.loads(payload), Item())
            return Item.FromString(payload)
        except (DecodeError, json_format.ParseError, ValueError) as error:
            raise Failed(f"a message of the other side does not parse: {error}") from None

    async def expect(self, kind: str, *, skip: Iterable[str] = PUSHED) -> Any:
        """The submessage of the next item of ``kind``; anything else but ``skip`` fails."""
        async with patience(self.seconds, kind):  # over all: heartbeats must not make it last for ever
            while kind_of(received := await self.next(kind)) != kind:
                if isinstance(received, End) or kind_of(received) not in skip:
                    raise Failed(f"instead of {kind} came {kind_of(received)}")
        return getattr(received, kind)

    async def until_end(self, what: str = "the end of the stream") -> End:
        """Read on, whatever comes, to the end."""
        async with patience(self.seconds, what):
            while not isinstance(received := await self.next(what), End):
                pass
        return received


class AsClient(Talk):
    """The suite is the client."""

    async def expect(self, kind: str, *, skip: Iterable[str] = FROM_HUB) -> Any:
        return await super().expect(kind, skip=skip)

    async def exchange(self) -> None:
        """The key exchange, checked: afterwards the channel is up."""
        initiator = Initiator()
        await self.send_clear(
            "establish_shared_secret",
            Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=initiator.public_key),
        )
        reply = await self.expect("establish_shared_secret", skip=())
        self.finish(initiator, reply)

    def finish(self, initiator: Initiator, reply: Item.SyncEstablishSharedSecret) -> None:
        check(
            reply.protocol_version == 1,
            f"the hub's transport version is {reply.protocol_version} instead of 1",
        )
        check(not reply.kem_public_key, "the hub's half of the key exchange has a public key in it")
        try:
            self.channel = initiator.finish(reply.kem_encapsulation)
        except ValueError as error:
            raise Failed(f"the hub's encapsulation is malformed: {error}") from None

    async def hub_hello(self) -> Handshake:
        """The hub's handshake, as it is."""
        hello: Handshake = await self.expect("handshake", skip=())
        return hello

    async def hello(
        self, identity: Identity, instance_id: str, secret: str = "", *, announcing: bool = False
    ) -> None:
        """``announcing``: with the feature push-outcome/1."""
        assert self.channel is not None
        hello = handshake(identity, instance_id, secret, self.channel.transcript)
        await self.send("handshake", announce(hello) if announcing else hello)

    async def expect_end(self, *codes: str | None) -> End:
        """The stream must end with an end-of-stream message with one of these codes (all but success if none is
        given, and then so soon that it is not the deadline of 15 s that ends it), and END_STREAM must follow."""
        if codes:
            end = await self.until_end()
        else:
            async with patience(SOON_S, "the end of the stream, which must come at once"):
                end = await self.until_end()
        wanted = ", ".join(str(code) for code in codes) or "an error"
        check(end.how == "message", f"instead of an end-of-stream message ({wanted}) came {end}")
        ok = end.code in codes if codes else end.code is not None
        check(ok, f"instead of code {wanted} came {end}")
        async with patience(self.seconds, "END_STREAM after the end-of-stream message"):
            await self.stream.connection.until(lambda: self.stream.over)
        return end

    async def fence(self, held: dict[int, int], asked: int) -> list[int]:
        """Send a manifest of what the hub should hold, and ``asked``, which it cannot; return what it asks for
        before ``asked``. All that was sent before is dealt with when this returns."""
        await self.send(
            "operation_manifest",
            Item.SyncActionOperationManifest(op_ids=[*held, asked], modnos=[*held.values(), 1]),
        )
        missing: list[int] = []
        while asked not in missing:
            missing += (await self.expect("request_operation_data")).op_ids
        missing.remove(asked)
        return missing


class AsHub(Talk):
    """The suite is the hub, on a stream that the client opened."""

    asked = 0
    """How many manifests were asked for; the first one comes by itself."""

    def __init__(self, stream: RawStream, seconds: float) -> None:
        super().__init__(stream, seconds)
        self.views: list[wire.sync.RemoteConfig] = []
        """The client's configuration, as it showed it to us."""

    async def expect(self, kind: str, *, skip: Iterable[str] = (*PUSHED, "receive_operations")) -> Any:
        return await super().expect(kind, skip=skip)

    async def next(self, what: str = "anything") -> Item | End:
        received = await super().next(what)
        if isinstance(received, Item) and received.HasField("receive_config"):
            self.views.append(received.receive_config.config)
        return received

    async def respond(self, **more: str) -> None:
        headers = [(":status", "200"), ("content-type", "application/connect+proto"), *more.items()]
        with suppress(Broken):
            await self.stream.respond(headers)

    async def client_key(self) -> Item.SyncEstablishSharedSecret:
        """The client's first item."""
        key: Item.SyncEstablishSharedSecret = await self.expect("establish_shared_secret", skip=())
        return key

    async def exchange(self) -> None:
        key = await self.client_key()
        check(
            key.protocol_version == 1,
            f"the client's transport version is {key.protocol_version} instead of 1",
        )
        check(len(key.kem_public_key) == hpke.PUBLIC_KEY_BYTES, "the client's public key has another length")
        try:
            encapsulation, self.channel = respond(key.kem_public_key)
        except ValueError as error:
            raise Failed(f"the client's public key is malformed: {error}") from None
        await self.send_clear(
            "establish_shared_secret",
            Item.SyncEstablishSharedSecret(protocol_version=1, kem_encapsulation=encapsulation),
        )

    async def hello(self, identity: Identity, instance_id: str) -> None:
        assert self.channel is not None
        await self.send("handshake", handshake(identity, instance_id, "", self.channel.transcript))

    async def client_hello(self) -> Handshake:
        """The client's handshake, checked."""
        assert self.channel is not None
        hello: Handshake = await self.expect("handshake", skip=())
        try:
            verify_handshake(hello, self.channel.transcript)
        except ValueError as error:
            raise Failed(f"the client's handshake does not hold: {error}") from None
        return hello

    async def open(self, *, modno: int = 1) -> None:
        """What a hub says first."""
        config = wire.sync.RemoteConfig(modno=modno, version=6)
        await self.send("receive_config", Item.SyncActionReceiveConfig(config=config))
        await self.send("receive_resources")

    async def finish(self, code: str | None = None, text: str = "") -> None:
        """End the stream with an end-of-stream message, END_STREAM behind it."""
        body: dict[str, object] = {} if code is None else {"error": {"code": code, "message": text}}
        await self.send_bytes(envelope(json.dumps(body).encode(), END), end=True)

    async def fence(self) -> list[str]:
        """Ask for a fresh manifest; return the kinds that came before the answer.

        All that was sent before is dealt with when this returns. A manifest is what comes only when it is asked
        for, but for the first: receive_config and receive_resources come with every change of a configuration.
        """
        seen = len(self.items)
        # Not before the one that is still due: a client may answer both with one.
        await self._manifests(self.asked, "the manifest that comes by itself")
        self.asked += 1
        await self.send("operation_manifest")
        await self._manifests(self.asked, "the answer to an empty operation_manifest")
        return self.items[seen:-1]

    async def _manifests(self, asked: int, what: str) -> None:
        async with patience(self.seconds, what):
            while self.items.count("operation_manifest") <= asked:
                if isinstance(received := await self.next(what), End):
                    raise Failed(f"the session ended: {received}")

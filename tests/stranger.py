"""A client by hand, that says to a running hub what it likes, when it likes."""

from __future__ import annotations

from typing import Any

from sync_world import BOTH, Instance, Pipe, World, pipes

from backrest import wire
from backrest.crypto.channel import Channel, Initiator
from backrest.crypto.identity import Identity, make_handshake
from backrest.permissions import parse_grant
from backrest.protocol.framing import Decoder, EndOfStream, encode, parse_end

Item = wire.sync.SyncStreamItem


class Stranger:
    """A client by hand, on a pipe to a running hub."""

    def __init__(self, pipe: Pipe, identity: Identity | None = None, name: str = "stranger") -> None:
        self.pipe = pipe
        self.identity = identity or Identity.generate()
        self.name = name
        self.initiator = Initiator()
        self.channel: Channel | None = None
        self._decoder = Decoder(1 << 26)

    async def clear(self, item: Any) -> None:
        await self.pipe.send(encode(0, item.SerializeToString()))

    async def say(self, **action: Any) -> None:
        assert self.channel is not None
        nonce, ciphertext = self.channel.seal(Item(**action).SerializeToString())
        await self.clear(Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext)))

    async def hear(self) -> Any:
        """The next item, opened; an EndOfStream; None at END_STREAM."""
        while (envelope := self._decoder.next()) is None:
            data = await self.pipe.receive()
            if not data:
                return None
            self._decoder.feed(data)
        if envelope.is_end:
            return parse_end(envelope.payload)
        item = Item.FromString(envelope.payload)
        if self.channel is not None and item.WhichOneof("action") == "encrypted":
            return Item.FromString(self.channel.open(item.encrypted.nonce, item.encrypted.ciphertext))
        return item

    async def until_end(self) -> EndOfStream:
        while True:
            heard = await self.hear()
            assert heard is not None, "the stream ended without a word"
            if isinstance(heard, EndOfStream):
                return heard

    async def stay(self) -> None:
        """Read on to the end, and say that it is there whenever it is asked, as a real client does."""
        while not isinstance(item := await self.hear(), EndOfStream | None):
            if item.WhichOneof("action") == "request_resources":
                await self.say(receive_resources=Item.SyncActionReceiveResources())

    async def exchange_keys(self) -> None:
        key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=self.initiator.public_key)
        await self.clear(Item(establish_shared_secret=key))
        answer = await self.hear()
        self.channel = self.initiator.finish(answer.establish_shared_secret.kem_encapsulation)

    async def shake_hands(self, secret: str = "") -> None:
        await self.exchange_keys()
        assert self.channel is not None
        handshake = make_handshake(self.identity, self.name, secret, self.channel.transcript)
        await self.say(handshake=handshake)

    async def operations(self, *ops: Any) -> None:
        event = wire.operations.OperationEvent()
        event.updated_operations.operations.extend(ops)
        await self.say(receive_operations=Item.SyncActionReceiveOperations(event=event))


def visitor(world: World, target: Instance, name: str = "stranger") -> Stranger:
    here, there = pipes()
    assert world.nursery is not None
    world.nursery.start_soon(world._serve, target, there)
    return Stranger(here, name=name)


def authorize(target: Instance, stranger: Stranger, *grants: str) -> None:
    def add(config: wire.config.Config) -> bool:
        config.multihost.authorized_clients.add(
            instance_id=stranger.name,
            keyid=stranger.identity.keyid,
            permissions=[parse_grant(g) for g in grants or BOTH],
        )
        return True

    target.config.transform(add)

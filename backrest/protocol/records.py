"""The layer between items and bytes: cleartext before there is a channel, sealed records after, one outbox.

Sealing and queueing are one step, because a record that was sealed and not sent leaves a hole in the
counter that the other side takes for an attack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from backrest.crypto.channel import Channel
from backrest.errors import Code, Fault, PeerError
from backrest.protocol import framing, items
from backrest.protocol.items import Item


class Initiating(Protocol):
    """The client's half of the key exchange: crypto.channel.Initiator, or a recorded one."""

    public_key: bytes

    def finish(self, encapsulation: bytes) -> Channel: ...


Responding = Callable[[bytes], tuple[bytes, Channel]]


class Records:
    """Both directions of one stream. ``channel`` is set when the key exchange is done."""

    __slots__ = ("_codec", "_limit", "_outbox", "channel", "size")

    def __init__(self, codec: items.Codec, limit: int) -> None:
        self._codec = codec
        self._limit = limit
        self._outbox: list[bytes] = []
        self.size = 0  # bytes in the outbox
        self.channel: Channel | None = None

    @property
    def transcript(self) -> bytes:
        assert self.channel is not None
        return self.channel.transcript

    def clear(self, item: Item) -> None:
        """Queue an item as it is."""
        self.raw(framing.encode(0, items.pack(item, self._codec)))

    def seal(self, item: Item) -> None:
        """Queue an item as the channel's next record. ValueError, and no record used up, if it is too
        large."""
        assert self.channel is not None
        plaintext = item.SerializeToString()
        if len(plaintext) > self._limit:
            raise ValueError(f"an item of {len(plaintext)} bytes is more than a peer takes")
        nonce, ciphertext = self.channel.seal(plaintext)
        self.clear(Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext)))

    def raw(self, data: bytes) -> None:
        """Queue bytes that are an envelope already."""
        self._outbox.append(data)
        self.size += len(data)

    def drain(self) -> bytes:
        """All that is queued, joined."""
        data = b"".join(self._outbox)
        self.discard()
        return data

    def discard(self) -> None:
        """Drop what is queued: only at the end, for it leaves a hole."""
        self._outbox.clear()
        self.size = 0

    def read(self, payload: bytes) -> tuple[Item, int]:
        """The item of an envelope, opened if there is a channel, and what it weighs in memory. Raises PeerError:
        FRAMING for what is no item, ITEM for one that would fill the memory, RECORD for what is not the next record
        (a cleartext item among them)."""
        item = items.unpack(payload, self._codec)
        if self.channel is None:
            return item, len(payload)
        kind = items.kind_of(item)
        if kind != "encrypted":
            raise PeerError(Fault.RECORD, Code.INTERNAL, f"{items.named(kind)} came unencrypted")
        record = item.encrypted
        try:
            plaintext = self.channel.open(record.nonce, record.ciphertext)
        except ValueError as error:
            raise PeerError(Fault.RECORD, Code.INTERNAL, str(error)) from error
        return items.parse(plaintext)

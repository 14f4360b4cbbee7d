"""What a session tells its caller: one frozen event for each thing that happened, in order.

There is no event for a fault: a fault is a PeerError, raised by the call that meets it or, when events came
before it in the same input, by the call after (session.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.message import Message

from backrest.errors import Code


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """The other side has proved that it holds this key, on this very connection.

    At the hub: now answer with ``accept`` or ``reject``; nothing more is read until then. At the client it is
    for information: the hub is the one that was dialled. ``instance_id`` is claimed, not proved, until it was
    compared with what is known of the key. ``features`` are not covered by the signature: conveniences only.
    """

    keyid: str
    public_key: bytes
    instance_id: str
    pairing_secret: str = field(repr=False)
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides let each other in. Hub: it accepted. Client: the hub's first item has come."""


@dataclass(frozen=True, slots=True)
class Received:
    """An item that has its place here. ``kind`` is its name in SyncStreamItem's oneof; its shape is checked
    (equal lists, an event that is there), not the permission. ``weight``: bytes that it takes in memory, about."""

    kind: str
    message: Message
    weight: int


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The other side lives."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The other side ended the stream in due form: a hub by its end-of-stream message (``code`` None is the
    clean ``{}``), a client by END_STREAM between two messages. A client connects again after any code."""

    code: Code | None
    message: str = ""


Event = PeerIdentified | Established | Received | HeartbeatReceived | Ended

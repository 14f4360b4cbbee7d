"""The items of the stream: their bytes in both codecs, who may say which, and what shape they must have.

The outer item (two cleartext ones, then ``encrypted``) follows the stream's codec; the inner one is always
binary protobuf. What is not in ``ACCEPTED`` for a role has no place there; what is not in ``SENDABLE`` is
never sent, because the reference ends the session over an action it does not know (PROTOCOL.md, sections 5
and 9).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final, Literal

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from backrest.errors import Code, Fault, PeerError
from backrest.protocol import weight
from backrest.wire import codec as json_codec
from backrest.wire import sync

Item = sync.SyncStreamItem
Codec = Literal["proto", "json"]


class Role(Enum):
    """Which end of the stream we are: the client opened it and asks for the key exchange, the hub answers."""

    CLIENT = "client"
    HUB = "hub"


# What each role takes from the other once the handshakes are done.
ACCEPTED: Final = {
    Role.HUB: frozenset(
        {
            "heartbeat",
            "operation_manifest",
            "receive_operations",
            "receive_config",
            "receive_resources",
            "set_config",
        }
    ),
    Role.CLIENT: frozenset(
        {
            "heartbeat",
            "operation_manifest",
            "request_operation_data",
            "receive_config",
            "receive_resources",
            "set_config",
            "request_resources",
        }
    ),
}

# Kinds that only peers which both announced a feature say to each other: kind -> (who takes it, the feature).
GATED: Final = {
    "request_log": (Role.CLIENT, "logs/1"),
    "receive_log_data": (Role.HUB, "logs/1"),
}

# What one role may send is what the other takes. ``set_config`` to a hub is in here although the reference
# hub refuses it: only the caller knows whether the hub offered READ_WRITE_CONFIG.
SENDABLE: Final = {Role.CLIENT: ACCEPTED[Role.HUB], Role.HUB: ACCEPTED[Role.CLIENT]}

_FEATURES_FIELD: Final = (
    1000  # of the handshake, repeated string; in no schema, so readers skip it (section 9)
)
_FEATURES_TAG: Final = b"\xc2\x3e"  # that number with wire type 2 (length-delimited), as a varint
_LENGTH_DELIMITED: Final = 2
_MOST_FEATURES: Final = 32  # nobody announces more; what a stranger may make us keep is bounded
_FEATURE_LENGTH: Final = (
    64  # so that its length fits one byte of varint, and the announcement a line of a log
)


def gated(role: Role, features: Iterable[str]) -> frozenset[str]:
    """The kinds that ``role`` takes in addition when both sides announced ``features``."""
    shared = frozenset(features)
    return frozenset(kind for kind, (taker, feature) in GATED.items() if taker is role and feature in shared)


def pack(item: Item, codec: Codec) -> bytes:
    """An outer item as the payload of an envelope."""
    return json_codec.dumps(item) if codec == "json" else item.SerializeToString()


def unpack(payload: bytes, codec: Codec) -> Item:
    """The outer item of an envelope. Raises PeerError(FRAMING), or ITEM for one that would fill the memory."""
    if codec == "proto":
        weight.check_outer(Item.DESCRIPTOR, payload)
        return _parsed(payload)
    weight.check_outer_json(payload)
    try:
        return json_codec.loads(Item, payload)
    except ValueError as error:
        raise PeerError(Fault.FRAMING, Code.INTERNAL, "its message is not an item in JSON") from error


def parse(data: bytes) -> tuple[Item, int]:
    """An item from its binary form, and what it weighs in memory. Raises PeerError(FRAMING), or ITEM for one that
    would fill the memory."""
    weighs = weight.weigh(Item.DESCRIPTOR, data)
    return _parsed(data), weighs


def _parsed(data: bytes) -> Item:
    try:
        return Item.FromString(data)
    except DecodeError as error:
        raise PeerError(Fault.FRAMING, Code.INTERNAL, "its message is not an item in protobuf") from error


def kind_of(item: Item) -> str:
    """The name of the item's action; empty for none, or for one that this schema does not know."""
    return item.WhichOneof("action") or ""


def named(kind: str) -> str:
    """The kind in words, for an error message."""
    return f"the action {kind!r}" if kind else "no action that we know"


def check_shape(role: Role, message: Message) -> None:
    """Refuse what an item for ``role`` must never be, whoever sends it. Raises PeerError(ITEM)."""
    if isinstance(message, Item.SyncActionOperationManifest):
        # To a client a manifest is the request to send its own again: what is in it says nothing.
        if role is Role.HUB and len(message.op_ids) != len(message.modnos):
            raise misplaced(
                f"its manifest has {len(message.op_ids)} ids and {len(message.modnos)} modification numbers"
            )
    elif isinstance(message, Item.SyncActionReceiveOperations) and message.event.WhichOneof("event") is None:
        # This one message stops the whole process of the reference hub (W-53); here its sender loses the
        # session.
        raise misplaced("its receive_operations carries no event")


def misplaced(message: str) -> PeerError:
    """The verdict over an item that has no place here."""
    return PeerError(Fault.ITEM, Code.INVALID_ARGUMENT, message)


def check_features(features: Sequence[str]) -> None:
    """Raises ValueError for what ``announced`` would drop at the other side."""
    if len(features) > _MOST_FEATURES:
        raise ValueError(f"more than {_MOST_FEATURES} features")
    for feature in features:
        if not _is_feature(feature):
            raise ValueError(f"{feature!r} is not the name of a feature")


def announce(handshake: Item.SyncActionHandshake, features: Sequence[str]) -> None:
    """Add our features to a handshake of ours; nothing at all is added when there are none.

    They travel as an unknown field (which protobuf keeps and writes out again), because the schema is the
    reference's and has none. Not covered by the signature.
    """
    raw = bytearray()
    for feature in features:
        data = feature.encode()
        raw += _FEATURES_TAG + bytes([len(data)]) + data
    handshake.MergeFromString(bytes(raw))


def announced(handshake: Item.SyncActionHandshake) -> tuple[str, ...]:
    """The features in a peer's handshake, in its order, each once. What is malformed is skipped, never an
    error: the field is ours, and another implementation may use its number for something else."""
    found: dict[str, None] = {}
    fields = UnknownFieldSet(handshake)
    for index in range(len(fields)):
        unknown = fields[index]
        if unknown.field_number != _FEATURES_FIELD or unknown.wire_type != _LENGTH_DELIMITED:
            continue
        text = bytes(unknown.data).decode("ascii", errors="replace")
        if _is_feature(text) and len(found) < _MOST_FEATURES:
            found[text] = None
    return tuple(found)


def _is_feature(text: str) -> bool:
    return 0 < len(text) <= _FEATURE_LENGTH and text.isascii() and text.isprintable()

"""The feature ``push-outcome/1`` as the suite speaks it: what became of a set_config, in fields that no schema has.

Announced in field 1000 of the handshake (PROTOCOL.md section 9). Who announced it to a peer that announced it too
sends its receive_config again after each set_config, with field 1000 (a number: how many it has taken in this
session) and field 1001 (texts: what the last one did not do).
"""

from __future__ import annotations

from google.protobuf.unknown_fields import UnknownFieldSet

from backrest import wire

Item = wire.sync.SyncStreamItem
Handshake = Item.SyncActionHandshake

FEATURE = "push-outcome/1"


def announce(hello: Handshake) -> Handshake:
    """Not covered by the signature."""
    hello.MergeFromString(b"\xc2\x3e" + bytes([len(FEATURE)]) + FEATURE.encode())
    return hello


def announced(hello: Handshake) -> bool:
    fields = UnknownFieldSet(hello)
    return any(
        fields[n].field_number == 1000 and fields[n].data == FEATURE.encode() for n in range(len(fields))
    )


def outcome(message: Item.SyncActionReceiveConfig) -> tuple[int, list[str]]:
    """The number and the sentences; 0 and none where the message has no such fields."""
    taken, sentences = 0, []
    fields = UnknownFieldSet(message)
    for n in range(len(fields)):
        if fields[n].field_number == 1000:
            taken = int(fields[n].data)
        elif fields[n].field_number == 1001:
            sentences.append(bytes(fields[n].data).decode())
    return taken, sentences


def extended(message: Item.SyncActionReceiveConfig) -> bool:
    """Has it any field that the schema does not know?"""
    return len(UnknownFieldSet(message)) > 0

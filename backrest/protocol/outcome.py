"""What became of a ``set_config``, said by its receiver: the feature ``push-outcome/1``.

After each ``set_config`` that it took, whoever announced the feature to a peer that announced it too sends its
``receive_config`` again, with three fields that no schema has: how many it has taken in this session (1000), the
sentences of what the last of them refused (1001), and how many of its items are there now as pushed (1002). Readers
that do not know the fields skip them, and a peer that did not announce the feature never gets them (PROTOCOL.md
section 9). The sentences come from the other side: they are cut to a bound here, and made harmless by whoever shows
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.unknown_fields import UnknownFieldSet

from backrest.protocol.items import Item

FEATURE: Final = "push-outcome/1"

MOST_SENTENCES: Final = 20  # as many as are logged of one push: nobody reads more
MOST_BYTES: Final = 32 * 1024  # of both fields; millions of empty ones would hold the event loop for seconds
SENTENCE_BYTES: Final = 1000  # two sentences; an id in one of them may be long

_TAKEN_TAG: Final = b"\xc0\x3e"  # field 1000, varint
_REFUSED_TAG: Final = b"\xca\x3e"  # field 1001, length-delimited
_DONE_TAG: Final = b"\xd0\x3e"  # field 1002, varint
_TAKEN, _REFUSED, _DONE = 1000, 1001, 1002
_VARINT, _LENGTH_DELIMITED = 0, 2

ReceiveConfig = Item.SyncActionReceiveConfig


@dataclass(frozen=True, slots=True)
class Outcome:
    """``taken``: the set_configs taken in this session, this one included; ``refused``: what this one did not do,
    a sentence each; ``done``: the items of it that were done, or were so already."""

    taken: int
    refused: tuple[str, ...] = ()
    done: int = 0


def attach(message: ReceiveConfig, outcome: Outcome) -> None:
    """Add the outcome to a ``receive_config`` of ours, within the bounds."""
    raw = bytearray(_TAKEN_TAG + _varint(outcome.taken))
    if outcome.done:
        raw += _DONE_TAG + _varint(outcome.done)
    for sentence in _bounded(outcome.refused):
        data = sentence.encode(errors="replace")[:SENTENCE_BYTES]
        raw += _REFUSED_TAG + _varint(len(data)) + data
    message.MergeFromString(bytes(raw))


def found(message: ReceiveConfig) -> Outcome | None:
    """The outcome in a peer's ``receive_config``. What is malformed counts as absent, never as an error: the fields
    are ours, and another implementation may use their numbers for something else."""
    if message.ByteSize() - message.config.ByteSize() > MOST_BYTES:
        return None
    taken = done = 0
    refused: list[str] = []
    fields = UnknownFieldSet(message)
    for index in range(len(fields)):
        field = fields[index]
        if field.field_number == _TAKEN and field.wire_type == _VARINT:
            taken = int(field.data)
        elif field.field_number == _DONE and field.wire_type == _VARINT:
            done = int(field.data)
        elif field.field_number == _REFUSED and field.wire_type == _LENGTH_DELIMITED:
            refused.append(bytes(field.data[:SENTENCE_BYTES]).decode(errors="replace"))
    return Outcome(taken, tuple(refused[:MOST_SENTENCES]), done) if taken else None


def _bounded(sentences: Iterable[str]) -> list[str]:
    """The last place tells of what was left out."""
    kept = list(sentences)
    if len(kept) > MOST_SENTENCES:
        kept[MOST_SENTENCES - 1 :] = [f"{len(kept) - MOST_SENTENCES + 1} more"]
    return kept


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

"""What became of a ``set_config``, said by its receiver: the features ``push-outcome/1`` and ``/2``.

After each ``set_config`` that it took, whoever announced one of them to a peer that announced one too sends its
``receive_config`` again, with fields that no schema has: how many it has taken in this session (1000), what the last of
them refused, and how many of its items are there now as pushed (1002). What was refused is a sentence each (1001) for a
peer that knows version 1 only, and else a message each (1003): kind (1), id (2), code (3), and a message for each field
(4) with its name (1) and its values (2), all of them texts (refusals.py). Readers that do not know the fields skip
them, and a peer that did not announce a feature never gets them (PROTOCOL.md section 9). All of it comes from the
other side. This module bounds its size; the code that shows it removes control characters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from backrest import refusals
from backrest.protocol.items import Item
from backrest.refusals import Refusal, Why

SENTENCES: Final = "push-outcome/1"
VALUES: Final = "push-outcome/2"
FEATURES: Final = (SENTENCES, VALUES)

MOST_REFUSED: Final = 20  # as many as are logged of one push: nobody reads more
# Of all the fields: 20 refusals with all that refusals.py lets them hold. Millions of empty ones would hold the event
# loop for seconds.
MOST_BYTES: Final = 64 * 1024
SENTENCE_BYTES: Final = 1000  # of one refusal in words; an id in it may be long
REFUSAL_BYTES: Final = 3000  # of one as a message: its id, its fields (1000 bytes each), and what frames them

_TAKEN, _SENTENCE, _DONE, _VALUE = 1000, 1001, 1002, 1003
_VARINT, _LENGTH_DELIMITED = 0, 2
_KIND, _ID, _CODE, _FIELD = 1, 2, 3, 4  # of a refusal
_NAME, _VALUES = 1, 2  # of its fields

ReceiveConfig = Item.SyncActionReceiveConfig


@dataclass(frozen=True, slots=True)
class Outcome:
    """``taken``: the set_configs taken in this session, this one included; ``refused``: what this one did not do;
    ``done``: the items of it that were done, or were so already."""

    taken: int
    refused: tuple[Refusal, ...] = ()
    done: int = 0


def spoken(features: Collection[str]) -> bool:
    """Does a peer that announced these say what became of a push, and want to hear it?"""
    return not set(FEATURES).isdisjoint(features)


def attach(message: ReceiveConfig, outcome: Outcome, features: Collection[str]) -> None:
    """Add the outcome to a ``receive_config`` of ours, within the bounds, as a peer that announced ``features``
    understands it."""
    raw = bytearray(_tag(_TAKEN, _VARINT) + _varint(outcome.taken))
    if outcome.done:
        raw += _tag(_DONE, _VARINT) + _varint(outcome.done)
    for refused in _bounded(outcome.refused):
        if VALUES in features:
            raw += _text(_VALUE, _value(refused))
        else:
            raw += _text(_SENTENCE, refused.words().encode(errors="replace")[:SENTENCE_BYTES])
    message.MergeFromString(bytes(raw))


def found(message: ReceiveConfig) -> Outcome | None:
    """The outcome in a peer's ``receive_config``. What is malformed counts as absent, never as an error: the fields
    are ours, and another implementation may use their numbers for something else."""
    if message.ByteSize() - message.config.ByteSize() > MOST_BYTES:
        return None
    taken = done = 0
    refused: list[Refusal] = []
    fields = UnknownFieldSet(message)
    for index in range(len(fields)):
        field = fields[index]
        if field.field_number == _TAKEN and field.wire_type == _VARINT:
            taken = int(field.data)
        elif field.field_number == _DONE and field.wire_type == _VARINT:
            done = int(field.data)
        elif field.wire_type == _LENGTH_DELIMITED and len(refused) < MOST_REFUSED:
            if field.field_number == _SENTENCE:
                refused.append(refusals.text(_read_text(field.data[:SENTENCE_BYTES])))
            elif field.field_number == _VALUE:
                refused.append(_read_value(bytes(field.data)))
    return Outcome(taken, tuple(refused), done) if taken else None


def _bounded(refused: Iterable[Refusal]) -> list[Refusal]:
    """The last place tells of what was left out."""
    kept = list(refused)
    if len(kept) > MOST_REFUSED:
        kept[MOST_REFUSED - 1 :] = [refusals.more(len(kept) - MOST_REFUSED + 1)]
    return kept


def _value(refused: Refusal) -> bytes:
    raw = _text(_KIND, refused.kind) + _text(_ID, refused.id) + _text(_CODE, refused.code.value)
    for name, values in refused.fields:
        raw += _text(_FIELD, _text(_NAME, name) + b"".join(_text(_VALUES, value) for value in values))
    return raw


def _read_value(data: bytes) -> Refusal:
    """What cannot be read is a refusal all the same: it must not look as if the push had been applied."""
    kind = ident = code = ""
    given: dict[str, list[str]] = {}
    try:
        for number, part in _parts(data[:REFUSAL_BYTES]):
            if number == _FIELD:
                name, values = "", []
                for inner, one in _parts(part):
                    if inner == _NAME:
                        name = _read_text(one)
                    elif inner == _VALUES:
                        values.append(_read_text(one))
                given[name] = values
            elif number == _KIND:
                kind = _read_text(part)
            elif number == _ID:
                ident = _read_text(part)
            elif number == _CODE:
                code = _read_text(part)
    except DecodeError:
        return refusals.refusal("", "", Why.UNKNOWN, code=code)
    return refusals.read(kind, ident, code, given)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message. DecodeError."""
    whole: Message = Empty.FromString(data)
    fields = UnknownFieldSet(whole)
    for index in range(len(fields)):
        if fields[index].wire_type == _LENGTH_DELIMITED:
            yield fields[index].field_number, bytes(fields[index].data)


def _read_text(data: bytes) -> str:
    return bytes(data).decode(errors="replace")


def _text(number: int, value: str | bytes) -> bytes:
    data = value.encode(errors="replace") if isinstance(value, str) else value
    return _tag(number, _LENGTH_DELIMITED) + _varint(len(data)) + data


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

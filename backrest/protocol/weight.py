"""What a message would weigh once it is parsed, judged from its bytes, before it is.

Attack: two bytes make an empty operation, repository or error, which costs some 50 to 250 bytes in memory; one makes a
number of 8. So 64 MiB from a peer that is known would become 7 GiB, and 30 messages of 1 MiB, each below every bound of
its own, 770 MiB. An honest message holds few things that are large, or a manifest's numbers.

To walk through each message field by field would cost more than all else that is done with it. A small part has its
length in one byte below 0x20, and in text, hexadecimal and large numbers, of which honest messages consist, such bytes
are rare: so these are counted, in a large message in random samples, and only where they are dense is the message
walked through. A peer that could know the places of the samples could hide between them: they differ each time.
Bytes that are not protobuf are none of this module's business: the parser says so.
"""

from __future__ import annotations

import random
from typing import Any, Final

from backrest.errors import Code, Fault, PeerError

WEIGHED_BYTES: Final = 1024 * 1024  # from here on a message is rare, and always walked through
MOST_FIELDS: Final = 300_000  # an operation has some 40, and a message some 500 operations
MOST_NUMBERS: Final = (
    4_200_000  # ids and modnos of a manifest of 2,000,000 operations (sync/inbound.py), and room
)
# Messages inside of a message: one for so many of its bytes, besides those that any may have. An operation with all of
# its statistics has one for 70; a configuration of nothing but the shortest hooks would have one for 6.
PART_BYTES: Final = 16
FREE_PARTS: Final = 256
# An outer item is a key exchange or one encrypted item.
MOST_OUTER_FIELDS: Final = 64
# What a part costs in memory, besides its bytes: the queue of what was received counts so (sync/inbound.py).
PART_WEIGHT: Final = 64

# Honest operations have one byte below 0x20 among 13.
_DENSE = 8
# Of these, one in two at most is the length of a part: the others are tags, numbers, and the lengths of short texts.
_PARTS_SHARE = 2
# Of a larger message so many pieces are looked at: one that is dense in an eighth of it escapes one time in 70.
_COUNTED_BYTES = 4096
_SAMPLES = 32
_SAMPLE_BYTES = _COUNTED_BYTES // _SAMPLES

_NOT_SHORT = bytes(range(0x20, 0x100))
_CONTINUED = bytes(range(0x80, 0x100))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def weigh(descriptor: Any, data: bytes) -> int:
    """What the message ``data`` costs in memory, about, in bytes. PeerError (item) as for ``check``."""
    size = len(data)
    if size <= _COUNTED_BYTES:
        looked_at, sample = size, data
    else:
        last, at = size - _SAMPLE_BYTES, random.random
        places = [int(at() * last) for _ in range(_SAMPLES)]
        looked_at, sample = _COUNTED_BYTES, b"".join([data[n : n + _SAMPLE_BYTES] for n in places])
    short = len(sample.translate(None, _NOT_SHORT))
    if size > WEIGHED_BYTES or short * _DENSE > looked_at:
        return size + PART_WEIGHT * check(descriptor, data)
    return size + PART_WEIGHT * (short * size // max(looked_at, 1) // _PARTS_SHARE)


def check_outer(descriptor: Any, data: bytes) -> None:
    """PeerError (item) for what is more than the outer item of a stream."""
    check(descriptor, data, most_fields=MOST_OUTER_FIELDS)


def check_outer_json(data: bytes) -> None:
    """As ``check_outer``, of an item in JSON: three bytes of it make an object of 100, before anybody sees which."""
    if data.count(b"{") + data.count(b"[") + data.count(b",") > MOST_OUTER_FIELDS:
        raise _too_heavy(f"{MOST_OUTER_FIELDS} fields")


def check(descriptor: Any, data: bytes, *, most_fields: int = MOST_FIELDS) -> int:
    """How many messages are in the message ``data``. PeerError (item) when it has more of them, fields or packed
    numbers than any honest one."""
    most_parts = len(data) // PART_BYTES + FREE_PARTS
    fields = numbers = parts = 0
    todo = [(descriptor, 0, len(data))]
    while todo:
        kind, at, end = todo.pop()
        known = kind.fields_by_number
        while at < end:
            fields += 1
            if fields > most_fields:
                raise _too_heavy(f"{most_fields} fields")
            key, at = _varint(data, at, end)
            wire = key & 7
            if wire == _VARINT:
                _, at = _varint(data, at, end)
            elif wire == _BYTES:
                length, at = _varint(data, at, end)
                field = known.get(key >> 3)
                if field is not None and field.message_type is not None:
                    parts += 1
                    if parts > most_parts:
                        raise _too_heavy(f"{most_parts} parts in {len(data)} bytes")
                    if length:
                        todo.append((field.message_type, at, min(at + length, end)))
                elif field is not None and field.cpp_type != field.CPPTYPE_STRING:  # packed
                    # Each number ends with its one byte below 0x80.
                    numbers += len(data[at : at + length].translate(None, _CONTINUED))
                    if numbers > MOST_NUMBERS:
                        raise _too_heavy(f"{MOST_NUMBERS} numbers")
                at += length
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            else:  # a group, which is in none of the messages and could hide the rest, or rubbish
                raise PeerError(Fault.FRAMING, Code.INTERNAL, "its message is not an item in protobuf")
    return parts


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, end  # cut off: for the parser to judge


def _too_heavy(what: str) -> PeerError:
    return PeerError(Fault.ITEM, Code.RESOURCE_EXHAUSTED, f"a message of more than {what}")

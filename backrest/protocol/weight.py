"""What a large message would weigh once it is parsed, judged from its bytes, before it is.

Attack: two bytes make an empty operation or repo, which costs some 200 in memory; one makes a number of 8. So 64 MiB
from a peer that is known would become 7 GiB. An honest large message holds few things that are large, or a manifest's
numbers. Bytes that are not protobuf are none of this module's business: the parser says so.
"""

from __future__ import annotations

from typing import Any, Final

from backrest.errors import Code, Fault, PeerError

WEIGHED_BYTES: Final = (
    1024 * 1024
)  # below that the worst is 110 MiB, for a moment: not worth looking at each message
MOST_FIELDS: Final = 300_000  # an operation has some 15, and a message some 500 operations
MOST_NUMBERS: Final = (
    4_200_000  # ids and modnos of a manifest of 2,000,000 operations (sync/inbound.py), and room
)

_CONTINUED = bytes(range(0x80, 0x100))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check(descriptor: Any, data: bytes) -> None:
    """PeerError (item) when the message ``data`` has more fields or packed numbers than any honest one."""
    fields = numbers = 0
    todo = [(descriptor, 0, len(data))]
    while todo:
        kind, at, end = todo.pop()
        known = kind.fields_by_number
        while at < end:
            fields += 1
            if fields > MOST_FIELDS:
                raise _too_heavy(f"{MOST_FIELDS} fields")
            key, at = _varint(data, at, end)
            wire = key & 7
            if wire == _VARINT:
                _, at = _varint(data, at, end)
            elif wire == _BYTES:
                length, at = _varint(data, at, end)
                field = known.get(key >> 3)
                if field is not None and field.message_type is not None:
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

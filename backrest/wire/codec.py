"""Protobuf messages to and from their JSON form, compiled once for each type from its descriptor.

The mapping is proto3's, the same that ``google.protobuf.json_format`` makes with its defaults: lowerCamelCase
names (or what ``json_name`` says), 64-bit integers as strings, bytes in base64, enums by name, nothing for
what is not set. That module looks everything up again for every field of every message and takes 30 to 90 us
for an operation; here each type becomes one function (to_json.py, from_json.py), and an operation takes 4 to
8 us. Keys come in the order of the .proto file: a file written with it reads as the schema does.

What is absent: maps, groups, extensions and google.protobuf's well-known types other than Empty, because no
message of ours has one; a type that does is refused when it is first used (NotImplementedError). Fields that
this program does not know are lost on the way to JSON: it has no names for them. Of a key that stands twice
in an object the last one counts.

Whatever the input is: ValueError, with the path of the value, when it does not fit, and no other exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from google.protobuf.message import Message

from backrest.wire.from_json import Bad, decoder, kind
from backrest.wire.plain_json import DECLINED, plain
from backrest.wire.to_json import Encode, encoder, encoder_without

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def to_dict(message: Message) -> dict[str, Any]:
    """The message as the objects that JSON knows. The dict is the caller's."""
    return encoder(message.DESCRIPTOR)(message)


def to_dict_without(cls: type[Message], *fields: str) -> Encode:
    """The function that does what ``to_dict`` does for messages of type ``cls``, without these fields of theirs."""
    return encoder_without(cls.DESCRIPTOR, fields)


def from_dict(cls: type[M], obj: Any, *, ignore_unknown: bool = True) -> M:
    """A new message of type ``cls``. Unknown keys and enum names are skipped, unless told otherwise."""
    try:
        return cls(**plain(cls.DESCRIPTOR)(obj))
    except DECLINED:
        return _carefully(cls, cls.DESCRIPTOR, obj, ignore_unknown)


def add_dict(messages: Any, descriptor: Any, obj: Any) -> Any:
    """As ``from_dict``, for messages that belong into a repeated field: made in their place, not copied there."""
    before = len(messages)
    try:
        return messages.add(**plain(descriptor)(obj))
    except DECLINED:
        del messages[before:]  # it may have been begun
        return _carefully(messages.add, descriptor, obj, True)


def _carefully(make: Callable[..., T], descriptor: Any, obj: Any, ignore_unknown: bool) -> T:
    if obj.__class__ is not dict:
        raise ValueError(f"{descriptor.name} must be an object, not {kind(obj)}")
    try:
        return make(**decoder(descriptor)(obj, ignore_unknown))
    except Bad as bad:
        raise ValueError(str(bad)) from None
    except UnicodeError as bad:  # a str with a lone surrogate; protobuf does not say in which field
        raise ValueError(f"{descriptor.name}: {bad}") from None


def dumps(message: Message) -> bytes:
    """Compact JSON in UTF-8, on one line."""
    return orjson.dumps(encoder(message.DESCRIPTOR)(message))


def loads(cls: type[M], data: bytes | str, *, ignore_unknown: bool = True) -> M:
    """The message that this JSON text stands for."""
    try:
        obj = orjson.loads(data)
    except ValueError as bad:
        raise ValueError(f"not JSON: {bad}") from None
    return from_dict(cls, obj, ignore_unknown=ignore_unknown)

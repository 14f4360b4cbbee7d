"""From the dict of a JSON form to a message: one closure for each type. The public side is codec.py.

A closure makes the keyword arguments of the message's constructor, with plain dicts for the messages inside:
protobuf then builds the whole tree in one call, in C (2 us for an operation). Everything is checked here,
types and ranges too, so that an error can name the path of the value.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from backrest.wire.to_json import FLOAT32_MAX, FLOATS, Json, check

Decode = Callable[[Json, bool], Json]
_Convert = Callable[[Any, bool], Any]

_RANGES = {
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), 1 << 63),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1 << 64),
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), 1 << 31),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1 << 32),
}
# so many digits are always in range
_SAFE_DIGITS = {cpp_type: len(str(high)) - 1 for cpp_type, (_, high) in _RANGES.items()}
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

_decoders: dict[Any, Decode] = {}


class Bad(ValueError):
    """A value that does not fit; each level that it passes on its way up adds its part of the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path = ""

    def under(self, part: str) -> Bad:
        dot = "." if self.path and self.path[0] != "[" else ""
        self.path = f"{part}{dot}{self.path}"
        return self

    def __str__(self) -> str:
        return f"{self.path}: {self.args[0]}" if self.path else str(self.args[0])


def kind(value: Any) -> str:
    """What JSON calls the value."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    other = "a number" if isinstance(value, int | float) else type(value).__name__
    return names.get(value.__class__, other)


def decoder(descriptor: Any) -> Decode:
    """The function for messages of this type, compiled at its first use."""
    return _decoders.get(descriptor) or _compile(descriptor)


def _compile(descriptor: Any) -> Decode:
    check(descriptor)
    type_name = descriptor.name
    table: dict[str, tuple[str, _Convert | None, str, int]] = {}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        group = oneof.name if oneof is not None and len(oneof.fields) > 1 else ""
        digits = _SAFE_DIGITS.get(field.cpp_type, 0) if not field.is_repeated else 0
        table[field.json_name] = table[field.name] = (field.name, _in(field), group, digits)

    def decode(obj: Json, ignore_unknown: bool) -> Json:
        out: Json = {}
        chosen: dict[str, str] = {}
        for key, value in obj.items():
            entry = table.get(key)
            if entry is None:
                if ignore_unknown:
                    continue
                raise Bad(f"{type_name} has no such field").under(str(key)[:100])
            if value is None:  # null is the same as not there
                continue
            name, convert, oneof, digits = entry
            if name in out:
                raise Bad("given twice, under both its names").under(key)
            if convert is None:
                if value.__class__ is not str:
                    raise Bad(f"must be a string, not {kind(value)}").under(key)
            elif (
                digits
                and value.__class__ is str
                and len(value) <= digits
                and value.isdecimal()
                and value.isascii()
            ):
                value = int(value)  # the way of nearly all numbers, without a call for each
            else:
                try:
                    value = convert(value, ignore_unknown)
                except Bad as bad:
                    raise bad.under(key) from None
                if value is None:  # an enum name from a newer program
                    continue
            if oneof:
                if oneof in chosen:
                    raise Bad(f"only one of {chosen[oneof]} and {key} can be set").under(key)
                chosen[oneof] = key
            out[name] = value
        return out

    _decoders[descriptor] = decode
    return decode


def _in(field: Any) -> _Convert | None:
    """How the JSON value becomes what the constructor takes; None for a string, looked at in place."""
    one = _single(field)
    if not field.is_repeated:
        return one
    item_of = one or _string

    def many(values: Any, ignore_unknown: bool) -> list[Any]:
        if values.__class__ is not list:
            raise Bad(f"must be an array, not {kind(values)}")
        out = []
        for position, value in enumerate(values):
            try:
                item = item_of(value, ignore_unknown)  # refuses null: it has no place in an array
            except Bad as bad:
                raise bad.under(f"[{position}]") from None
            if item is not None:
                out.append(item)
        return out

    return many


def _single(field: Any) -> _Convert | None:
    if field.message_type is not None:
        return _message(field.message_type)
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.cpp_type in _RANGES:
        return _integer(*_RANGES[field.cpp_type])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    if field.cpp_type in FLOATS:
        return _float32 if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else _double
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _boolean
    return None


def _message(descriptor: Any) -> _Convert:
    def convert(value: Any, ignore_unknown: bool) -> Json:
        if value.__class__ is not dict:
            raise Bad(f"must be an object, not {kind(value)}")
        # looked up at each call: a type may hold itself, and is then not compiled yet
        return decoder(descriptor)(value, ignore_unknown)

    return convert


def _enum(enum: Any) -> _Convert:
    numbers = {value.name: value.number for value in enum.values}
    as_number = _integer(*_RANGES[FieldDescriptor.CPPTYPE_INT32])

    def convert(value: Any, ignore_unknown: bool) -> Any:
        if value.__class__ is str:
            number = numbers.get(value)
            if number is not None:
                return number
            if not value.lstrip("-").isdecimal():
                if ignore_unknown:
                    return None
                raise Bad(f"{enum.name} has no value {value[:100]!r}")
        return as_number(value, ignore_unknown)  # a number without a name stays: proto3's enums are open

    return convert


def _integer(low: int, high: int) -> _Convert:
    def convert(value: Any, _: bool) -> int:
        if value.__class__ is str:
            # only plain digits: int() would also take "1_000", " 1" and the digits of other scripts
            digits = value[1:] if value[:1] == "-" else value
            # 20 characters hold any 64-bit number; int() takes time squared in the length
            if len(value) > 20 or not (digits.isdecimal() and digits.isascii()):
                raise Bad(f"{value[:100]!r} is not a whole number that fits")
            number = int(value)
        elif value.__class__ is int:
            number = value
        elif value.__class__ is float and value.is_integer():
            number = int(value)
        elif value.__class__ is float:
            raise Bad("must be a whole number")
        else:
            raise Bad(f"must be a whole number, not {kind(value)}")
        if not low <= number < high:
            raise Bad(f"the number is not between {low} and {high - 1}")
        return number

    return convert


def _string(value: Any, _: bool) -> Any:
    if value.__class__ is not str:
        raise Bad(f"must be a string, not {kind(value)}")
    return value


def _boolean(value: Any, _: bool) -> Any:
    if value.__class__ is not bool:
        raise Bad(f"must be true or false, not {kind(value)}")
    return value


def _double(value: Any, _: bool) -> float:
    if value.__class__ is str:
        if value in _WORDS:
            return _WORDS[value]
        if not _NUMBER.fullmatch(value):
            raise Bad(f"{value[:100]!r} is not a number")
    elif value.__class__ is not float and value.__class__ is not int:
        raise Bad(f"must be a number, not {kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Bad("not a number that fits")
    return number


def _float32(value: Any, ignore_unknown: bool) -> float:
    number = _double(value, ignore_unknown)
    if math.isfinite(number) and abs(number) > FLOAT32_MAX:
        raise Bad("not a number that fits")
    return number


def _bytes(value: Any, _: bool) -> bytes:
    if value.__class__ is not str:
        raise Bad(f"must be base64 in a string, not {kind(value)}")
    try:
        data = value.encode("ascii").replace(b"-", b"+").replace(b"_", b"/")  # both alphabets are allowed
        data = data.rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (binascii.Error, UnicodeError):
        raise Bad("not base64") from None

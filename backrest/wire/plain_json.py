"""The fast way from the dict of a JSON form to a message, for JSON as ``to_json`` writes it.

Objects of one type mostly have the same keys in the same order: a *shape*. For each shape a function is generated as
source text and compiled once, which makes the keyword arguments of the message's constructor; it takes a third of the
time of the way through tables (from_json.py). What costs most is asked once for all: the keys (looking up the shape),
and the numbers in strings, which orjson parses together.

It declines (one of DECLINED) whatever needs a second look: an unknown key, a number that is not plain digits, the
name of a field in the .proto file, a value of the wrong kind. Some of that shows only in the constructor, which raises
one of DECLINED, too. The caller then goes the other way, which knows every case and says what is wrong. So nothing is
refused here, and nothing is taken that would be refused there.

Attack: a peer that sends an object in ever new shapes, to be kept and read again. A shape takes a third of a
millisecond and some KiB, once; after MOST_SHAPES no more are learned, and others go the way that takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor

from backrest.wire.to_json import INT64, Json, check

Plain = Callable[[Any], Json]


class Unusual(Exception):
    """Not for the fast way."""


#: what ``plain``'s functions raise, and what a constructor raises over their results
DECLINED = (Unusual, KeyError, TypeError, ValueError)

MOST_SHAPES = 2_000  # of all types together; a history has some dozens

# Every number of so many digits fits into 64 bits, with or without a sign.
_DIGITS = 18

_made: dict[Any, Plain] = {}
_learned = 0


def plain(descriptor: Any) -> Plain:
    """The function for messages of this type. It raises one of DECLINED, and nothing else."""
    return _made.get(descriptor) or _make(descriptor)


def _make(descriptor: Any) -> Plain:
    check(descriptor)
    fields = {field.json_name: field for field in descriptor.fields}
    shapes: dict[tuple[str, ...], Plain] = {}
    known = shapes.get

    def convert(obj: Any) -> Json:
        if obj.__class__ is not dict:
            raise Unusual
        keys = tuple(obj)
        return (known(keys) or learn(keys))(obj)

    def learn(keys: tuple[str, ...]) -> Plain:
        global _learned
        if _learned >= MOST_SHAPES:
            raise Unusual
        _learned += 1
        shapes[keys] = made = _shape([fields.get(key) for key in keys])
        return made

    _made[descriptor] = convert
    return convert


def _shape(fields: list[Any]) -> Plain:
    """The function for objects whose keys are these fields', in this order; None stands for an unknown key."""
    chosen = [field.containing_oneof for field in fields if field is not None and field.containing_oneof]
    if not all(fields) or any(chosen.count(oneof) > 1 for oneof in chosen):
        return _decline
    names: dict[str, Any] = {"Unusual": Unusual, "loads": orjson.loads, "INF": math.inf}
    values = [f"v{place}" for place in range(len(fields))]
    refused: list[str] = []
    made: list[str] = []
    numbers: list[str] = []
    for value, field in zip(values, fields, strict=True):
        if field.cpp_type in INT64 and not field.is_repeated:
            numbers.append(value)
            made.append(f"{field.name!r}: {value}")
            continue
        refusal, expression = (_several if field.is_repeated else _one)(value, field, names)
        refused += [refusal] if refusal else []
        made.append(f"{field.name!r}: {expression}")
    lines = ["def made(obj):"]
    if values:
        lines.append(f"    {', '.join(values)}, = obj.values()")
    if refused:
        lines.append(f"    if {' or '.join(refused)}: raise Unusual")
    lines += _parsed(numbers)
    lines.append(f"    return {{{', '.join(made)}}}")
    # S102: the text comes from the descriptors of our own schema alone, as in to_json.py
    exec("\n".join(lines), names)  # noqa: S102
    result: Plain = names["made"]
    return result


def _decline(_: Any) -> Json:
    raise Unusual


def _parsed(numbers: list[str]) -> list[str]:
    """The lines that make numbers of these strings of digits. One that is too large fits into no field: the
    constructor declines it. One with a comma in it makes more numbers than there are names."""
    if not numbers:
        return []
    if len(numbers) == 1:
        [name] = numbers
        wrong = f"{name}.__class__ is not str or len({name}) > {_DIGITS} or not {name}.isdecimal()"
        return [f"    if {wrong} or not {name}.isascii(): raise Unusual", f"    {name} = int({name})"]
    return [
        f"    digits = f'{','.join(f'{{{name}}}' for name in numbers)}'",
        "    if not digits.isascii() or not digits.replace(',', '').isdecimal(): raise Unusual",
        f"    {', '.join(numbers)} = loads(f'[{{digits}}]')",
    ]


def _one(value: str, field: Any, names: dict[str, Any]) -> tuple[str, str]:
    """(what declines the value, the expression for what the constructor takes), as source text."""
    if field.message_type is not None:
        return "", f"{_inner(field, names)}({value})"
    if field.enum_type is not None:
        return "", f"{_table(field, names)}[{value}]"
    if field.type == FieldDescriptor.TYPE_STRING:
        return "", value  # the constructor takes nothing else from JSON; null it skips, as it should be
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return f"{value}.__class__ is not bool", value
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return f"{value}.__class__ is not float or not -INF < {value} < INF", value
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        return f"{value}.__class__ is not int", value
    return "True", value


def _several(value: str, field: Any, names: dict[str, Any]) -> tuple[str, str]:
    """As ``_one``, for a repeated field."""
    wrong = f"{value}.__class__ is not list"
    if field.message_type is not None:
        return wrong, f"[{_inner(field, names)}(item) for item in {value}]"
    if field.enum_type is not None:
        return wrong, f"[{_table(field, names)}[item] for item in {value}]"
    if field.type == FieldDescriptor.TYPE_STRING:
        return wrong, value
    if field.cpp_type in INT64:
        text = f"''.join({value})"
        long = f"max(map(len, {value}), default=0) > {_DIGITS}"
        return f"{wrong} or {value} and not ({text}.isdecimal() and {text}.isascii()) or {long}", (
            f"list(map(int, {value}))"
        )
    return "True", value


def _inner(field: Any, names: dict[str, Any]) -> str:
    name = f"of_{field.message_type.full_name}".replace(".", "_")
    names[name] = plain(field.message_type)
    return name


def _table(field: Any, names: dict[str, Any]) -> str:
    name = f"numbers_of_{field.enum_type.full_name}".replace(".", "_")
    names[name] = {known.name: known.number for known in field.enum_type.values}
    return name

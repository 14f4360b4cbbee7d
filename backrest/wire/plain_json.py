"""The fast way from the dict of a JSON form to a message, for JSON as ``to_json`` writes it.

As there, one function for each type is generated as source text, straight down the fields, and compiled once; it
makes the keyword arguments of the message's constructor in half of the time that the way through tables takes
(from_json.py). It declines (Unusual) whatever needs a second look: an unknown key, a number that is not plain digits,
the name of a field in the .proto file, an object of the wrong kind. The caller then goes the other way, which knows
every case and says what is wrong. So nothing is refused here, and nothing is taken that would be refused there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from backrest.wire.to_json import INT64, Json, check

Plain = Callable[[Json], Json]

_made: dict[Any, Plain] = {}

# Every number of so many digits fits into 64 bits, with or without a sign.
_DIGITS = 18


class Unusual(Exception):
    """Not for the fast way."""


def plain(descriptor: Any) -> Plain:
    """The function for messages of this type, compiled at its first use. It raises Unusual, and nothing else."""
    return _made.get(descriptor) or _compile(descriptor)


def _compile(descriptor: Any) -> Plain:
    sources: dict[Any, str] = {}
    names: dict[str, Any] = {"Unusual": Unusual, "INF": math.inf}
    _generate(descriptor, sources, names)
    # S102: the text comes from the descriptors of our own schema alone, as in to_json.py
    exec("\n".join(sources.values()), names)  # noqa: S102
    for made in sources:
        _made[made] = names[_name(made)]
    return _made[descriptor]


def _name(descriptor: Any) -> str:
    return f"to_{descriptor.full_name}".replace(".", "_")


def _generate(descriptor: Any, sources: dict[Any, str], names: dict[str, Any]) -> None:
    if descriptor in sources:
        return
    check(descriptor)
    sources[descriptor] = ""  # begun: a type may hold itself
    lines = [
        f"def {_name(descriptor)}(obj):",
        "    if obj.__class__ is not dict: raise Unusual",
        "    get, out, left, chosen = obj.get, {}, len(obj), 0",
    ]
    for field in descriptor.fields:
        lines.append(f"    value = get({field.json_name!r})")
        lines.append("    if value is not None:")
        lines.append("        left -= 1")
        if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
            lines.append(f"        chosen += {1 << 8 * field.containing_oneof.index}")
        if field.is_repeated:
            lines.append("        if value.__class__ is not list: raise Unusual")
            lines.append("        values = []")
            lines.append("        for value in value:")
            lines.append("            " + _refusal(field, names))
            lines.append(f"            values.append({_value(field, names)})")
            lines.append(f"        out[{field.name!r}] = values")
        else:
            lines.append("        " + _refusal(field, names))
            lines.append(f"        out[{field.name!r}] = {_value(field, names)}")
    for oneof in descriptor.oneofs:
        if len(oneof.fields) > 1:
            lines.append(f"    if chosen >> {8 * oneof.index} & 255 > 1: raise Unusual")
    lines.append("    if left: raise Unusual")  # a key that was not looked at, or null
    lines.append("    return out\n")
    sources[descriptor] = "\n".join(lines)
    for field in descriptor.fields:
        if field.message_type is not None:
            _generate(field.message_type, sources, names)


def _refusal(field: Any, names: dict[str, Any]) -> str:
    """The statement that declines a ``value`` that is not what this field's usually is."""
    if field.message_type is not None:
        return "pass"
    if field.enum_type is not None:
        table = _table(field, names)
        return f"if value.__class__ is not str or value not in {table}: raise Unusual"
    if field.cpp_type in INT64:
        return (
            f"if value.__class__ is not str or len(value) > {_DIGITS} "
            "or not value.isdecimal() or not value.isascii(): raise Unusual"
        )
    if field.type == FieldDescriptor.TYPE_STRING:
        return "if value.__class__ is not str: raise Unusual"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "if value.__class__ is not bool: raise Unusual"
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return "if value.__class__ is not float or not -INF < value < INF: raise Unusual"
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        return "if value.__class__ is not int or not -1 << 31 <= value < 1 << 31: raise Unusual"
    return "raise Unusual"


def _value(field: Any, names: dict[str, Any]) -> str:
    """The expression that makes what the constructor takes of ``value``."""
    if field.message_type is not None:
        return f"{_name(field.message_type)}(value)"
    if field.enum_type is not None:
        return f"{_table(field, names)}[value]"
    return "int(value)" if field.cpp_type in INT64 else "value"


def _table(field: Any, names: dict[str, Any]) -> str:
    table = f"numbers_of_{field.enum_type.full_name}".replace(".", "_")
    names[table] = {known.name: known.number for known in field.enum_type.values}
    return table

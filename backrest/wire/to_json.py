"""From a message to the dict of its JSON form: one function for each type. The public side is codec.py.

The function is generated as source text, straight down the fields in the order of the .proto file, and
compiled once. That takes half of what closures over tables take (4.5 us for an operation of a backup, against
8.4), and a fifth of json_format; the JSON of a million operations is where a hub's first sync spends its time.
Plain attribute access beats ``ListFields``, which makes an object for each field's descriptor.

The source is made of nothing but the names in our own schema, which are identifiers; no input is in it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection
from struct import pack, unpack
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

INT64 = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
FLOAT32_MAX = 3.4028234663852886e38  # the largest a float field can hold (IEEE 754 binary32)

Json = dict[str, Any]
Encode = Callable[[Any], Json]

_encoders: dict[Any, Encode] = {}


def encoder(descriptor: Any) -> Encode:
    """The function for messages of this type, compiled at its first use."""
    return _encoders.get(descriptor) or _compile(descriptor)


def encoder_without(descriptor: Any, left_out: Collection[str]) -> Encode:
    """As ``encoder``, but these fields of the message (not of those inside of it) are not even looked at. The caller
    keeps the function: each call compiles anew."""
    missing = set(left_out).difference(descriptor.fields_by_name)
    if missing:
        raise ValueError(f"{descriptor.full_name} has no {', '.join(sorted(missing))}")
    return _build(descriptor, left_out)[descriptor]


def check(descriptor: Any) -> None:
    """Refuses what this codec does not know, when a type is compiled."""
    name = descriptor.full_name
    if name.startswith("google.protobuf.") and name != "google.protobuf.Empty":
        raise NotImplementedError(f"the JSON form of {name} is not made here")
    for field in descriptor.fields:
        entry = field.message_type
        if field.type == FieldDescriptor.TYPE_GROUP or (entry is not None and entry.GetOptions().map_entry):
            raise NotImplementedError(f"{field.full_name} is a map or a group: the schema has none")


def _compile(descriptor: Any) -> Encode:
    _encoders.update(_build(descriptor, ()))
    return _encoders[descriptor]


def _build(descriptor: Any, left_out: Collection[str]) -> dict[Any, Encode]:
    """Generates and compiles the functions for this type and all that it can hold, each by a name of its own."""
    sources: dict[Any, str] = {}
    names: dict[str, Any] = {"double": _double, "short_float": _short_float, "base64_of": _base64}
    _generate(descriptor, sources, names, left_out)
    # S102: the text comes from the descriptors of our own schema alone; dataclasses work in the same way
    exec("\n".join(sources.values()), names)  # noqa: S102
    return {made: names[_name(made)] for made in sources}


def _name(descriptor: Any) -> str:
    return f"of_{descriptor.full_name}".replace(".", "_")


def _generate(
    descriptor: Any, sources: dict[Any, str], names: dict[str, Any], left_out: Collection[str] = ()
) -> None:
    if descriptor in sources:
        return
    check(descriptor)
    sources[descriptor] = ""  # begun: a type may hold itself
    lines = [f"def {_name(descriptor)}(message):", "    out = {}"]
    done: set[str] = set()
    for field in descriptor.fields:
        if field.name in left_out:
            continue
        name, key, oneof = f"message.{field.name}", f"out[{field.json_name!r}]", field.containing_oneof
        if oneof is not None:
            # also a proto3 ``optional`` field, which is a oneof of its own: set is set, even to the default
            if oneof.name not in done:
                done.add(oneof.name)
                lines.append(f"    which = message.WhichOneof({oneof.name!r})")
                for other, word in zip(oneof.fields, ["if"] + ["elif"] * len(oneof.fields), strict=False):
                    value = _value(f"message.{other.name}", other, names)
                    lines.append(f"    {word} which == {other.name!r}:")
                    lines.append(f"        out[{other.json_name!r}] = {value}")
        elif field.is_repeated:
            value = _value("value", field, names)
            all_of = (
                "values[:]" if value == "value" else f"[{value} for value in values]"
            )  # a slice is a list
            lines.append(f"    values = {name}")
            lines.append(f"    if values: {key} = {all_of}")
        elif field.message_type is not None:
            lines.append(f"    if message.HasField({field.name!r}): {key} = {_value(name, field, names)}")
        else:
            # -0.0 is set: only the all-zero bits are a float's default
            minus = " or str(value) == '-0.0'" if field.cpp_type in FLOATS else ""
            lines.append(f"    value = {name}")
            lines.append(f"    if value{minus}: {key} = {_value('value', field, names)}")
    lines.append("    return out\n")
    sources[descriptor] = "\n".join(lines)
    for field in descriptor.fields:
        if field.message_type is not None:
            _generate(field.message_type, sources, names)


def _value(value: str, field: Any, names: dict[str, Any]) -> str:
    """The expression that makes JSON of one value, which the expression ``value`` gives."""
    if field.message_type is not None:
        return f"{_name(field.message_type)}({value})"
    if field.enum_type is not None:
        table = "names_of_" + field.enum_type.full_name.replace(".", "_")
        names[table] = {known.number: known.name for known in reversed(field.enum_type.values)}
        return f"{table}.get({value}, {value})"
    if field.cpp_type in INT64:
        return f"str({value})"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"base64_of({value})"
    if field.cpp_type in FLOATS:
        return f"{'short_float' if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else 'double'}({value})"
    return value


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _short_float(value: float) -> float | str:
    """The shortest decimal that is this float32: 0.1, not 0.10000000149011612."""
    if not math.isfinite(value) or value.is_integer():
        return _double(value)
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if abs(short) <= FLOAT32_MAX and unpack("<f", pack("<f", short))[0] == value:
            return short
    return float(f"{value:.9g}")  # 9 digits always do for binary32

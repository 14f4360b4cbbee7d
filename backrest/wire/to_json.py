"""From a message to the dict of its JSON form: one closure for each type. The public side is codec.py.

A type is a list of steps in the order of the .proto file. Plain scalars that stand together are one step with
one look-up in C (attrgetter); that beats ``ListFields``, which builds a wrapper object for each field's
descriptor (3 us for an operation, against 1 us).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from operator import attrgetter
from struct import pack, unpack
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

INT64 = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
FLOAT32_MAX = 3.4028234663852886e38  # the largest a float field can hold (IEEE 754 binary32)

Json = dict[str, Any]
Encode = Callable[[Any], Json]
_Step = Callable[[Any, Json], None]
_Convert = Callable[[Any], Any]

_encoders: dict[Any, Encode] = {}


def encoder(descriptor: Any) -> Encode:
    """The function for messages of this type, compiled at its first use."""
    return _encoders.get(descriptor) or _compile(descriptor)


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
    check(descriptor)
    steps: list[_Step] = []
    run: list[Any] = []

    def end_run() -> None:
        if run:
            steps.append(_scalars(tuple(run)))
            run.clear()

    done: set[str] = set()
    for field in descriptor.fields:
        oneof = field.containing_oneof
        single = oneof is None and not field.is_repeated and field.message_type is None
        if single and field.cpp_type not in FLOATS:
            run.append(field)
            continue
        end_run()
        if oneof is not None:
            if oneof.name not in done:
                done.add(oneof.name)
                steps.append(_oneof(oneof))
        elif field.is_repeated:
            steps.append(_repeated(field))
        elif field.message_type is not None:
            steps.append(_submessage(field))
        else:
            steps.append(_float(field))
    end_run()

    def encode(message: Any) -> Json:
        out: Json = {}
        for step in steps:
            step(message, out)
        return out

    _encoders[descriptor] = encode
    return encode


def _scalars(fields: tuple[Any, ...]) -> _Step:
    names = [field.name for field in fields]
    # attrgetter gives a tuple only for two names and more; zip leaves the second of a pair of the same out
    get = attrgetter(*names) if len(names) > 1 else attrgetter(names[0], names[0])
    table = tuple((field.json_name, _out(field)) for field in fields)

    def step(message: Any, out: Json) -> None:
        for (key, convert), value in zip(table, get(message), strict=False):
            if value:
                out[key] = convert(value) if convert else value

    return step


def _float(field: Any) -> _Step:
    name, key = field.name, field.json_name
    convert = _short_float if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else _double

    def step(message: Any, out: Json) -> None:
        value = getattr(message, name)
        if value or math.copysign(1.0, value) < 0:  # -0.0 is set: only the all-zero bits are the default
            out[key] = convert(value)

    return step


def _submessage(field: Any) -> _Step:
    name, key, convert = field.name, field.json_name, _message(field.message_type)

    def step(message: Any, out: Json) -> None:
        if message.HasField(name):
            out[key] = convert(getattr(message, name))

    return step


def _repeated(field: Any) -> _Step:
    name, key, convert = field.name, field.json_name, _out(field)

    def step(message: Any, out: Json) -> None:
        values = getattr(message, name)
        if values:
            out[key] = [convert(value) for value in values] if convert else list(values)

    return step


def _oneof(oneof: Any) -> _Step:
    """Also for a proto3 ``optional`` field, which is a oneof of its own: set is set, even to the default."""
    oneof_name = oneof.name
    table = {field.name: (field.json_name, _out(field)) for field in oneof.fields}

    def step(message: Any, out: Json) -> None:
        name = message.WhichOneof(oneof_name)
        if name is not None:
            key, convert = table[name]
            value = getattr(message, name)
            out[key] = convert(value) if convert else value

    return step


def _out(field: Any) -> _Convert | None:
    """How one value becomes JSON; None when it already is."""
    if field.message_type is not None:
        return _message(field.message_type)
    if field.enum_type is not None:
        names = {value.number: value.name for value in reversed(field.enum_type.values)}
        return lambda number: names.get(number, number)
    if field.cpp_type in INT64:
        return str
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode("ascii")
    if field.cpp_type in FLOATS:
        return _short_float if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else _double
    return None


def _message(descriptor: Any) -> _Convert:
    # looked up at each call: a type may hold itself, and is then not compiled yet
    return lambda message: encoder(descriptor)(message)


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

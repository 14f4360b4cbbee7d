"""Whether many JSON objects are all of a message's form, looked at together: for checking what need not be converted.

The objects are sorted by their shape, the names in them, and each name's values are checked as a column: strings by
their types, numbers by joining them and asking once whether that is digits. So an operation costs some 4 us, where
converting it costs 20. As in plain_json.py only what is usual passes. A no means: perhaps not; the way through
from_json.py knows every case and says what is wrong. A yes is what that way would say, too, of all that can be parsed:
a str made by hand may hold half of a surrogate pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import isfinite
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from backrest.wire.to_json import INT64, check

Fit = Callable[[Sequence[Any]], bool]

# Every number of so many digits fits into 64 bits.
_LENGTHS = frozenset(range(1, 19))
# Shapes that are remembered of a type; a hostile file has as many as it likes.
_SHAPES = 4096

_made: dict[Any, Fit] = {}


def all_fit(descriptor: Any) -> Fit:
    """The function for messages of this type, made at its first use. It takes values of any kind."""
    return _made.get(descriptor) or _make(descriptor)


def _make(descriptor: Any) -> Fit:
    check(descriptor)
    fields = {field.json_name: field for field in descriptor.fields}
    known: dict[tuple[str, ...], tuple[Fit, ...] | None] = {}

    def learn(shape: tuple[str, ...]) -> tuple[Fit, ...] | None:
        """The checks of the values, in their order; None when no object of this shape is usual."""
        if len(known) >= _SHAPES:
            known.clear()
        some = [fields.get(name) for name in shape]
        chosen = [field.containing_oneof for field in some if field is not None]
        oneofs = [oneof for oneof in chosen if oneof is not None]
        good = None not in some and len(set(oneofs)) == len(oneofs)
        known[shape] = tuple(map(_column, some)) if good else None
        return known[shape]

    def fit(objects: Sequence[Any]) -> bool:
        shapes: dict[tuple[str, ...], list[Any]] = {}
        for value in objects:
            if value.__class__ is not dict:
                return False
            shape = tuple(value)
            some = shapes.get(shape)
            if some is None:
                shapes[shape] = [value]
            else:
                some.append(value)
        for shape, some in shapes.items():
            checks = known[shape] if shape in known else learn(shape)
            if checks is None:
                return False
            # the values of a dict come in the order of its keys, which is the same for all of them
            for column_fits, column in zip(checks, zip(*map(dict.values, some), strict=True), strict=False):
                if not column_fits(column):
                    return False
        return True

    _made[descriptor] = fit
    return fit


def _column(field: Any) -> Fit:
    one = _single(field)
    if not field.is_repeated:
        return one

    def many(values: Sequence[Any]) -> bool:
        return {*map(type, values)} == {list} and one([*chain.from_iterable(values)])

    return many


def _single(field: Any) -> Fit:
    if field.message_type is not None:
        inner = field.message_type
        return lambda values: all_fit(inner)(values)  # looked up at each call: a type may hold itself
    if field.enum_type is not None:
        return _among(frozenset(value.name for value in field.enum_type.values))
    if field.cpp_type in INT64:
        return _digits
    if field.type == FieldDescriptor.TYPE_STRING:
        return _strings
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return lambda values: {*map(type, values)} <= {bool}
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return lambda values: {*map(type, values)} <= {float} and all(map(isfinite, values))
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        return _int32
    return lambda values: not values


def _strings(values: Sequence[Any]) -> bool:
    return {*map(type, values)} <= {str}


def _digits(values: Sequence[Any]) -> bool:
    try:
        text = "".join(values)
    except TypeError:
        return False
    return not values or (text.isdecimal() and text.isascii() and {*map(len, values)} <= _LENGTHS)


def _int32(values: Sequence[Any]) -> bool:
    return not values or ({*map(type, values)} == {int} and min(values) >= -1 << 31 and max(values) < 1 << 31)


def _among(names: frozenset[str]) -> Fit:
    def among(values: Sequence[Any]) -> bool:
        try:
            return names.issuperset(values)
        except TypeError:  # an object or an array is no member of a set
            return False

    return among

"""Keys of a configuration file that this version does not know, kept when the file is written again.

The reference drops them (ENGINE.md 1.1); we give back what we were given, so that a newer version's settings
survive a look by this one. They are kept by object: a repo's by the repo's id, a client's by its key id, and
so on; what has no name of its own (a hook, a permission) is found again by being equal. Keys of an object
that is gone go with it. Unknown *names of enum values* are refused: reading "IO_IDEL" as the default helps
nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

Json = dict[str, Any]
# protobuf's own stubs name two classes for each of these, and None where there always is one.
Descriptor = Any
EnumDescriptor = Any
FieldDescriptor = Any

# By what an object in a list is found again: message type to JSON name.
_NAMES = {"Repo": "id", "Plan": "id", "Peer": "keyId", "PairingToken": "secret", "User": "name"}


@dataclass(slots=True)
class Unknown:
    """The unknown keys of one object, and of the objects in it."""

    keys: Json = field(default_factory=dict)
    single: dict[str, Unknown] = field(default_factory=dict)  # by JSON name
    lists: dict[str, list[tuple[str, Unknown]]] = field(default_factory=dict)  # by JSON name: (which, what)

    def __bool__(self) -> bool:
        return bool(self.keys or self.single or self.lists)


def collect(descriptor: Descriptor, raw: Json, known: Json, path: str = "") -> Unknown:
    """What ``raw``, as it stood in the file, has that ``known``, the same object read and written, lacks.

    ValueError, with the path, for a name or number that its enum does not have.
    """
    out = Unknown()
    by_key = {key: one for one in descriptor.fields for key in (one.name, one.json_name)}
    for key, value in raw.items():
        one = by_key.get(key)
        here = f"{path}.{key}" if path else key
        if one is None:
            out.keys[key] = value
        elif value is None:
            continue
        elif one.enum_type is not None:
            _check_enum(one.enum_type, value if isinstance(value, list) else [value], here)
        elif one.message_type is not None:
            _collect_field(one, value, known, here, out)
    return out


def _collect_field(one: FieldDescriptor, value: Any, known: Json, path: str, out: Unknown) -> None:
    inner = known.get(one.json_name)
    if isinstance(value, list):
        for index, (element, read) in enumerate(zip(value, inner or (), strict=True)):
            found = collect(one.message_type, element, read, f"{path}[{index}]")
            if found:
                which = _which(one.message_type, read)
                out.lists.setdefault(one.json_name, []).append((which, found))
    elif isinstance(inner, dict):
        found = collect(one.message_type, value, inner, path)
        if found:
            out.single[one.json_name] = found


def _check_enum(enum: EnumDescriptor, values: list[Any], path: str) -> None:
    for value in values:
        known = enum.values_by_name if isinstance(value, str) else enum.values_by_number
        if value not in known:
            raise ValueError(f"{path}: {str(value)[:80]!r} is none of {', '.join(enum.values_by_name)}")


def _which(descriptor: Descriptor, known: Json) -> str:
    name = _NAMES.get(descriptor.name)
    return str(known.get(name)) if name else orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode()


def restore(descriptor: Descriptor, known: Json, unknown: Unknown) -> None:
    """Add to ``known``, about to be written, the keys that belong to what is still there."""
    by_name = {one.json_name: one for one in descriptor.fields}
    for name, inner in unknown.single.items():
        if name in known:
            restore(by_name[name].message_type, known[name], inner)
    for name, elements in unknown.lists.items():
        kind = by_name[name].message_type
        left = list(elements)
        for element in known.get(name, ()):
            which = _which(kind, element)
            match = next((pair for pair in left if pair[0] == which), None)
            if match is not None:
                left.remove(match)
                restore(kind, element, match[1])
    for key, value in unknown.keys.items():
        known.setdefault(key, value)

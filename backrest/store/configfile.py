"""Bytes of a configuration file to a message and back, with every fault named in one sentence.

More is refused than by the reference: duplicate keys, unknown names of enum values, half surrogate pairs.
Nothing is lost: keys that are not known come back when it is written (unknown.py).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
from google.protobuf.message import Message

from backrest import wire
from backrest.errors import UserError
from backrest.store.unknown import Unknown, collect, restore
from backrest.wire import codec

Config = wire.config.Config

# Messages nest nine deep; unknown keys may go deeper, but not so deep that walking them exhausts the stack.
MAX_DEPTH = 64


def parse(data: bytes) -> tuple[Config, Unknown]:
    """UserError, which does not name the file, for anything that is no configuration."""
    if not data.strip():
        raise UserError(
            "it is empty, which no program leaves behind: put a backup in its place, or remove it"
        )
    raw = _json(data)
    if not isinstance(raw, dict):
        raise UserError("it is JSON, but not an object in braces: it is no configuration")
    try:
        config = codec.from_dict(Config, raw)
        return config, collect(Config.DESCRIPTOR, raw, codec.to_dict(config))
    except ValueError as bad:
        raise UserError(str(bad)) from None


def serialise(config: Config, unknown: Unknown) -> bytes:
    """The file's content: protobuf's JSON in the reference's names, indented by two spaces, UTF-8."""
    out = codec.to_dict(config)
    restore(Config.DESCRIPTOR, out, unknown)
    return _indented(out)


def size(item: Message) -> int:
    """How many bytes of the file a repo or a plan takes: one byte of the message can become fifty (an enum's name)."""
    return len(_indented({"": [codec.to_dict(item)]}))


def _indented(value: Any) -> bytes:
    # Python's own writes indented JSON without its C code: with a thousand clients in it that took 20 ms, each time
    # that one paired.
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a number beyond 64 bits, or half of a surrogate pair, in what an old file holds
        return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _json(data: bytes) -> Any:
    try:
        # Windows editors put a byte order mark in front; nothing else may be there.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        column = bad.start - data.rfind(b"\n", 0, bad.start)
        raise UserError(f"line {line}, byte {column}: it is not text in UTF-8") from None
    try:
        raw = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_float, parse_int=_int
        )
        _check_values(raw)
    except json.JSONDecodeError as bad:
        raise UserError(f"line {bad.lineno}, column {bad.colno}: it is not JSON ({bad.msg})") from None
    except RecursionError:
        raise UserError(_TOO_DEEP) from None
    except ValueError as bad:
        raise UserError(str(bad)) from None
    return raw


_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_DEEP = f"its objects are nested more than {MAX_DEPTH} deep"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return out


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 40:  # also Python's own limit for the time that this takes
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)


def _check_values(raw: Any) -> None:
    """ValueError for what is nested too deep or could not be written back as UTF-8."""
    for depth, level in enumerate(_levels(raw)):
        if depth == MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        for value in level:
            if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
                raise ValueError("a text in it holds half of a surrogate pair (\\ud800 to \\udfff)")


def _too_deep(raw: Any) -> bool:
    return sum(1 for _ in _levels(raw)) > MAX_DEPTH


def _levels(raw: Any) -> Iterator[list[Any]]:
    """What is nested equally deep, from the outermost on; at most one more than MAX_DEPTH of these."""
    level = [raw]
    for _ in range(MAX_DEPTH + 1):
        yield level
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value)
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        if not inner:
            return
        level = inner


def for_backup(data: bytes, *, identity: bool = True) -> bytes:
    """A configuration file's content as its backup keeps it: without pairing secrets, which are spent by the time
    anybody restores one and would be good again then; and, unless ``identity``, without the private key.

    What has none, and what cannot be read, stays as it is, to the byte; and so does what is nested so deep that it is
    no configuration, which nobody can restore.
    """
    try:
        raw = json.loads(data.decode("utf-8-sig"))
        if _too_deep(raw):
            return data
    except (ValueError, RecursionError):
        return data
    sync = raw.get("sync", raw.get("multihost")) if isinstance(raw, dict) else None
    if not isinstance(sync, dict):
        return data
    dropped = [sync.pop(name, None) for name in ("pairingTokens", "pairing_tokens")]
    for hosts in (sync.get("knownHosts"), sync.get("known_hosts")):
        for host in hosts if isinstance(hosts, list) else ():
            if isinstance(host, dict):
                dropped += [
                    host.pop(name, None) for name in ("initialPairingSecret", "initial_pairing_secret")
                ]
    if not identity:
        dropped.append(sync.pop("identity", None))
    if not any(dropped):
        return data
    return _indented(raw)

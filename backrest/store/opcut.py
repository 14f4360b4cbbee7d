"""An operation has one mebibyte at most: what is larger is cut, the longest texts first, and says so.

Attack: a client stored operations of 40 MiB, and each list of the history then took gigabytes. The parts of an
operation that people need (ids, times, status, what it did) take a few hundred bytes; only texts from outside
(messages, errors, tags, paths) can be long. The cut depends on the operation alone: the same one that comes again is
cut to the same line, and is not written again. Where the texts are short and many, the longest lists lose their ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from backrest.store.opformat import KINDS, Json

# Of the line of an operation in JSON. One with a thousand errors has some 200 KiB.
MOST_BYTES = 1 << 20
# What an operation is found by stays as it is.
_KEPT = frozenset(
    ("repoId", "repoGuid", "planId", "instanceId", "snapshotId", "originalInstanceKeyid", "logref")
)
# No text is cut below this: what is shorter is many, and then lists are cut.
_SHORTEST = 256
_CUT = "... [cut]"
_NOTE = "[cut: this operation had {:,} bytes, and an operation has {:,} at most]"
# Room for the note, and for what is put in front of a peer's operation: numbers and its key id.
SPARE = 2048
# Lists of one operation that are halved; each time the longest.
_HALVINGS = 64


def cut(doc: Json, size: int) -> bool:
    """Make the JSON form of an operation, whose line has ``size`` bytes, one of at most MOST_BYTES. False when that
    cannot be: it is changed all the same."""
    most = MOST_BYTES - SPARE
    texts = [(len(orjson.dumps(text)), holder, key, text) for holder, key, text in _texts(doc)]
    left = size - most
    level = _level(sorted((length for length, *_ in texts), reverse=True), left)
    for length, holder, key, text in texts:
        if length > level + len(_CUT):
            holder[key] = _shortened(text, level) + _CUT
    if level <= _SHORTEST:
        _cut_lists(doc, most)
    if len(orjson.dumps(doc)) > most:
        return False
    note = _NOTE.format(size, MOST_BYTES)
    message = doc.get("displayMessage", "")
    doc["displayMessage"] = f"{message}\n\n{note}" if message else note
    kind = next((key for key in doc if key in KINDS), None)
    if kind is not None:
        doc[kind] = doc.pop(kind)  # what it did stands last (opindex.kind_of)
    return True


def _texts(node: Any) -> Iterator[tuple[Any, Any, str]]:
    """(where it is, under which key, text) of each that may be cut."""
    todo = [node]
    while todo:
        node = todo.pop()
        for key, value in node.items() if node.__class__ is dict else enumerate(node):
            if value.__class__ is str:
                if len(value) > _SHORTEST and key not in _KEPT:
                    yield node, key, value
            elif value.__class__ is dict or value.__class__ is list:
                todo.append(value)


def _level(lengths: list[int], excess: int) -> int:
    """To how many bytes the longest must be cut to save ``excess``; at least _SHORTEST."""
    above = 0
    for count, length in enumerate(lengths, 1):
        above += length
        below = lengths[count] if count < len(lengths) else _SHORTEST
        if above - count * (below + len(_CUT)) >= excess:
            return max((above - excess) // count - len(_CUT), _SHORTEST)
    return _SHORTEST


def _shortened(text: str, most: int) -> str:
    """Its beginning, of at most so many bytes in JSON."""
    text = text[:most]
    while (length := len(orjson.dumps(text))) > most:
        text = text[: max(len(text) * most // length - 1, 0)]
    return text


def _cut_lists(doc: Json, most: int) -> None:
    for _ in range(_HALVINGS):
        if len(orjson.dumps(doc)) <= most:
            return
        lists = [part for part in _lists(doc) if len(part) > 1]
        if not lists:
            return
        longest = max(lists, key=lambda part: len(orjson.dumps(part)))
        del longest[len(longest) // 2 :]


def _lists(node: Any) -> Iterator[list[Any]]:
    todo = [node]
    while todo:
        node = todo.pop()
        if node.__class__ is list:
            yield node
        for value in node.values() if node.__class__ is dict else node:
            if value.__class__ is dict or value.__class__ is list:
                todo.append(value)

"""The process that writes until it is killed: on the operation log, and on all the books beside it.

It says over a pipe what it is about to do and, when the store has returned, what became of it. What it does is drawn
from its seed and from what it finds in the log.
"""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backrest import wire
from backrest.store import opcompact, opsaved
from backrest.store.files import DirLock, Paths
from backrest.store.oplog import OpLog, Query
from crashes.books import BOOKS, GUIDS, KEYS, State

Operation = wire.operations.Operation
Key = tuple[str, int]  # of an operation: its origin, and its id there
Kept = tuple[str, int]  # of an operation: its text, and its modno

LINES = 16  # copied at a time by a compaction: else so small a log is copied in one step
GROWN = 0  # bytes after which the index is saved: else that of so small a log never is

LOG: dict[str, float] = {
    "add": 8,
    "update": 4,
    "delete": 3,
    "newest": 4,
    "apply": 8,
    "purge": 0.3,
    "compact": 2,
    "save": 3,
}
STEPS = LOG | {book.name: book.weight for book in BOOKS}


@dataclass(slots=True)
class Intent:
    """What the writer is about to do. ``fresh``: texts of new operations; ``changes``: the text that known ones get,
    or None for those that go; ``after``: the state that a book comes to."""

    what: str
    fresh: list[str] = field(default_factory=list)
    changes: dict[Key, str | None] = field(default_factory=dict)
    after: State = None


@dataclass(slots=True)
class Done:
    """What became of it: operations as they are now, None for those that are gone."""

    became: dict[Key, Kept | None] = field(default_factory=dict)


def messages(stream: Any) -> Iterator[Intent | Done]:
    """Until the writer is dead; a last message that it did not finish does not count."""
    while len(head := stream.read(4)) == 4:
        (length,) = struct.unpack("<I", head)
        data = stream.read(length)
        if len(data) < length:
            return
        yield pickle.loads(data)


def write(paths: Paths, states: Mapping[str, State], chance: random.Random, name: str, pipe: int) -> None:
    """Write until killed. ``states``: what each book holds now; ``name`` is in every text."""
    opcompact._LINES = LINES
    opsaved.WORTH_BYTES = GROWN
    now = dict(states)
    with DirLock(paths):
        log = _Log(OpLog.open(paths.oplog), chance, pipe)
        books = {book.name: book.open(paths) for book in BOOKS}
        for number in range(1_000_000):
            tag = f"{name}.{number}"
            (what,) = chance.choices(list(STEPS), list(STEPS.values()))
            if what in books:
                after, work = books[what](chance, tag, now[what])
                _say(pipe, Intent(what, after=after))
                work()
                _say(pipe, Done())
                now[what] = after
            else:
                getattr(log, what)(tag)


def _say(pipe: int, message: Intent | Done) -> None:
    data = pickle.dumps(message)
    os.write(pipe, struct.pack("<I", len(data)) + data)


class _Log:
    """The operation log, with a method for each step."""

    def __init__(self, log: OpLog, chance: random.Random, pipe: int) -> None:
        self._log = log
        self._chance = chance
        self._pipe = pipe

    def _do(self, intent: Intent, work: Callable[[], Any]) -> None:
        """``work`` gives operations of our own as they were stored; else the changes were done as announced."""
        _say(self._pipe, intent)
        stored = work()
        if isinstance(stored, dict):
            _say(self._pipe, Done(stored))
        elif intent.what in ("add", "update"):
            _say(self._pipe, Done({("", one.id): (one.display_message, one.modno) for one in stored}))
        else:
            _say(self._pipe, Done(dict.fromkeys(intent.changes)))

    def _some(self) -> list[int]:
        mine = list(self._log.select(Query(origin="")))
        return self._chance.sample(mine, min(3, len(mine)))

    def add(self, tag: str) -> None:
        texts = [f"{tag}.{number}" for number in range(self._chance.randint(1, 5))]
        self._do(Intent("add", fresh=texts), lambda: self._log.add([_operation(text) for text in texts]))

    def update(self, tag: str) -> None:
        texts = {number: f"{tag}.{number}" for number in self._some()}
        new = [_operation(text, id=number, flow_id=number) for number, text in texts.items()]
        changes: dict[Key, str | None] = {("", number): text for number, text in texts.items()}
        self._do(Intent("update", changes=changes), lambda: self._log.update(new))

    def delete(self, _: str) -> None:
        some = self._some()
        self._do(Intent("delete", changes={("", n): None for n in some}), lambda: self._log.delete(some))

    def newest(self, tag: str) -> None:
        """Those with the highest ids and modnos go, and then a compaction: their numbers are in no line any more."""
        log = self._log
        last = list(log.read(sorted(log.select(Query()))[-3:]))
        last += sorted(log.read(log.select(Query(origin=""))), key=lambda one: one.modno)[-3:]
        changes: dict[Key, str | None] = {_key(one): None for one in last}
        self._do(Intent("delete", changes=changes), lambda: log.delete([one.id for one in last]))
        self.compact(tag)

    def apply(self, tag: str) -> None:
        """What a peer sends: four operations, and two ids that it deleted."""
        keyid = self._chance.choice(KEYS)
        numbers = self._chance.sample(range(1, 40), 6)
        new, gone = numbers[:4], numbers[4:]
        kept = {(keyid, n): (f"{tag}.{n}", n + 1) for n in new}
        upserts = [_operation(f"{tag}.{n}", id=n, modno=n + 1, flow_id=n) for n in new]

        def work() -> dict[Key, Kept | None]:
            self._log.apply(keyid, upserts, gone)
            return {**kept, **{(keyid, n): None for n in gone}}

        texts = {key: text for key, (text, _) in kept.items()}
        self._do(Intent("apply", changes={**texts, **{(keyid, n): None for n in gone}}), work)

    def purge(self, _: str) -> None:
        keyid = self._chance.choice(KEYS)
        changes: dict[Key, str | None] = {(keyid, original): None for original in self._log.held(keyid)}
        self._do(Intent("purge", changes=changes), lambda: self._log.purge(keyid))

    def compact(self, _: str) -> None:
        self._do(Intent("compact"), self._log.compact)

    def save(self, _: str) -> None:
        self._do(Intent("save"), self._log.maybe_compact)  # it is not worth that, and the index is saved


def _key(operation: Operation) -> Key:
    return operation.original_instance_keyid, operation.original_id or operation.id


def _operation(text: str, **fields: Any) -> Operation:
    return Operation(
        repo_id="nas",
        repo_guid=GUIDS[0],
        plan_id="photos",
        instance_id="laptop",
        unix_time_start_ms=1000,
        display_message=text,
        operation_backup={},
        **fields,
    )

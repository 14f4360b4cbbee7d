"""What people said of plans that the configuration has no place for: ``plan-notes.json``.

Here: which snapshot of a plan is as it should be although it lost files, and which of its sources yield nothing on
purpose. An entry goes with its plan.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from backrest import wire
from backrest.store import wholefile
from backrest.store.files import atomic_write, private_dir


@dataclass(frozen=True, slots=True)
class Note:
    """What was said of one plan."""

    confirmed: str = ""
    """the id of the snapshot that was confirmed last"""
    bare: tuple[str, ...] = ()
    """the sources that yielded nothing then"""


class PlanNotes:
    """The file. Thread-safe; each change is durable when it returns."""

    def __init__(self, path: str | os.PathLike[str], plans: Mapping[str, Note]) -> None:
        self._path = os.fspath(path)
        self._plans = dict(plans)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PlanNotes:
        """Absent: nothing. StorageError when it cannot be read; CorruptError when it is damaged."""
        return cls(path, wholefile.load(path, _decode, {}, holds="what was confirmed of plans"))

    def plan(self, plan_id: str) -> Note:
        """What was said of the plan; an empty note for nothing."""
        return self._plans.get(plan_id, Note())

    def confirm(self, plan_id: str, snapshot_id: str, bare: tuple[str, ...]) -> None:
        """StorageError: nothing changed."""
        with self._lock:
            note = replace(self.plan(plan_id), confirmed=snapshot_id, bare=bare)
            self._replace({**self._plans, plan_id: note})

    def prune(self, config: wire.config.Config) -> None:
        """Forget what was said of plans that are gone. StorageError: nothing changed."""
        there = {plan.id for plan in config.plans}
        with self._lock:
            self._replace({name: note for name, note in self._plans.items() if name in there})

    def _replace(self, plans: dict[str, Note]) -> None:
        if plans != self._plans:
            private_dir(os.path.dirname(os.path.abspath(self._path)))
            atomic_write(self._path, _encode(plans))
            self._plans = plans


def _encode(plans: Mapping[str, Note]) -> bytes:
    entries = [{"id": name} | asdict(note) for name, note in plans.items()]
    return orjson.dumps({"plans": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _decode(data: bytes) -> dict[str, Note]:
    whole = orjson.loads(data)
    entries = whole.get("plans") if isinstance(whole, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list of plans")
    return dict(map(_decode_one, entries))


def _decode_one(entry: Any) -> tuple[str, Note]:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ValueError("an entry is not an object with an id")
    confirmed, bare = entry.get("confirmed", ""), entry.get("bare", [])
    if not isinstance(confirmed, str):
        raise ValueError("an entry's confirmed is not a text")
    if not isinstance(bare, list) or not all(isinstance(path, str) for path in bare):
        raise ValueError("an entry's bare is not a list of texts")
    return entry["id"], Note(confirmed, tuple(bare))

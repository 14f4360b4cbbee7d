"""What people said of plans and clients that the configuration has no place for: ``plan-notes.json``.

Which snapshot of a plan is as it should be although it lost files, and which of its sources yield nothing on purpose;
how long a plan, or a client, may be late. An entry goes with its plan or client.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from backrest import wire
from backrest.store import wholefile
from backrest.store.files import atomic_write, private_dir

# How long a plan may be late, and a client away, before that is a problem: a laptop sleeps for a night and a day.
TOLERANCE_S = 36 * 3600


@dataclass(frozen=True, slots=True)
class Note:
    """What was said of one plan."""

    confirmed: str = ""
    """the id of the snapshot that was confirmed last"""
    bare: tuple[str, ...] = ()
    """the sources that yielded nothing then"""
    tolerance: int = 0
    """seconds; 0: TOLERANCE_S"""


@dataclass(frozen=True, slots=True)
class _Notes:
    plans: Mapping[str, Note] = field(default_factory=dict)  # by plan id
    clients: Mapping[str, int] = field(default_factory=dict)  # key id -> seconds


class PlanNotes:
    """The file. Thread-safe; each change is durable when it returns."""

    def __init__(self, path: str | os.PathLike[str], notes: _Notes) -> None:
        self._path = os.fspath(path)
        self._notes = notes
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PlanNotes:
        """Absent: nothing. StorageError when it cannot be read; CorruptError when it is damaged."""
        return cls(
            path, wholefile.load(path, _decode, _Notes(), holds="what was confirmed of plans, and tolerances")
        )

    @classmethod
    def nothing(cls) -> PlanNotes:
        """For who has to go on without the file, and only reads."""
        return cls(os.devnull, _Notes())

    def plan(self, plan_id: str) -> Note:
        """What was said of the plan; an empty note for nothing."""
        return self._notes.plans.get(plan_id, Note())

    def tolerance(self, plan_id: str) -> int:
        """Seconds that a plan of this instance may be late."""
        return self.plan(plan_id).tolerance or TOLERANCE_S

    def client_tolerance(self, keyid: str) -> int:
        """Seconds that a client may be away, and its plans late."""
        return self._notes.clients.get(keyid) or TOLERANCE_S

    def set_tolerance(self, plan_id: str, seconds: int) -> None:
        """0: as by default. StorageError: nothing changed."""
        with self._lock:
            self._replace_plan(plan_id, replace(self.plan(plan_id), tolerance=seconds))

    def set_client_tolerance(self, keyid: str, seconds: int) -> None:
        """0: as by default. StorageError: nothing changed."""
        with self._lock:
            self._replace(replace(self._notes, clients={**self._notes.clients, keyid: seconds}))

    def confirm(self, plan_id: str, snapshot_id: str, bare: tuple[str, ...]) -> None:
        """StorageError: nothing changed."""
        with self._lock:
            note = replace(self.plan(plan_id), confirmed=snapshot_id, bare=bare)
            self._replace_plan(plan_id, note)

    def prune(self, config: wire.config.Config) -> None:
        """Forget what was said of plans and clients that are gone. StorageError: nothing changed."""
        plans = {plan.id for plan in config.plans}
        clients = {client.keyid for client in config.multihost.authorized_clients}
        with self._lock:
            self._replace(
                _Notes(
                    {name: note for name, note in self._notes.plans.items() if name in plans},
                    {keyid: seconds for keyid, seconds in self._notes.clients.items() if keyid in clients},
                )
            )

    def _replace_plan(self, plan_id: str, note: Note) -> None:
        self._replace(replace(self._notes, plans={**self._notes.plans, plan_id: note}))

    def _replace(self, notes: _Notes) -> None:
        if notes != self._notes:
            private_dir(os.path.dirname(os.path.abspath(self._path)))
            atomic_write(self._path, _encode(notes))
            self._notes = notes


def _encode(notes: _Notes) -> bytes:
    whole = {
        "plans": [{"id": name} | asdict(note) for name, note in notes.plans.items()],
        "clients": [{"keyid": keyid, "tolerance": seconds} for keyid, seconds in notes.clients.items()],
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _decode(data: bytes) -> _Notes:
    whole = orjson.loads(data)
    plans = whole.get("plans") if isinstance(whole, dict) else None
    if not isinstance(plans, list):
        raise ValueError("it has no list of plans")
    clients = whole.get("clients", [])
    if not isinstance(clients, list):
        raise ValueError("its clients are not a list")
    return _Notes(dict(map(_decode_one, plans)), dict(map(_decode_client, clients)))


def _decode_client(entry: Any) -> tuple[str, int]:
    if not isinstance(entry, dict) or not isinstance(entry.get("keyid"), str):
        raise ValueError("an entry is not an object with a keyid")
    return entry["keyid"], _seconds(entry)


def _seconds(entry: dict[str, Any]) -> int:
    seconds = entry.get("tolerance", 0)
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 0:
        raise ValueError("an entry's tolerance is not a number of seconds")
    return seconds


def _decode_one(entry: Any) -> tuple[str, Note]:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ValueError("an entry is not an object with an id")
    confirmed, bare = entry.get("confirmed", ""), entry.get("bare", [])
    if not isinstance(confirmed, str):
        raise ValueError("an entry's confirmed is not a text")
    if not isinstance(bare, list) or not all(isinstance(path, str) for path in bare):
        raise ValueError("an entry's bare is not a list of texts")
    return entry["id"], Note(confirmed, tuple(bare), _seconds(entry))

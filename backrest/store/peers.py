"""What is known of each peer's connection: a cache for people to look at, kept over a restart (peers.json).

Updates are cheap, in memory, from any thread; ``flush`` writes the file when something changed. Nothing here
is needed to be right after a crash: a damaged file is set aside and everything is unknown until the peers
come back. What peers show of themselves is kept in the file up to a bound for all of them together. Subscribers are
told *that* a peer changed, by its key id, and read what it is now: two changes may be told as one, and none is lost.

Secrets: what a peer sends of its configuration is kept as received in memory (a difference can be computed
from it), and masked in the file and in ``to_proto``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import orjson

from backrest import refusals
from backrest.errors import StorageError, TooLargeError
from backrest.refusals import Refusal
from backrest.store import syscalls, taken
from backrest.store.files import atomic_write, read_file, sweep_temps
from backrest.store.mask import masked_remote_config
from backrest.store.taken import Taken
from backrest.store.text import one_line
from backrest.wire import codec, sync

log = logging.getLogger(__name__)

Role = Literal["client", "host", ""]

# The other side writes some of these texts: a session's end message, a refused id. Nobody reads more.
MAX_MESSAGE = 500
MAX_WARNINGS = 100
MAX_OFFERED = 1000  # as many repos as a push may hold (sync/apply.py)
# Of the records in the file, as it has them (one byte of a view can be fifty there). Half of what is read back of a
# file: the other half is for what is kept of every peer in any case, some KiB at most.
KEPT_BYTES = 32 * 1024 * 1024
NOT_KEPT = "what it showed of its configuration was not kept over a restart: there was too much of it"


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """One peer. ``role`` is what the other is to us: our "client" or our "host". Times: Unix, in ms."""

    keyid: str
    instance_id: str = ""
    role: Role = ""
    state: int = sync.CONNECTION_STATE_UNKNOWN
    message: str = ""
    since_ms: int = 0  # when the state became what it is
    last_heartbeat_ms: int = 0
    next_try_ms: int = 0
    known_repos: tuple[sync.RepoMetadata, ...] = ()
    known_plans: tuple[sync.PlanMetadata, ...] = ()
    remote_config: sync.RemoteConfig | None = field(
        default=None, repr=False
    )  # in clear: see the module's text
    warnings: tuple[Refusal, ...] = ()  # what does not hold at present of what one side pushed to the other
    refused: int = 0  # operations of this peer that were not taken, since it connected
    over_quota: int = 0  # operations of a client that its quota has no room for
    config_ms: int = 0  # when ``remote_config`` came
    archived_ms: int = 0  # a client that was removed, and whose history is kept: since when; 0: none such
    answers: bool | None = None  # does its program say what became of a push? None: it has not been here yet
    offered: tuple[str, ...] | None = None  # a hub: the guids of what it shares with us; None: unknown
    sessions: tuple[
        str, ...
    ] = ()  # a hub: the names of our sessions with it, the newest first (sync/twins.py)
    last_session: str = ""  # a client: the name of its last session here, if it gives names
    clock_s: int = 0  # seconds by which its clock is ahead of ours, where that is worth a word
    mixed: bool = (
        False  # a client: what is held may be another machine's with its key, until all was asked for
    )
    twin_ms: int = 0  # a client: when two live machines with its key were seen last
    taken: Taken | None = None  # a hub of another kind: what it took of our history, and cannot take again

    def has_twin(self, now_ms: int) -> bool:
        """Were two live machines with this client's key seen of late?"""
        return bool(self.twin_ms) and 0 <= now_ms - self.twin_ms < TWIN_MS

    def to_proto(self) -> sync.PeerState:
        """For the admin API and the file: the reference's message, secrets masked."""
        return sync.PeerState(
            peer_instance_id=self.instance_id,
            peer_keyid=self.keyid,
            state=sync.ConnectionState.Name(self.state)
            if self.state in _STATES
            else "CONNECTION_STATE_UNKNOWN",
            status_message=self.message,
            known_plans=self.known_plans,
            known_repos=self.known_repos,
            remote_config=masked_remote_config(self.remote_config) if self.remote_config else None,
            last_heartbeat_millis=self.last_heartbeat_ms,
        )


_STATES = frozenset(sync.ConnectionState.values())
_FIELDS = {f.name for f in fields(PeerRecord)} - {"keyid"}
_HEARTBEAT = frozenset(("last_heartbeat_ms",))
_OURS = (
    "sinceMillis",
    "nextTryMillis",
    "refused",
    "archivedMillis",
    "configMillis",
    "twinMillis",
    "overQuota",
)
MAX_SESSIONS = 32  # as many names as a handshake may hold
# Two machines with one key count as two for a day after the second tried last: a night passes between a machine's days.
TWIN_MS = 86_400_000


class PeerStore:
    """The records by key id."""

    def __init__(self, path: str | os.PathLike[str], now_ms: Callable[[], int]) -> None:
        self._path = os.fspath(path)
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._records: dict[str, PeerRecord] = {}
        self._encoded: dict[str, _Encoded] = {}  # of the records that did not change since they were written
        self._not_kept: set[str] = set()  # whose views were too much for the file
        self._dirty = False
        self._pressing = False  # more than the time of a heartbeat is to be written
        self._subscribers: list[Callable[[str], None]] = []

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> PeerStore:
        """Read the file; every peer comes back as disconnected. Absent, damaged or too large: an empty store.

        Raises StorageError when it cannot be read at all.
        """
        store = cls(path, now_ms)
        sweep_temps(path)
        try:
            records = _decode(read_file(path))
        except FileNotFoundError:
            return store
        except (ValueError, TooLargeError) as bad:
            aside = f"{os.fspath(path)}.bad"
            log.warning("%s is damaged (%s): it was set aside as %s", path, bad, aside)
            with contextlib.suppress(OSError):
                syscalls.disk.rename(os.fspath(path), aside)
            return store
        for record in records:
            if record.state != sync.CONNECTION_STATE_DISCONNECTED:
                record = replace(
                    record, state=sync.CONNECTION_STATE_DISCONNECTED, since_ms=now_ms(), next_try_ms=0
                )
                store._dirty = True
            store._records[record.keyid] = record
        return store

    def get(self, keyid: str) -> PeerRecord | None:
        return self._records.get(keyid)

    def all(self) -> list[PeerRecord]:
        """Every record, in the order of their first appearance."""
        with self._lock:
            return list(self._records.values())

    def update(self, keyid: str, **changes: Any) -> PeerRecord:
        """Set fields of a peer's record (made when absent); tell the subscribers if that changed anything.

        ``since_ms`` follows a change of the state by itself unless it is given.
        """
        if not changes.keys() <= _FIELDS:
            raise TypeError(f"no such field: {sorted(changes.keys() - _FIELDS)}")
        if "message" in changes:
            changes["message"] = one_line(changes["message"], MAX_MESSAGE)
        if "warnings" in changes:
            changes["warnings"] = tuple(changes["warnings"])[:MAX_WARNINGS]
        with self._lock:
            before = self._records.get(keyid)
            record = replace(before or PeerRecord(keyid), **changes)
            if record == before:
                return record
            if "since_ms" not in changes and (before is None or before.state != record.state):
                record = replace(record, since_ms=self._now_ms())
            self._records[keyid] = record
            self._encoded.pop(keyid, None)
            self._dirty = True
            self._pressing = self._pressing or not changes.keys() <= _HEARTBEAT
        self._notify(keyid)
        return record

    def remove(self, keyid: str) -> bool:
        """Forget a peer. False when it was not known."""
        with self._lock:
            known = self._records.pop(keyid, None) is not None
            self._encoded.pop(keyid, None)
            self._dirty = self._dirty or known
            self._pressing = self._pressing or known
        if known:
            self._notify(keyid)
        return known

    def archive(self, keyid: str, instance_id: str = "", *, at_ms: int | None = None) -> PeerRecord:
        """A client was removed and its history stays: keep who it was and since when, drop its state. A cache as
        all here: whether a client *is* archived follows from the log and the configuration. May be repeated."""
        before = self.get(keyid) or PeerRecord(keyid)
        now = self._now_ms() if at_ms is None else at_ms
        return self.update(
            keyid,
            **{f.name: f.default for f in fields(PeerRecord) if f.name in _FIELDS}
            | {
                "instance_id": before.instance_id or instance_id,
                "role": "client",
                "state": sync.CONNECTION_STATE_DISCONNECTED,
                "since_ms": before.archived_ms or now,
                "archived_ms": before.archived_ms or now,
            },
        )

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """``callback(keyid)`` after each change, in the thread that made it; it must not block.

        Returns the function that ends the subscription.
        """
        with self._lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    def _notify(self, keyid: str) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for callback in subscribers:
            try:
                callback(keyid)
            except Exception:  # one subscriber's mistake must not keep the news from the others
                log.exception("a listener for peer states failed")

    @property
    def pressing(self) -> bool:
        """Whether the file lacks more than the times of the last heartbeats."""
        return self._pressing

    def flush(self) -> None:
        """Write the file if something changed since. Raises StorageError; then it is still to be written."""
        with self._flushing:
            with self._lock:
                if not self._dirty:
                    return
                records = list(self._records.values())
                encoded = dict(self._encoded)
                self._dirty = self._pressing = False
            encoded = _encode_all(records, encoded)
            self._say_what_is_not_kept({keyid for keyid, one in encoded.items() if not one.whole})
            try:
                lines = b",\n".join(one.line for one in encoded.values())
                atomic_write(self._path, b'{"peers":[\n%s\n]}\n' % lines)
            except BaseException:
                self._dirty = self._pressing = True
                raise
            with self._lock:
                for record in records:
                    if self._records.get(record.keyid) is record:
                        self._encoded[record.keyid] = encoded[record.keyid]

    def close(self) -> None:
        """The last flush. What the disk refuses is said, and no more: it is a cache, and whoever only reads must not
        fail over it."""
        try:
            self.flush()
        except StorageError as error:
            log.error("the peers' states were not written: %s", error)

    def _say_what_is_not_kept(self, keyids: set[str]) -> None:
        if keyids - self._not_kept:
            log.warning(
                "%s: the largest views of peers are not kept over a restart (%d of them): all together are more "
                "than %d MiB",
                self._path,
                len(keyids),
                KEPT_BYTES >> 20,
            )
        self._not_kept = keyids


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A record as it stands in the file; not ``whole``: without what its peer shows. ``size``: if it were whole."""

    line: bytes
    size: int
    whole: bool


def _encode_all(records: list[PeerRecord], known: dict[str, _Encoded]) -> dict[str, _Encoded]:
    """By key id, in the order of ``records``; ``known`` are those that did not change.

    When all together are more than KEPT_BYTES the largest lose their views: a peer with much to show, or many that come
    again and again, cannot push out the views of the others.
    """
    out: dict[str, _Encoded] = {}
    for record in records:
        one = known.get(record.keyid)
        if one is None:
            line = _encode(record)
            one = _Encoded(line, len(line), whole=True)
        out[record.keyid] = one
    room = KEPT_BYTES
    for record in sorted(records, key=lambda record: out[record.keyid].size):
        one = out[record.keyid]
        room -= one.size
        whole = room >= 0
        if whole != one.whole:
            line = _encode(record if whole else _without_view(record))
            out[record.keyid] = _Encoded(line, one.size, whole)
    return out


def _without_view(record: PeerRecord) -> PeerRecord:
    before = one_line(record.message, MAX_MESSAGE - len(NOT_KEPT) - 2)
    return replace(
        record,
        message=f"{before}; {NOT_KEPT}" if before else NOT_KEPT,
        known_repos=(),
        known_plans=(),
        remote_config=None,
        config_ms=0,
        warnings=(),
        offered=None,
    )


def _encode(record: PeerRecord) -> bytes:
    """A PeerState in protobuf's JSON, our own fields beside it (64-bit numbers as texts, as there)."""
    entry = codec.to_dict(record.to_proto())
    entry["role"] = record.role
    entry |= {"sinceMillis": str(record.since_ms), "nextTryMillis": str(record.next_try_ms)}
    if record.warnings:
        entry["warnings"] = [warning.to_json() for warning in record.warnings]
    if record.refused:
        entry["refused"] = str(record.refused)
    if record.over_quota:
        entry["overQuota"] = str(record.over_quota)
    if record.config_ms:
        entry["configMillis"] = str(record.config_ms)
    if record.archived_ms:
        entry["archivedMillis"] = str(record.archived_ms)
    if record.answers is not None:
        entry["answersPushes"] = record.answers
    if record.sessions:
        entry["sessions"] = list(record.sessions)
    if record.last_session:
        entry["lastSession"] = record.last_session
    if record.mixed:
        entry["mixed"] = True
    if record.twin_ms:
        entry["twinMillis"] = str(record.twin_ms)
    if record.offered is not None:
        entry["offered"] = list(record.offered[:MAX_OFFERED])
    if record.taken is not None:
        entry["taken"] = taken.encode(record.taken)
    return orjson.dumps(entry)


def _decode(data: bytes) -> list[PeerRecord]:
    """ValueError for anything that ``flush`` does not write."""
    whole = orjson.loads(data)
    entries = whole.get("peers") if isinstance(whole, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list of peers")
    records = [_decode_one(entry) for entry in entries]
    if len({record.keyid for record in records}) != len(records):
        raise ValueError("a peer stands twice in it")
    return records


def _decode_one(entry: Any) -> PeerRecord:
    if not isinstance(entry, dict):
        raise ValueError("a peer is not an object")
    proto = codec.from_dict(sync.PeerState, entry)
    role = entry.get("role", "")
    warnings = entry.get("warnings", [])
    if not proto.peer_keyid or role not in ("client", "host", ""):
        raise ValueError("a peer has no key id, or no role that is known")
    if not isinstance(warnings, list):
        raise ValueError("a peer's warnings are no list")
    offered = entry.get("offered")
    if offered is not None and not (isinstance(offered, list) and all(isinstance(g, str) for g in offered)):
        raise ValueError("what a peer offers is not a list of guids")
    answers = entry.get("answersPushes")
    if answers not in (None, True, False):
        raise ValueError("whether a peer answers pushes is neither true nor false")
    sessions, last_session, mixed = (
        entry.get("sessions", []),
        entry.get("lastSession", ""),
        entry.get("mixed"),
    )
    if not isinstance(sessions, list) or not all(isinstance(one, str) for one in [*sessions, last_session]):
        raise ValueError("the names of a peer's sessions are not texts")
    since_ms, next_try_ms, refused, archived_ms, config_ms, twin_ms, over_quota = (
        _int64(entry.get(name, "0")) for name in _OURS
    )
    return PeerRecord(
        keyid=proto.peer_keyid,
        instance_id=proto.peer_instance_id,
        role=role,
        state=proto.state,
        message=one_line(proto.status_message, MAX_MESSAGE),
        since_ms=since_ms,
        last_heartbeat_ms=proto.last_heartbeat_millis,
        next_try_ms=next_try_ms,
        known_repos=tuple(proto.known_repos),
        known_plans=tuple(proto.known_plans),
        remote_config=proto.remote_config if proto.HasField("remote_config") else None,
        warnings=tuple(map(refusals.from_json, warnings[:MAX_WARNINGS])),
        refused=refused,
        over_quota=over_quota,
        archived_ms=archived_ms,
        config_ms=config_ms,
        answers=answers,
        offered=None if offered is None else tuple(offered),
        sessions=tuple(sessions[:MAX_SESSIONS]),
        last_session=last_session,
        mixed=mixed is True,
        twin_ms=twin_ms,
        taken=taken.decode(entry["taken"]) if "taken" in entry else None,
    )


def _int64(text: Any) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ValueError("a number of a peer is not one")
    return int(text)

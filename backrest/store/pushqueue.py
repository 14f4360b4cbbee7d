"""Pushes of configuration that wait for their peer, and what became of the last ones: ``pushes.json``.

A push waits until the peer has answered it, over restarts and broken sessions: it may be sent twice, which does no
harm, and is never lost. When it is answered its content goes, and a line of its outcome stays for people to read.
Nothing expires by itself; what is about a peer that was removed is dropped.

The file may hold secrets (a pushed repository's password): it is 0600, and its content is never shown or logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from backrest import refusals
from backrest.errors import NotFoundError, UserError
from backrest.refusals import SEEN, Kind, Refusal, Why, refusal
from backrest.store import wholefile
from backrest.store.files import atomic_write, private_dir
from backrest.store.mask import mask_fields
from backrest.store.text import one_line
from backrest.wire import codec, config, sync

log = logging.getLogger(__name__)

Config = config.Config
SetConfig = sync.SyncStreamItem.SyncActionSetConfig
Result = Literal["applied", "partly", "refused", "unknown"]
RESULTS: tuple[Result, ...] = ("applied", "partly", "refused", "unknown")

MOST_WAITING = 100  # for one peer: more is a script that runs in a circle
# Of all that wait, and of all outcomes, as the file has them (a byte of a message can be fifty there): the file is
# written anew at each change, and both together stay far below what is read back of one.
MOST_BYTES = 16 * 1024 * 1024
ANSWERED_KEPT = 10  # for each peer
MOST_REFUSED = 20  # as many as one answer holds (protocol/outcome.py)
NOTICE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Push:
    """One that waits. ``sent`` counts the sessions in which it went out without an answer. Times: Unix, in ms."""

    id: int
    keyid: str
    instance_id: str
    created_ms: int
    message: SetConfig = field(repr=False)
    sent: int = 0

    @property
    def items(self) -> tuple[str, ...]:
        return items(self.message)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one: ``refused`` says why, for what was refused; ``items`` what it was about. ``seen``: somebody
    was told, and needs no notice of it."""

    id: int
    keyid: str
    instance_id: str
    created_ms: int
    answered_ms: int
    items: tuple[str, ...]
    result: Result
    refused: tuple[Refusal, ...] = ()
    seen: bool = False

    @property
    def probably(self) -> bool:
        """The peer did not say so: it was seen by what it did not do."""
        return any(one.code in SEEN for one in self.refused)

    def notice(self) -> str | None:
        """The sentence for a status, when there is something to look at."""
        if self.result == "applied":
            return None
        why = "; ".join(one.words() for one in self.refused) or "nobody knows what became of it"
        refused = "probably refused" if self.probably else "refused"
        words = {"partly": "taken in part", "refused": refused, "unknown": "not answered"}[self.result]
        return one_line(f"push {self.id} was {words}: {why}", NOTICE_CHARS)


def items(message: SetConfig) -> tuple[str, ...]:
    """What a push is about, by id."""
    return (
        *(f"plan {one_line(plan.id, 100)}" for plan in message.plans),
        *(f"repo {one_line(repo.id, 100)}" for repo in message.repos),
        *(f"delete plan {one_line(plan_id, 100)}" for plan_id in message.plans_to_delete),
        *(f"delete repo {one_line(repo_id, 100)}" for repo_id in message.repos_to_delete),
    )


def masked(message: SetConfig) -> tuple[Refusal, ...]:
    """What keeps it from a peer that knows no masks (one of the reference takes a mask for the secret itself)."""
    both: list[tuple[Kind, config.Plan | config.Repo]] = [
        *(("plan", plan) for plan in message.plans),
        *(("repo", repo) for repo in message.repos),
    ]
    found = ((kind, item.id, mask_fields(item)) for kind, item in both)
    return tuple(refusal(kind, ident, Why.NO_MASKS, names=names) for kind, ident, names in found if names)


@dataclass(frozen=True, slots=True)
class _State:
    last_id: int = 0
    waiting: tuple[Push, ...] = ()
    answered: tuple[Answer, ...] = ()


class PushQueue:
    """The file. Thread-safe; each change is durable when it returns, and told to the subscribers."""

    def __init__(self, path: str | os.PathLike[str], state: _State) -> None:
        self._path = os.fspath(path)
        self._state = state
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[], None]] = []

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PushQueue:
        """Absent: nothing waits. StorageError when it cannot be read; CorruptError when it is damaged."""
        return cls(path, wholefile.load(path, _decode, _State(), holds="the pushes that wait"))

    def waiting(self, keyid: str | None = None) -> list[Push]:
        """Those that wait, of one peer or of all, in the order in which they are sent."""
        return [push for push in self._state.waiting if keyid in (None, push.keyid)]

    def answered(self, keyid: str | None = None) -> list[Answer]:
        """The last outcomes, the oldest first."""
        return [answer for answer in self._state.answered if keyid in (None, answer.keyid)]

    def notices(self, keyid: str) -> tuple[str, ...]:
        """What to show of the last outcome for this peer; one that was taken makes the earlier ones old."""
        last = self.answered(keyid)[-1:]
        found = (answer.notice() for answer in last if not answer.seen)
        return tuple(notice for notice in found if notice is not None)

    def find(self, push_id: int) -> Push | Answer | None:
        """The push of that number, or its outcome."""
        state = self._state
        both: list[Push | Answer] = [*state.waiting, *state.answered]
        return next((one for one in both if one.id == push_id), None)

    def add(self, keyid: str, instance_id: str, message: SetConfig) -> Push:
        """One more. UserError when too much waits; StorageError: nothing changed."""
        with self._lock:
            state = self._state
            if sum(push.keyid == keyid for push in state.waiting) >= MOST_WAITING:
                raise UserError(
                    f"{MOST_WAITING} pushes wait for {instance_id!r} already: drop some (`backrest push list`)"
                )
            copy = SetConfig()
            copy.CopyFrom(message)
            push = Push(state.last_id + 1, keyid, instance_id, time.time_ns() // 1_000_000, copy)
            waiting = (*state.waiting, push)
            if len(_encode(_State(waiting=waiting))) > MOST_BYTES:
                raise UserError(f"the pushes that wait would exceed {MOST_BYTES >> 20} MiB: drop some first")
            self._write(replace(state, last_id=push.id, waiting=waiting))
        self._tell()
        return push

    def sent(self, push_id: int) -> bool:
        """It is about to be sent once more; False: it was dropped meanwhile, so it must not be. StorageError."""
        with self._lock:
            state = self._state
            if all(push.id != push_id for push in state.waiting):
                return False
            waiting = tuple(
                replace(push, sent=push.sent + 1) if push.id == push_id else push for push in state.waiting
            )
            self._write(replace(state, waiting=waiting))
        return True

    def answer(self, push_id: int, result: Result, refused: Collection[Refusal] = ()) -> Answer | None:
        """Record what became of it; None: it does not wait (any more). StorageError: it waits on."""
        with self._lock:
            state = self._state
            push = next((push for push in state.waiting if push.id == push_id), None)
            if push is None:
                return None
            answer = Answer(
                push.id,
                push.keyid,
                push.instance_id,
                push.created_ms,
                time.time_ns() // 1_000_000,
                push.items[:MOST_WAITING],
                result,
                tuple(refused)[:MOST_REFUSED],
            )
            waiting = tuple(other for other in state.waiting if other.id != push_id)
            old = [other.id for other in state.answered if other.keyid == push.keyid]
            gone = set(old[: max(0, len(old) + 1 - ANSWERED_KEPT)])
            answered = (*(other for other in state.answered if other.id not in gone), answer)
            while len(answered) > 1 and len(_encode(_State(answered=answered))) > MOST_BYTES:
                answered = answered[len(answered) // 2 :]  # texts of the peers: the older ones give way
            self._write(replace(state, waiting=waiting, answered=answered))
        self._tell()
        return answer

    def see(self, push_id: int) -> None:
        """Somebody was told the outcome. StorageError: it stays a notice."""
        with self._lock:
            state = self._state
            answered = tuple(
                replace(answer, seen=True) if answer.id == push_id else answer for answer in state.answered
            )
            if answered == state.answered:
                return
            self._write(replace(state, answered=answered))
        self._tell()

    def drop(self, push_id: int) -> Push | Answer:
        """Take back one that waits, or forget an outcome. NotFoundError; StorageError: nothing changed."""
        with self._lock:
            state = self._state
            found = self.find(push_id)
            if found is None:
                raise NotFoundError(
                    f"there is no push {push_id} (`backrest push list` shows those that there are)"
                )
            self._write(
                replace(
                    state,
                    waiting=tuple(push for push in state.waiting if push.id != push_id),
                    answered=tuple(answer for answer in state.answered if answer.id != push_id),
                )
            )
        self._tell()
        return found

    def forget_removed(self, now: Config) -> list[Push]:
        """Drop what is about a peer that is not in ``now``. Returns what waited for one. StorageError."""
        keyids = {peer.keyid for peer in (*now.multihost.known_hosts, *now.multihost.authorized_clients)}
        with self._lock:
            state = self._state
            waiting = tuple(push for push in state.waiting if push.keyid in keyids)
            answered = tuple(answer for answer in state.answered if answer.keyid in keyids)
            gone = [push for push in state.waiting if push.keyid not in keyids]
            if not gone and len(answered) == len(state.answered):
                return []
            self._write(replace(state, waiting=waiting, answered=answered))
        self._tell()
        return gone

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """``callback()`` after each change of what waits or was answered, in the thread that made it; it must not
        block. Returns the function that ends the subscription."""
        with self._lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    def _write(self, new: _State) -> None:
        private_dir(os.path.dirname(os.path.abspath(self._path)))
        atomic_write(self._path, _encode(new))
        self._state = new

    def _tell(self) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for callback in subscribers:
            try:
                callback()
            except Exception:  # one subscriber's mistake must not keep the news from the others
                log.exception("a listener for pushes failed")


def _encode(state: _State) -> bytes:
    whole = {
        "lastId": state.last_id,
        "waiting": [
            {
                "id": push.id,
                "keyId": push.keyid,
                "instanceId": push.instance_id,
                "createdMillis": push.created_ms,
                "sent": push.sent,
                "setConfig": codec.to_dict(push.message),
            }
            for push in state.waiting
        ],
        "answered": [_answer_json(answer) for answer in state.answered],
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def answer_json(answer: Answer) -> dict[str, Any]:
    """For people, and (as ``refusals``) for their programs: there is nothing secret in it."""
    whole = _answer_json(answer)
    return {**whole, "refused": [one.words() for one in answer.refused], "refusals": whole["refused"]}


def _answer_json(answer: Answer) -> dict[str, Any]:
    """As in the file."""
    return {
        "id": answer.id,
        "keyId": answer.keyid,
        "instanceId": answer.instance_id,
        "createdMillis": answer.created_ms,
        "answeredMillis": answer.answered_ms,
        "items": list(answer.items),
        "result": answer.result,
        "refused": [one.to_json() for one in answer.refused],
        "seen": answer.seen,
    }


def _decode(data: bytes) -> _State:
    """ValueError for anything that ``_encode`` does not write."""
    try:
        whole = orjson.loads(data)
        waiting = tuple(
            Push(
                _number(entry["id"]),
                _text(entry["keyId"]),
                _text(entry["instanceId"]),
                _number(entry["createdMillis"]),
                _message(entry["setConfig"]),
                _number(entry["sent"]),
            )
            for entry in whole["waiting"]
        )
        answered = tuple(
            Answer(
                _number(entry["id"]),
                _text(entry["keyId"]),
                _text(entry["instanceId"]),
                _number(entry["createdMillis"]),
                _number(entry["answeredMillis"]),
                tuple(map(_text, entry["items"])),
                RESULTS[RESULTS.index(entry["result"])],
                tuple(map(refusals.from_json, entry["refused"])),
                entry["seen"] is True,
            )
            for entry in whole["answered"]
        )
        last_id = _number(whole["lastId"])
    except (KeyError, TypeError) as bad:
        raise ValueError(f"what it holds are not pushes ({bad!r})") from None
    ids = [*(push.id for push in waiting), *(answer.id for answer in answered)]
    if len(set(ids)) != len(ids) or any(number > last_id for number in ids):
        raise ValueError("a number stands twice in it, or is higher than the last")
    return _State(last_id, waiting, answered)


def _message(value: Any) -> SetConfig:
    try:
        return codec.from_dict(SetConfig, value, ignore_unknown=False)
    except ValueError:  # its text may hold what it could not read: a password, say
        raise ValueError("a push in it cannot be read") from None


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError("a number in it is none")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text in it is none")
    return value

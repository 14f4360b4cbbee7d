"""What a hub wants a shared repository to be, and somebody here has to agree with first: ``waiting-repos.json``.

A hub that may only share repositories cannot move one, which plans here use, to another place by itself, nor change its
flags or environment (harmless.held_back). The configuration keeps the values in force; an entry here, by the
repository's guid, has the address, environment and flags that the hub gave last. It goes when they are accepted, when
the hub goes back to what is in force, when the hub takes the repository back, and when it is no longer in the
configuration. Order on disk: the configuration first. A crash in between loses nothing: the hub sends its
repositories again at each connection, and an entry that equals the values in force is not shown.

Unbounded on purpose: there is an entry for a repository that plans here use, and no hub can make such plans.

The file may hold passwords and keys: it is 0600, and what is shown of it is masked.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from backrest import wire
from backrest.store import wholefile
from backrest.store.files import atomic_write, private_dir

Config = wire.config.Config
Repo = wire.config.Repo

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What waits for one repository. ``since_ms`` also tells one version of it from the next."""

    guid: str
    origin: str
    uri: str
    env: tuple[str, ...]
    flags: tuple[str, ...]
    since_ms: int = 0

    @classmethod
    def of(cls, repo: Repo, origin: str) -> Wanted:
        return cls(repo.guid, origin, repo.uri, tuple(sorted(repo.env)), tuple(repo.flags))

    def on(self, here: Repo) -> Repo:
        """The repository as it would be."""
        out = Repo()
        out.CopyFrom(here)
        out.uri = self.uri
        out.env[:] = self.env
        out.flags[:] = self.flags
        return out

    def same(self, other: Wanted) -> bool:
        return (self.origin, self.uri, self.env, self.flags) == (
            other.origin,
            other.uri,
            other.env,
            other.flags,
        )


class WaitingRepos:
    """The file. Thread-safe; each change is durable when it returns."""

    def __init__(self, path: str | os.PathLike[str], entries: Mapping[str, Wanted]) -> None:
        self._path = os.fspath(path)
        self._entries = dict(entries)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> WaitingRepos:
        """Absent: nothing. StorageError when it cannot be read; CorruptError when it is damaged."""
        holds = "the changes of shared repositories that wait to be accepted"
        return cls(path, wholefile.load(path, _decode, {}, holds=holds))

    def of(self, repo: Repo) -> Wanted | None:
        """What waits for this repository, and is not in force already."""
        found = self._entries.get(repo.guid)
        if found is None or not _about(found, repo) or Wanted.of(repo, found.origin).same(found):
            return None
        return found

    def settle(self, outcomes: Mapping[str, Wanted | None]) -> None:
        """What a push left: guid -> what waits now; None when nothing does. StorageError: nothing changed."""

        def change(entries: dict[str, Wanted]) -> None:
            for guid, wanted in outcomes.items():
                before = entries.pop(guid, None)
                if wanted is not None and before is not None and before.same(wanted):
                    entries[guid] = before  # has waited since it came first
                elif wanted is not None:
                    entries[guid] = _dated(wanted, before)

        self._replace(change)

    def keep(self, origin: str, offered: Collection[str]) -> None:
        """Forget what waits for repositories that ``origin`` no longer offers. StorageError."""

        def change(entries: dict[str, Wanted]) -> None:
            for guid, wanted in list(entries.items()):
                if wanted.origin == origin and guid not in offered:
                    del entries[guid]

        self._replace(change)

    def prune(self, config: Config) -> None:
        """Forget what is about no repository of ``config``, or is in force. StorageError."""
        waiting = {repo.guid for repo in config.repos if self.of(repo) is not None}

        def change(entries: dict[str, Wanted]) -> None:
            for guid in set(entries) - waiting:
                del entries[guid]

        self._replace(change)

    def _replace(self, change: Callable[[dict[str, Wanted]], None]) -> None:
        with self._lock:
            new = dict(self._entries)
            change(new)
            if new == self._entries:
                return
            private_dir(os.path.dirname(os.path.abspath(self._path)))
            atomic_write(self._path, _encode(new))
            self._entries = new


def _about(wanted: Wanted, repo: Repo) -> bool:
    return bool(repo.guid) and repo.origin_instance_id == wanted.origin


def _dated(wanted: Wanted, before: Wanted | None) -> Wanted:
    """With a time of its own: who agrees to a version must not get another, which came in the same millisecond."""
    now_ms = max(time.time_ns() // 1_000_000, before.since_ms + 1 if before is not None else 0)
    return Wanted(wanted.guid, wanted.origin, wanted.uri, wanted.env, wanted.flags, now_ms)


def _encode(entries: Mapping[str, Wanted]) -> bytes:
    repos = [
        {
            "guid": one.guid,
            "originInstanceId": one.origin,
            "uri": one.uri,
            "env": list(one.env),
            "flags": list(one.flags),
            "sinceMillis": str(one.since_ms),
        }
        for one in entries.values()
    ]
    return orjson.dumps({"repos": repos}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _decode(data: bytes) -> dict[str, Wanted]:
    whole = orjson.loads(data)
    entries = whole.get("repos") if isinstance(whole, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list of repositories")
    return {one.guid: one for one in map(_decode_one, entries)}


def _decode_one(entry: Any) -> Wanted:
    if not isinstance(entry, dict):
        raise ValueError("an entry is not an object")
    texts = [entry.get(name) for name in ("guid", "originInstanceId", "uri")]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("an entry has no guid, originInstanceId or uri")
    lists = [entry.get(name) for name in ("env", "flags")]
    if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists):
        raise ValueError("an entry's env or flags is not a list of texts")
    since = entry.get("sinceMillis")
    if not isinstance(since, str) or not since.isascii() or not since.isdecimal() or len(since) > 18:
        raise ValueError("an entry's sinceMillis is not a number")
    guid, origin, uri = texts
    env, flags = lists
    return Wanted(guid, origin, uri, tuple(env), tuple(flags), int(since))  # type: ignore[arg-type]

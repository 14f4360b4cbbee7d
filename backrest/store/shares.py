"""What is settled for single clients, and how each stands with a shared repository: ``shares.json``.

That is the address under which the client reaches it, where that is not the hub's own, and that its sessions ended over
it, for a client that does not say what it takes (sync/handout.py). And how much of the operation log a client may fill,
where that is not the default.

The configuration's format, which is the Go program's, has no place for it. An entry is about a repository (by
its guid) and a client (by its key id), and means something only while both are in the configuration: it is
thrown away when one of them is removed, so that a client that is paired again later begins anew.

The file may hold passwords (``rest:https://user:password@host``): it is 0600, and what is shown of it is masked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import orjson

from backrest import wire
from backrest.store import wholefile
from backrest.store.files import atomic_write, private_dir
from backrest.store.quota import DEFAULT, MOST, Quota

log = logging.getLogger(__name__)

MOST_ENDED = (
    2  # sessions that ended over a repo: one may be an accident, and each costs the client a minute or more
)


class Ended(NamedTuple):
    """``times``: sessions that ended when this repository alone was offered; ``terms`` under which that was."""

    times: int
    terms: str


Quotas = Mapping[str, Quota]  # key id -> quota
Uris = Mapping[str, Mapping[str, str]]  # guid -> key id -> uri
Ends = Mapping[str, Mapping[str, Ended]]  # guid -> key id -> what was noted
V = TypeVar("V")


class Shares:
    """The file. Thread-safe; each change is durable when it returns, and told to the subscribers."""

    def __init__(self, path: str | os.PathLike[str], uris: Uris, ends: Ends, quotas: Quotas) -> None:
        self._path = os.fspath(path)
        self._uris = uris
        self._ends = ends
        self._quotas = quotas
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[], None]] = []

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Shares:
        """Absent: nothing. StorageError when it cannot be read; CorruptError when it is damaged: without it clients
        would be sent to addresses that they cannot reach."""
        holds = "the addresses of shared repositories that --uri-for gave, and the quotas of clients"
        nothing: tuple[Uris, Ends, Quotas] = ({}, {}, {})
        return cls(path, *wholefile.load(path, _decode, nothing, holds=holds))

    def of_repo(self, guid: str) -> Mapping[str, str]:
        """Key id -> address, for the clients that reach this repository under an address of their own."""
        return self._uris.get(guid, {})

    def of_client(self, keyid: str) -> dict[str, str]:
        """Guid -> address, for the repositories that this client reaches under an address of its own."""
        return {guid: clients[keyid] for guid, clients in self._uris.items() if keyid in clients}

    def set(self, guid: str, uris: Mapping[str, str | None]) -> None:
        """Somebody shares a repository: key id -> address; None takes the address back. It is offered to every client
        again. StorageError: nothing changed."""
        clients = {**self.of_repo(guid), **uris}
        kept = {keyid: uri for keyid, uri in clients.items() if uri}
        self._replace(lambda old, ends: ({**old, guid: kept}, {**ends, guid: {}}))

    def ended(self, keyid: str) -> dict[str, Ended]:
        """Guid -> what was noted about this client's sessions."""
        return {guid: clients[keyid] for guid, clients in self._ends.items() if keyid in clients}

    def given_up(self, guid: str) -> Collection[str]:
        """The key ids of the clients to which this repository is not offered any more."""
        return {keyid for keyid, one in self._ends.get(guid, {}).items() if one.times >= MOST_ENDED}

    def note(self, keyid: str, ended: Mapping[str, Ended | None]) -> None:
        """By guid, for one client; None: forget it. StorageError: nothing changed."""

        def change(uris: Uris, ends: Ends) -> tuple[Uris, Ends]:
            new = {guid: dict(clients) for guid, clients in ends.items()}
            for guid, one in ended.items():
                new.setdefault(guid, {}).pop(keyid, None)
                if one is not None:
                    new[guid][keyid] = one
            return uris, new

        self._replace(change)

    def quota(self, keyid: str) -> Quota:
        """How much of the log a client may fill."""
        return self._quotas.get(keyid, DEFAULT)

    def set_quota(self, keyid: str, quota: Quota) -> None:
        """StorageError: nothing changed."""
        self._replace(quotas=lambda old: {**old, keyid: quota})

    def prune(self, config: wire.config.Config) -> None:
        """Throw away what is about a repository or a client that is not in ``config``. StorageError."""
        guids = {repo.guid for repo in config.repos if repo.guid}
        keyids = {peer.keyid for peer in config.multihost.authorized_clients}

        def known(old: Mapping[str, Mapping[str, V]]) -> dict[str, dict[str, V]]:
            return {
                guid: {keyid: value for keyid, value in clients.items() if keyid in keyids}
                for guid, clients in old.items()
                if guid in guids
            }

        self._replace(
            lambda uris, ends: (known(uris), known(ends)),
            lambda old: {keyid: quota for keyid, quota in old.items() if keyid in keyids},
        )

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """``callback()`` after each change, in the thread that made it; it must not block. Returns the function that
        ends the subscription."""
        with self._lock:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    def _replace(
        self,
        change: Callable[[Uris, Ends], tuple[Uris, Ends]] = lambda uris, ends: (uris, ends),
        quotas: Callable[[Quotas], Quotas] = lambda old: old,
    ) -> None:
        with self._lock:
            changed = change(self._uris, self._ends)
            uris, ends = _filled(changed[0]), _filled(changed[1])
            limits = {keyid: quota for keyid, quota in quotas(self._quotas).items() if quota != DEFAULT}
            if (uris, ends, limits) == (self._uris, self._ends, self._quotas):
                return
            private_dir(os.path.dirname(os.path.abspath(self._path)))
            whole: dict[str, Any] = {"uris": uris}
            if ends:
                whole["ended"] = {
                    guid: {keyid: one._asdict() for keyid, one in clients.items()}
                    for guid, clients in ends.items()
                }
            if limits:
                whole["quotas"] = {keyid: quota._asdict() for keyid, quota in limits.items()}
            atomic_write(
                self._path, orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
            )
            self._uris, self._ends, self._quotas = uris, ends, limits
            subscribers = list(self._subscribers)
        for callback in subscribers:
            try:
                callback()
            except Exception:  # one subscriber's mistake must not keep the news from the others
                log.exception("a listener for shared addresses failed")


def _filled(table: Mapping[str, Mapping[str, V]]) -> dict[str, dict[str, V]]:
    return {guid: dict(clients) for guid, clients in table.items() if clients}


def _decode(data: bytes) -> tuple[Uris, Ends, Quotas]:
    whole = orjson.loads(data)
    uris: Any = whole.get("uris") if isinstance(whole, dict) else None
    if not isinstance(uris, dict) or not all(isinstance(clients, dict) for clients in uris.values()):
        raise ValueError("it has no table of addresses")
    for clients in uris.values():
        if not all(isinstance(uri, str) and uri for uri in clients.values()):
            raise ValueError("an address is not a text")
    ended: Any = whole.get("ended", {})
    if not isinstance(ended, dict) or not all(isinstance(clients, dict) for clients in ended.values()):
        raise ValueError("it has no table of sessions that ended")
    ends = {guid: {k: _decode_ended(one) for k, one in clients.items()} for guid, clients in ended.items()}
    quotas: Any = whole.get("quotas", {})
    if not isinstance(quotas, dict):
        raise ValueError("it has no table of quotas")
    return uris, ends, {keyid: _decode_quota(entry) for keyid, entry in quotas.items()}


def _decode_quota(entry: Any) -> Quota:
    if not isinstance(entry, dict) or entry.keys() != set(Quota._fields):
        raise ValueError("a quota has bytes and operations")
    quota = Quota(**entry)
    if not all(type(n) is int and 0 <= n <= most for n, most in zip(quota, MOST, strict=True)):
        raise ValueError("a quota is out of range")
    return quota


def _decode_ended(entry: Any) -> Ended:
    if not isinstance(entry, dict) or set(entry) != {"times", "terms"} or not isinstance(entry["terms"], str):
        raise ValueError("what it notes of a session is no such note")
    times = entry["times"]
    if not isinstance(times, int) or isinstance(times, bool) or times < 0:
        raise ValueError("a number of sessions in it is none")
    return Ended(times, entry["terms"])

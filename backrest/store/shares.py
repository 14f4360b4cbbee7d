"""Under which address each client reaches a shared repository, where that is not the hub's own: ``shares.json``.

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
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from backrest import wire
from backrest.store import wholefile
from backrest.store.files import atomic_write, private_dir

log = logging.getLogger(__name__)

Uris = Mapping[str, Mapping[str, str]]  # guid -> key id -> uri


class Shares:
    """The file. Thread-safe; each change is durable when it returns, and told to the subscribers."""

    def __init__(self, path: str | os.PathLike[str], uris: Uris) -> None:
        self._path = os.fspath(path)
        self._uris = uris
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[], None]] = []

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Shares:
        """Absent: nothing. StorageError when it cannot be read; CorruptError when it is damaged: without it clients
        would be sent to addresses that they cannot reach."""
        holds = "the addresses of shared repositories that --uri-for gave"
        return cls(path, wholefile.load(path, _decode, {}, holds=holds))

    def of_repo(self, guid: str) -> Mapping[str, str]:
        """Key id -> address, for the clients that reach this repository under an address of their own."""
        return self._uris.get(guid, {})

    def of_client(self, keyid: str) -> dict[str, str]:
        """Guid -> address, for the repositories that this client reaches under an address of its own."""
        return {guid: clients[keyid] for guid, clients in self._uris.items() if keyid in clients}

    def set(self, guid: str, uris: Mapping[str, str | None]) -> None:
        """Key id -> address for one repository; None takes the address back. StorageError: nothing changed."""
        clients = {**self.of_repo(guid), **uris}
        kept = {keyid: uri for keyid, uri in clients.items() if uri}
        self._replace(lambda old: {**old, guid: kept})

    def prune(self, config: wire.config.Config) -> None:
        """Throw away what is about a repository or a client that is not in ``config``. StorageError."""
        guids = {repo.guid for repo in config.repos if repo.guid}
        keyids = {peer.keyid for peer in config.multihost.authorized_clients}
        self._replace(
            lambda old: {
                guid: {keyid: uri for keyid, uri in clients.items() if keyid in keyids}
                for guid, clients in old.items()
                if guid in guids
            }
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

    def _replace(self, change: Callable[[Uris], Uris]) -> None:
        with self._lock:
            new = {guid: dict(clients) for guid, clients in change(self._uris).items() if clients}
            if new == self._uris:
                return
            private_dir(os.path.dirname(os.path.abspath(self._path)))
            atomic_write(
                self._path,
                orjson.dumps({"uris": new}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
            )
            self._uris = new
            subscribers = list(self._subscribers)
        for callback in subscribers:
            try:
                callback()
            except Exception:  # one subscriber's mistake must not keep the news from the others
                log.exception("a listener for shared addresses failed")


def _decode(data: bytes) -> dict[str, dict[str, str]]:
    whole = orjson.loads(data)
    uris: Any = whole.get("uris") if isinstance(whole, dict) else None
    if not isinstance(uris, dict) or not all(isinstance(clients, dict) for clients in uris.values()):
        raise ValueError("it has no table of addresses")
    for clients in uris.values():
        if not all(isinstance(uri, str) and uri for uri in clients.values()):
            raise ValueError("an address is not a text")
    return uris

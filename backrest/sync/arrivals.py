"""Who was let in, for the audit log: often enough to see from where a client comes, seldom enough to fill no disk.

A client is recorded when it comes for the first time in the life of this process, from another address than last
time, or a day after it was last recorded: so one that reconnects ten times a minute leaves a line a day. A thousand
that come back together are written a few syncs: what queues up during one is written with the next.
"""

from __future__ import annotations

import logging
from typing import Any

import trio

from backrest import wire
from backrest.errors import BackrestError
from backrest.store.audit import AuditLog

log = logging.getLogger("backrest.sync")

AGAIN_S = 24 * 3600.0
ADDRESS_AGAIN_S = 600.0  # a client that hops between addresses, by its own doing or by its provider's

Peer = wire.config.Multihost.Peer


class LetIn:
    """Records the sessions of authorized clients."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._recorded: dict[
            str, tuple[str, float]
        ] = {}  # key id -> address, when; as many as there are clients
        self._due: list[tuple[str, str, dict[str, Any]]] = []
        self._more = trio.Event()

    def note(self, entry: Peer, address: str) -> None:
        """This client was let in just now."""
        now = trio.current_time()
        before = self._recorded.get(entry.keyid)
        if before is not None:
            wait = AGAIN_S if before[0] == address else ADDRESS_AGAIN_S
            if now - before[1] < wait:
                return
        self._recorded[entry.keyid] = (address, now)
        fields = {"keyid": entry.keyid, "instance": entry.instance_id, "address": address}
        self._due.append((entry.keyid, "let-in", fields))
        self._more.set()

    async def run(self) -> None:
        """The task that writes what was noted, until cancelled: then what is left, too."""
        try:
            while True:
                await self._more.wait()
                await self._write()
        finally:
            await self._write()

    async def _write(self) -> None:
        """A full disk ends no session."""
        self._more = trio.Event()
        due, self._due = self._due, []
        if not due:
            return
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(self._audit.append_for, due)
            except BackrestError as error:
                log.error("the audit log could not record who was let in: %s", error)

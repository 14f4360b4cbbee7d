"""The known hosts of the configuration, each with one task of its own: started, restarted and ended as it changes.

A change concerns only the hosts whose terms it touches; the others' sessions go on. A machine that slept finds every
session doubtful, and dials anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from backrest import wire
from backrest.protocol.session import Limits
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.removal import ParkedPlans
from backrest.store.waiting import WaitingRepos
from backrest.sync.client import LONGEST_WAIT_S, Dial, KnownHost, Peer
from backrest.sync.watch import ConfigWatch

log = logging.getLogger("backrest.sync")

LEAVE_S = (
    3.0  # for what a session still has to say; with the goodbye 4 s, of SIGTERM's 5 (DESIGN.md, Process)
)
SLEEP_CHECK_S = 5.0
SLEEP_JUMP_S = (
    30.0  # the wall clock this far ahead of the monotonic one: the machine slept (or its clock was set)
)


@dataclass(slots=True)
class _Running:
    terms: bytes
    host: KnownHost
    secret: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)


class Clients:
    """Keeps one KnownHost running for each known host of the configuration, restarting only those concerned by a
    change, and never two for one."""

    def __init__(
        self,
        *,
        config: ConfigStore,
        watch: ConfigWatch,
        oplog: OpLog,
        peers: PeerStore,
        audit: AuditLog,
        dial: Dial,
        parked: ParkedPlans | None = None,
        waiting_repos: WaitingRepos | None = None,
        pushes: PushQueue | None = None,
        limits: Limits | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._parts = {
            "config": config,
            "watch": watch,
            "oplog": oplog,
            "peers": peers,
            "audit": audit,
            "dial": dial,
            "parked": parked,
            "waiting_repos": waiting_repos,
            "pushes": pushes,
            "limits": limits,
            "wall": wall,
        }
        self._watch = watch
        self._peers = peers
        self._wall = wall
        self._running: dict[str, _Running] = {}
        self._following = trio.CancelScope()

    async def run(self) -> None:
        """Until cancelled, or stopped: then every session has said goodbye, or had LEAVE_S for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_sleep)
            with self._following:
                while True:
                    config = self._watch.current
                    await self._settle(config, nursery)
                    await self._watch.changed(config)
            async with trio.open_nursery() as leaving:
                for running in self._running.values():
                    leaving.start_soon(_leave, running)
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let ``run`` end every session as sessions end, and return."""
        self._following.cancel()

    async def _settle(self, config: wire.config.Config, nursery: trio.Nursery) -> None:
        wanted = {entry.keyid: entry for entry in config.multihost.known_hosts}
        ending = []
        for keyid, running in tuple(self._running.items()):
            if keyid not in wanted or _terms(config, wanted[keyid]) != running.terms:
                ending.append(keyid)
        async with trio.open_nursery() as leaving:
            for keyid in ending:
                leaving.start_soon(_leave, self._running[keyid])
        for keyid in ending:
            del self._running[keyid]
            if keyid not in wanted:
                self._peers.remove(keyid)
        for keyid, entry in wanted.items():
            running_now = self._running.get(keyid)
            if running_now is None:
                host = KnownHost(entry, **self._parts)  # type: ignore[arg-type]
                running_now = self._running[keyid] = _Running(_terms(config, entry), host)
                nursery.start_soon(self._keep, running_now)
            elif entry.initial_pairing_secret and entry.initial_pairing_secret != running_now.secret:
                running_now.host.nudge()  # a new token: try it now, not when the backoff is over
            running_now.secret = entry.initial_pairing_secret

    async def _keep(self, running: _Running) -> None:
        try:
            with running.scope:
                while True:
                    try:
                        await running.host.run()
                        return
                    except Exception:
                        # A mistake of ours in one peer's session is that peer's trouble only.
                        log.exception(
                            "the session with a known host failed: this is a mistake in this program"
                        )
                        await trio.sleep(LONGEST_WAIT_S)
        finally:
            running.done.set()

    async def _watch_for_sleep(self) -> None:
        """A machine that was suspended finds its wall clock ahead of its monotonic one."""
        offset = self._wall() - trio.current_time()
        while True:
            await trio.sleep(SLEEP_CHECK_S)
            now = self._wall() - trio.current_time()
            if now - offset > SLEEP_JUMP_S:
                log.info("the machine was asleep for about %.0f s: reconnecting", now - offset)
                for running in self._running.values():
                    running.host.woke()
            offset = now


def _terms(config: wire.config.Config, entry: Peer) -> bytes:
    """Everything of the configuration that a session with ``entry`` stands on, as bytes to compare."""
    copy = Peer()
    copy.CopyFrom(entry)
    copy.ClearField(
        "initial_pairing_secret"
    )  # clearing it is part of the session; adding one nudges the next dial
    identity = config.multihost.identity.SerializeToString(deterministic=True)
    return b"\0".join((copy.SerializeToString(deterministic=True), identity, config.instance.encode()))


async def _leave(running: _Running) -> None:
    running.host.stop()
    with trio.move_on_after(LEAVE_S):
        await running.done.wait()
    running.scope.cancel()
    await running.done.wait()

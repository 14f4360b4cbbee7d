"""This instance as a client: one task for each known host, which dials, keeps the session, and comes back.

States and waiting times are those of PROTOCOL.md section 5 (**Ours**): exponential backoff with full jitter, 1 s to
5 min, never more than ten attempts a minute; at once after a GOAWAY or when the machine woke up. Nothing that a hub
does makes a client give up.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.net.dial import NetError, rpc_url
from backrest.net.duplex import open_stream
from backrest.protocol.session import Limits, Role, Session
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.removal import ParkedPlans
from backrest.sync.link import Link, Stream
from backrest.sync.offers import write_push
from backrest.sync.outbound import Outbound
from backrest.sync.pushing import FEATURES, record
from backrest.sync.watch import ConfigWatch

log = logging.getLogger("backrest.sync")

SYNC_PATH = "/v1sync.BackrestSyncService/Sync"
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
GOOD_SESSION_S = 60.0  # a session that lived this long starts the backoff anew
ATTEMPTS_A_MINUTE = 10
PAIRING_RETRIES = (
    3  # the reference hub refuses the first session after a pairing that worked (PROTOCOL.md section 4)
)
PAIRING_RETRY_S = 1.0
# What the hub that we paired with never does: another key, a forged signature, records that do not open.
IMPOSTURE = (Fault.FRAMING, Fault.KEM, Fault.RECORD, Fault.HANDSHAKE, Fault.REFUSED)
GOODBYE_S = 1.0  # a hub that takes nothing does not hold us up
LEAVE_S = (
    3.0  # for what a session still has to say; with the goodbye 4 s, of SIGTERM's 5 (DESIGN.md, Process)
)
SLEEP_CHECK_S = 5.0
SLEEP_JUMP_S = (
    30.0  # the wall clock this far ahead of the monotonic one: the machine slept (or its clock was set)
)

Peer = wire.config.Multihost.Peer
Dial = Callable[[str], AbstractAsyncContextManager["OutboundStream"]]
State = wire.sync.ConnectionState


class OutboundStream(Stream, Protocol):
    """What a client needs besides the bytes (net.duplex.DuplexStream has it)."""

    async def end(self) -> None: ...

    @property
    def goaway(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. ``lived`` is how long the session was established, in seconds, 0 when it never was."""

    state: State
    message: str
    lived: float = 0.0
    at_once: bool = False
    refused: bool = False


def dialer(ca_file: str | None = None) -> Dial:
    """Dials the sync path of a hub's URL over HTTP/2."""

    @asynccontextmanager
    async def dial(url: str) -> AsyncIterator[OutboundStream]:
        headers = {"content-type": "application/connect+proto", "connect-protocol-version": "1"}
        async with open_stream(rpc_url(url, SYNC_PATH), headers=headers, ca_file=ca_file) as stream:
            yield stream

    return dial


class KnownHost:
    """One known host, under the terms of ``entry`` and our identity as they are now."""

    def __init__(
        self,
        entry: Peer,
        *,
        config: ConfigStore,
        watch: ConfigWatch,
        oplog: OpLog,
        peers: PeerStore,
        audit: AuditLog,
        dial: Dial,
        parked: ParkedPlans | None = None,
        pushes: PushQueue | None = None,
        limits: Limits | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.keyid = entry.keyid
        self._entry = entry
        self._config = config
        self._watch = watch
        self._oplog = oplog
        self._peers = peers
        self._audit = audit
        self._parked = parked
        self._pushes = pushes
        self._suspicion = ""  # the last that was recorded
        self._dial = dial
        self._limits = limits or Limits()
        self._jitter = jitter
        self._link: Link | None = None
        self._attempts: deque[float] = deque()
        self._nudge = trio.Event()
        self._woke = False
        self._stopped = False
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        """Dial, again and again, until cancelled or stopped. May be called again when it raised."""
        try:
            if not self._stopped:
                with trio.CancelScope() as self._waiting:
                    await self._keep_dialling()
        finally:
            if self._stopped:  # also when the goodbye took too long, and was cut short
                self._update(wire.sync.CONNECTION_STATE_DISCONNECTED, "")

    def stop(self) -> None:
        """Let ``run`` return. A session says goodbye first, so that the hub sees an end and not an accident; a dial
        or a wait is given up."""
        self._stopped = True
        if self._link is not None:
            self._link.end()
        else:
            self._waiting.cancel()

    async def _keep_dialling(self) -> None:
        failures = 0
        refusals = 0
        while True:
            await self._within_rate()
            outcome = await self.attempt()
            if self._stopped:
                return
            if outcome.lived >= GOOD_SESSION_S:
                failures = 0
            if outcome.at_once and outcome.lived:
                wait = 0.0  # a proxy that was reloaded is not a failure of the hub, and does not lengthen the backoff
                self._show(outcome, wait)
                continue
            failures += 1
            if outcome.lived:
                refusals = 0
            if outcome.at_once and failures == 1:
                wait = 0.0
            elif outcome.refused and self._secret() and refusals < PAIRING_RETRIES:
                refusals += 1
                wait = PAIRING_RETRY_S
            else:
                wait = self._backoff(failures)
            self._show(outcome, wait)
            self._nudge = trio.Event()
            with trio.move_on_after(wait):
                await self._nudge.wait()
                failures = 0

    def _backoff(self, failures: int) -> float:
        ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures, 16))
        return max(FIRST_WAIT_S, self._jitter(0.0, ceiling))

    async def _within_rate(self) -> None:
        now = trio.current_time()
        while self._attempts and self._attempts[0] <= now - 60:
            self._attempts.popleft()
        if len(self._attempts) >= ATTEMPTS_A_MINUTE:
            await trio.sleep_until(self._attempts[0] + 60)
            self._attempts.popleft()
        self._attempts.append(trio.current_time())

    def nudge(self) -> None:
        """Waiting is over: something changed that may make the next attempt succeed."""
        self._nudge.set()

    def woke(self) -> None:
        """The machine slept: what was connected is probably dead without knowing it, and waiting is over."""
        self._woke = True
        self._nudge.set()
        if self._link is not None:
            self._link.end(PeerError(Fault.ENDED, Code.UNAVAILABLE, "the machine was asleep"))

    async def attempt(self, *, until_established: bool = False) -> Outcome:
        """One dial and, if it succeeds, its whole session. ``until_established`` ends it when the hub let us in."""
        started = trio.current_time()
        established = math.nan
        self._woke = False
        config = self._watch.current
        try:
            if not config.instance:
                raise ValueError("this instance has no id")
            identity = Identity.from_proto(config.multihost.identity)
        except ValueError as problem:
            return Outcome(wire.sync.CONNECTION_STATE_ERROR_INTERNAL, f"{problem}: run 'backrest init'")
        session = Session(
            Role.CLIENT,
            identity=identity,
            instance_id=config.instance,
            now=started,
            pairing_secret=self._secret(),
            expected_keyid=self._entry.keyid,
            expected_instance_id=self._entry.instance_id,
            limits=self._limits,
            features=FEATURES,
        )

        async def on_established() -> None:
            nonlocal established
            established = trio.current_time()
            await self._connected()
            if until_established:
                link.end()

        self._update(wire.sync.CONNECTION_STATE_PENDING, "")
        error: BackrestError = PeerError(Fault.ENDED, Code.UNAVAILABLE, "the hub ended the session")
        goaway = False
        try:
            async with self._dial(self._entry.instance_url) as stream:
                self._link = link = Link(session, stream)
                outbound = Outbound(
                    link,
                    self._entry,
                    watch=self._watch,
                    oplog=self._oplog,
                    peers=self._peers,
                    write=partial(
                        write_push, self._config, self._parked, self._audit, self._entry.instance_id
                    ),
                    on_established=on_established,
                    queue=self._pushes,
                    record=partial(record, self._audit),
                )
                try:
                    await link.run(outbound.handle)
                finally:
                    await _say_goodbye(stream)
                    goaway = stream.goaway
        except BackrestError as refused:
            error = refused
        except OSError as broken:
            error = PeerError(Fault.ENDED, Code.UNAVAILABLE, f"the connection broke off: {broken}")
        finally:
            self._link = None
        if isinstance(error, PeerError) and error.fault in IMPOSTURE:
            await self._suspect(str(error))
        lived = 0.0 if math.isnan(established) else max(trio.current_time() - established, 0.001)
        # A proxy that is reloaded may end the stream in good order first, and announce its end right behind.
        if isinstance(error, PeerError) and (error.fault, error.code) != (Fault.ENDED, Code.UNAVAILABLE):
            goaway = False  # the hub ended it for a reason of its own, which is still there
        return _outcome(error, lived, self._woke or goaway)

    async def _suspect(self, reason: str) -> None:
        """Record that what answers at the hub's address is not the hub; once, not at each attempt."""
        if reason == self._suspicion:
            return
        self._suspicion = reason
        fields = {"keyid": self.keyid, "instance": self._entry.instance_id, "reason": reason}
        await trio.to_thread.run_sync(
            lambda: self._audit.append("hub-refused", address=self._entry.instance_url, **fields)
        )

    async def _connected(self) -> None:
        """The hub has let us in: show it, and forget the pairing secret, which has done its work."""
        now_ms = int(time.time() * 1000)
        self._update(wire.sync.CONNECTION_STATE_CONNECTED, "", last_heartbeat_ms=now_ms, warnings=())
        log.info("connected to %s at %s", self._entry.instance_id, self._entry.instance_url)
        if self._secret():
            try:
                await trio.to_thread.run_sync(self._config.transform, self._forget_secret)
            except (
                BackrestError
            ) as error:  # a full disk: the session is good all the same, and the next one tries again
                log.error("the pairing secret for %s was not cleared: %s", self._entry.instance_id, error)

    def _forget_secret(self, config: wire.config.Config) -> bool:
        for entry in config.multihost.known_hosts:
            if entry.keyid == self.keyid and entry.initial_pairing_secret:
                entry.initial_pairing_secret = ""
                return True
        return False

    def _secret(self) -> str:
        """As it is now: a token may be added to a known host at any time."""
        for entry in self._watch.current.multihost.known_hosts:
            if entry.keyid == self.keyid:
                return entry.initial_pairing_secret
        return ""

    def _show(self, outcome: Outcome, wait: float) -> None:
        state = outcome.state
        if state == wire.sync.CONNECTION_STATE_DISCONNECTED and wait:
            state = wire.sync.CONNECTION_STATE_RETRY_WAIT
        log.info("%s: %s; next try in %.0f s", self._entry.instance_id, outcome.message, wait)
        self._update(state, outcome.message, next_try_ms=int((time.time() + wait) * 1000))

    def _update(self, state: State, message: str, **fields: object) -> None:
        self._peers.update(
            self.keyid,
            instance_id=self._entry.instance_id,
            role="host",
            state=state,
            message=message,
            since_ms=int(time.time() * 1000),
            **{"next_try_ms": 0, **fields},
        )


async def _leave(running: _Running) -> None:
    running.host.stop()
    with trio.move_on_after(LEAVE_S):
        await running.done.wait()
    running.scope.cancel()
    await running.done.wait()


async def _say_goodbye(stream: OutboundStream) -> None:
    """END_STREAM, so that the hub sees an end and not an accident; also when we are being cancelled."""
    with trio.move_on_after(GOODBYE_S, shield=True), suppress(OSError, BackrestError):
        await stream.end()
        while (
            await stream.receive()
        ):  # until it has ended its side: closing before would cut off what it reads
            pass


def _outcome(error: BackrestError, lived: float, woke: bool) -> Outcome:
    """What to show for how a session ended, and how soon to come back."""
    if isinstance(error, NetError):
        return Outcome(
            wire.sync.CONNECTION_STATE_DISCONNECTED, str(error), lived, at_once=error.retry_at_once or woke
        )
    if not isinstance(error, PeerError):
        return Outcome(wire.sync.CONNECTION_STATE_ERROR_INTERNAL, str(error), lived)
    message = str(error)
    state: State = wire.sync.CONNECTION_STATE_DISCONNECTED
    refused = False
    if error.fault is Fault.ENDED and error.code is Code.PERMISSION_DENIED:
        state, message, refused = wire.sync.CONNECTION_STATE_ERROR_AUTH, f"the hub refuses: {message}", True
    elif error.fault in (Fault.HANDSHAKE, Fault.REFUSED):
        state = wire.sync.CONNECTION_STATE_ERROR_AUTH
    elif error.fault is Fault.ENDED and error.code is Code.INVALID_ARGUMENT:
        state, message = (
            wire.sync.CONNECTION_STATE_ERROR_PROTOCOL,
            f"the hub refuses what was sent: {message}",
        )
    elif error.fault in (Fault.FRAMING, Fault.KEM, Fault.RECORD, Fault.ITEM):
        state = wire.sync.CONNECTION_STATE_ERROR_PROTOCOL
    elif error.fault is Fault.TIMEOUT and not lived:
        message += ": what is there does not answer as a hub does, or a proxy holds the stream back"
    return Outcome(state, message, lived, at_once=woke, refused=refused)


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
            "pushes": pushes,
            "limits": limits,
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


async def pair_once(
    entry: Peer,
    *,
    config: ConfigStore,
    oplog: OpLog,
    peers: PeerStore,
    audit: AuditLog,
    dial: Dial | None = None,
) -> Outcome:
    """Dial a known host until it lets us in or clearly refuses, for a command without a daemon.

    Returns the outcome of the last attempt: ``lived`` is over 0 when the hub let us in.
    """
    watch = ConfigWatch(config)
    with watch.running():
        host = KnownHost(
            entry,
            config=config,
            watch=watch,
            oplog=oplog,
            peers=peers,
            audit=audit,
            dial=dial or dialer(),
        )
        for attempt in range(1 + PAIRING_RETRIES):
            if attempt:
                await trio.sleep(PAIRING_RETRY_S)
            outcome = await host.attempt(until_established=True)
            if outcome.lived or not outcome.refused:
                break
        return outcome

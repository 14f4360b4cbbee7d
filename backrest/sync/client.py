"""One known host: dialled, kept in session, and come back to, for as long as it is known.

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
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
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
from backrest.store.waiting import WaitingRepos
from backrest.sync import clocks
from backrest.sync.link import Link, Stream
from backrest.sync.offers import write_push
from backrest.sync.outbound import Outbound
from backrest.sync.outcome import Outcome, State, outcome_of
from backrest.sync.pushing import FEATURES, Recorder
from backrest.sync.twins import Names, announced
from backrest.sync.watch import ConfigWatch
from backrest.sync.withheld import Withheld

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
PAIRING = "paired, or about to be: waiting for the hub to let this machine in"
# What the hub that we paired with never does: another key, a forged signature, records that do not open.
IMPOSTURE = (Fault.FRAMING, Fault.KEM, Fault.RECORD, Fault.HANDSHAKE, Fault.REFUSED)
GOODBYE_S = 1.0  # a hub that takes nothing does not hold us up

Peer = wire.config.Multihost.Peer
Dial = Callable[[str], AbstractAsyncContextManager["OutboundStream"]]


class OutboundStream(Stream, Protocol):
    """What a client needs besides the bytes (net.duplex.DuplexStream has it)."""

    async def end(self) -> None: ...

    @property
    def goaway(self) -> bool: ...

    @property
    def response_headers(self) -> Mapping[str, str]: ...


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
        waiting_repos: WaitingRepos | None = None,
        pushes: PushQueue | None = None,
        limits: Limits | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
        trial: bool = False,
        names: PeerStore | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``trial``: the entry is not in the configuration, and its pairing secret counts as it is. ``names``: where
        our sessions' names are, if not in ``peers``."""
        self.keyid = entry.keyid
        self._trial = trial
        self._entry = entry
        self._config = config
        self._watch = watch
        self._oplog = oplog
        self._peers = peers
        self._audit = audit
        self._parked = parked
        self._waiting_repos = waiting_repos
        self._pushes = pushes
        self._record = Recorder(audit)
        self._withheld = Withheld(entry.keyid, peers, oplog)
        self._wall = wall
        self._names = Names(names or peers, entry.keyid)
        self._suspicion = ""  # the last that was recorded
        self._dial = dial
        self._limits = limits or Limits()
        self._jitter = jitter
        self._link: Link | None = None
        self._attempts: deque[float] = deque()
        self._nudge = trio.Event()
        self._woke = False
        self._stopped = False
        self._failure = (
            ""  # why the last attempt did not last; it stays to be read when nobody dials any more
        )
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        """Dial, again and again, until cancelled or stopped. May be called again when it raised."""
        try:
            if not self._stopped:
                with trio.CancelScope() as self._waiting:
                    await self._keep_dialling()
        finally:
            if self._stopped:  # also when the goodbye took too long, and was cut short
                self._update(wire.sync.CONNECTION_STATE_DISCONNECTED, self._failure)

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
                # a proxy that was reloaded is not a failure of the hub, and does not lengthen the backoff
                self._show(outcome, self._rate_wait())
                continue
            failures += 1
            if outcome.lived:
                refusals = 0
            pairing = outcome.refused and bool(self._secret()) and refusals < PAIRING_RETRIES
            if outcome.at_once and failures == 1:
                wait = 0.0
            elif pairing:
                refusals += 1
                wait = PAIRING_RETRY_S
                if not outcome.ours:  # what the reference says after a pairing that worked is no refusal yet
                    outcome = replace(outcome, state=wire.sync.CONNECTION_STATE_DISCONNECTED, message=PAIRING)
            else:
                wait = self._backoff(failures)
            self._show(outcome, max(wait, self._rate_wait()))
            self._nudge = trio.Event()
            with trio.move_on_after(wait):
                await self._nudge.wait()
                failures = 0
                if rest := self._rate_wait():
                    self._show(outcome, rest)

    def _backoff(self, failures: int) -> float:
        ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures, 16))
        return max(FIRST_WAIT_S, self._jitter(0.0, ceiling))

    def _rate_wait(self) -> float:
        """Seconds until one more attempt is within the rate."""
        now = trio.current_time()
        while self._attempts and self._attempts[0] <= now - 60:
            self._attempts.popleft()
        return self._attempts[0] + 60 - now if len(self._attempts) >= ATTEMPTS_A_MINUTE else 0.0

    async def _within_rate(self) -> None:
        await trio.sleep(self._rate_wait())
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
            features=(*FEATURES, clocks.announced(self._wall()), *announced(await self._names.of_next())),
        )

        async def on_established() -> None:
            nonlocal established
            established = trio.current_time()
            theirs = () if session.peer is None else session.peer.features
            await self._connected(clocks.skew(theirs, stream.response_headers, self._wall()))
            if until_established:
                link.end()

        self._update(wire.sync.CONNECTION_STATE_PENDING, "")
        error: BackrestError = PeerError(Fault.ENDED, Code.UNAVAILABLE, "the hub ended the session")
        goaway = clean = lost = absent = False
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
                    record=self._record,
                    waiting=self._waiting_repos,
                    withheld=self._withheld,
                )
                try:
                    await link.run(outbound.handle)
                finally:
                    clean = link.ended_clean
                    await _say_goodbye(stream)
                    goaway = stream.goaway
        except BackrestError as refused:
            error = refused
            absent = isinstance(refused, NetError) and refused.absent
            lost = isinstance(refused, NetError) or (
                isinstance(refused, PeerError)
                and (refused.fault, refused.code) == (Fault.ENDED, Code.UNAVAILABLE)
            )
        except OSError as broken:
            absent, lost = isinstance(broken, ConnectionRefusedError), True
            error = PeerError(Fault.ENDED, Code.UNAVAILABLE, f"the connection broke off: {broken}")
        finally:
            self._link = None
            self._withheld.ended(clean=clean, lost=lost, absent=absent)
        if session.peer is not None:
            self._names.sent()
        if isinstance(error, PeerError) and error.fault in IMPOSTURE:
            await self._suspect(str(error))
        lived = 0.0 if math.isnan(established) else max(trio.current_time() - established, 0.001)
        # A proxy that is reloaded may end the stream in good order first, and announce its end right behind.
        if isinstance(error, PeerError) and (error.fault, error.code) != (Fault.ENDED, Code.UNAVAILABLE):
            goaway = False  # the hub ended it for a reason of its own, which is still there
        ours = session.peer is not None and bool(session.peer.features)
        return replace(outcome_of(error, lived, self._woke or goaway), ours=ours)

    async def _suspect(self, reason: str) -> None:
        """Record that what answers at the hub's address is not the hub; once, not at each attempt."""
        if reason == self._suspicion:
            return
        self._suspicion = reason
        fields = {"keyid": self.keyid, "instance": self._entry.instance_id, "reason": reason}
        fields["address"] = self._entry.instance_url
        await trio.to_thread.run_sync(self._audit.append_for, [(self.keyid, "hub-refused", fields)])

    async def _connected(self, clock_s: int) -> None:
        """The hub has let us in: show it, and forget the pairing secret, which has done its work."""
        now_ms = int(time.time() * 1000)
        self._failure = ""
        self._update(
            wire.sync.CONNECTION_STATE_CONNECTED,
            "",
            last_heartbeat_ms=now_ms,
            warnings=(),
            clock_s=clock_s,
        )
        log.info("connected to %s at %s", self._entry.instance_id, self._entry.instance_url)
        if self._secret() and not self._trial:
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
        if self._trial:
            return self._entry.initial_pairing_secret
        for entry in self._watch.current.multihost.known_hosts:
            if entry.keyid == self.keyid:
                return entry.initial_pairing_secret
        return ""

    def _show(self, outcome: Outcome, wait: float) -> None:
        state, self._failure = outcome.state, outcome.message
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


async def _say_goodbye(stream: OutboundStream) -> None:
    """END_STREAM, so that the hub sees an end and not an accident; also when we are being cancelled."""
    with trio.move_on_after(GOODBYE_S, shield=True), suppress(OSError, BackrestError):
        await stream.end()
        while (
            await stream.receive()
        ):  # until it has ended its side: closing before would cut off what it reads
            pass


async def pair_once(
    entry: Peer,
    *,
    config: ConfigStore,
    oplog: OpLog,
    peers: PeerStore,
    audit: AuditLog,
    dial: Dial | None = None,
    trial: bool = False,
    names: PeerStore | None = None,
) -> Outcome:
    """Dial a known host until it lets us in or clearly refuses, for a command without a daemon; or, as a ``trial``, one
    that is to be known.

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
            trial=trial,
            names=names,
        )
        for attempt in range(1 + PAIRING_RETRIES):
            if attempt:
                await trio.sleep(PAIRING_RETRY_S)
            outcome = await host.attempt(until_established=True)
            if outcome.lived or not outcome.refused:
                break
        return outcome

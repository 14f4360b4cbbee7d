"""The hub: who is let in, pairing, and the live sessions, one for each client.

A stream passes the gate, proves who it is within its 15 s, is let in, paired or refused, and then belongs to an
Inbound. A failure in one session ends that session. Facts: PROTOCOL.md sections 3 to 5.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, Protocol

import trio

from backrest import wire
from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.net.address import client_address, limit_key
from backrest.protocol import events, framing
from backrest.protocol.session import Limits, Role, Session
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.daysums import STRANGER
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.quota import DEFAULT, Quota
from backrest.store.shares import Shares
from backrest.sync import clocks, pairing
from backrest.sync.arrivals import LetIn
from backrest.sync.gate import LAST_WORDS_S, AtTheGate, FailureLimit, Gate, Reasons
from backrest.sync.inbound import Inbound
from backrest.sync.leftout import LeftOut
from backrest.sync.link import GOODBYE_S, Link, Stream
from backrest.sync.pushing import FEATURES, Recorder
from backrest.sync.twins import Twins, named
from backrest.sync.watch import ConfigWatch, Subscribe, Watch

log = logging.getLogger("backrest.sync")

STALLED_AFTER_S = 600.0  # a client that reads nothing for this long is ended (DESIGN.md, Limits)
REFUSALS_AUDITED = 100  # a minute: strangers must not be able to fill the disk with their refusals
PRUNE_EVERY_S = 600.0  # a token that expired lets nobody in: this is tidying
REFUSALS_LOGGED = 100  # a minute: nor with the log's lines

_NOT_AUTHORIZED = (
    "this client is not authorized on the hub: pair it with a token. If its identity was replaced, remove it on the "
    "hub first, with 'backrest client remove'"
)
_DISPLACED = "displaced by a newer session of this client"
_TOO_MANY = "too many failed pairings: try again in a minute"
# How the reference client's HTTP names itself. It drops its pairing secret when it sees our handshake, and dials again
# at once: it sees it when it is paired, and not at all when it is refused (PROTOCOL.md section 4).
_REFERENCE_AGENT = "connect-go/"

# What an honest peer never does: garbage, a man in the middle, a replay, a reflection, a forged signature.
_ATTACKS = (Fault.FRAMING, Fault.KEM, Fault.RECORD, Fault.HANDSHAKE)

Config = wire.config.Config
Peer = wire.config.Multihost.Peer


class InboundStream(Stream, Protocol):
    """What the hub needs to know of an HTTP stream besides its bytes (net.connect.ConnectStream has it)."""

    @property
    def codec(self) -> str: ...
    @property
    def encoding(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def let_in(self) -> None:
        """Its peer is known: it is no stranger any more."""


class Hub:
    """Serves the sync streams of this instance's authorized clients."""

    def __init__(
        self,
        *,
        config: ConfigStore,
        oplog: OpLog,
        peers: PeerStore,
        audit: AuditLog,
        watch: ConfigWatch,
        shares: Shares | None = None,
        pushes: PushQueue | None = None,
        limits: Limits | None = None,
        trusted_proxies: Sequence[str] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.oplog = oplog
        self.peers = peers
        self.watch = watch
        self.shares = shares
        self.pushes = pushes
        self.record = Recorder(audit)
        self._config = config
        self._audit = audit
        self._limits = limits or Limits()
        self._trusted = trusted_proxies
        self._wall = wall
        self._gate = Gate()
        self._failures = FailureLimit()
        self._refusals = FailureLimit(per_address=REFUSALS_AUDITED, total=REFUSALS_AUDITED)
        self._unrecorded = 0
        self._logged = FailureLimit(per_address=REFUSALS_LOGGED, total=REFUSALS_LOGGED)
        self._let_in = LetIn(audit)
        self._twins = Twins(peers, self.record, wall)
        self._live: dict[str, Inbound] = {}
        self._namesakes: dict[str, tuple[int, float]] = {}
        self._links: set[Link] = set()
        self._numbers = count()  # of the streams, in the order in which they were opened: the newest wins
        self._storing: dict[str, trio.Lock] = {}
        self._left_out: dict[str, LeftOut] = {}
        self._compacting = trio.Lock()
        self.comparing = trio.Lock()  # of large manifests
        self._refused: dict[str, tuple[bytes, dict[int, int]]] = {}
        self._pairing: dict[str, trio.Event] = {}  # by key id: set when it is settled
        self._reasons = Reasons()

    async def run(self) -> None:
        """What is done once for all sessions, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_config)
            nursery.start_soon(self._let_in.run)
            if self.shares is not None:
                nursery.start_soon(self._follow, self.shares.subscribe, Inbound.shares_changed)
            if self.pushes is not None:
                nursery.start_soon(self._follow, self.pushes.subscribe, Inbound.pushes_changed)

    async def serve(self, stream: InboundStream) -> None:
        """Handle one stream from its opening to its end; never raises for what the other side does."""
        address = client_address(stream.client, stream.headers, self._trusted)
        opened = trio.current_time()
        number = next(self._numbers)
        until = opened + self._limits.handshake_s - LAST_WORDS_S
        with AtTheGate(stream, self._gate, limit_key(address), until) as waiting:
            await self._serve(stream, address, opened, number, waiting)

    async def _serve(
        self, stream: InboundStream, address: str, opened: float, number: int, waiting: AtTheGate
    ) -> None:
        config = self.watch.current
        try:
            identity = self.watch.identity
        except ValueError:
            log.error(
                "no sync session can be served: this instance has no valid identity ('backrest init' makes one)"
            )
            await _turn_away(stream, Code.PERMISSION_DENIED, "this hub has no identity yet")
            return
        session = Session(
            Role.HUB,
            identity=identity,
            instance_id=config.instance,
            now=opened,
            codec="json" if stream.codec == "json" else "proto",
            encoding="gzip" if stream.encoding == "gzip" else "identity",
            limits=self._limits,
            features=(*FEATURES, clocks.announced(self._wall())),
            hold=stream.headers.get("user-agent", "").startswith(_REFERENCE_AGENT),
        )
        link = Link(session, waiting, stalled_after=STALLED_AFTER_S)
        client: Inbound | None = None

        async def handle(event: events.Event) -> None:
            nonlocal client
            if isinstance(event, events.PeerIdentified):
                entry = await self._identify(event, address)
                waiting.pass_on()
                mixed = await self._twins.judge(event, address, self._live.get(entry.keyid))
                if not self.authorizes(entry):  # changed since it was looked up or paired
                    changed = pairing.refusal("this client's entry on the hub was changed this very moment")
                    raise await self._refuse(event, address, changed)
                newest = self._live.get(entry.keyid)
                if (
                    newest is not None and newest.number > number
                ):  # it paired, and did not wait for the end of it
                    raise PeerError(Fault.ENDED, Code.INTERNAL, _DISPLACED)
                kept = session.accept()
                stream.let_in()
                client = Inbound(self, link, entry, number, mixed=mixed)
                self._arrived(client, entry, address, event.features, mixed)
                self._let_in.note(entry, address)
                link.flush()
                for early in kept:
                    await client.handle(early)
            elif client is not None:
                await client.handle(event)

        error: BackrestError | None = None
        self._links.add(link)
        try:
            await link.run(handle)
        except BackrestError as problem:
            error = problem.with_traceback(None)  # which holds this frame, and all that the session was
        finally:
            self._links.discard(link)
            if client is not None:
                self._left(client, error)
        if isinstance(error, PeerError) and error.fault in _ATTACKS:
            await self._record_refusal(session.peer, address, error)
        now = trio.current_time()
        if error is not None and client is None and not self._logged.refused("", now):
            self._logged.failed("", now)
            log.info(
                "a stream from %s ended before its peer was let in: %s", address or "the local socket", error
            )

    async def prune_tokens(self) -> None:
        """Drop expired tokens, also where nobody makes a new one (W-47). Until cancelled."""
        while True:
            now, labels = int(self._wall()), list[str]()

            def change(config: Config, now: int = now, labels: list[str] = labels) -> bool:
                labels[:] = pairing.prune_tokens(config, now)
                return bool(labels)

            if pairing.prunable(self.watch.current, now):
                try:
                    await trio.to_thread.run_sync(self._config.transform, change)
                except BackrestError as error:  # it is tried again
                    log.error("expired pairing tokens could not be dropped: %s", error)
                else:
                    await self.record("tokens-pruned", labels=labels)
            await trio.sleep(PRUNE_EVERY_S)

    def namesakes(self) -> dict[str, tuple[int, float]]:
        """By the key id of a client that was not there: how often somebody with its name and another key was refused
        since it was last let in, and when last (Unix time). Its identity was replaced, or a stranger uses its name."""
        return {keyid: seen for keyid, seen in self._namesakes.copy().items() if keyid in self.watch.clients}

    def end_all(self, message: str) -> None:
        """End every session, known or not, with ``message``."""
        for link in tuple(self._links):
            link.end(code=Code.UNAVAILABLE, message=message)

    async def _identify(self, peer: events.PeerIdentified, address: str) -> Peer:
        """Our entry for a peer that proved its key; raises PeerError when it is not let in."""
        # Its pairing may be under way on another stream: the reference client does not wait for the end of it.
        while (pairing_of_it := self._pairing.get(peer.keyid)) is not None:
            await pairing_of_it.wait()
        config = self.watch.current
        entry = self.watch.clients.get(peer.keyid)
        if entry is not None:
            if entry.instance_id == peer.instance_id:
                return entry
            raise await self._refuse(
                peer,
                address,
                pairing.refusal(
                    f"this key is authorized as {entry.instance_id!r}, not as {peer.instance_id!r}: "
                    "a client whose instance id was changed must be removed on the hub and paired again"
                ),
            )
        for known in config.multihost.authorized_clients:
            if known.instance_id == peer.instance_id and known.keyid not in self._live:
                # Anybody can claim a name: nothing of the client changes by it, and what is kept is a number.
                count, _ = self._namesakes.get(known.keyid, (0, 0.0))
                self._namesakes[known.keyid] = (count + 1, self._wall())
        if not peer.pairing_secret:
            earlier = self._reasons.last(peer.keyid, trio.current_time())
            raise await self._refuse(peer, address, pairing.refusal(earlier or _NOT_AUTHORIZED))
        # The secret is looked at first, and only who has none of ours is limited: 256 random bits cannot be guessed,
        # limit or not, and a limit that came first would let ten strangers keep everybody from pairing. What it
        # protects is the audit log, the disk under it, and a short secret that somebody wrote in by hand.
        key, now = limit_key(address), trio.current_time()
        limited = self._failures.refused(key, now)
        try:
            token = pairing.find_token(config, peer.pairing_secret, int(self._wall()))
            if limited and pairing.is_guessable(token):
                raise pairing.refusal(_TOO_MANY)
        except PeerError as refusal:
            if not limited:
                self._failures.failed(key, now)
                self._reasons.note(peer.keyid, str(refusal), now)
            why = pairing.refusal(_TOO_MANY) if limited else refusal
            raise await self._refuse(peer, address, why) from None
        return await self._pair(peer, address)

    async def _pair(self, peer: events.PeerIdentified, address: str) -> Peer:
        label = ""

        def change(config: Config) -> bool:
            nonlocal label
            label = pairing.pair(config, peer, int(self._wall()))
            return True

        settled = self._pairing[peer.keyid] = trio.Event()
        try:
            config = await trio.to_thread.run_sync(self._config.transform, change)
        except PeerError as refusal:
            self._reasons.note(peer.keyid, str(refusal), trio.current_time())
            raise await self._refuse(peer, address, refusal) from None
        except (
            BackrestError
        ) as trouble:  # ours (a full disk, a configuration edited badly): not the peer's guess
            log.error("%s could not be paired: %s", peer.keyid, trouble)
            failed = PeerError(
                Fault.REFUSED, Code.INTERNAL, "the hub could not store the pairing; its log says why"
            )
            raise await self._refuse(peer, address, failed) from None
        finally:
            del self._pairing[peer.keyid]
            settled.set()
        self._reasons.forget(peer.keyid)
        await self.record("paired", keyid=peer.keyid, instance=peer.instance_id, address=address, token=label)
        log.info("%s paired from %s with token %r", peer.instance_id, address or "the local socket", label)
        entry = next((e for e in config.multihost.authorized_clients if e.keyid == peer.keyid), None)
        if entry is None:  # removed again by an admin in the same instant
            raise pairing.refusal("this client was removed from the hub")
        return entry

    async def _refuse(self, peer: events.PeerIdentified, address: str, refusal: PeerError) -> PeerError:
        await self._record_refusal(peer, address, refusal)
        return refusal

    async def _record_refusal(
        self, peer: events.PeerIdentified | None, address: str, refusal: PeerError
    ) -> None:
        by = peer.keyid if peer is not None and peer.keyid in self.watch.clients else STRANGER
        now = trio.current_time()
        if by == STRANGER:
            if self._refusals.refused("", now):
                self._unrecorded += 1
                return
            self._refusals.failed("", now)
        fields: dict[str, Any] = {"address": address, "reason": str(refusal)}
        if peer is not None:
            fields |= {"keyid": peer.keyid, "instance": peer.instance_id}
        if (
            self._unrecorded and by == STRANGER
        ):  # since the last one recorded: nobody hides behind a flood without a trace
            fields["unrecorded"], self._unrecorded = self._unrecorded, 0
        await self.record("refused", by=by, **fields)

    # --- live sessions

    async def _follow_config(self) -> None:
        """Tell the live sessions of each configuration."""
        config: Config | None = None  # also those that began before us
        while True:
            config = await self.watch.changed(config)
            self._tell(partial(Inbound.config_changed, config=config))

    async def _follow(self, subscribe: Subscribe, tell: Callable[[Inbound], None]) -> None:
        """Tell the live sessions of each change of a store."""
        with Watch(subscribe) as changes:
            while True:
                self._tell(tell)
                await changes.wait()

    def _tell(self, tell: Callable[[Inbound], None]) -> None:
        """A function of its own: a task that waits for the next change holds on to none of the sessions."""
        for client in tuple(self._live.values()):
            client.link.do(tell, client)

    def _arrived(
        self, client: Inbound, entry: Peer, address: str, features: Sequence[str], mixed: bool
    ) -> None:
        """End the client's older session at once (never waiting for it), say hello. It is connected when it has said
        something: the reference client may have given up this stream already."""
        older = self._live.get(entry.keyid)
        if older is not None:
            older.link.end(code=Code.INTERNAL, message=_DISPLACED)
        self._live[entry.keyid] = client
        self._namesakes.pop(entry.keyid, None)
        now_ms = int(time.time() * 1000)
        self.peers.update(
            entry.keyid,
            instance_id=entry.instance_id,
            role="client",
            state=wire.sync.CONNECTION_STATE_PENDING,
            message="",
            since_ms=now_ms,
            next_try_ms=0,
            refused=0,
            last_session=next(iter(named(features)), ""),
            mixed=mixed,
            clock_s=clocks.skew(features, {}, self._wall()),
            over_quota=self.left_out(entry.keyid).count,
            archived_ms=0,  # a removed one that paired again: its history is live again
        )
        log.info("%s was let in from %s", entry.instance_id, address or "the local socket")
        client.start()

    def _left(self, client: Inbound, error: BackrestError | None) -> None:
        """The session is over; what is shown of the client changes only if no newer session has taken over."""
        if self._live.get(client.keyid) is not client:
            return
        del self._live[client.keyid]
        state, message = _how_it_ended(error)
        log.info("%s disconnected: %s", client.instance_id, message or "it ended the session")
        if client.keyid in self.watch.clients:
            self.peers.update(client.keyid, state=state, message=message, since_ms=int(time.time() * 1000))
        elif self.oplog.count(client.keyid):  # removed: what it leaves is its history (PROTOCOL.md section 6)
            self.peers.archive(client.keyid, client.instance_id)
        else:
            self.peers.remove(client.keyid)

    def connected(self, client: Inbound) -> None:
        """The client said its first word in this session."""
        if self._live.get(client.keyid) is client:
            now_ms = int(self._wall() * 1000)
            self.peers.update(
                client.keyid,
                state=wire.sync.CONNECTION_STATE_CONNECTED,
                since_ms=now_ms,
                last_heartbeat_ms=now_ms,
            )
            log.info("%s is connected", client.instance_id)

    def heard_from(self, keyid: str) -> None:
        self.peers.update(keyid, last_heartbeat_ms=int(self._wall() * 1000))

    def authorizes(self, entry: Peer) -> bool:
        """Whether ``entry`` still stands in the configuration, unchanged."""
        stands = self.watch.clients.get(entry.keyid)
        return stands is entry or bool(stands == entry)

    def uris(self, keyid: str) -> Mapping[str, str]:
        """The addresses under which a client is to reach shared repos, by their guids, where they are its own."""
        return {} if self.shares is None else self.shares.of_client(keyid)

    @asynccontextmanager
    async def storing(self, keyid: str) -> AsyncIterator[None]:
        """One at a time for each client: a displaced session cannot overwrite what its successor stores."""
        lock = self._storing.setdefault(keyid, trio.Lock())
        async with lock:
            yield

    def quota(self, keyid: str) -> Quota:
        """What may be kept of a client."""
        return DEFAULT if self.shares is None else self.shares.quota(keyid)

    def left_out(self, keyid: str) -> LeftOut:
        """What the quota of a client had no room for; as many as there are clients."""
        return self._left_out.setdefault(keyid, LeftOut())

    async def room_in_log(self) -> None:
        """Before a client's operations are stored: compact the log if it has grown too far beyond what is needed. One
        does it, the others wait, and hold no thread."""
        if self.oplog.overdue:
            async with self._compacting:
                if self.oplog.overdue:
                    await trio.to_thread.run_sync(self.oplog.compact_overdue)

    def refused(self, entry: Peer) -> dict[int, int]:
        """(original id, modno) of operations that were refused under these permissions: not asked for again in the
        life of this process (PROTOCOL.md section 6)."""
        terms = entry.SerializeToString(deterministic=True)
        held = self._refused.get(entry.keyid)
        if held is None or held[0] != terms:
            held = self._refused[entry.keyid] = (terms, {})
        return held[1]

    def set_config(self, change: Callable[[Config], bool]) -> Config:
        """Blocking: the store's transform, for a client that may change this hub's repos and plans."""
        return self._config.transform(change, from_peer=True)


async def _turn_away(stream: Stream, code: Code, message: str) -> None:
    with trio.move_on_after(GOODBYE_S), suppress(OSError, BackrestError):
        stream.put(framing.end_of_stream(code, message))
        await stream.wait_room()


def _how_it_ended(error: BackrestError | None) -> tuple[Any, str]:
    if error is None:
        return wire.sync.CONNECTION_STATE_DISCONNECTED, ""
    if isinstance(error, PeerError):
        if error.fault in (Fault.FRAMING, Fault.RECORD, Fault.ITEM, Fault.KEM, Fault.HANDSHAKE):
            return wire.sync.CONNECTION_STATE_ERROR_PROTOCOL, str(error)
        return wire.sync.CONNECTION_STATE_DISCONNECTED, str(error)
    return wire.sync.CONNECTION_STATE_ERROR_INTERNAL, str(error)

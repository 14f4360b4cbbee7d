"""Two machines with one key (a cloned disk): which of them a hub lets in, so that it holds one history and never two
that are mixed.

A client of our kind names each of its sessions with a hub by a random word, keeps the last of these names on its disk,
and announces them, the newest first (``session/...`` among the features of its handshake). A session that names the
hub's last one *continues* it: the machine is the same, restarted or on another network, and the new session displaces
the old one at once. A session that does not name it comes from a copy of the disk, or from a restored disk. Then

- the hub refuses it as long as the other session answers a question (``request_resources``): two machines are alive;
- the hub refuses it until it has not heard from the other machine for GONE_S, or for TWIN_GONE_S when it saw both alive
  before. A pairing secret ends the wait: then a person has decided;
- once it is let in, the hub asks for its whole history, since equal numbers may stand for other content (Inbound).

Clients that name no sessions (the Go program, earlier versions) displace each other at once, as they must: they leave
streams open without a sign. Only when that happens again and again is the older session asked first, and one that still
answers is not given up for a newer: from then on it is always asked.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.protocol.events import PeerIdentified
from backrest.store.peers import PeerRecord, PeerStore

log = logging.getLogger("backrest.sync")

# A hub that was restored from a backup may know a name this many sessions old. Some 20 bytes each in the handshake.
MOST_NAMES = 16
ANSWER_S = 5.0  # for a client that lives to answer: the newcomer's handshake has 15 s in all
GONE_S = 900.0  # a machine that is restored from a backup waits so long; the other may be rebooting meanwhile
TWIN_GONE_S = (
    86_400.0  # of two that were seen alive, the one that is off at night is not replaced every evening
)
# A reference client that gives up a stream without a sign comes back after 1, 3, 5 and 9 minutes: one that is asked
# needlessly loses ANSWER_S.
DISPLACED = 3
DISPLACED_WITHIN_S = 3600.0

_PREFIX = "session/"
_WHAT_TO_DO = (
    "if it is a copy, run 'backrest identity rotate' on one of the two machines, give it another name (\"instance\" in "
    "its configuration), and pair it"
)
_HELD = (
    "a machine with its key that does not continue its last session is refused for now: a copy, or one that was "
    "restored from a backup"
)

Record = Callable[..., Awaitable[None]]


class Session(Protocol):
    """The older session (Inbound)."""

    async def answers(self, within: float) -> bool:
        """Whether its client answers a question."""

    def doubt(self) -> None:
        """Another machine may have changed what is held of its history."""


def announced(names: Sequence[str]) -> tuple[str, ...]:
    """As features of a handshake."""
    return tuple(_PREFIX + name for name in names)


def named(features: Sequence[str]) -> tuple[str, ...]:
    """The names among a peer's features, the newest first."""
    return tuple(one.removeprefix(_PREFIX) for one in features if one.startswith(_PREFIX))[:MOST_NAMES]


class Names:
    """The client's side: the names of its sessions with one hub, in the hub's record."""

    def __init__(self, peers: PeerStore, keyid: str) -> None:
        self._peers = peers
        self._keyid = keyid
        self._unused = False  # the newest was not sent yet

    async def of_next(self) -> tuple[str, ...]:
        """For the handshake of the next session; on the disk before the hub can know them. Nothing when the disk
        refuses: then the session is one of a client that names none."""
        record = self._peers.get(self._keyid)
        names = record.sessions if record is not None else ()
        if not (self._unused and names):
            names = (secrets.token_urlsafe(9), *names)[:MOST_NAMES]
            self._peers.update(self._keyid, sessions=names)
            try:
                await trio.to_thread.run_sync(self._peers.flush)
            except BackrestError as error:
                log.error("the next session with a hub has no name: %s", error)
                return ()
            self._unused = True
        return names

    def sent(self) -> None:
        """The hub may know the newest from now on."""
        self._unused = False


class Twins:
    """The hub's side, for all of its clients."""

    def __init__(self, peers: PeerStore, record: Record, wall: Callable[[], float] = time.time) -> None:
        self._peers = peers
        self._record = record
        self._wall = wall
        self._displaced: dict[str, deque[float]] = {}  # by key id, of clients that name no sessions: when

    async def judge(self, peer: PeerIdentified, address: str, live: Session | None) -> bool:
        """A client wants to come in while ``live`` is its session, if there is one. Returns whether what is held may be
        the history of another machine; raises the refusal."""
        record = self._peers.get(peer.keyid) or PeerRecord(peer.keyid)
        names, last = named(peer.features), record.last_session
        if last and last in names:
            return record.mixed
        other = bool(last and names)
        known = record.has_twin(self._now_ms())
        asked = live if other or known or self._is_displaced_often(peer.keyid) else None
        if asked is not None and await asked.answers(ANSWER_S):
            await self._two(peer, address)
            if not names:
                asked.doubt()
            raise _refusal(f"another machine with this key is connected: {_WHAT_TO_DO}")
        if other and not peer.pairing_secret:
            heard = (self._now_ms() - record.last_heartbeat_ms) / 1000
            gone = TWIN_GONE_S if known else GONE_S
            if 0 <= heard < gone:
                self._peers.update(peer.keyid, message=_HELD)
                raise _refusal(
                    f"another machine with this key was here {heard / 60:.0f} min ago: {_WHAT_TO_DO}. If this one was "
                    f"restored from a backup it is let in when the other was away for {gone / 60:.0f} min, or at once "
                    "with a new token ('backrest host add')"
                )
        if live is not None and not (names and last):
            self._displaced.setdefault(peer.keyid, deque(maxlen=DISPLACED)).append(trio.current_time())
        return record.mixed or other or (known and not names)

    def _is_displaced_often(self, keyid: str) -> bool:
        times = list(self._displaced.get(keyid, ()))
        return len(times) == DISPLACED and times[0] > trio.current_time() - DISPLACED_WITHIN_S

    async def _two(self, peer: PeerIdentified, address: str) -> None:
        """Two live machines have the key: shown for as long as the second goes on trying, recorded once."""
        before = self._peers.get(peer.keyid)
        now_ms = self._now_ms()
        self._peers.update(peer.keyid, twin_ms=now_ms)
        if before is None or not before.has_twin(now_ms):
            log.warning(
                "two machines use the key of %s at the same time: the second, from %s, is refused",
                peer.instance_id,
                address or "the local socket",
            )
            await self._record(
                "twin", by=peer.keyid, keyid=peer.keyid, instance=peer.instance_id, address=address
            )

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _refusal(text: str) -> PeerError:
    return PeerError(Fault.REFUSED, Code.PERMISSION_DENIED, text)

"""Who may make the hub work before it is known: places for unauthenticated streams, limits on failed pairings, and
what a refused one hears when it comes back.

A place is for a piece of work (a key exchange, a signature) and not for a stream: one that is silent holds none, and
keeps nobody out. How many streams may wait, and in how much memory, is for net/crowd to say.

All by the caller's clock; nothing here waits longer than the handshake deadline of the stream itself. The bounds are
DESIGN.md's ("Limits"); the attacks are a flood of streams (W-57) and guessing of pairing secrets (W-47).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from backrest.errors import Code, Fault, PeerError

UNKNOWN_TOTAL = 64  # a piece takes 1 ms of CPU, and a pairing some more of the disk
UNKNOWN_PER_ADDRESS = 8  # one address cannot take all places
UNKNOWN_IN_A_ROW = 4  # before those who are known get their turn: it comes after some 4 ms
LAST_WORDS_S = 0.5  # before its deadline says something else, who waits in vain hears why
BUSY = "the hub is busy: too many others want to be let in"
FAILURES_PER_ADDRESS = 10  # wrong secrets a minute; a person mistypes twice
FAILURES_TOTAL = 100  # an attacker with many addresses
FAILURE_WINDOW_S = 60.0
REASON_KEPT_S = (
    600.0  # a refused reference client comes back at once, after 1, 4 and 9 minutes, without its secret
)
# As many as fail in REASON_KEPT_S: what is limited is not noted. Some 500 B each.
REASONS_REMEMBERED = 1000
ADDRESSES_REMEMBERED = (
    10 * FAILURES_TOTAL
)  # IPv6 gives an attacker any number: the table must not grow with them


class Gate:
    """Places for work on streams whose peer is not known yet. What exceeds the bounds waits its turn."""

    def __init__(self, total: int = UNKNOWN_TOTAL, per_address: int = UNKNOWN_PER_ADDRESS) -> None:
        self._total = trio.Semaphore(total)
        self._in_a_row = trio.Semaphore(UNKNOWN_IN_A_ROW)
        self._per_address = per_address
        self._addresses: dict[str, trio.Semaphore] = {}
        self._users: Counter[str] = Counter()  # of the addresses: who has a place or waits for one

    async def place(self, address: str, until: float = math.inf) -> Place | None:
        """A place for ``address``, to be left by its holder; None when there is none until that time."""
        mine = self._addresses.get(address)
        if mine is None:
            mine = self._addresses[address] = trio.Semaphore(self._per_address)
        self._users[address] += 1
        # First its own: waiting for the other addresses' places must not take one of them.
        place = Place((mine, self._total), partial(self._forget, address))
        try:
            if not place.take():
                with trio.move_on_at(until) as waiting:
                    await place.wait()
                if waiting.cancelled_caught:
                    place.leave()
                    return None
            async with self._in_a_row:  # all others run once before its next holder
                await trio.lowlevel.checkpoint()
        except BaseException:
            place.leave()
            raise
        return place

    def _forget(self, address: str) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address], self._addresses[address]


class Place:
    """A place for one piece of work; left when that is done, or at the end of a with block."""

    def __init__(self, needed: Sequence[trio.Semaphore], left: Callable[[], None]) -> None:
        self._needed = needed
        self._held: list[trio.Semaphore] = []
        self._left: Callable[[], None] | None = left

    def take(self) -> bool:
        """Without waiting."""
        for semaphore in self._needed:
            try:
                semaphore.acquire_nowait()
            except trio.WouldBlock:
                self._release()
                return False
            self._held.append(semaphore)
        return True

    async def wait(self) -> None:
        for semaphore in self._needed:
            await semaphore.acquire()
            self._held.append(semaphore)

    def leave(self) -> None:
        self._release()
        if self._left is not None:
            self._left()
            self._left = None

    def _release(self) -> None:
        while self._held:
            self._held.pop().release()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Stream(Protocol):
    """As sync.link has it."""

    async def receive(self) -> bytes: ...
    @property
    def has_room(self) -> bool: ...
    def put(self, data: bytes) -> None: ...
    async def wait_room(self) -> None: ...


class AtTheGate:
    """A stream whose peer is not known until ``pass_on``: what it brings is handed out when there is a place for the
    work on it. The place is held until the next ``receive``, or to the end of the with block."""

    def __init__(self, stream: Stream, gate: Gate, key: str, until: float) -> None:
        self._stream = stream
        self._gate: Gate | None = gate
        self._key = key
        self._until = until
        self._place: Place | None = None
        self.put = stream.put
        self.wait_room = stream.wait_room

    async def receive(self) -> bytes:
        self._leave()
        data = await self._stream.receive()
        if data and self._gate is not None:
            self._place = await self._gate.place(self._key, self._until)
            if self._place is None:
                raise PeerError(Fault.ENDED, Code.UNAVAILABLE, BUSY)
        return data

    @property
    def has_room(self) -> bool:
        return self._stream.has_room

    def pass_on(self) -> None:
        """The peer is known."""
        self._leave()
        self._gate = None

    def _leave(self) -> None:
        if self._place is not None:
            self._place.leave()
            self._place = None

    def __enter__(self) -> AtTheGate:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()


class FailureLimit:
    """Failed pairings in the last minute, for each address and in all."""

    def __init__(self, per_address: int = FAILURES_PER_ADDRESS, total: int = FAILURES_TOTAL) -> None:
        self._per_address = per_address
        self._total = total
        self._all: deque[float] = deque()
        self._addresses: dict[str, deque[float]] = {}
        self._purge_after = 0.0

    def refused(self, address: str, now: float) -> bool:
        """Whether a pairing from ``address`` is refused unseen, because too many failed in the last minute."""
        mine = self._addresses.get(address)
        return _count(self._all, now) >= self._total or (
            mine is not None and _count(mine, now) >= self._per_address
        )

    def failed(self, address: str, now: float) -> None:
        """Count a failure."""
        self._all.append(now)
        if len(self._addresses) >= ADDRESSES_REMEMBERED and now >= self._purge_after:
            self._purge_after = (
                now + FAILURE_WINDOW_S
            )  # one sweep a minute: many addresses must not cost time either
            self._addresses = {a: times for a, times in self._addresses.items() if _count(times, now)}
        if (
            address in self._addresses or len(self._addresses) < ADDRESSES_REMEMBERED
        ):  # beyond that the total holds
            self._addresses.setdefault(address, deque()).append(now)


class Reasons:
    """Why the last pairing of a key was refused: to be said again when it comes back without its secret, because "not
    authorized" would replace what a person has to know."""

    def __init__(self) -> None:
        self._by_key: dict[str, tuple[float, str]] = {}  # the oldest first

    def note(self, keyid: str, reason: str, now: float) -> None:
        self._by_key.pop(keyid, None)
        self._by_key[keyid] = now, reason
        if len(self._by_key) > REASONS_REMEMBERED:
            del self._by_key[next(iter(self._by_key))]

    def forget(self, keyid: str) -> None:
        """It was paired."""
        self._by_key.pop(keyid, None)

    def last(self, keyid: str, now: float) -> str:
        """The reason, or "" when there is none of the last REASON_KEPT_S."""
        noted, reason = self._by_key.get(keyid, (-math.inf, ""))
        return reason if now < noted + REASON_KEPT_S else ""


def _count(times: deque[float], now: float) -> int:
    while times and times[0] <= now - FAILURE_WINDOW_S:
        times.popleft()
    return len(times)

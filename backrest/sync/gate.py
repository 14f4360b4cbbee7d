"""Who may make the hub work before it is known: places for unauthenticated streams, and limits on failed pairings.

All by the caller's clock; nothing here waits longer than the handshake deadline of the stream itself. The bounds are
DESIGN.md's ("Limits"); the attacks are a flood of silent streams (W-57) and guessing of pairing secrets (W-47).
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

UNKNOWN_TOTAL = (
    64  # each costs a KEM and a signature check, 1 ms of CPU: 64 are settled within a tenth of a second
)
UNKNOWN_PER_ADDRESS = 8  # one address cannot take all places
FAILURES_PER_ADDRESS = 10  # wrong secrets a minute; a person mistypes twice
FAILURES_TOTAL = 100  # an attacker with many addresses
FAILURE_WINDOW_S = 60.0
ADDRESSES_REMEMBERED = (
    10 * FAILURES_TOTAL
)  # IPv6 gives an attacker any number: the table must not grow with them


class Gate:
    """Places for streams whose peer is not known yet. What exceeds the bounds waits its turn."""

    def __init__(self, total: int = UNKNOWN_TOTAL, per_address: int = UNKNOWN_PER_ADDRESS) -> None:
        self._total = trio.Semaphore(total)
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
                with trio.move_on_at(until):
                    await place.wait()
                    return place
                place.leave()
                return None
        except BaseException:
            place.leave()
            raise
        return place

    def _forget(self, address: str) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address], self._addresses[address]


class Place:
    """One stream's place; left as soon as its peer is known, or at the end of a with block."""

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


def _count(times: deque[float], now: float) -> int:
    while times and times[0] <= now - FAILURE_WINDOW_S:
        times.popleft()
    return len(times)


def client_address(peer: str, headers: Mapping[str, str], trusted: Sequence[str] = ()) -> str:
    """Whose address counts: the last X-Forwarded-For entry when the connection comes from loopback or a trusted
    proxy (address or network), else the socket's.

    The last entry is the one our proxy wrote; those before it are what its client claimed.
    """
    forwarded = headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if not forwarded or not _is_trusted(peer, trusted):
        return peer
    try:
        return str(ipaddress.ip_address(forwarded))
    except ValueError:
        return peer


def _is_trusted(peer: str, trusted: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer == ""  # a Unix socket: only this user's processes reach it
    return address.is_loopback or any(
        address in ipaddress.ip_network(entry, strict=False) for entry in trusted
    )


def limit_key(address: str) -> str:
    """The unit that is limited: an IPv4 address, or an IPv6 /64 (what one household or server gets)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)

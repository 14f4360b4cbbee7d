"""What connections and streams may take of this process, all together: descriptors, and memory for strangers.

A bound for each is none for the sum, so the sums are counted here. Who is not let in is a guest: a connection
without a stream that was let in, or a stream of its own. When there is no room for one more guest, the address
with the most guests loses its oldest. So one address cannot keep the others out, however much it asks for, and a
newcomer always has as long as it takes the others to come: an honest one needs a few round trips.

Nor may guests take all the time: they have it by turns. No clock in here but for what is said once a minute.
Everything is a few steps, whatever the number of guests: a flood must not cost more because it is one.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from backrest.net.address import client_address, limit_key
from backrest.net.h2settings import ServerSettings

log = logging.getLogger("backrest.net")

# A flood is one line of the log a minute.
TELL_EVERY_S = 60.0

# What a guest costs besides the bytes it sent: the growth of the process for each of 600, rounded up. A connection of
# HTTP/2 without a stream took 15 KiB (its tasks, h2 and its header tables), with TLS 45; a stream 17 KiB when silent
# and 26 after its key exchange (the application's task, its session, what h2 knows of it).
CONNECTION_COST = 16 * 1024
TLS_COST = 32 * 1024
STREAM_COST = 28 * 1024


# Pieces of work for guests (some frames of a connection, the start of a stream) before everybody else has a turn: all
# that a thousand of them ask for at once would otherwise be done in one go, and a live client waits for it. Two take
# some 5 ms at most.
IN_A_ROW = 2


class Guest:
    """One connection or stream that is not let in. It leaves once: let in, over, or turned away."""

    __slots__ = ("_crowd", "_line", "cost", "key", "size", "turn_away")

    def __init__(self, crowd: Crowd, line: _Line, key: str, size: int, turn_away: Callable[[], None]) -> None:
        self._crowd = crowd
        self._line: _Line | None = line
        self.key = key
        self.cost = self.size = size  # without anything that it sent, and now
        self.turn_away = turn_away  # ends it; called after it has left

    def weigh(self, size: int) -> None:
        """It holds so many bytes of our memory now. Somebody has to go when that is too much for all."""
        if self._line is not None:
            grown, self.size = size - self.size, size
            self._line.octets += grown
            if grown > 0:
                self._crowd.make_room()

    def leave(self) -> None:
        if self._line is not None:
            self._line.remove(self)
            self._line = None


class _Line:
    """Guests of one kind in the order in which they came, by address; and which address has the most of them."""

    def __init__(self) -> None:
        self._guests: dict[str, dict[Guest, None]] = {}
        self._with: dict[int, dict[str, None]] = {}  # number of guests -> the addresses with so many
        self._most = 0
        self.count = 0
        self.octets = 0

    def add(self, guest: Guest) -> None:
        mine = self._guests.setdefault(guest.key, {})
        mine[guest] = None
        self.count += 1
        self.octets += guest.size
        self._moved(guest.key, len(mine) - 1, len(mine))

    def remove(self, guest: Guest) -> None:
        mine = self._guests[guest.key]
        del mine[guest]
        if not mine:
            del self._guests[guest.key]
        self.count -= 1
        self.octets -= guest.size
        self._moved(guest.key, len(mine) + 1, len(mine))

    def first(self) -> Guest | None:
        """Who has to go first."""
        if not self.count:
            return None
        return next(iter(self._guests[next(iter(self._with[self._most]))]))

    def _moved(self, key: str, before: int, now: int) -> None:
        if before:
            del self._with[before][key]
            if not self._with[before]:
                del self._with[before]
        if now:
            self._with.setdefault(now, {})[key] = None
        if now > self._most or self._most not in self._with:
            self._most = now


class Crowd:
    """Shared by all that listens."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._unlimited = [ipaddress.ip_network(entry, strict=False) for entry in settings.unlimited]
        self._count: Counter[str] = Counter()
        self._connections = _Line()
        self._streams = _Line()
        self._turns = trio.Semaphore(IN_A_ROW)
        self._told: dict[str, float] = {}
        self.open = 0  # connections, of everybody

    @contextmanager
    def place(self, address: str) -> Iterator[bool]:
        """Whether a connection from ``address`` ("" for a Unix socket's) is admitted; it counts for as long as the
        block runs. Who gets none is to be closed at once: to wait holds a descriptor, too."""
        key = self._key(address)
        if not self._admits(address, key):
            yield False
            return
        self._count[key] += 1
        self.open += 1
        try:
            yield True
        finally:
            self.open -= 1
            self._count[key] -= 1
            if not self._count[key]:
                del self._count[key]

    def _admits(self, address: str, key: str) -> bool:
        most = self._settings.max_per_address
        if key and self._count[key] >= most:
            self._tell("address", "%s has %d connections already: no further one is accepted", address, most)
            return False
        if self.open < self._settings.max_connections or not address:
            return True  # the owner's are few, and nobody else's may be in their way
        if (guest := self._connections.first()) is None:
            self._tell("full", "%d connections are open: no further one is accepted", self.open)
            return False
        self._turn_away(guest)
        return True

    def connection(self, address: str, turn_away: Callable[[], None], *, tls: bool) -> Guest:
        """A connection from ``address`` on which nobody is let in."""
        cost = CONNECTION_COST + TLS_COST * tls
        return self._enter(self._connections, limit_key(address), cost, turn_away)

    def stream(self, address: str, headers: Mapping[str, str], turn_away: Callable[[], None]) -> Guest:
        """A stream that is not let in, on a connection from ``address``; a proxy says whose it is."""
        key = limit_key(client_address(address, headers, self._unlimited))
        return self._enter(self._streams, key, STREAM_COST, turn_away)

    def _enter(self, line: _Line, key: str, size: int, turn_away: Callable[[], None]) -> Guest:
        guest = Guest(self, line, key, size, turn_away)
        line.add(guest)
        self.make_room()
        return guest

    async def turn(self) -> None:
        """Until a guest may have a piece of work done."""
        async with self._turns:
            await trio.lowlevel.checkpoint()

    def make_room(self) -> None:
        """Turn guests away until the sums are within their bounds."""
        streams, connections = self._streams, self._connections
        while streams.count > self._settings.max_guest_streams:
            self._turn_away(streams.first())
        while streams.octets + connections.octets > self._settings.max_guest_bytes:
            line = streams if streams.octets > connections.octets else connections
            self._turn_away(line.first())

    def _turn_away(self, guest: Guest | None) -> None:
        assert guest is not None, "a sum beyond its bound has somebody in it"
        self._tell(
            "guests", "too many others want to be let in: some are turned away, of %s first", guest.key
        )
        guest.leave()
        guest.turn_away()

    def _tell(self, kind: str, message: str, *of: object) -> None:
        now = trio.current_time()
        if now >= self._told.get(kind, -math.inf) + TELL_EVERY_S:
            self._told[kind] = now
            log.warning(message, *of)

    def _key(self, address: str) -> str:
        """What is counted together; "" is not limited."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return ""  # a Unix socket's: only this user reaches it
        if isinstance(ip, ipaddress.IPv6Address):
            ip = ip.ipv4_mapped or ip
        return "" if any(ip in network for network in self._unlimited) else limit_key(address)

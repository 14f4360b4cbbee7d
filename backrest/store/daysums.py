"""What others may make us write into the audit log in a day: by lines and by bytes, in three sums that starve nobody.

Strangers share one. Each peer has one for each kind of event, so that a flood of refusals hides none of its changes,
and all peers together have one. What is left out is counted, and told when the day is over. Pure: the caller has the
clock. A day is one of UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

DAY_MS: Final = 24 * 3600 * 1000
STRANGER = ""  # whom nobody let in
NAMED = 100  # peers that are named as those of whom lines were left out


@dataclass(frozen=True, slots=True)
class Bound:
    lines: int
    bytes: int


# One line is some 400 bytes, and 13 KiB where a stranger has made the most of it. Nobody reads 2,000 attempts to see
# that there was an attack; and the files of the log hold at least a month of all three sums at their bounds.
STRANGERS: Final = Bound(2_000, 1 << 20)
# A client that hops between addresses makes 144 lines a day, a person at a hub some hundred changes.
ONE_PEER: Final = Bound(1_000, 512 << 10)
# 10,000 clients that are let in once a day, and twice more.
ALL_PEERS: Final = Bound(30_000, 10 << 20)


@dataclass(slots=True)
class _Sum:
    bound: Bound
    lines: int = 0
    bytes: int = 0

    def is_full(self) -> bool:
        return self.lines >= self.bound.lines

    def has_room(self, size: int) -> bool:
        """The first has room whatever its size, or who makes long lines would leave no trace at all."""
        return not self.lines or (not self.is_full() and self.bytes + size <= self.bound.bytes)

    def add(self, size: int) -> None:
        self.lines += 1
        self.bytes += size


@dataclass(slots=True)
class _LeftOut:
    count: int = 0
    peers: dict[str, None] = field(default_factory=dict)


class DaySums:
    """The sums of one day. Not thread-safe."""

    def __init__(self) -> None:
        self._day = 0
        self._clear()

    def _clear(self) -> None:
        self._strangers, self._peers = _Sum(STRANGERS), _Sum(ALL_PEERS)
        self._each: dict[tuple[str, str], _Sum] = {}  # as many as there are peers, and some kinds of events
        self._left_out: dict[str, _LeftOut] = {}

    def turn(self, now_ms: int) -> list[tuple[str, dict[str, Any]]]:
        """To be called before each line: the events that tell of the day before, when this is another one."""
        day = now_ms // DAY_MS
        if day == self._day:
            return []
        told = self.told()
        self._day = day
        self._clear()
        return told

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Events that say what was left out since the last of them."""
        events = [
            (
                "not-recorded",
                {"of": of, "count": left.count} | ({"keyids": list(left.peers)} if left.peers else {}),
            )
            for of, left in self._left_out.items()
            if left.count
        ]
        for left in self._left_out.values():
            left.count = 0
        return events

    def takes(self, who: str, event: str, size_of: Callable[[], int]) -> bool:
        """Is there room today for this line of ``who``, a key id or STRANGER? Then it is taken up; else it counts.
        ``size_of`` is not asked when there are too many lines already: a flood is to cost no more than it must."""
        if who == STRANGER:
            sums, of = [self._strangers], "strangers"
        else:
            sums, of = [self._each.setdefault((who, event), _Sum(ONE_PEER)), self._peers], "peers"
        if not any(one.is_full() for one in sums):
            size = size_of()
            if all(one.has_room(size) for one in sums):
                for one in sums:
                    one.add(size)
                return True
        left = self._left_out.setdefault(of, _LeftOut())
        left.count += 1
        if who != STRANGER and len(left.peers) < NAMED:
            left.peers[who] = None
        return False

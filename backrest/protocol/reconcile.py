"""What a hub asks a client for: the difference between a manifest and what is held, in bounded pieces.

Only ids and modification numbers are looked at (PROTOCOL.md, section 6). A modno that *differs* counts, in
either direction: a client whose log was reset starts over with low numbers. Nothing here can fail on
hostile input; a manifest's lists are of equal length when they come here (items.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final

ANSWER_OPERATIONS: Final = 512  # operations in one message of an answer (section 6)
REQUEST_OPERATIONS: Final = (
    8 * ANSWER_OPERATIONS
)  # the reference queues 256 messages and drops us when it is full

_NOTHING: Final[Mapping[int, int]] = {}
_MOST_QUIET_CALLS: Final = 32  # see Pacer.idle: with a call every 10 s, five minutes


@dataclass(frozen=True, slots=True)
class Diff:
    """Original ids: ``delete`` what the manifest lacks, ``request`` what is new or differs, in its order."""

    delete: list[int]
    request: list[int]


def diff(
    op_ids: Sequence[int],
    modnos: Sequence[int],
    held: Mapping[int, int],
    refused: Mapping[int, int] = _NOTHING,
) -> Diff:
    """Compare a manifest with ``held`` (original id -> modno, of this client alone).

    ``refused`` (id -> modno) is what was turned down before and is not worth asking for again in that
    state. An id that a hostile manifest lists twice is asked for once, at its first place and judged by its
    last modno. Ids below 1, which no operation has, are not asked for. Time and memory grow with the two
    lists.
    """
    listed = dict(zip(op_ids, modnos, strict=True))
    if listed == held:  # the usual reconnect: one comparison in C, nothing built
        return Diff([], [])
    known, turned_down = held.get, refused.get
    request = [
        op_id
        for op_id, modno in listed.items()
        if known(op_id) != modno and turned_down(op_id) != modno and op_id > 0
    ]
    return Diff([op_id for op_id in held if op_id not in listed], request)


class Pacer:
    """Hands out the ids to ask for so that at most ``batch`` are unanswered, and cannot stall.

    Nothing in the protocol says "that was all": answers are plain ``updated_operations``, ids that no
    longer exist never come, and live changes look the same. So two things count as an answer:

    1. An id that came settles itself and all that were asked for *before* it: a client answers in the order
       of the request, so what it passed over does not exist any more. A live change of an id that is still
       due, or a client with an order of its own, makes this too generous: then the next request goes out
       early, which costs the client some more messages in its queue (8 for each request, of the 256 that it
       can hold) and nothing else.
    2. When nothing of what is due came between two calls of ``idle``, the rest is taken as left out: the
       end of a request, or all of it, may be gone, and then nothing comes that could settle it.

    A deletion settles nothing: it comes in the order of events, not of the request.

    The next request is made when half of ``batch`` is free: a round trip is hidden behind the other half,
    and requests stay few. Whatever this guesses, no operation is lost: the pacer never decides what is
    stored, and every id is asked for exactly once.
    """

    __slots__ = ("_asked", "_batch", "_due", "_ids", "_patience", "_progress", "_quiet", "_settled")

    def __init__(self, ids: Sequence[int], batch: int = REQUEST_OPERATIONS) -> None:
        if batch < 1:
            raise ValueError("a batch has at least one id")
        self._ids = ids
        self._batch = batch
        self._asked = 0  # ids[:_asked] were asked for,
        self._settled = 0  # of which ids[:_settled] need no more waiting for
        self._due: dict[int, int] = {}  # the others: id -> its place
        self._progress = False
        self._quiet = 0
        self._patience = 1

    @property
    def waiting(self) -> bool:
        """Is an answer due?"""
        return self._settled < self._asked

    @property
    def done(self) -> bool:
        """Was everything asked for, and answered as far as can be told?"""
        return self._settled == len(self._ids)

    @property
    def unsettled(self) -> int:
        """How many ids have not come and may still come: for progress shown to people."""
        return len(self._ids) - self._settled

    def next_request(self) -> list[int]:
        """The ids to ask for now: all there is room for if half of the room is free, else none."""
        room = self._batch - (self._asked - self._settled)
        if self._asked == len(self._ids) or 2 * room < self._batch:
            return []
        start = self._asked
        self._asked = min(start + room, len(self._ids))
        request = list(self._ids[start : self._asked])
        self._due.update(zip(request, range(start, self._asked), strict=True))
        return request

    def received(self, ids: Sequence[int]) -> list[int]:
        """Ids of operations that came, stored or refused; others than those due too. Returns what to ask
        for now."""
        end = max(map(self._due.get, ids, repeat(-1)), default=-1) + 1
        if not end:
            return []
        self._progress = True
        self._patience = 1
        self._settle(end)
        return self.next_request()

    def idle(self) -> list[int]:
        """To be called now and then while ``waiting``: every 10 s, say. Returns what to ask for now.

        One quiet call is not enough after a first one was: the patience doubles with each request that was
        given up, so that a client which is merely slow does not get all of a large log asked of it at once.
        Anything that comes resets it.
        """
        if self._progress or not self.waiting:
            self._progress = False
            self._quiet = 0
            return []
        self._quiet += 1
        if self._quiet < self._patience:
            return []
        self._quiet = 0
        self._patience = min(2 * self._patience, _MOST_QUIET_CALLS)
        self._settle(self._asked)
        return self.next_request()

    def _settle(self, end: int) -> None:
        for place in range(self._settled, end):
            self._due.pop(self._ids[place], None)  # absent if the caller's list names an id twice
        self._settled = max(self._settled, end)

"""What is withheld from one hub, because it threw it away and its session ends when it comes again.

The Go program drops old operations by itself, asks for them at the next manifest, and then cannot store those that its
cache of ids still knows: it ends the session with a clean ``{}``, at every attempt, until it is restarted, and nothing
newer ever arrives (MIXING.md, 2; PROTOCOL.md section 6). It never says what it took or which operation it failed at. So
this is judged by what happened:

- *taken*: all that had been sent, or not been asked for, when the session went on for TAKEN_AFTER_S afterwards. Ids and
  modnos only grow: the highest of both say it, for the grants of that session.
- *lost*: taken in the very state that is listed, asked for again, answered, the session ended clean, and asked for once
  more. The hub does not hold these: all of them are left out of manifest, answers and changes, at once.
- *doubtful*: of what is answered and asked for a third time, the first in the order in which it was sent (the hub
  stores in that order, and stops where it fails), then two more, then four: n of them are passed in log n sessions.
  The hub may hold an older state of these, which it would delete were they not listed: they stay in the manifest.

From the first such end on, what the hub never had is answered first, the newest before the older. What is withheld is
tried once more after a day, or when the hub seems to have been restarted. Hubs of our kind are none of this.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import IntEnum

import trio

from backrest.permissions import READ_OPERATIONS, Grants
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.taken import MAX_REACHES, MAX_WITHHELD, Reach, Taken
from backrest.wire import config

log = logging.getLogger("backrest.sync")

Permission = config.Multihost.Permission
Scopes = tuple[tuple[str, ...], ...]

# A session that goes on so long after it was sent something has stored it: what its end of the stream may hold unread
# (some MiB) takes the slowest hub that was seen half of this.
TAKEN_AFTER_S = 120.0
RETRY_S = 86_400.0
RETRY_LOST_CONNECTION_S = 3600.0  # a network that comes and goes looks like a hub that is restarted
NONE = Taken()


class Known(IntEnum):
    """What is known of an operation that the hub asks for; in the order in which they are answered."""

    NEW = 0  # as far as we know it never had it
    CHANGED = 1  # it had an earlier state, and may have it still
    LOST = 2  # it had it as it is listed: it has thrown it away


class Withheld:
    """For one known host, over all of its sessions; called by the event loop only."""

    def __init__(self, keyid: str, peers: PeerStore, oplog: OpLog) -> None:
        self._keyid = keyid
        self._peers = peers
        self._oplog = oplog
        record = peers.get(keyid)
        self._taken = (record and record.taken) or NONE
        self._suspects: array[int] = array(
            "q"
        )  # answered before a clean end, in the order in which they were sent
        self._strikes = 0  # such ends in a row
        self._tried_ms = 0  # when the last was
        self._once_doubtful: set[int] = set()  # never lost: the hub may hold an older state
        self._restarted = False
        self._careful = bool(self._taken.lost or self._taken.doubtful)
        self._off = True  # a hub of our kind
        self._scopes: Scopes = ()
        self._begin()

    def _begin(self) -> None:
        self._listed: tuple[Sequence[int], Sequence[int]] = ((), ())
        self._answered: array[int] = array("q")
        # Moments at which all was said: one that is waited for, and the newest. Time, highest id, highest modno, how
        # many were answered.
        self._marks: list[tuple[float, int, int, int]] = []

    # --- in a session

    def session(self, permissions: Iterable[Permission], *, ours: bool) -> None:
        """A session has begun, under these grants; ``ours``: the hub is of our kind."""
        self._begin()
        self._off = ours
        granted = (tuple(one.scopes) for one in permissions if one.type == READ_OPERATIONS)
        self._scopes = tuple(sorted(granted))
        if ours and self._taken != NONE:
            self._save(NONE)
        if self._restarted:
            self._release()
        self._restarted = False

    def manifest(self, ids: Sequence[int], modnos: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """What of our history to list."""
        if self._off:
            return ids, modnos
        self.retry_if_due()
        lost, doubtful = self._taken.lost, self._taken.doubtful
        if lost or doubtful:
            there = set(ids)
            if not lost | doubtful <= there:  # what was deleted here needs no more withholding
                lost, doubtful = lost & there, doubtful & there
                self._save(replace(self._taken, lost=lost, doubtful=doubtful))
        if lost:
            kept = [place for place, number in enumerate(ids) if number not in lost]
            ids, modnos = (
                array("q", (ids[place] for place in kept)),
                array("q", (modnos[place] for place in kept)),
            )
        self._listed = ids, modnos
        return ids, modnos

    def withholds(self, op_id: int) -> bool:
        return not self._off and (op_id in self._taken.lost or op_id in self._taken.doubtful)

    @property
    def any(self) -> bool:
        return not self._off and bool(self._taken.lost or self._taken.doubtful)

    def to_answer(self, asked: Sequence[int]) -> Sequence[int]:
        """What to answer of what the hub asks for, in which order."""
        if self._off:
            return asked
        if len(asked) <= MAX_WITHHELD:
            if self._suspects:
                self._judge(set(asked))
            if self._careful:
                known = {number: self._known(number) for number in dict.fromkeys(asked)}
                wanted = [number for number in known if not self.withholds(number)]
                asked = sorted(wanted, key=lambda number: (known[number], -number))
        room = MAX_WITHHELD - len(self._answered)
        self._answered.extend(asked[:room])
        return asked

    def quiet(self) -> None:
        """Everything that there was to say is said."""
        if self._off:
            return
        now = trio.current_time()
        self._settle(now)
        self._marks[1:] = [(now, *self._oplog.highest, len(self._answered))]

    def alive(self) -> None:
        """The hub is heard of, and takes what it is sent."""
        if not self._off:
            self._settle(trio.current_time())

    def _settle(self, now: float) -> None:
        """What had been said at the mark is taken, if that is long enough ago."""
        due = [mark for mark in self._marks if now >= mark[0] + TAKEN_AFTER_S]
        if not due:
            return
        _, op_id, modno, answered = due[-1]
        del self._answered[:answered]
        self._marks = [(*mark[:3], mark[3] - answered) for mark in self._marks[len(due) :]]
        self._suspects, self._strikes = array("q"), 0
        self._careful = bool(self._taken.lost or self._taken.doubtful)
        reach = Reach(self._scopes, op_id, modno)
        if reach not in self._taken.reaches:
            others = [other for other in self._taken.reaches if other.scopes != reach.scopes]
            self._save(replace(self._taken, reaches=(reach, *others)[:MAX_REACHES]))

    # --- its end

    def ended(self, *, clean: bool, lost: bool, absent: bool) -> None:
        """A session or a dial ended: ``clean``, with the hub's ``{}``; ``lost``, without a word of the hub;
        ``absent``, nothing listens there."""
        if not self._off:
            self._settle(trio.current_time())
            if self._answered:
                self._suspects = self._answered if clean else array("q")
                self._strikes = self._strikes + 1 if clean else 0
                self._careful = self._careful or clean
                if clean:
                    self._tried_ms = _now_ms()
        self._begin()
        if absent or (lost and _now_ms() >= self._tried_ms + RETRY_LOST_CONNECTION_S * 1000):
            self._restarted = True

    # --- judging

    def _judge(self, asked: set[int]) -> None:
        """The session before ended clean behind its answers: which of them are asked for again?"""
        again = [number for number in dict.fromkeys(self._suspects) if number in asked]
        self._suspects = array("q")
        lost = [number for number in again if self._known(number) is Known.LOST]
        doubtful: list[int] = []
        if not lost and self._strikes >= 2:
            doubtful = again[: 2 ** min(self._strikes - 2, 30)]
        if lost or doubtful:
            self._withhold(lost, doubtful)

    def _withhold(self, lost: Sequence[int], doubtful: Sequence[int]) -> None:
        taken = self._taken
        room = MAX_WITHHELD - len(taken.lost) - len(taken.doubtful)
        if not taken.retry_ms or not (taken.lost or taken.doubtful):
            taken = replace(taken, retry_ms=_now_ms() + int(RETRY_S * 1000))
        self._once_doubtful.update(doubtful)
        self._save(
            replace(
                taken,
                lost=taken.lost.union(lost[:room]),
                doubtful=taken.doubtful.union(doubtful[:room]),
            )
        )
        log.info(
            "the hub %s ends its sessions over operations that it had and threw away: %d more are withheld",
            self._keyid,
            len(lost) + len(doubtful),
        )

    def _known(self, number: int) -> Known:
        ids, modnos = self._listed
        place = bisect_left(ids, number)
        meta = self._oplog.meta(number)
        if meta is None or place == len(ids) or ids[place] != number:
            return Known.NEW
        had = Known.NEW
        for reach in self._taken.reaches:
            if number <= reach.op_id and _grants(reach).operation(meta.repo_id, meta.plan_id):
                if modnos[place] <= reach.modno and number not in self._once_doubtful:
                    return Known.LOST
                had = Known.CHANGED
        return had

    # --- trying again

    def due_in(self) -> float:
        """Seconds until what is withheld is to be tried again."""
        return max(self._taken.retry_ms - _now_ms(), 0) / 1000 if self.any else math.inf

    def retry_if_due(self) -> bool:
        """Once more all of it, if it is time for that. True: the manifest is to be sent anew."""
        due = self.any and self.due_in() == 0
        if due:
            self._release()
        return due

    def _release(self) -> None:
        self._once_doubtful |= self._taken.doubtful
        if self._taken.lost or self._taken.doubtful:
            self._save(replace(self._taken, lost=frozenset(), doubtful=frozenset(), retry_ms=0))

    def _save(self, taken: Taken) -> None:
        self._taken = taken
        self._peers.update(self._keyid, taken=None if taken == NONE else taken)


def _grants(reach: Reach) -> Grants:
    return Grants(Permission(type=READ_OPERATIONS, scopes=scopes) for scopes in reach.scopes)


def _now_ms() -> int:
    return int(time.time() * 1000)

"""When sessions are to be looked at again: one task of the event loop for all of them, not one that sleeps for each.

A call is made at its time or soon after, by no task of the session's own; it must neither block nor raise.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio


class Alarm:
    """One call that is due; ``cancel`` takes it back, also when it was made already."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None  # what is left until its time has come holds on to nothing


class Clock:
    """The alarms of one event loop."""

    def __init__(self) -> None:
        self._alarms: list[tuple[float, int, Alarm]] = []  # a heap; the number orders those of one time
        self._number = count()
        self._wakes_at = math.inf
        self._earlier = trio.Event()

    def call_at(self, at: float, call: Callable[[], None]) -> Alarm:
        """``at``: seconds of the event loop's clock."""
        alarm = Alarm(at, call)
        heapq.heappush(self._alarms, (at, next(self._number), alarm))
        if at < self._wakes_at:
            self._earlier.set()
        return alarm

    async def run(self) -> None:
        while True:
            now = trio.current_time()
            while self._alarms and self._alarms[0][0] <= now:
                alarm = heapq.heappop(self._alarms)[2]
                if alarm.call is not None:
                    alarm.call()
            self._wakes_at = self._alarms[0][0] if self._alarms else math.inf
            self._earlier = trio.Event()
            with trio.move_on_at(self._wakes_at):
                await self._earlier.wait()


_clock: trio.lowlevel.RunVar[Clock] = trio.lowlevel.RunVar("backrest.sync.clock")


def the_clock() -> Clock:
    """Of this event loop; made when it is asked for first."""
    try:
        return _clock.get()
    except LookupError:
        clock = Clock()
        _clock.set(clock)
        trio.lowlevel.spawn_system_task(clock.run)
        return clock

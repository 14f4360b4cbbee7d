"""Runs cases and judges them: one result for each, whatever happens in it.

Hub role: cases side by side up to a bound, slow ones beside them, then those that must be alone, then those that fail
pairings, one after the other. Client role: all at once, since each has a hub of its own and mostly waits.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from conformance.h2raw import Broken
from conformance.hublab import HubLab
from conformance.model import Case, Failed, Skipped
from conformance.seats import ClientLab, Seat

SIDE_BY_SIDE = 5
"""A hub works on eight unknown streams from one address at once; slow cases hold three of them."""
SLOW_SIDE_BY_SIDE = 3
FAST_S, SLOW_S, CLIENT_S = 90.0, 150.0, 300.0
"""No case hangs for longer, whatever it waits for."""


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    outcome: str
    """passed, failed, skipped, known (failed as the list of known failures says), surprise (should have failed)."""
    text: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.outcome in ("passed", "skipped", "known")


Report = Callable[[Result], None]


class Judge:
    """Turns what a case did into a Result."""

    def __init__(self, known: dict[str, str], report: Report, *, most_failures: int = 0) -> None:
        """``most_failures``: ``scope`` is cancelled at so many; 0 is no bound."""
        self.results: list[Result] = []
        self.scope = trio.CancelScope()
        """The run: what is cancelled with it has no result."""
        self._known = known
        self._report = report
        self._most = most_failures

    async def run(self, case: Case, target: Any, limit: float) -> Result:
        started = time.monotonic()
        outcome, text = "passed", ""
        try:
            with trio.move_on_after(limit) as scope:
                await case.run(target)
            if scope.cancelled_caught:
                outcome, text = "failed", f"not over after {limit:g} s"
        except Exception as error:
            outcome, text = _verdict(error)
        return self.add(case, outcome, text, time.monotonic() - started)

    def add(self, case: Case, outcome: str, text: str = "", seconds: float = 0.0) -> Result:
        reason = self._known.get(case.id)
        if reason is not None and outcome == "failed":
            outcome, text = "known", f"{reason} ({text})"
        elif reason is not None and outcome == "passed":
            outcome, text = "surprise", f"it is listed as a known failure ({reason}), and passes"
        result = Result(case, outcome, text, seconds)
        self.results.append(result)
        self._report(result)
        if self._most and sum(not result.good for result in self.results) >= self._most:
            self.scope.cancel()
        return result


def _verdict(error: Exception) -> tuple[str, str]:
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, Skipped):
            return "skipped", str(leaf)
    for leaf in leaves:
        if isinstance(leaf, Failed):
            return "failed", str(leaf)
    for leaf in leaves:
        if isinstance(leaf, Broken):
            return "failed", "the other side closed the stream or the connection"
        if isinstance(leaf, OSError):
            return "failed", f"no connection: {leaf}"
    last = "".join(traceback.format_exception(leaves[0])[-3:])
    return "failed", f"the suite stumbled: {type(leaves[0]).__name__}: {leaves[0]}\n{last}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


async def run_hub(
    cases: Sequence[Case], lab: HubLab, judge: Judge, *, through_proxy: bool, fixture: bool
) -> None:
    """Run ``cases`` against the hub."""
    have = {*lab.tokens} | ({"fixture"} if fixture else set()) | ({"heartbeat"} if lab.heartbeat else set())
    runnable = list(_given(cases, have, judge, through_proxy))
    alone = [case for case in runnable if case.serial and not case.limited]
    limited = [case for case in runnable if case.limited]
    beside = [case for case in runnable if not case.serial and not case.limited]
    async with trio.open_nursery() as nursery:
        for slow, bound in ((True, SLOW_SIDE_BY_SIDE), (False, SIDE_BY_SIDE)):
            places = trio.CapacityLimiter(bound)
            for case in beside:
                if case.slow is slow:
                    nursery.start_soon(_in_place, places, judge, case, lab)
    for case in (*alone, *limited):
        await judge.run(case, lab, SLOW_S if case.slow else FAST_S)


async def _in_place(places: trio.CapacityLimiter, judge: Judge, case: Case, lab: HubLab) -> None:
    async with places:
        await judge.run(case, lab, SLOW_S if case.slow else FAST_S)


def _given(cases: Sequence[Case], have: set[str], judge: Judge, through_proxy: bool) -> Iterator[Case]:
    for case in cases:
        missing = [need for need in case.needs if need not in have]
        if case.direct and through_proxy:
            judge.add(case, "skipped", "means nothing through a proxy")
        elif missing:
            judge.add(case, "skipped", f"needs {', '.join(missing)}, see --help")
        else:
            yield case


def client_cases(cases: Sequence[Case], lab: ClientLab, judge: Judge, through_proxy: bool) -> list[Case]:
    """Those that can run; the others are skipped."""
    given = {"fixture": lab.fixture, "change": lab.change, "heartbeat": lab.heartbeat, "pair": True}
    return list(_given(cases, {name for name, value in given.items() if value}, judge, through_proxy))


async def run_client(
    seats: Sequence[Seat], lab: ClientLab, judge: Judge, *, first_s: float, through_proxy: bool
) -> None:
    """Run the cases of ``seats`` at once, when the client has dialled for the first time."""
    runnable = {case.id for case in client_cases([seat.case for seat in seats], lab, judge, through_proxy)}
    with trio.move_on_after(first_s) as waiting:
        await lab.first_arrival.wait()
    if waiting.cancelled_caught:
        raise Failed(f"no client came within {first_s:g} s")
    chosen = [seat for seat in seats if seat.case.id in runnable]
    async with trio.open_nursery() as everyone:
        for seat in chosen:
            if seat.case.serial:  # it connects with the others, and waits for the calm
                everyone.start_soon(_on_seat, judge, seat)
        async with trio.open_nursery() as busy:
            for seat in chosen:
                if not seat.case.serial:
                    busy.start_soon(_on_seat, judge, seat)
        lab.calm.set()


async def _on_seat(judge: Judge, seat: Seat) -> None:
    await judge.run(seat.case, seat, CLIENT_S)
    seat.leave()
    seat.partner.leave()

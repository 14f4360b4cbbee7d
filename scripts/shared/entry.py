"""How a script's program is started, interrupted and held to a deadline: as a KeyboardInterrupt in its main thread.

Python and trio know how to end by that one exception wherever the program is (in a call, waiting for a child, in any
task), and what was begun is cleared up by context managers on the way. So SIGTERM and SIGHUP become one, and so does a
deadline; ``run`` and ``within`` tell them apart again by what they have noted.

    def main() -> int: ...
    if __name__ == "__main__":
        entry.run(main)
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class OverdueError(Exception):
    """A block of ``within`` took too long; the text says how long it was given."""


def run(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and exit with its result.

    By SIGINT, SIGTERM or SIGHUP: with the one line "interrupted" on stderr and code 130, 143 or 129, after the context
    managers. A second SIGTERM or SIGHUP does not disturb the clearing up; a second Ctrl-C cuts it short. SIGHUP stays
    ignored where it is (nohup).
    """
    caught: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        caught.append(number)
        signal.raise_signal(signal.SIGINT)

    # A shell without job control starts what stands before an & with SIGINT ignored; then nothing would get through.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in STOPS[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        code = main()
    except BaseException as error:
        if not _interrupts(error):
            raise
        # It may have come between the making of a coroutine and its first step; the error holds these.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        print("interrupted", file=sys.stderr)
        code = 128 + (caught or [signal.SIGINT])[0]
    sys.exit(code)


def hold_stops() -> None:
    """What stops us waits, while something is made that would be left behind; ``take_stops`` inside the try that clears
    it up. For a program of one thread: any other would take the signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def take_stops() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block, which OverdueError ends when it takes longer. In the main thread only, and not one in another.

    A function that trio runs in a thread is waited for, unless it was started with ``abandon_on_cancel``.
    """
    over = False

    def ring(_: int, __: FrameType | None) -> None:
        nonlocal over
        over = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except BaseException as error:
        if over and _interrupts(error):
            raise OverdueError(f"this was not done within {seconds:.3g} s") from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _interrupts(error: BaseException) -> bool:
    """What else is in the group with the interrupt is what it has brought about."""
    if isinstance(error, BaseExceptionGroup):
        return any(_interrupts(one) for one in error.exceptions)
    return isinstance(error, KeyboardInterrupt)

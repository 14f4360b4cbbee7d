"""Taking the lock of the data directory with patience, by whom holds it.

A daemon that starts or stops holds it for a few seconds without an answer: whoever comes then waits for these. A
command without a daemon may hold it for hours (a backup): whoever comes then says so and waits for its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backrest.errors import LockedError
from backrest.store.lock import DirLock
from backrest.store.paths import Paths

# A daemon has stopped 5 s after it was told to (DESIGN.md, Process).
PATIENCE_S = 6.0
POLL_S = 0.05
# A command at work is waited for, but not into the next day: or a nightly cron's jobs would pile up behind one
# that hangs.
COMMAND_S = 23 * 3600.0


class Patience:
    """How long one caller waits for the lock. ``patience_s`` is for a holder that is no command, from when it was first
    seen; with 0 nothing is waited for. ``say`` gets a sentence for each command that is waited for.
    """

    def __init__(self, patience_s: float, say: Callable[[str], None]) -> None:
        self._patience_s = patience_s
        self._say = say
        self._began = self._since = time.monotonic()
        self._seen: tuple[str, bool] | None = None

    def wait(self, error: LockedError) -> None:
        """A moment; or raises ``error`` when it was long enough."""
        now = time.monotonic()
        holder = (error.holder, error.by_command)
        waits_long = error.by_command and self._patience_s > 0
        if holder != self._seen:
            self._seen, self._since = holder, now
            if waits_long:
                self._say(
                    f"another backrest command ({error.holder}) is at work: waiting for its end, at most "
                    f"{COMMAND_S / 3600:.0f} hours; Ctrl-C ends the waiting"
                )
        ends = self._began + COMMAND_S
        if not waits_long:
            ends = min(ends, self._since + self._patience_s)
        if now >= ends:
            raise error
        time.sleep(POLL_S)


@contextmanager
def held(
    paths: Paths, patience_s: float = PATIENCE_S, say: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """The lock, for the length of a with block. LockedError names who has it."""
    lock = DirLock(paths)
    patience = Patience(patience_s, say)
    while True:
        try:
            lock.acquire()
            break
        except LockedError as error:
            patience.wait(error)
    try:
        yield
    finally:
        lock.release()

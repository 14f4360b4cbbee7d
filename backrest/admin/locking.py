"""Taking the lock of the data directory with a little patience.

A command holds it for a moment, a daemon that was told to stop for a few seconds: whoever comes then should wait, not
fail. Whoever holds it longer (a backup without a daemon) is named.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from backrest.errors import LockedError
from backrest.store.lock import DirLock
from backrest.store.paths import Paths

# A daemon has stopped 5 s after it was told to (DESIGN.md, Process).
PATIENCE_S = 6.0
POLL_S = 0.05


@contextmanager
def held(paths: Paths, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """The lock, for the length of a with block. LockedError names who has it."""
    lock = DirLock(paths)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            lock.acquire()
            break
        except LockedError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()

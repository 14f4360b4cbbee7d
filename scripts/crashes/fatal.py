"""Disks for those that are killed, and for who looks at it: nobody's power fails, so nothing is synced.

The system keeps what a killed process wrote, synced or not, so a sync cannot matter here, and takes the time of all the
rest together.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from backrest.store import syscalls


class Unsynced(syscalls.Disk):
    def fsync(self, fd: int) -> None:
        pass

    def fsync_dir(self, path: str) -> None:
        pass


class Fatal(Unsynced):
    """Kills its process at the step ``at``: "before" it, "behind" it, or "within" it, if it is a write."""

    def __init__(self, at: int, how: str) -> None:
        self._left = at
        self._how = how

    def _step(self) -> bool:
        self._left -= 1
        fatal = (
            self._left <= 0
        )  # also the one after it, when that one failed, as opening a new file does at first
        if fatal and self._how == "before":
            _die()
        return fatal

    def _done(self, fatal: bool) -> None:
        if fatal:
            _die()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fatal = self._step()
        fd = super().open(path, flags, mode)
        self._done(fatal)
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        fatal = self._step()
        if fatal and self._how == "within":
            super().write(fd, bytes(data[: len(data) // 2]), offset)
            _die()
        count = super().write(fd, data, offset)
        self._done(fatal)
        return count

    def truncate(self, fd: int, length: int) -> None:
        fatal = self._step()
        super().truncate(fd, length)
        self._done(fatal)

    def fsync(self, fd: int) -> None:
        self._done(self._step())

    def fsync_dir(self, path: str) -> None:
        self._done(self._step())

    def rename(self, source: str, target: str) -> None:
        fatal = self._step()
        super().rename(source, target)
        self._done(fatal)

    def link(self, source: str, target: str) -> None:
        fatal = self._step()
        super().link(source, target)
        self._done(fatal)

    def unlink(self, path: str) -> None:
        fatal = self._step()
        super().unlink(path)
        self._done(fatal)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")

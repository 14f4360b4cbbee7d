"""One disk for each machine of the simulated month, below the one that the stores see.

Each records what is done to it (store_medium.py), does not really sync, and can call somebody in the middle of a step:
who copies a file in use, or pulls the plug. When the power fails, what was not synced is there, is not, or is there in
part; a process that is killed leaves all that it wrote.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from store_disk import REAL
from store_medium import Medium, Recorder, State

from backrest.store.syscalls import Disk


class MachineDisk(Recorder):
    """Records what one machine does, and calls somebody in the middle of a chosen step."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._steps = 0
        self._call: Callable[[], None] | None = None

    def in_steps(self, steps: int, call: Callable[[], None]) -> None:
        """Call in the middle of the step behind so many others; only the last such wish counts."""
        self._steps, self._call = steps, call

    def _due(self) -> Callable[[], None] | None:
        if self._call is None:
            return None
        if self._steps:
            self._steps -= 1
            return None
        call, self._call = self._call, None
        return call

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        call = self._due()
        if call is None:
            return super().write(fd, data, offset)
        count = super().write(fd, data[: (len(data) + 1) // 2], offset)
        call()
        return count  # the writer goes on with the rest

    def fsync(self, fd: int) -> None:
        if call := self._due():
            call()
        super().fsync(fd)

    def fsync_dir(self, path: str) -> None:
        if call := self._due():
            call()
        super().fsync_dir(path)

    def rename(self, source: str, target: str) -> None:
        if call := self._due():
            call()
        super().rename(source, target)

    def left(self, events: int, chance: random.Random | None) -> State:
        """What is there behind the first so many events: all of it, or by chance less of what was not synced."""
        medium = Medium(self)
        for event in self.events[:events]:
            medium.take(event)
        states = medium.states(chance or random.Random(1), 3)
        if chance is None:
            return next(states)
        found = list(states)
        # The extremes stand in front, the mixtures behind; between them is much of which little is missing.
        return chance.choice([*found[:2], found[-1], chance.choice(found)])


class Disks(Disk):
    """The one disk that the stores see: it knows by the path, or the open file, whose it is."""

    def __init__(self) -> None:
        self._disks: dict[str, MachineDisk] = {}
        self._open: dict[int, Disk] = {}

    def put_in(self, root: Path) -> MachineDisk:
        """A disk with what is below ``root`` now, all of it safe."""
        disk = self._disks[os.path.realpath(root)] = MachineDisk(root)
        return disk

    def close_all(self, disk: MachineDisk) -> None:
        """As the kernel does for a process that is gone."""
        for fd in [fd for fd, whose in self._open.items() if whose is disk]:
            self.close(fd)

    def _of(self, path: str) -> Disk:
        path = os.path.abspath(path) + os.sep
        return next((disk for root, disk in self._disks.items() if path.startswith(root + os.sep)), REAL)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        disk = self._of(path)
        fd = disk.open(path, flags, mode)
        self._open[fd] = disk
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return self._open[fd].write(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._open[fd].truncate(fd, length)

    def fsync(self, fd: int) -> None:
        self._open[fd].fsync(fd)

    def close(self, fd: int) -> None:
        self._open.pop(fd).close(fd)

    def fsync_dir(self, path: str) -> None:
        self._of(path).fsync_dir(path)

    def rename(self, source: str, target: str) -> None:
        self._of(source).rename(source, target)

    def link(self, source: str, target: str) -> None:
        self._of(source).link(source, target)

    def unlink(self, path: str) -> None:
        self._of(path).unlink(path)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        self._of(path).mkdir(path, mode)

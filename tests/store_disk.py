"""A disk that records each change, fails a chosen one, or dies at it; for the tests of the stores."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backrest.store import syscalls
from backrest.store.syscalls import Disk

REAL = Disk()


class Died(BaseException):
    """The machine lost its power at this step: nothing after it happens, clean-up included."""


class TestDisk(Disk):
    """``at`` is the number of the step at which ``fault`` is raised; a fatal one is raised ever after."""

    __test__ = False

    def __init__(self, at: int | None = None, fault: Callable[[], BaseException] = Died) -> None:
        self.steps: list[tuple[str, Any]] = []
        self.at = at
        self.fault = fault
        self.dead = False
        self.failing = True

    def _step(self, name: str, what: Any) -> None:
        if self.dead:
            raise Died
        self.steps.append((name, what))
        if self.failing and self.at == len(self.steps) - 1:
            error = self.fault()
            self.dead = isinstance(error, Died)
            if name == "write" and isinstance(what, tuple):  # a torn write: the first half is there
                fd, data, offset = what
                REAL.write(fd, bytes(data[: len(data) // 2]), offset)
            raise error

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._step("open", path)
        return REAL.open(path, flags, mode)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self._step("write", (fd, data, offset))
        return REAL.write(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._step("truncate", length)
        REAL.truncate(fd, length)

    def fsync(self, fd: int) -> None:
        self._step("fsync", fd)
        REAL.fsync(fd)

    def fsync_dir(self, path: str) -> None:
        self._step("fsync_dir", path)
        REAL.fsync_dir(path)

    def rename(self, source: str, target: str) -> None:
        self._step("rename", (source, target))
        REAL.rename(source, target)

    def link(self, source: str, target: str) -> None:
        self._step("link", (source, target))
        REAL.link(source, target)

    def unlink(self, path: str) -> None:
        self._step("unlink", path)
        REAL.unlink(path)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        self._step("mkdir", path)
        REAL.mkdir(path, mode)

    def close(self, fd: int) -> None:
        REAL.close(fd)  # also when dead: the kernel closes what a killed process had open

    def names(self) -> list[str]:
        return [name for name, _ in self.steps]


@contextmanager
def using(disk: Disk) -> Iterator[None]:
    before, syscalls.disk = syscalls.disk, disk
    try:
        yield
    finally:
        syscalls.disk = before


class FullDisk(Disk):
    """Nothing more can be written while it is ``full``; what needs no room (to rename, to remove) can be done."""

    def __init__(self) -> None:
        self.full = True

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.full:
            raise full_disk()
        return REAL.write(fd, data, offset)


class NoRoomForConfig(Disk):
    """The configuration can be written so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if re.search(r"/\.config\.json\.[0-9a-f]+\.tmp$", path):
            if not self.times:
                raise full_disk()
            self.times -= 1
        return super().open(path, flags, mode)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken_disk() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


@contextmanager
def largest_file(size: int, pid: int = 0) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, with what fits written: the system's own fault."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def count_steps(work: Callable[[], object]) -> int:
    """How many changes of the file system ``work`` makes."""
    disk = TestDisk()
    with using(disk):
        work()
    return len(disk.steps)


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below the directory, with its content."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }

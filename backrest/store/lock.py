"""One process for each data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType

from backrest.errors import LockedError
from backrest.store import syscalls
from backrest.store.paths import Paths, private_dir
from backrest.store.syscalls import storage_error, write_all


class DirLock:
    """One process works on a data directory: an flock on its file ``lock``. Use as a context manager.

    The kernel releases it however the process ends, and programs that we start do not inherit it. The file
    itself stays: removing it would let two processes lock two files of the same name.
    Cannot promise: anything between machines on a network file system without locks.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock, making the directory when it is absent. LockedError names the holder."""
        if self._fd >= 0:
            raise LockedError(f"This process has locked {self._paths.data_dir} already.")
        private_dir(self._paths.data_dir)
        path = os.fspath(self._paths.lock)
        while True:
            try:
                fd = syscalls.disk.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise storage_error("open", path, error) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The file may have been removed and made anew between open and flock.
                if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                    break
            except BlockingIOError:
                holder = _pid_in(fd)
                syscalls.disk.close(fd)
                raise LockedError(
                    f"Another backrest process ({holder}) works on {self._paths.data_dir}: "
                    f"stop it, or give another --data-dir."
                ) from None
            except OSError as error:
                syscalls.disk.close(fd)
                raise storage_error("lock", path, error) from error
            syscalls.disk.close(fd)
        self._fd = fd
        with contextlib.suppress(OSError):  # only a help for people: a full disk must not stop us here
            syscalls.disk.truncate(fd, 0)
            write_all(fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Give it up. Releasing twice is allowed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                syscalls.disk.truncate(fd, 0)
            syscalls.disk.close(fd)

    def __enter__(self) -> DirLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _pid_in(fd: int) -> str:
    text = os.pread(fd, 32, 0).strip()
    return f"pid {int(text)}" if text.isdigit() else "pid unknown"

"""One process for each data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType

from backrest.errors import LockedError, StorageError
from backrest.store import syscalls
from backrest.store.paths import Paths, private_dir
from backrest.store.syscalls import read_file, storage_error, write_all


class DirLock:
    """One process works on a data directory: an flock on its file ``lock``, and on the directory itself, for people
    who remove the file to get rid of a lock. Use as a context manager.

    The kernel releases it however the process ends, and programs that we start do not inherit it. The file
    itself stays: its name is that of the holder.
    Cannot promise: anything between machines on a network file system without locks.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._fds: list[int] = []  # of the file, and of the directory

    def acquire(self) -> None:
        """Take the lock, making the directory when it is absent. LockedError names the holder."""
        if self._fds:
            raise LockedError(f"This process has locked {self._paths.data_dir} already.")
        private_dir(self._paths.data_dir)
        path = os.fspath(self._paths.lock)
        try:
            self._lock_file(path)
            self._lock_directory()
        except BlockingIOError:
            self._close()
            raise LockedError(
                f"Another backrest process ({_holder(path)}) works on {self._paths.data_dir}: "
                f"stop it, or give another --data-dir."
            ) from None
        except OSError as error:
            self._close()
            raise storage_error("lock", path, error) from error
        with contextlib.suppress(OSError):  # only a help for people: a full disk must not stop us here
            syscalls.disk.truncate(self._fds[0], 0)
            write_all(self._fds[0], b"%d\n" % os.getpid(), 0)

    def _lock_file(self, path: str) -> None:
        while True:
            self._fds = [syscalls.disk.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)]
            fcntl.flock(self._fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed and made anew between open and flock.
            if os.path.exists(path) and os.path.samestat(os.fstat(self._fds[0]), os.stat(path)):
                return
            self._close()

    def _lock_directory(self) -> None:
        self._fds.append(syscalls.disk.open_to_read(os.fspath(self._paths.data_dir), os.O_DIRECTORY))
        try:
            fcntl.flock(self._fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a network file system, which locks only what is open for writing: the file must do
            pass

    def release(self) -> None:
        """Give it up. Releasing twice is allowed."""
        if self._fds:
            with contextlib.suppress(OSError):
                syscalls.disk.truncate(self._fds[0], 0)
            self._close()

    def _close(self) -> None:
        for fd in reversed(self._fds):
            syscalls.disk.close(fd)
        self._fds = []

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


def _holder(path: str) -> str:
    """For people: what the holder wrote into the file."""
    text = b""
    with contextlib.suppress(OSError, StorageError):  # the lock is held, whatever the disk makes of its file
        text = read_file(path, 32).strip()
    return f"pid {int(text)}" if text.isdigit() else "pid unknown"

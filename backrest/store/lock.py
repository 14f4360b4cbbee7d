"""One process for each data directory: of this program, or of the Go program, which has the same default directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from backrest.errors import LockedError, StorageError
from backrest.store import syscalls
from backrest.store.paths import Paths, private_dir
from backrest.store.syscalls import leave_to_owner, read_file, storage_error, write_all


class DirLock:
    """One process works on a data directory: an flock on its file ``lock``, and on the directory itself, for people
    who remove the file to get rid of a lock. Use as a context manager.

    And an flock on the Go program's lock file: the one that starts beside the other would take its sessions with the
    same key and send an empty manifest, and the hubs would delete this machine's history. So neither starts.

    The kernel releases it however the process ends, and programs that we start do not inherit it. The file
    itself stays: its name is that of the holder.
    Cannot promise: anything between machines on a network file system without locks.
    """

    def __init__(self, paths: Paths, *, command: bool = False) -> None:
        """``command``: who takes it is a command without a daemon; the file says so to those who wait."""
        self._paths = paths
        self._says = b"%d command\n" if command else b"%d\n"
        self._fds: list[int] = []  # of the file, of the directory, and of the Go program's file

    def acquire(self) -> None:
        """Take the lock, making the directory when it is absent. LockedError names the holder."""
        if self._fds:
            raise LockedError(f"This process has locked {self._paths.data_dir} already.")
        private_dir(self._paths.data_dir)
        path = os.fspath(self._paths.lock)
        try:
            self._fds.append(_lock_file(path))
            self._lock_directory()
        except BlockingIOError:
            self._close()
            holder, by_command = _holder(path)
            raise LockedError(
                f"Another backrest process ({holder}) works on {self._paths.data_dir}: "
                f"stop it, or give another --data-dir.",
                holder=holder,
                by_command=by_command,
            ) from None
        except OSError as error:
            self._close()
            raise storage_error("lock", path, error) from error
        try:
            self._fds.append(lock_reference(self._paths.reference_lock))
        except BaseException:
            self._close()
            raise
        with contextlib.suppress(OSError):  # only a help for people: a full disk must not stop us here
            syscalls.disk.truncate(self._fds[0], 0)
            write_all(self._fds[0], self._says % os.getpid(), 0)

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


def lock_reference(path: str | os.PathLike[str]) -> int:
    """Take the lock of the Go program's operation log, making its file when it is absent; the descriptor that holds it.
    LockedError: that program runs."""
    try:
        return _lock_file(os.fspath(path))
    except BlockingIOError:
        raise LockedError(
            f"The Go program (Backrest) is running on {os.path.dirname(os.path.abspath(path))}: stop it first, or give "
            "another --data-dir."
        ) from None
    except OSError as error:
        raise storage_error("lock", path, error) from error


@contextmanager
def reference_at_rest(paths: Paths, log: str | os.PathLike[str]) -> Iterator[None]:
    """While the Go program's operation log ``log`` is read, wherever it is. The caller holds the lock of ``paths``.
    LockedError: that program runs."""
    theirs = f"{os.path.abspath(log)}.lock"
    ours = os.fspath(paths.reference_lock)
    if not os.path.exists(theirs) or (os.path.exists(ours) and os.path.samefile(theirs, ours)):
        yield
        return
    fd = lock_reference(theirs)
    try:
        yield
    finally:
        syscalls.disk.close(fd)


def _lock_file(path: str) -> int:
    """The descriptor of the file, made when it is absent, with the lock on it. OSError; BlockingIOError: it is held."""
    while True:
        fd = syscalls.disk.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            leave_to_owner(fd, path)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            syscalls.disk.close(fd)
            raise
        # The file may have been removed and made anew between open and flock.
        if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
        syscalls.disk.close(fd)


def _holder(path: str) -> tuple[str, bool]:
    """What the holder wrote into the file: its name for people, and whether it is a command."""
    text = b""
    with contextlib.suppress(OSError, StorageError):  # the lock is held, whatever the disk makes of its file
        text = read_file(path, 32).strip()
    pid, _, kind = text.partition(b" ")
    return (f"pid {int(pid)}", kind == b"command") if pid.isdigit() else ("pid unknown", False)

"""How files change: whole files are replaced, logs are appended to.

Rules: a directory of ours is 0700 and a file 0600 from the moment it exists (the mode is given to the
system call that creates it, so that there is no moment in which another user could open it). Whole files
are replaced, never rewritten; logs are only appended to. What fails raises StorageError with one sentence
and leaves the old content in place. The system calls stand in syscalls.py, so that tests can fail them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
import zlib
from collections.abc import Iterable

from backrest.errors import StorageError, TooLargeError
from backrest.store import syscalls
from backrest.store.lock import DirLock
from backrest.store.paths import Paths, private_dir
from backrest.store.syscalls import leave_to_owner, read_at, read_file, storage_error, write_all

__all__ = [
    "AppendFile",
    "DirLock",
    "Paths",
    "atomic_write",
    "check_room",
    "discard",
    "private_dir",
    "read_file",
    "rename_durably",
    "sweep_temps",
    "temp_name",
]

# A temporary file this old belongs to a process that was killed: a write takes seconds at the very most.
STALE_TEMP_S = 600.0


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file by one with this content, mode 0600: readers and crashes see the old or the new one.

    Written beside, synced, renamed, directory synced; on return the content survives a power cut. A symbolic
    link stays, and the file that it points to is replaced. On failure: StorageError, the old content in place
    and no temporary file left, even when only the last step (the directory's sync) failed. TooLargeError: nobody could
    read it again.
    Cannot promise: a drive that lies about flushing; hard links of the old file (it is a new file), and its owner,
    unless root writes; one failing disk that also refuses to put the old name back (the error then says so).
    """
    if len(data) > syscalls.MAX_WHOLE_FILE:
        limit = f"{syscalls.MAX_WHOLE_FILE >> 20} MiB"
        raise TooLargeError(
            f"Cannot write {os.fspath(path)}: it would be larger than {limit} and could not be read again; remove some "
            "of what it holds."
        )
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    temp, old = temp_name(target), temp_name(target)
    saved = False
    try:
        _write_new(temp, data, target)
        saved = _keep_old(target, old)
        syscalls.disk.rename(temp, target)
        try:
            syscalls.disk.fsync_dir(directory)
        except OSError as error:
            _put_back(path, target, old, saved, error)
            raise
    except OSError as error:
        raise storage_error("write", path, error) from error
    finally:
        discard(temp)
        if saved:
            discard(old)


def check_room(path: str | os.PathLike[str], size: int) -> None:
    """StorageError when ``atomic_write`` of so many bytes would fail now."""
    temp = temp_name(os.path.realpath(path))
    try:
        _write_new(temp, bytes(size), temp)
    except OSError as error:
        raise storage_error("write", path, error) from error
    finally:
        discard(temp)


def _write_new(path: str, data: bytes, target: str) -> None:
    fd = syscalls.disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        leave_to_owner(fd, target)
        write_all(fd, data, 0)
        syscalls.disk.fsync(fd)
    finally:
        syscalls.disk.close(fd)


def _keep_old(target: str, name: str) -> bool:
    """Give the old file a second name, to go back to it. False: there is none, or no hard links here."""
    try:
        syscalls.disk.link(target, name)
    except OSError:
        return False
    return True


def _put_back(path: str | os.PathLike[str], target: str, old: str, saved: bool, cause: OSError) -> None:
    """The rename was done but may not last: the caller will be told that nothing changed, so undo it."""
    try:
        if saved:
            syscalls.disk.rename(old, target)
        else:
            syscalls.disk.unlink(target)
    except OSError:
        raise StorageError(
            f"{os.fspath(path)} holds the new content, but the disk could not confirm it "
            f"({cause.strerror or cause}): check the disk."
        ) from cause


def temp_name(target: str) -> str:
    """A name beside the file for what is to take its place; ``sweep_temps`` knows the pattern."""
    directory, name = os.path.split(target)
    return os.path.join(directory, f".{name}.{secrets.token_hex(6)}.tmp")


def discard(path: str | os.PathLike[str]) -> None:
    """Remove a file of which nothing depends; that it is not there, or stays, is no error."""
    with contextlib.suppress(OSError):
        syscalls.disk.unlink(os.fspath(path))


def rename_durably(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename within one directory and sync it. The caller has synced the content of ``source``."""
    try:
        syscalls.disk.rename(os.fspath(source), os.fspath(target))
        syscalls.disk.fsync_dir(os.path.dirname(os.path.abspath(target)))
    except OSError as error:
        raise storage_error("replace", target, error) from error


def sweep_temps(path: str | os.PathLike[str], older_than_s: float = STALE_TEMP_S) -> None:
    """Remove what a killed process left beside the file: it may hold secrets, or be as large as the file. Recent ones
    may be in use, unless the caller knows that nobody else works on this file."""
    directory, name = os.path.split(os.path.realpath(path))
    oldest = time.time() - older_than_s
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            ours = entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp")
            if ours and entry.stat(follow_symlinks=False).st_mtime <= oldest:
                discard(entry.path)


class AppendFile:
    """A file that only grows at its end, by steps that are durable when ``append`` returns.

    Not thread-safe: the store that owns it holds its lock. ``length`` is the known good length: what lies
    beyond it is never acknowledged, and is cut off before anything is appended.
    Cannot promise: that another program leaves the file alone (it is noticed at the next append, not before).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open, or create durably with mode 0600. Raises StorageError."""
        self.path = os.fspath(path)
        self._dirty = False
        try:
            self._fd = self._open()
            info = os.fstat(self._fd)
            if not stat.S_ISREG(info.st_mode):
                syscalls.disk.close(self._fd)
                raise StorageError(f"Cannot append to {self.path}: it is not a regular file.")
            if info.st_mode & 0o077:  # made by hand or unpacked: tighten, where the file system knows modes
                with contextlib.suppress(OSError):
                    syscalls.disk.chmod(self._fd, 0o600)
        except OSError as error:
            raise storage_error("open", self.path, error) from error
        self.length = info.st_size
        # CRC-32 of the file up to ``length``, for an owner who has read it and set this; else None
        self.checksum: int | None = None if self.length else 0

    def _open(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return syscalls.disk.open(self.path, os.O_RDWR)
        whole = os.path.realpath(self.path)  # a symbolic link may lead to where the file is to be
        fd = syscalls.disk.open(whole, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            leave_to_owner(fd, whole)
            syscalls.disk.fsync_dir(os.path.dirname(whole))
        except OSError:
            syscalls.disk.close(fd)
            discard(whole)  # or the next time it would be there, and nobody would sync its name
            raise
        return fd

    def take_owner(self, path: str | os.PathLike[str]) -> None:
        """Give the new, still empty file the owner and group of the one whose place it is to take, or which it belongs
        to: what root makes the daemon's user must be able to open. Where that is not allowed nothing changes.
        """
        with contextlib.suppress(OSError):
            there, mine = os.stat(path), os.fstat(self._fd)
            if not mine.st_size and (there.st_uid, there.st_gid) != (mine.st_uid, mine.st_gid):
                syscalls.disk.chown(self._fd, there.st_uid, there.st_gid)

    def append(self, chunks: Iterable[bytes]) -> int:
        """Add the chunks as one step and sync. Returns the offset of the first byte.

        On failure StorageError, and the file is cut back to where it was (if that fails too, before the next
        append). After a failed sync the kernel may have dropped the data while reads still show it, so it is
        never synced again in the hope that it works: it is cut off and would be written anew.
        """
        data = b"".join(chunks)
        self._settle()
        start = self.length
        self._dirty = True  # also when a signal handler's exception ends this half way
        try:
            write_all(self._fd, data, start)
            syscalls.disk.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(StorageError):
                self._settle()
            raise storage_error("append to", self.path, error) from error
        self._dirty = False
        self.length = start + len(data)
        if self.checksum is not None:
            self.checksum = zlib.crc32(data, self.checksum)
        return start

    def check(self) -> None:
        """StorageError when an append would fail before it writes: the file was removed, replaced or changed."""
        self._settle()

    def cut(self, length: int) -> None:
        """Drop what lies behind ``length`` (a torn last line), durably. Raises StorageError."""
        self.length = length
        self.checksum = None
        self._dirty = True
        self._settle()

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer at the end of the file. Safe from any thread."""
        try:
            return read_at(self._fd, size, offset)
        except OSError as error:
            raise storage_error("read", self.path, error) from error

    def _settle(self) -> None:
        """Be sure that the file is ours and ends where we think, or raise StorageError."""
        if self._fd < 0:
            raise StorageError(f"Cannot append to {self.path}: it is closed.")
        try:
            if self._dirty:
                if os.fstat(self._fd).st_size > self.length:
                    syscalls.disk.truncate(self._fd, self.length)
                    syscalls.disk.fsync(self._fd)
                self._dirty = False
            mine, there = os.fstat(self._fd), os.stat(self.path)
        except FileNotFoundError:
            raise StorageError(f"{self.path} was removed while in use: restart the program.") from None
        except OSError as error:
            raise storage_error("append to", self.path, error) from error
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise StorageError(f"{self.path} was replaced while in use: restart the program.")
        if mine.st_size != self.length:
            changed = "shrank" if mine.st_size < self.length else "was written to by another program"
            raise StorageError(f"{self.path} {changed} while in use: restart the program.")

    def close(self) -> None:
        """Close it; what was appended is safe already. Closing twice is allowed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                syscalls.disk.close(fd)

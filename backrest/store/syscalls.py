"""The only place that changes the file system, or reads what is in a file, one method for each system call.

Everything that the stores do to their files goes through the one module-level object ``disk``, so that a test can
put another in its place that records each step, fails one of them, or stops the world between two. Look it up as
``syscalls.disk`` at each use, never import the object itself. What is not here only asks (stat, a directory's names),
and changes nothing that is read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
from typing import Any

from backrest.errors import StorageError, TooLargeError

# No whole-file state of ours comes near this; a path given by mistake (a disk image) must not fill memory. It binds who
# writes as well (files.atomic_write): what was written larger could never be read again.
MAX_WHOLE_FILE = 64 << 20
_PART = 1 << 20  # most of them are read in one go


class Disk:
    """The system calls, one method for each; see the module's text."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """For writing."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def open_to_read(self, path: str, flags: int = 0) -> int:
        """Apart from ``open``, for it changes nothing."""
        return os.open(path, os.O_RDONLY | flags | os.O_CLOEXEC)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """It may give less than was asked for, and gives nothing at the end."""
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fsync(self, fd: int) -> None:
        """Ask for the data to be on the medium. Cannot promise: a drive that lies about its cache."""
        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: a plain fsync stops at the drive's cache
        if full is not None:
            fcntl.fcntl(fd, full)
        else:
            os.fsync(fd)

    def fsync_dir(self, path: str) -> None:
        """Make the names in a directory durable. Cannot promise: file systems that refuse it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        os.mkdir(path, mode)

    def chmod(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def chown(self, fd: int, uid: int, gid: int) -> None:
        os.fchown(fd, uid, gid)

    def set_times(self, path: str, ns: tuple[int, int]) -> None:
        """When it was last read and changed, in nanoseconds."""
        os.utime(path, ns=ns)

    def close(self, fd: int) -> None:
        os.close(fd)


disk = Disk()

_REASONS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reported an input/output error",
    errno.EISDIR: "it is a directory",
    errno.ELOOP: "its symbolic links go in a circle",
}


def storage_error(action: str, path: str | os.PathLike[str], error: OSError) -> StorageError:
    """One sentence for a failed system call: what was tried, on which path, and why it failed."""
    reason = _REASONS.get(error.errno or 0) or (error.strerror or str(error) or "unknown error").lower()
    return StorageError(f"Cannot {action} {os.fspath(path)}: {reason}.")


def leave_to_owner(fd: int, path: str | os.PathLike[str]) -> None:
    """Give what was just made, and is open as ``fd``, to whom ``path`` belongs, or is to belong: what is there by that
    name, unless it is root's; else its directory. For root, who runs a command once: the daemon's user could not open
    what root's commands leave. Where it is not allowed nothing changes.
    """
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        mine = os.fstat(fd)
        for place in (path, os.path.dirname(os.path.realpath(path))):
            with contextlib.suppress(FileNotFoundError):
                owner = os.stat(place)
                if owner.st_uid and not os.path.samestat(owner, mine):
                    break
        else:
            return
        if (owner.st_uid, owner.st_gid) != (mine.st_uid, mine.st_gid):
            disk.chown(fd, owner.st_uid, owner.st_gid)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it at the offset: a single write call may store less than it was given."""
    view = memoryview(data)
    while view:
        count = disk.write(fd, view, offset)
        if count <= 0:
            raise OSError(errno.EIO, "nothing was written")
        view = view[count:]
        offset += count


def read_at(fd: int, size: int, offset: int) -> bytes:
    """So many bytes from the offset, fewer only at the end of the file. OSError."""
    parts = []
    while size > 0 and (part := disk.read(fd, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def open_plain(path: str | os.PathLike[str]) -> int:
    """A file descriptor to read a plain file. FileNotFoundError when it is absent; StorageError when it is something
    else, or cannot be opened."""
    try:
        # O_NONBLOCK: a named pipe put in the place of a file must not hold the program up.
        fd = disk.open_to_read(os.fspath(path), os.O_NONBLOCK)
        mode = os.fstat(fd).st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    if not stat.S_ISREG(mode):
        os.close(fd)
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise StorageError(f"Cannot read {os.fspath(path)}: it is {kind}.")
    return fd


class _FromStart(io.RawIOBase):
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._place = 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def readinto(self, buffer: Any) -> int:
        part = disk.read(self._fd, len(buffer), self._place)
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def lines_of(path: str | os.PathLike[str]) -> io.BufferedReader:
    """The file, to be read line by line from its start. Raises as ``open_plain``, and later on OSError."""
    return io.BufferedReader(_FromStart(open_plain(path)), 1 << 16)


def read_file(path: str | os.PathLike[str], limit: int = MAX_WHOLE_FILE) -> bytes:
    """The whole content of a plain file of at most ``limit`` bytes.

    FileNotFoundError when it is absent; TooLargeError when it is larger; StorageError when it is something else, or
    cannot be read.
    """
    try:
        fd = open_plain(path)
        try:
            data = bytearray()
            while len(data) <= limit and (part := disk.read(fd, _PART, len(data))):
                data += part
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    if len(data) > limit:
        raise TooLargeError(f"Cannot read {os.fspath(path)}: it is larger than {limit >> 20} MiB.")
    return bytes(data)

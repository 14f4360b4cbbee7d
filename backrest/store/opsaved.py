"""The index of the operation log, saved in oplog.index beside oplog.jsonl: so a long log opens in a second.

It is a cache. The log alone is the truth, and what opening it says and holds does not depend on this file: it may
be missing, torn, older, or belong to another log. It counts only while the log begins with the very bytes of which
it is the index: it names their number and their CRC-32, both are compared at each opening, and all that follows
them is read from the log. So no edit, copy, restored backup or crash can make an operation come or go by it; and
damage of the log is found as ever: it changes the checksum, and then the whole log is read, which names the line.
The checksum is that of the bytes that were parsed or appended (AppendFile keeps it), never of what the disk held
later. That two different logs of one length have one CRC-32 happens by chance once in four billion edits.

The file: a line of JSON, which says what follows; the columns and maps of the index as they are in memory; and
the CRC-32 of all that, for a file that was half written. There is nothing in it that is not in the log. It is
replaced as a whole, but not synced: what a power cut makes of it is found by that checksum.
"""

from __future__ import annotations

import logging
import os
import sys
import zlib
from array import array
from typing import Any

import orjson

from backrest.errors import StorageError
from backrest.store import syscalls
from backrest.store.files import AppendFile, discard, temp_name
from backrest.store.opformat import KINDS, STATUSES
from backrest.store.opindex import Index, Meta, Origin
from backrest.store.opload import BLOCK, Progress
from backrest.store.sortedmap import SortedMap
from backrest.store.syscalls import leave_to_owner, read_at, storage_error, write_all

log = logging.getLogger(__name__)

# Of the log that the saved index does not cover: what is read in a fifth of a second, or in an eighth of the time
# that the whole log takes. So it is written rarely, and opening is never much slower than with a fresh one.
WORTH_BYTES = 16 << 20
_WORTH_PART = 8
# Room that must be left on the disk: operations are worth more than the time that this saves.
_ROOM = 64 << 20

# Any other value means another program wrote it, for which a line may have meant something else. What the index
# keeps of a line, or how, must not change without a new number here.
_FORMAT = {
    "oplogIndex": 2,
    "byteOrder": sys.byteorder,
    "columns": "".join(column.typecode for column in Index().columns()),
    "itemSizes": [column.itemsize for column in Index().columns()],
    "kinds": KINDS,
    "statuses": STATUSES,
}
_CRC = 4  # bytes


def is_worth(length: int, covered: int) -> bool:
    """Whether to save the index of a log of so many bytes, when the saved one covers so many."""
    return length - covered > max(WORTH_BYTES, covered // _WORTH_PART)


def path_of(log: str) -> str:
    """Where the index of this log is saved: beside the file itself, when there is a symbolic link to it."""
    path = os.path.realpath(log)
    return path.removesuffix(".jsonl") + ".index"


class Image:
    """All that is saved of an index, as it is now: so many bytes are copied, for the index may change meanwhile."""

    def __init__(self, index: Index, length: int, checksum: int) -> None:
        self.length = length
        maps = [(origin.rows.arrays(), origin.flows.arrays()) for origin in index.origins.values()]
        header = _FORMAT | {
            "length": length,
            "crc32": checksum,
            "rows": len(index.ids),
            "groups": list(map(list, index.metas[1:])),
            "origins": [
                (keyid, origin.count, origin.bytes, len(rows[0]), len(flows[0]))
                for (keyid, origin), (rows, flows) in zip(index.origins.items(), maps, strict=True)
            ],
            "highestId": index.highest_id,
            "highestModno": index.highest_modno,
            "live": index.live,
            "liveBytes": index.live_bytes,
        }
        arrays = [*index.columns(), *(part for both in maps for pair in both for part in pair)]
        self._data = b"".join((orjson.dumps(header), b"\n", *arrays))

    def write(self, log: str) -> None:
        """Make it the saved index of this log. StorageError, with the one before in place."""
        path = path_of(log)
        temporary = temp_name(path)
        try:
            disk = os.statvfs(os.path.dirname(path))
            if disk.f_bavail * disk.f_frsize < len(self._data) + _ROOM:
                raise StorageError(f"Cannot write {path}: there is little room left on the disk.")
            fd = syscalls.disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                leave_to_owner(fd, log)
                write_all(fd, self._data, 0)
                write_all(fd, zlib.crc32(self._data).to_bytes(_CRC, "big"), len(self._data))
            finally:
                syscalls.disk.close(fd)
            syscalls.disk.rename(temporary, path)
        except OSError as error:
            raise storage_error("write", path, error) from error
        finally:
            discard(temporary)


def load(file: AppendFile, progress: Progress | None) -> tuple[Index, int, int] | None:
    """(index of the log's beginning, length and CRC-32 of that), or None: the log is to be read from its start.

    An index that does not belong to this log is removed. When the disk fails it stays: reading the log alone will tell.
    """
    path = path_of(file.path)
    try:
        # O_NONBLOCK: a named pipe put in its place must not hold the program up.
        fd = syscalls.disk.open_to_read(path, os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    saved = _Reader(fd)
    try:
        header = _header(saved)
        if header is not None and _belongs(header, file, progress):
            return _index(header, saved), header["length"], header["crc32"]
    except (
        OSError,
        StorageError,
    ) as error:  # the disk fails: the log alone must do, and what is saved next replaces it
        log.info("%s is not used: %s", path, error)
        return None
    except Exception as error:  # somebody else wrote it
        log.info("%s cannot be read: %s", path, error)
    finally:
        os.close(fd)
    discard(path)
    return None


class _Reader:
    """The file from its start on. Raises OSError, or ValueError where it ends too early."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.place = 0
        self.size = os.fstat(fd).st_size

    def take(self, size: int) -> bytes:
        part = read_at(self._fd, size, self.place)
        if len(part) < size:
            raise ValueError("it is cut short")
        self.place += size
        return part


def _header(saved: _Reader) -> dict[str, Any] | None:
    """What a file says of itself that is whole, and of this program's making; what follows is read next."""
    checksum, first = 0, b""
    while (left := saved.size - _CRC - saved.place) > 0:
        part = saved.take(min(BLOCK, left))
        checksum = zlib.crc32(part, checksum)
        if b"\n" not in first:
            first += part
    if saved.take(_CRC) != checksum.to_bytes(_CRC, "big"):
        return None
    line = first[: first.find(b"\n") + 1]
    saved.place = len(line)
    header = orjson.loads(line)
    return header if header.items() >= _FORMAT.items() else None


def _belongs(header: dict[str, Any], file: AppendFile, progress: Progress | None) -> bool:
    """Whether the log begins with what this is the index of. The whole of it is read: a second for a million lines."""
    length, checksum, position = header["length"], 0, 0
    while position < length and (part := file.read(position, min(BLOCK, length - position))):
        checksum = zlib.crc32(part, checksum)
        position += len(part)
        if progress is not None:
            progress(position, file.length)
    return bool(position == length and checksum == header["crc32"])


def _index(header: dict[str, Any], saved: _Reader) -> Index:
    index = Index()
    for column in index.columns():
        column.frombytes(saved.take(header["rows"] * column.itemsize))
    for keyid, count, size, rows, flows in header["origins"]:
        origin = index.origins.setdefault(keyid, Origin())
        origin.count, origin.bytes = count, size
        origin.rows, origin.flows = _map(saved, rows), _map(saved, flows)
    for group in header["groups"]:
        index.group(Meta(*group))
    index.highest_id, index.highest_modno = header["highestId"], header["highestModno"]
    index.live, index.live_bytes = header["live"], header["liveBytes"]
    return index


def _map(saved: _Reader, count: int) -> SortedMap:
    keys, values = array("q"), array("q")
    for part in (keys, values):
        part.frombytes(saved.take(count * part.itemsize))
    return SortedMap.of(keys, values)

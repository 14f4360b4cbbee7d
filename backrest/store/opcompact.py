"""Writing the log anew without what is no longer needed, while others read and write it.

First what lives is copied beside, in the order of the ids, from the file as it was at one moment (opsnapshot.py), and
an index is made of that; then what was appended meanwhile, as it stands. Only the last of that and the rename happen
under the lock of the commits. Readers who are still in the old file keep it open. A crash before the rename leaves
the old file and a temporary one that is swept up later; after it, the new one.
"""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from backrest.errors import StorageError
from backrest.store.files import AppendFile, temp_name
from backrest.store.opfile import by_bytes, read_lines
from backrest.store.opformat import mark
from backrest.store.opload import BLOCK, Progress
from backrest.store.opsnapshot import Snapshot
from backrest.store.syscalls import storage_error

# Lines copied, and synced, at a time: some 3 MiB, and not far above 8. A sync of hundreds of MiB at once would hold up
# all others.
_LINES = 4096
_LINES_BYTES = 8 << 20
# What is left to copy when the writers are made to wait: milliseconds.
CATCH_UP = 1 << 20
# Compaction by itself: when more than half of the file is dead, and so much that it is worth the writing.
WORTH_BYTES = 16 << 20
# A file with so many times that dead must not grow on behalf of a peer: one that updates an operation a million times
# would fill the disk before anybody looks.
_OVERDUE = 3
# Rounds of catching up with those who write on; then they wait, however much is left.
MOST_ROUNDS = 8
_SHRANK = "%s shrank while in use: restart the program."
# Room that must be left on the disk, besides what is written: the operations that come meanwhile need it.
_ROOM = 16 << 20


def is_worth(size: int, needed: int) -> bool:
    """Whether a file of so many bytes, of which so many are needed, should be compacted."""
    return size - needed > max(WORTH_BYTES, needed)


def is_overdue(size: int, needed: int) -> bool:
    """Whether it must be, before peers write more into it."""
    return size - needed > _OVERDUE * max(WORTH_BYTES, needed)


@dataclass(frozen=True, slots=True)
class Compacted:
    """Bytes of the file before and after."""

    before: int
    after: int


def temporary(path: str) -> str:
    """The name of the new file until it takes the old one's place."""
    return temp_name(os.path.realpath(path))


def check_room(action: str, path: str, needed: int) -> None:
    """Refuse to ("compact", "repair") before the disk is full rather than after: then nobody could write."""
    try:
        disk = os.statvfs(os.path.dirname(os.path.realpath(path)))
    except OSError as error:
        raise storage_error(action, path, error) from error
    if disk.f_bavail * disk.f_frsize < needed + _ROOM:
        raise StorageError(
            f"Cannot {action} {path}: the disk has less than {(needed + _ROOM) >> 20} MiB left."
        )


class Source(Protocol):
    """What is read from: an AppendFile, or a file that is only looked at."""

    path: str

    def read(self, offset: int, size: int) -> bytes: ...


def write(
    source: Source,
    target: AppendFile,
    places: Iterable[tuple[int, int]],
    highest: tuple[int, int],
    progress: Callable[[int], None] | None,
) -> array[int]:
    """Write a first mark and the lines at these (offset, length). Where each now begins, in that order."""
    target.append([mark(*highest)])
    offsets = array("q")
    for batch in by_bytes(places, _LINES, _LINES_BYTES):
        offsets.extend(_copy_batch(source, target, batch))
        if progress is not None:
            progress(len(offsets))
    return offsets


def copy_live(source: Source, target: AppendFile, snap: Snapshot, progress: Progress | None) -> array[int]:
    """The lines of the snapshot. Where each now begins, in the snapshot's order."""
    tell = None if progress is None else (lambda done: progress(done, snap.live))
    return write(source, target, snap.places(), snap.highest, tell)


def checksum(
    source: Source, start: int, end: int, before: int, tell: Callable[[], None] = lambda: None
) -> int:
    """The CRC-32 of all up to ``end``, when that of all up to ``start`` is ``before``.

    What was copied must be what was once written, or damage would go on into the new file without a trace, and the
    original be gone.
    """
    while start < end and (part := source.read(start, min(BLOCK, end - start))):
        before = zlib.crc32(part, before)
        start += len(part)
        tell()
    return before


def _copy_batch(source: Source, target: AppendFile, places: list[tuple[int, int]]) -> list[int]:
    old, lengths = zip(*places, strict=True)
    follow = [*accumulate(lengths, _next, initial=old[0])]
    if tuple(follow[:-1]) == old:  # neighbours, as a large commit or a compaction left them
        data = source.read(old[0], follow[-1] - old[0])
        if len(data) != follow[-1] - old[0]:
            raise StorageError(_SHRANK % source.path)
        start = target.append([data])
    else:
        lines = read_lines(source, places)
        if tuple(map(len, lines)) != lengths:
            raise StorageError(_SHRANK % source.path)
        start = target.append([line + b"\n" for line in lines])
    return [*accumulate(lengths[:-1], _next, initial=start)]


def _next(offset: int, length: int) -> int:
    """Where the line behind one of this length begins."""
    return offset + length + 1


def copy_tail(source: Source, target: AppendFile, start: int, end: int) -> int:
    """Append the bytes as they stand. How far it came: ``end``."""
    while start < end:
        part = source.read(start, min(4 << 20, end - start))
        if not part:
            raise StorageError(_SHRANK % source.path)
        target.append([part])
        start += len(part)
    return start

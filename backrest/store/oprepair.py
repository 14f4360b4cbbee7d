"""Looking at a damaged operation log, and making a good one of it; no daemon may be using the file.

``verify`` reads every line as thoroughly as can be. ``repair`` writes the file anew with the lines that count
(opscan.py says which), in the order of the ids, and puts those that do not, as they are, into a file beside it
(oplog.jsonl.bad-<time>). What is lost of a peer's history comes back from the peer at its next manifest.

Both work in a stream; in memory is the index only. They may be stopped by an exception of their ``progress``, and
leave everything as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from heapq import merge

from backrest.errors import StorageError
from backrest.store import opcompact, opload
from backrest.store.files import AppendFile, discard, rename_durably
from backrest.store.opformat import HIGHEST, mark
from backrest.store.opindex import Index
from backrest.store.opload import Progress
from backrest.store.opscan import ReadOnly, Report, Scan

# A line has more bytes than this for each id in it: so many at most can have been in the bad lines. Where a line was
# replaced by a shorter one, it may have been an operation that began a flow of a peer's, which takes two.
_SHORTEST = 60
_IN_ONE = 2
# When the mark at the file's start is lost nobody knows how far the numbers had come. The wall clock in milliseconds is
# above what any log has counted to, as in opcore.modno_of_a_new_log; should it be wrong, this is far, too.
_JUMP = 1_000_000
# Bad lines copied, and synced, at a time.
_CHUNK = 4 << 20
# Of them, how many without a look at whether to stop.
_PIECES = 1024


class _Scan(Scan):
    """A pass over the file, and what the new one is made of."""

    def marks(self) -> tuple[int, int]:
        """High-water marks that no lost line can have exceeded."""
        number = max(self.highest_id, self.index.highest_id, self.moved.highest_id)
        modno = max(self.highest_modno, self.index.highest_modno, self.moved.highest_modno)
        lost = self.lost // _SHORTEST + self.report.aside * _IN_ONE
        if self.report.unmarked:
            now = time.time_ns() // 1_000_000
            number, modno = max(number + _JUMP, now), max(modno + _JUMP, now)
        return min(number + lost, HIGHEST), min(modno + lost, HIGHEST)

    @property
    def lost(self) -> int:
        """Bytes of what does not count."""
        return sum(self.bad_lengths)

    def places(self) -> Iterator[tuple[int, int]]:
        """Where the lines of the live operations are, in the order of their ids."""
        ours = (_places(index) for index in (self.index, self.moved))
        return ((offset, length) for _, offset, length in merge(*ours))

    def set_bad_aside(self) -> str:
        """Copy what does not count, as it is, into a file of its own; its path, "" when there is nothing."""
        if not self.bad_offsets:
            return ""
        path = opload.bad_path(self.file.path)
        try:
            aside = AppendFile(path)
            try:
                aside.take_owner(self.file.path)
                self._copy_bad(aside)
            finally:
                aside.close()
        except BaseException:
            discard(path)
            raise
        return path

    def _copy_bad(self, aside: AppendFile) -> None:
        parts: list[bytes] = []
        size = 0
        for count, place in enumerate(
            sorted(range(len(self.bad_offsets)), key=self.bad_offsets.__getitem__), 1
        ):
            offset, length = self.bad_offsets[place], self.bad_lengths[place]
            end = offset + length
            while offset < end:
                part = self.file.read(offset, min(end - offset, _CHUNK))
                if not part:
                    raise StorageError(f"{self.file.path} shrank while it was read.")
                parts.append(part)
                offset += len(part)
                size += len(part)
                if size >= _CHUNK:
                    aside.append(parts)
                    parts, size = [], 0
                    self.tell(self.report.size)
            if count % _PIECES == 0:
                self.tell(self.report.size)
        if parts:
            aside.append(parts)


def _places(index: Index) -> Iterator[tuple[int, int, int]]:
    return ((index.ids[row], index.offsets[row], index.lengths[row]) for row in index.live_rows())


def _tell(progress: Progress, total: int, done: int) -> None:
    progress(done, total)


def verify(path: str | os.PathLike[str], progress: Progress | None = None) -> Report:
    """Read all of it and change nothing. StorageError when it cannot be read."""
    with ReadOnly(os.fspath(path)) as file:
        return Scan(file, progress).run()


def repair(path: str | os.PathLike[str], progress: Progress | None = None) -> Report:
    """Make the log one that opens, whatever is wrong with it; what it found and where it put the bad lines.

    ``progress`` is told of three ways one after the other: reading, writing anew, and reading that again.
    A log without anything bad is left as it is. On failure (StorageError) the old file is in place, and nothing
    beside it.
    """
    with ReadOnly(os.fspath(path)) as file:
        scan = _Scan(file, progress)
        report = scan.run()
        if not (report.bad_lines or report.torn):
            return report
        opcompact.check_room("repair", file.path, report.needed + scan.lost)
        temporary = opcompact.temporary(file.path)
        new: AppendFile | None = None
        try:
            report.set_aside = scan.set_bad_aside()
            new = AppendFile(temporary)
            new.take_owner(file.path)
            _write(scan, new, progress)
            rename_durably(temporary, os.path.realpath(file.path))
        except BaseException:
            if new is None or os.path.lexists(temporary):  # the old file is in place
                discard(temporary)
                if report.set_aside:
                    discard(report.set_aside)
            raise
        finally:
            if new is not None:
                new.close()
        report.repaired = True
        return report


def _write(scan: _Scan, new: AppendFile, progress: Progress | None) -> None:
    """The new file, and look whether it opens."""
    tell = None if progress is None else partial(_tell, progress, scan.report.operations)
    marks = scan.marks()
    opcompact.write(scan.file, new, scan.places(), marks, tell)
    new.append([mark(*marks)])
    del scan.index, scan.moved  # the memory is needed for the new one
    bad = opload.read_into(Index(), new.read, new.length, progress)
    if bad is not None:
        raise StorageError(f"Cannot repair {scan.file.path}: it was changed meanwhile ({bad.reason}).")

"""Reading oplog.jsonl from its start, in blocks: into the index, and to the end of what can be trusted.

The rules for a line that cannot be read are in opformat.py: behind the last commit it is what a power cut
left of an append that nobody was told about, and is cut off; anywhere else the file is damaged, and a
CorruptError names file, line and reason. What is cut off and was more than a piece of one line is kept.
"""

from __future__ import annotations

import gc
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate

import orjson

from backrest.errors import CorruptError
from backrest.store.files import AppendFile, discard
from backrest.store.opbulk import BATCH, runs, take_all
from backrest.store.opfile import line_number
from backrest.store.opformat import MAX_LINE, SPACE, is_mark, is_mark_line, parse_line
from backrest.store.opindex import Index

log = logging.getLogger(__name__)

#: told (bytes done, bytes in all) now and then
Progress = Callable[[int, int], None]
#: reads (offset, size)
Read = Callable[[int, int], bytes]

# Large enough that a read costs nothing against the parsing, small enough to stay in a processor's cache.
BLOCK = 1 << 20
# A mark has some hundred bytes at most.
_MARK = 4096

# Who meets a damaged log sees only the first bad line, and must learn what can be done.
WAY_OUT = "`backrest oplog verify` lists all that is damaged, `backrest oplog repair` sets it aside"

EMPTY = "the file is empty: its first line is missing"
NO_FIRST_LINE = "the first line is not that of an operation log"
NO_END = "a line that does not end"


@dataclass(frozen=True, slots=True)
class BadLine:
    offset: int
    number: int  # counted from 1
    reason: str


class Blocks:
    """The complete lines of a file, a block at a time: iterate for (offset of the first, lines).

    ``start`` and ``checksum``: only what follows so many bytes, of which that is the CRC-32 (None: nobody asks
    for it). Afterwards ``end`` is where the last complete line ends; what follows it is a piece of a line. A line of
    more than MAX_LINE bytes comes as the bytes that were read so far, and iteration ends there.
    """

    def __init__(self, read: Read, length: int, start: int = 0, checksum: int | None = None) -> None:
        self._read, self._length = read, length
        self.end = self._start = start
        self.checksum = self._checksum = checksum  # of all before ``end``; of all before ``_start``
        self.too_long = False

    def __iter__(self) -> Iterator[tuple[int, list[bytes]]]:
        carry: list[bytes] = []
        waiting = 0
        position = self.end
        while position < self._length:
            block = self._read(position, min(BLOCK, self._length - position))
            if not block:  # the file shrank; the next append notices and says so
                return
            position += len(block)
            if b"\n" not in block:
                carry.append(block)
                waiting += len(block)
                if waiting > MAX_LINE:
                    self.too_long = True
                    return
                continue
            lines = block.split(b"\n")
            if carry:
                lines[0] = b"".join(carry) + lines[0]
            rest = lines.pop()
            waiting = len(rest)
            self._start, self.end = self.end, position - waiting
            self._checksum = self.checksum
            if self.checksum is not None:
                for part in carry:
                    self.checksum = zlib.crc32(part, self.checksum)
                self.checksum = zlib.crc32(memoryview(block)[: len(block) - waiting], self.checksum)
            carry = [rest]
            yield self._start, lines

    def checksum_at(self, offset: int) -> int:
        """The CRC-32 of all before the offset, which is in the last lines that came, or at their end."""
        if offset == self.end or self._checksum is None:
            return self.checksum or 0
        return zlib.crc32(self._read(self._start, offset - self._start), self._checksum)


def load(
    file: AppendFile, progress: Progress | None = None, known: tuple[Index, int, int] | None = None
) -> Index:
    """The index of the file, which afterwards ends where the trusted part ends and is safe on the disk.

    ``known``: the index of the file's beginning, the length of that, and its CRC-32. Raises CorruptError or
    StorageError; the file is then as it was.
    """
    index, start, checksum = known or (Index(), 0, 0)
    blocks = Blocks(file.read, file.length, start, checksum)
    with uncollected():
        bad = _read_all(index, blocks, file.length, progress)
    if bad is None:
        file.append(())  # a sync: lines that a killed process wrote may be in memory only
        file.checksum = blocks.checksum
        return index
    if start:
        bad = replace(bad, number=line_number(file, bad.offset))
    if bad.number == 1 or not is_crash_tail(file.read, file.length, bad):
        raise CorruptError(file.path, bad.number, f"{bad.reason} ({WAY_OUT})")
    size, checksum = file.length - bad.offset, blocks.checksum_at(bad.offset)
    if b"\n" in file.read(bad.offset, min(size, MAX_LINE)):
        kept = set_aside(file, bad.offset)
        log.warning("%s: cut %d bytes of an unfinished write, kept in %s", file.path, size, kept)
    else:
        log.info("%s: cut an unfinished line of %d bytes", file.path, size)
    file.cut(bad.offset)
    file.checksum = checksum
    return index


def read_into(index: Index, read: Read, length: int, progress: Progress | None = None) -> BadLine | None:
    """Put every line into the index, up to the end or the first that does not fit: that one is returned."""
    with uncollected():
        return _read_all(index, Blocks(read, length), length, progress)


def read_on(index: Index, file: AppendFile, start: int) -> BadLine | None:
    """As ``read_into``, from a line in the middle on: for an index of all before it."""
    return _read_all(index, Blocks(file.read, file.length, start), file.length, None)


@contextmanager
def uncollected() -> Iterator[None]:
    """Millions of dicts come and go, none in a cycle: the collector would look for some all the time (8 %)."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _read_all(index: Index, blocks: Blocks, length: int, progress: Progress | None) -> BadLine | None:
    """As ``read_into``. Behind what is in the index already, lines are counted from there."""
    number = 1 if blocks.end else 0
    for start, lines in blocks:
        offset = start
        for first in range(0, len(lines), BATCH):
            some = lines[first : first + BATCH]
            bad = _take_some(index, some, offset, number) if number else _take_first(index, some[0])
            if bad is None and not number:
                bad = _take_some(index, some[1:], len(some[0]) + 1, 1)
            if bad is not None:
                return bad
            number += len(some)
            offset += sum(map(len, some)) + len(some)
        if progress is not None:
            progress(offset, length)
    if blocks.end < length:
        what = NO_END if not blocks.too_long else f"a line of more than {MAX_LINE} bytes"
        return BadLine(blocks.end, number + 1, what)
    if number == 0:
        return BadLine(0, 1, EMPTY)
    return None


def _take_first(index: Index, line: bytes) -> BadLine | None:
    """The first line, which must be a mark."""
    try:
        doc = parse_line(line)
        if not is_mark(doc):
            return BadLine(0, 1, NO_FIRST_LINE)
        index.take(doc, 0, len(line))
    except ValueError as error:
        return BadLine(0, 1, _reason(line, error))
    return None


def _take_some(index: Index, lines: list[bytes], offset: int, number: int) -> BadLine | None:
    """The lines from ``offset`` on, ``number`` lines after the file's start."""
    offsets, lengths = places(lines, offset)
    try:
        docs = list(map(orjson.loads, lines))
    except ValueError:
        docs = []
    for first, last in runs(docs) if docs else [(0, len(lines))]:
        run = slice(first, last)
        taken = take_all(index, docs[run], offsets[run], lengths[run]) if docs else 0
        for position in range(first + taken, last):
            doc, line = docs[position] if docs else None, lines[position]
            try:
                index.take(orjson.loads(line) if doc is None else doc, offsets[position], lengths[position])
            except ValueError as error:
                start = offsets[position] - (len(line) - lengths[position])
                return BadLine(start, number + position + 1, _reason(line, error))
    return None


def places(lines: list[bytes], offset: int) -> tuple[list[int], list[int]]:
    """(offsets, lengths) of lines that stand one after the other from ``offset`` on."""
    lengths = list(map(len, lines))
    offsets = [*accumulate(lengths, lambda place, length: place + length + 1, initial=offset)][:-1]
    for position in [position for position, line in enumerate(lines) if line[:1] == SPACE]:
        offsets[position] += 1  # the space says where a commit began; the line itself is without it
        lengths[position] -= 1
    return offsets, lengths


def _reason(line: bytes, error: ValueError) -> str:
    if isinstance(error, orjson.JSONDecodeError):
        return "not JSON" if line.strip(b" \r\0") else "no text"
    return str(error)[:200]


def is_crash_tail(read: Read, length: int, bad: BadLine) -> bool:
    """Whether no commit began after the bad line, so that it and what follows was never acknowledged."""
    blocks = Blocks(read, length, bad.offset)
    if not _has_commits(read, bad.offset):  # rewritten by another program: the marks of the commits are gone
        return not any(True for _ in blocks) and not blocks.too_long  # only a last line without its end
    first = True
    for _, lines in blocks:
        if any(line[:1] == SPACE and is_mark_line(line) for line in lines[1 if first else 0 :]):
            return False
        first = False
    return not blocks.too_long


def _has_commits(read: Read, end: int) -> bool:
    """Whether the lines before ``end``, where a bad one stands, say where commits began.

    Behind a mark a commit begins, or, behind the first line, what a compaction left, which ends with a mark. Where
    there are other lines, the leading spaces are gone, and nobody knows what was acknowledged.
    """
    if read(0, 1) != SPACE:
        return False
    start = _last_commit(read, end)
    line = read(start, _MARK).partition(b"\n")[0]
    try:
        return not is_mark(parse_line(line)) or start + len(line) + 1 >= end
    except ValueError:
        return True  # an operation


def _last_commit(read: Read, end: int) -> int:
    """Where the last line begins that has a leading space, up to the one at ``end``; 0 when there is none."""
    stop = end
    while stop > 0:
        start = max(stop - BLOCK, 0)
        place = read(start, stop - start + 1).rfind(b"\n ")
        if place >= 0:
            return start + place + 1
        stop = start
    return 0


def set_aside(file: AppendFile, offset: int) -> str:
    """Copy the file from ``offset`` on into a new one beside it; its path. On failure there is none."""
    path = bad_path(file.path)
    try:
        aside = AppendFile(path)
        try:
            while part := file.read(offset, 8 * BLOCK):
                aside.append([part])
                offset += len(part)
        finally:
            aside.close()
    except BaseException:
        discard(path)  # or each start on a full disk would leave one more
        raise
    return path


def bad_path(path: str) -> str:
    """A name beside the log, with the time in UTC, for lines that are set aside."""
    return f"{path}.bad-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 1_000_000:06d}"

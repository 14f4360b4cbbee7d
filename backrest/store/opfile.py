"""The file of the operation log as the threads share it: many read while one appends or compaction swaps it.

A reader holds the file that its offsets belong to until it is done; a file that compaction has replaced is
closed when the last of them lets go.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from backrest.errors import CorruptError, StorageError
from backrest.store.files import AppendFile
from backrest.store.opcut import MOST_BYTES, SPARE, cut
from backrest.store.opformat import Operation, parse_line
from backrest.wire import codec

# Lines this close together are read in one go: a system call costs about as much as copying so many bytes.
_GAP = 4096
_SPAN = 1 << 20  # but not more than this at once: memory


class Reader(Protocol):
    """Anything to read from at an offset."""

    def read(self, offset: int, size: int) -> bytes: ...


class LogFile:
    """An AppendFile with a count of those who read in it."""

    def __init__(self, file: AppendFile) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._readers = 0
        self._retired = False

    def hold(self) -> None:
        """Keep it open. Called under the lock of the log, together with looking up the offsets."""
        with self._lock:
            if self._retired and not self._readers:
                raise StorageError(f"Cannot read {self.file.path}: it is closed.")
            self._readers += 1

    def release(self) -> None:
        with self._lock:
            self._readers -= 1
            self._end()

    def retire(self) -> None:
        """Close it as soon as nobody reads."""
        with self._lock:
            self._retired = True
            self._end()

    def _end(self) -> None:
        if self._retired and not self._readers:
            self.file.close()


def read_lines(file: Reader, places: Sequence[tuple[int, int]]) -> list[bytes]:
    """The lines at these (offset, length), in the order given; neighbours in the file are read together."""
    lines: list[bytes] = [b""] * len(places)
    order = sorted(range(len(places)), key=lambda position: places[position][0])
    group: list[int] = []
    start = end = 0

    def fetch() -> None:
        data = file.read(start, end - start) if group else b""
        for position in group:
            offset, length = places[position]
            lines[position] = data[offset - start : offset - start + length]
        group.clear()

    for position in order:
        offset, length = places[position]
        if group and (offset - end > _GAP or offset + length - start > _SPAN):
            fetch()
        if not group:
            start = offset
        group.append(position)
        end = offset + length
    fetch()
    return lines


def operations(file: AppendFile, ids: Iterable[int], places: Sequence[tuple[int, int]], target: Any) -> None:
    """Add the operations on these lines to ``target``, a message's repeated field. CorruptError when a line no
    longer holds what the index says."""
    lines = read_lines(file, places)
    lines.reverse()
    for number, place in zip(ids, places, strict=True):
        line = lines.pop()  # so that it can go when it has been read
        try:
            if len(line) < place[1]:
                raise ValueError("the file ends before it")
            doc = parse_line(line)
            if len(line) > MOST_BYTES + SPARE:  # of a time when nobody cut it
                cut(doc, len(line))
            operation = codec.add_dict(target, Operation.DESCRIPTOR, doc)
            if operation.id != number:
                raise ValueError(f"operation {operation.id} stands where {number} was")
        except ValueError as error:
            raise CorruptError(file.path, line_number(file, place[0]), str(error)[:200]) from None


def by_bytes(
    places: Iterable[tuple[int, int]], most: int, most_bytes: int
) -> Iterator[list[tuple[int, int]]]:
    """The (offset, length) in lists of at most so many, and of so many bytes, or of one that has more."""
    some: list[tuple[int, int]] = []
    size = 0
    for place in places:
        if some and (len(some) == most or size + place[1] > most_bytes):
            yield some
            some, size = [], 0
        some.append(place)
        size += place[1]
    if some:
        yield some


def line_number(file: AppendFile, offset: int) -> int:
    """Which line begins at the offset, counted from 1: for messages, since it reads all before it."""
    number, position = 1, 0
    while position < offset and (part := file.read(position, min(_SPAN, offset - position))):
        number += part.count(b"\n")
        position += len(part)
    return number

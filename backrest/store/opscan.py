"""Reading a damaged operation log to its end: what is good in it, what is not, and which of two lines counts.

Opening the log ends at the first line that cannot stand where it is. A ``Scan`` goes on behind it, and also looks at
whether each body can be converted, which opening leaves to whoever reads it. What it takes for good is a log that
opens, whatever the damage, because these rules leave no two lines that contradict each other:

- Of two lines with one id the later counts (opformat.py); of our own operations the one with the higher modno, which is
  the later one unless the lines are in another order. A line behind its deletion counts when it is newer.
- A peer's operation has one id at a time: of two the higher counts, which was given out when the lower was gone.
- Where lines are out of order, their ids put them in order, and a deletion counts wherever it stands.

A good line that does not count, and is not just the older state of one that does, goes the way of the bad ones.
In memory is the index, and twenty bytes for each line that is out of order.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from backrest.errors import StorageError
from backrest.store import opload
from backrest.store.opbulk import BATCH, is_operation, runs, take_all
from backrest.store.opfile import by_bytes, read_lines
from backrest.store.opformat import SPACE, Json, Operation, decode, is_mark, parse_line, problem
from backrest.store.opindex import Index, OutOfOrderError, Row, row_of
from backrest.store.opload import BadLine, Blocks, Progress
from backrest.store.syscalls import open_plain, read_at, storage_error
from backrest.wire.fit import all_fit

# Bad lines that a report lists; there can be millions.
_LISTED = 100
# What can still be read in a bad line of the numbers that were given out. Longer ones are rot: the wall clock in
# milliseconds, where a log may begin to count, has 13 digits.
_NUMBERS = re.compile(rb'"(id|flowId|highestId|modno|highestModno)":"(\d{1,15})"')

_fit = all_fit(Operation.DESCRIPTOR)


@dataclass(slots=True)
class Report:
    """What verify found, and what repair did about it.

    ``bad`` lists the first hundred, ``bad_lines`` counts all but a torn last one. A good line in a place where it
    cannot stand counts as bad, and so does a first line that is not there; repair moves the one, and makes the other.
    """

    size: int = 0
    lines: int = 0
    operations: int = 0  # live ones, in good lines
    needed: int = 0  # bytes of the lines of live operations
    bad: list[BadLine] = field(default_factory=list)
    bad_lines: int = 0
    torn: int = 0  # bytes of a last line without its end
    unmarked: bool = False  # the first line is not there, with the highest numbers that were given out
    # the log opens as it is and all of it can be read: nothing is bad but an unfinished, unacknowledged write
    opens: bool = True
    repaired: bool = False  # the file was written anew
    moved: int = 0  # good lines that repair put in order
    aside: int = 0  # lines that do not count, and that repair sets aside
    set_aside: str = ""  # the file where repair put them


class StaleError(ValueError):
    """A line that is good, but older than one before it."""


class UnreadableError(ValueError):
    """A line that the log opens with, but cannot read later."""


class CarefulIndex(Index):
    """As the log's own, but it does not let an older line take the place of a newer one."""

    def __init__(self) -> None:
        super().__init__()
        self.early: set[int] = set()  # deleted before they were there

    def put_row(self, row: Row, offset: int, length: int) -> None:
        place = self._row(row.id) if self.ids and row.id <= self.ids[-1] else None
        if place is not None and row.modno <= self.modnos[place]:
            if not self.groups[place]:
                raise StaleError(f"operation {row.id} was deleted on a line before")
            # A peer may go back to a lower modno.
            if row.modno < self.modnos[place] and not row.original and not self.originals[place]:
                raise StaleError(f"operation {row.id} is older here than on a line before")
        super().put_row(row, offset, length)

    def delete(self, number: int) -> bool:
        there = super().delete(number)
        if not there:
            self.early.add(number)
        return there


class Lines:
    """Lines of the file, by where they are: 20 bytes for each."""

    def __init__(self) -> None:
        self.ids, self.offsets, self.lengths = array("q"), array("q"), array("I")

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, number: int, offset: int, length: int) -> None:
        self.ids.append(number)
        self.offsets.append(offset)
        self.lengths.append(length)

    def by_id(self) -> Iterator[list[tuple[int, int]]]:
        """(offset, length) in the order of the ids, of one id as they stand in the file; some at a time."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        return by_bytes(((self.offsets[n], self.lengths[n]) for n in order), BATCH, opload.BLOCK)


class Scan:
    """One pass over the file. ``run`` raises StorageError, and what ``progress`` raises."""

    def __init__(self, file: ReadOnly, progress: Progress | None) -> None:
        self.file = file
        self.progress = progress
        self.report = Report(size=file.length)
        self.index = CarefulIndex()  # the operations whose lines are in order
        self.moved = CarefulIndex()  # the others
        self.highest_id = self.highest_modno = 0  # of what is in neither
        self.bad_offsets, self.bad_lengths = array("q"), array("q")  # of what does not count
        self._disorder = Lines()
        self._refused = False  # opening the log would end at the first bad line

    def run(self) -> Report:
        with opload.uncollected():
            self._read()
            self._put_in_order()
        report = self.report
        report.operations = self.index.live + self.moved.live
        report.needed = self.index.live_bytes + self.moved.live_bytes
        report.opens = self._opens()
        return report

    def tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.report.size)

    def _read(self) -> None:
        report = self.report
        number = 0
        blocks = Blocks(self.file.read, report.size)
        while True:
            for offset, lines in blocks:
                for first in range(0, len(lines), BATCH):
                    some = lines[first : first + BATCH]
                    self._take(some, offset, number)
                    number += len(some)
                    offset += sum(map(len, some)) + len(some)
                    self.tell(offset)
            if not blocks.too_long:
                break
            number += 1
            blocks = Blocks(self.file.read, report.size, self._skip_long(blocks.end, number))
        report.lines = number
        report.torn = report.size - blocks.end
        if report.torn:
            self._numbers_in(self.file.read(blocks.end, min(report.torn, opload.BLOCK)))
            self._set_aside(blocks.end, report.torn)
        if number == 0:
            report.unmarked = True
            self._note(BadLine(0, 1, opload.NO_END if report.torn else opload.EMPTY), refused=True)

    def _opens(self) -> bool:
        if not self.report.bad:
            return True
        first = self.report.bad[0]
        return (
            self._refused
            and first.number > 1
            and opload.is_crash_tail(self.file.read, self.report.size, first)
        )

    def _take(self, lines: list[bytes], offset: int, number: int) -> None:
        """Many operations at once where they are what a file mostly holds; else each line by itself."""
        if number == 0:
            self._first(lines[0])
            offset, number, lines = len(lines[0]) + 1, 1, lines[1:]
        try:
            docs: list[Any] = list(map(orjson.loads, lines))
        except ValueError:
            docs = []
        fit = bool(docs) and _fit([doc for doc in docs if is_operation(doc)])
        offsets, lengths = opload.places(lines, offset)
        for first, last in runs(docs) if docs else [(0, len(lines))]:
            run = slice(first, last)
            taken = 0
            if fit and is_operation(docs[first]) and not any(map(problem, docs[run])):
                taken = take_all(self.index, docs[run], offsets[run], lengths[run])
            for position in range(first + taken, last):
                line, doc = lines[position], docs[position] if docs else None
                place = offsets[position] - (len(line) - lengths[position])
                self._line(line, doc, fit, place, number + position + 1)

    def _first(self, line: bytes) -> None:
        """The first line, which must be a mark. What else it may be is taken as it would be further on."""
        self._line(line, None, False, 0, 1)
        if self.report.bad_lines:
            self.report.unmarked = True
        elif not is_mark(parse_line(line)):
            self.report.unmarked = True
            self._note(BadLine(0, 1, opload.NO_FIRST_LINE), refused=True)

    def _line(self, line: bytes, parsed: Any, fit: bool, offset: int, number: int) -> None:
        space = 1 if line[:1] == SPACE else 0
        try:
            doc = parse_line(line) if parsed.__class__ is not dict else parsed
            if "id" in doc:
                _check_body(doc, fit)
                self._operation(doc, offset + space, len(line) - space, number)
            else:
                self.index.take(doc, offset + space, len(line) - space)
        except ValueError as error:
            self._numbers_in(line)
            self._note(BadLine(offset, number, str(error)[:200]), not isinstance(error, UnreadableError))
            self._set_aside(offset, len(line) + 1)

    def _operation(self, doc: Json, offset: int, length: int, number: int) -> None:
        """ValueError when the line is wrong by itself. When it is wrong beside others, that is settled here."""
        row = row_of(doc)
        try:
            return self.index.put_row(row, offset, length)
        except ValueError as error:
            Index().put_row(row, offset, length)  # raises what is wrong with it by itself
            # not the error itself: it would hold this frame, which holds it, and nobody collects that (uncollected)
            kind, reason = type(error), str(error)
        self._note(BadLine(offset, number, reason[:200]), kind is not StaleError)
        self.highest_id = max(self.highest_id, row.id, row.flow if row.original else 0)
        self.highest_modno = max(self.highest_modno, 0 if row.original else row.modno)
        if kind is OutOfOrderError:
            self._disorder.add(row.id, offset, length)
        elif kind is StaleError:
            self._set_aside(offset, length + 1)
        else:
            self._contradict(self.index, row, offset, length)
        return None

    def _contradict(self, into: Index, row: Row, offset: int, length: int) -> None:
        """Of this line and those that it cannot stand beside, one goes into the index, or stays there."""
        rivals: list[tuple[Index, int]] = [(into, row.id)] if into.row(row.id) is not None else []
        for index in (self.index, self.moved):
            there = index.find_original(row.meta.origin, row.original) if row.original else None
            if there is not None and there != row.id:
                rivals.append((index, there))
        if any(there > row.id for _, there in rivals):
            return self._set_aside(offset, length + 1)
        for holder, there in rivals:
            self._drop(holder, there)
        return Index.put_row(into, row, offset, length)

    def _drop(self, index: Index, number: int) -> None:
        """A live operation's line does not count."""
        place = index.row(number)
        if place is not None:
            self._set_aside(index.offsets[place], index.lengths[place] + 1)
            Index.delete(index, number)

    def _put_in_order(self) -> None:
        """What was out of order, by id: nothing is, then, and only the rules for contradictions are left."""
        if not self._disorder:
            return
        early = self.index.early
        for places in self._disorder.by_id():
            for line, (offset, length) in zip(read_lines(self.file, places), places, strict=True):
                try:
                    row = row_of(parse_line(line))
                except ValueError:
                    raise StorageError(f"{self.file.path} was changed while it was read.") from None
                if row.id in early:
                    self._set_aside(offset, length + 1)
                else:
                    self._move(row, offset, length)
            self.tell(self.report.size)
        for number in early:
            self._drop(self.index, number)
        self.report.moved = self.moved.live

    def _move(self, row: Row, offset: int, length: int) -> None:
        if not row.original or self.index.find_original(row.meta.origin, row.original) is None:
            try:
                return self.moved.put_row(row, offset, length)
            except StaleError:
                return self._set_aside(offset, length + 1)
            except ValueError:  # it contradicts another of these
                pass
        return self._contradict(self.moved, row, offset, length)

    def _note(self, bad: BadLine, refused: bool) -> None:
        if not self.report.bad_lines:
            self._refused = refused
        self.report.bad_lines += 1
        if len(self.report.bad) < _LISTED:
            self.report.bad.append(bad)

    def _set_aside(self, offset: int, length: int) -> None:
        """These bytes, whole lines or the last piece of one, do not count."""
        self.report.aside += 1
        if self.bad_offsets and self.bad_offsets[-1] + self.bad_lengths[-1] == offset:
            self.bad_lengths[-1] += length
        else:
            self.bad_offsets.append(offset)
            self.bad_lengths.append(length)

    def _numbers_in(self, line: bytes) -> None:
        for name, digits in _NUMBERS.findall(line):
            if name in (b"modno", b"highestModno"):
                self.highest_modno = max(self.highest_modno, int(digits))
            else:
                self.highest_id = max(self.highest_id, int(digits))

    def _skip_long(self, offset: int, number: int) -> int:
        """Behind the end of a line that is too long to be one of ours."""
        end = offset
        while part := self.file.read(end, opload.BLOCK):
            place = part.find(b"\n")
            end += len(part) if place < 0 else place + 1
            self.tell(end)
            if place >= 0:
                break
        if number == 1:
            self.report.unmarked = True
        self._note(BadLine(offset, number, "a line that is too long"), refused=True)
        self._set_aside(offset, end - offset)
        return end


def _check_body(doc: Json, fit: bool) -> None:
    """ValueError for an operation that no log takes: as opening the log says it, when that notices."""
    try:
        if not fit and not _fit([doc]):
            decode(doc)
        reason = problem(doc)
        if reason is not None:
            raise ValueError(f"operation {str(doc['id'])[:20]} has {reason}")
    except ValueError as error:
        Index().put(doc, 0, 0)
        raise UnreadableError(str(error)) from error


class ReadOnly:
    """A file that is looked at: not created, not tightened, not touched."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = open_plain(path)
        except OSError as error:
            raise storage_error("read", path, error) from error
        self.length = os.fstat(self._fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        try:
            return read_at(self._fd, size, offset)
        except OSError as error:
            raise storage_error("read", self.path, error) from error

    def __enter__(self) -> ReadOnly:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

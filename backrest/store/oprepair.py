"""Looking at a damaged operation log, and making a good one of it; no daemon may be using the file.

``verify`` reads every line as thoroughly as can be: opening the log looks at the syntax and at what the index
needs, this also at whether each body can be converted. ``repair`` writes the file anew with the last good line of each
operation, in the order of the ids, and puts the bad lines, as they are, into a file beside it
(oplog.jsonl.bad-<time>). What is lost of a peer's history comes back from the peer at its next manifest.

Both work in a stream; in memory is the index only.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from backrest.errors import CorruptError
from backrest.store import opcompact, opload, syscalls
from backrest.store.files import AppendFile, discard, rename_durably
from backrest.store.opbulk import BATCH, is_operation, runs, take_all
from backrest.store.opformat import SPACE, Operation, decode, mark, parse_line, problem
from backrest.store.opindex import Index, OutOfOrderError
from backrest.store.opload import BadLine, Blocks, Progress
from backrest.store.syscalls import read_at, storage_error
from backrest.wire.fit import all_fit

# Bad lines that a report lists; there can be millions.
_LISTED = 100
# A line with an id of its own has more bytes than this: so many ids at most can have been in the bad lines.
_SHORTEST = 60
# When the mark at the file's start is lost nobody knows how far the numbers had come: a jump that is safe,
# and costs nothing of 2^63.
_JUMP = 1_000_000

_fit = all_fit(Operation.DESCRIPTOR)


@dataclass(slots=True)
class Report:
    """What verify found. ``bad`` lists the first hundred, ``bad_lines`` counts all but a torn last one.

    A good line in a place where it cannot stand counts as bad too; repair moves it, and sets it not aside.
    """

    size: int = 0
    lines: int = 0
    operations: int = 0  # live ones, in good lines
    needed: int = 0  # bytes of the lines of live operations
    bad: list[BadLine] = field(default_factory=list)
    bad_lines: int = 0
    torn: int = 0  # bytes of a last line without its end
    opens: bool = True  # the log opens as it is: nothing is bad but an unfinished, unacknowledged write
    set_aside: str = ""  # where repair put the bad lines


class _Scan:
    """One pass over the file, which goes on behind bad lines."""

    def __init__(self, file: _ReadOnly) -> None:
        self.file = file
        self.index = Index()
        self.report = Report()
        self.bad = array("q")  # offset, length of each bad line, one after the other
        self.orphans: dict[int, tuple[int, int]] = {}  # good lines whose place in the order is wrong
        self.first_is_mark = False
        self.report.size = file.length

    def run(self, progress: Progress | None) -> Report:
        with opload.uncollected():
            return self._run(progress)

    def _run(self, progress: Progress | None) -> Report:
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
                if progress is not None:
                    progress(offset, report.size)
            if not blocks.too_long:
                break
            number += 1
            blocks = Blocks(self.file.read, report.size, self._skip_long(blocks.end, number))
        report.lines = number
        report.torn = report.size - blocks.end
        if report.torn:
            self.bad.extend((blocks.end, report.torn))
        report.operations = self.index.live + len(self.orphans)
        report.needed = self.index.live_bytes
        report.opens = self._opens()
        return report

    def _opens(self) -> bool:
        if not self.first_is_mark:
            return False
        first = self.report.bad[0] if self.report.bad else None
        return first is None or opload.is_crash_tail(self.file.read, self.report.size, first)

    def _take(self, lines: list[bytes], offset: int, number: int) -> None:
        """Many operations at once where they are what a file mostly holds; else each line by itself."""
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

    def _line(self, line: bytes, parsed: Any, fit: bool, offset: int, number: int) -> None:
        space = 1 if line[:1] == SPACE else 0
        try:
            doc = parse_line(line) if parsed.__class__ is not dict else parsed
            if number == 1:
                if "oplog" not in doc or "id" in doc:
                    raise ValueError("the first line is not that of an operation log")
                self.first_is_mark = True
            if "id" in doc:
                if not (fit or _fit([doc])):
                    decode(doc)
                reason = problem(doc)
                if reason is not None:
                    raise ValueError(f"operation {str(doc['id'])[:20]} has {reason}")
            self.index.take(doc, offset + space, len(line) - space)
            for gone in doc.get("deleted", ()):
                self.orphans.pop(int(gone), None)
        except OutOfOrderError as error:
            self.orphans[int(doc["id"])] = (offset + space, len(line) - space)
            self._note(BadLine(offset, number, str(error)), 0)
        except ValueError as error:
            self._note(BadLine(offset, number, str(error)[:200]), len(line) + 1)

    def _note(self, bad: BadLine, length: int) -> None:
        self.report.bad_lines += 1
        if len(self.report.bad) < _LISTED:
            self.report.bad.append(bad)
        if length:
            self.bad.extend((bad.offset, length))

    def _skip_long(self, offset: int, number: int) -> int:
        """Behind the end of a line that is too long to be one of ours."""
        end = offset
        while part := self.file.read(end, opload.BLOCK):
            place = part.find(b"\n")
            end += len(part) if place < 0 else place + 1
            if place >= 0:
                break
        self._note(BadLine(offset, number, "a line that is too long"), end - offset)
        return end

    def marks(self) -> tuple[int, int]:
        """High-water marks that no lost line can have exceeded."""
        lost = sum(self.bad[1::2])
        jump = lost // _SHORTEST + (0 if self.first_is_mark else _JUMP)
        highest = self.index.highest_id, self.index.highest_modno
        return (
            (highest[0] + jump, highest[1] + jump) if self.report.bad_lines or self.report.torn else highest
        )

    def set_bad_aside(self) -> str:
        """Copy the bad lines, as they are, into a file of their own; its path, "" when there are none."""
        if not self.bad:
            return ""
        aside = AppendFile(opload.bad_path(self.file.path))
        try:
            for offset, length in zip(self.bad[::2], self.bad[1::2], strict=True):
                opcompact.copy_tail(self.file, aside, offset, offset + length)
        except BaseException:
            discard(aside.path)  # the next repair makes a whole one
            raise
        finally:
            aside.close()
        return aside.path

    def places(self) -> Iterator[tuple[int, int]]:
        """Where the lines of the live operations are, in the order of their ids."""
        index = self.index
        orphans = sorted(self.orphans)
        for row in index.live_rows():
            while orphans and orphans[0] < index.ids[row]:
                yield self.orphans[orphans.pop(0)]
            yield index.offsets[row], index.lengths[row]
        for number in orphans:
            yield self.orphans[number]


def _tell(progress: Progress, total: int, done: int) -> None:
    progress(done, total)


class _ReadOnly:
    """A file that is looked at: not created, not tightened, not touched."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = syscalls.disk.open_to_read(path)
            self.length = os.fstat(self._fd).st_size
        except OSError as error:
            raise storage_error("read", path, error) from error

    def read(self, offset: int, size: int) -> bytes:
        try:
            return read_at(self._fd, size, offset)
        except OSError as error:
            raise storage_error("read", self.path, error) from error

    def __enter__(self) -> _ReadOnly:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def verify(path: str | os.PathLike[str], progress: Progress | None = None) -> Report:
    """Read all of it and change nothing. StorageError when it cannot be read."""
    with _ReadOnly(os.fspath(path)) as file:
        return _Scan(file).run(progress)


def repair(path: str | os.PathLike[str], progress: Progress | None = None) -> Report:
    """Make the log one that opens; what it found and where it put the bad lines.

    ``progress`` is told of three ways one after the other: reading, writing anew, and reading that again.
    A log without anything bad is left as it is. On failure (StorageError) the old file is in place.
    """
    with _ReadOnly(os.fspath(path)) as file:
        scan = _Scan(file)
        report = scan.run(progress)
        if not (report.bad_lines or report.torn) and scan.first_is_mark:
            return report
        opcompact.check_room(file.path, report.needed + sum(scan.bad[1::2]))
        temporary = opcompact.temporary(file.path)
        new: AppendFile | None = None
        try:
            new = AppendFile(temporary)
            tell = None if progress is None else partial(_tell, progress, report.operations)
            marks = scan.marks()
            opcompact.write(file, new, scan.places(), marks, tell)
            new.append([mark(*marks)])
            scan.index = Index()  # the old one's memory is needed for the new one
            bad = opload.read_into(scan.index, new.read, new.length, progress)
            if bad is not None:  # two lines that are each good and contradict each other
                raise CorruptError(file.path, bad.number, f"cannot be repaired: {bad.reason}")
            report.set_aside = scan.set_bad_aside()
            rename_durably(temporary, os.path.realpath(file.path))
        except BaseException:
            discard(temporary)
            raise
        finally:
            if new is not None:
                new.close()
        return report

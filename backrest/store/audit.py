"""The audit log: who paired, was refused, was let in, changed what; one JSON object on each line.

A line is ``{"time":...,"event":...,<fields>,"prev":"<hex>","hash":"<hex>"}``. ``hash`` is SHA-256 over the
bytes of the line that stand before ``,"hash":``, and ``prev`` is the hash of the line before (64 zeros in the
first). So a line that was altered, removed or put in shows, wherever it stands. What a chain without a key
cannot show: lines cut off at the end, or a file that somebody computed anew from a point on.

A line that begins with a space (inside the hash; JSON allows it) was appended together with the line before. When one
without it was written, all before it was safe on the disk. So a power cut can have damaged only what follows the last
whole line without a space, and there the disk may have stored its blocks in any order: a hole in the midst, with whole
lines behind it. From the first line there that is none, ``open`` cuts; nobody was told that it is stored.

A line that can still be read as an entry is never taken for the work of a crash, though its hash is wrong: it stays,
and ``verify`` names it for ever. So whoever wants an edit to look like a crash must make lines unreadable, and gets no
more than these and what follows them cut off, with an entry ``torn-tail`` in their place; a cut at the end leaves less.
Unreadable lines before the last append stay, too.

A file that is full, or a year old, is renamed to ``<path>.000001`` and so on, and the chain goes on in a new one: its
first line has the hash of the last one there. The rename is durable before the new file is made, so a crash between the
two leaves no file at the path, and ``open`` goes on from the newest of the old ones. Of these the last KEPT stay; a gap
among them is found, and so is the first line of a file that follows nothing.

What others cause (a stranger that is refused, a peer) is recorded by ``append_for``, within a day's sums (daysums.py).
Cannot promise: on a file system that shows old blocks of other files
after a crash, what they hold may read as an edit, or be more than is taken for a crash.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO

import orjson

from backrest.errors import CorruptError, StorageError
from backrest.store.daysums import DAY_MS, DaySums
from backrest.store.files import AppendFile, discard, rename_durably
from backrest.store.syscalls import lines_of, storage_error

log = logging.getLogger(__name__)

START = "0" * 64
_RESERVED = {"time", "event", "prev", "hash"}
_SEAL = re.compile(rb',"hash":"([0-9a-f]{64})"}\n\Z')
_SEAL_LENGTH = len(b',"hash":"') + 64 + len(b'"}\n')
# A peer that is not known yet chooses some of the texts: what one attempt of its costs us on disk is bounded.
MAX_TEXT = 1024
# Two lists of MAX_TEXT such texts, each character six bytes of JSON, are below it, and no event has more. A longer line
# is not ours, and is not read into memory.
MAX_LINE = 16 << 20
# A file that an editor still opens, and that --verify reads in a second.
FILE_BYTES = 32 << 20
FILE_AGE_MS = 365 * DAY_MS  # what a small installation writes in a year is in one file
# 350 MiB in all, and ten years of a small installation; a month when all the sums of daysums.py are used up each day.
KEPT = 10
_OLD = re.compile(r"\.([0-9]{6,9})")
_FRAME = 200  # bytes of a line besides the fields: the time, the hashes, the punctuation
_ZERO = b"\0"  # what a block that a crash kept from the disk reads as; no line of ours has one


class AuditLog:
    """Appends are durable when they return, in one order for all threads."""

    def __init__(self, file: AppendFile, last: str, now_ms: Callable[[], int]) -> None:
        self._file = file
        self._last = last
        self._begun_ms = _begun_ms(file)
        self._sums = DaySums()
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._owed: list[
            tuple[str, Mapping[str, Any]]
        ] = []  # events of our own, which the next append brings along

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> AuditLog:
        """Open, or create with mode 0600. What a power cut left of an unacknowledged append is cut off from its first
        damaged line on, and an event ``torn-tail`` says so, with the length and the beginning of what was cut: at once,
        or (the disk is full, say) as soon as anything can be written.
        Raises StorageError; CorruptError when the end is damaged beyond that, and the file is then as it was.
        """
        file = AppendFile(path)
        try:
            keep, last = _find_end(file)
            if not keep:
                last = _end_of_old(file.path)
            log = cls(file, last, now_ms)
            torn = file.length - keep
            if torn:
                text = file.read(keep, MAX_TEXT).decode("utf-8", "replace")
                file.cut(keep)
                log._owed.append(("torn-tail", {"bytes": torn, "text": text}))
                with contextlib.suppress(StorageError):
                    log.append_all(())
            else:
                file.append(())  # a sync: lines that a killed process wrote may be in memory only
            return log
        except BaseException:
            file.close()
            raise

    def check(self) -> None:
        """StorageError when it is known without a write that nothing can be appended: the file was moved away, say."""
        with self._lock:
            self._file.check()

    def append(self, event: str, **fields: Any) -> None:
        """Add one event. Fields are texts, numbers, booleans, None, or lists of these, and never secrets.

        Raises StorageError when it could not be made durable; then it is not in the log.
        """
        self.append_all([(event, fields)])

    def append_all(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """The same for several, with one sync: all of them, or none. A power cut before this returns may leave the
        first of them."""
        for _, fields in events:
            if _RESERVED & fields.keys():
                raise ValueError(f"not for use as fields: {sorted(_RESERVED & fields.keys())}")
        with self._lock:
            self._append(events)

    def append_for(self, events: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Events (who caused it, event, fields) that others caused, as far as the day has room for them. ``who`` is a
        peer's key id, or STRANGER. What is left out is counted. Raises as ``append_all``."""
        with self._lock:
            taken: list[tuple[str, Mapping[str, Any]]] = [*self._sums.turn(self._now_ms())]
            for who, event, fields in events:
                if self._sums.takes(who, event, partial(_size, event, fields)):
                    taken.append((event, fields))
            self._append(taken)

    def _append(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        now_ms = self._now_ms()
        time_, last, parts = _rfc3339(now_ms), self._last, list[bytes]()
        for event, fields in (*self._owed, *events):
            entry = {"time": time_, "event": _clean(event)}
            entry |= {name: _clean(value) for name, value in fields.items()}
            entry["prev"] = last
            body = b" " * bool(parts) + orjson.dumps(entry)[:-1]
            last = hashlib.sha256(body).hexdigest()
            parts += [body, b',"hash":"', last.encode(), b'"}\n']
        if parts:
            self._turn_over(now_ms, sum(map(len, parts)))
            self._file.append(parts)
            self._last = last
            self._owed.clear()
            if self._begun_ms is None:
                self._begun_ms = now_ms

    def _turn_over(self, now_ms: int, size: int) -> None:
        """Begin a new file when this one is full or old. If the disk refuses, the next append tries again, since a
        log that is too long is better than none. Raises StorageError when the log cannot be written at all."""
        old = self._begun_ms is not None and now_ms - self._begun_ms > FILE_AGE_MS
        if not self._file.length or not (old or self._file.length + size > FILE_BYTES):
            return
        self._file.check()
        path = self._file.path
        number = max(_old_files(path), default=0) + 1
        aside = _old_name(path, number)
        try:
            rename_durably(path, aside)
            new = AppendFile(path)
        except StorageError as error:
            if not os.path.lexists(path):
                rename_durably(aside, path)
            log.warning("the audit log goes on in a file that is too long or too old: %s", error)
            return
        new.take_owner(aside)
        self._file.close()
        self._file, self._begun_ms = new, None
        for gone, name in _old_files(path).items():
            if gone <= number - KEPT:
                discard(name)

    def verify(self) -> int:
        """As the function below, of what is in the log at this moment, while others go on appending."""
        with self._lock:
            files, length = _Files(self._file.path), self._file.length
        return files.verify(length)

    def close(self) -> None:
        """What was left out of the day so far is told, if the disk takes it."""
        with self._lock:  # a number that is closed under a write may be another file's by then
            with contextlib.suppress(StorageError):
                if told := self._sums.told():
                    self._append(told)
            self._file.close()


class _Files:
    """The files of a log, opened at one moment: what is renamed or removed afterwards is read all the same."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises StorageError."""
        self.path = os.fspath(path)
        self.current: BinaryIO | None = None
        self.old: dict[int, tuple[str, BinaryIO]] = {}
        try:
            # First: one that is renamed after this is among the old ones as well, and told from them by its number.
            with contextlib.suppress(FileNotFoundError):
                self.current = lines_of(self.path)
            mine = os.fstat(self.current.fileno()) if self.current else None
            for number, name in _old_files(self.path).items():
                with contextlib.suppress(FileNotFoundError):
                    file = lines_of(name)
                    if mine is not None and os.path.samestat(mine, os.fstat(file.fileno())):
                        file.close()
                    else:
                        self.old[number] = (name, file)
        except BaseException:
            self.close()
            raise

    def verify(self, length: int | None = None) -> int:
        """As the function below; closes the files."""
        with contextlib.closing(self):
            last, count = START, 0
            numbers = list(self.old)
            if numbers and numbers[0] > max(1, numbers[-1] - KEPT + 1):
                missing = _old_name(self.path, numbers[0] - 1)
                raise CorruptError(missing, 1, "the file is missing: older lines of the log were removed")
            for number, (name, file) in self.old.items():
                # What was before the oldest one was removed as it had to be.
                follows = None if number == numbers[0] and number > 1 else last
                last, lines = _verify_file(name, file, follows, None)
                count += lines
            if self.current is not None:
                count += _verify_file(self.path, self.current, last, length)[1]
            return count

    def close(self) -> None:
        for file in (self.current, *(file for _, file in self.old.values())):
            if file is not None:
                file.close()


def _verify_file(name: str, file: BinaryIO, last: str | None, length: int | None) -> tuple[str, int]:
    """(hash of its last line, number of its lines). ``last``: what its first line follows; None: anything."""
    number = 0
    try:
        while (length is None or file.tell() < length) and (line := file.readline(MAX_LINE)):
            number += 1
            try:
                last = _check(line, last)
            except ValueError as bad:
                raise CorruptError(name, number, str(bad)) from None
    except OSError as error:
        raise storage_error("read", name, error) from error
    return last or START, number


def verify(path: str | os.PathLike[str]) -> int:
    """Check the whole chain, over all the files that are kept; returns the number of lines. CorruptError names the
    file and its first bad line.

    An absent log has no lines. A torn last line counts as bad here: ``AuditLog.open`` would cut it.
    """
    return _Files(path).verify()


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The events, oldest first, the chain unchecked. CorruptError for a line that is no JSON object.

    What may be an unfinished append is left out from its first such line on: it is just being written, or a crash tore
    it, and the next ``AuditLog.open`` looks closer.
    """
    files = _Files(path)
    with contextlib.closing(files):
        for name, file in files.old.values():
            yield from _read_file(name, file)
        if files.current is not None:
            yield from _read_file(files.path, files.current)


def _read_file(name: str, file: BinaryIO) -> Iterator[dict[str, Any]]:
    torn = 0
    try:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            try:
                entry = orjson.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                torn = torn or number
            elif not torn:
                yield entry
            elif not line.startswith(b" "):  # all before it had been finished
                raise CorruptError(name, torn, "not a JSON object")
    except OSError as error:
        raise storage_error("read", name, error) from error


def _old_name(path: str, number: int) -> str:
    return f"{path}.{number:06}"


def _old_files(path: str) -> dict[int, str]:
    """By their numbers."""
    directory, name = os.path.split(os.path.abspath(path))
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise storage_error("look into", directory, error) from error
    numbers = [
        int(match[1]) for one in names if one.startswith(name) and (match := _OLD.fullmatch(one, len(name)))
    ]
    return {number: _old_name(path, number) for number in sorted(numbers)}


def _end_of_old(path: str) -> str:
    """The hash of the last line of the newest old file, which was whole when it was renamed; START when there is none.
    CorruptError."""
    old = _old_files(path)
    if not old:
        return START
    name = old[max(old)]
    last, number = b"", 0
    try:
        with lines_of(name) as file:
            for line in iter(lambda: file.readline(MAX_LINE), b""):
                last, number = line, number + 1
            return _parse(last)[1]
    except FileNotFoundError:
        return START
    except ValueError as bad:
        raise CorruptError(name, number, f"{bad}; set the file aside to go on without it") from None
    except OSError as error:
        raise storage_error("read", name, error) from error


def _begun_ms(file: AppendFile) -> int | None:
    """When the first line was written; None when there is none that says so."""
    if not file.length:
        return None
    line, _, _ = file.read(0, MAX_TEXT).partition(b',"event":')
    try:
        return round(
            datetime.fromisoformat(line.decode().removeprefix('{"time":"').rstrip('"')).timestamp() * 1000
        )
    except (ValueError, OverflowError):
        return None


def _find_end(file: AppendFile) -> tuple[int, str]:
    """Where the last line ends that a crash has left whole, and its hash, as it says itself.

    Goes back to the last whole line that began an append. CorruptError for what no crash leaves: a line that is too
    long, or a damaged line that begins an append behind another damaged one.
    """
    keep = end = file.length
    last: str | None = None  # of the nearest whole line in front of ``keep``
    foreign = False  # the damaged line at ``keep`` cannot be a later one of an append
    while end > 0:
        start = _line_start(file, end - 1)
        line = file.read(start, min(end - start, MAX_LINE))
        together = line.startswith(b" ")
        try:
            if end - start > MAX_LINE:
                raise ValueError("it is too long for a line of an audit log")
            _, says, digest = _parse(line)
        except ValueError as bad:
            # A hole can be as long as an append; nothing else that we leave is so long.
            if foreign or (end - start > MAX_LINE and _ZERO not in line):
                number = _count_lines(file, start) + 1
                raise CorruptError(
                    file.path, number, f"{bad}; set the file aside to start a new one"
                ) from None
            keep, last = start, None
            # A piece without an end can be all that there is of an append.
            foreign = line.endswith(b"\n") and not together and not line.startswith(_ZERO)
        else:
            last = last or says
            if not together or says != digest:  # an edited line could claim anything, also to be a later one
                break
        end = start
    return keep, last or START


def _line_start(file: AppendFile, end: int) -> int:
    """The offset after the last newline in front of ``end``; 0 when there is none."""
    while end > 0:
        size = min(end, 1 << 12)
        found = file.read(end - size, size).rfind(b"\n")
        if found >= 0:
            return end - size + found + 1
        end -= size
    return 0


def _count_lines(file: AppendFile, end: int) -> int:
    return sum(file.read(at, min(1 << 20, end - at)).count(b"\n") for at in range(0, end, 1 << 20))


def _check(line: bytes, prev: str | None) -> str:
    """The hash of a good line; ValueError says what is wrong. ``prev`` None: it may follow anything."""
    follows, says, digest = _parse(line)
    if says != digest:
        raise ValueError("its hash is wrong: the line was altered")
    if prev is not None and follows != prev:
        raise ValueError("it does not follow the line before: a line was altered, removed or put in")
    return digest


def _parse(line: bytes) -> tuple[str, str, str]:
    """(hash of the line before, its own, what its own should be) of a whole line; ValueError when it is none."""
    if not line.endswith(b"\n"):
        raise ValueError("it is not complete")
    seal = _SEAL.search(line, max(0, len(line) - _SEAL_LENGTH))
    if seal is None:
        raise ValueError("it does not end in a hash")
    try:
        entry = orjson.loads(line)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("prev"), str):
        raise ValueError("it is not an audit entry")
    return entry["prev"], seal[1].decode(), hashlib.sha256(line[: seal.start()]).hexdigest()


def _size(event: str, fields: Mapping[str, Any]) -> int:
    """Of a line, at most."""
    return _FRAME + len(event) + len(orjson.dumps({name: _clean(value) for name, value in fields.items()}))


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        # A lone surrogate (from undecodable bytes of a command line) has no UTF-8.
        return value[:MAX_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value[:MAX_TEXT]]
    return value

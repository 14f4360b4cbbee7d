"""The audit log: who paired, was refused, was let in, changed what; one JSON object on each line.

A line is ``{"time":...,"event":...,<fields>,"prev":"<hex>","hash":"<hex>"}``. ``hash`` is SHA-256 over the
bytes of the line that stand before ``,"hash":``, and ``prev`` is the hash of the line before (64 zeros in the
first). So a line that was altered, removed or put in shows, wherever it stands. What a chain without a key
cannot show: lines cut off at the end, or a file that somebody computed anew from a point on.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from backrest.errors import CorruptError
from backrest.store.files import AppendFile
from backrest.store.syscalls import storage_error

START = "0" * 64
_RESERVED = {"time", "event", "prev", "hash"}
_SEAL = len(b',"hash":"') + 64 + len(b'"}')
# A peer that is not known yet chooses some of the texts: what one attempt of its costs us on disk is bounded.
MAX_TEXT = 1024
# The longest line that we write is far below it; a longer one is not ours, and is not read into memory.
MAX_LINE = 1 << 20


class AuditLog:
    """Appends are durable when they return, in one order for all threads."""

    def __init__(self, file: AppendFile, last: str, now_ms: Callable[[], int]) -> None:
        self._file = file
        self._last = last
        self._now_ms = now_ms
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> AuditLog:
        """Open, or create with mode 0600. What a power cut left of one unacknowledged line is cut off, and an
        event ``torn-tail`` says so. Raises StorageError; CorruptError when the end is damaged beyond that.
        """
        file = AppendFile(path)
        try:
            keep, last = _find_end(file)
            log = cls(file, last, now_ms)
            torn = file.length - keep
            if torn:
                text = file.read(keep, MAX_TEXT).decode("utf-8", "replace")
                file.cut(keep)
                log.append("torn-tail", bytes=torn, text=text)
            return log
        except BaseException:
            file.close()
            raise

    def append(self, event: str, **fields: Any) -> None:
        """Add one event. Fields are texts, numbers, booleans, None, or lists of these, and never secrets.

        Raises StorageError when it could not be made durable; then it is not in the log.
        """
        self.append_all([(event, fields)])

    def append_all(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """The same for several, with one sync: all of them, or none."""
        for _, fields in events:
            if _RESERVED & fields.keys():
                raise ValueError(f"not for use as fields: {sorted(_RESERVED & fields.keys())}")
        with self._lock:
            time_, last, parts = _rfc3339(self._now_ms()), self._last, list[bytes]()
            for event, fields in events:
                entry = {"time": time_, "event": _clean(event)}
                entry |= {name: _clean(value) for name, value in fields.items()}
                entry["prev"] = last
                body = orjson.dumps(entry)[:-1]
                last = hashlib.sha256(body).hexdigest()
                parts += [body, b',"hash":"', last.encode(), b'"}\n']
            if parts:
                self._file.append(parts)
                self._last = last

    def verify(self) -> int:
        """As the function below, of what is in the log at this moment, while others go on appending."""
        with self._lock:
            length = self._file.length
        return verify(self._file.path, length)

    def close(self) -> None:
        self._file.close()


def verify(path: str | os.PathLike[str], length: int | None = None) -> int:
    """Check the whole chain (of the first ``length`` bytes); returns the number of lines. CorruptError names the first
    bad line.

    An absent file has no lines. A torn last line counts as bad here: ``AuditLog.open`` would cut it.
    """
    last, number = START, 0
    try:
        with open(path, "rb") as file:
            while (length is None or file.tell() < length) and (line := file.readline(MAX_LINE)):
                number += 1
                try:
                    last = _check(line, last)
                except ValueError as bad:
                    raise CorruptError(os.fspath(path), number, str(bad)) from None
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error("read", path, error) from error
    return number


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The events, oldest first, the chain unchecked. CorruptError for a line that is no JSON object.

    A last line without its end is left out: it is just being written, or a crash tore it.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
                if len(line) < MAX_LINE and not line.endswith(b"\n"):
                    return
                try:
                    entry = orjson.loads(line)
                except ValueError:
                    entry = None
                if not isinstance(entry, dict):
                    raise CorruptError(os.fspath(path), number, "not a JSON object")
                yield entry
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error("read", path, error) from error


def _find_end(file: AppendFile) -> tuple[int, str]:
    """Where the last whole line ends, and its hash.

    A crash can leave a part of one line, and also, since the disk may store its blocks in any order, one
    whole-looking line with rubbish in it. More than one bad line is not the work of a crash: CorruptError.
    """
    end = file.length
    if end - _line_start(file, end) > MAX_LINE:
        raise CorruptError(
            file.path, _count_lines(file, end) + 1, "it is too long for a line of an audit log"
        )
    for _ in range(2):
        end = _line_start(file, end) if end else 0
        if end == 0:
            return 0, START
        start = _line_start(file, end - 1)
        try:
            return end, _check(file.read(start, min(end - start, MAX_LINE)), None)
        except ValueError as bad:
            reason, end = str(bad), end - 1
    number = _count_lines(file, end + 1)
    raise CorruptError(file.path, number, f"{reason}; set the file aside to start a new one")


def _line_start(file: AppendFile, end: int) -> int:
    """The offset after the last newline in front of ``end``; 0 when there is none."""
    while end > 0:
        size = min(end, 1 << 16)
        found = file.read(end - size, size).rfind(b"\n")
        if found >= 0:
            return end - size + found + 1
        end -= size
    return 0


def _count_lines(file: AppendFile, end: int) -> int:
    return sum(file.read(at, min(1 << 20, end - at)).count(b"\n") for at in range(0, end, 1 << 20))


def _check(line: bytes, prev: str | None) -> str:
    """The hash of a good line; ValueError says what is wrong. ``prev`` None: any line before is right."""
    if not line.endswith(b"\n"):
        raise ValueError("it is not complete")
    line = line[:-1]
    body, seal = line[:-_SEAL], line[-_SEAL:]
    if not (seal.startswith(b',"hash":"') and seal.endswith(b'"}')):
        raise ValueError("it does not end in a hash")
    digest = hashlib.sha256(body).hexdigest()
    if seal != b',"hash":"%s"}' % digest.encode():
        raise ValueError("its hash is wrong: the line was altered")
    try:
        entry = orjson.loads(line)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("prev"), str):
        raise ValueError("it is not an audit entry")
    if prev is not None and entry["prev"] != prev:
        raise ValueError("it does not follow the line before: a line was altered, removed or put in")
    return digest


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        # A lone surrogate (from undecodable bytes of a command line) has no UTF-8.
        return value[:MAX_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value[:MAX_TEXT]]
    return value

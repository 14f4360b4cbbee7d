"""The log on stderr: a line for people, or a JSON object for programs. A record is always one line.

Messages may hold what a peer sent. Control characters in them become escapes, so that nobody can forge a line
of the log or send commands to the terminal that shows it.

Strangers and peers cause most lines, as many as they like. So each place in the program that logs has a bound for a
minute and one for a day, by lines and by bytes: none starves another, and what is left out is counted and told.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from backrest.cli.output import harmless

# What every LogRecord has; anything else was given by ``extra`` and belongs into the JSON object.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# Of one place, in MINUTE_S and in DAY_S. A thousand clients that come back together are told of in part; ten thousand
# that come and go twice a day in full. A few dozen places can be reached by others: 100 MiB a day at most.
MINUTE_S, DAY_S = 60.0, 86400.0
MINUTE_LINES, MINUTE_BYTES = 600, 128 << 10
DAY_LINES, DAY_BYTES = 20_000, 4 << 20
LONGEST = 8192  # characters of a message; the rest is cut off. A traceback is ours and stays whole


@dataclass(slots=True)
class _Place:
    """What one place logged in this minute and in this day, and what of it was left out."""

    minute: float
    day: float
    lines: int = 0
    bytes: int = 0
    day_lines: int = 0
    day_bytes: int = 0
    left_out: int = 0

    def takes(self, size: int) -> bool:
        if (
            self.lines >= MINUTE_LINES
            or self.bytes + size > MINUTE_BYTES
            or self.day_lines >= DAY_LINES
            or self.day_bytes + size > DAY_BYTES
        ):
            self.left_out += 1
            return False
        self.lines += 1
        self.bytes += size
        self.day_lines += 1
        self.day_bytes += size
        return True


class Bounded(logging.StreamHandler[TextIO]):
    """Writes what is within the bounds. The clock is that of the records."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._places: dict[tuple[str, int], _Place] = {}  # as many as there are lines in the program that log

    def emit(self, record: logging.LogRecord) -> None:
        for late in self._over(record.created):
            super().emit(late)
        if len(text := record.getMessage()) > LONGEST:
            record = logging.makeLogRecord(vars(record) | {"msg": text[:LONGEST] + "…", "args": None})
        key = (record.pathname, record.lineno)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(record.created, record.created)
        # As it is written: a control character of a peer becomes several.
        if place.takes(len(self.format(record))):
            super().emit(record)

    def _over(self, now: float) -> Iterator[logging.LogRecord]:
        """Begin the minutes and days that are over, with a line for each place of which something was left out."""
        for (path, line), place in self._places.items():
            if 0 <= now - place.minute < MINUTE_S:
                continue
            if place.left_out:
                yield self._summary(path, line, place.left_out, now)
            place.minute, place.lines, place.bytes, place.left_out = now, 0, 0, 0
            if not 0 <= now - place.day < DAY_S:
                place.day, place.day_lines, place.day_bytes = now, 0, 0

    def _summary(self, path: str, line: int, count: int, now: float) -> logging.LogRecord:
        where = f"{os.path.basename(path)}:{line}"
        text = f"{count} more lines like those from {where} were left out"
        made = logging.LogRecord("backrest", logging.WARNING, path, line, text, None, None)
        made.created = now
        return made

    def close(self) -> None:
        """What was left out at the end is told."""
        with self.lock or nullcontext():
            places, self._places = self._places, {}
            for (path, line), place in places.items():
                if place.left_out:
                    super().emit(self._summary(path, line, place.left_out, time.time()))
        super().close()


class TextFormatter(logging.Formatter):
    """Local time, level, logger, message; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        line = f"{moment} {record.levelname:7} {record.name}: {harmless(record.getMessage())}"
        if record.exc_info:
            trace = harmless(self.formatException(record.exc_info), lines=True)
            line += "\n  " + trace.replace("\n", "\n  ")
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, message, what ``extra`` gave, exception."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)  # ASCII only: nothing for a terminal to obey


def start(log_format: str = "text", *, debug: bool = False) -> None:
    """Send the program's log to stderr. Other libraries are heard from warnings on."""
    handler = Bounded(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("backrest").setLevel(logging.DEBUG if debug else logging.INFO)
    # A stderr that went away must not end the daemon, nor fill it with tracebacks about itself.
    logging.raiseExceptions = False

"""The log on stderr: a line for people, or a JSON object for programs. A record is always one line.

Messages may hold what a peer sent. Control characters in them become escapes, so that nobody can forge a line
of the log or send commands to the terminal that shows it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

from backrest.cli.output import harmless

# What every LogRecord has; anything else was given by ``extra`` and belongs into the JSON object.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("backrest").setLevel(logging.DEBUG if debug else logging.INFO)
    # A stderr that went away must not end the daemon, nor fill it with tracebacks about itself.
    logging.raiseExceptions = False

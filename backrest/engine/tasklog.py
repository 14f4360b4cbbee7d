"""The log of one task: what was run and what restic said, in ``<data>/tasklogs/<logref>.log``.

Every line passes the redactor. Of each command at most ``PER_COMMAND`` bytes are kept, so that a restic that
fails on a million files does not fill the disk. A task log is a convenience: when it cannot be written the
task goes on, and that is said once in the program's own log.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path

import trio

from backrest.engine.redact import Redactor
from backrest.store.syscalls import leave_to_owner

logger = logging.getLogger(__name__)

# As in the reference (4.5).
PER_COMMAND = 64 * 1024

# How long logs are kept: the reference's 14 days (3.5).
KEEP_S = 14 * 24 * 3600


def new_logref() -> str:
    """A name for a task's log, as the reference gives it."""
    return f"t-{uuid.uuid4()}"


class TaskLog:
    """Collects lines; ``flush`` appends them to the file. Without a path everything is discarded (index
    tasks).
    """

    def __init__(self, path: Path | None = None, *, kept: bool = True) -> None:
        """With ``kept`` false nothing is written before ``keep``."""
        self._path = path
        self._kept = kept
        self._pending: list[str] = []
        self._room = PER_COMMAND
        self._dropped = 0
        self.redactor = Redactor(())

    def note(self, line: str) -> None:
        """What this program did or decided."""
        self._append("tasklog", line)

    def command(self, line: str) -> None:
        """A command that is about to start; opens a new allowance for its output."""
        self.end_command()
        self._append("repo-manager", line)

    def output(self, line: str) -> None:
        """A line of the running command."""
        size = len(line) + 1  # characters: close enough for a bound
        if size > self._room:
            self._dropped += size
            self._room = 0  # and nothing after it, so that what is shown has no gaps
            return
        self._room -= size
        self._append("restic", line)

    def end_command(self) -> None:
        """The command has ended: say how much of its output was left out."""
        if self._dropped:
            self._append("tasklog", f"({self._dropped} more bytes of output are not kept)")
        self._room, self._dropped = PER_COMMAND, 0

    def _append(self, kind: str, line: str) -> None:
        if self._path is not None:
            self._pending.extend(f"[{kind}] {part}" for part in self.redactor.text(line).split("\n"))

    async def flush(self) -> None:
        """Write what was collected. Never raises for the disk's sake."""
        if self._path is None or not self._pending or not self._kept:
            return
        data = ("\n".join(self._pending) + "\n").encode("utf-8", "replace")
        self._pending.clear()
        await trio.to_thread.run_sync(self._write, data)

    async def keep(self) -> bool:
        """Write what was collected, and all that follows; whether there is something to read now."""
        self._kept = True
        something = bool(self._pending)
        await self.flush()
        return something and self._path is not None

    def _write(self, data: bytes) -> None:
        if self._path is None:
            return
        try:
            # 0600 from its first moment; O_APPEND, so that two writers would not overwrite each other.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                leave_to_owner(descriptor, self._path)
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("the task log %s cannot be written: %s", self._path.name, error.strerror)
            self._path = None


def expire(directory: Path) -> int:
    """Delete task logs older than ``KEEP_S``; how many. Other files are left alone."""
    count = 0
    horizon = time.time() - KEEP_S
    try:
        for path in directory.glob("[tc]-*.log"):
            if path.stat().st_mtime < horizon:
                path.unlink()
                count += 1
    except OSError as error:
        logger.warning("old task logs cannot be removed: %s", error)
    return count

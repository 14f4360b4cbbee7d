"""A running backup's progress: for the history at most once a second, for a progress bar as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from backrest.engine import parse
from backrest.engine.record import Record
from backrest.wire import restic

logger = logging.getLogger(__name__)

# As in the reference (3.11): more would load the log and every peer that mirrors it.
SAVE_EVERY_S = 1.0

# As in the reference (3.11): a source that cannot be read at all has millions of errors.
MAX_ERRORS = 21


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a running backup. Totals grow while restic still scans the source."""

    percent: float
    """0 to 100"""
    files_done: int
    total_files: int
    bytes_done: int
    total_bytes: int
    current_files: tuple[str, ...]
    seconds_elapsed: float
    errors: int
    """files that could not be read so far"""


class Reporter:
    """Takes restic's messages, puts them into the operation, and has it stored and shown."""

    def __init__(
        self,
        record: Record,
        callback: Callable[[Progress], None] | None,
        redact: Callable[[str], str],
    ) -> None:
        self._record = record
        self._callback = callback
        self._redact = redact
        self._started = trio.current_time()
        self._items: set[str] = set()
        self._changed = trio.Event()
        self.error_count = 0

    def message(self, found: Mapping[str, Any]) -> None:
        """A status or error message of restic's."""
        backup = self._record.operation.operation_backup
        if found.get("message_type") == "error":
            self._error(found)
        elif "action" not in found:  # in 0.14 a dry run prints per-file messages under this type
            before = list(backup.last_status.status.current_file)
            backup.last_status.status.CopyFrom(parse.status(found, before))
            self._show(backup.last_status.status)
        else:
            return
        self._changed.set()

    def _error(self, found: Mapping[str, Any]) -> None:
        error = parse.backup_error(found)
        error.message = self._redact(error.message)
        self.error_count += 1
        errors = self._record.operation.operation_backup.errors
        if len(errors) < MAX_ERRORS and error.item not in self._items:
            self._items.add(error.item)
            errors.append(error)

    def summary(self, found: restic.BackupProgressSummary) -> None:
        """The end: the summary takes the place of the status."""
        self._record.operation.operation_backup.last_status.summary.CopyFrom(found)
        files, size = found.total_files_processed, found.total_bytes_processed
        self._call(Progress(100.0, files, files, size, size, (), self._elapsed(), self.error_count))

    def _show(self, status: restic.BackupProgressStatusEntry) -> None:
        self._call(
            Progress(
                percent=min(100.0, max(0.0, status.percent_done * 100)),
                files_done=status.files_done,
                total_files=status.total_files,
                bytes_done=status.bytes_done,
                total_bytes=status.total_bytes,
                current_files=tuple(status.current_file),
                seconds_elapsed=self._elapsed(),
                errors=self.error_count,
            )
        )

    def _elapsed(self) -> float:
        return trio.current_time() - self._started

    def _call(self, progress: Progress) -> None:
        if self._callback is None:
            return
        try:
            self._callback(progress)
        except Exception:  # a terminal that went away must not end a backup
            logger.warning("the progress display failed and is switched off", exc_info=True)
            self._callback = None

    async def keep_saving(self) -> None:
        """Store the operation whenever it changed, once in SAVE_EVERY_S at most. Runs until cancelled."""
        while True:
            await trio.sleep(SAVE_EVERY_S)
            await self._changed.wait()
            self._changed = trio.Event()
            await self._record.save()

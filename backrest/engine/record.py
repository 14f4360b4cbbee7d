"""One operation in the history, from PENDING to its end.

The operation log is blocking, so each write runs in a worker thread; a write that has begun finishes even
when its caller is cancelled. Whatever happens between ``begin`` and the end, one of ``finish`` and ``abort``
is reached, in a shielded scope, so that nothing stays INPROGRESS while the process lives (for when it does
not, see recover.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

import trio

from backrest.errors import BackrestError, NotFoundError, StorageError
from backrest.store.oplog import OpLog
from backrest.wire import operations

logger = logging.getLogger(__name__)

Operation = operations.Operation


class Stop(Enum):
    """Why a running task is ended from outside."""

    USER = "cancelled by the user"
    SHUTDOWN = "interrupted: this instance was shutting down"


class Record:
    """The operation of one task. ``operation`` is the caller's to fill; a write stores it as it then is."""

    def __init__(self, oplog: OpLog, now_ms: Callable[[], int], operation: Operation) -> None:
        self._oplog = oplog
        self._now_ms = now_ms
        self._lost = False
        self.operation = operation
        self.finished = False

    async def add(self, at_ms: int | None = None) -> None:
        """Into the log as PENDING, due now or at ``at_ms``; id and flow are then known."""
        self.operation.status = operations.STATUS_PENDING
        self.operation.unix_time_start_ms = self._now_ms() if at_ms is None else at_ms
        [stored] = await trio.to_thread.run_sync(self._oplog.add, [_copy(self.operation)])
        self.operation.CopyFrom(stored)

    async def begin(self, logref: str) -> None:
        """INPROGRESS, from now."""
        self.operation.status = operations.STATUS_INPROGRESS
        self.operation.unix_time_start_ms = self._now_ms()
        self.operation.logref = logref
        await self._update()

    async def save(self) -> None:
        """Store progress. A disk that refuses it does not end the task: the end will be tried again."""
        try:
            await self._update()
        except StorageError as error:
            logger.warning("progress of operation %d is not stored: %s", self.operation.id, error)

    async def finish(
        self, status: operations.OperationStatus, message: str = "", at_ms: int | None = None
    ) -> None:
        """The end of the task. StorageError if the log cannot take it."""
        self.operation.status = status
        self.operation.unix_time_end_ms = self._now_ms() if at_ms is None else at_ms
        if message:
            before = self.operation.display_message
            self.operation.display_message = f"{message}\n\n{before}" if before else message
        with trio.CancelScope(shield=True):
            await self._update()
        self.finished = True

    async def remark(self, status: operations.OperationStatus, message: str) -> None:
        """Something that came out after the end. StorageError if the log cannot take it."""
        await self.finish(status, message, self.operation.unix_time_end_ms)

    async def abort(self, what: str, stop: Stop) -> None:
        """End it because its task was cancelled."""
        status = operations.STATUS_USER_CANCELLED if stop is Stop.USER else operations.STATUS_ERROR
        await self._end_anyhow(status, f"the {what} was {stop.value}")

    async def fail(self, what: str, error: Exception) -> None:
        """End it because of an error that its task did not expect."""
        said = str(error) if isinstance(error, BackrestError) else f"a mistake in this program ({error!r})"
        await self._end_anyhow(operations.STATUS_ERROR, f"failed to {what}: {said}")

    async def _end_anyhow(self, status: operations.OperationStatus, message: str) -> None:
        """Never raises for the disk's sake: there is another exception, which the caller must hear of."""
        if self.finished or not self.operation.id:
            return
        try:
            await self.finish(status, message)
        except StorageError as error:
            logger.error("the end of operation %d is not stored: %s", self.operation.id, error)

    async def _update(self) -> None:
        if self._lost:
            return
        try:
            [stored] = await trio.to_thread.run_sync(self._oplog.update, [_copy(self.operation)])
        except NotFoundError:
            # The history was cleared while the task ran; the task itself is not concerned.
            self._lost = True
            logger.warning("operation %d was removed from the history while it ran", self.operation.id)
            return
        self.operation.modno = stored.modno


def _copy(operation: Operation) -> Operation:
    """What is handed over: the original keeps changing while a thread stores it."""
    copy = Operation()
    copy.CopyFrom(operation)
    return copy

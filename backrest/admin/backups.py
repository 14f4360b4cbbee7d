"""restic, now: a plan's backup, and the index of a repository. Reports on the way what a progress bar needs.

Whoever asked for a backup and leaves (Ctrl-C, a closed terminal) cancels it: the operation's end says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from backrest.admin.context import Context
from backrest.admin.plans import find as find_plan
from backrest.admin.plans import refuse_parked
from backrest.admin.registry import Emit
from backrest.admin.repos import find as find_repo
from backrest.errors import BackrestError
from backrest.store.text import one_line
from backrest.wire import codec, operations

if TYPE_CHECKING:
    from backrest.engine import Ended, Progress

log = logging.getLogger("backrest.admin")

LOGGED_CHARS = 500  # of a message, which may name a thousand files


class _Latest:
    """The newest progress: restic reports faster than a slow terminal reads, and what it skips is old."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._changed = trio.Event()

    def put(self, progress: Progress) -> None:
        self._progress = progress
        self._changed.set()

    async def report(self, emit: Emit) -> None:
        """Until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if self._progress is not None:
                await emit({"progress": progress_json(self._progress)})


def progress_json(progress: Progress) -> dict[str, Any]:
    """The progress with the names of a BackupProgressStatusEntry, as far as that has one."""
    return {
        "percentDone": progress.percent / 100,
        "filesDone": progress.files_done,
        "totalFiles": progress.total_files,
        "bytesDone": progress.bytes_done,
        "totalBytes": progress.total_bytes,
        "currentFile": list(progress.current_files),
        "secondsElapsed": progress.seconds_elapsed,
        "errors": progress.errors,
    }


async def backup(context: Context, emit: Emit, plan_id: str, dry_run: bool = False) -> dict[str, Any]:
    """Runs the plan's backup to its end; the result is the operation, failed or not, the ``forget`` after it, and
    the ``problems`` that came after the backup itself, a sentence for each.

    Raises what kept it from becoming an operation at all (no such plan, no restic).
    """
    await trio.to_thread.run_sync(refuse_parked, context, plan_id)
    find_plan(context.config.current, plan_id)
    engine = await trio.to_thread.run_sync(lambda: context.engine)
    latest = _Latest()
    ended: Ended | None = None
    error: BackrestError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(latest.report, emit)
        try:
            ended = await engine.run_backup(plan_id, progress=latest.put, dry_run=dry_run)
        except BackrestError as failure:
            error = failure
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    assert ended is not None
    if context.daemon is not None:  # a command says it itself
        _log(plan_id, ended.operation)
        for problem in ended.problems:
            log.warning("plan %s: %s", plan_id, one_line(problem, LOGGED_CHARS))
    result: dict[str, Any] = {"operation": codec.to_dict(ended.operation)}
    if ended.forget is not None:
        result["forget"] = codec.to_dict(ended.forget)
    return result | ({"problems": list(ended.problems)} if ended.problems else {})


def _log(plan_id: str, operation: operations.Operation) -> None:
    ended = (
        operations.OperationStatus.Name(operation.status).removeprefix("STATUS_").replace("_", " ").lower()
    )
    good = operation.status == operations.STATUS_SUCCESS
    why = f": {one_line(operation.display_message, LOGGED_CHARS)}" if operation.display_message else ""
    log.log(
        logging.INFO if good else logging.WARNING,
        "plan %s: backup (operation %d) ended as %s%s",
        plan_id,
        operation.id,
        ended,
        why,
    )


async def index(context: Context, emit: Emit, repo_id: str) -> dict[str, Any]:
    """Brings the history in line with the snapshots that the repository really holds."""
    find_repo(context.config.current, repo_id)
    engine = await trio.to_thread.run_sync(lambda: context.engine)
    await emit({"message": f"reading the snapshots of {repo_id}"})
    result = await engine.index(repo_id)
    return {"new": result.new, "forgotten": result.forgotten} | (
        {"skipped": list(result.skipped)} if result.skipped else {}
    )


async def unlock(context: Context, emit: Emit, repo_id: str) -> dict[str, Any]:
    """Removes the locks that a dead restic left in the repository; ``left``: how many stay, of those that may live."""
    find_repo(context.config.current, repo_id)
    engine = await trio.to_thread.run_sync(lambda: context.engine)
    await emit({"message": f"looking at the locks of {repo_id}"})
    return {"left": await engine.unlock(repo_id)}

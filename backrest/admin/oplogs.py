"""The history's file: checked, repaired, shrunk; begun with what the Go program has kept.

Checking only reads, so it may run beside the daemon. Repair is for when the daemon refuses to start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from backrest.admin.context import Context, now_ms
from backrest.admin.registry import Emit
from backrest.errors import UserError
from backrest.store import handover
from backrest.store.golog import GoLog
from backrest.store.lock import reference_at_rest
from backrest.store.opload import Progress
from backrest.store.oplog import OpLog, Report


def _report(context: Context, report: Report) -> dict[str, Any]:
    return {
        "file": str(context.paths.oplog),
        "size": report.size,
        "lines": report.lines,
        "operations": report.operations,
        "opens": report.opens,
        "badLines": report.bad_lines,
        "problems": [{"line": bad.number, "reason": bad.reason} for bad in report.bad],
        "torn": report.torn,
        "firstLineMissing": report.unmarked,
    }


T = TypeVar("T")

# Between two reports: a bar that moves, and no work worth mentioning.
_REPORT_S = 0.2


async def _reporting(emit: Emit, work: Callable[[Progress], T]) -> T:
    """Do it in a thread; {"done": n, "total": n} on the way. Who gives up waiting ends the work at its next step."""
    latest = (0, 0)
    result: list[T] = []

    def keep(done: int, total: int) -> None:
        nonlocal latest
        latest = (done, total)
        trio.from_thread.check_cancelled()

    async def report() -> None:
        told = latest
        while True:
            await trio.sleep(_REPORT_S)
            if latest != told:
                told = latest
                await emit({"done": told[0], "total": told[1]})

    async def do(scope: trio.CancelScope) -> None:
        result.append(await trio.to_thread.run_sync(work, keep))
        scope.cancel()

    # Not in this task: a command's is the one that Ctrl-C interrupts, and a thread's caller cannot be.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        nursery.start_soon(do, nursery.cancel_scope)
    if latest[1]:
        await emit({"done": latest[0], "total": latest[1]})
    return result[0]


async def verify(context: Context, emit: Emit) -> dict[str, Any]:
    """Every line, read thoroughly. "torn" bytes at the end are what a power cut leaves, and no damage."""
    path = context.paths.oplog
    if not path.exists():
        return _report(context, Report())
    return _report(context, await _reporting(emit, partial(OpLog.verify, path)))


async def repair(context: Context, emit: Emit) -> dict[str, Any]:
    """Makes a file that opens; the lines that do not count go into a file beside it."""
    path = context.paths.oplog
    report = await _reporting(emit, partial(OpLog.repair, path)) if path.exists() else Report()
    if report.repaired:
        context.record("oplog-repaired", bad_lines=report.bad_lines, file=report.set_aside)
    return _report(context, report) | {
        "repaired": report.repaired,
        "moved": report.moved,
        "setAside": report.aside,
        "asideFile": report.set_aside,
    }


async def compact(context: Context, emit: Emit) -> dict[str, Any]:
    """Writes the file anew without what was overwritten or deleted, while reading and writing go on."""
    done = await _reporting(emit, lambda progress: context.oplog.compact(progress))
    return {"file": str(context.paths.oplog), "before": done.before, "after": done.after}


async def import_reference(context: Context, emit: Emit, file: str | None = None) -> dict[str, Any]:
    """The history of this machine that the Go program has kept becomes the beginning of ours; ``file``: its
    oplog.sqlite, when it is not in the data directory. Once, and before any hub is dialled."""
    path = Path(file) if file else context.paths.reference_oplog
    config = context.identified()
    context.ready_to_record()

    def take_over(progress: Progress) -> handover.Imported:
        with reference_at_rest(context.paths, path), GoLog(path) as source:
            guids = {repo.id: repo.guid for repo in config.repos if repo.guid}
            return handover.take_over(context.paths, source, config.instance, guids, now_ms(), progress)

    done = await _reporting(emit, take_over)
    if not done.again:
        context.record("history-imported", file=str(path), operations=done.imported)
    return {
        "file": str(path),
        "instanceId": config.instance,
        "imported": done.imported,
        "cancelled": done.cancelled,
        "interrupted": done.interrupted,
        "skipped": done.skipped,
        "unreadable": done.unreadable,
        "problems": [{"id": str(number), "reason": reason} for number, reason in done.problems],
        "foreign": done.foreign,
        "otherNames": done.other_names,
        "again": done.again,
    }


def forgo_reference(context: Context) -> dict[str, Any]:
    """Go on without the history that the Go program has kept: hubs delete what they hold of it."""
    if not handover.waits(context.paths):
        raise UserError("no history of the Go program waits here: there is nothing to give up")
    context.ready_to_record()
    handover.give_up(context.paths, now_ms())
    context.record("history-given-up", file=str(context.paths.reference_oplog))
    return {"file": str(context.paths.reference_oplog)}

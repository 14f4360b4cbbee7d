"""The history's file: checked, repaired, shrunk.

Checking only reads, so it may run beside the daemon. Repair is for when the daemon refuses to start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import trio

from backrest.admin.context import Context
from backrest.admin.registry import Emit
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
    }


T = TypeVar("T")

# Between two reports: a bar that moves, and no work worth mentioning.
_REPORT_S = 0.2


async def _reporting(emit: Emit, work: Callable[[Progress], T], *, abandon: bool = False) -> T:
    """Do it in a thread; {"done": n, "total": n} on the way. ``abandon``: it may be given up when nobody waits."""
    latest = (0, 0)

    def keep(done: int, total: int) -> None:
        nonlocal latest
        latest = (done, total)

    async def report() -> None:
        told = latest
        while True:
            await trio.sleep(_REPORT_S)
            if latest != told:
                told = latest
                await emit({"done": told[0], "total": told[1]})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        result = await trio.to_thread.run_sync(work, keep, abandon_on_cancel=abandon)
        nursery.cancel_scope.cancel()
    if latest[1]:
        await emit({"done": latest[0], "total": latest[1]})
    return result


async def verify(context: Context, emit: Emit) -> dict[str, Any]:
    """Every line, read thoroughly. "torn" bytes at the end are what a power cut leaves, and no damage."""
    path = context.paths.oplog
    if not path.exists():
        return _report(context, Report())
    return _report(context, await _reporting(emit, partial(OpLog.verify, path), abandon=True))


async def repair(context: Context, emit: Emit) -> dict[str, Any]:
    """Makes a file that opens; the bad lines go into a file beside it."""
    path = context.paths.oplog
    if not path.exists():
        return _report(context, Report()) | {"setAside": 0, "asideFile": ""}
    report = await _reporting(emit, partial(OpLog.repair, path))
    if report.set_aside:
        context.record("oplog-repaired", bad_lines=report.bad_lines, file=report.set_aside)
    return _report(context, report) | {"setAside": report.bad_lines, "asideFile": report.set_aside}


async def compact(context: Context, emit: Emit) -> dict[str, Any]:
    """Writes the file anew without what was overwritten or deleted, while reading and writing go on."""
    done = await _reporting(emit, lambda progress: context.oplog.compact(progress))
    return {"file": str(context.paths.oplog), "before": done.before, "after": done.after}

"""The history's file: checked, repaired, shrunk.

Checking only reads, so it may run beside the daemon. Repair is for when the daemon refuses to start.
"""

from __future__ import annotations

from typing import Any

from backrest.admin.context import Context
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


def verify(context: Context) -> dict[str, Any]:
    """Every line, read thoroughly. "torn" bytes at the end are what a power cut leaves, and no damage."""
    if not context.paths.oplog.exists():
        return _report(context, Report())
    return _report(context, OpLog.verify(context.paths.oplog))


def repair(context: Context) -> dict[str, Any]:
    """Makes a file that opens; the bad lines go into a file beside it."""
    if not context.paths.oplog.exists():
        return _report(context, Report()) | {"setAside": 0, "asideFile": ""}
    report = OpLog.repair(context.paths.oplog)
    if report.set_aside:
        context.audit.append("oplog-repaired", bad_lines=report.bad_lines, file=report.set_aside)
    return _report(context, report) | {"setAside": report.bad_lines, "asideFile": report.set_aside}


def compact(context: Context) -> dict[str, Any]:
    """Writes the file anew without what was overwritten or deleted, while reading and writing go on."""
    done = context.oplog.compact()
    return {"file": str(context.paths.oplog), "before": done.before, "after": done.after}

"""After a start: what a process that was killed left in the history (ENGINE.md 2.5).

Local operations only: those of other instances are copies, whose owners say what became of them (W-22). On a full disk
it can be done later, as long as nothing has run since: what runs now looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from backrest.store.oplog import OpLog, Query
from backrest.wire import operations

INTERRUPTED = "the operation was interrupted: the program ended while it ran"

# Due and never run: nothing is known about them that anybody would miss. (The reference drops what was cancelled, too.
# That somebody stopped a backup is history, and its log says how far it had come.)
_DROPPED = (operations.STATUS_UNKNOWN, operations.STATUS_PENDING)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found: how many were ended as interrupted and deleted, and the repositories they worked on."""

    interrupted: int
    deleted: int
    guids: frozenset[str]


def recover(oplog: OpLog) -> Recovered:
    """Blocking. To be called before anything is run. StorageError: to be called again; the interrupted ones, which are
    the last to be written, are then found again."""
    dropped = [one.id for one in oplog.query(Query(origin="", status=_DROPPED))]
    if dropped:
        oplog.delete(dropped)
    running = list(oplog.query(Query(origin="", status=operations.STATUS_INPROGRESS)))
    for operation in running:
        operation.status = operations.STATUS_ERROR
        operation.unix_time_end_ms = operation.unix_time_start_ms
        before = operation.display_message
        operation.display_message = f"{INTERRUPTED}\n\n{before}" if before else INTERRUPTED
    if running:
        oplog.update(running)
    return Recovered(len(running), len(dropped), frozenset(one.repo_guid for one in running))

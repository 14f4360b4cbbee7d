"""The history brought in line with the snapshots that a repository really holds (ENGINE.md 3.16).

Only local operations count as known. The reference counts those received from other instances too; then a
peer that claims a snapshot would keep us from ever listing it ourselves, and its operations would be changed
here, where they are copies (W-14).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import trio

from backrest.engine import parse
from backrest.engine.restic import Repository
from backrest.errors import NotFoundError, ResticError
from backrest.store.oplog import OpLog, Query
from backrest.wire import operations, restic

logger = logging.getLogger(__name__)

Operation = operations.Operation

UNASSOCIATED = "_unassociated_"

_KINDS = (Operation.OPERATION_BACKUP_FIELD_NUMBER, Operation.OPERATION_INDEX_SNAPSHOT_FIELD_NUMBER)

# Operations written in one step: one commit, one event to the peers, of at most about a megabyte.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class IndexResult:
    """How many snapshots were new to the history, and how many are gone from the repository."""

    new: int
    forgotten: int
    skipped: tuple[str, ...] = ()
    """Which snapshots are passed over, and why: a sentence for each, up to a bound."""


@dataclass(slots=True)
class Known:
    """What the history says of one repository."""

    indexed: dict[str, int] = field(default_factory=dict)
    """snapshot id -> operation id of its index operation, where it is not marked as forgotten"""
    backups: dict[str, Operation] = field(default_factory=dict)
    """snapshot id -> the backup that made it"""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index found, and what the history says after it."""

    result: IndexResult
    known: Known
    snapshots: list[restic.ResticSnapshot]


async def require_identity(repository: Repository, oplog: OpLog, ids: Sequence[str]) -> None:
    """ResticError if another repository than the configured one answered with the snapshots ``ids``.

    A snapshot that the history knows proves the identity: its id is a hash of its content. Only where there is none (a
    new repository, or another one) restic is asked, which costs a second.
    """
    guid = repository.repo.guid

    def known() -> bool:
        queries = (Query(repo_guid=guid, origin="", snapshot_id=one) for one in ids)
        return any(oplog.matching(query) for query in queries)

    if not guid or await trio.to_thread.run_sync(known):
        return
    there = await repository.guid()
    if there != guid:
        raise ResticError(
            f"repo {repository.repo.id}: another restic repository is at {repository.uri} (its id is {there[:8]}, not "
            f"{guid[:8]}), so nothing was saved or forgotten: look whether the right disk is mounted; to use the other "
            f"one, enter it as a repository of its own (`backrest repo add`)"
        )


async def index(repository: Repository, oplog: OpLog) -> Indexed:
    """List the snapshots, add an operation for each new one, mark those that are gone. ResticError: nothing changed."""
    listing = await repository.listing()
    snapshots = listing.snapshots
    known = await trio.to_thread.run_sync(read_history, oplog, repository.repo.guid)
    of_ours = (one.id for one in snapshots if one.id in known.indexed or one.id in known.backups)
    await require_identity(repository, oplog, list(islice(of_ours, 1)))
    new = [
        to_operation(one, repository.repo.id, repository.repo.guid, known.backups.get(one.id))
        for one in snapshots
        if one.id not in known.indexed
    ]
    for start in range(0, len(new), BATCH):
        for stored in await trio.to_thread.run_sync(oplog.add, new[start : start + BATCH]):
            known.indexed[stored.snapshot_id] = stored.id
    there = {one.id for one in snapshots} | {one.id for one in listing.skipped}
    gone = [snapshot_id for snapshot_id in known.indexed if snapshot_id not in there]
    await mark_forgotten(oplog, known, gone)
    skipped = parse.words_of(listing.skipped)
    for words in skipped:
        logger.warning("repo %s: %s", repository.repo.id, words)
    return Indexed(IndexResult(len(new), len(gone), tuple(skipped)), known, snapshots)


async def mark_forgotten(oplog: OpLog, known: Known, snapshot_ids: Iterable[str]) -> None:
    """Set forgot=true in the index operations of these snapshots, where there are any."""
    ids = [known.indexed.pop(one) for one in snapshot_ids if one in known.indexed]
    for start in range(0, len(ids), BATCH):
        await trio.to_thread.run_sync(_mark, oplog, ids[start : start + BATCH])


def _mark(oplog: OpLog, ids: list[int]) -> None:
    changed = []
    for one in ids:
        try:
            operation = oplog.get(one)
        except NotFoundError:  # the history was cleared in the meantime
            continue
        operation.operation_index_snapshot.forgot = True
        changed.append(operation)
    if changed:
        oplog.update(changed)


def read_history(oplog: OpLog, guid: str) -> Known:
    """Blocking. One pass over the repository's local operations, oldest first, so that the newest of two
    counts.
    """
    known = Known()
    for operation in oplog.query(Query(repo_guid=guid, origin="", kind=_KINDS)):
        kind = operation.WhichOneof("op")
        if kind == "operation_index_snapshot" and not operation.operation_index_snapshot.forgot:
            known.indexed[operation.snapshot_id] = operation.id
        elif kind == "operation_backup" and operation.snapshot_id:
            known.backups[operation.snapshot_id] = operation
    return known


def to_operation(
    snapshot: restic.ResticSnapshot, repo_id: str, guid: str, backup: Operation | None
) -> Operation:
    """The index operation of a snapshot, attributed by its tags.

    Its end is its start plus the summary's duration; without a summary (restic before 0.17) the end of the
    backup that made it, where that is known.
    """
    # The log takes no operation without a start; a snapshot of 1970-01-01T00:00:00Z has a broken clock behind
    # it.
    start = snapshot.unix_time_ms or 1
    if snapshot.HasField("summary"):
        end = start + round(snapshot.summary.total_duration * 1000)
    else:
        end = max(start, backup.unix_time_end_ms) if backup is not None else start
    return Operation(
        flow_id=backup.flow_id if backup is not None else 0,
        repo_id=repo_id,
        repo_guid=guid,
        plan_id=parse.tag(snapshot, "plan") or UNASSOCIATED,
        instance_id=parse.tag(snapshot, "created-by") or UNASSOCIATED,
        snapshot_id=snapshot.id,
        status=operations.STATUS_SUCCESS,
        unix_time_start_ms=start,
        unix_time_end_ms=end,
        operation_index_snapshot=operations.OperationIndexSnapshot(snapshot=snapshot),
    )

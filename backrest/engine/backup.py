"""The backup of one plan and what follows it in the same flow: the index of the repository, then the plan's
forget, unless the backup is doubted (loss.py).

The order of what is written to the history is the reference's, as captured from it: backup PENDING,
INPROGRESS, progress; the forget as PENDING; the backup's end; the index operations; the forget INPROGRESS,
the index operations of what it removed, the forget's end. Hooks are not here: they get their own place when
they come.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import trio

from backrest.engine import command, loss, parse
from backrest.engine.index import Indexed, index, mark_forgotten, require_identity
from backrest.engine.progress import Progress, Reporter
from backrest.engine.record import Operation, Record
from backrest.engine.restic import BackupResult, Repository
from backrest.engine.tasklog import TaskLog, new_logref
from backrest.engine.workbench import Workbench
from backrest.errors import BackrestError, ResticError, StorageError, UserError
from backrest.store.oplog import Query
from backrest.store.plannotes import Note
from backrest.wire import config, operations, restic

logger = logging.getLogger(__name__)

NOTHING_NEW = "nothing changed since the last snapshot: no snapshot was added"
DRY_RUN = "dry run: nothing was saved"

# Snapshots that are looked up in the history to know the repository again: the newest is there, unless the history was
# cleared, or restic was used beside this program.
PROOFS = 3

# The time that a snapshot carries may be its machine's mistake; its day is enough to find it.
_DAY = "%Y-%m-%d %H:%M"


class BackupTask:
    """One run. ``record`` is in the log as PENDING when ``run`` is called, and ended when it returns or
    raises.
    """

    def __init__(
        self,
        bench: Workbench,
        instance: str,
        repo: config.Repo,
        plan: config.Plan,
        *,
        dry_run: bool,
        callback: Callable[[Progress], None] | None,
    ) -> None:
        self._bench = bench
        self._instance = instance
        self._repo = repo
        self._plan = plan
        self._dry_run = dry_run
        self._callback = callback
        self.record = self._record(operation_backup=operations.OperationBackup(dry_run=dry_run))
        self.forget: Record | None = None
        """The forget that followed, if one was due."""
        self.problems: list[str] = []
        """What failed after the backup itself: a sentence for each."""
        self._before: list[restic.ResticSnapshot] = []
        self._skipped: list[parse.Skipped] = []

    def _record(self, **body: object) -> Record:
        operation = Operation(
            repo_id=self._repo.id,
            repo_guid=self._repo.guid,
            plan_id=self._plan.id,
            instance_id=self._instance,
            **body,  # type: ignore[arg-type]  # one member of the oneof, by its name
        )
        return Record(self._bench.oplog, self._bench.now_ms, operation)

    def update(self, repo: config.Repo, plan: config.Plan) -> None:
        """Take over a configuration changed while the task waited; UserError if it is another task now."""
        if repo.guid != self._repo.guid or plan.repo != self._plan.repo:
            raise UserError(f"plan {plan.id} was moved to another repository while its backup waited")
        self._repo, self._plan = repo, plan

    async def run(self) -> None:
        """The whole flow. A failure ends up in its operation; only a log that cannot be written is raised."""
        logref = new_logref()
        await self.record.begin(logref)
        log = await self._bench.task_log(logref)
        try:
            repository = await self._bench.repository(self._repo, log)
            result = await self._backup(repository, log)
        except (ResticError, UserError) as error:
            log.note(f"failed: {error}")
            await log.flush()
            await self.record.finish(operations.STATUS_ERROR, f"failed to backup: {error}")
            return
        self.forget = forget = await self._conclude(repository, result, log)
        await log.flush()
        if not self.record.operation.snapshot_id:
            return
        if forget is None:
            await self._index(log)
        else:
            async with ending(forget, "forget", self._bench):
                await self._forget(forget, await self._index(log))
        await log.flush()

    async def _backup(self, repository: Repository, log: TaskLog) -> BackupResult:
        """Everything up to restic's end. Raises ResticError or UserError if there is no snapshot."""
        if not self._plan.paths:
            raise UserError(f"plan {self._plan.id} has no paths")
        await trio.to_thread.run_sync(check_paths, self._plan)
        if self._plan.skip_if_unchanged and not repository.binary.can_skip:
            log.note("skip_if_unchanged is ignored: it needs restic 0.17 or later")
        await self._bench.clear_locks(repository)
        listing = await repository.listing(tags=command.tags(self._plan.id, self._instance))
        before, self._skipped = listing.snapshots, listing.skipped
        await require_identity(repository, self._bench.oplog, [one.id for one in before[-PROOFS:]])
        self._before = before
        parent = before[-1].id if before else ""
        reporter = Reporter(self.record, self._callback, repository.redact)
        result: BackupResult | BackrestError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reporter.keep_saving)
            try:
                result = await repository.backup(
                    self._plan,
                    self._instance,
                    parent=parent,
                    dry_run=self._dry_run,
                    on_message=reporter.message,
                )
            except BackrestError as error:  # out of the nursery, which would wrap it
                result = error
            nursery.cancel_scope.cancel()
        if isinstance(result, BackrestError):
            raise result
        reporter.summary(result.summary)
        return result

    async def _conclude(self, repository: Repository, result: BackupResult, log: TaskLog) -> Record | None:
        """Write the end of a backup that restic finished; the forget due after it, already PENDING."""
        operation = self.record.operation
        status = operations.STATUS_SUCCESS
        messages: list[str] = []
        doubts = await self._doubts(result)
        if doubts:
            status = operations.STATUS_WARNING
            messages += [one.words() for one in doubts]
            if result.problem:
                messages.append(result.problem)
            if self._before:
                messages.append(self._advice(doubts))
        snapshot_id = result.summary.snapshot_id
        if self._dry_run or result.dry_run:
            messages.append(DRY_RUN)
            snapshot_id = ""
        elif not snapshot_id:
            messages.append(NOTHING_NEW)
        elif not parse.is_full_id(snapshot_id):
            try:
                snapshot_id = await full_id(repository, snapshot_id)
            except ResticError as error:
                status = operations.STATUS_WARNING
                messages.append(f"the snapshot {snapshot_id} was saved, but cannot be looked up: {error}")
                snapshot_id = ""
        operation.snapshot_id = snapshot_id
        operation.operation_backup.last_status.summary.snapshot_id = snapshot_id
        if self._skipped:
            messages += parse.words_of(self._skipped)
            if self._forgets():
                status = operations.STATUS_WARNING
                messages.append(
                    "no snapshot is forgotten after it, because restic goes by the times of all snapshots of this "
                    "plan: remove those that are passed over (restic forget ID)"
                )
        for message in messages:
            log.note(message)
        end = self._bench.now_ms()
        forget = None
        if snapshot_id and self._forgets() and not doubts and not self._skipped:
            forget = self._record(flow_id=operation.flow_id, operation_forget=operations.OperationForget())
            await forget.add(end)
        await self.record.finish(status, "\n".join(messages), end)
        return forget

    async def _doubts(self, result: BackupResult) -> list[loss.Doubt]:
        """What speaks against a forget after it. A dry run is only asked whether it was complete."""
        files = result.summary.total_files_processed
        if self._dry_run or result.dry_run:
            return [loss.Doubt(loss.Why.INCOMPLETE)] if result.incomplete else []
        note = await trio.to_thread.run_sync(self._note)
        bare = await trio.to_thread.run_sync(loss.bare_sources, list(self._plan.paths))
        earlier = await trio.to_thread.run_sync(self._earlier, note)
        return loss.judge(files, result.incomplete, earlier, bare, note.bare)

    def _note(self) -> Note:
        """Blocking. A file that cannot be read is a plan of which nothing was confirmed."""
        try:
            return self._bench.plan_notes().plan(self._plan.id)
        except StorageError as error:
            logger.warning("what was confirmed of plan %s is not known: %s", self._plan.id, error)
            return Note()

    def _earlier(self, note: Note) -> list[loss.Earlier]:
        """Blocking. The plan's snapshots that were in the repository before this backup, oldest first."""
        mine = Query(
            repo_guid=self._repo.guid,
            plan_id=self._plan.id,
            origin="",
            kind=Operation.OPERATION_BACKUP_FIELD_NUMBER,
        )
        backups = {one.snapshot_id: one for one in self._bench.oplog.query(mine) if one.snapshot_id}
        found = []
        for snapshot in self._before:
            backup = backups.get(snapshot.id)
            files = None
            if backup is not None and backup.operation_backup.last_status.HasField("summary"):
                files = backup.operation_backup.last_status.summary.total_files_processed
            elif snapshot.HasField("summary"):
                files = snapshot.summary.total_files_processed
            good = backup is not None and backup.status == operations.STATUS_SUCCESS
            # Older versions called a backup without files a success, too.
            good = good and (files != 0 or bool(note.confirmed))
            found.append(loss.Earlier(files, good or snapshot.id == note.confirmed))
        return found

    def _advice(self, doubts: Sequence[loss.Doubt]) -> str:
        """What comes of the doubts, and what a person can do."""
        kept = "no snapshot is forgotten after it; " if self._forgets() else ""
        if doubts == [loss.Doubt(loss.Why.INCOMPLETE)]:
            return f"{kept}make these files readable, or exclude them"
        return f"{kept}if it is as it should be, say so: `backrest plan confirm {self._plan.id}`"

    def _forgets(self) -> bool:
        """Whether the plan's retention is applied after its backup.

        Never to a repo that another instance shares: what is kept there is for its owner to decide (W-52).
        """
        return (
            bool(command.keep_flags(self._plan.retention))
            and not self._repo.origin_instance_id
            and not command.has_active_forget_schedule(self._repo)
        )

    async def _index(self, log: TaskLog) -> Indexed | None:
        """The repository as it is after the backup; None if that cannot be known, which the backup's operation then
        says: there is no other that could.
        """
        try:
            indexed = await index(await self._bench.repository(self._repo, log), self._bench.oplog)
            if (skipped := indexed.result.skipped) and not self._skipped:
                await self.record.remark(self.record.operation.status, "\n".join(skipped))
            return indexed
        except (ResticError, UserError) as error:
            problem = (
                f"the snapshot is saved, but the snapshots of repo {self._repo.id} cannot be listed: {error}"
            )
            logger.warning("plan %s: %s", self._plan.id, problem)
            log.note(problem)
            self.problems.append(problem)
            await self.record.remark(operations.STATUS_WARNING, problem)
            return None

    def _require_newest(self, snapshots: Sequence[restic.ResticSnapshot], tags: Sequence[str]) -> None:
        """UserError unless this backup's snapshot is the newest of its plan by the times that restic goes by.

        Every retention keeps the newest one, and this one was judged. A clock that went wrong makes another the newest.
        """
        made = self.record.operation.snapshot_id
        mine = [one for one in snapshots if set(tags) <= set(one.tags)]
        if not any(one.id == made for one in mine):
            raise UserError(f"the snapshot {made[:8]} is not in the repository")
        newest = max(mine, key=lambda one: (one.unix_time_ms, one.id == made))
        if newest.id != made:
            when = datetime.fromtimestamp(newest.unix_time_ms / 1000, UTC).strftime(_DAY)
            raise UserError(
                f"the snapshot {newest.id[:8]} has a later time ({when} UTC) than this backup's: look whether the "
                f"clock is right, and remove that snapshot (restic forget {newest.id[:8]}) if its time is wrong"
            )

    async def _forget(self, record: Record, indexed: Indexed | None) -> None:
        logref = new_logref()
        await record.begin(logref)
        log = await self._bench.task_log(logref)
        tags = command.tags(self._plan.id, self._instance)
        try:
            if indexed is None:
                raise ResticError("the snapshots cannot be listed")
            self._require_newest(indexed.snapshots, tags)
            repository = await self._bench.repository(self._repo, log)
            await self._bench.clear_locks(repository)
            result = await repository.forget(command.keep_flags(self._plan.retention), tags)
        except (ResticError, UserError) as error:
            log.note(f"failed: {error}")
            await log.flush()
            message = f"failed to forget: {error}"
            self.problems.append(message)
            await record.finish(operations.STATUS_ERROR, message)
            return
        body = record.operation.operation_forget
        body.forget.extend(result.removed)
        body.policy.CopyFrom(self._plan.retention)
        await mark_forgotten(self._bench.oplog, indexed.known, ids(result.removed))
        if result.problem:
            log.note(result.problem)
            message = f"some snapshots could not be removed: {result.problem}"
            self.problems.append(message)
            await record.finish(operations.STATUS_WARNING, message)
        else:
            await record.finish(operations.STATUS_SUCCESS)
        await log.flush()


@asynccontextmanager
async def ending(record: Record, what: str, bench: Workbench) -> AsyncIterator[None]:
    """Whatever comes out of the block, ``record`` is ended before it goes on: nothing stays INPROGRESS."""
    try:
        yield
    except Exception as error:
        await record.fail(what, error)
        raise
    except BaseException:  # a cancellation, possibly in the group that a nursery makes of it; or Ctrl-C
        await record.abort(what, bench.why_stopped)
        raise


def ids(snapshots: Sequence[restic.ResticSnapshot]) -> list[str]:
    """The ids alone."""
    return [one.id for one in snapshots]


async def full_id(repository: Repository, short: str) -> str:
    """The whole id for the short one that restic before 0.15 prints at the end of a backup."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", short):  # never hand on what might be a flag
        raise ResticError("it is not an id")
    found = await repository.snapshots(only=short)
    matching = [one.id for one in found if one.id.startswith(short)]
    if len(matching) != 1:
        raise ResticError(f"{len(matching)} snapshots have an id that begins so")
    return matching[0]


def check_paths(plan: config.Plan) -> None:
    """Blocking. Every path must be there: restic leaves a missing one out and makes a smaller snapshot."""
    for path in plan.paths:
        command.no_nul(path, f"plan {plan.id}: a path")
        try:
            os.stat(path)
        except FileNotFoundError:
            reason = "no such file or directory"
            raise UserError(f"path {path} does not exist: stat {path}: {reason}") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"path {path} cannot be read: stat {path}: {reason}") from None

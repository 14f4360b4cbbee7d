"""The engine: what the rest of the program asks of restic. One task at a time for each repository.

A task that is cancelled (its caller went away, ``cancel`` was called, the program stops) lets restic end in
order and writes that end to the history before the cancellation goes on. Call ``stop`` before cancelling
everything at a shutdown: the operations then say so, and restic gets the shorter grace.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import trio

from backrest import harmless
from backrest.engine import command, tasklog
from backrest.engine.backup import BackupTask, ending
from backrest.engine.failures import Reason, ResticFailure
from backrest.engine.index import IndexResult, index
from backrest.engine.progress import Progress
from backrest.engine.record import Operation
from backrest.engine.recover import Recovered, recover
from backrest.engine.workbench import Workbench
from backrest.errors import NotFoundError, UserError
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog
from backrest.store.paths import Paths
from backrest.wire import config, operations

logger = logging.getLogger(__name__)

T = TypeVar("T", config.Repo, config.Plan)


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Ended:
    """A backup's operation, that of the forget after it (None: none was due), and what failed after the backup itself,
    a sentence for each."""

    operation: Operation
    forget: Operation | None
    problems: tuple[str, ...]


class Engine:
    """One for each process. Methods are for trio tasks, but for ``recover``, ``catch_up``, ``stop`` and ``cancel``."""

    def __init__(
        self,
        paths: Paths,
        config: ConfigStore,
        oplog: OpLog,
        *,
        restic_command: str | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.bench = Workbench(
            paths, oplog, trusts=self._trusts, restic_command=restic_command, now_ms=now_ms
        )
        self._paths = paths
        self._config = config
        self._oplog = oplog
        self._locks: dict[str, trio.Lock] = {}
        self._running: dict[int, trio.CancelScope] = {}
        self._recovering = threading.RLock()
        self.unrecovered = False
        """What a killed process left is still to be ended: the disk refused it."""

    # start and stop

    def recover(self) -> Recovered:
        """Blocking, once at the start: end what a killed process left INPROGRESS, drop what it never began.

        Locks that it left in repositories are removed when the next task works on them. Also deletes old task
        logs. StorageError: it is done before the first task runs, or by ``catch_up``.
        """
        with self._recovering:
            self.unrecovered = True
            found = self._recover()
            self.unrecovered = False
        return found

    def catch_up(self) -> None:
        """Blocking. What ``recover`` could not do, if anything; StorageError when it still cannot be done. Every task
        begins with it: its operation would look like one that a killed process left."""
        with self._recovering:
            if self.unrecovered:
                self.recover()

    def _recover(self) -> Recovered:
        found = recover(self._oplog)
        self.bench.interrupted |= found.guids
        if found.interrupted:
            logger.warning("operations interrupted when the program last ended: %d", found.interrupted)
        tasklog.expire(self._paths.tasklogs)
        return found

    def stop(self) -> None:
        """From now on a cancellation is a shutdown. The caller then cancels the tasks themselves."""
        self.bench.stopping = True

    def cancel(self, operation_id: int) -> bool:
        """End a waiting or running backup as the user's wish; False if there is none of this id."""
        scope = self._running.get(operation_id)
        if scope is not None:
            scope.cancel()
        return scope is not None

    @property
    def running(self) -> tuple[int, ...]:
        """The operations that wait or run now, oldest first."""
        return tuple(self._running)

    # tasks

    async def run_backup(
        self,
        plan_id: str,
        *,
        progress: Callable[[Progress], None] | None = None,
        dry_run: bool = False,
    ) -> Ended:
        """Run a plan's backup now, with its index and forget; how it ended, also when it failed.

        Raises NotFoundError for an unknown plan, UserError if it cannot be run at all, ResticError if the
        repository is not known yet and cannot be asked for its id (no operation is written in these cases),
        StorageError if the history cannot be written. ``progress`` is called about twice a second, from this
        task's thread.
        """
        plan = self._plan(plan_id)
        repo = self._repo(plan.repo, f"plan {plan_id}")
        instance = self._instance()
        command.tags(plan.id, instance)
        if not repo.guid:
            repo = await self.adopt(repo.id)
        await self._caught_up()
        task = BackupTask(self.bench, instance, repo, plan, dry_run=dry_run, callback=progress)
        await task.record.add()
        operation = task.record.operation
        with trio.CancelScope() as scope:
            self._running[operation.id] = scope
            try:
                async with ending(task.record, "backup", self.bench), self._lock(repo.guid):
                    await self._run(task, plan_id)
            finally:
                del self._running[operation.id]
        forget = task.forget.operation if task.forget is not None else None
        return Ended(operation, forget, tuple(task.problems))

    async def backup(
        self,
        plan_id: str,
        *,
        progress: Callable[[Progress], None] | None = None,
        dry_run: bool = False,
    ) -> Operation:
        """The same; the backup's operation alone."""
        return (await self.run_backup(plan_id, progress=progress, dry_run=dry_run)).operation

    async def _caught_up(self) -> None:
        if self.unrecovered:  # else no thread is needed
            await trio.to_thread.run_sync(self.catch_up)

    async def _run(self, task: BackupTask, plan_id: str) -> None:
        """Run it with the configuration as it is now: it may have waited for hours."""
        try:
            plan = self._plan(plan_id)
            task.update(self._repo(plan.repo), plan)
        except UserError as error:
            await task.record.finish(operations.STATUS_ERROR, f"failed to backup: {error}")
        else:
            await task.run()

    async def index(self, repo_id: str) -> IndexResult:
        """Compare the history with the repository's snapshots. ResticError says why it could not be."""
        repo = self._repo(repo_id)
        if not repo.guid:
            repo = await self.adopt(repo_id)
        await self._caught_up()
        async with self._lock(repo.guid), self.bench.call_log() as log:
            repository = await self.bench.repository(repo, log)
            await self.bench.clear_locks(repository)
            found = await index(repository, self._oplog)
        return found.result

    async def unlock(self, repo_id: str) -> int:
        """Remove the locks that a dead restic left in a repository, and no others; how many are left. ResticError."""
        repo = self._repo(repo_id)
        async with self._lock(repo.guid or repo.id), self.bench.call_log() as log:
            repository = await self.bench.repository(repo, log)
            await repository.unlock()
            return await repository.locks()

    # repositories

    async def repo_guid(self, repo: config.Repo, within_s: float | None = None) -> str:
        """The id of the repository that ``repo`` describes. ResticFailure (with its reason) if there is no
        answer within that time (else ``restic.ANSWER_S``).
        """
        async with self.bench.call_log() as log:
            return await (await self.bench.repository(repo, log)).guid(within_s)

    async def check_exists(self, repo: config.Repo, within_s: float | None = None) -> bool:
        """Whether there is a repository that opens with this password. ResticFailure for anything but yes and
        no.
        """
        try:
            await self.repo_guid(repo, within_s)
        except ResticFailure as failure:
            if failure.reason is Reason.NO_REPOSITORY:
                return False
            raise
        return True

    async def init_repo(self, repo: config.Repo) -> str:
        """Make the repository, or take the one that is there if the password opens it; its id.

        restic itself never overwrites a repository, so trying is safe even where an old one cannot tell
        "there is none" from "I cannot get there".
        """
        async with self.bench.call_log() as log:
            repository = await self.bench.repository(repo, log)
            try:
                return await repository.guid()
            except ResticFailure as failure:
                if failure.reason not in (Reason.NO_REPOSITORY, Reason.UNREACHABLE):
                    raise
            await repository.init()
            return await repository.guid()

    async def adopt(self, repo_id: str) -> config.Repo:
        """Find out a configured repo's id (making the repository if auto_initialize says so) and keep it. One that
        another instance shares is made there, never here."""
        repo = self._repo(repo_id)
        makes = repo.auto_initialize and not repo.origin_instance_id
        guid = await (self.init_repo(repo) if makes else self.repo_guid(repo))

        def keep(current: config.Config) -> bool:
            for one in current.repos:
                # Only where it still is the place that was asked.
                if one.id == repo_id and one.uri == repo.uri and not one.guid:
                    one.guid = guid
                    one.auto_initialize = False
                    return True
            return False

        await trio.to_thread.run_sync(self._config.transform, keep)
        return self._repo(repo_id)

    # the configuration

    def _instance(self) -> str:
        instance = self._config.current.instance
        if not instance:
            raise UserError("this instance has no id yet: run backrest init")
        return instance

    def _trusts(self, repo: config.Repo) -> bool:
        return harmless.trusts(self._config.current, repo.origin_instance_id, repo.id)

    def _plan(self, plan_id: str) -> config.Plan:
        plan = _by_id(self._config.current.plans, plan_id)
        if plan is None:
            raise NotFoundError(f"there is no plan {plan_id}")
        return plan

    def _repo(self, repo_id: str, user: str = "") -> config.Repo:
        repo = _by_id(self._config.current.repos, repo_id)
        if repo is None:
            raise NotFoundError(f"there is no repo {repo_id}" + (f", which {user} uses" if user else ""))
        return repo

    def _lock(self, guid: str) -> trio.Lock:
        return self._locks.setdefault(guid, trio.Lock())


def _by_id(items: Iterable[T], wanted: str) -> T | None:
    for item in items:
        if item.id == wanted:
            copy = type(item)()
            copy.CopyFrom(item)  # the configuration is read-only, and may be replaced while a task runs
            return copy
    return None

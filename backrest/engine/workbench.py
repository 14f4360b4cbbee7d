"""What every task works with: the log of operations, restic, task logs, and how it is told to stop."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from backrest import harmless
from backrest.engine import command, restic
from backrest.engine.failures import Reason, ResticFailure
from backrest.engine.record import Stop
from backrest.engine.tasklog import TaskLog
from backrest.errors import ResticError, StorageError, UserError
from backrest.store.oplog import OpLog
from backrest.store.paths import Paths, private_dir
from backrest.store.plannotes import PlanNotes
from backrest.wire import config

logger = logging.getLogger(__name__)

# At shutdown the whole process has 5 s (DESIGN.md, Process); restic gets this much of it.
SHUTDOWN_GRACE_S = 3.0


class Workbench:
    """Shared by the tasks of one engine."""

    def __init__(
        self,
        paths: Paths,
        oplog: OpLog,
        *,
        trusts: Callable[[config.Repo], bool],
        restic_command: str | None,
        now_ms: Callable[[], int],
    ) -> None:
        """``trusts`` says of a repo that another instance shares whether that one may run programs here."""
        self.oplog = oplog
        self.now_ms = now_ms
        self.stopping = False
        self.grace_s = restic.GRACE_S
        self.shutdown_grace_s = SHUTDOWN_GRACE_S
        self.interrupted: set[str] = set()
        """Guids of repositories that a task of a killed process worked on: its lock may be there still."""
        self._trusts = trusts
        self._said_left_out: set[tuple[str, ...]] = set()
        self._paths = paths
        self._restic_command = restic_command
        self._found: tuple[tuple[str, int], restic.Restic] | None = None

    @property
    def why_stopped(self) -> Stop:
        """What a task that finds itself cancelled says about it."""
        return Stop.SHUTDOWN if self.stopping else Stop.USER

    def grace(self) -> float:
        """Seconds between SIGINT and SIGKILL for a restic that is to end now."""
        return self.shutdown_grace_s if self.stopping else self.grace_s

    async def binary(self) -> restic.Restic:
        """The binary; asked for its version again only when the file has changed (an upgrade under way)."""
        key = await trio.to_thread.run_sync(self._locate)
        if self._found is None or self._found[0] != key:
            self._found = key, await restic.find(key[0], command.process_environment())
        return self._found[1]

    def _locate(self) -> tuple[str, int]:
        path = restic.locate(self._restic_command, command.process_environment(), self._paths.data_dir)
        return path, Path(path).stat().st_mtime_ns

    async def repository(self, repo: config.Repo, log: TaskLog | None = None) -> restic.Repository:
        """restic bound to ``repo``. ResticError or UserError if that cannot be."""
        log = log or TaskLog()
        environ = command.process_environment()
        if repo.origin_instance_id and not self._trusts(repo):
            repo = self._harmless(repo, log)
            environ = command.without_own_secrets(environ)
        return restic.Repository(await self.binary(), repo, environ, log=log, grace=self.grace)

    def _harmless(self, repo: config.Repo, log: TaskLog) -> config.Repo:
        """What may be used of a repo that a hub shares, said once in the log and in each task's. UserError: nothing.

        Asked at each use although a push is judged when it arrives: the configuration may be older than the rules, or
        the hub's permission to write it may be gone since.
        """
        judged = harmless.judge(repo)
        whose = f"repo {repo.id}, which {repo.origin_instance_id} shares,"
        if judged.refusal:
            raise UserError(
                f"{whose} is not used: {judged.refusal}. Have it shared under another address, or grant that hub "
                f"read-write-config if it may run programs here"
            )
        if judged.left_out:
            sentence = f"{whose} is used without {', '.join(judged.left_out)}"
            log.note(sentence)
            if (said := (repo.guid, *judged.left_out)) not in self._said_left_out:
                self._said_left_out.add(said)
                logger.warning("%s, which may run programs or read files here", sentence)
        return judged.repo

    def plan_notes(self) -> PlanNotes:
        """Blocking: as they are on disk now. StorageError."""
        return PlanNotes.open(self._paths.plan_notes)

    async def task_log(self, logref: str) -> TaskLog:
        """The log of one task. Without a directory for it the task runs without a log."""
        try:
            await trio.to_thread.run_sync(private_dir, self._paths.tasklogs)
        except StorageError as error:
            logger.warning("there will be no task log: %s", error)
            return TaskLog()
        return TaskLog(self._paths.tasklogs / f"{logref}.log")

    @asynccontextmanager
    async def call_log(self) -> AsyncIterator[TaskLog]:
        """The log of calls that no operation tells of. When they fail it is kept, and the error says where."""
        path = self._paths.tasklogs / f"c-{uuid.uuid4()}.log"
        log = TaskLog(path, kept=False)
        try:
            yield log
        except ResticError as error:
            if isinstance(error, ResticFailure) and error.reason is Reason.NO_REPOSITORY:
                raise  # an answer, and whole
            try:
                await trio.to_thread.run_sync(private_dir, self._paths.tasklogs)
                written = await log.keep()
            except StorageError as problem:
                logger.warning("there will be no task log: %s", problem)
                written = False
            if written:
                error.args = (f"{error}. All that restic said is in {path}",)
            raise

    async def clear_locks(self, repository: restic.Repository) -> None:
        """``restic unlock`` where the repo asks for it before each task, or a killed process may have left a
        lock.
        """
        guid = repository.repo.guid
        if repository.repo.auto_unlock or guid in self.interrupted:
            await repository.unlock()
            self.interrupted.discard(guid)

"""restic: which binary, and its commands on one repository. All knowledge of its command line's results is
here.

``Restic`` is the binary with its version; ``Repository`` is the binary bound to one configured repo, with the
argument list, environment and secrets of that repo worked out once. Everything raises ResticError (mostly the
ResticFailure of failures.py) with one sentence, or UserError for a configuration that restic cannot be run
with.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio

from backrest.engine import command, failures, parse, process
from backrest.engine.failures import Reason, ResticFailure
from backrest.engine.redact import Redactor
from backrest.engine.tasklog import TaskLog
from backrest.errors import ResticError
from backrest.wire import config, restic

logger = logging.getLogger(__name__)

OLDEST = (0, 14)  # what Debian 12 has; its JSON is the oldest that parse.py knows
NEWEST = (0, 19)  # the newest that was tried

# Between SIGINT and SIGKILL: restic finishes uploads in work and removes its lock (W-34).
GRACE_S = 10.0

# A question about a repository that is not answered by then (restic itself would retry for 15 minutes).
ANSWER_S = 60.0

# Another machine may be at work on a shared repository: its forget holds the lock for seconds, its prune for minutes.
LOCK_WAIT_S = 300.0
LOCK_AGAIN_S = 10.0  # where restic itself cannot wait for the lock; restic's own longest pause is a minute

# What is kept of a command's text for the error message: its last words.
KEPT_LINES = 60
KEPT_LINE = 2000

INCOMPLETE = 3  # exit code: some source data could not be read

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Restic:
    """A restic binary that was found and asked for its version."""

    path: str
    version: command.Version

    @property
    def can_wait(self) -> bool:
        return command.knows(self.version, "--retry-lock")

    @property
    def can_skip(self) -> bool:
        return command.knows(self.version, "--skip-if-unchanged")


def locate(chosen: str | None, environ: Mapping[str, str], data_dir: Path) -> str:
    """The binary: ``chosen`` (flag), else $BACKREST_RESTIC_COMMAND, else restic in PATH, else in the data
    directory.
    """
    named = chosen or environ.get("BACKREST_RESTIC_COMMAND")
    if named:
        found = shutil.which(named, path=environ.get("PATH"))
        if found is None:
            raise ResticError(f"the restic command {named} does not exist or is not executable")
        return found
    found = shutil.which("restic", path=environ.get("PATH")) or shutil.which(str(data_dir / "restic"))
    if found is None:
        raise ResticError(
            "restic is not installed: install it (apt install restic) or name it in BACKREST_RESTIC_COMMAND"
        )
    return found


async def find(path: str, environ: Mapping[str, str]) -> Restic:
    """Ask a restic for its version. One older than OLDEST is refused, one newer than NEWEST warned about."""
    output = process.Document(limit=64 * 1024)
    code: int | None = None
    with trio.move_on_after(ANSWER_S):
        code = await process.run(
            [path, "version"], environ, stdout=output, stderr=process.Document(limit=0), grace=lambda: 0.0
        )
    version = parse_version(output.content.decode("utf-8", "replace"))
    if code != 0 or version is None:
        raise ResticError(f"{path} did not say its version: is it restic?")
    shown = ".".join(map(str, version))
    if version[:2] < OLDEST:
        raise ResticError(f"{path} is restic {shown}: 0.14 or later is needed")
    if version[:2] > NEWEST:
        logger.warning(
            "%s is restic %s, which is newer than any this program was tried with (0.19)", path, shown
        )
    return Restic(path, version)


def parse_version(output: str) -> command.Version | None:
    """The version in ``restic version``'s text."""
    found = re.search(r"restic (\d+)\.(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


@dataclass(slots=True)
class Said:
    """What a command wrote besides JSON: the last words, for error messages."""

    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))

    def add(self, line: str) -> None:
        self.lines.append(line[:KEPT_LINE])


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The outcome of a backup that restic finished: its summary, and whether some data could not be read."""

    summary: restic.BackupProgressSummary
    incomplete: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """The snapshots that are gone, and what restic said about those that it could not remove."""

    removed: list[restic.ResticSnapshot]
    problem: str


class Repository:
    """restic's commands on one repo. Not for use by two tasks at once: the caller holds the repo's lock."""

    def __init__(
        self,
        binary: Restic,
        repo: config.Repo,
        environ: Mapping[str, str],
        *,
        log: TaskLog,
        grace: Callable[[], float] = lambda: GRACE_S,
    ) -> None:
        self.binary = binary
        self.repo = repo
        self._prefix = command.prefix(repo, shutil.which)
        self._flags = command.repo_flags(repo, environ, binary.version)
        self._environment = command.environment(repo, environ)
        self._redactor = Redactor.for_environment(self._environment, command.secrets_in(repo, environ))
        self._log = log
        self._grace = grace
        log.redactor = self._redactor
        self.uri = self._redactor.text(self._environment["RESTIC_REPOSITORY"])

    def redact(self, text: str) -> str:
        return self._redactor.text(text)

    # commands

    async def guid(self) -> str:
        """The repository's id. ResticFailure says why there is none."""
        with trio.move_on_after(ANSWER_S):
            found = await self._document(["cat", "config"])
            guid = found.get("id") if isinstance(found, dict) else None
            if not isinstance(guid, str) or not guid:
                raise ResticError(f"repo {self.repo.id}: its config has no id")
            return parse.text(guid, 64)
        raise self._no_answer()

    async def init(self) -> None:
        """Make the repository. ResticFailure (EXISTS) if there is one; restic never overwrites it."""
        with trio.move_on_after(ANSWER_S):
            await self._document(["init", "--json"], parse_output=False)
            return
        raise self._no_answer()

    async def unlock(self) -> None:
        """Remove stale locks (older than 30 minutes, or of a process that is gone), no others."""
        await self._document(["unlock"], parse_output=False)

    async def snapshots(self, *, tags: Sequence[str] = (), only: str = "") -> list[restic.ResticSnapshot]:
        """All snapshots, or those with all ``tags``, or the one that ``only`` begins; oldest first."""
        flags = ["--tag", ",".join(tags)] if tags else []
        command_line = ["snapshots", "--json", *([only] if only else [])]
        found = await self._patiently(lambda: self._document(command_line, flags, waits=True))
        result: list[restic.ResticSnapshot] = self._parsed("snapshots", parse.snapshots, found)
        return result

    async def forget(self, keep: Sequence[str], tags: Sequence[str]) -> ForgetResult:
        """Forget by a policy among the snapshots with all ``tags``, taken as one group."""
        said = Said()
        flags = [*keep, "--tag", ",".join(tags), "--group-by", ""]
        found = await self._patiently(
            lambda: self._document(["forget", "--json"], flags, said=said, waits=True)
        )
        removed: list[restic.ResticSnapshot] = self._parsed("forget", parse.removed, found)
        # restic ends with 0 even if the storage refused the deletion: such snapshots are not gone.
        kept = {
            match[1]
            for line in said.lines
            if (match := re.search(r"unable to remove snapshot/([0-9a-f]{64})", line))
        }
        problem = self.redact(failures.detail(said.lines)) if kept else ""
        return ForgetResult([one for one in removed if one.id not in kept], problem)

    async def backup(
        self,
        plan: config.Plan,
        instance: str,
        *,
        parent: str,
        dry_run: bool,
        on_message: Callable[[dict[str, Any]], None],
    ) -> BackupResult:
        """Run the backup; ``on_message`` gets each status and error message as it comes."""
        subcommand, flags = command.backup_arguments(
            plan, instance, parent=parent, dry_run=dry_run, can_skip=self.binary.can_skip
        )
        return await self._patiently(lambda: self._backup(subcommand, flags, on_message))

    async def _backup(
        self, subcommand: Sequence[str], flags: Sequence[str], on_message: Callable[[dict[str, Any]], None]
    ) -> BackupResult:
        summary: list[dict[str, Any]] = []
        fatal: list[str] = []
        said = Said()

        def on_line(line: bytes) -> None:
            # A dry run prints one such message for each file of the source: not worth parsing.
            if b'"verbose_status"' in line[:60] or not line:
                return
            found = parse.message(line)
            kind = found["message_type"] if found is not None else ""
            if found is not None and kind in ("status", "error"):
                on_message(found)
            elif found is not None and kind == "summary":
                summary[:] = [found]
            elif found is not None and kind == "exit_error":
                # Also printed for exit code 3, with which a snapshot was made: only the exit code decides.
                fatal.append(parse.text(found.get("message")))
            elif kind != "verbose_status":
                self._said(said, line)

        lines = process.Lines(on_line), process.Lines(on_line)
        environment = {**self._environment, "RESTIC_PROGRESS_FPS": "2"}
        code = await self._run(
            subcommand, flags, stdout=lines[0], stderr=lines[1], environment=environment, waits=True
        )
        if code not in (0, INCOMPLETE):
            raise self._failure("backup", code, [*said.lines, *fatal])
        if not summary:
            raise self._failure("backup", code, [*said.lines, *fatal, "restic ended without a summary"])
        return BackupResult(
            parse.backup_summary(summary[0]), code == INCOMPLETE, bool(summary[0].get("dry_run"))
        )

    # machinery

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it again while another restic holds the lock, where this restic cannot wait for it itself."""
        end = trio.current_time() + LOCK_WAIT_S
        while True:
            try:
                return await work()
            except ResticFailure as failure:
                late = trio.current_time() + LOCK_AGAIN_S > end
                if failure.reason is not Reason.LOCKED or self.binary.can_wait or late:
                    raise
                self._log.note(f"{failure}; waiting for it, up to {LOCK_WAIT_S / 60:.0f} minutes in all")
            await trio.sleep(LOCK_AGAIN_S)

    async def _document(
        self,
        subcommand: Sequence[str],
        flags: Sequence[str] = (),
        *,
        parse_output: bool = True,
        said: Said | None = None,
        waits: bool = False,
    ) -> Any:
        """Run a command whose standard output is one JSON document."""
        said = said or Said()
        output = process.Document()
        errors = process.Lines(lambda line: self._said(said, line))
        code = await self._run(subcommand, flags, stdout=output, stderr=errors, waits=waits)
        if code != 0:
            raise self._failure(subcommand[0], code, self._unpacked(said, output))
        if output.overflow:
            raise ResticError(f"restic {subcommand[0]} printed more than {process.MAX_DOCUMENT >> 20} MiB")
        if not parse_output:
            return None
        return await trio.to_thread.run_sync(self._parsed, subcommand[0], parse.document, output.content)

    async def _run(
        self,
        subcommand: Sequence[str],
        flags: Sequence[str],
        *,
        stdout: process.Sink,
        stderr: process.Sink,
        environment: Mapping[str, str] | None = None,
        waits: bool = False,
    ) -> int:
        """``waits``: for a lock that another restic holds, as far as this restic can. What the repo's own flags say
        of it stands behind, and wins."""
        patience = ["--retry-lock", f"{LOCK_WAIT_S / 60:.0f}m"] if waits and self.binary.can_wait else []
        argv = [*self._prefix, self.binary.path, *subcommand, *patience, *self._flags, *flags]
        self._log.command(f"command: {command.quoted(self._redactor.arguments(argv))}")
        await self._log.flush()
        try:
            return await process.run(
                argv,
                self._environment if environment is None else environment,
                stdout=stdout,
                stderr=stderr,
                grace=self._grace,
            )
        finally:
            self._log.end_command()
            with trio.CancelScope(shield=True):  # what restic said before it was cancelled is worth the write
                await self._log.flush()

    def _said(self, said: Said, line: bytes) -> None:
        text = parse.text(line[: process.READ_SIZE].decode("utf-8", "replace"), process.READ_SIZE)
        if text.strip():
            said.add(text)
            self._log.output(text)

    @staticmethod
    def _unpacked(said: Said, output: process.Document) -> list[str]:
        """Everything a failed command said; since 0.18 its fatal message is JSON on standard error."""
        head = output.content[: KEPT_LINE * 4].decode("utf-8", "replace").splitlines()[:KEPT_LINES]
        lines: list[str] = []
        for line in (*head, *said.lines):
            found = parse.message(line.encode())
            lines.append(line if found is None else parse.text(found.get("message")))
        return lines

    def _failure(self, name: str, code: int, lines: Sequence[str]) -> ResticFailure:
        clean = [self._redactor.text(part) for line in lines for part in line.split("\n")]
        return failures.failure(self.repo.id, self.uri, name, code, clean)

    def _parsed(self, name: str, parser: Callable[[Any], Any], found: Any) -> Any:
        try:
            return parser(found)
        except ValueError as error:
            raise ResticError(f"restic {name}: {error}") from None

    def _no_answer(self) -> ResticFailure:
        message = f"repo {self.repo.id}: {self.uri} did not answer within {ANSWER_S:.0f} s"
        return ResticFailure(message, None, Reason.UNREACHABLE)

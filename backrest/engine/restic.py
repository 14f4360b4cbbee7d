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
from dataclasses import dataclass
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

# What is kept of a command's text for the error message: the cause may stand first, and the end tells it, too.
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
        if "/" in named and not named.startswith(
            "/"
        ):  # the daemon and cron work in other directories than a command
            raise ResticError(
                f"the restic command {named} is not a whole path: write it from / on, or its name alone"
            )
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


class Said:
    """What a command wrote besides JSON: its first and its last words, for error messages."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=KEPT_LINES)

    def add(self, line: str) -> None:
        if failures.is_frame(line):
            return
        (self._first if len(self._first) < KEPT_LINES else self._last).append(line[:KEPT_LINE])

    @property
    def lines(self) -> list[str]:
        return [*self._first, *self._last]


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The outcome of a backup that restic finished: its summary, and whether some data could not be read."""

    summary: restic.BackupProgressSummary
    incomplete: bool
    dry_run: bool
    problem: str
    """what it says beside of the repository itself: that it is damaged"""


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """The snapshots that are gone, and what restic said about those that it could not remove."""

    removed: list[restic.ResticSnapshot]
    problem: str
    skipped: list[parse.Skipped]


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

    async def guid(self, within_s: float | None = None) -> str:
        """The repository's id. ResticFailure says why there is none."""
        said = Said()
        with trio.move_on_after(ANSWER_S if within_s is None else within_s):
            found = await self._document(["cat", "config"], fits=parse.is_object, said=said)
            guid = found.get("id") if isinstance(found, dict) else None
            if not isinstance(guid, str) or not guid:
                raise ResticError(f"repo {self.repo.id}: its config has no id")
            return parse.text(guid, 64)
        raise self._no_answer("cat", said, ANSWER_S if within_s is None else within_s)

    async def init(self) -> None:
        """Make the repository. ResticFailure (EXISTS) if there is one; restic never overwrites it."""
        said = Said()
        with trio.move_on_after(ANSWER_S):
            await self._document(["init", "--json"], said=said)
            return
        raise self._no_answer("init", said, ANSWER_S)

    async def unlock(self) -> None:
        """Remove stale locks (older than 30 minutes, or of a process that is gone), no others."""
        await self._document(["unlock"])

    async def locks(self) -> int:
        """How many locks the repository has."""
        said = Said()
        await self._document(["list", "locks", "--no-lock"], said=said)
        return sum(parse.is_full_id(line.strip()) for line in said.lines)

    async def listing(self, *, tags: Sequence[str] = (), only: str = "") -> parse.Listing:
        """All snapshots, or those with all ``tags``, or the one that ``only`` begins, and what is passed over of
        them, which the task log says, too."""
        flags = ["--tag", ",".join(tags)] if tags else []
        command_line = ["snapshots", "--json", *([only] if only else [])]
        found = await self._patiently(
            lambda: self._document(command_line, flags, fits=parse.is_list, waits=True)
        )
        result: parse.Listing = await self._parsed("snapshots", parse.snapshots, found)
        self._note_skipped(result.skipped)
        return result

    async def snapshots(self, *, tags: Sequence[str] = (), only: str = "") -> list[restic.ResticSnapshot]:
        """The listing's snapshots, oldest first."""
        return (await self.listing(tags=tags, only=only)).snapshots

    async def forget(self, keep: Sequence[str], tags: Sequence[str]) -> ForgetResult:
        """Forget by a policy among the snapshots with all ``tags``, taken as one group."""
        said = Said()
        flags = [*keep, "--tag", ",".join(tags), "--group-by", ""]
        found = await self._patiently(
            lambda: self._document(["forget", "--json"], flags, fits=parse.is_list, said=said, waits=True)
        )
        removed: parse.Listing = await self._parsed("forget", parse.removed, found)
        self._note_skipped(removed.skipped)
        # restic ends with 0 even if the storage refused the deletion: such snapshots are not gone.
        refusals = [
            (match[1], line)
            for line in said.lines
            if (match := re.search(r"unable to remove snapshot/([0-9a-f]{64})", line))
        ]
        kept = {one for one, _ in refusals}
        problem = self.redact(failures.listed([line for _, line in refusals]))
        return ForgetResult(
            [one for one in removed.snapshots if one.id not in kept], problem, removed.skipped
        )

    def _note_skipped(self, skipped: Sequence[parse.Skipped]) -> None:
        for words in parse.words_of(skipped):
            self._log.note(words)

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
        said, errors = Said(), Said()

        def on_line(line: bytes) -> None:
            # A dry run prints one such message for each file of the source: not worth parsing.
            if b'"verbose_status"' in line[:60] or not line:
                return
            found, around = parse.message_in(line)
            kind = found["message_type"] if found is not None else ""
            if found is not None and kind in ("status", "error"):
                on_message(found)
                if kind == "error":
                    errors.add(parse.backup_error(found).message)
                    self._log.output(parse.text(line.decode("utf-8", "replace"), KEPT_LINE))
            elif found is not None and kind == "summary":
                summary[:] = [found]
            elif found is not None and kind == "exit_error":
                # Also printed for exit code 3, with which a snapshot was made: only the exit code decides.
                fatal.append(f"Fatal: {parse.text(found.get('message'))}")
                self._log.output(fatal[-1])
            elif kind != "verbose_status":
                self._said(said, line)
                return
            if around:
                self._said(said, around.encode())

        lines = process.Lines(on_line), process.Lines(on_line)
        environment = {**self._environment, "RESTIC_PROGRESS_FPS": "2"}
        code = await self._run(
            subcommand, flags, stdout=lines[0], stderr=lines[1], environment=environment, waits=True
        )
        if too_long := sum(one.skipped for one in lines):
            self._log.note(f"lines longer than {process.MAX_LINE >> 20} MiB are passed over: {too_long}")
        if code not in (0, INCOMPLETE):
            raise self._failure("backup", code, [*said.lines, *fatal])
        if not summary:
            raise self._failure("backup", code, [*said.lines, *fatal, "restic ended without a summary"])
        # Before 0.19 a missing source alone ends with 0.
        incomplete = code == INCOMPLETE or any(
            line.endswith("does not exist, skipping") for line in said.lines
        )
        found = self._failure("backup", None, errors.lines)
        return BackupResult(
            parse.backup_summary(summary[0]),
            incomplete,
            bool(summary[0].get("dry_run")),
            str(found) if found.reason is Reason.DAMAGED else "",
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
        fits: Callable[[Any], bool] | None = None,
        said: Said | None = None,
        waits: bool = False,
    ) -> Any:
        """Run a command whose standard output has one JSON document that ``fits``; with None it is only logged."""
        said = Said() if said is None else said
        output = process.Document()
        errors = process.Lines(lambda line: self._said(said, line))
        code = await self._run(subcommand, flags, stdout=output, stderr=errors, waits=waits)
        printed = output.content
        if code != 0:
            self._said_lines(said, printed)
            await self._log.flush()
            raise self._failure(subcommand[0], code, said.lines)
        if output.overflow:
            raise ResticError(f"restic {subcommand[0]} printed more than {process.MAX_DOCUMENT >> 20} MiB")
        found = None
        try:
            if fits is not None:
                found, around = await self._parsed(
                    subcommand[0], lambda data: parse.document(data, fits), printed
                )
                printed = around.encode()
        finally:
            self._said_lines(said, printed)
            await self._log.flush()
        return found

    def _said_lines(self, said: Said, printed: bytes) -> None:
        for line in printed[: process.READ_SIZE].splitlines():
            self._said(said, line)

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
        """A line that is not asked for: a message's text, or what stands around the JSON."""
        found, around = parse.message_in(line[: process.READ_SIZE])
        for text in around.splitlines():
            if text.strip():
                said.add(text)
                self._log.output(text)
        if found is None:
            return
        if "message" not in found:
            self._log.output(parse.text(line.decode("utf-8", "replace"), process.READ_SIZE))
        # Since 0.18 the fatal message is JSON; it has lines of its own.
        words = parse.text(found.get("message"), process.READ_SIZE)
        if found["message_type"] == "error":
            words = parse.backup_error(found).message
        for number, text in enumerate(words.split("\n")):
            if text.strip():
                said.add(f"Fatal: {text}" if number == 0 and found["message_type"] == "exit_error" else text)
                self._log.output(text)

    def _failure(self, name: str, code: int | None, lines: Sequence[str]) -> ResticFailure:
        clean = [self._redactor.text(part) for line in lines for part in line.split("\n")]
        return failures.failure(self.repo.id, self.uri, name, code, clean)

    async def _parsed(self, name: str, parser: Callable[[Any], T], found: Any) -> T:
        """In a thread: a list may be a hundred megabytes."""
        try:
            return await trio.to_thread.run_sync(parser, found)
        except ValueError as error:
            raise ResticError(f"restic {name}: {self.redact(str(error))}") from None

    def _no_answer(self, name: str, said: Said, within_s: float) -> ResticFailure:
        """What restic said of its tries until then is the cause; else it is that there was no answer."""
        found = self._failure(name, None, said.lines)
        if found.reason not in (Reason.OTHER, Reason.INTERRUPTED, Reason.UNREACHABLE):
            return found
        message = f"repo {self.repo.id}: {self.uri} did not answer within {within_s:.0f} s"
        return ResticFailure(message, None, Reason.UNREACHABLE)

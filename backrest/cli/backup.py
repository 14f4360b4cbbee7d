"""``backrest backup``, ``index`` and ``unlock``: restic, now, with a progress bar on stderr."""

from __future__ import annotations

import sys
from typing import Any

import click

from backrest.cli import formats, output, states
from backrest.cli.base import FAILED, Command, json_option, shared


@click.command(cls=Command)
@click.argument("plan")
@click.option("--dry-run", is_flag=True, help="Only say what would be saved.")
@json_option
@click.pass_context
def backup(ctx: click.Context, plan: str, dry_run: bool, as_json: bool) -> None:
    """Run PLAN's backup now, then index its repository and forget by its retention.

    Ctrl-C cancels it. A doubted backup (files could not be read, or are gone) is a warning and exit code 0:
    there is a snapshot. What fails after it (index, forget) is exit code 1.
    """
    with Bar(plan) as bar:
        result = shared().stream("Backup", bar.event, plan_id=plan, dry_run=dry_run)
    operation = result["operation"]
    if as_json:
        output.print_json(result)
    failed = operation.get("status") not in ("STATUS_SUCCESS", "STATUS_WARNING")
    message = operation.get("displayMessage", "")
    if failed:
        word = states.STATUS.get(operation.get("status", ""), "unknown")
        output.note(f"backrest: the backup of {plan!r} ended as {word}: {message or 'no reason was given'}")
        ctx.exit(FAILED)
    if operation["status"] == "STATUS_WARNING":
        output.note(f"Warning: {message}")
        for error in operation.get("operationBackup", {}).get("errors", ()):
            output.note(f"  {error.get('item', '')}: {error.get('message', '')}")
    if not as_json:
        output.say(_summary(plan, operation, message))
    if problems := result.get("problems"):
        for problem in problems:
            output.note(f"backrest: plan {plan!r}: the backup is saved, but then: {problem}")
        ctx.exit(FAILED)


def _summary(plan: str, operation: dict[str, Any], message: str) -> str:
    summary = operation.get("operationBackup", {}).get("lastStatus", {}).get("summary", {})
    numbers = {name: int(summary.get(name, 0)) for name in _COUNTED}
    what = (
        f"{formats.plural(numbers['totalFilesProcessed'], 'file')} ({numbers['filesNew']:,} new, "
        f"{numbers['filesChanged']:,} changed), {formats.size(numbers['totalBytesProcessed'])} read, "
        f"{formats.size(numbers['dataAdded'])} added"
    )
    snapshot = operation.get("snapshotId", "")
    if snapshot:
        return f"Plan {plan!r}: snapshot {snapshot[:8]}: {what}."
    return f"Plan {plan!r}: {what}: {message or 'no snapshot was made'}."


_COUNTED = ("totalFilesProcessed", "filesNew", "filesChanged", "totalBytesProcessed", "dataAdded")


@click.command(cls=Command)
@click.argument("repo")
@json_option
def index(repo: str, as_json: bool) -> None:
    """Read REPO's snapshots into the history: new ones appear, forgotten ones are marked."""
    result = shared().stream("Index", lambda event: None, repo_id=repo)
    for words in result.get("skipped", ()):
        output.note(f"backrest: repository {repo!r}: {words}")
    if as_json:
        return output.print_json(result)
    return output.say(
        f"Repository {repo!r}: {formats.plural(result['new'], 'new snapshot')}, {result['forgotten']:,} "
        "forgotten."
    )


@click.command(cls=Command)
@click.argument("repo")
@json_option
def unlock(repo: str, as_json: bool) -> None:
    """Remove the locks that a killed restic left in REPO: of a process of this machine that is gone, or not renewed for
    30 minutes. The lock of a restic that works stays."""
    result = shared().stream("Unlock", lambda event: None, repo_id=repo)
    if as_json:
        return output.print_json(result)
    if not result["left"]:
        return output.say(f"Repository {repo!r} has no locks now.")
    return output.say(
        f"Repository {repo!r}: {formats.plural(result['left'], 'lock')} of a restic that may be at work "
        f"{'stays' if result['left'] == 1 else 'stay'}: wait for it, or try again in 30 minutes."
    )


class Bar:
    """A progress bar on stderr; without a terminal there is none, and rich is not even imported."""

    def __init__(self, plan: str) -> None:
        self._plan = output.harmless(plan)
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%", markup=False),
                TextColumn("{task.fields[counts]}", markup=False),
                TimeElapsedColumn(),
                console=output.console(sys.stderr),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._plan, total=None, counts="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def event(self, event: dict[str, Any]) -> None:
        """A {"progress": ...} of the backup."""
        if self._progress is None or "progress" not in event:
            return
        now = event["progress"]
        counts = (
            f"{now['filesDone']:,}/{now['totalFiles']:,} files, "
            f"{formats.size(now['bytesDone'])}/{formats.size(now['totalBytes'])}"
        )
        if now["errors"]:
            counts += f", {formats.plural(now['errors'], 'error')}"
        # Until restic knows how much there is, the bar says that it is working, not how far it is.
        total = 1.0 if now["totalBytes"] else None
        self._progress.update(self._task, completed=now["percentDone"], total=total, counts=counts)

"""``backrest plan``: what is backed up, and where to."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from backrest.cli import formats, output
from backrest.cli.base import F, Group, json_option, parsed, several, shared, whole_path


@click.group(cls=Group)
def plan() -> None:
    """What is backed up, and where to."""


_PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")


def _keeps(last: str, everything: str) -> Callable[[F], F]:
    """The --keep options, with the help of the first and of the last; the command gets them as ``retention``, None when
    there are none."""

    def options(command: F) -> F:
        @functools.wraps(command)
        def with_retention(**given: Any) -> Any:
            counts = {name: given.pop(f"keep_{name}") for name in (*_PERIODS, "last")}
            try:
                retention = formats.retention(counts, keep_all=given.pop("keep_all"))
            except ValueError as error:
                raise click.UsageError(f"{error}.") from None
            return command(retention=retention, **given)

        found: Any = click.option("--keep-all", is_flag=True, help=everything)(with_retention)
        for name in reversed(_PERIODS):
            found = _count(name, f"Keep the last N {name} snapshots.")(found)
        return _count("last", last)(found)  # type: ignore[no-any-return]

    return options


def _count(name: str, help_text: str) -> Callable[[F], F]:
    return click.option(f"--keep-{name}", type=int, metavar="N", help=help_text)


@plan.command()
@click.argument("id")
@click.option("--repo", "repo_id", required=True, metavar="R", help="The repository to back up to.")
@several("--path", "paths", "P", "What to back up; may be repeated.", required=True)
@several("--exclude", "excludes", "PATTERN", "What to leave out; may be repeated.")
@several("--iexclude", "iexcludes", "PATTERN", "The same, whatever the case of letters.")
@click.option(
    "--schedule",
    default="none",
    show_default=True,
    metavar="WHEN",
    callback=parsed(formats.parse_schedule),
    help="'every 6h', 'every 2d', five fields of cron, or none. This version keeps it and does not run it.",
)
@_keeps(
    "Keep the last N snapshots; without any --keep option all.", "Say that nothing is ever to be forgotten."
)
@several("--backup-flag", "backup_flags", "FLAG", "For restic backup; may be repeated.")
@click.option("--skip-if-unchanged", is_flag=True, help="Make no snapshot when nothing has changed.")
@json_option
def add(
    id: str,
    repo_id: str,
    paths: tuple[str, ...],
    excludes: tuple[str, ...],
    iexcludes: tuple[str, ...],
    schedule: dict[str, Any],
    retention: dict[str, Any] | None,
    backup_flags: tuple[str, ...],
    skip_if_unchanged: bool,
    as_json: bool,
) -> None:
    """Enter a plan; `backrest backup ID` runs it."""
    absolute = [whole_path(path) for path in paths]
    entry: dict[str, Any] = {
        "id": id,
        "repo": repo_id,
        "paths": absolute,
        "excludes": list(excludes),
        "iexcludes": list(iexcludes),
        "schedule": schedule,
        "retention": retention,
        "backup_flags": list(backup_flags),
        "skipIfUnchanged": skip_if_unchanged,
    }
    result = shared().call("AddPlan", plan={name: value for name, value in entry.items() if value})
    _note_missing(absolute)
    if as_json:
        return output.print_json(result)
    output.say(f"Plan {id!r} is entered; `backrest backup {id}` runs it.")
    _note_schedule(schedule)
    return None


def _note_missing(paths: list[str]) -> None:
    for path in paths:
        if not os.path.lexists(path):
            output.note(f"Note: {path} does not exist (yet).")


def _note_schedule(schedule: dict[str, Any]) -> None:
    if "disabled" not in schedule:
        output.note(
            "This version does not run schedules: let cron or a systemd timer call `backrest backup`."
        )


@plan.command("set")
@click.argument("id")
@click.option("--repo", "repo_id", metavar="R", help="The repository to back up to from now on.")
@several("--path", "paths", "P", "What to back up, in place of all there are.")
@several("--exclude", "excludes", "PATTERN", "What to leave out, in place of all there are.")
@click.option("--clear-excludes", is_flag=True, help="Leave nothing out by --exclude.")
@several("--iexclude", "iexcludes", "PATTERN", "The same, whatever the case of letters.")
@click.option("--clear-iexcludes", is_flag=True, help="Leave nothing out by --iexclude.")
@click.option(
    "--schedule",
    metavar="WHEN",
    callback=parsed(formats.parse_schedule),
    help="As for `plan add`.",
)
@_keeps("Keep the last N snapshots.", "Forget nothing.")
@several("--backup-flag", "backup_flags", "FLAG", "For restic backup, in place of all there are.")
@click.option("--clear-backup-flags", is_flag=True, help="Remove all flags for restic backup.")
@click.option(
    "--skip-if-unchanged/--no-skip-if-unchanged",
    default=None,
    help="Make no snapshot when nothing has changed.",
)
@json_option
def set_plan(
    id: str,
    repo_id: str | None,
    paths: tuple[str, ...],
    excludes: tuple[str, ...],
    clear_excludes: bool,
    iexcludes: tuple[str, ...],
    clear_iexcludes: bool,
    schedule: dict[str, Any] | None,
    retention: dict[str, Any] | None,
    backup_flags: tuple[str, ...],
    clear_backup_flags: bool,
    skip_if_unchanged: bool | None,
    as_json: bool,
) -> None:
    """Change a plan; what is not named stays as it is. The --keep options replace the whole retention."""
    changes: dict[str, Any] = {}
    clear = []
    for name, values, cleared in (
        ("excludes", excludes, clear_excludes),
        ("iexcludes", iexcludes, clear_iexcludes),
        ("backup_flags", backup_flags, clear_backup_flags),
    ):
        if values and cleared:
            raise click.UsageError(f"--clear-{name.replace('_', '-')} excludes giving new ones.")
        if values:
            changes[name] = list(values)
        elif cleared:
            clear.append(name)
    absolute = [whole_path(path) for path in paths]
    given = {
        "repo": repo_id,
        "paths": absolute or None,
        "schedule": schedule,
        "retention": retention,
        "skipIfUnchanged": skip_if_unchanged,
    }
    changes |= {name: value for name, value in given.items() if value is not None}
    if not changes and not clear:
        raise click.UsageError("nothing to change: see `backrest plan set --help`.")
    result = shared().call("SetPlan", plan_id=id, changes=changes, clear=clear)
    _note_missing(absolute)
    if as_json:
        return output.print_json(result)
    output.print_changes(f"Plan {id!r}", result["changed"])
    if schedule is not None:
        _note_schedule(schedule)
    return None


@plan.command("list")
@json_option
def list_plans(as_json: bool) -> None:
    """List the plans."""
    result = shared().call("ListPlans")
    if as_json:
        return output.print_json(result)
    parked = result.get("parked", ())
    if not result["plans"] and not parked:
        return output.note("There are no plans; `backrest plan add ID --repo R --path P` enters one.")
    headers: tuple[str, ...] = ("PLAN", "REPO", "SCHEDULE", "KEEPS", "PATHS")
    rows = [_row(one) for one in result["plans"]]
    if parked:
        headers = (*headers, "STATE")
        rows = [(*row, "") for row in rows] + [(*_row(one["plan"]), one["state"]) for one in parked]
    output.print_table(headers, rows)
    return None


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return one["id"], one["repo"], schedule_words(one), retention_words(one), " ".join(one.get("paths", ()))


def schedule_words(one: dict[str, Any]) -> str:
    """The plan's schedule as it is typed."""
    schedule = one.get("schedule", {})
    if "cron" in schedule:
        return str(schedule["cron"])
    for name, unit in (("maxFrequencyHours", "h"), ("maxFrequencyDays", "d")):
        if name in schedule:
            return f"every {schedule[name]}{unit}"
    return "none"


def retention_words(one: dict[str, Any]) -> str:
    """The plan's retention, shortly."""
    retention = one.get("retention", {})
    if "policyKeepLastN" in retention:
        return f"last {retention['policyKeepLastN']}"
    names = {"keepLastN": "last"}
    counts = [f"{names.get(name, name)} {n}" for name, n in retention.get("policyTimeBucketed", {}).items()]
    return ", ".join(counts) or "all"


@plan.command()
@click.argument("id")
@json_option
def show(id: str, as_json: bool) -> None:
    """Show a plan."""
    result = shared().call("ShowPlan", plan_id=id)
    if as_json:
        return output.print_json(result)
    one = result["plan"]
    output.print_fields(
        [
            ("Id", one["id"]),
            ("Repository", one["repo"]),
            ("State", result.get("parked", {}).get("state")),
            *(("Path", path) for path in one.get("paths", ())),
            *(("Exclude", pattern) for pattern in one.get("excludes", ())),
            *(("Exclude (any case)", pattern) for pattern in one.get("iexcludes", ())),
            ("Schedule", schedule_words(one)),
            ("Keeps", retention_words(one)),
            ("Flags", " ".join(one.get("backup_flags", ()))),
            ("Skip if unchanged", "yes" if one.get("skipIfUnchanged") else ""),
            ("Hooks", len(one.get("hooks", ())) or ""),
        ]
    )
    return None


@plan.command()
@click.argument("id")
@json_option
def confirm(id: str, as_json: bool) -> None:
    """Say that a plan's newest snapshot is as it should be, though it has fewer files than those before.

    The next backup is compared with it, and older snapshots are forgotten again.
    """
    result = shared().call("ConfirmPlan", plan_id=id)
    if as_json:
        return output.print_json(result)
    output.say(
        f"Plan {id!r}: the snapshot {result['snapshotId'][:8]} with {formats.plural(result['files'], 'file')} is as it "
        "should be."
    )
    for path in result["bare"]:
        output.say(f"  {path}: nothing is stored of it, on purpose.")
    return None


@plan.command()
@click.argument("id")
@click.argument("duration", callback=parsed(formats.parse_tolerance))
@json_option
def tolerance(id: str, duration: int, as_json: bool) -> None:
    """Set how long a plan may be late before `status --check` says so (36h by default).

    DURATION is for example 2h or 7d, or default.
    """
    result = shared().call("SetTolerance", plan_id=id, seconds=duration)
    if as_json:
        return output.print_json(result)
    return output.say(f"The plan {id!r} may be late by {formats.age(result['seconds'])}.")


@plan.command()
@click.argument("id")
@json_option
def remove(id: str, as_json: bool) -> None:
    """Forget a plan. Its snapshots and its history stay."""
    result = shared().call("RemovePlan", plan_id=id)
    if as_json:
        return output.print_json(result)
    which = "parked plan" if result["parked"] else "plan"
    return output.say(f"The {which} {id!r} is removed; its snapshots and its history stay.")

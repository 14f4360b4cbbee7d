"""``backrest ops``: the history, of this machine and of those that report to it."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Any

import click

from backrest.cli import formats, output, states
from backrest.cli.base import FAILED, Group, confirm, json_option, parsed, shared
from backrest.cli.meter import Meter

# What a person wants to see at once; programs (--json) get everything unless they say otherwise.
SHOWN = 50

# Bad lines of an import that are named; there can be a million.
SHOWN_PROBLEMS = 10


@click.group(cls=Group)
def ops() -> None:
    """The history: what was done, here and on the clients."""


def _filters(function: Any) -> Any:
    for option in (
        click.option("--plan", "plan_id", metavar="ID", help="Only operations of this plan."),
        click.option("--repo", "repo_id", metavar="ID", help="Only operations on this repository."),
        click.option(
            "--peer",
            metavar="ID",
            help=(
                "Only those that came from this peer; 'local' for this machine's own, 'archived:ID' for those of a "
                "removed client whose id is in use again."
            ),
        ),
    ):
        function = option(function)
    return function


def _moment(text: str) -> int:
    return formats.parse_moment(text, datetime.now().astimezone())


@ops.command("list")
@_filters
@click.option(
    "--status", type=click.Choice(tuple(states.STATUS_CHOICES)), help="Only those that ended, or are, so."
)
@click.option(
    "--since", metavar="T", callback=parsed(_moment), help="Only newer ones: 2h, 7d, today, 2026-11-23."
)
@click.option(
    "-n",
    "limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"The last N; 0 is all. Default {SHOWN}, with --json all.",
)
@json_option
def list_ops(
    peer: str | None,
    repo_id: str | None,
    plan_id: str | None,
    status: str | None,
    since: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List operations by the time they began, the newest last."""
    if limit is None:
        limit = 0 if as_json else SHOWN
    wanted = {
        "peer": peer,
        "repo_id": repo_id,
        "plan_id": plan_id,
        "status": list(states.STATUS_CHOICES[status]) if status else None,
        "since_ms": since or 0,
        "limit": limit,
    }
    if as_json:
        return _list_json(wanted)
    found: list[tuple[object, ...]] = []  # not the operations, of which each may have a mebibyte
    result = shared().stream(
        "ListOperations", lambda event: found.extend(map(row, event["operations"])), **wanted
    )
    if not found:
        return output.note("There are no such operations.")
    output.print_table(HEADERS, found)
    if result["more"]:
        output.note(f"These are the last {len(found)}; -n 0 shows all.")
    return None


def _list_json(wanted: dict[str, Any]) -> None:
    """Written as it comes: a history of a million operations passes through without being held."""
    first = True
    click.echo('{"operations": [', nl=False)

    def on_event(event: dict[str, Any]) -> None:
        nonlocal first
        for one in event["operations"]:
            click.echo(("\n" if first else ",\n") + output.json_text(one, indent=False), nl=False)
            first = False

    shared().stream("ListOperations", on_event, **wanted)
    click.echo("]}" if first else "\n]}")


HEADERS = ("ID", "BEGAN", "INSTANCE", "REPO", "PLAN", "WHAT", "STATUS", "TOOK", "DETAIL")


def row(one: dict[str, Any]) -> tuple[object, ...]:
    """One operation for people."""
    began, ended = int(one.get("unixTimeStartMs", 0)), int(one.get("unixTimeEndMs", 0))
    return (
        one["id"],
        formats.moment(began),
        f"{one.get('instanceId', '')} (archived)" if one.get("archived") else one.get("instanceId", ""),
        one.get("repoId", ""),
        one.get("planId", ""),
        kind(one),
        states.STATUS.get(one.get("status", "STATUS_UNKNOWN"), "unknown"),
        formats.age((ended - began) / 1000) if ended else "",
        detail(one),
    )


def kind(one: dict[str, Any]) -> str:
    """ "backup", "index snapshot", ... from the member that is set."""
    for name in one:
        if name.startswith("operation"):
            words = "".join(
                f" {char.lower()}" if char.isupper() else char for char in name.removeprefix("operation")
            )
            return words.strip()
    return "?"


def detail(one: dict[str, Any]) -> str:
    """What one wants to know of it at a glance."""
    message = str(one.get("displayMessage", "")).split("\n", 1)[0]
    if message:
        return message[: output.CELL]
    snapshot = str(one.get("snapshotId", ""))[:8]
    summary = one.get("operationBackup", {}).get("lastStatus", {}).get("summary")
    if summary:
        return f"{snapshot} +{formats.size(int(summary.get('dataAdded', 0)))}"
    if "operationForget" in one:
        return f"{formats.plural(len(one['operationForget'].get('forget', ())), 'snapshot')} forgotten"
    if one.get("operationIndexSnapshot", {}).get("forgot"):
        return f"{snapshot} (forgotten)"
    return snapshot


def _origin(one: dict[str, Any]) -> str:
    keyid = str(one.get("originalInstanceKeyid", ""))
    if one.get("archived"):
        return f"{keyid} (removed, its history is archived)"
    return keyid or "this machine"


@ops.command()
@click.argument("id", type=click.IntRange(min=1))
@json_option
def show(id: int, as_json: bool) -> None:
    """Show one operation with everything in it."""
    result = shared().call("ShowOperation", op_id=id)
    one = result["operation"]
    if as_json:
        return output.print_json(one)
    output.print_fields(
        [
            ("Id", f"{one['id']} (change {one.get('modno')}, flow {one.get('flowId')})"),
            ("What", kind(one)),
            ("Status", states.STATUS.get(one.get("status", "STATUS_UNKNOWN"), "unknown")),
            ("Instance", one.get("instanceId")),
            ("From", _origin(one)),
            ("There", one.get("originalId")),
            ("Repository", f"{one.get('repoId')} ({one.get('repoGuid', '')[:8]})"),
            ("Plan", one.get("planId")),
            ("Snapshot", one.get("snapshotId")),
            ("Began", formats.moment(int(one.get("unixTimeStartMs", 0)))),
            ("Ended", formats.moment(int(one.get("unixTimeEndMs", 0)))),
        ]
    )
    if one.get("displayMessage"):
        output.say(one["displayMessage"])
    body = next((one[name] for name in one if name.startswith("operation")), None)
    if body:
        output.print_json(body)
    return None


@ops.command()
@_filters
@click.option(
    "-n",
    "last",
    type=click.IntRange(min=0),
    metavar="N",
    default=10,
    show_default=True,
    help="Begin with the last N.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: an OperationEvent.")
def tail(peer: str | None, repo_id: str | None, plan_id: str | None, last: int, as_json: bool) -> None:
    """Show operations as they happen, until Ctrl-C. Needs the daemon."""

    def on_event(event: dict[str, Any]) -> None:
        if as_json:
            click.echo(output.json_text(event, indent=False))
            sys.stdout.flush()
            return
        for name in ("createdOperations", "updatedOperations"):
            for one in event.get(name, {}).get("operations", ()):
                cells = [output.harmless(cell, limit=output.CELL) for cell in row(one)]
                output.say("  ".join(cell for cell in cells if cell))
        for op_id in event.get("deletedOperations", {}).get("values", ()):
            output.say(f"{op_id}  deleted")

    shared().stream("TailOperations", on_event, peer=peer, repo_id=repo_id, plan_id=plan_id, last=last)


@ops.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option(
    "--from-reference",
    is_flag=True,
    help="FILE is the oplog.sqlite of the Go program; default: the one in the data directory.",
)
@click.option(
    "--without-reference",
    is_flag=True,
    help="Go on without the history of the Go program that waits in the data directory.",
)
@click.option("--yes", is_flag=True, help="With --without-reference: do not ask.")
@json_option
@click.pass_context
def import_ops(
    ctx: click.Context,
    file: str | None,
    from_reference: bool,
    without_reference: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Add operations from FILE, one JSON object a line, as new ones of this machine.

    Ids are given anew; what was one flow stays one. Nothing is added unless every line is right, and tells of
    something that has ended. "-" is
    stdin, which is kept in a temporary file meanwhile. If something else fails half way (a full disk, say), what
    was added stays, and it is said up to which line that is.

    With --from-reference this machine's history passes from the Go program (Backrest) to this one, with its ids: hubs
    that know this machine ask for nothing twice. Once, before any hub is dialled, while neither program runs.
    """
    if without_reference:
        if file or from_reference:
            raise click.UsageError("--without-reference goes with neither FILE nor --from-reference.")
        return _go_on_without(yes, as_json)
    if yes:
        raise click.UsageError("--yes goes with --without-reference.")
    if from_reference:
        return _import_reference(file, as_json)
    if file is None:
        raise click.UsageError("Missing argument 'FILE'.")
    with _reading(file) as stream:
        bad = _check(stream, file)
        if bad:
            output.note(f"backrest: {file} has {formats.plural(bad, 'bad line')}: nothing was imported.")
            ctx.exit(FAILED)
        stream.seek(0)
        total = _import(stream, file)
    if as_json:
        return output.print_json({"imported": total})
    return output.say(f"{formats.plural(total, 'operation')} imported.")


def _go_on_without(yes: bool, as_json: bool) -> None:
    confirm(
        "Hubs will delete what they hold of this machine's history so far, and it cannot be imported later. Go on?",
        yes=yes,
    )
    result = shared().call("ForgoReference")
    if as_json:
        return output.print_json(result)
    return output.say(
        f"The history in {result['file']} is given up; the file stays. Hubs are dialled from now on."
    )


def _import_reference(file: str | None, as_json: bool) -> None:
    if file == "-":
        raise click.UsageError("--from-reference reads a file, not stdin.")
    with Meter("Importing") as meter:
        result = shared().stream("ImportReference", meter.event, file=file and os.path.abspath(file))
    if as_json:
        return output.print_json(result)
    if result["again"]:
        return output.say(f"{result['file']} was imported before; nothing was done.")
    cancelled = f" ({result['cancelled']} of them cancelled)" if result["cancelled"] else ""
    output.say(
        f"{formats.plural(result['imported'], 'operation')}{cancelled} of {result['instanceId']!r} imported from "
        f"{result['file']}, which stays as it is."
    )
    for name, count in result["otherNames"].items():
        output.note(f"  {count:,} of these under the name {name!r}: kept here, and not sent to hubs")
    for key, words in _LEFT_OUT:
        if result[key]:
            output.note(f"  {result[key]:,} {words}")
    for problem in result["problems"]:
        output.note(f"    operation {problem['id']}: {problem['reason']}")
    return None


_LEFT_OUT = (
    ("interrupted", "of these had not ended when the Go program did: recorded as failed"),
    ("skipped", "that waited to be run: left out"),
    ("foreign", "received from other instances: left out, their owners send them again"),
    ("unreadable", "that cannot be read: left out"),
)


@contextmanager
def _reading(file: str) -> Iterator[IO[bytes]]:
    """The file, or a copy of stdin: it is gone through twice."""
    if file != "-":
        with open(file, "rb") as stream:
            if stream.seekable():
                yield stream
                return
            source: IO[bytes] = stream
            with tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(source, copy)
                copy.seek(0)
                yield copy
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield copy


def _lines(stream: IO[bytes], meter: Meter) -> Iterator[bytes]:
    """The lines, of which none fills the memory: of one that is too long comes its beginning."""
    from backrest.admin.imports import LONGEST_LINE

    size = os.fstat(stream.fileno()).st_size
    done = 0
    for number in itertools.count(1):
        line = stream.readline(LONGEST_LINE + 1)
        if not line:
            return
        done += len(line)
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE + 1)
            done += len(rest)
        if number % 1000 == 0:
            meter.update(done, size)
        yield line


def _check(stream: IO[bytes], file: str) -> int:
    """How many lines are bad; the first ten are named."""
    from backrest.admin.imports import check_lines

    bad = 0
    with Meter("Checking") as meter:
        for number, problem in enumerate(check_lines(_lines(stream, meter)), 1):
            if problem:
                bad += 1
                if bad <= SHOWN_PROBLEMS:
                    output.note(f"  {file}, line {number}: {problem}")
    return bad


def _import(stream: IO[bytes], file: str) -> int:
    """How many operations were added."""
    from backrest.admin.imports import Flows, batches

    total = last = 0
    flows = Flows()
    with shared().several() as call, Meter("Importing") as meter:
        for number, operations in batches(_lines(stream, meter)):
            try:
                result = call("ImportOperations", operations=operations, flows=flows.of(operations))
            except BaseException:
                if last:
                    output.note(
                        f"{formats.plural(total, 'operation')} of {file} were imported, up to line {last}; the "
                        f"next {len(operations):,} failed. To go on: tail -n +{last + 1} FILE | backrest ops import -"
                    )
                raise
            flows.learn(result["flows"])
            total += result["imported"]
            last = number
    return total

"""``backrest push``: change another machine's repositories and plans, with the difference shown first."""

from __future__ import annotations

import difflib
import json
import sys
import time
from typing import Any

import click

from backrest.cli import formats, output
from backrest.cli.base import FAILED, Command, Group, confirm, json_option, shared
from backrest.errors import UserError
from backrest.refusals import SEEN, Why

_NOT_GRANTED = {Why.WRITE_NOT_GRANTED, Why.DELETE_NOT_GRANTED}

STDIN_BYTES = 64 * 1024 * 1024

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


class Push(Group):
    """``push CLIENT ...`` is ``push to CLIENT ...``: a name that is none of the commands is a peer's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["to", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["CLIENT [OPTIONS]... | list | drop ID"]


def _documents(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[dict[str, Any]]:
    """The objects in the files: one, or a list of them, in each."""
    found: list[dict[str, Any]] = []
    for name in value:
        if name == "-":
            text, where = sys.stdin.read(STDIN_BYTES), "standard input"
        else:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                text, where = file.read(STDIN_BYTES), name
        try:
            read = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
            at = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{where}{at}: this is not JSON: {reason}") from None
        listed = read if isinstance(read, list) else [read]
        if not all(isinstance(one, dict) for one in listed):
            raise UserError(f"{where}: give one object, or a list of objects")
        found += listed
    return found


@click.group(cls=Push)
def push() -> None:
    """Change the repositories and plans of a client, or of the hub, if it lets us.

    `backrest push CLIENT --plan FILE` shows the difference, asks (--yes does not), sends it, and says what became of
    it. For a client that is away it waits in a queue. `backrest push to --help` has the options.
    """


@push.command(cls=Command)
@click.argument("client")
@click.option(
    "--repo",
    "repos",
    multiple=True,
    metavar="FILE",
    callback=_documents,
    help="Repositories to add or replace there: JSON, one object or a list; - is standard input.",
)
@click.option(
    "--plan",
    "plans",
    multiple=True,
    metavar="FILE",
    callback=_documents,
    help="Plans to add or replace there.",
)
@click.option(
    "--delete-repo", multiple=True, metavar="ID", help="A repository to take out of its configuration."
)
@click.option("--delete-plan", multiple=True, metavar="ID", help="A plan to take out of its configuration.")
@click.option("--dry-run", is_flag=True, help="Only show the difference.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def to(
    ctx: click.Context,
    client: str,
    repos: list[dict[str, Any]],
    plans: list[dict[str, Any]],
    delete_repo: tuple[str, ...],
    delete_plan: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Change a peer's repositories and plans. The "to" may be left out.

    Files hold what `client show CLIENT --config --json` shows of one repository or plan. A masked secret (********)
    stays what it is there; other secrets are sent, and shown nowhere. An object replaces the one of the same id.
    """
    what: dict[str, Any] = {
        "repos": repos,
        "plans": plans,
        "repos_to_delete": list(delete_repo),
        "plans_to_delete": list(delete_plan),
    }
    preview = shared().call("PreviewPush", ident=client, **what)
    if not as_json:
        _print_preview(preview)
    if dry_run:
        return output.print_json({"preview": preview}) if as_json else None
    name = preview["peer"]["instanceId"]
    if not preview["changes"] and preview["connected"]:
        if as_json:
            return output.print_json({"preview": preview, "push": None})
        return output.say(f"{name!r} has all of this already: nothing was sent.")
    confirm(f"Push this to {name}?", yes=yes)

    def on_event(event: dict[str, Any]) -> None:
        if "queued" in event and preview["connected"]:
            output.note(f"Sent to {name!r} as push {event['queued']}; waiting for its answer ...")

    result = shared().stream("Push", on_event, ident=client, **what)
    if as_json:
        output.print_json({"preview": preview, "push": result})
    else:
        _print_outcome(result, len(preview["items"]), _absent(preview))
    if result["result"] not in ("applied", "queued"):
        if as_json:
            output.note(f"backrest: push {result['push']}: {result['result']}")
        ctx.exit(FAILED)
    return None


def _print_preview(preview: dict[str, Any]) -> None:
    name = preview["peer"]["instanceId"]
    for item in preview["items"]:
        what = f"{item['kind']} {item['id']}"
        if item["action"] == "unchanged":
            output.say(f"{what}: unchanged")
            continue
        for line in _difference(item, name, what):
            text = output.harmless(line)
            click.echo(click.style(text, fg=_COLOURS[line[0]]) if line[:1] in _COLOURS else text)
        if item["secrets"]:
            output.say(f"  sets, without showing it: {', '.join(item['secrets'])}")
    if not preview["shows"]:
        output.note(
            f"{name!r} shows nothing of its configuration to this machine, so what stands there now is not known."
        )


def _difference(item: dict[str, Any], name: str, what: str) -> list[str]:
    """A unified difference of the two objects in protobuf's JSON."""
    before, after = (
        [] if item[side] is None else output.json_text(item[side]).splitlines()
        for side in ("before", "after")
    )
    if not before and not after:
        return [f"-{what} (not shown by {name!r})"]
    if before == after:
        return [f" {what}"]
    return list(
        difflib.unified_diff(
            before,
            after,
            f"{what} as {name} has it" if before else f"no {what} that {name} shows",
            f"{what} as pushed" if after else "deleted",
            lineterm="",
        )
    )


def _absent(preview: dict[str, Any]) -> list[str]:
    """What is to be deleted, and is not shown. Who may delete a thing is shown it: when the peer takes the push all the
    same, there was nothing to delete."""
    return [
        f"{item['kind']} {item['id']!r}"
        for item in preview["items"]
        if item["action"] == "delete" and item["before"] is None
    ]


def _print_outcome(result: dict[str, Any], items: int, absent: list[str]) -> None:
    name, number = result["peer"]["instanceId"], result["push"]
    reasons = "\n".join(f"  {sentence}" for sentence in result["refused"])
    if result["result"] == "applied":
        if len(absent) < items:
            output.say(f"{name!r} has applied it.")
        if absent:
            output.say(f"Nothing to delete: {name!r} has no {', no '.join(absent)}.")
    elif result["result"] == "queued":
        output.say(_queued(result, name, number))
    elif result["result"] == "waiting" and result["refusals"]:
        output.note(
            f"backrest: {name!r} has probably refused it:\n{reasons}\nPush {number} stays in the queue until "
            f"{name!r} is back and shows what it did; `backrest push drop {number}` takes it back."
        )
    elif result["result"] == "waiting":
        output.note(
            f"backrest: no answer from {name!r} in 30 s. It may still be applied: push {number} stays in the queue "
            f"until it is answered (`backrest push list`); `backrest push drop {number}` takes it back."
        )
    elif result["result"] == "unknown":
        output.note(
            f"backrest: {name!r} did not say what became of it, and it may have been applied:\n{reasons}"
        )
    else:
        refused = "has probably refused it" if _probably(result) else "refused it"
        part = refused if result["result"] == "refused" else "has applied it in part, and refused the rest"
        output.note(f"backrest: {name!r} {part}:\n{reasons}{_advice(result, name)}")


def _probably(result: dict[str, Any]) -> bool:
    """The peer did not say so; it was seen by what it did not do."""
    return not SEEN.isdisjoint(one["code"] for one in result["refusals"])


def _queued(result: dict[str, Any], name: str, number: int) -> str:
    heard = int(result["lastHeard"])
    since = f" (last heard of {formats.age(time.time() - heard / 1000)} ago)" if heard else ""
    if not result["daemonRuns"]:
        return f"Queued as push {number}. No daemon runs here: `backrest serve` sends it when {name!r} is connected."
    return f"{name!r} is away{since}. Queued as push {number}: it is sent when {name!r} connects."


def _advice(result: dict[str, Any], name: str) -> str:
    if _NOT_GRANTED.isdisjoint(one["code"] for one in result["refusals"]):
        return ""
    command = "host grant HUB" if result["peer"]["role"] == "client" else "client permissions CLIENT"
    return (
        f"\nWhat may be changed from here is granted on {name!r}: `backrest {command} ...` there, with "
        "read-write-config=* (or repo:ID, plan:ID) among what is granted."
    )


@push.command("list", cls=Command)
@json_option
def list_pushes(as_json: bool) -> None:
    """List the pushes that wait for their peer, and what became of the last ones."""
    result = shared().call("ListPushes")
    if as_json:
        return output.print_json(result)
    if not result["waiting"] and not result["answered"]:
        return output.note("No push waits.")
    rows = [
        (one["id"], one["instanceId"], _ago(one["createdMillis"]), _waits(one), ", ".join(one["items"]))
        for one in result["waiting"]
    ]
    rows += [
        (one["id"], one["instanceId"], _ago(one["createdMillis"]), _became(one), ", ".join(one["items"]))
        for one in result["answered"]
    ]
    return output.print_table(("ID", "PEER", "PUSHED", "OUTCOME", "WHAT"), rows, numbers=("ID",))


def _waits(one: dict[str, Any]) -> str:
    if one["connected"]:
        return "sent, not answered yet" if one["sent"] else "about to be sent"
    return "waits; sent once, the session ended before an answer" if one["sent"] else "waits for the peer"


def _became(one: dict[str, Any]) -> str:
    why = "; ".join(one["refused"])
    refused = "probably refused" if _probably(one) else "refused"
    named = {"partly": "applied in part", "unknown": "not answered", "refused": refused}
    words = named.get(one["result"], one["result"])
    return f"{words}: {why}" if why else words


def _ago(ms: int) -> str:
    return f"{formats.age(time.time() - ms / 1000)} ago"


@push.command(cls=Command)
@click.argument("id", type=int)
@json_option
def drop(id: int, as_json: bool) -> None:
    """Take a push back, or an outcome off the list."""
    result = shared().call("DropPush", push_id=id)
    if as_json:
        return output.print_json(result)
    if not result["waited"]:
        return output.say(f"The outcome of push {id} is off the list.")
    sent = " It was sent already, and may be applied all the same." if result["sent"] else ""
    return output.say(f"Push {id} to {result['instanceId']!r} is dropped.{sent}")

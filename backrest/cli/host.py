"""``backrest host``: the hubs that this machine reports to."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from backrest.cli import output
from backrest.cli.base import FAILED, Group, json_option, shared
from backrest.cli.shown import show_peer
from backrest.cli.token import PERMISSION_HELP, note_scopeless


@click.group(cls=Group)
def host() -> None:
    """The hubs that this machine reports to (on the client)."""


@host.command()
@click.argument("token")
@click.option(
    "--url",
    required=True,
    metavar="URL",
    help="Where the hub is: https://backup.example.com, http://nas:9898.",
)
@click.option(
    "--grant",
    "grants",
    multiple=True,
    metavar="TYPE[=SCOPE,...]",
    help=(
        f"What the hub may see and do here: {PERMISSION_HELP}. Default: read-operations=* and "
        "receive-shared-repos=*."
    ),
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the pairing's result.")
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Certificates (PEM) to check the hub against when no daemon runs; a daemon has its own --ca-file.",
)
@click.option(
    "--new-key",
    is_flag=True,
    help="The hub is known here with another key, which was replaced: take the token's, keep all else.",
)
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    token: str,
    url: str,
    grants: tuple[str, ...],
    no_wait: bool,
    ca_file: str | None,
    new_key: bool,
    as_json: bool,
) -> None:
    """Pair with a hub: paste the TOKEN that `backrest token create` printed there.

    TOKEN "-" reads it from standard input, so that it is in no list of processes. A hub that is known already
    gets the new address and the new token; one that this machine is paired with once it has answered there (with
    --no-wait at once).
    """
    if token == "-":  # noqa: S105 - not a password, the word for standard input
        token = sys.stdin.readline(4096)
    told = False

    def on_event(event: dict[str, Any]) -> None:
        nonlocal told
        if "trying" in event:
            trying = event["trying"]
            output.note(f"Looking for {trying['instanceId']!r} at {trying['instanceUrl']} ...")
        elif "entered" in event and not no_wait:
            entered = event["entered"]
            output.note(f"Pairing with {entered['instanceId']!r} at {entered['instanceUrl']} ...")
        elif "message" in event:
            told = True
            output.note(f"  {event['message']}")

    note_scopeless(grants)
    result = shared().stream(
        "AddHost",
        on_event,
        token=token,
        url=url,
        permissions=list(grants) or None,
        wait=not no_wait,
        ca_file=os.path.abspath(ca_file) if ca_file else None,
        new_key=new_key,
    )
    name = result["host"]["peerInstanceId"]
    failed = result["waited"] and not result["connected"]
    if as_json:
        output.print_json(result)
    elif not result["waited"]:
        output.say(
            f"{'Updated' if result['known'] else 'Added'} the hub {name!r}; `backrest status` shows how "
            "it goes."
        )
    elif not failed:
        output.say(f"Paired with the hub {name!r}{': ' + result['message'] if result['message'] else ''}.")
        if not result["daemonRuns"]:
            output.say("No daemon runs here: start `backrest serve` to stay connected.")
    if failed:
        output.note(_advice(result, name, url))
        ctx.exit(FAILED)


def _advice(result: dict[str, Any], name: str, url: str) -> str:
    goes_on = (
        "this machine goes on trying (`backrest status`)"
        if result["daemonRuns"]
        else "`backrest serve` will try on"
    )
    hint = ""  # what went wrong says itself what to look at
    if result["refused"]:
        hint = "With a new token from the hub (`backrest token create` there), run this again. "
    elif result["silent"]:
        hint = (
            f"Check that the hub runs and that {url} reaches it over HTTP/2: with its port, 9898 unless it was told "
            "otherwise, or that of the proxy before it, which must pass /v1sync.BackrestSyncService/. "
        )
    if result["kept"]:
        hint = hint or "When it answers there, run this again. "
        return (
            f"backrest: {name!r} did not let this machine in at {url}: {result['message']}.\n{hint}Nothing was "
            f"changed: the hub stays at {result['host']['instanceUrl']}; --no-wait enters the new one without asking."
        )
    return (
        f"backrest: not paired with {name!r}: {result['message']}.\n"
        f"{hint}The hub stays entered: {goes_on}; `backrest host remove {name}` gives it up."
    )


@host.command("list")
@json_option
def list_hosts(as_json: bool) -> None:
    """List the hubs and what they may see and do here; `backrest status` shows their state."""
    result = shared().call("ListHosts")
    if as_json:
        return output.print_json(result)
    if not result["hosts"]:
        return output.note("There are no hubs; `backrest host add TOKEN --url URL` adds one.")
    rows = [
        (
            one["instanceId"],
            one["instanceUrl"],
            "no" if one["pairing"] else "yes",
            " ".join(one["grants"]),
            one["keyId"],
        )
        for one in result["hosts"]
    ]
    output.print_table(("HUB", "URL", "PAIRED", "GRANTS", "KEY ID"), rows)
    return None


@host.command()
@click.argument("id")
@json_option
def remove(id: str, as_json: bool) -> None:
    """Stop reporting to a hub. Repositories that it shared go, plans that use them are set aside."""
    result = shared().call("RemoveHost", ident=id)
    if as_json:
        return output.print_json(result)
    output.say(f"The hub {result['instanceId']!r} is removed.")
    return say_removed(result)


def say_removed(result: dict[str, Any]) -> None:
    """What went with a peer."""
    if result["removedRepos"]:
        output.say(f"Repositories that came from it are removed: {', '.join(result['removedRepos'])}.")
    if result["parkedPlans"]:
        output.say(
            f"Plans that used them are set aside and no longer run: {', '.join(result['parkedPlans'])}."
        )


@host.command()
@click.argument("id")
@click.argument("grants", nargs=-1, required=True, metavar="TYPE[=SCOPE,...]...")
@json_option
def grant(id: str, grants: tuple[str, ...], as_json: bool) -> None:
    """Replace what a hub may see and do here. "none" takes everything back. In force at once."""
    permissions = [] if grants == ("none",) else list(grants)
    note_scopeless(permissions)
    result = shared().call("GrantHost", ident=id, permissions=permissions)
    if as_json:
        return output.print_json(result)
    one = result["host"]
    return output.say(f"The hub {one['instanceId']!r} may now: {' '.join(one['grants']) or 'nothing'}.")


@host.command(short_help="Show a hub, and what it shows of its configuration.")
@click.argument("id")
@click.option(
    "--config", "with_config", is_flag=True, help="With the settings of its repositories and plans."
)
@json_option
def show(id: str, with_config: bool, as_json: bool) -> None:
    """Show a hub: its state, its repositories and plans, and what it shows of their settings (secrets masked)."""
    show_peer(id, "host", with_config, as_json)

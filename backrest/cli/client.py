"""``backrest client``: the clients that report to this machine."""

from __future__ import annotations

import click

from backrest.cli import formats, output
from backrest.cli.base import Group, json_option, parsed, shared
from backrest.cli.host import say_removed
from backrest.cli.shown import show_peer
from backrest.cli.token import note_scopeless


@click.group(cls=Group)
def client() -> None:
    """The clients that report to this machine (on the hub)."""


@client.command("list")
@click.option(
    "--all", "everyone", is_flag=True, help="Also those that were removed and whose history is kept."
)
@json_option
def list_clients(everyone: bool, as_json: bool) -> None:
    """List the clients and what they may do; `backrest status` shows their state."""
    result = shared().call("ListAllClients" if everyone else "ListClients")
    if as_json:
        return output.print_json(result)
    if not result["clients"]:
        output.note("There are no clients; `backrest token create` makes the token that lets one in.")
    else:
        rows = [
            (
                one["instanceId"],
                " ".join(one["grants"]),
                formats.quota(one["quota"]) if one.get("quota") else "",
                one["keyId"],
            )
            for one in result["clients"]
        ]
        output.print_table(("CLIENT", "PERMISSIONS", "QUOTA", "KEY ID"), rows)
    if result.get("archived"):
        output.say("\nRemoved, their history kept:")
        output.print_table(
            ("CLIENT", "REMOVED", "OPERATIONS", "KEY ID"),
            [
                (
                    one["instanceId"],
                    formats.moment(int(one["archivedMillis"])),
                    one["operations"],
                    one["keyId"],
                )
                for one in result["archived"]
            ],
            numbers=("OPERATIONS",),
        )
    return None


@client.command()
@click.argument("id")
@click.option(
    "--purge", is_flag=True, help="Delete its history here as well; also of a client removed before."
)
@json_option
def remove(id: str, purge: bool, as_json: bool) -> None:
    """Disconnect a client, at once, and let it in no more. Its history stays unless purged."""
    result = shared().call("RemoveClient", ident=id, purge=purge)
    if as_json:
        return output.print_json(result)
    name = result["instanceId"]
    output.say(f"The client {name!r} is removed.")
    say_removed(result)
    if purge:
        output.say(f"{formats.plural(result['purged'], 'operation')} of its history deleted.")
    elif result["operations"]:
        output.say(
            f"Its history of {formats.plural(result['operations'], 'operation')} stays, archived "
            f"(`backrest client list --all`, `backrest ops list --peer archived:{name}`); "
            f"`backrest client remove archived:{name} --purge` deletes it."
        )
    return None


@client.command()
@click.argument("id")
@click.argument("permissions", nargs=-1, required=True, metavar="TYPE[=SCOPE,...]...")
@json_option
def permissions(id: str, permissions: tuple[str, ...], as_json: bool) -> None:
    """Replace what a client may do here. "none" takes everything back. In force at once."""
    wanted = [] if permissions == ("none",) else list(permissions)
    note_scopeless(wanted)
    result = shared().call("SetClientPermissions", ident=id, permissions=wanted)
    if as_json:
        return output.print_json(result)
    one = result["client"]
    return output.say(f"The client {one['instanceId']!r} may now: {' '.join(one['grants']) or 'nothing'}.")


@client.command()
@click.argument("id")
@click.argument("duration", callback=parsed(formats.parse_tolerance))
@json_option
def tolerance(id: str, duration: int, as_json: bool) -> None:
    """Set how long a client may be away, and its plans late, before `status --check` says so (36h by default).

    DURATION is for example 2h or 7d, or default.
    """
    result = shared().call("SetTolerance", client=id, seconds=duration)
    if as_json:
        return output.print_json(result)
    return output.say(
        f"The client {id!r} may be away, and its plans late, by {formats.age(result['seconds'])}."
    )


@client.command(short_help="How much of its history is kept here.")
@click.argument("id")
@click.option(
    "--bytes",
    "size",
    callback=parsed(formats.parse_size),
    metavar="SIZE",
    help="At most so many bytes: 500MiB, 5GiB.",
)
@click.option("--operations", type=click.IntRange(min=0), metavar="N", help="At most so many operations.")
@click.option("--default", is_flag=True, help="1 GiB and 2,000,000 operations, as every client has it.")
@json_option
def quota(id: str, size: int | None, operations: int | None, default: bool, as_json: bool) -> None:
    """Show or change how much of a client's history is kept here. In force at once.

    What exceeds the quota is not stored, and asked for again when there is room. Nothing that is kept is deleted.
    """
    if default and (size is not None or operations is not None):
        raise click.UsageError("--default excludes --bytes and --operations.")
    result = shared().call("SetClientQuota", ident=id, size=size, operations=operations, default=default)
    if as_json:
        return output.print_json(result)
    one = result["client"]
    return output.say(
        f"The client {one['instanceId']!r} may have {formats.quota(one['quota'])} here; it has "
        f"{formats.quota(one['used'])}."
    )


@client.command(short_help="Show a client, and what it shows of its configuration.")
@click.argument("id")
@click.option(
    "--config", "with_config", is_flag=True, help="With the settings of its repositories and plans."
)
@json_option
def show(id: str, with_config: bool, as_json: bool) -> None:
    """Show a client: its state, its repositories and plans, and what it shows of their settings (secrets masked)."""
    show_peer(id, "client", with_config, as_json)

"""``backrest repo``: where the backups go. How a password gets in is passwords.py's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from backrest.cli import output
from backrest.cli.base import Group, confirm, json_option, several, shared, whole_path
from backrest.cli.passwords import read_password
from backrest.errors import UserError


@click.group(cls=Group)
def repo() -> None:
    """The restic repositories."""


def _variable(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            # Not repeated: it may be a secret that lacks its name.
            raise click.BadParameter("each is KEY=VALUE.", ctx=ctx, param=param)
    return value


@repo.command()
@click.argument("id")
@click.option(
    "--uri",
    required=True,
    metavar="URI",
    help="A directory, or what restic takes behind -r (s3:..., sftp:...).",
)
@click.option(
    "--password-file",
    type=click.Path(exists=True, allow_dash=True),
    help='Read the password from it; "-" is stdin.',
)
@click.option("--password-env", metavar="NAME", help="Read the password from this environment variable.")
@click.option("--generate-password", is_flag=True, help="Make a new random password, for a new repository.")
@several("--env", "env", "KEY=VALUE", "For restic's environment; may be repeated.", callback=_variable)
@several("--flag", "flags", "FLAG", "For each restic command on it (--flag=--limit-upload=512).")
@click.option("--auto-unlock", is_flag=True, help="Remove stale locks before each operation.")
@click.option(
    "--no-init",
    is_flag=True,
    help="Enter it without asking restic; the daemon looks for it, and makes it, later.",
)
@json_option
def add(
    id: str,
    uri: str,
    password_file: str | None,
    password_env: str | None,
    generate_password: bool,
    env: tuple[str, ...],
    flags: tuple[str, ...],
    auto_unlock: bool,
    no_init: bool,
    as_json: bool,
) -> None:
    """Enter a repository, and make it with restic if there is none yet.

    Without one of the --password options you are asked for the password. It is kept in the configuration
    file, which only you can read. Keep a copy elsewhere: without it the backups cannot be read.
    """
    given = {"password": read_password(id, password_file, password_env, generate_password, env, flags)}
    entry: dict[str, Any] = {
        "id": id,
        "uri": _absolute(uri),
        "env": list(env),
        "flags": list(flags),
        "autoUnlock": auto_unlock,
    }
    result = shared().stream(
        "AddRepo",
        lambda event: output.note(f"  {event['message']}"),
        repo={name: value for name, value in (entry | given).items() if value},
        initialize=not no_init,
    )
    if as_json:
        return output.print_json(result)
    if no_init:
        output.say(
            f"Repository {id!r} is entered; it is looked for when the daemon starts, or with `backrest "
            f"index {id}`."
        )
    elif result["made"]:
        output.say(f"Repository {id!r} is made and entered.")
    else:
        output.say(
            f"Repository {id!r} is entered; it was there already, `backrest index {id}` reads its snapshots."
        )
    if generate_password:
        output.say(f"Its password is in {shared().paths().config_file}: keep a copy elsewhere.")
    return None


def _absolute(uri: str) -> str:
    """The address as it is from anywhere: the daemon runs in another directory."""
    if uri.startswith("local:"):
        return "local:" + whole_path(uri.removeprefix("local:"))
    # With a ":" before any "/" it is an address elsewhere, or none: the rules of the configuration look at it.
    return uri if ":" in uri.partition("/")[0] else whole_path(uri)


@repo.command("set")
@click.argument("id")
@click.option("--uri", metavar="URI", help="Its new address; it must be the same repository.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, allow_dash=True),
    help='Read the new password from it; "-" is stdin.',
)
@click.option("--password-env", metavar="NAME", help="Read the new password from this environment variable.")
@click.option("--clear-password", is_flag=True, help="Keep none: restic gets it in another way.")
@several(
    "--env",
    "env",
    "KEY=VALUE",
    "Set one variable of restic's environment; may be repeated.",
    callback=_variable,
)
@several("--unset-env", "unset_env", "KEY", "Remove one variable; may be repeated.")
@click.option("--clear-env", is_flag=True, help="Remove all variables; those of --env are set after it.")
@several("--flag", "flags", "FLAG", "For each restic command, in place of all there are.")
@click.option("--clear-flags", is_flag=True, help="Remove all flags.")
@click.option(
    "--auto-unlock/--no-auto-unlock", default=None, help="Remove stale locks before each operation."
)
@click.option(
    "--no-check", is_flag=True, help="Do not ask restic whether that opens the same repository as before."
)
@json_option
def set_repo(
    id: str,
    uri: str | None,
    password_file: str | None,
    password_env: str | None,
    clear_password: bool,
    env: tuple[str, ...],
    unset_env: tuple[str, ...],
    clear_env: bool,
    flags: tuple[str, ...],
    clear_flags: bool,
    auto_unlock: bool | None,
    no_check: bool,
    as_json: bool,
) -> None:
    """Change a repository's entry; what is not named stays as it is.

    Not for one that a hub shares: that is changed on the hub.
    """
    if sum((password_file is not None, password_env is not None, clear_password)) > 1:
        raise click.UsageError("give one of --password-file, --password-env and --clear-password.")
    if flags and clear_flags:
        raise click.UsageError("--flag and --clear-flags exclude each other.")
    changes: dict[str, Any] = {}
    if uri is not None:
        changes["uri"] = _absolute(uri)
    if password_file is not None or password_env is not None:
        changes["password"] = read_password(id, password_file, password_env, False, (), ())
    elif clear_password:
        changes["password"] = ""
    if flags or clear_flags:
        changes["flags"] = list(flags)
    if auto_unlock is not None:
        changes["autoUnlock"] = auto_unlock
    if not (changes or env or unset_env or clear_env):
        raise click.UsageError("nothing to change: see `backrest repo set --help`.")
    result = shared().stream(
        "SetRepo",
        lambda event: output.note(f"  {event['message']}"),
        repo_id=id,
        changes=changes,
        env=list(env),
        unset_env=list(unset_env),
        clear_env=clear_env,
        check=not no_check,
    )
    if as_json:
        return output.print_json(result)
    return output.print_changes(f"Repository {id!r}", result["changed"])


def _address(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        client, equals, uri = entry.partition("=")
        if not (client and equals and uri):
            raise click.BadParameter("each is CLIENT=URI.", ctx=ctx, param=param)
    return value


@repo.command()
@click.argument("id")
@several(
    "--uri-for",
    "uris",
    "CLIENT=URI",
    "Where this client reaches it, if under another address; may be repeated.",
    callback=_address,
)
@several(
    "--no-uri-for",
    "no_uris",
    "CLIENT",
    "This client reaches it under the hub's own address after all; may be repeated.",
)
@click.option("--no-wait", is_flag=True, help="Do not wait for what the connected clients say.")
@json_option
def share(id: str, uris: tuple[str, ...], no_uris: tuple[str, ...], no_wait: bool, as_json: bool) -> None:
    """Hand a repository, with its password, to the clients that may receive it (on the hub).

    They back up into it; forget, prune and check stay the hub's. A client gets it when both ends grant
    receive-shared-repos: `client permissions` here, `host grant` there.
    """
    result = shared().stream(
        "ShareRepo",
        lambda event: output.note(f"  {event['message']}"),
        repo_id=id,
        uris=list(uris),
        no_uris=list(no_uris),
        wait=not no_wait,
    )
    for warning in result["warnings"]:
        output.note(f"Warning: {warning}.")
    if as_json:
        return output.print_json(result)
    output.say(f"Repository {id!r} is shared.")
    for one in result["clients"]:
        where = f" (at {one['uri']})" if one["uri"] else ""
        output.say(f"  {one['instanceId']}{where}: {one['message']}")
    return None


@repo.command()
@click.argument("id")
@json_option
def unshare(id: str, as_json: bool) -> None:
    """Share a repository no longer (on the hub).

    Clients of this program that grant this hub read-write-config drop it unless a plan there uses it. The others
    show that it is no longer offered, and their plans go on until they are removed there. A client that runs
    Backrest in Go is not told: `push CLIENT --delete-repo ID` deletes it there. To keep a client out of the
    repository, change the repository's password.
    """
    result = shared().call("UnshareRepo", repo_id=id)
    if as_json:
        return output.print_json(result)
    if not result["changed"]:
        return output.say(f"Repository {id!r} was not shared.")
    output.say(f"Repository {id!r} is shared no longer.")
    if result["heldBy"]:
        output.note(f"These clients have it: {', '.join(result['heldBy'])}. Their backups to it go on.")
    for name in result["notTold"]:
        output.note(
            f"{name!r} runs another program, which is not told: `backrest push {name} --delete-repo {id}` deletes it "
            "there, if it grants this hub read-write-config."
        )
    return None


@repo.command("list")
@json_option
def list_repos(as_json: bool) -> None:
    """List the repositories."""
    result = shared().call("ListRepos")
    if as_json:
        return output.print_json(result)
    if not result["repos"]:
        return output.note("There are no repositories; `backrest repo add ID --uri URI` enters one.")
    rows = [
        (
            one["id"],
            one["uri"],
            one.get("originInstanceId") or "this machine",
            one.get("guid", "")[:8] or "not made yet",
            _sharing(one, withdrawn=one["id"] in result.get("withdrawn", ()))
            or _waits(result.get("waiting", {}).get(one["id"])),
        )
        for one in result["repos"]
    ]
    output.print_table(("REPO", "URI", "FROM", "GUID", "SHARED"), rows)
    return None


def _sharing(one: dict[str, Any], *, withdrawn: bool) -> str:
    if withdrawn:
        return f"no longer offered by {one['originInstanceId']}"
    return "yes" if one.get("shared") and not one.get("originInstanceId") else ""


def _waits(waiting: dict[str, Any] | None) -> str:
    return f"new {', '.join(waiting['fields'])} to accept" if waiting else ""


@repo.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def accept(id: str, yes: bool, as_json: bool) -> None:
    """Accept what a hub wants to change of a repository that it shares: its address, environment or flags.

    Plans here go on with the old ones until you do. Passwords, keys, and an address's host alone change without asking.
    """
    waiting = shared().call("ShowRepo", repo_id=id)["waiting"]
    if waiting is None:
        raise UserError(f"no change of the repository {id!r} waits to be accepted")
    if not as_json:
        output.print_changes(f"Repository {id!r}", waiting["changed"], what="would be changed")
    confirm("Accept this?", yes=yes)
    result = shared().call("AcceptRepo", repo_id=id, since_millis=waiting["sinceMillis"])
    if as_json:
        return output.print_json(result)
    return output.say(f"The change of the repository {id!r} is accepted.")


@repo.command()
@click.argument("id")
@json_option
def show(id: str, as_json: bool) -> None:
    """Show a repository; secrets are masked. On a hub, of a shared one, too: which client has it, and why not."""
    result = shared().call("ShowRepo", repo_id=id)
    if as_json:
        return output.print_json(result)
    one = result["repo"]
    output.print_fields(
        [
            ("Id", one["id"]),
            ("URI", one["uri"]),
            ("Guid", one.get("guid")),
            ("From", one.get("originInstanceId") or "this machine"),
            ("Password", one.get("password")),
            ("Environment", " ".join(one.get("env", ()))),
            ("Flags", " ".join(one.get("flags", ()))),
            ("Auto unlock", "yes" if one.get("autoUnlock") else ""),
            ("Made", "when the daemon starts" if one.get("autoInitialize") else ""),
            ("Shared", _sharing(one, withdrawn=result["withdrawn"])),
            *_differences(result["waiting"]),
            *_clients(result),
            ("Plans", ", ".join(result["plans"])),
        ]
    )
    return None


def _differences(waiting: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What the hub wants to change, and waits."""
    for one in waiting["changed"] if waiting else ():
        yield f"New {one['field']}", f"{output.changed_value(one)}; it waits for `backrest repo accept`"


def _clients(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of a shared repository, how each client stands with it; else the addresses that are kept for some."""
    for one in result["clients"]:
        yield f"For {one['instanceId']}", f"{one['uri']}; {one['message']}" if one["uri"] else one["message"]
    if not result["clients"]:
        yield from ((f"For {client}", uri) for client, uri in result["uris"].items())


@repo.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask, whatever is lost.")
@json_option
def remove(id: str, yes: bool, as_json: bool) -> None:
    """Forget a repository here. It and its snapshots stay as they are.

    Its password is forgotten, too, and without it nobody reads the snapshots: asks first, where this may be the only
    copy.
    """
    result = shared().call("ShowRepo", repo_id=id)
    if result["onlyPassword"]:
        confirm(
            f"The configuration ({shared().paths().config_file}) has the password of {id!r}. It is forgotten with the "
            "entry, and without it the snapshots cannot be read: is there a copy elsewhere, or are they not needed?",
            yes=yes,
        )
    result = shared().call("RemoveRepo", repo_id=id)
    if as_json:
        return output.print_json(result)
    output.say(f"Repository {id!r} is forgotten here; what is stored in it stays.")
    if result["offeredBy"]:
        output.note(
            f"The hub {result['offeredBy']!r} shares it, and will hand it out again at the next connection: "
            f"`backrest repo unshare {id}` there, or `backrest host grant` here, ends that."
        )
    return None

"""``backrest repo``: where the backups go.

A password never comes as a flag: every user of the machine can read the flags of every process, and shells
keep them in their history. It comes from a file, from the environment, from a hidden prompt, or is made here.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

import click

from backrest.cli import output
from backrest.cli.base import Group, json_option, shared
from backrest.errors import UserError

# Other ways by which restic gets its password, or is told that there is none: then we need not have it.
_OWN_WAY = ("RESTIC_PASSWORD_FILE=", "RESTIC_PASSWORD_COMMAND=")
_OWN_FLAGS = ("--password-file", "--password-command", "--insecure-no-password", "-p")

# 32 random bytes: more than any attack on the repository's scrypt could use.
_GENERATED_BYTES = 32
_LONGEST_FILE = 64 * 1024


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
@click.option(
    "--env",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_variable,
    help="For restic's environment; may be repeated.",
)
@click.option(
    "--flag",
    "flags",
    multiple=True,
    metavar="FLAG",
    help="For each restic command on it (--flag=--limit-upload=512).",
)
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
    if ":" not in uri:
        uri = os.path.abspath(os.path.expanduser(uri))  # the daemon runs in another directory
    given = {"password": _password(id, password_file, password_env, generate_password, env, flags)}
    entry: dict[str, Any] = {
        "id": id,
        "uri": uri,
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


def _password(
    repo_id: str,
    file: str | None,
    variable: str | None,
    generate: bool,
    env: tuple[str, ...],
    flags: tuple[str, ...],
) -> str:
    if sum((file is not None, variable is not None, generate)) > 1:
        raise click.UsageError("give one of --password-file, --password-env and --generate-password.")
    if generate:
        return secrets.token_urlsafe(_GENERATED_BYTES)
    if variable is not None:
        if not os.environ.get(variable):
            raise UserError(f"the environment variable {variable} is not set")
        return os.environ[variable]
    if file is not None:
        return _first_line(file)
    if any(entry.startswith(_OWN_WAY) for entry in env) or any(flag.startswith(_OWN_FLAGS) for flag in flags):
        return ""
    if not sys.stdin.isatty():
        raise click.UsageError(
            "give the password with --password-file, --password-env or --generate-password."
        )
    entered: str = click.prompt(
        f"Password of the repository {repo_id}", hide_input=True, confirmation_prompt=True, err=True
    )
    return entered


def _first_line(file: str) -> str:
    """restic reads a password file the same way: without the line's end."""
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
        raw = stream.read(_LONGEST_FILE)
    try:
        text = raw.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    if not text or "\n" in text or "\0" in text:
        raise UserError(f"{file} must hold the password and nothing else, on one line")
    return text


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
        )
        for one in result["repos"]
    ]
    output.print_table(("REPO", "URI", "FROM", "GUID"), rows)
    return None


@repo.command()
@click.argument("id")
@json_option
def show(id: str, as_json: bool) -> None:
    """Show a repository; secrets are masked."""
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
            ("Shared", "yes" if one.get("shared") else ""),
            ("Plans", ", ".join(result["plans"])),
        ]
    )
    return None


@repo.command()
@click.argument("id")
@json_option
def remove(id: str, as_json: bool) -> None:
    """Forget a repository here. It and its snapshots stay as they are."""
    result = shared().call("RemoveRepo", repo_id=id)
    if as_json:
        return output.print_json(result)
    return output.say(f"Repository {id!r} is forgotten here; what is stored in it stays.")

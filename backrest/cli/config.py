"""``backrest config``: the whole configuration, as the file has it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from backrest.cli import formats, output
from backrest.cli.base import FAILED, Group, json_option, shared
from backrest.errors import UserError

# A configuration of a thousand repositories is a megabyte; more is another kind of file.
_LARGEST = 64 * 1024 * 1024


@click.group(cls=Group)
def config() -> None:
    """Show, check or replace the configuration."""


@config.command()
@json_option
def show(as_json: bool) -> None:
    """Show the configuration, secrets masked. It is JSON either way."""
    return output.print_json(shared().call("ShowConfig")["config"])


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@json_option
@click.pass_context
def validate(ctx: click.Context, file: str | None, as_json: bool) -> None:
    """Check a configuration file; without FILE, the one in use. Nothing is changed."""
    from backrest.admin.configs import check

    name = file or str(shared().paths().config_file)
    problems, warnings = check(_read(name), name)
    if as_json:
        output.print_json({"file": name, "problems": problems, "warnings": warnings})
    for warning in () if as_json else warnings:
        output.note(f"  Note: {warning}")
    if as_json:
        pass
    elif problems:
        for problem in problems:
            output.note(f"  {problem}")
        output.note(f"backrest: {name} has {formats.plural(len(problems), 'problem')}.")
    else:
        output.say(f"{name} is valid.")
    if problems:
        ctx.exit(FAILED)


@config.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@json_option
def import_config(file: str, as_json: bool) -> None:
    """Replace the configuration by the one in FILE, if it is valid. "-" is standard input.

    Takes what `config show` prints (a masked secret stays as it is) and what the Go program writes. A file
    without identity keeps this machine's. The one before stays beside the configuration file.
    """
    result = shared().call("ImportConfig", text=_read(file))
    if as_json:
        return output.print_json(result)
    if not result["changed"]:
        return output.say("Nothing differs; nothing was changed.")
    output.say(f"The configuration is replaced (change {result['modno']}).")
    if result["newIdentity"]:
        output.note("It brought another identity: peers that know this machine must be paired again.")
    for warning in result["warnings"]:
        output.note(f"warning: {warning}")
    return None


def _read(name: str) -> str:
    if name == "-":
        raw = sys.stdin.buffer.read(_LARGEST)
    else:
        try:
            with Path(name).open("rb") as file:
                raw = file.read(_LARGEST)
        except FileNotFoundError:
            raise UserError(f"{name} does not exist: `backrest init` makes one") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text") from None

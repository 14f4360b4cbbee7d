"""``backrest token``: what lets a client in."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

import click

from backrest.cli import formats, output
from backrest.cli.base import Group, json_option, parsed, shared

PERMISSION_HELP = (
    "TYPE[=SCOPE,...] with TYPE one of read-operations, read-config, read-write-config, "
    "receive-shared-repos and SCOPE "
    "one of *, repo:ID, plan:ID, !repo:ID, !plan:ID; may be repeated"
)
PLACEHOLDER_URL = "https://THIS-HUB"


def note_scopeless(texts: Sequence[str]) -> None:
    """Say what a permission without scopes means (W-26). It is written out as "*", so that no reader has to know."""
    for text in texts:
        if text in ("read-operations", "read-config", "read-write-config"):
            output.note(f"Note: {text} without a scope means all repositories and plans ({text}=*).")


@click.group(cls=Group)
def token() -> None:
    """Pairing tokens, which let a client in (on the hub)."""


@token.command()
@click.option("--label", metavar="L", help="A name to recognise it by; default: token-1, token-2, ...")
@click.option(
    "--ttl",
    default="1h",
    show_default=True,
    metavar="DURATION",
    callback=parsed(formats.parse_ttl),
    help="How long it may be used: 90s, 15m, 1h, 7d, forever.",
)
@click.option(
    "--max-uses",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="How many clients may pair with it; 0 is no limit.",
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    metavar="TYPE[=SCOPE,...]",
    help=f"What the client may do: {PERMISSION_HELP}. Default: read-operations=* and receive-shared-repos=*.",
)
@click.option("--url", metavar="URL", help="Where clients reach this hub, for the command that is printed.")
@json_option
def create(
    label: str | None, ttl: int, max_uses: int, permissions: tuple[str, ...], url: str | None, as_json: bool
) -> None:
    """Make a token and print it, with the command to run on the client.

    It is shown this once. Whoever has it can pair, so send it as you would send a password.
    """
    note_scopeless(permissions)
    result = shared().call(
        "CreateToken",
        label=label,
        ttl_seconds=ttl,
        max_uses=max_uses,
        permissions=list(permissions) or None,
    )
    command = f"backrest host add {shlex.quote(result['token'])} --url {shlex.quote(url or PLACEHOLDER_URL)}"
    if as_json:
        return output.print_json(result | {"command": command})
    uses = "any number of clients" if not max_uses else formats.plural(max_uses, "client")
    until = "for ever" if not ttl else f"for {formats.span(ttl)}"
    output.note(f"Token {result['label']!r}, good for {uses}, {until}, with {' '.join(result['grants'])}:")
    output.say(result["token"])
    if not ttl or not max_uses:
        output.note(
            "It stays good until it is taken back: whoever finds it can pair. When all have paired: "
            f"`backrest token revoke {shlex.quote(result['label'])}`."
        )
    output.note("\nOn the client, run:")
    output.say(command)
    if url is None:
        output.note(
            f"\n({PLACEHOLDER_URL}: the address at which the client reaches this hub; --url fills it in.)"
        )
    return None


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """List the tokens; their secrets are not shown again."""
    result = shared().call("ListTokens")
    if as_json:
        return output.print_json(result)
    if not result["pairingTokens"]:
        return output.note("There are no tokens; `backrest token create` makes one.")
    output.print_table(
        ("LABEL", "STATE", "USES", "EXPIRES", "PERMISSIONS"), [_row(one) for one in result["pairingTokens"]]
    )
    return None


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    expires = int(one["expiresAtUnix"])
    left = expires - time.time()
    when = (
        "never" if not expires else f"in {formats.age(left)}" if left > 0 else formats.moment(expires * 1000)
    )
    limit = one["maxUses"] or "no limit"
    return (one["label"] or '""', one["state"], f"{one['uses']} of {limit}", when, " ".join(one["grants"]))


@token.command()
@click.argument("label")
@json_option
def revoke(label: str, as_json: bool) -> None:
    """Take a token back. Clients that have paired with it stay."""
    result = shared().call("RevokeToken", label=label)
    if as_json:
        return output.print_json(result)
    return output.say(f"Token {label!r} is revoked.")


@token.command()
@json_option
def prune(as_json: bool) -> None:
    """Drop the tokens that have expired. (The daemon does so by itself, a day later.)"""
    result = shared().call("PruneTokens")
    if as_json:
        return output.print_json(result)
    labels = ", ".join(label or '""' for label in result["pruned"])
    return output.say(f"Dropped: {labels}." if labels else "No token has expired.")

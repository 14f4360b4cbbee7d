"""``backrest identity``: the key by which peers know this machine."""

from __future__ import annotations

import shlex
from typing import Any

import click

from backrest.cli import output
from backrest.cli.base import Group, confirm, json_option, shared


@click.group(cls=Group)
def identity() -> None:
    """The key by which peers know this machine."""


@identity.command()
@json_option
def show(as_json: bool) -> None:
    """Show the key id, the public key, and who knows this machine by them."""
    result = shared().call("ShowIdentity")
    if as_json:
        return output.print_json(result)
    output.print_fields(
        [
            ("Instance", result["instanceId"]),
            ("Key id", result["keyId"]),
            ("Public key", result["publicKey"]),
            ("Hubs", ", ".join(_names(result["hubs"])) or "none"),
            ("Clients", ", ".join(_names(result["clients"])) or "none"),
        ]
    )
    return None


@identity.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rotate(yes: bool, as_json: bool) -> None:
    """Replace this machine's key pair. Every pairing ends, and has to be made again.

    For when somebody else may have the key. The instance id and all history stay.
    """
    before = shared().call("ShowIdentity")
    if not yes:
        output.note(_warning(before))
    confirm("Replace the key?", yes=yes)
    result = shared().call("RotateIdentity", keyid=before["keyId"])
    if as_json:
        return output.print_json(result | {"todo": todo(result)})
    output.say(
        f"This machine, {result['instanceId']!r}, has a new key: {result['keyId']} (it was {result['oldKeyId']})."
    )
    if result["tokens"]:
        output.say(
            f"Pairing tokens named the old key and are gone: {', '.join(map(repr, result['tokens']))}."
        )
    if result["cleanedBackups"]:
        output.say("The old key was taken out of the backups of the configuration.")
    lines = todo(result)
    if lines:
        output.say("\nTo pair again:")
        for line in lines:
            output.say(line)
    return None


def todo(result: dict[str, Any]) -> list[str]:
    """What has to be done, and where, for each peer."""
    me = shlex.quote(result["instanceId"])
    lines = []
    for hub in result["hubs"]:
        lines += [
            f"- with the hub {hub['instanceId']!r}:",
            f"    there: backrest client remove {me}   (what it holds of this machine stays, archived; it is sent "
            "again, so --purge is fine)",
            "    there: backrest token create",
            f"    here:  backrest host add TOKEN --url {shlex.quote(hub['instanceUrl'])}",
        ]
    for client in result["clients"]:
        lines += [
            f"- with the client {client['instanceId']!r} (what is held of it stays, and so does what it may do):",
            "    here:  backrest token create",
            "    there: backrest host add TOKEN --url URL --new-key",
        ]
    return lines


def _warning(before: dict[str, Any]) -> str:
    peers = [*_names(before["hubs"]), *_names(before["clients"])]
    if not peers:
        return "No peer knows this machine yet: nothing has to be paired again."
    return f"These will refuse this machine until they are paired again: {', '.join(peers)}."


def _names(peers: list[dict[str, Any]]) -> list[str]:
    return [peer["instanceId"] for peer in peers]

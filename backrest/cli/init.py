"""``backrest init``: identity and configuration for this machine."""

from __future__ import annotations

import click

from backrest.cli import output
from backrest.cli.base import Command, json_option, shared


@click.command(cls=Command)
@click.option(
    "--instance-id", metavar="ID", help="The name that peers know this machine by; default: the host's name."
)
@json_option
def init(instance_id: str | None, as_json: bool) -> None:
    """Give this machine an identity and a configuration.

    A configuration that is there keeps everything it has and gets only what it lacks, so running this twice
    does no harm.
    """
    result = shared().call("Init", instance_id=instance_id)
    if as_json:
        return output.print_json(result)
    if result["created"]:
        output.say(f"Configuration written to {result['configFile']}.")
    elif result["added"]:
        output.say(f"Added to {result['configFile']}: {', '.join(result['added'])}.")
    else:
        output.say(f"{result['configFile']} has all it needs; nothing was changed.")
    output.say(f"This machine is {result['instanceId']!r} ({result['keyId']}).")
    return None

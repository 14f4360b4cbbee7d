"""``backrest init``: identity and configuration for this machine."""

from __future__ import annotations

from typing import Any

import click

from backrest.cli import formats, output
from backrest.cli.base import Command, json_option, shared


@click.command(cls=Command)
@click.option(
    "--instance-id", metavar="ID", help="The name that peers know this machine by; default: the host's name."
)
@json_option
def init(instance_id: str | None, as_json: bool) -> None:
    """Give this machine an identity and a configuration.

    A configuration that is there keeps everything it has and gets only what it lacks, so running this twice
    does no harm. One of the Go program (Backrest) is taken over as it is; `backrest ops import --from-reference` takes
    over its history.
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
    if "found" in result:
        _tell_found(result)
    return None


def _tell_found(result: dict[str, Any]) -> None:
    """Say what the configuration holds that existed before this program wrote any file."""
    found = result["found"]
    parts = [
        formats.plural(found["repos"], "repo"),
        formats.plural(found["plans"], "plan"),
        formats.plural(found["hosts"], "hub"),
        formats.plural(found["clients"], "client"),
    ]
    output.note(
        f"The configuration was there already, and is used as it is: {', '.join(parts)}. Its key is this machine's: no "
        "other program may go on with it."
    )
    if "historyWaits" in found:
        output.note(
            f"The Go program (Backrest) has kept its history in {found['historyWaits']}. Stop it for good, and run "
            "`backrest ops import --from-reference` next; until then no hub is dialled (`backrest ops import "
            "--without-reference` goes on without it)."
        )
    elif found["hosts"]:
        output.note(
            "If the Go program (Backrest) made it, stop it for good, and import its history before the first `backrest "
            "serve`: `backrest ops import --from-reference FILE`, FILE being the oplog.sqlite of its data directory. "
            "Hubs delete what they hold of a machine that comes without its history."
        )

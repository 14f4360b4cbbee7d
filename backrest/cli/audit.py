"""``backrest audit``: who paired, was refused, was let in, and who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from backrest.cli import formats, output
from backrest.cli.base import Command, json_option, shared

_FRAME = {"time", "event", "prev", "hash"}


@click.command(cls=Command)
@click.option(
    "-n",
    "limit",
    type=click.IntRange(min=0),
    metavar="N",
    default=50,
    show_default=True,
    help="The last N; 0 is all.",
)
@click.option("--verify", is_flag=True, help="Check that no line was altered, removed or put in.")
@json_option
def audit(limit: int, verify: bool, as_json: bool) -> None:
    """Show the audit log: who paired, was refused, was let in, changed what.

    Each line carries the hash of the one before. What --verify cannot see: lines cut off at the end. Older files
    than the last ten are removed; it says since when there are lines. Of what strangers and peers cause, a day's sum is
    recorded, and then how much was left out (not-recorded).
    """
    if verify:
        result = shared().call("VerifyAudit")
        if as_json:
            return output.print_json(result)
        since = f" since {_moment(result['since'])}" if result["since"] else ""
        return output.say(
            f"{result['file']}: {formats.plural(result['lines'], 'line')}{since}, none altered."
        )
    entries: list[dict[str, Any]] = []
    shared().stream("ShowAudit", lambda event: entries.extend(event["entries"]), limit=limit)
    if as_json:
        return output.print_json({"entries": entries})
    if not entries:
        return output.note("Nothing has happened yet.")
    rows = [(_moment(one.get("time", "")), one.get("event", ""), _details(one)) for one in entries]
    output.print_table(("TIME", "EVENT", "DETAILS"), rows)
    return None


def _moment(text: str) -> str:
    """In local time, as every other list shows it; the file and --json have UTC."""
    try:
        return formats.moment(round(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, TypeError, OverflowError):
        return text


def _details(entry: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={_text(value)}" for name, value in entry.items() if name not in _FRAME and value != ""
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    text = str(value)
    return f'"{text}"' if " " in text else text

"""``backrest oplog``: the file of the history."""

from __future__ import annotations

import click

from backrest.cli import formats, output
from backrest.cli.base import FAILED, Group, json_option, shared
from backrest.cli.meter import Meter


@click.group(cls=Group)
def oplog() -> None:
    """Check, repair or shrink the file of the history."""


@oplog.command()
@json_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Read the whole file and check every line. Nothing is changed."""
    with Meter("Checking") as meter:
        result = shared().stream("VerifyOplog", meter.event)
    if as_json:
        output.print_json(result)
    elif not result["opens"]:
        for problem in result["problems"]:
            output.note(f"  line {problem['line']}: {problem['reason']}")
        output.note(
            f"backrest: {result['file']} has {formats.plural(result['badLines'], 'bad line')}; with "
            "the daemon stopped, `backrest oplog repair` sets right what can be, and the rest aside."
        )
    else:
        output.say(f"{result['file']}: {formats.plural(result['operations'], 'operation')}, no bad line.")
        if result["torn"] or result["badLines"]:
            output.note("Its end is unfinished, as after a power cut: the next start cuts it off.")
    if not result["opens"]:
        ctx.exit(FAILED)


@oplog.command()
@json_option
def repair(as_json: bool) -> None:
    """Set bad lines aside, so that the daemon starts again. What clients sent, they send again."""
    with Meter("Repairing") as meter:
        result = shared().stream("RepairOplog", meter.event)
    if as_json:
        return output.print_json(result)
    if not result["repaired"]:
        return output.say(f"{result['file']} needs no repair.")
    done = []
    if result["firstLineMissing"]:
        done.append("a first line written, with numbers far above all that were given out")
    if result["moved"]:
        done.append(f"{formats.plural(result['moved'], 'line')} put in order")
    if result["setAside"]:
        done.append(f"{formats.plural(result['setAside'], 'bad line')} set aside into {result['asideFile']}")
    output.say(f"{result['file']}: {', '.join(done)}.")
    return output.say(f"It has {formats.plural(result['operations'], 'operation')} now.")


@oplog.command()
@json_option
def compact(as_json: bool) -> None:
    """Write the file anew without what was overwritten or deleted. The daemon also does so by itself."""
    with Meter("Compacting") as meter:
        result = shared().stream("CompactOplog", meter.event)
    if as_json:
        return output.print_json(result)
    return output.say(
        f"{result['file']}: {formats.size(result['before'])} became {formats.size(result['after'])}."
    )

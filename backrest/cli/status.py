"""``backrest status``: this instance and each peer; once, as a live table, or as a verdict for monitoring."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from backrest.cli import formats, output, states
from backrest.cli.base import Command, json_option, shared
from backrest.errors import BackrestError

# While no daemon answers, --watch looks again this often.
RETRY_S = 2.0

# A try that is due begins within this time, on a busy machine, too.
LATE_S = 2.0


@click.command(cls=Command)
@json_option
@click.option("--watch", is_flag=True, help="Keep showing it, as it changes, until Ctrl-C.")
@click.option("--check", is_flag=True, help="One line, and an exit code from 0 to 3, as Nagios wants it.")
@click.pass_context
def status(ctx: click.Context, as_json: bool, watch: bool, check: bool) -> None:
    """Show this instance, each peer (state, since when, last heartbeat, operations held), and each plan's last success.

    --check: a plan is late when its schedule has asked for a backup, and its tolerance has passed (`plan tolerance`,
    `client tolerance`).
    """
    if watch and check:
        raise click.UsageError("--watch and --check exclude each other.")
    if check:
        ctx.exit(_check(as_json))
    if watch:
        return _watch(as_json)
    result = shared().call("Status")
    if as_json:
        return output.print_json(result)
    _print(result)
    return None


def _check(as_json: bool) -> int:
    result: dict[str, Any] = {}
    try:
        result = shared().call("Status")
        code, line = states.verdict(result, time.time_ns() // 1_000_000)
    except (BackrestError, OSError) as error:
        code, line = states.UNKNOWN, f"UNKNOWN: {error}"
    if as_json:
        output.print_json(
            result | {"check": {"code": code, "verdict": states.VERDICTS[code], "message": line}}
        )
    else:
        output.say(" ".join(line.split("\n")))
    return code


def _print(result: dict[str, Any]) -> None:
    output.print_fields(_instance(result))
    if result["peers"]:
        output.say()
        output.print_table(HEADERS, [_row(peer) for peer in result["peers"]], numbers=("OPERATIONS", "SIZE"))
    if result.get("plans"):
        output.say()
        output.print_table(PLAN_HEADERS, [_plan_row(plan) for plan in result["plans"]])
    for line in _remarks(result):
        output.note(line)


PLAN_HEADERS = ("PLAN", "MACHINE", "LAST SUCCESS", "DUE", "STATE")


def _plan_row(plan: dict[str, Any]) -> tuple[object, ...]:
    due = int(plan.get("dueMillis", 0)) / 1000 - time.time() if "dueMillis" in plan else None
    when = "-" if due is None else f"in {formats.age(due)}" if due > 0 else f"{formats.age(-due)} ago"
    _, words = states.plan_state(plan, time.time_ns() // 1_000_000)
    return (
        plan["planId"],
        plan["peerInstanceId"] or "here",
        _ago(plan.get("lastSuccessMillis", 0)),
        when,
        words,
    )


def _instance(result: dict[str, Any]) -> list[tuple[str, object]]:
    instance, daemon = result["instance"], result["daemon"]
    if daemon["running"]:
        age = formats.age(time.time() - int(daemon["startedMs"]) / 1000)
        runs = f"has run for {age} (pid {daemon['pid']}) at {', '.join(daemon['addresses'])}"
        if daemon.get("adminAddresses"):
            runs += f", admin API at {', '.join(daemon['adminAddresses'])}"
    else:
        runs = "does not run"
    return [
        ("Instance", instance["instanceId"] or "none yet: run `backrest init`"),
        ("Key id", instance["keyId"]),
        ("Daemon", runs),
        ("Operations", f"{instance['operations']:,} of its own"),
        ("Files", f"{instance['configFile']}, {instance['dataDir']}"),
    ]


HEADERS = ("PEER", "ROLE", "STATE", "SINCE", "HEARTBEAT", "OPERATIONS", "SIZE", "MESSAGE")


def _row(peer: dict[str, Any]) -> tuple[object, ...]:
    state = states.CONNECTION.get(peer["state"], "unknown")
    message = peer.get("statusMessage", "")
    next_try = int(peer.get("nextTryMillis", 0))
    if next_try:
        left = next_try / 1000 - time.time()
        if left >= 1:
            when = f"next try in {formats.age(left)}"
        else:  # a daemon that is late must not look as if it were trying
            when = "next try now" if left > -LATE_S else f"next try was due {formats.age(-left)} ago"
        message = f"{message} ({when})" if message else when
    return (
        peer["peerInstanceId"],
        states.ROLES[peer["role"]],
        state,
        _ago(peer.get("sinceMillis", 0)),
        _ago(peer.get("lastHeartbeatMillis", 0)),
        f"{peer['operations']:,}",
        formats.size(int(peer["bytes"])) if "bytes" in peer else "",
        message,
    )


def _ago(ms: Any) -> str:
    return f"{formats.age(time.time() - int(ms) / 1000)} ago" if int(ms) else "-"


def _remarks(result: dict[str, Any]) -> list[str]:
    lines = []
    if "historyWaits" in result:
        from backrest.store.handover import WAITS

        lines.append(f"{WAITS}.")
    now_ms = time.time_ns() // 1_000_000
    for peer in result["peers"]:
        name = peer["peerInstanceId"]
        held_back = "historyWaits" in result and peer["role"] == "host"
        if not held_back and (advice := states.advice(peer, now_ms)):
            lines.append(f"{name}: {advice}")
        lines += [f"{name}: {warning}" for warning in peer.get("warnings", ())]
        lines += [
            f"{name}: push {push['id']} waits since {formats.age(time.time() - int(push['createdMillis']) / 1000)} for "
            f"the client ({', '.join(push['items'])}); `backrest push drop {push['id']}` takes it back"
            for push in peer.get("queuedPushes", ())
        ]
        if peer.get("overQuota"):
            quota = f" of {formats.quota(peer['quota'])}" if peer.get("quota") else ""
            lines.append(
                f"{name}: {formats.plural(peer['overQuota'], 'operation')} not kept here: its quota{quota} has no "
                f"room; `backrest client quota {name} --bytes SIZE --operations N` changes it"
            )
        if peer.get("refused"):
            lines.append(
                f"{name}: {formats.plural(peer['refused'], 'operation')} refused (out of scope or invalid)"
            )
    lines += [
        f"{one['peerInstanceId']}: a machine of this name with another key was refused "
        f"{formats.plural(one['refused'], 'time')}, last {_ago(one['lastMillis'])} (`backrest audit` says from where): "
        f"if its identity was replaced, `backrest client remove {one['peerInstanceId']}` and pair it again"
        for one in result.get("namesakes", ())
    ]
    for gone in result.get("archived", ()):
        lines.append(
            f"{gone['instanceId']}: removed {_ago(gone['archivedMillis'])}, its history of "
            f"{formats.plural(gone['operations'], 'operation')} is kept"
        )
    lines += result.get("access", ())
    lines += [f"plan {one['plan']['id']}: {one['state']}" for one in result.get("parkedPlans", ())]
    lines += [
        f"repo {one['id']}: {one['originInstanceId']} wants to change its {', '.join(one['fields'])}, which waits "
        f"since {_ago(one['sinceMillis'])} (`backrest repo accept {one['id']}`)"
        for one in result.get("waitingRepos", ())
    ]
    return lines


def _watch(as_json: bool) -> None:
    """Events from the daemon; while none runs, the present state again and again until one comes."""
    if as_json:
        return _follow(lambda event: click.echo(output.json_text(event["status"], indent=False)), output.note)
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=output.console(), auto_refresh=False) as live:

        def show(event: dict[str, Any]) -> None:
            result = event["status"]
            parts: list[Any] = [
                Text(f"{name}: {output.harmless(value)}") for name, value in _instance(result) if value
            ]
            parts.append(
                output.table(
                    HEADERS, [_row(peer) for peer in result["peers"]], numbers=("OPERATIONS", "SIZE")
                )
            )
            parts += [Text(output.harmless(line)) for line in _remarks(result)]
            live.update(Group(*parts), refresh=True)

        def say(text: str) -> None:
            live.update(Text(output.harmless(text)), refresh=True)

        return _follow(show, say)


def _follow(show: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> None:
    """Until Ctrl-C: each status that is new, and what keeps us from having one."""
    last: dict[str, Any] = {}

    def changed(event: dict[str, Any]) -> None:
        nonlocal last
        if event["status"]["daemon"]["running"] or event != last:
            last = event
            show(event)

    while True:
        try:
            shared().stream("WatchStatus", changed)
        except BackrestError as error:
            say(f"{error}; looking again every {RETRY_S:.0f} s")
        time.sleep(RETRY_S)

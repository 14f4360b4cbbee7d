"""Whether each plan is backed up in time: this instance's, and each client's by the history that it sent.

A plan is late when its schedule has asked for a backup after the last success, and its machine's tolerance (a laptop
sleeps) has passed since then. A client's schedule is known where it shows its configuration; else the longest gap that
is usual in its history stands for it. ``judge`` is pure; cli/states.py has the words and how bad each state is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from backrest import wire
from backrest.admin.context import Context, now_ms
from backrest.admin.peers import resolve
from backrest.errors import NotFoundError, UserError
from backrest.store.cron import Cron
from backrest.store.plannotes import TOLERANCE_S, PlanNotes
from backrest.store.text import one_line
from backrest.wire import operations

Operation = operations.Operation
Schedule = wire.config.Schedule

BACKUP = Operation.OPERATION_BACKUP_FIELD_NUMBER
FORGET = Operation.OPERATION_FORGET_FIELD_NUMBER
GOOD = (operations.STATUS_SUCCESS, operations.STATUS_WARNING)  # there is a snapshot
BAD = (operations.STATUS_ERROR,)  # what a person cancelled says nothing about the plan

# Successes from which a usual gap is learned: enough for a machine's habits, few enough to follow when they change.
LEARNED_FROM = 20

# Gaps before one of them is called usual.
FEWEST_GAPS = 3

# The part of the gaps that the usual one is as long as, or longer: a holiday among twenty is not usual.
USUAL = 0.9

MESSAGE_CHARS = 300  # of what a failed run said: the first words name the cause


@dataclass(frozen=True, slots=True)
class Runs:
    """A plan's backups: starts in ms, newest first; ``bad`` failed, ``doubted`` ended as a warning."""

    good: Sequence[int] = ()
    doubted: Sequence[int] = ()
    bad: Sequence[int] = ()
    bad_forgets: Sequence[int] = ()
    good_forgets: Sequence[int] = ()


def judge(
    runs: Runs, schedule: Schedule | None, tolerance_s: int, now: int, *, learns: bool = False
) -> dict[str, Any]:
    """{"state", ...}: LATE, FAILED, DOUBTED, FORGET_FAILED, NEVER (scheduled and without a success), NONE (neither) or
    OK, in this order; and the times that it was judged by.

    ``schedule``: None where nobody knows; then ``learns`` says that the history stands for it.
    """
    done = sorted((*runs.good, *runs.doubted), reverse=True)
    last = done[0] if done else 0
    result: dict[str, Any] = {"toleranceSeconds": tolerance_s}
    due = 0
    if schedule is not None:
        due = _due(schedule, last)
    elif learns and (gap := usual_gap(done)):
        due = last + gap
        result["usualGapSeconds"] = gap // 1000
    if last:
        result["lastSuccessMillis"] = str(last)
    if due:
        result["dueMillis"] = str(due)
    failed, doubted = _first(runs.bad), _first(runs.doubted)
    if due and now > due + tolerance_s * 1000:
        state = "LATE"
    elif failed > last:
        state = "FAILED"
    elif doubted and doubted == last:
        state = "DOUBTED"
    elif _first(runs.bad_forgets) > _first(runs.good_forgets):
        state = "FORGET_FAILED"
    elif last:
        state = "OK"
    else:
        state = (
            "NEVER"
            if schedule is not None and schedule.WhichOneof("schedule") not in (None, "disabled")
            else "NONE"
        )
    result["state"] = state
    if failed > last:
        result["failedMillis"] = str(failed)
    return result


def _first(times: Sequence[int]) -> int:
    return times[0] if times else 0


def _due(schedule: Schedule, last: int) -> int:
    """When the schedule asks for the first backup after ``last``; 0: never, or there was none before. The clock that a
    schedule names makes no difference here: all of them count from a run when there was one, in local time."""
    kind = schedule.WhichOneof("schedule")
    if not last:
        return 0
    if kind == "maxFrequencyHours":
        return last + schedule.maxFrequencyHours * 3_600_000
    if kind == "maxFrequencyDays":
        return last + schedule.maxFrequencyDays * 86_400_000
    if kind == "cron":
        try:
            found = Cron.parse(schedule.cron).next_after(last / 1000)
        except (ValueError, OverflowError, OSError):
            return 0  # a client may show what it likes
        return round(found * 1000) if found is not None else 0
    return 0


def usual_gap(starts: Sequence[int]) -> int:
    """The longest gap that is usual between these, newest first, in ms; 0 if there are too few to say."""
    gaps = sorted(newer - older for newer, older in pairwise(starts))
    return gaps[math.ceil(USUAL * len(gaps)) - 1] if len(gaps) >= FEWEST_GAPS else 0


def plans(context: Context) -> list[dict[str, Any]]:
    """A row for each plan: this instance's (``peerInstanceId`` is empty), then each client's that is known here."""
    config = context.config.current
    notes = context.if_sound(lambda: context.plan_notes) or PlanNotes.nothing()
    newest = context.oplog.newest((BACKUP, FORGET), (*GOOD, *BAD), LEARNED_FROM)
    found: dict[tuple[str, str], dict[tuple[int, int], list[tuple[int, int]]]] = {}
    for (meta, kind, status), seen in newest.items():
        merged = found.setdefault((meta.origin, meta.plan_id), {}).setdefault((kind, status), [])
        merged += seen
    rows = []

    def row(keyid: str, name: str, plan_id: str, tolerance: int, schedule: Schedule | None) -> None:
        seen = found.get((keyid, plan_id), {})
        runs, said = _runs(context, seen)
        entry = {"peerInstanceId": name, "peerKeyid": keyid, "planId": plan_id}
        rows.append(entry | judge(runs, schedule, tolerance, now_ms(), learns=bool(keyid)) | said)

    for plan in config.plans:
        row("", "", plan.id, notes.tolerance(plan.id), plan.schedule)
    for client in config.multihost.authorized_clients:
        record = context.peers.get(client.keyid)
        shown = (
            {plan.id: plan for plan in record.remote_config.plans} if record and record.remote_config else {}
        )
        known = {plan.id for plan in record.known_plans} if record else set()
        seen_of = {plan_id for keyid, plan_id in found if keyid == client.keyid}
        for plan_id in sorted(known or seen_of):
            schedule = shown[plan_id].schedule if plan_id in shown else None
            row(client.keyid, client.instance_id, plan_id, notes.client_tolerance(client.keyid), schedule)
    return rows


def _runs(
    context: Context, seen: dict[tuple[int, int], list[tuple[int, int]]]
) -> tuple[Runs, dict[str, Any]]:
    """The runs, without those that only tried, and what the last one said if that was not a plain success."""

    def of(kind: int, statuses: Iterable[int]) -> list[tuple[int, int]]:
        return sorted((one for status in statuses for one in seen.get((kind, status), ())), reverse=True)

    tried: set[int] = set()
    message = forget_message = ""
    for at, (_, number) in enumerate(of(BACKUP, (*GOOD, *BAD))):
        operation = next(context.oplog.read([number]), None)
        if operation is None or operation.operation_backup.dry_run:
            tried.add(number)
            continue
        message = message or operation.display_message
        if operation.status in GOOD or at > LEARNED_FROM:
            break
    forgets = of(FORGET, (*GOOD, *BAD))
    if forgets and (operation := next(context.oplog.read([forgets[0][1]]), None)) is not None:
        forget_message = operation.display_message

    def starts(kind: int, statuses: Iterable[int]) -> list[int]:
        return [start for start, number in of(kind, statuses) if number not in tried]

    success, warning = GOOD
    runs = Runs(
        starts(BACKUP, [success]),
        starts(BACKUP, [warning]),
        starts(BACKUP, BAD),
        starts(FORGET, (warning, *BAD)),
        starts(FORGET, [success]),
    )
    said = {
        "message": one_line(message, MESSAGE_CHARS),
        "forgetMessage": one_line(forget_message, MESSAGE_CHARS),
    }
    return runs, {name: text for name, text in said.items() if text}


def set_tolerance(
    context: Context, seconds: int, plan_id: str | None = None, client: str | None = None
) -> dict[str, Any]:
    """How long a plan here, or all that a client does, may be late before it is said; 0 seconds: as by default."""
    if seconds < 0 or (plan_id is None) == (client is None):
        raise UserError("a tolerance is of one plan or of one client, and not negative")
    notes = context.plan_notes
    context.ready_to_record()
    if plan_id is not None:
        if not any(plan.id == plan_id for plan in context.config.current.plans):
            raise NotFoundError(f"there is no plan {plan_id!r}")
        notes.set_tolerance(plan_id, seconds)
        context.record("plan-tolerance", plan=plan_id, seconds=seconds)
    else:
        assert client is not None
        keyid = resolve(context, client)
        if not any(one.keyid == keyid for one in context.config.current.multihost.authorized_clients):
            raise NotFoundError(f"there is no client {client!r}")
        notes.set_client_tolerance(keyid, seconds)
        context.record("client-tolerance", client=client, seconds=seconds)
    return {"seconds": seconds or TOLERANCE_S}

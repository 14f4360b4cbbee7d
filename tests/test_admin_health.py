"""Whether plans are backed up in time: the judgement, and how the history and what clients show come to it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from admin_world import GUID, World, add_client
from cli_world import Run, document, here, run, world

from backrest.admin.health import Runs, judge, usual_gap
from backrest.cli import states
from backrest.store.oplog import OpLog
from backrest.store.plannotes import TOLERANCE_S
from backrest.wire import config, operations, sync

__all__ = ["here", "run", "world"]  # fixtures

HOUR = 3_600_000
LAPTOP = "ed25519." + "B" * 43
Schedule = config.Schedule
Operation = operations.Operation
SUCCESS, WARNING, ERROR = operations.STATUS_SUCCESS, operations.STATUS_WARNING, operations.STATUS_ERROR
CANCELLED = operations.STATUS_USER_CANCELLED


# --- the judgement


MONDAY = int(datetime(2026, 11, 30, 3, 15, 2).timestamp() * 1000)  # local time, as cron's


@pytest.mark.parametrize("clock", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("schedule", "due_h"),
    [
        (Schedule(cron="15 3 * * *"), 24),
        (Schedule(cron="15 3 * * 1"), 7 * 24),
        (Schedule(maxFrequencyHours=6), 6),
        (Schedule(maxFrequencyDays=2), 48),
    ],
)
def test_a_plan_is_late_after_its_schedule_and_its_tolerance(
    schedule: Schedule, due_h: int, clock: Any
) -> None:
    schedule.clock = clock
    started = 2000 if schedule.cron else 0  # seconds after the minute of the occurrence
    due = MONDAY + due_h * HOUR - started
    for tolerance_s in (60, TOLERANCE_S):
        at = judge(Runs(good=[MONDAY]), schedule, tolerance_s, due + tolerance_s * 1000)
        assert (at["state"], at["dueMillis"], at["lastSuccessMillis"]) == ("OK", str(due), str(MONDAY))
        assert (
            judge(Runs(good=[MONDAY]), schedule, tolerance_s, due + tolerance_s * 1000 + 1)["state"] == "LATE"
        )


@pytest.mark.parametrize(
    ("runs", "schedule", "state"),
    [
        (Runs(), None, "NONE"),
        (Runs(), Schedule(disabled=True), "NONE"),
        (Runs(), Schedule(maxFrequencyHours=1), "NEVER"),
        (Runs(good=[5]), Schedule(disabled=True), "OK"),
        (Runs(good=[5]), Schedule(), "OK"),
        (Runs(good=[5], bad=[6]), Schedule(disabled=True), "FAILED"),
        (Runs(bad=[6]), None, "FAILED"),
        (Runs(good=[7], bad=[6]), None, "OK"),
        (Runs(good=[5], doubted=[6]), None, "DOUBTED"),
        (Runs(good=[7], doubted=[6]), None, "OK"),
        (Runs(good=[5], bad_forgets=[6], good_forgets=[4]), None, "FORGET_FAILED"),
        (Runs(good=[5], bad_forgets=[6], good_forgets=[7]), None, "OK"),
        (Runs(good=[5]), Schedule(cron="what"), "OK"),
    ],
)
def test_the_last_run_that_counts_decides(runs: Runs, schedule: Schedule | None, state: str) -> None:
    assert judge(runs, schedule, TOLERANCE_S, 10**9)["state"] == state


def test_without_a_schedule_the_usual_gap_stands_for_it() -> None:
    daily = [n * 24 * HOUR for n in range(19, 0, -1)]
    assert usual_gap(daily) == 24 * HOUR
    assert usual_gap([daily[0] + 21 * 24 * HOUR, *daily]) == 24 * HOUR  # once on holiday
    assert usual_gap(daily[:4]) == 24 * HOUR
    assert usual_gap(daily[:3]) == 0  # too few to say
    due = daily[0] + 24 * HOUR
    for now, state in ((due + 60_000, "OK"), (due + 60_001, "LATE")):
        found = judge(Runs(good=daily), None, 60, now, learns=True)
        assert (found["state"], found["usualGapSeconds"]) == (state, 24 * 3600)
        assert judge(Runs(good=daily), None, 60, now)["state"] == "OK"


# --- from the stores


def backup(start: int, status: Any = SUCCESS, plan: str = "p1", **more: Any) -> Operation:
    body = {"operation_backup": operations.OperationBackup(dry_run=more.pop("dry_run", False))}
    return Operation(
        repo_id="r1",
        repo_guid=GUID,
        plan_id=plan,
        instance_id="x",
        status=status,
        unix_time_start_ms=start,
        unix_time_end_ms=start,
        **(body | more),
    )


def now() -> int:
    from backrest.admin.context import now_ms

    return now_ms()


def row(here: Run, code: int, plan: str = "p1") -> tuple[dict[str, Any], str]:
    """The plan's row in the status, and the line for monitoring."""
    found = document(here("status", "--check", "--json", code=code))
    [one] = [one for one in found["plans"] if one["planId"] == plan]
    return one, found["check"]["message"]


def test_a_failed_backup_is_not_ok_and_a_late_one_is_critical(here: Run, world: World) -> None:
    world.add_repo()
    here("plan", "add", "p1", "--repo", "r1", "--path", "/srv", "--schedule", "every 24h")
    assert row(here, states.WARNING)[0]["state"] == "NEVER"

    def add(*operations: Operation) -> None:
        log = OpLog.open(world.paths.oplog)
        log.add(operations)
        log.close()

    add(
        backup(now() - 30 * HOUR),
        backup(now() - 29 * HOUR, CANCELLED),
        backup(now() - 28 * HOUR, dry_run=True),
    )
    found, line = row(here, states.OK)
    assert line == "OK: 0 of 0 peers connected, 1 of 1 plans backed up in time"
    assert int(found["dueMillis"]) - int(found["lastSuccessMillis"]) == 24 * HOUR
    add(backup(now() - HOUR, ERROR, display_message="failed to backup: no route\nto host"))
    _, line = row(here, states.WARNING)
    assert "plan p1: the last backup failed 60m ago (failed to backup: no route" in line
    assert "\n" not in here("status", "--check", code=states.WARNING).stdout.rstrip("\n")
    assert "the last backup failed" in here("status").stdout
    here("plan", "tolerance", "p1", "2h")
    _, line = row(here, states.CRITICAL)
    assert "plan p1: late: it was due 6h ago; the last backup failed" in line
    here("plan", "set", "p1", "--schedule", "none")
    add(backup(now()), Operation(**_forget(now(), ERROR, "failed to forget: no rights")))
    assert "not forgotten by its retention (failed to forget: no rights)" in row(here, states.WARNING)[1]
    here("plan", "tolerance", "p1", "default")
    assert row(here, states.WARNING)[0]["toleranceSeconds"] == TOLERANCE_S


def _forget(start: int, status: Any, message: str) -> dict[str, Any]:
    return {
        "repo_id": "r1",
        "repo_guid": GUID,
        "plan_id": "p1",
        "instance_id": "x",
        "status": status,
        "unix_time_start_ms": start,
        "display_message": message,
        "operation_forget": operations.OperationForget(),
    }


def test_a_hub_judges_its_clients_by_what_they_show_or_did(here: Run, world: World) -> None:
    add_client(world, "laptop", LAPTOP)
    log = OpLog.open(world.paths.oplog)
    days = [backup(now() - n * 24 * HOUR, id=n, flow_id=n, modno=n) for n in range(3, 10)]
    log.apply(LAPTOP, days)
    log.close()
    with world.daemon() as daemon:
        daemon.peers.update(LAPTOP, instance_id="laptop", role="client", state=2, last_heartbeat_ms=now())
        found, line = row(here, states.CRITICAL)
        assert (found["peerInstanceId"], found["usualGapSeconds"]) == ("laptop", 24 * 3600)
        assert "laptop: plan p1: late: it was due 2d ago, by its usual gap of 24h" in line
        for schedule, code in ((Schedule(maxFrequencyDays=30), states.OK), (Schedule(maxFrequencyHours=1), 2),
                               (Schedule(disabled=True), states.OK)):  # fmt: skip
            shown = sync.RemoteConfig(plans=[config.Plan(id="p1", schedule=schedule)])
            daemon.peers.update(LAPTOP, remote_config=shown, known_plans=(sync.PlanMetadata(id="p1"),))
            assert "usualGapSeconds" not in row(here, code)[0]
        daemon.peers.update(LAPTOP, remote_config=None, known_plans=(sync.PlanMetadata(id="other"),))
        assert [one["planId"] for one in document(here("status", "--json"))["plans"]] == ["other"]
        daemon.peers.update(LAPTOP, known_plans=())
        here("client", "tolerance", "laptop", "5d")
        assert row(here, states.OK)[0]["toleranceSeconds"] == 5 * 86400
        daemon.peers.update(LAPTOP, state=3, last_heartbeat_ms=now() - 4 * 24 * HOUR)
        assert "away for long" not in here("status").stderr
        here("client", "tolerance", "laptop", "default")
        assert "away for long" in here("status").stderr


def test_a_tolerance_is_of_what_there_is(here: Run) -> None:
    assert "there is no plan 'x'" in here("plan", "tolerance", "x", "1d", code=1).stderr
    assert "there is no" in here("client", "tolerance", "x", "1d", code=1).stderr
    assert "or default" in here("plan", "tolerance", "x", "soon", code=2).stderr


def test_a_damaged_file_of_tolerances_is_said_and_the_default_holds(here: Run, world: World) -> None:
    world.add_repo()
    here("plan", "add", "p1", "--repo", "r1", "--path", "/srv")
    Path(world.paths.plan_notes).write_text("{")
    found, line = row(here, states.CRITICAL)
    assert found["toleranceSeconds"] == TOLERANCE_S
    assert "plan-notes.json" in line

"""A plan's backup as it stands in the history: like what was captured from the reference, to its failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from engine_world import (
    EMPTY,
    PASSWORD,
    World,
    calls,
    fake_backup,
    guid_of,
    make_repo,
    make_source,
    repository,
    restic,
    template,
    world,
)

from backrest.engine import Progress, progress
from backrest.engine.backup import DRY_RUN, NOTHING_NEW
from backrest.wire import codec, config, operations

__all__ = ["repository", "template", "world"]  # fixtures

GUID = "ef" * 32
CAPTURED = {
    int(entry["id"]): entry
    for entry in map(
        json.loads,
        (Path(__file__).parents[1] / "conformance/vectors/operations.jsonl").read_text().splitlines(),
    )
}
KEEP_1 = config.RetentionPolicy(policy_keep_last_n=1)


def shape(value: Any) -> Any:
    """The keys of a JSON object, all the way down; of a list the shapes of its objects."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return (
        [shape(inner) for inner in value]
        if isinstance(value, list) and value and isinstance(value[0], dict)
        else None
    )


def without(value: Any, *keys: str) -> Any:
    """A shape without some keys, at any depth."""
    if isinstance(value, dict):
        return {key: without(inner, *keys) for key, inner in value.items() if key not in keys}
    return [without(inner, *keys) for inner in value] if isinstance(value, list) else value


# Counts that are zero, and so left out, by what a source happens to hold.
COUNTS = (
    "filesNew",
    "filesChanged",
    "filesUnmodified",
    "dirsNew",
    "dirsChanged",
    "dirsUnmodified",
    "dataBlobs",
)


async def test_the_flow_of_a_backup_is_written_as_captured(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = make_source(tmp_path)
    guid = guid_of(repository)
    plan = config.Plan(id="photos", repo="nas", paths=[str(source)], excludes=["*.tmp"], retention=KEEP_1)
    world.configure(make_repo(repository, guid=guid), plan)
    shown: list[Progress] = []
    first = await world.engine.backup("photos", progress=shown.append)
    (source / "a.jpg").write_bytes(b"changed")
    world.changes.clear()
    second = await world.engine.backup("photos")

    assert world.story() == [
        "created backup PENDING",
        "updated backup INPROGRESS",
        "created forget PENDING",
        "updated backup SUCCESS",
        "created index_snapshot SUCCESS",
        "updated forget INPROGRESS",
        "updated index_snapshot SUCCESS",
        "updated forget SUCCESS",
    ]
    backup, forget, index = (world.oplog.get(second.id + n) for n in range(3))
    assert backup == second
    old_index = next(one for one in world.operations() if one.operation_index_snapshot.forgot)
    assert old_index.snapshot_id == first.snapshot_id
    for operation in (backup, forget, index):
        assert (operation.flow_id, operation.repo_id, operation.repo_guid) == (backup.id, "nas", guid)
        assert (operation.plan_id, operation.instance_id) == ("photos", "laptop")
        assert operation.unix_time_end_ms >= operation.unix_time_start_ms > 0
    assert backup.snapshot_id == index.snapshot_id == backup.operation_backup.last_status.summary.snapshot_id
    assert [one["id"] for one in json.loads(restic(repository, "snapshots", "--json"))] == [
        backup.snapshot_id
    ]
    pending = next(one for kind, one in world.changes if kind == "created" and one.id == forget.id)
    assert pending.unix_time_start_ms == backup.unix_time_end_ms
    assert [one.id for one in forget.operation_forget.forget] == [first.snapshot_id]
    assert forget.operation_forget.policy == KEEP_1

    # The same members as what was captured; older versions of restic give no summary in their lists.
    for mine, theirs in ((backup, CAPTURED[7]), (forget, CAPTURED[8]), (index, CAPTURED[9])):
        ignored = (
            COUNTS if index.operation_index_snapshot.snapshot.HasField("summary") else (*COUNTS, "summary")
        )
        assert without(shape(codec.to_dict(mine)), *ignored, "parent") == without(
            shape(theirs), *ignored, "parent"
        )
    assert index.operation_index_snapshot.snapshot.parent in ("", first.snapshot_id)
    assert index.unix_time_start_ms == index.operation_index_snapshot.snapshot.unix_time_ms

    assert shown[-1].percent == 100.0
    assert (shown[-1].files_done, shown[-1].errors) == (2, 0)
    assert "restic" in world.task_log(backup)
    assert "forget --json" in world.task_log(forget)


async def test_the_second_backup_has_the_first_one_as_its_parent(tmp_path: Path) -> None:
    newest, older = "ab" * 32, "cd" * 32
    listed = [{"id": newest, "time": "2026-01-02T00:00:00Z"}, {"id": older, "time": "2026-01-01T00:00:00Z"}]
    fake = fake_backup(tmp_path, snapshots=f"print({json.dumps(listed)!r})")
    made = await faked(tmp_path, fake)
    await made.engine.backup("photos")
    snapshots, _, backup = calls(fake)[:3]
    assert snapshots[-2:] == ["--tag", "plan:photos,created-by:laptop"]
    assert backup[backup.index("--parent") + 1] == newest


async def faked(tmp_path: Path, fake: str, *, repo: dict[str, Any] | None = None, **plan: Any) -> World:
    """A world with a fake restic and the plan photos."""
    made = World(tmp_path / "world", command=fake)
    given = {"id": "photos", "repo": "nas", "paths": [str(tmp_path)], "retention": KEEP_1} | plan
    made.configure(make_repo("/r", guid=GUID, **(repo or {})), config.Plan(**given))
    return made


async def test_a_missing_path_fails_as_captured(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = await faked(tmp_path, fake, paths=["/srv/absent"])
    failed = await made.engine.backup("photos")
    assert made.story() == ["created backup PENDING", "updated backup INPROGRESS", "updated backup ERROR"]
    assert failed.display_message == CAPTURED[10]["displayMessage"]
    assert shape(codec.to_dict(failed)) == shape(CAPTURED[10])
    assert calls(fake) == []


async def test_a_wrong_password_is_the_operations_error_and_stands_nowhere(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = make_source(tmp_path)
    repo = make_repo(repository, guid=GUID, password="battery-staple")
    world.configure(repo, config.Plan(id="photos", repo="nas", paths=[str(source)]))
    failed = await world.engine.backup("photos")
    assert failed.status == operations.STATUS_ERROR
    assert failed.display_message.startswith("failed to backup: the password of repo nas is wrong")
    everything = world.paths.oplog.read_text() + world.task_log(failed)
    assert "battery-staple" not in everything
    assert PASSWORD not in everything


async def test_without_restic_the_operation_says_so(tmp_path: Path) -> None:
    made = await faked(tmp_path, "/nowhere/restic")
    failed = await made.engine.backup("photos")
    assert failed.status == operations.STATUS_ERROR
    assert failed.display_message == (
        "failed to backup: the restic command /nowhere/restic does not exist or is not executable"
    )


async def test_an_incomplete_backup_is_a_warning_and_goes_on(
    world: World, repository: Path, tmp_path: Path
) -> None:
    paths = [str(make_source(tmp_path)), "/proc/self/mem"]
    world.configure(
        make_repo(repository, guid=guid_of(repository)), config.Plan(id="photos", repo="nas", paths=paths)
    )
    operation = await world.engine.backup("photos")
    assert operation.status == operations.STATUS_WARNING
    assert "incomplete" in operation.display_message
    [error] = operation.operation_backup.errors
    assert (error.item, error.during) == ("/proc/self/mem", "archival")
    assert error.message.endswith("read /proc/self/mem: input/output error")
    assert world.story()[-1] == "created index_snapshot SUCCESS"
    assert len(operation.snapshot_id) == 64


async def test_errors_are_kept_once_for_each_item_and_at_most_21(tmp_path: Path) -> None:
    body = """
    for number in (0, 0, *range(50)):
        say(message_type="error", item=f"/f{number}", during="archival", error={"message": f"bad {number}"})
    done()
    sys.exit(3)
    """
    shown: list[Progress] = []
    made = await faked(tmp_path, fake_backup(tmp_path, body))
    operation = await made.engine.backup("photos", progress=shown.append)
    errors = operation.operation_backup.errors
    assert [error.item for error in errors] == [f"/f{number}" for number in range(21)]
    assert shown[-1].errors == 52


async def test_progress_is_stored_while_restic_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SAVE_EVERY_S", 0.01)
    body = """
    say(message_type="status", percent_done=0.25, files_done=1, total_files=4, current_files=["/a"])
    say(message_type="status", percent_done=0.5, files_done=2, total_files=4)
    while not os.path.exists(__file__ + ".go"): time.sleep(0.01)
    done(total_files_processed=4)
    """
    fake = fake_backup(tmp_path, body)
    made = await faked(tmp_path, fake)

    def stored(change: Any) -> None:
        for operation in change.operations:
            if operation.operation_backup.last_status.status.files_done == 2:
                Path(fake + ".go").touch()

    made.oplog.subscribe(stored)
    shown: list[Progress] = []
    with trio.fail_after(60):
        operation = await made.engine.backup("photos", progress=shown.append)
    assert "updated backup INPROGRESS" in made.story()
    status = next(
        one.operation_backup.last_status.status
        for _, one in made.changes
        if one.operation_backup.last_status.status.files_done == 2
    )
    assert (status.percent_done, status.total_files, list(status.current_file)) == (0.5, 4, ["/a"])
    assert operation.operation_backup.last_status.summary.total_duration == 1.5
    assert [round(one.percent) for one in shown] == [25, 50, 100]
    assert shown[1].current_files == ("/a",)


async def test_a_progress_display_that_fails_does_not_end_the_backup(tmp_path: Path) -> None:
    shown = []

    def broken(found: Progress) -> None:
        shown.append(found)
        raise BrokenPipeError

    body = (
        'say(message_type="status", percent_done=0.5)\nsay(message_type="status", percent_done=0.6)\ndone()'
    )
    made = await faked(tmp_path, fake_backup(tmp_path, body))
    assert (await made.engine.backup("photos", progress=broken)).status == operations.STATUS_SUCCESS
    assert len(shown) == 1


async def test_a_dry_run_leaves_no_snapshot_and_nothing_follows(
    world: World, repository: Path, tmp_path: Path
) -> None:
    plan = config.Plan(id="photos", repo="nas", paths=[str(make_source(tmp_path))], retention=KEEP_1)
    world.configure(make_repo(repository, guid=guid_of(repository)), plan)
    operation = await world.engine.backup("photos", dry_run=True)
    assert world.story() == ["created backup PENDING", "updated backup INPROGRESS", "updated backup SUCCESS"]
    assert operation.operation_backup.dry_run
    assert operation.display_message == DRY_RUN
    assert operation.snapshot_id == operation.operation_backup.last_status.summary.snapshot_id == ""
    assert operation.operation_backup.last_status.summary.files_new == 3


async def test_skip_if_unchanged_adds_no_second_snapshot_where_restic_can(
    world: World, repository: Path
) -> None:
    # To a path belong the times of all directories above it, and /tmp is never at rest; this one is on every Linux.
    plan = config.Plan(id="photos", repo="nas", paths=["/usr/lib/os-release"], skip_if_unchanged=True)
    world.configure(make_repo(repository, guid=guid_of(repository)), plan)
    can = (await world.engine.bench.binary()).can_skip
    await world.engine.backup("photos")
    world.changes.clear()
    operation = await world.engine.backup("photos")
    assert operation.status == operations.STATUS_SUCCESS
    assert operation.display_message == (NOTHING_NEW if can else "")
    assert ("created index_snapshot SUCCESS" in world.story()) is not can
    assert ("needs restic 0.17" in world.task_log(operation)) is not can


@pytest.mark.parametrize(
    ("repo", "plan", "forgets"),
    [
        ({}, {}, True),
        ({"origin_instance_id": "hub"}, {}, False),  # W-52: what is kept there is its owner's business
        ({}, {"retention": config.RetentionPolicy(policy_keep_all=True)}, False),
        ({}, {"retention": None}, False),
        ({"forget_policy": config.ForgetPolicy(schedule=config.Schedule(disabled=True))}, {}, True),
        (
            {
                "forget_policy": config.ForgetPolicy(
                    schedule=config.Schedule(cron="0 0 * * *"), retention=KEEP_1
                )
            },
            {},
            False,
        ),
    ],
    ids=["retention", "shared", "keep-all", "none", "schedule-off", "schedule-on"],
)
async def test_what_is_forgotten_after_a_backup(
    repo: dict[str, Any], plan: dict[str, Any], forgets: bool, tmp_path: Path
) -> None:
    fake = fake_backup(tmp_path)
    made = await faked(tmp_path, fake, repo=repo, **plan)
    await made.engine.backup("photos")
    ran = [call for call in calls(fake) if call[0] == "forget"]
    assert bool(ran) is forgets
    assert any("forget" in line for line in made.story()) is forgets
    if forgets:
        flags = ["--keep-last", "1", "--tag", "plan:photos,created-by:laptop", "--group-by", ""]
        patience = ["--retry-lock", "5m"]
        assert ran == [["forget", "--json", *patience, "-o", "sftp.args=-oBatchMode=yes", *flags]]


async def test_a_failed_index_is_said_by_the_backup_and_keeps_the_forget_from_running(tmp_path: Path) -> None:
    snapshots = "sys.exit('Fatal: gone') if os.path.exists(__file__ + '.saved') else print('[]')"
    fake = fake_backup(tmp_path, snapshots=snapshots)
    made = await faked(tmp_path, fake)
    ended = await made.engine.run_backup("photos")
    assert ended.operation.status == operations.STATUS_WARNING
    assert made.operations()[0] == ended.operation
    said = "the snapshot is saved, but the snapshots of repo nas cannot be listed: restic snapshots failed"
    assert ended.operation.display_message.startswith(said)
    assert made.operations()[1] == ended.forget
    assert ended.forget is not None
    assert ended.forget.status == operations.STATUS_ERROR
    assert ended.forget.display_message == "failed to forget: the snapshots cannot be listed"
    assert ended.problems == (ended.operation.display_message, ended.forget.display_message)
    assert "forget" not in [call[0] for call in calls(fake)]
    assert "Fatal: gone" in made.task_log(ended.operation)


async def test_a_failed_forget_has_its_reason(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path, forget="sys.exit('Fatal: no rights')")
    made = await faked(tmp_path, fake)
    ended = await made.engine.run_backup("photos")
    assert ended.operation.status == operations.STATUS_SUCCESS
    forget = next(one for one in made.operations() if one.HasField("operation_forget"))
    assert (ended.forget, ended.problems) == (forget, (forget.display_message,))
    assert forget.status == operations.STATUS_ERROR
    assert forget.display_message == "failed to forget: restic forget failed (exit code 1): no rights"


async def test_a_short_id_that_cannot_be_looked_up_is_a_warning(tmp_path: Path) -> None:
    body = 'done(snapshot_id="abababab")'
    made = await faked(tmp_path, fake_backup(tmp_path, body, snapshots=EMPTY, version="0.14.0"))
    operation = await made.engine.backup("photos")
    assert operation.status == operations.STATUS_WARNING
    assert operation.display_message.startswith("the snapshot abababab was saved, but cannot be looked up")
    assert operation.snapshot_id == ""


async def test_auto_unlock_unlocks_before_the_backup_and_the_forget(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = await faked(tmp_path, fake, repo={"auto_unlock": True})
    await made.engine.backup("photos")
    assert [call[0] for call in calls(fake)] == [
        *["unlock", "snapshots", "cat", "backup"],
        *["snapshots", "unlock", "forget"],
    ]


async def test_a_history_that_is_cleared_meanwhile_does_not_stop_the_backup(tmp_path: Path) -> None:
    fake = fake_backup(
        tmp_path,
        "say(message_type='status')\nwhile not os.path.exists(__file__ + '.go'): time.sleep(0.01)\ndone()",
    )
    made = await faked(tmp_path, fake)

    def clear(found: Progress) -> None:
        made.oplog.delete([one.id for one in made.operations()])
        Path(fake + ".go").touch()

    with trio.fail_after(60):
        operation = await made.engine.backup("photos", progress=clear)
    assert operation.status == operations.STATUS_SUCCESS
    assert {one.WhichOneof("op") for one in made.operations()} == {
        "operation_index_snapshot",
        "operation_forget",
    }


async def test_a_repeated_backup_of_nothing_new_stays_a_warning(tmp_path: Path) -> None:
    """Without a snapshot of its own (skip_if_unchanged), too."""
    made = await faked(tmp_path, fake_backup(tmp_path))
    assert (await made.engine.backup("photos")).status == operations.STATUS_SUCCESS
    fake_backup(tmp_path, "done(snapshot_id='', total_files_processed=0)")
    again = await made.engine.backup("photos")
    assert (again.status, again.snapshot_id) == (operations.STATUS_WARNING, "")
    assert again.display_message.startswith(
        "of 2 files the backup has none\nno snapshot is forgotten after it; "
    )


async def test_what_was_confirmed_in_a_damaged_file_counts_for_nothing(tmp_path: Path) -> None:
    made = await faked(tmp_path, fake_backup(tmp_path, "done(total_files_processed=0)"))
    made.paths.plan_notes.write_text("{")
    assert (await made.engine.backup("photos")).status == operations.STATUS_WARNING
    assert made.paths.plan_notes.read_text() == "{"

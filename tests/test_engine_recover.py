"""Recovery after a kill, on a full disk: it is made up for before anything runs that would look like what was left."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_world import Operation, World, calls, fake_backup, make_repo
from store_disk import FullDisk, TestDisk, count_steps, full_disk, using

from backrest.engine.recover import INTERRUPTED
from backrest.errors import StorageError
from backrest.wire import config, operations

GUID = "ef" * 32  # of the repository that the fake restic knows
STATUS = operations.OperationStatus.Name


def after_a_kill(directory: Path, fake: str) -> World:
    """One operation that ran and one that waited when the program was killed."""
    made = World(directory, command=fake)
    made.configure(make_repo("/r", guid=GUID), config.Plan(id="photos", repo="nas", paths=["/"]))
    for status in (operations.STATUS_INPROGRESS, operations.STATUS_PENDING):
        made.oplog.add(
            [
                Operation(
                    repo_id="nas",
                    repo_guid=GUID,
                    plan_id="photos",
                    instance_id="laptop",
                    unix_time_start_ms=1_767_312_000_000,
                    status=status,
                    operation_backup=operations.OperationBackup(),
                )
            ]
        )
    return made


async def test_no_backup_begins_before_what_was_interrupted_is_recorded_as_such(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = after_a_kill(tmp_path / "world", fake)
    before = made.operations()
    with using(disk := FullDisk()):
        with pytest.raises(StorageError, match="no space is left"):
            made.engine.recover()
        assert made.engine.unrecovered
        with pytest.raises(StorageError, match="no space is left"):
            await made.engine.backup("photos")
        with pytest.raises(StorageError, match="no space is left"):
            await made.engine.index("nas")
        assert made.operations() == before
        assert calls(fake) == []
        disk.full = False
        ended = await made.engine.backup("photos")
        made.engine.catch_up()
    old, *_, new = made.operations()
    assert (STATUS(old.status), old.display_message) == ("STATUS_ERROR", INTERRUPTED)
    assert (new, STATUS(new.status)) == (ended, "STATUS_SUCCESS")
    assert calls(fake)[0][0] == "unlock", "the lock that the killed one left"
    assert not made.engine.unrecovered


def test_a_recovery_that_fails_at_any_step_is_made_up_for(tmp_path: Path) -> None:
    first = after_a_kill(tmp_path / "first", "restic")
    for step in range(count_steps(first.engine.recover)):
        made = after_a_kill(tmp_path / str(step), "restic")
        with using(TestDisk(step, full_disk)), pytest.raises(StorageError):
            made.engine.recover()
        made.engine.catch_up()
        assert [STATUS(one.status) for one in made.operations()] == ["STATUS_ERROR"]
        assert made.engine.bench.interrupted == {GUID}


def test_catching_up_leaves_alone_what_runs_now(tmp_path: Path) -> None:
    made = after_a_kill(tmp_path, "restic")
    made.engine.catch_up()
    assert [STATUS(one.status) for one in made.operations()] == ["STATUS_INPROGRESS", "STATUS_PENDING"]

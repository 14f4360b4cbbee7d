"""The engine around its tasks: one at a time, cancelled in order, recovered after a kill; repositories and
index.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio
import trio.testing
from engine_world import (
    EMPTY,
    Operation,
    World,
    calls,
    fake_backup,
    fake_restic,
    guid_of,
    make_repo,
    make_source,
    repository,
    restic_command,
    template,
    world,
)

from backrest.crypto.identity import Identity
from backrest.engine import IndexResult, Reason, ResticFailure, tasklog
from backrest.engine.recover import INTERRUPTED
from backrest.errors import NotFoundError, ResticError, StorageError, UserError
from backrest.permissions import parse_grant
from backrest.store.oplog import Change
from backrest.wire import config, operations

__all__ = ["repository", "template", "world"]  # fixtures

GUID = "ef" * 32

# A backup that says that it runs, and ends when it is interrupted, as restic does.
ENDLESS = """
def end(*_):
    open(__file__ + ".interrupted", "w")
    sys.exit(130)
signal.signal(signal.SIGINT, end)
say(message_type="status", percent_done=0.1)
time.sleep(60)
"""


def plan(plan_id: str = "photos", path: object = "/", **fields: object) -> config.Plan:
    return config.Plan(**{"id": plan_id, "repo": "nas", "paths": [str(path)]} | fields)  # type: ignore[arg-type]


def faked(directory: Path, fake: str, *more: config.Plan, **repo: object) -> World:
    made = World(directory / "world", command=fake)
    fields: dict[str, object] = {"uri": "/r", "guid": GUID} | repo
    made.configure(make_repo(**fields), plan(path=directory), *more)
    return made


# Cancelling


async def test_a_user_who_cancels_sees_it_in_the_operation(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path, ENDLESS)
    made = faked(tmp_path, fake)
    with trio.fail_after(60):
        ended = await made.engine.backup("photos", progress=lambda found: cancel_all(made))
    assert ended.status == operations.STATUS_USER_CANCELLED
    assert ended.display_message == "the backup was cancelled by the user"
    assert made.operations() == [ended]
    assert ended.unix_time_end_ms >= ended.unix_time_start_ms
    assert "fake-restic.interrupted" in os.listdir(tmp_path)
    assert made.engine.running == ()


def cancel_all(made: World) -> None:
    assert all(made.engine.cancel(number) for number in made.engine.running)


async def test_a_caller_who_goes_away_cancels(tmp_path: Path) -> None:
    made = faked(tmp_path, fake_backup(tmp_path, ENDLESS))
    with trio.fail_after(60), trio.CancelScope() as scope:
        await made.engine.backup("photos", progress=lambda found: scope.cancel())
    assert scope.cancelled_caught
    [ended] = made.operations()
    assert ended.status == operations.STATUS_USER_CANCELLED


async def test_at_a_shutdown_the_operation_says_so(tmp_path: Path) -> None:
    made = faked(tmp_path, fake_backup(tmp_path, ENDLESS))

    def shut_down(found: object) -> None:
        made.engine.stop()
        scope.cancel()

    with trio.fail_after(60), trio.CancelScope() as scope:
        await made.engine.backup("photos", progress=shut_down)
    [ended] = made.operations()
    assert ended.status == operations.STATUS_ERROR
    assert ended.display_message == "the backup was interrupted: this instance was shutting down"


async def test_a_restic_that_does_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    body = ENDLESS.replace("signal.SIGINT, end", "signal.SIGINT, signal.SIG_IGN")
    made = faked(tmp_path, fake_backup(tmp_path, body))
    made.engine.bench.grace_s = 0.05
    with trio.fail_after(30):
        ended = await made.engine.backup("photos", progress=lambda found: cancel_all(made))
    assert ended.status == operations.STATUS_USER_CANCELLED


async def test_the_real_restic_leaves_no_lock_when_it_is_cancelled(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = make_source(tmp_path)
    (source / "big").write_bytes(os.urandom(8 << 20))
    # Slow enough to be caught in the act: 8 MiB at 100 KiB/s.
    world.configure(
        make_repo(repository, guid=guid_of(repository), flags=["--limit-upload 100"]), plan(path=source)
    )
    with trio.fail_after(60):
        ended = await world.engine.backup("photos", progress=lambda found: cancel_all(world))
    assert ended.status == operations.STATUS_USER_CANCELLED
    assert os.listdir(repository / "locks") == []


async def test_a_backup_that_waits_can_be_cancelled_too(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path, ENDLESS)
    made = faked(tmp_path, fake, plan("music", tmp_path))
    ended: list[Operation] = []

    async def second() -> None:
        ended.append(await made.engine.backup("music"))
        made.engine.cancel(min(made.engine.running))

    def started(found: object) -> None:
        nursery.start_soon(second)
        nursery.start_soon(cancel_second)

    async def cancel_second() -> None:
        while len(made.engine.running) < 2:
            await trio.testing.wait_all_tasks_blocked()
        made.engine.cancel(max(made.engine.running))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            first = await made.engine.backup("photos", progress=started)
    assert first.status == operations.STATUS_USER_CANCELLED
    assert [one.status for one in ended] == [operations.STATUS_USER_CANCELLED]
    assert [call[0] for call in calls(fake)].count("backup") == 1


async def test_cancelling_in_the_index_leaves_no_forget_pending(tmp_path: Path) -> None:
    snapshots = "time.sleep(60) if os.path.exists(__file__ + '.saved') else print('[]')"
    fake = fake_backup(tmp_path, "open(__file__ + '.saved', 'w'); done()", snapshots=snapshots)
    made = World(tmp_path / "world", command=fake)
    retention = config.RetentionPolicy(policy_keep_last_n=1)
    made.configure(make_repo("/r", guid=GUID), plan(path=tmp_path, retention=retention))
    with trio.fail_after(60), trio.CancelScope() as scope:
        token = trio.lowlevel.current_trio_token()

        def saved(change: Change) -> None:
            if any(one.status == operations.STATUS_SUCCESS for one in change.operations):
                token.run_sync_soon(scope.cancel)

        made.oplog.subscribe(saved)
        await made.engine.backup("photos")
    backup, forget = made.operations()
    assert backup.status == operations.STATUS_SUCCESS
    assert forget.status == operations.STATUS_USER_CANCELLED
    assert forget.display_message == "the forget was cancelled by the user"


async def test_cancelling_what_does_not_run_does_nothing(world: World) -> None:
    assert world.engine.cancel(5) is False


# One at a time


async def test_one_task_at_a_time_for_a_repository(tmp_path: Path) -> None:
    body = """
    os.mkdir(__file__ + ".busy")  # fails if there is another one
    time.sleep(0.1)
    os.rmdir(__file__ + ".busy")
    done()
    """
    made = faked(tmp_path, fake_backup(tmp_path, body, snapshots=EMPTY), plan("music", tmp_path))
    results: list[Operation] = []

    async def run(plan_id: str) -> None:
        results.append(await made.engine.backup(plan_id))

    async with trio.open_nursery() as nursery:
        for plan_id in ("photos", "music", "photos"):
            nursery.start_soon(run, plan_id)
    assert [one.status for one in results] == [operations.STATUS_SUCCESS] * 3


async def test_a_backup_that_waited_uses_the_configuration_of_its_start(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = faked(tmp_path, fake, plan("music", tmp_path))
    results: list[Operation] = []

    async def run(plan_id: str) -> None:
        results.append(await made.engine.backup(plan_id))

    def change(current: config.Config) -> None:
        [music] = (one for one in current.plans if one.id == "music")
        current.plans.remove(music)
        current.plans[0].excludes.append("*.new")

    async with trio.open_nursery() as nursery, made.engine._lock(GUID):
        for plan_id in ("photos", "music"):
            nursery.start_soon(run, plan_id)
        while len(made.engine.running) < 2:
            await trio.testing.wait_all_tasks_blocked()
        made.config.transform(change)
    music, photos = sorted(results, key=lambda one: one.plan_id)
    assert photos.status == operations.STATUS_SUCCESS
    assert "*.new" in next(call for call in calls(fake) if call[0] == "backup")
    assert music.status == operations.STATUS_ERROR
    assert music.display_message == "failed to backup: there is no plan music"


# A log or a program that fails


async def test_a_log_that_refuses_the_end_is_told_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = faked(tmp_path, fake_backup(tmp_path))
    update = made.oplog.update

    def full(ops: list[Operation]) -> list[Operation]:
        if ops[0].status == operations.STATUS_SUCCESS:
            raise StorageError("the disk is full")
        return update(ops)

    monkeypatch.setattr(made.oplog, "update", full)
    with pytest.raises(StorageError):
        await made.engine.backup("photos")
    [ended] = made.operations()
    assert ended.status == operations.STATUS_ERROR
    assert ended.display_message == "failed to backup: the disk is full"


async def test_a_mistake_of_ours_leaves_nothing_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = faked(tmp_path, fake_backup(tmp_path))

    def broken(plan: config.Plan) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("backrest.engine.backup.check_paths", broken)
    with pytest.raises(ZeroDivisionError):
        await made.engine.backup("photos")
    [ended] = made.operations()
    assert ended.status == operations.STATUS_ERROR
    assert ended.display_message == "failed to backup: a mistake in this program (ZeroDivisionError())"


async def test_a_task_log_that_cannot_be_written_does_not_end_the_backup(tmp_path: Path) -> None:
    made = faked(tmp_path, fake_backup(tmp_path))
    made.paths.tasklogs.write_text("in the way")
    assert (await made.engine.backup("photos")).status == operations.STATUS_SUCCESS


# What cannot be run


async def test_unknown_plans_and_repos_are_named(tmp_path: Path) -> None:
    made = World(tmp_path, command="/bin/true")
    made.configure()
    with pytest.raises(NotFoundError, match="no plan photos"):
        await made.engine.backup("photos")
    with pytest.raises(NotFoundError, match="no repo nas"):
        await made.engine.index("nas")
    assert made.operations() == []


async def test_an_instance_without_an_id_backs_nothing_up(tmp_path: Path) -> None:
    made = faked(tmp_path, fake_backup(tmp_path))

    def forget_id(current: config.Config) -> None:
        current.instance = ""

    made.config.transform(forget_id)
    with pytest.raises(UserError, match="no id"):
        await made.engine.backup("photos")


# Repositories


async def test_a_repository_without_a_known_id_is_asked_for_it(
    world: World, repository: Path, tmp_path: Path
) -> None:
    world.configure(make_repo(repository, auto_initialize=True), plan(path=make_source(tmp_path)))
    operation = await world.engine.backup("photos")
    assert operation.repo_guid == world.config.current.repos[0].guid == guid_of(repository)


async def test_auto_initialize_makes_the_repository_and_is_cleared(world: World, tmp_path: Path) -> None:
    world.configure(make_repo(tmp_path / "new", auto_initialize=True))
    assert await world.engine.index("nas") == IndexResult(0, 0)
    [repo] = world.config.current.repos
    assert len(repo.guid) == 64
    assert not repo.auto_initialize


async def test_a_wrong_password_never_initialises(repository: Path, tmp_path: Path) -> None:
    made = World(tmp_path / "world", command=restic_command())
    before = sorted(os.listdir(repository / "keys"))
    with pytest.raises(ResticFailure, match="the password of repo nas is wrong"):
        await made.engine.init_repo(make_repo(repository, password="battery-staple"))
    assert sorted(os.listdir(repository / "keys")) == before


async def test_init_adopts_a_repository_that_is_there(world: World, repository: Path) -> None:
    assert await world.engine.init_repo(make_repo(repository)) == guid_of(repository)


async def test_check_exists_says_yes_or_no_or_why_not(world: World, repository: Path, tmp_path: Path) -> None:
    assert await world.engine.check_exists(make_repo(repository)) is True
    assert await world.engine.check_exists(make_repo(tmp_path / "none")) is False
    with pytest.raises(ResticFailure) as caught:
        await world.engine.check_exists(make_repo(repository, password="battery-staple"))
    assert caught.value.reason is Reason.WRONG_PASSWORD


# Index


def listed(*snapshots: dict[str, object]) -> str:
    return f"print({json.dumps(snapshots)!r})"


def snapshot(number: int, *tags: str, **more: object) -> dict[str, object]:
    return {"id": f"{number:064x}", "time": f"2026-01-{number:02d}T00:00:00.5Z", "tags": list(tags), **more}


async def test_snapshots_are_attributed_by_their_tags(tmp_path: Path) -> None:
    summary = {
        "backup_start": "2026-01-02T00:00:00.5Z",
        "backup_end": "2026-01-02T00:00:02.6009Z",
        "files_new": 1,
    }
    fake = fake_backup(
        tmp_path,
        snapshots=listed(snapshot(3), snapshot(2, "x", "plan:music", "created-by:desktop", summary=summary)),
    )
    made = faked(tmp_path, fake)
    assert await made.engine.index("nas") == IndexResult(2, 0)
    tagged, untagged = made.operations()
    assert (tagged.plan_id, tagged.instance_id) == ("music", "desktop")
    assert tagged.unix_time_end_ms - tagged.unix_time_start_ms == 2100
    assert tagged.operation_index_snapshot.snapshot.summary.total_duration == 2.1
    assert (untagged.plan_id, untagged.instance_id) == ("_unassociated_", "_unassociated_")
    assert untagged.unix_time_end_ms == untagged.unix_time_start_ms
    for one in (tagged, untagged):
        assert (one.status, one.repo_id, one.repo_guid) == (operations.STATUS_SUCCESS, "nas", GUID)
        assert one.flow_id == one.id
    assert await made.engine.index("nas") == IndexResult(0, 0)


async def test_a_snapshot_joins_the_flow_of_its_backup_and_ends_with_it(tmp_path: Path) -> None:
    made = faked(tmp_path, fake_backup(tmp_path, snapshots=listed(snapshot(2))))
    backup = Operation(
        repo_id="nas",
        repo_guid=GUID,
        plan_id="photos",
        instance_id="laptop",
        snapshot_id=f"{2:064x}",
        unix_time_start_ms=1_767_312_000_000,
        unix_time_end_ms=1_767_312_009_000,
        status=operations.STATUS_SUCCESS,
        operation_backup=operations.OperationBackup(),
    )
    [backup] = made.oplog.add([backup])
    await made.engine.index("nas")
    index = next(one for one in made.operations() if one.HasField("operation_index_snapshot"))
    assert (index.flow_id, index.unix_time_end_ms) == (backup.flow_id, 1_767_312_009_000)


async def test_what_is_gone_from_the_repository_is_marked_and_may_come_back(tmp_path: Path) -> None:
    made = faked(tmp_path, fake_backup(tmp_path, snapshots=listed(snapshot(1), snapshot(2))))
    await made.engine.index("nas")
    fake_backup(tmp_path, snapshots=listed(snapshot(2)))
    assert await made.engine.index("nas") == IndexResult(0, 1)
    assert [one.operation_index_snapshot.forgot for one in made.operations()] == [True, False]
    assert await made.engine.index("nas") == IndexResult(0, 0)
    fake_backup(tmp_path, snapshots=listed(snapshot(1), snapshot(2)))
    assert await made.engine.index("nas") == IndexResult(1, 0)
    assert [one.operation_index_snapshot.forgot for one in made.operations()] == [True, False, False]


async def test_operations_of_other_instances_are_neither_known_nor_touched(tmp_path: Path) -> None:
    """W-14: else a peer that claims a snapshot would hide it from our own history."""
    made = faked(tmp_path, fake_backup(tmp_path, snapshots=listed(snapshot(1))))
    await made.engine.index("nas")
    [mine] = made.operations()
    foreign = [foreign_index(1, 11), foreign_index(9, 12)]
    made.oplog.delete([mine.id])
    made.oplog.apply(KEYID, foreign, [])
    before = made.operations()
    assert await made.engine.index("nas") == IndexResult(1, 0)
    assert [one for one in made.operations() if one.original_instance_keyid] == before


KEYID = "ed25519.EKqQI0mu9X721PJG4DqwCQMJApcbin7gbyXgDJ1xsL8"


def foreign_index(number: int, original: int, status: int = operations.STATUS_SUCCESS) -> Operation:
    return Operation(
        id=original,
        modno=original,
        flow_id=original,
        repo_id="theirs",
        repo_guid=GUID,
        plan_id="photos",
        instance_id="desktop",
        snapshot_id=f"{number:064x}",
        unix_time_start_ms=1_767_312_000_000,
        status=status,  # type: ignore[arg-type]
        operation_index_snapshot=operations.OperationIndexSnapshot(),
    )


# After a kill


def left(status: int, message: str = "") -> Operation:
    return Operation(
        repo_id="nas",
        repo_guid=GUID,
        plan_id="photos",
        instance_id="laptop",
        unix_time_start_ms=1_767_312_000_000,
        status=status,  # type: ignore[arg-type]
        display_message=message,
        operation_backup=operations.OperationBackup(),
    )


async def test_what_a_killed_process_left_is_ended_or_dropped_and_its_lock_removed(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = faked(tmp_path, fake)
    made.oplog.add(
        [
            left(operations.STATUS_INPROGRESS, "so far so good"),
            left(operations.STATUS_SUCCESS),
            left(operations.STATUS_PENDING),
            left(operations.STATUS_USER_CANCELLED),
            left(operations.STATUS_SYSTEM_CANCELLED),
            left(operations.STATUS_UNKNOWN),
        ]
    )
    made.oplog.apply(
        KEYID,
        [foreign_index(1, 1, operations.STATUS_INPROGRESS), foreign_index(2, 2, operations.STATUS_PENDING)],
        [],
    )
    found = made.engine.recover()
    assert (found.interrupted, found.deleted, found.guids) == (1, 2, {GUID})
    mine = [one for one in made.operations() if not one.original_instance_keyid]
    foreign = [one for one in made.operations() if one.original_instance_keyid]
    assert [one.status for one in mine] == [
        operations.STATUS_ERROR,
        operations.STATUS_SUCCESS,
        operations.STATUS_USER_CANCELLED,
        operations.STATUS_SYSTEM_CANCELLED,
    ]
    assert mine[0].unix_time_end_ms == mine[0].unix_time_start_ms
    assert mine[0].display_message == f"{INTERRUPTED}\n\nso far so good"
    assert [one.status for one in foreign] == [operations.STATUS_INPROGRESS, operations.STATUS_PENDING]
    assert made.engine.recover() == type(found)(0, 0, frozenset())

    await made.engine.index("nas")
    await made.engine.index("nas")
    assert [call[0] for call in calls(fake)] == ["unlock", *["snapshots", "cat"] * 2]


def test_old_task_logs_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("t-old.log", "t-new.log", "c-old.log", "logs.sqlite"):
        (tmp_path / name).write_text("x")
        if "new" not in name:
            os.utime(tmp_path / name, (0, 0))
    assert tasklog.expire(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == ["logs.sqlite", "t-new.log"]
    assert tasklog.expire(tmp_path / "none") == 0


# Repositories of another instance


WATCHING = """
with open(__file__ + ".saw", "a") as saw: print(json.dumps(dict(os.environ)), file=saw)
done()
"""


def seen_by(fake: str) -> dict[str, str]:
    """The environment of the first backup."""
    found: dict[str, str] = json.loads(Path(fake + ".saw").read_text().splitlines()[0])
    return found


async def test_a_shared_repo_of_an_older_configuration_is_used_without_what_may_do_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RESTIC_REST_PASSWORD", "my own")
    fake = fake_backup(tmp_path, WATCHING)
    made = faked(
        tmp_path,
        fake,
        uri="rest:https://hub/x",
        origin_instance_id="hub",
        flags=["--files-from=/etc/shadow", "--no-cache"],
        env=["LD_PRELOAD=/x", "RESTIC_COMPRESSION=max"],
    )
    await made.engine.backup("photos")
    ended = await made.engine.backup("photos")
    assert ended.status == operations.STATUS_SUCCESS, ended.display_message
    assert not any("shadow" in word for call in calls(fake) for word in call)
    assert all("--no-cache" in call for call in calls(fake))
    saw = seen_by(fake)
    assert saw["RESTIC_COMPRESSION"] == "max"
    assert "LD_PRELOAD" not in saw
    assert "RESTIC_REST_PASSWORD" not in saw
    sentence = "repo nas, which hub shares, is used without environment LD_PRELOAD, flag --files-from"
    assert sentence in made.task_log(ended)
    assert [sentence in record.message for record in caplog.records].count(True) == 1, "once, not each time"


async def test_a_hub_that_may_write_the_repo_is_trusted_as_long_as_it_may(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = faked(tmp_path, fake, origin_instance_id="hub", flags=["--tls-client-cert=/x"])

    def grant(*names: str) -> None:
        def change(current: config.Config) -> None:
            del current.multihost.known_hosts[:]
            identity = Identity.from_seed(b"h" * 32)
            current.multihost.known_hosts.add(
                instance_id="hub",
                keyid=identity.keyid,
                instance_url="http://hub",
                permissions=[parse_grant(name) for name in names],
            )

        made.config.transform(change)

    for names, given in ((["read-write-config"], True), (["receive-shared-repos"], False)):
        grant(*names)
        await made.engine.backup("photos")
        assert ("--tls-client-cert=/x" in calls(fake)[-1]) is given


async def test_a_shared_repo_whose_address_may_do_harm_is_not_used(tmp_path: Path) -> None:
    fake = fake_backup(tmp_path)
    made = faked(tmp_path, fake, uri="rclone::sftp,ssh=evil:/x", origin_instance_id="hub")
    ended = await made.engine.backup("photos")
    assert ended.status == operations.STATUS_ERROR
    assert "which hub shares, is not used: its address would run a program here" in ended.display_message
    with pytest.raises(UserError, match="is not used"):
        await made.engine.index("nas")
    assert calls(fake) == []


async def test_a_shared_repo_is_never_made_here(tmp_path: Path) -> None:
    body = "sys.exit(10) if args[0] == 'cat' else open(__file__ + '.made', 'w')"
    made = World(tmp_path / "world", command=fake_restic(tmp_path, body))
    made.configure(make_repo("/r", origin_instance_id="hub", auto_initialize=True), plan(path=tmp_path))
    with pytest.raises(ResticError):
        await made.engine.backup("photos")
    assert not (tmp_path / "fake-restic.made").exists()


# Flags of our own that begin with no "-"


@pytest.mark.parametrize("where", ["flags", "backupFlags"])
async def test_a_flag_without_a_dash_in_an_old_configuration_opens_and_is_refused_at_its_use(
    tmp_path: Path, where: str
) -> None:
    fake = fake_backup(tmp_path)
    made = faked(tmp_path, fake)
    file = made.paths.config_file
    whole = json.loads(file.read_text())
    whole["repos" if where == "flags" else "plans"][0]["flags" if where == "flags" else "backup_flags"] = [
        "/etc/shadow"
    ]
    file.write_text(json.dumps(whole))
    made.oplog.close()
    again = World(tmp_path / "world", command=fake)
    again.config.transform(lambda current: current.plans.append(plan("other")))  # other changes go on
    ended = await again.engine.backup("photos")
    assert ended.status == operations.STATUS_ERROR
    assert 'flag 1 does not begin with "-"' in ended.display_message
    assert not any("/etc/shadow" in call for call in calls(fake))
    again.oplog.close()


async def test_unlock_says_how_many_locks_stay(world: World, repository: Path, tmp_path: Path) -> None:
    world.configure(make_repo(repository, auto_initialize=True))
    assert await world.engine.unlock("nas") == 0
    body = f"print('{'ab' * 32}') if args[:2] == ['list', 'locks'] else None"
    other = World(tmp_path / "other", command=fake_restic(tmp_path, body))
    other.configure(make_repo("/r", auto_initialize=True))
    assert await other.engine.unlock("nas") == 1
    other.oplog.close()
    assert not list(world.paths.tasklogs.glob("*")), "nothing failed"

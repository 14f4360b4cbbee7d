"""A real restic, driven through engine/restic.py; a fake one where the real one cannot be made to do it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from engine_world import (
    PASSWORD,
    calls,
    fake_backup,
    fake_restic,
    make_repo,
    make_source,
    repository,
    restic,
    restic_command,
    template,
)
from trio.testing import MockClock

from backrest.engine import restic as engine_restic
from backrest.engine.failures import Reason, ResticFailure
from backrest.engine.restic import Repository, Restic, find, locate
from backrest.engine.tasklog import PER_COMMAND, TaskLog
from backrest.errors import ResticError
from backrest.wire import config

__all__ = ["repository", "template"]  # fixtures


async def opened(repo: config.Repo, *, command: str | None = None, log: TaskLog | None = None) -> Repository:
    binary = await find(command or restic_command(), os.environ)
    return Repository(binary, repo, os.environ, log=log or TaskLog(), grace=lambda: 5.0)


async def backup(
    used: Repository, source: Path, **plan: Any
) -> tuple[engine_restic.BackupResult, list[dict[str, Any]]]:
    messages: list[dict[str, Any]] = []
    made = config.Plan(**{"id": "photos", "paths": [str(source)]} | plan)
    result = await used.backup(made, "laptop", parent="", dry_run=False, on_message=messages.append)
    return result, messages


async def test_the_guid_is_restics_own_id(repository: Path) -> None:
    expected = json.loads(restic(repository, "cat", "config"))["id"]
    assert await (await opened(make_repo(repository))).guid() == expected


async def test_a_wrong_password_is_one_sentence_that_does_not_hold_it(repository: Path) -> None:
    used = await opened(make_repo(repository, password="battery-staple"))
    with pytest.raises(ResticFailure, match=r"^the password of repo nas is wrong") as caught:
        await used.guid()
    assert caught.value.reason is Reason.WRONG_PASSWORD


async def test_a_missing_repository_is_told_from_other_failures(tmp_path: Path) -> None:
    used = await opened(make_repo(tmp_path / "none"))
    with pytest.raises(ResticFailure, match="there is no restic repository at") as caught:
        await used.guid()
    assert caught.value.reason is Reason.NO_REPOSITORY


async def test_no_password_at_all_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESTIC_PASSWORD", raising=False)
    used = await opened(make_repo(repository, password=""))
    with pytest.raises(ResticFailure, match="repo nas has no password") as caught:
        await used.snapshots()
    assert caught.value.reason is Reason.NO_PASSWORD


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


async def test_init_never_touches_a_repository_that_is_there(repository: Path, tmp_path: Path) -> None:
    before = names_in(repository)
    with pytest.raises(ResticFailure) as caught:
        await (await opened(make_repo(repository))).init()
    assert caught.value.reason is Reason.EXISTS
    assert names_in(repository) == before
    fresh = await opened(make_repo(tmp_path / "fresh"))
    await fresh.init()
    assert len(await fresh.guid()) == 64


async def test_backup_snapshots_and_forget(repository: Path, tmp_path: Path) -> None:
    source = make_source(tmp_path)
    used = await opened(make_repo(repository))
    result, messages = await backup(used, source, excludes=["*.tmp"])
    assert (result.summary.files_new, result.summary.total_files_processed) == (2, 2)
    assert result.summary.total_duration > 0
    assert not result.incomplete
    assert {message["message_type"] for message in messages} <= {"status"}
    await backup(used, source)
    first, second = await used.snapshots(tags=["plan:photos", "created-by:laptop"])
    assert first.id.startswith(result.summary.snapshot_id)
    assert first.tags == ["plan:photos", "created-by:laptop"]
    assert first.paths == [str(source)]
    assert await used.snapshots(tags=["plan:other", "created-by:laptop"]) == []
    assert await used.snapshots(only=first.id[:8]) == [first]
    nothing = await used.forget(["--keep-last", "1"], ["plan:other"])
    assert (nothing.removed, nothing.problem) == ([], "")
    gone = await used.forget(["--keep-last", "1"], ["plan:photos", "created-by:laptop"])
    assert [one.id for one in gone.removed] == [first.id]
    assert [one.id for one in await used.snapshots()] == [second.id]


async def test_a_file_that_cannot_be_read_makes_the_backup_incomplete(
    repository: Path, tmp_path: Path
) -> None:
    # Reading it fails with EIO for everybody, also for root.
    result, messages = await backup(
        await opened(make_repo(repository)), make_source(tmp_path), paths=["/proc/self/mem"]
    )
    assert result.incomplete
    assert [message["item"] for message in messages if message["message_type"] == "error"] == [
        "/proc/self/mem"
    ]


async def test_a_dry_run_saves_nothing_and_reports_no_single_files(repository: Path, tmp_path: Path) -> None:
    used = await opened(make_repo(repository))
    plan = config.Plan(id="photos", paths=[str(make_source(tmp_path))])
    messages: list[dict[str, Any]] = []
    result = await used.backup(plan, "laptop", parent="", dry_run=True, on_message=messages.append)
    assert result.dry_run
    assert result.summary.files_new == 3
    assert not any("verbose_status" in message.values() for message in messages)
    assert await used.snapshots() == []


async def test_the_task_log_has_the_commands_and_no_secret(repository: Path, tmp_path: Path) -> None:
    log = TaskLog(tmp_path / "t-1.log")
    repo = make_repo(repository, flags=["-o x.secret=ab"], env=["MY_TOKEN=abcdefgh"])
    used = await opened(repo, log=log)
    log.note(f"{PASSWORD} and abcdefgh")
    await used.snapshots()
    written = (tmp_path / "t-1.log").read_text()
    assert (tmp_path / "t-1.log").stat().st_mode & 0o777 == 0o600
    noted, ran = written.splitlines()
    assert noted == "[tasklog] *** and ***"
    assert ran.startswith(f"[repo-manager] command: {restic_command()} snapshots --json ")
    assert " -o 'x.secret=***'" in ran


async def test_a_locked_repository_says_who_locks_it(tmp_path: Path) -> None:
    said = (
        "unable to create lock in backend: repository is already locked by PID 8 on vm by root (UID 0)\n"
        "lock was created at 2026-11-23 09:10:28 (2s ago)\nstorage ID 1d2c\n"
    )
    for code, version, printed in ((1, "0.14.0", said), (11, "0.18.1", json_exit_error(said, 11))):
        fake = fake_restic(tmp_path, f"sys.stderr.write({printed!r}); sys.exit({code})", version)
        with pytest.raises(
            ResticFailure, match="repo nas is locked by another restic: PID 8 on vm"
        ) as caught:
            await (await opened(make_repo("/r"), command=fake)).unlock()
        assert caught.value.reason is Reason.LOCKED


@pytest.mark.parametrize(("free_after", "tries"), [(3, 4), (30, 31), (31, 31)])
async def test_a_restic_that_cannot_wait_for_a_lock_is_run_again_for_five_minutes(
    autojump_clock: MockClock, tmp_path: Path, free_after: int, tries: int
) -> None:
    log = TaskLog(tmp_path / "t.log")
    used = Repository(Restic("restic", (0, 15, 2)), make_repo("/r"), os.environ, log=log)
    ran = 0

    async def work() -> int:
        nonlocal ran
        ran += 1
        if ran <= free_after:
            raise ResticFailure("repo nas is locked by another restic: PID 8", 1, Reason.LOCKED)
        return ran

    if tries > free_after:
        assert await used._patiently(work) == tries
    else:
        with pytest.raises(ResticFailure, match="locked"):
            await used._patiently(work)
    await log.flush()
    assert ran == tries
    assert trio.current_time() <= 300
    assert "waiting for it" in (tmp_path / "t.log").read_text()


@pytest.mark.parametrize(("version", "waits"), [("0.15.2", False), ("0.16.0", True)])
async def test_restic_itself_waits_for_a_lock_since_0_16(tmp_path: Path, version: str, waits: bool) -> None:
    fake = fake_backup(tmp_path, version=version)
    used = await opened(make_repo("/r", flags=["--retry-lock=1h"]), command=fake)
    await used.snapshots()
    [call] = calls(fake)
    assert (call[2:4] == ["--retry-lock", "5m"]) == waits
    assert call.index("--retry-lock=1h") == (4 if waits else 2), "what the repo says wins"


def json_exit_error(said: str, code: int) -> str:
    return json.dumps({"message_type": "exit_error", "code": code, "message": said}) + "\n"


async def test_after_an_exit_error_the_output_is_still_read(tmp_path: Path) -> None:
    """W-49: a program that goes on writing would block for ever on a full pipe."""
    body = f"""
sys.stderr.write({json_exit_error("Fatal: something new", 1)!r})
sys.stderr.flush()
sys.stdout.write("noise\\n" * 200_000)
sys.exit(1)
"""
    used = await opened(make_repo("/r"), command=fake_restic(tmp_path, body))
    with trio.fail_after(60), pytest.raises(ResticFailure, match=r"\(exit code 1\): something new$"):
        await backup(used, tmp_path)


async def test_an_exit_error_for_an_incomplete_backup_is_no_failure(tmp_path: Path) -> None:
    body = f"""
print('{{"message_type":"summary","files_new":1,"snapshot_id":"{"ab" * 32}"}}')
sys.stderr.write({json_exit_error("Warning: at least one source file could not be read", 3)!r})
sys.exit(3)
"""
    result, _ = await backup(await opened(make_repo("/r"), command=fake_restic(tmp_path, body)), tmp_path)
    assert result.incomplete
    assert result.summary.snapshot_id == "ab" * 32


async def test_huge_lines_and_text_between_messages_are_survived(tmp_path: Path) -> None:
    body = """
print("using parent snapshot 1234")
print('{"message_type":"status","percent_done":0.5,"current_files":["' + "x" * 11_000_000 + '"]}')
print('{"message_type":"status","percent_done":0.6,"current_files":["' + "y" * 9_000_000 + '"]}')
print('{"message_type":"new_kind"}')
print('{"message_type":"summary"}')
"""
    log = TaskLog(tmp_path / "t-1.log")
    used = await opened(make_repo("/r"), command=fake_restic(tmp_path, body), log=log)
    result, messages = await backup(used, tmp_path)
    assert result.summary.snapshot_id == ""
    assert [message["percent_done"] for message in messages] == [0.6]
    assert "[restic] using parent snapshot 1234" in (tmp_path / "t-1.log").read_text()


async def test_a_backup_without_a_summary_is_a_failure(tmp_path: Path) -> None:
    used = await opened(make_repo("/r"), command=fake_restic(tmp_path, "print('hello')"))
    with pytest.raises(ResticError, match="restic ended without a summary"):
        await backup(used, tmp_path)


async def test_the_output_of_a_command_in_the_task_log_is_bounded(tmp_path: Path) -> None:
    body = (
        "sys.stderr.write('word ' * 20 + '\\n'); sys.stderr.write('line of output\\n' * 100_000); sys.exit(1)"
    )
    log = TaskLog(tmp_path / "t-1.log")
    used = await opened(make_repo("/r"), command=fake_restic(tmp_path, body), log=log)
    with pytest.raises(ResticFailure):
        await used.snapshots()
    written = (tmp_path / "t-1.log").read_text()
    assert PER_COMMAND < len(written) < 2 * PER_COMMAND
    assert written.splitlines()[-1].endswith("more bytes of output are not kept)")


async def test_a_snapshot_that_the_storage_would_not_delete_is_not_reported_as_gone(tmp_path: Path) -> None:
    snapshot = {"time": "2026-11-23T09:09:59Z", "paths": ["/a"]}
    groups = [{"remove": [snapshot | {"id": "ab" * 32}, snapshot | {"id": "cd" * 32}]}]
    body = f"""
print({json.dumps(groups)!r})
sys.stderr.write("unable to remove snapshot/{"ab" * 32} from the repository\\n")
"""
    used = await opened(make_repo("/r"), command=fake_restic(tmp_path, body))
    result = await used.forget(["--keep-last", "1"], ["plan:p"])
    assert [one.id for one in result.removed] == ["cd" * 32]
    assert "unable to remove" in result.problem


async def test_a_repository_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_restic, "ANSWER_S", 0.2)
    binary = engine_restic.Restic(fake_restic(tmp_path, "time.sleep(60)"), (0, 18, 1))
    used = Repository(binary, make_repo("/r"), os.environ, log=TaskLog())
    with pytest.raises(ResticFailure, match="/r did not answer within") as caught:
        await used.guid()
    assert caught.value.reason is Reason.UNREACHABLE


async def test_the_binary_is_the_chosen_one_then_the_environments_then_paths(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    in_path, other = fake_restic(tmp_path / "bin", ""), fake_restic(tmp_path, "")
    os.rename(in_path, tmp_path / "bin" / "restic")
    environ = {"PATH": str(tmp_path / "bin")}
    assert locate(None, environ, tmp_path) == str(tmp_path / "bin" / "restic")
    assert locate(None, environ | {"BACKREST_RESTIC_COMMAND": other}, tmp_path) == other
    assert locate(other, environ | {"BACKREST_RESTIC_COMMAND": "x"}, tmp_path) == other
    with pytest.raises(ResticError, match="/no/restic does not exist"):
        locate("/no/restic", environ, tmp_path)
    with pytest.raises(ResticError, match="restic is not installed"):
        locate(None, {"PATH": str(tmp_path)}, tmp_path)
    os.rename(tmp_path / "bin" / "restic", tmp_path / "restic")
    assert locate(None, {"PATH": "/nowhere"}, tmp_path) == str(tmp_path / "restic")


@pytest.mark.parametrize(
    ("version", "accepted"), [("0.13.1", False), ("0.14.0", True), ("0.19.1", True), ("1.2.3", True)]
)
async def test_versions_before_0_14_are_refused(
    version: str, accepted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = fake_restic(tmp_path, "", version)
    if accepted:
        assert (await find(fake, os.environ)).version == tuple(map(int, version.split(".")))
    else:
        with pytest.raises(ResticError, match=r"0\.13\.1: 0\.14 or later is needed"):
            await find(fake, os.environ)
    assert ("newer than any" in caplog.text) is (version == "1.2.3")


async def test_a_program_that_is_not_restic_is_refused() -> None:
    with pytest.raises(ResticError, match="is it restic"):
        await find("/bin/true", os.environ)

"""Commands that root runs once leave the files to whom they belong, and a lost configuration is no first run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from admin_world import HUB_TOKEN_KEY, World
from cli_world import Run, here, run, world
from go_log import copy_to

from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog

__all__ = ["here", "run", "world"]  # fixtures

USER = 4711
IMPORTED = '{"repoId": "r1", "planId": "p", "unixTimeStartMs": "1000", "status": "STATUS_SUCCESS"}\n'


@pytest.fixture
def users(run: Run, world: World) -> Run:
    """Both directories are a user's, and root runs the commands."""
    if os.geteuid() != 0:
        pytest.skip("only root makes files for others")
    for directory in (world.paths.config_file.parent, world.paths.data_dir):
        directory.mkdir()
        os.chown(directory, USER, USER)
    return run


def owners(*directories: Path) -> dict[str, int]:
    found = [path for directory in directories for path in directory.rglob("*")]
    return {str(path): path.stat().st_uid for path in found}


def test_what_root_runs_once_leaves_nothing_to_root(users: Run, world: World) -> None:
    for words in (
        ["init", "--instance-id", "here"],
        ["token", "create"],
        ["host", "add", f"{HUB_TOKEN_KEY}:{'1' * 64}#hub", "--url", "http://h", "--no-wait"],
        ["repo", "add", "r1", "--uri", "/r", "--generate-password", "--no-init"],
        ["plan", "add", "p", "--repo", "r1", "--path", "/srv"],
        ["push", "hub", "--delete-plan", "x", "--yes"],
        ["repo", "share", "r1", "--no-wait"],
        ["ops", "import", "-"],
        ["oplog", "compact"],
        ["host", "remove", "hub"],
    ):
        users(*words, input=IMPORTED, code=1 if words[:2] == ["repo", "share"] else 0)
    found = owners(world.paths.config_file.parent, world.paths.data_dir)
    assert {"config.json", "oplog.jsonl", "audit.jsonl", "pushes.json", "lock"} <= {
        Path(name).name for name in found
    }
    assert {name: uid for name, uid in found.items() if uid != USER} == {}


def test_an_import_by_root_leaves_nothing_to_root(users: Run, world: World) -> None:
    users("init", "--instance-id", "box")
    os.chown(copy_to(world.paths), USER, USER)
    world.paths.oplog.unlink(missing_ok=True)
    users("status")
    users("ops", "import", "--from-reference")
    assert set(owners(world.paths.data_dir).values()) == {USER}


def test_a_file_that_belongs_to_a_user_stays_his_in_roots_directory(users: Run, world: World) -> None:
    users("init", "--instance-id", "here")
    os.chown(world.paths.config_file.parent, 0, 0)
    users("token", "create")
    assert world.paths.config_file.stat().st_uid == USER


def test_directories_that_root_makes_below_a_users_are_the_users(
    users: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKREST_DATA", str(world.paths.data_dir / "a" / "b"))
    users("init", "--instance-id", "here")
    assert set(owners(world.paths.data_dir).values()) == {USER}


# --- a configuration that is missing


def test_a_lost_configuration_is_no_first_run_and_its_backup_is_named(here: Run, world: World) -> None:
    here("token", "create")
    backup = next(iter(world.paths.config_file.parent.glob("config.json.bak.*")))
    world.paths.config_file.unlink()
    for words in (["init"], ["status"], ["serve", "--bind-address", "127.0.0.1:0"], ["token", "create"]):
        said = here(*words, code=1).stderr
        assert f"{world.paths.config_file} is missing" in said
        assert f"copy its newest backup, {backup}, in its place" in said
        assert not world.paths.config_file.exists()
    backup.rename(world.paths.config_file)
    assert "'here'" in here("init").stdout


def test_a_lost_configuration_without_backups_is_no_first_run_either(here: Run, world: World) -> None:
    world.paths.config_file.unlink()
    said = here("init", code=1).stderr
    assert f"since there is {world.paths.audit}" in said
    assert "--config-file" in said
    world.paths.audit.unlink()
    here("init")


def test_the_go_programs_state_without_its_configuration_is_no_first_run(run: Run, world: World) -> None:
    copy_to(world.paths)
    assert f"since there is {world.paths.reference_oplog}" in run("init", code=1).stderr


def test_what_a_mere_look_leaves_is_no_state(run: Run, world: World) -> None:
    run("status")
    OpLog.open(world.paths.oplog).close()
    AuditLog.open(world.paths.audit).close()
    run("init")
    assert ConfigStore.open(world.paths.config_file).current.instance

"""Repositories and tasks through the admin API, with a real restic."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from admin_world import World, add_host
from engine_world import PASSWORD, guid_of, make_source
from engine_world import repository as repository
from engine_world import template as template
from google.protobuf.empty_pb2 import Empty
from reference_api import BACKREST, Refused, ask

from backrest import wire
from backrest.store.mask import MASK

Config = wire.config.Config
Repo = wire.config.Repo
Service = wire.service


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "w")
    made.call("Init", instance_id="here")
    return made


def add(world: World, repo: Repo) -> Config:
    return ask(world, f"{BACKREST}AddRepo", Service.AddRepoRequest(repo=repo), Config)


def test_add_makes_a_repository_and_answers_with_the_configuration(world: World, tmp_path: Path) -> None:
    uri = str(tmp_path / "new")
    with world.daemon() as daemon:
        before = daemon.config.current.modno
        answer = add(world, Repo(id="nas", uri=uri, password=PASSWORD))
        assert [(repo.id, repo.password) for repo in answer.repos] == [("nas", MASK)]
        assert answer.modno == before + 1, "whoever holds the older one must read again (W-08)"
        assert daemon.config.current.repos[0].guid == guid_of(tmp_path / "new")
        # The same id again is a change of it, and the mask means its password.
        changed = answer.repos[0]
        changed.flags.append("--limit-upload=100")
        assert list(add(world, changed).repos[0].flags) == ["--limit-upload=100"]
        assert daemon.config.current.repos[0].password == PASSWORD
        assert answer.modno == before + 1


def test_a_repository_that_cannot_be_had_is_not_entered(world: World, repository: Path) -> None:
    with world.daemon() as daemon:
        with pytest.raises(Refused, match="password"):
            add(world, Repo(id="nas", uri=str(repository), password="wrong"))
        assert not daemon.config.current.repos


def test_a_repository_of_another_instance_can_only_be_removed(world: World, repository: Path) -> None:
    add_host(world)

    def share(config: Config) -> None:
        config.repos.add(
            id="theirs", uri=str(repository), guid="b" * 64, password=PASSWORD, origin_instance_id="hub"
        )

    world.config().transform(share)
    with world.daemon() as daemon:
        with pytest.raises(Refused, match="read-only here"):
            add(world, Repo(id="theirs", uri=str(repository), password=PASSWORD))
        with pytest.raises(Refused, match="cannot be set"):
            add(world, Repo(id="mine", uri=str(repository), password=PASSWORD, origin_instance_id="hub"))
        answer = ask(world, f"{BACKREST}RemoveRepo", Service.RemoveRepoRequest(repo_id="theirs"), Config)
        assert not answer.repos
        assert not daemon.config.current.repos


def test_a_repository_in_use_is_not_removed(world: World) -> None:
    world.add_repo()
    world.call("AddPlan", plan={"id": "p", "repo": "r1", "paths": ["/home"]})
    with world.daemon(), pytest.raises(Refused, match="used by p"):
        ask(world, f"{BACKREST}RemoveRepo", Service.RemoveRepoRequest(repo_id="r1"), Config)
    with world.daemon(), pytest.raises(Refused) as refused:
        ask(world, f"{BACKREST}RemoveRepo", Service.RemoveRepoRequest(repo_id="other"), Config)
    assert refused.value.code == "not_found"


def test_whether_a_repository_exists(world: World, repository: Path, tmp_path: Path) -> None:
    def check(**fields: str) -> Service.CheckRepoExistsResponse:
        request = Service.CheckRepoExistsRequest(repo=Repo(**fields))
        return ask(world, f"{BACKREST}CheckRepoExists", request, Service.CheckRepoExistsResponse)

    with world.daemon() as daemon:
        assert check(id="x", uri=str(repository), password=PASSWORD).exists
        assert not check(id="x", uri=str(tmp_path / "none"), password=PASSWORD).exists
        assert "password" in check(id="x", uri=str(repository), password="wrong").error
        assert not daemon.config.current.repos, "a question changes nothing"


def test_a_backup_ends_before_its_answer_and_its_failure_is_the_answer(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = make_source(tmp_path)
    with world.daemon() as daemon:
        add(world, Repo(id="nas", uri=str(repository), password=PASSWORD))
        world.call("AddPlan", plan={"id": "photos", "repo": "nas", "paths": [str(source)]})
        ask(world, f"{BACKREST}Backup", Service.BackupRequest(value="photos"), Empty)
        [backup] = [op for op in daemon.oplog.read(range(1, 10)) if op.HasField("operation_backup")]
        assert backup.status == wire.operations.STATUS_SUCCESS
        request = Service.DoRepoTaskRequest(
            repo_id="nas", task=Service.DoRepoTaskRequest.TASK_INDEX_SNAPSHOTS
        )
        ask(world, f"{BACKREST}DoRepoTask", request, Service.ScheduleTaskResponse)
        shutil.rmtree(repository)
        with pytest.raises(Refused) as refused:
            ask(world, f"{BACKREST}Backup", Service.BackupRequest(value="photos"), Empty)
        assert refused.value.code == "aborted"
        with pytest.raises(Refused, match="no backup with the id 12345"):
            ask(world, f"{BACKREST}Cancel", Service.CancelOperationRequest(operation_id=12345), Empty)
        with pytest.raises(Refused, match="there is no plan 'nope'"):
            ask(world, f"{BACKREST}Backup", Service.BackupRequest(value="nope"), Empty)

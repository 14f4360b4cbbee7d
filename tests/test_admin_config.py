"""Repositories, plans and the whole configuration, by the use cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from admin_world import SECRET, World, add_host

from backrest.errors import ConflictError, UserError
from backrest.store.mask import MASK


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


# --- repos and plans


def test_a_repo_without_init_is_entered_to_be_made_later(world: World) -> None:
    world.stream("AddRepo", repo={"id": "r", "uri": "/srv/r", "password": "correct-horse"}, initialize=False)
    [repo] = world.config().current.repos
    assert repo.auto_initialize
    assert not repo.guid
    for shown in (world.call("ListRepos"), world.call("ShowRepo", repo_id="r"), world.call("ShowConfig")):
        assert "correct-horse" not in json.dumps(shown)
        assert MASK in json.dumps(shown)
    assert "correct-horse" not in world.paths.audit.read_text()


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ({"id": "a/b", "uri": "/x"}, "may hold only"),
        ({"id": "r", "uri": ""}, "needs a URI"),
        ({"id": "r", "uri": "/x", "guid": "a" * 64}, "comes without guid"),
        ({"id": "r", "uri": "/x", "originInstanceId": "hub"}, "comes without guid"),
        ({"id": "r", "uri": "/x", "pasword": "p"}, "cannot be read"),
        ({"id": "r1", "uri": "/x"}, "already a repository 'r1'"),
    ],
)
def test_a_repo_that_cannot_be_is_refused(world: World, repo: dict[str, Any], words: str) -> None:
    world.add_repo()
    with pytest.raises(UserError, match=words):
        world.stream("AddRepo", repo=repo, initialize=False)
    assert len(world.config().current.repos) == 1


def test_a_repo_in_use_is_not_removed(world: World) -> None:
    world.add_repo()
    world.call("AddPlan", plan={"id": "p", "repo": "r1", "paths": ["/x"]})
    with pytest.raises(ConflictError, match="is used by p"):
        world.call("RemoveRepo", repo_id="r1")
    world.call("RemovePlan", plan_id="p")
    world.call("RemoveRepo", repo_id="r1")
    assert not world.config().current.repos


def test_a_plan_is_written_as_the_reference_writes_it(world: World) -> None:
    world.add_repo()
    plan = {
        "id": "photos",
        "repo": "r1",
        "paths": ["/srv/photos"],
        "excludes": ["*.tmp"],
        "schedule": {"disabled": True},
        "retention": {"policyKeepLastN": 2},
    }
    world.call("AddPlan", plan={name: value for name, value in plan.items() if name != "schedule"})
    assert json.loads(world.paths.config_file.read_text())["plans"] == [plan]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"id": "p", "repo": "nope", "paths": ["/x"]}, "there is no repository 'nope'"),
        ({"id": "", "repo": "r1", "paths": ["/x"]}, "the plan id '' is empty"),
        ({"id": "p", "repo": "r1"}, "path"),
        ({"id": "p", "repo": "r1", "paths": ["/x"], "schedule": {"cron": "61 * * * *"}}, "cron"),
        ({"id": "p", "repo": "r1", "path": ["/x"]}, "cannot be read"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(world: World, plan: dict[str, Any], words: str) -> None:
    world.add_repo()
    with pytest.raises(UserError, match=words):
        world.call("AddPlan", plan=plan)
    assert not world.config().current.plans


# --- configuration


def test_what_is_shown_can_be_imported_again_without_a_change(world: World) -> None:
    world.add_repo()
    world.call("CreateToken", label="x")
    add_host(world)
    shown = world.call("ShowConfig")["config"]
    text = json.dumps(shown)
    for secret in ("correct-horse", SECRET):
        assert secret not in text
    before = world.paths.config_file.read_bytes()
    assert world.call("ImportConfig", text=text)["changed"] is False
    assert world.paths.config_file.read_bytes() == before
    shown["plans"] = [{"id": "p", "repo": "r1", "paths": ["/x"]}]
    assert world.call("ImportConfig", text=json.dumps(shown))["changed"] is True
    after = world.config().current
    assert after.repos[0].password == "correct-horse"
    assert after.plans[0].id == "p"


def test_an_import_without_identity_keeps_ours(world: World) -> None:
    keyid = world.call("Status")["instance"]["keyId"]
    result = world.call("ImportConfig", text='{"version": 6, "instance": "renamed"}')
    assert (result["changed"], result["newIdentity"]) == (True, False)
    config = world.config().current
    assert config.multihost.identity.keyid == keyid
    assert config.instance == "renamed"


def test_an_import_of_the_reference_brings_its_identity(world: World) -> None:
    path = Path(__file__).parent.parent / "conformance/vectors/captures/hub-config.json"
    result = world.call("ImportConfig", text=path.read_text())
    assert result["newIdentity"]
    assert world.config().current.repos[0].id == "nas"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 7}',
     '{"version": 6, "plans": [{"id": "p", "repo": "nope", "paths": ["/x"]}]}',
     '{"version": 6, "repos": [{"id": "new", "uri": "/x", "password": "********", "autoInitialize": true}]}'],
)  # fmt: skip
def test_an_import_that_cannot_be_changes_nothing(world: World, text: str) -> None:
    before = world.paths.config_file.read_bytes()
    with pytest.raises(UserError):
        world.call("ImportConfig", text=text)
    assert world.paths.config_file.read_bytes() == before

"""The manual's rows about shared repositories, provoked: what the user then sees, and where, names cause and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_world import restic
from processes import Machine, connected
from test_e2e_shares import PASSWORD, add_plan, backup, hub_with_repo, machine, pair, received

GUID = "7" * 64
BOTH = ("receive-shared-repos", "receive-shared-repos")
SHARED = {"id": "nas", "guid": GUID, "uri": "rest:http://nas.example/x", "password": "p"}

pytestmark = pytest.mark.timeout(300)


def with_repo(made: Machine, **repo: str) -> Machine:
    path = made.directory / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "repos": [{"password": "p", **repo}]}))
    return made


def status(made: Machine) -> str:
    said = made.run("status")
    return said.stdout + said.stderr


@pytest.mark.parametrize(
    ("permission", "grant", "own", "cause", "remedy"),
    [
        (*BOTH, {"id": "mine", "guid": GUID, "uri": "/srv/mine"}, "same guid", "removed"),
        (*BOTH, {"id": "nas", "guid": "8" * 64, "uri": "/srv/mine"}, "same id", "removed or changed"),
        (*BOTH, {"id": "mine", "guid": "8" * 64, "uri": SHARED["uri"]}, "same address", "removed or changed"),
        ("receive-shared-repos", "read-operations", {}, "RECEIVE_SHARED_REPOS is not granted", "host grant"),
    ],
    ids=["equal guid", "equal id", "equal address", "not granted on the client"],
)
def test_a_shared_repo_that_a_client_does_not_take(
    tmp_path: Path, permission: str, grant: str, own: dict[str, str], cause: str, remedy: str
) -> None:
    hub = with_repo(machine(tmp_path, "hub"), **SHARED)
    laptop = machine(tmp_path, "laptop")
    if own:
        with_repo(laptop, **own)
    with hub.serving() as daemon, laptop.serving():
        token = hub.json("token", "create", "--permission", permission)["token"]
        laptop.ok("host", "add", token, "--url", daemon.url, "--grant", grant)
        hub.until_status(connected)
        assert cause in hub.ok("repo", "share", "nas")
        assert cause in hub.ok("repo", "show", "nas")
        assert cause in status(hub)
        seen = status(laptop)
        assert cause in seen
        assert remedy in seen
        assert not [one for one in laptop.json("repo", "list")["repos"] if one.get("originInstanceId")]


def test_a_shared_repo_that_the_hub_does_not_let_a_client_have(tmp_path: Path) -> None:
    """Nothing is sent then, so the client cannot know: the hub says it to who shares."""
    hub, laptop = with_repo(machine(tmp_path, "hub"), **SHARED), machine(tmp_path, "laptop")
    with hub.serving() as daemon, laptop.serving():
        token = hub.json("token", "create", "--permission", "read-operations")["token"]
        laptop.ok("host", "add", token, "--url", daemon.url)
        hub.until_status(connected)
        said = hub.ok("repo", "share", "nas")
        assert "receive-shared-repos is missing" in said
        assert "receive-shared-repos is missing" in hub.ok("repo", "show", "nas")
        assert "client permissions laptop" in said


def test_snapshots_that_the_hub_has_forgotten_are_listed_until_the_client_indexes(tmp_path: Path) -> None:
    hub, laptop = hub_with_repo(tmp_path), machine(tmp_path, "laptop")
    with hub.serving() as daemon, laptop.serving() as on_laptop:
        pair(hub, laptop, daemon.url)
        hub.ok("repo", "share", "nas")
        received(on_laptop)
        add_plan(laptop, "photos")
        backup(laptop, "photos")
        [found] = [op for op in laptop.operations() if "operationIndexSnapshot" in op]
        restic(hub.directory / "repo", "forget", found["snapshotId"], password=PASSWORD)
        [stale] = [op for op in laptop.operations() if "operationIndexSnapshot" in op]
        assert "forgot" not in stale["operationIndexSnapshot"]
        assert "1 forgotten" in laptop.ok("index", "nas")
        [now] = [op for op in laptop.operations() if "operationIndexSnapshot" in op]
        assert now["operationIndexSnapshot"]["forgot"] is True

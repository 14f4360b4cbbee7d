"""Steering, with real processes: a hub changes its clients, a client changes its hub, as far as each lets the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import Daemon, Machine, connected

SECRET = "planted-password"


def machine(directory: Path, name: str) -> Machine:
    made = Machine(directory, name)
    made.ok("init", "--instance-id", name)
    config = made.directory / "config.json"
    whole = json.loads(config.read_text())
    guid = name.encode().hex().ljust(64, "0")[:64]
    whole["repos"] = [{"id": f"{name}-disk", "guid": guid, "uri": f"/srv/{name}", "password": SECRET}]
    config.write_text(json.dumps(whole))
    return made


@pytest.fixture
def hub(tmp_path: Path) -> Machine:
    return machine(tmp_path, "hub")


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    return machine(tmp_path, "laptop")


def pair(hub: Machine, laptop: Machine, served: Daemon, *, hub_lets: str, laptop_lets: str) -> None:
    token = hub.json("token", "create", "--label", "t", "--permission", hub_lets)["token"]
    laptop.ok("host", "add", token, "--url", served.url, "--grant", laptop_lets)


def pushed(made: Machine, ident: str, repo: str, **fields: Any) -> str:
    path = made.directory / f"{ident}.json"
    path.write_text(json.dumps({"id": ident, "repo": repo, "paths": ["/srv"], **fields}))
    return str(path)


def plans(made: Machine) -> list[str]:
    return [plan["id"] for plan in made.json("plan", "list")["plans"]]


def test_a_hub_steers_a_client_that_lets_it_and_waits_for_one_that_is_away(
    hub: Machine, laptop: Machine
) -> None:
    one, two = pushed(hub, "one", "laptop-disk"), pushed(hub, "two", "laptop-disk")
    with hub.serving() as served:
        with laptop.serving():
            pair(hub, laptop, served, hub_lets="read-operations=*", laptop_lets="read-write-config=*")
            hub.until_status(connected)
            assert '+  "id": "one"' in hub.ok("push", "laptop", "--plan", one, "--dry-run")
            assert plans(laptop) == []
            assert "'laptop' has applied it" in hub.ok("push", "--yes", "laptop", "--plan", one)
            assert plans(laptop) == ["one"]
            said = hub.ok("push", "--yes", "laptop", "--delete-plan", "nope", "--delete-repo", "never")
            assert "Nothing to delete: 'laptop' has no plan 'nope', no repo 'never'." in said
            assert "applied" not in said
            assert "has all of this already" in hub.ok("push", "--yes", "laptop", "--plan", one)
            view = hub.json("client", "show", "laptop", "--config")["config"]
            assert [plan["id"] for plan in view["plans"]] == ["one"]
            assert view["repos"][0]["password"] == "********"
            # What is shown can be edited and pushed back: the mask stays the password.
            edited = hub.directory / "edited.json"
            edited.write_text(json.dumps({**view["repos"][0], "uri": "/srv/elsewhere"}))
            hub.ok("push", "--yes", "laptop", "--repo", str(edited))
            [repo] = json.loads((laptop.directory / "config.json").read_text())["repos"]
            assert (repo["uri"], repo["password"]) == ("/srv/elsewhere", SECRET)
        hub.until_status(lambda status: not connected(status))
        assert "'laptop' is away" in hub.ok("push", "--yes", "laptop", "--plan", two, "--delete-plan", "one")
        assert served.stop() == 0
    port = served.url.rpartition(":")[2]
    assert [one["instanceId"] for one in hub.json("push", "list")["waiting"]] == ["laptop"]
    with hub.serving(bind=f"127.0.0.1:{port}"), laptop.serving():
        laptop.until_status(connected)
        hub.until_status(lambda status: not hub.json("push", "list")["waiting"])
        [*_, last] = hub.json("push", "list")["answered"]
        assert (last["items"], last["result"]) == (["plan two", "delete plan one"], "applied")
        assert plans(laptop) == ["two"]
    for made in (hub, laptop):
        text = (made.directory / "data" / "audit.jsonl").read_text()
        assert SECRET not in text + (made.directory / "data" / "peers.json").read_text()
    assert '"config-changed"' in text


def test_a_refusal_has_its_reason_and_an_exit_code(hub: Machine, laptop: Machine) -> None:
    plan = pushed(hub, "one", "laptop-disk")
    with hub.serving() as served, laptop.serving():
        pair(hub, laptop, served, hub_lets="read-operations=*", laptop_lets="read-operations=*")
        hub.until_status(connected)
        said = hub.refused("push", "--yes", "laptop", "--plan", plan)
        assert "plan 'one': READ_WRITE_CONFIG is not granted for it" in said
        assert "granted on 'laptop': `backrest host grant HUB" in said
        assert plans(laptop) == []
        assert "granted there" in hub.run("client", "show", "laptop").stderr
        laptop.ok("host", "grant", "hub", "read-write-config=plan:one")
        hub.until_status(connected)
        # the session under the new terms may be a moment away
        done = hub.run("push", "--yes", "laptop", "--plan", plan)
        assert done.returncode == 0, done.stderr
        hub.until_status(lambda status: not hub.json("push", "list")["waiting"])
        assert plans(laptop) == ["one"]


def test_a_client_steers_its_hub_in_scope_and_no_further(hub: Machine, laptop: Machine) -> None:
    inside, outside = pushed(laptop, "inside", "hub-disk"), pushed(laptop, "outside", "hub-disk")
    with hub.serving() as served, laptop.serving():
        pair(hub, laptop, served, hub_lets="read-write-config=plan:inside", laptop_lets="read-operations=*")
        laptop.until_status(connected)
        assert "'hub' has applied it" in laptop.ok("push", "--yes", "hub", "--plan", inside)
        said = laptop.refused("push", "--yes", "hub", "--plan", outside)
        assert "plan 'outside': READ_WRITE_CONFIG is not granted" in said
        assert "client permissions CLIENT" in said
        assert plans(hub) == ["inside"]
        view = laptop.json("host", "show", "hub", "--config")["config"]
        assert [plan["id"] for plan in view["plans"]] == ["inside"]
        assert "repos" not in view

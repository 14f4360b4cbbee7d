"""One repository for many machines, with real processes and a real restic, typed as in the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_world import restic
from processes import Daemon, Machine

PASSWORD = "correct-horse"


def machine(directory: Path, name: str) -> Machine:
    made = Machine(directory, name)
    made.ok("init", "--instance-id", name)
    (made.directory / "files").mkdir()
    (made.directory / "files" / "one.txt").write_text(f"of {name}\n")
    return made


def hub_with_repo(directory: Path) -> Machine:
    hub = machine(directory, "hub")
    password = hub.directory / "password"
    password.write_text(PASSWORD + "\n")
    hub.ok("repo", "add", "nas", "--uri", str(hub.directory / "repo"), "--password-file", str(password))
    return hub


def pair(hub: Machine, client: Machine, url: str) -> None:
    token = hub.json("token", "create", "--label", client.name)["token"]
    client.ok("host", "add", token, "--url", url)


def received(daemon: Daemon) -> None:
    daemon.until_logged("configuration from hub: repo 'nas' added")


def kinds(operations: list[dict[str, Any]]) -> list[str]:
    return [next(key for key in op if key.startswith("operation")) for op in operations]


def snapshots(repo: Path) -> list[str]:
    """Who made each, by its tags."""
    found = json.loads(restic(repo, "snapshots", "--json", password=PASSWORD))
    return sorted(tag for one in found for tag in one["tags"] if tag.startswith("created-by:"))


def add_plan(client: Machine, plan: str) -> None:
    # A retention that would leave one snapshot: on a client it must not be applied to a repository of the hub.
    files = str(client.directory / "files")
    client.ok("plan", "add", plan, "--repo", "nas", "--path", files, "--keep-last", "1")


def backup(client: Machine, plan: str) -> None:
    with (client.directory / "files" / "one.txt").open("a") as file:
        file.write("more\n")
    client.ok("backup", plan)


def test_two_clients_back_up_into_the_hub_s_repository_and_the_hub_sees_both(tmp_path: Path) -> None:
    hub = hub_with_repo(tmp_path)
    laptop, desk = machine(tmp_path, "laptop"), machine(tmp_path, "desk")
    repo = hub.directory / "repo"
    (desk.directory / "mounted").symlink_to(repo)
    with hub.serving() as daemon, laptop.serving() as on_laptop, desk.serving() as on_desk:
        pair(hub, laptop, daemon.url)
        pair(hub, desk, daemon.url)
        shared = hub.run("repo", "share", "nas", "--uri-for", f"desk={desk.directory / 'mounted'}")
        assert f"Warning: {repo} is a path on this machine's own disk, and laptop would look" in shared.stderr
        assert shared.stdout.startswith("Repository 'nas' is shared.\n")
        received(on_laptop)
        received(on_desk)
        for client, uri in ((laptop, repo), (desk, desk.directory / "mounted")):
            shown = client.json("repo", "show", "nas")["repo"]
            assert (shown["uri"], shown["originInstanceId"]) == (str(uri), "hub")
            assert "read-only here" in client.refused("repo", "set", "nas", "--auto-unlock")

        add_plan(laptop, "photos")
        add_plan(desk, "documents")
        for client, plan in ((laptop, "photos"), (desk, "documents")) * 2:
            backup(client, plan)
        assert snapshots(repo) == ["created-by:desk"] * 2 + ["created-by:laptop"] * 2

        def both(operations: list[dict[str, Any]]) -> bool:
            done = [(op["instanceId"], op["planId"]) for op in operations if "operationBackup" in op]
            return done.count(("laptop", "photos")) == 2 and done.count(("desk", "documents")) == 2

        hub.until_operations(both)
        assert "4 new" in hub.ok("index", "nas")
        mine = hub.operations("--peer", "local")
        assert kinds(mine) == ["operationIndexSnapshot"] * 4
        assert {(op["instanceId"], op["planId"]) for op in mine} == {
            ("laptop", "photos"),
            ("desk", "documents"),
        }
        for client in (laptop, desk):
            assert "operationForget" not in kinds(client.operations())
            assert PASSWORD not in client.ok("repo", "list", "--json")


def test_what_is_taken_back_and_a_hub_that_goes_and_comes_again(tmp_path: Path) -> None:
    hub, laptop = hub_with_repo(tmp_path), machine(tmp_path, "laptop")
    repo = hub.directory / "repo"
    with hub.serving() as daemon, laptop.serving() as on_laptop:
        pair(hub, laptop, daemon.url)
        hub.ok("repo", "share", "nas")
        received(on_laptop)
        add_plan(laptop, "photos")

        hub.ok("repo", "unshare", "nas")
        gone = "repo 'nas': no longer offered by hub; still backed up to by photos"
        laptop.until_status(lambda status: gone in str(status["peers"][0].get("warnings")))
        assert "no longer offered by hub" in laptop.ok("repo", "list")
        backup(laptop, "photos")
        assert snapshots(repo) == ["created-by:laptop"]

        laptop.ok("host", "remove", "hub")
        assert "parked, waits for repo nas of hub hub" in laptop.ok("plan", "list")
        assert "parked" in laptop.refused("backup", "photos")
        hub.ok("client", "remove", "laptop")
        hub.ok("repo", "share", "nas")
        pair(hub, laptop, daemon.url)
        on_laptop.until_logged("the plans that waited for it: photos")
        assert "parked" not in laptop.ok("plan", "list")
        backup(laptop, "photos")
        assert snapshots(repo) == ["created-by:laptop"] * 2

"""Sharing, changing and parking, as typed: the words a person reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from admin_world import GUID, World, add_client, add_host
from cli_world import Run, document, here, run, world

from backrest import wire
from backrest.cli import states
from backrest.store.peers import PeerStore
from backrest.store.waiting import WaitingRepos, Wanted

__all__ = ["here", "run", "world"]  # fixtures


@pytest.fixture
def shared(here: Run, world: World) -> World:
    """A hub "hub", its repo "theirs", and a plan on it."""
    add_host(world)

    def change(config: wire.config.Config) -> None:
        config.repos.add(id="theirs", uri="/srv/t", guid=GUID, password="hush-hush", origin_instance_id="hub")
        config.plans.add(
            id="photos", repo="theirs", paths=["/x"], schedule=wire.config.Schedule(cron="0 3 * * *")
        )

    world.config().transform(change)
    return world


@pytest.mark.parametrize(
    "line",
    [
        ("repo", "set", "r1"),
        ("repo", "set", "r1", "--password-env", "A", "--clear-password"),
        ("repo", "set", "r1", "--flag=-v", "--clear-flags"),
        ("repo", "set", "r1", "--env", "NOVALUE"),
        ("repo", "share", "r1", "--uri-for", "laptop"),
        ("plan", "set", "p"),
        ("plan", "set", "p", "--exclude", "x", "--clear-excludes"),
        ("plan", "set", "p", "--keep-last", "0"),
        ("plan", "set", "p", "--keep-last", "1", "--keep-all"),
        ("plan", "set", "p", "--schedule", "often"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, line: tuple[str, ...]) -> None:
    run(*line, code=2)


def test_repo_set_says_what_changed_and_no_secret(here: Run, world: World, tmp_path: Path) -> None:
    world.add_repo(env=["KEEP_TOKEN=hush-hush"], flags=["--no-cache"])
    (tmp_path / "password").write_text("battery-staple\n")
    said = here(
        "repo", "set", "r1", "--uri", "/srv/new", "--password-file", str(tmp_path / "password"), "--env",
        "B=1", "--clear-flags", "--auto-unlock", "--no-check",
    ).output  # fmt: skip
    assert "uri: /srv/r -> /srv/new" in said
    assert "password: a new secret" in said
    assert "flags: --no-cache -> none" in said
    assert "autoUnlock: none -> yes" in said
    assert "hush-hush" not in said
    assert "battery-staple" not in said
    [repo] = world.config().current.repos
    assert (repo.password, list(repo.env), list(repo.flags)) == (
        "battery-staple",
        ["B=1", "KEEP_TOKEN=hush-hush"],
        [],
    )
    here("repo", "set", "r1", "--clear-env", "--env", "C=3", "--no-check")
    assert list(world.config().current.repos[0].env) == ["C=3"]
    assert "was like that already" in here("repo", "set", "r1", "--auto-unlock").output


def test_a_new_address_is_checked_with_restic_unless_told_otherwise(here: Run, world: World) -> None:
    world.add_repo()
    assert "no restic repository" in here("repo", "set", "r1", "--uri", "/nonexistent/r", code=1).stderr
    assert world.config().current.repos[0].uri == "/srv/r"


def test_plan_set_changes_what_is_named_and_nothing_else(here: Run, world: World, tmp_path: Path) -> None:
    world.add_repo()
    add = (
        "plan",
        "add",
        "p",
        "--repo",
        "r1",
        "--path",
        str(tmp_path),
        "--exclude",
        "*.tmp",
        "--keep-daily",
        "7",
    )
    here(*add, "--backup-flag=--one-file-system", "--skip-if-unchanged")
    said = here("plan", "set", "p", "--clear-excludes", "--keep-last", "3", "--schedule", "every 6h").output
    assert "excludes: *.tmp -> none" in said
    assert 'retention: {"policyTimeBucketed":{"daily":7}} -> {"policyKeepLastN":3}' in said
    plan = world.call("ShowPlan", plan_id="p")["plan"]
    assert plan == {
        "id": "p",
        "repo": "r1",
        "paths": [str(tmp_path)],
        "schedule": {"maxFrequencyHours": 6, "clock": "CLOCK_LAST_RUN_TIME"},
        "retention": {"policyKeepLastN": 3},
        "backup_flags": ["--one-file-system"],
        "skipIfUnchanged": True,
    }
    here("plan", "set", "p", "--no-skip-if-unchanged", "--clear-backup-flags", "--path", "/a", "--path", "/b")
    plan = world.call("ShowPlan", plan_id="p")["plan"]
    assert (plan["paths"], "backup_flags" in plan, "skipIfUnchanged" in plan) == (["/a", "/b"], False, False)
    assert "no repository 'nope'" in here("plan", "set", "p", "--repo", "nope", code=1).stderr
    assert document(here("plan", "set", "p", "--keep-all", "--json"))["changed"][0]["field"] == "retention"
    assert world.audit_events()[-1] == "plan-changed"


def test_share_warns_on_stderr_and_lists_the_clients(here: Run, world: World) -> None:
    world.add_repo()
    add_client(world)
    here("client", "permissions", "laptop", "receive-shared-repos")
    result = here("repo", "share", "r1")
    assert "Warning: /srv/r is a path on this machine's own disk, and laptop would look" in result.stderr
    assert "laptop: gets it when it connects" in result.stdout
    result = here("repo", "share", "r1", "--uri-for", "laptop=sftp:nas:/r")
    assert result.stderr == ""
    assert "laptop (at sftp:nas:/r)" in result.stdout
    listed = here("repo", "list").stdout
    assert listed.splitlines()[1].split()[-1] == "yes"
    assert "For laptop:  sftp:nas:/r; gets it when it connects\n" in here("repo", "show", "r1").stdout
    add_client(world, "desk", "ed25519." + "C" * 43)
    shown = here("repo", "show", "r1").stdout
    assert "For desk:    may not receive it: here, on the hub, receive-shared-repos is missing" in shown
    assert "`backrest client permissions desk ...`" in shown
    assert document(here("repo", "share", "r1", "--no-uri-for", "laptop", "--json"))["warnings"]
    keyid = world.config().current.multihost.authorized_clients[0].keyid
    for answers in (False, True):
        peers = PeerStore.open(world.paths.peers)
        peers.update(keyid, known_repos=(wire.sync.RepoMetadata(id="r1", guid=GUID),), answers=answers)
        peers.flush()
        result = here("repo", "unshare", "r1")
        assert "is shared no longer" in result.stdout
        assert "These clients have it: laptop" in result.stderr
        assert ("`backrest push laptop --delete-repo r1`" in result.stderr) == (not answers)
        here("repo", "share", "r1")
    here("repo", "unshare", "r1")
    assert "was not shared" in here("repo", "unshare", "r1").stdout


def test_a_read_only_repo_is_refused_in_one_sentence(shared: World, run: Run) -> None:
    for line in (("set", "theirs", "--auto-unlock"), ("share", "theirs"), ("unshare", "theirs")):
        said = run("repo", *line, code=1).stderr
        assert "came from 'hub' and is read-only here" in said
        assert len(said.splitlines()) == 1


def test_the_plans_of_a_removed_hub_are_parked_and_seen_everywhere(shared: World, run: Run) -> None:
    run("host", "remove", "hub")
    state = "parked, waits for repo theirs of hub hub"
    assert state in run("plan", "list").stdout
    assert state in run("plan", "show", "photos").stdout
    assert f"plan photos: {state}" in run("status").output
    assert "WARNING" in run("status", "--check", code=states.WARNING).stdout
    [parked] = document(run("plan", "list", "--json"))["parked"]
    assert (parked["plan"]["schedule"]["cron"], parked["originInstanceId"]) == ("0 3 * * *", "hub")
    for line in (("backup", "photos"), ("plan", "set", "photos", "--path", "/y")):
        assert state in run(*line, code=1).stderr
    assert "The parked plan 'photos' is removed" in run("plan", "remove", "photos").stdout
    assert document(run("plan", "list", "--json")) == {"plans": []}
    assert "parked" not in run("status").output


def test_a_parked_plan_gives_way_to_one_of_its_id(shared: World, run: Run) -> None:
    run("host", "remove", "hub")
    shared.add_repo(repo_id="mine")
    run("plan", "add", "photos", "--repo", "mine", "--path", "/y")
    assert run("plan", "list").stdout.count("photos") == 2
    assert "The plan 'photos' is removed" in run("plan", "remove", "photos").stdout
    assert "The parked plan 'photos' is removed" in run("plan", "remove", "photos").stdout


def test_what_a_hub_no_longer_offers_is_seen_in_list_show_and_status(shared: World, run: Run) -> None:
    keyid = shared.config().current.multihost.known_hosts[0].keyid

    def look(*line: str) -> str:
        return str(run(*line).output)

    with shared.daemon() as context:
        context.peers.update(keyid, role="host", instance_id="hub", offered=())
        for line in (("repo", "list"), ("repo", "show", "theirs"), ("status",)):
            assert "no longer offered by hub" in look(*line)
        assert "repo 'theirs'" in look("status")
        said = look("repo", "show", "theirs")
    assert "hush-hush" not in said


def test_removing_what_a_hub_still_shares_says_that_it_will_come_again(shared: World, run: Run) -> None:
    run("plan", "remove", "photos")
    assert "will hand it out again" in run("repo", "remove", "theirs").stderr


def test_what_waits_is_seen_everywhere_and_accepted_after_a_question(shared: World, run: Run) -> None:
    new = Wanted(GUID, "hub", "rest:http://u:hush-hush@nas/t", ("RESTIC_COMPRESSION=max",), ())
    waiting = WaitingRepos.open(shared.paths.waiting_repos)
    waiting.settle({GUID: new})
    assert "new address, environment to accept" in run("repo", "list").stdout
    shown = run("repo", "show", "theirs").stdout
    assert "/srv/t -> rest:http://u:********@nas/t; it waits for `backrest repo accept`" in shown
    assert "hub wants to change its address, environment" in run("status").stderr
    said = run("repo", "accept", "theirs", code=2)
    assert "env: none -> RESTIC_COMPRESSION=max" in said.stdout
    assert "--yes" in said.stderr
    assert shared.config().current.repos[0].uri == "/srv/t"
    result = document(run("repo", "accept", "theirs", "--yes", "--json"))
    assert [one["field"] for one in result["changed"]] == ["uri", "env"]
    assert "hush-hush" not in json.dumps(result)
    assert shared.config().current.repos[0].uri == "rest:http://u:hush-hush@nas/t"
    assert "no change of the repository" in run("repo", "accept", "theirs", "--yes", code=1).stderr


def test_what_waits_in_an_edited_file_is_judged_again(shared: World, run: Run) -> None:
    WaitingRepos.open(shared.paths.waiting_repos).settle(
        {GUID: Wanted(GUID, "hub", "/srv/t", (), ("--files-from=/etc/shadow",))}
    )
    assert "cannot be accepted" in run("repo", "accept", "theirs", "--yes", code=1).stderr
    assert not shared.config().current.repos[0].flags

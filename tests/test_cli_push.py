"""``backrest push`` and what peers show, as typed: differences, the queue without a daemon, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from admin_world import World, read
from cli_world import Run, document, here, run, world

from backrest import wire
from backrest.admin import pushes
from backrest.permissions import parse_grant
from backrest.refusals import Why, refusal
from backrest.store.config import ConfigStore
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue

__all__ = ["here", "run", "world"]  # fixtures

SECRET = "planted-password"
GUID = "a" * 64


@pytest.fixture
def hub(here: Run, world: World) -> Run:
    """An instance with the client 'laptop', which shows a repo and a plan, and the client 'shy', which shows nothing;
    both are away."""

    def add(config: wire.config.Config) -> None:
        for name in ("laptop", "shy"):
            config.multihost.authorized_clients.add(
                instance_id=name,
                keyid=f"ed25519.{name:x<43}",
                permissions=[parse_grant("read-operations=*")],
            )

    ConfigStore.open(world.paths.config_file).transform(add)
    peers = PeerStore.open(world.paths.peers)
    view = wire.sync.RemoteConfig(modno=3)
    view.repos.add(id="nas", guid=GUID, uri="/srv/nas", password="********")
    view.plans.add(id="photos", repo="nas", paths=["/home/photos"])
    peers.update(
        f"ed25519.{'laptop':x<43}",
        instance_id="laptop",
        role="client",
        remote_config=view,
        config_ms=time.time_ns() // 1_000_000,
    )
    peers.flush()
    return here


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: object) -> str:
        path = tmp_path / "pushed.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def waiting(world: World) -> list[Any]:
    return PushQueue.open(world.paths.pushes).waiting()


def test_a_dry_run_shows_the_difference_and_pushes_nothing(hub: Run, world: World, file: Any) -> None:
    plan = file({"id": "photos", "repo": "nas", "paths": ["/home/photos", "/home/films"]})
    shown = hub("push", "laptop", "--plan", plan, "--delete-repo", "nas", "--dry-run").stdout
    assert '+    "/home/films"\n' in shown
    assert "--- plan photos as laptop has it" in shown
    assert "+++ deleted" in shown
    assert waiting(world) == []


def test_secrets_are_named_and_never_shown(hub: Run, world: World, file: Any) -> None:
    repo = file(
        {
            "id": "nas",
            "uri": "/srv/nas",
            "password": SECRET,
            "env": [f"AWS_SECRET_ACCESS_KEY={SECRET}", "TZ=UTC"],
        }
    )
    for more in ((), ("--json",)):
        result = hub("push", "--yes", "laptop", "--repo", repo, *more)
        assert SECRET not in result.output
    assert (
        "sets, without showing it: password, env[0]"
        in hub("push", "laptop", "--repo", repo, "--dry-run").stdout
    )
    listed = hub("push", "list", "--json")
    assert SECRET not in listed.output + hub("push", "list").output + world.paths.audit.read_text()
    [push, _] = waiting(world)
    assert push.message.repos[0].password == SECRET
    assert push.message.repos[0].guid == GUID, "taken from what the client shows under that id"


def test_a_mask_means_unchanged(hub: Run, file: Any) -> None:
    repo = file({"id": "nas", "guid": GUID, "uri": "/srv/nas", "password": "********"})
    [item] = document(hub("push", "laptop", "--repo", repo, "--dry-run", "--json"))["preview"]["items"]
    assert (item["action"], item["secrets"]) == ("unchanged", [])


def test_a_mask_for_a_client_that_knows_none_is_refused_before_anything_is_queued(
    hub: Run, world: World, file: Any
) -> None:
    peers = PeerStore.open(world.paths.peers)
    peers.update(f"ed25519.{'laptop':x<43}", answers=False)
    peers.flush()
    repo = file({"id": "nas", "guid": GUID, "uri": "/srv/nas", "password": "********"})
    for more in (("--dry-run",), ("--yes",)):
        said = hub("push", "laptop", "--repo", repo, *more, code=1).stderr
        assert "repo 'nas': the password: give the value in full" in said
    assert waiting(world) == []
    hub("push", "--yes", "shy", "--repo", repo)
    assert len(waiting(world)) == 1, "of one that was never here the session decides"


@pytest.mark.parametrize("left", [True, False])
def test_what_a_client_that_says_nothing_does_not_show_is_probably_refused(
    hub: Run, world: World, file: Any, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """``left``: its session ended over the push, and it is not back yet."""
    monkeypatch.setattr(pushes, "WAIT_S", 0.05 if left else 30.0)
    keyid = f"ed25519.{'laptop':x<43}"
    plan = file({"id": "one", "repo": "nas"})
    with world.daemon() as daemon:
        daemon.peers.update(keyid, state=wire.sync.CONNECTION_STATE_CONNECTED, answers=False)

        def session() -> None:
            for push in daemon.pushes.waiting(keyid):
                if left and not push.sent:
                    daemon.pushes.sent(push.id)
                    daemon.peers.update(keyid, state=wire.sync.CONNECTION_STATE_DISCONNECTED)
                elif not left:
                    daemon.pushes.answer(push.id, "refused", [refusal("", "", Why.PROBABLY_REFUSED)])

        daemon.pushes.subscribe(session)
        said = hub("push", "--yes", "laptop", "--plan", plan, code=1)
        assert "'laptop' has probably refused it:\n  its program does not answer pushes" in said.stderr
        assert "Queued" not in said.stdout
        assert ("Push 1 stays in the queue until 'laptop' is back" in said.stderr) == left
        if not left:
            assert "probably refused: its program" in hub("push", "list").stdout


def test_without_a_daemon_it_is_queued_and_can_be_listed_and_dropped(
    hub: Run, world: World, file: Any
) -> None:
    plan = file([{"id": "one", "repo": "nas"}, {"id": "two", "repo": "nas"}])
    said = hub("push", "--yes", "laptop", "--plan", plan, "--delete-plan", "photos").stdout
    assert "Queued as push 1. No daemon runs here" in said
    [listed] = document(hub("push", "list", "--json"))["waiting"]
    assert listed["items"] == ["plan one", "plan two", "delete plan photos"]
    assert "waits for the peer" in hub("push", "list").stdout
    assert "dropped" in hub("push", "drop", "1").stdout
    assert waiting(world) == []
    assert "no push 1" in hub("push", "drop", "1", code=1).stderr
    assert [line["event"] for line in read(world.paths.audit)][-2:] == ["pushed", "push-dropped"]


def test_standard_input_is_a_file_too(hub: Run, world: World) -> None:
    hub("push", "--yes", "laptop", "--plan", "-", input='{"id": "one", "repo": "nas"}')
    assert [push.items for push in waiting(world)] == [("plan one",)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"id": "photos", "repo": "nas", "pahts": []}, "pahts: Plan has no such field"),
        ({"repo": "nas"}, "plan 1 has no id"),
        ({"id": 3}, "plan 1 has no id"),
        ("[1]", "give one object, or a list of objects"),
        ("{,}", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        ([{"id": "one"}, {"id": "one"}], "plan one is given twice"),
        ([], "nothing to push"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(
    hub: Run, world: World, file: Any, content: object, sentence: str
) -> None:
    assert sentence in hub("push", "laptop", "--plan", file(content), code=1).stderr
    assert waiting(world) == []


def test_a_repo_nobody_knows_needs_its_guid(hub: Run, file: Any) -> None:
    repo = file({"id": "new", "uri": "/srv/new"})
    assert "has no guid" in hub("push", "laptop", "--repo", repo, code=1).stderr


def test_an_unknown_peer_or_file_is_a_sentence(hub: Run, file: Any) -> None:
    plan = file({"id": "one"})
    assert "there is no peer 'nobody'" in hub("push", "nobody", "--plan", plan, code=1).stderr
    assert "no such file" in hub("push", "laptop", "--plan", "/nowhere.json", code=1).stderr.lower()


def test_a_peer_may_be_called_like_a_command(hub: Run, world: World, file: Any) -> None:
    assert "there is no peer 'list'" in hub("push", "to", "list", "--plan", file({"id": "x"}), code=1).stderr
    hub("push", "to", "--yes", "laptop", "--plan", file({"id": "x", "repo": "nas"}))
    assert len(waiting(world)) == 1


def test_options_may_stand_before_the_peer(hub: Run, world: World, file: Any) -> None:
    hub("push", "--yes", "--plan", file({"id": "x", "repo": "nas"}), "laptop")
    assert len(waiting(world)) == 1


def test_a_removed_client_takes_its_pushes_along(hub: Run, world: World, file: Any) -> None:
    for name in ("laptop", "shy"):
        hub("push", "--yes", name, "--plan", file({"id": "x", "repo": "nas"}))
    hub("client", "remove", "laptop")
    assert [push.instance_id for push in waiting(world)] == ["shy"]


def test_what_a_client_shows(hub: Run) -> None:
    text = hub("client", "show", "laptop").stdout
    assert "1 repo, 1 plan" in text
    assert "/home/photos" not in text
    assert "/home/photos" in hub("client", "show", "laptop", "--config").stdout
    config = document(hub("client", "show", "laptop", "--config", "--json"))["config"]
    assert config["plans"] == [{"id": "photos", "repo": "nas", "paths": ["/home/photos"]}]


def test_who_shows_nothing_is_said_with_what_to_do_and_where(hub: Run) -> None:
    hint = hub("client", "show", "shy", "--config").stderr
    assert "granted there" in hint
    assert "backrest host grant here" in hint
    assert "there is no hub" in hub("host", "show", "shy", code=1).stderr

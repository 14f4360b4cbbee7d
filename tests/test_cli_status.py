"""``backrest status``: each state of a peer as a person sees it, what to do about it, and what monitoring hears."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from admin_world import World, add_client, add_host
from cli_world import Run, document
from cli_world import here as here
from cli_world import run as run
from cli_world import world as world

from backrest import wire
from backrest.cli import states
from backrest.refusals import text
from backrest.store.peers import PeerStore

LAPTOP = "ed25519." + "B" * 43
STATES = wire.sync.ConnectionState
HOUR_MS = 3600 * 1000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    ("name", "word", "to_do", "code"),
    [
        ("UNKNOWN", "unknown", "has never been here", states.WARNING),
        ("PENDING", "pending", "", states.WARNING),
        ("CONNECTED", "connected", "", states.OK),
        ("DISCONNECTED", "disconnected", "", states.OK),
        ("RETRY_WAIT", "retry wait", "", states.WARNING),
        ("ERROR_AUTH", "authentication error", "`backrest client remove`", states.CRITICAL),
        ("ERROR_PROTOCOL", "protocol error", "update the older", states.CRITICAL),
        ("ERROR_INTERNAL", "internal error", "log of the daemon here", states.CRITICAL),
    ],
)
def test_each_state_has_its_word_its_advice_and_its_verdict(
    world: World, here: Run, name: str, word: str, to_do: str, code: int
) -> None:
    add_client(world, "laptop", LAPTOP)
    with world.daemon() as daemon:
        daemon.peers.update(
            LAPTOP,
            instance_id="laptop",
            role="client",
            state=STATES.Value(f"CONNECTION_STATE_{name}"),
            message="what happened",
            last_heartbeat_ms=now_ms(),
        )
        shown = here("status")
        [row] = [line for line in shown.stdout.splitlines() if line.startswith("laptop")]
        assert f"client  {word}" in " ".join(row.split()).replace("client ", "client  ", 1)
        assert "what happened" in row
        remarks = [line for line in shown.stderr.splitlines() if line.startswith("laptop: ")]
        assert [to_do in line for line in remarks] == ([True] if to_do else [])
        [peer] = document(here("status", "--json"))["peers"]
        assert (peer["state"], peer["statusMessage"]) == (f"CONNECTION_STATE_{name}", "what happened")
        checked = here("status", "--check", code=code).stdout
        assert checked.startswith(states.VERDICTS[code])
        assert (f"laptop: {word} (what happened)" in checked) is (code != states.OK)


@pytest.mark.parametrize(
    ("in_s", "words"), [(90, "next try in "), (0, "next try now"), (-60, "next try was due ")]
)
def test_it_says_when_a_hub_is_dialled_next(world: World, here: Run, in_s: int, words: str) -> None:
    add_host(world)
    with world.daemon() as daemon:
        keyid = daemon.config.current.multihost.known_hosts[0].keyid
        daemon.peers.update(keyid, role="host", message="it is away", next_try_ms=now_ms() + in_s * 1000)
        assert f"it is away ({words}" in here("status").stdout


def test_every_state_of_the_protocol_has_a_word() -> None:
    assert set(states.CONNECTION) == set(STATES.keys())


def test_a_hub_that_refuses_says_how_to_pair_again(world: World, here: Run) -> None:
    add_host(world)
    with world.daemon() as daemon:
        keyid = daemon.config.current.multihost.known_hosts[0].keyid
        message = "the hub refuses: this client is not authorized on the hub: pair it with a token"
        daemon.peers.update(keyid, role="host", state=STATES.CONNECTION_STATE_ERROR_AUTH, message=message)
        shown = here("status")
    assert "`backrest token create`" in shown.stderr
    assert "`backrest host add`" in shown.stderr


def test_states_survive_a_restart_as_disconnected(world: World, here: Run) -> None:
    add_client(world, "laptop", LAPTOP)
    heard = now_ms() - HOUR_MS
    with world.daemon() as daemon:
        daemon.peers.update(
            LAPTOP,
            instance_id="laptop",
            role="client",
            state=2,
            message="last words",
            last_heartbeat_ms=heard,
            known_repos=(wire.sync.RepoMetadata(id="r", guid="g"),),
            warnings=(text("r: skipped"),),
        )
        daemon.peers.flush()
    with world.daemon():
        [peer] = document(here("status", "--json"))["peers"]
        assert peer["state"] == "CONNECTION_STATE_DISCONNECTED"
        assert peer["lastHeartbeatMillis"] == str(heard)
        assert (peer["statusMessage"], peer["warnings"]) == ("last words", ["r: skipped"])
        assert peer["knownRepos"] == [{"id": "r", "guid": "g"}]


def test_warnings_and_refused_operations_are_shown(world: World, here: Run) -> None:
    add_client(world, "laptop", LAPTOP)
    with world.daemon() as daemon:
        daemon.peers.update(
            LAPTOP,
            role="client",
            state=2,
            warnings=(text("repo nas: there is a local one with its guid"),),
            refused=3,
        )
        shown = here("status").stderr
        assert "laptop: repo nas: there is a local one with its guid" in shown
        assert "laptop: 3 operations refused (out of scope or invalid)" in shown
        assert "there is a local one" in here("status", "--check", code=states.WARNING).stdout


def test_a_push_that_waits_is_shown_with_the_way_to_take_it_back(world: World, here: Run) -> None:
    add_client(world, "laptop", LAPTOP)
    with world.daemon() as daemon:
        message = wire.sync.SyncStreamItem.SyncActionSetConfig(plans_to_delete=["old"])
        push = daemon.pushes.add(LAPTOP, "laptop", message)
        shown = here("status").stderr
        assert f"laptop: push {push.id} waits since 0s for the client (delete plan old)" in shown
        assert f"`backrest push drop {push.id}`" in shown
        [peer] = document(here("status", "--json"))["peers"]
        assert [one["items"] for one in peer["queuedPushes"]] == [["delete plan old"]]
        here("push", "drop", str(push.id))
        assert "waits" not in here("status").stderr


def test_a_removed_peer_leaves_no_state(world: World, here: Run) -> None:
    add_client(world, "laptop", LAPTOP)
    add_host(world)
    with world.daemon() as daemon:
        hub = daemon.config.current.multihost.known_hosts[0].keyid
        daemon.peers.update(LAPTOP, instance_id="laptop", role="client", state=2)
        daemon.peers.update(hub, instance_id="hub", role="host", state=2)
        here("client", "remove", "laptop")
        here("host", "remove", "hub")
        assert document(here("status", "--json"))["peers"] == []
        daemon.peers.flush()
    assert PeerStore.open(world.paths.peers).all() == []
    assert json.loads(world.paths.peers.read_text())["peers"] == []


def test_a_peer_that_was_never_heard_of_is_no_emergency_and_one_away_for_long_is(
    world: World, here: Run
) -> None:
    add_client(world, "laptop", LAPTOP)
    with world.daemon() as daemon:
        here("status", "--check", code=states.WARNING)
        daemon.peers.update(LAPTOP, role="client", state=3, last_heartbeat_ms=now_ms() - 37 * HOUR_MS)
        here("status", "--check", code=states.CRITICAL)
        assert "away for long" in here("status").stderr


def test_check_with_json_is_one_document_with_the_verdict(world: World, here: Run) -> None:
    with world.daemon():
        found: Any = document(here("status", "--check", "--json"))
    assert found["check"]["code"] == states.OK
    assert found["instance"]["instanceId"] == "here"


def test_without_a_daemon_it_says_so_and_monitoring_cries(world: World, here: Run, tmp_path: Path) -> None:
    add_client(world, "laptop", LAPTOP)
    assert "does not run" in here("status").stdout
    assert "no daemon runs" in here("status", "--check", code=states.CRITICAL).stdout


def test_two_machines_with_a_clients_key_are_a_warning(world: World, here: Run) -> None:
    add_client(world, "laptop", LAPTOP)
    with world.daemon() as daemon:
        for ago_s, seen in ((3600, True), (25 * 3600, False)):
            twin_ms = int((time.time() - ago_s) * 1000)
            daemon.peers.update(LAPTOP, state=STATES.CONNECTION_STATE_CONNECTED, twin_ms=twin_ms)
            assert ("two machines use the key of this client" in here("status").stderr) == seen
            here("status", "--check", code=states.WARNING if seen else states.OK)


def test_who_was_refused_under_a_clients_name_is_told_beside_the_client(
    world: World, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_client(world, "laptop", LAPTOP)
    with world.daemon() as daemon:
        seen = {LAPTOP: (3, time.time() - 120), "ed25519.gone": (1, 0.0)}
        assert daemon.daemon is not None
        daemon.daemon = replace(daemon.daemon, namesakes=lambda: seen)
        shown = here("status")
        [row] = [line for line in shown.stdout.splitlines() if line.startswith("laptop")]
        assert "another key" not in row
        assert "laptop: a machine of this name with another key was refused 3 times, last 2m" in shown.stderr
        [one] = document(here("status", "--json"))["namesakes"]
        assert (one["peerInstanceId"], one["refused"]) == ("laptop", 3)

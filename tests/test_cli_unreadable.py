"""A file that the disk does not give back: named, fatal only to what needs it, and untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
from admin_world import World, add_client, add_host, operation
from cli_world import Run, document
from cli_world import here as here
from cli_world import run as run
from cli_world import world as world
from store_disk import snapshot, using
from store_faults import FAULTS, Sick

from backrest.cli import states
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore

ALL = (
    "config.json",
    "oplog.jsonl",
    "peers.json",
    "audit.jsonl",
    "pushes.json",
    "shares.json",
    "parked-plans.json",
)
# What a command may do without. (Of the rest, each holds what nearly every command works on.)
SMALL = ("pushes.json", "shares.json", "parked-plans.json")


@pytest.fixture
def filled(here: Run, world: World) -> Run:
    """An instance with something in each of its files, and operations that are far from each other in the log."""
    add_host(world)
    peers = PeerStore.open(world.paths.peers)
    peers.update(add_client(world), instance_id="laptop", role="client")
    peers.flush()
    world.add_repo(origin_instance_id="hub")
    world.add_repo("own", shared=True)
    log = OpLog.open(world.paths.oplog)
    log.add([operation(n, display_message=f"n{n}:" + "x" * 5000) for n in range(1, 6)])
    log.close()
    here("plan", "add", "p", "--repo", "r1", "--path", "/srv")
    here("push", "laptop", "--delete-plan", "x", "--yes")
    here("repo", "share", "own", "--uri-for", "laptop=/mnt/x")
    here("host", "remove", "hub")
    add_host(world)
    for name in ALL:
        assert path_of(world, name).exists()
    return here


def path_of(world: World, name: str) -> Path:
    return world.paths.config_file if name == "config.json" else world.paths.data_dir / name


def sentence(world: World, name: str, fault: str) -> str:
    verb = "open" if fault == "closed" and name.endswith(".jsonl") else "read"
    return f"Cannot {verb} {path_of(world, name)}: {FAULTS[fault].words}."


def everything(world: World) -> dict[str, bytes]:
    both = snapshot(world.paths.data_dir) | snapshot(world.paths.config_file.parent)
    return {name: content for name, content in both.items() if name != "lock"}


@pytest.mark.parametrize("fault", ["read", "closed"])
@pytest.mark.parametrize("name", ALL)
def test_the_daemon_does_not_start_without_it(filled: Run, world: World, name: str, fault: str) -> None:
    before = everything(world)
    with using(Sick(FAULTS[fault], only=name, on=True)):
        said = filled("serve", "--bind-address", "127.0.0.1:0", code=1).stderr
    assert said == f"backrest: {sentence(world, name, fault)}\n"
    assert everything(world) == before


@pytest.mark.parametrize("fault", ["read", "closed"])
@pytest.mark.parametrize("name", SMALL)
def test_status_and_whatever_can_do_without_it_work(filled: Run, world: World, name: str, fault: str) -> None:
    before = path_of(world, name).read_bytes()
    with using(Sick(FAULTS[fault], only=name, on=True)):
        shown = filled("status")
        assert "laptop" in shown.stdout
        assert shown.stderr.count(sentence(world, name, fault)) == 1
        assert document(filled("status", "--json"))["damaged"] == [sentence(world, name, fault)]
        assert name in filled("status", "--check", code=states.CRITICAL).stdout
        for line in (
            "plan list",
            "repo list",
            "repo show own",
            "token create",
            "ops list",
            "client remove laptop",
        ):
            filled(*line.split())
    assert path_of(world, name).read_bytes() == before
    assert "laptop" not in filled("status").stdout


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("pushes.json", "push list"),
        ("pushes.json", "push drop 1"),
        ("pushes.json", "push laptop --delete-plan y --yes"),
        ("shares.json", "repo share own --uri-for laptop=/mnt/y"),
        ("audit.jsonl", "audit"),
        ("audit.jsonl", "audit --verify"),
        ("oplog.jsonl", "ops list"),
        ("oplog.jsonl", "oplog verify"),
        ("oplog.jsonl", "oplog repair"),
        ("oplog.jsonl", "oplog compact"),
        ("peers.json", "status"),
        ("config.json", "token create"),
        ("config.json", "config show"),
    ],
)
def test_what_needs_it_names_it_and_changes_nothing(filled: Run, world: World, name: str, line: str) -> None:
    before = everything(world)
    with using(Sick(FAULTS["read"], only=name, on=True)):
        said = filled(*line.split(), code=1).stderr
    assert f"backrest: {sentence(world, name, 'read')}\n" in said
    assert everything(world) == before


# --- while the daemon runs


def test_running_daemon_refuses_what_it_cannot_read_and_serves_the_rest(filled: Run, world: World) -> None:
    with world.daemon():
        number = document(filled("ops", "list", "--json"))["operations"][2]["id"]
        with using(Sick(FAULTS["read"], only="oplog.jsonl", on=True)):
            for line in ("ops list", f"ops show {number}", "oplog compact"):
                said = filled(*line.split(), code=1).stderr
                assert sentence(world, "oplog.jsonl", "read") in said
            for line in ("status", "token create", "repo list"):
                filled(*line.split())
            filled("ops", "import", "-", input=IMPORTED)  # nothing need be read for that
        assert len(document(filled("ops", "list", "--json"))["operations"]) == 6
        with using(Sick(FAULTS["read"], only="config.json", on=True)):
            before = world.paths.config_file.read_bytes()
            for line in ("token create --label late", "client remove laptop", "repo unshare own"):
                assert sentence(world, "config.json", "read") in filled(*line.split(), code=1).stderr
            for line in ("status", "token list", "ops list", "client list"):  # what is in force is in memory
                filled(*line.split())
            assert world.paths.config_file.read_bytes() == before
        filled("token", "create", "--label", "late")
        filled("client", "remove", "laptop")


IMPORTED = '{"repoId": "r1", "planId": "p", "unixTimeStartMs": "1000", "status": "STATUS_SUCCESS"}\n'

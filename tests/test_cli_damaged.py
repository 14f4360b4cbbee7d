"""A small state file that is damaged: named, fatal to no command that can do without it, and never replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_world import World, add_client, add_host
from cli_world import Run, document
from cli_world import here as here
from cli_world import run as run
from cli_world import world as world

from backrest.cli import states

RUBBISH = b'{"plans": [\n}'
FILES = ("parked-plans.json", "pushes.json", "shares.json", "waiting-repos.json")


@pytest.fixture(params=FILES)
def damaged(request: pytest.FixtureRequest, here: Run, world: World) -> Iterator[Path]:
    """An instance with a hub, a client, a shared repository and a plan, and one file that nobody can read."""
    add_host(world)
    add_client(world)
    world.add_repo(shared=True)
    here("plan", "add", "p", "--repo", "r1", "--path", "/srv")
    path = world.paths.data_dir / str(request.param)
    path.write_bytes(RUBBISH)
    yield path
    assert path.read_bytes() == RUBBISH, "it is still there to be mended"


def test_status_works_and_says_what_to_do(damaged: Path, here: Run) -> None:
    shown = here("status")
    assert "laptop" in shown.stdout
    assert f"{damaged}, line 2: not JSON" in shown.stderr
    assert "repair it, or move it away to do without" in shown.stderr
    assert shown.stderr.count(damaged.name) == 1
    [sentence] = document(here("status", "--json"))["damaged"]
    assert str(damaged) in sentence
    assert damaged.name in here("status", "--check", code=states.CRITICAL).stdout


@pytest.mark.parametrize(
    "line",
    [
        "plan list",
        "plan show p",
        "plan set p --keep-last 3",
        "plan remove p",
        "repo list",
        "repo show r1",
        "host list",
        "host grant hub none",
        "host remove hub",
        "host show hub",
        "client list --all",
        "client show laptop",
        "client permissions laptop none",
        "client remove laptop",
        "token create",
        "ops list",
        "config show",
        "identity show",
    ],
)
def test_what_can_do_without_the_file_works(damaged: Path, here: Run, line: str) -> None:
    here(*line.split())


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("parked-plans.json", "plan list"),
        ("parked-plans.json", "plan show nope"),
        ("pushes.json", "push list"),
        ("pushes.json", "push drop 1"),
        ("pushes.json", "push laptop --delete-plan x --yes"),
        ("pushes.json", "client remove laptop"),
        ("shares.json", "repo show r1"),
        ("shares.json", "repo share r1 --uri-for laptop=/mnt/x"),
        ("shares.json", "client remove laptop"),
    ],
)
def test_what_would_use_the_file_names_it(here: Run, world: World, file: str, line: str) -> None:
    add_client(world)
    world.add_repo(shared=True)
    path = world.paths.data_dir / file
    path.write_bytes(RUBBISH)
    fails = line.startswith(("plan show", "push", "repo share"))
    said = here(*line.split(), code=int(fails)).stderr
    assert f"backrest: {path}, line 2: not JSON" in said
    assert path.read_bytes() == RUBBISH


def test_a_hub_whose_plans_would_be_parked_stays_while_they_could_not_be(here: Run, world: World) -> None:
    add_host(world)
    world.add_repo(origin_instance_id="hub")
    here("plan", "add", "p", "--repo", "r1", "--path", "/srv")
    path = world.paths.parked_plans
    path.write_bytes(RUBBISH)
    assert str(path) in here("host", "remove", "hub", code=1).stderr
    assert [plan["id"] for plan in document(here("plan", "list", "--json"))["plans"]] == ["p"]
    assert [one["instanceId"] for one in document(here("host", "list", "--json"))["hosts"]] == ["hub"]


def test_the_daemon_does_not_start_with_it(damaged: Path, here: Run) -> None:
    """It would write over it with the next change."""
    said = here("serve", "--bind-address", "127.0.0.1:0", code=1).stderr
    assert f"backrest: {damaged}, line 2: not JSON" in said
    assert "move it away" in said

"""A change and its line in the audit log: both, or no change, or the change and a word that the line is missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
from admin_world import World, add_client, add_host, operation
from cli_world import Run, here, run, world
from store_disk import full_disk, snapshot, using

from backrest.admin.registry import METHODS
from backrest.errors import StorageError
from backrest.store import audit, syscalls
from backrest.store.oplog import OpLog
from backrest.store.removal import ParkedPlans, Removal
from backrest.store.shares import Shares
from backrest.store.waiting import WaitingRepos, Wanted
from backrest.wire import config

__all__ = ["here", "run", "world"]  # fixtures

SOURCES = Path(__file__).parent.parent / "backrest" / "admin"
GONE = "ed25519." + "G" * 43  # a client that was removed, and whose history is kept
MISSED = "it is done, but the audit log misses it: Cannot append to"


class NoRoomFor(syscalls.Disk):
    """No room for one file, and enough for all others."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.name in os.readlink(f"/proc/self/fd/{fd}"):
            raise full_disk()
        return super().write(fd, data, offset)


def call(world: World, change: str, **args: Any) -> Any:
    method = change.partition(" ")[0]
    if METHODS[method].reports:
        return world.stream(method, **args)[0]
    return world.call(method, **args)


def furnished(world: World) -> World:
    """Something for each use case to change."""
    add_host(world)
    add_client(world)
    world.call("CreateToken", label="old")
    world.add_repo("r1")
    world.call("AddPlan", plan={"id": "p1", "repo": "r1", "paths": ["/srv"]})

    def more(draft: config.Config) -> None:
        draft.repos.add(id="r2", uri="/srv/r2", guid="b" * 64, shared=True)
        draft.repos.add(id="r3", uri="/srv/r3", guid="c" * 64, origin_instance_id="hub")
        draft.multihost.pairing_tokens.add(label="expired", secret="5f" * 32, expires_at_unix=1)

    world.config().transform(more)
    world.stream("Push", **pushed("p9"))
    log = OpLog.open(world.paths.oplog)
    log.apply(GONE, [operation(1, id=1, flow_id=1, modno=1)])
    log.add([operation(2, snapshot_id="5" * 64)])
    log.close()
    wanted = Wanted("c" * 64, "hub", "/srv/moved", (), ())
    WaitingRepos.open(world.paths.waiting_repos).settle({wanted.guid: wanted})
    parked = config.Plan(id="p0", repo="r0")
    ParkedPlans.open(world.paths.parked_plans).park(
        Removal(config.Multihost.Peer(), (config.Repo(id="r0"),), (parked,))
    )
    return world


def pushed(plan_id: str) -> dict[str, Any]:
    return {"ident": "laptop", "repos": [], "plans": [], "repos_to_delete": [], "plans_to_delete": [plan_id]}


def waiting_since(world: World) -> str:
    return str(world.call("ShowRepo", repo_id="r3")["waiting"]["sinceMillis"])


def keyid(world: World) -> str:
    return str(world.call("ShowIdentity")["keyId"])


CHANGES: dict[str, Callable[[World], dict[str, Any]]] = {
    "CreateToken": lambda world: {"label": "new"},
    "RevokeToken": lambda world: {"label": "old"},
    "PruneTokens": lambda world: {},
    "AddHost": lambda world: {
        "token": f"ed25519.{'C' * 43}:{'5e' * 32}#other",
        "url": "http://o",
        "wait": False,
    },
    "GrantHost": lambda world: {"ident": "hub", "permissions": ["read-config=*"]},
    "RemoveHost": lambda world: {"ident": "hub"},
    "SetClientPermissions": lambda world: {"ident": "laptop", "permissions": ["read-config=*"]},
    "RemoveClient": lambda world: {"ident": "laptop"},
    "RemoveClient (archived)": lambda world: {"ident": GONE, "purge": True},
    "ShareRepo": lambda world: {"repo_id": "r1", "uris": ["laptop=/mnt/r1"], "wait": False},
    "UnshareRepo": lambda world: {"repo_id": "r2"},
    "AcceptRepo": lambda world: {"repo_id": "r3", "since_millis": waiting_since(world)},
    "RemoveRepo": lambda world: {"repo_id": "r2"},
    "SetRepo": lambda world: {"repo_id": "r2", "changes": {"uri": "/srv/new"}, "check": False},
    "AddPlan": lambda world: {"plan": {"id": "p2", "repo": "r1", "paths": ["/srv"]}},
    "SetPlan": lambda world: {"plan_id": "p1", "changes": {"paths": ["/home"]}},
    "SetTolerance": lambda world: {"plan_id": "p1", "seconds": 60},
    "SetTolerance (client)": lambda world: {"client": "laptop", "seconds": 60},
    "ConfirmPlan": lambda world: {"plan_id": "p1"},
    "RemovePlan": lambda world: {"plan_id": "p1"},
    "RemovePlan (parked)": lambda world: {"plan_id": "p0"},
    "ImportConfig": lambda world: {"text": '{"version": 6, "modno": 1}'},
    "RotateIdentity": lambda world: {"keyid": keyid(world)},
    "Push": lambda world: pushed("p8"),
    "DropPush": lambda world: {"push_id": 1},
}


def state(world: World) -> dict[str, bytes]:
    """All that a use case could have changed, but for what a mere look may leave (locks, caches)."""
    files = snapshot(world.paths.config_file.parent.parent)
    return {
        name: data for name, data in files.items() if name.rpartition("/")[2] not in ("lock", "peers.json")
    }


@pytest.mark.parametrize("daemon", [False, True], ids=["files", "socket"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_whose_line_finds_no_room_is_made_and_says_so(
    world: World, here: Run, change: str, daemon: bool, caplog: pytest.LogCaptureFixture
) -> None:
    furnished(world)
    arguments = CHANGES[change](world)
    before, lines = state(world), world.audit_events()
    with world.daemon() if daemon else nullcontext(), using(NoRoomFor("audit.jsonl")):
        result = call(world, change, **arguments)
    [sentence] = result["unfinished"]
    assert sentence.startswith(MISSED)
    assert sentence.endswith("no space is left on the disk.")
    assert state(world) != before
    assert world.audit_events() == lines
    assert audit.verify(world.paths.audit) == len(lines)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert logged == ([sentence] if daemon else []), "the command says it by itself"


@pytest.mark.parametrize("daemon", [False, True], ids=["files", "socket"])
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_changed_where_the_audit_log_is_known_to_take_no_line(
    world: World, here: Run, change: str, daemon: bool
) -> None:
    furnished(world)
    arguments = CHANGES[change](world)
    with ExitStack() as stack:
        if daemon:
            stack.enter_context(world.daemon())
            world.paths.audit.rename(world.paths.audit.with_suffix(".1"))  # as logrotate does
        else:
            with world.paths.audit.open("ab") as file:
                file.write(b"no line\nof ours\n")
        before = state(world)
        with pytest.raises(StorageError, match=r"audit\.jsonl"):
            call(world, change, **arguments)
        assert state(world) == before


def test_the_command_ends_well_and_prints_what_is_told_only_once(here: Run, world: World) -> None:
    with using(NoRoomFor("audit.jsonl")):
        made = here("token", "create", "--label", "new")
        [token] = world.config().current.multihost.pairing_tokens
        assert token.secret in made.stdout
        assert f"backrest: {MISSED}" in made.stderr
        revoked = here("token", "revoke", "new")
        assert f"backrest: {MISSED}" in revoked.stderr
    assert not world.config().current.multihost.pairing_tokens
    assert MISSED not in here("token", "create").stderr, "there is room again"


def test_a_start_goes_on_where_the_first_line_finds_no_room(world: World, run: Run) -> None:
    with using(NoRoomFor("audit.jsonl")):
        assert MISSED in run("init", "--instance-id", "here").stderr
    assert world.config().current.instance == "here"


def test_what_cannot_be_tidied_up_after_a_change_is_said(world: World, here: Run) -> None:
    furnished(world)
    laptop = add_client(world, "desktop", "ed25519." + "D" * 43)
    Shares.open(world.paths.shares).set("b" * 64, {laptop: "/mnt/r2"})
    with using(NoRoomFor("shares.json")):
        result = call(world, "RemoveRepo", repo_id="r2")
    [sentence] = result["unfinished"]
    assert sentence.startswith("it is done, but what belonged to it was not thrown away: Cannot write")
    assert world.audit_events()[-1] == "repo-removed"
    call(world, "RemovePlan", plan_id="p1")
    assert "unfinished" not in call(world, "RemoveRepo", repo_id="r1")
    assert Shares.open(world.paths.shares).of_repo("b" * 64) == {}


def test_a_key_that_stays_in_a_backup_after_a_rotation_is_said(world: World, here: Run) -> None:
    furnished(world)
    bad = world.paths.config_file.with_name("config.json.bak.2024-01-01-00-00-00")
    bad.mkdir()
    result = call(world, "RotateIdentity", keyid=keyid(world))
    [sentence] = result["unfinished"]
    assert sentence.startswith(
        "the key is replaced, but the old one is still in backups of the configuration"
    )
    assert keyid(world) == result["keyId"]


def test_no_use_case_goes_around_the_rule() -> None:
    found = [
        path.name
        for path in SOURCES.rglob("*.py")
        if path.name != "context.py"
        and any(words in path.read_text() for words in (".audit.append", ".config.transform("))
    ]
    assert not found

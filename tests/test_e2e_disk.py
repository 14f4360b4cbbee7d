"""Real daemons on disks that are full or may not be changed, and a second daemon where there is one already."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from admin_world import GUID
from processes import BACKREST, Daemon, Machine
from store_disk import largest_file, snapshot
from test_store_faults import lines

pytestmark = pytest.mark.timeout(300)

# Root may write where nobody may. A program that is begun like this has lost that privilege (CAP_DAC_OVERRIDE and
# CAP_DAC_READ_SEARCH, taken from its bounding set), and keeps to the modes of its own files.
_KEEPS_TO_MODES = """
import ctypes, os, sys
for capability in (1, 2):
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
KEEPS_TO_MODES = [sys.executable, "-c", _KEEPS_TO_MODES] if os.geteuid() == 0 else []


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Machine]:
    """An instance with a hub, from which it has a repository with a plan on it, a client, and a repository of its own
    that the client is to have; both others are away."""
    made = Machine(tmp_path, "here", [*KEEPS_TO_MODES, *BACKREST])
    made.ok("init", "--instance-id", "here")
    path = made.directory / "config.json"
    whole = json.loads(path.read_text())
    whole["repos"] = [
        {"id": "nas", "guid": GUID, "uri": "/srv/nas", "password": "p", "originInstanceId": "hub"},
        {
            "id": "own",
            "guid": GUID[::-1].replace("a", "b"),
            "uri": "/srv/own",
            "password": "p",
            "shared": True,
        },
    ]
    whole["plans"] = [{"id": "photos", "repo": "nas", "paths": ["/srv"], "schedule": {"disabled": True}}]
    whole["sync"]["knownHosts"] = [
        {"instanceId": "hub", "keyid": "ed25519." + "A" * 43, "instanceUrl": "http://127.0.0.1:1"}
    ]
    whole["sync"]["authorizedClients"] = [
        {
            "instanceId": "laptop",
            "keyid": "ed25519." + "B" * 43,
            "permissions": [{"type": 1, "scopes": ["*"]}],
        }
    ]
    path.write_text(json.dumps(whole))
    made.ok("ops", "import", "-", input=lines("a", 3))
    made.ok("push", "--yes", "laptop", "--delete-plan", "first")
    made.ok("repo", "share", "own", "--uri-for", "laptop=/mnt/first")
    yield made
    for directory in (made.directory, made.directory / "data"):
        directory.chmod(0o700)


# What changes each kind of file, and a part of the file's name.
CHANGES = {
    "oplog": ("ops", "import", "-"),
    ".oplog.jsonl": ("oplog", "compact"),
    "config.json": ("token", "create", "--label", "new"),
    "pushes.json": ("push", "--yes", "laptop", "--delete-plan", "old"),
    "shares.json": ("repo", "share", "own", "--uri-for", "laptop=/mnt/own"),
    "parked-plans.json": ("host", "remove", "hub"),
}


def change(made: Machine, file: str) -> None:
    made.ok(*CHANGES[file], input=lines("b", 2))


def refused(made: Machine, file: str, words: str) -> None:
    said = made.refused(*CHANGES[file], input=lines("b", 2))
    [sentence] = [line for line in said.splitlines() if line.startswith("backrest: ")]
    assert file in sentence, said
    assert sentence.endswith(f": {words}."), sentence


def seen(made: Machine) -> list[Any]:
    """All that the commands show of what is kept."""
    asked = (
        ("ops", "list"),
        ("token", "list"),
        ("push", "list"),
        ("repo", "show", "own"),
        ("plan", "list"),
        ("host", "list"),
    )
    shown = [made.json(*one) for one in asked]
    for host in shown[-1]["hosts"]:
        for name in ("state", "statusMessage", "sinceMillis", "nextTryMillis"):
            host.pop(name, None)
    return shown


def kept(made: Machine) -> dict[str, bytes]:
    """All files but the states of the peers, which come and go."""
    return {
        name: content for name, content in snapshot(made.directory).items() if not name.endswith("peers.json")
    }


def lock(made: Machine) -> None:
    """No name may come or go in its directories."""
    for directory in (made.directory, made.directory / "data"):
        directory.chmod(0o500)


def unlock(made: Machine) -> None:
    for directory in (made.directory, made.directory / "data"):
        directory.chmod(0o700)


def ended_in_order(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    assert not [line for line in daemon.log if "Traceback" in line or "internal error" in line]


def test_daemon_on_a_disk_without_any_room_refuses_every_change_and_goes_on(here: Machine) -> None:
    with here.serving() as daemon:
        shown, files = seen(here), kept(here)
        with largest_file(0, daemon.process.pid):
            for file in CHANGES:
                refused(here, file, "file too large")
            assert seen(here) == shown
            assert kept(here) == files
        for file in CHANGES:
            change(here, file)
        after = seen(here)
        ended_in_order(daemon)
    assert seen(here) == after
    assert here.json("oplog", "verify")["badLines"] == 0
    here.ok("audit", "--verify")


def test_daemon_whose_directories_may_no_longer_be_changed_goes_on(here: Machine) -> None:
    with here.serving() as daemon:
        shown, files = seen(here), kept(here)
        lock(here)
        for file in [*CHANGES][1:]:
            refused(here, file, "permission denied")
        assert seen(here) == shown
        assert kept(here) == files
        change(here, "oplog")  # its file is open, and may be written to
        assert len(here.operations()) == 5
        unlock(here)
        for file in [*CHANGES][1:]:
            change(here, file)
        lock(here)
        ended_in_order(daemon)
        unlock(here)
    with here.serving() as daemon:  # what it could not remove does not keep the next one from starting
        assert len(here.operations()) == 5
        ended_in_order(daemon)


def test_commands_in_a_directory_that_may_not_be_changed(here: Machine) -> None:
    files = kept(here)
    lock(here)
    for file in [*CHANGES][1:]:
        refused(here, file, "permission denied")
    assert here.json("oplog", "verify")["badLines"] == 0
    assert kept(here) == files
    change(here, "oplog")
    assert len(here.operations()) == 5
    unlock(here)
    for file in [*CHANGES][1:]:
        change(here, file)


def test_daemon_does_not_start_where_it_may_change_nothing(here: Machine) -> None:
    files = kept(here)
    lock(here)
    *_, sentence = here.refused("serve", "--bind-address", "127.0.0.1:0").splitlines()
    assert sentence == f"backrest: cannot listen on {here.directory}/data/admin.sock: Permission denied"
    assert kept(here) == files


# --- a second daemon


def answers(url: str) -> int:
    """The status of what is asked at a daemon's sync port, which has nothing but the sync path."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Machine]:
    """An instance with nobody to talk to, so that nothing in its files changes by itself."""
    made = Machine(tmp_path, "plain", [*KEEPS_TO_MODES, *BACKREST])
    made.ok("init", "--instance-id", "plain")
    made.ok("ops", "import", "-", input=lines("a", 3))
    yield made
    unlock(made)


@pytest.mark.parametrize("locked", [False, True], ids=["", "in a directory that may not be changed"])
def test_second_daemon_on_a_data_directory_is_refused_and_leaves_the_first_alone(
    plain: Machine, locked: bool
) -> None:
    data = plain.directory / "data"
    with plain.serving() as first:
        assert plain.json("status")["daemon"]["pid"] == first.process.pid, "its socket is there, too"
        if locked:
            lock(plain)
        files = snapshot(plain.directory)
        names = sorted(os.listdir(data))
        said = plain.refused("serve", "--bind-address", "127.0.0.1:0")
        assert said == (
            f"backrest: Another backrest process (pid {first.process.pid}) works on {data}: stop it, or give "
            "another --data-dir.\n"
        )
        assert snapshot(plain.directory) == files
        assert sorted(os.listdir(data)) == names
        assert plain.json("status")["daemon"]["pid"] == first.process.pid
        assert answers(first.url) == 404
        plain.ok("ops", "import", "-", input=lines("b", 2))
        assert len(plain.operations()) == 5
        unlock(plain)
        ended_in_order(first)


def test_second_daemon_on_a_port_is_refused_and_leaves_the_first_alone(
    tmp_path: Path, plain: Machine
) -> None:
    other = Machine(tmp_path, "other")
    other.ok("init")
    with plain.serving() as first:
        address = urlsplit(first.url).netloc
        files, others = snapshot(plain.directory), kept(other)
        said = other.refused("serve", "--bind-address", address)
        assert said == (
            f"backrest: cannot listen on {address}: the address is in use (is another backrest running?)\n"
        )
        assert snapshot(plain.directory) == files
        assert {name: kept(other)[name] for name in others if name != "data/lock"} == {
            name: others[name] for name in others if name != "data/lock"
        }
        assert answers(first.url) == 404
        assert plain.json("status")["daemon"]["pid"] == first.process.pid
        with other.serving() as second:  # at another port, beside it
            assert answers(second.url) == answers(first.url) == 404
            ended_in_order(second)
        ended_in_order(first)

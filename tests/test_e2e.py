"""The main job, with real processes, a real restic and a real Caddy, typed as in the README."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from caddy import running_caddy
from processes import Machine, connected


def summary(operations: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Instance, kind and status of each, in order."""
    return [
        (op["instanceId"], next((key for key in op if key.startswith("operation")), ""), op["status"])
        for op in operations
    ]


BACKED_UP = [
    ("laptop", "operationBackup", "STATUS_SUCCESS"),
    ("laptop", "operationIndexSnapshot", "STATUS_SUCCESS"),
]


@pytest.fixture
def hub(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, "hub")
    machine.ok("init", "--instance-id", "hub")
    return machine


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, "laptop")
    machine.ok("init", "--instance-id", "laptop")
    (machine.directory / "photos").mkdir()
    (machine.directory / "photos" / "one.txt").write_text("one\n")
    (machine.directory / "password").write_text("correct-horse\n")
    return machine


def add_plan(machine: Machine) -> None:
    here = machine.directory
    machine.ok("repo", "add", "nas", "--uri", str(here / "repo"), "--password-file", str(here / "password"))
    machine.ok("plan", "add", "photos", "--repo", "nas", "--path", str(here / "photos"))


def history(machine: Machine, *args: str) -> dict[str, tuple[str, str]]:
    """Of a client, by its own ids: modno and status."""
    return {op.get("originalId", op["id"]): (op["modno"], op["status"]) for op in machine.operations(*args)}


def test_the_first_backup_of_a_client_is_seen_at_the_hub(hub: Machine, laptop: Machine) -> None:
    with hub.serving() as daemon:
        token = hub.json("token", "create", "--label", "laptop")["token"]
        said = laptop.run("host", "add", token, "--url", daemon.url)
        assert said.returncode == 0
        assert "aired" in said.stdout + said.stderr
        with laptop.serving():
            add_plan(laptop)
            laptop.ok("backup", "photos")
            found = hub.until_operations(lambda ops: summary(ops) == BACKED_UP)
            assert [op["snapshotId"] for op in found] == [found[0]["snapshotId"]] * 2
            assert history(hub) == history(laptop)
            assert connected(hub.json("status"))
            assert connected(laptop.json("status"))
    config = json.loads((laptop.directory / "config.json").read_text())
    assert "initialPairingSecret" not in json.dumps(config)


def test_a_failed_backup_arrives_with_its_reason(hub: Machine, laptop: Machine) -> None:
    with hub.serving() as daemon:
        token = hub.json("token", "create")["token"]
        laptop.ok("host", "add", token, "--url", daemon.url)
        add_plan(laptop)
        (laptop.directory / "photos" / "one.txt").unlink()
        (laptop.directory / "photos").rmdir()
        assert "does not exist" in laptop.refused("backup", "photos")
        with laptop.serving():
            [op] = hub.until_operations(lambda ops: len(ops) == 1)
    assert op["status"] == "STATUS_ERROR"
    assert "no such file or directory" in op["displayMessage"]


def operations_file(path: Path, count: int) -> Path:
    draw = random.Random(count)
    with path.open("w") as file:
        for n in range(count):
            op = {
                "repoId": "nas",
                "repoGuid": "a" * 64,
                "planId": "photos",
                "unixTimeStartMs": str(1_700_000_000_000 + n),
                "unixTimeEndMs": str(1_700_000_001_000 + n),
                "status": "STATUS_SUCCESS",
                "displayMessage": f"{draw.random()}",
                "operationBackup": {},
            }
            file.write(json.dumps(op) + "\n")
    return path


@pytest.mark.parametrize("victim", ["hub", "laptop"])
def test_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(
    hub: Machine, laptop: Machine, victim: str, tmp_path: Path
) -> None:
    many = operations_file(tmp_path / "many.jsonl", 3000)
    daemons = {"hub": hub.start()}
    port = daemons["hub"].url.rpartition(":")[2]
    token = hub.json("token", "create")["token"]
    laptop.ok("host", "add", token, "--url", daemons["hub"].url)
    laptop.ok("ops", "import", str(many))
    daemons["laptop"] = laptop.start()
    try:
        for round_ in range(3):
            # In the middle of the first sync, then in the middle of live changes.
            hub.until_operations(lambda ops, held=round_: len(ops) > held * 1000)  # type: ignore[misc]
            daemons[victim].kill()
            daemons[victim] = hub.start(bind=f"127.0.0.1:{port}") if victim == "hub" else laptop.start()
            laptop.ok("ops", "import", str(operations_file(tmp_path / "few.jsonl", 20)))
        mine = history(laptop)
        assert len(mine) == 3060
        hub.until_operations(lambda ops: len(ops) == 3060)
        assert history(hub) == mine
    finally:
        for daemon in daemons.values():
            daemon.kill()


@pytest.mark.parametrize("daemon_runs", [False, True], ids=["files", "daemon"])
def test_a_mistyped_address_does_not_break_a_pairing_that_works(
    hub: Machine, laptop: Machine, daemon_runs: bool
) -> None:
    def url() -> str:
        return str(laptop.json("host", "list")["hosts"][0]["instanceUrl"])

    with hub.serving() as daemon:
        port = daemon.url.rpartition(":")[2]
        laptop.ok("host", "add", hub.json("token", "create")["token"], "--url", daemon.url)
        with laptop.serving() if daemon_runs else contextlib.nullcontext():
            if daemon_runs:
                laptop.until_status(connected)
            token = hub.json("token", "create")["token"]
            said = laptop.refused(
                "host", "add", token, "--url", "http://127.0.0.1:1", "--grant", "read-config"
            )
            assert f"Nothing was changed: the hub stays at {daemon.url}" in said
            assert url() == daemon.url
            assert laptop.json("host", "list")["hosts"][0]["grants"] != ["read-config"]
            assert not laptop.json("host", "list")["hosts"][0]["pairing"]
            if daemon_runs:
                laptop.until_status(connected)
            laptop.ok("host", "add", token, "--url", f"http://localhost:{port}")
            assert url() == f"http://localhost:{port}"
            laptop.ok("host", "add", token, "--url", "http://127.0.0.1:1", "--no-wait")
            assert url() == "http://127.0.0.1:1"


def test_sigterm_ends_within_its_five_seconds_and_cleanly(hub: Machine, laptop: Machine) -> None:
    with hub.serving() as daemon:
        token = hub.json("token", "create")["token"]
        laptop.ok("host", "add", token, "--url", daemon.url)
        with laptop.serving() as other:
            laptop.until_status(connected)
            laptop.ok("host", "grant", "hub", "read-operations=*")
            daemon.until_logged("laptop disconnected: it ended the session")  # under the old terms
            other.until_logged("connected to hub")
            other.until_logged("connected to hub")
            assert other.stop() == 0
        [peer] = hub.until_status(lambda status: not connected(status))["peers"]
        assert peer["state"] == "CONNECTION_STATE_DISCONNECTED"
        assert peer["statusMessage"] == "", "an end, and not an accident"
        assert daemon.stop() == 0
        assert not (hub.directory / "data" / "admin.sock").exists()


def test_sighup_reads_the_configuration_again_and_keeps_the_old_when_it_is_bad(hub: Machine) -> None:
    with hub.serving() as daemon:
        path = hub.directory / "config.json"
        good = path.read_text()
        path.write_text("{ not json")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("not read again")
        path.write_text(good)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("read again: as before")


def test_a_second_daemon_is_refused_and_names_the_first(hub: Machine) -> None:
    with hub.serving() as daemon:
        assert str(daemon.process.pid) in hub.refused("serve", "--bind-address", "127.0.0.1:0")


def test_a_port_that_is_taken_is_one_sentence(hub: Machine, laptop: Machine) -> None:
    with hub.serving() as daemon:
        address = daemon.url.removeprefix("http://")
        assert address in laptop.refused("serve", "--bind-address", address)


async def test_through_a_real_caddy_and_its_reload_and_restart(hub: Machine, laptop: Machine) -> None:
    in_thread = trio.to_thread.run_sync
    with hub.serving() as daemon:
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        async with running_caddy((host, int(port))) as caddy:
            token = hub.json("token", "create")["token"]
            laptop.env["SSL_CERT_FILE"] = str(caddy.ca_file)
            await in_thread(laptop.ok, "host", "add", token, "--url", caddy.url)
            with laptop.serving() as other:
                await in_thread(add_plan, laptop)
                for disturb in (None, caddy.reload, caddy.restart):
                    if disturb is not None:
                        await disturb()
                    await in_thread(other.until_logged, "connected to hub")
                    await in_thread(laptop.ok, "backup", "photos")
                    ops = await in_thread(hub.until_operations, lambda ops: history_is(ops, laptop))
                assert summary(ops)[:2] == BACKED_UP
                assert len(ops) == 6


def history_is(ops: list[dict[str, Any]], client: Machine) -> bool:
    return {op["originalId"]: op["modno"] for op in ops} == {
        op["id"]: op["modno"] for op in client.operations()
    }


@pytest.mark.parametrize("damage", ["config", "oplog", "peers", "lock is a directory"])
def test_damaged_files_are_one_sentence_and_stay_as_they_are(hub: Machine, damage: str) -> None:
    data = hub.directory / "data"
    if damage == "config":
        path, text = hub.directory / "config.json", '{"version": 6, "instance":'
    elif damage == "oplog":
        path, text = data / "oplog.jsonl", 'not json\n{"id":"1"}\n'
    elif damage == "peers":
        path, text = data / "peers.json", "\x00\x00"
    else:
        path = data / "lock"
        path.unlink(missing_ok=True)
        path.mkdir()
        text = ""
    if text:
        path.write_text(text)
    if damage == "peers":  # a cache of states: set aside, and work goes on
        hub.ok("status")
        return
    said = hub.refused("serve", "--bind-address", "127.0.0.1:0")
    assert len(said.strip().splitlines()) <= 2
    if text:
        assert path.read_text() == text
        assert os.fspath(path.name) in said

"""What happens around a backup while it runs, with real processes and a real restic that is held as long as needed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_world import PASSWORD, restic
from processes import BACKREST, Machine, connected

from backrest.admin import client
from backrest.store.paths import Paths

pytestmark = pytest.mark.timeout(300)


def machine(directory: Path, name: str) -> Machine:
    made = Machine(directory, name)
    made.ok("init", "--instance-id", name)
    return made


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    """It backs up a file for as long as one lets it: of a terabyte of zeros nothing is stored."""
    made = machine(tmp_path, "laptop")
    here = made.directory
    (here / "photos").mkdir()
    with (here / "photos" / "long.raw").open("wb") as file:
        file.truncate(1 << 40)
    (here / "password").write_text(PASSWORD)
    made.ok("repo", "add", "nas", "--uri", str(here / "repo"), "--password-file", str(here / "password"))
    made.ok("plan", "add", "photos", "--repo", "nas", "--path", str(here / "photos"))
    return made


@contextlib.contextmanager
def backing_up(made: Machine) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """``backrest backup photos`` and its operation, once restic is at work."""
    process = subprocess.Popen(
        [*BACKREST, "backup", "photos"],
        env=made.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        [operation] = made.until_operations(
            lambda ops: any(op["status"] == "STATUS_INPROGRESS" and progress(op) for op in ops)
        )
        yield process, operation
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate()


def progress(operation: dict[str, Any]) -> bool:
    return bool(operation.get("operationBackup", {}).get("lastStatus"))


def cancel(made: Machine, operation_id: str) -> tuple[int, dict[str, Any]]:
    """As a script does it; the HTTP status and the answer."""
    connection = client.connect(Paths(made.directory / "config.json", made.directory / "data"))
    assert connection is not None
    with connection:
        connection.request(
            "POST",
            "/v1.Backrest/Cancel",
            json.dumps({"operationId": operation_id}),
            {"content-type": "application/json"},
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_a_backup_that_is_cancelled_by_the_api_says_so_everywhere(laptop: Machine) -> None:
    with laptop.serving() as daemon, backing_up(laptop) as (process, operation):
        assert cancel(laptop, operation["id"]) == (200, {})
        said = process.communicate()
        assert process.returncode == 1
        assert said[0] == ""
        assert "the backup of 'photos' ended as cancelled: " in said[1]
        [ended] = laptop.operations()
        assert ended["status"] == "STATUS_USER_CANCELLED"
        assert ended["displayMessage"] in said[1]
        assert int(ended["unixTimeEndMs"]) >= int(ended["unixTimeStartMs"])
        assert "snapshotId" not in ended
        daemon.until_logged(rf"plan photos: backup \(operation {ended['id']}\) ended as user cancelled")
        assert "cancelled" in laptop.ok("ops", "list", "--status", "cancelled")
        status, answer = cancel(laptop, operation["id"])
        assert (status, answer["code"]) == (404, "not_found"), "it has ended"
        assert daemon.stop() == 0
        assert not [line for line in daemon.log if "Traceback" in line or " ERROR " in line]
    assert restic(laptop.directory / "repo", "list", "locks", "--no-lock") == "", "restic ended in order"


def test_a_backup_goes_on_while_the_session_with_the_hub_begins_anew(tmp_path: Path, laptop: Machine) -> None:
    """A change of permissions, on either side, ends the session; what runs is nobody's business but the engine's."""
    hub = machine(tmp_path, "hub")
    with hub.serving() as on_hub, laptop.serving() as on_laptop:
        token = hub.json("token", "create")["token"]
        laptop.ok("host", "add", token, "--url", on_hub.url)
        on_laptop.until_logged("connected to hub")
        with backing_up(laptop) as (process, running):
            hub.until_operations(lambda ops: [op["status"] for op in ops] == ["STATUS_INPROGRESS"])
            laptop.ok("host", "grant", "hub", "read-operations=plan:photos", "receive-shared-repos")
            on_laptop.until_logged("connected to hub")
            hub.ok("client", "permissions", "laptop", "read-operations=plan:photos", "receive-shared-repos")
            on_laptop.until_logged("connected to hub")
            laptop.until_status(connected)
            [still] = laptop.operations()
            assert (still["id"], still["status"]) == (running["id"], "STATUS_INPROGRESS")
            assert process.poll() is None
            assert cancel(laptop, running["id"])[0] == 200
            process.communicate()
            [there] = hub.until_operations(
                lambda ops: [op["status"] for op in ops] == ["STATUS_USER_CANCELLED"]
            )
        [here] = laptop.operations()
        assert (there["originalId"], there["modno"]) == (here["id"], here["modno"])

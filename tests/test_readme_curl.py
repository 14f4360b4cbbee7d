"""The README's curl examples, run as they are typed there: by bash, with the real curl, at a real daemon.

What is replaced is the port of the TCP address, which may be taken here. An example without a check is a failure, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from processes import Daemon, Machine

README = Path(__file__).parent.parent / "README.md"
PORT = "127.0.0.1:9899"


def examples() -> list[str]:
    """Every fenced block of the README with a curl in it."""
    return [
        block
        for block in re.findall(r"^```\n(.*?)^```$", README.read_text(), re.M | re.S)
        if "curl " in block
    ]


class Scene(Machine):
    """A machine whose files are where they are by default, as in the README; with something of everything."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "m")
        for name in ("BACKREST_CONFIG", "BACKREST_DATA", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            self.env.pop(name, None)
        self.port = ""

    def prepare(self) -> None:
        self.ok("init", "--instance-id", "here")
        secret = self.directory / "password"
        secret.write_text("correct-horse\n")
        self.ok("repo", "add", "nas", "--uri", "/nowhere", "--password-file", str(secret), "--no-init")
        self.ok("plan", "add", "photos", "--repo", "nas", "--path", "/home", "--keep-last", "3")
        self.import_operations(*range(1, 8))

    def import_operations(self, *numbers: int, status: str = "STATUS_SUCCESS") -> None:
        lines = (
            {
                "repoId": "nas",
                "planId": "photos",
                "unixTimeStartMs": str(n),
                "status": status,
                "operationBackup": {},
            }
            for n in numbers
        )
        path = self.directory / "ops.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        self.ok("ops", "import", str(path))

    def shell(self, example: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-c", example.replace(PORT, self.port)],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def type(self, example: str) -> bytes:
        """What the example prints."""
        process = self.shell(example)
        out, err = process.communicate()
        assert process.returncode == 0, err.decode()
        assert not err
        return out


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    # A short path: that of a Unix socket has about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="br") as directory:
        made = Scene(Path(directory))
        made.prepare()
        with made.serving("--admin-address", "127.0.0.1:0") as daemon:
            made.port = admin_address(daemon)
            yield made


def admin_address(daemon: Daemon) -> str:
    return daemon.until_logged(r"admin API at http://(\S+)")[1]


def operations(scene: Scene, example: str) -> None:
    found = json.loads(scene.type(example))["operations"]
    assert len(found) == 5
    assert found[-1]["planId"] == "photos"


def token(scene: Scene, example: str) -> None:
    made = json.loads(scene.type(example))["token"]
    assert re.fullmatch(r"ed25519\.[\w-]{43}:[0-9a-f]{64}#here", made)
    [stored] = scene.json("token", "list")["pairingTokens"]
    assert (stored["label"], stored["maxUses"], stored["grants"]) == ("desk", 1, ["read-operations=*"])


def config_changed(scene: Scene, example: str) -> None:
    before = json.loads((scene.directory / ".config/backrest/config.json").read_text())
    answer = json.loads(scene.type(example))
    after = json.loads((scene.directory / ".config/backrest/config.json").read_text())
    assert answer["repos"][0]["password"] == "*" * 8
    assert after["plans"][0]["paths"] == ["/home", "/srv"]
    assert after["modno"] == before["modno"] + 1
    assert (after["repos"], after["sync"]) == (before["repos"], before["sync"])


def repo_checked(scene: Scene, example: str) -> None:
    assert scene.type(example) == b"{}", "there is none"
    restic = {**scene.env, "RESTIC_PASSWORD": "correct horse"}
    there = str(scene.directory / "usb")
    subprocess.run(["restic", "-q", "-r", there, "init"], env=restic, check=True)
    assert json.loads(scene.type(example.replace("/mnt/usb/restic", there))) == {"exists": True}
    wrong = example.replace("/mnt/usb/restic", there).replace("correct horse", "wrong")
    assert "password" in json.loads(scene.type(wrong))["error"]


def failed_cleared(scene: Scene, example: str) -> None:
    scene.import_operations(21, 22, status="STATUS_ERROR")
    before = scene.operations()
    assert scene.type(example) == b"{}"
    assert scene.operations() == [op for op in before if op["status"] != "STATUS_ERROR"]


def events_followed(scene: Scene, example: str) -> None:
    process = scene.shell(example)
    assert process.stdout is not None
    try:
        assert envelope(process.stdout) == {"keepAlive": {}}
        scene.import_operations(31)
        [created] = envelope(process.stdout)["createdOperations"]["operations"]
        assert created["unixTimeStartMs"] == "31"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # bash, and what it started
        process.communicate()


def envelope(stream: IO[bytes]) -> Any:
    head = stream.read(5)
    assert head[0] == 0
    return json.loads(stream.read(int.from_bytes(head[1:])))


def states_listed(scene: Scene, example: str) -> None:
    scene.ok("host", "add", f"ed25519.{'A' * 43}:{'1' * 64}#hub", "--url", "http://127.0.0.1:1", "--no-wait")
    scene.until_status(lambda status: status["peers"][0]["state"] == "CONNECTION_STATE_RETRY_WAIT")
    states = [json.loads(line) for line in scene.type(example).decode().splitlines()]
    assert [state["peerInstanceId"] for state in states] == ["hub"]
    assert states[0]["state"] in ("CONNECTION_STATE_RETRY_WAIT", "CONNECTION_STATE_PENDING")


def config_over_tcp(scene: Scene, example: str) -> None:
    assert json.loads(scene.type(example))["instance"] == "here"
    refused = scene.type(example.replace("admin-token)", "admin-token | tr a-z n-za-m)"))
    assert json.loads(refused)["code"] == "unauthenticated"


# By what is in the example; each holds for one.
CHECKS: dict[str, Callable[[Scene, str], None]] = {
    "GetOperations\n": operations,
    "GeneratePairingToken\n": token,
    "SetConfig\n": config_changed,
    "CheckRepoExists\n": repo_checked,
    "ClearHistory\n": failed_cleared,
    "GetOperationEvents\n": events_followed,
    "GetPeerSyncStatesStream ": states_listed,
    f"http://{PORT}/v1.Backrest/GetConfig\n": config_over_tcp,
}


def check_of(example: str) -> Callable[[Scene, str], None]:
    [found] = [check for words, check in CHECKS.items() if words in example]
    return found


def test_each_example_has_its_check_and_each_check_its_example() -> None:
    assert sorted(check_of(example).__name__ for example in examples()) == sorted(
        c.__name__ for c in CHECKS.values()
    )


@pytest.mark.parametrize("example", examples(), ids=lambda example: check_of(example).__name__)
def test_the_examples_do_what_the_readme_says(scene: Scene, example: str) -> None:
    assert shutil.which("curl"), "these tests need curl"
    check_of(example)(scene, example)


def test_http2_is_guarded_as_well(scene: Scene) -> None:
    base = f"curl -sS --http2-prior-knowledge -H 'content-type: application/json' -d '{{}}' http://{PORT}/v1.Backrest/"
    with_token = f'{base}GetConfig -H "authorization: Bearer $(cat ~/.local/share/backrest/admin-token)"'
    assert json.loads(scene.type(with_token))["instance"] == "here"
    assert json.loads(scene.type(f"{base}GetConfig"))["code"] == "unauthenticated"
    assert json.loads(scene.type(f"{with_token} -H 'host: evil.example.com'"))["code"] == "permission_denied"
    assert json.loads(scene.type(f"{with_token} -H 'origin: null'"))["code"] == "permission_denied"


def test_status_says_where_the_admin_api_is(scene: Scene) -> None:
    assert scene.json("status")["daemon"]["adminAddresses"] == [f"http://{scene.port}"]
    assert f"admin API at http://{scene.port}" in scene.ok("status")


def test_the_token_is_in_no_log_and_no_output(scene: Scene) -> None:
    secret = (scene.directory / ".local/share/backrest/admin-token").read_text().strip()
    for path in (scene.directory / ".local/share/backrest").glob("*.json*"):
        assert secret not in path.read_text()
    assert secret not in scene.ok("status", "--json") + scene.ok("config", "show")

"""Secrets stay where they belong: planted in every place that holds one, looked for wherever they could turn up.

Two machines with real processes and a real restic, and every command that there is, right and wrong. A command that
is new has to say here how it is run.
"""

from __future__ import annotations

import http.server
import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from processes import BACKREST, Daemon, Machine, connected

from backrest.admin.registry import METHODS
from backrest.cli.main import cli

pytestmark = pytest.mark.timeout(900)

# Once on both machines, on the files and through the daemon, as text and as JSON. Each list is one way to say it.
READING: dict[str, list[list[str]]] = {
    "status": [[], ["--check"]],
    "identity show": [[]],
    "token list": [[]],
    "host list": [[]],
    "host show": [["hub"], ["hub", "--config"]],
    "client list": [[], ["--all"]],
    "client show": [["laptop"], ["laptop", "--config"]],
    "repo list": [[]],
    "repo show": [["local"], ["nas"]],
    "plan list": [[]],
    "plan show": [["photos"], ["remote"], ["hubplan"]],
    "push list": [[]],
    "ops list": [[]],
    "ops show": [["1"], ["2"], ["3"]],
    "audit": [[], ["--verify"]],
    "config show": [[]],
    "config validate": [[]],
    "oplog verify": [[]],
}
# What changes something is typed in the story below, or would follow for ever, or destroys what it is about.
TYPED = {
    "init",
    "serve",
    "identity rotate",
    "token create",
    "token revoke",
    "token prune",
    "host add",
    "host remove",
    "host grant",
    "client remove",
    "client permissions",
    "client tolerance",
    "client quota",
    "repo add",
    "repo set",
    "repo share",
    "repo unshare",
    "repo accept",
    "repo remove",
    "plan add",
    "plan set",
    "plan confirm",
    "plan tolerance",
    "plan remove",
    "push to",
    "push drop",
    "backup",
    "index",
    "unlock",
    "ops tail",
    "ops import",
    "config import",
    "oplog repair",
    "oplog compact",
}
HOME = {
    "config.json",
    "parked-plans.json",
    "pushes.json",
    "waiting-repos.json",
}  # where configuration is kept, documented, 0600
REFUSED = "9f" * 32  # a guid


def commands() -> Iterator[tuple[str, click.Command]]:
    def walk(
        command: click.Command, context: click.Context, path: str
    ) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from walk(found, context, f"{path} {name}".strip())
        else:
            yield path, command

    yield from walk(cli, click.Context(cli), "")


def test_every_command_is_known_here() -> None:
    new = {name for name, _ in commands()} - READING.keys() - TYPED
    assert not new, "say in READING how they are run, or type them in the story and name them in TYPED"


class Heard:
    """All that was said by any command or daemon."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def run(self, machine: Machine, *args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        done = machine.run(*args, input=input)
        assert "Traceback" not in done.stderr, done.stderr
        self.texts.append((f"{machine.name}: {' '.join(args[:2])}", done.stdout + done.stderr))
        return done

    def ok(self, machine: Machine, *args: str, input: str | None = None) -> str:
        done = self.run(machine, *args, input=input)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, machine: Machine, *args: str, input: str | None = None) -> None:
        assert self.run(machine, *args, input=input).returncode in (1, 2)

    def read_all(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every command that only reads; in this process, which is quicker."""
        known = dict(commands())
        with monkeypatch.context() as patch:
            for name, value in machine.env.items():
                patch.setenv(name, value)
            for name, ways in READING.items():
                for way in ways if name in known else ():
                    for more in ([], ["--json"]) if _takes_json(known[name]) else ([],):
                        args = [*name.split(), *way, *more, "--debug"]
                        result = CliRunner().invoke(cli, args)
                        assert result.exit_code != 2 or "--check" in way, result.output  # 2 is critical there
                        self.texts.append((f"{machine.name}: {' '.join(args)}", result.output))

    def ask_all(self, machine: Machine) -> None:
        """Everything that the admin socket tells, asked by hand."""
        socket = str(machine.directory / "data" / "admin.sock")
        names = [f"v1.Backrest/{name}" for name in ("GetConfig", "GetOperations", "GetSummaryDashboard")]
        names += [
            f"backrest.Admin/{name}"
            for name, method in METHODS.items()
            if not method.reports and re.match("Get|List|Show|Status|Verify|Check", name)
        ]
        for name in names:  # each on a connection of its own, as curl would
            with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=60) as client:
                answer = client.post(
                    f"http://localhost/{name}", content="{}", headers={"content-type": "application/json"}
                )
                self.texts.append((f"{machine.name}: {name}", answer.text))

    def daemon(self, name: str, daemon: Daemon) -> None:
        self.texts.append((name, "".join(daemon.log)))


def _takes_json(command: click.Command) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


@contextmanager
def nothing_there() -> Iterator[str]:
    """A web server that has no repository: its address is in what restic says about that."""

    class NotFound(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_error(404)

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Plants:
    """The secrets, by where they were planted."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        return self.values.setdefault(place, f"pLaNtEd-{place}-{len(self.values):02}")

    def hook(self, place: str) -> list[dict[str, Any]]:
        actions = {
            "actionCommand": {"command": f"curl -u u:{self(place + '-cmd')} h"},
            "actionSlack": {"webhookUrl": f"https://h/{self(place + '-slack')}"},
            "actionGotify": {
                "baseUrl": f"https://u:{self(place + '-url')}@h",
                "token": self(place + "-gotify"),
            },
            "actionTelegram": {"botToken": self(place + "-telegram"), "chatId": "7"},
        }
        return [{"conditions": ["CONDITION_ANY_ERROR"], name: action} for name, action in actions.items()]

    def found(self, text: str) -> list[str]:
        return [place for place, value in self.values.items() if value in text]


def config_of(machine: Machine) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((machine.directory / "config.json").read_text())
    return loaded


def test_what_is_secret_is_in_the_configuration_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, heard = Plants(), Heard()
    machines = hub, laptop, stranger = [Machine(tmp_path, name) for name in ("hub", "laptop", "stranger")]
    outside = tmp_path / "typed"  # what the user keeps somewhere: password files, documents to import
    outside.mkdir()
    for machine in machines:
        heard.ok(machine, "init", "--instance-id", machine.name)
        plant.values[f"{machine.name}-key"] = private_key(machine)
    (outside / "good").write_text(plant("local-password"))
    (outside / "wrong").write_text(plant("wrong-password"))

    with nothing_there() as nowhere:
        document = config_of(hub)
        document["auth"] = {"users": [{"name": "u", "passwordBcrypt": plant("bcrypt")}]}
        document["repos"] = [
            {
                "id": "nas",
                "guid": "7" * 64,
                "uri": f"rest:http://user:{plant('uri')}@{nowhere}/nas",
                "password": plant("hub-password"),
                "env": [f"AWS_SECRET_ACCESS_KEY={plant('env')}", f"RESTIC_PASSWORD2={plant('env2')}"],
                "flags": [f"--option=s3.session-token={plant('flag')}"],
                "hooks": plant.hook("repo"),
            },
            {"id": "local", "guid": REFUSED, "uri": "/srv/dup", "password": plant("dup-password")},
        ]
        document["plans"] = [
            {"id": "hubplan", "repo": "nas", "paths": ["/etc/hostname"], "hooks": plant.hook("plan")}
        ]
        (outside / "hub.json").write_text(json.dumps(document))
        heard.ok(hub, "config", "import", str(outside / "hub.json"))
        broken = json.dumps(document)
        (outside / "broken.json").write_text(broken[: broken.index("/srv/dup")])
        heard.fails(hub, "config", "import", str(outside / "broken.json"))
        document["plans"][0]["schedule"] = {"cron": "*/0 * * * *"}
        document["repos"][0]["guid"] = plant("hub-password")
        (outside / "invalid.json").write_text(json.dumps(document))
        heard.fails(hub, "config", "import", str(outside / "invalid.json"))
        heard.fails(hub, "config", "validate", str(outside / "invalid.json"))

        with hub.serving("--debug") as hub_daemon:
            tell(heard, plant, hub, laptop, stranger, hub_daemon, outside, monkeypatch)
        heard.daemon("hub's log", hub_daemon)
    for machine in (hub, laptop):
        heard.read_all(machine, monkeypatch)  # and without a daemon

    assert len(plant.values) > 20
    for where, text in heard.texts:
        assert not plant.found(text), f"{where}:\n{text}"
    for machine in machines:
        assert list(leaks(machine, plant)) == []
    kept = (hub.directory / "config.json").read_text()
    assert {"hub-password", "env", "repo-slack", "hub-key"} <= set(plant.found(kept)), (
        "they were there at all"
    )


def private_key(machine: Machine) -> str:
    """The line of the PEM text that matters."""
    return str(max(config_of(machine)["sync"]["identity"]["ed25519priv"].split(), key=len))


def leaks(machine: Machine, plant: Plants) -> Iterator[str]:
    """Files with a secret in them that is not theirs, or that others may read."""
    for path in machine.directory.rglob("*"):
        if path.is_file():
            found = plant.found(path.read_bytes().decode(errors="replace"))
            name = re.sub(r"\.bak\..*", "", path.name)
            if found and (name not in HOME or path.stat().st_mode & 0o077):
                yield f"{path}: {found}"


def tell(
    heard: Heard,
    plant: Plants,
    hub: Machine,
    laptop: Machine,
    stranger: Machine,
    hub_daemon: Daemon,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What two people do in a week, mistakes included."""

    def token(name: str, *permissions: str) -> str:
        made: str = hub.json("token", "create", "--label", name, *permissions)["token"]
        plant.values[f"token-{name}"] = made.partition(":")[2].partition("#")[0]
        return made

    url = hub_daemon.url
    everything = [
        f"--permission={kind}" for kind in ("read-operations", "receive-shared-repos", "read-write-config")
    ]
    spare, revoked = token("spare"), token("revoked")
    heard.ok(hub, "token", "revoke", "revoked")
    heard.fails(stranger, "host", "add", revoked, "--url", url)
    heard.fails(stranger, "host", "add", revoked.replace("#", "?"), "--url", url)
    heard.fails(stranger, "host", "add", "-", "--url", url, input=spare.replace(":", ";"))
    heard.fails(stranger, "host", "add", spare, "--url", f"http://u:{plant('url-password')}@127.0.0.1:1/")
    heard.ok(laptop, "host", "add", token("laptop", *everything), "--url", url)
    with laptop.serving("--debug", "--log-format", "json") as daemon:
        laptop.until_status(connected)
        password = ["--password-file", str(outside / "good")]
        heard.ok(laptop, "repo", "add", "local", "--uri", str(laptop.directory / "restic"), *password,
                 "--env", f"B2_ACCOUNT_KEY={plant('laptop-env')}")  # fmt: skip
        photos = laptop.directory / "photos"
        photos.mkdir()
        (photos / "one").write_text("one")
        heard.ok(
            laptop, "plan", "add", "photos", "--repo", "local", "--path", str(photos), "--keep-last", "1"
        )
        heard.ok(laptop, "backup", "photos")
        heard.ok(laptop, "plan", "confirm", "photos")
        heard.ok(laptop, "plan", "tolerance", "photos", "2d")
        heard.ok(hub, "client", "tolerance", "laptop", "7d")
        heard.ok(laptop, "index", "local")
        heard.ok(laptop, "unlock", "local")

        # Shared: one is taken, with its secrets; one is refused.
        for repo in ("nas", "local"):
            heard.run(hub, "repo", "share", repo, "--no-wait")
        laptop_repos(laptop, "nas")
        heard.ok(laptop, "plan", "add", "remote", "--repo", "nas", "--path", str(photos))
        heard.fails(laptop, "backup", "remote")
        heard.fails(laptop, "index", "nas")

        # The hub changes it: accepted once, and left to wait once.
        heard.fails(laptop, "repo", "accept", "nas", "--yes")
        heard.ok(hub, "repo", "set", "nas", "--flag=--no-cache", "--no-check")
        laptop.until_status(waiting)
        heard.fails(laptop, "repo", "accept", "nas")
        heard.ok(laptop, "repo", "accept", "nas", "--yes")
        moved = f"rest:http://user:{plant('moved')}@127.0.0.1:1/moved"
        heard.ok(hub, "repo", "set", "nas", "--uri", moved, "--no-check")
        laptop.until_status(waiting)

        # A wrong password.
        heard.fails(laptop, "repo", "set", "local", "--password-file", str(outside / "wrong"))
        heard.ok(laptop, "repo", "set", "local", "--password-file", str(outside / "wrong"), "--no-check")
        heard.fails(laptop, "backup", "photos")
        heard.fails(laptop, "index", "local")
        heard.ok(laptop, "repo", "set", "local", *password)

        # Wrong uses that name secrets.
        heard.fails(laptop, "repo", "add", "other", "--uri", f"rest:http://u:{plant('typo')}@127.0.0.1:1/x?token={plant('query')}",
                    "--password-file", str(outside / "missing"))  # fmt: skip
        heard.fails(laptop, "repo", "set", "nas", "--env", f"X={plant('read-only')}")
        heard.run(laptop, "repo", "set", "local", "--env", plant("no-equals-sign"))

        # A configuration edited badly by hand.
        path = hub.directory / "config.json"
        good = path.read_text()
        path.write_text(good.replace('"plans"', f'"plans": ["{plant("edited")}", '))
        hub_daemon.process.send_signal(signal.SIGHUP)
        hub_daemon.until_logged("not read again")
        path.write_text(good)
        hub_daemon.process.send_signal(signal.SIGHUP)
        hub_daemon.until_logged("read again")

        pushes(heard, plant, hub, laptop, outside)
        heard.ok(
            hub,
            "client",
            "permissions",
            "laptop",
            "read-operations=*",
            "receive-shared-repos=*",
            "read-config=*",
        )
        heard.ok(
            laptop, "host", "grant", "hub", "read-operations=*", "receive-shared-repos=*", "read-config=*"
        )
        laptop.until_status(connected)
        hub.until_operations(lambda ops: any(op["status"] == "STATUS_ERROR" for op in ops))
        for machine in (hub, laptop):
            heard.read_all(machine, monkeypatch)
            heard.ask_all(machine)
        heard.texts.append(("ops tail", tail(hub)))
        daemon.kill()
    heard.daemon("laptop's log", daemon)
    hub.until_status(lambda status: not connected(status))
    with laptop.serving("--debug") as daemon:
        laptop.until_status(connected)
        heard.ok(hub, "repo", "unshare", "nas")
        heard.ok(hub, "client", "remove", "laptop")
        laptop.until_status(lambda status: "ERROR_AUTH" in json.dumps(status))
        heard.ok(laptop, "host", "remove", "hub")  # its repo goes, the plan on it is parked
        heard.read_all(laptop, monkeypatch)
    heard.daemon("laptop's second log", daemon)
    heard.ok(laptop, "plan", "remove", "photos")
    heard.ok(laptop, "repo", "remove", "local", "--yes")
    heard.ok(laptop, "oplog", "compact")
    heard.ok(laptop, "identity", "rotate", "--yes")
    plant.values["laptop-new-key"] = private_key(laptop)


def waiting(status: dict[str, Any]) -> bool:
    return bool(status.get("waitingRepos"))


def laptop_repos(laptop: Machine, wanted: str) -> None:
    """Until the shared repo is there; the daemon changes its configuration before it says so."""
    laptop.until_status(lambda _: any(repo["id"] == wanted for repo in laptop.json("repo", "list")["repos"]))


def pushes(heard: Heard, plant: Plants, hub: Machine, laptop: Machine, outside: Path) -> None:
    """Configuration pushed to the laptop: allowed, refused."""
    repo = {"id": "pushed", "guid": "5" * 64, "uri": "/srv/pushed", "password": plant("pushed-password")}
    (outside / "repo.json").write_text(json.dumps(repo))
    heard.run(hub, "push", "to", "laptop", "--repo", str(outside / "repo.json"), "--dry-run")
    heard.run(hub, "push", "to", "laptop", "--repo", str(outside / "repo.json"), "--yes")


def tail(machine: Machine) -> str:
    """What ``ops tail`` says about the history that is there."""
    count = len(machine.operations())
    said = ""
    process = subprocess.Popen(
        [*BACKREST, "ops", "tail", "-n", str(count)],
        env=machine.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(count):
        said += process.stdout.readline()
    process.kill()
    process.communicate()
    return said

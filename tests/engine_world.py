"""A real restic, a repository and an engine for tests.

The restic is the one that the program itself would use: $BACKREST_RESTIC_COMMAND, else ``restic`` in PATH.
Making a repository costs a second (its key derivation is slow on purpose), so it is made once and copied.
What no real restic can be made to do on demand is played by a small script, ``fake_restic``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from backrest.engine import Engine
from backrest.store.config import ConfigStore
from backrest.store.oplog import Change, OpLog, Query
from backrest.store.paths import Paths, private_dir
from backrest.wire import config, operations

Operation = operations.Operation

PASSWORD = "correct-horse"


def restic_command() -> str:
    """The real restic. A test run without one is an error, not a skip."""
    command = os.environ.get("BACKREST_RESTIC_COMMAND") or shutil.which("restic")
    assert command, "these tests need restic"
    return command


def restic(repository: Path, *arguments: str, password: str = PASSWORD) -> str:
    """Run the real restic beside the program; its standard output."""
    return subprocess.run(
        [restic_command(), "-r", str(repository), *arguments],
        env={**os.environ, "RESTIC_PASSWORD": password},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout


def guid_of(repository: Path) -> str:
    """A repository's id, as restic says it."""
    return str(json.loads(restic(repository, "cat", "config"))["id"])


def make_source(directory: Path) -> Path:
    """A small folder to back up."""
    source = directory / "photos"
    (source / "2026").mkdir(parents=True)
    (source / "a.jpg").write_bytes(bytes(range(256)) * 80)
    (source / "2026" / "b.jpg").write_bytes(b"b" * 20000)
    (source / "x.tmp").write_text("not wanted")
    return source


def fake_restic(directory: Path, body: str, version: str = "0.18.1") -> str:
    """A program that answers ``version`` like restic and does ``body`` (Python; ``args``) for all else."""
    path = directory / "fake-restic"
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, os, signal, sys, time\n"
        "args = sys.argv[1:]\n"
        f"if args[0] == 'version': print('restic {version} compiled with go'); sys.exit()\n" + body
    )
    path.chmod(0o755)
    return str(path)


def make_repo(uri: object, **fields: object) -> config.Repo:
    """The configuration of a repo called nas."""
    return config.Repo(**{"id": "nas", "uri": str(uri), "password": PASSWORD} | fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new, empty repository, to be copied. restic's cache is kept away from the user's meanwhile."""
    directory = tmp_path_factory.getbasetemp() / "restic"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESTIC_CACHE_DIR", str(directory / "cache"))
        if not directory.exists():  # another test module may have made it already
            restic(directory / "template", "init")
        yield directory / "template"


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """An empty repository of the test's own."""
    return shutil.copytree(template, tmp_path / "nas")


class World:
    """An engine on real stores, and everything that was written to the history since it began."""

    def __init__(self, directory: Path, *, command: str | None = None) -> None:
        self.paths = Paths(directory / "config.json", directory / "data")
        private_dir(self.paths.data_dir)
        self.config = ConfigStore.open(self.paths.config_file)
        self.oplog = OpLog.open(self.paths.oplog)
        self.engine = Engine(self.paths, self.config, self.oplog, restic_command=command)
        self.changes: list[tuple[str, Operation]] = []
        self.oplog.subscribe(self._changed)

    def _changed(self, change: Change) -> None:
        for operation in change.operations:
            copy = Operation()
            copy.CopyFrom(operation)
            self.changes.append((change.kind, copy))

    def configure(self, *items: config.Repo | config.Plan) -> None:
        """Add repos and plans to the configuration of the instance "laptop"."""

        def change(current: config.Config) -> None:
            current.instance = "laptop"
            for item in items:
                (current.repos if isinstance(item, config.Repo) else current.plans).append(item)  # type: ignore[arg-type]

        self.config.transform(change)

    def operations(self) -> list[Operation]:
        """The history, oldest first."""
        return list(self.oplog.query(Query()))

    def story(self) -> list[str]:
        """What was written, in order: "created backup PENDING" and so on; repeated progress only once."""
        told: list[str] = []
        for kind, operation in self.changes:
            name = (operation.WhichOneof("op") or "").removeprefix("operation_")
            status = operations.OperationStatus.Name(operation.status).removeprefix("STATUS_")
            line = f"{kind} {name} {status}"
            if told[-1:] != [line]:
                told.append(line)
        return told

    def task_log(self, operation: Operation) -> str:
        """The log of an operation's task."""
        return (self.paths.tasklogs / f"{operation.logref}.log").read_text()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world with the real restic."""
    made = World(tmp_path / "world", command=restic_command())
    yield made
    made.oplog.close()


# A restic that keeps a list of its calls beside itself, knows the one snapshot that it made, and can be told what a
# backup does.
_FAKE = """
with open(__file__ + ".calls", "a") as calls: calls.write(json.dumps(args) + "\\n")
def say(**message): print(json.dumps(message), flush=True)
def done(**more):
    summary = {"message_type": "summary", "snapshot_id": "ab" * 32, "total_duration": 1.5, "total_files_processed": 2}
    say(**summary | more)
    open(__file__ + ".saved", "w")
name = args[0]
if name == "cat": print(json.dumps({"id": "ef" * 32}))
"""
_SAVED = """
one = {"id": "ab" * 32, "time": "2026-01-02T00:00:00Z", "tags": ["plan:photos", "created-by:laptop"]}
print(json.dumps([one] if os.path.exists(__file__ + ".saved") else []))
"""
EMPTY = "print('[]')"


def fake_backup(
    directory: Path,
    backup: str = "done()",
    *,
    snapshots: str = _SAVED,
    forget: str = EMPTY,
    version: str = "0.18.1",
) -> str:
    """A fake restic that runs one of these pieces of Python for the command of that name."""
    parts = {"backup": backup, "snapshots": snapshots, "forget": forget}
    body = "".join(
        f"elif name == {name!r}:\n{textwrap.indent(textwrap.dedent(part), '    ')}\n"
        for name, part in parts.items()
    )
    return fake_restic(directory, _FAKE + body, version)


def calls(fake: str) -> list[list[str]]:
    """How a fake restic was called, in order, without the questions for its version."""
    path = Path(fake + ".calls")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

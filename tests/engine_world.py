"""A real restic, a repository and an engine for tests.

The restic is the one that the program itself would use: $BACKREST_RESTIC_COMMAND, else ``restic`` in PATH.
Making a repository costs a second (its key derivation is slow on purpose), so it is made once and copied.
What no real restic can be made to do on demand is played by a small script, ``fake_restic``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backrest.wire import config

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
    directory = tmp_path_factory.mktemp("restic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESTIC_CACHE_DIR", str(directory / "cache"))
        restic(directory / "template", "init")
        yield directory / "template"


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """An empty repository of the test's own."""
    return shutil.copytree(template, tmp_path / "nas")

"""Commands run in this process, by click's runner, on an instance in a directory. The fixtures of test_cli_*."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_world import World
from click.testing import CliRunner, Result

from backrest.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line on ``world``; exit code 0 unless ``code`` says otherwise."""
    monkeypatch.setenv("BACKREST_CONFIG", str(world.paths.config_file))
    monkeypatch.setenv("BACKREST_DATA", str(world.paths.data_dir))
    for name in ("BACKREST_PORT", "BACKREST_CA_FILE", "BACKREST_MULTIHOST_HEARTBEAT_INTERVAL"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*args: str, code: int = 0, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, args, input=input)
        assert result.exit_code == code, f"exit {result.exit_code}: {result.output}"
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def here(run: Run) -> Run:
    """The same, of an instance that has its identity."""
    run("init", "--instance-id", "here")
    return run


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    return json.loads(result.stdout)

"""Each row of scripts/bench, once, tiny: that it runs and gives figures. How large they are is nobody's test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import Machine

ROOT = Path(__file__).parent.parent
ROWS = (
    "first-sync", "reconnect", "live", "idle", "storm", "open-log", "query", "verify", "repair", "compact", "help",
)  # fmt: skip


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-m", "benchmarks", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def measured(row: str, args: Sequence[str]) -> tuple[dict[str, Any], str]:
    done = bench("--only", row, "--repeat", "1", "--json", *args)
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["rows"]
    assert result["row"] == row
    for figure, of in result["figures"].items():
        assert 0 <= of["min"] <= of["median"] <= of["max"], figure
        assert len(of["all"]) == 1
    return result, done.stderr


@pytest.mark.parametrize("row", ROWS)
def test_each_row_runs_alone_at_any_size(row: str) -> None:
    result, table = measured(row, ["--size", "3", "--clients", "2", "--seconds", "0.1"])
    assert result["size"] == 3
    assert all(figure in table for figure in result["figures"])


def test_several_sizes_are_compared_by_what_one_thing_costs() -> None:
    done = bench("--only", "open-log", "--repeat", "1", "--json", "--sizes", "1,30")
    assert done.returncode == 0, done.stderr
    assert [result["size"] for result in json.loads(done.stdout)["rows"]] == [1, 30]
    assert "each_us at 1 30: " in done.stderr


@pytest.mark.parametrize("row", ["first-sync", "reconnect", "storm", "idle"])
def test_another_hub_is_measured_by_turns_with_ours(row: str, tmp_path: Path) -> None:
    hub = Machine(tmp_path, "hub")
    hub.ok("init", "--instance-id", "hub")
    with hub.serving() as daemon:
        token = hub.json("token", "create", "--max-uses", "4", "--permission", "read-operations=*")["token"]
        its_process = ["--against-pid", str(daemon.process.pid)] if row == "idle" else []
        sizes = ["--size", "3", "--seconds", "0.1"]
        result, table = measured(row, [*sizes, "--against", daemon.url, "--token", token, *its_process])
        assert len(hub.operations()) == (3 if row in ("first-sync", "reconnect") else 0)
    assert result["size"] == 3
    assert "theirs/ours" in table
    assert result["ratios"].keys() <= result["against"].keys() <= result["figures"].keys()
    for figure, ratio in result["ratios"].items():
        assert ratio == result["against"][figure]["median"] / result["figures"][figure]["median"]
    if row != "idle":
        wall = "from_connection_s" if row == "first-sync" else "wall_s"
        assert f"{result['ratios'][wall]:.2f}" in table
        assert not any("hub" in figure for figure in result["against"])  # nothing is known of its process


@pytest.mark.parametrize(("row", "remedy"), [("help", "leave --against out"), ("idle", "give --against-pid")])
def test_a_row_that_cannot_be_measured_of_another_hub_says_so(row: str, remedy: str) -> None:
    done = bench("--only", row, "--against", "http://127.0.0.1:1", "--token", "k:s#i")
    assert done.returncode == 2
    assert remedy in done.stderr

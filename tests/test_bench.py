"""scripts/bench: each row once, tiny, that it runs and gives figures that its page explains; another hub beside ours;
and that whatever goes wrong ends it, in a sentence. How large the figures are is nobody's test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import Machine

from backrest.errors import Code, Fault, PeerError
from backrest.net.dial import NetError

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))  # benchmarks is a script: no part of the program

from benchmarks.__main__ import arguments  # noqa: E402 - found by the line above
from benchmarks.goals import GOALS, is_met  # noqa: E402
from benchmarks.light import is_busy  # noqa: E402
from benchmarks.measuring import ratios  # noqa: E402
from benchmarks.rows import ROWS  # noqa: E402

PAGE = (ROOT / "scripts/README.md").read_text()
SMALL = ("--repeat", "1", "--size", "3", "--clients", "2", "--seconds", "0.1")
KEY = "ed25519." + "A" * 43
BESIDE = ("first-sync", "reconnect", "idle", "storm")


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *args]


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # for the command that README.md shows
    return {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PATH": path, **more}


def bench(*args: str, files: int = 0) -> subprocess.CompletedProcess[str]:
    """``files``: so many may be open."""
    limit = f"ulimit -n {files}; " if files else ""
    run = ["bash", "-c", f'{limit}exec "$@"', "-", *command(*args)]
    return subprocess.run(run, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


def only(*rows: str) -> list[str]:
    return [word for row in rows for word in ("--only", row)]


def measured(*args: str) -> tuple[list[dict[str, Any]], str]:
    """The rows, and the table."""
    done = bench(*SMALL, "--json", *args)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    for row in rows:
        assert row["size"] == 3
        for figure, of in row["figures"].items():
            assert of["min"] <= of["median"] <= of["max"], figure
            assert of["min"] >= 0 or figure == "each_kib", figure  # a growth, which may be none
            assert len(of["all"]) == 1
            assert re.search(rf"`(log_alone_|in_use_)?{figure}`", PAGE) or is_explained(figure), figure
            assert figure in done.stderr
    return rows, done.stderr


def is_explained(figure: str) -> bool:
    prefix = next((prefix for prefix in ("log_alone_", "in_use_") if figure.startswith(prefix)), "")
    return bool(prefix) and f"`{prefix}...`" in PAGE and f"`{figure.removeprefix(prefix)}`" in PAGE


def failure(*args: str, code: int, files: int = 0) -> str:
    """What a person is told of what cannot be done: no traceback."""
    done = bench(*args, files=files)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("row", ROWS)
def test_each_row_runs_alone_at_any_size(row: str) -> None:
    [result], _ = measured("--only", row)
    assert result["row"] == row
    assert result["figures"]


def test_several_sizes_are_compared_by_what_one_thing_costs_and_the_document_says_what_was_measured() -> None:
    done = bench("--only", "open-log", "--repeat", "1", "--json", "--sizes", "1,30", "--seconds", "3")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [result["size"] for result in document["rows"]] == [1, 30]
    assert "log_alone_each_us at 1 30: " in done.stderr
    assert (document["repeat"], document["clients"], document["seconds"]) == (1, 100, 3)
    assert document["version"]
    assert "load" in document["machine"]
    assert {goal["row"] for goal in document["goals"]} <= ROWS.keys()


def test_a_short_log_has_no_saved_index_and_no_figures_of_one() -> None:
    [result], _ = measured("--only", "open-log")
    assert result["figures"]["index_mib"]["median"] == 0
    assert "each_us" not in result["figures"]


# --- beside another hub


def test_a_hub_that_runs_is_measured_by_turns_with_ours(tmp_path: Path) -> None:
    hub = Machine(tmp_path, "hub")
    hub.ok("init", "--instance-id", "hub")
    with hub.serving() as daemon:
        # A use for each light client: one and one of the first two rows, three, and one more that idle begins with.
        token = hub.json("token", "create", "--max-uses", "9", "--permission", "read-operations=*")["token"]
        pid = str(daemon.process.pid)
        theirs = ("--against", daemon.url, "--token", token, "--against-pid", pid)
        results, table = measured(*only(*BESIDE), *theirs)
        assert len(hub.operations()) == 6
    assert "theirs/ours" in table
    for result in results:
        assert result["ratios"].keys() <= result["against"].keys() <= result["figures"].keys()
        assert not any(figure.endswith(("_kib", "_mib")) for figure in result["ratios"])  # it is not fresh
        for figure, ratio in result["ratios"].items():
            pair = result["against"][figure]["all"][0] / result["figures"][figure]["all"][0]
            assert ratio["all"] == [pair]
            assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert results[0]["ratios"].keys() == {"from_connection_s", "each_us"}  # too little CPU for a ratio


def test_a_command_starts_a_fresh_hub_for_each_measurement(tmp_path: Path) -> None:
    """With the very script that README.md shows, and so our own program on both sides."""
    found = re.search(r"( {4}#!/bin/sh\n(?: {4}.*\n|\n)+)", PAGE)
    assert found is not None
    fresh = tmp_path / "fresh-hub"
    fresh.write_text(re.sub("^ {4}", "", found[1], flags=re.MULTILINE))
    fresh.chmod(0o755)
    [storm, idle], table = measured(*only("storm", "idle"), "--against-command", str(fresh))
    assert {"wall_s", "hub_peak_mib"} <= storm["ratios"].keys()
    assert "hub_mib" in idle["ratios"]
    assert f"{idle['ratios']['hub_mib']['median']:.2f}" in table


def test_ratios_are_of_pairs_with_their_spread_and_of_enough_cpu_and_fresh_memory_only() -> None:
    def figures(seconds: float, cpu: float) -> dict[str, float]:
        return {
            "wall_s": seconds,
            "hub_cpu_s": cpu,
            "each_hub_cpu_ms": cpu,
            "hub_peak_mib": 50,
            "each_client_cpu_ms": 1,
        }

    ours, theirs = [figures(1, 0.2), figures(2, 0.2)], [figures(3, 0.4), figures(2, 0.4)]
    found = ratios(ours, theirs, fresh=False)
    assert found["wall_s"] == {"median": 2, "min": 1, "max": 3, "all": [3, 1]}
    assert found["each_hub_cpu_ms"]["median"] == 2
    assert "hub_peak_mib" not in found
    assert "each_client_cpu_ms" not in found  # the benchmark's own
    assert "hub_peak_mib" in ratios(ours, theirs, fresh=True)
    assert "hub_cpu_s" not in ratios([figures(1, 0.19)], [figures(1, 0.4)], fresh=True)


# --- what goes wrong


def token_of(hub: Machine, *args: str) -> str:
    hub.ok("init", "--instance-id", "hub")
    return str(hub.json("token", "create", *args)["token"])


def test_a_hub_that_does_not_let_all_in_ends_the_row_and_the_complete_ones_are_printed(
    tmp_path: Path,
) -> None:
    hub = Machine(tmp_path, "hub")
    token = token_of(hub, "--max-uses", "1", "--permission", "read-operations=*")
    with hub.serving() as daemon:
        theirs = ("--against", daemon.url, "--token", token)
        done = bench(*SMALL, "--json", *only("reconnect", "storm"), *theirs)
    assert done.returncode == 1, done.stderr
    reconnect, storm = json.loads(done.stdout)["rows"]
    assert reconnect["ratios"]
    assert "error" not in reconnect
    assert storm["error"].startswith("theirs: ")
    assert "not authorized" in storm["error"] or "token" in storm["error"]
    assert f"FAILED: {storm['error']}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_never_asks_for_the_operations_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    hub = Machine(tmp_path, "hub")
    token = token_of(hub, "--permission", "receive-shared-repos=*")
    with hub.serving() as daemon:
        theirs = ("--against", daemon.url, "--token", token, "--patience", "1", "--clients", "1")
        said = failure(*SMALL[:4], "--seconds", "0.1", *only("first-sync"), *theirs, code=1)
    assert re.search(r"FAILED: theirs: this was not done within 1\.\d+ s", said), said


def test_what_no_retry_can_mend_is_said_at_once(tmp_path: Path) -> None:
    storm = (*only("storm"), "--repeat", "1")
    nobody = ("--against", "http://127.0.0.1:1", "--token", f"{KEY}:s#i")
    assert failure(*storm, *nobody, code=1).endswith("FAILED: theirs: 127.0.0.1:1: Connection refused")
    assert "too many open files" in failure(*storm, "--size", "60", code=1, files=30)
    hub = Machine(tmp_path, "hub")
    token = token_of(hub, "--permission", "read-operations=*")
    with hub.serving() as daemon:
        other = f"{KEY}{token[token.index(':') :]}"
        said = failure(*storm, "--size", "1", "--against", daemon.url, "--token", other, code=1)
    assert KEY in said


def test_only_a_busy_hub_is_dialled_again() -> None:
    for code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        assert is_busy(PeerError(Fault.ENDED, code, "busy"), 0.1)
    refusal = PeerError(Fault.ENDED, Code.PERMISSION_DENIED, "this token is used up")
    assert not is_busy(refusal, 9)
    assert is_busy(refusal, 10)  # so a hub says that it has waited long enough
    assert not is_busy(NetError("does not speak HTTP/2"), 0.1)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([*only("help"), "--against", "http://127.0.0.1:1", "--token", f"{KEY}:s#i"], "leave --against out"),
        ([*only("idle"), "--against", "http://127.0.0.1:1", "--token", f"{KEY}:s#i"], "give --against-pid"),
        (["--against", "http://127.0.0.1:1", "--token", "nonsense"], "no '#'"),
        (["--against", "http://127.0.0.1:1", "--token", "k:s#i"], "key id"),
        (["--against", "what?", "--token", f"{KEY}:s#i"], "what?"),
        (["--against", "http://h:1", "--token", f"{KEY}:s#i", "--against-pid", "99999999"], "99999999"),
        (["--against-pid", "1"], "--against"),
        (["--against-command", "/no/such/program -x"], "/no/such/program"),
        (["--against-command", "true", "--token", "t"], "itself"),
        ([*only("help"), "--sizes", "1,,2"], "--sizes"),
        (["--size", "3"], "--only"),
        (["--seconds", "nan"], "nan"),
        (["--repeat", "0"], "--repeat"),
        (["--goals", *only("help"), "--size", "3"], "--goals"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_said_before_anything_is_measured(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(args)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_command_that_tells_of_no_hub_is_a_failure() -> None:
    said = failure(*only("reconnect"), *SMALL, "--against-command", "echo {}", code=1)
    assert "there is no 'url'" in said


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the benchmark's files: short, since the path of a socket must be."""
    return tmp_path_factory.mktemp("b")


@contextmanager
def measuring_idle(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A row is complete, and the next is under way for ten minutes."""
    args = (*only("help", "idle"), "--size", "1", "--repeat", "1", "--seconds", "600", "--json")
    with subprocess.Popen(
        command(*args),
        cwd=ROOT,
        env=environment(TMPDIR=str(place)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(place.glob("*/hub/data/admin.sock")):  # the daemon listens
            assert process.poll() is None
            os.sched_yield()
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_leaves_nothing_behind(number: signal.Signals, place: Path) -> None:
    with measuring_idle(place) as process:
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert [row["row"] for row in json.loads(out)["rows"]] == ["help"]  # what was complete
    assert list(place.iterdir()) == []
    assert processes_of(place) == []


def test_a_daemon_that_ends_while_it_is_measured_is_a_failure_at_once(place: Path) -> None:
    with measuring_idle(place) as process:
        [hub] = processes_of(next(place.glob("*/hub")))
        os.kill(hub, signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 1
    assert "FAILED: hub ended by itself (-9); the last of its log: " in err
    assert [row.get("error", "")[:3] for row in json.loads(out)["rows"]] == ["", "hub"]


def processes_of(directory: Path) -> list[int]:
    """Those with that directory in their environment."""
    found = []
    for one in Path("/proc").glob("[0-9]*/environ"):
        try:
            if os.fsencode(directory) in one.read_bytes():
                found.append(int(one.parent.name))
        except OSError:  # it has ended, or is not ours
            continue
    return found


# --- goals


def test_each_goal_is_of_a_size_that_goals_measures_and_met_up_to_its_bound() -> None:
    for goal in GOALS:
        assert goal.size in ROWS[goal.row].at_goals
        assert is_met(goal.row, goal.figure, goal.size, goal.most)
        assert is_met(goal.row, goal.figure, goal.size, goal.most * 1.01) is False
        assert is_met(goal.row, goal.figure, goal.size + 1, goal.most) is None


def test_goals_says_beside_each_whether_it_is_met() -> None:
    done = bench("--goals", *only("help"), "--repeat", "1", "--json")
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["rows"]
    [met] = result["goals_met"].values()
    assert ("150 met" if met else "150 MISSED") in done.stderr

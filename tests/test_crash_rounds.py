"""``scripts/crash``: 200 kills with everything kept, and a store that forgets is found out, for what it forgot."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from broken_stores import late_append, late_file, lost_marks, rewritten

ROOT = Path(__file__).parent.parent


def crash(*args: str, broken: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """As scripts/crash runs it; ``broken`` is Python that is run first, in the same process."""
    start = f"{broken}\nimport runpy\nrunpy.run_module('crashes', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", start, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts", **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)  # of which an idle machine takes a tenth
def test_two_hundred_kills_lose_nothing() -> None:
    done = crash("--rounds", "200")
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "190 kills of a writer, 10 of daemons" in done.stdout


def found_out(done: subprocess.CompletedProcess[str], kind: str, why: str) -> None:
    """That it failed for this reason, and not for another that a broken store may bring about as well."""
    print(done.stderr)
    assert done.returncode == 1, done.stdout
    (said,) = re.findall(rf"^{kind}/\d+: kill \d+: (.*)$", done.stderr, re.MULTILINE)
    assert re.match(why, said)


FORGETFUL = {
    "operations": (
        late_append("oplog.jsonl"),
        "the operation .*: found .*, where .* was acknowledged|the high-water mark went back",
    ),
    "audit log": (late_append("audit.jsonl"), "the audit log: found .*, where .* was acknowledged"),
    "configuration": (late_file("config"), "the configuration: found .*, where .* was acknowledged"),
    "parked plans": (late_file("removal"), "the configuration: found .*plan='none'.*, where .*plan='parked'"),
    "peers": (late_file("peers"), "peers.json: found .*, where .* was acknowledged"),
    "pushes": (late_file("pushqueue"), "the pushes: found .*, where .* was acknowledged"),
    "shared addresses": (late_file("shares"), "the shared addresses: found .*, where .* was acknowledged"),
    "ids": (lost_marks("id"), "the high-water mark went back: the id [0-9]+ was given out"),
    "modnos": (lost_marks("modno"), "the high-water mark went back: the modno [0-9]+ was given out"),
    "whole files": (rewritten("config"), r".*/config.json: (it is empty|.*it is not JSON)"),
}


@pytest.mark.parametrize(("broken", "why"), FORGETFUL.values(), ids=FORGETFUL)
def test_forgetful_store_is_found_out_and_its_seed_is_named(broken: str, why: str, tmp_path: Path) -> None:
    options = ("--exact", "--first", "--rounds", "300", "--daemons", "0", "--seed", "1")
    done = crash(*options, broken=broken, TMPDIR=str(tmp_path))
    found_out(done, "stores", why)
    assert "again: scripts/crash --exact --seed 1 --only stores/" in done.stderr


# The seed: of the kill that shows it in the first round.
FORGETFUL_HUB = {
    "operations": (late_append("oplog.jsonl"), 32, "the hub's file lacks 20 operations that the hub held"),
    "ids": (lost_marks("id"), 1, "hub gave out the id [0-9]+ twice"),
    "audit log": (late_append("audit.jsonl", 1000), 13, "the hub's audit log does not tell of the tokens"),
}


@pytest.mark.parametrize(("broken", "seed", "why"), FORGETFUL_HUB.values(), ids=FORGETFUL_HUB)
def test_forgetful_hub_is_found_out(broken: str, seed: int, why: str, tmp_path: Path) -> None:
    code = tmp_path / "broken.py"
    code.write_text(broken)
    options = ("--rounds", "1", "--daemons", "1", "--seed", str(seed), "--hub-code", str(code))
    with tempfile.TemporaryDirectory() as short:  # sockets have short paths
        done = crash(*options, TMPDIR=short)
    found_out(done, "daemons", why)
    assert f"again: scripts/crash --hub-code {code} --seed {seed} --only daemons/0" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_leaves_nothing(stop: signal.Signals, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "crashes", "--rounds", "1000000", "--daemons", "0", "--seed", "5"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline().startswith("seed 5: ")
    run.send_signal(stop)  # to the witness alone: its writer is its own to end
    _, said = run.communicate()
    assert (run.returncode, said) == (130, "stopped; the same again: scripts/crash --seed 5\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)

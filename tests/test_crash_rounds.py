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
from broken_stores import fatal, late_append, late_file, lost_marks, rewritten
from refusals import refusal

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))  # crashes is a script: no part of the program

from crashes.__main__ import arguments  # noqa: E402 - found by the line above


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


# The first: while calls are under way, and before anything was killed. The second: the client alone was killed, and its
# coming back is the end of the hub.
@pytest.mark.parametrize(("seed", "session"), [(8, 1), (5, 2)])
def test_hub_that_ends_by_itself_is_found_out_with_its_log(seed: int, session: int, tmp_path: Path) -> None:
    code = tmp_path / "broken.py"
    code.write_text(fatal(session))
    options = ("--rounds", "1", "--daemons", "1", "--seed", str(seed), "--hub-code", str(code))
    with tempfile.TemporaryDirectory() as short:  # sockets have short paths
        done = crash(*options, TMPDIR=short)
        found_out(done, "daemons", r"hub ended by itself \(3\); the last of its log: ZeroDivisionError")
        (log,) = Path(short).glob("crash-daemons-0-*/hub.log")
        assert "Traceback" in log.read_text()


def test_mistake_in_a_daemons_log_is_found_out(tmp_path: Path) -> None:
    code = tmp_path / "broken.py"
    code.write_text("import sys\nprint('Traceback', file=sys.stderr, flush=True)")
    with tempfile.TemporaryDirectory() as short:
        done = crash(
            *("--rounds", "1", "--daemons", "1", "--seed", "32"), "--hub-code", str(code), TMPDIR=short
        )
    found_out(done, "daemons", "hub's log has mistakes of its own, first: Traceback")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--rounds", "-5"], "--rounds"),
        (["--daemons", "-3"], "--daemons"),
        (["--rounds", "3", "--daemons", "4"], "--daemons 4"),
        (["--patience", "nan"], "nan"),
        (["--patience", "0"], "--patience"),
        (["--only", "walls/3"], "walls/3"),
        (["--only", "stores/3", "--rounds", "9"], "--only"),
        (["--replays", "x"], "'x'"),
        (["--replays", "0"], "--replays"),
        (["--replays", "2", "--rounds", "5"], "--seed alone"),
        (["--replays", "2", "--daemons", "0"], "--seed alone"),
        (["--hub-code", "/no/such/file"], "/no/such/file"),
        (["--hub-code", str(ROOT / "README.md")], "is not Python"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_said_before_anything_is_killed(args: list[str], says: str) -> None:
    assert says in refusal(arguments, args)


def test_what_can_be_meant_is_taken() -> None:
    assert arguments(["--rounds", "1", "--daemons", "1"]).daemons == 1
    assert arguments(["--rounds", "40"]).daemons == 2
    replay = arguments(["--replays", "1", "--seed", "5"])
    assert (replay.replays, replay.seed) == (1, 5)


def test_error_that_nobody_expected_is_named_with_what_is_left_and_the_command(tmp_path: Path) -> None:
    broken = "import crashes.stores\ndef broken(*_, **__): raise KeyError(7)\ncrashes.stores.Witness.__init__ = broken"
    options = ("--rounds", "10", "--daemons", "0", "--seed", "3")
    done = crash(*options, broken=broken, TMPDIR=str(tmp_path))
    (left,) = tmp_path.iterdir()
    assert done.returncode == 1
    assert done.stderr == (
        f"stores/0: KeyError(7)\n  what is left: {left}\n"
        "  again: scripts/crash --seed 3 --only stores/0\n1 failed\n"
    )


def test_one_directory_alone_is_announced_as_that() -> None:
    done = crash("--only", "stores/3", "--seed", "7")
    assert done.returncode == 0
    assert done.stdout.startswith("seed 7: stores/3 alone, 10 kills\nstores: 10 kills, ")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
    assert (run.returncode, said) == (128 + stop, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)

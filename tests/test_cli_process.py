"""The command as a process of its own: what it imports, its streams, signals and pipes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import BACKREST, Machine

# Each of these costs more than the whole of `backrest --help` may.
HEAVY = ("trio", "rich", "google.protobuf", "cryptography", "httpx", "hypercorn", "h2", "pqcrypto")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, "m")
    made.ok("init", "--instance-id", "here")
    return made


def imported(machine: Machine, *args: str) -> set[str]:
    """The heavy modules that a command line imports, in a process of its own."""
    code = (
        "import sys\n"
        "from backrest.cli.main import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=machine.env, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split()) & set(HEAVY)


def test_help_and_completion_import_nothing_heavy(machine: Machine) -> None:
    assert imported(machine, "--help") == set()
    assert imported(machine, "token", "create", "--help") == set()
    assert imported(machine, "serve", "--help") == set()


def test_a_command_that_the_daemon_answers_imports_nothing_heavy(machine: Machine) -> None:
    with machine.serving():
        assert imported(machine, "status", "--json") == set()
        assert imported(machine, "token", "list", "--json") == set()


def test_a_command_on_the_files_imports_only_what_it_needs(machine: Machine) -> None:
    assert imported(machine, "plan", "list") <= {"google.protobuf", "cryptography"}


def test_completion_works(machine: Machine) -> None:
    env = {
        **machine.env,
        "_BACKREST_COMPLETE": "bash_complete",
        "COMP_WORDS": "backrest tok",
        "COMP_CWORD": "1",
    }
    code = "from backrest.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,token\n"


LINE = '{"repoId":"r1","planId":"p","status":3,"unixTimeStartMs":"1700000000000","operationBackup":{}}\n'


@pytest.mark.parametrize("args", [("ops", "list", "--json"), ("ops", "list", "-n", "0")])
def test_a_pipe_that_breaks_is_no_news(machine: Machine, args: tuple[str, ...]) -> None:
    machine.ok("ops", "import", "-", input=LINE * 3000)
    process = subprocess.Popen(
        [*BACKREST, *args], env=machine.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


def test_a_full_disk_behind_stdout_is_said(machine: Machine) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*BACKREST, "config", "show"],
            env=machine.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_name_that_the_terminals_encoding_lacks_is_escaped_not_a_failure(machine: Machine) -> None:
    machine.ok("ops", "import", "-", input=LINE.replace('"p"', '"\u4e2d"'))
    machine.env |= {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    assert "\\u4e2d" in machine.ok("ops", "list")


def in_a_terminal(machine: Machine, *args: str, typed: bytes = b"") -> str:
    """What a command writes to a terminal, on which somebody types."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*BACKREST, *args], env=machine.env, stdout=follower, stderr=follower, stdin=follower
    )
    os.close(follower)
    os.write(leader, typed)
    written = b""
    try:
        while chunk := os.read(leader, 65536):
            written += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(leader)
    process.wait()
    return written.decode()


def test_colour_is_for_terminals_that_want_it(machine: Machine) -> None:
    machine.ok("ops", "import", "-", input=LINE.replace("}\n", ',"status":"STATUS_SUCCESS"}\n'))
    machine.env["TERM"] = "xterm-256color"
    del machine.env["NO_COLOR"]
    assert "\x1b[" in in_a_terminal(machine, "ops", "list")
    assert "\x1b[" not in machine.ok("ops", "list")
    machine.env["NO_COLOR"] = "1"
    assert "\x1b[3" not in in_a_terminal(machine, "ops", "list")


@pytest.mark.parametrize("format", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("command", ["push", "identity rotate"])
def test_a_command_that_asks_does_nothing_without_a_yes(
    machine: Machine, command: str, format: tuple[str, ...]
) -> None:
    """One rule for all of them: on a terminal it asks; without one it is wrong usage, and --yes is named."""
    config = machine.directory / "config.json"
    whole = json.loads(config.read_text())
    whole["sync"]["authorizedClients"] = [{"instanceId": "laptop", "keyId": "ed25519." + "B" * 43}]
    config.write_text(json.dumps(whole))
    line = ("push", "laptop", "--delete-plan", "old") if command == "push" else ("identity", "rotate")

    def state() -> tuple[object, object]:
        return machine.json("identity", "show"), machine.json("push", "list")

    before = state()
    assert "--yes" in machine.refused(*line, *format, code=2)
    assert "[y/N]" in in_a_terminal(machine, *line, *format, typed=b"n\n")
    assert state() == before
    assert "[y/N]" in in_a_terminal(machine, *line, *format, typed=b"y\n")
    assert state() != before
    before = state()
    assert "[y/N]" not in machine.ok(*line, *format, "--yes")
    assert state() != before


def test_the_log_of_the_daemon_is_json_when_asked(machine: Machine) -> None:
    with machine.serving("--log-format", "json") as daemon:
        pass
    entries = [json.loads(line) for line in daemon.log]
    assert entries[0]["message"].startswith("listening on http://127.0.0.1:")
    assert {"time", "level", "logger"} <= entries[0].keys()


def test_ctrl_c_ends_a_tail_quietly(machine: Machine) -> None:
    with machine.serving() as daemon:
        process = subprocess.Popen(
            [*BACKREST, "ops", "tail", "--json"],
            env=machine.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"keepAlive": {}}
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip() == "backrest: stopped."
        assert process.wait() == 130
        process.stdout.close()
        process.stderr.close()
        assert json.loads(machine.ok("status", "--json"))["daemon"]["running"]
    assert not [line for line in daemon.log if "ERROR" in line], "somebody leaving is no error"


def test_a_watched_status_is_one_json_object_a_line(machine: Machine) -> None:
    with machine.serving():
        process = subprocess.Popen(
            [*BACKREST, "status", "--watch", "--json"], env=machine.env, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["peers"] == []
        token = f"ed25519.{'A' * 43}:{'1' * 64}#hub"
        machine.ok("host", "add", token, "--url", "http://127.0.0.1:1", "--no-wait")
        for line in process.stdout:  # it is also shown when nothing changed for a while
            if [peer["peerInstanceId"] for peer in json.loads(line)["peers"]] == ["hub"]:
                break
        process.terminate()
        process.wait()
        process.stdout.close()


def test_watching_without_a_daemon_sees_one_start_and_stop(machine: Machine) -> None:
    with machine._following("status", "--watch") as lines:
        assert json.loads(next(lines))["daemon"]["running"] is False
        with machine.serving():  # nobody holds the lock that it needs
            until(lines, lambda status: status["daemon"]["running"])
        until(lines, lambda status: not status["daemon"]["running"])


def until(lines: Iterator[str], good: Callable[[Any], bool]) -> None:
    next(line for line in lines if good(json.loads(line)))


def test_the_live_table_follows_the_daemon_on_a_terminal(machine: Machine) -> None:
    master, terminal = os.openpty()
    with machine.serving():
        env = {**machine.env, "TERM": "xterm", "COLUMNS": "200"}
        process = subprocess.Popen(
            [*BACKREST, "status", "--watch"], env=env, stdin=terminal, stdout=terminal, stderr=terminal
        )
        assert b"Instance: here" in read_until(master, b"PEER")
        token = f"ed25519.{'A' * 43}:{'1' * 64}#hub"
        machine.ok("host", "add", token, "--url", "http://127.0.0.1:1", "--no-wait")
        read_until(master, b"retry wait")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    os.close(terminal)
    os.close(master)


def read_until(terminal: int, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 65_536)
    return shown


def test_closed_streams_are_no_mistake_of_the_program(machine: Machine) -> None:
    for closed in ("status >&-", "status 2>&-", "status >&- 2>&-", "--help >&-"):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *BACKREST], env=machine.env, capture_output=True, text=True
        )
        assert "internal error" not in done.stderr, closed


def test_a_narrow_terminal_gets_lines_and_not_letters_below_one_another(machine: Machine) -> None:
    token = f"ed25519.{'A' * 43}:{'1' * 64}#hub"
    machine.ok("host", "add", token, "--url", "http://127.0.0.1:1", "--no-wait")
    master, terminal = os.openpty()
    env = {**machine.env, "TERM": "xterm", "COLUMNS": "20", "NO_COLOR": "1"}
    process = subprocess.Popen([*BACKREST, "status"], env=env, stdout=terminal, stderr=subprocess.DEVNULL)
    assert process.wait() == 0
    os.close(terminal)
    shown = read_until(master, b"MESSAGE").decode()
    os.close(master)
    assert "PEER" in shown
    assert "STATE" in shown


def test_a_refused_pairing_without_a_daemon_asks_for_a_new_token_and_not_for_the_network(
    machine: Machine, tmp_path: Path
) -> None:
    laptop = Machine(tmp_path, "laptop")
    laptop.ok("init", "--instance-id", "laptop")
    with machine.serving() as daemon:
        token = json.loads(machine.ok("token", "create", "--label", "x", "--json"))["token"]
        machine.ok("token", "revoke", "x")
        said = laptop.refused("host", "add", token, "--url", daemon.url)
    assert "With a new token from the hub" in said
    assert "HTTP/2" not in said

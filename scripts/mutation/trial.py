"""One run of the suite against a program started from some copy of the package: real processes, files of their own.

The suite itself always runs from the unmutated copy: it shares wire and crypto with the program, and a fault planted
there would be in both and cancel out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conformance import setup

START_S = 60.0  # for a process to say that it listens; it takes a second or two
SUITE_S = 420.0  # for a selection of cases: no case lasts longer than 300 s, and they run side by side
FAILURES = 3  # after so many the suite stops: the mutant is caught
SERVE = ("--bind-address", "127.0.0.1:0", "--heartbeat-interval", "1s")
PATIENCE_S = 30.0  # a busy machine is no failure; no case that passes waits that long


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run of the suite said. ``failed``: ids of cases. ``trouble``: why there was no run, or none to its end."""

    failed: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def good(self) -> bool:
        return not self.failed and not self.trouble


_running: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()


def stop_all() -> None:
    """Nothing outlives this program, whatever ends it."""
    _stopping.set()
    for process in tuple(_running):
        process.kill()


def _started(*command: str, cwd: Path, env: dict[str, str], quiet: bool = False) -> subprocess.Popen[str]:
    if _stopping.is_set():
        raise RuntimeError("the program is being stopped")
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=env,
        stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _running.add(process)
    return process


class Trial:
    """``package``: the folder that holds the backrest to be tested. ``original``: that of the suite."""

    def __init__(
        self, role: str, package: Path, original: Path, work: Path, patience: float = PATIENCE_S
    ) -> None:
        self._patience = str(patience)
        self._role = role
        self._original = original
        self._home = Path(tempfile.mkdtemp(dir=work))
        common = {
            **os.environ,
            "HOME": str(self._home),
            "BACKREST_CONFIG": str(self._home / "config.json"),
            "BACKREST_DATA": str(self._home / "data"),
            "NO_COLOR": "1",
        }
        self._mutant_env = common | {"PYTHONPATH": str(package)}
        self._suite_env = common | {"PYTHONPATH": str(original)}

    def run(self, *selection: str) -> Verdict:
        """Set the program up, start it, let the suite judge, stop it. ``selection``: options of the suite."""
        try:
            return self._hub(selection) if self._role == "hub" else self._client(selection)
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def _hub(self, selection: Sequence[str]) -> Verdict:
        setup.write_hub(self._home)
        with self._daemon() as url:
            if not url:
                return Verdict(trouble="the program does not start")
            return self._judged(
                self._suite("hub", url, f"@{self._home / 'arguments'}", *self._how(selection))
            )

    def _client(self, selection: Sequence[str]) -> Verdict:
        files = self._home / "setup"
        importing = [sys.executable, "-m", "backrest", "ops", "import"]
        change = shlex.join([*importing, str(files / "one-more.jsonl")])
        suite = self._suite(
            *(
                "client",
                "--setup",
                str(files),
                "--fixture",
                "--change-command",
                change,
                "--wait",
                str(START_S),
            ),
            *self._how(selection),
        )
        assert suite.stderr is not None
        while "waiting for the client" not in (line := suite.stderr.readline()):
            if not line:
                return self._judged(suite)
        shutil.copy(files / "config.json", self._home)
        subprocess.run(
            [*importing, str(files / "operations.jsonl")],
            env=self._suite_env,
            check=True,
            capture_output=True,
        )
        with self._daemon() as url:
            if not url:
                suite.kill()
                suite.communicate()
                return Verdict(trouble="the program does not start")
            return self._judged(suite)

    def _how(self, selection: Sequence[str]) -> tuple[str, ...]:
        how = ("--heartbeat", "1", "--patience", self._patience, "--max-failures", str(FAILURES), "--json")
        return (*selection, *how)

    def _suite(self, *arguments: str) -> subprocess.Popen[str]:
        return _started("conformance", *arguments, cwd=self._original, env=self._suite_env)

    @staticmethod
    def _judged(suite: subprocess.Popen[str]) -> Verdict:
        try:
            out, err = suite.communicate(timeout=SUITE_S)
        except subprocess.TimeoutExpired:
            suite.kill()
            suite.communicate()
            return Verdict(trouble=f"the suite is not over after {SUITE_S:.0f} s")
        if suite.returncode not in (0, 1):
            return Verdict(trouble=f"the suite could not run: {err.strip().splitlines()[-1:]}")
        results = json.loads(out)["results"]
        bad = sorted((one for one in results if one["outcome"] == "failed"), key=lambda one: one["seconds"])
        return Verdict(tuple(one["id"] for one in bad))

    @contextmanager
    def _daemon(self) -> Iterator[str]:
        """The running program's address, empty when it did not start."""
        daemon = _started("backrest", "serve", *SERVE, cwd=self._home, env=self._mutant_env, quiet=True)
        address: list[str] = []
        listening = threading.Event()
        reader = threading.Thread(target=_follow, args=(daemon, address, listening), daemon=True)
        reader.start()
        try:
            listening.wait(START_S)
            yield address[0] if address else ""
        finally:
            daemon.kill()
            daemon.wait()
            reader.join()


def _follow(daemon: subprocess.Popen[str], address: list[str], listening: threading.Event) -> None:
    """Read the log to its end, so that the program never waits for us."""
    assert daemon.stderr is not None
    with daemon.stderr as log:
        for line in log:
            if not address and (found := re.search(r"listening on (https?://\S+)", line)):
                address.append(found[1])
                listening.set()
    listening.set()

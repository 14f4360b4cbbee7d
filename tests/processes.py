"""Instances as real processes, steered as a person would: with the commands. For the end-to-end tests.

Waiting is reading: of the daemon's log until it listens, of ``ops tail`` or ``status --watch`` until what is expected
is said. The limit of the whole test (pytest-timeout) is the only clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

BACKREST = [sys.executable, "-m", "backrest"]


class Daemon:
    """A running ``backrest serve``; its log is kept for when a test fails."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self.log.append(line)
                self._lines.put(line)
        self._lines.put(None)

    def until_logged(self, pattern: str) -> re.Match[str]:
        """Read on in the log until a line matches."""
        while (line := self._lines.get()) is not None:
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"the daemon ended without logging {pattern!r}:\n{''.join(self.log)}")

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        code = self.process.wait()
        self._reader.join()
        return code

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


class Machine:
    """One installation with files of its own."""

    def __init__(self, directory: Path, name: str, command: Sequence[str] = BACKREST) -> None:
        self.name = name
        self.command = command
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.env = {
            **os.environ,
            "HOME": str(self.directory),
            "BACKREST_CONFIG": str(self.directory / "config.json"),
            "BACKREST_DATA": str(self.directory / "data"),
            "RESTIC_CACHE_DIR": str(self.directory / "cache"),
            "NO_COLOR": "1",
        }

    def run(self, *args: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *args], env=self.env, input=input, capture_output=True, text=True, check=False
        )

    def ok(self, *args: str, input: str | None = None) -> str:
        done = self.run(*args, input=input)
        assert done.returncode == 0, (
            f"backrest {' '.join(args)}: exit {done.returncode}\n{done.stderr}{done.stdout}"
        )
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))

    def refused(self, *args: str, code: int = 1, input: str | None = None) -> str:
        """Run what must fail, with one sentence on stderr and no traceback; returns it."""
        done = self.run(*args, input=input)
        assert done.returncode == code, (
            f"exit {done.returncode} instead of {code}: {done.stderr}{done.stdout}"
        )
        assert "Traceback" not in done.stderr
        return done.stderr

    @contextlib.contextmanager
    def serving(self, *args: str, bind: str = "127.0.0.1:0") -> Iterator[Daemon]:
        daemon = self.start(*args, bind=bind)
        try:
            yield daemon
        finally:
            if daemon.process.poll() is None:
                daemon.process.terminate()
                try:
                    daemon.process.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.process.kill()
            daemon.wait()
            sys.stderr.write(f"--- log of {self.name}\n{''.join(daemon.log)}")

    def start(self, *args: str, bind: str = "127.0.0.1:0") -> Daemon:
        process = subprocess.Popen(
            [*self.command, "serve", "--bind-address", bind, *args],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        daemon = Daemon(process)
        daemon.url = daemon.until_logged(r"listening on (https?://\S+)")[1]
        return daemon

    def operations(self, *args: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.json("ops", "list", *args)["operations"]
        return listed

    def until_operations(
        self, good: Callable[[list[dict[str, Any]]], bool], *args: str
    ) -> list[dict[str, Any]]:
        """Wait until the history is as expected, looking again whenever ``ops tail`` has something to say."""
        with self._following("ops", "tail", "-n", "0") as lines:
            next(lines)  # a keepAlive: it follows from here on, so what is looked at below is not older
            while not good(found := self.operations(*args)):
                next(lines)
        return found

    def until_status(self, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with self._following("status", "--watch") as lines:
            for line in lines:
                status: dict[str, Any] = json.loads(line)
                if good(status):
                    return status
        raise AssertionError("status --watch ended")

    @contextlib.contextmanager
    def _following(self, *args: str) -> Iterator[Iterator[str]]:
        process = subprocess.Popen(
            [*self.command, *args, "--json"],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield iter(process.stdout.readline, "")
        finally:
            process.kill()
            process.communicate()


def connected(status: dict[str, Any]) -> bool:
    return any(peer["state"] == "CONNECTION_STATE_CONNECTED" for peer in status["peers"])

"""Instances as real processes, and what the system says of them: time, memory, processor.

Configurations are written directly, with the other side already known: pairing is not what is measured.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backrest import wire
from backrest.admin.client import call
from backrest.crypto.identity import Identity
from backrest.permissions import parse_grant
from backrest.store.config import ConfigStore
from backrest.store.files import Paths

BACKREST = [sys.executable, "-m", "backrest"]
GRANT = parse_grant("read-operations=*")
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.002  # between two looks at a file's length: a hundredth of the shortest time that is told apart


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away again."""
    with tempfile.TemporaryDirectory(prefix="backrest-bench.") as name:
        yield Path(name)


class Machine:
    """One installation with files of its own below ``directory``."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.program = BACKREST
        home = directory / name
        home.mkdir(parents=True)
        self.paths = Paths(home / "config.json", home / "data")
        self.paths.data_dir.mkdir(mode=0o700)
        self.identity = Identity.generate()
        self.env = {
            **os.environ,
            "HOME": str(home),
            "BACKREST_CONFIG": str(self.paths.config_file),
            "BACKREST_DATA": str(self.paths.data_dir),
        }

        def begin(config: wire.config.Config) -> bool:
            config.instance = name
            config.multihost.identity.CopyFrom(self.identity.to_proto())
            return True

        self.configure(begin)

    def configure(self, change: Any) -> None:
        """Only while no daemon runs on it."""
        ConfigStore.open(self.paths.config_file).transform(change)

    def let_in(self, clients: Iterable[tuple[str, str]]) -> None:
        """As a hub: (instance id, key id) of each client that may connect."""

        def change(config: wire.config.Config) -> bool:
            for instance_id, keyid in clients:
                config.multihost.authorized_clients.add(
                    instance_id=instance_id, keyid=keyid, permissions=[GRANT]
                )
            return True

        self.configure(change)

    def know(self, hub: Machine, url: str) -> None:
        def change(config: wire.config.Config) -> bool:
            config.multihost.known_hosts.add(
                instance_id=hub.name, keyid=hub.identity.keyid, instance_url=url, permissions=[GRANT]
            )
            return True

        self.configure(change)

    def run(self, *args: str) -> None:
        subprocess.run([*BACKREST, *args], env=self.env, check=True, stdout=subprocess.DEVNULL)

    @contextmanager
    def serving(self) -> Iterator[Daemon]:
        """A daemon that listens; its process's start is at ``started``."""
        daemon = Daemon(self)
        try:
            daemon.url = daemon.until_logged(r"listening on (https?://\S+)")[0][1]
            yield daemon
        finally:
            daemon.stop()


class Daemon:
    """A running ``backrest serve``."""

    def __init__(self, machine: Machine, bind: str = "127.0.0.1:0") -> None:
        self.machine = machine
        self.url = ""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*machine.program, "serve", "--bind-address", bind],
            env=machine.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.log: list[str] = []
        self._lines: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self.log.append(line)
                self._lines.put((time.monotonic(), line))
        self._lines.put(None)

    def until_logged(self, pattern: str) -> tuple[re.Match[str], float]:
        """The match in the next line that has one, and when it came."""
        while (entry := self._lines.get()) is not None:
            found = re.search(pattern, entry[1])
            if found:
                return found, entry[0]
        raise RuntimeError(f"{self.machine.name} ended without logging {pattern!r}:\n{''.join(self.log)}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self._reader.join()

    def memory_mib(self, what: str) -> float:
        """``what``: VmRSS, now; VmHWM, at its highest."""
        return memory_mib(self.pid, what)

    def cpu_s(self) -> float:
        """User and system time of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def holds(self, client: str) -> int:
        """Operations of a client in the hub's index, which changes after they were synced to the disk."""
        status = call(self.machine.paths, "Status", {})
        return sum(peer["operations"] for peer in status["peers"] if peer["peerInstanceId"] == client)

    def until_held(self, client: str, count: int) -> None:
        """Wait until ``count`` operations of the client are durable.

        First their lines are counted in the file, which costs the hub nothing; only then is it asked whether they
        are synced.
        """
        lines = -1  # the first line is a mark of the log's own
        with self.machine.paths.oplog.open("rb") as log:
            while lines < count:
                piece = log.read(1 << 20)
                lines += piece.count(b"\n")
                if not piece:
                    if self.process.poll() is not None:
                        raise RuntimeError(f"the hub ended:\n{''.join(self.log)}")
                    time.sleep(LOOK_S)
        while self.holds(client) < count:
            time.sleep(LOOK_S)


def memory_mib(pid: int | str, what: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024

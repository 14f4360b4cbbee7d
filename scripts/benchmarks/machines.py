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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backrest import wire
from backrest.admin.client import call
from backrest.crypto.identity import Identity
from backrest.crypto.tokens import PairingToken
from backrest.permissions import parse_grant
from backrest.store.config import ConfigStore
from backrest.store.files import Paths
from benchmarks import process
from benchmarks.model import FailedError
from benchmarks.process import memory_mib as memory_mib  # also for those who look at a Machine

BACKREST = [sys.executable, "-m", "backrest"]
GRANT = parse_grant("read-operations=*")
LOOK_S = 0.002  # between two looks at a file's length: a first sync seems to take so much longer at most
STOP_S = 10.0  # a daemon ends within 5 s of its SIGTERM; one that does not must not outlive us


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

    def take(self, token: PairingToken) -> None:
        """As a hub: let in whoever shows this token."""

        def change(config: wire.config.Config) -> bool:
            config.multihost.pairing_tokens.add(
                secret=token.secret, label="bench", created_at_unix=int(time.time()), permissions=[GRANT]
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
        """A command; CalledProcessError has its stderr."""
        subprocess.run([*BACKREST, *args], env=self.env, check=True, capture_output=True, text=True)

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
        self.process.wait()
        raise self._ended()

    def check(self) -> None:
        """FailedError when it has ended."""
        if self.process.poll() is not None:
            raise self._ended()

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What fails in the block because this daemon has ended is told as that."""
        try:
            yield
        except Exception:
            with suppress(subprocess.TimeoutExpired):  # its connections are closed a moment before it ends
                self.process.wait(1.0)
            self.check()
            raise

    def _ended(self) -> FailedError:
        self._reader.join()
        last = self.log[-1].strip() if self.log else "nothing"
        return FailedError(
            f"{self.machine.name} ended by itself ({self.process.returncode}); the last of its log: {last}"
        )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()

    def memory_mib(self, what: str) -> float:
        return memory_mib(self.pid, what)

    def cpu_s(self) -> float:
        return process.cpu_s(self.pid)

    def holds(self, client: str) -> int:
        """Operations of a client in the hub's index, which changes after they were synced to the disk."""
        status = call(self.machine.paths, "Status", {})
        return sum(peer["operations"] for peer in status["peers"] if peer["peerInstanceId"] == client)

    def until_held(self, client: Daemon, count: int) -> None:
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
                    self.check()
                    client.check()
                    time.sleep(LOOK_S)
        while self.holds(client.machine.name) < count:
            self.check()
            time.sleep(LOOK_S)

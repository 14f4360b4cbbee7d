"""A hub and a client, real daemons, of which one or both are killed while others work with them.

Two threads work: one imports operations at the client, the other makes tokens at the hub, which changes its
configuration and its audit log; now and then the hub compacts. What a call returned for is acknowledged. After each
kill the dead are started again; what was acknowledged must be there, all files must be whole, and hub and client must
come to hold the same. The seed repeats who is killed and after how much; the moment within is the machine's.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.machines import Daemon, Machine

from backrest.admin.client import call, stream
from backrest.errors import BackrestError
from backrest.store import audit
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog
from crashes.stores import WrongError

KILLS = 5  # of one pair: each finds what those before it left
LONGEST_S = 0.5  # after the chosen acknowledgement
LOOK_S = 0.05
# After it we say that they do not come together. A client that could not reach its hub waits some seconds.
PATIENCE_S = 120.0


class Pair:
    def __init__(self, directory: Path) -> None:
        self.hub, self.client = Machine(directory, "hub"), Machine(directory, "laptop")
        self.bind = f"127.0.0.1:{_free_port()}"
        self.hub.let_in([(self.client.name, self.client.identity.keyid)])
        self.client.know(self.hub, f"http://{self.bind}")
        self.daemons: dict[str, Daemon] = {}
        self.imported: set[str] = set()
        self.tried: set[str] = set()
        self.labels: set[str] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self._start()
            yield
            for name, daemon in self.daemons.items():
                daemon.stop()
                if daemon.process.returncode:
                    raise WrongError(f"{name} ended with {daemon.process.returncode} after SIGTERM")
        finally:
            for daemon in self.daemons.values():
                if daemon.process.poll() is None:
                    daemon.process.kill()
                daemon.stop()

    def _start(self) -> None:
        for name, machine in (("hub", self.hub), ("client", self.client)):
            if name not in self.daemons or self.daemons[name].process.poll() is not None:
                daemon = Daemon(machine, self.bind if name == "hub" else "127.0.0.1:0")
                self.daemons[name] = daemon
                try:
                    daemon.until_logged(r"listening on (https?://\S+)")
                except RuntimeError as error:
                    raise WrongError(f"{name} does not start again: {error}") from error

    def kill(self, chance: random.Random, name: str) -> None:
        """One round."""
        victims = chance.choice((["hub"], ["client"], ["hub", "client"]))
        compacting = chance.random() < 0.5
        enough, moment = chance.randint(1, 20), chance.uniform(0, LONGEST_S)
        counted, stop = threading.Semaphore(0), threading.Event()

        def repeat(work: Callable[[str], None]) -> None:
            number = 0
            while not stop.is_set():
                try:
                    work(f"{name}.{number}")
                except (BackrestError, OSError):
                    break  # it was killed: what this call wanted may have been done, or not
                counted.release()
                number += 1
            counted.release(enough)

        work: list[Callable[[str], None]] = [self._import, self._make_token]
        threads = [threading.Thread(target=repeat, args=(one,)) for one in work]
        if compacting:
            threads.append(
                threading.Thread(target=_quietly, args=(lambda: call(self.hub.paths, "CompactOplog", {}),))
            )
        for thread in threads:
            thread.start()
        for _ in range(enough):
            counted.acquire()
        time.sleep(moment)
        for victim in victims:
            self.daemons[victim].process.kill()
        stop.set()
        for thread in threads:
            thread.join()
        for victim in victims:
            self.daemons[victim].stop()
        self._files_are_whole()
        self._start()
        self._look()

    def _import(self, tag: str) -> None:
        tags = [f"{tag}.{number}" for number in range(20)]
        self.tried.update(tags)
        operations = [
            {
                "repoId": "nas",
                "planId": "photos",
                "unixTimeStartMs": "1000",
                "displayMessage": one,
                "status": "STATUS_SUCCESS",
            }
            for one in tags
        ]
        call(self.client.paths, "ImportOperations", {"operations": operations})
        self.imported.update(tags)

    def _make_token(self, label: str) -> None:
        call(self.hub.paths, "CreateToken", {"label": label})
        self.labels.add(label)

    def _files_are_whole(self) -> None:
        """As the dead left them, before anybody opens them again."""
        for machine in (self.hub, self.client):
            report = OpLog.verify(machine.paths.oplog)
            if not report.opens:
                raise WrongError(f"{machine.name}: oplog verify: {report.bad}")
            ConfigStore.open(machine.paths.config_file, environ={})

    def _look(self) -> None:
        ours = {one["id"]: one for one in _operations(self.client, "local")}
        there = {one["displayMessage"] for one in ours.values()}
        if not self.imported <= there <= self.tried:
            raise WrongError(f"the client lost {sorted(self.imported - there)[:5]}, or made up operations")
        self.imported = there
        listed = {one["label"] for one in call(self.hub.paths, "ListTokens", {})["pairingTokens"]}
        if not self.labels <= listed:
            raise WrongError(f"the hub lost the tokens {sorted(self.labels - listed)[:5]}")
        self.labels = listed
        limit = time.monotonic() + PATIENCE_S
        while (theirs := self._at_the_hub()) != {number: _essence(one) for number, one in ours.items()}:
            if time.monotonic() > limit:
                raise WrongError(
                    f"the hub holds {len(theirs)} operations, the client {len(ours)}, and so it stays"
                )
            time.sleep(LOOK_S)
        for machine in (self.hub, self.client):
            try:
                audit.verify(machine.paths.audit)
            except BackrestError as error:
                raise WrongError(f"{machine.name}: {error}") from error

    def _at_the_hub(self) -> dict[str, Any]:
        return {one["originalId"]: _essence(one) for one in _operations(self.hub, self.client.identity.keyid)}


def _essence(operation: dict[str, Any]) -> tuple[str, str]:
    return operation["modno"], operation["displayMessage"]


def _operations(machine: Machine, peer: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    stream(machine.paths, "ListOperations", {"peer": peer}, lambda event: found.extend(event["operations"]))
    return found


def _quietly(work: Callable[[], object]) -> None:
    with suppress(BackrestError, OSError):  # it was killed in the midst
        work()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def life(directory: Path, seed: str, kills: int) -> int:
    """One pair, and so many kills. How many operations were acknowledged. WrongError."""
    chance = random.Random(seed)
    pair = Pair(directory)
    with pair.running():
        for number in range(kills):
            try:
                pair.kill(chance, f"k{number}")
            except Exception as error:
                raise WrongError(f"kill {number + 1}: {error}") from error
    pair._files_are_whole()
    return len(pair.imported)

"""A hub and a client, real daemons, of which one or both are killed.

In a busy round two threads work: one imports operations at the client, the other makes tokens at the hub, which changes
its configuration and its audit log; now and then the hub compacts. What a call returned for is acknowledged. In a quiet
round nothing is under way when the kill comes: what the hub held a moment ago must be in its file. Before that the
client may clear what it made last, and the hub compact: the numbers of what is gone are never given to anything else.

After each kill the files are read as they were left and the dead are started again; what was acknowledged must be
there, all files must be whole, and hub and client must come to hold the same. Nobody may have ended before the kill, or
have died of it but the victims, and no log may speak of a mistake. The seed repeats who is killed and after how much;
the moment within is the machine's.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import orjson
from benchmarks.machines import Daemon, Machine
from shared.daemons import ask, blamed, mistakes, program, until_answering
from shared.entry import within

from backrest.admin.client import connect
from backrest.errors import BackrestError
from backrest.store import audit
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog, Query
from crashes.stores import WrongError

KILLS = 5  # of one pair: each finds what those before it left
QUIET = 0.4  # of them
LONGEST_S = 0.5  # after the chosen acknowledgement
LOOK_S = 0.05
NEWEST = 3  # operations that the client clears
# After it we say that they do not come together. A client that could not reach its hub waits some seconds.
PATIENCE_S = 120.0
WAITS = 4  # in a round, of which each may take as long as that


class Pair:
    def __init__(self, directory: Path, hub_code: str = "", patience: float = PATIENCE_S) -> None:
        self.hub, self.client = Machine(directory, "hub"), Machine(directory, "laptop")
        self.hub.program = program(hub_code)
        self.bind = f"127.0.0.1:{_free_port()}"
        self.hub.let_in([(self.client.name, self.client.identity.keyid)])
        self.client.know(self.hub, f"http://{self.bind}")
        self.daemons: dict[str, Daemon] = {}
        self.living: list[Daemon] = []  # those that nobody has killed
        self._all: list[Daemon] = []
        self.imported: set[str] = set()  # by what they say; acknowledged, or found
        self.tried: set[str] = set()
        self.labels: set[str] = set()  # of tokens, likewise
        self.told: set[str] = set()  # labels of tokens that a call returned: they are in the audit log
        self.held: dict[str, Any] = {}  # at the hub, when it was looked at last
        self.given: dict[str, dict[str, str]] = {"hub": {}, "laptop": {}}  # id -> whose it is, for ever
        self._patience = patience
        self._copy = directory / "copy.jsonl"

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            with within(self._patience):
                self._start()
            yield
            for name, daemon in self.daemons.items():
                daemon.stop()
                if daemon.process.returncode:
                    raise WrongError(f"{name} ended with {daemon.process.returncode} after SIGTERM")
            self._no_mistakes()
        finally:
            for daemon in self.daemons.values():
                if daemon.process.poll() is None:
                    daemon.process.kill()
                daemon.stop()
            for daemon in self._all:  # goes with the directory, unless something is wrong
                with (self._copy.parent / f"{daemon.machine.name}.log").open("a") as log:
                    log.writelines(daemon.log)

    def _start(self) -> None:
        for name, machine in (("hub", self.hub), ("client", self.client)):
            if name not in self.daemons or self.daemons[name].process.poll() is not None:
                daemon = Daemon(machine, self.bind if name == "hub" else "127.0.0.1:0")
                self.daemons[name] = daemon
                self._all.append(daemon)
                try:
                    daemon.until_logged(r"listening on (https?://\S+)")
                    until_answering(daemon)
                    self.living.append(daemon)
                except RuntimeError as error:
                    raise WrongError(f"{name} does not start again: {error}") from error

    def kill(self, chance: random.Random, name: str) -> None:
        """One round. Whoever ends in it by itself is what is wrong, whatever else that brings about."""
        with blamed(self.living), within(WAITS * self._patience):
            self._kill(chance, name)

    def _kill(self, chance: random.Random, name: str) -> None:
        victims = chance.choice((["hub"], ["client"], ["hub", "client"]))
        quiet, compacting = chance.random() < QUIET, chance.random() < 0.5
        enough, moment = chance.randint(1, 20), chance.uniform(0, LONGEST_S)
        if quiet:
            self._import(f"{name}.q")
            self._look()
            if compacting:
                self._clear_newest()
                self._look()
                ask(self.hub, "CompactOplog")
            self._die(victims)
        else:
            with self._working(name, compacting, enough) as failed:
                time.sleep(moment)
                self._die(victims)
            if failed:
                raise WrongError(f"before the kill: {failed[0]}")
        for victim in victims:
            self.daemons[victim].stop()
        for daemon in self.living:
            daemon.check()
        self._files_hold_it(quiet)
        self._start()
        self._import(f"{name}.new")  # takes the next numbers
        self._look()
        self._no_mistakes()

    def _die(self, victims: list[str]) -> None:
        for daemon in self.living:
            daemon.check()
        dying = [self.daemons[victim] for victim in victims]
        self.living[:] = [daemon for daemon in self.living if daemon not in dying]
        for daemon in dying:
            daemon.process.kill()
        for daemon in dying:
            if daemon.process.wait() != -signal.SIGKILL:  # between our look and the kill
                daemon.check()

    def _no_mistakes(self) -> None:
        for sentence in (sentence for daemon in self._all for sentence in mistakes(daemon)):
            raise WrongError(sentence)

    @contextmanager
    def _working(self, name: str, compacting: bool, enough: int) -> Iterator[list[Exception]]:
        """Others work, and so much was acknowledged already; at the end of the block they stop. What failed while
        nobody had been killed."""
        counted, stop = threading.Semaphore(0), threading.Event()
        failed: list[Exception] = []

        def repeat(work: Callable[[str], None], numbers: Iterable[int]) -> None:
            for number in numbers:
                if stop.is_set():
                    return
                try:
                    work(f"{name}.{number}")
                except (BackrestError, OSError) as error:
                    if len(self.living) == len(self.daemons):
                        failed.append(error)
                        counted.release(enough)
                    return  # it was killed: what this call wanted may have been done, or not
                counted.release()

        work: list[tuple[Callable[[str], None], Iterable[int]]] = [
            (self._import, count()),
            (self._make_token, count()),
        ]
        if compacting:
            work.append((lambda _: ask(self.hub, "CompactOplog"), [0]))
        threads = [threading.Thread(target=repeat, args=one, daemon=True) for one in work]
        for thread in threads:
            thread.start()
        try:
            for _ in range(enough):
                counted.acquire()
            if failed:
                raise failed[0]
            yield failed
        finally:
            stop.set()
        for thread in threads:
            thread.join()

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
        ask(self.client, "ImportOperations", {"operations": operations})
        self.imported.update(tags)

    def _make_token(self, label: str) -> None:
        ask(self.hub, "CreateToken", {"label": label})
        self.labels.add(label)
        self.told.add(label)

    def _clear_newest(self) -> None:
        ours = {int(one["id"]): one["displayMessage"] for one in _operations(self.client, "local")}
        ids = sorted(ours)[-NEWEST:]
        body = orjson.dumps({"selector": {"ids": list(map(str, ids))}})
        connection = connect(self.client.paths)
        if connection is None:
            raise WrongError("the client's daemon does not answer")
        with connection:
            connection.request(
                "POST", "/v1.Backrest/ClearHistory", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            if answer.status != 200:
                raise WrongError(f"the client did not clear its history: {answer.read()!r}")
        self.imported -= {ours[number] for number in ids}

    def _files_hold_it(self, quiet: bool) -> None:
        """As the dead left them, before anybody opens them again. ``quiet``: nothing was under way."""
        for machine in (self.hub, self.client):
            report = OpLog.verify(machine.paths.oplog)
            if not report.opens:
                raise WrongError(f"{machine.name}: oplog verify: {report.bad}")
            ConfigStore.open(machine.paths.config_file, environ={})
        at_the_hub = {
            str(one.original_id): (str(one.modno), one.display_message)
            for one in self._read(self.hub, self.client.identity.keyid)
        }
        lost, more = self.held.items() - at_the_hub.items(), at_the_hub.items() - self.held.items()
        if lost or (quiet and more):
            raise WrongError(
                f"the hub's file lacks {len(lost)} operations that the hub held before the kill"
                + f", and has {len(more)} others" * quiet
            )
        here = {one.display_message for one in self._read(self.client, "")}
        if not self.imported <= here:
            raise WrongError(
                f"the client's file lacks {sorted(self.imported - here)[:5]}, which it had taken"
            )

    def _read(self, machine: Machine, origin: str) -> list[Any]:
        """From a copy: opening a log mends what a kill left, and that is for its daemon to do."""
        shutil.copyfile(machine.paths.oplog, self._copy)
        log = OpLog.open(self._copy)
        found = list(log.query(Query(origin=origin)))
        log.close()
        for path in self._copy.parent.glob("copy.*"):
            path.unlink()
        return found

    def _look(self) -> None:
        ours = {one["id"]: one for one in _operations(self.client, "local")}
        there = {one["displayMessage"] for one in ours.values()}
        if not self.imported <= there <= self.tried:
            raise WrongError(f"the client lost {sorted(self.imported - there)[:5]}, or made up operations")
        self.imported = there
        listed = {one["label"] for one in ask(self.hub, "ListTokens")["pairingTokens"]}
        if not self.labels <= listed:
            raise WrongError(f"the hub lost the tokens {sorted(self.labels - listed)[:5]}")
        self.labels = listed
        limit = time.monotonic() + self._patience
        while (theirs := self._at_the_hub()) != {number: _essence(one) for number, one in ours.items()}:
            if time.monotonic() > limit:
                raise WrongError(
                    f"the hub holds {len(theirs)} operations, the client {len(ours)}, and so it stays"
                )
            time.sleep(LOOK_S)
        self.held = theirs
        self._nobody_has_anothers_id("laptop", list(ours.values()))
        for machine in (self.hub, self.client):
            try:
                audit.verify(machine.paths.audit)
            except BackrestError as error:
                raise WrongError(f"{machine.name}: {error}") from error
        made = {e["label"] for e in audit.read(self.hub.paths.audit) if e["event"] == "token-created"}
        if not self.told <= made:
            raise WrongError(
                f"the hub's audit log does not tell of the tokens {sorted(self.told - made)[:5]}"
            )
        if not made <= self.labels:
            raise WrongError(
                f"the hub's audit log tells of tokens {sorted(made - self.labels)[:5]} that are not"
            )

    def _at_the_hub(self) -> dict[str, Any]:
        operations = _operations(self.hub, self.client.identity.keyid)
        self._nobody_has_anothers_id("hub", operations)
        return {one["originalId"]: _essence(one) for one in operations}

    def _nobody_has_anothers_id(self, name: str, operations: list[dict[str, Any]]) -> None:
        for one in operations:
            if self.given[name].setdefault(one["id"], one["displayMessage"]) != one["displayMessage"]:
                raise WrongError(f"{name} gave out the id {one['id']} twice")


def _essence(operation: dict[str, Any]) -> tuple[str, str]:
    return operation["modno"], operation["displayMessage"]


def _operations(machine: Machine, peer: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    ask(machine, "ListOperations", {"peer": peer}, lambda event: found.extend(event["operations"]))
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def life(directory: Path, seed: str, kills: int, *, hub_code: str = "", patience: float = PATIENCE_S) -> int:
    """One pair, and so many kills. How many operations were acknowledged. WrongError."""
    chance = random.Random(seed)
    pair = Pair(directory, hub_code, patience)
    with pair.running():
        for number in range(kills):
            try:
                pair.kill(chance, f"k{number}")
            except Exception as error:
                raise WrongError(f"kill {number + 1}: {error}") from error
    pair._files_hold_it(quiet=True)
    return len(pair.imported)

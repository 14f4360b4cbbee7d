"""A writer that works on the stores of one data directory is killed, over and over; each time all is looked at.

The writer is forked, so that a round costs milliseconds. It dies in one of two ways: by itself at a chosen system call
(before it, behind it, or in the middle of a write); or by a kill from outside after a chosen number of acknowledgements
and a moment more. A seed repeats all of a directory until the first kill from outside: what that leaves, the machine
decides, and what comes after stands on it.

What a kill cannot show is what a power cut can: what the system had not yet written is not lost. For that there is
the model of a disk (tests/store_medium.py).
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from shared.entry import hold_stops, take_stops

from backrest.store import syscalls
from backrest.store.files import DirLock, Paths
from backrest.store.oplog import OpLog, Query
from crashes.books import BOOKS, State
from crashes.fatal import Fatal, Unsynced
from crashes.writer import Done, Intent, Kept, Key, messages, write

KILLS = 10  # of one directory: each finds what those before it left
MOMENT_S = 0.004  # some steps of a writer
STEPS = 60  # system calls that a writer does before it kills itself, at most
SHOWN = 120  # characters of a state in a sentence


class WrongError(Exception):
    """Something is not as it was promised."""


class Witness:
    """What was acknowledged so far, of one directory, and what is there."""

    def __init__(self, directory: Path, *, exact: bool = False) -> None:
        self.paths = Paths(directory / "config.json", directory / "data")
        self.operations: dict[Key, Kept] = {}
        self.highest = (0, 0)  # id, and modno of our own, that were given out
        self.states: dict[str, State] = {book.name: book.empty for book in BOOKS}
        self.acknowledged = 0
        self._exact = exact

    def kill(self, chance: random.Random, name: str) -> None:
        """Fork a writer, hear what it says, and see it killed."""
        reader, pipe = os.pipe()
        by_itself = chance.random() < 0.5 or self._exact
        at, how = chance.randint(1, STEPS), chance.choice(("before", "behind", "within"))
        seed = chance.random()
        acks, moment = chance.randint(0, 20), chance.uniform(0, MOMENT_S)
        hold_stops()
        pid = os.fork()
        if not pid:
            try:
                os.close(reader)  # what stops the run is for the witness, which ends us
                if by_itself:
                    syscalls.disk = Fatal(at, how)
                write(self.paths, self.states, random.Random(seed), name, pipe)
            except BaseException as error:
                os.write(2, f"the writer failed: {error!r}\n".encode())
            finally:
                os._exit(1)
        try:
            take_stops()
            os.close(pipe)
            pending = self._hear(reader, pid, None if by_itself else (acks, moment))
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise WrongError("the writer ended before it was killed")
        self.look(pending)

    def _hear(self, reader: int, pid: int, kill: tuple[int, float] | None) -> Intent | None:
        """What was under way when it died. ``kill``: after so many acknowledgements, and a moment in seconds."""
        pending: Intent | None = None
        with open(reader, "rb") as stream:
            for message in messages(stream):
                if isinstance(message, Intent):
                    pending = message
                    continue
                assert pending is not None
                self._acknowledge(pending, message)
                pending = None
                if kill is not None:
                    acks, moment = kill
                    kill = (acks - 1, moment)
                    if acks == 0:
                        time.sleep(moment)
                        os.kill(pid, signal.SIGKILL)
        return pending

    def _acknowledge(self, intent: Intent, done: Done) -> None:
        self.acknowledged += 1
        given, high = dict(zip(("id", "modno"), self.highest, strict=True)), self.highest
        for key, kept in done.became.items():
            if kept is None:
                self.operations.pop(key, None)
                continue
            numbers = {"add": {"id": key[1], "modno": kept[1]}, "update": {"modno": kept[1]}}
            for what, number in numbers.get(intent.what, {}).items():
                if number <= given[what]:
                    raise WrongError(f"the {what} {number} was given out twice")
            if intent.what in numbers:
                high = max(high[0], key[1]), max(high[1], kept[1])
            self.operations[key] = kept
        self.highest = high
        if intent.what in self.states:
            self.states[intent.what] = intent.after

    def look(self, pending: Intent | None) -> None:
        """Compare what is there with what was acknowledged; ``pending`` may have been done, or a part of it."""
        paths = self.paths
        pending = pending or Intent("nothing")
        with DirLock(paths):
            if paths.oplog.exists():
                report = OpLog.verify(paths.oplog)
                if not report.opens:
                    raise WrongError(f"oplog verify: {report.bad}")
            log = OpLog.open(paths.oplog)
            found: dict[Key, Kept] = {}
            for one in log.query(Query()):
                key = one.original_instance_keyid, one.original_id or one.id
                found[key] = one.display_message, one.modno
            highest = log.highest
            log.close()
            self._compare(found, pending)
            for what, known, given in zip(("id", "modno"), highest, self.highest, strict=True):
                if known < given:
                    raise WrongError(f"the high-water mark went back: the {what} {given} was given out")
            self.operations, self.highest = found, highest
            for book in BOOKS:
                state, told = book.read(paths), self.states[book.name]
                if state != told and not (pending.what == book.name and state == pending.after):
                    raise WrongError(
                        f"{book.name}: found {_end(state)}, where {_end(told)} was acknowledged, "
                        f"during {pending.what}"
                    )
                self.states[book.name] = state

    def _compare(self, found: dict[Key, Kept], pending: Intent) -> None:
        for key in found.keys() | self.operations.keys():
            there, told = found.get(key), self.operations.get(key)
            text = there[0] if there else None
            if there == told or (key in pending.changes and text == pending.changes[key]):
                continue
            if told is None and not key[0] and text in pending.fresh and key[1] > self.highest[0]:
                continue
            raise WrongError(f"the operation {key}: found {there}, where {told} was acknowledged")


def _end(state: State) -> str:
    text = str(state)
    return text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"


def life(directory: Path, seed: str, kills: int, *, exact: bool = False) -> int:
    """One directory, and so many kills. How many steps were acknowledged. WrongError."""
    chance = random.Random(seed)
    witness = Witness(directory, exact=exact)
    disk, syscalls.disk = syscalls.disk, Unsynced()
    try:
        for number in range(kills):
            try:
                witness.kill(chance, f"k{number}")
            except Exception as error:
                raise WrongError(f"kill {number + 1}: {error}") from error
    finally:
        syscalls.disk = disk
    return witness.acknowledged

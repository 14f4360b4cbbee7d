"""A writer that works on the stores of one data directory is killed, over and over; each time all is looked at.

The writer is forked, so that a round costs milliseconds. It says over a pipe what it is about to do and, when the
store has returned, that it is done. It dies in one of two ways: by itself at a chosen system call (before it, behind
it, or in the middle of a write), which a seed repeats exactly; or by a kill from outside after a chosen number of
acknowledgements and a moment more, which a seed repeats but for the moment.

What a kill cannot show is what a power cut can: what the system had not yet written is not lost. For that there is
the model of a disk (tests/store_crash.py).
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from backrest import wire
from backrest.store import audit, opcompact, opsaved, syscalls
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.files import DirLock, Paths
from backrest.store.oplog import OpLog, Query
from backrest.store.peers import PeerStore

Operation = wire.operations.Operation

KILLS = 10  # of one directory: each finds what those before it left
PEERS = ("ed25519.one", "ed25519.two", "ed25519.three")
GUID = "ab" * 32
MOMENT_S = 0.004  # some steps of a writer
STEPS = 60  # system calls that a writer does before it kills itself, at most
LINES = 16  # copied at a time by a compaction: else so small a log is copied in one step
GROWN = 0  # bytes after which the index is saved: else that of so small a log never is


class WrongError(Exception):
    """Something is not as it was promised."""


# --- the writer


class _Fatal(syscalls.Disk):
    """Kills its process at the step ``at``: "before" it, "behind" it, or "within" it, if it is a write."""

    def __init__(self, at: int, how: str) -> None:
        self._left = at
        self._how = how

    def _step(self) -> bool:
        self._left -= 1
        fatal = (
            self._left <= 0
        )  # also the one after it, when that one failed, as opening a new file does at first
        if fatal and self._how == "before":
            _die()
        return fatal

    def _done(self, fatal: bool) -> None:
        if fatal:
            _die()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fatal = self._step()
        fd = super().open(path, flags, mode)
        self._done(fatal)
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        fatal = self._step()
        if fatal and self._how == "within":
            super().write(fd, bytes(data[: len(data) // 2]), offset)
            _die()
        count = super().write(fd, data, offset)
        self._done(fatal)
        return count

    def truncate(self, fd: int, length: int) -> None:
        fatal = self._step()
        super().truncate(fd, length)
        self._done(fatal)

    def fsync(self, fd: int) -> None:
        self._done(self._step())  # the sync itself cannot matter to a kill, and takes the time of the rest

    def fsync_dir(self, path: str) -> None:
        self._done(self._step())

    def rename(self, source: str, target: str) -> None:
        fatal = self._step()
        super().rename(source, target)
        self._done(fatal)

    def link(self, source: str, target: str) -> None:
        fatal = self._step()
        super().link(source, target)
        self._done(fatal)

    def unlink(self, path: str) -> None:
        fatal = self._step()
        super().unlink(path)
        self._done(fatal)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _operation(tag: str, **fields: Any) -> Operation:
    return Operation(
        repo_id="nas",
        repo_guid=GUID,
        plan_id="photos",
        instance_id="laptop",
        unix_time_start_ms=1000,
        display_message=tag,
        operation_backup={},
        **fields,
    )


@dataclass(slots=True)
class Intent:
    """What the writer is about to do. ``fresh``: tags of new operations; ``changes``: what becomes of known ones."""

    what: str
    fresh: list[str] = field(default_factory=list)
    changes: dict[tuple[str, int], str | None] = field(
        default_factory=dict
    )  # (origin, its id there) -> tag, or gone
    text: str = ""


def _write(paths: Paths, chance: random.Random, name: str, pipe: int) -> None:
    """Write until killed. Every step is announced, and acknowledged with what became of the operations."""

    def say(message: Any) -> None:
        data = pickle.dumps(message)
        os.write(pipe, struct.pack("<I", len(data)) + data)

    opcompact._LINES = LINES
    opsaved.WORTH_BYTES = GROWN
    with DirLock(paths):
        log = OpLog.open(paths.oplog)
        config = ConfigStore.open(paths.config_file, environ={})
        trail = AuditLog.open(paths.audit)
        peers = PeerStore.open(paths.peers)
        for number in range(1_000_000):
            tag = f"{name}.{number}"
            mine = list(log.select(Query(origin="")))
            what = chance.choices(
                (
                    "add",
                    "update",
                    "delete",
                    "newest",
                    "apply",
                    "purge",
                    "compact",
                    "save",
                    "config",
                    "audit",
                    "peers",
                ),
                (8, 4, 3, 1, 8, 0.3, 2, 3, 1.5, 3, 1.5),
            )[0]
            intent = Intent(what, text=tag)
            if what == "add":
                intent.fresh = [f"{tag}.{i}" for i in range(chance.randint(1, 5))]
                say(intent)
                added = log.add([_operation(each) for each in intent.fresh])
                say({("", one.id): one.display_message for one in added})
            elif what == "update" and mine:
                ids = chance.sample(mine, min(3, len(mine)))
                intent.changes = {("", each): f"{tag}.{each}" for each in ids}
                say(intent)
                log.update([_operation(f"{tag}.{each}", id=each, flow_id=each) for each in ids])
                say(intent.changes)
            elif what == "delete" and mine:
                intent.changes = {("", each): None for each in chance.sample(mine, min(3, len(mine)))}
                say(intent)
                log.delete([each for _, each in intent.changes])
                say(intent.changes)
            elif what == "newest":  # and then a compaction: their numbers are in no line any more
                last = list(log.read(sorted(log.select(Query()))[-3:]))
                intent.changes = {
                    (one.original_instance_keyid, one.original_id or one.id): None for one in last
                }
                say(intent)
                log.delete([one.id for one in last])
                say(intent.changes)
                say(Intent("compact"))
                log.compact()
                say({})
            elif what == "apply":
                keyid = chance.choice(PEERS)
                numbers = chance.sample(range(1, 40), 6)
                intent.changes = {(keyid, each): f"{tag}.{each}" for each in numbers[:4]}
                intent.changes |= {(keyid, each): None for each in numbers[4:]}
                say(intent)
                upserts = [_operation(f"{tag}.{n}", id=n, modno=number + 1, flow_id=n) for n in numbers[:4]]
                log.apply(keyid, upserts, numbers[4:])
                say(intent.changes)
            elif what == "purge":
                keyid = chance.choice(PEERS)
                intent.changes = {(keyid, original): None for original in log.held(keyid)}
                say(intent)
                log.purge(keyid)
                say(intent.changes)
            elif what == "compact":
                say(intent)
                log.compact()
                say({})
            elif what == "save":
                say(intent)
                log.maybe_compact()  # it is not worth that, and the index is saved
                say({})
            elif what == "config":
                say(intent)
                config.transform(lambda draft, tag=tag: setattr(draft, "instance", tag))  # type: ignore[misc]
                say({})
            elif what == "audit":
                say(intent)
                trail.append("told", tag=tag)
                say({})
            elif what == "peers":
                say(intent)
                peers.update("one", message=tag)
                peers.flush()
                say({})


# --- the witness


class Witness:
    """What was acknowledged so far, of one directory, and what is there."""

    def __init__(self, directory: Path) -> None:
        self.paths = Paths(directory / "config.json", directory / "data")
        self.operations: dict[tuple[str, int], str] = {}
        self.highest = 0
        self.instance = ""
        self.audited: list[str] = []
        self.message = ""
        self.acknowledged = 0

    def kill(self, chance: random.Random, name: str) -> None:
        """Fork a writer, hear what it says, and see it killed."""
        reader, pipe = os.pipe()
        by_itself = chance.random() < 0.5
        at, how = chance.randint(1, STEPS), chance.choice(("before", "behind", "within"))
        seed = chance.random()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(reader)
                if by_itself:
                    syscalls.disk = _Fatal(at, how)
                _write(self.paths, random.Random(seed), name, pipe)
            except BaseException as error:
                os.write(2, f"the writer failed: {error!r}\n".encode())
            finally:
                os._exit(status)
        os.close(pipe)
        acks, moment = chance.randint(0, 20), chance.uniform(0, MOMENT_S)
        pending: Intent | None = None
        with open(reader, "rb") as stream:
            for message in _messages(stream):
                if isinstance(message, Intent):
                    pending = message
                    continue
                assert pending is not None
                self._acknowledge(pending, message)
                pending = None
                acks -= 1
                if acks < 0 and not by_itself:
                    time.sleep(moment)
                    os.kill(pid, signal.SIGKILL)
                    by_itself = True
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise WrongError("the writer ended before it was killed")
        self.look(pending)

    def _acknowledge(self, intent: Intent, became: dict[tuple[str, int], str | None]) -> None:
        self.acknowledged += 1
        for key, tag in became.items():
            if tag is None:
                self.operations.pop(key, None)
                continue
            if intent.what == "add" and key[1] <= self.highest:
                raise WrongError(f"id {key[1]} was given out twice")
            self.operations[key] = tag
        if intent.what == "add":
            self.highest = max(number for _, number in became)
        elif intent.what == "config":
            self.instance = intent.text
        elif intent.what == "audit":
            self.audited.append(intent.text)
        elif intent.what == "peers":
            self.message = intent.text

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
            found = {
                (one.original_instance_keyid, one.original_id or one.id): one.display_message
                for one in log.query(Query())
            }
            highest = log.highest[0]
            log.close()
            self._compare(found, pending)
            if highest < self.highest:
                raise WrongError("the high-water mark went back")
            self.highest = max([self.highest, *(number for origin, number in found if not origin)])
            self.operations = found

            config = ConfigStore.open(paths.config_file, environ={}).current
            if config.instance != self.instance and not (
                pending.what == "config" and config.instance == pending.text
            ):
                raise WrongError(f"the configuration says {config.instance}, not {self.instance}")
            self.instance = config.instance

            AuditLog.open(paths.audit).close()
            audit.verify(paths.audit)
            told = [entry["tag"] for entry in audit.read(paths.audit) if entry["event"] == "told"]
            if told != self.audited and not (
                pending.what == "audit" and told == [*self.audited, pending.text]
            ):
                raise WrongError(f"the audit log says {told[-3:]}, not {self.audited[-3:]}")
            self.audited = told

            record = PeerStore.open(paths.peers).get("one")
            message = record.message if record else ""
            if message != self.message and not (pending.what == "peers" and message == pending.text):
                raise WrongError(f"peers.json says {message}, not {self.message}")
            self.message = message

    def _compare(self, found: dict[tuple[str, int], str], pending: Intent) -> None:
        for key in found.keys() | self.operations.keys():
            tag, told = found.get(key), self.operations.get(key)
            if tag == told or (key in pending.changes and tag == pending.changes[key]):
                continue
            if told is None and not key[0] and tag in pending.fresh and key[1] > self.highest:
                continue
            raise WrongError(f"{key}: found {tag} where {told} was acknowledged, during {pending}")


def _messages(stream: Any) -> Iterator[Any]:
    """Until the writer is dead; a last message that it did not finish does not count."""
    while len(head := stream.read(4)) == 4:
        (length,) = struct.unpack("<I", head)
        data = stream.read(length)
        if len(data) < length:
            return
        yield pickle.loads(data)


def life(directory: Path, seed: str, kills: int) -> int:
    """One directory, and so many kills. How many steps were acknowledged. WrongError."""
    chance = random.Random(seed)
    witness = Witness(directory)
    for number in range(kills):
        try:
            witness.kill(chance, f"k{number}")
        except Exception as error:
            raise WrongError(f"kill {number + 1}: {error}") from error
    return witness.acknowledged

"""Faults of a disk that last until it is mended, and the kinds of files that a store keeps: for the tables of tests.

A ``Fault`` says which system calls fail, and how; a ``Sick`` disk has one, while it is ``on``. A ``Kind`` is a store
in a directory of its own: how it is opened and changed, and what it holds.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oplog_world import QuickDisk, everything, op
from store_disk import using

from backrest import wire
from backrest.store.audit import AuditLog, read
from backrest.store.config import ConfigStore
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue, SetConfig
from backrest.store.removal import ParkedPlans, Removal
from backrest.store.shares import Shares


@dataclass(frozen=True, slots=True)
class Fault:
    """``calls`` are methods of Disk, and "create", an open that makes a file; ``words`` are what a user reads."""

    number: int
    calls: frozenset[str]
    words: str


def _fault(number: int, calls: str, words: str) -> Fault:
    return Fault(number, frozenset(calls.split()), words)


_NAMES = "create rename link unlink mkdir"
FAULTS = {
    "full": _fault(errno.ENOSPC, "create write mkdir", "no space is left on the disk"),
    "write": _fault(errno.EIO, "write", "the disk reported an input/output error"),
    "sync": _fault(errno.EIO, "fsync", "the disk reported an input/output error"),
    "names": _fault(errno.EIO, "fsync_dir", "the disk reported an input/output error"),
    "rename": _fault(errno.EIO, "rename", "the disk reported an input/output error"),
    "directory": _fault(errno.EACCES, _NAMES, "permission denied"),  # one may not change it
    "read-only": _fault(errno.EROFS, f"open write truncate chmod {_NAMES}", "the file system is read-only"),
    "read": _fault(errno.EIO, "read", "the disk reported an input/output error"),
    "closed": _fault(errno.EACCES, "open open_to_read", "permission denied"),  # one may not open a file
}


class Sick(QuickDisk):
    """Syncs cost nothing, as nobody cuts the power here. ``only``: the fault meets no file but that of this name."""

    def __init__(self, fault: Fault, *, only: str = "", on: bool = False) -> None:
        self.fault = fault
        self.only = only
        self.on = on

    def _meet(self, call: str, path: str | None = None) -> None:
        if (
            self.on
            and call in self.fault.calls
            and (not self.only or os.path.basename(path or "") == self.only)
        ):
            raise OSError(self.fault.number, os.strerror(self.fault.number))

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        there = os.path.lexists(path)
        if there or flags & os.O_CREAT:
            self._meet("open" if there else "create", path)
        return super().open(path, flags, mode)

    def open_to_read(self, path: str, flags: int = 0) -> int:
        if os.path.lexists(path):
            self._meet("open_to_read", path)
        return super().open_to_read(path, flags)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        self._meet("read", os.readlink(f"/proc/self/fd/{fd}"))
        return super().read(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if self.on and "write" in self.fault.calls and self.fault.number != errno.EROFS:
            super().write(fd, bytes(data[: len(data) // 2]), offset)  # a part of it still gets there
        self._meet("write")
        return super().write(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._meet("truncate")
        super().truncate(fd, length)

    def fsync(self, fd: int) -> None:
        self._meet("fsync")

    def fsync_dir(self, path: str) -> None:
        self._meet("fsync_dir")

    def rename(self, source: str, target: str) -> None:
        self._meet("rename")
        super().rename(source, target)

    def link(self, source: str, target: str) -> None:
        self._meet("link")
        super().link(source, target)

    def unlink(self, path: str) -> None:
        self._meet("unlink")
        super().unlink(path)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        self._meet("mkdir")
        super().mkdir(path, mode)

    def chmod(self, fd: int, mode: int) -> None:
        self._meet("chmod")
        super().chmod(fd, mode)


@dataclass(frozen=True, slots=True)
class Kind:
    """``change(store, n)`` makes the n-th change; ``held`` is what the store, or for a cache its file, then holds."""

    file: str
    open: Callable[[Path], Any]
    change: Callable[[Any, int], object]
    held: Callable[[Any], Any]
    close: Callable[[Any], None] = lambda store: None


def _log(path: Path) -> OpLog:
    return OpLog.open(path / "oplog.jsonl")


def _compact(log: OpLog, number: int) -> None:
    """Of a log in which there is something to leave out."""
    with using(QuickDisk()):
        log.delete([old.id for old in log.add([op(display_message=f"{number}.{n}") for n in range(4)])[::2]])
    log.compact()


def _save_index(log: OpLog, number: int) -> None:
    with using(QuickDisk()):
        log.add([op(display_message=str(number))])
    log.maybe_compact()


def _peer(store: PeerStore, number: int) -> None:
    store.update("key", message=f"m{number}")
    store.flush()


def _messages(store: PeerStore) -> list[str]:
    with using(QuickDisk()):
        return [record.message for record in PeerStore.open(store._path).all()]


def _told(trail: AuditLog) -> list[Any]:
    with using(QuickDisk()):
        return [event.get("n") for event in read(trail._file.path)]


def _park(store: ParkedPlans, number: int) -> None:
    repo = wire.config.Repo(id="nas", guid="a" * 64, origin_instance_id="hub")
    plan = wire.config.Plan(id=f"p{number}", repo="nas", paths=["/srv"])
    store.park(Removal(wire.config.Multihost.Peer(instance_id="hub"), (repo,), (plan,)), now_ms=1)


def _push(queue: PushQueue, number: int) -> None:
    queue.add("key", "laptop", SetConfig(plans_to_delete=[f"p{number}"]))


KINDS = {
    "operations": Kind(
        "oplog.jsonl", _log, lambda log, n: log.add([op(display_message=str(n))]), everything, OpLog.close
    ),
    "compaction": Kind("oplog.jsonl", _log, _compact, everything, OpLog.close),
    "index": Kind("oplog.index", _log, _save_index, everything, OpLog.close),
    "config": Kind(
        "config.json",
        lambda path: ConfigStore.open(path / "config.json", environ={}),
        lambda store, n: store.transform(lambda draft: setattr(draft, "instance", f"me{n}")),
        lambda store: store.current,
    ),
    "peers": Kind("peers.json", lambda path: PeerStore.open(path / "peers.json"), _peer, _messages),
    "audit": Kind(
        "audit.jsonl",
        lambda path: AuditLog.open(path / "audit.jsonl"),
        lambda trail, n: trail.append("told", n=n),
        _told,
        AuditLog.close,
    ),
    "pushes": Kind(
        "pushes.json", lambda path: PushQueue.open(path / "pushes.json"), _push, PushQueue.waiting
    ),
    "shares": Kind(
        "shares.json",
        lambda path: Shares.open(path / "shares.json"),
        lambda store, n: store.set("a" * 64, {"key": f"/mnt/{n}"}),
        lambda store: store.of_client("key"),
    ),
    "parked": Kind(
        "parked-plans.json", lambda path: ParkedPlans.open(path / "parked-plans.json"), _park, ParkedPlans.all
    ),
}


def table(text: str) -> dict[tuple[str, str], bool]:
    """(kind, fault) -> whether it is done all the same: the first line names the faults, each other one a kind."""
    first, *rows = text.strip().splitlines()
    cells = {}
    for kind, *words in map(str.split, rows):
        cells |= {(kind, fault): word == "done" for fault, word in zip(first.split(), words, strict=True)}
    assert cells.keys() == {(kind, fault) for kind in KINDS for fault in FAULTS}
    return cells


def whole(paths: Iterable[Path]) -> dict[str, bytes]:
    """The content of each file, by its path."""
    return {str(path): path.read_bytes() for path in paths if path.is_file()}

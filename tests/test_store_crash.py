"""The power is cut at every moment of what the stores do, and every disk that may be left is looked at.

What was acknowledged is there, the rest is whole or absent, no number is given out twice, and the store works
on. The second half shows that these tests can fail: each store is broken on purpose, and found out, by the fault that
it has and no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import store_state_stories as states
import store_stories as stories
from store_crash import Lost, after_cut

from backrest.store import (
    audit,
    backups,
    config,
    opcompact,
    opcore,
    opformat,
    opload,
    oprepair,
    opsaved,
    peers,
    pushqueue,
    removal,
    shares,
    syscalls,
)
from backrest.store.files import AppendFile, atomic_write

STORIES = (
    stories.Operations,
    stories.Compacting,
    stories.Together,
    stories.Indexed,
    stories.Torn,
    stories.Repairing,
    states.Configuration,
    states.Peers,
    states.Audit,
    states.AuditTogether,
    states.AuditTurned,
    states.AuditKilled,
    states.Parking,
    states.Pushes,
    states.SharedAddresses,
    states.Program,
)

SAVING = (stories.Indexed, states.Program)  # with an index that is saved, though the log is short


@pytest.mark.parametrize("kind", STORIES, ids=lambda kind: kind.__name__)
def test_power_cut_at_any_moment_keeps_what_was_acknowledged(
    tmp_path: Path, kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 4)  # else so small a log is copied in one step
    story = kind()
    if kind in SAVING:
        _always_save(monkeypatch)
    # Opening all of the program's files takes many steps, and each store's second cut has a story of its own.
    count = after_cut(tmp_path, story, prepare=story.prepare, again=20 if kind is not states.Program else 2)
    print(f"{kind.__name__}: {count} disks")
    assert count > 20


def _always_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opsaved, "is_worth", lambda length, covered: length > covered)


# --- these tests can fail

Patch = Callable[[pytest.MonkeyPatch], None]
APPEND, FIND_END = AppendFile.append, audit._find_end


def _unsynced_append(file: AppendFile, chunks: Iterable[bytes]) -> int:
    """As AppendFile.append, with its fsync forgotten."""
    data, start = b"".join(chunks), file.length
    syscalls.write_all(file._fd, data, start)
    file.length = start + len(data)
    return start


def _hasty_append(file: AppendFile, chunks: Iterable[bytes]) -> int:
    """Acknowledged before its fsync, which the next append does."""
    syscalls.disk.fsync(file._fd)
    return _unsynced_append(file, chunks)


def _open_without_directory(file: AppendFile) -> int:
    return syscalls.disk.open(file.path, os.O_RDWR | os.O_CREAT, 0o600)


def _replace(path: str | os.PathLike[str], data: bytes, *, steps: str) -> None:
    """As atomic_write, but in these steps."""
    target = os.path.realpath(path)
    temp = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.new")
    fd = syscalls.disk.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for step in steps.split():
        if step == "write":
            syscalls.write_all(fd, data, 0)
        elif step == "sync":
            syscalls.disk.fsync(fd)
        elif step == "rename":
            syscalls.disk.rename(temp, target)
        elif step == "directory":
            syscalls.disk.fsync_dir(os.path.dirname(target))
    syscalls.disk.close(fd)


def _rewrite(path: str | os.PathLike[str], data: bytes) -> None:
    fd = syscalls.disk.open(os.path.realpath(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    syscalls.write_all(fd, data, 0)
    syscalls.disk.fsync(fd)
    syscalls.disk.fsync_dir(os.path.dirname(os.path.realpath(path)))
    syscalls.disk.close(fd)


def _setting(where: object, name: str, value: object) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(where, name, value)


def _appending(append: Callable[[AppendFile, Iterable[bytes]], int]) -> Patch:
    return _setting(AppendFile, "append", append)


def _replacing(steps: str, module: ModuleType) -> Patch:
    """``module`` replaces its file in these steps."""
    return _setting(module, "atomic_write", lambda path, data: _replace(path, data, steps=steps))


def _told_early(module: ModuleType) -> Patch:
    """``module`` acknowledges the first change of its file, and makes it together with the next one."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[Any, bytes]] = []

        def lazy(path: Any, data: bytes) -> None:
            calls.append((path, data))
            for call in {1: [], 2: calls}.get(len(calls), calls[-1:]):
                atomic_write(*call)

        monkeypatch.setattr(module, "atomic_write", lazy)

    return patch


def _careless_directory(log: opcore.OpCore) -> None:
    log._directory_unsynced = False


def _any_index(header: dict[str, Any], file: AppendFile, progress: object) -> bool:
    return bool(header["length"] <= file.length)


def _lost_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opcore, opcompact, oprepair):
        monkeypatch.setattr(module, "mark", lambda *_: opformat.mark(0, 0))


def _lost_modnos(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opcore, opcompact):
        monkeypatch.setattr(module, "mark", lambda number, _: opformat.mark(number, 0))


def _set_aside_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repair keeps the bad lines only after the file without them is in place."""
    rename, aside = oprepair.rename_durably, oprepair._Scan.set_bad_aside
    scans: list[Any] = []

    def later(source: str, target: str) -> None:
        rename(source, target)
        aside(scans.pop())

    monkeypatch.setattr(oprepair, "rename_durably", later)
    monkeypatch.setattr(oprepair._Scan, "set_bad_aside", lambda scan: scans.append(scan) or "")


def _trust_unsynced(file: AppendFile, chunks: Iterable[bytes]) -> int:
    """As AppendFile.append, which with nothing to append only syncs: that is left out."""
    data = b"".join(chunks)
    return APPEND(file, [data]) if data else file.length


def _last_line_alone(file: AppendFile) -> tuple[int, str]:
    """As audit._find_end for a file whose last line is whole: no line before it is looked at."""
    last = file.read(0, file.length).splitlines(keepends=True)[-1:]
    try:
        return file.length, audit._parse(last[0])[1]
    except (IndexError, ValueError):
        return FIND_END(file)


def _cut_nothing(file: AppendFile) -> tuple[int, str]:
    return file.length, FIND_END(file)[1]


def _lost_last_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The highest number of a push is that of those in the file."""
    encode = pushqueue._encode

    def broken(state: Any) -> bytes:
        there = (one.id for one in (*state.waiting, *state.answered))
        return encode(replace(state, last_id=max(there, default=0)))

    monkeypatch.setattr(pushqueue, "_encode", broken)


def _parked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan leaves the configuration before it is parked."""
    park, transform = removal.ParkedPlans.park, config.ConfigStore.transform
    waiting: list[Any] = []

    def after(store: Any, change: Any) -> Any:
        result = transform(store, change)
        while waiting:
            park(*waiting.pop())
        return result

    monkeypatch.setattr(removal.ParkedPlans, "park", lambda *args: waiting.append(args))
    monkeypatch.setattr(config.ConfigStore, "transform", after)


NO_SYNC = "write rename directory"
LATE_SYNC = "write rename sync directory"
NO_DIRECTORY = "write sync rename"
GIVEN_OUT = r"Lost\(.*given out before"
NOT_THERE = r"Lost\(.*found None, where there may be \["
NOWHERE = r"Lost\(.*the user's plan is nowhere"
BAD_BACKUP = r"UserError\(.*config.json.bak[^:]*: (line 1|it is empty)"


def _not_json(name: str) -> str:
    return rf"CorruptError\(.*/{name}.json, line 1: not JSON"


#: what is broken, the story that shows it, how, and as what it is found
BROKEN: list[tuple[str, Callable[[], Any], Patch, str]] = [
    ("operations without a sync", stories.Operations, _appending(_unsynced_append), NOT_THERE),
    ("operations told too early", stories.Operations, _appending(_hasty_append), NOT_THERE),
    ("shared commits told too early", stories.Together, _appending(_hasty_append), NOT_THERE),
    ("log whose name is not synced", stories.Operations, _replacing(NO_DIRECTORY, opcore), NOT_THERE),
    (
        "compaction told before its name is",
        stories.Compacting,
        _setting(opcore.OpCore, "_sync_directory", _careless_directory),
        NOT_THERE,
    ),
    ("lost high-water marks", stories.Compacting, _lost_marks, GIVEN_OUT),
    ("lost high-water mark of the modnos", stories.Compacting, _lost_modnos, GIVEN_OUT),
    (
        "torn end taken for corruption",
        stories.Operations,
        _setting(opload, "is_crash_tail", lambda *_: False),
        r"CorruptError\(.*line 2: a line that does not end",
    ),
    (
        "saved index of another log",
        stories.Indexed,
        _setting(opsaved, "_belongs", _any_index),
        r"CorruptError\(.*line 2: not JSON",
    ),
    (
        "torn end opened in place",
        stories.Torn,
        _setting(AppendFile, "cut", lambda *_: None),
        r"CorruptError\(.*line 6: not JSON",
    ),
    (
        "repair without a directory's sync",
        stories.Repairing,
        _setting(oprepair, "rename_durably", lambda old, new: syscalls.disk.rename(old, new)),
        "the repair was done",
    ),
    ("repair that drops bad lines first", stories.Repairing, _set_aside_later, "the bad line is nowhere"),
    (
        "configuration in an unsynced directory",
        states.Configuration,
        _setting(
            config, "private_dir", lambda path: syscalls.disk.mkdir(str(path)) if not path.exists() else None
        ),
        NOT_THERE,
    ),
    ("backups without a sync", states.Configuration, _replacing(NO_SYNC, backups), BAD_BACKUP),
    (
        "backups rewritten in place",
        states.Configuration,
        _setting(backups, "atomic_write", _rewrite),
        BAD_BACKUP,
    ),
    ("audit without a sync", states.Audit, _appending(_unsynced_append), NOT_THERE),
    ("audit told too early", states.Audit, _appending(_hasty_append), NOT_THERE),
    (
        "audit whose name is not synced",
        states.Audit,
        _setting(AppendFile, "_open", _open_without_directory),
        NOT_THERE,
    ),
    (
        "audit that keeps a torn end",
        states.Audit,
        _setting(audit, "_find_end", _cut_nothing),
        r"CorruptError\(.*line 1: it is not complete",
    ),
    (
        "audit whose old file is renamed without a sync",
        states.AuditTurned,
        _setting(audit, "rename_durably", lambda old, new: syscalls.disk.rename(old, new)),
        NOT_THERE,
    ),
    (
        "audit that does not go on from its old files",
        states.AuditTurned,
        _setting(audit, "_end_of_old", lambda path: audit.START),
        r"CorruptError\(.*line 1: it does not follow",
    ),
    ("entries together told too early", states.AuditTogether, _appending(_hasty_append), NOT_THERE),
    (
        "entries together looked at in their last line alone",
        states.AuditTogether,
        _setting(audit, "_find_end", _last_line_alone),
        r"CorruptError\(.*line 2: it is not JSON",
    ),
    (
        "audit that trusts what is not synced",
        states.AuditKilled,
        _appending(_trust_unsynced),
        r"CorruptError\(.*line 2: not a JSON object",
    ),
    ("plan parked too late", states.Parking, _parked_later, NOWHERE),
    ("lost last number of a push", states.Pushes, _lost_last_number, GIVEN_OUT),
]
#: a store that replaces its file as a whole: as what it is found when the file is not whole, and when it is an old one
WHOLE: list[tuple[str, Callable[[], Any], ModuleType, str, str]] = [
    (
        "configuration",
        states.Configuration,
        config,
        r"UserError\(.*config.json: (line 1|it is empty)",
        NOT_THERE,
    ),
    ("peers", states.Peers, peers, r"Lost\('the file was damaged", NOT_THERE),
    ("parked plans", states.Parking, removal, _not_json("parked-plans"), NOWHERE),
    ("pushes", states.Pushes, pushqueue, _not_json("pushes"), NOT_THERE),
    ("addresses", states.SharedAddresses, shares, _not_json("shares"), NOT_THERE),
]
BROKEN += [
    (f"{name} {fault}", kind, patch, reason)
    for name, kind, module, damaged, old in WHOLE
    for fault, patch, reason in (
        ("without a sync", _replacing(NO_SYNC, module), damaged),
        ("renamed before the sync", _replacing(LATE_SYNC, module), damaged),
        ("rewritten in place", _setting(module, "atomic_write", _rewrite), damaged),
        ("without a directory's sync", _replacing(NO_DIRECTORY, module), old),
        ("told early", _told_early(module), old),
    )
]


@pytest.mark.parametrize(
    ("kind", "patch", "reason"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN]
)
def test_broken_store_is_found_out_as_what_it_is(
    tmp_path: Path, kind: Callable[[], Any], patch: Patch, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 4)
    story = kind()
    if kind in SAVING:
        _always_save(monkeypatch)

    def prepare(root: Path) -> None:
        story.prepare(root)
        patch(monkeypatch)

    with pytest.raises(Lost) as caught:
        after_cut(tmp_path, story, prepare=prepare)
    found = repr(caught.value.__cause__)
    assert re.search(reason, found), found

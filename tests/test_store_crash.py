"""The power is cut at every moment of what the stores do, and every disk that may be left is looked at.

What was acknowledged is there, the rest is whole or absent, no number is given out twice, and the store works
on. The second half shows that these tests can fail: each store is broken on purpose, and found out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import store_stories as stories
from store_crash import Lost, after_cut

from backrest.store import (
    backups,
    config,
    opcompact,
    opcore,
    opformat,
    opload,
    oprepair,
    opsaved,
    peers,
    removal,
    syscalls,
)
from backrest.store.files import AppendFile

STORIES = (
    stories.Operations,
    stories.Compacting,
    stories.Together,
    stories.Indexed,
    stories.Torn,
    stories.Repairing,
    stories.Configuration,
    stories.Peers,
    stories.Audit,
    stories.Parking,
    stories.SmallFiles,
    stories.Program,
)


@pytest.mark.parametrize("kind", STORIES, ids=lambda kind: kind.__name__)
def test_power_cut_at_any_moment_keeps_what_was_acknowledged(
    tmp_path: Path, kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 4)  # else so small a log is copied in one step
    story = kind()
    if kind is stories.Indexed:
        _always_save(monkeypatch)
    count = after_cut(tmp_path, story, prepare=story.prepare, again=20)
    print(f"{kind.__name__}: {count} disks")
    assert count > 20


def _always_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opsaved, "is_worth", lambda length, covered: length > covered)


# --- these tests can fail

Patch = Callable[[pytest.MonkeyPatch], None]


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
    temp = f"{target}.new"
    fd = syscalls.disk.open(temp, os.O_WRONLY | os.O_CREAT, 0o600)
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


def _replacing(steps: str) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        broken = lambda path, data: _replace(path, data, steps=steps)  # noqa: E731
        for module in (config, backups, opcore, peers, removal, stories):
            monkeypatch.setattr(module, "atomic_write", broken)

    return patch


def _setting(where: object, name: str, value: object) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(where, name, value)


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


BROKEN: list[tuple[str, Callable[[], Any], Patch]] = [
    ("operations without a sync", stories.Operations, _setting(AppendFile, "append", _unsynced_append)),
    ("operations told too early", stories.Operations, _setting(AppendFile, "append", _hasty_append)),
    ("shared commits told too early", stories.Together, _setting(AppendFile, "append", _hasty_append)),
    ("audit told too early", stories.Audit, _setting(AppendFile, "append", _hasty_append)),
    ("audit whose name is not synced", stories.Audit, _setting(AppendFile, "_open", _open_without_directory)),
    ("log whose name is not synced", stories.Operations, _replacing("write sync rename")),
    (
        "compaction told before its name is",
        stories.Compacting,
        _setting(opcore.OpCore, "_sync_directory", _careless_directory),
    ),
    ("lost high-water marks", stories.Compacting, _lost_marks),
    ("lost high-water mark of the modnos", stories.Compacting, _lost_modnos),
    (
        "torn end taken for corruption",
        stories.Operations,
        _setting(opload, "is_crash_tail", lambda *_: False),
    ),
    ("saved index of another log", stories.Indexed, _setting(opsaved, "_belongs", _any_index)),
    ("torn end opened in place", stories.Torn, _setting(AppendFile, "cut", lambda *_: None)),
    (
        "repair without a directory's sync",
        stories.Repairing,
        _setting(oprepair, "rename_durably", lambda old, new: syscalls.disk.rename(old, new)),
    ),
    ("repair that drops bad lines first", stories.Repairing, _set_aside_later),
    ("configuration without a sync", stories.Configuration, _replacing("write rename directory")),
    (
        "configuration renamed before its sync",
        stories.Configuration,
        _replacing("write rename sync directory"),
    ),
    ("configuration without a directory's sync", stories.Configuration, _replacing("write sync rename")),
    ("configuration rewritten in place", stories.Configuration, _setting(config, "atomic_write", _rewrite)),
    (
        "configuration in an unsynced directory",
        stories.Configuration,
        _setting(
            config, "private_dir", lambda path: syscalls.disk.mkdir(str(path)) if not path.exists() else None
        ),
    ),
    (
        "backups rewritten in place",
        stories.Configuration,
        _setting(backups, "atomic_write", _rewrite),
    ),
    ("peers renamed before the sync", stories.Peers, _replacing("write rename sync directory")),
    ("peers rewritten in place", stories.Peers, _setting(peers, "atomic_write", _rewrite)),
    ("plan parked too late", stories.Parking, _parked_later),
    (
        "parked plans without a sync",
        stories.Parking,
        _setting(
            removal, "atomic_write", lambda path, data: _replace(path, data, steps="write rename directory")
        ),
    ),
    ("small file renamed before its sync", stories.SmallFiles, _replacing("write rename sync directory")),
    ("small file rewritten in place", stories.SmallFiles, _setting(stories, "atomic_write", _rewrite)),
]


@pytest.mark.parametrize(("kind", "patch"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN])
def test_broken_store_is_found_out(
    tmp_path: Path, kind: Callable[[], Any], patch: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 4)
    story = kind()
    if kind is stories.Indexed:
        _always_save(monkeypatch)

    def prepare(root: Path) -> None:
        story.prepare(root)
        patch(monkeypatch)

    with pytest.raises(Lost):
        after_cut(tmp_path, story, prepare=prepare)

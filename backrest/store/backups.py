"""The last ten configurations, as the reference keeps them: ``<path>.bak.<YYYY-MM-DD-HH-MM-SS>``, local time.
(Without pairing secrets, configfile.for_backup: a token that was used up must not be good again in a backup.)

Where two fall into one second the later gets a suffix (``.0001``): the reference overwrites the first. The
reference removes all but the ten whose names sort last; here the files' times decide, because names go back
by an hour in autumn, and only what is named like this is removed, not a user's ``config.json.bak.mine``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backrest.store import syscalls
from backrest.store.files import atomic_write, discard, read_file
from backrest.store.syscalls import storage_error

KEPT = 10
_STAMP = re.compile(r"[0-9]{4}(-[0-9]{2}){5}(\.[0-9]{4,})?")


def keep(path: Path, data: bytes) -> Path:
    """Write a backup with this content, durably; returns its name. StorageError when it cannot."""
    stamp = f"{path}.bak.{time.strftime('%Y-%m-%d-%H-%M-%S')}"
    name, number = Path(stamp), 0
    while os.path.lexists(name):
        number += 1
        name = Path(f"{stamp}.{number:04}")
    atomic_write(name, data)
    return name


def forget(backup: Path) -> None:
    """Remove one that was made for a write that then failed."""
    discard(backup)


def prune(path: Path) -> None:
    """Remove all but the newest ten. What cannot be removed stays: that is no reason to fail a change."""
    for old in _all(path)[:-KEPT]:
        discard(old)


def rewrite(path: Path, fn: Callable[[bytes], bytes]) -> list[Path]:
    """Replace the content of each backup by what ``fn`` makes of it, keeping its time, by which they are ordered.
    Returns those that changed. StorageError; those before it are done."""
    changed = []
    for backup in _all(path):
        try:
            data = read_file(backup)
        except FileNotFoundError:
            continue
        if (new := fn(data)) != data:
            try:
                times = backup.stat()
                atomic_write(backup, new)
                syscalls.disk.set_times(os.fspath(backup), (times.st_atime_ns, times.st_mtime_ns))
            except OSError as error:
                raise storage_error("write", backup, error) from error
            changed.append(backup)
    return changed


def newest(path: Path) -> Path | None:
    found = _all(path)
    return found[-1] if found else None


def _all(path: Path) -> list[Path]:
    """Oldest first."""
    found: list[tuple[int, str]] = []
    prefix = f"{path.name}.bak."
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and _STAMP.fullmatch(entry.name[len(prefix) :]):
                with suppress(OSError):
                    found.append((entry.stat().st_mtime_ns, entry.path))
    return [Path(name) for _, name in sorted(found)]

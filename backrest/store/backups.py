"""The last ten configurations, as the reference keeps them: ``<path>.bak.<YYYY-MM-DD-HH-MM-SS>``, local time; and of
each of the last ten days with a change the first one, which is how the day before ended: a peer that may change the
configuration, and does so again and again, replaces the last ten within seconds.
(Without pairing secrets, configfile.for_backup: a token that was used up must not be good again in a backup.)

Where two fall into one second the later gets a suffix (``.0001``): the reference overwrites the first. The
reference removes all but the ten whose names sort last; here the files' times decide, because names go back
by an hour in autumn, and only what is named like this is removed, not a user's ``config.json.bak.mine``.

A time in the future was written by a clock that was wrong: nobody knows how old such a backup is, so it counts as older
than all others. Else ten of them would be "the newest" for years, and each new one would go as soon as it was made.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

from backrest.errors import StorageError
from backrest.store import syscalls
from backrest.store.files import atomic_write, discard, read_file
from backrest.store.syscalls import storage_error

KEPT = 10
DAYS_KEPT = 10  # somebody has to notice what a peer did: a week's holiday, and some days
_STAMP = re.compile(r"[0-9]{4}(-[0-9]{2}){5}(\.[0-9]{4,})?")


def keep(path: Path, data: bytes) -> Path:
    """Write a backup with this content, durably; returns its name. StorageError when it cannot."""
    stamp = f"{path}.bak.{time.strftime('%Y-%m-%d-%H-%M-%S')}"
    name, number = Path(stamp), 0
    while os.path.lexists(name):
        number += 1
        name = Path(f"{stamp}.{number:04}")
    atomic_write(name, data)
    now = time.time_ns()
    with suppress(OSError):  # our clock, by which it is judged: a file server has one of its own
        syscalls.disk.set_times(os.fspath(name), (now, now))
    return name


def forget(backup: Path) -> None:
    """Remove one that was made for a write that then failed."""
    discard(backup)


def prune(path: Path, made: Path | None) -> None:
    """Remove all but the newest ten, of which ``made``, the one of the change just now, is one whatever its time says,
    and the first of each day. What cannot be removed stays: that is no reason to fail a change."""
    found = _all(path)
    first: dict[date, str] = {}
    for in_the_past, written, name in found:
        if in_the_past:
            first.setdefault(date.fromtimestamp(written // 10**9), name)
    of_days = {first[day] for day in sorted(first)[-DAYS_KEPT:]}
    others = [name for _, _, name in found if name != os.fspath(made or "")]
    for old in others[: max(0, len(others) + (made is not None) - KEPT)]:
        if old not in of_days:
            discard(old)


def rewrite(path: Path, fn: Callable[[bytes], bytes]) -> list[Path]:
    """Replace the content of each backup by what ``fn`` makes of it, keeping its time, by which they are ordered.
    Returns those that changed. StorageError for the first that could not be; all others are done."""
    changed: list[Path] = []
    failed: StorageError | None = None
    for backup in all_of(path):
        try:
            data = read_file(backup)
            if (new := fn(data)) != data:
                times = backup.stat()
                atomic_write(backup, new)
                syscalls.disk.set_times(os.fspath(backup), (times.st_atime_ns, times.st_mtime_ns))
                changed.append(backup)
        except FileNotFoundError:
            continue
        except StorageError as error:
            failed = failed or error
        except OSError as error:
            failed = failed or storage_error("write", backup, error)
    if failed is not None:
        raise failed
    return changed


def newest(path: Path) -> Path | None:
    found = all_of(path)
    return found[-1] if found else None


def all_of(path: Path) -> list[Path]:
    """Oldest first, and before these what has a time in the future."""
    return [Path(name) for _, _, name in _all(path)]


def _all(path: Path) -> list[tuple[bool, int, str]]:
    """(not in the future, when written, name), in this order."""
    found: list[tuple[bool, int, str]] = []
    now = time.time_ns()
    prefix = f"{path.name}.bak."
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and _STAMP.fullmatch(entry.name[len(prefix) :]):
                with suppress(OSError):
                    written = entry.stat().st_mtime_ns
                    found.append((written <= now, written, entry.path))
    return sorted(found)

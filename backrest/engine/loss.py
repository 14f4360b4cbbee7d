"""Whether a backup may be followed by its plan's forget: not if that could cost the last good snapshot.

A source that is unmounted, emptied or unreadable still makes a snapshot, without the files, and retention would then
remove the snapshots that have them. So each backup is compared with the *measure*: the most files among the plan's last
trusted snapshot and those after it. Trusted are the backups that ended as a success, and the one that a person
confirmed (``backrest plan confirm``). A backup with a doubt is a warning and nothing is forgotten after it, however
often it is repeated: a timer that runs it again is nobody who looked at it.

``judge`` is pure; the values are put into words by ``Doubt.words``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

# A backup that lost this part of the measure is doubted. Half: what people delete in a day is less, what an unmounted
# disk takes away is more, where the plan has one source. (A source that is gone as a whole is seen by itself.)
LOST_PART = 0.5

# Entries of a source that are looked at for a first file. One that has none among so many is left to the count.
LOOKED_AT = 10_000


class Why(Enum):
    """What is doubted."""

    INCOMPLETE = auto()
    """restic could not read some files"""
    NO_FILES = auto()
    LOST = auto()
    """LOST_PART or more of the measure is gone"""
    UNKNOWN = auto()
    """there are snapshots, and nobody knows how many files they have"""
    LINK = auto()
    """the source is a symbolic link: restic stores the link and nothing behind it"""
    EMPTY = auto()
    """the source holds no file"""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason; ``path`` for LINK and EMPTY, ``files`` and ``before`` for the counts."""

    why: Why
    path: str = ""
    files: int = 0
    before: int = 0

    def words(self) -> str:
        """As a sentence without its end."""
        return {
            Why.INCOMPLETE: "the backup is incomplete: some files could not be read",
            Why.NO_FILES: f"of {self.before:,} files the backup has none"
            if self.before
            else "the backup has no files",
            Why.LOST: f"of {self.before:,} files the backup has {self.files:,}",
            Why.UNKNOWN: "it is not known how many files the snapshots before had",
            Why.LINK: f"{self.path} is a symbolic link: only the link is stored; name the place that it leads to",
            Why.EMPTY: f"{self.path} holds no files: is it mounted?",
        }[self.why]


@dataclass(frozen=True, slots=True)
class Earlier:
    """A snapshot of the plan that is in the repository; ``files`` is None where nobody knows."""

    files: int | None
    trusted: bool


def judge(
    files: int,
    incomplete: bool,
    earlier: Sequence[Earlier],
    bare: Iterable[Doubt] = (),
    confirmed: Collection[str] = (),
) -> list[Doubt]:
    """The doubts about a backup of so many ``files``; none: its forget may follow.

    ``earlier``: oldest first. ``bare``: sources that yield nothing, of which ``confirmed`` are as they should be.
    """
    doubts = [Doubt(Why.INCOMPLETE)] if incomplete else []
    doubts += [one for one in bare if one.path not in confirmed]
    before = measure(earlier)
    if earlier and before is None:
        doubts.append(Doubt(Why.UNKNOWN))
    elif files == 0 and not any(one.trusted and one.files == 0 for one in earlier):
        doubts.append(Doubt(Why.NO_FILES, before=before or 0))
    elif before and before - files >= LOST_PART * before:
        doubts.append(Doubt(Why.LOST, files=files, before=before))
    return doubts


def measure(earlier: Sequence[Earlier]) -> int | None:
    """How many files the plan is known to have; None if that is not known."""
    counts: list[int] = []
    for one in reversed(earlier):
        if one.files is not None:
            counts.append(one.files)
        if one.trusted:
            break
    return max(counts, default=None)


def bare_sources(paths: Iterable[str]) -> list[Doubt]:
    """Blocking. Those of ``paths`` that yield nothing, as LINK and EMPTY. What cannot be read is left to restic."""
    found = []
    for path in paths:
        if os.path.islink(path.rstrip("/") or "/"):
            found.append(Doubt(Why.LINK, path))
        elif os.path.isdir(path) and not _has_files(path):
            found.append(Doubt(Why.EMPTY, path))
    return found


def _has_files(top: str) -> bool:
    waiting, looked = [top], 0
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    looked += 1
                    if not entry.is_dir(follow_symlinks=False) or looked > LOOKED_AT:
                        return True
                    waiting.append(entry.path)
        except OSError:
            return True
    return False

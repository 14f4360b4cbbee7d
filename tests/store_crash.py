"""Whether a store keeps its word on each disk that a power cut may leave (store_medium.py says which those are).

A ``Story`` is what a store does, and the look at what is left of it. ``after_cut`` cuts the power at every moment of
one. A ``History`` knows which calls had returned at each moment, and so what must be there and what may be.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from store_disk import using
from store_medium import SAMPLES, SEED, Medium, Recorder, State, lay_out

from backrest.store.syscalls import Disk

__all__ = ["History", "Lost", "Recorder", "Story", "after_cut", "record"]


class Lost(AssertionError):
    """The store did not keep its word."""


# --- what was promised


@dataclass(slots=True)
class _Version:
    begun: int
    ended: int
    value: Any


@dataclass(slots=True)
class History:
    """What the calls made of each key, and how much of the recording there was when each began and returned."""

    recorder: Recorder
    keys: dict[Hashable, list[_Version]] = field(default_factory=dict)
    look: Callable[[], Mapping[Hashable, Any]] = dict  # what the store holds now

    def call(self, work: Callable[[], object]) -> Any:
        """Do it, and note what changed by it; for one thread."""
        before = dict(self.look())
        begun = len(self.recorder.events)
        result = work()
        ended = len(self.recorder.events)
        now = dict(self.look())
        for key in before.keys() | now.keys():
            if before.get(key) != now.get(key):
                self.note(begun, ended, key, now.get(key))
        return result

    def note(self, begun: int, ended: int, key: Hashable, value: Any) -> None:
        """A call that was under way between these two moments gave ``key`` this value; None: it is gone."""
        self.keys.setdefault(key, [_Version(-1, -1, None)]).append(_Version(begun, ended, value))

    def allowed(self, key: Hashable, at: int) -> list[Any]:
        """What may be found after a cut behind the first ``at`` events."""
        versions = self.keys.get(key, [_Version(-1, -1, None)])
        floor = max(i for i, version in enumerate(versions) if version.ended <= at)
        return [versions[floor].value, *(v.value for v in versions[floor + 1 :] if v.begun < at)]

    def acknowledged(self, at: int) -> Iterator[tuple[Hashable, Any]]:
        """Every value that a caller had been told of by then."""
        for key, versions in self.keys.items():
            yield from ((key, v.value) for v in versions if v.ended <= at and v.value is not None)

    def compare(self, found: Mapping[Hashable, Any], at: int) -> None:
        """Lost: something that was acknowledged is not there, or something is that never was."""
        for key in self.keys.keys() | found.keys():
            allowed = self.allowed(key, at)
            if found.get(key) not in allowed:
                raise Lost(f"{key}: found {found.get(key)}, where there may be {allowed}")


class Story(Protocol):
    """What a store does before the power is cut, and how one looks at it afterwards."""

    def run(self, root: Path, history: History) -> None: ...

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        """Open what is left after ``at`` events, compare it, and work on. Any exception says it is bad."""


def record(root: Path, story: Story) -> tuple[Recorder, History]:
    recorder = Recorder(root)
    history = History(recorder)
    with using(recorder):
        story.run(root, history)
    return recorder, history


class _NoSyncs(Disk):
    def fsync(self, fd: int) -> None:
        pass

    def fsync_dir(self, path: str) -> None:
        pass


def after_cut(
    directory: Path,
    story: Story,
    *,
    prepare: Callable[[Path], None] = lambda root: None,
    samples: int = SAMPLES,
    again: int = 0,
) -> int:
    """Cut the power at every moment of the story, and look at every disk that may be left. How many those were.

    ``again``: of so many of these disks, cut the power once more at every moment while they are opened.
    """
    root = directory / "story"
    root.mkdir(mode=0o700)
    prepare(root)
    recorder, history = record(root, story)
    chance = random.Random(f"{SEED}/{type(story).__name__}")
    medium = Medium(recorder)
    seen: set[Hashable] = set()
    twice: list[tuple[int, State]] = []
    moments = sorted({v.ended for versions in history.keys.values() for v in versions})
    for at in range(len(recorder.events) + 1):
        if at:
            medium.take(recorder.events[at - 1])
        promised = sum(moment <= at for moment in moments)
        for state in medium.states(chance, samples):
            key = promised, hash(frozenset(state.items()))
            if key not in seen:
                seen.add(key)
                _look(directory / "cut", state, story, history, at)
                twice.append((at, state))
    for at, state in chance.sample(twice, min(again, len(twice))):
        seen.update(("again", at, n) for n in range(_cut_again(directory, state, story, history, at, chance)))
    return len(seen)


def _look(place: Path, state: State, story: Story, history: History, at: int) -> None:
    lay_out(state, place)
    try:
        with using(_NoSyncs()):
            story.check(place, history, at)
    except Exception as error:
        what = history.recorder.events[at - 1] if at else "nothing"
        files = "".join(f"\n  {name}: {content!r:.2000}" for name, content in sorted(state.items()))
        raise Lost(
            f"cut after {at} events (the last: {what!r:.300}): {error!r}; on the disk:{files}"
        ) from error
    finally:
        shutil.rmtree(place)


def _cut_again(
    directory: Path, state: State, story: Story, history: History, at: int, chance: random.Random
) -> int:
    """The power fails again while the program opens what the first failure left."""
    root = directory / "again"
    lay_out(state, root)
    recorder = Recorder(root)
    try:
        with using(recorder):
            story.check(root, history, at, work_on=False)
    finally:
        shutil.rmtree(root)
    medium = Medium(recorder)
    count = 0
    for event in recorder.events:
        medium.take(event)
        for second in medium.states(chance, 1):
            _look(directory / "cut", second, story, history, at)
            count += 1
    return count

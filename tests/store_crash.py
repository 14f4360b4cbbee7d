"""What a disk may hold after a power cut, and whether a store keeps its word on each such disk.

A ``Recorder`` does what a store asks for and writes it down. ``after_cut`` replays any beginning of that into
what could be on the medium then, by the weakest promises that a file system may make:

- What was written to a file since its last fsync is there, is not, is there in part (its beginning, its end
  behind a hole of zeros, nothing but zeros of its length), each write on its own: a later one may be there
  without an earlier one. So is a truncation.
- What was done to the names in a directory since its last fsync (create, rename, link, unlink, mkdir) is
  done or not, each on its own; a rename is done as a whole or not at all, and what it names may be a file
  whose content is not there.
- What was synced stays.

A ``History`` knows which calls had returned at each moment, and so what must be there and what may be.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from store_disk import REAL, using

from backrest.store.syscalls import Disk

# Every subset of what is unsynced is tried while there are no more than this many; else a sample of them.
EXHAUSTIVE = 16
# Samples for each moment, beyond the systematic ones. CI takes a few; scripts/crash --replays takes more.
SAMPLES = int(os.environ.get("BACKREST_CRASH_SAMPLES", "3"))
SEED = os.environ.get("BACKREST_CRASH_SEED", "1")


class Lost(AssertionError):
    """The store did not keep its word."""


# --- recording


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    data: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    file: int


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    path: str


@dataclass(frozen=True, slots=True)
class Names:
    """Names in one directory that come or change together: to a file's number, a directory's path, or None."""

    directory: str
    entries: tuple[tuple[str, int | str | None], ...]


Event = Write | Truncate | Sync | SyncDirectory | Names


class Recorder(Disk):
    """Does everything for real but the syncs, and writes it down. For all that happens below ``root``.

    Files are numbered by us: the system gives the number of a removed one to the next.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.events: list[Event] = []
        self.lock = threading.RLock()
        self.contents: dict[int, bytes] = {}  # what was there before, and is durable
        self.names: dict[str, dict[str, int | str]] = {}
        self._now: dict[str, int | str] = {}  # path -> what is there now
        self._open: dict[int, int] = {}
        self._next = itertools.count(1)
        for directory, subdirectories, files in os.walk(self.root):
            entries = self.names.setdefault(directory, {})
            for name in subdirectories:
                entries[name] = self._now[os.path.join(directory, name)] = os.path.join(directory, name)
            for name in files:
                path = os.path.join(directory, name)
                number = next(self._next)
                entries[name] = self._now[path] = number
                self.contents[number] = Path(path).read_bytes()

    def _place(self, path: str) -> tuple[str, str, str]:
        """(path, directory, name), without symbolic links."""
        directory, name = os.path.split(os.path.abspath(path))
        directory = os.path.realpath(directory)
        assert directory.startswith(self.root), f"{path} is outside of what is watched"
        return os.path.join(directory, name), directory, name

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        with self.lock:
            whole, directory, name = self._place(path)
            fd = REAL.open(path, flags, mode)
            number = self._now.get(whole)
            if number is None:
                number = self._now[whole] = next(self._next)
                self.contents[number] = b""
                self.events.append(Names(directory, ((name, number),)))
            assert isinstance(number, int)
            if flags & os.O_TRUNC:
                self.events.append(Truncate(number, 0))
            self._open[fd] = number
            return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        with self.lock:
            count = REAL.write(fd, data, offset)
            self.events.append(Write(self._open[fd], bytes(data[:count]), offset))
            return count

    def truncate(self, fd: int, length: int) -> None:
        with self.lock:
            REAL.truncate(fd, length)
            self.events.append(Truncate(self._open[fd], length))

    def fsync(self, fd: int) -> None:
        with self.lock:
            self.events.append(Sync(self._open[fd]))

    def fsync_dir(self, path: str) -> None:
        with self.lock:
            self.events.append(SyncDirectory(os.path.realpath(path)))

    def rename(self, source: str, target: str) -> None:
        with self.lock:
            REAL.rename(source, target)
            old, directory, name = self._place(source)
            new, other, new_name = self._place(target)
            moved = self._now.pop(old)
            self._now[new] = moved
            assert directory == other, "a rename between directories is not in the model"
            self.events.append(Names(directory, ((name, None), (new_name, moved))))

    def link(self, source: str, target: str) -> None:
        with self.lock:
            REAL.link(source, target)
            whole, directory, name = self._place(target)
            self._now[whole] = self._now[self._place(source)[0]]
            self.events.append(Names(directory, ((name, self._now[whole]),)))

    def unlink(self, path: str) -> None:
        with self.lock:
            REAL.unlink(path)
            whole, directory, name = self._place(path)
            del self._now[whole]
            self.events.append(Names(directory, ((name, None),)))

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        with self.lock:
            REAL.mkdir(path, mode)
            whole, directory, name = self._place(path)
            self._now[whole] = whole
            self.events.append(Names(directory, ((name, whole),)))

    def close(self, fd: int) -> None:
        with self.lock:
            self._open.pop(fd, None)
            REAL.close(fd)


# --- what may be on the medium

State = dict[str, bytes]  # path below the root -> content; a path that ends with "/" is an empty directory
Choice = Callable[[bytearray], None] | None  # what became of a change of a file; None: nothing


def _put(data: bytes, offset: int) -> Callable[[bytearray], None]:
    def put(content: bytearray) -> None:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    return put


def _choices(event: Event) -> list[Any]:
    """What can have become of one unsynced change: first all of it, last nothing of it."""
    if isinstance(event, Write):
        data, offset = event.data, event.offset
        pieces = [_put(data, offset)]
        if data:
            half = len(data) // 2
            pieces += [_put(data[:cut], offset) for cut in {1, half, len(data) - 1} - {0, len(data)}]
            pieces += [_put(bytes(half) + data[half:], offset), _put(bytes(len(data)), offset)]
        return [*pieces, None]
    if isinstance(event, Truncate):
        length = event.length

        def cut(content: bytearray) -> None:
            content.extend(bytes(max(0, length - len(content))))
            del content[length:]

        return [cut, None]
    return [True, None]


class Medium:
    """What is durable, and what is not yet, after the first events of a recording."""

    def __init__(self, recorder: Recorder) -> None:
        self.root = recorder.root
        self.contents = dict(recorder.contents)
        self.names = {directory: dict(entries) for directory, entries in recorder.names.items()}
        self.unsynced: list[Event] = []

    def take(self, event: Event) -> None:
        if isinstance(event, Sync):
            self._settle(
                [e for e in self.unsynced if isinstance(e, Write | Truncate) and e.file == event.file]
            )
        elif isinstance(event, SyncDirectory):
            self._settle([e for e in self.unsynced if isinstance(e, Names) and e.directory == event.path])
        else:
            self.unsynced.append(event)

    def _settle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Names):
                _rename(self.names, event)
            elif isinstance(event, Write | Truncate):
                content = bytearray(self.contents[event.file])
                _choices(event)[0](content)
                self.contents[event.file] = bytes(content)
        settled = set(map(id, events))
        self.unsynced = [event for event in self.unsynced if id(event) not in settled]

    def state(self, choices: Iterable[Any]) -> State:
        """The files and directories that there are with this choice for each unsynced change."""
        contents: dict[int, bytearray] = {}
        names = {directory: dict(entries) for directory, entries in self.names.items()}
        for event, choice in zip(self.unsynced, choices, strict=True):
            if choice is None:
                continue
            if isinstance(event, Names):
                _rename(names, event)
            elif isinstance(event, Write | Truncate):
                choice(contents.setdefault(event.file, bytearray(self.contents[event.file])))
        state: State = {}

        def walk(directory: str, prefix: str) -> None:
            if prefix:
                state[prefix] = b""
            for name, what in names.get(directory, {}).items():
                if isinstance(what, str):
                    walk(what, f"{prefix}{name}/")
                else:
                    state[prefix + name] = bytes(contents.get(what, self.contents[what]))

        walk(self.root, "")
        return state

    def states(self, chance: random.Random, samples: int) -> Iterator[State]:
        """What may be there now: all of it when that is little, else the extremes, each fault alone, samples."""
        options = [_choices(event) for event in self.unsynced]
        number = 1
        for option in options:
            number *= len(option)
        if number <= EXHAUSTIVE:
            yield from map(self.state, itertools.product(*options))
            return
        yield self.state(option[0] for option in options)
        yield self.state(option[-1] for option in options)
        last = list(enumerate(options))[-6:]  # older leftovers, such as names never synced: by the samples
        for place, option in last:
            for choice in option[1:]:
                yield self.state(choice if i == place else other[0] for i, other in enumerate(options))
            yield self.state(option[0] if i == place else other[-1] for i, other in enumerate(options))
        for _ in range(samples):
            yield self.state(chance.choice(option) for option in options)


def _rename(names: dict[str, dict[str, int | str]], event: Names) -> None:
    entries = names.setdefault(event.directory, {})
    for name, what in event.entries:
        if what is None:
            entries.pop(name, None)
        else:
            entries[name] = what


def lay_out(state: State, directory: Path) -> None:
    """Make the files."""
    directory.mkdir(mode=0o700)
    for name, content in state.items():
        path = directory / name
        if name.endswith("/"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)


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

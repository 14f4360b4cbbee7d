"""What a disk may hold after a power cut: the changes of a recording, and what may have become of each of them.

A ``Recorder`` does what a store asks for and writes it down. A ``Medium`` replays any beginning of that into
what could be there then, by the weakest promises that a file system may make:

- What was written to a file since its last fsync is there, is not, is there in part (its beginning, to the end of
  a line too, its end behind a hole of zeros, nothing but zeros of its length; of a large write, single blocks are
  missing, or hold something else), each write on its own: a later one may be there without an earlier one. So is a
  truncation.
- What was done to the names in a directory since its last fsync (create, rename, link, unlink, mkdir) is
  done or not, each on its own; a rename is done as a whole or not at all, and what it names may be a file
  whose content is not there.
- What was synced stays.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store_disk import REAL, Died

from backrest.store.syscalls import Disk

# Every subset of what is unsynced is tried while there are no more than this many; else a sample of them.
EXHAUSTIVE = 16
# Samples for each moment, beyond the systematic ones. CI takes a few; scripts/crash --replays takes more.
SAMPLES = int(os.environ.get("BACKREST_CRASH_SAMPLES", "3"))
SEED = os.environ.get("BACKREST_CRASH_SEED", "1")
# What a file system stores at once. A write that spans more than two of them may also lose some from its midst.
BLOCK = 4096
# Of the ends of lines, and of the blocks, at which one write is cut or pierced: there may be thousands.
PLACES = 3


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
        self._killing = False
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
            if self._killing:
                raise Died
            self.events.append(Sync(self._open[fd]))

    @contextmanager
    def killed_at_a_sync(self) -> Iterator[None]:
        """The process dies at its next sync of a file. What it wrote is with the system, and not on the medium."""
        self._killing = True
        try:
            yield
        except Died:
            return
        finally:
            self._killing = False
        raise AssertionError("it did not sync")

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


def _some(places: list[Any], chance: random.Random) -> list[Any]:
    return chance.sample(places, min(PLACES, len(places)))


def _line_ends(data: bytes) -> list[int]:
    return list(itertools.islice((found.end() for found in re.finditer(b"\n", data)), 10_000))


def _pierced(data: bytes, offset: int, chance: random.Random) -> Iterator[bytes]:
    """The data without one of its blocks of the file, without several of them, and with one of other content."""
    edges = [0, *range(BLOCK - offset % BLOCK, len(data), BLOCK), len(data)]
    blocks = list(itertools.pairwise(edges))

    def without(lost: Iterable[tuple[int, int]], filling: bytes = b"\0") -> bytes:
        left = bytearray(data)
        for start, end in lost:
            left[start:end] = filling * (end - start)
        return bytes(left)

    for block in _some(blocks, chance):
        yield without([block])
    yield without(block for block in blocks if chance.random() < 0.5)
    yield without([chance.choice(blocks)], b"\xa5")


def _choices(event: Event) -> list[Any]:
    """What can have become of one unsynced change: first all of it, last nothing of it."""
    if isinstance(event, Write):
        data, offset = event.data, event.offset
        pieces = [_put(data, offset)]
        if data:
            chance = random.Random(f"{SEED}/{offset}/{len(data)}")  # each time the same for one write
            half = len(data) // 2
            cuts = {1, half, len(data) - 1, *_some(_line_ends(data), chance)} - {0, len(data)}
            pieces += [_put(data[:cut], offset) for cut in sorted(cuts)]
            pieces += [_put(bytes(half) + data[half:], offset), _put(bytes(len(data)), offset)]
            if len(data) > 2 * BLOCK:
                pieces += [_put(pierced, offset) for pierced in _pierced(data, offset, chance)]
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

"""One child process: its output read to the end within bounds, its death certain.

The child gets no terminal and no input (it must not ask a person), and a session of its own: Ctrl-C on our
terminal reaches only us, and we end it in order. When the caller is cancelled the child gets SIGINT, at which
restic removes its lock; after the grace period its whole process group is killed. Its output is read all that
time, because a child that blocks on a full pipe cannot end (W-49). No shell is involved anywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import trio

from backrest.errors import ResticError

READ_SIZE = 64 * 1024

# The longest line that is understood, as in the reference (4.4); a longer one is skipped, not an error.
MAX_LINE = 10 * 1024 * 1024

# Output as one document: the list of a quarter of a million snapshots, at about 1 KiB each.
MAX_DOCUMENT = 256 * 1024 * 1024

# How long after the child's end its pipes are still read. They stay open when the child left a child of its
# own (ssh with ControlPersist does), which may live for hours.
LINGER_S = 2.0


class Sink(Protocol):
    """Where the bytes of one pipe go. Neither method may raise or block."""

    def feed(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Calls ``callback`` with each line, without its end; the last one may lack it. Too long lines are
    counted only.
    """

    def __init__(self, callback: Callable[[bytes], None], limit: int = MAX_LINE) -> None:
        self._callback = callback
        self._limit = limit
        self._line = bytearray()
        self._skipping = False
        self.skipped = 0

    def feed(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            self._flush()
        if rest:
            self._add(rest)

    def close(self) -> None:
        if self._line or self._skipping:
            self._flush()

    def _add(self, part: bytes) -> None:
        if len(self._line) + len(part) > self._limit:
            self._skipping = True
            self._line.clear()
        if not self._skipping:
            self._line += part

    def _flush(self) -> None:
        line, skipping = bytes(self._line), self._skipping
        self._line.clear()
        self._skipping = False
        if skipping:
            self.skipped += 1
        else:
            self._callback(line.removesuffix(b"\r"))


class Document:
    """Keeps everything, up to a limit; ``overflow`` says that there was more, which spoils the rest."""

    def __init__(self, limit: int = MAX_DOCUMENT) -> None:
        self._limit = limit
        self._data = bytearray()
        self.overflow = False

    def feed(self, data: bytes) -> None:
        if len(self._data) + len(data) > self._limit:
            self.overflow = True
            self._data.clear()
        if not self.overflow:
            self._data += data

    def close(self) -> None:
        pass

    @property
    def content(self) -> bytes:
        return bytes(self._data)


async def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: Sink,
    stderr: Sink,
    grace: Callable[[], float],
) -> int:
    """Run a program to its end; its exit status, negative for a signal.

    ``grace`` is asked at the time of a cancellation for the seconds between SIGINT and SIGKILL. When this
    returns or raises, the program has ended. ResticError if it cannot be started.
    """
    try:
        process = await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise ResticError(f"cannot start {argv[0]}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # a NUL byte or a character that the file system encoding lacks
        raise ResticError(f"cannot start {argv[0]}: {error}") from None
    assert process.stdout is not None
    assert process.stderr is not None
    readers = trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, ((process.stdout, stdout), (process.stderr, stderr)), readers)
        try:
            await process.wait()
        except BaseException:  # cancelled, or Ctrl-C in a program that is nothing but this command
            with trio.CancelScope(shield=True):
                await _end(process, grace())
            raise
        finally:
            readers.deadline = trio.current_time() + LINGER_S
    stdout.close()
    stderr.close()
    return process.returncode if process.returncode is not None else -1


async def _read(pipes: Sequence[tuple[trio.abc.ReceiveStream, Sink]], scope: trio.CancelScope) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            for pipe, sink in pipes:
                nursery.start_soon(_read_one, pipe, sink)


async def _read_one(pipe: trio.abc.ReceiveStream, sink: Sink) -> None:
    async with pipe:
        while data := await pipe.receive_some(READ_SIZE):
            sink.feed(bytes(data))


async def _end(process: trio.Process, grace_s: float) -> None:
    """SIGINT, then SIGKILL for the whole group; returns when the process has ended."""
    process.send_signal(signal.SIGINT)
    with trio.move_on_after(grace_s):
        await process.wait()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its own group: started with start_new_session
    except ProcessLookupError:
        process.kill()
    await process.wait()

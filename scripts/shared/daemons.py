"""Daemons that a script watches from outside: started with some Python planted in them, asked only while they run, and
blamed when they end by themselves.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson
from benchmarks.machines import Daemon, Machine

from backrest.admin.client import ask as ask_over
from backrest.admin.client import connect
from backrest.admin.registry import find
from backrest.errors import BackrestError

# What is left of a socket's path (net/sockets.py) for the folder of a machine.
SOCKET_ROOM = (107 if sys.platform == "linux" else 103) - len("/laptop/data/admin.sock")

LOOK_S = 0.01

# What a daemon says in its log only when it made a mistake itself. Errors of others are expected, in numbers.
MISTAKE = re.compile(r"Traceback|mistake in this program|connection failed|never awaited|\bcritical\b", re.I)


def program(code: str = "") -> list[str]:
    """``backrest``, that runs ``code`` first."""
    return [sys.executable, "-c", f"{code}\nfrom backrest.cli.main import main\nmain()\n"]


def new_directory(prefix: str, *, sockets: bool = True) -> Path:
    """A fresh one below $TMPDIR. SystemExit when daemons are to have their sockets in it, and its path is too long."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    if sockets and len(bytes(directory)) > SOCKET_ROOM:
        directory.rmdir()
        sys.exit(f"{directory.parent} is too long a path for the sockets in it: set TMPDIR to a shorter one")
    return directory


def ask(
    machine: Machine,
    name: str,
    args: Mapping[str, Any] | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> Any:
    """The result of an admin method, from its daemon. BackrestError when none runs: that a command then does the work
    itself, on the files, would hide it."""
    connection = connect(machine.paths)
    if connection is None:
        raise BackrestError(f"no daemon of {machine.name} answers")
    if on_event is None and find(name).reports:
        on_event = lambda _: None  # noqa: E731
    with connection:
        return ask_over(connection, name, orjson.dumps(dict(args or {})), on_event)


def until_answering(daemon: Daemon) -> None:
    """Its admin socket comes a moment after the port that its log names. FailedError when it ends instead."""
    while (connection := connect(daemon.machine.paths)) is None:
        daemon.check()
        time.sleep(LOOK_S)
    connection.close()


@contextmanager
def blamed(living: Sequence[Daemon]) -> Iterator[None]:
    """What fails in the block because one of those that should live then has ended by itself is told as that."""
    try:
        yield
    except Exception:
        with ExitStack() as each:
            for daemon in living:
                each.enter_context(daemon.blamed())
            raise


def mistakes(daemon: Daemon) -> list[str]:
    """A sentence, if its log so far has mistakes of its own."""
    found = [line.strip() for line in tuple(daemon.log) if MISTAKE.search(line)]
    name = daemon.machine.name
    return [f"{name}'s log has mistakes of its own, first: {found[0]}"] if found else []

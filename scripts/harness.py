"""What ``crash`` and ``load`` share: a daemon with some code planted in it, a folder of their own, and being stopped.

Whoever stops a run, by Ctrl-C or SIGTERM, gets back a machine without its processes and its files.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

STOPPED = 130  # exit code: what a shell reports for a program that the user stopped
STOPS = (signal.SIGINT, signal.SIGTERM)
# What is left of a socket's path (net/sockets.py) for the folder of a machine.
SOCKET_ROOM = (107 if sys.platform == "linux" else 103) - len("/laptop/data/admin.sock")


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


def stop_in_order() -> None:
    """SIGTERM is taken as Ctrl-C is, and only the first of either counts: what cleans up is not interrupted."""

    def stop(*_: object) -> None:
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for one in STOPS:
        signal.signal(one, stop)


def hold_stops() -> None:
    """What stops us waits, while something is made that would be left behind; ``take_stops`` inside the try that cleans
    it up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


def take_stops() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

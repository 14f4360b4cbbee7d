"""What is looked at when a round is over: a process from outside, and whether two histories are the same."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.machines import Daemon, Machine, memory_mib

from backrest.admin.client import call
from backrest.store.oplog import OpLog, Query
from backrest.wire import codec

# What a daemon says in its log only when it made a mistake itself. Errors of others are expected, in numbers.
MISTAKE = re.compile(r"Traceback|mistake in this program|connection failed|never awaited|\bcritical\b", re.I)

# What Python has not collected yet is no leak, nor is what malloc keeps for later: before memory is looked at, a
# daemon is told to give both back. A session is a circle of objects, so up to a thousand of them wait to be collected.
_START = """
import ctypes, gc, signal
def give_back(*_):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
signal.signal(signal.SIGUSR2, give_back)
{code}
from backrest.cli.main import main
main()
"""


def program(code: str = "") -> list[str]:
    """``backrest``, that runs ``code`` first, and can be told to give memory back."""
    return [sys.executable, "-c", _START.format(code=code)]


def give_back(daemon: Daemon) -> None:
    """It has done so when it answers the next call: both are done by its event loop's thread."""
    daemon.process.send_signal(signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class Figures:
    """A daemon at one moment: what the system says of its process, and what it says of itself."""

    files: int
    tasks: int
    threads: int
    rss_mib: float
    peak_mib: float
    held: int  # operations, of everybody

    def __str__(self) -> str:
        return (
            f"{self.files} file descriptors, {self.tasks} tasks, {self.threads} threads, "
            f"{self.rss_mib:.1f} MiB (at most {self.peak_mib:.1f}), "
            f"{self.held} operations"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"rss_mib": round(self.rss_mib, 2), "peak_mib": round(self.peak_mib, 2)}


def figures(machine: Machine, daemon: Daemon) -> Figures:
    """Blocking. Being asked takes a file descriptor and some tasks of its own, each time the same."""
    status = call(machine.paths, "Status", {})
    return Figures(
        files=len(os.listdir(f"/proc/{daemon.pid}/fd")),
        tasks=int(status["daemon"]["tasks"]),
        threads=len(os.listdir(f"/proc/{daemon.pid}/task")),
        rss_mib=memory_mib(daemon.pid, "VmRSS"),
        peak_mib=memory_mib(daemon.pid, "VmHWM"),
        held=status["instance"]["operations"] + sum(peer["operations"] for peer in status["peers"]),
    )


def counts(machine: Machine) -> dict[str, int]:
    """Instance id -> how many operations are held of this client."""
    return {peer["peerInstanceId"]: peer["operations"] for peer in call(machine.paths, "Status", {})["peers"]}


History = dict[int, tuple[int, str]]  # its owner's id -> (modno, content)


def histories(machine: Machine) -> dict[str, History]:
    """Key id, or "" -> what a machine whose daemon has ended holds of that client, or of its own. The content is what
    is the same at both ends."""
    log = OpLog.open(machine.paths.oplog)
    try:
        found: dict[str, History] = defaultdict(dict)
        for operation in log.query(Query()):
            keyid = operation.original_instance_keyid
            number = operation.original_id if keyid else operation.id
            found[keyid][number] = (operation.modno, content(operation))
        return found
    finally:
        log.close()


def content(operation: Any) -> str:
    bare = type(operation)()
    bare.CopyFrom(operation)
    for name in ("id", "modno", "flow_id", "original_id", "original_flow_id", "original_instance_keyid"):
        bare.ClearField(name)
    return str(codec.to_dict(bare))


def difference(theirs: History, ours: History) -> str:
    """What the hub has of somebody and what that one lists, in a few words; "" when they are the same."""
    said = []
    for what, numbers in (
        ("lacks", ours.keys() - theirs.keys()),
        ("has too many", theirs.keys() - ours.keys()),
        ("has in another state", {n for n in ours.keys() & theirs.keys() if ours[n] != theirs[n]}),
    ):
        if numbers:
            some = ", ".join(map(str, sorted(numbers)[:5]))
            said.append(f"{what} {len(numbers)} of {len(ours)} (ids {some}{', ...' * (len(numbers) > 5)})")
    return " and ".join(said)

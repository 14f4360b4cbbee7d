"""What is looked at when a round is over: a process from outside, whether two histories are the same, and whose the
ids of the hub's log are.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from benchmarks.machines import Daemon, Machine, memory_mib
from shared.daemons import ask, program

from backrest import wire
from backrest.store.oplog import OpLog, Query
from backrest.wire import codec

# What Python has not collected yet is no leak, nor is what malloc keeps for later: before memory is looked at, a
# daemon is told to give both back. A session is a circle of objects, so up to a thousand of them wait to be collected.
_START = """
import ctypes, gc, signal
def give_back(*_):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
signal.signal(signal.SIGUSR2, give_back)
"""

IDLE = "Trio thread "  # what trio calls a thread that has no work now

# The real client waits for half of our patience at most before it dials again. After a dozen cuts it waits up to five
# minutes, and then a round would be found wrong for that alone.
WAIT_S = 30.0
_COME_BACK = """
import backrest.sync.client
backrest.sync.client.LONGEST_WAIT_S = {}
"""

LOOK_S = 0.1  # between two looks

# What a round may leave: what the hub holds then (index, flows, what it says of a peer), and what the heap's shape
# adds by chance. Measured: see scripts/README.md.
MEMORY_MIB = 4.0
EACH_OPERATION = 500  # bytes


def hub(code: str) -> list[str]:
    """``backrest``, that runs ``code`` first, and can be told to give memory back."""
    return program(_START + code)


def client(patience: float) -> list[str]:
    """``backrest``, that comes back within half of that many seconds, and can be told to give memory back."""
    return program(_START + _COME_BACK.format(min(WAIT_S, patience / 2)))


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
    status = ask(machine, "Status")
    return Figures(
        files=len(os.listdir(f"/proc/{daemon.pid}/fd")),
        tasks=int(status["daemon"]["tasks"]),
        threads=_at_work(daemon.pid),
        rss_mib=memory_mib(daemon.pid, "VmRSS"),
        peak_mib=memory_mib(daemon.pid, "VmHWM"),
        held=status["instance"]["operations"] + sum(peer["operations"] for peer in status["peers"]),
    )


def _at_work(pid: int) -> int:
    """Threads, without those of trio's that wait for work, which they do for ten seconds before they end."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += not (task / "comm").read_text().startswith(IDLE)
    return found


def growth(name: str, rounds: Sequence[Figures]) -> list[str]:
    """What is wrong with a daemon's memory after the last of these rounds: since the one before, or, when a little is
    left over each time, since the first. What it takes once it takes in the first."""
    now, out = rounds[-1], []
    earlier = [("the round before", rounds[-2])] if len(rounds) > 1 else []
    earlier += [("the first round", rounds[0])] if len(rounds) > 2 else []
    for since, before in earlier:
        grown = now.rss_mib - before.rss_mib
        allowed = MEMORY_MIB + max(0, now.held - before.held) * EACH_OPERATION / 2**20
        if grown > allowed:
            out.append(
                f"the {name}'s memory grew by {grown:.1f} MiB beyond {since}; {allowed:.1f} are allowed"
            )
    return out


def counts(machine: Machine) -> dict[str, int]:
    """Instance id -> how many operations are held of this client."""
    return {peer["peerInstanceId"]: peer["operations"] for peer in ask(machine, "Status")["peers"]}


History = dict[int, tuple[int, str]]  # its owner's id -> (modno, content)
Owner = tuple[str, int]  # of an id of the hub: the key id, or "", of whose operation it is, and its id there


def shown(machine: Machine, **which: str) -> dict[str, History]:
    """Key id, or "" -> what a daemon says that it holds of that client, or of its own. The content is what is the same
    at both ends."""
    found: list[Any] = []
    ask(machine, "ListOperations", which, lambda event: found.extend(event["operations"]))
    return _by_owner(codec.from_dict(wire.operations.Operation, one) for one in found)


def stored(machine: Machine, copy: Path) -> dict[str, History]:
    """The same, of what a machine whose daemon has ended has in its file. It is read from a copy: opening a log mends
    what a kill left, and that is for the daemon to do."""
    copy.parent.mkdir()
    try:
        shutil.copyfile(machine.paths.oplog, copy)
        log = OpLog.open(copy)
        try:
            return _by_owner(log.query(Query()))
        finally:
            log.close()
    finally:
        shutil.rmtree(copy.parent)


def _by_owner(operations: Iterable[Any]) -> dict[str, History]:
    found: dict[str, History] = defaultdict(dict)
    for operation in operations:
        keyid = operation.original_instance_keyid
        number = operation.original_id if keyid else operation.id
        found[keyid][number] = (operation.modno, content(operation))
    return found


def owners(machine: Machine) -> dict[int, set[Owner]]:
    """Id -> of whose operations the lines are that have it, in the file as it is. More than one is a mistake."""
    found: dict[int, set[Owner]] = defaultdict(set)
    with machine.paths.oplog.open("rb") as log:
        for line in log:
            if b'"id"' in line and line.endswith(b"\n"):  # the last one may just be written
                one = orjson.loads(line)
                keyid = one.get("originalInstanceKeyid", "")
                found[int(one["id"])].add((keyid, int(one["originalId" if keyid else "id"])))
    return found


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

"""The rows about one operation log, of fifty clients: opening it, asking it, looking after it.

What is measured runs in a process of its own, so that its memory is that of the work: of the program it has imported
the store of operations (and, while a log is compacted in use, the messages), or all that the command imports.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from backrest.store.oplog import OpLog
from benchmarks import operations
from benchmarks.machines import Machine, scratch
from benchmarks.model import Figures, Options

CLIENTS = 50
BATCH = 4096  # operations in one commit, at most: of a short log fewer, so that there are fifty clients in it, too


@lru_cache(maxsize=1)
def _made(size: int) -> tempfile.TemporaryDirectory[str]:
    """A log and its saved index, made once for all that is measured at this size."""
    directory = tempfile.TemporaryDirectory(prefix="backrest-bench.")
    log = OpLog.open(Path(directory.name, "oplog.jsonl"))
    batch = max(1, min(BATCH, size // CLIENTS))
    for number, start in enumerate(range(1, size + 1, batch)):
        some = [operations.varied(n, "laptop") for n in range(start, min(start + batch, size + 1))]
        log.apply(f"ed25519.{number % CLIENTS}", some)
    log.close()
    return directory


@contextmanager
def _machine(options: Options) -> Iterator[Machine]:
    """With that log as its own."""
    with scratch() as directory:
        machine = Machine(directory, "hub")
        shutil.copytree(_made(options.size).name, machine.paths.data_dir, dirs_exist_ok=True)
        yield machine


def _run(program: str, machine: Machine, *args: str) -> Figures:
    """What the program prints, as name=number, each on a line."""
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, env=machine.env, check=True, capture_output=True, text=True)
    lines = (line.partition("=") for line in done.stdout.splitlines())
    return {name: float(value) for name, _, value in lines}


_OPEN = """
import sys, time
from backrest.store.oplog import OpLog
from benchmarks.process import memory_mib
before, start = memory_mib("self", "VmHWM"), time.monotonic()
log = OpLog.open(sys.argv[1])
print(f"wall_s={time.monotonic() - start}")
peak = memory_mib("self", "VmHWM")
print(f"peak_mib={peak}")
print(f"each_bytes={(peak - before) * (1 << 20) / int(sys.argv[2])}")
"""


def open_log(options: Options) -> Figures:
    """With its saved index, where there is one: of a short log the program saves none. And without it."""
    with _machine(options) as machine:
        saved = machine.paths.oplog.with_name("oplog.index")
        size = saved.stat().st_size if saved.exists() else 0
        figures = {"index_mib": size / (1 << 20)}
        if size:
            figures |= _each(_run(_OPEN, machine, str(machine.paths.oplog), str(options.size)), options)
            saved.unlink(missing_ok=True)
        alone = _each(_run(_OPEN, machine, str(machine.paths.oplog), str(options.size)), options)
    return figures | {f"log_alone_{name}": value for name, value in alone.items() if name != "each_bytes"}


_QUERY = """
import sys, time
from backrest.store.oplog import OpLog, Query
from backrest.wire import operations
log = OpLog.open(sys.argv[1])
some = log.get(int(sys.argv[2]) // 2 + 1)
newest = {"limit": 50, "reversed": True}
queries = {
    "newest": newest,
    "newest_of_peer": {"origin": some.original_instance_keyid, **newest},
    "newest_of_plan": {"plan_id": some.plan_id, **newest},
    "newest_of_repo": {"repo_guid": some.repo_guid, **newest},
    "newest_failed": {"status": operations.STATUS_ERROR, **newest},
    "flow": {"flow_id": some.flow_id},
    "snapshot": {"snapshot_id": some.snapshot_id},
    "original": {"origin": some.original_instance_keyid, "original_id": some.original_id},
    "changed": {"modno_gte": some.modno, **newest},
}
for name, given in queries.items():
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        found = list(log.query(Query(**given)))
        taken.append(time.perf_counter() - start)
    if not found:
        sys.exit(f"nothing was found by the query {name}")
    print(f"{name}_ms={sorted(taken)[2] * 1000}")
"""


def query(options: Options) -> Figures:
    with _machine(options) as machine:
        return _run(_QUERY, machine, str(machine.paths.oplog), str(options.size))


# The command as the console script runs it. When its process was started is the first argument.
_COMMAND = """
import atexit, os, sys, time
from benchmarks.process import memory_mib
start, out, sys.stdout = float(sys.argv.pop(1)), sys.stdout, open(os.devnull, "w")
atexit.register(lambda: print(f"wall_s={time.monotonic() - start}\\npeak_mib={memory_mib('self', 'VmHWM')}", file=out))
from backrest.cli.main import main
main()
"""


def _command(machine: Machine, options: Options, *args: str) -> Figures:
    return _each(_run(_COMMAND, machine, str(time.monotonic()), "oplog", *args), options)


def verify(options: Options) -> Figures:
    with _machine(options) as machine:
        return _command(machine, options, "verify")


def repair(options: Options) -> Figures:
    """One line in a thousand, and one at least, is no JSON any more."""
    with _machine(options) as machine:
        with machine.paths.oplog.open("r+b") as log:
            places = [0]
            for line in log:
                places.append(places[-1] + len(line))
            for place in places[1:-1:1000]:
                log.seek(place + 1)
                log.write(b"#")
        return _command(machine, options, "repair")


# While one thread compacts, one reads and one writes, with a pause of a millisecond each.
_COMPACT = """
import sys, threading, time
from backrest.store.oplog import OpLog
from benchmarks import operations
from benchmarks.process import memory_mib
log, count = OpLog.open(sys.argv[1]), int(sys.argv[2])
log.delete(range(1, count // 5 + 1))
over = threading.Event()
waits = {"read": [], "write": []}

def read():
    log.meta(count)

def write():
    one = operations.make(1, "hub")
    one.id = one.modno = one.flow_id = 0
    log.add([one])

def repeat(act, waits):
    while not over.is_set():
        start = time.monotonic()
        act()
        waits.append((time.monotonic() - start) * 1000)
        time.sleep(0.001)

threads = [threading.Thread(target=repeat, args=(act, waits[act.__name__])) for act in (read, write)]
for thread in threads:
    thread.start()
start = time.monotonic()
log.compact()
print(f"in_use_wall_s={time.monotonic() - start}")
over.set()
for thread in threads:
    thread.join()
print(f"in_use_peak_mib={memory_mib('self', 'VmHWM')}")
for name, those in waits.items():
    print(f"longest_{name}_ms={max(those)}\\nmedian_{name}_ms={sorted(those)[len(those) // 2]}")
"""


def compact(options: Options) -> Figures:
    """By the command, of a log of which a fifth is dead; and in a process that uses it meanwhile."""
    with _machine(options) as machine:
        log = OpLog.open(machine.paths.oplog)
        log.delete(range(1, options.size // 5 + 1))
        log.close()
        figures = _command(machine, options, "compact")
    with _machine(options) as machine:
        return figures | _run(_COMPACT, machine, str(machine.paths.oplog), str(options.size))


def _each(figures: Mapping[str, float], options: Options) -> Figures:
    return {**figures, "each_us": figures["wall_s"] / options.size * 1e6}

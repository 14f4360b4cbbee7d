"""The rows of the table, and those about sync and one process: each sets its scene, measures once, and clears up.

A row returns figures by name; a name ends in its unit. What a figure means is in scripts/README.md.
"""

from __future__ import annotations

import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from backrest.app import COLLECT_AFTER, COLLECT_OLDER
from backrest.wire import codec
from benchmarks import logs, operations
from benchmarks.hubs import Hub, hub_for, light
from benchmarks.light import LightClient
from benchmarks.live import live
from benchmarks.machines import Daemon, Machine, scratch
from benchmarks.model import FailedError, Figures, Options, Row

# --- first sync


def first_sync(options: Options) -> Figures:
    if options.compared:
        return trio.run(_first_sync_light, options)
    with scratch() as directory:
        hub, client = Machine(directory, "hub"), Machine(directory, "client")
        hub.let_in([(client.name, client.identity.keyid)])
        history = directory / "history.jsonl"
        with history.open("wb") as file:
            file.writelines(codec.dumps(op) + b"\n" for op in operations.several(options.size, client.name))
        client.run("ops", "import", str(history))
        with hub.serving() as daemon:
            client.know(hub, daemon.url)
            cpu = daemon.cpu_s()
            started = Daemon(client)
            try:
                _, connected = started.until_logged("connected to")
                own = started.cpu_s()
                daemon.until_held(started, options.size)
                ended = time.monotonic()
                hub_cpu, client_cpu = daemon.cpu_s() - cpu, started.cpu_s()
                return {
                    "from_start_s": ended - started.started,
                    "from_connection_s": ended - connected,
                    "each_us": (ended - connected) / options.size * 1e6,
                    "hub_cpu_s": hub_cpu,
                    "client_cpu_s": client_cpu,
                    "each_hub_cpu_us": hub_cpu / options.size * 1e6,
                    "each_client_cpu_us": (client_cpu - own) / options.size * 1e6,
                    "hub_peak_mib": daemon.memory_mib("VmHWM"),
                    "client_peak_mib": started.memory_mib("VmHWM"),
                }
            finally:
                started.stop()


async def _first_sync_light(options: Options) -> Figures:
    [client] = light(1)
    with hub_for(options, [client]) as hub:
        await client.introduce(hub.target)
        client.prepare(options.size)
        cpu = hub.cpu_s()
        async with client.connected(hub.target):
            seconds = await client.until_stored() - client.dialled
        used = hub.cpu_s() - cpu
        return {
            "from_connection_s": seconds,
            "each_us": seconds / options.size * 1e6,
            **hub.figures(
                lambda: {
                    "hub_cpu_s": used,
                    "each_hub_cpu_us": used / options.size * 1e6,
                    "hub_peak_mib": hub.memory_mib("VmHWM"),
                }
            ),
        }


# --- reconnect


def reconnect(options: Options) -> Figures:
    return trio.run(_reconnect, options)


async def _reconnect(options: Options) -> Figures:
    [client] = light(1)
    with hub_for(options, [client]) as hub:
        await client.introduce(hub.target)
        client.prepare(options.size)
        async with client.connected(hub.target):
            await client.until_stored()
        client.made.clear()
        cpu = hub.cpu_s()
        async with client.connected(hub.target, probe=True):
            seconds = await client.until_stored() - client.dialled
        used = hub.cpu_s() - cpu
        return {
            "wall_s": seconds,
            "each_us": seconds / options.size * 1e6,
            **hub.figures(lambda: {"hub_cpu_s": used}),
        }


# --- many clients


def idle(options: Options) -> Figures:
    return trio.run(_idle, options)


async def _idle(options: Options) -> Figures:
    clients = light(options.size + 1)
    with hub_for(options, clients) as hub:
        for client in clients:
            await client.introduce(hub.target)
        async with AsyncExitStack() as connected:
            await connected.enter_async_context(clients[0].connected(hub.target))
            before = hub.memory_mib("VmRSS")
            for client in clients[1:]:
                await connected.enter_async_context(client.connected(hub.target))
            await _at_rest(hub, min(1.0, options.seconds))
            cpu, memory = hub.cpu_s(), hub.memory_mib("VmRSS")
            await trio.sleep(options.seconds)
            used = hub.cpu_s() - cpu
    return {
        "cpu_percent": 100 * used / options.seconds,
        "hub_cpu_s": used,
        "each_cpu_ms_a_minute": used / options.seconds * 60_000 / options.size,
        "each_kib": (memory - before) * 1024 / options.size,
        "hub_mib": memory,
    }


async def _at_rest(hub: Hub, seconds: float) -> None:
    """Until what the connecting left to do is done: the hub needs no processor for so long. Some never come to rest."""
    for _ in range(10):
        before = hub.cpu_s()
        await trio.sleep(seconds)
        if hub.cpu_s() == before:
            return


def storm(options: Options) -> Figures:
    return trio.run(_storm, options)


async def _storm(options: Options) -> Figures:
    clients = light(options.size)
    with hub_for(options, clients) as hub:
        for (
            client
        ) in clients:  # one after the other: a token without enough uses fails once, and not a thousand times
            await client.introduce(hub.target)
        gc.freeze()  # as a daemon does: all these clients together are no reason to look through them again and again
        gc.set_threshold(COLLECT_AFTER, *COLLECT_OLDER)
        cpu, own = hub.cpu_s(), time.process_time()
        seconds = await _all_at_once(clients, hub, options.patience_s * 0.7)
        used, own = hub.cpu_s() - cpu, time.process_time() - own
        return {
            "wall_s": seconds,
            "retries": sum(client.retries for client in clients),
            "each_client_cpu_ms": own * 1000 / options.size,
            **hub.figures(
                lambda: {
                    "hub_cpu_s": used,
                    "each_hub_cpu_ms": used * 1000 / options.size,
                    "hub_peak_mib": hub.memory_mib("VmHWM"),
                }
            ),
        }


async def _all_at_once(clients: Sequence[LightClient], hub: Hub, patience_s: float) -> float:
    """Seconds until all of them are connected; then they go."""
    async with trio.open_nursery() as nursery:
        start = time.monotonic()
        for client in clients:
            client.start_stubbornly(nursery, hub.target, patience_s)
        for client in clients:
            await client.until_established()
        seconds = time.monotonic() - start
        for client in clients:
            client.leave()
    return seconds


# --- one process


def help_(options: Options) -> Figures:
    """``size`` runs of the command that people type; the first is not counted, it fills the disk's cache."""
    command = Path(sys.executable).with_name("backrest")
    if not command.exists():
        raise FailedError(f"the command backrest is not installed beside {sys.executable}")

    def run() -> None:
        subprocess.run([command, "--help"], check=True, capture_output=True, text=True)

    run()
    times = []
    cpu = _children_cpu_s()
    for _ in range(options.size):
        start = time.monotonic()
        run()
        times.append((time.monotonic() - start) * 1000)
    each_cpu_ms = (_children_cpu_s() - cpu) * 1000 / options.size
    return {"median_ms": statistics.median(times), "max_ms": max(times), "each_cpu_ms": each_cpu_ms}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


_MILLION = (1_000_000,)
# A hub of another program may take 5 ms and more for each operation of a long first sync.
ROWS = {
    "first-sync": Row(first_sync, 10_000, "operations", (8_000, 100_000), each_s=0.02, elsewhere=True),
    "reconnect": Row(reconnect, 10_000, "operations", (100_000,), each_s=0.02, elsewhere=True),
    "live": Row(live, 200, "changes", (200,), each_s=0.5),
    "idle": Row(idle, 100, "clients", (1_000,), each_s=0.2, elsewhere=True, by_process=True),
    "storm": Row(storm, 200, "clients", (1_000,), each_s=0.4, elsewhere=True),
    "open-log": Row(logs.open_log, 100_000, "operations", _MILLION, each_s=0.002),
    "query": Row(logs.query, 100_000, "operations", _MILLION, each_s=0.002),
    "verify": Row(logs.verify, 100_000, "operations", _MILLION, each_s=0.002),
    "repair": Row(logs.repair, 100_000, "operations", _MILLION, each_s=0.002),
    "compact": Row(logs.compact, 100_000, "operations", _MILLION, each_s=0.002),
    "help": Row(help_, 30, "runs", (30,), each_s=5),
}

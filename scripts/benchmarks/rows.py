"""The rows of the table, each a function that sets its scene, measures once, and clears up.

A row returns figures by name; a name ends in its unit. What a figure means is in scripts/README.md.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import trio

from backrest.admin import client as admin
from backrest.app import COLLECT_AFTER, COLLECT_OLDER
from backrest.crypto.tokens import PairingToken
from backrest.wire import codec
from benchmarks import logs, operations
from benchmarks.light import LightClient, Target
from benchmarks.machines import BACKREST, LOOK_S, TICKS, Daemon, Machine, memory_mib, scratch
from benchmarks.model import Figures, Options, Row


class _Hub:
    """The hub that light clients dial: one of ours, started here, or the one that the options name."""

    def __init__(self, target: Target, pid: int) -> None:
        self.target = target
        self.pid = pid

    def cpu_s(self) -> float:
        """0 for a hub whose process we do not know; ``figures`` leaves out what is made of it."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self, what: str) -> float:
        return memory_mib(self.pid, what)

    def figures(self, make: Callable[[], Figures]) -> Figures:
        """Those that say something of the hub's process: none when it is not known."""
        return make() if self.pid else {}


@contextmanager
def _hub_for(options: Options, clients: Sequence[LightClient]) -> Iterator[_Hub]:
    if (other := options.other) is not None:
        token = PairingToken.parse(other.token)
        yield _Hub(Target(other.url, token.keyid, token.instance_id, token.secret), other.pid)
        return
    with scratch() as directory:
        hub = Machine(directory, "hub")
        hub.let_in((client.name, client.identity.keyid) for client in clients)
        with hub.serving() as daemon:
            yield _Hub(Target(daemon.url, hub.identity.keyid, hub.name), daemon.pid)


def _light(count: int, held: int = 0) -> list[LightClient]:
    """With names that no earlier run has used: another implementation's hub remembers them."""
    run = os.urandom(4).hex()
    return [LightClient(f"bench-{run}-{number}", held) for number in range(count)]


# --- first sync


def first_sync(options: Options) -> Figures:
    if options.light:
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
                daemon.until_held(client.name, options.size)
                ended = time.monotonic()
                hub_cpu, client_cpu = daemon.cpu_s() - cpu, started.cpu_s()
                return {
                    "from_start_s": ended - started.started,
                    "from_connection_s": ended - connected,
                    "each_us": (ended - connected) / options.size * 1e6,
                    "each_hub_cpu_us": hub_cpu / options.size * 1e6,
                    "each_client_cpu_us": (client_cpu - own) / options.size * 1e6,
                    "client_cpu_s": client_cpu,
                    "hub_peak_mib": daemon.memory_mib("VmHWM"),
                    "client_peak_mib": started.memory_mib("VmHWM"),
                }
            finally:
                started.stop()


async def _first_sync_light(options: Options) -> Figures:
    [client] = _light(1, options.size)
    client.prepare()
    with _hub_for(options, [client]) as hub:
        cpu = hub.cpu_s()
        async with client.connected(hub.target):
            seconds = await client.until_stored() - client.dialled
        used = hub.cpu_s() - cpu
        return {
            "from_connection_s": seconds,
            "each_us": seconds / options.size * 1e6,
            **hub.figures(
                lambda: {
                    "each_hub_cpu_us": used / options.size * 1e6,
                    "hub_peak_mib": hub.memory_mib("VmHWM"),
                }
            ),
        }


# --- reconnect


def reconnect(options: Options) -> Figures:
    return trio.run(_reconnect, options)


async def _reconnect(options: Options) -> Figures:
    [client] = _light(1, options.size)
    client.prepare()
    with _hub_for(options, [client]) as hub:
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


# --- live changes


def live(options: Options) -> Figures:
    return trio.run(_live, options)


async def _live(options: Options) -> Figures:
    others = _light(max(options.clients - 1, 0))
    with scratch() as directory:
        hub, client = Machine(directory, "hub"), Machine(directory, "client")
        hub.let_in([(c.name, c.identity.keyid) for c in others] + [(client.name, client.identity.keyid)])
        with hub.serving() as daemon:
            client.know(hub, daemon.url)
            target = Target(daemon.url, hub.identity.keyid, hub.name)
            async with AsyncExitStack() as connected:
                for other in others:
                    await connected.enter_async_context(other.connected(target))
                with client.serving() as started:
                    await trio.to_thread.run_sync(started.until_logged, "connected to")
                    waits = await trio.to_thread.run_sync(_changes, hub, client, options.size)
    waits.sort()
    return {
        "median_ms": statistics.median(waits) * 1000,
        "p99_ms": waits[max(0, -(-99 * len(waits) // 100) - 1)] * 1000,
        "max_ms": waits[-1] * 1000,
    }


def _changes(hub: Machine, client: Machine, count: int) -> list[float]:
    """Seconds from a line in the client's file until the hub says, after its sync, that it has it."""
    told: list[float] = []
    more = threading.Semaphore(0)
    ready = threading.Event()

    def hear(event: dict[str, object]) -> None:
        now = time.monotonic()
        ready.set()
        if "createdOperations" in event:
            told.append(now)
            more.release()

    def follow() -> None:
        # The hub is asked to end at last, which ends this with an error.
        connection = admin.connect(hub.paths)
        assert connection is not None
        try:
            with connection:
                admin.ask(connection, "TailOperations", b'{"last":0}', hear)
        except Exception:
            ready.set()
            more.release()

    threading.Thread(target=follow, daemon=True).start()
    ready.wait()
    waits = []
    for number in range(1, count + 1):
        body = {"operations": [codec.to_dict(operations.make(number, client.name))]}
        before = client.paths.oplog.stat().st_size
        asking = threading.Thread(target=admin.call, args=(client.paths, "ImportOperations", body))
        asking.start()
        while client.paths.oplog.stat().st_size == before:
            time.sleep(LOOK_S / 20)
        written = time.monotonic()
        more.acquire()
        if len(told) < number:
            raise RuntimeError("the hub ended while changes were under way")
        waits.append(max(told[number - 1] - written, 0.0))
        asking.join()
    return waits


# --- many clients


def idle(options: Options) -> Figures:
    return trio.run(_idle, options)


async def _idle(options: Options) -> Figures:
    clients = _light(options.size + 1)
    with _hub_for(options, clients) as hub:
        async with AsyncExitStack() as connected:
            await connected.enter_async_context(clients[0].connected(hub.target))  # what is loaded only once
            before = hub.memory_mib("VmRSS")
            for client in clients[1:]:
                await connected.enter_async_context(client.connected(hub.target))
            await trio.sleep(min(1.0, options.seconds))  # what the connecting left to do
            cpu, memory = hub.cpu_s(), hub.memory_mib("VmRSS")
            await trio.sleep(options.seconds)
            used = hub.cpu_s() - cpu
    return {
        "cpu_percent": 100 * used / options.seconds,
        "each_cpu_ms_a_minute": used / options.seconds * 60_000 / options.size,
        "each_kib": (memory - before) * 1024 / options.size,
        "hub_mib": memory,
    }


def storm(options: Options) -> Figures:
    return trio.run(_storm, options)


async def _storm(options: Options) -> Figures:
    clients = _light(options.size)
    with _hub_for(options, clients) as hub:
        await _all_at_once(clients, hub)  # pairs them, where there is a token
        gc.freeze()  # as a daemon does: all these clients together are no reason to look through them again and again
        gc.set_threshold(COLLECT_AFTER, *COLLECT_OLDER)
        cpu, own = hub.cpu_s(), time.process_time()
        seconds = await _all_at_once(clients, hub)
        used, own = hub.cpu_s() - cpu, time.process_time() - own
        return {
            "wall_s": seconds,
            "retries": sum(client.retries for client in clients),
            "each_client_cpu_ms": own * 1000 / options.size,
            **hub.figures(
                lambda: {
                    "each_hub_cpu_ms": used * 1000 / options.size,
                    "hub_peak_mib": hub.memory_mib("VmHWM"),
                }
            ),
        }


async def _all_at_once(clients: Sequence[LightClient], hub: _Hub) -> float:
    """Seconds until all of them are connected; then they go."""
    async with trio.open_nursery() as nursery:
        start = time.monotonic()
        for client in clients:
            client.start_stubbornly(nursery, hub.target)
        for client in clients:
            await client.until_established()
        seconds = time.monotonic() - start
        for client in clients:
            client.leave()
    return seconds


# --- one process


def help_(options: Options) -> Figures:
    """``size`` runs; the first is not counted, it fills the disk's cache."""
    run = partial(subprocess.run, [*BACKREST, "--help"], check=True, stdout=subprocess.DEVNULL)
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


ROWS = {
    "first-sync": Row(first_sync, 10_000, "operations", elsewhere=True),
    "reconnect": Row(reconnect, 10_000, "operations", elsewhere=True),
    "live": Row(live, 200, "changes"),
    "idle": Row(idle, 100, "clients", elsewhere=True, by_process=True),
    "storm": Row(storm, 200, "clients", elsewhere=True),
    "open-log": Row(logs.open_log, 100_000, "operations"),
    "query": Row(logs.query, 100_000, "operations"),
    "verify": Row(logs.verify, 100_000, "operations"),
    "repair": Row(logs.repair, 100_000, "operations"),
    "compact": Row(logs.compact, 100_000, "operations"),
    "help": Row(help_, 30, "runs"),
}

"""The row of live changes: two real processes, the way of one change from the client's disk to the hub's."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial

import trio

from backrest.admin import client as admin
from backrest.wire import codec
from benchmarks import operations
from benchmarks.hubs import light
from benchmarks.light import Target
from benchmarks.machines import Daemon, Machine, scratch
from benchmarks.model import FailedError, Figures, Options

LOOK_S = 0.0001  # between two looks at a file's length: a two-hundredth of what a change takes


def live(options: Options) -> Figures:
    return trio.run(_live, options)


async def _live(options: Options) -> Figures:
    others = light(options.clients - 1)
    with scratch() as directory:
        hub, client = Machine(directory, "hub"), Machine(directory, "client")
        hub.let_in([(c.name, c.identity.keyid) for c in others] + [(client.name, client.identity.keyid)])
        with hub.serving() as daemon, daemon.blamed():
            client.know(hub, daemon.url)
            target = Target(daemon.url, hub.identity.keyid, hub.name)
            async with AsyncExitStack() as connected:
                for other in others:
                    await connected.enter_async_context(other.connected(target))
                with client.serving() as started:
                    # What is abandoned ends with the daemons.
                    in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
                    await in_thread(started.until_logged, "connected to")
                    waits = await in_thread(_changes, daemon, started, options.size)
    waits.sort()
    return {
        "median_ms": statistics.median(waits) * 1000,
        "p99_ms": waits[max(0, -(-99 * len(waits) // 100) - 1)] * 1000,
        "max_ms": waits[-1] * 1000,
    }


def _changes(hub: Daemon, client: Daemon, count: int) -> list[float]:
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
        try:
            connection = admin.connect(hub.machine.paths)
            if connection is not None:
                with connection:
                    admin.ask(connection, "TailOperations", b'{"last":0}', hear)
        except Exception:
            pass
        finally:
            ready.set()
            more.release()

    threading.Thread(target=follow, daemon=True).start()
    ready.wait()
    waits = []
    paths = client.machine.paths
    with ThreadPoolExecutor(1) as asking:
        for number in range(1, count + 1):
            body = {"operations": [codec.to_dict(operations.make(number, client.machine.name))]}
            before = paths.oplog.stat().st_size
            asked = asking.submit(admin.call, paths, "ImportOperations", body)
            while paths.oplog.stat().st_size == before:
                if asked.done():
                    asked.result()
                client.check()
                time.sleep(LOOK_S)
            written = time.monotonic()
            more.acquire()
            if len(told) < number:
                hub.check()
                raise FailedError("the hub no longer told of changes while they were under way")
            waits.append(max(told[number - 1] - written, 0.0))
            asked.result()
    return waits

"""The program under test is the client, and each case has a process of it for itself: ``--client-command``.

For a client that does not bear many hubs, or many changes, at once. A case has a folder with a configuration that knows
the hub of this case alone; the command finds it in its environment:

    BACKREST_CONFIG   the configuration, written for this case
    BACKREST_DATA     a folder for everything else, empty
    CONFORMANCE_DIR   the case's folder: operations.jsonl, to be imported first, and the other files of --setup
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from conformance import setup
from conformance.model import Case, Failed
from conformance.runner import CLIENT_S, Judge
from conformance.seats import ClientLab, Seat, listening

START_S = 60.0  # from the start of the command to its first stream; it takes a second or two
TERM_S = 5.0  # from SIGTERM to SIGKILL
OUTPUT = "output.txt"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the suite listens, and how a client gets there."""

    host: str
    port: int
    """Of the first hub; 0: any."""
    public_url: str | None = None


async def run_each(
    cases: Sequence[Case],
    lab: ClientLab,
    judge: Judge,
    *,
    command: str,
    directory: Path,
    keep: bool,
    place: Place,
    side_by_side: int,
) -> None:
    """Run ``cases``, each in a folder of ``directory`` with a process of its own. The folder of a case that was as it
    should be is removed unless ``keep``."""
    places = trio.CapacityLimiter(side_by_side)

    async def run(number: int, case: Case) -> None:
        async with places:
            port = place.port and place.port + 2 * number  # some cases play two hubs
            where = directory / case.id.replace("/", "-")
            work = partial(_in_process, case, lab, command, where, replace(place, port=port))
            result = await judge.run(replace(case, run=work), None, START_S + CLIENT_S)
        if not result.good:
            print(
                f"         its files, and what the client said: {where}/{OUTPUT}", file=sys.stderr, flush=True
            )
        elif not keep:
            await trio.to_thread.run_sync(shutil.rmtree, where)

    async with trio.open_nursery() as nursery:
        for number, case in enumerate(cases):
            nursery.start_soon(run, number, case)


async def _in_process(case: Case, lab: ClientLab, command: str, where: Path, place: Place, _: object) -> None:
    environment = {
        **os.environ,
        "BACKREST_CONFIG": str(where / "config.json"),
        "BACKREST_DATA": str(where / "data"),
        "CONFORMANCE_DIR": str(where),
    }
    own = replace(
        lab, environment=environment, alone=trio.Lock(), calm=trio.Event(), first_arrival=trio.Event()
    )
    own.calm.set()
    seat = Seat(own, case, 1)
    seats = [seat]
    if "pair" in case.needs:
        seat.partner = Seat(own, case, 2)
        seats.append(seat.partner)
    async with listening(seats, place.host, place.port):
        if place.public_url:
            for one in seats:
                one.public_url = place.public_url.replace("PORT", str(one.port))
        setup.write_client(where, seats)
        async with running(command, where, environment):
            with trio.move_on_after(START_S) as waiting:
                await own.first_arrival.wait()
            if waiting.cancelled_caught:
                raise Failed(f"no client came within {START_S:g} s")
            await case.run(seat)


@asynccontextmanager
async def running(command: str, where: Path, environment: dict[str, str]) -> AsyncIterator[None]:
    """The client's process, for the length of the block: a group of its own, since the command is a shell's. Failed
    when it ends by itself."""
    with (where / OUTPUT).open("wb") as output:
        process = await trio.lowlevel.open_process(
            command,
            shell=True,
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watched, process)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            _signal(process, signal.SIGTERM)
            with trio.move_on_after(TERM_S):
                await process.wait()
            _signal(process, signal.SIGKILL)  # also what outlived the shell
            await process.wait()


async def _watched(process: Any) -> None:
    raise Failed(f"the client ended by itself, with exit code {await process.wait()}")


def _signal(process: Any, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)

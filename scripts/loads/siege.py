"""``scripts/load --attacks N``: each kind of attack, N times at once, against a fresh hub that serves one live client.

From one address and from many, directly and behind Caddy. MEDIAN_MS and PEAK_MIB are the limits; each row that
exceeds one is named. The client is a process of its own (pulse.py), so that the figures are the hub's and not the
attackers'.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from benchmarks.light import Target
from benchmarks.machines import Daemon, Machine, memory_mib
from shared.daemons import mistakes, program

from backrest.crypto.identity import Identity
from loads.attacks import KINDS, PAIRED, Player, play

MEDIAN_MS = 100.0  # the live client's round trip
PEAK_MIB = 200.0  # the hub
START_S = 20.0
LIVE = "127.9.9.9"  # where the live client comes from
ONE = "127.0.0.1"


@dataclass(slots=True)
class Row:
    attack: str
    addresses: str  # "one" or "many"
    by: str  # "direct" or "caddy"
    let_in_s: float  # a newcomer's way in, in the midst of the attack
    median_ms: float
    p99_ms: float
    trips: int
    before_mib: float
    peak_mib: float
    wrong: list[str]


class Siege:
    """Plays all of it. ``rows`` fills as it goes."""

    def __init__(
        self,
        directory: Path,
        attackers: int,
        seconds: float,
        seed: int,
        patience: float,
        say: Callable[[str], None],
        code: str,
    ) -> None:
        self._directory = directory
        self._attackers = attackers
        self._seconds = seconds
        self._seed = seed
        self._patience = patience
        self._say = say
        self._code = code
        self.rows: list[Row] = []

    def run(self, kinds: Sequence[str], ways: Sequence[str]) -> None:
        self._say(f"{'attack':20} {'from':5} {'by':7} {'let in':>8} {'median':>9} {'p99':>9} {'memory':>15}")
        for name in kinds:
            paired = KINDS[name] in PAIRED
            for by in ways:
                for addresses in ("one",) if paired else ("one", "many"):
                    row = self._row(name, addresses, by)
                    self.rows.append(row)
                    self._say(
                        f"{name:20} {addresses:5} {by:7} {row.let_in_s:6.2f} s {row.median_ms:6.1f} ms "
                        f"{row.p99_ms:6.1f} ms {row.before_mib:4.0f} to {row.peak_mib:.0f} MiB"
                    )

    def _row(self, name: str, addresses: str, by: str) -> Row:
        chance = random.Random(f"{self._seed}/{name}/{addresses}/{by}")
        folder = self._directory / f"{len(self.rows)}"
        hub = Machine(folder, "hub")
        hub.program = program(self._code)
        seeds = {f"attacker-{n}": chance.randbytes(32) for n in range(self._attackers)}
        seeds |= {"live": chance.randbytes(32), "newcomer": chance.randbytes(32)}
        identities = {one: Identity.from_seed(seed) for one, seed in seeds.items()}
        hub.let_in([(one, identity.keyid) for one, identity in identities.items()])
        with hub.serving() as daemon, _way(daemon, by, folder) as url:
            target = Target(url, hub.identity.keyid, hub.name)
            players = [
                Player(
                    target,
                    ONE if addresses == "one" else f"127.1.{n >> 8}.{(n & 255) + 1}",
                    identities[f"attacker-{n}"],
                    f"attacker-{n}",
                    random.Random(chance.random()),
                )
                for n in range(self._attackers)
            ]
            before = memory_mib(daemon.pid, "VmRSS")
            with _pulse(target, "live", seeds["live"]) as (_, leave):
                let_in = trio.run(self._attack, name, players, target, seeds["newcomer"])
                took = leave()
            trips = sorted(took["took"][1:])  # the first is before the attack
            row = Row(
                name,
                addresses,
                by,
                round(let_in, 2),
                _share(trips, 0.5),
                _share(trips, 0.99),
                len(trips),
                round(before, 1),
                round(memory_mib(daemon.pid, "VmHWM"), 1),
                [],
            )
            daemon.check()
        row.wrong = [*self._wrong(row, took["dials"]), *mistakes(daemon)]
        shutil.rmtree(folder)
        return row

    def _wrong(self, row: Row, dials: int) -> list[str]:
        where = f"{row.attack} from {row.addresses}, {row.by}"
        wrong = []
        if not row.trips or row.median_ms > MEDIAN_MS:
            wrong.append(f"{where}: half of the round trips took more than {MEDIAN_MS:.0f} ms")
        if row.peak_mib > PEAK_MIB:
            wrong.append(f"{where}: the hub took {row.peak_mib:.0f} MiB, and {PEAK_MIB:.0f} are allowed")
        if dials > 1:
            wrong.append(f"{where}: the live client lost its session")
        if row.let_in_s > self._patience:
            wrong.append(
                f"{where}: a client that dialled meanwhile was not let in within {self._patience:.0f} s"
            )
        return wrong

    async def _attack(self, name: str, players: list[Player], target: Target, seed: bytes) -> float:
        """How long a newcomer's way in took when half of the time had passed."""
        took = math.inf
        async with trio.open_nursery() as nursery:
            for player in players:
                nursery.start_soon(play, KINDS[name], player)
            await trio.sleep(self._seconds / 2)
            with trio.move_on_after(self._patience):
                took = await trio.to_thread.run_sync(_let_in, target, seed, abandon_on_cancel=True)
            await trio.sleep(self._seconds / 2)
            nursery.cancel_scope.cancel()
        return took


def _let_in(target: Target, seed: bytes) -> float:
    """How long a newcomer's way in took, in seconds."""
    with _pulse(target, "newcomer", seed) as (let_in, _):
        return let_in


@contextmanager
def _pulse(target: Target, name: str, seed: bytes) -> Iterator[tuple[float, Callable[[], Any]]]:
    """A live client that is let in: after how many seconds, and a function by which it leaves, and says what its round
    trips took."""
    given = {
        "url": target.url,
        "keyid": target.keyid,
        "instance_id": target.instance_id,
        "seed": seed.hex(),
        "name": name,
        "source": LIVE,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "loads.pulse"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
            let_in = float(process.stdout.readline() or math.inf)

            def leave() -> Any:
                told, _ = process.communicate()
                return json.loads(told)

            yield let_in, leave
        finally:
            process.kill()


@contextmanager
def _way(daemon: Daemon, by: str, folder: Path) -> Iterator[str]:
    """The URL under which the hub is reached."""
    if by == "direct":
        yield daemon.url
        return
    with socket.socket() as free:
        free.bind((ONE, 0))
        port = free.getsockname()[1]
    config = folder / "Caddyfile"
    config.write_text(
        "{\nadmin off\nservers {\nprotocols h1 h2c\n}\n}\n"
        f"http://{ONE}:{port} {{\nreverse_proxy h2c://{daemon.url.removeprefix('http://')} "
        "{\nflush_interval -1\n}\n}\n"
    )
    process = subprocess.Popen(
        ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"],
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + START_S
        while time.monotonic() < limit:
            try:
                socket.create_connection((ONE, port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield f"http://{ONE}:{port}"
    finally:
        process.kill()
        process.wait()


def _share(sorted_ms: list[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, math.floor(share * len(sorted_ms)))] if sorted_ms else 0.0

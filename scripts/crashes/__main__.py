"""``scripts/crash``: rounds of killing, their seeds, and what to do when one fails."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import STOPPED, hold_stops, new_directory, stop_in_order, take_stops

from crashes import daemons, stores

Life = Callable[[Path, str, int], int]


class _Again:
    """The command that does the same again."""

    def __init__(self, seed: int, options: str) -> None:
        self.seed = seed
        self._options = options

    def __str__(self) -> str:
        return f"scripts/crash{self._options} --seed {self.seed}"


def arguments() -> tuple[argparse.Namespace, Callable[[str], None]]:
    """The options, and what to call when they do not go together."""
    parser = argparse.ArgumentParser(
        prog="scripts/crash",
        description="Kill what writes, and look whether all that was acknowledged is there.",
    )
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="kills in all (200)")
    parser.add_argument(
        "--daemons",
        type=int,
        metavar="N",
        help="so many of them of real daemons (one in twenty)",
        default=None,
    )
    parser.add_argument("--seed", type=int, default=None, help="as an earlier run printed it")
    parser.add_argument(
        "--only", metavar="LIFE", help="only this one of the run's directories: stores/3, daemons/0"
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="the writer is killed at chosen system calls only, which the seed repeats exactly",
    )
    parser.add_argument("--first", action="store_true", help="end with the first directory that fails")
    parser.add_argument(
        "--patience",
        type=float,
        default=daemons.PATIENCE_S,
        help="seconds until hub and client must hold the same (120)",
    )
    parser.add_argument(
        "--hub-code", type=Path, metavar="FILE", help="Python that the hub's daemon runs before it serves"
    )
    options = parser.parse_args()
    if options.rounds < 1 or (options.daemons or 0) < 0 or options.patience <= 0:
        parser.error("--rounds and --patience must be positive, and --daemons not negative")
    return options, parser.error


def main() -> int:
    options, refuse = arguments()
    try:
        code = options.hub_code.read_text() if options.hub_code else ""
    except OSError as error:
        refuse(f"--hub-code: {error}")
    of_stores = partial(stores.life, exact=options.exact)
    of_daemons = partial(daemons.life, hub_code=code, patience=options.patience)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    count = options.rounds // 20 if options.daemons is None else min(options.daemons, options.rounds)
    again = _Again(seed, " --exact" * options.exact + f" --hub-code {options.hub_code}" * bool(code))
    stop_in_order()
    try:
        print(f"seed {seed}: {options.rounds - count} kills of a writer, {count} of daemons", flush=True)
        if options.only:
            kind, _, number = options.only.partition("/")
            one: tuple[Life, int] | None = {
                "stores": (of_stores, stores.KILLS),
                "daemons": (of_daemons, daemons.KILLS),
            }.get(kind)
            if one is None or not number.isdecimal():
                refuse("--only takes the name of one, such as stores/3 or daemons/0")
            failed = _lives(kind, one[0], [(int(number), one[1])], again)
        else:
            which = _split(options.rounds - count, stores.KILLS)
            failed = _lives("stores", of_stores, which, again, first=options.first)
            if not (failed and options.first):
                which = _split(count, daemons.KILLS)
                failed += _lives("daemons", of_daemons, which, again, first=options.first)
    except KeyboardInterrupt:
        print(f"stopped; the same again: {again}", file=sys.stderr)
        return STOPPED
    if failed:
        print(f"{failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _split(kills: int, each: int) -> list[tuple[int, int]]:
    """(number, kills) of each directory."""
    return [(at // each, min(each, kills - at)) for at in range(0, kills, each)]


def _lives(kind: str, life: Life, which: list[tuple[int, int]], again: _Again, *, first: bool = False) -> int:
    """Run them one after the other, or until the ``first`` that fails; how many failed."""
    started, acknowledged, failed, done = time.monotonic(), 0, 0, 0
    for number, kills in which:
        hold_stops()
        directory = new_directory(f"crash-{kind}-{number}-", sockets=kind == "daemons")
        try:
            take_stops()
            acknowledged += life(directory, f"{again.seed}/{kind}/{number}", kills)
        except stores.WrongError as error:
            failed += 1
            print(
                f"{kind}/{number}: {error}\n  what is left: {directory}\n"
                f"  again: {again} --only {kind}/{number}",
                file=sys.stderr,
                flush=True,
            )
        except BaseException:
            shutil.rmtree(directory)
            raise
        else:
            shutil.rmtree(directory)
        done += kills
        if failed and first:
            break
    if done:
        seconds = time.monotonic() - started
        print(
            f"{kind}: {done} kills, {acknowledged} acknowledgements kept, {failed} failed, {seconds:.0f} s",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())

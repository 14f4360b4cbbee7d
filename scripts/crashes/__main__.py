"""``scripts/crash``: rounds of killing, their seeds, and what to do when one fails."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from crashes import daemons, stores

Life = Callable[[Path, str, int], int]


def main() -> int:
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
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    of_daemons = options.rounds // 20 if options.daemons is None else min(options.daemons, options.rounds)
    print(
        f"seed {seed}: {options.rounds - of_daemons} kills of a writer, {of_daemons} of daemons", flush=True
    )
    if options.only:
        kind, _, number = options.only.partition("/")
        one: tuple[Life, int] | None = {
            "stores": (stores.life, stores.KILLS),
            "daemons": (daemons.life, daemons.KILLS),
        }.get(kind)
        if one is None or not number.isdecimal():
            parser.error("--only takes the name of one, such as stores/3 or daemons/0")
        failed = _lives(kind, one[0], [(int(number), one[1])], seed)
    else:
        failed = _lives("stores", stores.life, _split(options.rounds - of_daemons, stores.KILLS), seed)
        failed += _lives("daemons", daemons.life, _split(of_daemons, daemons.KILLS), seed)
    if failed:
        print(f"{failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _split(kills: int, each: int) -> list[tuple[int, int]]:
    """(number, kills) of each directory."""
    return [(at // each, min(each, kills - at)) for at in range(0, kills, each)]


def _lives(kind: str, life: Life, which: list[tuple[int, int]], seed: int) -> int:
    """Run them one after the other; how many failed."""
    started, acknowledged, failed, done = time.monotonic(), 0, 0, 0
    for number, kills in which:
        directory = Path(tempfile.mkdtemp(prefix=f"crash-{kind}-{number}-"))
        try:
            acknowledged += life(directory, f"{seed}/{kind}/{number}", kills)
        except stores.WrongError as error:
            failed += 1
            print(
                f"{kind}/{number}: {error}\n  what is left: {directory}\n"
                f"  again: scripts/crash --seed {seed} --only {kind}/{number}",
                file=sys.stderr,
                flush=True,
            )
        else:
            shutil.rmtree(directory)
        done += kills
    if done:
        seconds = time.monotonic() - started
        print(
            f"{kind}: {done} kills, {acknowledged} acknowledgements kept, {failed} failed, {seconds:.0f} s",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())

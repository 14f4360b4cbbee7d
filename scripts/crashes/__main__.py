"""``scripts/crash``: rounds of killing, their seeds, and what to do when one fails."""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shared import entry
from shared.daemons import new_directory
from shared.options import code_of, count, seconds

from backrest.errors import BackrestError
from crashes import daemons, stores

ROUNDS = 200
EACH = {"stores": stores.KILLS, "daemons": daemons.KILLS}
ROOT = Path(__file__).parents[2]
KNOWN = (stores.WrongError, BackrestError, OSError)  # whose text is a sentence

Life = Callable[[Path, str, int], int]


def arguments(given: list[str] | None) -> argparse.Namespace:
    """Exits with 2 and a sentence when the options cannot be meant."""
    parser = argparse.ArgumentParser(
        prog="scripts/crash",
        description="Kill what writes, and look whether all that was acknowledged is there.",
    )
    add = parser.add_argument
    add("--rounds", type=count(1), metavar="N", help=f"kills in all ({ROUNDS})")
    add("--daemons", type=count(0), metavar="N", help="so many of them of real daemons (one in twenty)")
    add("--seed", type=int, metavar="S", help="as an earlier run printed it")
    add("--only", type=_one, metavar="LIFE", help="only this directory of a run: stores/3, daemons/0")
    add(
        "--exact",
        action="store_true",
        help="the writer is killed at chosen system calls only, which the seed repeats exactly",
    )
    add("--first", action="store_true", help="end with the first directory that fails")
    add(
        "--patience",
        type=seconds,
        metavar="S",
        help=f"seconds until hub and client must hold the same ({daemons.PATIENCE_S:g})",
    )
    add(
        "--hub-code",
        type=code_of,
        metavar="FILE",
        help="Python that the hub's daemon runs before it serves",
    )
    add(
        "--replays",
        type=count(1),
        metavar="N",
        help="instead: cut the power in the model of a disk, with N samples at each moment; "
        "goes with --seed alone",
    )
    options = parser.parse_args(given)
    told = {name for name, value in vars(options).items() if value not in (None, False)}
    if options.daemons == 0:
        told.add("daemons")
    if options.replays and told - {"replays", "seed"}:
        parser.error("--replays kills nothing: it goes with --seed alone")
    if options.only and told & {"rounds", "daemons", "first"}:
        parser.error("--only says what is run: --rounds, --daemons and --first do not go with it")
    options.rounds = options.rounds or ROUNDS
    if options.daemons is None:
        options.daemons = options.rounds // 20
    if options.daemons > options.rounds:
        parser.error(f"--daemons {options.daemons} is more than all of the {options.rounds} rounds")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    return options


def _one(text: str) -> tuple[str, int]:
    if not re.fullmatch(f"({'|'.join(EACH)})/[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a directory, such as stores/3 or daemons/0")
    kind, _, number = text.partition("/")
    return kind, int(number)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.replays:
        return _replay(options.replays, options.seed)
    kills = {"stores": options.rounds - options.daemons, "daemons": options.daemons}
    if options.only:
        kind, number = options.only
        which = {kind: [(number, EACH[kind])]}
        what = f"{kind}/{number} alone, {EACH[kind]} kills"
    else:
        which = {kind: _split(kills[kind], EACH[kind]) for kind in EACH}
        what = f"{kills['stores']} kills of a writer, {kills['daemons']} of daemons"
    print(f"seed {options.seed}: {what}", flush=True)
    file, code = options.hub_code or ("", "")
    patience = options.patience or daemons.PATIENCE_S
    lives: dict[str, Life] = {
        "stores": partial(stores.life, exact=options.exact),
        "daemons": partial(daemons.life, hub_code=code, patience=patience),
    }
    again = "scripts/crash" + " --exact" * options.exact
    again += f" --hub-code {shlex.quote(file)}" * bool(file)
    again += f" --patience {patience:g}" * bool(options.patience)
    again += f" --seed {options.seed}"
    failed = 0
    for kind, numbers in which.items():
        if numbers and not (failed and options.first):
            failed += _lives(kind, lives[kind], numbers, options.seed, again, first=options.first)
    if failed:
        print(f"{failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _replay(samples: int, seed: int) -> int:
    """The tests of the model, with more samples; what they leave goes."""
    print(f"seed {seed}: power cuts, {samples} samples at each moment", flush=True)
    environment = {"BACKREST_CRASH_SAMPLES": str(samples), "BACKREST_CRASH_SEED": str(seed)}
    with tempfile.TemporaryDirectory(prefix="crash-replays-") as directory:
        tests = ["tests/test_store_crash.py", "-k", "power_cut", "--basetemp", f"{directory}/tests"]
        run = [sys.executable, "-m", "pytest", "-q", "-s", "--timeout", "0", *tests]
        done = subprocess.run(run, cwd=ROOT, env=os.environ | environment, check=False)
    return 1 if done.returncode else 0


def _split(kills: int, each: int) -> list[tuple[int, int]]:
    """(number, kills) of each directory."""
    return [(at // each, min(each, kills - at)) for at in range(0, kills, each)]


def _lives(
    kind: str, life: Life, which: list[tuple[int, int]], seed: int, again: str, *, first: bool = False
) -> int:
    """Run them one after the other, or until the ``first`` that fails; how many failed. ``again``: the command that
    runs them all again."""
    started, acknowledged, failed, done = time.monotonic(), 0, 0, 0
    for number, kills in which:
        entry.hold_stops()
        directory = new_directory(f"crash-{kind}-{number}-", sockets=kind == "daemons")
        try:
            entry.take_stops()
            acknowledged += life(directory, f"{seed}/{kind}/{number}", kills)
        except Exception as error:
            failed += 1
            print(
                f"{kind}/{number}: {error if isinstance(error, KNOWN) else repr(error)}\n"
                f"  what is left: {directory}\n  again: {again} --only {kind}/{number}",
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
    taken = time.monotonic() - started
    print(
        f"{kind}: {done} kills, {acknowledged} acknowledgements kept, {failed} failed, {taken:.0f} s",
        flush=True,
    )
    return failed


if __name__ == "__main__":
    entry.run(main)

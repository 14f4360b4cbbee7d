"""``scripts/load``: a hub under load, what is left of it, and exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import time
from typing import Any

import trio
from benchmarks.model import FailedError
from shared import entry
from shared.daemons import new_directory
from shared.options import code_of, count, seconds

from backrest.errors import BackrestError
from loads.scene import WrongError
from loads.world import Options, World


def arguments(given: list[str] | None) -> tuple[Options, bool]:
    """Of the run, and whether its figures are wanted. Exits with 2 and a sentence when they cannot be meant."""
    parser = argparse.ArgumentParser(
        prog="scripts/load", description="A hub under load: does everything arrive, and is nothing left over?"
    )
    add = parser.add_argument
    add(
        "--clients",
        type=count(1),
        default=32,
        metavar="N",
        help="light clients (32): of each eight two are steady, two storm, and one each is idle, slow, half-open "
        "and garbage; the first six are one of each",
    )
    add(
        "--seconds",
        type=seconds,
        default=10.0,
        metavar="S",
        help="of a round, without what comes after it (10)",
    )
    add("--seed", type=int, metavar="K", help="as an earlier run printed it")
    add(
        "--rounds",
        type=count(1),
        default=2,
        metavar="N",
        help="of as much load (2); one more comes when the hub was killed and started again",
    )
    add(
        "--cuts",
        type=count(0),
        default=2,
        metavar="N",
        help="connections that the network cuts in a round, if so much passes (2)",
    )
    add(
        "--patience",
        type=seconds,
        default=120.0,
        metavar="S",
        help="seconds that everything may take to arrive, or end (120)",
    )
    add("--hub-code", type=code_of, metavar="FILE", help="Python that the hub runs before it serves")
    add("--json", action="store_true", help="figures on stdout")
    args = parser.parse_args(given)
    options = Options(
        clients=args.clients,
        seconds=args.seconds,
        seed=random.SystemRandom().randrange(10**6) if args.seed is None else args.seed,
        rounds=args.rounds,
        cuts=args.cuts,
        patience=args.patience,
        hub_code=args.hub_code[1] if args.hub_code else "",
    )
    return options, args.json


def main(given: list[str] | None = None) -> int:
    options, as_json = arguments(given)
    began = time.monotonic()
    _say(
        f"seed {options.seed}: {options.clients} light clients, {options.rounds} rounds of {options.seconds:g} s"
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # all light clients are in this process
    rounds, wrong = _played(options)
    for sentence in wrong:
        _say(f"WRONG: {sentence}")
    if wrong:
        _say(f"the same again: --seed {options.seed}")
    else:
        _say(f"everything has arrived, and nothing is left over ({time.monotonic() - began:.0f} s)")
    if as_json:
        told = {name: getattr(options, name) for name in ("clients", "seconds", "rounds", "cuts", "patience")}
        print(json.dumps({"seed": options.seed, "options": told, "rounds": rounds, "wrong": wrong}, indent=1))
    return 1 if wrong else 0


def _played(options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures of each round that was played, and what is wrong."""
    wrong: list[str] = []
    entry.hold_stops()
    directory = new_directory("backrest-load.")
    try:
        entry.take_stops()
        world = World(options, directory, _say)
        try:
            trio.run(world.run)
        except* (WrongError, FailedError, BackrestError, OSError) as group:
            wrong += _sentences(group)
        return world.result.rounds, [*world.result.wrong, *wrong]
    finally:
        shutil.rmtree(directory)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sentences(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [sentence for one in error.exceptions for sentence in _sentences(one)]
    return [str(error) or repr(error)]


if __name__ == "__main__":
    entry.run(main)

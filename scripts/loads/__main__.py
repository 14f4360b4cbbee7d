"""``scripts/load``: a hub under load, what is left of it, and exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import time
from dataclasses import asdict
from typing import Any

import trio
from benchmarks.model import FailedError
from shared import entry
from shared.daemons import new_directory
from shared.options import code_of, count, seconds

from backrest.errors import BackrestError
from loads.attacks import KINDS
from loads.scene import WrongError
from loads.siege import Siege
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
    add(
        "--attacks",
        type=count(1),
        metavar="N",
        help="instead: each kind of attack by N attackers, from one address and from many, directly and behind Caddy, "
        "for --seconds; what a live client's round trip and the hub's memory are meanwhile",
    )
    add("--attack", action="append", choices=sorted(KINDS), help="this kind alone; may be repeated")
    add("--way", action="append", choices=("direct", "caddy"), help="this way alone")
    add("--hub-code", type=code_of, metavar="FILE", help="Python that the hub runs before it serves")
    add("--json", action="store_true", help="figures on stdout")
    args = parser.parse_args(given)
    if (args.attack or args.way) and args.attacks is None:
        parser.error("--attack and --way go with --attacks")
    options = Options(
        clients=args.clients,
        seconds=args.seconds,
        seed=random.SystemRandom().randrange(10**6) if args.seed is None else args.seed,
        rounds=args.rounds,
        cuts=args.cuts,
        patience=args.patience,
        hub_code=args.hub_code[1] if args.hub_code else "",
        attacks=args.attacks or 0,
        kinds=tuple(args.attack or KINDS),
        ways=tuple(args.way or ("direct", "caddy")),
    )
    return options, args.json


def main(given: list[str] | None = None) -> int:
    options, as_json = arguments(given)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # all light clients are in this process
    if options.attacks:
        return _besieged(options, as_json)
    began = time.monotonic()
    _say(
        f"seed {options.seed}: {options.clients} light clients, {options.rounds} rounds of {options.seconds:g} s"
    )
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


def _besieged(options: Options, as_json: bool) -> int:
    _say(f"seed {options.seed}: {options.attacks} attackers of each kind for {options.seconds:g} s")
    wrong: list[str] = []
    entry.hold_stops()
    directory = new_directory("backrest-load.")
    siege = Siege(
        directory, options.attacks, options.seconds, options.seed, options.patience, _say, options.hub_code
    )
    try:
        entry.take_stops()
        siege.run(options.kinds, options.ways)
    except (FailedError, BackrestError, OSError) as error:
        wrong.append(str(error))
    finally:
        shutil.rmtree(directory)
    wrong = [*(sentence for row in siege.rows for sentence in row.wrong), *wrong]
    for sentence in wrong:
        _say(f"WRONG: {sentence}")
    if not wrong:
        _say("the live client was served, and the hub stayed within its memory")
    if as_json:
        rows = [asdict(row) for row in siege.rows]
        told = {"attacks": options.attacks, "seconds": options.seconds}
        print(json.dumps({"seed": options.seed, "options": told, "rows": rows, "wrong": wrong}, indent=1))
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

"""``scripts/load``: a hub under load, what is left of it, and exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import trio

from backrest.errors import BackrestError
from loads.scene import WrongError
from loads.world import Options, World


def arguments(given: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/load", description="A hub under load: does everything arrive, and is nothing left over?"
    )
    parser.add_argument("--clients", type=int, default=32, help="light clients, in turn of each role (32)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of a round, without what comes after it (10)"
    )
    parser.add_argument("--seed", type=int, default=None, help="as an earlier run printed it")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of the same load (2); the last two are compared"
    )
    parser.add_argument(
        "--cuts", type=int, default=2, help="connections that the network cuts in a round (2)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=120.0,
        help="seconds that everything may take to arrive, or end (120)",
    )
    parser.add_argument(
        "--hub-code", default="", metavar="FILE", help="Python that the hub runs before it serves"
    )
    parser.add_argument("--json", action="store_true", help="figures on stdout")
    args = parser.parse_args(given)
    if args.clients < 1 or args.seconds <= 0 or args.cuts < 0 or args.rounds < 2 or args.patience <= 0:
        parser.error(
            "--clients, --seconds and --patience must be positive, and there are at least two rounds"
        )
    return Options(
        clients=args.clients,
        seconds=args.seconds,
        seed=random.SystemRandom().randrange(10**6) if args.seed is None else args.seed,
        rounds=args.rounds,
        cuts=args.cuts,
        patience=args.patience,
        hub_code=Path(args.hub_code).read_text() if args.hub_code else "",
        as_json=args.json,
    )


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    began = time.monotonic()
    _say(
        f"seed {options.seed}: {options.clients} light clients, {options.rounds} rounds of {options.seconds:g} s"
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # all light clients are in this process
    rounds, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="backrest-load.") as name:
        world = World(options, Path(name), _say)
        try:
            trio.run(world.run)
        except* (WrongError, BackrestError, OSError) as group:
            wrong += _sentences(group)
        rounds, wrong = world.result.rounds, [*world.result.wrong, *wrong]
    for sentence in wrong:
        _say(f"WRONG: {sentence}")
    if wrong:
        _say(f"the same again: --seed {options.seed}")
    else:
        _say(f"everything has arrived, and nothing is left over ({time.monotonic() - began:.0f} s)")
    if options.as_json:
        figures = {"seed": options.seed, "clients": options.clients, "rounds": rounds, "wrong": wrong}
        print(json.dumps(figures, indent=1))
    return 1 if wrong else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sentences(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [sentence for one in error.exceptions for sentence in _sentences(one)]
    return [str(error) or repr(error)]


if __name__ == "__main__":
    sys.exit(main())

"""``scripts/load``: a hub under load, what is left of it, and exit code 1 when anything is wrong."""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import time
from pathlib import Path

import trio
from harness import STOPPED, STOPS, hold_stops, new_directory, stop_in_order, take_stops

from backrest.errors import BackrestError
from loads.scene import WrongError
from loads.world import Options, World

GRACE_S = 0.2  # between a daemon that was stopped and the news that all are


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
        "--rounds",
        type=int,
        default=2,
        help="of the same load (2); one more comes when the hub was killed and started again",
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
    if args.clients < 1 or args.seconds <= 0 or args.cuts < 0 or args.rounds < 1 or args.patience <= 0:
        parser.error(
            "--clients, --seconds, --rounds and --patience must be positive, and --cuts not negative"
        )
    try:
        hub_code = Path(args.hub_code).read_text() if args.hub_code else ""
    except OSError as error:
        parser.error(f"--hub-code: {error}")
    return Options(
        clients=args.clients,
        seconds=args.seconds,
        seed=random.SystemRandom().randrange(10**6) if args.seed is None else args.seed,
        rounds=args.rounds,
        cuts=args.cuts,
        patience=args.patience,
        hub_code=hub_code,
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
    stop_in_order()
    hold_stops()
    directory = new_directory("backrest-load.")
    rounds, wrong = [], []
    stopped = False
    try:
        take_stops()
        world = World(options, directory, _say)
        try:
            stopped = trio.run(_unless_stopped, world)
        except* (WrongError, BackrestError, OSError) as group:
            wrong += _sentences(group)
        rounds, wrong = world.result.rounds, [*world.result.wrong, *wrong]
    except KeyboardInterrupt:
        stopped = True
    finally:
        shutil.rmtree(directory)
    if stopped:
        _say(f"stopped; the same again: --seed {options.seed}")
        return STOPPED
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


async def _unless_stopped(world: World) -> bool:
    """Play it all; True: somebody stopped it, and the daemons have ended."""
    stopped = False
    with trio.open_signal_receiver(*STOPS) as signals:

        async def listen() -> None:
            nonlocal stopped
            async for _ in signals:
                stopped = True
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await world.run()
                nursery.cancel_scope.cancel()
        except Exception:
            # Ctrl-C reaches the daemons as well, and what they end with, which may come before the signal, is no news.
            with trio.move_on_after(GRACE_S):
                stopped = stopped or await anext(signals) in STOPS
            if not stopped:
                raise
    return stopped


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sentences(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [sentence for one in error.exceptions for sentence in _sentences(one)]
    return [str(error) or repr(error)]


if __name__ == "__main__":
    sys.exit(main())

"""The command: which rows, how often, beside whom; a table for people on stderr, JSON for programs on stdout.

Exit code 0 when all was measured, 1 when a row failed (the others are measured and printed), 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared import entry
from shared.options import count, seconds

from backrest import __version__
from benchmarks import goals
from benchmarks.hubs import target_of
from benchmarks.measuring import measured
from benchmarks.model import Options, Other
from benchmarks.rows import ROWS
from benchmarks.table import Table

CHECKOUT = Path(__file__).parents[2]
_count = count(1)


def _counts(text: str) -> list[int]:
    return [_count(one) for one in text.split(",")]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the speed of Backrest.")
    add = parser.add_argument
    add("--only", action="append", choices=list(ROWS), help="this row; may be repeated")
    add("--size", type=_count, help="operations, clients, changes or runs, as the row counts; needs --only")
    add(
        "--sizes",
        type=_counts,
        help="several (1000,10000,100000): one should cost the same at each; needs --only",
    )
    add("--goals", action="store_true", help="each row at the sizes of its goals, and whether they are met")
    add("--repeat", type=_count, default=3, help="measure each row so often (default: 3)")
    add("--clients", type=_count, default=goals.CLIENTS, help="connected during the row live (default: 100)")
    add("--seconds", type=seconds, default=10.0, help="the row idle watches so long (default: 10)")
    add(
        "--patience",
        type=seconds,
        default=60.0,
        help="one measurement may take so long, and more by its size (60)",
    )
    add(
        "--against",
        default="",
        metavar="URL",
        help="by turns with ours, measure this hub, of whatever program",
    )
    add("--token", default="", help="a token of that hub with a use for each light client")
    add("--against-pid", type=_count, default=0, metavar="PID", help="its process, for its CPU and memory")
    add(
        "--against-command",
        default="",
        metavar="CMD",
        help="instead: starts a fresh one for each measurement",
    )
    add("--json", action="store_true", help="the figures as one JSON document on stdout")
    return parser


def arguments(given: list[str] | None) -> tuple[argparse.Namespace, Other | None]:
    """What is to be done, and the other hub. Exits with 2 and a sentence when that cannot be."""
    command = parser()
    args = command.parse_args(given)
    if (args.size or args.sizes) and not args.only:
        command.error("--size and --sizes need --only: each row counts something else")
    if args.size and args.sizes:
        command.error("--size or --sizes, not both")
    args.sizes = args.sizes or ([args.size] if args.size else [])
    if args.goals and (args.sizes or args.against or args.against_command or args.clients != goals.CLIENTS):
        command.error("--goals brings its own sizes and clients, and is about our program")
    other = None
    try:
        other = _other(args)
    except ValueError as error:
        command.error(str(error))
    if args.only is None:
        args.only = [name for name, row in ROWS.items() if other is None or row.beside(other)]
    for name in args.only:
        if other is not None and not ROWS[name].beside(other):
            needed = "give --against-pid" if ROWS[name].elsewhere else "leave --against out"
            command.error(f"the row {name} cannot be measured of that hub: {needed}")
    return args, other


def _other(args: argparse.Namespace) -> Other | None:
    """ValueError says what does not fit together or cannot be right."""
    if args.against_command:
        if args.against or args.token or args.against_pid:
            raise ValueError("--against-command tells the URL, the token and the process itself")
        program = shlex.split(args.against_command)[:1]
        if not program or shutil.which(program[0]) is None:
            raise ValueError(f"there is no command {args.against_command!r}")
        return Other(command=args.against_command)
    if bool(args.against) != bool(args.token):
        raise ValueError("--against and --token go together")
    if not args.against:
        if args.against_pid:
            raise ValueError("--against-pid is of the hub that --against names")
        return None
    other = Other(args.against, args.token, args.against_pid)
    target_of(other)
    return other


def judge(result: dict[str, Any]) -> None:
    """Add which goals the medians meet."""
    row, size = result["row"], result["size"]
    met = {figure: goals.is_met(row, figure, size, of["median"]) for figure, of in result["figures"].items()}
    result["goals_met"] = {figure: is_met for figure, is_met in met.items() if is_met is not None}


@contextmanager
def _many_files() -> Iterator[None]:
    """A thousand clients are a thousand sockets, here and in the hub that is started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _about(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on, as it is before anything is measured."""
    return {
        "version": __version__,
        "commit": _commit(),
        "against": args.against or args.against_command,
        "repeat": args.repeat,
        "clients": args.clients,
        "seconds": args.seconds,
        "goals": [asdict(goal) for goal in goals.GOALS],
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }


def _commit() -> str | None:
    """With a + behind it when files differ from it; None where this is no git checkout."""
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def main(given: list[str] | None = None) -> int:
    args, other = arguments(given)
    about = _about(args)
    results: list[dict[str, Any]] = []
    try:
        with _many_files():
            _measure(args, other, results)
    finally:  # also of what was interrupted
        if args.json:
            print(json.dumps({**about, "rows": results}), flush=True)
    return 1 if any("error" in result for result in results) else 0


def _measure(args: argparse.Namespace, other: Other | None, results: list[dict[str, Any]]) -> None:
    table = Table(other is not None)
    for name in args.only:
        row = ROWS[name]
        of_row = []
        for size in args.sizes or (row.at_goals if args.goals else [row.size]):
            options = Options(size, clients=args.clients, seconds=args.seconds, patience_s=args.patience)
            of_row.append(measured(name, options, args.repeat, other))
            if args.goals:
                judge(of_row[-1])
            results.append(of_row[-1])
            table.add(of_row[-1])
        table.compare(name, of_row)


if __name__ == "__main__":
    entry.run(main)

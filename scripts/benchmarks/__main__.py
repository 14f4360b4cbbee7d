"""The command: which rows, how often, beside whom; a table for people on stderr, JSON for programs on stdout."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.model import Figures, Options, Other
from benchmarks.rows import ROWS

# What is to be reached (DESIGN of the project, "Speed"); for the reader of the table, nothing fails by it.
GOALS = {
    ("first-sync", "from_start_s"): "100,000 in 4 s",
    ("first-sync", "from_connection_s"): "8,000 in 0.35 s",
    ("first-sync", "each_us"): "40",
    ("first-sync", "hub_peak_mib"): "300 at 100,000",
    ("first-sync", "client_peak_mib"): "300 at 100,000",
    ("reconnect", "wall_s"): "100,000 in 0.3 s",
    ("reconnect", "each_us"): "3",
    ("live", "p99_ms"): "50",
    ("idle", "cpu_percent"): "0",
    ("idle", "each_kib"): "100",
    ("storm", "wall_s"): "1,000 in 5 s",
    ("storm", "each_hub_cpu_ms"): "3",
    ("open-log", "wall_s"): "1,000,000 in 5 s",
    ("open-log", "peak_mib"): "400 at 1,000,000",
    ("verify", "peak_mib"): "300 at 1,000,000",
    ("repair", "peak_mib"): "300 at 1,000,000",
    ("compact", "peak_mib"): "300 at 1,000,000",
    ("help", "median_ms"): "150",
}


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the speed of Backrest.")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row; may be repeated")
    parser.add_argument("--size", type=int, help="operations, clients, changes or runs, as the row counts")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        help="several, such as 1000,10000,100000: the cost of one thing should be the same at each",
    )
    parser.add_argument("--repeat", type=int, default=3, help="measure each row so often (default: 3)")
    parser.add_argument(
        "--clients", type=int, default=100, help="connected during the row live (default: 100)"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="the row idle watches so long (default: 10)"
    )
    parser.add_argument(
        "--against",
        default="",
        metavar="URL",
        help="by turns with ours, measure this hub, of whatever program",
    )
    parser.add_argument("--token", default="", help="a token of that hub with a use for each light client")
    parser.add_argument("--against-pid", type=int, default=0, help="its process, for its memory and CPU")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON document on stdout")
    args = parser.parse_args(given)
    if bool(args.against) != bool(args.token):
        parser.error("--against and --token go together")
    if args.size is not None and args.sizes is not None:
        parser.error("--size or --sizes, not both")
    args.sizes = args.sizes or ([] if args.size is None else [args.size])
    if args.repeat < 1 or any(size < 1 for size in args.sizes) or args.clients < 1 or args.seconds <= 0:
        parser.error("--size, --repeat, --clients and --seconds must be positive")
    if args.only is None:
        args.only = [name for name, row in ROWS.items() if not args.against or row.beside(args.against_pid)]
    for name in args.only:
        if args.against and not ROWS[name].beside(args.against_pid):
            needed = "give --against-pid" if ROWS[name].elsewhere else "leave --against out"
            parser.error(f"the row {name} cannot be measured of that hub: {needed}")
    return args


class Table:
    """On stderr, a line for each figure as soon as it is known."""

    def __init__(self, compared: bool) -> None:
        self._compared = compared
        more = f" {'theirs':>10} {'min':>10} {'max':>10} {'theirs/ours':>12}" if compared else ""
        self._say(
            f"{'row':<11} {'size':>9}  {'figure':<21} {'median':>10} {'min':>10} {'max':>10}{more}  goal"
        )

    def add(self, result: dict[str, Any]) -> None:
        for figure, of in result["figures"].items():
            line = f"{result['row']:<11} {result['size']:>9,}  {figure:<21}{_columns(of)}"
            if self._compared:
                theirs = result["against"].get(figure)
                ratio = result["ratios"].get(figure)
                line += f"{_columns(theirs)}{'' if ratio is None else f'{ratio:.2f}':>13}"
            self._say(f"{line}  {GOALS.get((result['row'], figure), '')}".rstrip())

    def compare(self, row: str, results: Sequence[dict[str, Any]]) -> None:
        """What one operation or client cost at each size: where growth with the square would show."""
        sizes = " ".join(f"{result['size']:,}" for result in results)
        for whose in ("figures", "against") if self._compared else ("figures",):
            for figure in results[0][whose]:
                if figure.startswith("each_"):
                    costs = " ".join(f"{result[whose][figure]['median']:.3f}" for result in results)
                    theirs = " of theirs" if whose == "against" else ""
                    self._say(f"{row:<11} {figure}{theirs} at {sizes}: {costs}")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr)


def _columns(of: dict[str, Any] | None) -> str:
    if of is None:
        return " " * 33
    return f" {of['median']:>10.3f} {of['min']:>10.3f} {of['max']:>10.3f}"


def summary(samples: Sequence[Figures]) -> dict[str, Any]:
    """Of each figure the median, the least and the most, and all of them."""
    figures = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        figures[name] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "all": values,
        }
    return figures


def measured(name: str, options: Options, repeat: int, other: Other | None) -> dict[str, Any]:
    """One row at one size. Beside another hub: by turns, so that both meet the same moments of this machine."""
    row = ROWS[name]
    ours: list[Figures] = []
    theirs: list[Figures] = []
    for _ in range(repeat):
        ours.append(row.measure(replace(options, light=other is not None)))
        if other is not None:
            theirs.append(row.measure(replace(options, light=True, other=other)))
    result = {"row": name, "size": options.size, "counts": row.what, "figures": summary(ours)}
    if other is not None:
        result["against"] = summary(theirs)
        result["ratios"] = {
            figure: of["median"] / result["figures"][figure]["median"]
            for figure, of in result["against"].items()
            if result["figures"][figure]["median"]
        }
    return result


@contextmanager
def _many_files() -> Iterator[None]:
    """A thousand clients are a thousand sockets, here and in the hub that is started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    other = Other(args.against, args.token, args.against_pid) if args.against else None
    table, results = Table(other is not None), []
    with _many_files():
        for name in args.only:
            of_row = []
            for size in args.sizes or [ROWS[name].size]:
                options = Options(size=size, clients=args.clients, seconds=args.seconds)
                of_row.append(measured(name, options, args.repeat, other))
                table.add(of_row[-1])
            if len(of_row) > 1:
                table.compare(name, of_row)
            results += of_row
    if args.json:
        machine = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        print(
            json.dumps({"against": args.against, "repeat": args.repeat, "machine": machine, "rows": results})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

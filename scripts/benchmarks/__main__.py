"""The command: which rows, how often; a table for people on stderr, JSON for programs on stdout."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from typing import Any

from benchmarks.rows import ROWS, Figures, Options

# What is to be reached (DESIGN of the project, "Speed"); for the reader of the table, nothing fails by it.
GOALS = {
    ("first-sync", "from_start_s"): "100,000 in 4 s",
    ("first-sync", "each_us"): "40",
    ("first-sync", "hub_peak_mib"): "300 at 100,000",
    ("first-sync", "client_peak_mib"): "300 at 100,000",
    ("reconnect", "each_us"): "3",
    ("live", "p99_ms"): "50",
    ("idle", "cpu_percent"): "0",
    ("idle", "each_kib"): "100",
    ("storm", "wall_s"): "1,000 in 5 s",
    ("storm", "each_hub_cpu_ms"): "3",
    ("open-log", "wall_s"): "1,000,000 in 5 s",
    ("open-log", "peak_mib"): "400 at 1,000,000",
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
    parser.add_argument("--hub", default="", metavar="URL", help="measure this hub, of whatever program")
    parser.add_argument("--token", default="", help="a token of that hub with a use for each light client")
    parser.add_argument("--hub-pid", type=int, default=0, help="its process, for its memory and CPU")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON document on stdout")
    args = parser.parse_args(given)
    if bool(args.hub) != bool(args.token):
        parser.error("--hub and --token go together")
    if args.size is not None and args.sizes is not None:
        parser.error("--size or --sizes, not both")
    args.sizes = args.sizes or ([] if args.size is None else [args.size])
    if args.repeat < 1 or any(size < 1 for size in args.sizes) or args.clients < 1 or args.seconds <= 0:
        parser.error("--size, --repeat, --clients and --seconds must be positive")
    if args.only is None:
        args.only = [name for name, row in ROWS.items() if row.elsewhere or not args.hub]
    for name in args.only:
        if args.hub and not ROWS[name].elsewhere:
            parser.error(f"the row {name} measures only what is installed here: leave --hub out")
    return args


def summary(samples: list[Figures]) -> dict[str, Any]:
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


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    soft, hard = resource.getrlimit(
        resource.RLIMIT_NOFILE
    )  # a thousand clients are a thousand sockets, here and there
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = []
    try:
        print(
            f"{'row':<11} {'size':>9}  {'figure':<21} {'median':>10} {'min':>10} {'max':>10}  goal",
            file=sys.stderr,
        )
        for name in args.only:
            row = ROWS[name]
            grown: dict[str, list[float]] = {}
            for size in args.sizes or [row.size]:
                options = Options(
                    size=size,
                    clients=args.clients,
                    seconds=args.seconds,
                    hub=args.hub,
                    token=args.token,
                    hub_pid=args.hub_pid,
                )
                figures = summary([row.measure(options) for _ in range(args.repeat)])
                results.append({"row": name, "size": size, "counts": row.what, "figures": figures})
                for figure, of in figures.items():
                    if figure.startswith("each_"):
                        grown.setdefault(figure, []).append(of["median"])
                    goal = GOALS.get((name, figure), "")
                    print(
                        f"{name:<11} {size:>9,}  {figure:<21} {of['median']:>10.3f} {of['min']:>10.3f} "
                        f"{of['max']:>10.3f}  {goal}".rstrip(),
                        file=sys.stderr,
                    )
            if len(args.sizes) > 1:
                sizes = " ".join(f"{size:,}" for size in args.sizes)
                for figure, medians in grown.items():
                    costs = " ".join(f"{median:.3f}" for median in medians)
                    print(f"{name:<11} {figure} at {sizes}: {costs}", file=sys.stderr)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if args.json:
        machine = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        target = args.hub or "this"
        print(json.dumps({"hub": target, "repeat": args.repeat, "machine": machine, "rows": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

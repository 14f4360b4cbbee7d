"""The figures for people, on stderr: a line for each as soon as it is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.goals import goal_of

Result = dict[str, Any]


class Table:
    def __init__(self, compared: bool) -> None:
        self._compared = compared
        more = ""
        if compared:
            more = f" {'theirs':>10} {'min':>10} {'max':>10} {'theirs/ours':>12} {'least':>7} {'most':>7}"
        self._say(
            f"{'row':<11} {'size':>9}  {'figure':<21} {'median':>10} {'min':>10} {'max':>10}{more}  goal"
        )

    def add(self, result: Result) -> None:
        row, size = result["row"], result["size"]
        for figure, of in result["figures"].items():
            line = f"{row:<11} {size:>9,}  {figure:<21}{_columns(of)}"
            if self._compared:
                line += _columns(result["against"].get(figure)) + _ratio(result["ratios"].get(figure))
            self._say(f"{line}  {_goal(result, figure)}".rstrip())
        if "error" in result:
            self._say(f"{row:<11} {size:>9,}  FAILED: {result['error']}")

    def compare(self, row: str, results: Sequence[Result]) -> None:
        """What one operation or client cost at each size: where growth with the square would show."""
        for whose in ("figures", "against") if self._compared else ("figures",):
            for figure in dict.fromkeys(name for result in results for name in result[whose]):
                with_it = [result for result in results if figure in result[whose]]
                if figure.startswith(("each_", "log_alone_each_")) and len(with_it) > 1:
                    sizes = " ".join(f"{result['size']:,}" for result in with_it)
                    costs = " ".join(f"{result[whose][figure]['median']:.3f}" for result in with_it)
                    theirs = " of theirs" if whose == "against" else ""
                    self._say(f"{row:<11} {figure}{theirs} at {sizes}: {costs}")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _goal(result: Result, figure: str) -> str:
    goal = goal_of(result["row"], figure, result["size"])
    if goal is None:
        return ""
    if figure in result.get("goals_met", ()):
        return f"{goal.most:g} {'met' if result['goals_met'][figure] else 'MISSED'}"
    return f"{goal.most:g} at {goal.size:,}"


def _columns(of: dict[str, Any] | None) -> str:
    if of is None:
        return " " * 33
    return f" {of['median']:>10.3f} {of['min']:>10.3f} {of['max']:>10.3f}"


def _ratio(of: dict[str, Any] | None) -> str:
    if of is None:
        return " " * 29
    return f" {of['median']:>12.2f} {of['min']:>7.2f} {of['max']:>7.2f}"

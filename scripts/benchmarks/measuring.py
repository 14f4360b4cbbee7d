"""One row at one size, several times: medians, ratios, deadlines, and failures as sentences."""

from __future__ import annotations

import errno
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.entry import OverdueError, within

from backrest.errors import BackrestError
from benchmarks.model import FailedError, Figures, Options, Other, Row
from benchmarks.rows import ROWS

LEAST_CPU_S = (
    0.2  # it is counted in steps of 10 ms: below this a ratio says more of the steps than of the hubs
)
_MEMORY = ("_kib", "_mib")


def measured(name: str, options: Options, repeat: int, other: Other | None) -> dict[str, Any]:
    """The row's figures so far as it came; what kept it from the rest is in "error"."""
    row = ROWS[name]
    options = replace(options, patience_s=patience(row, options))
    ours: list[Figures] = []
    theirs: list[Figures] = []
    result: dict[str, Any] = {"row": name, "size": options.size, "counts": row.what}
    try:
        for turn in range(repeat):
            sides = [(ours, options)]
            if other is not None:
                beside = replace(options, compared=True, other=other)
                # By turns, so that both meet the same moments of this machine, and each goes first as often. Theirs
                # begins: what is wrong with it is said before time is spent on ours.
                sides = [(theirs, beside), (ours, replace(options, compared=True))][:: -1 if turn % 2 else 1]
            for samples, how in sides:
                with within(options.patience_s):
                    samples.append(row.measure(how))
    except Exception as error:
        why = sentence(error)
        if why is None:
            raise
        whose = "" if other is None else ("theirs: " if how.other else "ours: ")
        result["error"] = whose + why
    result["figures"] = summary(ours)
    if other is not None:
        result["against"] = summary(theirs)
        result["ratios"] = ratios(ours, theirs, fresh=bool(other.command))
    return result


def patience(row: Row, options: Options) -> float:
    """Seconds that one measurement may take: ten times and more of what it takes on a slow machine."""
    return options.patience_s + row.each_s * options.size + options.seconds + 0.1 * options.clients


def summary(samples: Sequence[Figures]) -> dict[str, Any]:
    """Of each figure the median, the least and the most, and all of them."""
    return {name: _spread([sample[name] for sample in samples]) for name in (samples[0] if samples else ())}


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": values}


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures], fresh: bool) -> dict[str, Any]:
    """theirs/ours of each turn, where they can be compared. ``fresh``: theirs was new each time, as ours."""
    pairs = list(zip(ours, theirs, strict=False))  # the last turn may be half done
    found = {}
    for name in theirs[0] if pairs else ():
        enough = all(min(a.get("hub_cpu_s", 0), b.get("hub_cpu_s", 0)) >= LEAST_CPU_S for a, b in pairs)
        if "client" in name or name == "retries" or not all(a[name] for a, _ in pairs):
            continue  # of the benchmark itself, a count, nothing to divide by
        if (name.endswith(_MEMORY) and not fresh) or ("cpu" in name and not enough):
            continue
        found[name] = _spread([b[name] / a[name] for a, b in pairs])
    return found


def sentence(error: BaseException) -> str | None:
    """What a person is told of a failure; None for what is a mistake in this program, or no failure."""
    if isinstance(error, BaseExceptionGroup):
        causes = [sentence(one) for one in error.exceptions]
        return None if None in causes else causes[0]
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or "").strip().splitlines() or [
            f"it ended with {error.returncode} and without a word"
        ]
        return f"a process that is measured failed: {said[-1]}"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return (
            "there are too many open files: each client takes one here and one in the hub; raise 'ulimit -Hn'"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, BackrestError | OSError | OverdueError | FailedError):
        return str(error) or repr(error)
    return None

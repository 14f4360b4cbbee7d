"""``scripts/mutants``: exit code 0 when the unmutated program passes and every mutant is caught, 1 otherwise, 2 when
it could not run."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from shared import entry

from mutation.catalogue import MUTANTS
from mutation.model import PACKAGE, Mutant, Stale
from mutation.trial import PATIENCE_S, Trial, Verdict, stop_all


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. ``weak``: noticed, but not by a case that says what is wrong."""

    id: str
    role: str
    says: str
    outcome: str
    by: tuple[str, ...]
    weak: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.outcome in ("caught", "passes")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.only or any(fnmatchcase(m.id, p) for p in options.only)]
    if not chosen:
        print(f"mutants: there is none like {' '.join(options.only)}", file=sys.stderr)
        return 2
    if options.list:
        for mutant in chosen:
            print(f"{mutant.id:28} {mutant.role:7} {mutant.file:24} {mutant.says}")
        return 0
    stale = [text for mutant in chosen if (text := _stale(mutant))]
    for text in stale:
        print(f"mutants: {text}", file=sys.stderr)
    if stale:
        return 1
    with tempfile.TemporaryDirectory(prefix="backrest-mutants-", ignore_cleanup_errors=True) as directory:
        try:
            rows = _table(chosen, Path(directory), options)
        except BaseException:
            stop_all()
            raise
    survivors = [row.id for row in rows if not row.good]
    weak = sum(bool(row.weak) for row in rows)
    caught = sum(row.outcome == "caught" for row in rows)
    print(
        f"{caught} of {len(chosen)} mutants caught, {caught - weak} of them by a named case"
        + (f"; NOT AS IT SHOULD BE: {', '.join(survivors)}" if survivors else ""),
        file=sys.stderr,
    )
    if options.json:
        names = ("id", "role", "says", "outcome", "by", "weak", "seconds")
        print(json.dumps([{name: getattr(row, name) for name in names} for row in rows], indent=1))
    return 1 if survivors else 0


def _stale(mutant: Mutant) -> str:
    try:
        mutant.mutated()
    except Stale as error:
        return str(error)
    return ""


def _table(chosen: list[Mutant], directory: Path, options: argparse.Namespace) -> list[Row]:
    # One state of the sources for the whole table, whatever is edited meanwhile.
    original = directory / "original"
    shutil.copytree(PACKAGE, original / "backrest")
    shutil.copytree(PACKAGE.parent / "conformance", original / "conformance")
    roles = sorted({mutant.role for mutant in chosen})
    rows: list[Row] = []
    pool = ThreadPoolExecutor(options.jobs)
    try:
        controls = (
            [] if options.no_control else [pool.submit(_control, r, original, directory) for r in roles]
        )
        trials = [pool.submit(_try, mutant, original, directory, options) for mutant in chosen]
        for trial in (*controls, *trials):
            row = trial.result()
            rows.append(row)
            _show(row)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return rows


def _show(row: Row) -> None:
    by = row.weak or ", ".join(row.by)
    mark = "" if row.good else "  <-- "
    print(
        f"{row.id:28} {row.role:7} {row.outcome:9} {row.seconds:4.0f} s  {by:38} {row.says}{mark}",
        file=sys.stderr,
        flush=True,
    )


def _control(role: str, original: Path, work: Path) -> Row:
    """The program as it is must pass: else what catches a mutant says nothing."""
    started = time.monotonic()
    verdict = Trial(role, original, original, work).run()
    outcome = "passes" if verdict.good else "FAILS"
    seconds = time.monotonic() - started
    return Row(
        f"control-{role}", role, "nothing is changed", outcome, verdict.failed, verdict.trouble, seconds
    )


def _try(mutant: Mutant, original: Path, work: Path, options: argparse.Namespace) -> Row:
    started = time.monotonic()
    package = Path(tempfile.mkdtemp(dir=work))
    try:
        mutant.plant(original / "backrest", package / "backrest")
        verdict = _judge(mutant, package, original, work, options)
    except Stale as error:  # edited between the check and the copy
        verdict = Verdict(trouble=str(error))
        return Row(mutant.id, mutant.role, mutant.says, "STALE", (), str(error), 0)
    finally:
        shutil.rmtree(package, ignore_errors=True)
    outcome = "SURVIVES" if verdict.good else "caught"
    seconds = time.monotonic() - started
    weak = "" if verdict.failed else verdict.trouble
    return Row(mutant.id, mutant.role, mutant.says, outcome, verdict.failed, weak, seconds)


def _judge(mutant: Mutant, package: Path, original: Path, work: Path, options: argparse.Namespace) -> Verdict:
    """First the cases that should catch it, then all that need no deadline, then all."""
    likely = [word for glob in mutant.likely for word in ("--only", glob)]
    verdict = Verdict()
    for selection in (likely,) if options.quick else (likely, ["--fast"], []):
        verdict = Trial(mutant.role, package, original, work, options.patience).run(*selection)
        if not verdict.good:
            break
    return verdict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/mutants", description="Plants single faults; the conformance suite must find each."
    )
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="these mutants")
    parser.add_argument("--list", action="store_true", help="list the mutants, run none")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="side by side")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, metavar="S", help="the suite's, for the mutants (30)"
    )
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout")
    parser.add_argument(
        "--quick", action="store_true", help="only with the cases that are expected to catch each"
    )
    parser.add_argument(
        "--no-control", action="store_true", help="leave out the run of the unmutated program"
    )
    return parser


if __name__ == "__main__":
    entry.run(main)

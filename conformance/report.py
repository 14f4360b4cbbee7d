"""How results are shown: lines as they come, a summary, JSON, JUnit."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from conformance.model import Case
from conformance.runner import Result

_MARKS = {"passed": "ok", "failed": "FAIL", "skipped": "skip", "known": "known", "surprise": "SURPRISE"}


def line(result: Result) -> None:
    """One result, on stderr: stdout is for --json."""
    if result.outcome == "passed" and not sys.stderr.isatty():
        return  # in a log only what needs eyes
    text = f"{_MARKS[result.outcome]:8} {result.case.id:14} {result.case.sentence}"
    if result.text:
        text += f"\n         {result.text}"
    print(text, file=sys.stderr, flush=True)


def summary(results: Sequence[Result]) -> str:
    counts = Counter(result.outcome for result in results)
    parts = [f"{counts[name]} {name}" for name in _MARKS if counts[name]]
    return f"{len(results)} cases: {', '.join(parts) or 'none'}"


def listing(cases: Sequence[Case]) -> str:
    """--list: a line for each."""
    return "\n".join(
        f"{case.id:14} {case.role.value:7} {'ours' if case.ours else '    '} {'slow' if case.slow else '    '} "
        f"[{case.section}] {case.sentence}"
        for case in cases
    )


def as_json(results: Sequence[Result]) -> str:
    return json.dumps(
        {
            "results": [
                {
                    "id": result.case.id,
                    "role": result.case.role.value,
                    "sentence": result.case.sentence,
                    "section": result.case.section,
                    "ours": result.case.ours,
                    "outcome": result.outcome,
                    "text": result.text,
                    "seconds": round(result.seconds, 3),
                }
                for result in results
            ],
            "summary": dict(Counter(result.outcome for result in results)),
        },
        indent=1,
    )


def write_junit(path: Path, results: Sequence[Result]) -> None:
    failures = sum(not result.good for result in results)
    skipped = sum(result.outcome in ("skipped", "known") for result in results)
    total = sum(result.seconds for result in results)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuite name="conformance" tests="{len(results)}" failures="{failures}" skipped="{skipped}" '
        f'time="{total:.3f}">',
    ]
    for result in results:
        topic, _, _ = result.case.id.partition("/")
        name = quoteattr(f"{result.case.id} {result.case.sentence}")
        head = f'<testcase classname="conformance.{topic}" name={name} time="{result.seconds:.3f}"'
        if not result.good:
            text = _clean(result.text)
            lines.append(f"{head}><failure message={quoteattr(text)}>{escape(text)}</failure></testcase>")
        elif result.outcome != "passed":
            lines.append(f"{head}><skipped message={quoteattr(_clean(result.text))}/></testcase>")
        else:
            lines.append(f"{head}/>")
    lines.append("</testsuite>")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _clean(text: str) -> str:
    """XML cannot hold control characters, not even escaped."""
    return "".join(character if character >= " " or character in "\n\t" else "?" for character in text)

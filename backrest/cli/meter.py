"""How far something is that takes long: a bar on stderr when that is a terminal, else nothing."""

from __future__ import annotations

import sys
from typing import Any

from backrest.cli import output


class Meter:
    """``update`` with what is done and what there is in all, of whatever is counted. Use as a context manager."""

    def __init__(self, what: str) -> None:
        self._what = output.harmless(what)
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%", markup=False),
                TimeRemainingColumn(),
                console=output.console(sys.stderr),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._what, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def event(self, event: dict[str, Any]) -> None:
        """A report of a use case: {"done": n, "total": n}."""
        self.update(event["done"], event["total"])

    def update(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total or None)

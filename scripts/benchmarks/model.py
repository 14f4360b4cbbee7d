"""What a row is, what it is told, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: by name, which ends in the unit
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Other:
    """A hub of another implementation: ``token`` lets light clients in, ``pid`` is its process if that is known."""

    url: str
    token: str
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """``size`` is the row's own. ``light``: with light clients where there is a choice; so is ``other`` measured."""

    size: int
    clients: int = 100
    seconds: float = 10.0
    light: bool = False
    other: Other | None = None


@dataclass(frozen=True, slots=True)
class Row:
    measure: Callable[[Options], Figures]
    size: int
    what: str  # the size counts
    elsewhere: bool = False  # can be measured of another hub too
    by_process: bool = False  # and only by looking at its process

    def beside(self, pid: int) -> bool:
        """Whether another hub, whose process is ``pid`` or (0) not known, can be measured."""
        return self.elsewhere and (pid != 0 or not self.by_process)

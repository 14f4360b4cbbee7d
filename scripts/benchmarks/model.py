"""What a row is, what it is told, what it gives, and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: by name, which ends in the unit
Figures = dict[str, float]


class FailedError(RuntimeError):
    """Something cannot be measured; the text is a sentence for a person."""


@dataclass(frozen=True, slots=True)
class Other:
    """Another hub: the one at ``url``, or a fresh one for each measurement, which ``command`` starts.

    ``token`` lets light clients in, ``pid`` is its process if that is known. Of a fresh one the command tells these.
    """

    url: str = ""
    token: str = ""
    pid: int = 0
    command: str = ""

    @property
    def process_is_known(self) -> bool:
        return bool(self.pid or self.command)


@dataclass(frozen=True, slots=True)
class Options:
    """``size`` is the row's own. ``compared``: with light clients that pair; so is ``other`` measured, and ours
    beside it.     ``patience_s`` is what one measurement may take.
    """

    size: int
    clients: int = 100
    seconds: float = 10.0
    patience_s: float = 60.0
    compared: bool = False
    other: Other | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """``each_s``: what each of its size may take at most, generously: what takes longer hangs. ``at_goals``: the sizes
    of its goals."""

    measure: Callable[[Options], Figures]
    size: int
    what: str  # the size counts
    at_goals: tuple[int, ...]
    each_s: float
    elsewhere: bool = False  # can be measured of another hub too
    by_process: bool = False  # and only by looking at its process

    def beside(self, other: Other) -> bool:
        return self.elsewhere and (other.process_is_known or not self.by_process)

"""What everybody who takes part in a round shares: where the hub is, when the round ends, what went wrong so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio
from benchmarks.light import Target

MOST_WRONG = 20  # sentences: a hub that drops everybody need not say so two hundred times


class WrongError(Exception):
    """What does not hold, in a sentence."""


@dataclass(slots=True)
class Scene:
    """One round. The good clients stay until everything has arrived, the bad ones are cancelled before that."""

    target: Target
    patience: float  # s, until somebody must be let in
    over: trio.Event = field(default_factory=trio.Event)  # nothing new from here on
    arrived: trio.Event = field(default_factory=trio.Event)
    storm: trio.Event = field(default_factory=trio.Event)  # set and replaced: all of them come back now
    counts: Counter[str] = field(default_factory=Counter)  # what was done, for the report
    wrong: list[str] = field(default_factory=list)

    def says(self, sentence: str) -> None:
        if len(self.wrong) < MOST_WRONG:
            self.wrong.append(sentence)

    def blow(self) -> None:
        """Let the storm go round once."""
        waiting, self.storm = self.storm, trio.Event()
        waiting.set()

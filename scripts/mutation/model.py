"""What a mutant is: one small change of one source file, found by its text, so that a changed source is noticed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "backrest"


class Stale(Exception):
    """A mutant's old text does not stand in its file exactly once: the source has changed, so must the mutant."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` becomes ``new`` in ``file`` (below backrest/); the program is run as ``role``."""

    id: str
    role: str
    """hub or client."""
    file: str
    old: str
    new: str
    says: str
    """What the fault is, in a few words."""
    likely: tuple[str, ...]
    """Globs of the cases that should catch it: they are run first."""

    def mutated(self, package: Path = PACKAGE) -> str:
        """The file's text with the fault in it; raises Stale."""
        path = package / self.file
        text = path.read_text() if path.exists() else ""
        count = text.count(self.old)
        if count != 1:
            raise Stale(f"mutant {self.id} no longer applies: its text stands {count} times in {self.file}")
        if self.old == self.new:
            raise Stale(f"mutant {self.id} changes nothing")
        return text.replace(self.old, self.new)

    def plant(self, original: Path, into: Path) -> None:
        """Copy the package ``original`` to ``into``, the fault in it. What Python has compiled of it comes along."""
        text = self.mutated(original)
        shutil.copytree(original, into)
        (into / self.file).write_text(text)

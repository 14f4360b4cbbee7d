"""All mutants. Ids are stable: a report names them. What has no case that could see it is not here; README.md says
which kinds those are."""

from __future__ import annotations

from mutation import config, history, session, transport
from mutation.model import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *transport.MUTANTS,
    *session.MUTANTS,
    *history.MUTANTS,
    *config.MUTANTS,
)

"""What a case is, how it says what went wrong, and the registry that holds them all.

A case has one fault (or one promise) and states what must happen. Its id never changes and is never used again;
the sentence says what the program under test must do, the section is PROTOCOL.md's. ``ours`` marks what only this
project promises: the profile `reference` leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any


class Role(Enum):
    """What the program under test plays."""

    HUB = "hub"
    CLIENT = "client"


class Failed(Exception):
    """The program under test did not do what the case demands."""


class Skipped(Exception):
    """The case needs something that this run was not given."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case for one role."""

    id: str
    role: Role
    sentence: str
    section: str
    run: Callable[[Any], Awaitable[None]]
    ours: bool = False
    slow: bool = False
    """Takes more than 10 s, because a deadline of the protocol must pass."""
    direct: bool = False
    """Means nothing through a proxy, which answers itself or speaks its own HTTP/2 to the program."""
    serial: bool = False
    """Hub role: runs alone, after all others, since it changes what others look at. Client role: begins with the
    others, and waits for ``ClientLab.calm``."""
    limited: bool = False
    """Fails a pairing: a hub counts those (ten a minute), so these run last, one after the other."""
    grants: tuple[str, ...] = ()
    """Client role: what the client must grant the hub that this case plays."""
    paired: bool = False
    """Client role: begins paired, although its topic is the handshake."""
    needs: tuple[str, ...] = ()
    """What must have been given: token names (hub), "fixture", "change" (client), "heartbeat"."""


CASES: dict[str, Case] = {}

RETIRED = {
    "pairing/99": "a good token was to be refused after ten failed pairings; now pairing/98",
}
"""Ids that were used, and why no more: known failures and reports may still name them."""

_ID = re.compile(r"[a-z]+/[0-9]+")
DEFAULT_GRANTS = ("read-operations=*", "receive-shared-repos=*")

Run = Callable[[Any], Awaitable[None]]


def case(id: str, role: Role, sentence: str, section: str, run: Run, **more: Any) -> None:
    """Register one case: the way for tables."""
    if _ID.fullmatch(id) is None:
        raise ValueError(f"{id!r} is no id of a case")
    if id in CASES or id in RETIRED:
        raise ValueError(f"there is, or was, another case called {id}")
    if role is Role.CLIENT:
        more.setdefault("grants", DEFAULT_GRANTS)
    CASES[id] = Case(id, role, sentence, section, run, **more)


def hub(id: str, sentence: str, section: str, **more: Any) -> Callable[[Run], Run]:
    """Register the decorated function as a case in which the program under test is the hub."""

    def register(run: Run) -> Run:
        case(id, Role.HUB, sentence, section, run, **more)
        return run

    return register


def client(id: str, sentence: str, section: str, **more: Any) -> Callable[[Run], Run]:
    """Register the decorated function as a case in which the program under test is the client."""

    def register(run: Run) -> Run:
        case(id, Role.CLIENT, sentence, section, run, **more)
        return run

    return register


def select(
    role: Role | None, *, only: tuple[str, ...] = (), reference: bool = False, slow: bool = True
) -> list[Case]:
    """The cases of a run, in the order of topics and numbers."""
    return [
        one
        for one in sorted(CASES.values(), key=_order)
        if (role is None or one.role is role)
        and (not only or any(fnmatchcase(one.id, pattern) for pattern in only))
        and not (reference and one.ours)
        and (slow or not one.slow)
    ]


def _order(one: Case) -> tuple[str, int]:
    topic, _, number = one.id.partition("/")
    return topic, int(number)


def check(holds: object, text: str) -> None:
    """Fail the case with ``text``, which says what was seen, unless ``holds``."""
    if not holds:
        raise Failed(text)

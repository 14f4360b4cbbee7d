"""What one side lets the other do: permission types, scopes, and the one place that decides.

Both ends ask the same ``Grants``: the hub about its entry for a client, the client about its entry for a hub
(PROTOCOL.md, section 7). The cases that pin it down are data: ``conformance/vectors/permissions.json``.

A scope is ``*``, ``repo:<id>``, ``plan:<id>``, ``!repo:<id>`` or ``!plan:<id>``; all else is a ValueError,
never silently nothing or everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from backrest.wire import config

Permission = config.Multihost.Permission

READ_OPERATIONS: Final = Permission.PERMISSION_READ_OPERATIONS
READ_CONFIG: Final = Permission.PERMISSION_READ_CONFIG
READ_WRITE_CONFIG: Final = Permission.PERMISSION_READ_WRITE_CONFIG
RECEIVE_SHARED_REPOS: Final = Permission.PERMISSION_RECEIVE_SHARED_REPOS

# The groups in which the protocol asks: who may see that a repo or plan exists, who may see its settings.
VIEW_RESOURCES: Final = (READ_OPERATIONS, READ_CONFIG, READ_WRITE_CONFIG)
VIEW_CONFIG: Final = (READ_CONFIG, READ_WRITE_CONFIG)

TYPE_NAMES: Final[dict[str, Permission.Type]] = {
    "read-operations": READ_OPERATIONS,
    "read-config": READ_CONFIG,
    "read-write-config": READ_WRITE_CONFIG,
    "receive-shared-repos": RECEIVE_SHARED_REPOS,
}
_NAME_OF: Final = {number: name for name, number in TYPE_NAMES.items()}


class Kind(StrEnum):
    """What a scope speaks of."""

    ALL = "*"
    REPO = "repo"
    PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Scope:
    """One scope. ``id`` is empty for ``*`` only; there is no ``!*``."""

    kind: Kind
    id: str = ""
    exclude: bool = False

    def __str__(self) -> str:
        if self.kind is Kind.ALL:
            return "*"
        return f"{'!' if self.exclude else ''}{self.kind}:{self.id}"


def parse_scope(text: str) -> Scope:
    """Read one scope. Raises ValueError with a sentence that names the text and what is allowed."""
    if text == "*":
        return Scope(Kind.ALL)
    exclude = text.startswith("!")
    kind, colon, ident = text.removeprefix("!").partition(":")
    if kind not in (Kind.REPO, Kind.PLAN) or not colon or not ident:
        raise ValueError(f"{text!r} is not a scope: use *, repo:ID, plan:ID, !repo:ID or !plan:ID")
    return Scope(Kind(kind), ident, exclude)


def parse_grant(text: str) -> Permission:
    """Read ``TYPE`` or ``TYPE=SCOPE,SCOPE...`` as people type it. ``TYPE`` alone means ``TYPE=*``.

    ``*`` is written out, because an empty list also means everything to a peer (section 7) and nobody should
    have to know that. Raises ValueError.
    """
    name, equals, rest = text.partition("=")
    number = TYPE_NAMES.get(name)
    if number is None:
        raise ValueError(f"{name!r} is not a permission: use {', '.join(TYPE_NAMES)}")
    if not equals:
        return Permission(type=number, scopes=["*"])
    # Each scope is read and written back, so that what is stored is exactly what was understood.
    return Permission(type=number, scopes=[str(parse_scope(part)) for part in rest.split(",")])


def format_grant(permission: Permission) -> str:
    """The text that ``parse_grant`` reads; a type this program does not know shows as its number."""
    name = _NAME_OF.get(permission.type, f"type-{int(permission.type)}")
    return f"{name}={','.join(permission.scopes) or '*'}"


@dataclass(frozen=True, slots=True)
class _Reach:
    """All entries of one type added up: what is let in, and what is kept out whatever lets it in."""

    everything: bool
    repos: frozenset[str]
    plans: frozenset[str]
    excluded_repos: frozenset[str]
    excluded_plans: frozenset[str]


_INCLUDED_IN: Final[dict[int, tuple[int, ...]]] = {READ_CONFIG: VIEW_CONFIG}


def _covers(wide: _Reach, narrow: _Reach) -> bool:
    included = not narrow.everything and narrow.repos <= wide.repos and narrow.plans <= wide.plans
    return (
        (wide.everything or included)
        and wide.excluded_repos <= narrow.excluded_repos
        and wide.excluded_plans <= narrow.excluded_plans
    )


def _reach(entries: Iterable[list[Scope]]) -> _Reach:
    everything = False
    found: dict[tuple[Kind, bool], set[str]] = {
        (kind, exclude): set() for kind in (Kind.REPO, Kind.PLAN) for exclude in (False, True)
    }
    for scopes in entries:
        # Judged for each entry: exclusions alone (or no scopes at all) mean "everything but those", and a
        # second, narrower entry must not take that back: entries add up.
        everything |= all(scope.exclude for scope in scopes) or any(s.kind is Kind.ALL for s in scopes)
        for scope in scopes:
            if scope.kind is not Kind.ALL:
                found[scope.kind, scope.exclude].add(scope.id)
    return _Reach(
        everything,
        frozenset(found[Kind.REPO, False]),
        frozenset(found[Kind.PLAN, False]),
        frozenset(found[Kind.REPO, True]),
        frozenset(found[Kind.PLAN, True]),
    )


class Grants:
    """A peer's permissions, ready to be asked. Immutable; build a new one when the entry changes.

    Every question takes several types and is answered yes if one of them says yes: an exclusion keeps things
    out of its own type only (``read-config=*`` is not narrowed by ``read-write-config=!repo:x``).
    Types that this program does not know grant nothing. Raises ValueError for a malformed scope.
    """

    __slots__ = ("_by_type",)

    def __init__(self, permissions: Iterable[Permission]) -> None:
        entries: dict[int, list[list[Scope]]] = {}
        for permission in permissions:
            if permission.type in _NAME_OF:
                scopes = [parse_scope(text) for text in permission.scopes]
                entries.setdefault(permission.type, []).append(scopes)
        self._by_type = {number: _reach(lists) for number, lists in entries.items()}

    def has(self, *types: int) -> bool:
        """Is one of the types granted at all, whatever its scopes?"""
        return any(number in self._by_type for number in types)

    def repo(self, repo_id: str, *types: int) -> bool:
        """Is this repo in scope? A ``plan:`` scope says nothing about a repo."""
        return any(
            (reach.everything or repo_id in reach.repos) and repo_id not in reach.excluded_repos
            for reach in self._of(types)
        )

    def plan(self, plan_id: str, repo_id: str, *types: int) -> bool:
        """Is this plan, which uses that repo, in scope?

        ``repo:`` lets in the repo alone, not the plans on it (a plan runs hooks and reads paths: to grant one
        repo must not grant those). ``!repo:`` does keep out the plans on it: an exclusion always wins.
        """
        return any(
            (reach.everything or plan_id in reach.plans)
            and plan_id not in reach.excluded_plans
            and repo_id not in reach.excluded_repos
            for reach in self._of(types)
        )

    def operation(self, repo_id: str, plan_id: str) -> bool:
        """Is an operation in the scope of READ_OPERATIONS? Its repo or plan lets it in or keeps it out."""
        return any(
            (reach.everything or repo_id in reach.repos or plan_id in reach.plans)
            and repo_id not in reach.excluded_repos
            and plan_id not in reach.excluded_plans
            for reach in self._of((READ_OPERATIONS,))
        )

    def every_operation(self) -> bool:
        """Is READ_OPERATIONS granted with nothing left out?"""
        reach = self._by_type.get(READ_OPERATIONS)
        return reach is not None and reach.everything and not (reach.excluded_repos or reach.excluded_plans)

    def covers(self, other: Grants) -> bool:
        """Is everything that ``other`` grants granted here, too? READ_WRITE_CONFIG shows what READ_CONFIG shows. No
        for some that would be a yes in the end (``*`` beside a list of all that there is): judged by the scopes alone.
        """
        return all(
            any(_covers(mine, reach) for mine in self._of(_INCLUDED_IN.get(number, (number,))))
            for number, reach in other._by_type.items()
        )

    def _of(self, types: Iterable[int]) -> Iterable[_Reach]:
        return (self._by_type[number] for number in types if number in self._by_type)

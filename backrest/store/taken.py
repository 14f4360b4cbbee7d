"""What a hub of another kind has taken of our history, and what it cannot take again: a part of its record (peers.py).

Small whatever the history's size. Ids and modnos only grow, so what was taken is said by the highest of both, for each
set of grants under which that was so; what is withheld is kept as ranges of ids. sync/withheld.py decides on both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_REACHES = 4  # sets of grants: who goes on changing them loses the oldest, and then some more sessions
MAX_WITHHELD = 100_000  # ids; a Go hub that holds as many takes seconds for each operation


@dataclass(frozen=True, slots=True)
class Reach:
    """All operations that READ_OPERATIONS in these scopes (a list for each entry) lets out, up to this id and modno."""

    scopes: tuple[tuple[str, ...], ...]
    op_id: int
    modno: int


@dataclass(frozen=True, slots=True)
class Taken:
    """``lost``: ids of operations that the hub held, threw away, and cannot store again. ``doubtful``: ids over which
    its session seems to end, and of which it may hold an older state. Both are tried again at ``retry_ms`` (Unix)."""

    reaches: tuple[Reach, ...] = ()
    lost: frozenset[int] = frozenset()
    doubtful: frozenset[int] = frozenset()
    retry_ms: int = 0


def encode(taken: Taken) -> dict[str, Any]:
    """As JSON; 64-bit numbers as texts, as in the rest of the record."""
    return {
        "reaches": [
            {"scopes": list(map(list, reach.scopes)), "id": str(reach.op_id), "modno": str(reach.modno)}
            for reach in taken.reaches
        ],
        "lost": _ranges(taken.lost),
        "doubtful": _ranges(taken.doubtful),
        "retryMillis": str(taken.retry_ms),
    }


def decode(value: Any) -> Taken:
    """ValueError for what ``encode`` does not write."""
    try:
        reaches = tuple(
            Reach(
                tuple(tuple(map(_text, scopes)) for scopes in reach["scopes"]),
                int(reach["id"]),
                int(reach["modno"]),
            )
            for reach in value["reaches"]
        )
        room = MAX_WITHHELD
        sets = []
        for name in ("lost", "doubtful"):
            ids: set[int] = set()
            for text in value[name]:
                first, _, last = text.partition("-")
                numbers = range(int(first), int(last or first) + 1)
                if len(numbers) > room:
                    raise ValueError("a hub's record withholds more than there can be")
                room -= len(numbers)
                ids.update(numbers)
            sets.append(frozenset(ids))
        lost, doubtful = sets
        return Taken(reaches[:MAX_REACHES], lost, doubtful, int(value["retryMillis"]))
    except (KeyError, TypeError, AttributeError):
        raise ValueError("what a hub has taken is not as it was written") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _ranges(ids: Iterable[int]) -> list[str]:
    """``["5-9", "12"]``: what a hub throws away are mostly neighbours."""
    ranges: list[list[int]] = []
    for number in sorted(ids):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [f"{first}-{last}" if last > first else str(first) for first, last in ranges]

"""Which operations a query means: decided on the index alone, in the order (start time, id).

A query narrows the rows down filter by filter, the most selective first; each pass is a loop over one typed
column (some 40 ms for a million rows). Only the bodies of what is left are read from the file.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from backrest.store.opindex import Index, Meta, snapshot_key


@dataclass(frozen=True, slots=True)
class Query:
    """All that is given must hold (AND); what is None does not matter. ENGINE.md 2.4."""

    ids: Collection[int] | None = None  # ours
    repo_id: str | None = None
    repo_guid: str | None = None
    plan_id: str | None = None
    snapshot_id: str | None = None
    flow_id: int | None = None
    instance_id: str | None = None  # attribution, not origin: anybody can claim any
    origin: str | None = None  # "" means our own operations, else the key id of a peer
    original_id: int | None = None
    original_flow_id: int | None = None
    modno_gte: int | None = None
    status: int | Collection[int] | None = None
    kind: int | Collection[int] | None = None  # field numbers: opformat.KINDS["operationBackup"]
    since_ms: int | None = None  # started then or later
    limit: int = 0  # 0 is all
    offset: int = 0
    reversed: bool = False  # newest first


def select(index: Index, query: Query) -> array[int]:
    """The ids of the operations, in the query's order, after offset and limit."""
    rows = _sort(index, _matching(index, query), query)
    ids = index.ids
    return array("q", [ids[row] for row in rows])


def count(index: Index, query: Query) -> int:
    """How many operations match, whatever limit and offset say."""
    return sum(1 for _ in _matching(index, query))


def groups_where(index: Index, predicate: Callable[[Meta], bool]) -> set[int]:
    """The groups whose metadata the predicate accepts: called once for each, not for each operation."""
    return {number for number, meta in enumerate(index.metas) if number and predicate(meta)}


def _matching(index: Index, query: Query) -> Iterable[int]:
    """Rows in rising order."""
    rows = _first(index, query)
    wanted = groups_where(index, lambda meta: _of_group(query, meta))
    groups = index.groups
    if len(wanted) == len(index.metas) - 1 and index.live == len(groups):
        pass  # every group, nothing deleted
    elif len(wanted) == 1:
        (only,) = wanted
        rows = _equal(groups, only, rows)
    else:
        rows = [row for row in rows if groups[row] in wanted]
    if query.modno_gte is not None:
        modnos, modno = index.modnos, query.modno_gte
        rows = [row for row in rows if modnos[row] >= modno]
    if query.since_ms is not None:
        starts, since = index.starts, query.since_ms
        rows = [row for row in rows if starts[row] >= since]
    for column, values in ((index.statuses, query.status), (index.kinds, query.kind)):
        if isinstance(values, int):
            rows = _equal(column, values, rows)
        elif values is not None:
            accepted = set(values)
            rows = [row for row in rows if column[row] in accepted]
    return rows


def _of_group(query: Query, meta: Meta) -> bool:
    return (
        (query.origin is None or query.origin == meta.origin)
        and (query.repo_id is None or query.repo_id == meta.repo_id)
        and (query.repo_guid is None or query.repo_guid == meta.repo_guid)
        and (query.plan_id is None or query.plan_id == meta.plan_id)
        and (query.instance_id is None or query.instance_id == meta.instance_id)
    )


def _first(index: Index, query: Query) -> Sequence[int]:
    """The narrowest start: given ids, a peer's id, a flow, a snapshot; else every row."""
    rows: Sequence[int] = range(len(index.ids))
    if query.ids is not None:
        found = {index.row(number) for number in query.ids}
        rows = sorted(row for row in found if row is not None)
    if query.original_id is not None:
        numbers = [index.find_original(keyid, query.original_id) for keyid in _origins(index, query)]
        found = {index.row(number) for number in numbers if number is not None}
        rows = sorted(row for row in found if row is not None and row in rows)
    flows = None if query.flow_id is None else {query.flow_id}
    if query.original_flow_id is not None:
        numbers = [index.find_flow(keyid, query.original_flow_id) for keyid in _origins(index, query)]
        ours = {number for number in numbers if number is not None}
        flows = ours if flows is None else flows & ours
    if flows is not None:
        column, several = index.flows, len(flows) != 1
        rows = [row for row in rows if column[row] in flows] if several else _equal(column, flows.pop(), rows)
    if query.snapshot_id is not None:
        rows = _equal(index.snapshots, snapshot_key(query.snapshot_id), rows)
    return rows


def _origins(index: Index, query: Query) -> list[str]:
    return [keyid for keyid in index.origins if keyid and query.origin in (None, keyid)]


def _equal(column: array[int], value: int, rows: Sequence[int]) -> list[int]:
    """The rows with this value. All rows: by the array's own search, in C."""
    if not isinstance(rows, range):
        return [row for row in rows if column[row] == value]
    found: list[int] = []
    place = -1
    try:
        while True:
            place = column.index(value, place + 1)
            found.append(place)
            if (
                len(found) == 1000 and place < 10_000
            ):  # it is common: a plain loop is faster than many searches
                return [row for row in rows if column[row] == value]
    except ValueError:
        return found


def _sort(index: Index, rows: Iterable[int], query: Query) -> Sequence[int]:
    rows = rows if isinstance(rows, list | range) else list(rows)
    start_of = index.starts.__getitem__
    first = max(query.offset, 0)
    if query.limit > 0 and (first + query.limit) * 8 < len(rows):
        few = first + query.limit
        # both keep the order of what they are given among equals: rows, and so ids, rising or falling
        if query.reversed:
            return heapq.nlargest(few, reversed(rows), key=start_of)[first:]
        return heapq.nsmallest(few, rows, key=start_of)[first:]
    ordered = sorted(rows, key=start_of)
    if query.reversed:
        ordered.reverse()
    return ordered[first : first + query.limit if query.limit > 0 else None]

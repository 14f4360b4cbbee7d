"""Which operations a query means: decided on the index alone, in the order (start time, id).

Ids, a peer's ids and a peer's flows are looked up. For all else a query narrows the rows down filter by filter, the
most selective first; each pass is a loop over one typed column (some 40 ms for a million rows). Such a loop holds no
lock: it goes over a View, a copy of the columns that the query asks for, which takes a few milliseconds to make. Only
the bodies of what is left are read from the file.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Sequence
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


class View:
    """What the query asks for, of the rows that can match, as it is at one moment. Made under the log's lock.

    All columns have one length. Where the query names rows they are these, in rising order; else they are all rows.
    """

    def __init__(self, index: Index, query: Query) -> None:
        rows = _named(index, query)
        self.flows = _flows_meant(index, query)

        def column(column: array[int]) -> array[int]:
            return column[:] if rows is None else array(column.typecode, [column[row] for row in rows])

        nothing = array("q")
        self.ids, self.groups, self.starts = column(index.ids), column(index.groups), column(index.starts)
        self.flow_of = nothing if self.flows is None else column(index.flows)
        self.snapshots = nothing if query.snapshot_id is None else column(index.snapshots)
        self.modnos = nothing if query.modno_gte is None else column(index.modnos)
        self.statuses = nothing if query.status is None else column(index.statuses)
        self.kinds = nothing if query.kind is None else column(index.kinds)
        self.metas = index.metas[:]
        self.some_deleted = index.live < len(index.groups)


def select(view: View, query: Query) -> array[int]:
    """The ids of the operations, in the query's order, after offset and limit."""
    ids = view.ids
    return array("q", [ids[row] for row in _sort(view, _matching(view, query), query)])


def count(view: View, query: Query) -> int:
    """How many operations match, whatever limit and offset say."""
    return len(_matching(view, query))


def newest(view: View, query: Query, most: int) -> dict[tuple[Meta, int, int], list[tuple[int, int]]]:
    """(what they share, kind, status) -> (start, id) of the ``most`` newest of these, newest first.

    ``query`` names kinds and statuses.
    """
    found: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    ids, groups, starts, kinds, statuses = view.ids, view.groups, view.starts, view.kinds, view.statuses
    for row in reversed(
        _matching(view, query)
    ):  # the newest come last, mostly: what follows is then passed over
        heap = found.setdefault((groups[row], kinds[row], statuses[row]), [])
        if len(heap) < most:
            heapq.heappush(heap, (starts[row], ids[row]))
        elif starts[row] >= heap[0][0]:
            heapq.heappushpop(heap, (starts[row], ids[row]))
    return {
        (view.metas[group], kind, status): sorted(heap, reverse=True)
        for (group, kind, status), heap in found.items()
    }


def groups_where(metas: Sequence[Meta], predicate: Callable[[Meta], bool]) -> set[int]:
    """The groups whose metadata the predicate accepts: called once for each, not for each operation."""
    return {number for number, meta in enumerate(metas) if number and predicate(meta)}


def _named(index: Index, query: Query) -> list[int] | None:
    """The rows of given ids, and of a peer's id; None when neither is given."""
    rows: set[int | None] | None = None
    if query.ids is not None:
        rows = {index.row(number) for number in query.ids}
    if query.original_id is not None:
        numbers = [index.find_original(keyid, query.original_id) for keyid in _origins(index, query)]
        found = {index.row(number) for number in numbers if number is not None}
        rows = found if rows is None else rows & found
    return None if rows is None else sorted(row for row in rows if row is not None)


def _flows_meant(index: Index, query: Query) -> set[int] | None:
    """Our flows; None when the query names none."""
    flows = None if query.flow_id is None else {query.flow_id}
    if query.original_flow_id is not None:
        numbers = [index.find_flow(keyid, query.original_flow_id) for keyid in _origins(index, query)]
        ours = {number for number in numbers if number is not None}
        flows = ours if flows is None else flows & ours
    return flows


def _origins(index: Index, query: Query) -> list[str]:
    return [keyid for keyid in index.origins if keyid and query.origin in (None, keyid)]


def _matching(view: View, query: Query) -> Sequence[int]:
    """Rows of the view, rising."""
    rows: Sequence[int] = range(len(view.ids))
    if view.flows is not None:
        rows = _among(view.flow_of, view.flows, rows)
    if query.snapshot_id is not None:
        rows = _among(view.snapshots, {snapshot_key(query.snapshot_id)}, rows)
    wanted = groups_where(view.metas, lambda meta: _of_group(query, meta))
    if view.some_deleted or len(wanted) < len(view.metas) - 1:
        rows = _among(view.groups, wanted, rows)
    if query.modno_gte is not None:
        modnos, modno = view.modnos, query.modno_gte
        rows = [row for row in rows if modnos[row] >= modno]
    if query.since_ms is not None:
        starts, since = view.starts, query.since_ms
        rows = [row for row in rows if starts[row] >= since]
    for column, values in ((view.statuses, query.status), (view.kinds, query.kind)):
        if values is not None:
            rows = _among(column, {values} if isinstance(values, int) else set(values), rows)
    return rows


def _of_group(query: Query, meta: Meta) -> bool:
    return (
        (query.origin is None or query.origin == meta.origin)
        and (query.repo_id is None or query.repo_id == meta.repo_id)
        and (query.repo_guid is None or query.repo_guid == meta.repo_guid)
        and (query.plan_id is None or query.plan_id == meta.plan_id)
        and (query.instance_id is None or query.instance_id == meta.instance_id)
    )


def _among(column: array[int], values: set[int], rows: Sequence[int]) -> Sequence[int]:
    """The rows with one of these values."""
    if len(values) == 1:
        (only,) = values
        return _equal(column, only, rows)
    return [row for row in rows if column[row] in values]


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


def _sort(view: View, rows: Sequence[int], query: Query) -> Sequence[int]:
    start_of = view.starts.__getitem__
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

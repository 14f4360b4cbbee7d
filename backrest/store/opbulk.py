"""Many operations into the index at once: the fast way for what a file mostly holds.

What the index keeps of them is read column by column, and new operations in the order of their ids are put into
the index so, too, which costs half of what Index.put takes for each; of these everything is checked before the first
column changes. Whatever is unusual (a negative number, a line that is wrong) is left to the caller, who goes through
Index.take line by line, which knows every case and says what is wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter, lt
from typing import Any

from backrest.store.opformat import HIGHEST, KINDS, STATUSES, Json
from backrest.store.opindex import Index, Origin, Row, as_meta, snapshot_key

#: lines worked on at a time: few enough that their parsed form stays in the processor's cache
BATCH = 128


_Columns = tuple[Sequence[Any], ...]  # of opindex.Row, in its order


def take_rows(index: Index, rows: Sequence[Row], offsets: Sequence[int], lengths: Sequence[int]) -> None:
    """Put operations of whatever kind, new or not. ValueError for the first that does not fit."""
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        columns = tuple(zip(*rows[part], strict=True))
        if not _append(index, columns, offsets[part], lengths[part]):
            for row, offset, length in zip(rows[part], offsets[part], lengths[part], strict=True):
                index.put_row(row, offset, length)


def is_operation(doc: Any) -> bool:
    """Whether what was parsed of a line is an operation, good or bad."""
    return doc.__class__ is dict and "id" in doc


def runs(docs: list[Any]) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of operations that stand together, and of each other line."""
    first = 0
    for position, doc in enumerate(docs):
        if not is_operation(doc):
            if first < position:
                yield first, position
            yield position, position + 1
            first = position + 1
    if first < len(docs):
        yield first, len(docs)


def take_all(index: Index, docs: Sequence[Json], offsets: Sequence[int], lengths: Sequence[int]) -> int:
    """Take the operations of these lines, new or not, from the first to one that is to be looked at by itself.

    How many were taken.
    """
    columns = _columns(docs)
    if columns is None:
        return 0
    if _append(index, columns, offsets, lengths):
        return len(docs)
    *numbers, keys = columns
    taken = 0
    try:
        metas = [index.metas[group] for group in _groups(index, keys)]
        rows = map(Row._make, zip(*numbers, metas, strict=True))
        for row, offset, length in zip(rows, offsets, lengths, strict=True):
            index.put_row(row, offset, length)
            taken += 1
    except (ValueError, TypeError):  # Index.take says what is wrong
        pass
    return taken


_needed = itemgetter("id", "modno", "flowId", "unixTimeStartMs", "repoId", "repoGuid", "planId", "instanceId")


def _columns(docs: Sequence[Json]) -> _Columns | None:
    try:
        needed = zip(*map(_needed, docs), strict=True)
        ids, modnos, flows, starts = _numbers(next(needed)), *map(_numbers, islice(needed, 3))
        keyids = [doc.get("originalInstanceKeyid", "") for doc in docs]
        keys = list(zip(keyids, *needed, strict=True))
        originals = _numbers([doc.get("originalId", "0") for doc in docs])
        snapshots = [doc.get("snapshotId", "") for doc in docs]
        "".join(snapshots)  # raises for what is not a string
        statuses = [STATUSES[doc.get("status", "STATUS_UNKNOWN")] for doc in docs]
        kinds = [KINDS[next(reversed(doc))] for doc in docs]
        flows_there = _numbers([doc.get("originalFlowId", "0") for doc in docs]) if any(keyids) else originals
    except (KeyError, ValueError, TypeError):
        return None
    return (
        ids, modnos, flows, starts, originals, flows_there, list(map(snapshot_key, snapshots)), statuses, kinds, keys,
    )  # fmt: skip


def _append(index: Index, columns: _Columns, offsets: Sequence[int], lengths: Sequence[int]) -> bool:
    """Take all the operations, or none and return False."""
    ids, modnos, flows, starts, originals, original_flows, snapshots, statuses, kinds, metas = columns
    if (index.ids and ids[0] <= index.ids[-1]) or not _rise(ids):
        return False
    if 0 in modnos or 0 in flows or 0 in starts or ids[0] <= 0:
        return False
    if max(original_flows) >> 63:  # in no column; a column refuses it by itself
        return False
    if max(ids[-1], *modnos, *flows) > HIGHEST:
        return False
    try:
        groups = _groups(index, metas)
    except (ValueError, TypeError):
        return False
    origin_of = index.group_origins
    origins = [origin_of[group] for group in groups]
    only = origins[0] if len(set(origins)) == 1 else None
    if not (_fit_one(only, originals) if only else _fit(index.origins[""], origins, originals)):
        return False
    row = len(index.ids)
    try:
        values = (
            ids, offsets, lengths, modnos, flows, starts, originals, snapshots, groups, statuses, kinds,
        )  # fmt: skip
        for column, more in zip(index.columns(), values, strict=True):
            column.extend(array(column.typecode, more))  # an array from a list, then a copy: twice as fast
    except OverflowError:
        for column in index.columns():
            del column[row:]
        return False
    total = sum(lengths) + len(ids)
    if only is not None:
        only.bytes += total
    if only is index.origins[""]:
        only.count += len(ids)
        index.highest_modno = max(index.highest_modno, *modnos)
    elif only is not None:
        only.count += len(ids)
        only.rows.extend(originals, range(row, row + len(ids)))
        _join_flows(only, original_flows, flows)
    else:
        for position, origin in enumerate(origins):
            origin.count += 1
            origin.bytes += lengths[position] + 1
            if originals[position]:
                origin.rows.put(originals[position], row + position)
                _join_flows(origin, original_flows[position : position + 1], flows[position : position + 1])
            else:
                index.highest_modno = max(index.highest_modno, modnos[position])
    index.live += len(ids)
    index.live_bytes += total
    index.highest_id = max(index.highest_id, ids[-1])
    if only is None or not only.is_local:
        theirs = (flow for flow, origin in zip(flows, origins, strict=True) if not origin.is_local)
        index.highest_id = max(index.highest_id, max(theirs, default=0))
    return True


def _numbers(texts: Sequence[str]) -> list[int]:
    """ValueError or TypeError for anything but plain digits. They may be too large for a column."""
    if not "".join(texts).isdecimal():
        raise ValueError
    return list(map(int, texts))


def _rise(numbers: Sequence[int]) -> bool:
    return all(map(lt, numbers, islice(numbers, 1, None)))


def _groups(index: Index, keys: Sequence[tuple[Any, ...]]) -> list[int]:
    """The numbers of their groups. ValueError when one is not what a group can be."""
    known = index.group_of  # finds a Meta by any tuple that is equal
    try:
        return [known[key] for key in keys]  # type: ignore[index]
    except KeyError:
        return [index.group(as_meta(key)) for key in keys]


def _fit_one(origin: Origin, originals: Sequence[int]) -> bool:
    """As _fit, for operations of one origin: ours, or a peer's that come in the order of its ids."""
    if origin.is_local:
        return not any(originals)
    return originals[0] > origin.rows.last and _rise(originals)


def _fit(local: Origin, origins: Sequence[Origin], originals: Sequence[int]) -> bool:
    """Ours have no original id; a peer's have one, and none that is held already."""
    seen = set()
    for origin, original in zip(origins, originals, strict=True):
        if (origin is local) is not (original == 0):
            return False
        if original:
            if original <= origin.rows.last and origin.rows.get(original) is not None:
                return False
            seen.add((origin, original))
    return len(seen) + originals.count(0) == len(originals)


def _join_flows(origin: Origin, theirs: Sequence[int], ours: Sequence[int]) -> None:
    known = origin.flows
    if theirs[0] > known.last and _rise(theirs):  # each operation is a flow of its own
        return known.extend(theirs, ours)
    before = 0
    for their, our in zip(theirs, ours, strict=True):
        if their and their != before:
            before = their
            if their > known.last or known.get(their) is None:
                known.put(their, our)
    return None

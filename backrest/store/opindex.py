"""What the operation log keeps in memory: typed columns, some 70 bytes for an operation, no object for each.

Rows are in the order of the ids, so an id is found by bisection. The strings that many operations share
(origin, repo, plan, instance) are one *group*, kept once; a row holds its number, and 0 means that the row's
operation is deleted. The index never reads the file: it is told where each line is. It is not thread-safe;
the log calls it under its lock.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

from backrest.store.opformat import HIGHEST, KINDS, STATUSES, Json, parse_deleted, parse_mark
from backrest.store.sortedmap import SortedMap


class OutOfOrderError(ValueError):
    """A line that is good, but new where only a line that replaces one could stand."""


class Meta(NamedTuple):
    """What is known of an operation without reading it; shared by all operations that agree in it."""

    origin: str  # key id of the peer that it came from; "" is an operation of our own
    repo_id: str
    repo_guid: str
    plan_id: str
    instance_id: str


class Row(NamedTuple):
    """What is kept of an operation, apart from where its line is."""

    id: int
    modno: int
    flow: int
    start: int  # unix_time_start_ms
    original: int  # 0 for our own
    original_flow: int
    snapshot: int  # snapshot_key of the snapshot id
    status: int
    kind: int
    meta: Meta


class Origin:
    """What is held of one peer: its ids and flows as the peer numbers them, and ours for them."""

    __slots__ = ("bytes", "count", "flows", "groups", "is_local", "rows")

    def __init__(self, is_local: bool = False) -> None:
        self.is_local = is_local
        self.rows = SortedMap()  # original id -> row; may point to a deleted row
        self.flows = SortedMap()  # original flow id -> our flow id
        self.count = 0
        self.bytes = 0  # of the lines of what lives, with their ends
        self.groups = 0  # also of those that nothing that lives is in


class Index:
    """The columns, and what can be found through them."""

    def __init__(self) -> None:
        self.ids = array("q")
        self.offsets = array("q")
        self.lengths = array("I")  # without the line end
        self.modnos = array("q")
        self.flows = array("q")
        self.starts = array("q")  # unix_time_start_ms
        self.originals = array("q")  # 0 for our own
        self.snapshots = array("q")  # snapshot_key of the snapshot id: equal ones are checked in the body
        self.groups = array("I")  # 0: deleted
        self.statuses = array("i")
        self.kinds = array("H")  # field number of what the operation did
        self.metas: list[Meta] = [Meta("", "", "", "", "")]  # by group number; 0 is never used
        self.group_of: dict[Meta, int] = {}
        self.group_origins: list[Origin] = [Origin()]  # by group number
        self.origins: dict[str, Origin] = {"": Origin(is_local=True)}
        self.highest_id = 0
        self.highest_modno = 0  # of our own operations only: each peer has its own count
        self.live = 0
        self.live_bytes = 0

    def columns(self) -> tuple[array[int], ...]:
        """All of them, in a fixed order."""
        return (
            self.ids, self.offsets, self.lengths, self.modnos, self.flows, self.starts, self.originals,
            self.snapshots, self.groups, self.statuses, self.kinds,
        )  # fmt: skip

    # Changes

    def put(self, doc: Json, offset: int, length: int) -> None:
        """An operation's line is in the file: new, or in the place of an older one with its id.

        ValueError, with nothing changed, for a line that this log cannot have written.
        """
        self.put_row(row_of(doc), offset, length)

    def put_row(self, row: Row, offset: int, length: int) -> None:
        """As ``put``, for what was read from the line already."""
        number, modno, flow, start, original, original_flow, snapshot, status, kind, meta = row
        group = self.group(meta)
        origin = self.group_origins[group]
        values = (modno, flow, start, original, snapshot, group, status, kind)
        if not (modno and flow and start) or number <= 0:
            raise ValueError("id, modno, flowId and unixTimeStartMs must not be 0")
        local = not meta.origin
        if max(number, modno if local else flow) > HIGHEST:  # what we count; a peer counts its modnos
            raise ValueError("a number that no log has counted to")
        if local is not (original == 0):
            raise ValueError("originalId and originalInstanceKeyid do not go together")
        if not -(1 << 63) <= original_flow < 1 << 63:
            raise ValueError("a number that does not fit into 64 bits")
        if not self.ids or number > self.ids[-1]:
            if not local and self.find_original(meta.origin, original) is not None:
                raise ValueError(f"operation {original} of this peer is there already, under another id")
            self._append(number, offset, length, values)
        else:
            self._replace(number, offset, length, values)
        if local:
            if modno > self.highest_modno:
                self.highest_modno = modno
        else:
            if original_flow and origin.flows.get(original_flow) is None:
                origin.flows.put(original_flow, flow)
            if flow > self.highest_id:  # the flows of peers are numbered like operations (opstage.py)
                self.highest_id = flow

    def _append(self, number: int, offset: int, length: int, values: tuple[int, ...]) -> None:
        row = len(self.ids)
        modno, flow, start, original, snapshot, group, status, kind = values
        try:
            self.ids.append(number)
            self.offsets.append(offset)
            self.lengths.append(length)
            self.modnos.append(modno)
            self.flows.append(flow)
            self.starts.append(start)
            self.originals.append(original)
            self.snapshots.append(snapshot)
            self.statuses.append(status)
            self.kinds.append(kind)
            self.groups.append(group)
        except OverflowError:
            for column in self.columns():
                del column[row:]
            raise ValueError("a number that does not fit into 64 bits") from None
        origin = self.group_origins[group]
        if original:
            origin.rows.put(original, row)
        origin.count += 1
        origin.bytes += length + 1
        self.live += 1
        self.live_bytes += length + 1
        if number > self.highest_id:
            self.highest_id = number

    def _replace(self, number: int, offset: int, length: int, values: tuple[int, ...]) -> None:
        row = self._row(number)
        if row is None:
            raise OutOfOrderError(f"operation {number} comes after one with a higher id")
        modno, flow, start, original, snapshot, group, status, kind = values
        origin, old = self.group_origins[group], self.groups[row]
        if old and (self.group_origins[old] is not origin or self.originals[row] != original):
            raise ValueError(f"operation {number} was of another peer, or had another original id")
        if not old and original:
            there = self.find_original(self.metas[group].origin, original)
            if there is not None and there != number:
                raise ValueError(f"operation {original} of this peer is there already, under another id")
        try:
            (
                array("q", (modno, flow, start, original)),
                array("i", (status,)),
            )  # all fit, before any is changed
        except OverflowError:
            raise ValueError("a number that does not fit into 64 bits") from None
        if old:
            self.live_bytes -= self.lengths[row] + 1
            origin.bytes -= self.lengths[row] + 1
        else:
            origin.count += 1
            self.live += 1
            if original:
                origin.rows.put(original, row)
        self.offsets[row], self.lengths[row] = offset, length
        self.modnos[row], self.flows[row], self.starts[row] = modno, flow, start
        self.originals[row], self.snapshots[row], self.groups[row] = original, snapshot, group
        self.statuses[row], self.kinds[row] = status, kind
        self.live_bytes += length + 1
        origin.bytes += length + 1

    def delete(self, number: int) -> bool:
        """The operation is gone; False when there was none."""
        row = self.row(number)
        if row is None:
            return False
        origin = self.group_origins[self.groups[row]]
        origin.count -= 1
        origin.bytes -= self.lengths[row] + 1
        self.groups[row] = 0
        self.live -= 1
        self.live_bytes -= self.lengths[row] + 1
        return True

    def take(self, doc: Json, offset: int, length: int) -> None:
        """One parsed line of the file, of whatever kind; ValueError for what cannot stand there."""
        if doc.__class__ is not dict:
            raise ValueError("not a JSON object")
        if "id" in doc:
            self.put(doc, offset, length)
        elif "deleted" in doc:
            for number in parse_deleted(doc):
                self.delete(number)
        elif "oplog" in doc:
            highest_id, highest_modno = parse_mark(doc)
            self.highest_id = max(self.highest_id, highest_id)
            self.highest_modno = max(self.highest_modno, highest_modno)
        else:
            raise ValueError("neither an operation nor a deletion")

    def group(self, meta: Meta) -> int:
        """The number of the group, made when it is the first of its kind."""
        number = self.group_of.get(meta)
        if number is None:
            number = self.group_of[meta] = len(self.metas)
            self.metas.append(meta)
            origin = self.origins.setdefault(meta.origin, Origin())
            origin.groups += 1
            self.group_origins.append(origin)
        return number

    # Look-ups

    def _row(self, number: int) -> int | None:
        row = bisect_left(self.ids, number)
        return row if row < len(self.ids) and self.ids[row] == number else None

    def row(self, number: int) -> int | None:
        """The row of a live operation."""
        row = self._row(number)
        return row if row is not None and self.groups[row] else None

    def meta(self, number: int) -> Meta | None:
        """What is known of a live operation."""
        row = self.row(number)
        return None if row is None else self.metas[self.groups[row]]

    def find_original(self, keyid: str, original: int) -> int | None:
        """Our id for a peer's operation, when it is held."""
        origin = self.origins.get(keyid)
        row = None if origin is None else origin.rows.get(original)
        return self.ids[row] if row is not None and self.groups[row] else None

    def find_flow(self, keyid: str, original_flow: int) -> int | None:
        """Our flow id for a peer's flow."""
        origin = self.origins.get(keyid)
        return None if origin is None else origin.flows.get(original_flow)

    def live_rows(self) -> Iterator[int]:
        """The rows that are not deleted, in the order of the ids."""
        return (row for row, group in enumerate(self.groups) if group)

    def held(self, keyid: str) -> tuple[array[int], array[int]]:
        """(original ids in rising order, their modnos) of what is held of a peer."""
        originals, modnos = array("q"), array("q")
        origin = self.origins.get(keyid)
        if origin is not None and keyid:
            groups, column = self.groups, self.modnos
            for original, row in origin.rows.items():
                if groups[row]:
                    originals.append(original)
                    modnos.append(column[row])
        return originals, modnos


def as_meta(parts: tuple[Any, ...]) -> Meta:
    """ValueError for what is no Meta."""
    if not all(part.__class__ is str for part in parts) or not all(parts[1:]):
        raise ValueError("an operation needs repoId, repoGuid, planId and instanceId, as strings")
    return Meta(*parts)


def row_of(doc: Json) -> Row:
    """What the index keeps of a line. ValueError for a line that no log can have written."""
    get = doc.get
    id_, modno, flow, start = get("id"), get("modno"), get("flowId"), get("unixTimeStartMs")
    original = get("originalId", "0")
    if not id_.__class__ is modno.__class__ is flow.__class__ is start.__class__ is original.__class__ is str:
        raise ValueError("an operation needs id, modno, flowId and unixTimeStartMs, as numbers in strings")
    meta = as_meta(
        (get("originalInstanceKeyid", ""), get("repoId"), get("repoGuid"), get("planId"), get("instanceId"))
    )
    snapshot, status = get("snapshotId", ""), get("status", "STATUS_UNKNOWN")
    if snapshot.__class__ is not str or (status.__class__ is not str and status.__class__ is not int):
        raise ValueError("snapshotId or status is not what it should be")
    original_flow = get("originalFlowId", "0") if meta.origin else "0"
    if original_flow.__class__ is not str:
        raise ValueError("originalFlowId is not a number in a string")
    return Row(
        int(id_), int(modno), int(flow), int(start), int(original), int(original_flow),
        snapshot_key(snapshot), STATUSES.get(status, status if status.__class__ is int else 0), kind_of(doc), meta,
    )  # fmt: skip


def snapshot_key(snapshot: str) -> int:
    """A number for a snapshot id, the same in every process; 0 for none."""
    if not snapshot:
        return 0
    try:
        return int(snapshot[:15], 16)  # a SHA-256 in hexadecimal: 60 bits of it
    except ValueError:
        return crc32(snapshot.encode("utf-8", "surrogatepass"))


def kind_of(doc: Json) -> int:
    """The field number of what the operation did; 0 for none."""
    kind = KINDS.get(next(reversed(doc)))  # our own lines end with it
    if kind is None:
        kind = next((KINDS[key] for key in doc if key in KINDS), 0)
    return kind

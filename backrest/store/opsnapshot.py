"""What lives in the operation log at one moment, and the index of a file that holds just that.

Compaction makes a new file beside the log, and beside the index a new one for it, while both go on being used. Under
the locks a Snapshot only copies what may be overwritten later; the rest it reads from the columns as they stand, which
grow at their end and are never shortened. What is changed meanwhile it may see in part: that does no harm, because the
line that changed it follows in the new file, and its reader (opload.read_on) puts all of it right.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import compress

from backrest.store.opindex import Index, Origin
from backrest.store.sortedmap import SortedMap

# Rows worked on without letting other threads run: below a millisecond.
_ROWS = 1 << 15


class Snapshot:
    """``highest`` are the high-water marks, ``end`` is where the file ended, ``live`` counts what lived.

    Made under both locks; all else may be called without them, by one thread.
    """

    def __init__(self, index: Index, end: int) -> None:
        self.highest = index.highest_id, index.highest_modno
        self.end = end
        self.live, self.bytes = index.live, index.live_bytes
        self._index = index
        self._groups = index.groups[:]
        self._flow_of = index.flows[
            :
        ]  # else the flow of a line that is copied could look as if nobody used it
        self._offsets, self._lengths = index.offsets[:], index.lengths[:]
        self._metas = index.metas[:]
        self._flows = {keyid: origin.flows.copy() for keyid, origin in index.origins.items()}

    def places(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of each line that lives, in the order of the ids."""
        return compress(zip(self._offsets, self._lengths, strict=True), self._groups)

    def index(self, offsets: array[int]) -> Index:
        """The index of a file in which these lines begin at ``offsets``, in the order of ``places``. It uses up the
        snapshot: beside the old index and the new one there should be no third in memory."""
        new, old = Index(), self._index
        self._offsets = array("q")
        new.highest_id, new.highest_modno = self.highest
        new.live, new.live_bytes = self.live, self.bytes
        new.offsets = offsets
        for mine, theirs in (
            (new.ids, old.ids),
            (new.lengths, self._lengths),
            (new.modnos, old.modnos),
            (new.flows, self._flow_of),
            (new.starts, old.starts),
            (new.originals, old.originals),
            (new.snapshots, old.snapshots),
            (new.statuses, old.statuses),
            (new.kinds, old.kinds),
            (new.groups, self._groups),
        ):
            for part in self._parts(len(self._groups)):
                mine.extend(array(mine.typecode, compress(theirs[part], self._groups[part])))
        self._flow_of, self._lengths, self._groups = array("q"), array("I"), array("I")
        self._number_groups(new)
        for origin, originals, rows in _by_origin(new):
            origin.count = len(rows)
            origin.bytes = sum(map(new.lengths.__getitem__, rows)) + len(rows)
            if not origin.is_local:
                origin.rows = SortedMap.sorting(originals, rows)
        while self._flows:
            keyid, flows = self._flows.popitem()
            if keyid and (origin_there := new.origins.get(keyid)) is not None:
                origin_there.flows = _used(flows, new, origin_there)
        return new

    def _number_groups(self, new: Index) -> None:
        """From our numbers to the new index's, which has only the groups that are used."""
        numbers = {number: new.group(self._metas[number]) for number in sorted(set(new.groups))}
        for part in self._parts(len(new.groups)):
            new.groups[part] = array(new.groups.typecode, map(numbers.__getitem__, new.groups[part]))

    @staticmethod
    def _parts(count: int) -> Iterator[slice]:
        return (slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS))


def _by_origin(index: Index) -> Iterator[tuple[Origin, array[int], array[int]]]:
    """(origin, original ids, rows) of each, in the order of the rows."""
    found = {origin: (array("q"), array("q")) for origin in index.origins.values()}
    of_group = [found.get(origin) for origin in index.group_origins]
    for row, (group, original) in enumerate(zip(index.groups, index.originals, strict=True)):
        there = of_group[group]
        assert there is not None
        there[0].append(original)
        there[1].append(row)
    return ((origin, *of_origin) for origin, of_origin in found.items())


def _used(flows: SortedMap, index: Index, origin: Origin) -> SortedMap:
    """Those that an operation still belongs to."""
    alive = {index.flows[row] for _, row in origin.rows.items()}
    kept = SortedMap()
    for theirs, ours in flows.items():
        if ours in alive:
            kept.put(theirs, ours)
    return kept

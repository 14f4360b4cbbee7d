"""The operation log: every operation of this instance and of its clients, in one file of JSON lines.

It holds a million operations of fifty machines: what is kept in memory is an index of the file, and the
bodies are read when they are asked for. This module is what callers see; opcore.py has the commits (durable
before they are acknowledged, told in order), opformat.py the lines of the file, opindex.py the index,
opquery.py the queries, opstage.py what the writing methods do, opscan.py and oprepair.py what helps after damage.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, islice
from typing import Any

from backrest.errors import NotFoundError
from backrest.store import opload, opquery, oprepair, opstage
from backrest.store.opchange import Attachment, Callback, Change, Predicate
from backrest.store.opcompact import Compacted
from backrest.store.opcore import OpCore
from backrest.store.opfile import operations
from backrest.store.opformat import Operation, OperationList
from backrest.store.opheld import Held
from backrest.store.opindex import Meta
from backrest.store.opquery import Query
from backrest.store.opscan import Report
from backrest.store.opstage import Applied, Stage
from backrest.store.quota import Quota

__all__ = ["Applied", "Attachment", "Change", "Compacted", "Meta", "OpLog", "Query", "Report"]

# Bodies read and handed out at a time by query and read: 512 is also what one message of the sync carries.
READ_BATCH = 512
# And no more than so many bytes of lines, or one line: 512 of a mebibyte would be gigabytes once they are parsed.
READ_BYTES = 4 << 20


def batched(ids: Iterable[int], most: int) -> Iterator[list[int]]:
    """The ids in lists of at most so many."""
    rest = iter(ids)
    while some := list(islice(rest, most)):
        yield some


class OpLog(OpCore):
    """See the module's text. All methods block and can be called from any thread."""

    @staticmethod
    def verify(path: str | os.PathLike[str], progress: opload.Progress | None = None) -> Report:
        """Read a log that is not open, every line thoroughly; oprepair.py."""
        return oprepair.verify(path, progress)

    @staticmethod
    def repair(path: str | os.PathLike[str], progress: opload.Progress | None = None) -> Report:
        """Make a log that is not open one that opens, with the bad lines set aside; oprepair.py."""
        return oprepair.repair(path, progress)

    # Writing

    def add(self, ops: Sequence[Operation], joins: Mapping[int, int] | None = None) -> list[Operation]:
        """New operations of our own, as they were stored: with id, modno and flow_id (its id, unless given).

        ``joins``: position -> an earlier position, whose flow this one belongs to. All or none: UserError when
        one is not valid or brings an id or modno of its own.
        """
        return self._submit(partial(opstage.add, operations=list(ops), joins=joins or {}))

    def update(self, ops: Sequence[Operation]) -> list[Operation]:
        """Operations of our own in the place of those with their ids, each with a fresh modno.

        All or none: NotFoundError for an unknown id, UserError for a peer's operation or an invalid one.
        """
        return self._submit(partial(opstage.update, operations=list(ops)))

    def delete(self, ids: Iterable[int]) -> list[int]:
        """The ids that existed and are gone, of whatever origin; unknown ones are ignored."""
        return self._submit(partial(opstage.delete, ids=list(ids)))

    def apply(
        self,
        keyid: str,
        upserts: Sequence[Operation] = (),
        deletes: Iterable[int] = (),
        *,
        keep_newer: bool = False,
        still: Callable[[], bool] | None = None,
        permits: Predicate | None = None,
        quota: Quota | None = None,
    ) -> Applied:
        """What a peer sent, under its ids (PROTOCOL.md 6): first the operations, then the ids it deleted.

        May be repeated: what is held already in the same state is not written again. Each operation is judged
        on its own; an invalid one is reported and not stored. ``keep_newer`` leaves what is held alone when
        its modno is higher (for live changes, which the reference may send in the wrong order, W-19; not for
        answers to a request, where the manifest has decided). Fields that our schema lacks are not kept.

        ``still`` is asked inside the commit; when it says no, nothing is stored and ``Applied.closed`` is set.
        Together with ``settled`` that makes a withdrawal of rights final. ``permits`` is asked of what is held:
        what it refuses is neither replaced nor deleted. What ``quota`` has no room for is not stored; one operation
        that is larger than any may be is cut (opcut.py).
        """
        if not keyid:
            raise ValueError("operations of a peer need its key id")
        return self._submit(
            partial(
                opstage.apply,
                keyid=keyid,
                arrival=opstage.receive(keyid, upserts),
                deletes=list(deletes),
                keep_newer=keep_newer,
                still=still,
                permits=permits,
                quota=quota,
            )
        )

    def settled(self) -> None:
        """Returns when every commit that had begun has ended. What ``apply`` was given by a caller whose
        ``still`` says no by now is not stored after this."""
        with self._exclusive():
            pass

    def purge(self, keyid: str) -> int:
        """Delete all that is held of a peer. How many operations that were."""
        if not keyid:
            raise ValueError("our own operations cannot be purged")

        def plan(stage: Stage) -> tuple[list[int], list[Change]]:
            mine = Query(origin=keyid)
            held = opquery.select(opquery.View(stage.index, mine), mine)
            return opstage.delete(stage, [*held, *stage.stored_from(keyid)])

        return len(self._submit(plan))

    # Being told

    def attach(self, callback: Callback, predicate: Predicate) -> Attachment:
        """The manifest of our own operations that the predicate accepts, and every later change of them.

        In one step: each change is either in the manifest or told, and none is both. The predicate is asked
        once for each set of operations that agree in repo, plan and instance, and must not change its mind.
        """
        attachment = Attachment(self, callback, predicate)
        with self._exclusive():
            with self._lock:
                index = self._index
                ids, modnos, groups, metas = index.ids[:], index.modnos[:], index.groups[:], index.metas[:]
            attachment.begin(self._subscribe(attachment.tell))
        wanted = opquery.groups_where(metas, lambda meta: not meta.origin and predicate(meta))
        flags = bytes(map(wanted.__contains__, groups))
        attachment.manifest_ids = array("q", compress(ids, flags))
        attachment.manifest_modnos = array("q", compress(modnos, flags))
        return attachment

    # Reading

    def get(self, number: int) -> Operation:
        """The operation with our id ``number``; NotFoundError."""
        for operation in self.read((number,)):
            return operation
        raise NotFoundError(f"there is no operation {number}")

    def read(self, ids: Iterable[int], predicate: Predicate | None = None) -> Iterator[Operation]:
        """Those of the ids that exist and that the predicate accepts, in the order given."""
        for some in self.pieces(ids):
            yield from self._read(some, predicate)

    def pieces(
        self, ids: Iterable[int], most: int = READ_BATCH, most_bytes: int = READ_BYTES
    ) -> Iterator[list[int]]:
        """The ids, in the order given, in lists of at most so many, whose lines have so many bytes together, or of one
        whose line has more. For whoever reads bodies: what they need in memory has a bound then."""
        some: list[int] = []
        size = 0
        for batch in batched(ids, most):
            with self._lock:
                index = self._index
                rows = map(index.row, batch)
                lengths = [0 if row is None else index.lengths[row] for row in rows]
            for number, length in zip(batch, lengths, strict=True):
                if some and (len(some) == most or size + length > most_bytes):
                    yield some
                    some, size = [], 0
                some.append(number)
                size += length
        if some:
            yield some

    def _read(self, numbers: Sequence[int], predicate: Predicate | None) -> Sequence[Operation]:
        some = OperationList()
        self.read_into(some.operations, numbers, predicate)
        return some.operations

    def read_into(
        self,
        target: Any,
        ids: Iterable[int],
        predicate: Predicate | None = None,
        most_bytes: float = math.inf,
    ) -> int:
        """As ``read``, all at once, into ``target``, the repeated field of a message: made there, not copied.

        Of the first ids, whose lines have ``most_bytes`` together, or one line more: returns how many ids that are. In
        the message they take less."""
        found, places = [], []
        size = count = 0
        seen: dict[int, bool] = {}  # what the predicate says of each group: many operations share one
        with self._lock:
            index = self._index
            for number in ids:
                if size >= most_bytes:
                    break
                count += 1
                row = index.row(number)
                if row is None:
                    continue
                group = index.groups[row]
                wanted = seen.get(group)
                if wanted is None:
                    wanted = seen[group] = predicate is None or predicate(index.metas[group])
                if wanted:
                    found.append(number)
                    length = index.lengths[row]
                    places.append((index.offsets[row], length))
                    size += length
            if not found:
                return count
            current = self._file
            current.hold()
        try:
            operations(current.file, found, places, target)
        finally:
            current.release()
        return count

    def query(self, query: Query) -> Iterator[Operation]:
        """What matches now, in the order (start time, id). Bodies are read as the caller goes on.

        What is deleted meanwhile is left out; what changes meanwhile comes as it is when it is read.
        """
        for some in self.pieces(self.select(query)):
            for operation in self._read(some, None):
                if query.snapshot_id is None or operation.snapshot_id == query.snapshot_id:
                    yield operation

    def select(self, query: Query) -> array[int]:
        """The ids of what matches, in the query's order, without reading bodies (a snapshot id is compared
        by its hash)."""
        return opquery.select(self._view(query), query)

    def matching(self, query: Query) -> int:
        """How many operations match, whatever limit and offset say."""
        return opquery.count(self._view(query), query)

    def newest(
        self, kinds: Collection[int], statuses: Collection[int], most: int
    ) -> dict[tuple[Meta, int, int], list[tuple[int, int]]]:
        """(what they share, kind, status) -> (start, id) of the ``most`` newest, newest first. One pass, no bodies."""
        query = Query(kind=kinds, status=statuses)
        return opquery.newest(self._view(query), query, most)

    def _view(self, query: Query) -> opquery.View:
        with self._lock:
            return opquery.View(self._index, query)

    def meta(self, number: int) -> Meta | None:
        """Origin, repo, plan and instance of an operation, without reading it; None when there is none."""
        with self._lock:
            return self._index.meta(number)

    def count(self, origin: str = "") -> int:
        """How many operations are held of a peer, or ("") are our own."""
        with self._lock:
            found = self._index.origins.get(origin)
            return found.count if found is not None else 0

    def used(self, origin: str) -> Quota:
        """What is held of a peer, as its quota counts it."""
        with self._lock:
            found = self._index.origins.get(origin)
            return Quota(found.bytes, found.count) if found is not None else Quota(0, 0)

    def origins(self) -> list[str]:
        """The key ids of the peers of whom something is held, also of those that are no clients any more."""
        with self._lock:
            return [keyid for keyid, origin in self._index.origins.items() if keyid and origin.count]

    def find_original(self, keyid: str, original: int) -> int | None:
        """Our id for a peer's operation, when it is held."""
        with self._lock:
            return self._index.find_original(keyid, original)

    def held(self, keyid: str) -> Held:
        """Original id -> modno of all that is held of a peer, as it is now."""
        with self._lock:
            return Held(*self._index.held(keyid))

    @property
    def highest(self) -> tuple[int, int]:
        """(highest id, highest modno of our own) ever given out."""
        with self._lock:
            return self._index.highest_id, self._index.highest_modno

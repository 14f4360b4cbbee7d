"""What the callers of one commit want, worked out before anything is written.

A ``Stage`` is the index as it will be, seen by the requests of one commit one after the other; each adds its
lines. Only when the lines are durable does the log put the stage into the index, so nobody ever reads what is
not on the disk, and when the write fails the stage is dropped and nothing has happened. The ids that it gave
out are then given out again: nobody was told of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import itemgetter
from typing import cast

import orjson

from backrest.errors import NotFoundError, StorageError, UserError
from backrest.store.opbulk import take_rows
from backrest.store.opchange import CREATED, DELETED, UPDATED, Change
from backrest.store.opcut import MOST_BYTES, cut
from backrest.store.opformat import (
    HIGHEST,
    KINDS,
    SNAPSHOT_LENGTHS,
    Json,
    Operation,
    deletion_lines,
    operation_line,
    problem,
)
from backrest.store.opindex import Index, Meta, Row, row_of, snapshot_key
from backrest.store.quota import Quota
from backrest.wire import codec


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a peer's operations. All ids are ours, except those in ``invalid``."""

    stored: list[int] = field(default_factory=list)  # created or changed
    deleted: list[int] = field(default_factory=list)
    unchanged: int = 0  # repeated, or older than what is held when that was to be kept
    invalid: list[tuple[int, str]] = field(default_factory=list)  # (original id, reason): not stored
    kept: list[int] = field(
        default_factory=list
    )  # original ids, held and out of the peer's reach: left alone
    over: list[int] = field(default_factory=list)  # original ids: the peer's quota has no room for them
    closed: bool = False  # nothing was stored: the peer had lost its rights when its turn came


# Groups (opindex.Meta) that a peer's operations may be in: each is kept in memory by itself, some 500 bytes and its
# names. A machine has as many as it has plans, and as many again after each change of its id.
MOST_GROUPS = 4096
# Characters of an id or guid of a peer's operation, for the same reason: a guid has 64, and a name 50 (ENGINE.md 1.8).
MOST_NAME = 256

# Far from what any log has counted to (opformat.HIGHEST), and no commit has so many operations as are left behind it.
_USED_UP = HIGHEST - (1 << 32)


class Stage:
    """The index and, on top of it, what the requests of this commit have changed so far."""

    def __init__(self, index: Index, read_line: Callable[[int], bytes], tell: bool) -> None:
        self.index = index
        self.tell = tell  # somebody listens: say what changed
        self.lines: list[bytes] = []
        # what to do to the index, in order: operations, or ids that are gone; and the lengths of their lines
        self.steps: list[tuple[list[Row] | list[int], list[int]]] = []
        self._run = False  # the last step takes further operations
        self._read_line = read_line
        self.highest_id = index.highest_id
        self.highest_modno = index.highest_modno
        if max(self.highest_id, self.highest_modno) > _USED_UP:
            raise StorageError(
                "The operation log has no numbers left: its highest id or modno cannot be right. Nothing can be added."
            )
        self._staged: dict[int, tuple[Row, bytes] | None] = {}  # None: deleted in this commit
        self._used: dict[str, list[int]] = {}  # of a peer: bytes, operations
        # by the key id of a peer: its numbers -> ours, of what this commit stores
        self._originals: dict[str, dict[int, int]] = {}
        self._flows: dict[str, dict[int, int]] = {}

    # The index as it will be

    def meta(self, number: int) -> Meta | None:
        """Of a live operation; None when there is none."""
        if number in self._staged:
            staged = self._staged[number]
            return None if staged is None else staged[0].meta
        return self.index.meta(number)

    def line(self, number: int) -> bytes:
        """The line of a live operation."""
        staged = self._staged.get(number)
        return self._read_line(number) if staged is None else staged[1]

    def modno(self, number: int) -> int:
        """Of a live operation."""
        staged = self._staged.get(number)
        if staged is not None:
            return staged[0].modno
        row = self.index.row(number)
        assert row is not None
        return self.index.modnos[row]

    def size(self, number: int) -> int:
        """Bytes of the line of a live operation, with its end."""
        staged = self._staged.get(number)
        if staged is not None:
            return len(staged[1])
        row = self.index.row(number)
        assert row is not None
        return self.index.lengths[row] + 1

    def used(self, keyid: str) -> list[int]:
        """[bytes, operations] of a peer, for whoever changes them to keep."""
        used = self._used.get(keyid)
        if used is None:
            origin = self.index.origins.get(keyid)
            used = self._used[keyid] = [0, 0] if origin is None else [origin.bytes, origin.count]
        return used

    def groups(self, keyid: str) -> int:
        """How many groups a peer's operations are in."""
        origin = self.index.origins.get(keyid)
        return 0 if origin is None else origin.groups

    def find_original(self, keyid: str, original: int) -> int | None:
        staged = self._originals.get(keyid)
        number = None if staged is None else staged.get(original)
        if number is None:
            number = self.index.find_original(keyid, original)
        return None if number is None or self._staged.get(number, True) is None else number

    def stored_from(self, keyid: str) -> list[int]:
        """Our ids of what this commit stores of a peer."""
        return list(self._originals.get(keyid, {}).values())

    def flow(self, keyid: str, original_flow: int, new: int | None) -> int:
        """Our flow for a peer's: as before, or a new one. It is named after its first operation, when that is
        ``new``; one that is moved may have named another flow already, so the name is then a number apart.
        """
        staged = self._flows.setdefault(keyid, {})
        flow = staged.get(original_flow) or self.index.find_flow(keyid, original_flow)
        if flow is None:
            flow = staged[original_flow] = self.next_id() if new is None else new
        return flow

    def next_id(self) -> int:
        self.highest_id += 1
        return self.highest_id

    def next_modno(self) -> int:
        self.highest_modno += 1
        return self.highest_modno

    # Changes

    def put(self, row: Row, line: bytes) -> None:
        self._staged[row.id] = (row, line)
        self.lines.append(line)
        if not self._run:
            self.steps.append(([], []))
            self._run = True
        rows, lengths = self.steps[-1]
        cast(list[Row], rows).append(row)
        lengths.append(len(line))

    def originals(self, keyid: str) -> dict[int, int]:
        """The ids of a peer's operations that this commit puts -> ours. The caller of ``put`` adds to it."""
        return self._originals.setdefault(keyid, {})

    def delete(self, numbers: list[int]) -> None:
        for number in numbers:
            self._staged[number] = None
        lines = list(deletion_lines(numbers))
        self.lines.extend(lines)
        self._run = False
        self.steps.append((numbers, [sum(map(len, lines))]))

    # Afterwards

    def settle(self, offset: int) -> None:
        """The lines are durable, from ``offset`` on: the index becomes what it was going to be."""
        for what, lengths in self.steps:
            ends = [*accumulate(lengths, initial=offset)]
            offset = ends.pop()
            if isinstance(what[0], Row):
                take_rows(self.index, what, ends, [length - 1 for length in lengths])
            else:
                for number in what:
                    self.index.delete(number)


def _own(doc: Json, line_of: str) -> None:
    """Refuses what an operation of our own cannot be."""
    if doc.keys() & {"originalId", "originalFlowId", "originalInstanceKeyid"}:
        raise UserError(f"{line_of}: original_* belongs to operations that came from a peer")
    reason = problem(doc)
    if reason is not None:
        raise UserError(f"{line_of}: {reason}")


def _line(operation: Operation, doc: Json, line_of: str) -> bytes:
    """The operation's line; one that is too large is cut, all three."""
    line = operation_line(doc)
    if len(line) > MOST_BYTES:
        if not cut(doc, len(line)):
            raise UserError(f"{line_of}: larger than {MOST_BYTES >> 20} MiB")
        line = operation_line(doc)
        operation.CopyFrom(codec.from_dict(Operation, doc))
    return line


def _copy(operation: Operation) -> Operation:
    copy = Operation()
    copy.CopyFrom(operation)
    return copy


def add(
    stage: Stage, operations: Sequence[Operation], joins: Mapping[int, int]
) -> tuple[list[Operation], list[Change]]:
    """New operations of our own: all of them, or UserError. ``joins``: see OpLog.add."""
    made: list[tuple[Operation, Json, bytes]] = []
    highest = stage.highest_id, stage.highest_modno
    try:
        for position, given in enumerate(operations):
            name = f"Operation {position + 1} of {len(operations)}"
            if given.id or given.modno:
                raise UserError(f"{name}: the log gives out id and modno")
            operation = _copy(given)
            operation.id, operation.modno = stage.next_id(), stage.next_modno()
            if position in joins:
                operation.flow_id = made[joins[position]][0].flow_id
            operation.flow_id = operation.flow_id or operation.id
            doc = codec.to_dict(operation)
            _own(doc, name)
            made.append((operation, doc, _line(operation, doc, name)))
    except BaseException:
        stage.highest_id, stage.highest_modno = highest
        raise
    return _result(stage, CREATED, made, [None] * len(made))


def update(stage: Stage, operations: Sequence[Operation]) -> tuple[list[Operation], list[Change]]:
    """Operations of our own as they are now, with fresh modnos: all of them, or UserError."""
    made: list[tuple[Operation, Json, bytes]] = []
    before: list[Meta | None] = []
    highest = stage.highest_modno
    try:
        for given in operations:
            name = f"Operation {given.id}"
            old = stage.meta(given.id)
            if old is None:
                raise NotFoundError(f"{name} does not exist")
            if old.origin:
                raise UserError(f"{name} came from a peer, which alone can change it")
            operation = _copy(given)
            operation.modno = stage.next_modno()
            doc = codec.to_dict(operation)
            _own(doc, name)
            made.append((operation, doc, _line(operation, doc, name)))
            before.append(old)
    except BaseException:
        stage.highest_modno = highest
        raise
    return _result(stage, UPDATED, made, before)


def _result(
    stage: Stage, kind: str, made: list[tuple[Operation, Json, bytes]], before: Sequence[Meta | None]
) -> tuple[list[Operation], list[Change]]:
    rows = [row_of(doc) for _, doc, _ in made]
    for row, (_, _, line) in zip(rows, made, strict=True):
        stage.put(row, line)
    changes = []
    if made and stage.tell:
        ids = tuple(operation.id for operation, _, _ in made)
        metas = tuple(row.meta for row in rows)
        changes.append(Change(kind, "", ids, metas, tuple(before), tuple(line for _, _, line in made)))
    return [operation for operation, _, _ in made], changes


def delete(stage: Stage, ids: Iterable[int]) -> tuple[list[int], list[Change]]:
    """Whatever of these exists is gone, of whatever origin; what does not exist is no error."""
    gone: list[int] = []
    by_origin: dict[str, list[tuple[int, Meta]]] = {}
    for number in dict.fromkeys(ids):
        meta = stage.meta(number)
        if meta is not None:
            gone.append(number)
            by_origin.setdefault(meta.origin, []).append((number, meta))
    if gone:
        stage.delete(gone)
    changes = []
    for origin, some in by_origin.items() if stage.tell else ():
        numbers, metas = zip(*some, strict=True)
        changes.append(Change(DELETED, origin, numbers, (), metas, ()))
    return gone, changes


#: a peer's operation as it will be kept, but for the numbers that only the commit gives it: id, modno, flow and
#: unix_time_start_ms as the peer gave them; snapshot_key, status, kind; its meta; and its line from ``repoId`` on
Received = tuple[int, int, int, int, int, int, int, Meta, bytes]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came of a peer in one go."""

    upserts: list[Received] = field(default_factory=list)
    invalid: list[tuple[int, str]] = field(default_factory=list)  # (id as the peer numbers it, reason)
    metas: list[Meta] = field(default_factory=list)  # of the operations


def receive(keyid: str, operations: Iterable[Operation]) -> Arrival:
    """Turn what a peer sent into what is kept: the costly part, done before the commit and outside of its lock.

    Whatever the peer itself gave as original is dropped: what it holds of others is not its to send.
    """
    arrival = Arrival()
    put = arrival.upserts.append
    kinds, line_of = KINDS.get, operation_line
    metas: dict[tuple[str, ...], Meta] = {}  # one object for all operations that agree
    for operation in operations:
        original, modno, flow = operation.id, operation.modno, operation.flow_id
        start = operation.unix_time_start_ms
        body = _body(operation)
        snapshot = body.get("snapshotId", "")
        try:
            names = _names(body)
        except KeyError:
            names = None
        positive = original > 0 and modno > 0 and flow > 0 and start > 0
        if names is None or not positive or len(snapshot) not in SNAPSHOT_LENGTHS:
            arrival.invalid.append((original, _refusal(operation)))
            continue
        meta = metas.get(names)
        if meta is None:
            if max(map(len, names)) > MOST_NAME:
                arrival.invalid.append((original, f"an id or guid of more than {MOST_NAME} characters"))
                continue
            meta = metas[names] = Meta(keyid, *names)
        kind = kinds(next(reversed(body)), 0)  # what it did stands last, as in the schema
        key, rest = snapshot_key(snapshot), line_of(body)[1:]
        if len(rest) > MOST_BYTES:
            if not cut(body, len(rest)):
                arrival.invalid.append((original, f"larger than {MOST_BYTES >> 20} MiB"))
                continue
            rest = line_of(body)[1:]
        put((original, modno, flow, start, key, operation.status, kind, meta, rest))
    arrival.metas.extend(metas.values())
    return arrival


def _refusal(operation: Operation) -> str:
    """Why a peer's operation is not taken."""
    if not operation.id:
        return "no id"
    if not operation.modno:
        return "no modno"
    return problem(codec.to_dict(operation)) or "a negative id, modno, flow_id or unix_time_start_ms"


# These stand at the front of the line, as they will be here.
_body = codec.to_dict_without(
    Operation, "id", "modno", "flow_id", "original_id", "original_flow_id", "original_instance_keyid"
)
_names = itemgetter("repoId", "repoGuid", "planId", "instanceId")
_LINE = b'{"id":"%d","originalId":"%d","modno":"%d","flowId":"%d","originalFlowId":"%d","originalInstanceKeyid":%s,%s'


def apply(
    stage: Stage,
    keyid: str,
    arrival: Arrival,
    deletes: Iterable[int],
    keep_newer: bool,
    still: Callable[[], bool] | None = None,
    permits: Callable[[Meta], bool] | None = None,
    quota: Quota | None = None,
) -> tuple[Applied, list[Change]]:
    """A peer's operations, as PROTOCOL.md 6 says ("How the hub stores a received operation")."""
    applied = Applied()
    if still is not None and not still():
        return replace(applied, closed=True), []
    applied.invalid.extend(arrival.invalid)
    unchanged = 0
    told: dict[int, tuple[Meta, Meta | None, bytes]] = {}
    keyid_json = orjson.dumps(keyid)
    put_before = stage.originals(keyid)
    used = stage.used(keyid)
    too_many = _groups_without_room(stage, keyid, arrival.metas) if quota is not None else frozenset()
    for original, modno, original_flow, start, snapshot, status, kind, meta, rest in arrival.upserts:
        number = stage.find_original(keyid, original)
        new = None
        if number is None:
            held, number = 0, (new := stage.next_id())
        else:
            held = stage.modno(number)
            if keep_newer and modno < held:
                unchanged += 1
                continue
            if permits is not None and not permits(_held(stage, number)):
                applied.kept.append(original)
                continue
        flow = stage.flow(keyid, original_flow, new)
        line = _LINE % (number, original, modno, flow, original_flow, keyid_json, rest)
        if modno == held and stage.line(number) == line:
            unchanged += 1
            continue
        more = len(line) if new is not None else len(line) - stage.size(number)
        if quota is not None and (
            (more > 0 and used[0] + more > quota.bytes)
            or (new is not None and used[1] >= quota.operations)
            or (too_many and meta in too_many)
        ):
            applied.over.append(original)
            continue
        used[0] += more
        used[1] += new is not None
        if stage.tell:
            before = told[number][1] if number in told else stage.meta(number)
            told[number] = (meta, before, line)
        row = Row(number, modno, flow, start, original, original_flow, snapshot, status, kind, meta)
        stage.put(row, line)
        put_before[original] = number
        applied.stored.append(number)
    ours: list[int] = []
    for original in deletes:
        found = stage.find_original(keyid, original)
        if found is not None and permits is not None and not permits(_held(stage, found)):
            applied.kept.append(original)
        elif found is not None:
            ours.append(found)
    used[0] -= sum(map(stage.size, set(ours)))
    used[1] -= len(set(ours))
    gone, changes = delete(stage, ours)
    applied.deleted.extend(gone)
    for kind_of_change in (UPDATED, CREATED):
        some = {n: entry for n, entry in told.items() if (entry[1] is None) is (kind_of_change == CREATED)}
        if some:
            metas, befores, lines = zip(*some.values(), strict=True)
            changes.insert(0, Change(kind_of_change, keyid, tuple(some), metas, befores, lines))
    return replace(applied, unchanged=unchanged), changes


def _groups_without_room(stage: Stage, keyid: str, metas: Sequence[Meta]) -> frozenset[Meta]:
    """Those of the groups that would be more than a peer may have."""
    fresh = [meta for meta in metas if meta not in stage.index.group_of]
    return frozenset(fresh[max(MOST_GROUPS - stage.groups(keyid), 0) :])


def _held(stage: Stage, number: int) -> Meta:
    meta = stage.meta(number)
    assert meta is not None, "find_original gives live operations only"
    return meta

"""Random work against a model of plain dicts, also with old saved indexes; the index's parts against plain things."""

from __future__ import annotations

import tempfile
from array import array
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oplog_world import OTHER, PEER, Operation, QuickDisk, everything, op, received
from store_disk import using

from backrest.errors import UserError
from backrest.store import opbulk, opsaved, sortedmap
from backrest.store.opbulk import take_all, take_rows
from backrest.store.opindex import Index, row_of
from backrest.store.oplog import Change, OpLog, Query
from backrest.store.opsnapshot import Snapshot
from backrest.store.sortedmap import SortedMap
from backrest.wire import codec

PEERS = st.sampled_from([PEER, OTHER])
SMALL = st.integers(1, 8)
PLANS = st.sampled_from(["photos", "music", "secret"])


class Machine(RuleBasedStateMachine):
    """The log, a model of it, and a hub that follows it by manifest and changes."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.disk = using(QuickDisk())
        self.disk.__enter__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(opsaved, "is_worth", lambda length, covered: length > covered)
        self.log = OpLog.open(Path(self.directory.name) / "oplog.jsonl")
        self.model: dict[int, Operation] = {}
        self.ids: dict[tuple[str, int], int] = {}
        self.highest = [0, 0]
        self.attach()
        self.saved: list[bytes] = []  # indexes that were beside the log at any time

    def attach(self) -> None:
        attachment = self.log.attach(self.follow, lambda meta: meta.plan_id != "secret")
        self.share = dict(zip(attachment.manifest_ids, attachment.manifest_modnos, strict=True))

    def follow(self, change: Change) -> None:
        for operation in change.operations:
            assert (operation.id in self.share) is (change.kind == "updated")
            self.share[operation.id] = operation.modno
        if change.kind == "deleted":
            for number in change.ids:
                del self.share[number]

    @rule(plans=st.lists(PLANS, max_size=4), start=SMALL)
    def add(self, plans: list[str], start: int) -> None:
        for stored in self.log.add([op(plan_id=plan, unix_time_start_ms=start) for plan in plans]):
            self.highest[0] += 1
            self.highest[1] += 1
            assert [stored.id, stored.modno] == self.highest
            self.model[stored.id] = stored

    @rule(data=st.data(), plan=PLANS)
    def update(self, data: st.DataObject, plan: str) -> None:
        own = [n for n, o in self.model.items() if not o.original_instance_keyid]
        if own:
            number = data.draw(st.sampled_from(own))
            changed = Operation()
            changed.CopyFrom(self.model[number])
            changed.plan_id = plan
            [self.model[number]] = self.log.update([changed])
            self.highest[1] += 1
            assert self.model[number].modno == self.highest[1]

    @rule(position=SMALL)
    def bad_add(self, position: int) -> None:
        with pytest.raises(UserError):
            self.log.add([op()] * position + [op(plan_id="")])

    @rule(numbers=st.lists(st.integers(1, 30), max_size=4))
    def delete(self, numbers: list[int]) -> None:
        there = [n for n in dict.fromkeys(numbers) if n in self.model]
        assert self.log.delete(numbers) == there
        for number in there:
            self.forget(number)

    def forget(self, number: int) -> None:
        gone = self.model.pop(number)
        self.ids.pop((gone.original_instance_keyid, gone.original_id), None)

    @rule(
        peer=PEERS,
        upserts=st.lists(st.tuples(SMALL, SMALL, SMALL, PLANS), max_size=6),
        deletes=st.lists(SMALL, max_size=3),
        keep_newer=st.booleans(),
    )
    def apply(
        self, peer: str, upserts: list[tuple[int, int, int, str]], deletes: list[int], keep_newer: bool
    ) -> None:
        sent = [received(o, m, flow_id=f, plan_id=p, unix_time_start_ms=m) for o, m, f, p in upserts]
        applied = self.log.apply(peer, sent, deletes, keep_newer=keep_newer)
        numbers = iter(applied.stored)
        for operation in sent:
            known = self.ids.get((peer, operation.id))
            if known is not None:
                held = self.model[known]
                if (keep_newer and operation.modno < held.modno) or same(operation, held):
                    continue
                assert next(numbers) == known
            else:
                known = self.ids[peer, operation.id] = next(numbers)
                assert known > self.highest[0]
                self.highest[0] = known
            ours = Operation()
            ours.CopyFrom(operation)
            ours.id, ours.original_id, ours.original_instance_keyid = known, operation.id, peer
            ours.original_flow_id = operation.flow_id
            self.model[known] = ours
        assert next(numbers, None) is None
        assert self.log.highest[0] >= self.highest[0]
        self.highest[0] = self.log.highest[0]  # a flow that is moved takes a number too
        assert applied.unchanged == len(sent) - len(applied.stored)
        gone = [self.ids[peer, o] for o in dict.fromkeys(deletes) if (peer, o) in self.ids]
        assert applied.deleted == gone
        for number in gone:
            self.forget(number)
        self.flows_agree()

    def flows_agree(self) -> None:
        """One flow of a peer is one flow here, and no two are."""
        flows: dict[tuple[str, int], int] = {}
        for number, operation in self.model.items():
            real = self.log.get(number)
            operation.flow_id = real.flow_id
            if real.original_instance_keyid:
                key = real.original_instance_keyid, real.original_flow_id
                assert flows.setdefault(key, real.flow_id) == real.flow_id
        assert len(set(flows.values())) == len(flows)

    @rule(peer=PEERS)
    def purge(self, peer: str) -> None:
        mine = [n for n, o in self.model.items() if o.original_instance_keyid == peer]
        assert self.log.purge(peer) == len(mine)
        for number in mine:
            self.forget(number)

    @rule()
    def compact(self) -> None:
        self.log.compact()

    @rule(clean=st.booleans(), index=st.sampled_from(["kept", "gone", "another"]), data=st.data())
    def reopen(self, clean: bool, index: str, data: st.DataObject) -> None:
        if clean:
            self.log.close()
        else:
            self.log._file.retire()  # as a killed process leaves it
        saved = Path(opsaved.path_of(self.log.path))
        if saved.exists():
            self.saved.append(saved.read_bytes())
            if index == "gone":
                saved.unlink()
        if index == "another" and self.saved:
            saved.write_bytes(data.draw(st.sampled_from(self.saved)))
        self.log = OpLog.open(self.log.path)
        before = self.share
        self.attach()
        assert self.share == before

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        assert everything(self.log) == self.model
        assert list(self.log.highest) == self.highest
        assert [o.id for o in self.log.query(Query())] == sorted(
            self.model, key=lambda n: (self.model[n].unix_time_start_ms, n)
        )
        assert self.share == {
            n: o.modno
            for n, o in self.model.items()
            if not o.original_instance_keyid and o.plan_id != "secret"
        }

    def teardown(self) -> None:
        if hasattr(self, "model"):
            try:
                self.log.close()
                report = OpLog.verify(self.log.path)
                assert (report.bad_lines, report.operations) == (0, len(self.model))
            finally:
                self.disk.__exit__(None, None, None)
                self.patch.undo()
                self.directory.cleanup()


def same(sent: Operation, held: Operation) -> bool:
    return (sent.modno, sent.plan_id, sent.flow_id) == (held.modno, held.plan_id, held.original_flow_id)


TestAgainstTheModel = Machine.TestCase
TestAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=25)


# The parts of the index


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(0, 9))), st.integers(0, 3))
def test_sorted_map_is_a_dict(items: list[tuple[int, int]], wait: int) -> None:
    plain: dict[int, int] = {}
    ours = SortedMap()
    before, sortedmap._WAIT = sortedmap._WAIT, wait
    try:
        for key, value in items:
            plain[key] = value
            ours.put(key, value)
            assert ours.last >= max(0, *plain) or len(ours._extra) > 0
    finally:
        sortedmap._WAIT = before
    for key in range(-6, 42):
        assert ours.get(key) == plain.get(key)
    assert len(ours) == len(plain)
    assert list(ours.items()) == sorted(plain.items())
    assert all(ours.get(key) == value for key, value in plain.items())


def docs(draw: st.DrawFn) -> list[dict[str, Any]]:
    made = []
    for number in draw(st.lists(st.integers(1, 30), max_size=25, unique=True).map(sorted)):
        peer = draw(st.sampled_from(["", "", PEER, OTHER]))
        fields: dict[str, Any] = {"id": number, "modno": draw(SMALL), "flow_id": draw(SMALL)}
        if peer or draw(st.integers(0, 20)) == 0:
            fields |= {"original_id": draw(st.integers(-1, 30)), "original_flow_id": draw(st.integers(0, 5))}
        fields |= {"original_instance_keyid": peer, "plan_id": draw(PLANS)}
        made.append(codec.to_dict(op(**fields)))
    return made


@settings(max_examples=200)
@given(st.composite(docs)(), st.composite(docs)())
def test_many_at_once_are_indexed_as_one_by_one(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    slow, by_lines, by_rows = Index(), Index(), Index()
    offset = 0
    for batch in (first, second):
        lengths = [len(orjson.dumps(doc)) for doc in batch]
        offsets = [offset + sum(lengths[:place]) for place in range(len(batch))]
        offset += 10_000
        errors = []
        for index in (slow, by_lines, by_rows):
            try:
                if index is by_rows:
                    rows = []
                    try:
                        rows.extend(map(row_of, batch))
                    finally:
                        take_rows(index, rows, offsets[: len(rows)], lengths[: len(rows)])
                else:
                    taken = take_all(index, batch, offsets, lengths) if index is by_lines and batch else 0
                    for place in range(taken, len(batch)):
                        index.put(batch[place], offsets[place], lengths[place])
            except ValueError as error:
                errors.append(str(error))
        assert len(errors) in (0, 3)
        assert len(set(errors)) < 2
        assert describe(slow) == describe(by_lines) == describe(by_rows)
        if errors:
            return
    squeezed = Snapshot(slow, 0).index(array("q", slow.offsets))
    assert describe(squeezed)[0] == describe(slow)[0]
    assert describe(squeezed)[2:] == describe(slow)[2:]
    for keyid, origin in squeezed.origins.items():
        assert list(origin.rows.items()) == list(slow.origins[keyid].rows.items())
        used = {
            flow
            for flow, group in zip(slow.flows, slow.groups, strict=True)
            if slow.metas[group].origin == keyid
        }
        kept = [(o, f) for o, f in slow.origins[keyid].flows.items() if f in used]
        assert list(origin.flows.items()) == kept


def describe(index: Index) -> Any:
    rows = [
        (
            *(column[row] for column in index.columns() if column is not index.groups),
            index.metas[index.groups[row]],
        )
        for row in range(len(index.ids))
    ]
    origins = {
        keyid: (origin.count, list(origin.rows.items()), sorted(origin.flows.items()))
        for keyid, origin in index.origins.items()
        if origin.count
    }
    return rows, origins, index.highest_id, index.highest_modno, index.live, index.live_bytes


def test_the_fast_way_is_taken_for_ordinary_lines() -> None:
    def append_all(index: Index, docs: list[dict[str, Any]], *places: range) -> bool:
        columns = opbulk._columns(docs)
        return columns is not None and opbulk._append(index, columns, *places)

    index = Index()
    ordinary = [codec.to_dict(op(id=n, modno=n, flow_id=n)) for n in range(1, 9)]
    theirs = [
        codec.to_dict(
            op(id=n, modno=n, flow_id=n, original_id=n, original_flow_id=n, original_instance_keyid=PEER)
        )
        for n in range(9, 20)
    ]
    assert append_all(index, ordinary, range(8), range(8))
    assert append_all(index, theirs, range(11), range(11))
    mixed = [
        codec.to_dict(
            op(id=n, modno=n, flow_id=n, original_id=n, original_flow_id=n, original_instance_keyid=k)
        )
        for n, k in ((20, PEER), (21, OTHER), (22, PEER))
    ]
    assert append_all(index, mixed, range(3), range(3))
    assert not append_all(index, ordinary, range(8), range(8))
    assert opbulk.BATCH > 1

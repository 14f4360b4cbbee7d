"""The operation log's contract (ENGINE.md 8.10 and PROTOCOL.md 6), seen from its callers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from oplog_world import BACKUP, GUID, OTHER, PEER, RECORDED, Operation, everything, op, received, reopened

from backrest import wire
from backrest.errors import NotFoundError, StorageError, UserError
from backrest.store import opquery
from backrest.store.oplog import OpLog, Query


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OpLog]:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    yield log
    log.close()


def lines(log: OpLog) -> list[Any]:
    return [json.loads(line) for line in Path(log.path).read_text().splitlines()]


# Our own operations


def test_add_gives_out_id_modno_and_flow(log: OpLog) -> None:
    first, second = log.add([op(), op(flow_id=1)])
    assert (first.id, first.modno, first.flow_id) == (1, 1, 1)
    assert (second.id, second.modno, second.flow_id) == (2, 2, 1)
    assert log.get(2) == second
    assert log.highest == (2, 2)


def test_given_operation_is_not_touched(log: OpLog) -> None:
    given = op()
    log.add([given])
    assert given == op()


def test_recorded_operations_are_kept_to_the_last_field(log: OpLog) -> None:
    given = []
    for recorded in RECORDED:
        new = Operation()
        new.CopyFrom(recorded)
        new.id = new.modno = new.flow_id = 0
        given.append(new)
    stored = log.add(given)
    for recorded, ours in zip(RECORDED, stored, strict=True):
        ours.id, ours.modno, ours.flow_id = recorded.id, recorded.modno, recorded.flow_id
        assert ours == recorded
    assert everything(reopened(log)).keys() == {o + 1 for o in range(len(RECORDED))}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": 5}, "gives out id"),
        ({"modno": 5}, "gives out id"),
        ({"repo_id": ""}, "no repo_id"),
        ({"repo_guid": ""}, "no repo_guid"),
        ({"plan_id": ""}, "no plan_id"),
        ({"instance_id": ""}, "no instance_id"),
        ({"unix_time_start_ms": 0}, "no unix_time_start_ms"),
        ({"snapshot_id": "ab"}, "snapshot_id of 2 characters"),
        ({"original_id": 3}, "belongs to operations that came from a peer"),
        ({"original_instance_keyid": "k"}, "belongs to operations that came from a peer"),
    ],
)
def test_invalid_new_operation_refuses_the_whole_call(
    log: OpLog, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=f"Operation 2 of 2.*{reason}"):
        log.add([op(), op(**fields)])
    assert everything(log) == {}
    assert log.add([op()])[0].id == 1


def test_update_keeps_the_id_and_bumps_the_modno(log: OpLog) -> None:
    [one], [two] = log.add([op()]), log.add([op()])
    one.plan_id = "music"
    [changed] = log.update([one])
    assert (changed.id, changed.modno, changed.plan_id) == (1, 3, "music")
    assert log.get(1) == changed
    assert [o.id for o in log.query(Query(plan_id="photos"))] == [2]
    assert [o.id for o in log.query(Query(plan_id="music"))] == [1]
    assert log.get(2) == two


def test_update_of_the_unknown_or_foreign_is_refused_as_a_whole(log: OpLog) -> None:
    [one] = log.add([op()])
    [foreign] = log.apply(PEER, [received(1)]).stored
    with pytest.raises(NotFoundError, match="Operation 9 does not exist"):
        log.update([one, op(id=9, flow_id=1)])
    with pytest.raises(UserError, match="came from a peer"):
        log.update([op(id=foreign, flow_id=1)])
    with pytest.raises(UserError, match="no flow_id"):
        log.update([op(id=1)])
    assert log.get(1) == one


def test_one_update_call_may_name_an_id_twice(log: OpLog) -> None:
    [one] = log.add([op()])
    one.display_message = "first"
    again = Operation()
    again.CopyFrom(one)
    again.display_message = "second"
    assert [o.modno for o in log.update([one, again])] == [2, 3]
    assert log.get(1).display_message == "second"


def test_delete_ignores_unknown_ids(log: OpLog) -> None:
    log.add([op(), op(), op()])
    assert log.delete([2, 2, 99]) == [2]
    assert log.delete([]) == []
    assert log.delete([2]) == []
    assert list(everything(reopened(log))) == [1, 3]
    with pytest.raises(NotFoundError):
        log.get(2)


def test_the_newest_of_each_kind_and_outcome_are_found(log: OpLog) -> None:
    failed = wire.operations.STATUS_ERROR
    mine = log.add(
        [op(unix_time_start_ms=start) for start in (4, 9, 2, 7)] + [op(status=failed), op(plan_id="music")]
    )
    log.apply(PEER, [received(1)])
    found = log.newest([BACKUP], [mine[0].status, failed], 2)
    seen = {(meta.origin, meta.plan_id, status): rows for (meta, _, status), rows in found.items()}
    assert seen.pop(("", "photos", mine[0].status)) == [(9, mine[1].id), (7, mine[3].id)]
    assert seen.pop(("", "photos", failed)) == [(1000, mine[4].id)]
    assert seen.pop(("", "music", mine[0].status)) == [(1000, mine[5].id)]
    assert [origin for origin, *_ in seen] == [PEER]
    assert log.newest([BACKUP + 1], [failed], 2) == {}


def test_thousands_are_added_and_deleted_in_one_call(log: OpLog) -> None:
    assert len(log.add([op() for _ in range(10_000)])) == 10_000
    assert len(log.delete(range(1, 9_001))) == 9_000
    assert len(everything(reopened(log))) == 1_000


def test_ids_and_modnos_are_not_reused_after_deletion_and_restart(log: OpLog) -> None:
    log.add([op(), op()])
    log.update([log.get(1)])
    log.delete([1, 2])
    again = reopened(log)
    again.compact()
    again = reopened(again)
    [new] = again.add([op()])
    assert (new.id, new.modno) == (3, 4)
    again.close()


# Received ones


def test_received_operation_is_stored_under_our_numbers(log: OpLog) -> None:
    log.add([op()])
    applied = log.apply(PEER, [received(70, 900, flow_id=60), received(71, 901, flow_id=60)])
    assert (applied.stored, applied.deleted, applied.invalid, applied.unchanged) == ([2, 3], [], [], 0)
    ours = log.get(3)
    assert (ours.original_id, ours.original_flow_id, ours.original_instance_keyid) == (71, 60, PEER)
    assert (ours.modno, ours.flow_id) == (901, 2)
    assert log.highest == (3, 1)
    assert log.add([op()])[0].modno == 2


def test_what_a_peer_claims_as_original_is_overwritten(log: OpLog) -> None:
    lie = received(1, original_id=5, original_flow_id=6, original_instance_keyid="")
    lie.original_instance_keyid = OTHER
    [stored] = log.apply(PEER, [lie]).stored
    ours = log.get(stored)
    assert (ours.original_id, ours.original_flow_id, ours.original_instance_keyid) == (1, 1, PEER)
    assert log.count("") == 0


def test_same_original_id_is_the_same_operation_and_flow_ever_after(log: OpLog) -> None:
    log.apply(PEER, [received(1, 5, flow_id=9)])
    log.apply(OTHER, [received(1, 5, flow_id=9)])
    again = reopened(log)
    assert again.apply(PEER, [received(1, 6, flow_id=9), received(2, 7, flow_id=9)]).stored == [1, 3]
    assert again.get(3).flow_id == again.get(1).flow_id != again.get(2).flow_id
    again.delete([1])
    again.compact()
    again = reopened(again)
    assert again.apply(PEER, [received(4, 8, flow_id=9)]).stored == [4]
    assert again.get(4).flow_id == again.get(3).flow_id
    again.close()


def test_create_after_delete_is_applied(log: OpLog) -> None:
    log.apply(PEER, [received(1)])
    assert log.apply(PEER, (), [1]).deleted == [1]
    assert log.apply(PEER, [received(1)]).stored == [2]
    assert dict(log.held(PEER)) == {1: 1}


def test_repeated_message_is_not_written_again(log: OpLog) -> None:
    message = [received(n, 10 + n) for n in range(1, 4)]
    log.apply(PEER, message)
    size = log.size
    applied = log.apply(PEER, message)
    assert (applied.stored, applied.unchanged) == ([], 3)
    assert log.size == size


def test_equal_modno_with_other_content_is_stored(log: OpLog) -> None:
    log.apply(PEER, [received(1, 5)])
    assert log.apply(PEER, [received(1, 5, plan_id="music")]).stored == [1]
    assert log.get(1).plan_id == "music"


def test_lower_modno_is_stored_unless_the_newer_is_to_be_kept(log: OpLog) -> None:
    log.apply(PEER, [received(1, 5)])
    applied = log.apply(PEER, [received(1, 4, plan_id="late")], keep_newer=True)
    assert (applied.stored, applied.unchanged) == ([], 1)
    assert log.apply(PEER, [received(1, 4, plan_id="reset")]).stored == [1]
    assert (log.get(1).modno, log.get(1).plan_id) == (4, "reset")


def test_twice_in_one_message_the_last_counts(log: OpLog) -> None:
    applied = log.apply(
        PEER, [received(1, 1), received(1, 2, plan_id="music"), received(2, 3), received(2, 3)]
    )
    assert applied.stored == [1, 1, 2]
    assert applied.unchanged == 1
    assert {i: o.plan_id for i, o in everything(reopened(log)).items()} == {1: "music", 2: "photos"}


def test_invalid_operation_of_a_peer_is_refused_alone(log: OpLog) -> None:
    bad = [
        received(0),
        received(1, 0),
        received(2, flow_id=0),
        received(3, repo_guid=""),
        received(4, snapshot_id="x" * 63),
        received(5, unix_time_start_ms=0, plan_id=""),
    ]
    applied = log.apply(PEER, [*bad, received(9, snapshot_id="a" * 64)])
    assert applied.stored == [1]
    assert applied.invalid == [
        (0, "no id"),
        (1, "no modno"),
        (2, "no flow_id"),
        (3, "no repo_guid"),
        (4, "a snapshot_id of 63 characters instead of 64"),
        (5, "no plan_id, unix_time_start_ms"),
    ]


def test_hostile_numbers_and_texts_are_stored_and_read_back(log: OpLog) -> None:
    extremes = [2**63 - 1, 2**62, 1]
    hostile = [
        received(n, n, flow_id=n, unix_time_start_ms=n, plan_id='"\\\n\u2028\0', status=2**31 - 1)
        for n in extremes
    ]
    assert log.apply(PEER, hostile).stored == [1, 2, 3]
    again = reopened(log)
    assert {o.original_id for o in again.query(Query())} == set(extremes)
    assert [o.unix_time_start_ms for o in again.query(Query())] == sorted(extremes)
    assert again.apply(PEER, hostile).unchanged == 3
    assert again.apply(PEER, (), extremes).deleted == [1, 2, 3]
    again.close()


def test_fields_that_the_schema_lacks_are_dropped(log: OpLog) -> None:
    extended = Operation.FromString(received(1).SerializeToString() + b"\xca\x3e\x03abc")  # field 1001
    log.apply(PEER, [extended])
    assert log.apply(PEER, [received(1)]).unchanged == 1


def test_peers_do_not_see_each_others_ids(log: OpLog) -> None:
    log.apply(PEER, [received(1), received(2)])
    log.apply(OTHER, [received(1)])
    assert log.apply(OTHER, (), [1, 2]).deleted == [3]
    assert (log.count(PEER), log.count(OTHER), log.origins()) == (2, 0, [PEER])


def test_purge_removes_one_peer_alone(log: OpLog) -> None:
    log.add([op()])
    log.apply(PEER, [received(n) for n in range(1, 6000)])
    log.apply(OTHER, [received(1)])
    assert log.purge(PEER) == 5999
    assert log.purge(PEER) == 0
    again = reopened(log)
    assert (again.count(), again.count(PEER), again.origins()) == (1, 0, [OTHER])
    with pytest.raises(ValueError, match="cannot be purged"):
        again.purge("")
    again.close()


def test_a_peer_needs_a_key_id(log: OpLog) -> None:
    with pytest.raises(ValueError, match="key id"):
        log.apply("", [received(1)])


def test_held_is_a_mapping_of_one_moment(log: OpLog) -> None:
    log.apply(PEER, [received(3, 30), received(1, 10), received(2, 20)])
    held = log.held(PEER)
    log.apply(PEER, [received(1, 11)], [2])
    assert dict(held) == {1: 10, 2: 20, 3: 30}
    assert (len(held), list(held), list(held.items())) == (3, [1, 2, 3], [(1, 10), (2, 20), (3, 30)])
    assert 2 in held
    assert 4 not in held
    assert "x" not in held
    assert (held.get(4), held.get(4, -1), held.get(3)) == (None, -1, 30)
    with pytest.raises(KeyError):
        held[4]
    assert dict(log.held("ed25519.unknown")) == {}
    log.add([op()])
    assert dict(log.held("")) == {}


# Queries


def found(log: OpLog, **fields: Any) -> list[int]:
    ids = [operation.id for operation in log.query(Query(**fields))]
    assert list(log.select(Query(**fields))) == ids
    return ids


def test_order_is_start_time_then_id(log: OpLog) -> None:
    log.add([op(unix_time_start_ms=t) for t in (30, 10, 20, 10)])
    assert found(log) == [2, 4, 3, 1]
    assert found(log, reversed=True) == [1, 3, 4, 2]
    assert found(log, limit=2) == [2, 4]
    assert found(log, limit=2, offset=1) == [4, 3]
    assert found(log, offset=3) == [1]
    assert found(log, offset=9) == []
    assert found(log, limit=2, reversed=True) == [1, 3]


def test_a_few_of_many_are_in_the_same_order_as_all(log: OpLog) -> None:
    log.add([op(unix_time_start_ms=1 + (n * 7919) % 50) for n in range(500)])
    for backwards in (False, True):
        every = found(log, reversed=backwards)
        assert found(log, limit=7, offset=3, reversed=backwards) == every[3:10]


def test_every_filter_selects_what_it_says(log: OpLog) -> None:
    forget = wire.operations.OperationForget()
    error = wire.operations.STATUS_ERROR
    plain = op()
    moved = op(plan_id="music", unix_time_start_ms=2000, status=error, snapshot_id="5" * 64)
    forgot = op(repo_id="b", repo_guid="cd" * 32, instance_id="desk", unix_time_start_ms=3000, flow_id=1)
    forgot.operation_forget.CopyFrom(forget)
    log.add([plain, moved, forgot])
    log.apply(PEER, [received(8, 100, flow_id=7), received(9, 101, flow_id=7, plan_id="music")])
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [1, 4, 5, 2, 3]),
        ({"ids": [5, 2, 77]}, [5, 2]),
        ({"ids": []}, []),
        ({"repo_id": "b"}, [3]),
        ({"repo_guid": GUID}, [1, 4, 5, 2]),
        ({"plan_id": "music"}, [5, 2]),
        ({"plan_id": "none"}, []),
        ({"snapshot_id": "5" * 64}, [2]),
        ({"snapshot_id": ""}, [1, 4, 5, 3]),
        ({"flow_id": 1}, [1, 3]),
        ({"flow_id": 4}, [4, 5]),
        ({"instance_id": "desk"}, [3]),
        ({"origin": ""}, [1, 2, 3]),
        ({"origin": PEER}, [4, 5]),
        ({"origin": OTHER}, []),
        ({"original_id": 9}, [5]),
        ({"original_id": 9, "origin": OTHER}, []),
        ({"original_flow_id": 7}, [4, 5]),
        ({"original_flow_id": 7, "origin": PEER, "plan_id": "music"}, [5]),
        ({"original_flow_id": 7, "flow_id": 1}, []),
        ({"modno_gte": 100}, [4, 5]),
        ({"status": error}, [2]),
        ({"status": {error, wire.operations.STATUS_SUCCESS}, "origin": ""}, [1, 2, 3]),
        ({"kind": BACKUP}, [1, 4, 5, 2]),
        ({"kind": [BACKUP + 2]}, [3]),
        ({"since_ms": 2000}, [2, 3]),
        ({"ids": [1, 2, 3], "origin": "", "since_ms": 2000, "plan_id": "photos"}, [3]),
    ]
    for fields, expected in cases:
        assert found(log, **fields) == expected, fields
        assert log.matching(Query(**fields)) == len(expected)
    log.delete([4])
    assert found(log, flow_id=4) == [5]
    assert found(log, original_id=8) == []
    assert found(log, ids=[4, 5]) == [5]


def test_common_value_is_found_as_well_as_a_rare_one(log: OpLog) -> None:
    log.add([op(flow_id=5 if n % 2 else 6) for n in range(4000)])
    assert found(log, flow_id=5) == list(range(2, 4001, 2))


def test_query_skips_what_is_deleted_meanwhile(log: OpLog) -> None:
    log.add([op() for _ in range(1000)])
    running = log.query(Query())
    next(running)
    log.delete(range(600, 1001))
    assert sum(1 for _ in running) == 598


def test_read_gives_the_order_asked_for(log: OpLog) -> None:
    log.add([op(plan_id=f"p{n % 3}") for n in range(1, 2000)])
    wanted = [1500, 3, 3, 9999, 700, 1]
    assert [o.id for o in log.read(wanted)] == [1500, 3, 3, 700, 1]
    assert [o.id for o in log.read(range(1, 10), lambda meta: meta.plan_id == "p1")] == [1, 4, 7]


def test_meta_is_known_without_reading(log: OpLog) -> None:
    log.apply(PEER, [received(1)])
    assert log.meta(1) == (PEER, "nas", GUID, "photos", "laptop")
    assert log.meta(2) is None


def test_closed_log_refuses_everything_in_one_sentence(log: OpLog) -> None:
    log.add([op()])
    log.close()
    log.close()
    with pytest.raises(StorageError, match="it is closed"):
        log.add([op()])
    with pytest.raises(StorageError, match="it is closed"):
        log.get(1)
    with pytest.raises(StorageError, match="it is closed"):
        log.compact()


def test_the_file_is_what_a_person_can_read(log: OpLog) -> None:
    log.add([op(), op()])
    log.delete([1])
    log.close()
    read = lines(log)
    assert read[0] == {"oplog": 1, "highestId": "0", "highestModno": "0"}
    assert list(read[1])[:6] == ["id", "modno", "flowId", "repoId", "repoGuid", "planId"]
    assert read[3] == {"deleted": ["1"]}
    assert read[4] == {"oplog": 1, "highestId": "2", "highestModno": "2"}
    assert Path(log.path).stat().st_mode & 0o777 == 0o600


def test_nobody_waits_while_a_query_looks_through_the_columns(
    log: OpLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a tenth of a second for a million operations, which the event loop must not stand still for."""
    log.add([op() for _ in range(9)])
    look = opquery._matching

    def slowly(view: opquery.View, query: Query) -> Any:
        pool.submit(log.delete, [1, 2]).result()
        pool.submit(log.add, [op()]).result()
        assert pool.submit(log.count).result() == 8
        return look(view, query)

    monkeypatch.setattr(opquery, "_matching", slowly)
    with ThreadPoolExecutor(1) as pool:  # another thread: the locks are not those of this one
        assert list(log.select(Query())) == list(range(1, 10)), "what was there when it was asked"

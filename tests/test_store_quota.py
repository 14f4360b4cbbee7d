"""What one peer can make the operation log hold, in bytes, operations and memory, however often it changes its mind."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from oplog_world import OTHER, PEER, Operation, QuickDisk, fill, op, received, reopened
from store_disk import using

from backrest import wire
from backrest.errors import UserError
from backrest.store import opcompact, opcut, opstage
from backrest.store.oplog import OpLog, Query
from backrest.store.quota import Quota
from backrest.wire import codec

PLENTY = 1 << 40


def line(original: int, **fields: object) -> int:
    """Bytes of the line of a peer's operation in a log of its own."""
    return len(codec.dumps(received(original, **fields)))


def true_use(log: OpLog) -> dict[str, Quota]:
    """Counted from the file's lines: what is held of each."""
    found: dict[str, Quota] = {}
    index = log._index
    for row in index.live_rows():
        origin = index.metas[index.groups[row]].origin
        before = found.get(origin, Quota(0, 0))
        found[origin] = Quota(before.bytes + index.lengths[row] + 1, before.operations + 1)
    return found


def agree(log: OpLog) -> None:
    for origin, quota in true_use(log).items():
        assert log.used(origin) == quota


def test_what_is_held_of_each_is_counted_whatever_happens(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    fill(log)
    agree(log)
    log = reopened(log)
    agree(log)
    log.compact()
    agree(log)
    log.apply(PEER, [received(5, 100, display_message="x" * 1000), received(3, 9)], [2])
    agree(log)
    log.purge(OTHER)
    assert log.used(OTHER) == Quota(0, 0)
    agree(log)
    log.close()


def test_the_saved_index_knows_what_is_held_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backrest.store.opsaved.WORTH_BYTES", 1)
    log = OpLog.open(tmp_path / "oplog.jsonl")
    fill(log)
    used = log.used(PEER)
    log = reopened(log)
    assert log._covered, "the index was saved, and used"
    assert log.used(PEER) == used
    agree(log)
    log.close()


def test_an_operation_more_than_the_quota_is_refused_alone(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    applied = log.apply(PEER, [received(n) for n in range(1, 4)], quota=Quota(PLENTY, 2))
    assert (applied.stored, applied.over) == ([1, 2], [3])
    applied = log.apply(PEER, [received(3), received(1, 7)], quota=Quota(PLENTY, 2))
    assert (applied.stored, applied.over) == ([1], [3]), "what is held may change"
    log.apply(OTHER, [received(1)], quota=Quota(PLENTY, 1))
    log.apply(PEER, (), [1], quota=Quota(PLENTY, 2))
    applied = log.apply(PEER, [received(3)], quota=Quota(PLENTY, 2))
    assert (len(applied.stored), applied.over) == (1, [])
    agree(log)
    log.close()


def test_a_byte_more_than_the_quota_is_refused(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    log.apply(PEER, [received(1)])
    one = log.used(PEER).bytes
    assert log.apply(PEER, [received(2)], quota=Quota(2 * one - 1, 9)).over == [2]
    assert log.apply(PEER, [received(2)], quota=Quota(2 * one, 9)).over == []
    longer = received(2, 2, display_message="x")
    assert log.apply(PEER, [longer], quota=Quota(2 * one, 9)).over == [2]
    assert [held.modno for held in log.query(Query(original_id=2))] == [1], "what was held stays"
    # One that was lowered below what is held: what makes it no larger is taken.
    assert log.apply(PEER, [received(2, 3)], quota=Quota(1, 0)).over == []
    agree(log)
    log.close()


def test_what_one_commit_refuses_leaves_room_for_what_is_smaller(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    log.apply(PEER, [received(1)])
    one = log.used(PEER).bytes
    some = [received(2), received(3, display_message="x" * 5000), received(4), received(5)]
    applied = log.apply(PEER, some, quota=Quota(3 * one, 9))
    assert applied.over == [3, 5]
    agree(log)
    log.close()


def test_names_that_a_peer_invents_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opstage, "MOST_GROUPS", 3)
    log = OpLog.open(tmp_path / "oplog.jsonl")
    quota = Quota(PLENTY, 100)
    applied = log.apply(PEER, [received(n, plan_id=f"p{n}") for n in range(1, 6)], quota=quota)
    assert applied.over == [4, 5]
    assert log.apply(PEER, [received(6, plan_id="p1")], quota=quota).over == []
    applied = log.apply(
        PEER,
        [received(7, plan_id="x" * opstage.MOST_NAME), received(8, plan_id="x" * (opstage.MOST_NAME + 1))],
    )
    assert len(applied.stored) == 1
    assert [number for number, _ in applied.invalid] == [8]
    log.close()


def large(**fields: object) -> Operation:
    return op(display_message="first line\n" + "x" * 3_000_000, logref="keep", **fields)


def test_an_operation_of_a_peer_that_is_too_large_is_cut_and_says_so(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    sent = received(7, 9, display_message="first line\n" + "x" * 3_000_000, logref="keep")
    [number] = log.apply(PEER, [sent]).stored
    held = log.get(number)
    assert (held.original_id, held.modno, held.logref) == (7, 9, "keep")
    assert held.status == sent.status
    assert held.display_message.startswith("first line\nxxx")
    assert "[cut: this operation had 3,000," in held.display_message
    assert opcut.MOST_BYTES - 8192 < log.used(PEER).bytes <= opcut.MOST_BYTES
    assert log.apply(PEER, [sent]).unchanged == 1, "it is cut to the same line each time"
    assert log.matching(Query(kind=Operation.OPERATION_BACKUP_FIELD_NUMBER)) == 1
    log.close()


def test_an_operation_of_just_the_size_is_not_cut(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    room = opcut.MOST_BYTES - len(codec.dumps(op(id=1, modno=1, flow_id=1, display_message="x")))
    [fits] = log.add([op(display_message="x" * room)])
    assert len(fits.display_message) == room
    [less] = log.update([op(id=fits.id, flow_id=fits.flow_id, display_message="x" * (room + 10))])
    assert "[cut:" in less.display_message
    assert log.get(fits.id) == less
    # The log of a client that is as large as may be is taken whole here.
    there = OpLog.open(tmp_path / "hub.jsonl")
    [number] = there.apply(PEER, [fits]).stored
    assert there.get(number).display_message == fits.display_message
    there.close()
    log.close()


def test_our_own_are_cut_the_longest_texts_first(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    errors = [wire.restic.BackupProgressError(item=f"/home/{n}", message="denied") for n in range(40_000)]
    [few] = log.add([op(operation_backup=wire.operations.OperationBackup(errors=errors))])
    assert 5_000 < len(few.operation_backup.errors) < 40_000
    assert few.operation_backup.errors[0] == errors[0]
    assert "[cut:" in few.display_message
    tags = ["t" * 2_000_000, "short", "é\n" * 1_000_000]
    snapshot = wire.restic.ResticSnapshot(id="a" * 64, tags=tags)
    [index] = log.add(
        [op(operation_index_snapshot=wire.operations.OperationIndexSnapshot(snapshot=snapshot))]
    )
    kept = index.operation_index_snapshot.snapshot.tags
    assert kept[1] == "short"
    assert kept[0].endswith("[cut]")
    assert kept[2].endswith("[cut]")
    assert list(log.query(Query())) == [few, index]
    with pytest.raises(UserError, match="larger than 1 MiB"):
        log.add([op(repo_id="x" * 2_000_000)])
    log.close()


def old_log(path: Path, operations: int, size: int) -> None:
    """As a program without these bounds left it."""
    lines = [b' {"oplog":1,"highestId":"0","highestModno":"0"}\n']
    for n in range(1, operations + 1):
        one = op(id=n, modno=n, flow_id=n, original_id=n, original_flow_id=n, original_instance_keyid=PEER)
        one.display_message = "x" * size
        lines.append(codec.dumps(one) + b"\n")
    path.write_bytes(b"".join(lines))


def test_a_log_of_large_operations_is_opened_read_and_compacted_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    old_log(path, 20, 5 << 20)
    tracemalloc.start()
    log = OpLog.open(path)
    shown = 0
    for one in log.query(Query()):
        assert "[cut: this operation had 5,2" in one.display_message
        shown += 1
    assert shown == 20
    log.delete([3])
    log.compact()
    assert log.count(PEER) == 19
    assert os.path.getsize(path) > 90 << 20, "nothing is lost of the file"
    log.close()
    assert OpLog.verify(path).bad_lines == 0
    assert tracemalloc.get_traced_memory()[1] < 16 * (5 << 20), "of one of them, not of all"
    tracemalloc.stop()


def test_bodies_are_read_by_bytes_and_not_by_rows(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    log.add([op(display_message="x" * 100_000) for _ in range(10)])
    ids = list(range(1, 12))
    assert [len(some) for some in log.pieces(ids, most_bytes=450_000)] == [4, 4, 3]
    assert [len(some) for some in log.pieces(ids, most_bytes=1)] == [1] * 10 + [1]
    assert [len(some) for some in log.pieces(ids, most=6)] == [6, 5]
    log.close()


# A million with BACKREST_ACTIONS=1000000: four minutes.
ACTIONS = int(os.environ.get("BACKREST_ACTIONS", "20000"))


def test_a_peer_that_acts_without_end_costs_no_more_than_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It creates, updates, deletes and creates again: file, index and groups stay as small as its quota."""
    monkeypatch.setattr(opcompact, "WORTH_BYTES", 256 << 10)
    quota = Quota(200_000, 300)
    with using(QuickDisk()):
        log = OpLog.open(tmp_path / "oplog.jsonl")
        log.add([op() for _ in range(10)])
        largest = rows = groups = 0
        for turn in range(ACTIONS // 100):
            base = 1 + turn * 50 % 1000
            upserts = [
                received(base + n, turn + 1, plan_id=f"p{turn}", display_message="x" * (n * 20))
                for n in range(50)
            ]
            deletes = range(base - 500, base - 450) if turn % 3 else range(base, base + 50)
            log.apply(PEER, upserts, deletes, quota=quota)
            log.compact_overdue()
            largest = max(largest, log.size[0])
            rows, groups = max(rows, len(log._index.ids)), max(groups, len(log._index.metas))
            assert log.used(PEER).bytes <= quota.bytes
            assert log.used(PEER).operations <= quota.operations
        agree(log)
        assert largest < 4 * (256 << 10) + 2 * quota.bytes
        assert rows < 10_000
        assert groups < opstage.MOST_GROUPS + 10
        assert log.count() == 10
        log.close()

"""Operations and logs for the tests of the operation log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backrest import wire
from backrest.store.oplog import OpLog, Query
from backrest.store.syscalls import Disk
from backrest.wire import codec

Operation = wire.operations.Operation
VECTORS = Path(__file__).parent.parent / "conformance" / "vectors"
RECORDED = [codec.loads(Operation, line) for line in (VECTORS / "operations.jsonl").read_text().splitlines()]

GUID = "ab" * 32
PEER = "ed25519.peer"
OTHER = "ed25519.other"
BACKUP = Operation.OPERATION_BACKUP_FIELD_NUMBER


class QuickDisk(Disk):
    """Syncs nothing: for tests that open thousands of files and cut no power."""

    def fsync(self, fd: int) -> None:
        pass

    def fsync_dir(self, path: str) -> None:
        pass


def op(**fields: Any) -> Operation:
    """A valid new operation of our own."""
    given: dict[str, Any] = {
        "repo_id": "nas",
        "repo_guid": GUID,
        "plan_id": "photos",
        "instance_id": "laptop",
        "unix_time_start_ms": 1000,
        "status": wire.operations.STATUS_SUCCESS,
        "operation_backup": {},
    }
    return Operation(**given | fields)


def received(original: int, modno: int = 1, **fields: Any) -> Operation:
    """One as a peer sends it."""
    return op(id=original, modno=modno, **{"flow_id": original} | fields)


def fill(log: OpLog) -> None:
    """Some of everything: half of it dead."""
    log.add([op(plan_id=f"p{n % 3}", unix_time_start_ms=100 - n) for n in range(20)])
    log.apply(PEER, [received(n, n) for n in range(40, 60)])
    log.apply(PEER, [received(n, n) for n in range(1, 20)])
    log.apply(OTHER, [received(n, n) for n in range(1, 10)])
    log.update([log.get(n) for n in range(1, 10)])
    log.apply(PEER, [received(5, 99)], [41, 42, 43])
    log.delete([18, 19, 20])


def everything(log: OpLog) -> dict[int, Operation]:
    """All operations by their ids, as queried; the counts must agree with it."""
    found = {operation.id: operation for operation in log.query(Query())}
    for origin in {"", *log.origins()}:
        mine = {i for i, operation in found.items() if operation.original_instance_keyid == origin}
        assert log.count(origin) == len(mine)
        assert list(log.read(sorted(mine))) == [found[i] for i in sorted(mine)]
        if origin:
            assert dict(log.held(origin)) == {found[i].original_id: found[i].modno for i in mine}
    assert log.matching(Query()) == len(found)
    return found


def reopened(log: OpLog) -> OpLog:
    """The same log after a clean end of the program; what it holds must be the same."""
    before, highest = everything(log), log.highest
    log.close()
    again = OpLog.open(log.path)
    assert everything(again) == before
    assert again.highest == highest
    return again

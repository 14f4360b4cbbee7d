"""Operations of a file, added as new ones of this instance: new ids, its name; what was one flow stays one.

A file is gone through twice, and never held: first every line is checked (``check_lines``), then batches of
lines are added (``batches``, ``import_operations``), each in one commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from backrest import wire
from backrest.admin.context import Context
from backrest.errors import UserError
from backrest.store.sortedmap import SortedMap
from backrest.wire import codec

Operation = wire.operations.Operation

# An operation has well under a kilobyte, one with many errors some tens.
LONGEST_LINE = 16 * 1024 * 1024
# Lines in one request and one commit: some 2 MB, and a tenth of a second.
BATCH = 2000

_REQUIRED = ("repo_id", "plan_id", "unix_time_start_ms")
# What has ended. Of anything else nothing is known any more when the daemon starts the next time, and it goes then
# (engine/recover.py): not what somebody expects of a history that was imported.
_ENDED = (wire.operations.STATUS_SUCCESS, wire.operations.STATUS_WARNING, wire.operations.STATUS_ERROR)
_JSON_NAMES = {field.name: field.json_name for field in Operation.DESCRIPTOR.fields}


def check_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """What is wrong with each line: "" for a good one, or an empty one; as they come."""
    for line in lines:
        if len(line) > LONGEST_LINE:
            yield f"it is longer than {LONGEST_LINE >> 20} MiB"
            continue
        try:
            if line.strip():
                check(orjson.loads(line))
            yield ""
        except ValueError as error:
            yield str(error)


def check(entry: Any) -> Operation:
    """The operation; ValueError says what is wrong with it."""
    operation = codec.from_dict(Operation, entry)
    missing = [_JSON_NAMES[name] for name in _REQUIRED if not getattr(operation, name)]
    if missing:
        raise ValueError(f"the operation has no {' and no '.join(missing)}")
    if operation.unix_time_start_ms < 0:
        raise ValueError("its unixTimeStartMs is negative")
    if operation.status not in _ENDED:
        raise ValueError(
            "its status is none of STATUS_SUCCESS, STATUS_WARNING and STATUS_ERROR: only what has ended is history"
        )
    if operation.snapshot_id and len(operation.snapshot_id) != 64:
        raise ValueError("its snapshotId has not 64 characters")
    if operation.repo_guid and len(operation.repo_guid) > 64:
        raise ValueError("its repoGuid has more than 64 characters")
    return operation


def batches(lines: Iterable[bytes]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(number of the last line, operations), BATCH at a time; of lines that were checked."""
    operations: list[dict[str, Any]] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            operations.append(orjson.loads(line))
        if len(operations) == BATCH:
            yield number, operations
            operations = []
    if operations:
        yield number, operations


class Flows:
    """Which flow here a flow of the file became, from one batch to the next: 16 bytes each, not 200."""

    def __init__(self) -> None:
        self._known = SortedMap()

    def of(self, operations: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """For the flows of a batch that were in an earlier one."""
        theirs = set(map(_flow_in, operations))
        return {str(their): ours for their in theirs if (ours := self._known.get(their)) is not None}

    def learn(self, flows: Mapping[str, int]) -> None:
        for their in sorted(map(int, flows)):
            self._known.put(their, flows[str(their)])


def flow_of(operation: Operation) -> int:
    """The flow that an operation of a file belongs to; 0 for one without any number."""
    return operation.flow_id or operation.id


def _flow_in(entry: Mapping[str, Any]) -> int:
    """As ``flow_of``, of a checked line in its JSON form; the usual spellings without converting all of it."""
    flow, number = entry.get("flowId", "0"), entry.get("id", "0")
    if flow.__class__ is number.__class__ is str and "flow_id" not in entry:
        return int(flow) or int(number)
    return flow_of(codec.from_dict(Operation, entry))


def import_operations(
    context: Context, operations: list[dict[str, Any]], flows: dict[str, int] | None = None
) -> dict[str, Any]:
    """Adds a batch as new operations of this instance, in its order, all of them or none. ``flows`` maps flows
    of the file to ours, from one batch of a file to the next; the result adds those of this batch.
    """
    config = context.identified()
    guids = {repo.id: repo.guid for repo in config.repos if repo.guid}
    mapped = dict(flows or {})
    leaders: dict[str, int] = {}  # flow -> position of its first operation
    joins: dict[int, int] = {}
    new: list[Operation] = []
    for position, entry in enumerate(operations):
        try:
            operation = check(entry)
        except ValueError as error:
            raise UserError(f"operation {position + 1} cannot be imported: {error}") from None
        flow = str(flow_of(operation) or "")
        _make_own(operation, config.instance, guids)
        if flow in mapped:
            operation.flow_id = mapped[flow]
        elif flow in leaders:
            joins[position] = leaders[flow]
        elif flow:
            leaders[flow] = position
        new.append(operation)
    stored = context.oplog.add(new, joins)
    mapped.update((flow, stored[position].flow_id) for flow, position in leaders.items())
    return {"imported": len(stored), "flows": mapped}


def _make_own(operation: Operation, instance: str, guids: Mapping[str, str]) -> None:
    for name in ("id", "modno", "flow_id", "original_id", "original_flow_id", "original_instance_keyid"):
        operation.ClearField(name)
    operation.instance_id = instance
    if not operation.repo_guid:
        operation.repo_guid = guids.get(operation.repo_id, "") or _guid_of(operation.repo_id)


def _guid_of(repo_id: str) -> str:
    # What the reference gives operations of a time when there were no guids (ENGINE.md 2.6).
    return hashlib.sha256(repo_id.encode()).hexdigest()

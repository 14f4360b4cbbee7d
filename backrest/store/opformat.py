"""The lines of oplog.jsonl: what they look like, and which operations may be in one.

Each line is a JSON object; ``jq`` reads the file as it is. There are three kinds:

- an operation, in protobuf JSON as ``wire.codec`` writes it. The last line with an id counts.
- ``{"deleted":["7","8"]}``: these ids are gone.
- ``{"oplog":1,"highestId":"9","highestModno":"12"}``: a mark. The first line is one. It holds the high-water
  marks, so that no id or modno is given out twice after the lines that carried them are compacted away
  (W-20); further marks stand where the log was closed in good order, and after compaction.

A line that begins with a space is the first of a commit, or a mark: when it was written, everything before it
was safe on the disk. So after a power cut only what follows the last such line can be half there, and there a
bad line is the end of what was ever acknowledged (it is cut off), while a bad line before it means that the
disk or somebody damaged the file (it is refused). JSON allows the space, and ``jq -c`` drops it: a file that
went through ``jq`` shows nowhere what was acknowledged, and is held to the strict rule everywhere: only a last line
without its end is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from backrest import wire
from backrest.wire import codec

Operation = wire.operations.Operation
OperationList = wire.operations.OperationList
Json = dict[str, Any]

VERSION = 1
SPACE = b" "
# No operation that we write or accept is longer: a peer's message has at most 64 MiB (DESIGN.md, Limits).
# A file without line breaks must not be read into memory as one line.
MAX_LINE = 64 << 20
# No mark is above this: half of what 64 bits hold, so that there is always room for the numbers to come. The wall clock
# in milliseconds, where a log may begin to count, is a millionth of it.
HIGHEST = 1 << 62
# Ids on one deletion line: some 50 KiB, so that purging a million operations does not make one giant line.
IDS_PER_LINE = 4096

# Of a snapshot id, in characters: a SHA-256 in hexadecimal, or none.
SNAPSHOT_LENGTHS = (0, 64)

_REQUIRED = frozenset(("flowId", "repoId", "repoGuid", "planId", "instanceId", "unixTimeStartMs"))
_NAMES = {
    "flowId": "flow_id",
    "repoId": "repo_id",
    "repoGuid": "repo_guid",
    "planId": "plan_id",
    "instanceId": "instance_id",
    "unixTimeStartMs": "unix_time_start_ms",
}

#: the JSON name of what the operation did -> its field number ("kind" in the index); 0 is none
KINDS: dict[str, int] = {
    field.json_name: field.number for field in Operation.DESCRIPTOR.oneofs_by_name["op"].fields
}
STATUSES: dict[Any, int] = dict(wire.operations.OperationStatus.items())


def mark(highest_id: int, highest_modno: int) -> bytes:
    """A line with the high-water marks, its leading space and line end included."""
    return b' {"oplog":%d,"highestId":"%d","highestModno":"%d"}\n' % (VERSION, highest_id, highest_modno)


def is_mark(doc: Json) -> bool:
    """Whether the line is meant to be a mark and nothing else, as the first one must be."""
    return "oplog" in doc and "id" not in doc and "deleted" not in doc


def parse_mark(doc: Json) -> tuple[int, int]:
    """(highest id, highest modno) of a mark; ValueError."""
    if doc.get("oplog") != VERSION or doc.get("oplog").__class__ is not int:
        raise ValueError(f"an operation log of another version ({str(doc.get('oplog'))[:20]})")
    highest = doc.get("highestId"), doc.get("highestModno")
    if not all(value.__class__ is str and value.isdecimal() and len(value) <= 19 for value in highest):
        raise ValueError("a mark without its high-water marks")
    highest_id, highest_modno = int(str(highest[0])), int(str(highest[1]))
    if max(highest_id, highest_modno) > HIGHEST:
        raise ValueError("a mark with numbers that no log has come to")
    return highest_id, highest_modno


def deletion_lines(ids: list[int]) -> Iterator[bytes]:
    """The lines, with their ends, that say that these are gone."""
    for start in range(0, len(ids), IDS_PER_LINE):
        yield orjson.dumps({"deleted": list(map(str, ids[start : start + IDS_PER_LINE]))}) + b"\n"


def parse_deleted(doc: Json) -> list[int]:
    """The ids of a deletion line; ValueError."""
    ids = doc["deleted"]
    if ids.__class__ is not list or not all(value.__class__ is str for value in ids) or len(doc) > 1:
        raise ValueError("a deletion without a list of ids")
    return [int(value) for value in ids]


def operation_line(doc: Json) -> bytes:
    """The line, with its end, for an operation in its JSON form."""
    return orjson.dumps(doc, option=orjson.OPT_APPEND_NEWLINE)


def parse_line(line: bytes) -> Json:
    """The object on a line; ValueError with the reason."""
    try:
        doc = orjson.loads(line)
    except ValueError as bad:
        raise ValueError("not JSON" if line.strip(b" \r\0") else "no text") from bad
    if doc.__class__ is not dict:
        raise ValueError("not a JSON object")
    return doc


def decode(doc: Json) -> Operation:
    """The operation of a parsed line; ValueError with the path."""
    return codec.from_dict(Operation, doc)


def problem(doc: Json) -> str | None:
    """What makes this operation one that no log takes, apart from id and modno; None when nothing does.

    ``doc`` comes from ``codec.to_dict``, which leaves out zeros and empty strings; or from a line that converts, where
    null may stand for them.
    """
    if not doc.keys() >= _REQUIRED:
        missing = [name for key, name in _NAMES.items() if key not in doc]
        return f"no {', '.join(missing)}"
    snapshot = doc.get("snapshotId", "")
    if snapshot.__class__ is not str:
        return "a snapshot_id that is no text"
    if len(snapshot) not in SNAPSHOT_LENGTHS:
        return f"a snapshot_id of {len(snapshot)} characters instead of 64"
    return None


def is_mark_line(line: bytes) -> bool:
    """Whether the line proves that everything before it was on the disk when it was written."""
    if line[:1] != SPACE:
        return False
    try:
        doc = parse_line(line)
    except ValueError:
        return False
    return "id" in doc or "deleted" in doc or "oplog" in doc

"""Operations as they are in real histories, of one size: 660 bytes as a message, whatever their number.

That is a little more than what a backup of today gives (an index_snapshot takes 480), and the size at which the
reference program was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from backrest import wire

Operation = wire.operations.Operation

SIZE = 660  # bytes
GUID = hashlib.sha256(b"nas").hexdigest()
STARTED_MS = 1_700_000_000_000


def make(number: int, instance_id: str, size: int = SIZE) -> Operation:
    """The operation ``number`` (from 1) of an instance, with that as its id and modno."""
    snapshot = hashlib.sha256(b"%d" % number).hexdigest()
    operation = Operation(
        id=number,
        modno=number,
        flow_id=number,
        repo_id="nas",
        repo_guid=GUID,
        plan_id="photos",
        instance_id=instance_id,
        snapshot_id=snapshot,
        status=wire.operations.STATUS_SUCCESS,
        unix_time_start_ms=STARTED_MS + 1000 * number,
        unix_time_end_ms=STARTED_MS + 1000 * number + 771,
    )
    taken = operation.operation_index_snapshot.snapshot
    taken.id = snapshot
    taken.unix_time_ms = operation.unix_time_start_ms
    taken.hostname, taken.username = instance_id, "root"
    taken.tree = hashlib.sha256(snapshot.encode()).hexdigest()
    taken.paths.append("/srv/photos")
    taken.tags.extend(("plan:photos", f"created-by:{instance_id}"))
    summary = taken.summary
    summary.files_new, summary.dirs_new, summary.data_blobs, summary.tree_blobs = 3, 2, number % 1000, 3
    summary.data_added, summary.total_files_processed = 61796 + number, 3
    summary.total_bytes_processed, summary.total_duration = 60035 + number, 0.771
    missing = size - operation.ByteSize() - 3  # its tag and a length of two bytes
    if missing > 0:
        operation.display_message = "x" * missing
    return operation


def several(count: int, instance_id: str) -> Iterator[Operation]:
    return (make(number, instance_id) for number in range(1, count + 1))

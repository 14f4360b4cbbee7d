"""Operations as they are in real histories, of one size: 660 bytes as a message, whatever their number.

That is a little more than what a backup of today gives (an index_snapshot takes 480), and the size at which the
reference program was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

from backrest import wire

Operation = wire.operations.Operation

SIZE = 660  # bytes
GUID = hashlib.sha256(b"nas").hexdigest()  # of the repo that they are of when nothing is said
STARTED_MS = 1_700_000_000_000


def make(
    number: int,
    instance_id: str,
    size: int = SIZE,
    *,
    plan: str = "photos",
    repo: str = "nas",
    status: int = wire.operations.STATUS_SUCCESS,
) -> Operation:
    """The operation ``number`` (from 1) of an instance, with that as its id and modno."""
    snapshot = hashlib.sha256(b"%d" % number).hexdigest()
    operation = Operation(
        id=number,
        modno=number,
        flow_id=number,
        repo_id=repo,
        repo_guid=_guid(repo),
        plan_id=plan,
        instance_id=instance_id,
        snapshot_id=snapshot,
        status=status,  # type: ignore[arg-type]
        unix_time_start_ms=STARTED_MS + 1000 * number,
        unix_time_end_ms=STARTED_MS + 1000 * number + 771,
    )
    taken = operation.operation_index_snapshot.snapshot
    taken.id = snapshot
    taken.unix_time_ms = operation.unix_time_start_ms
    taken.hostname, taken.username = instance_id, "root"
    taken.tree = hashlib.sha256(snapshot.encode()).hexdigest()
    taken.paths.append(f"/srv/{plan}")
    taken.tags.extend((f"plan:{plan}", f"created-by:{instance_id}"))
    summary = taken.summary
    summary.files_new, summary.dirs_new, summary.data_blobs, summary.tree_blobs = 3, 2, number % 1000, 3
    summary.data_added, summary.total_files_processed = 61796 + number, 3
    summary.total_bytes_processed, summary.total_duration = 60035 + number, 0.771
    missing = size - operation.ByteSize() - 3  # its tag and a length of two bytes
    if missing > 0:
        operation.display_message = "x" * missing
    return operation


def varied(number: int, instance_id: str) -> Operation:
    """The same of a machine with three plans and two repos, where every hundredth one, from the first, has failed."""
    return make(
        number,
        instance_id,
        plan=("photos", "documents", "mail")[number % 3],
        repo=("nas", "cloud")[number % 2],
        status=wire.operations.STATUS_ERROR if number % 100 == 1 else wire.operations.STATUS_SUCCESS,
    )


@cache
def _guid(repo: str) -> str:
    return hashlib.sha256(repo.encode()).hexdigest()


def several(count: int, instance_id: str) -> Iterator[Operation]:
    return (make(number, instance_id) for number in range(1, count + 1))

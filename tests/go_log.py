"""The Go program's operation log for the tests: the recorded one, and copies of it with other rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from backrest import wire
from backrest.store.golog import GoLog
from backrest.store.handover import Imported, take_over
from backrest.store.paths import Paths

CAPTURES = Path(__file__).parent.parent / "conformance" / "vectors" / "captures"
RECORDED = CAPTURES / "oplog.sqlite"
CONFIG = CAPTURES / "oplog-config.json"
INSTANCE = str(json.loads(CONFIG.read_text())["instance"])
NOW_MS = 1_800_000_000_000

Operation = wire.operations.Operation


def recorded(path: Path = RECORDED) -> dict[int, Operation]:
    """Every row of a log by its id, as the Go program wrote it; read apart from the code under test."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return {
            number: Operation.FromString(body)
            for number, body in db.execute("SELECT id, operation FROM operations")
        }


def kept(path: Path = RECORDED) -> dict[int, Operation]:
    """Of these, what an import takes as it is."""
    left_out = (wire.operations.STATUS_PENDING, wire.operations.STATUS_UNKNOWN)
    return {
        number: one
        for number, one in recorded(path).items()
        if not one.original_instance_keyid and one.status not in left_out
    }


def copy_to(paths: Paths) -> Path:
    """The recorded log, in the data directory, as the Go program left it there."""
    paths.data_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RECORDED, paths.reference_oplog)
    return paths.reference_oplog


def put(path: Path, one: Operation, **columns: Any) -> None:
    """One more row, or another one with its id, with its own group; ``columns``: instead of what belongs there."""
    with closing(sqlite3.connect(path)) as db:
        group = (
            one.instance_id,
            one.original_instance_keyid,
            one.repo_guid,
            one.repo_id,
        )
        added = db.execute(
            "INSERT INTO operation_groups (instance_id, original_instance_keyid, repo_guid, repo_id, plan_id) "
            "VALUES (?, ?, ?, ?, ?)",
            (*group, one.plan_id),
        )
        row = {
            "id": one.id,
            "ogid": added.lastrowid,
            "original_id": one.original_id,
            "original_flow_id": one.original_flow_id,
            "modno": one.modno,
            "flow_id": one.flow_id,
            "start_time_ms": one.unix_time_start_ms,
            "status": one.status,
            "snapshot_id": one.snapshot_id,
            "operation": one.SerializeToString(),
        } | columns
        db.execute(
            f"INSERT OR REPLACE INTO operations ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        )
        db.commit()


def imported(paths: Paths, path: Path | None = None, **given: Any) -> Imported:
    """Take it over, as the command does."""
    with GoLog(path or paths.reference_oplog) as source:
        return take_over(paths, source, **({"instance": INSTANCE, "guids": {}, "now_ms": NOW_MS} | given))

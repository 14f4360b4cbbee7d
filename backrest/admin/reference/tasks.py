"""Backup, DoRepoTask and Cancel: what this program's engine has of them."""

from __future__ import annotations

from typing import Any

import trio
from google.protobuf.empty_pb2 import Empty

from backrest import wire
from backrest.admin import backups
from backrest.admin.context import Context
from backrest.errors import Code, NotFoundError, ResticError
from backrest.net.connect import ConnectError

Service = wire.service
Task = Service.DoRepoTaskRequest


async def _quietly(_: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


async def backup(context: Context, request: Service.BackupRequest) -> Empty:
    """Returns when it is done; a backup that failed is an error, in the words of its operation."""
    result = await backups.backup(context, _quietly, request.value, dry_run=request.dry_run)
    if result["operation"].get("status") not in ("STATUS_SUCCESS", "STATUS_WARNING"):
        raise ResticError(result["operation"].get("displayMessage") or "the backup failed; its log says why")
    return Empty()


async def do_repo_task(context: Context, request: Task) -> Service.ScheduleTaskResponse:
    """The index of the snapshots, which has no operation of its own in the history: id 0, as the reference's."""
    if request.task == Task.TASK_INDEX_SNAPSHOTS:
        await backups.index(context, _quietly, request.repo_id)
        return Service.ScheduleTaskResponse()
    name = Task.Task.Name(request.task) if request.task in Task.Task.values() else str(request.task)
    known = request.task in Task.Task.values() and request.task != Task.TASK_NONE
    raise ConnectError(
        Code.UNIMPLEMENTED if known else Code.INVALID_ARGUMENT,
        f"this program cannot do {name}: TASK_INDEX_SNAPSHOTS is what it has",
    )


async def cancel(context: Context, request: Service.CancelOperationRequest) -> Empty:
    engine = await trio.to_thread.run_sync(lambda: context.engine)
    if not engine.cancel(request.operation_id):
        raise NotFoundError(f"no backup with the id {request.operation_id} waits or runs now")
    return Empty()

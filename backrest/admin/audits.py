"""The audit log, read: who paired, was refused, was let in, changed what; and whether it was tampered with."""

from __future__ import annotations

from collections import deque
from typing import Any

from backrest.admin.context import Context
from backrest.admin.registry import Emit
from backrest.errors import UserError

BATCH = 500


async def show(context: Context, emit: Emit, limit: int = 0) -> dict[str, Any]:
    """The newest ``limit`` entries, or all for 0, oldest first, in events of up to BATCH."""
    import trio

    from backrest.store.audit import read

    if limit < 0:
        raise UserError("the number of entries must not be negative")

    def newest() -> deque[dict[str, Any]]:
        return deque(read(context.paths.audit), maxlen=limit or None)

    entries = list(await trio.to_thread.run_sync(newest))
    for at in range(0, len(entries), BATCH):
        await emit({"entries": entries[at : at + BATCH]})
    return {"count": len(entries)}


def verify(context: Context) -> dict[str, Any]:
    """Checks the chain of hashes; CorruptError names the first line that does not fit."""
    from backrest.store import audit

    path = context.paths.audit
    lines = audit.verify(path) if context.daemon is None else context.audit.verify()
    first = next(audit.read(path), {})
    return {"file": str(path), "lines": lines, "since": first.get("time", "")}

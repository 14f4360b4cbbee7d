"""Archived clients: those that are no clients any more, and of whose history the log still holds something.

Who is archived follows from the log and the configuration alone. Its name and since when are remembered in
peers.json; where that was lost, or the client was removed by an edit of the file, the audit log tells them.

People name it by its instance id. A machine that came back with another key has the name of its own archived history:
then the name means the machine, and ``archived:NAME`` its archived history, which no instance id can look like.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from backrest.admin import context as clock
from backrest.errors import BackrestError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from backrest.admin.context import Context

PREFIX = "archived:"


def archived_keys(context: Context) -> set[str]:
    """The key ids of those that are archived."""
    sync = context.config.current.multihost
    return set(context.oplog.origins()) - {p.keyid for p in (*sync.authorized_clients, *sync.known_hosts)}


def archived(context: Context) -> list[dict[str, Any]]:
    """One for each: ``instanceId``, ``keyId``, ``archivedMillis`` (since when), ``operations``."""
    result = []
    for keyid in archived_keys(context):
        record = context.peers.get(keyid)
        if record is None or not record.archived_ms:
            name, since_ms = _remembered(context, keyid)
            known = record.instance_id if record is not None else ""
            record = context.peers.archive(keyid, known or name, at_ms=since_ms)
        result.append(
            {
                "instanceId": record.instance_id or keyid,
                "keyId": keyid,
                "archivedMillis": str(record.archived_ms),
                "operations": context.oplog.count(keyid),
            }
        )
    return sorted(result, key=lambda one: (one["instanceId"], one["keyId"]))


def archived_one(context: Context, ident: str) -> dict[str, Any] | None:
    """The archived client with that name, ``archived:`` and that name, or that key id.

    ConflictError, which lists them, when several had the name; NotFoundError for ``archived:`` and nothing there.
    """
    name = ident.removeprefix(PREFIX)
    every = archived(context)
    found = [one for one in every if name in (one["instanceId"], one["keyId"])]
    if len(found) > 1:
        raise ConflictError(
            f"{len(found)} removed clients had the name {name!r}: give the key id of one of them, "
            f"{' or '.join(map(described, found))}"
        )
    if name != ident and not found:
        names = ", ".join(sorted({one["instanceId"] for one in every})) or "none"
        raise NotFoundError(f"there is no archived history of {name!r} (there is of: {names})")
    return found[0] if found else None


def described(one: dict[str, Any]) -> str:
    """A candidate, for a person who has to choose."""
    since = datetime.fromtimestamp(int(one["archivedMillis"]) / 1000).strftime("%Y-%m-%d %H:%M")
    count = one["operations"]
    return f"{one['keyId']} (removed {since}, {count:,} operation{'' if count == 1 else 's'})"


def _remembered(context: Context, keyid: str) -> tuple[str, int]:
    """What the audit log says of its name and removal; else what its operations say, and now."""
    from backrest.store.audit import read
    from backrest.store.oplog import Query

    name, since_ms = "", 0
    try:
        for entry in read(context.paths.audit):
            if entry.get("keyid") == keyid and entry.get("event") in ("paired", "client-removed"):
                name = str(entry.get("instance", name))
                if entry["event"] == "client-removed":
                    since_ms = _ms(str(entry.get("time", "")))
    except BackrestError:  # damaged: who reads it for its own sake is told (`backrest audit --verify`)
        pass
    if not name:
        name = next((op.instance_id for op in context.oplog.query(Query(origin=keyid, limit=1))), "")
    return name, since_ms or clock.now_ms()


def _ms(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return 0

"""Authorized clients: the machines that report to this hub.

Removing one ends its session and lets nothing more of it in; its history stays, archived, until it is purged.
"Archived" is kept nowhere: it is what the log holds of a key that is no client (any more). So it can be neither
lost nor wrong, and a client that pairs again with its old key finds its history live.
"""

from __future__ import annotations

from typing import Any

from backrest.admin.context import Context
from backrest.admin.peers import Peer, configured, formatted, regrant
from backrest.errors import ConflictError, UserError


def list_clients(context: Context) -> dict[str, Any]:
    """Every client with what it may do."""
    return {
        "clients": [
            {
                "instanceId": peer.instance_id,
                "keyId": peer.keyid,
                "grants": formatted(peer.permissions),
                "quota": quota_json(context, peer.keyid),
            }
            for peer in context.config.current.multihost.authorized_clients
        ]
    }


def list_all(context: Context) -> dict[str, Any]:
    """The clients, and those that were removed and whose history is kept."""
    from backrest.admin.archive import archived

    return list_clients(context) | {"archived": archived(context)}


def remove(context: Context, ident: str, purge: bool = False) -> dict[str, Any]:
    """Takes the client's right to connect; with ``purge`` its history too, even if it was removed before."""
    from backrest.admin.archive import PREFIX, archived_one, described
    from backrest.admin.removal import remove_peer

    configured = _configured(context, ident)
    # Only a purge can mean either; what removes the right to connect means who has it.
    gone = archived_one(context, ident) if purge or configured is None else None
    if gone and configured is not None and ident != configured.keyid:
        raise ConflictError(
            f"{ident!r} is a client here and was the name of a removed one: `{PREFIX}{ident}` deletes what is kept of "
            f"the removed one, {described(gone)}; the key id {configured.keyid} removes the client, with its history"
        )
    if gone and configured is None:
        if not purge:
            raise ConflictError(
                f"the client {gone['instanceId']!r} is removed already, and {gone['operations']} operations of "
                f"its history are kept: `backrest client remove {ident} --purge` deletes them"
            )
        result = {key: gone[key] for key in ("instanceId", "keyId")} | {"removedRepos": [], "parkedPlans": []}
    else:
        result = remove_peer(context, ident, "client")
    keyid = result["keyId"]
    result["purged"] = _purge(context, keyid) if purge else 0
    result["operations"] = context.oplog.count(keyid)
    result["archived"] = bool(result["operations"])
    return result


def _configured(context: Context, ident: str) -> Peer | None:
    clients = context.config.current.multihost.authorized_clients
    return next((peer for peer in clients if ident in (peer.instance_id, peer.keyid)), None)


def _purge(context: Context, keyid: str) -> int:
    context.ready_to_record()
    purged = context.oplog.purge(keyid)
    context.peers.remove(keyid)
    context.record("client-purged", keyid=keyid, operations=purged)
    return purged


def quota_json(context: Context, keyid: str) -> dict[str, Any] | None:
    """How much of the history the client may fill; None when the file that says so is damaged."""
    quota = context.if_sound(lambda: context.shares.quota(keyid))
    return None if quota is None else {"bytes": str(quota.bytes), "operations": quota.operations}


def set_quota(
    context: Context,
    ident: str,
    size: int | None = None,
    operations: int | None = None,
    default: bool = False,
) -> dict[str, Any]:
    """How many bytes (``size``) and operations of the client's are kept here, what is None as before, or the default;
    in force at once. Nothing that is kept goes by it."""
    from backrest.store.quota import DEFAULT, MOST, Quota

    peer = configured(context.config.current, ident, "client")
    before = context.shares.quota(peer.keyid)
    quota = (
        DEFAULT
        if default
        else Quota(
            before.bytes if size is None else size,
            before.operations if operations is None else operations,
        )
    )
    for number, most, what in zip(quota, MOST, ("bytes", "operations"), strict=True):
        if not 0 <= number <= most:
            raise UserError(f"a quota has 0 to {most:,} {what}")
    context.ready_to_record()
    if quota != before:
        context.shares.set_quota(peer.keyid, quota)
        context.record(
            "client-quota",
            instance=peer.instance_id,
            keyid=peer.keyid,
            bytes=quota.bytes,
            operations=quota.operations,
        )
    used = context.oplog.used(peer.keyid)
    return {
        "client": {
            "instanceId": peer.instance_id,
            "keyId": peer.keyid,
            "quota": {"bytes": str(quota.bytes), "operations": quota.operations},
            "used": {"bytes": str(used.bytes), "operations": used.operations},
        }
    }


def set_permissions(context: Context, ident: str, permissions: list[str]) -> dict[str, Any]:
    """Replaces what the client may do; in force at once."""
    return {"client": regrant(context, ident, "client", permissions, "client-permissions")}

"""Authorized clients: the machines that report to this hub.

Removing one ends its session and lets nothing more of it in; its history stays until it is purged.
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.peers import Peer, find, formatted, grants, resolve
from backrest.errors import NotFoundError


def list_clients(context: Context) -> dict[str, Any]:
    """Every client with what it may do."""
    return {
        "clients": [
            {"instanceId": peer.instance_id, "keyId": peer.keyid, "grants": formatted(peer.permissions)}
            for peer in context.config.current.multihost.authorized_clients
        ]
    }


def remove(context: Context, ident: str, purge: bool = False) -> dict[str, Any]:
    """Takes the client's right to connect; with ``purge`` its history too, even if it was removed before."""
    from backrest.admin.removal import remove_peer

    keyid = ""
    try:
        result = remove_peer(context, ident, "client")
        keyid = result["keyId"]
    except NotFoundError:
        if not purge:
            raise
        keyid = resolve(context, ident)
        if not keyid or _configured(context, keyid):
            raise
        result = {"instanceId": ident, "keyId": keyid, "removedRepos": [], "parkedPlans": []}
    result["purged"] = _purge(context, keyid) if purge else 0
    result["operations"] = context.oplog.count(keyid)
    return result


def _configured(context: Context, keyid: str) -> bool:
    sync = context.config.current.multihost
    return any(peer.keyid == keyid for peer in (*sync.authorized_clients, *sync.known_hosts))


def _purge(context: Context, keyid: str) -> int:
    purged = context.oplog.purge(keyid)
    context.peers.remove(keyid)
    context.audit.append("client-purged", keyid=keyid, operations=purged)
    return purged


def set_permissions(context: Context, ident: str, permissions: list[str]) -> dict[str, Any]:
    """Replaces what the client may do; in force at once."""
    granted = grants(permissions)
    found: list[Peer] = []

    def change(config: wire.config.Config) -> bool:
        client = find(config.multihost.authorized_clients, ident, "client")
        found[:] = [client]
        if list(client.permissions) == granted:
            return False
        del client.permissions[:]
        client.permissions.extend(granted)
        return True

    context.config.transform(change)
    client = found[0]
    context.audit.append(
        "client-permissions", instance=client.instance_id, keyid=client.keyid, permissions=formatted(granted)
    )
    return {"client": {"instanceId": client.instance_id, "keyId": client.keyid, "grants": formatted(granted)}}

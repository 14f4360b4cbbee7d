"""Shared by hosts and clients: finding a peer by what people type, and reading grants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from backrest import wire
from backrest.errors import NotFoundError, UserError
from backrest.permissions import format_grant, parse_grant

if TYPE_CHECKING:
    from backrest.admin.context import Context

Peer = wire.config.Multihost.Peer
Permission = wire.config.Multihost.Permission

NOUNS = {"client": "client", "host": "hub"}
"""What a peer is to us, in our words for people."""


def grants(texts: Sequence[str]) -> list[Permission]:
    """Permissions of TYPE[=SCOPE,...]; UserError for what is none, and for a type given twice."""
    result: list[Permission] = []
    for text in texts:
        try:
            permission = parse_grant(text)
        except ValueError as error:
            raise UserError(str(error)) from None
        if any(permission.type == other.type for other in result):
            # The reference peer would take the last, we would add them up: neither is worth finding out
            # about.
            raise UserError(
                f"the permission {text.partition('=')[0]!r} is given twice: put its scopes into one list"
            )
        result.append(permission)
    return result


def formatted(permissions: Iterable[Permission]) -> list[str]:
    """The permissions as people type them."""
    return [format_grant(permission) for permission in permissions]


def find(peers: Iterable[Peer], ident: str, noun: str) -> Peer:
    """The peer with that instance id or key id; NotFoundError names those that there are."""
    listed = list(peers)
    for peer in listed:
        if ident in (peer.instance_id, peer.keyid):
            return peer
    names = ", ".join(sorted(peer.instance_id for peer in listed)) or "none"
    raise NotFoundError(f"there is no {noun} {ident!r} (there are: {names})")


def configured(config: wire.config.Config, ident: str, role: str) -> Peer:
    """The client ("client") or the hub ("host") of that instance id or key id; NotFoundError."""
    sync = config.multihost
    return find(sync.authorized_clients if role == "client" else sync.known_hosts, ident, NOUNS[role])


def regrant(
    context: Context, ident: str, role: str, permissions: Sequence[str], event: str
) -> dict[str, Any]:
    """Replaces what a configured peer ("client" or "host") may do here, and records it as ``event``."""
    granted = grants(permissions)
    found: list[Peer] = []

    def change(config: wire.config.Config) -> bool:
        peer = configured(config, ident, role)
        found[:] = [peer]
        if list(peer.permissions) == granted:
            return False
        del peer.permissions[:]
        peer.permissions.extend(granted)
        return True

    context.transform(change)
    [peer] = found
    given = formatted(granted)
    context.record(event, instance=peer.instance_id, keyid=peer.keyid, permissions=given)
    return {"instanceId": peer.instance_id, "keyId": peer.keyid, "grants": given}


def resolve(context: Context, ident: str) -> str:
    """The key id of a peer, present or removed, or "" for this instance itself; NotFoundError.

    Of a present and a removed one with the same name it is the present one; the other is ``archived:NAME``.
    """
    from backrest.admin.archive import archived_one

    config = context.config.current
    if ident in ("local", config.instance, config.multihost.identity.keyid):
        return ""
    for peer in (*config.multihost.authorized_clients, *config.multihost.known_hosts):
        if ident in (peer.instance_id, peer.keyid):
            return peer.keyid
    gone = archived_one(context, ident)
    if gone is not None:
        return str(gone["keyId"])
    raise NotFoundError(f"there is no peer {ident!r}, and no history of one")

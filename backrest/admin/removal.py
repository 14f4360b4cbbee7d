"""Taking a peer out: its entry, the repositories that it shared, and the plans on them, in one change.

The plans are the user's own work: they are parked, not deleted (store/removal.py).
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.peers import find, formatted
from backrest.store.removal import Removal
from backrest.store.removal import remove_peer as take_out

NOUNS = {"host": "hub", "client": "client"}


def remove_peer(context: Context, ident: str, role: str) -> dict[str, Any]:
    """Removes a known host ("host") or an authorized client ("client"); NotFoundError."""
    parked = context.parked
    done: list[Removal] = []

    def change(config: wire.config.Config) -> None:
        sync = config.multihost
        peers = sync.known_hosts if role == "host" else sync.authorized_clients
        removal = take_out(config, find(peers, ident, NOUNS[role]).keyid)
        parked.park(removal)  # before the configuration is written: a crash in between loses nothing
        done[:] = [removal]

    context.shares.prune(context.config.transform(change))
    removal = done[0]
    if role == "host":  # the daemon's own session does so too, when it ends; without a daemon nobody would
        context.peers.remove(removal.peer.keyid)
    result = {
        "instanceId": removal.peer.instance_id,
        "keyId": removal.peer.keyid,
        "removedRepos": [repo.id for repo in removal.repos],
        "parkedPlans": [plan.id for plan in removal.plans],
    }
    context.audit.append(
        f"{role}-removed",
        instance=removal.peer.instance_id,
        keyid=removal.peer.keyid,
        permissions=formatted(removal.peer.permissions),
        repos=result["removedRepos"],
        parked_plans=result["parkedPlans"],
    )
    return result

"""Taking a peer out: its entry, the repositories that it shared, and the plans on them, in one change.

The plans are the user's own work: they are parked, not deleted (store/removal.py).
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.peers import configured, formatted
from backrest.store.removal import Removal
from backrest.store.removal import remove_peer as take_out


def remove_peer(context: Context, ident: str, role: str) -> dict[str, Any]:
    """Removes a known host ("host") or an authorized client ("client"); NotFoundError."""
    done: list[Removal] = []

    def change(config: wire.config.Config) -> None:
        removal = take_out(config, configured(config, ident, role).keyid)
        if removal.plans:  # before the configuration is written: a crash in between loses nothing
            context.parked.park(removal)
        done[:] = [removal]

    context.transform(change)
    return removed(context, role, done[0])


def removed(context: Context, role: str, removal: Removal) -> dict[str, Any]:
    """What remains to be done about a peer that is out of the configuration, whichever way it went: nothing more of a
    client is stored, no state of it is left (W-45) but the name of a history that is kept, and it is recorded."""
    peer = removal.peer
    if role == "client":
        # The entry is gone, so no store of it can begin (OpLog.apply asks); this waits for the one under way.
        context.oplog.settled()
    if role == "client" and context.oplog.count(peer.keyid):
        context.peers.archive(peer.keyid, peer.instance_id)
    else:  # the daemon's own session does so too, when it ends; without a daemon nobody would
        context.peers.remove(peer.keyid)
    context.forget_gone()
    result = {
        "instanceId": peer.instance_id,
        "keyId": peer.keyid,
        "removedRepos": [repo.id for repo in removal.repos],
        "parkedPlans": [plan.id for plan in removal.plans],
    }
    context.record(
        f"{role}-removed",
        instance=peer.instance_id,
        keyid=peer.keyid,
        permissions=formatted(peer.permissions),
        repos=result["removedRepos"],
        parked_plans=result["parkedPlans"],
    )
    return result

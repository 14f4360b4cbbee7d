"""The states of the peers, as BackrestSyncStateService has them, and pushes to clients.

Changes are coalesced for each peer: a caller that reads slowly gets the newest state of each and holds up nobody
(W-43); what is kept for it is one state a peer. A caller that does not subscribe gets all and a clean end (W-15).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from backrest import wire
from backrest.admin import pushes
from backrest.admin.context import Context
from backrest.errors import UserError
from backrest.store.peers import PeerRecord
from backrest.sync.watch import Watch

Sync = wire.sync
PeerState = Sync.PeerState

REMOVED = "it was removed: this instance knows no such peer any more"


async def get_peer_sync_states(
    context: Context,
    request: Sync.SyncStateStreamRequest,
    send: Callable[[PeerState], Awaitable[None]],
) -> None:
    """Hosts first, then clients, those of which a state is known; then what changes. A peer that is removed is sent
    once more, as unknown."""
    sent: dict[str, PeerRecord] = {}
    with Watch(context.peers.subscribe, context.config.subscribe) as changes:
        while True:
            records = _records(context)
            for keyid in sent.keys() - records.keys():
                name = sent.pop(keyid).instance_id
                await send(PeerState(peer_instance_id=name, peer_keyid=keyid, status_message=REMOVED))
            for keyid, record in records.items():
                if sent.get(keyid) is not record:  # a change makes a new one
                    sent[keyid] = record
                    await send(await trio.to_thread.run_sync(record.to_proto))
            if not request.subscribe:
                return
            await changes.wait()


def _records(context: Context) -> dict[str, PeerRecord]:
    """Of the peers that the configuration names: what is kept of one that was removed is not a state."""
    multihost = context.config.current.multihost
    records = {}
    for peer in (*multihost.known_hosts, *multihost.authorized_clients):
        record = context.peers.get(peer.keyid)
        if record is not None:
            records[peer.keyid] = record
    return records


async def set_remote_client_config(
    context: Context, request: Sync.SetRemoteClientConfigRequest
) -> Sync.SetRemoteClientConfigResponse:
    """Answers when the client has taken all of it; an error says what it refused, or that it did not say (W-16)."""
    if not request.peer_keyid:
        raise UserError("the key id of the client is missing")
    await pushes.set_remote_config(
        context,
        request.peer_keyid,
        list(request.repos),
        list(request.plans),
        list(request.repos_to_delete),
        list(request.plans_to_delete),
    )
    return Sync.SetRemoteClientConfigResponse()

"""Sharing a repository with the clients of this hub, and taking it back.

A client gets a shared repository when both ends say so: this hub's entry for it has receive-shared-repos with the
repository in scope, and the client grants the same to this hub. Only the first can be seen from here; of the second
one learns by its effect, which is why ``share`` waits a moment for the clients that are connected.

Taking it back: a client of this program drops it where it grants this hub read-write-config and no plan of its own
uses it; everywhere else it is shown as no longer offered, and plans go on using it until the user says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.peers import find as find_peer
from backrest.admin.registry import Emit
from backrest.admin.repos import find, refuse_readonly
from backrest.errors import ResticError, UserError
from backrest.permissions import RECEIVE_SHARED_REPOS, Grants
from backrest.refusals import IN_PART, SEEN, Refusal, Why, refusal
from backrest.store.mask import mask_uri, masked_repo
from backrest.store.places import local_path, uri_problem
from backrest.store.shares import MOST_ENDED
from backrest.wire import codec

if TYPE_CHECKING:
    from backrest.store.peers import PeerRecord

Config = wire.config.Config
Peer = wire.config.Multihost.Peer
Repo = wire.config.Repo

# A round trip to a client and two writes to its disk take far less; nobody waits gladly for longer.
TAKEN_S = 5.0

_WINDOWS = re.compile(r"(?:local:)?[A-Za-z]:\\")  # a client that runs Backrest in Go may be one


def _own_uris(config: Config, texts: list[str], taken_back: list[str]) -> dict[str, str | None]:
    """Key id -> address of CLIENT=URI; None for those in ``taken_back``. UserError, NotFoundError."""
    clients = config.multihost.authorized_clients
    uris: dict[str, str | None] = {find_peer(clients, name, "client").keyid: None for name in taken_back}
    for text in texts:
        name, equals, uri = text.partition("=")
        if not equals or not name or not uri:
            raise UserError("an address for a client is given as CLIENT=URI")
        keyid = find_peer(clients, name, "client").keyid
        if keyid in uris:
            raise UserError(f"the client {name!r} is named twice")
        if not _WINDOWS.match(uri) and (problem := uri_problem(uri)):
            raise UserError(f"the address {mask_uri(uri)!r} for the client {name!r} {problem}")
        uris[keyid] = uri
    return uris


async def share(
    context: Context,
    emit: Emit,
    repo_id: str,
    uris: list[str] | None = None,
    no_uris: list[str] | None = None,
    wait: bool = True,
) -> dict[str, Any]:
    """Marks the repository as shared, with CLIENT=URI where a client reaches it under another address.

    {"repo", "clients": [{"instanceId", "keyId", "receives", "connected", "uri", "message"}], "warnings"}.
    ResticError when its guid is not known and cannot be found out; ConflictError for one that is shared by another.
    """
    import trio

    repo = find(context.config.current, repo_id)
    refuse_readonly(repo)
    addresses = _own_uris(context.config.current, uris or [], no_uris or [])
    if not repo.guid:
        await emit({"message": f"asking restic about {masked_repo(repo).uri}"})
        try:
            engine = await trio.to_thread.run_sync(lambda: context.engine)
            repo = await engine.adopt(repo_id)
        except ResticError as error:
            raise ResticError(
                f"the repository {repo_id!r} cannot be shared before restic has opened it: {error}"
            ) from None

    def mark(config: Config) -> None:
        here = find(config, repo_id)
        refuse_readonly(here)
        here.shared = True

    def store() -> Config:
        context.ready_to_record()
        context.shares.prune(context.config.current)
        context.shares.set(repo.guid, addresses)  # first: the first push goes to the right address
        config = context.transform(mark)
        changed = {find_keyid(config, keyid): mask_uri(uri or "") for keyid, uri in addresses.items()}
        context.record("repo-shared", repo=repo_id, guid=repo.guid, uris=changed)
        return config

    config = await trio.to_thread.run_sync(store)
    if wait and context.daemon is not None:
        await _until_taken(context, repo)
    return await trio.to_thread.run_sync(_shared, context, find(config, repo_id))


def find_keyid(config: Config, keyid: str) -> str:
    """The instance id of a client; NotFoundError."""
    return find_peer(config.multihost.authorized_clients, keyid, "client").instance_id


def receivers(context: Context, repo: Repo) -> list[dict[str, Any]]:
    """Each client, and how it stands with this shared repository: [{"instanceId", "keyId", "receives", "connected",
    "uri", "message"}]; ``receives`` is what this hub's entry for it says. Only reads."""
    uris = _uris(context, repo)
    records = {one.keyid: one for one in context.peer_records()}
    given_up = context.if_sound(lambda: context.shares.given_up(repo.guid)) or ()
    clients = []
    for peer in context.config.current.multihost.authorized_clients:
        receives = Grants(peer.permissions).repo(repo.id, RECEIVE_SHARED_REPOS)
        record = records.get(peer.keyid)
        connected = record is not None and record.state == wire.sync.CONNECTION_STATE_CONNECTED
        clients.append(
            {
                "instanceId": peer.instance_id,
                "keyId": peer.keyid,
                "receives": receives,
                "connected": connected,
                "uri": mask_uri(uris.get(peer.keyid, "")),
                "message": _told(repo, peer, receives, record if connected else None, peer.keyid in given_up),
            }
        )
    return clients


def _shared(context: Context, repo: Repo) -> dict[str, Any]:
    clients = receivers(context, repo)
    lost = [one["instanceId"] for one in clients if one["receives"] and not one["uri"]]
    warnings = []
    if local_path(repo.uri) is not None and (lost or not clients):
        who = ", ".join(lost) or "a client"
        warnings.append(
            f"{repo.uri} is a path on this machine's own disk, and {who} would look for it on its own: unless "
            f"the same disk is mounted there, say where it is with --uri-for {lost[0] if lost else 'CLIENT'}=URI"
        )
    if not any(one["receives"] for one in clients):
        warnings.append(
            "no client may receive it yet: `backrest client permissions` and `token create` let one"
        )
    return {"repo": codec.to_dict(masked_repo(repo)), "clients": clients, "warnings": warnings}


def _told(repo: Repo, peer: Peer, receives: bool, record: PeerRecord | None, given_up: bool) -> str:
    """How it stands with one client, and on which side something is missing."""
    if not receives:
        return (
            "may not receive it: here, on the hub, receive-shared-repos is missing or leaves it out "
            f"(`backrest client permissions {peer.instance_id} ...`)"
        )
    if given_up:
        return refusal("repo", repo.id, Why.ENDS_SESSION, count=MOST_ENDED).reason()
    if record is None:
        return "gets it when it connects"
    if refused := _refusals(repo, record):
        reasons, codes = "; ".join(one.reason() for one in refused), {one.code for one in refused}
        return (
            f"has it: {reasons}"
            if codes <= IN_PART
            else reasons
            if codes <= SEEN
            else f"refused it: {reasons}"
        )
    if _lists(repo, record):
        return "has it"
    return (
        "was offered it, and does not show it: on the client, `backrest host list` must show "
        "receive-shared-repos for this hub"
    )


def _lists(repo: Repo, record: PeerRecord) -> bool:
    return any(known.guid == repo.guid for known in record.known_repos)


def _refusals(repo: Repo, record: PeerRecord) -> list[Refusal]:
    return [refused for refused in record.warnings if refused.is_about("repo", repo.id)]


async def _until_taken(context: Context, repo: Repo) -> None:
    """Until every connected client that may receive it has it or says no, or TAKEN_S."""
    import trio

    from backrest.sync.watch import Watch

    keyids = [
        peer.keyid
        for peer in context.config.current.multihost.authorized_clients
        if Grants(peer.permissions).repo(repo.id, RECEIVE_SHARED_REPOS)
    ]

    def waiting() -> bool:
        records = [record for keyid in keyids if (record := context.peers.get(keyid)) is not None]
        return any(
            record.state == wire.sync.CONNECTION_STATE_CONNECTED
            and not _lists(repo, record)
            and SEEN.issuperset(one.code for one in _refusals(repo, record))
            for record in records
        )

    with trio.move_on_after(TAKEN_S), Watch(context.peers.subscribe) as changes:
        while waiting():
            await changes.wait(at_least_every_s=TAKEN_S)


def unshare(context: Context, repo_id: str) -> dict[str, Any]:
    """Takes the mark away: {"repo", "changed", "heldBy": the clients that last showed it among their own, "notTold":
    those of them whose program is not asked to delete it (sync/offers.py)}."""

    def unmark(config: Config) -> None:
        here = find(config, repo_id)
        refuse_readonly(here)
        here.shared = False

    before = find(context.config.current, repo_id)
    config = context.transform(unmark)
    repo = find(config, repo_id)
    held_by, not_told = [], []
    for peer in config.multihost.authorized_clients if repo.guid else ():
        record = context.peers.get(peer.keyid)
        if record is not None and _lists(repo, record):
            held_by.append(peer.instance_id)
            if not record.answers:
                not_told.append(peer.instance_id)
    if before.shared:
        context.record("repo-unshared", repo=repo_id, guid=repo.guid)
    return {
        "repo": codec.to_dict(masked_repo(repo)),
        "changed": before.shared,
        "heldBy": held_by,
        "notTold": not_told,
    }


def shown_uris(context: Context, repo: Repo) -> dict[str, str]:
    """Client -> its own address of the repository, passwords masked."""
    names: Mapping[str, str] = {
        peer.keyid: peer.instance_id for peer in context.config.current.multihost.authorized_clients
    }
    uris = _uris(context, repo) if repo.guid else {}
    return {names[keyid]: mask_uri(uri) for keyid, uri in uris.items() if keyid in names}


def _uris(context: Context, repo: Repo) -> Mapping[str, str]:
    """Key id -> the address of the repository for that client, where it has one of its own."""
    return context.if_sound(lambda: context.shares.of_repo(repo.guid)) or {}

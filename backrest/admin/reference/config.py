"""GetConfig and SetConfig.

SetConfig takes the whole configuration, as GetConfig showed it: a mask that comes back means "unchanged". It replaces
what its caller has read and nothing else. So ``modno`` must be that of the configuration in force; the instance's
identity and name, the version and the pairing tokens are not the caller's to change (W-04 to W-06); a repository of
another instance can be left out, and not be changed (W-11); and a peer that is left out is removed as the command
removes it, with its repositories, and with the plans on them parked (W-46).
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.empty_pb2 import Empty

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.removal import removed
from backrest.admin.repos import check_origins
from backrest.errors import Code, ConflictError, UserError
from backrest.net.connect import ConnectError
from backrest.store.mask import MASK, config_masked, unmask
from backrest.store.removal import Removal, remove_peer

Config = wire.config.Config
Peer = wire.config.Multihost.Peer


def get_config(context: Context, _: Empty) -> Config:
    return config_masked(context.config.current)


def set_config(context: Context, request: Config) -> Config:
    """The configuration that is then in force, masked. ConnectError (failed_precondition) when the request is based
    on an older one; UserError with all problems."""
    taken: list[tuple[str, Removal]] = []

    def change(draft: Config) -> None:
        taken.clear()
        if request.modno != draft.modno:
            raise ConnectError(
                Code.FAILED_PRECONDITION,
                f"the configuration has changed: its modno is {draft.modno}, and this one is based on "
                f"{request.modno}. Read it again with GetConfig, and make the change there",
            )
        new = _completed(request, draft)
        taken.extend(_take_out_peers(new, draft))
        check_origins(draft, new)
        for _, removal in taken:
            # before the configuration is written: a crash in between loses nothing
            context.parked.park(removal)
        draft.CopyFrom(new)

    before = context.config.current
    after = context.transform(change)
    if after is not before:
        context.record("config-set", modno=after.modno, **_summary(before, after))
    context.forget_gone()
    for role, removal in taken:
        removed(context, role, removal)
    return config_masked(after)


def _completed(request: Config, stored: Config) -> Config:
    """The request with its masks undone, and with everything that is not its caller's to change as it is stored."""
    new = Config()
    new.CopyFrom(request)
    _check_identity(new, stored)
    _check_tokens(new, stored)
    if request.instance and request.instance != stored.instance:
        raise ConflictError(
            f"this machine has the instance id {stored.instance!r}, which peers and history know it by: it cannot be "
            "changed"
        )
    del new.multihost.pairing_tokens[:]
    new.multihost.ClearField("identity")
    new = unmask(new, stored)
    new.instance = stored.instance
    if not request.HasField("multihost"):
        # A caller that knows nothing of peers has not asked for their removal.
        if stored.HasField("multihost"):
            new.multihost.CopyFrom(stored.multihost)
        else:
            new.ClearField("multihost")
        return new
    if stored.multihost.HasField("identity"):
        new.multihost.identity.CopyFrom(stored.multihost.identity)
    new.multihost.pairing_tokens.extend(stored.multihost.pairing_tokens)
    return new


def _check_identity(request: Config, stored: Config) -> None:
    given, own = request.multihost.identity, stored.multihost.identity
    for field, value in given.ListFields():
        if value != getattr(own, field.name) and value != MASK:
            raise UserError(
                "the instance's identity cannot be replaced this way: every pairing would be lost "
                "(`backrest identity rotate` makes a new one)"
            )


def _check_tokens(request: Config, stored: Config) -> None:
    """A token that the request has must be one that is there; those that it lacks stay."""
    known = [*stored.multihost.pairing_tokens, *config_masked(stored).multihost.pairing_tokens]
    for token in request.multihost.pairing_tokens:
        if token not in known:
            raise UserError(
                f"the pairing token {token.label!r} is not one of this instance's: GeneratePairingToken makes one, "
                "`backrest token revoke` takes one back, and nothing else changes them"
            )


def _take_out_peers(new: Config, stored: Config) -> list[tuple[str, Removal]]:
    """What is removed from ``new`` because its peer is: as (the peer's role, removal)."""
    taken = []
    for role, left, there in (
        ("host", new.multihost.known_hosts, stored.multihost.known_hosts),
        ("client", new.multihost.authorized_clients, stored.multihost.authorized_clients),
    ):
        for peer in _missing(left, there):
            # As the command meets it: the peer, and whatever came from it, is there.
            left.append(peer)
            repos = {repo.id for repo in new.repos}
            new.repos.extend(
                repo
                for repo in stored.repos
                if repo.origin_instance_id == peer.instance_id and repo.id not in repos
            )
            taken.append((role, remove_peer(new, peer.keyid)))
    return taken


def _missing(left: Iterable[Peer], there: Iterable[Peer]) -> list[Peer]:
    keyids = {peer.keyid for peer in left}
    return [peer for peer in there if peer.keyid not in keyids]


def _summary(before: Config, after: Config) -> dict[str, list[str]]:
    """For the audit log: which parts were added, removed or changed, by their names."""
    summary: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
    for noun, old, new in (
        ("repo", {r.id: r for r in before.repos}, {r.id: r for r in after.repos}),
        ("plan", {p.id: p for p in before.plans}, {p.id: p for p in after.plans}),
        ("host", _by_name(before.multihost.known_hosts), _by_name(after.multihost.known_hosts)),
        (
            "client",
            _by_name(before.multihost.authorized_clients),
            _by_name(after.multihost.authorized_clients),
        ),
        ("user", {u.name: u for u in before.auth.users}, {u.name: u for u in after.auth.users}),
    ):
        summary["added"] += [f"{noun} {name}" for name in new.keys() - old.keys()]
        summary["removed"] += [f"{noun} {name}" for name in old.keys() - new.keys()]
        summary["changed"] += [f"{noun} {name}" for name in old.keys() & new.keys() if old[name] != new[name]]
    return {what: sorted(names) for what, names in summary.items() if names}


def _by_name(peers: Iterable[Peer]) -> dict[str, Peer]:
    return {peer.instance_id: peer for peer in peers}

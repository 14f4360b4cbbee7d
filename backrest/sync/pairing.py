"""A client with an unknown key and a pairing secret becomes an authorized client, or hears why not.

Pure: works on the copy of the configuration that the store's ``transform`` hands out, so that finding the token,
using it up and adding the client are one atomic change, and of two clients racing for the last use one wins.
Facts: PROTOCOL.md section 4.
"""

from __future__ import annotations

from backrest import wire
from backrest.crypto.tokens import same_secret
from backrest.errors import Code, Fault, PeerError
from backrest.protocol.events import PeerIdentified
from backrest.store.validate import id_problem

EXPIRED_KEPT_S = 24 * 3600  # an expired token is still known for a day, so that its client can be told why
INSTANCE_ID_BYTES = 50  # the reference's bound (ENGINE.md 1.8)


def refusal(message: str) -> PeerError:
    """What a hub answers to an identity that it does not let in."""
    return PeerError(Fault.REFUSED, Code.PERMISSION_DENIED, message)


def pair(config: wire.config.Config, peer: PeerIdentified, now_unix: int) -> str:
    """Add ``peer`` to the authorized clients of ``config``, use up one use of its token, and return the token's
    label. Raises PeerError (refused), with a detail about the token only for a secret that matched: a guesser learns
    nothing."""
    sync = config.multihost
    token = None
    for (
        candidate
    ) in sync.pairing_tokens:  # no early end: the time taken tells nothing about which one matched
        if same_secret(candidate.secret, peer.pairing_secret):
            token = candidate
    if token is None:
        raise refusal(
            "the pairing token is not valid on this hub (used up, revoked or never made): "
            "create a new one there with 'backrest token create'"
        )
    name = f"the pairing token {token.label!r}" if token.label else "the pairing token"
    if token.expires_at_unix and now_unix > token.expires_at_unix:
        raise refusal(f"{name} has expired: create a new one on the hub with 'backrest token create'")
    if token.max_uses and token.uses >= token.max_uses:
        raise refusal(f"{name} is used up: create a new one on the hub with 'backrest token create'")
    _check_newcomer(config, peer)
    sync.authorized_clients.add(instance_id=peer.instance_id, keyid=peer.keyid, permissions=token.permissions)
    token.uses += 1
    label = token.label
    if token.max_uses and token.uses >= token.max_uses:
        sync.pairing_tokens.remove(token)
    prune_tokens(config, now_unix)
    return label


def _check_newcomer(config: wire.config.Config, peer: PeerIdentified) -> None:
    problem = id_problem(peer.instance_id, INSTANCE_ID_BYTES)
    if problem:
        raise refusal(f"the client's instance id {problem}: choose another one on the client")
    if peer.instance_id == config.instance:
        raise refusal(
            f"the client has the hub's own instance id {peer.instance_id!r}: choose another one on the client"
        )
    for other in (*config.multihost.authorized_clients, *config.multihost.known_hosts):
        if other.instance_id == peer.instance_id:
            raise refusal(
                f"another peer has the instance id {peer.instance_id!r}: remove it on the hub with "
                f"'backrest client remove {peer.instance_id}', or choose another id on the client"
            )
        if other.keyid == peer.keyid:
            raise refusal(f"this key already belongs to the peer {other.instance_id!r} of the hub")


def prune_tokens(config: wire.config.Config, now_unix: int) -> None:
    """Drop the tokens that expired more than a day ago."""
    tokens = config.multihost.pairing_tokens
    keep = [t for t in tokens if not t.expires_at_unix or t.expires_at_unix + EXPIRED_KEPT_S >= now_unix]
    if len(keep) != len(tokens):
        del tokens[:]
        tokens.extend(keep)

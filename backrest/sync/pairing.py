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
from backrest.store.validate import alike, id_problem

EXPIRED_KEPT_S = 24 * 3600  # an expired token is still known for a day, so that its client can be told why
UNGUESSABLE_CHARS = 32  # 128 bits in hex, half of what a token has
INSTANCE_ID_BYTES = 50  # the reference's bound (ENGINE.md 1.8)

Token = wire.config.Multihost.PairingToken


def refusal(message: str) -> PeerError:
    """What a hub answers to an identity that it does not let in."""
    return PeerError(Fault.REFUSED, Code.PERMISSION_DENIED, message)


def pair(config: wire.config.Config, peer: PeerIdentified, now_unix: int) -> str:
    """Add ``peer`` to the authorized clients of ``config``, use up one use of its token, and return the token's
    label. Raises PeerError (refused), with a detail about the token only for a secret that matched: a guesser learns
    nothing."""
    sync = config.multihost
    token = find_token(config, peer.pairing_secret, now_unix)
    _check_newcomer(config, peer)
    sync.authorized_clients.add(instance_id=peer.instance_id, keyid=peer.keyid, permissions=token.permissions)
    token.uses += 1
    label = token.label
    if token.max_uses and token.uses >= token.max_uses:
        sync.pairing_tokens.remove(token)
    prune_tokens(config, now_unix)
    return label


def find_token(config: wire.config.Config, secret: str, now_unix: int) -> Token:
    """The token with this secret, if it may be used now; else PeerError (refused)."""
    token = None
    # No early end: the time taken tells nothing about which one matched.
    for candidate in config.multihost.pairing_tokens:
        if same_secret(candidate.secret, secret):
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
    return token


def is_guessable(token: Token) -> bool:
    """A secret that somebody wrote into the file by hand. Ours, and the reference's, have 256 random bits."""
    return len(token.secret) < UNGUESSABLE_CHARS


def _check_newcomer(config: wire.config.Config, peer: PeerIdentified) -> None:
    problem = id_problem(peer.instance_id, INSTANCE_ID_BYTES)
    if problem:
        raise refusal(f"the client's instance id {problem}: choose another one on the client")
    if alike(peer.instance_id) == alike(config.instance):
        raise refusal(
            f"the client has the hub's own instance id {config.instance!r}: choose another one on the client"
        )
    newcomer = alike(peer.instance_id)
    for other in (*config.multihost.authorized_clients, *config.multihost.known_hosts):
        if alike(other.instance_id) == newcomer:
            raise refusal(
                f"another peer has the instance id {other.instance_id!r}: remove it on the hub with "
                f"'backrest client remove {other.instance_id}', or choose another id on the client"
            )
        if other.keyid == peer.keyid:
            raise refusal(f"this key already belongs to the peer {other.instance_id!r} of the hub")


def prune_tokens(config: wire.config.Config, now_unix: int, kept_s: int = EXPIRED_KEPT_S) -> list[str]:
    """Drop the tokens that expired more than ``kept_s`` ago; returns their labels."""
    tokens = config.multihost.pairing_tokens
    old = [t for t in tokens if t.expires_at_unix and t.expires_at_unix + kept_s < now_unix]
    for token in old:
        tokens.remove(token)
    return [token.label for token in old]


def prunable(config: wire.config.Config, now_unix: int) -> bool:
    """Whether ``prune_tokens`` would drop one."""
    tokens = config.multihost.pairing_tokens
    return any(t.expires_at_unix and t.expires_at_unix + EXPIRED_KEPT_S < now_unix for t in tokens)

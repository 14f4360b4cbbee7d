"""The key by which peers know this machine: shown, and replaced.

Replacing it undoes every pairing, by intention: whoever has the old key must not pass for this machine any more. It
cannot undo them on the other machines, so it names each peer and what is to be done there.
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context, require_identity
from backrest.errors import ConflictError


def show(context: Context) -> dict[str, Any]:
    """The public half, and who knows this machine by it. The private key is in the configuration file only."""
    config = context.identified()
    sync = config.multihost
    return {
        "instanceId": config.instance,
        "keyId": sync.identity.keyid,
        "publicKey": sync.identity.ed25519pub,
        "hubs": [{"instanceId": h.instance_id, "instanceUrl": h.instance_url} for h in sync.known_hosts],
        "clients": [{"instanceId": client.instance_id} for client in sync.authorized_clients],
        "tokens": [token.label for token in sync.pairing_tokens],
    }


def rotate(context: Context, keyid: str) -> dict[str, Any]:
    """A new key pair in the place of the one with that key id; ConflictError when that is not it (any more).

    The instance id, the peers' entries and all history stay. Sessions end by themselves: each side sees that the
    keys are others. Pairing tokens go: the key id in their text is the old one.
    """
    from backrest.crypto.identity import Identity

    before: dict[str, Any] = {}

    def change(config: wire.config.Config) -> None:
        require_identity(config)
        if config.multihost.identity.keyid != keyid:
            raise ConflictError(
                f"the key to be replaced, {keyid}, is not this machine's key (any more): "
                "`backrest identity show` says which is"
            )
        before["tokens"] = [token.label for token in config.multihost.pairing_tokens]
        config.multihost.identity.CopyFrom(Identity.generate().to_proto())
        config.multihost.ClearField("pairing_tokens")
        for host in config.multihost.known_hosts:
            host.initial_pairing_secret = ""  # an attempt under way was made with the old key

    config = context.transform(change, replace_identity=True)
    if context.daemon is not None:
        # Their sessions were opened with the old key, and end in a moment. A hub that is paired again meanwhile must
        # not be taken for one that is connected already, and its token be dropped.
        for host in config.multihost.known_hosts:
            context.peers.update(host.keyid, state=wire.sync.CONNECTION_STATE_DISCONNECTED)
    result = show(context) | {"oldKeyId": keyid, "tokens": before["tokens"]}
    context.record(
        "identity-rotated",
        instance=result["instanceId"],
        keyid=result["keyId"],
        old_keyid=keyid,
        tokens_dropped=result["tokens"],
    )
    # The old private key must not outlive the rotation in a backup.
    cleaned = context.afterwards(
        "the key is replaced, but the old one is still in backups of the configuration",
        lambda: context.config.clean_backups(identity=False),
    )
    return result | {"cleanedBackups": [str(path) for path in cleaned or ()]}

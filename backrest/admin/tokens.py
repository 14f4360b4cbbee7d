"""Pairing tokens on the hub: made, listed without their secrets, revoked.

The secret leaves in one answer, that of ``create``. Afterwards it is only in the configuration file (0600).
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin import context as clock
from backrest.admin.context import Context, require_identity
from backrest.admin.peers import Permission, formatted, grants
from backrest.crypto.tokens import PairingToken, new_secret
from backrest.errors import ConflictError, NotFoundError, UserError
from backrest.sync.pairing import prune_tokens
from backrest.wire import codec

# What the two common set-ups need: the hub sees the client's history, and may hand it shared repositories.
DEFAULT_PERMISSIONS = ("read-operations=*", "receive-shared-repos=*")

LONGEST_LABEL = 100  # a name to recognise it by, shown in a column
LONGEST_TTL_S = 100 * 365 * 24 * 3600  # beyond that it is a slip of the finger, or "for ever"
MOST_USES = 2**31 - 1  # int32 in the message


def create(
    context: Context,
    label: str | None = None,
    ttl_seconds: int = 3600,
    max_uses: int = 1,
    permissions: list[str] | None = None,
) -> dict[str, Any]:
    """A new token; ``ttl_seconds`` 0 is for ever, ``max_uses`` 0 is without limit."""
    granted = grants(DEFAULT_PERMISSIONS if permissions is None else permissions)
    if label is not None:
        label = label.strip()
        if not label or len(label) > LONGEST_LABEL or not label.isprintable():
            raise UserError(f"a label has 1 to {LONGEST_LABEL} printable characters")
    return make(context, label, ttl_seconds, max_uses, granted, unique=True)


def make(
    context: Context,
    label: str | None,
    ttl_seconds: int,
    max_uses: int,
    permissions: list[Permission],
    *,
    unique: bool,
) -> dict[str, Any]:
    """Stores the token. Without ``unique`` labels may repeat, as in the reference's GeneratePairingToken."""
    if not 0 <= ttl_seconds <= LONGEST_TTL_S:
        raise UserError("a token is good for up to 100 years, or for ever (0 seconds)")
    if not 0 <= max_uses <= MOST_USES:
        raise UserError(f"the number of uses must be from 0 (no limit) to {MOST_USES}")
    now = clock.now_ms() // 1000
    token = wire.config.Multihost.PairingToken(
        secret=new_secret(),
        created_at_unix=now,
        expires_at_unix=now + ttl_seconds if ttl_seconds > 0 else 0,
        max_uses=max_uses,
        permissions=permissions,
    )

    def add(config: wire.config.Config) -> None:
        require_identity(config)
        prune_tokens(config, now)
        labels = {other.label for other in config.multihost.pairing_tokens}
        if label is None:
            token.label = next(
                name for n in range(1, len(labels) + 2) if (name := f"token-{n}") not in labels
            )
        else:
            token.label = label
            if unique and label in labels:
                raise ConflictError(
                    f"there is already a token {label!r}: choose another label, or revoke it first "
                    f"with `backrest token revoke`"
                )
        config.multihost.pairing_tokens.append(token)

    config = context.transform(add)
    context.record(
        "token-created",
        label=token.label,
        expires_at_unix=token.expires_at_unix,
        max_uses=max_uses,
        permissions=formatted(permissions),
    )
    text = PairingToken(config.multihost.identity.keyid, token.secret, config.instance).format()
    return {"token": text, **public(token)}


def public(token: wire.config.Multihost.PairingToken) -> dict[str, Any]:
    """The token in protobuf's names, without its secret, and how it stands."""
    copy = wire.config.Multihost.PairingToken()
    copy.CopyFrom(token)
    copy.ClearField("secret")
    if token.expires_at_unix and clock.now_ms() // 1000 > token.expires_at_unix:
        state = "expired"
    elif token.max_uses and token.uses >= token.max_uses:
        state = "used up"
    else:
        state = "open"
    return codec.to_dict(copy) | {
        "label": token.label,
        "maxUses": token.max_uses,
        "uses": token.uses,
        "expiresAtUnix": str(token.expires_at_unix),
        "grants": formatted(token.permissions),
        "state": state,
    }


def prune(context: Context) -> dict[str, Any]:
    """Drops the expired tokens now; by itself the daemon does so a day after they expired, until when their
    clients are told why they are refused."""
    labels: list[str] = []

    def drop(config: wire.config.Config) -> bool:
        labels[:] = prune_tokens(config, clock.now_ms() // 1000, kept_s=0)
        return bool(labels)

    context.transform(drop)
    if labels:
        context.record("tokens-pruned", labels=labels)
    return {"pruned": labels}


def list_tokens(context: Context) -> dict[str, Any]:
    """Every token, without its secret."""
    return {"pairingTokens": [public(token) for token in context.config.current.multihost.pairing_tokens]}


def revoke(context: Context, label: str) -> dict[str, Any]:
    """Takes the token back: nobody can pair with it any more; who has paired stays."""
    revoked = 0

    def drop(config: wire.config.Config) -> None:
        nonlocal revoked
        tokens = config.multihost.pairing_tokens
        keep = [token for token in tokens if token.label != label]
        revoked = len(tokens) - len(keep)
        if not revoked:
            names = ", ".join(sorted(token.label for token in tokens)) or "none"
            raise NotFoundError(f"there is no token {label!r} (there are: {names})")
        del tokens[:]
        tokens.extend(keep)

    context.transform(drop)
    context.record("token-revoked", label=label, revoked=revoked)
    return {"label": label, "revoked": revoked}

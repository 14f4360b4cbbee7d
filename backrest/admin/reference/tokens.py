"""GeneratePairingToken."""

from __future__ import annotations

from backrest import wire
from backrest.admin import tokens
from backrest.admin.context import Context
from backrest.errors import UserError

Service = wire.service


def generate_pairing_token(
    context: Context, request: Service.GeneratePairingTokenRequest
) -> Service.GeneratePairingTokenResponse:
    """The limits are those of `token create`: the reference's has none (W-47). An empty label is allowed, as there."""
    if len(request.label) > tokens.LONGEST_LABEL or not request.label.isprintable():
        raise UserError(f"a label has up to {tokens.LONGEST_LABEL} printable characters")
    made = tokens.make(
        context,
        request.label,
        request.ttl_seconds,
        request.max_uses,
        list(request.permissions),
        unique=False,
    )
    return Service.GeneratePairingTokenResponse(token=made["token"])

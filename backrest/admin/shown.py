"""What a peer shows of its configuration, as it last showed it; secrets are masked.

What it may be asked to show is its own decision: the grants for us stand in *its* configuration, so where nothing is
shown this says on which machine to grant what.
"""

from __future__ import annotations

from typing import Any

from backrest.admin.context import Context
from backrest.admin.instance import peer_json
from backrest.admin.peers import configured, formatted
from backrest.wire import codec


def peer_config(context: Context, ident: str, role: str) -> dict[str, Any]:
    """A configured peer ("client" or "host"): its state, our grants for it, and its configuration in scope.

    ``config`` is None when none was ever received; ``hint`` says what would show more, else it is "".
    """
    config = context.config.current
    peer = configured(config, ident, role)
    record = context.peers.get(peer.keyid)
    view = record.remote_config if record is not None else None
    return {
        "peer": peer_json(context, peer, role),
        "grants": formatted(peer.permissions),
        "config": None if view is None else codec.to_dict(view),
        "configMillis": str(record.config_ms) if record is not None else "0",
        "hint": ""
        if view is not None and (view.repos or view.plans)
        else _hint(config.instance, peer.instance_id, role),
    }


def _hint(here: str, there: str, role: str) -> str:
    command = f"backrest {'host grant' if role == 'client' else 'client permissions'} {here}"
    return (
        f"{there!r} shows nothing of its repositories and plans: it has none, or does not grant read-config to this "
        f"machine. That is granted there: `{command} 'read-operations=*' receive-shared-repos 'read-config=*'` "
        "('read-write-config=*' instead, to change them from here as well)."
    )

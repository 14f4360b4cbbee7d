"""Known hosts: the hubs that this machine reports to.

``add`` first makes the entry durable, then watches the pairing. A pairing that fails leaves the entry: the
hub may be away just now, and this machine goes on trying. A token that cannot be one is refused before
anything is written. A pairing that works is not given up for an address that may be mistyped: that is tried first.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from backrest import wire
from backrest.admin.context import Context, now_ms, require_identity
from backrest.admin.instance import peer_json
from backrest.admin.peers import Peer, find, formatted, grants, regrant
from backrest.admin.registry import Emit
from backrest.crypto.tokens import PairingToken
from backrest.errors import ConflictError, UserError
from backrest.store.handover import WAITS, waits

# What a client needs to grant for the two common set-ups; the reference's page enters the same.
DEFAULT_GRANTS = ("read-operations=*", "receive-shared-repos=*")

WAIT_S = 30.0  # longer than a session may take to begin (15 s), and about what a person waits without doubts
NO_ANSWER = f"no answer within {WAIT_S:.0f} s"
# A refusal counts once it has lasted: the reference hub refuses the first session after a pairing that
# worked.
REFUSAL_LASTS_S = 6.0
LOOK_EVERY_S = 1.0

_REFUSED = (wire.sync.CONNECTION_STATE_ERROR_AUTH, wire.sync.CONNECTION_STATE_ERROR_PROTOCOL)


def check_url(text: str) -> str:
    """The hub's address without a slash at its end; UserError unless it is http(s)://host[:port][/path]."""
    example = "write https://backup.example.com or http://192.168.1.5:9898"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise UserError(f"the URL cannot be read: {example}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UserError(f"the URL {text!r} is not the address of a hub: {example}")
    if parts.username is not None or parts.password is not None:
        raise UserError("the URL must not hold a user or a password: the token is what lets this machine in")
    if parts.query or parts.fragment:
        raise UserError("the URL must not hold a '?' or a '#'")
    if not text.isprintable() or " " in text.strip():
        raise UserError(f"the URL {text!r} holds a blank or a control character")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def read_token(text: str) -> PairingToken:
    """The pasted token; UserError says what is wrong with it without showing it."""
    from backrest.crypto.identity import is_keyid

    try:
        token = PairingToken.parse(text)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not is_keyid(token.keyid):
        raise UserError("the pairing token does not begin with a key id (ed25519....): copy the whole line")
    return token


async def add(
    context: Context,
    emit: Emit,
    token: str,
    url: str,
    permissions: list[str] | None = None,
    wait: bool = True,
    ca_file: str | None = None,
    new_key: bool = False,
) -> dict[str, Any]:
    """Adds the hub (or gives a known one a new address and secret, with ``new_key`` also another key than it had),
    then waits for the pairing's result. ``silent``: it did not come, and nobody knows why. A hub that this machine was
    paired with keeps its address and key until it has let us in at the new one (``kept``: it did not), unless nobody
    waits for that."""
    import trio

    if ca_file and context.daemon is not None:
        raise UserError(
            "a daemon is running and does the dialling: give --ca-file to `backrest serve` instead"
        )
    if waits(context.paths):
        raise UserError(WAITS)
    parsed, address = read_token(token), check_url(url)
    moved = await trio.to_thread.run_sync(_moved, context, parsed, address, permissions, new_key)
    if moved is not None and wait:
        before, after = moved
        await emit({"trying": {"instanceId": after.instance_id, "instanceUrl": address}})
        connected, message, refused = await _try(context, after, ca_file)
        if not connected:
            silent = not message
            return {
                "host": await trio.to_thread.run_sync(peer_json, context, before, "host"),
                "known": True,
                "kept": True,
                "waited": True,
                "connected": False,
                "refused": refused,
                "silent": silent,
                "message": NO_ANSWER if silent else message,
                "daemonRuns": context.daemon is not None,
            }
    entry, known = await trio.to_thread.run_sync(_enter, context, parsed, address, permissions, new_key)
    refused = False
    await emit({"entered": {"instanceId": entry.instance_id, "instanceUrl": address, "known": known}})
    if not entry.initial_pairing_secret:
        connected, message = True, "it was connected already: the token was not needed"
    elif wait and context.daemon is not None:
        connected, message = await _watch(context, emit, entry.keyid)
    elif wait:
        connected, message, refused = await _dial(context, entry, ca_file)
    else:
        connected, message = False, ""
    shown = await trio.to_thread.run_sync(peer_json, context, entry, "host")
    refused = refused or (not connected and shown["state"] == "CONNECTION_STATE_ERROR_AUTH")
    silent = wait and not connected and not message
    return {
        "host": shown,
        "known": known,
        "kept": False,
        "waited": wait,
        "connected": connected,
        "refused": refused,
        "silent": silent,
        "message": NO_ANSWER if silent else message,
        "daemonRuns": context.daemon is not None,
    }


def _moved(
    context: Context, token: PairingToken, url: str, permissions: list[str] | None, new_key: bool
) -> tuple[Peer, Peer] | None:
    """The entry of a hub that this machine was paired with, as it is and as it is to be, when it gets another address
    or key. UserError, ConflictError for what cannot be entered at all."""
    draft = wire.config.Config()
    draft.CopyFrom(context.config.current)
    entering = _Entering(context, token, url, permissions, new_key)
    entering(draft)
    if not entering.known:
        return None
    was = entering.old_key or token.keyid
    before = find(context.config.current.multihost.known_hosts, was, "hub")
    after = find(draft.multihost.known_hosts, token.keyid, "hub")
    if before.initial_pairing_secret or (before.instance_url, before.keyid) == (url, token.keyid):
        return None
    return before, after


def _enter(
    context: Context, token: PairingToken, url: str, permissions: list[str] | None, new_key: bool
) -> tuple[Peer, bool]:
    """The entry as it now stands in the configuration, and whether the hub was known before."""
    entering = _Entering(context, token, url, permissions, new_key)
    config = context.transform(entering)
    entry = find(config.multihost.known_hosts, token.keyid, "hub")
    if entering.old_key:
        context.peers.remove(entering.old_key)
    context.record(
        "host-added",
        instance=entry.instance_id,
        keyid=entry.keyid,
        url=url,
        permissions=formatted(entry.permissions),
        known=entering.known,
        **({"old_keyid": entering.old_key} if entering.old_key else {}),
    )
    return entry, entering.known


class _Entering:
    """The change of a configuration that enters a hub, and what was there before. May be called again."""

    def __init__(
        self, context: Context, token: PairingToken, url: str, permissions: list[str] | None, new_key: bool
    ) -> None:
        self._context = context
        self._token = token
        self._url = url
        self._granted = None if permissions is None else grants(permissions)
        self._new_key = new_key
        self.known = False
        self.old_key = ""

    def __call__(self, config: wire.config.Config) -> None:
        token, granted = self._token, self._granted
        self.known, self.old_key = False, ""
        require_identity(config)
        if token.keyid == config.multihost.identity.keyid:
            raise UserError("this token was made by this very machine: paste it on the client")
        old = next((h for h in config.multihost.known_hosts if h.instance_id == token.instance_id), None)
        if old is not None and old.keyid != token.keyid and self._new_key:
            self.old_key, old.keyid = (
                old.keyid,
                token.keyid,
            )  # its grants, its repositories and their plans stay
        for other in (*config.multihost.known_hosts, *config.multihost.authorized_clients):
            if other.instance_id == token.instance_id and other.keyid != token.keyid:
                if other is old:
                    raise ConflictError(
                        f"the hub {token.instance_id!r} is known here with another key: if you know that its "
                        "identity was replaced (`backrest identity rotate`, a new installation), run this again "
                        "with --new-key"
                    )
                raise ConflictError(
                    f"a client called {token.instance_id!r} is known here with another key: if that machine "
                    "was set up anew, remove the old entry first (`backrest client remove`)"
                )
        if token.instance_id == config.instance:
            raise ConflictError(f"the hub and this machine have the same instance id {config.instance!r}")
        if any(other.keyid == token.keyid for other in config.multihost.authorized_clients):
            raise ConflictError(
                f"{token.instance_id!r} is a client of this machine, so it cannot be its hub as well"
            )
        entry = next((host for host in config.multihost.known_hosts if host.keyid == token.keyid), None)
        self.known = entry is not None
        if entry is None:
            entry = config.multihost.known_hosts.add(keyid=token.keyid)
            entry.permissions.extend(grants(DEFAULT_GRANTS) if granted is None else granted)
        elif granted is not None:
            del entry.permissions[:]
            entry.permissions.extend(granted)
        if self.known and _lives(self._context, entry, self._url):
            return  # a secret would stay in the file until the next session, and in nobody's use
        entry.instance_id = token.instance_id
        entry.instance_url = self._url
        entry.initial_pairing_secret = token.secret


async def _watch(context: Context, emit: Emit, keyid: str) -> tuple[bool, str]:
    """The daemon dials; we look on. Connected means: the state says so and the secret has done its work (so
    that a session of before, which is about to end, is not taken for the new one).
    """
    import trio

    from backrest.sync.watch import Watch

    refused_since: float | None = None
    told = message = ""
    deadline = trio.current_time() + WAIT_S
    with Watch(context.peers.subscribe, context.config.subscribe) as changes:
        while True:
            record, pending = context.peers.get(keyid), _secret_pending(context, keyid)
            if pending is None:
                return False, "the hub was removed in the meantime"
            if record is not None and record.state == wire.sync.CONNECTION_STATE_CONNECTED and not pending:
                return True, ""
            now = trio.current_time()
            if record is not None and record.message:
                message = record.message
                if record.state in _REFUSED:
                    refused_since = now if refused_since is None else refused_since
            if refused_since is not None and now - refused_since >= REFUSAL_LASTS_S:
                return False, message
            if now >= deadline:
                return False, message
            if message != told:
                told = message
                await emit({"message": message})
            await changes.wait(at_least_every_s=LOOK_EVERY_S)


def _lives(context: Context, entry: Peer, url: str) -> bool:
    """Connected, paired, at that very address."""
    if context.daemon is None or entry.initial_pairing_secret or entry.instance_url != url:
        return False
    record = context.peers.get(entry.keyid)
    return record is not None and record.state == wire.sync.CONNECTION_STATE_CONNECTED


def _secret_pending(context: Context, keyid: str) -> bool | None:
    for host in context.config.current.multihost.known_hosts:
        if host.keyid == keyid:
            return bool(host.initial_pairing_secret)
    return None


async def _try(context: Context, entry: Peer, ca_file: str | None) -> tuple[bool, str, bool]:
    """Whether a hub lets us in under an entry that is not in the configuration: (connected, why not, whether it
    refused). What is shown of the hub meanwhile is how it stands with the entry that is."""
    import trio

    from backrest.store.peers import PeerStore
    from backrest.sync.client import dialer, pair_once

    def ready() -> None:  # before the hub takes the token
        context.ready_to_record()
        context.config.check_writable()
        _ = context.oplog, context.peers

    await trio.to_thread.run_sync(ready)
    with trio.move_on_after(WAIT_S):
        outcome = await pair_once(
            entry,
            config=context.config,
            oplog=context.oplog,
            peers=PeerStore(context.paths.peers, now_ms),  # in memory only
            names=context.peers,  # it is this machine that dials, as the hub knows it
            audit=context.audit,
            dial=dialer(ca_file or context.ca_file),
            trial=True,
        )
        connected = outcome.lived > 0
        return connected, "" if connected else outcome.message, outcome.refused
    return False, "", False


async def _dial(context: Context, entry: Peer, ca_file: str | None) -> tuple[bool, str, bool]:
    """No daemon: dial once ourselves, for the pairing alone. (connected, why not, whether the hub refused)"""
    import trio

    from backrest.sync.client import dialer, pair_once

    def open_stores() -> None:  # reading a long history takes a while: not in the event loop
        _ = context.oplog, context.peers

    await trio.to_thread.run_sync(open_stores)
    connected, refused, message = False, False, ""
    state = wire.sync.CONNECTION_STATE_DISCONNECTED
    with trio.move_on_after(WAIT_S):
        outcome = await pair_once(
            entry,
            config=context.config,
            oplog=context.oplog,
            peers=context.peers,
            audit=context.audit,
            dial=dialer(ca_file),
        )
        connected, refused = outcome.lived > 0, outcome.refused
        state, message = outcome.state, "" if connected else outcome.message
    # Nobody dials on: `status` shows this until a daemon does.
    context.peers.update(entry.keyid, state=state, message=message if message or connected else NO_ANSWER)
    return connected, message, refused


def list_hosts(context: Context) -> dict[str, Any]:
    """Every hub with what it is granted."""
    return {"hosts": [_public(host) for host in context.config.current.multihost.known_hosts]}


def _public(peer: Peer) -> dict[str, Any]:
    return {
        "instanceId": peer.instance_id,
        "keyId": peer.keyid,
        "instanceUrl": peer.instance_url,
        "pairing": bool(peer.initial_pairing_secret),
        "grants": formatted(peer.permissions),
    }


def remove(context: Context, ident: str) -> dict[str, Any]:
    """Forgets the hub: its session ends, the repositories that came from it go, plans that used them are
    parked.
    """
    from backrest.admin.removal import remove_peer

    return remove_peer(context, ident, "host")


def grant(context: Context, ident: str, permissions: list[str]) -> dict[str, Any]:
    """Replaces what the hub may do here; in force at once."""
    return {"host": regrant(context, ident, "host", permissions, "host-granted")}

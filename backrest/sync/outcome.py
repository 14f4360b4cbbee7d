"""How an attempt to reach a hub ended: which state is shown for it, in which words, and how soon to come back.

Pure functions: the same end always gives the same outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

from backrest import wire
from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.net.dial import NetError

State = wire.sync.ConnectionState


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. ``lived`` is how long the session was established, in seconds, 0 when it never was;
    ``ours`` says that the hub is of our kind, as far as it came to that."""

    state: State
    message: str
    lived: float = 0.0
    at_once: bool = False
    refused: bool = False
    ours: bool = False


def outcome_of(error: BackrestError, lived: float, woke: bool) -> Outcome:
    """What to show for how a session ended, and how soon to come back."""
    if isinstance(error, NetError):
        return Outcome(
            wire.sync.CONNECTION_STATE_DISCONNECTED, str(error), lived, at_once=error.retry_at_once or woke
        )
    if not isinstance(error, PeerError):
        return Outcome(wire.sync.CONNECTION_STATE_ERROR_INTERNAL, str(error), lived)
    message = str(error)
    state: State = wire.sync.CONNECTION_STATE_DISCONNECTED
    refused = False
    if error.fault is Fault.ENDED and error.code is Code.PERMISSION_DENIED:
        state, message, refused = wire.sync.CONNECTION_STATE_ERROR_AUTH, f"the hub refuses: {message}", True
    elif error.fault in (Fault.HANDSHAKE, Fault.REFUSED):
        state = wire.sync.CONNECTION_STATE_ERROR_AUTH
    elif error.fault is Fault.ENDED and error.code is Code.INVALID_ARGUMENT:
        state, message = (
            wire.sync.CONNECTION_STATE_ERROR_PROTOCOL,
            f"the hub refuses what was sent: {message}",
        )
    elif error.fault in (Fault.FRAMING, Fault.KEM, Fault.RECORD, Fault.ITEM):
        state = wire.sync.CONNECTION_STATE_ERROR_PROTOCOL
    elif error.fault is Fault.TIMEOUT and not lived:
        message += ": what is there does not answer as a hub does, or a proxy holds the stream back"
    return Outcome(state, message, lived, at_once=woke, refused=refused)

"""All transitions live here: the states of a session, which item may come in each, and what it leads to.

What is not in ``TABLE`` is a fault of the other side. Not in it, because no item causes them: the hub's
step from DECISION to OPEN (``accept``), and the way to OVER, which is open from everywhere: a fault, an
end-of-stream message, END_STREAM, a deadline, ``reject`` and ``end``. Kinds that both sides switched on by
a feature (``items.GATED``) are taken in OPEN too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from backrest.protocol import items
from backrest.protocol.items import Role


class State(Enum):
    """Where a session is; the names say what is waited for."""

    KEM = "waiting for the other side's half of the key exchange"
    HANDSHAKE = "waiting for the other side's handshake"
    DECISION = "waiting for our own accept or reject"
    FIRST_ITEM = "waiting for the hub's first item"
    OPEN = "established"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may make us hold, and how long it may take. Seconds and bytes."""

    before_known: int = (
        16 << 10
    )  # envelopes up to and with the handshake: they take 2 to 4 KiB, in JSON a third more
    message: int = 64 << 20  # a manifest of a million operations is one message of some 15 MiB
    kept: int = 2 << 20  # unread input while we decide: twice the window that HTTP/2 gives a stream
    handshake_s: float = 15.0  # from the stream's start until the peer is known; the reference's own figure
    first_item_s: float = 30.0  # client, from the stream's start until the hub's first item
    heartbeat_s: float = 60.0
    hold_s: float = (
        0.5  # hub: the longest that a held handshake waits for the client's, which comes in a round trip
    )


DEFAULT_LIMITS: Final = Limits()


TABLE: Final[Mapping[tuple[Role, State], Mapping[str, State]]] = {
    (Role.CLIENT, State.KEM): {"establish_shared_secret": State.HANDSHAKE},
    (Role.CLIENT, State.HANDSHAKE): {"handshake": State.FIRST_ITEM},
    (Role.CLIENT, State.FIRST_ITEM): dict.fromkeys(items.ACCEPTED[Role.CLIENT], State.OPEN),
    (Role.CLIENT, State.OPEN): dict.fromkeys(items.ACCEPTED[Role.CLIENT], State.OPEN),
    (Role.HUB, State.KEM): {"establish_shared_secret": State.HANDSHAKE},
    (Role.HUB, State.HANDSHAKE): {"handshake": State.DECISION},
    (
        Role.HUB,
        State.DECISION,
    ): {},  # nothing is read in it: the reference client does not wait for our answer
    (Role.HUB, State.OPEN): dict.fromkeys(items.ACCEPTED[Role.HUB], State.OPEN),
}

MAY_SEND: Final = {
    Role.CLIENT: (
        State.FIRST_ITEM,
        State.OPEN,
    ),  # its handshake is in the outbox, so what follows comes after it
    Role.HUB: (State.OPEN,),
}

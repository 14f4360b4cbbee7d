"""Both ends of a session in one place: a pair of Sessions, driven together without a socket or a clock.

``Pair`` passes bytes between them when told to (``pump``), cut as a test wants. Nothing in here asserts a
contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from backrest.crypto.identity import Identity
from backrest.errors import PeerError
from backrest.protocol.events import Event, PeerIdentified, Received
from backrest.protocol.session import Role, Session
from backrest.wire import operations, sync

Item = sync.SyncStreamItem
Chunker = Callable[[bytes], Iterable[bytes]]

HUB_ID = Identity.from_seed(bytes(range(32)))
CLIENT_ID = Identity.from_seed(bytes(range(1, 33)))
OTHER_ID = Identity.from_seed(bytes(range(2, 34)))


def whole(data: bytes) -> Iterable[bytes]:
    return [data] if data else []


def in_pieces(size: int) -> Chunker:
    """A chunker that cuts into pieces of ``size`` bytes."""
    return lambda data: [data[start : start + size] for start in range(0, len(data), size)]


def split_envelopes(data: bytes) -> list[bytes]:
    """The Connect envelopes in ``data``, each with its prefix; ``data`` must end with one."""
    found: list[bytes] = []
    while data:
        end = 5 + int.from_bytes(data[1:5], "big")
        found.append(data[:end])
        data = data[end:]
    return found


def make_hub(now: float = 0.0, **kwargs: Any) -> Session:
    return Session(Role.HUB, **{"identity": HUB_ID, "instance_id": "hub", "now": now} | kwargs)


def make_client(now: float = 0.0, **kwargs: Any) -> Session:
    given: dict[str, Any] = {
        "identity": CLIENT_ID,
        "instance_id": "laptop",
        "now": now,
        "expected_keyid": HUB_ID.keyid,
        "expected_instance_id": "hub",
    }
    return Session(Role.CLIENT, **given | kwargs)


@dataclass
class End:
    """One session and what it told: events in order, and the fault that ended it."""

    session: Session
    events: list[Event] = field(default_factory=list)
    fault: PeerError | None = None

    def feed(self, data: bytes, now: float = 0.0) -> None:
        """Give it input as a reader would: the events first, then the fault."""
        self.take(lambda: self.session.receive_data(data, now))

    def eof(self, now: float = 0.0) -> None:
        self.take(lambda: self.session.receive_eof(now))

    def tick(self, now: float) -> None:
        self.take(lambda: self.session.tick(now))

    def take(self, call: Callable[[], list[Event]]) -> None:
        if self.fault is not None:
            return
        try:
            self.events += call()
        except PeerError as error:
            self.fault = error
        self.fault = self.fault or self.session.fault

    def accept_if_asked(self) -> None:
        if self.session.role is Role.HUB and self.session.state.name == "DECISION":
            self.take(self.session.accept)

    def of(self, kind: str) -> list[Any]:
        """The messages of this kind that came."""
        return [e.message for e in self.events if isinstance(e, Received) and e.kind == kind]

    @property
    def names(self) -> list[str]:
        """What happened, in short: for comparing whole stories."""
        return [e.kind if isinstance(e, Received) else type(e).__name__ for e in self.events]


class Pair:
    """A client and a hub that talk to each other. The hub accepts whoever is identified unless told
    otherwise."""

    def __init__(
        self,
        *,
        hub: dict[str, Any] | None = None,
        client: dict[str, Any] | None = None,
        chunker: Chunker = whole,
        accept: bool = True,
        now: float = 0.0,
    ) -> None:
        self.hub = End(make_hub(now, **(hub or {})))
        self.client = End(make_client(now, **(client or {})))
        self.now = now
        self._chunker = chunker
        self._accept = accept

    def pump(self) -> Pair:
        """Pass bytes both ways until neither side has more to say."""
        while True:
            outgoing = self.client.session.data_to_send()
            self.give(self.hub, outgoing)
            incoming = self.hub.session.data_to_send()
            self.give(self.client, incoming)
            if not outgoing and not incoming:
                return self

    def give(self, end: End, data: bytes) -> None:
        for chunk in self._chunker(data):
            end.feed(chunk, self.now)
            if self._accept:
                end.accept_if_asked()

    def established(self) -> Pair:
        """Through the handshakes, and the hub's first item: both sides are open, all events so far
        forgotten."""
        self.pump()
        self.hub.session.send("receive_config", Item.SyncActionReceiveConfig())
        self.pump()
        assert self.client.session.established
        assert self.hub.session.established
        self.client.events.clear()
        self.hub.events.clear()
        return self


def identified(end: End) -> PeerIdentified:
    """The peer that this end has identified."""
    found = [event for event in end.events if isinstance(event, PeerIdentified)]
    assert len(found) == 1
    return found[0]


def updated(*op_ids: int) -> Any:
    """A receive_operations with these ids."""
    event = operations.OperationEvent()
    event.updated_operations.operations.extend(operations.Operation(id=i, modno=i) for i in op_ids)
    return Item.SyncActionReceiveOperations(event=event)

"""Both ends of a session in one place: a pair of Sessions, driven together without a socket or a clock.

``Pair`` passes bytes between them when told to (``pump``), cut as a test wants. ``RawClient`` and
``RawHub`` are the other side by hand, for what a Session of ours would never say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from backrest.crypto.channel import Channel, Initiator, respond
from backrest.crypto.identity import Identity, make_handshake
from backrest.errors import Code, Fault, PeerError
from backrest.protocol.events import Event, PeerIdentified, Received
from backrest.protocol.framing import Decoder, encode, end_of_stream, parse_end
from backrest.protocol.session import Role, Session, State
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


class RawPeer:
    """The other side by hand: says any item at any time, sealed or not, to a Session under test."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.channel: Channel | None = None

    def give(self, item: Any, now: float = 0.0) -> None:
        """An item as it is."""
        self.give_bytes(item.SerializeToString(), now)

    def give_bytes(self, payload: bytes, now: float = 0.0) -> None:
        self.end.feed(encode(0, payload), now)

    def give_sealed(self, item: Any, now: float = 0.0) -> None:
        """An item in the channel's next record."""
        self.give_plaintext(item.SerializeToString(), now)

    def give_plaintext(self, plaintext: bytes, now: float = 0.0) -> None:
        assert self.channel is not None
        nonce, ciphertext = self.channel.seal(plaintext)
        self.give(Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext)), now)

    def take(self) -> list[Any]:
        """What the Session has sent since the last call: cleartext items as they are, records opened. Its
        end-of-stream message comes as an EndOfStream."""
        found: list[Any] = []
        decoder = Decoder(1 << 26)
        decoder.feed(self.end.session.data_to_send())
        while (envelope := decoder.next()) is not None:
            if envelope.is_end:
                found.append(parse_end(envelope.payload))
                continue
            item = Item.FromString(envelope.payload)
            if item.WhichOneof("action") == "encrypted" and self.channel is not None:
                item = Item.FromString(self.channel.open(item.encrypted.nonce, item.encrypted.ciphertext))
            found.append(item)
        return found


class RawClient(RawPeer):
    """A client by hand, before a hub Session."""

    def __init__(self, **hub: Any) -> None:
        super().__init__(End(make_hub(**hub)))
        self.initiator = Initiator()

    def hello(self) -> RawClient:
        """The key exchange; what the hub then sent first is kept in ``hub_handshake``."""
        key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=self.initiator.public_key)
        self.give(Item(establish_shared_secret=key))
        answer, record = split_envelopes(self.end.session.data_to_send())
        encapsulation = Item.FromString(answer[5:]).establish_shared_secret.kem_encapsulation
        self.channel = self.initiator.finish(encapsulation)
        sealed = Item.FromString(record[5:]).encrypted
        self.hub_handshake = Item.FromString(self.channel.open(sealed.nonce, sealed.ciphertext)).handshake
        return self

    def handshake(self, identity: Identity = CLIENT_ID, secret: str = "", instance_id: str = "laptop") -> Any:
        assert self.channel is not None
        return make_handshake(identity, instance_id, secret, self.channel.transcript)

    def opened(self) -> RawClient:
        """Through the handshakes, accepted, all events so far forgotten."""
        self.hello()
        self.give_sealed(Item(handshake=self.handshake()))
        self.end.accept_if_asked()
        self.end.events.clear()
        return self


class RawHub(RawPeer):
    """A hub by hand, before a client Session."""

    def __init__(self, **client: Any) -> None:
        super().__init__(End(make_client(**client)))
        (hello,) = self.take()
        self.public_key = hello.establish_shared_secret.kem_public_key

    def answer(self) -> RawHub:
        """The key exchange, not yet the handshake."""
        encapsulation, self.channel = respond(self.public_key)
        answer = Item.SyncEstablishSharedSecret(protocol_version=1, kem_encapsulation=encapsulation)
        self.give(Item(establish_shared_secret=answer))
        return self

    def handshake(self, identity: Identity = HUB_ID, instance_id: str = "hub") -> Any:
        assert self.channel is not None
        return make_handshake(identity, instance_id, "", self.channel.transcript)

    def opened(self) -> RawHub:
        """Through the handshakes and the first item, all events so far forgotten."""
        self.answer()
        self.give_sealed(Item(handshake=self.handshake()))
        self.give_sealed(Item(receive_config=Item.SyncActionReceiveConfig()))
        self.take()
        self.end.events.clear()
        return self


def assert_fault(end: End, fault: Fault, code: Code) -> None:
    """The session ended with this verdict; a hub said so in its last message, a client says nothing."""
    assert end.fault is not None
    assert (end.fault.fault, end.fault.code) == (fault, code), str(end.fault)
    assert end.session.state is State.OVER
    data = end.session.data_to_send()
    if end.session.role is Role.HUB:
        assert data.endswith(end_of_stream(code, str(end.fault)))
    else:
        assert data == b""


def kem(**fields: Any) -> Any:
    """A cleartext item of the key exchange."""
    return Item(establish_shared_secret=Item.SyncEstablishSharedSecret(**fields))

"""One sync session, either end, as a state machine: bytes and the time in, events and bytes out.

Which item may come when, and what state it leads to, is in states.py; here is what happens on the way:

    client  KEM -> HANDSHAKE -> FIRST_ITEM -> OPEN      its key goes out at once, its handshake after it
                                                        verified the hub's: nobody in the middle gets the
                                                        pairing secret
    hub     KEM -> HANDSHAKE -> DECISION -> OPEN        its handshake follows its encapsulation at once, unless
                                                        it is held; DECISION is left by ``accept`` or ``reject``

A held handshake (``hold``) is for clients that drop their pairing secret when they see it: it goes out with
``accept``, and a client that is rejected never sees it. Nobody waits for each other: without the client's
handshake ours goes out after ``hold_s``.

Faults of the other side are PeerErrors, in one place (``_fail``): the state is OVER, a hub's verdict is in
the outbox, a client's outbox is empty. A fault that comes in the same input after something good is not
raised before that was handed over: look at ``fault`` when the events are handled. Local misuse is a
RuntimeError or a ValueError and changes nothing. No trio, no files, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from google.protobuf.message import Message

from backrest.crypto import channel as crypto_channel
from backrest.crypto.identity import Identity, make_handshake, verify_handshake
from backrest.errors import Code, Fault, PeerError
from backrest.protocol import framing, items
from backrest.protocol.events import Ended, Established, Event, HeartbeatReceived, PeerIdentified, Received
from backrest.protocol.items import Item, Role
from backrest.protocol.pulse import Pulse
from backrest.protocol.records import Initiating, Records, Responding
from backrest.protocol.states import DEFAULT_LIMITS, MAY_SEND, TABLE, Limits, State

__all__ = ["Limits", "Role", "Session", "State"]


class Session:
    """One end of one stream. Times are seconds of one monotonic clock and never go back."""

    def __init__(
        self,
        role: Role,
        *,
        identity: Identity,
        instance_id: str,
        now: float,
        codec: items.Codec = "proto",
        encoding: framing.Encoding = "identity",
        pairing_secret: str = "",
        expected_keyid: str = "",
        expected_instance_id: str = "",
        features: Sequence[str] = (),
        hold: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        initiator: Initiating | None = None,
        responder: Responding = crypto_channel.respond,
    ) -> None:
        """``now`` is the stream's start (the client: of the dial). ``codec`` and ``encoding`` are those of
        the request; ``pairing_secret`` and the ``expected_`` pair are the client's, ``hold`` is the hub's.
        ``initiator`` and
        ``responder`` are the two halves of the key exchange, to be replaced by recorded ones in tests.
        """
        if role is Role.CLIENT and not (expected_keyid and expected_instance_id):
            raise ValueError("a client must know whom it dials: key id and instance id")
        if role is Role.HUB and (pairing_secret or expected_keyid or expected_instance_id):
            raise ValueError("a hub dials nobody and presents no pairing secret")
        if role is Role.CLIENT and hold:
            raise ValueError("only a hub holds its handshake: a client's has followed the hub's")
        items.check_features(features)
        self.role = role
        self.state = State.KEM
        self.peer: PeerIdentified | None = None
        self.fault: PeerError | None = None
        self._identity = identity
        self._instance_id = instance_id
        self._pairing_secret = pairing_secret
        self._expected = (expected_keyid, expected_instance_id)
        self._features = tuple(features)
        self._hold = hold
        self._held_until: float | None = None  # our handshake waits until then
        self._probe_due = False
        self._limits = limits
        self._responder = responder
        self._now = self._start = now
        # The decoder judges one payload; before the peer is known its limit is what is left of the sum.
        self._decoder = framing.Decoder(
            limits.before_known - framing.PREFIX_BYTES, encoding=encoding, ends=role is Role.CLIENT
        )
        self._spent = 0
        self._eof = False
        self._records = Records(codec, limits.message)
        self._pulse: Pulse | None = None
        self._gated: frozenset[str] = frozenset()
        self._initiator: Initiating | None = None
        if role is Role.CLIENT:
            self._initiator = initiator or crypto_channel.Initiator()
            hello = Item.SyncEstablishSharedSecret(
                protocol_version=crypto_channel.TRANSPORT_VERSION, kem_public_key=self._initiator.public_key
            )
            self._records.clear(Item(establish_shared_secret=hello))

    # --- what the caller sees

    @property
    def established(self) -> bool:
        """Do both sides take part, so that all items may be sent?"""
        return self.state is State.OPEN

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is to be called next; None when there is nothing to wait for."""
        if self._pulse is not None and self.state is State.OPEN:
            if self._probe_due:
                return self._now
            return min(self._pulse.next_beat, self._pulse.next_probe, self._pulse.silent_at)
        due = self._due()
        if self._held_until is not None and due is not None and self.state is State.HANDSHAKE:
            return min(self._held_until, due)
        return due

    @property
    def outbox_size(self) -> int:
        """Bytes that wait for ``data_to_send``. Not bounded here: whoever calls ``send`` looks first."""
        return self._records.size

    def data_to_send(self) -> bytes:
        """All that is to go out, joined, in order; it is the caller's from here on."""
        return self._records.drain()

    # --- input

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take input. Raises PeerError; events that came before the fault are returned first (see ``fault``).

        After the end (ours or theirs) what still comes is dropped: a peer may not have seen it yet.
        """
        self._advance(now)
        if self.state is State.OVER:
            return []
        if data:
            self._decoder.feed(data)
            if self._pulse is not None:
                self._pulse.heard(now)
        return self._read()

    def receive_eof(self, now: float) -> list[Event]:
        """END_STREAM came. From a client between two messages it is a clean end, and our answer is queued. A
        hub must say how it ends: END_STREAM alone is what a proxy makes of a crash."""
        self._advance(now)
        if self.state is State.OVER:
            return []
        self._eof = True
        return self._read()

    def tick(self, now: float) -> list[Event]:
        """To be called when ``deadline`` is reached (earlier does no harm): heartbeats and deadlines."""
        self._advance(now)
        if self._held_until is not None and self.state is State.HANDSHAKE and now >= self._held_until:
            self._shake_hands()
        if self._pulse is not None and self.state is State.OPEN:
            if now >= self._pulse.silent_at:
                silent = f"nothing came from the peer for {self._pulse.allowance:.0f} s"
                raise self._fail(PeerError(Fault.SILENCE, self._code(Code.INTERNAL), silent))
            if now >= self._pulse.next_beat:
                self._pulse.sent(now)
                self.send("heartbeat")
            if self._probe_due or now >= self._pulse.next_probe:
                self._probe_due = False
                self._pulse.asked(now)
                self.send("request_resources")
        return []

    def look_away(self) -> None:
        """Input is not read for now (it is being stored, say), so the peer cannot be heard: no silence is
        counted until ``listen``. Both do nothing before the session is open."""
        if self._pulse is not None:
            self._pulse.look_away()

    def listen(self, now: float) -> None:
        """Input is read again."""
        if self._pulse is not None:
            self._pulse.listen(now)

    # --- output and decisions

    def accept(self) -> list[Event]:
        """The hub lets the identified peer in. Returns Established and the events of what came meanwhile.
        Raises PeerError when the session ended while the caller was deciding."""
        if self.fault is not None:
            raise self.fault
        if self.state is State.OVER:
            raise PeerError(Fault.ENDED, Code.UNAVAILABLE, "the session was ended while it was being opened")
        if self.state is not State.DECISION:
            raise RuntimeError(f"there is nobody to accept: the session is {self.state.value}")
        if self._held_until is not None:
            self._shake_hands()
        self._open()
        return [Established(), *self._read(told=True)]

    def reject(self, code: Code, message: str) -> None:
        """The hub does not let the identified peer in; the reason is queued, unless it is gone already."""
        if self.state not in (State.DECISION, State.OVER):
            raise RuntimeError(f"there is nobody to reject: the session is {self.state.value}")
        self.end(code, message)

    def send(self, kind: str, message: Message | None = None) -> None:
        """Queue one item; ``message`` None stands for an empty one. After the end it is dropped silently:
        whoever answers an event cannot know yet that the stream is gone.

        Raises RuntimeError when it is too early, ValueError for an item that the other side must not get.
        """
        if self.state is State.OVER:
            return
        if self.state not in MAY_SEND[self.role]:
            raise RuntimeError(f"no item may be sent yet: the session is {self.state.value}")
        other = Role.HUB if self.role is Role.CLIENT else Role.CLIENT
        if kind not in items.SENDABLE[self.role] and kind not in items.gated(other, self._shared_features()):
            raise ValueError(f"a {self.role.value} does not send {kind!r} to this peer")
        item = Item()
        field = cast(Message, getattr(item, kind))
        field.SetInParent()
        if message is not None:
            field.CopyFrom(message)
        try:
            items.check_shape(other, field)
        except PeerError as error:
            raise ValueError(f"{kind}: {error}") from None
        self._records.seal(item)
        if kind == "set_config" and self._probes:
            self._probe_due = True  # a reference client leaves over one that it refuses, and gives no sign

    def end(self, code: Code | None = None, message: str = "") -> None:
        """End the session from our side: the hub's end-of-stream message is queued, a client just stops.
        Only the first end counts. The pairing secret is forgotten."""
        if self.state is State.OVER:
            return
        self.state = State.OVER
        self._pairing_secret = ""
        if self.role is Role.HUB:
            self._records.raw(framing.end_of_stream(code, message))

    # --- reading

    def _read(self, *, told: bool = False) -> list[Event]:
        """Turn what is buffered into events. ``told``: there is an event already, so nothing is raised."""
        events: list[Event] = []
        try:
            while self.state not in (State.DECISION, State.OVER):
                envelope = self._decoder.next()
                if envelope is None:
                    if self._eof:
                        events.append(self._on_eof())
                    break
                events += self._on_envelope(envelope)
            if self.state is State.DECISION and self._decoder.buffered > self._limits.kept:
                raise PeerError(Fault.FRAMING, Code.RESOURCE_EXHAUSTED, "too much came before it was let in")
        except PeerError as error:
            self._fail(error)
            if not (events or told):
                raise
        return events

    def _on_envelope(self, envelope: framing.Envelope) -> list[Event]:
        if envelope.is_end:
            end = framing.parse_end(envelope.payload)
            self.end()
            return [Ended(end.code, end.message)]
        if self.peer is None:
            self._spent += framing.PREFIX_BYTES + len(envelope.payload)
            self._decoder.limit = self._limits.before_known - self._spent - framing.PREFIX_BYTES
        item, weight = self._records.read(envelope.payload)
        kind = items.kind_of(item)
        after = TABLE[self.role, self.state].get(kind)
        if kind in self._gated and self.state is State.OPEN:
            after = State.OPEN
        if after is None and self.state is State.KEM:
            raise _kem_fault(f"the stream must begin with the key exchange, not {items.named(kind)}")
        if after is None:
            raise items.misplaced(f"{items.named(kind)} has no place here: the session is {self.state.value}")
        message = cast(Message, getattr(item, kind))
        if self.state is State.KEM:
            return self._on_key(cast(Item.SyncEstablishSharedSecret, message), after)
        if self.state is State.HANDSHAKE:
            return self._on_handshake(cast(Item.SyncActionHandshake, message), after)
        return self._on_item(kind, message, weight)

    def _on_key(self, exchange: Item.SyncEstablishSharedSecret, after: State) -> list[Event]:
        if exchange.protocol_version != crypto_channel.TRANSPORT_VERSION:
            raise _kem_fault(f"its transport has version {exchange.protocol_version}, ours 1")
        try:
            if self._initiator is not None:
                initiator, self._initiator = self._initiator, None
                self._records.channel = initiator.finish(exchange.kem_encapsulation)
                self.state = after
                return []
            encapsulation, self._records.channel = self._responder(exchange.kem_public_key)
        except ValueError as error:
            raise _kem_fault(str(error)) from error
        answer = Item.SyncEstablishSharedSecret(
            protocol_version=crypto_channel.TRANSPORT_VERSION, kem_encapsulation=encapsulation
        )
        self._records.clear(Item(establish_shared_secret=answer))
        if self._hold:
            self._held_until = self._now + self._limits.hold_s
        else:  # at once, not after the client's: a client of ours shows nothing before it has seen this
            self._shake_hands()
        self.state = after
        return []

    def _on_handshake(self, handshake: Item.SyncActionHandshake, after: State) -> list[Event]:
        try:
            # Refuses our own key too: a handshake names no role, so our own sent back would verify
            # (reflection); and keys of small order, under which anybody can sign.
            found = verify_handshake(handshake, self._records.transcript, own_keyid=self._identity.keyid)
        except ValueError as error:
            raise PeerError(Fault.HANDSHAKE, Code.PERMISSION_DENIED, str(error)) from error
        if self.role is Role.CLIENT and (found.keyid, found.instance_id) != self._expected:
            raise PeerError(
                Fault.REFUSED, Code.PERMISSION_DENIED, self._wrong_hub(found.keyid, found.instance_id)
            )
        secret = found.pairing_secret if self.role is Role.HUB else ""  # from a hub it has no meaning
        features = items.announced(handshake)
        self.peer = PeerIdentified(found.keyid, found.public_key, found.instance_id, secret, features)
        self._gated = items.gated(self.role, self._shared_features())
        self._decoder.limit = self._limits.message
        if self.role is Role.CLIENT:
            self._shake_hands()
        self.state = after
        return [self.peer]

    def _wrong_hub(self, keyid: str, instance_id: str) -> str:
        expected_keyid, expected_instance_id = self._expected
        if keyid != expected_keyid:
            return (
                "the hub has another key. If its identity was replaced, pair again with a token from it ('backrest "
                "host add TOKEN --url URL --new-key'); if not, something else answers at its address. Its key is "
                f"{keyid}, and not {expected_keyid}"
            )
        return f"the hub calls itself {instance_id[:100]!r}, not {expected_instance_id!r}"

    def _on_item(self, kind: str, message: Message, weight: int) -> list[Event]:
        items.check_shape(self.role, message)
        events: list[Event] = []
        if self.state is State.FIRST_ITEM:
            # Not before: the hub's handshake says who it is; only an item says that it let us in.
            self._open()
            events.append(Established())
        assert self._pulse is not None
        if kind == "heartbeat":
            self._pulse.beat(self._now)
            events.append(HeartbeatReceived())
        else:
            if kind == "receive_resources":
                self._pulse.answered()
            events.append(Received(kind, message, weight))
        return events

    def _on_eof(self) -> Event:
        if self.role is Role.CLIENT:
            raise PeerError(Fault.ENDED, Code.UNAVAILABLE, "the hub's stream broke off without saying why")
        if not self._decoder.at_boundary():
            raise PeerError(Fault.ENDED, Code.INVALID_ARGUMENT, "the client's stream ended inside a message")
        if self.state is not State.OPEN:
            raise PeerError(Fault.ENDED, Code.INVALID_ARGUMENT, "the stream ended before its handshake")
        self.end()
        return Ended(None)

    # --- writing

    def _shake_hands(self) -> None:
        handshake = make_handshake(
            self._identity, self._instance_id, self._pairing_secret, self._records.transcript
        )
        items.announce(handshake, self._features)
        self._pairing_secret = ""
        self._held_until = None
        self._records.seal(Item(handshake=handshake))

    # --- time and ends

    def _open(self) -> None:
        self.state = State.OPEN
        self._pulse = Pulse(self._limits.heartbeat_s, self._now, probed=self._probes)

    @property
    def _probes(self) -> bool:
        """Is the other side a client that may leave without a sign? One that announces features is of our kind: it
        closes what it gives up, and its heartbeats are frequent."""
        return self.role is Role.HUB and self.peer is not None and not self.peer.features

    def _due(self) -> float | None:
        if self.state in (State.KEM, State.HANDSHAKE, State.DECISION):
            return self._start + self._limits.handshake_s
        if self.state is State.FIRST_ITEM:
            return self._start + self._limits.first_item_s
        return None

    def _advance(self, now: float) -> None:
        """Begin a call: raise a fault that is known, then judge the deadlines of the opening, which bound
        what a stranger costs, even if the caller's timer is late. Silence is judged by ``tick`` alone: what
        has just come is not silence."""
        if self.fault is not None:
            raise self.fault
        self._now = now
        due = self._due()
        if due is None or now < due:
            return
        waited = f"{now - self._start:.0f} s passed {self.state.value}"
        code = Code.UNAVAILABLE if self.state is State.DECISION else Code.PERMISSION_DENIED
        raise self._fail(PeerError(Fault.TIMEOUT, self._code(code), waited))

    def _code(self, hub: Code) -> Code:
        """The code of a verdict that only a hub sends; what a client says to itself is that time ran out."""
        return hub if self.role is Role.HUB else Code.DEADLINE_EXCEEDED

    def _fail(self, error: PeerError) -> PeerError:
        """The one way into a fault. A client sends nothing more: its outbox may hold a pairing secret for a
        hub that has just shown that something is wrong."""
        self.fault = error
        self.end(error.code, str(error))
        if self.role is Role.CLIENT:
            self._records.discard()
        return error

    def _shared_features(self) -> frozenset[str]:
        theirs = self.peer.features if self.peer is not None else ()
        return frozenset(theirs) & frozenset(self._features)


def _kem_fault(message: str) -> PeerError:
    return PeerError(Fault.KEM, Code.INVALID_ARGUMENT, message)

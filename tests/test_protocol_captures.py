"""The reference's half of the captured sessions, fed to ours, is answered as PROTOCOL.md says.

Where our side's keys are in the recording (the identity, the client's KEM seed), our own messages must come
out as the scripted peer's did, byte for byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from helpers import End, Item, in_pieces, make_client, make_hub, split_envelopes, whole

from backrest.crypto.channel import Channel
from backrest.crypto.identity import Identity
from backrest.errors import Code, Fault
from backrest.protocol.events import Ended, Established, PeerIdentified, Received
from backrest.protocol.framing import FLAG_END, encode

CAPTURES = Path(__file__).parent.parent / "conformance/vectors/captures"
HUB_CAPTURE = json.loads((CAPTURES / "hub-session.json").read_text())  # the reference is the hub
CLIENT_CAPTURE = json.loads((CAPTURES / "client-session.json").read_text())  # the reference is the client


class Capture:
    """One session, with a Session of ours in the scripted peer's place."""

    def __init__(self, capture: dict[str, Any], number: int) -> None:
        session = capture["sessions"][number]
        self.envelopes = [(who, bytes.fromhex(data)) for who, data in session["envelopes"]]
        self.items = [(who, ParseDict(item, Item())) for who, item in session["items"]]
        self.theirs = [data for who, data in self.envelopes if who == "reference"]
        self.ours = [data for who, data in self.envelopes if who == "we"]
        self.end_of_stream = session.get("end")
        to_responder = bytes.fromhex(session["initiator_to_responder_key"])
        to_initiator = bytes.fromhex(session["responder_to_initiator_key"])
        transcript = bytes.fromhex(session["transcript"])
        self.client_channel = Channel.from_keys(to_responder, to_initiator, transcript)
        self.hub_channel = Channel.from_keys(to_initiator, to_responder, transcript)

    def first(self, who: str) -> Any:
        """The cleartext item of the key exchange."""
        return Item.FromString(
            next(data for w, data in self.envelopes if w == who)[5:]
        ).establish_shared_secret

    def sent(self, who: str) -> list[Any]:
        return [item for w, item in self.items if w == who]

    # What takes the place of the key exchange: the client's half and the hub's.

    @property
    def public_key(self) -> bytes:
        return bytes(self.first("we").kem_public_key)

    def finish(self, encapsulation: bytes) -> Channel:
        assert encapsulation == self.first("reference").kem_encapsulation
        return self.client_channel

    def respond(self, public_key: bytes) -> tuple[bytes, Channel]:
        assert public_key == self.first("reference").kem_public_key
        return bytes(self.first("we").kem_encapsulation), self.hub_channel


def as_client(number: int, **more: Any) -> tuple[Capture, End]:
    """Ours as the client of the recorded hub."""
    capture = Capture(HUB_CAPTURE, number)
    client = make_client(
        initiator=capture,
        identity=Identity.from_seed(bytes.fromhex(HUB_CAPTURE["client_identity_seed"])),
        instance_id="scripted-client",
        expected_keyid=HUB_CAPTURE["hub_key_id"],
        **more,
    )
    return capture, End(client)


def as_hub(number: int) -> tuple[Capture, End]:
    """Ours as the hub of the recorded client."""
    capture = Capture(CLIENT_CAPTURE, number)
    identity = Identity.from_seed(bytes.fromhex(CLIENT_CAPTURE["hub_identity_seed"]))
    return capture, End(make_hub(identity=identity, instance_id="scripted-hub", responder=capture.respond))


def received(end: End) -> list[Any]:
    """The items that were told, as items; heartbeats are not in these recordings' other half."""
    return [Item(**{e.kind: e.message}) for e in end.events if isinstance(e, Received)]


@pytest.mark.parametrize("chunker", [whole, in_pieces(1), in_pieces(100)], ids=["whole", "1", "100"])
def test_reference_hub_is_understood_to_the_last_item(chunker: Any) -> None:
    capture, client = as_client(1)
    stream = b"".join(capture.theirs) + encode(FLAG_END, json.dumps(capture.end_of_stream).encode())
    for chunk in chunker(stream):
        client.feed(chunk)
    assert client.fault is None
    identified, established, *rest = client.events
    assert isinstance(identified, PeerIdentified)
    assert (identified.keyid, identified.instance_id) == (HUB_CAPTURE["hub_key_id"], "hub")
    assert established == Established()
    assert received(client) == capture.sent("reference")[1:]
    assert rest[-1] == Ended(Code.INVALID_ARGUMENT, "HandleThrottle not implemented")


def test_reference_hub_gets_byte_for_byte_what_the_scripted_client_sent() -> None:
    capture, client = as_client(1)
    said = split_envelopes(client.session.data_to_send())
    assert said == capture.ours[:1]  # the key goes out before anything has come
    client.feed(capture.theirs[0])
    assert client.session.data_to_send() == b""  # the transport is up; the hub has not shown its key
    client.feed(capture.theirs[1])
    for item in capture.sent("we")[1:-1]:  # the last is the throttle, which no peer of ours would send
        kind = item.WhichOneof("action")
        client.session.send(kind, getattr(item, kind))
    assert split_envelopes(client.session.data_to_send()) == capture.ours[1:-1]


def test_pairing_with_the_reference_hub_is_refused_at_first_and_keeps_the_secret() -> None:
    """It pairs and refuses in one go: not established, so nobody clears the secret that the next try
    needs."""
    secret = HUB_CAPTURE["token"].split(":")[1].split("#")[0]
    capture, client = as_client(0, pairing_secret=secret)
    for envelope in capture.theirs:
        client.feed(envelope)
    assert split_envelopes(client.session.data_to_send()) == capture.ours
    assert not client.session.established
    client.feed(encode(FLAG_END, json.dumps(capture.end_of_stream).encode()))
    assert client.events[1:] == [Ended(Code.PERMISSION_DENIED, "client is not an authorized peer")]


@pytest.mark.parametrize("accept_early", [True, False])
@pytest.mark.parametrize("chunker", [whole, in_pieces(1), in_pieces(1000)], ids=["whole", "1", "1000"])
def test_reference_client_is_understood_to_the_last_item(chunker: Any, accept_early: bool) -> None:
    capture, hub = as_hub(1)
    for chunk in chunker(b"".join(capture.theirs)):
        hub.feed(chunk)
        if accept_early:
            hub.accept_if_asked()
    hub.accept_if_asked()
    assert hub.fault is None
    identified, established, *_ = hub.events
    assert isinstance(identified, PeerIdentified)
    assert (identified.instance_id, identified.pairing_secret) == ("laptop", "")
    assert established == Established()
    assert received(hub) == capture.sent("reference")[1:]


def test_reference_client_gets_byte_for_byte_what_the_scripted_hub_sent() -> None:
    capture, hub = as_hub(1)
    hub.feed(capture.theirs[0])
    # Encapsulation and handshake at once, before the client's handshake.
    assert split_envelopes(hub.session.data_to_send()) == capture.ours[:2]
    hub.feed(b"".join(capture.theirs[1:]))
    hub.accept_if_asked()
    for item in capture.sent("we")[1:]:
        kind = item.WhichOneof("action")
        hub.session.send(kind, getattr(item, kind))
    assert split_envelopes(hub.session.data_to_send()) == [e for e in capture.ours[2:] if not e[0] & FLAG_END]


def test_reference_client_presents_its_secret_with_its_handshake() -> None:
    capture, hub = as_hub(0)
    hub.feed(b"".join(capture.theirs))
    (identified,) = hub.events
    assert isinstance(identified, PeerIdentified)
    assert identified.pairing_secret == CLIENT_CAPTURE["token"].split(":")[1].split("#")[0]
    assert hub.session.accept() == [Established()]
    # It then goes over to a new connection and leaves this one open, without a sign: it never says what a client that
    # stays says at once.
    assert hub.session.deadline == 30.0
    hub.tick(30.0)
    assert hub.fault is not None
    assert hub.fault.fault is Fault.SILENCE


def test_records_of_one_captured_session_are_worth_nothing_in_another() -> None:
    (_, hub), (first, _) = as_hub(1), as_hub(0)
    second = Capture(CLIENT_CAPTURE, 1)
    hub.feed(second.theirs[0])
    hub.feed(first.theirs[1])
    assert hub.fault is not None
    assert hub.fault.fault.value == "record"

"""Sessions recorded from the running reference program decrypt, verify and seal again, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from crypto_vectors import load, recipient, unhex
from google.protobuf import json_format

from backrest.crypto import hpke
from backrest.crypto.channel import Channel, Initiator, transcript
from backrest.crypto.identity import Identity, PeerIdentity, make_handshake, verify_handshake
from backrest.crypto.tokens import PairingToken
from backrest.wire import sync as wire_sync

Item = wire_sync.SyncStreamItem

# In each capture: which side "we" were, and with which identity.
OURS = {
    "hub-session.json": ("initiator", "client_identity_seed"),
    "client-session.json": ("responder", "hub_identity_seed"),
}
sessions = pytest.mark.parametrize(("capture", "index"), [(capture, i) for capture in OURS for i in (0, 1)])


class Recorded:
    """One recorded session: the key exchange, and then (is it the initiator's, encrypted record, item)."""

    def __init__(self, capture: str, index: int) -> None:
        self.data: dict[str, Any] = load(f"captures/{capture}")["sessions"][index]
        ours = OURS[capture][0]
        items = []
        for who, envelope in self.data["envelopes"]:
            raw = unhex(envelope)
            assert int.from_bytes(raw[1:5], "big") == len(raw) - 5
            if raw[0] == 0:
                items.append(((who == "we") == (ours == "initiator"), Item.FromString(raw[5:])))
        (first, offer), (second, answer) = items[:2]
        assert (first, second) == (True, False)
        self.public_key = offer.establish_shared_secret.kem_public_key
        self.encapsulation = answer.establish_shared_secret.kem_encapsulation
        assert all(item.WhichOneof("action") == "encrypted" for _, item in items[2:])
        self.records = [(initiator, item.encrypted) for initiator, item in items[2:]]
        self.keys = (
            unhex(self.data["initiator_to_responder_key"]),
            unhex(self.data["responder_to_initiator_key"]),
        )
        self.transcript = unhex(self.data["transcript"])

    def open_all(self, initiator: Channel, responder: Channel) -> list[tuple[bool, bytes]]:
        return [
            (sent, (responder if sent else initiator).open(record.nonce, record.ciphertext))
            for sent, record in self.records
        ]

    def ends(self) -> tuple[Channel, Channel]:
        to_responder, to_initiator = self.keys
        return (
            Channel.from_keys(to_responder, to_initiator, self.transcript),
            Channel.from_keys(to_initiator, to_responder, self.transcript),
        )


@sessions
def test_kem_secret_gives_both_keys_and_the_exchange_gives_the_transcript(capture: str, index: int) -> None:
    recorded = Recorded(capture, index)
    assert transcript(1, recorded.public_key, recorded.encapsulation) == recorded.transcript
    secret = unhex(recorded.data["kem_shared_secret"])
    context = hpke.key_schedule(hpke.SYNC_SUITE, secret, b"backrest-sync-transport-v1")
    to_responder = context.export(b"backrest-sync-session-key/v1/initiator-to-responder", 32)
    to_initiator = context.export(b"backrest-sync-session-key/v1/responder-to-initiator", 32)
    assert (to_responder, to_initiator) == recorded.keys


@sessions
def test_every_record_opens_to_the_recorded_item(capture: str, index: int) -> None:
    recorded = Recorded(capture, index)
    opened = recorded.open_all(*recorded.ends())
    ours = OURS[capture][0]
    assert len(opened) == len(recorded.data["items"])
    for (initiator, plaintext), (who, item) in zip(opened, recorded.data["items"], strict=True):
        assert initiator == ((who == "we") == (ours == "initiator"))
        assert Item.FromString(plaintext) == json_format.ParseDict(item, Item())


@sessions
def test_what_was_opened_seals_to_the_same_bytes(capture: str, index: int) -> None:
    recorded = Recorded(capture, index)
    opened = recorded.open_all(*recorded.ends())
    initiator, responder = recorded.ends()
    for (sent, plaintext), (_, record) in zip(opened, recorded.records, strict=True):
        assert (initiator if sent else responder).seal(plaintext) == (record.nonce, record.ciphertext)


@sessions
def test_both_handshakes_verify_over_the_transcript_and_ours_is_made_again(capture: str, index: int) -> None:
    recorded = Recorded(capture, index)
    token = PairingToken.parse(load(f"captures/{capture}")["token"])
    first: dict[bool, wire_sync.SyncStreamItem] = {}
    for initiator, plaintext in recorded.open_all(*recorded.ends()):
        first.setdefault(initiator, Item.FromString(plaintext))
    peers: dict[bool, PeerIdentity] = {}
    for initiator, item in first.items():
        assert item.WhichOneof("action") == "handshake"
        peers[initiator] = verify_handshake(item.handshake, recorded.transcript)
    assert (peers[False].keyid, peers[False].instance_id) == (token.keyid, token.instance_id)
    assert peers[False].pairing_secret == ""
    assert peers[True].pairing_secret == (token.secret if index == 0 else "")

    role, seed = OURS[capture]
    ours = peers[role == "initiator"]
    identity = Identity.from_seed(unhex(load(f"captures/{capture}")[seed]))
    assert identity.keyid == ours.keyid
    again = make_handshake(identity, ours.instance_id, ours.pairing_secret, recorded.transcript)
    assert again.signature == first[role == "initiator"].handshake.signature
    with pytest.raises(ValueError, match="our own key"):
        verify_handshake(again, recorded.transcript, own_keyid=identity.keyid)


@pytest.mark.parametrize("index", [0, 1])
def test_whole_hub_session_follows_from_the_recipient_seed(index: int) -> None:
    recorded = Recorded("hub-session.json", index)
    key = recipient(unhex(recorded.data["recipient_kem_seed"]))
    assert key.decapsulate(recorded.encapsulation).hex() == recorded.data["kem_shared_secret"]
    client = Initiator(key)
    assert client.public_key == recorded.public_key
    channel = client.finish(recorded.encapsulation)
    assert channel.transcript == recorded.transcript
    opened = recorded.open_all(*recorded.ends())
    for (sent, plaintext), (_, record) in zip(opened, recorded.records, strict=True):
        if sent:
            assert channel.seal(plaintext) == (record.nonce, record.ciphertext)
        else:
            assert channel.open(record.nonce, record.ciphertext) == plaintext


@sessions
def test_recorded_session_with_one_altered_record_stops_there(capture: str, index: int) -> None:
    recorded = Recorded(capture, index)
    for at, (sent, record) in enumerate(recorded.records):
        initiator, responder = recorded.ends()
        damaged = record.ciphertext[:-1] + bytes([record.ciphertext[-1] ^ 1])
        for before, other in recorded.records[:at]:
            (responder if before else initiator).open(other.nonce, other.ciphertext)
        with pytest.raises(ValueError, match="does not open"):
            (responder if sent else initiator).open(record.nonce, damaged)

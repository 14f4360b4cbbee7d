"""The key exchange and the handshakes: who shows what when, and what each bad beginning is called."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import (
    CLIENT_ID,
    HUB_ID,
    OTHER_ID,
    Item,
    Pair,
    RawClient,
    RawHub,
    assert_fault,
    identified,
    kem,
    make_client,
    make_hub,
    split_envelopes,
)

from backrest.crypto.identity import keyid_of, make_handshake
from backrest.errors import Code, Fault, PeerError
from backrest.protocol import items
from backrest.protocol.events import Ended, Established
from backrest.protocol.framing import encode
from backrest.protocol.session import Limits, State
from backrest.wire import crypto as wire_crypto

# --- the opening


def test_client_sends_its_key_at_once_and_nothing_else() -> None:
    client = make_client()
    (hello,) = split_envelopes(client.data_to_send())
    message = Item.FromString(hello[5:]).establish_shared_secret
    assert message.protocol_version == 1
    assert len(message.kem_public_key) == 1665
    assert len(hello) == 1678


def test_hub_answers_with_encapsulation_and_at_once_its_handshake() -> None:
    peer = RawClient().hello()
    assert peer.hub_handshake.instance_id == "hub"
    assert peer.hub_handshake.public_key.keyid == HUB_ID.keyid
    assert peer.hub_handshake.pairing_secret == ""


def test_hub_sends_nothing_before_the_clients_key() -> None:
    assert make_hub().data_to_send() == b""


def test_client_shows_nothing_before_the_hub_has_proved_its_key() -> None:
    peer = RawHub(pairing_secret="the secret").answer()
    assert peer.take() == []
    peer.give_sealed(Item(handshake=peer.handshake()))
    (handshake,) = peer.take()
    assert handshake.handshake.pairing_secret == "the secret"
    assert handshake.handshake.instance_id == "laptop"


def test_pairing_secret_goes_only_to_the_hub_that_was_dialled() -> None:
    """A man in the middle has his own key; a hub that was renamed or copied has another instance id."""
    for identity, instance_id in ((OTHER_ID, "hub"), (HUB_ID, "another")):
        peer = RawHub(pairing_secret="the secret").answer()
        peer.give_sealed(Item(handshake=peer.handshake(identity, instance_id)))
        assert_fault(peer.end, Fault.REFUSED, Code.PERMISSION_DENIED)


def test_relayed_handshake_of_the_right_hub_does_not_verify_in_another_channel() -> None:
    """The man in the middle makes one exchange with each side and passes the hub's handshake on."""
    victim = RawHub(pairing_secret="the secret").answer()
    relayed = RawClient().hello().hub_handshake
    victim.give_sealed(Item(handshake=relayed))
    assert_fault(victim.end, Fault.HANDSHAKE, Code.PERMISSION_DENIED)


def test_secret_queued_for_a_hub_that_then_breaks_the_rules_is_not_sent() -> None:
    peer = RawHub(pairing_secret="the secret").answer()
    assert peer.channel is not None
    records = b""
    for item in (Item(handshake=peer.handshake()), Item(throttle=Item.SyncActionThrottle())):
        nonce, ciphertext = peer.channel.seal(item.SerializeToString())
        records += encode(0, Item(encrypted={"nonce": nonce, "ciphertext": ciphertext}).SerializeToString())
    peer.end.feed(records)
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)


def test_both_sides_tell_who_the_other_is() -> None:
    pair = Pair(client={"pairing_secret": "the secret"}).pump()
    client, hub = identified(pair.hub), identified(pair.client)
    assert (client.keyid, client.instance_id, client.pairing_secret) == (
        CLIENT_ID.keyid,
        "laptop",
        "the secret",
    )
    assert (hub.keyid, hub.instance_id, hub.pairing_secret) == (HUB_ID.keyid, "hub", "")
    assert client.public_key == CLIENT_ID.public_key
    assert pair.hub.session.peer == client


def test_secret_from_a_hub_has_no_meaning() -> None:
    peer = RawHub().answer()
    assert peer.channel is not None
    peer.give_sealed(Item(handshake=make_handshake(HUB_ID, "hub", "a secret", peer.channel.transcript)))
    assert identified(peer.end).pairing_secret == ""


def test_secret_is_not_in_the_representation_of_the_event() -> None:
    assert "the secret" not in repr(identified(Pair(client={"pairing_secret": "the secret"}).pump().hub))


def test_client_is_established_by_the_hubs_first_item_not_by_its_handshake() -> None:
    pair = Pair().pump()
    assert pair.hub.events[-1] == Established()
    assert pair.client.names == ["PeerIdentified"]
    pair.hub.session.send("receive_config", Item.SyncActionReceiveConfig())
    pair.pump()
    assert pair.client.names == ["PeerIdentified", "Established", "receive_config"]


def test_early_items_of_the_reference_client_wait_for_the_hubs_decision() -> None:
    pair = Pair(accept=False).pump()
    for kind in ("receive_config", "receive_resources", "operation_manifest"):
        pair.client.session.send(kind)
    pair.pump()
    assert pair.hub.names == ["PeerIdentified"]
    pair.hub.accept_if_asked()
    assert pair.hub.names == [
        "PeerIdentified",
        "Established",
        "receive_config",
        "receive_resources",
        "operation_manifest",
    ]


def test_items_in_the_same_bytes_as_the_handshake_are_kept_whatever_their_size() -> None:
    """The limit of 16 KiB is on what comes up to the handshake, not on the manifest right behind it."""
    pair = Pair(accept=False)
    pair.give(pair.hub, pair.client.session.data_to_send())
    pair.give(pair.client, pair.hub.session.data_to_send())
    ids = list(range(1, 100_000))
    pair.client.session.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
    data = pair.client.session.data_to_send()
    assert len(data) > 500_000
    pair.give(pair.hub, data)
    pair.hub.accept_if_asked()
    assert len(pair.hub.of("operation_manifest")) == 1


def test_what_is_kept_for_the_decision_is_bounded() -> None:
    pair = Pair(accept=False, hub={"limits": Limits(kept=1000)}).pump()
    pair.hub.feed(bytes(1000))
    assert pair.hub.fault is None
    pair.hub.feed(b"\0")
    assert_fault(pair.hub, Fault.FRAMING, Code.RESOURCE_EXHAUSTED)


def test_rejection_is_the_hubs_last_word_and_the_client_hears_it() -> None:
    pair = Pair(accept=False).pump()
    pair.hub.session.reject(Code.PERMISSION_DENIED, "not known here")
    pair.pump()
    assert pair.client.events[-1] == Ended(Code.PERMISSION_DENIED, "not known here")
    assert not any(isinstance(event, Established) for event in pair.client.events)
    assert pair.client.session.state is State.OVER


def test_nothing_of_a_rejected_client_is_read() -> None:
    pair = Pair(accept=False).pump()
    pair.client.session.send("receive_config")
    pair.pump()
    pair.hub.session.reject(Code.PERMISSION_DENIED, "no")
    assert pair.hub.names == ["PeerIdentified"]
    assert pair.hub.session.receive_data(b"anything", 1.0) == []


def test_accept_after_the_session_ended_says_so() -> None:
    pair = Pair(accept=False).pump()
    pair.hub.session.end(Code.UNAVAILABLE, "shutting down")
    with pytest.raises(PeerError, match="was ended"):
        pair.hub.session.accept()


def test_accept_after_a_fault_raises_that_fault() -> None:
    pair = Pair(accept=False).pump()
    pair.hub.tick(15.0)
    with pytest.raises(PeerError) as caught:
        pair.hub.session.accept()
    assert caught.value is pair.hub.fault


# --- the key exchange


@pytest.mark.parametrize(
    "item",
    [
        Item(),
        Item(heartbeat={}),
        Item(handshake={}),
        Item(encrypted={"nonce": bytes(12), "ciphertext": bytes(16)}),
        kem(),
        kem(protocol_version=1),
        kem(protocol_version=1, kem_public_key=b"short", kem_encapsulation=b"short"),
        kem(protocol_version=1, kem_public_key=bytes(1665), kem_encapsulation=bytes(1665)),
        kem(protocol_version=1, kem_public_key=bytes(1664), kem_encapsulation=bytes(1664)),
    ],
    ids=lambda item: f"{items.kind_of(item) or 'none'}-{item.ByteSize()}",
)
@pytest.mark.parametrize("make", [RawClient, RawHub])
def test_bad_first_item_is_invalid_argument(make: Any, item: Any) -> None:
    peer = make()
    peer.give(item)
    assert_fault(peer.end, Fault.KEM, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
def test_other_transport_version_is_invalid_argument(version: int) -> None:
    client = RawClient()
    client.give(kem(protocol_version=version, kem_public_key=client.initiator.public_key))
    assert_fault(client.end, Fault.KEM, Code.INVALID_ARGUMENT)


def test_second_key_exchange_is_a_cleartext_item() -> None:
    client = RawClient().hello()
    client.give(kem(protocol_version=1, kem_public_key=client.initiator.public_key))
    assert_fault(client.end, Fault.RECORD, Code.INTERNAL)


@pytest.mark.parametrize("make", [RawClient, RawHub])
@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x05a", b"\x12\x02\x08"])
def test_what_is_not_protobuf_is_internal(make: Any, payload: bytes) -> None:
    peer = make()
    peer.give_bytes(payload)
    assert_fault(peer.end, Fault.FRAMING, Code.INTERNAL)


# --- records


@pytest.mark.parametrize("make", [RawClient, RawHub])
@pytest.mark.parametrize("item", [Item(), Item(heartbeat={}), Item(handshake={})], ids=items.kind_of)
def test_cleartext_item_after_the_exchange_is_internal(make: Any, item: Any) -> None:
    peer = make().opened()
    peer.give(item)
    assert_fault(peer.end, Fault.RECORD, Code.INTERNAL)
    assert "came unencrypted" in str(peer.end.fault)


@pytest.mark.parametrize("make", [RawClient, RawHub])
@pytest.mark.parametrize(
    "nonce", [b"", bytes(12), bytes(11) + b"\x09", bytes(13), b"\x01" + bytes(10) + b"\x01"]
)
def test_wrong_nonce_is_internal(make: Any, nonce: bytes) -> None:
    peer = make().opened()
    _, ciphertext = peer.channel.seal(Item(heartbeat={}).SerializeToString())
    peer.give(Item(encrypted={"nonce": nonce, "ciphertext": ciphertext}))
    assert_fault(peer.end, Fault.RECORD, Code.INTERNAL)


@pytest.mark.parametrize("make", [RawClient, RawHub])
def test_wrong_tag_is_internal(make: Any) -> None:
    peer = make().opened()
    nonce, ciphertext = peer.channel.seal(Item(heartbeat={}).SerializeToString())
    peer.give(Item(encrypted={"nonce": nonce, "ciphertext": ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])}))
    assert_fault(peer.end, Fault.RECORD, Code.INTERNAL)


@pytest.mark.parametrize("make", [RawClient, RawHub])
def test_plaintext_that_is_not_protobuf_is_internal(make: Any) -> None:
    peer = make().opened()
    peer.give_plaintext(b"\xff")
    assert_fault(peer.end, Fault.FRAMING, Code.INTERNAL)


def test_reflected_record_does_not_open() -> None:
    pair = Pair().established()
    pair.client.session.send("heartbeat")
    data = pair.client.session.data_to_send()
    pair.client.feed(data)
    assert_fault(pair.client, Fault.RECORD, Code.INTERNAL)


# --- the handshake


def changed(handshake: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        if value is None:
            handshake.ClearField(name)
        elif isinstance(value, wire_crypto.PublicKey):
            handshake.public_key.CopyFrom(value)
        else:
            setattr(handshake, name, value)
    return handshake


BAD_HANDSHAKES: dict[str, dict[str, Any]] = {
    "version 2": {"protocol_version": 2},
    "version 4": {"protocol_version": 4},
    "no public key": {"public_key": None},
    "empty public key": {"public_key": wire_crypto.PublicKey()},
    "another's key": {"public_key": OTHER_ID.public_proto()},
    "key id of another": {
        "public_key": wire_crypto.PublicKey(
            keyid=OTHER_ID.keyid, ed25519pub=CLIENT_ID.public_proto().ed25519pub
        )
    },
    "no instance id": {"instance_id": ""},
    "another instance id": {"instance_id": "someone"},
    "another secret": {"pairing_secret": "guess"},
    "no signature": {"signature": b""},
    "wrong signature": {"signature": bytes(64)},
}


@pytest.mark.parametrize(
    "make", [lambda: RawClient().hello(), lambda: RawHub().answer()], ids=["hub", "client"]
)
@pytest.mark.parametrize("fields", BAD_HANDSHAKES.values(), ids=BAD_HANDSHAKES)
def test_bad_handshake_is_permission_denied(make: Any, fields: dict[str, Any]) -> None:
    peer = make()
    peer.give_sealed(Item(handshake=changed(peer.handshake(), **fields)))
    assert_fault(peer.end, Fault.HANDSHAKE, Code.PERMISSION_DENIED)


def test_our_own_handshake_sent_back_is_refused() -> None:
    hub = RawClient().hello()
    hub.give_sealed(Item(handshake=hub.hub_handshake))
    assert_fault(hub.end, Fault.HANDSHAKE, Code.PERMISSION_DENIED)
    client = RawHub(expected_keyid=CLIENT_ID.keyid).answer()
    client.give_sealed(Item(handshake=client.handshake(CLIENT_ID)))
    assert_fault(client.end, Fault.HANDSHAKE, Code.PERMISSION_DENIED)


def test_key_of_small_order_is_refused_when_pairing() -> None:
    """Under the neutral point as key, one signature (R neutral too, S zero) holds for every message."""
    neutral = b"\x01" + bytes(31)
    peer = RawClient().hello()
    handshake = peer.handshake(secret="the secret")
    handshake.public_key.ed25519pub = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    handshake.public_key.keyid = keyid_of(neutral)
    handshake.signature = neutral + bytes(32)
    peer.give_sealed(Item(handshake=handshake))
    assert_fault(peer.end, Fault.HANDSHAKE, Code.PERMISSION_DENIED)


@pytest.mark.parametrize(
    "make", [lambda: RawClient().hello(), lambda: RawHub().answer()], ids=["hub", "client"]
)
@pytest.mark.parametrize("item", [Item(), Item(heartbeat={}), Item(receive_config={})], ids=items.kind_of)
def test_first_record_must_be_the_handshake(make: Any, item: Any) -> None:
    peer = make()
    peer.give_sealed(item)
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize("make", [RawClient, RawHub])
def test_second_handshake_has_no_place(make: Any) -> None:
    peer = make().opened()
    peer.give_sealed(Item(handshake=peer.handshake()))
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)

"""An open session: items, ends, limits, codecs, and our own mistakes."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from helpers import (
    CLIENT_ID,
    HUB_ID,
    End,
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
    updated,
)

from backrest.errors import Code, Fault, PeerError
from backrest.protocol import items
from backrest.protocol.events import Ended, Established, HeartbeatReceived, Received
from backrest.protocol.framing import FLAG_COMPRESSED, EndOfStream, encode, end_of_stream
from backrest.protocol.session import Limits, Role, Session, State
from backrest.wire import operations

# --- items

ALL_KINDS = [field.name for field in Item.DESCRIPTOR.oneofs_by_name["action"].fields]


def example(kind: str) -> Any:
    if kind == "receive_operations":
        return Item(receive_operations=updated(1))
    item = Item()
    getattr(item, kind).SetInParent()
    return item


HUB_TAKES = {
    "heartbeat",
    "operation_manifest",
    "receive_operations",
    "receive_config",
    "receive_resources",
    "set_config",
}
CLIENT_TAKES = {
    "heartbeat",
    "operation_manifest",
    "request_operation_data",
    "receive_config",
    "receive_resources",
    "set_config",
    "request_resources",
}


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("make", "takes"), [(RawClient, HUB_TAKES), (RawHub, CLIENT_TAKES)], ids=["hub", "client"]
)
def test_each_role_takes_its_kinds_and_no_other(make: Any, takes: set[str], kind: str) -> None:
    peer = make().opened()
    peer.give_sealed(example(kind))
    if kind in takes:
        assert peer.end.fault is None
        if kind == "heartbeat":
            assert peer.end.events == [HeartbeatReceived()]
        else:
            [received] = peer.end.events
            message = getattr(example(kind), kind)
            assert received == Received(kind, message, received.weight)
            assert message.ByteSize() < received.weight < 100 + 20 * message.ByteSize()
    else:
        assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)
        assert peer.end.events == []


@pytest.mark.parametrize("make", [RawClient, RawHub])
@pytest.mark.parametrize("plaintext", [b"", b"\xba\x3e\x00"], ids=["no action", "unknown action"])
def test_no_action_and_unknown_action_are_invalid_argument(make: Any, plaintext: bytes) -> None:
    peer = make().opened()
    peer.give_plaintext(plaintext)
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize("message", [{}, {"event": {}}], ids=["no event", "empty event"])
def test_receive_operations_without_its_event_costs_its_sender_the_session(message: dict[str, Any]) -> None:
    peer = RawClient().opened()
    peer.give_sealed(Item(receive_operations=message))
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize(("ids", "modnos"), [([1], []), ([], [1]), ([1, 2], [1])])
def test_manifest_with_unequal_lists_is_invalid_argument(ids: list[int], modnos: list[int]) -> None:
    peer = RawClient().opened()
    peer.give_sealed(Item(operation_manifest={"op_ids": ids, "modnos": modnos}))
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)


def test_to_a_client_a_manifest_means_send_yours_again_whatever_is_in_it() -> None:
    peer = RawHub().opened()
    peer.give_sealed(Item(operation_manifest={"op_ids": [1, 2], "modnos": [1]}))
    assert peer.end.names == ["operation_manifest"]


def test_keep_alive_event_is_an_event() -> None:
    peer = RawClient().opened()
    peer.give_sealed(Item(receive_operations={"event": {"keep_alive": {}}}))
    assert peer.end.names == ["receive_operations"]


def test_events_before_a_fault_in_the_same_bytes_are_handed_over_first() -> None:
    pair = Pair().established()
    pair.client.session.send("receive_operations", updated(1))
    good = pair.client.session.data_to_send()
    events = pair.hub.session.receive_data(good + b"\xff", 0.0)
    assert [type(event) for event in events] == [Received]
    assert pair.hub.session.fault is not None
    assert pair.hub.session.state is State.OVER
    with pytest.raises(PeerError) as caught:
        pair.hub.session.receive_data(b"", 0.0)
    assert caught.value is pair.hub.session.fault


def test_fault_in_what_was_kept_comes_after_established() -> None:
    pair = Pair(accept=False).pump()
    pair.hub.feed(b"\xff")
    assert pair.hub.session.accept() == [Established()]
    assert pair.hub.session.fault is not None


# --- ends


def test_clean_end_of_the_hub_is_an_end_without_a_code() -> None:
    pair = Pair().established()
    pair.hub.session.end()
    pair.pump()
    assert pair.client.events == [Ended(None)]


def test_hubs_verdict_reaches_the_client() -> None:
    pair = Pair().established()
    pair.hub.session.end(Code.INVALID_ARGUMENT, "HandleThrottle not implemented")
    pair.pump()
    assert pair.client.events == [Ended(Code.INVALID_ARGUMENT, "HandleThrottle not implemented")]


def test_hub_may_end_before_anything_else() -> None:
    client = End(make_client())
    client.feed(end_of_stream(Code.UNIMPLEMENTED, "unknown encoding"))
    assert client.events == [Ended(Code.UNIMPLEMENTED, "unknown encoding")]


def test_clients_end_between_messages_is_clean_and_answered() -> None:
    pair = Pair().established()
    pair.hub.eof()
    assert pair.hub.events == [Ended(None)]
    assert pair.hub.session.data_to_send() == end_of_stream(None)


def test_stream_that_ends_without_the_hubs_word_is_unavailable() -> None:
    for make in (lambda: RawHub(), lambda: RawHub().answer(), lambda: RawHub().opened()):
        peer = make()
        peer.end.eof()
        assert_fault(peer.end, Fault.ENDED, Code.UNAVAILABLE)


def test_clients_end_inside_a_message_or_before_the_handshake_is_a_fault() -> None:
    early = RawClient().hello()
    early.end.eof()
    assert_fault(early.end, Fault.ENDED, Code.INVALID_ARGUMENT)
    cut = RawClient().opened()
    cut.end.feed(b"\0\0")
    cut.end.eof()
    assert_fault(cut.end, Fault.ENDED, Code.INVALID_ARGUMENT)


def test_end_of_stream_message_from_a_client_is_a_fault_at_once() -> None:
    peer = RawClient().opened()
    peer.end.feed(end_of_stream(None)[:1])
    assert_fault(peer.end, Fault.FRAMING, Code.INTERNAL)


def test_end_that_comes_while_the_hub_decides_is_kept() -> None:
    pair = Pair(accept=False).pump()
    pair.client.session.send("receive_config")
    pair.pump()
    pair.hub.eof()
    pair.hub.accept_if_asked()
    assert pair.hub.names == ["PeerIdentified", "Established", "receive_config", "Ended"]


def test_what_comes_after_the_end_is_dropped() -> None:
    pair = Pair().established()
    pair.hub.session.end()
    pair.client.session.send("heartbeat")
    pair.pump()
    pair.client.feed(b"\xff\xff")
    pair.client.eof()
    assert pair.hub.events == []
    assert pair.client.events == [Ended(None)]
    assert pair.client.fault is None


def test_only_the_first_end_counts_and_nothing_is_sent_after_it() -> None:
    hub = RawClient().opened()
    hub.end.session.end(Code.ABORTED, "one")
    hub.end.session.end(Code.INTERNAL, "two")
    hub.end.session.send("heartbeat")
    hub.end.session.reject(Code.INTERNAL, "three")
    assert hub.take() == [EndOfStream(Code.ABORTED, "one")]


def test_what_was_queued_goes_out_before_the_end() -> None:
    hub = RawClient().opened()
    hub.end.session.send("receive_config")
    hub.end.session.end()
    first, last = hub.take()
    assert items.kind_of(first) == "receive_config"
    assert last == EndOfStream(None)


# --- limits


def test_before_it_is_known_a_peer_may_send_16_kib_and_not_one_byte_more() -> None:
    for extra in (0, 1):
        peer = RawClient().hello()
        handshake = peer.handshake()
        spent = 5 + len(kem(protocol_version=1, kem_public_key=bytes(1665)).SerializeToString())
        # What remains is filled to the last byte by an unknown field of the handshake.
        room = 16384 - spent - 5 + extra
        padding = 0
        while True:
            padded = Item.SyncActionHandshake()
            padded.CopyFrom(handshake)
            padded.MergeFromString(b"\xc2\x5d" + varint(padding) + bytes(padding))
            plaintext = Item(handshake=padded).SerializeToString()
            sealed = Item(encrypted={"nonce": bytes(12), "ciphertext": bytes(len(plaintext) + 16)})
            size = sealed.ByteSize()
            if size == room:
                break
            padding += room - size
        peer.give_plaintext(plaintext)
        if extra:
            assert_fault(peer.end, Fault.FRAMING, Code.RESOURCE_EXHAUSTED)
        else:
            assert identified(peer.end).keyid == CLIENT_ID.keyid


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_before_it_is_known_a_large_message_is_refused_on_its_prefix() -> None:
    hub = End(make_hub())
    hub.feed(b"\0" + (16380).to_bytes(4, "big"))
    assert_fault(hub, Fault.FRAMING, Code.RESOURCE_EXHAUSTED)


def test_a_known_peer_may_send_64_mib_and_not_one_byte_more() -> None:
    for extra in (0, 1):
        peer = RawClient().opened()
        peer.end.feed(b"\0" + ((64 << 20) + extra).to_bytes(4, "big"))
        assert (peer.end.fault is not None) == bool(extra)


def test_our_own_message_that_no_peer_would_take_is_not_sent() -> None:
    pair = Pair(client={"limits": Limits(message=1000)}).established()
    with pytest.raises(ValueError, match="more than a peer takes"):
        pair.client.session.send("receive_operations", updated(*range(1, 1000)))
    pair.client.session.send("heartbeat")
    pair.pump()
    assert pair.hub.events == [HeartbeatReceived()]  # no record is missing


# --- codecs and encodings


def test_json_carries_the_outer_items_and_binary_the_inner_ones() -> None:
    pair = Pair(hub={"codec": "json"}, client={"codec": "json"})
    hello = pair.client.session.data_to_send()
    assert hello[5:].startswith(b'{"establishSharedSecret":{"protocolVersion":1,"kemPublicKey":"')
    pair.give(pair.hub, hello)
    pair.established()
    pair.client.session.send("receive_operations", updated(7))
    pair.pump()
    assert pair.hub.of("receive_operations")[0].event.updated_operations.operations[0].id == 7


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"null", b'{"establishSharedSecret":1}', b"\x08\x01", b"[" * 64]
)
def test_what_is_not_an_item_in_json_is_internal(payload: bytes) -> None:
    hub = End(make_hub(codec="json"))
    hub.feed(encode(0, payload))
    assert_fault(hub, Fault.FRAMING, Code.INTERNAL)


def test_unknown_key_in_json_is_skipped() -> None:
    hub = End(make_hub(codec="json"))
    hub.feed(encode(0, b'{"somethingNew": {"a": [1]}}'))
    assert_fault(hub, Fault.KEM, Code.INVALID_ARGUMENT)  # an item without an action that we know


def test_client_may_compress_with_the_encoding_it_declared() -> None:
    client, hub = make_client(), End(make_hub(encoding="gzip"))
    hello = client.data_to_send()[5:]
    hub.feed(encode(FLAG_COMPRESSED, gzip.compress(hello)))
    assert hub.session.state is State.HANDSHAKE
    plain = End(make_hub())
    plain.feed(encode(FLAG_COMPRESSED, gzip.compress(hello)))
    assert_fault(plain, Fault.FRAMING, Code.INTERNAL)


def test_compressed_bytes_of_a_stranger_count_unpacked() -> None:
    hub = End(make_hub(encoding="gzip"))
    hub.feed(encode(FLAG_COMPRESSED, gzip.compress(bytes(17_000))))
    assert_fault(hub, Fault.FRAMING, Code.RESOURCE_EXHAUSTED)


# --- our own mistakes are errors of another kind


def test_sending_too_early_is_our_mistake() -> None:
    for session in (make_client(), make_hub(), Pair(accept=False).pump().hub.session):
        with pytest.raises(RuntimeError, match="yet"):
            session.send("heartbeat")


@pytest.mark.parametrize("kind", [k for k in ALL_KINDS if k not in HUB_TAKES])
def test_client_never_sends_what_a_hub_does_not_take(kind: str) -> None:
    with pytest.raises(ValueError, match="does not send"):
        RawHub().opened().end.session.send(kind)


@pytest.mark.parametrize("kind", [k for k in ALL_KINDS if k not in CLIENT_TAKES])
def test_hub_never_sends_what_a_client_does_not_take(kind: str) -> None:
    with pytest.raises(ValueError, match="does not send"):
        RawClient().opened().end.session.send(kind)


def test_what_would_crash_the_reference_hub_is_never_sent() -> None:
    session = RawHub().opened().end.session
    for message in (None, Item.SyncActionReceiveOperations(event=operations.OperationEvent())):
        with pytest.raises(ValueError, match="no event"):
            session.send("receive_operations", message)
    with pytest.raises(ValueError, match="modification numbers"):
        session.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=[1]))
    assert session.data_to_send() == b""


def test_accept_and_reject_have_their_moment() -> None:
    session = make_hub()
    with pytest.raises(RuntimeError, match="nobody to accept"):
        session.accept()
    with pytest.raises(RuntimeError, match="nobody to reject"):
        session.reject(Code.PERMISSION_DENIED, "")


def test_client_must_know_whom_it_dials_and_a_hub_has_no_secret() -> None:
    with pytest.raises(ValueError, match="whom it dials"):
        make_client(expected_keyid="")
    with pytest.raises(ValueError, match="whom it dials"):
        make_client(expected_instance_id="")
    with pytest.raises(ValueError, match="dials nobody"):
        Session(Role.HUB, identity=HUB_ID, instance_id="hub", now=0.0, pairing_secret="x")


def test_outbox_is_counted_joined_and_drained() -> None:
    session = RawHub().opened().end.session
    session.send("heartbeat")
    session.send("heartbeat")
    size = session.outbox_size
    data = session.data_to_send()
    assert len(data) == size
    assert len(split_envelopes(data)) == 2
    assert session.outbox_size == 0
    assert session.data_to_send() == b""

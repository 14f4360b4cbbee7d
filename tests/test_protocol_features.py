"""Features: the extra field of our handshakes, which others skip and which is trusted with comfort only."""

from __future__ import annotations

import pytest
from helpers import (
    Item,
    Pair,
    RawClient,
    RawHub,
    assert_fault,
    identified,
    make_client,
)

from backrest.errors import Code, Fault


def test_features_are_told_to_the_other_side() -> None:
    pair = Pair(hub={"features": ["logs/1"]}, client={"features": ["logs/1", "more/2"]}).pump()
    assert identified(pair.hub).features == ("logs/1", "more/2")
    assert identified(pair.client).features == ("logs/1",)


def test_handshake_without_features_is_byte_for_byte_the_references() -> None:
    handshake = RawClient().hello().hub_handshake
    known = Item.SyncActionHandshake()
    known.CopyFrom(handshake)
    known.DiscardUnknownFields()
    assert known.SerializeToString() == handshake.SerializeToString()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\xc2\x3e\x06logs/1", ("logs/1",)),
        (b"\xc2\x3e\x01a\xc2\x3e\x01b\xc2\x3e\x01a", ("a", "b")),
        (b"\xc0\x3e\x07", ()),  # number 1000 as a varint
        (b"\xc0\x3e" + b"\xff" * 8 + b"\x7f", ()),  # a number that must not be taken for a length
        (b"\xc2\x3e\x00", ()),
        (b"\xc2\x3e\x02\xff\xfe", ()),
        (b"\xc2\x3e\x01\n", ()),
        (b"\xc2\x3e\x41" + b"x" * 65, ()),
        (b"\xca\x3e\x06logs/1", ()),  # number 1001
        (b"".join(b"\xc2\x3e\x02%02d" % i for i in range(50)), tuple(f"{i:02d}" for i in range(32))),
    ],
)
def test_unknown_fields_of_a_handshake_are_skipped_and_ours_read(
    raw: bytes, expected: tuple[str, ...]
) -> None:
    peer = RawClient().hello()
    handshake = peer.handshake()
    handshake.MergeFromString(raw)
    peer.give_sealed(Item(handshake=handshake))
    assert identified(peer.end).features == expected


@pytest.mark.parametrize("features", [[""], ["x" * 65], ["é"], ["a\n"], ["f"] * 33])
def test_feature_that_nobody_would_read_is_not_announced(features: list[str]) -> None:
    with pytest.raises(ValueError, match="feature"):
        make_client(features=features)


def test_log_items_pass_only_between_peers_that_both_announced_them() -> None:
    both = {"features": ["logs/1"]}
    pair = Pair(hub=both, client=both).established()
    pair.hub.session.send("request_log", Item.SyncActionRequestLog(log_id="x"))
    pair.client.session.send("receive_log_data", Item.SyncActionReceiveLogData(log_id="x"))
    pair.pump()
    assert pair.client.names == ["request_log"]
    assert pair.hub.names == ["receive_log_data"]
    with pytest.raises(ValueError, match="does not send"):
        pair.client.session.send("request_log")


@pytest.mark.parametrize("hub", [[], ["logs/1"]])
@pytest.mark.parametrize("client", [[], ["logs/1"]])
def test_log_items_are_refused_unless_both_announced_them(hub: list[str], client: list[str]) -> None:
    pair = Pair(hub={"features": hub}, client={"features": client}).established()
    if hub and client:
        return
    with pytest.raises(ValueError, match="does not send"):
        pair.hub.session.send("request_log")
    peer = RawHub(features=client).opened()
    peer.give_sealed(Item(request_log={"log_id": "x"}))
    assert_fault(peer.end, Fault.ITEM, Code.INVALID_ARGUMENT)

"""Deadlines, heartbeats and silence, by the caller's clock."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import CLIENT_ID, End, Item, Pair, make_client, make_hub, split_envelopes, updated

from backrest.crypto.channel import Initiator
from backrest.crypto.identity import make_handshake
from backrest.errors import Code, Fault
from backrest.protocol.events import HeartbeatReceived
from backrest.protocol.framing import encode
from backrest.protocol.session import Limits, State


def ours() -> Pair:
    """A session whose client announces a feature: it sends heartbeats at our interval, and is not asked."""
    return Pair(client={"features": ("logs/1",)}).established()


def reference() -> Pair:
    """A session whose client announces nothing."""
    return Pair().established()


def resources(pair: Pair, now: float) -> None:
    """The client says which resources it has, as it does first and when it is asked; the hub gets it at ``now``."""
    pair.now = now
    pair.client.session.send("receive_resources")
    pair.pump()


def asked(pair: Pair) -> int:
    """How often the hub has asked the client since the last look."""
    pair.give(pair.client, pair.hub.session.data_to_send())
    found = [event for event in pair.client.events if getattr(event, "kind", "") == "request_resources"]
    pair.client.events.clear()
    return len(found)


def beat(pair: Pair, now: float) -> None:
    """The client sends a heartbeat, and the hub gets it, at ``now``."""
    pair.now = now
    pair.client.session.send("heartbeat")
    pair.pump()


def silence_of(end: End) -> float:
    """When this end would call the other silent, if nothing came any more."""
    now = end.session._now
    while end.fault is None:
        deadline = end.session.deadline
        assert deadline is not None
        now = max(now, deadline)
        end.tick(now)
    assert end.fault.fault is Fault.SILENCE
    return now


@pytest.mark.parametrize("make", [make_client, make_hub])
def test_handshakes_have_fifteen_seconds_from_the_start(make: Any) -> None:
    end = End(make(100.0))
    assert end.session.deadline == 115.0
    end.tick(114.9)
    assert end.fault is None
    end.tick(115.0)
    assert end.fault is not None
    assert end.fault.fault is Fault.TIMEOUT


def test_hub_says_permission_denied_to_a_client_without_a_handshake() -> None:
    pair = Pair()
    pair.give(pair.hub, pair.client.session.data_to_send())
    pair.hub.tick(15.0)
    assert pair.hub.fault is not None
    assert pair.hub.fault.code is Code.PERMISSION_DENIED
    assert b"permission_denied" in pair.hub.session.data_to_send()


def test_hub_that_does_not_decide_ends_it_too() -> None:
    pair = Pair(accept=False).pump()
    assert pair.hub.session.deadline == 15.0
    pair.hub.tick(15.0)
    assert pair.hub.fault is not None
    assert pair.hub.fault.fault is Fault.TIMEOUT
    assert pair.hub.fault.code is Code.UNAVAILABLE


def test_data_that_comes_after_the_deadline_does_not_save_a_session_whose_timer_is_late() -> None:
    hub, client = End(make_hub()), make_client()
    hub.feed(client.data_to_send(), 15.0)
    assert hub.fault is not None
    assert hub.fault.fault is Fault.TIMEOUT


def test_client_waits_thirty_seconds_for_the_first_item() -> None:
    pair = Pair().pump()
    assert pair.client.session.state is State.FIRST_ITEM
    assert pair.client.session.deadline == 30.0
    pair.client.tick(29.9)
    assert pair.client.fault is None
    pair.client.tick(30.0)
    assert pair.client.fault is not None
    assert (pair.client.fault.fault, pair.client.fault.code) == (Fault.TIMEOUT, Code.DEADLINE_EXCEEDED)


def test_both_sides_send_heartbeats_at_the_interval() -> None:
    pair = ours()
    for now in (60.0, 120.0, 180.0):
        pair.now = now
        for end in (pair.hub, pair.client):
            assert end.session.deadline == now
            end.tick(now)
        pair.pump()
    assert pair.hub.events == [HeartbeatReceived()] * 3
    assert pair.client.events == [HeartbeatReceived()] * 3


def test_early_tick_does_nothing() -> None:
    pair = ours()
    pair.hub.tick(59.9)
    assert pair.hub.session.data_to_send() == b""


def test_after_a_sleep_one_heartbeat_goes_out_not_all_that_were_missed() -> None:
    pair = ours()
    pair.client.tick(1000.0)
    assert len(split_envelopes(pair.client.session.data_to_send())) == 1
    assert pair.client.session.deadline == 1060.0


def test_until_the_second_heartbeat_silence_may_last_25_minutes() -> None:
    assert silence_of(ours().hub) == 1500.0
    pair = ours()
    beat(pair, 10.0)
    assert silence_of(pair.hub) == 1510.0


def test_peer_with_600_s_is_never_called_silent() -> None:
    pair = ours()
    for now in (600.0, 1200.0, 1800.0):
        while pair.hub.session.deadline is not None and pair.hub.session.deadline < now:
            pair.hub.tick(pair.hub.session.deadline)
        beat(pair, now)
    assert pair.hub.fault is None
    assert silence_of(pair.hub) == 1800.0 + 1500.0


def test_peer_with_our_interval_is_silent_after_two_and_a_half() -> None:
    pair = ours()
    beat(pair, 60.0)
    beat(pair, 120.0)
    assert silence_of(pair.hub) == 120.0 + 150.0


def test_longest_gap_counts_not_the_last() -> None:
    pair = ours()
    for now in (10.0, 310.0, 370.0, 430.0):
        beat(pair, now)
    assert silence_of(pair.hub) == 430.0 + 2.5 * 300.0


def test_lively_peer_is_still_allowed_our_own_interval() -> None:
    pair = ours()
    for now in (1.0, 2.0, 3.0):
        beat(pair, now)
    assert silence_of(pair.hub) == 3.0 + 150.0


def test_long_interval_of_our_own_is_allowed_to_the_peer_from_the_start() -> None:
    limits = {"limits": Limits(heartbeat_s=3600.0)}
    pair = Pair(hub=limits, client={**limits, "features": ("logs/1",)}).established()
    assert silence_of(pair.hub) == 9000.0


def test_any_item_breaks_the_silence() -> None:
    pair = ours()
    beat(pair, 60.0)
    beat(pair, 120.0)
    pair.now = 260.0
    pair.client.session.send("receive_operations", updated(1))
    pair.pump()
    assert silence_of(pair.hub) == 260.0 + 150.0


def test_part_of_a_message_breaks_the_silence() -> None:
    """A manifest of 64 MiB over a slow line takes longer than the silence that is allowed."""
    pair = ours()
    beat(pair, 60.0)
    beat(pair, 120.0)
    pair.client.session.send("receive_operations", updated(1))
    pair.hub.feed(pair.client.session.data_to_send()[:7], 265.0)
    assert silence_of(pair.hub) == 265.0 + 150.0


def test_data_that_waited_while_we_slept_is_not_silence() -> None:
    pair = ours()
    beat(pair, 60.0)
    beat(pair, 120.0)
    beat(pair, 10_000.0)
    pair.hub.tick(10_000.0)
    assert pair.hub.fault is None


def test_silence_is_not_counted_while_we_do_not_read() -> None:
    pair = ours()
    beat(pair, 60.0)
    beat(pair, 120.0)
    pair.hub.session.look_away()
    for now in (180.0, 300.0, 900.0):
        pair.hub.tick(now)
    assert pair.hub.fault is None
    pair.hub.session.listen(1000.0)
    pair.hub.session.listen(1050.0)  # it was listening: what was silent stays silent
    pair.hub.session.tick(1060.0)
    assert silence_of(pair.hub) == 1000.0 + 150.0


# --- a client that may leave without a sign


def test_reference_client_that_says_nothing_is_gone_after_half_a_minute() -> None:
    assert silence_of(reference().hub) == 30.0
    pair = reference()
    beat(pair, 29.0)  # it is there, and the answer that is due by itself may stand behind it
    assert silence_of(pair.hub) == 59.0


def test_reference_client_is_asked_after_two_minutes_of_silence_and_has_half_a_minute() -> None:
    pair = reference()
    resources(pair, 1.0)
    pair.hub.tick(120.9)
    assert asked(pair) == 0
    pair.hub.tick(121.0)
    assert asked(pair) == 1
    assert silence_of(pair.hub) == 151.0


def test_reference_client_that_answers_stays_for_ever() -> None:
    pair = reference()
    resources(pair, 0.0)
    for hour in range(1, 24):
        while (due := pair.hub.session.deadline) is not None and due < 3600.0 * hour:
            pair.hub.tick(due)
            for _ in range(asked(pair)):
                resources(pair, due)
    assert pair.hub.fault is None


def test_each_set_config_is_followed_by_a_question_that_only_its_answer_ends() -> None:
    """What was on its way before says nothing of a client that leaves over what it was sent."""
    pair = reference()
    pair.now = 5.0
    pair.hub.session.send("set_config")  # its first answer is still due
    due = pair.hub.session.deadline
    assert due is not None
    assert due <= 5.0
    pair.hub.tick(5.0)
    assert asked(pair) == 1
    resources(pair, 6.0)
    beat(pair, 7.0)
    assert silence_of(pair.hub) == 37.0


def test_set_config_that_is_answered_leaves_no_question() -> None:
    pair = reference()
    resources(pair, 1.0)
    pair.hub.session.send("set_config")
    pair.hub.tick(5.0)
    assert asked(pair) == 1
    resources(pair, 6.0)
    pair.hub.tick(60.0)
    assert pair.hub.fault is None
    assert pair.hub.session.deadline == 120.0  # a heartbeat; the next question comes at 126


def test_answer_is_not_due_while_we_do_not_read() -> None:
    pair = reference()
    pair.hub.session.look_away()
    pair.hub.tick(60.0)
    pair.hub.tick(200.0)
    assert asked(pair) == 0
    pair.hub.session.listen(500.0)
    assert silence_of(pair.hub) == 530.0


def test_client_of_ours_is_asked_nothing() -> None:
    pair = ours()
    pair.hub.session.send("set_config")
    for now in (60.0, 120.0, 180.0):
        pair.hub.tick(now)
    assert asked(pair) == 0


def test_an_answer_that_is_due_does_not_lengthen_the_silence_of_a_lively_peer() -> None:
    pair = Pair(hub={"limits": Limits(heartbeat_s=1.0)}).established()
    beat(pair, 1.0)
    beat(pair, 2.0)
    assert silence_of(pair.hub) == 4.5


# --- a handshake that is held


def test_held_handshake_waits_half_a_second_at_most() -> None:
    hub, client = End(make_hub(hold=True)), make_client()
    hub.feed(client.data_to_send(), 1.0)
    assert len(split_envelopes(hub.session.data_to_send())) == 1
    assert hub.session.deadline == 1.5
    hub.tick(1.49)
    assert hub.session.data_to_send() == b""
    hub.tick(1.5)  # a client that waits for ours: nobody waits for ever
    assert len(split_envelopes(hub.session.data_to_send())) == 1
    assert hub.session.deadline == 15.0


def test_client_that_waits_for_the_hub_gets_in_though_its_handshake_is_held() -> None:
    pair = Pair(hub={"hold": True}).pump()
    assert pair.client.session.state is State.HANDSHAKE
    pair.now = 0.5
    pair.hub.tick(0.5)
    pair.established()
    assert pair.hub.session.established


def test_held_handshake_waits_for_the_decision_and_a_rejected_client_never_sees_it() -> None:
    for accepted in (True, False):
        hub, initiator = End(make_hub(hold=True)), Initiator()
        key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=initiator.public_key)
        hub.feed(encode(0, Item(establish_shared_secret=key).SerializeToString()))
        [answer] = split_envelopes(hub.session.data_to_send())
        exchange = Item.FromString(answer[5:]).establish_shared_secret
        channel = initiator.finish(exchange.kem_encapsulation)
        hello = Item(handshake=make_handshake(CLIENT_ID, "laptop", "", channel.transcript))
        nonce, ciphertext = channel.seal(hello.SerializeToString())
        record = Item(encrypted=Item.SyncActionEncrypted(nonce=nonce, ciphertext=ciphertext))
        hub.feed(encode(0, record.SerializeToString()))
        hub.tick(5.0)  # it takes long to decide
        assert hub.session.data_to_send() == b""
        if accepted:
            hub.session.accept()
            [sent] = split_envelopes(hub.session.data_to_send())
            encrypted = Item.FromString(sent[5:]).encrypted
            opened = Item.FromString(channel.open(encrypted.nonce, encrypted.ciphertext))
            assert opened.WhichOneof("action") == "handshake"
        else:
            hub.session.reject(Code.PERMISSION_DENIED, "no")
            [sent] = split_envelopes(hub.session.data_to_send())
            assert sent[0] == 2
            assert b"permission_denied" in sent


def test_client_does_not_hold_its_handshake() -> None:
    with pytest.raises(ValueError, match="only a hub"):
        make_client(hold=True)


def test_hub_and_client_name_silence_each_in_their_way() -> None:
    pair = ours()
    pair.hub.tick(1500.0)
    pair.client.tick(1500.0)
    assert pair.hub.fault is not None
    assert pair.client.fault is not None
    assert (pair.hub.fault.fault, pair.hub.fault.code) == (Fault.SILENCE, Code.INTERNAL)
    assert (pair.client.fault.fault, pair.client.fault.code) == (Fault.SILENCE, Code.DEADLINE_EXCEEDED)
    assert b"internal" in pair.hub.session.data_to_send()
    assert pair.client.session.data_to_send() == b""


def test_session_that_is_over_has_no_deadline() -> None:
    pair = ours()
    pair.hub.session.end()
    assert pair.hub.session.deadline is None
    assert pair.hub.session.tick(99_999.0) == []


def test_heartbeat_may_be_the_hubs_first_item() -> None:
    pair = Pair().pump()
    pair.hub.session.send("heartbeat")
    pair.pump()
    assert pair.client.names == ["PeerIdentified", "Established", "HeartbeatReceived"]

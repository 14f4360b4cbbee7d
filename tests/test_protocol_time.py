"""Deadlines, heartbeats and silence, by the caller's clock."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import End, Pair, make_client, make_hub, split_envelopes, updated

from backrest.errors import Code, Fault
from backrest.protocol.events import HeartbeatReceived
from backrest.protocol.session import Limits, State


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
    pair = Pair().established()
    for now in (60.0, 120.0, 180.0):
        pair.now = now
        for end in (pair.hub, pair.client):
            assert end.session.deadline == now
            end.tick(now)
        pair.pump()
    assert pair.hub.events == [HeartbeatReceived()] * 3
    assert pair.client.events == [HeartbeatReceived()] * 3


def test_early_tick_does_nothing() -> None:
    pair = Pair().established()
    pair.hub.tick(59.9)
    assert pair.hub.session.data_to_send() == b""


def test_after_a_sleep_one_heartbeat_goes_out_not_all_that_were_missed() -> None:
    pair = Pair().established()
    pair.client.tick(1000.0)
    assert len(split_envelopes(pair.client.session.data_to_send())) == 1
    assert pair.client.session.deadline == 1060.0


def test_until_the_second_heartbeat_silence_may_last_25_minutes() -> None:
    assert silence_of(Pair().established().hub) == 1500.0
    pair = Pair().established()
    beat(pair, 10.0)
    assert silence_of(pair.hub) == 1510.0


def test_reference_peer_with_600_s_is_never_called_silent() -> None:
    pair = Pair().established()
    for now in (600.0, 1200.0, 1800.0):
        while pair.hub.session.deadline is not None and pair.hub.session.deadline < now:
            pair.hub.tick(pair.hub.session.deadline)
        beat(pair, now)
    assert pair.hub.fault is None
    assert silence_of(pair.hub) == 1800.0 + 1500.0


def test_peer_with_our_interval_is_silent_after_two_and_a_half() -> None:
    pair = Pair().established()
    beat(pair, 60.0)
    beat(pair, 120.0)
    assert silence_of(pair.hub) == 120.0 + 150.0


def test_longest_gap_counts_not_the_last() -> None:
    pair = Pair().established()
    for now in (10.0, 310.0, 370.0, 430.0):
        beat(pair, now)
    assert silence_of(pair.hub) == 430.0 + 2.5 * 300.0


def test_lively_peer_is_still_allowed_our_own_interval() -> None:
    pair = Pair().established()
    for now in (1.0, 2.0, 3.0):
        beat(pair, now)
    assert silence_of(pair.hub) == 3.0 + 150.0


def test_long_interval_of_our_own_is_allowed_to_the_peer_from_the_start() -> None:
    limits = {"limits": Limits(heartbeat_s=3600.0)}
    assert silence_of(Pair(hub=limits, client=limits).established().hub) == 9000.0


def test_any_item_breaks_the_silence() -> None:
    pair = Pair().established()
    beat(pair, 60.0)
    beat(pair, 120.0)
    pair.now = 260.0
    pair.client.session.send("receive_operations", updated(1))
    pair.pump()
    assert silence_of(pair.hub) == 260.0 + 150.0


def test_part_of_a_message_breaks_the_silence() -> None:
    """A manifest of 64 MiB over a slow line takes longer than the silence that is allowed."""
    pair = Pair().established()
    beat(pair, 60.0)
    beat(pair, 120.0)
    pair.client.session.send("receive_operations", updated(1))
    pair.hub.feed(pair.client.session.data_to_send()[:7], 265.0)
    assert silence_of(pair.hub) == 265.0 + 150.0


def test_data_that_waited_while_we_slept_is_not_silence() -> None:
    pair = Pair().established()
    beat(pair, 60.0)
    beat(pair, 120.0)
    beat(pair, 10_000.0)
    pair.hub.tick(10_000.0)
    assert pair.hub.fault is None


def test_silence_is_not_counted_while_we_do_not_read() -> None:
    pair = Pair().established()
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


def test_hub_and_client_name_silence_each_in_their_way() -> None:
    pair = Pair().established()
    pair.hub.tick(1500.0)
    pair.client.tick(1500.0)
    assert pair.hub.fault is not None
    assert pair.client.fault is not None
    assert (pair.hub.fault.fault, pair.hub.fault.code) == (Fault.SILENCE, Code.INTERNAL)
    assert (pair.client.fault.fault, pair.client.fault.code) == (Fault.SILENCE, Code.DEADLINE_EXCEEDED)
    assert b"internal" in pair.hub.session.data_to_send()
    assert pair.client.session.data_to_send() == b""


def test_session_that_is_over_has_no_deadline() -> None:
    pair = Pair().established()
    pair.hub.session.end()
    assert pair.hub.session.deadline is None
    assert pair.hub.session.tick(99_999.0) == []


def test_heartbeat_may_be_the_hubs_first_item() -> None:
    pair = Pair().pump()
    pair.hub.session.send("heartbeat")
    pair.pump()
    assert pair.client.names == ["PeerIdentified", "Established", "HeartbeatReceived"]

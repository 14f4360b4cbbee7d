"""Whatever the bytes are cut into, and whatever is done to them: the same story, or a named fault.

Each example is a whole recorded session between two of ours, replayed into a fresh Session of one role with
the recorded half of the key exchange, so that thousands of examples cost no key generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from helpers import End, Item, Pair, make_client, make_hub, split_envelopes, updated
from hypothesis import given, settings
from hypothesis import strategies as st

from backrest.crypto.channel import Channel, Initiator, respond
from backrest.errors import Code, Fault
from backrest.protocol.events import Ended, Event
from backrest.protocol.session import Role

ROLES = st.sampled_from(list(Role))


class KnownInitiator:
    """Finishes the key exchange again and again with the keys that it gave the first time."""

    def __init__(self) -> None:
        self._real = Initiator()
        self.public_key = self._real.public_key
        self.secrets: dict[bytes, tuple[bytes, bytes, bytes]] = {}

    def finish(self, encapsulation: bytes) -> Channel:
        if encapsulation not in self.secrets:
            raise ValueError("an encapsulation that was altered")
        return Channel.from_keys(*self.secrets[encapsulation])


@dataclass
class Recording:
    """What each side received in a session that went well, and the means to hear it again."""

    to: dict[Role, list[bytes]]
    names: dict[Role, list[str]]
    initiator: KnownInitiator
    encapsulation: bytes
    hub_keys: tuple[bytes, bytes, bytes]

    def fresh(self, role: Role) -> End:
        if role is Role.CLIENT:
            return End(make_client(initiator=self.initiator, pairing_secret="s"))
        return End(make_hub(responder=self.respond))

    def respond(self, public_key: bytes) -> tuple[bytes, Channel]:
        if public_key != self.initiator.public_key:
            raise ValueError("a key that was altered")
        return self.encapsulation, Channel.from_keys(*self.hub_keys)

    def replay(self, role: Role, pieces: list[bytes]) -> End:
        """Feed the pieces, then END_STREAM."""
        end = self.fresh(role)
        for piece in pieces:
            end.feed(piece)
            end.accept_if_asked()
        end.eof()
        end.accept_if_asked()
        return end


@cache
def recording() -> Recording:
    initiator = KnownInitiator()
    encapsulation, _ = respond(initiator.public_key)
    one, other, transcript = bytes(32), bytes(31) + b"\x01", bytes(32)
    initiator.secrets[encapsulation] = (one, other, transcript)
    found = Recording({Role.HUB: [], Role.CLIENT: []}, {}, initiator, encapsulation, (other, one, transcript))
    pair = Pair(hub={"responder": found.respond}, client={"initiator": initiator, "pairing_secret": "s"})

    def keep(data: bytes, role: Role) -> bytes:
        found.to[role] += split_envelopes(data)
        return data

    def pump() -> None:
        while True:
            up = keep(pair.client.session.data_to_send(), Role.HUB)
            pair.give(pair.hub, up)
            down = keep(pair.hub.session.data_to_send(), Role.CLIENT)
            pair.give(pair.client, down)
            if not up and not down:
                return

    pump()
    for kind in ("receive_config", "receive_resources", "set_config"):
        pair.hub.session.send(kind)
    for kind in ("receive_config", "receive_resources"):
        pair.client.session.send(kind)
    manifest = Item.SyncActionOperationManifest(op_ids=[1, 2], modnos=[1, 2])
    pair.client.session.send("operation_manifest", manifest)
    pump()
    pair.hub.session.send("request_operation_data", Item.SyncActionRequestOperationData(op_ids=[1, 2]))
    pump()
    pair.client.session.send("receive_operations", updated(1, 2))
    for end in (pair.client, pair.hub):
        end.session.send("heartbeat")
    pump()
    pair.hub.session.end(Code.ABORTED, "enough")
    pump()
    assert pair.hub.fault is None
    assert pair.client.fault is None
    found.names = {Role.HUB: [*pair.hub.names, "Ended"], Role.CLIENT: pair.client.names}
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(edges)]


PLACES = st.lists(st.integers(0, 1 << 20), max_size=12)


def test_the_recording_is_the_whole_story() -> None:
    names = recording().names
    assert names[Role.HUB] == [
        "PeerIdentified",
        "Established",
        "receive_config",
        "receive_resources",
        "operation_manifest",
        "receive_operations",
        "HeartbeatReceived",
        "Ended",
    ]
    assert names[Role.CLIENT] == [
        "PeerIdentified",
        "Established",
        "receive_config",
        "receive_resources",
        "set_config",
        "request_operation_data",
        "HeartbeatReceived",
        "Ended",
    ]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("size", [1, 2, 5, 1000, 1 << 20])
def test_pieces_of_any_size_give_the_same_events_and_the_same_answers(role: Role, size: int) -> None:
    data = b"".join(recording().to[role])
    end = recording().replay(role, [data[i : i + size] for i in range(0, len(data), size)])
    assert end.fault is None
    assert end.names == recording().names[role]
    other = Role.HUB if role is Role.CLIENT else Role.CLIENT
    # What it says by itself is what it said then: its half of the exchange, its handshake.
    said = split_envelopes(end.session.data_to_send())
    assert said[:2] == recording().to[other][:2]


@given(ROLES, PLACES)
def test_any_chunking_gives_the_same_events(role: Role, places: list[int]) -> None:
    end = recording().replay(role, cut(b"".join(recording().to[role]), places))
    assert end.fault is None
    assert end.names == recording().names[role]


def prefix_of_the_story(role: Role, end: End) -> None:
    """It told nothing but what happened before the damage, and no end that the other side did not say."""
    names = recording().names[role]
    assert end.names == names[: len(end.names)]
    assert not any(isinstance(event, Ended) for event in end.events)


@given(ROLES, st.data(), PLACES)
@settings(max_examples=300)
def test_an_altered_byte_of_a_record_is_a_named_fault(
    role: Role, data: st.DataObject, places: list[int]
) -> None:
    """Any byte but those of the hub's end-of-stream message, which nothing protects (TLS does)."""
    envelopes = list(recording().to[role])
    which = data.draw(st.integers(0, len(envelopes) - (2 if role is Role.CLIENT else 1)), label="envelope")
    at = data.draw(st.integers(0, len(envelopes[which]) - 1), label="byte")
    flip = data.draw(st.integers(1, 255), label="flip")
    bad = bytearray(envelopes[which])
    bad[at] ^= flip
    whole = b"".join([*envelopes[:which], bytes(bad), *envelopes[which + 1 :]])
    end = recording().replay(role, cut(whole, places))
    if end.fault is None:
        # The same message in other bytes: the items around the records are not sealed, and protobuf has more
        # than one way to write a thing. What happened must be the very same, then.
        assert end.names == recording().names[role]
        return
    assert end.fault.fault in (Fault.FRAMING, Fault.KEM, Fault.RECORD, Fault.ENDED), end.fault
    prefix_of_the_story(role, end)


@given(ROLES, st.data(), PLACES)
def test_a_dropped_record_is_a_named_fault(role: Role, data: st.DataObject, places: list[int]) -> None:
    envelopes = list(recording().to[role])
    last = len(envelopes) - (2 if role is Role.CLIENT else 1)
    which = data.draw(st.integers(0, last), label="envelope")
    end = recording().replay(role, cut(b"".join(envelopes[:which] + envelopes[which + 1 :]), places))
    if role is Role.HUB and which == last:
        assert end.names == [*recording().names[role][:-2], "Ended"]  # the last one: a shorter session
        return
    if role is Role.CLIENT and which == last:
        assert end.events[-1] == Ended(Code.ABORTED, "enough")  # nobody can know that there was one more
        return
    assert end.fault is not None
    assert end.fault.fault is (Fault.KEM if which == 0 else Fault.RECORD)
    prefix_of_the_story(role, end)


@given(ROLES, st.data(), PLACES)
def test_a_repeated_record_is_a_named_fault(role: Role, data: st.DataObject, places: list[int]) -> None:
    envelopes = list(recording().to[role])
    last = len(envelopes) - (2 if role is Role.CLIENT else 1)
    which = data.draw(st.integers(0, last), label="envelope")
    again = data.draw(st.integers(which + 1, last + 1), label="place")
    end = recording().replay(
        role, cut(b"".join([*envelopes[:again], envelopes[which], *envelopes[again:]]), places)
    )
    assert end.fault is not None
    assert end.fault.fault is Fault.RECORD
    prefix_of_the_story(role, end)


@given(ROLES, st.data(), PLACES)
def test_reordered_records_are_a_named_fault(role: Role, data: st.DataObject, places: list[int]) -> None:
    envelopes = list(recording().to[role])
    last = len(envelopes) - (2 if role is Role.CLIENT else 1)
    one = data.draw(st.integers(0, last - 1), label="one")
    other = data.draw(st.integers(one + 1, last), label="other")
    envelopes[one], envelopes[other] = envelopes[other], envelopes[one]
    end = recording().replay(role, cut(b"".join(envelopes), places))
    assert end.fault is not None
    assert end.fault.fault is (Fault.KEM if one == 0 else Fault.RECORD)
    prefix_of_the_story(role, end)


@given(ROLES, st.data(), PLACES)
def test_an_early_end_is_a_named_fault(role: Role, data: st.DataObject, places: list[int]) -> None:
    whole = b"".join(recording().to[role])
    length = data.draw(st.integers(0, len(whole) - 1), label="length")
    end = recording().replay(role, cut(whole[:length], places))
    boundaries = {len(b"".join(recording().to[role][:n])) for n in range(len(recording().to[role]) + 1)}
    handshaken = len(b"".join(recording().to[role][:2]))
    if role is Role.HUB and length >= handshaken and length in boundaries:
        assert end.fault is None
        assert end.events[-1] == Ended(None)  # a client may go when it likes, between two messages
        return
    assert end.fault is not None
    assert end.fault.fault is Fault.ENDED
    prefix_of_the_story(role, end)


@given(ROLES, st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 9))
def test_any_bytes_at_any_point_are_a_fault_or_wait_for_more(
    role: Role, junk: list[bytes], start: int
) -> None:
    """Never another exception, and never an event that did not happen."""
    end = recording().replay(role, [*recording().to[role][:start], *junk])
    expected: list[Event] = recording().replay(role, recording().to[role][:start]).events
    got: Any = [event for event in end.events if not isinstance(event, Ended)]
    assert got == [event for event in expected if not isinstance(event, Ended)]
    assert end.session.state.name == "OVER"

"""The channel: vectors, both ends against each other, and no altered stream gives another plaintext."""

from __future__ import annotations

from typing import Any

import pytest
from crypto_vectors import load, recipient, unhex, untimed
from hypothesis import given
from hypothesis import strategies as st

from backrest.crypto import hpke
from backrest.crypto.channel import (
    TAG_BYTES,
    TRANSPORT_VERSION,
    Channel,
    ChannelError,
    Initiator,
    respond,
    transcript,
)

TRANSPORT = load("transport.json")
BASE = TRANSPORT["negative_base"]
LAST = 2**64 - 1
KEYS = (bytes(range(32)), bytes(range(32, 64)))


def pair(*, sent: int = 0) -> tuple[Channel, Channel]:
    """Two ends of one channel; the second receives what the first sends, from record ``sent`` on."""
    near = Channel.from_keys(*KEYS, b"t" * 32, sent=sent)
    return near, Channel.from_keys(*KEYS[::-1], b"t" * 32, received=sent)


def negatives(op: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in TRANSPORT["negative"] if case["op"] == op]


cases = pytest.mark.parametrize("case", TRANSPORT["cases"], ids=lambda case: case["name"])


@cases
def test_initiator_of_a_vector_opens_and_seals_its_records(case: dict[str, Any]) -> None:
    initiator = Initiator(recipient(unhex(case["initiator_seed"])))
    assert initiator.public_key.hex() == case["initiator_public_key"]
    channel = initiator.finish(unhex(case["encapsulation"]))
    assert channel.transcript.hex() == case["transcript"]
    for record in case["messages_r2i"]:
        assert channel.open(unhex(record["nonce"]), unhex(record["ciphertext"])).hex() == record["plaintext"]
    for record in case["messages_i2r"]:
        nonce, ciphertext = channel.seal(unhex(record["plaintext"]))
        assert (nonce.hex(), ciphertext.hex()) == (record["nonce"], record["ciphertext"])


@cases
def test_responder_of_a_vector_opens_and_seals_its_records(case: dict[str, Any]) -> None:
    channel = Channel.from_keys(
        unhex(case["export_r2i"]), unhex(case["export_i2r"]), unhex(case["transcript"])
    )
    for record in case["messages_i2r"]:
        assert channel.open(unhex(record["nonce"]), unhex(record["ciphertext"])).hex() == record["plaintext"]
    for record in case["messages_r2i"]:
        nonce, ciphertext = channel.seal(unhex(record["plaintext"]))
        assert (nonce.hex(), ciphertext.hex()) == (record["nonce"], record["ciphertext"])


@pytest.mark.parametrize("edge", TRANSPORT["nonce_edges"]["values"], ids=lambda edge: edge["counter"])
def test_nonce_at_an_edge_is_that_of_the_vector(edge: dict[str, str]) -> None:
    key, counter = unhex(TRANSPORT["nonce_edges"]["key"]), int(edge["counter"])
    near = Channel.from_keys(key, bytes(32), b"", sent=counter)
    far = Channel.from_keys(bytes(32), key, b"", received=counter)
    nonce, ciphertext = near.seal(b"")
    assert (nonce.hex(), ciphertext.hex()) == (edge["nonce"], edge["ciphertext_of_empty"])
    assert far.open(nonce, ciphertext) == b""


@pytest.mark.parametrize("case", negatives("transcript"))
def test_negative_transcript_differs_as_in_the_vector(case: dict[str, Any]) -> None:
    found = transcript(int(case["version"]), unhex(case["first"]), unhex(case["second"]))
    assert found.hex() == case["transcript"] != BASE["transcript"]


def test_transcript_depends_on_the_version() -> None:
    parts = unhex(BASE["initiator_public_key"]), unhex(BASE["encapsulation"])
    assert transcript(TRANSPORT_VERSION, *parts).hex() == BASE["transcript"]
    assert transcript(2, *parts) != transcript(1, *parts)


@pytest.mark.parametrize("case", negatives("decapsulate"))
def test_negative_encapsulation_has_the_transcript_of_the_vector(case: dict[str, Any]) -> None:
    initiator = Initiator(recipient(unhex(BASE["initiator_seed"])))
    if case["expect"] == "error":
        with pytest.raises(ValueError, match="encapsulation"):
            initiator.finish(unhex(case["encapsulation"]))
        return
    channel = initiator.finish(unhex(case["encapsulation"]))
    assert channel.transcript.hex() == case["transcript"] != BASE["transcript"]
    hub = Channel.from_keys(unhex(BASE["export_r2i"]), unhex(BASE["export_i2r"]), b"")
    with pytest.raises(ChannelError) as caught:
        channel.open(*hub.seal(b"first record"))
    assert caught.value.reason == "tag"


@pytest.mark.parametrize("case", negatives("aead-open"))
def test_negative_record_fails_at_its_layer(case: dict[str, Any]) -> None:
    channel = Channel.from_keys(bytes(32), unhex(BASE["export_" + case["key"]]), b"")
    nonce, ciphertext = unhex(case["nonce"]), unhex(case["ciphertext"])
    if case["expect"] == "ok":
        channel.open(nonce, ciphertext)
        return
    with pytest.raises(ChannelError) as caught:
        channel.open(nonce, ciphertext)
    assert caught.value.reason == ("nonce" if case["name"] == "aead-wrong-counter" else "tag")


def test_both_ends_talk_in_both_directions() -> None:
    client = Initiator()
    encapsulation, hub = respond(client.public_key)
    channel = client.finish(encapsulation)
    assert channel.transcript == hub.transcript == transcript(1, client.public_key, encapsulation)
    for text in (b"", b"one", b"x" * 100_000):
        assert hub.open(*channel.seal(text)) == text
        assert channel.open(*hub.seal(text)) == text


def test_private_key_is_used_once_and_dropped_even_after_a_failure() -> None:
    done, failed = Initiator(), Initiator()
    answer, _ = respond(done.public_key)
    done.finish(answer)
    with pytest.raises(ValueError, match="encapsulation has 9 bytes"):
        failed.finish(b"malformed")
    for client in (done, failed):
        assert client._key is None
        with pytest.raises(RuntimeError, match="used once"):
            client.finish(answer)


def test_each_initiator_draws_its_own_key() -> None:
    assert Initiator().public_key != Initiator().public_key
    key = hpke.RecipientKey.generate()
    assert Initiator(key).public_key == key.public_key


def test_man_in_the_middle_gets_two_transcripts() -> None:
    client, middle = Initiator(), Initiator()
    encapsulation, _ = respond(client.public_key)
    _, hub = respond(middle.public_key)
    assert client.finish(encapsulation).transcript != hub.transcript


def test_last_counter_works_and_the_next_is_refused() -> None:
    near, far = pair(sent=LAST)
    assert far.open(*near.seal(b"last")) == b"last"
    with pytest.raises(ChannelError, match="sending counter is used up"):
        near.seal(b"one more")
    with pytest.raises(ChannelError, match="sending counter is used up"):
        near.seal(b"still")
    with pytest.raises(ChannelError) as caught:
        far.open(bytes(12), bytes(16))
    assert caught.value.reason == "counter"


def test_refused_record_closes_the_channel_for_the_right_one_too() -> None:
    near, far = pair()
    nonce, ciphertext = near.seal(b"right")
    with pytest.raises(ChannelError, match="record 0 does not open"):
        far.open(nonce, bytes(len(ciphertext)))
    with pytest.raises(ChannelError) as caught:
        far.open(nonce, ciphertext)
    assert caught.value.reason == "closed"


@pytest.mark.parametrize(
    ("nonce", "sentence"),
    [
        (bytes(12), "record 0 has come again where record 1 is due"),
        ((2).to_bytes(12, "big"), "record 1 is missing or its nonce is wrong"),
        (b"\x01" + bytes(10) + b"\x01", "record 1 is missing or its nonce is wrong"),
        (b"", "record 1 has a nonce of 0 bytes"),
        (bytes(11), "record 1 has a nonce of 11 bytes"),
        (bytes(12) + b"\x01", "record 1 has a nonce of 13 bytes"),
    ],
)
def test_wrong_nonce_is_named(nonce: bytes, sentence: str) -> None:
    near, far = pair()
    far.open(*near.seal(b""))
    _, ciphertext = near.seal(b"")
    with pytest.raises(ChannelError, match=sentence) as caught:
        far.open(nonce, ciphertext)
    assert caught.value.reason == "nonce"


def test_record_sent_back_to_its_sender_is_refused() -> None:
    near, _ = pair()
    with pytest.raises(ChannelError) as caught:
        near.open(*near.seal(b"reflected"))
    assert caught.value.reason == "tag"


def test_keys_are_not_in_a_repr() -> None:
    near, _ = pair()
    near.seal(b"")
    assert repr(near) == "Channel(sent=1, received=0)"
    assert repr(Initiator()) == "Initiator(finished=False)"


@untimed
@given(
    texts=st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    at=st.integers(0),
    change=st.sampled_from(["nonce", "ciphertext", "shorten", "extend"]),
    position=st.integers(0),
    mask=st.integers(1, 255),
)
def test_altered_byte_is_refused_and_nothing_after_it_is_taken(
    texts: list[bytes], at: int, change: str, position: int, mask: int
) -> None:
    near, far = pair()
    records = [near.seal(text) for text in texts]
    at %= len(records)
    nonce, ciphertext = records[at]
    if change == "nonce":
        bad = altered(nonce, position, mask), ciphertext
    elif change == "ciphertext":
        bad = nonce, altered(ciphertext, position, mask)
    elif change == "shorten":
        bad = nonce, ciphertext[: position % len(ciphertext)]
    else:
        bad = nonce, ciphertext + bytes([mask])
    records[at] = bad
    received = receive(far, records)
    assert received == texts[:at]


@untimed
@given(
    texts=st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    picks=st.lists(st.integers(0, 5), max_size=8),
)
def test_reordered_repeated_or_dropped_records_give_only_the_true_beginning(
    texts: list[bytes], picks: list[int]
) -> None:
    near, far = pair()
    records = [near.seal(text) for text in texts]
    order = [pick % len(records) for pick in picks]
    true_beginning = 0
    while true_beginning < len(order) and order[true_beginning] == true_beginning:
        true_beginning += 1
    assert receive(far, [records[i] for i in order]) == texts[:true_beginning]


@untimed
@given(texts=st.lists(st.binary(max_size=200)), start=st.integers(0, LAST - 100))
def test_records_in_order_arrive_unchanged_from_any_counter(texts: list[bytes], start: int) -> None:
    near, far = pair(sent=start)
    for text in texts:
        nonce, ciphertext = near.seal(text)
        assert len(ciphertext) == len(text) + TAG_BYTES
        assert far.open(nonce, ciphertext) == text


def altered(data: bytes, position: int, mask: int) -> bytes:
    position %= len(data)
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def receive(channel: Channel, records: list[tuple[bytes, bytes]]) -> list[bytes]:
    """What a receiver that does not even stop at the first refusal gets to see."""
    plaintexts = []
    for nonce, ciphertext in records:
        try:
            plaintexts.append(channel.open(nonce, ciphertext))
        except ChannelError:
            continue
    return plaintexts

"""Connect envelopes: any cut gives the same result, and every fault has its name and code."""

from __future__ import annotations

import base64
import gzip
import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.errors import Code, Fault, PeerError
from backrest.protocol.framing import (
    FLAG_COMPRESSED,
    FLAG_END,
    Decoder,
    EndOfStream,
    Envelope,
    encode,
    end_of_stream,
    parse_end,
)


def drain(decoder: Decoder) -> list[Envelope]:
    return list(iter(decoder.next, None))


def refused(decoder: Decoder) -> PeerError:
    with pytest.raises(PeerError) as caught:
        drain(decoder)
    assert caught.value.fault is Fault.FRAMING
    return caught.value


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_any_chunking_gives_the_same_envelopes(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode(0, payload) for payload in payloads)
    decoder = Decoder(100)
    found: list[Envelope] = []
    at = 0
    for size in [*cuts, len(data)]:
        decoder.feed(data[at : at + size])
        at += size
        found += drain(decoder)
    assert found == [Envelope(0, payload) for payload in payloads]
    assert decoder.at_boundary()


@given(st.integers(1, 24))
def test_a_cut_stream_is_not_at_a_boundary(cut: int) -> None:
    decoder = Decoder(100)
    decoder.feed(encode(0, bytes(20))[:cut])
    assert drain(decoder) == []
    assert not decoder.at_boundary()


def test_length_is_judged_on_the_prefix() -> None:
    decoder = Decoder(10)
    decoder.feed(encode(0, bytes(10)))
    assert len(drain(decoder)) == 1
    decoder.feed(b"\0\0\0\0\x0b")
    assert refused(decoder).code is Code.RESOURCE_EXHAUSTED


def test_limit_may_change_between_envelopes() -> None:
    decoder = Decoder(1)
    decoder.feed(encode(0, b"a") + encode(0, b"bc"))
    assert decoder.next() == Envelope(0, b"a")
    decoder.limit = 2
    assert decoder.next() == Envelope(0, b"bc")


@pytest.mark.parametrize("flags", [4, 8, 0x80, 0xFF, 5, 6])
def test_unknown_flags_are_refused_on_the_first_byte(flags: int) -> None:
    decoder = Decoder(10, encoding="gzip")
    decoder.feed(bytes([flags]))
    assert refused(decoder).code is Code.INTERNAL


def test_compressed_without_a_declared_encoding_is_internal() -> None:
    decoder = Decoder(10)
    decoder.feed(bytes([FLAG_COMPRESSED]))
    assert refused(decoder).code is Code.INTERNAL


def test_end_of_stream_is_taken_from_a_server_only() -> None:
    server, client = Decoder(10), Decoder(10, ends=False)
    server.feed(encode(FLAG_END, b"{}"))
    assert drain(server)[0].is_end
    client.feed(bytes([FLAG_END]))
    refused(client)


def test_gzip_is_unpacked_and_plain_messages_are_taken_beside_it() -> None:
    decoder = Decoder(100, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, gzip.compress(b"a" * 100)) + encode(0, b"plain"))
    assert [e.payload for e in drain(decoder)] == [b"a" * 100, b"plain"]


def test_gzip_of_several_members_is_one_message() -> None:
    decoder = Decoder(100, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, gzip.compress(b"ab") + gzip.compress(b"cd")))
    assert drain(decoder)[0].payload == b"abcd"


def test_gzip_of_very_many_members_is_refused() -> None:
    decoder = Decoder(1 << 20, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, gzip.compress(b"") * 40_000))
    assert refused(decoder).code is Code.INVALID_ARGUMENT


def test_empty_payload_is_never_unpacked() -> None:
    decoder = Decoder(100, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, b""))
    assert drain(decoder)[0].payload == b""


@pytest.mark.parametrize("members", [1, 3])
def test_limit_holds_for_the_unpacked_size(members: int) -> None:
    decoder = Decoder(300, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, gzip.compress(bytes(300 // members)) * members))
    assert len(drain(decoder)[0].payload) == 300
    decoder.feed(
        encode(FLAG_COMPRESSED, gzip.compress(bytes(300 // members)) * members + gzip.compress(b"x"))
    )
    assert refused(decoder).code is Code.RESOURCE_EXHAUSTED


def test_a_small_message_does_not_become_a_large_one() -> None:
    """What peers send is ciphertext. A bomb that keeps to the limit would cost as much time as an honest message of
    that size, for a thousandth of the bytes."""
    decoder = Decoder(64 << 20, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, gzip.compress(bytes(64 << 10))))
    assert len(drain(decoder)[0].payload) == 64 << 10
    for bomb in (gzip.compress(bytes((64 << 10) + 1)), gzip.compress(bytes(60 << 10)) * 2):
        decoder = Decoder(64 << 20, encoding="gzip")
        decoder.feed(encode(FLAG_COMPRESSED, bomb))
        error = refused(decoder)
        assert error.code is Code.RESOURCE_EXHAUSTED
        assert "times its size" in str(error)


@pytest.mark.parametrize("codec", ["proto", "json"])
def test_an_honest_large_message_is_unpacked(codec: str) -> None:
    """A first manifest of a million ids: 9 MB of ciphertext, as it is or in base64."""
    payload = random.Random(1).randbytes(9_000_000)
    if codec == "json":
        payload = base64.b64encode(payload)
    decoder = Decoder(64 << 20, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, gzip.compress(payload, 1)))
    assert drain(decoder)[0].payload == payload


def test_decompression_bomb_costs_no_more_than_the_limit() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    decoder = Decoder(128 << 10, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, bomb))
    tracemalloc.start()
    refused(decoder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("damage", ["cut", "flipped", "nonsense", "checksum"])
def test_damaged_gzip_is_refused(damage: str) -> None:
    good = gzip.compress(b"hello")
    data = {
        "cut": good[:-1],
        "flipped": good[:2] + b"\xff" + good[3:],
        "nonsense": b"hello",
        "checksum": good[:-8] + bytes(4) + good[-4:],
    }[damage]
    decoder = Decoder(100, encoding="gzip")
    decoder.feed(encode(FLAG_COMPRESSED, data))
    assert refused(decoder).code is Code.INVALID_ARGUMENT


def test_memory_of_a_large_message_is_given_back() -> None:
    decoder = Decoder(8 << 20)
    message = encode(0, bytes(4 << 20))
    tracemalloc.start()
    for start in range(0, len(message), 1 << 16):
        decoder.feed(message[start : start + (1 << 16)])
    drain(decoder)
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 1 << 20


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"{}", EndOfStream(None)),
        (b' {"metadata": {"a": ["b"]}} ', EndOfStream(None)),
        (b'{"error": null}', EndOfStream(None)),
        (
            b'{"error": {"code": "permission_denied", "message": "no"}}',
            EndOfStream(Code.PERMISSION_DENIED, "no"),
        ),
        (b'{"error": {"code": "invalid_argument"}}', EndOfStream(Code.INVALID_ARGUMENT)),
        (b'{"error": {"code": "no_such_code", "message": "x"}}', EndOfStream(Code.UNKNOWN, "x")),
        (b'{"error": {"code": 7, "message": 8}}', EndOfStream(Code.UNKNOWN)),
        (b'{"error": {}}', EndOfStream(Code.UNKNOWN)),
    ],
)
def test_end_of_stream_is_read(payload: bytes, expected: EndOfStream) -> None:
    assert parse_end(payload) == expected


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"{", b"\xff", b'{"error": 1}', b'{"error": []}', b"[" * 100_000]
)
def test_bad_end_of_stream_is_a_fault(payload: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        parse_end(payload)
    assert caught.value.fault is Fault.FRAMING


def test_the_other_sides_words_cannot_steer_a_terminal_or_fill_a_log() -> None:
    text = "\x1b[2J" + "x" * 5000 + "\r\n" + "y" * 5000
    end = parse_end(json.dumps({"error": {"code": "internal", "message": text}}).encode())
    assert len(end.message) == 500
    assert end.message.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a plain sentence", "a plain sentence"),
        ("apply config:\tvalidate\t  repo", "apply config: validate repo"),
        ("\n\nfirst\n\n", "first"),
        ("first:\n\tsecond", "first: [1 more line]"),
        ("first\r\nsecond\u2028third\n\nfourth", "first [3 more lines]"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 499 + "…"),
        ("x" * 501 + "\ny", "x" * 485 + "… [1 more line]"),
        ("", ""),
        (" \n\t", ""),
    ],
)
def test_the_other_sides_words_are_one_line_and_what_is_left_out_is_marked(text: str, shown: str) -> None:
    assert parse_end(end_of_stream(Code.INTERNAL, text)[5:]).message == shown


@given(
    st.one_of(st.none(), st.sampled_from(list(Code))),
    st.text(st.characters(categories=["L", "N", "P"]), max_size=50),
)
def test_end_of_stream_is_read_as_it_was_written(code: Code | None, message: str) -> None:
    decoder = Decoder(10_000)
    decoder.feed(end_of_stream(code, message))
    (envelope,) = drain(decoder)
    assert parse_end(envelope.payload) == EndOfStream(code, message if code else "")

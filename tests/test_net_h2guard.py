"""The limits on a peer's frames, both sides of each, without a socket or h2's state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from backrest.net import h2guard
from backrest.net.h2guard import FloodError, FrameGuard

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def guard(*open_streams: int) -> FrameGuard:
    fresh = FrameGuard(set(open_streams), 0.0)
    assert b"".join(fresh.split(PREFACE, 0.0)) == PREFACE
    return fresh


def feed(watched: FrameGuard, *frames: Frame | bytes, now: float = 0.0) -> None:
    data = b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)
    assert b"".join(watched.split(data, now)) == data


def refused(watched: FrameGuard, *frames: Frame | bytes, now: float = 0.0) -> ErrorCodes:
    with pytest.raises(FloodError) as caught:
        feed(watched, *frames, now=now)
    return caught.value.code


def header(length: int, kind: int, flags: int = 0, stream_id: int = 1) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")


@given(st.lists(st.integers(0, 40), max_size=12), st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_any_chunking_passes_the_same_bytes_and_counts_the_same(sizes: list[int], cuts: list[int]) -> None:
    data = PREFACE + b"".join(DataFrame(7, bytes(size)).serialize() for size in sizes)
    whole, cut = FrameGuard(set(), 0.0), FrameGuard(set(), 0.0)
    assert b"".join(whole.split(data, 0.0)) == data
    passed = b"".join(b"".join(cut.split(piece, 0.0)) for piece in pieces(data, cuts))
    assert passed == data
    assert whole._tokens.level == cut._tokens.level == h2guard.BURST - len(sizes)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    position = 0
    for cut in cuts:
        yield data[position : position + cut]
        position += cut
    yield data[position:]


def test_a_slice_holds_few_frames() -> None:
    watched = guard()
    frames = PingFrame(0, b"12345678").serialize() * 100
    slices = list(watched.split(frames, 0.0))
    assert [len(piece) // 17 for piece in slices] == [32, 32, 32, 4]


def test_a_frame_of_the_size_we_advertise_passes_and_one_byte_more_does_not() -> None:
    feed(guard(1), DataFrame(1, bytes(h2guard.MAX_FRAME)))
    assert refused(guard(1), header(h2guard.MAX_FRAME + 1, 0)) == ErrorCodes.FRAME_SIZE_ERROR


def test_a_header_block_is_bounded_over_all_its_frames() -> None:
    half = h2guard.MAX_HEADER_BLOCK // 2
    feed(guard(), HeadersFrame(1, bytes(half)), ContinuationFrame(1, bytes(half)))
    code = refused(guard(), HeadersFrame(1, bytes(half)), ContinuationFrame(1, bytes(half + 1)))
    assert code == ErrorCodes.ENHANCE_YOUR_CALM


def test_header_blocks_are_counted_one_by_one() -> None:
    watched = guard()
    for _ in range(10):
        feed(watched, HeadersFrame(1, bytes(h2guard.MAX_HEADER_BLOCK)))


def test_settings_are_bounded_for_the_life_of_a_connection() -> None:
    watched = guard()
    one = SettingsFrame(0, {0x9999: 1})  # each frame counts as one, each setting as one
    for _ in range(h2guard.MAX_SETTINGS // 2):
        feed(watched, one)
    feed(watched, SettingsFrame(0, flags=["ACK"]))
    assert refused(watched, one, now=1e9) == ErrorCodes.ENHANCE_YOUR_CALM


NOTHING = [
    pytest.param(DataFrame(1, b""), id="empty DATA"),
    pytest.param(DataFrame(1, b"", flags=["PADDED"], pad_length=9), id="padded DATA"),
    pytest.param(DataFrame(3, b"late"), id="DATA for a stream that is over"),
    pytest.param(PingFrame(0, b"12345678"), id="PING"),
    pytest.param(SettingsFrame(0, flags=["ACK"]), id="SETTINGS ack"),
    pytest.param(WindowUpdateFrame(0, 1), id="WINDOW_UPDATE"),
    pytest.param(PriorityFrame(1, stream_weight=1), id="PRIORITY"),
    pytest.param(RstStreamFrame(1), id="RST_STREAM"),
    pytest.param(HeadersFrame(1, b""), id="HEADERS"),
    pytest.param(ExtensionFrame(0x77, 0, flag_byte=0, body=b""), id="unknown frame"),
]


@pytest.mark.parametrize("frame", NOTHING)
def test_frames_that_bring_nothing_are_limited_in_number(frame: Frame) -> None:
    watched = guard(1)
    feed(watched, frame.serialize() * h2guard.BURST)
    assert refused(watched, frame) == ErrorCodes.ENHANCE_YOUR_CALM


def test_the_allowance_comes_back_with_time() -> None:
    watched = guard()
    ping = PingFrame(0, b"12345678").serialize()
    feed(watched, ping * h2guard.BURST)
    feed(watched, ping * int(h2guard.REFILL_PER_SECOND), now=1.0)
    assert refused(watched, ping, now=1.0) == ErrorCodes.ENHANCE_YOUR_CALM


def test_the_allowance_never_exceeds_the_burst() -> None:
    watched = guard()
    ping = PingFrame(0, b"12345678").serialize()
    watched.sent(2**40)
    feed(watched, ping * h2guard.BURST, now=1e9)
    assert refused(watched, ping, now=1e9) == ErrorCodes.ENHANCE_YOUR_CALM


def test_data_that_somebody_reads_is_not_limited() -> None:
    watched = guard(1)
    feed(watched, DataFrame(1, b"x").serialize() * (h2guard.BURST + 1))
    feed(watched, DataFrame(1, b"", flags=["END_STREAM"]))


def test_a_reader_may_acknowledge_each_4_kib_twice() -> None:
    """What Go's client does: a WINDOW_UPDATE for the stream and one for the connection."""
    watched = guard(1)
    update = WindowUpdateFrame(0, 4096).serialize()
    for _ in range(h2guard.BURST):
        watched.sent(16_384)
        feed(watched, update * 8)


def test_resets_are_limited_and_come_back_slowly() -> None:
    watched = guard()
    for _ in range(h2guard.RESET_BURST):
        watched.reset()
    with pytest.raises(FloodError):
        watched.reset()
    feed(watched, PingFrame(0, b"12345678"), now=1.0)
    for _ in range(int(h2guard.RESETS_PER_SECOND) - 1):
        watched.reset()
    with pytest.raises(FloodError):
        watched.reset()

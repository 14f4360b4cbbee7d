"""What one HTTP/2 stream holds in memory, without a connection around it."""

from __future__ import annotations

import tracemalloc
from typing import Any

from h2raw import (
    START,
    body,
    jump_clock,
)
from hypothesis import given
from hypothesis import strategies as st

from backrest.net import h2stream
from backrest.net.h2stream import H2Stream

__all__ = ["jump_clock"]


class Owner:
    """A connection that only notes what its stream gives back."""

    def __init__(self) -> None:
        self.credit = 0

    def give_credit(self, stream: H2Stream, octets: int) -> None:
        self.credit += octets

    def start_response(self, *args: Any) -> None: ...
    def wants_to_send(self, *args: Any) -> None: ...
    def break_off(self, *args: Any) -> None: ...
    def let_in(self, *args: Any) -> None: ...
    def left(self, *args: Any) -> None: ...


def made(owner: Owner) -> H2Stream:
    return H2Stream(owner, 1, head_only=False, stall_s=1, window=100_000, full_window=100_000)


async def test_small_frames_are_kept_as_bytes_and_not_as_objects() -> None:
    """A window of a million one-byte frames must not become a million objects, nor a million messages."""
    owner = Owner()
    stream = made(owner)
    tracemalloc.start()
    for _ in range(100_000):
        stream.feed(b"x", 1)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000
    assert owner.credit == 0
    assert (await stream.receive())["body"] == b"x" * 100_000
    assert owner.credit == 100_000


async def test_small_messages_are_kept_as_bytes_and_not_as_objects() -> None:
    stream = made(Owner())
    await stream.send(START)
    tracemalloc.start()
    for _ in range(h2stream.HIGH_WATER):
        await stream.send(body(b"x"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 3 * h2stream.HIGH_WATER
    assert stream.take(10**6) == b"x" * h2stream.HIGH_WATER


@given(st.lists(st.binary(max_size=6000), max_size=20), st.lists(st.integers(1, 9000), min_size=1))
async def test_what_is_sent_comes_out_whole_however_it_is_taken(
    messages: list[bytes], limits: list[int]
) -> None:
    stream = made(Owner())
    for message in messages:
        stream._push(message)
    taken = b""
    for limit in limits:
        part = stream.take(limit)
        assert len(part) == min(limit, len(b"".join(messages)) - len(taken))
        taken += part
    taken += stream.take(10**6)
    assert taken == b"".join(messages)
    assert stream.pending == 0

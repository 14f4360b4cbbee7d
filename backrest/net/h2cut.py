"""Cuts what a server sends into single frames for h2, and refuses by their headers what h2 would collect.

One frame at a time, because when a frame is bad h2 raises and forgets the events of those given along with
it: a stream's last words would be lost to the nonsense behind them. h2 looks at a frame's length only when
it holds the whole frame (up to 16 MiB), at a header block when it holds all its frames, and it keeps some 700
bytes for each of 65,536 possible settings.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_FRAME = 64 << 10  # what we announce; the cost of HTTP/2 in Python is per frame
MAX_HEADER_BLOCK = 64 << 10  # compressed; a hub's has 300 bytes, a proxy's perhaps 2,000
MAX_SETTINGS = 500  # over the connection's life; servers send about six, once

SETTINGS, CONTINUATION, ACK = 0x4, 0x9, 0x1


class BadFrameError(Exception):
    """A frame header that no well-meant server sends."""


class FrameCutter:
    """``cut`` takes the bytes as they come, in any pieces."""

    def __init__(self) -> None:
        self._head = b""  # the part of a frame's nine header bytes that is here
        self._left = 0  # bytes that the current frame's payload still lacks
        self._block = 0
        self._settings = 0

    def cut(self, data: bytes) -> Iterator[memoryview]:
        """``data`` in pieces, none of which holds bytes of two frames. Raises BadFrameError."""
        view = memoryview(data)
        position = 0
        while position < len(data):
            start = position
            if not self._left:
                piece = data[position : position + 9 - len(self._head)]
                position += len(piece)
                self._head += piece
                if len(self._head) == 9:
                    self._admit(self._head)
                    self._head = b""
            step = min(self._left, len(data) - position)
            self._left -= step
            position += step
            yield view[start:position]

    def _admit(self, head: bytes) -> None:
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        if length > MAX_FRAME:
            raise BadFrameError(f"a frame of {length} bytes")
        self._block = length + (self._block if kind == CONTINUATION else 0)
        if self._block > MAX_HEADER_BLOCK:
            raise BadFrameError("a header block that is too long")
        if kind == SETTINGS and not flags & ACK:
            self._settings += 1 + length // 6
            if self._settings > MAX_SETTINGS:
                raise BadFrameError("too many settings")
        self._left = length

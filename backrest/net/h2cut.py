"""What the client grants a server: the settings it announces, and a look at each frame before h2 gets it.

h2 gets one frame at a time: when a frame is bad it raises, and forgets the events of those given along with
it, so a stream's last words would be lost to the nonsense behind them. And frames are refused by their
headers: h2 looks at a frame's length only when it holds the whole frame (up to 16 MiB), at a header block
when it holds all its frames, and it keeps some 700 bytes for each of 65,536 possible settings.
"""

from __future__ import annotations

from collections.abc import Iterator

import h2.config
import h2.connection
import h2.settings

# What may come before we read: the bound of our memory, and of what a round trip can bring.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 2 << 20  # more than all streams (one) together: it must never be the one that stalls
MAX_FRAME = 64 << 10  # also announced; the cost of HTTP/2 in Python is per frame
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


def new_h2() -> h2.connection.H2Connection:
    """A client's connection, its preface and settings queued."""
    # Header values stay bytes and become Latin-1 text later: an odd one must not raise inside h2.
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    codes = h2.settings.SettingCodes
    connection.local_settings = h2.settings.Settings(
        client=True,
        initial_values={
            codes.ENABLE_PUSH: 0,
            codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            codes.MAX_FRAME_SIZE: MAX_FRAME,
            codes.MAX_HEADER_LIST_SIZE: 64 << 10,
        },
    )
    connection.max_inbound_frame_size = MAX_FRAME
    connection.initiate_connection()
    connection.increment_flow_control_window(CONNECTION_WINDOW - 65535)
    return connection

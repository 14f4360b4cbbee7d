"""What one HTTP/2 connection may ask of us: every limit on the frames of a peer, before h2 parses them.

h2 is written in Python, so a frame costs 10 to 20 microseconds however small it is, and h2 keeps what it is
sent until a frame or a header block is complete. A peer can therefore make us work or remember without
asking for anything. The guard reads only the 9 bytes of each frame header, and

- cuts what arrived into slices of a few frames, between which the reader lets other tasks run;
- refuses at once what h2 would first collect: long frames, long header blocks, many settings;
- counts what brings no work (a token bucket), and ends the connection of a peer that overdoes it.

No sockets and no clock in here: ``now`` is the caller's, in seconds.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from h2.errors import ErrorCodes

PREFACE_LENGTH = 24
HEADER_LENGTH = 9

# What h2 parses before other tasks get their turn: 32 frames are about half a millisecond.
SLICE_FRAMES = 32

# RFC 9113 leaves 16 KiB as the smallest; four times that saves three quarters of the cost per frame of large
# messages, and what half a frame can make us hold stays small.
MAX_FRAME = 64 * 1024

# A compressed header block. Ours are 300 bytes, Caddy's with all it adds 600. (CONTINUATION flood,
# CVE-2024-27316: without it h2 would collect 64 frames of any size.)
MAX_HEADER_BLOCK = 32 * 1024

# h2 keeps a queue of some 700 bytes for every setting it was ever sent, known or not, and there are 65,536
# ids. Peers send their six settings once.
MAX_SETTINGS = 500
SETTING_COST = 700

# Frames that bring nothing (SETTINGS, PING, empty DATA, PRIORITY, WINDOW_UPDATE, resets, unknown ones).
# Behind one proxy connection a thousand clients may come back at once (a HEADERS and some WINDOW_UPDATE
# each), so the burst is generous; the refill costs an attacker's target 2 % of a core.
BURST = 10_000
REFILL_PER_SECOND = 1_000.0

# A reader that takes what we send acknowledges it with WINDOW_UPDATE, Go's for each 4 KiB for the stream and
# for the connection: twice that is earned by what was sent.
BYTES_SENT_PER_TOKEN = 1024

# Streams opened and reset at once (rapid reset, CVE-2023-44487). The burst lets two thousand clients behind
# one proxy go away together.
RESET_BURST = 2_000
RESETS_PER_SECOND = 50.0

DATA, HEADERS, SETTINGS, CONTINUATION = 0x0, 0x1, 0x4, 0x9
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8


class FloodError(Exception):
    """The peer goes beyond a limit: end the connection with ``code``."""

    def __init__(self, code: ErrorCodes, message: str) -> None:
        super().__init__(message)
        self.code = code


class Bucket:
    """A token bucket: holds ``burst``, regains ``rate`` a second."""

    __slots__ = ("_at", "burst", "level", "rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self.burst = burst
        self.rate = rate
        self.level = burst
        self._at = now

    def refill(self, now: float) -> None:
        self.level = min(self.burst, self.level + (now - self._at) * self.rate)
        self._at = now

    def earn(self, tokens: float) -> None:
        self.level = min(self.burst, self.level + tokens)


class FrameGuard:
    """Watches the bytes of one connection. ``open_streams`` holds the ids whose DATA somebody reads."""

    __slots__ = ("_block", "_head", "_length", "_open", "_resets", "_settings", "_skip", "_tokens")

    def __init__(self, open_streams: Container[int], now: float) -> None:
        self._open = open_streams
        self._skip = PREFACE_LENGTH  # bytes still to pass: the preface, then each frame's payload
        self._length = PREFACE_LENGTH  # of what ``_skip`` belongs to
        self._head = b""  # the beginning of a frame header that came in two pieces
        self._block = 0  # bytes of the header block that is being received
        self._settings = 0
        self._tokens = Bucket(BURST, REFILL_PER_SECOND, now)
        self._resets = Bucket(RESET_BURST, RESETS_PER_SECOND, now)

    def split(self, data: bytes, now: float) -> Iterator[bytes]:
        """``data`` in slices of at most SLICE_FRAMES frame headers. Raises FloodError."""
        self._tokens.refill(now)
        self._resets.refill(now)
        start = position = frames = 0
        end = len(data)
        while position < end:
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            if frames == SLICE_FRAMES:
                yield data[start:position]
                start, frames = position, 0
            piece = data[position : position + HEADER_LENGTH - len(self._head)]
            position += len(piece)
            head = self._head + piece
            if len(head) < HEADER_LENGTH:
                self._head = head
                break
            self._head = b""
            frames += 1
            self._skip = self._length = int.from_bytes(head[:3], "big")
            self._admit(self._skip, head[3], head[4], int.from_bytes(head[5:9], "big"))
        if start < end:
            yield data[start:end]

    @property
    def held(self) -> int:
        """Bytes that h2 keeps of the peer, about: an incomplete frame or header block, and what it was ever set."""
        part = self._length - self._skip if self._skip else 0
        return part + self._block + self._settings * SETTING_COST

    def sent(self, octets: int) -> None:
        """So many bytes of DATA went out: the peer earns the frames that acknowledge them."""
        self._tokens.earn(1 + octets / BYTES_SENT_PER_TOKEN)

    def reset(self) -> None:
        """A stream was reset, by the peer or by us: it can provoke our resets too (MadeYouReset)."""
        self._resets.level -= 1
        if self._resets.level < 0:
            raise FloodError(ErrorCodes.ENHANCE_YOUR_CALM, "too many streams were opened and reset")

    def _admit(self, length: int, kind: int, flags: int, stream_id: int) -> None:
        if length > MAX_FRAME:
            raise FloodError(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == DATA:
            # A padded frame may hold nothing but padding; nobody pads.
            if stream_id in self._open and not flags & PADDED and (length or flags & END_STREAM):
                return
        elif kind in (HEADERS, CONTINUATION):
            self._block = length + (self._block if kind == CONTINUATION else 0)
            if self._block > MAX_HEADER_BLOCK:
                raise FloodError(ErrorCodes.ENHANCE_YOUR_CALM, "a header block that is too long")
            if flags & END_HEADERS:
                self._block = 0
        elif kind == SETTINGS and not flags & ACK:
            self._settings += 1 + length // 6
            if self._settings > MAX_SETTINGS:
                raise FloodError(ErrorCodes.ENHANCE_YOUR_CALM, "too many settings")
        self._tokens.level -= 1
        if self._tokens.level < 0:
            raise FloodError(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

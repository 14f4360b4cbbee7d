"""Connect envelopes: five bytes of prefix, then the payload; nothing about what the payload means.

A length is judged when its prefix has come, before one byte of the payload is kept, and again while
decompressing, so no peer can make us hold more than ``limit``, or work for long by sending little. Every fault
is a PeerError(FRAMING), the same one however the bytes were cut into pieces. Facts: PROTOCOL.md, section 1.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

from backrest.errors import Code, Fault, PeerError

FLAG_COMPRESSED: Final = 1
FLAG_END: Final = 2

Encoding = Literal["identity", "gzip"]

_PREFIX: Final = struct.Struct(">BI")
PREFIX_BYTES: Final = _PREFIX.size
_GZIP: Final = 16 + zlib.MAX_WBITS  # zlib's way to say: a gzip header and trailer, nothing else
# What peers send is ciphertext, which gzip makes no smaller; in JSON it is base64, of which gzip takes off a quarter.
# Without this bound a known client's 64 KiB keep the event loop busy for 0.3 s, with 64 MiB, again and again. The
# first bytes are free: a handshake has names in it, and 64 KiB are unpacked in no time.
_MOST_GROWTH: Final = 4
_GROWTH_FREE: Final = 64 * 1024
_MOST_MEMBERS: Final = 16  # of one gzip message: writers make one; taking each off copies the rest
# A code, a sentence, and what a hub may put beside them. Brackets of JSON become twenty times their size.
_MOST_END_BYTES: Final = 64 * 1024
_MESSAGE_SHOWN: Final = 500  # characters of the other side's words that we keep: they go to logs and tables


@dataclass(frozen=True, slots=True)
class Envelope:
    """One envelope, decompressed. ``flags`` are as they came."""

    flags: int
    payload: bytes

    @property
    def is_end(self) -> bool:
        return bool(self.flags & FLAG_END)


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """What an end-of-stream message says: ``code`` None is a clean end."""

    code: Code | None
    message: str = ""


def encode(flags: int, payload: bytes) -> bytes:
    """One envelope as bytes."""
    return _PREFIX.pack(flags, len(payload)) + payload


def end_of_stream(code: Code | None, message: str = "") -> bytes:
    """The whole end-of-stream envelope: the last bytes that a server sends."""
    body = {} if code is None else {"error": {"code": str(code), "message": message}}
    return encode(FLAG_END, json.dumps(body, separators=(",", ":")).encode())


def parse_end(payload: bytes) -> EndOfStream:
    """Read an end-of-stream payload.

    A code that Connect does not know is UNKNOWN (as Connect's rules say). The message is the other side's
    text and may be shown in a terminal: it becomes one line, control characters are replaced, and it is cut.
    """
    if len(payload) > _MOST_END_BYTES:
        raise _fault(f"its end-of-stream message has more than {_MOST_END_BYTES >> 10} KiB")
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested a thousand deep
        raise _fault("its end-of-stream message is not JSON") from error
    if not isinstance(body, dict):
        raise _fault("its end-of-stream message is not a JSON object")
    error_part = body.get("error")
    if error_part is None:
        return EndOfStream(None)
    if not isinstance(error_part, dict):
        raise _fault("the error in its end-of-stream message is not a JSON object")
    name, text = error_part.get("code"), error_part.get("message")
    code = Code(name) if isinstance(name, str) and name in set(Code) else Code.UNKNOWN
    return EndOfStream(code, _one_line(text) if isinstance(text, str) else "")


def _one_line(text: str) -> str:
    """The first line that says something, white space as single spaces; what is left out is marked."""
    lines = [line for line in (" ".join(line.split()) for line in text.splitlines()) if line]
    shown = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in "".join(lines[:1])
    )
    rest = len(lines) - 1
    more = f" [{rest} more line{'s' if rest > 1 else ''}]" if rest > 0 else ""
    room = _MESSAGE_SHOWN - len(more)
    return (shown if len(shown) <= room else shown[: room - 1] + "…") + more


class Decoder:
    """Bytes in, envelopes out. ``limit`` (bytes of a payload, packed or not) may be set between envelopes.

    ``ends`` says whether the other side may send an end-of-stream message: a server may, a client may not.
    After a PeerError the decoder is of no further use.
    """

    __slots__ = ("_buffer", "_ends", "_gzip", "limit")

    def __init__(self, limit: int, *, encoding: Encoding = "identity", ends: bool = True) -> None:
        self.limit = limit
        self._gzip = encoding == "gzip"
        self._ends = ends
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Keep more input. Copies each byte once; ``next`` looks at it."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """How many bytes are kept and not yet handed out."""
        return len(self._buffer)

    def at_boundary(self) -> bool:
        """Is nothing kept, so that the stream may end here?"""
        return not self._buffer

    def next(self) -> Envelope | None:
        """The next whole envelope, or None when more bytes are needed. Raises PeerError(FRAMING)."""
        if not self._buffer:
            return None
        flags = self._buffer[0]
        self._check_flags(flags)
        if len(self._buffer) < _PREFIX.size:
            return None
        _, length = _PREFIX.unpack_from(self._buffer)
        if length > self.limit:
            raise self._too_large(f"a message of {length} bytes")
        end = _PREFIX.size + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            payload = bytes(view[_PREFIX.size : end])
        # Deleting at the front moves bytearray's start, not its content: many small envelopes in one
        # input are not copied again for each of them. An empty one gives the memory of a large message back.
        del self._buffer[:end]
        if not self._buffer:
            self._buffer = bytearray()
        if flags & FLAG_COMPRESSED and payload:  # an empty payload is never packed, whatever the flag says
            payload = self._unpack(payload)
        return Envelope(flags, payload)

    def _check_flags(self, flags: int) -> None:
        if flags & ~(FLAG_COMPRESSED | FLAG_END):
            raise _fault(f"its envelope has unknown flags ({flags:#04x})")
        if flags & FLAG_END and not self._ends:
            raise _fault("a client may not send an end-of-stream message")
        if flags & FLAG_COMPRESSED and not self._gzip:
            raise _fault("its message is compressed, but it declared no encoding")

    def _unpack(self, packed: bytes) -> bytes:
        """Decompress, never past the limit: a few KiB of gzip can stand for gigabytes (a bomb)."""
        parts: list[bytes] = []
        growth = max(_GROWTH_FREE, _MOST_GROWTH * len(packed))
        room = min(self.limit, growth) + 1  # one more than allowed: "exactly the limit" and "too much" differ
        try:
            for _ in range(_MOST_MEMBERS):  # a gzip file may be several members in a row
                member = zlib.decompressobj(_GZIP)
                part = member.decompress(packed, room)
                parts.append(part)
                room -= len(part)
                if room <= 0 and growth < self.limit:
                    raise PeerError(
                        Fault.FRAMING,
                        Code.RESOURCE_EXHAUSTED,
                        f"a compressed message grows to more than {_MOST_GROWTH} times its size",
                    )
                if room <= 0:
                    raise self._too_large("a compressed message")
                if not member.eof:
                    raise PeerError(Fault.FRAMING, Code.INVALID_ARGUMENT, "its gzip data breaks off")
                packed = member.unused_data
                if not packed:
                    return b"".join(parts)
        except zlib.error as error:
            raise PeerError(Fault.FRAMING, Code.INVALID_ARGUMENT, "its gzip data is damaged") from error
        # Millions of empty members fit into 64 MiB, and would keep us busy for hours.
        raise PeerError(Fault.FRAMING, Code.INVALID_ARGUMENT, "its gzip data has too many members")

    def _too_large(self, what: str) -> PeerError:
        return PeerError(
            Fault.FRAMING,
            Code.RESOURCE_EXHAUSTED,
            f"{what} is larger than the {self.limit} bytes allowed here",
        )


def _fault(message: str) -> PeerError:
    return PeerError(Fault.FRAMING, Code.INTERNAL, message)

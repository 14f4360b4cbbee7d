"""The Connect envelope, the suite's own: a byte of flags, four of length, the payload.

Separate from the program's framing on purpose: a shared mistake would not show.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

COMPRESSED = 1
END = 2


def envelope(payload: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(payload).to_bytes(4, "big") + payload


def gzip(payload: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(payload) + packer.flush()


class Reader:
    """Collects bytes, gives whole envelopes as (flags, payload)."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> tuple[int, bytes] | None:
        if len(self._data) < 5:
            return None
        size = int.from_bytes(self._data[1:5], "big")
        if len(self._data) < 5 + size:
            return None
        flags, payload = self._data[0], bytes(self._data[5 : 5 + size])
        del self._data[: 5 + size]
        return flags, payload

    @property
    def empty(self) -> bool:
        return not self._data


@dataclass(frozen=True, slots=True)
class End:
    """How the other side ended. ``code`` is None for a clean `{}` and when there was no message at all."""

    how: str
    """"message": a Connect end-of-stream message. "end": END_STREAM without one. "reset", "closed": less polite."""
    code: str | None = None
    text: str = ""

    def __str__(self) -> str:
        if self.how == "message":
            return f"an end-of-stream message with code {self.code or '(none, a clean end)'}: {self.text!r}"
        return {"end": "END_STREAM", "reset": f"RST_STREAM ({self.text})", "closed": "a closed connection"}[
            self.how
        ]


def parse_end(payload: bytes) -> End:
    """Read an end-of-stream message; ValueError if it is none."""
    body = json.loads(payload)
    if not isinstance(body, dict):
        raise ValueError("an end-of-stream message is a JSON object")
    error = body.get("error")
    if error is None:
        return End("message")
    return End("message", str(error["code"]), str(error.get("message", "")))

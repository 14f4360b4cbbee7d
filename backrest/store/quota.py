"""How much of the operation log one client may fill: by default, and at most."""

from __future__ import annotations

from typing import Final, NamedTuple


class Quota(NamedTuple):
    """What is, or may be, held of a client: bytes of the log's lines, and operations."""

    bytes: int
    operations: int


# A machine with ten plans that runs each every hour makes 200,000 operations a year, of some 700 bytes.
DEFAULT: Final = Quota(1 << 30, 2_000_000)
# More operations than this are in no manifest (sync/inbound.py); so many bytes are on no disk.
MOST: Final = Quota(1 << 50, 2_000_000)

"""How far a peer's clock is from ours: schedules and the times of its history are wrong by as much.

A peer of our kind announces its time among the features of its handshake (``clock/SECONDS``, Unix); of another hub the
``date`` of its HTTP response is read, which has come with the handshake. A client of another kind says none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

# Said from here on. The network and a busy machine take half a minute at most, and five minutes are what Kerberos and
# TOTP forgive: less is not worth a warning.
SKEW_S = 300

_PREFIX = "clock/"
_DIGITS = 12  # until the year 33658


def announced(now: float) -> str:
    """Our time, as a feature."""
    return f"{_PREFIX}{int(now)}"


def skew(features: Sequence[str], headers: Mapping[str, str], now: float) -> int:
    """Seconds by which the peer's clock is ahead of ours, or (negative) behind it; 0 when it is near enough, or not
    known."""
    theirs = next((one.removeprefix(_PREFIX) for one in features if one.startswith(_PREFIX)), None)
    if theirs is not None:
        if not theirs.isdecimal() or len(theirs) > _DIGITS:
            return 0
        ahead = int(theirs) - int(now)
    else:
        try:
            ahead = int(parsedate_to_datetime(headers.get("date", "")).timestamp() - now)
        except (ValueError, OverflowError):
            return 0
    return ahead if abs(ahead) > SKEW_S else 0

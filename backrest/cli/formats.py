"""What people type, turned into values: durations, moments, schedules, addresses, retention; and back into
short words.

Pure functions without imports that cost time. Each parser raises ValueError with one sentence that says what
was wrong and what would be right; the caller makes a usage error of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")

# A century: more is a typing error, and would overflow what can be shown as a date.
LONGEST_S = 100 * 365 * 86400

FOREVER = 0


def parse_duration(text: str) -> float:
    """Seconds of "90s", "15m", "1h30m", "7d"; also what Go writes for the same ("1m0s", "1.5h")."""
    rest, total = text.strip(), 0.0
    while rest:
        match = _DURATION.match(rest)
        if match is None:
            raise ValueError(f"{text!r} is not a duration: write for example 90s, 15m, 1h or 7d")
        total += float(match[1]) * _UNITS[match[2]]
        rest = rest[match.end() :]
    if total <= 0:
        raise ValueError(f"{text!r} is not a duration: it must be longer than nothing")
    if total > LONGEST_S:
        raise ValueError(f"{text!r} is longer than a century")
    return total


def parse_ttl(text: str) -> int:
    """Whole seconds of a duration; "forever" is 0, as in the messages."""
    if text.strip().lower() == "forever":
        return FOREVER
    try:
        return max(1, round(parse_duration(text)))
    except ValueError as error:
        raise ValueError(f"{error}; or forever") from None


def parse_tolerance(text: str) -> int:
    """Whole seconds of a duration; "default" is 0."""
    if text.strip().lower() == "default":
        return 0
    try:
        return max(1, round(parse_duration(text)))
    except ValueError as error:
        raise ValueError(f"{error}; or default") from None


def parse_moment(text: str, now: datetime) -> int:
    """Milliseconds since 1970 of a moment: "2h" (ago), "today", "yesterday", a date, a date and a time.

    ``now`` carries the time zone in which dates without one are read.
    """
    word = text.strip()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if word == "today":
        return _ms(midnight)
    if word == "yesterday":
        return _ms(midnight - timedelta(days=1))
    if _DURATION.match(word):
        return _ms(now) - round(parse_duration(word) * 1000)
    try:
        moment = datetime.fromisoformat(word)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=now.tzinfo)
        return _ms(moment)
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is not a moment: write 2h or 7d (ago), today, 2026-11-23 or 2026-11-23T18:30"
        ) from None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def parse_schedule(text: str) -> dict[str, Any]:
    """A Schedule in protobuf's JSON: "none", "every 6h", "every 2d", or five fields of cron.

    "every" counts from the end of the last run: counted from now, each restart would push it back. Whether
    the cron fields can ever match is checked with the rest of the configuration.
    """
    words = text.split()
    if len(words) == 1 and words[0].lower() in ("none", "disabled", "never"):
        return {"disabled": True}
    if words and words[0].lower() == "every":
        match = re.fullmatch(r"([0-9]{1,5}) ?(h|hours?|d|days?)", " ".join(words[1:]))
        if match is None or int(match[1]) < 1:
            raise ValueError(f"{text!r} is not a schedule: write 'every 6h' or 'every 2d'")
        unit = "maxFrequencyHours" if match[2].startswith("h") else "maxFrequencyDays"
        return {unit: int(match[1]), "clock": "CLOCK_LAST_RUN_TIME"}
    if len(words) != 5:
        raise ValueError(f"{text!r} is not a schedule: write 'every 6h', five fields of cron, or none")
    return {"cron": " ".join(words), "clock": "CLOCK_LOCAL"}


def retention(counts: Mapping[str, int | None], *, keep_all: bool) -> dict[str, Any] | None:
    """A RetentionPolicy in protobuf's JSON of the --keep options, or None when none was given."""
    given = {name: count for name, count in counts.items() if count is not None}
    if keep_all:
        if given:
            raise ValueError("--keep-all cannot be combined with another --keep option")
        return {"policyKeepAll": True}
    if not given:
        return None
    if any(count < 1 for count in given.values()):
        raise ValueError("each --keep count must be at least 1")
    if set(given) == {"last"}:
        return {"policyKeepLastN": given["last"]}
    names = {"last": "keepLastN"}
    return {"policyTimeBucketed": {names.get(name, name): count for name, count in given.items()}}


def parse_bind(text: str) -> str:
    """An address to listen at, as "host:port" or "[v6]:port" or ":port" (all interfaces).

    A value without a colon is a port on all interfaces, as in the reference program.
    """
    value = text.strip()
    if ":" not in value:
        value = ":" + value
    host, _, port = value.rpartition(":")
    if not port.isdecimal() or not port.isascii() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: write 127.0.0.1:9898, [::1]:9898 or a port alone")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text!r} is ambiguous: write an IPv6 address in brackets, [::1]:9898")
    return f"{host}:{int(port)}"


def age(seconds: float) -> str:
    """A span in one unit, as people say it: "5s", "12m", "3h", "8d"."""
    if seconds < 0:
        seconds = 0
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "m"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86400)}d"


def span(seconds: int) -> str:
    """A duration as it was typed: the largest unit that divides it."""
    for unit in ("d", "h", "m"):
        size = int(_UNITS[unit])
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def moment(ms: int) -> str:
    """A moment in local time to the second; "-" for none, the bare number for one that no calendar holds."""
    if not ms:
        return "-"
    try:
        return datetime.fromtimestamp(ms / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(ms)


def size(count: int) -> str:
    """Bytes in binary units, three digits."""
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, ["KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f} {units[0]}"


_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes: "500MiB", "5GiB", "1048576"; units are binary, and "5G" is the same as "5GiB"."""
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 500MiB or 5GiB")
    return int(match[1]) * _BYTES[match[2].upper()]


def quota(entry: Mapping[str, Any]) -> str:
    """How much of the history a client may fill, or fills."""
    return f"{size(int(entry['bytes']))} and {plural(int(entry['operations']), 'operation')}"


def plural(count: int, noun: str) -> str:
    """ "1 plan", "2 plans"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

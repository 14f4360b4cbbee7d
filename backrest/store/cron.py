"""Cron expressions: a strict parser, and the next occurrence.

The dialect is the reference's (ENGINE.md 3.8): five fields (minute, hour, day of month, month, day of week),
names for months and days, ``*``, lists, ranges and steps; no macros, no seconds, Sunday is 0. Both day fields
must match (AND, where Vixie cron means OR). Evaluated in local time. Out-of-range values and a step of 0 are
errors here: the reference lets the former never match, and is hung by the latter.

Pure: no clock in here, and no dependency but the calendar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

# The reference's search gives up here, and with it its validation: what it refuses must not be written by us.
SEARCH_DAYS = 5 * 366

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_PART = re.compile(r"(\*|[0-9A-Za-z]+)(?:-([0-9A-Za-z]+))?(?:/([0-9]+))?")


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def value(self, text: str) -> int:
        if self.names and text.upper() in self.names:
            return self.names.index(text.upper()) + self.low
        # Two digits at most: int() of a text of any length is work that a peer could make us do.
        if not (text.isascii() and text.isdecimal() and len(text) <= 2):
            raise ValueError(f'"{text[:20]}" is not a {self.name}')
        number = int(text)
        if self.names is _DAYS and number == 7:
            raise ValueError("7 is not a day of the week: Sunday is 0")
        if not self.low <= number <= self.high:
            raise ValueError(f"{number} is not a {self.name}: it goes from {self.low} to {self.high}")
        return number

    def parse(self, text: str) -> frozenset[int]:
        out: set[int] = set()
        for part in text.split(","):
            match = _PART.fullmatch(part)
            if match is None or (match[1] == "*" and match[2]):
                raise ValueError(f'"{part[:20]}" is not a {self.name}')
            start, end = self.low, self.high
            if match[1] != "*":
                start = self.value(match[1])
                if match[2]:
                    end = self.value(match[2])
                elif not match[3]:
                    end = start
            if start > end:
                raise ValueError(f"the range {part[:20]} goes backwards")
            step = int(match[3][:4]) if match[3] else 1
            if step == 0:
                raise ValueError(f"the step in {part[:20]} must be at least 1")
            out.update(range(start, end + 1, step))
        return frozenset(out)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _DAYS),
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression: the values that each field allows."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Cron:
        """ValueError says what is wrong. It need not ever occur: see ``next_after``."""
        parts = text.split()
        if len(parts) != 5:
            raise ValueError(
                f"it has {len(parts)} fields, not five: minute, hour, day of month, month, day of week"
            )
        minutes, hours, days, months, weekdays = (
            field.parse(part) for field, part in zip(_FIELDS, parts, strict=True)
        )
        return cls(tuple(sorted(minutes)), tuple(sorted(hours)), days, months, weekdays)

    def next_after(self, base: float, tz: tzinfo | None = None) -> float | None:
        """The first occurrence after ``base``, both in seconds since 1970; None: none within five years.

        Local time is the machine's, or ``tz``. A time that the clocks skip in spring occurs that much later
        (no backup is left out); one that they show twice in autumn occurs twice, if more than one hour is
        allowed, else once (a nightly backup runs once, an hourly one every hour). OverflowError, ValueError
        or OSError for a base that is no date.
        """
        start = datetime.fromtimestamp(base, tz)
        first_day = start.date()
        for number in range(-1, SEARCH_DAYS):  # from the day before: clocks may be turned back over midnight
            day = first_day + timedelta(days=number)
            if not self._on(day):
                continue
            for hour in self.hours:
                later = [when for when in self._instants(day, hour, tz) if when > base]
                if later:
                    return min(later)
        return None

    def _on(self, day: date) -> bool:
        return day.month in self.months and day.day in self.days and (day.isoweekday() % 7) in self.weekdays

    def _instants(self, day: date, hour: int, tz: tzinfo | None) -> Iterator[float]:
        both = len(self.hours) > 1
        for minute in self.minutes:
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=tz)
            yield local.timestamp()
            if both:
                # The second showing; for a time that the clocks skip, the first one is the later instant.
                yield max(local.timestamp(), local.replace(fold=1).timestamp())

"""Cron expressions: what is accepted, and when they occur."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.store.cron import Cron

UTC1 = timezone(timedelta(hours=1))


class SummerTime(tzinfo):
    """UTC+1, and UTC+2 from 2026-03-29 01:00 to 2026-10-25 01:00 UTC, as in Berlin; no tz database needed."""

    START = datetime(2026, 3, 29, 2)
    END = datetime(2026, 10, 25, 3)

    def utcoffset(self, dt: datetime | None) -> timedelta:
        assert dt is not None
        local = dt.replace(tzinfo=None)
        if self.START <= local < self.START + timedelta(hours=1):  # skipped by the clocks
            summer = bool(dt.fold)
        elif self.END - timedelta(hours=1) <= local < self.END:  # shown twice
            summer = not dt.fold
        else:
            summer = self.START <= local < self.END
        return timedelta(hours=2 if summer else 1)

    def fromutc(self, dt: datetime) -> datetime:
        utc = dt.replace(tzinfo=None)
        summer = self.START - timedelta(hours=1) <= utc < self.END - timedelta(hours=2)
        again = self.END - timedelta(hours=2) <= utc < self.END - timedelta(hours=1)
        return (dt + timedelta(hours=2 if summer else 1)).replace(fold=int(again))

    def dst(self, dt: datetime | None) -> timedelta:
        return self.utcoffset(dt) - timedelta(hours=1)

    def tzname(self, dt: datetime | None) -> str:
        return "T"


def following(text: str, base: str, tz: tzinfo = UTC1, count: int = 1) -> list[str]:
    """The next occurrences after the local time ``base``, with their offsets from UTC."""
    now = datetime.fromisoformat(base).replace(tzinfo=tz).timestamp()
    out = []
    for _ in range(count):
        found = Cron.parse(text).next_after(now, tz)
        assert found is not None
        assert found > now
        now = found
        out.append(datetime.fromtimestamp(found, tz).isoformat(timespec="minutes"))
    return out


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        ("0 4 1 * *", "2026-01-01T04:00", "2026-02-01T04:00+01:00"),
        ("0 4 1 * *", "2026-01-01T03:59:59.9", "2026-01-01T04:00+01:00"),
        ("*/15 * * * *", "2026-01-01T04:01", "2026-01-01T04:15+01:00"),
        ("5/20 * * * *", "2026-01-01T04:26", "2026-01-01T04:45+01:00"),
        ("10-20/5 * * * *", "2026-01-01T04:16", "2026-01-01T04:20+01:00"),
        ("0 0 * JAN,mar *", "2026-01-31T00:00", "2026-03-01T00:00+01:00"),
        ("0 0 * * MON-FRI", "2026-01-02T00:00", "2026-01-05T00:00+01:00"),
        ("0 0 * * 0", "2026-01-01T00:00", "2026-01-04T00:00+01:00"),
        ("0 0 13 * FRI", "2026-01-01T00:00", "2026-02-13T00:00+01:00"),  # both: the reference's AND
        ("0 0 29 2 *", "2026-01-01T00:00", "2028-02-29T00:00+01:00"),
        ("  59  23\t31 12 * ", "2026-01-01T00:00", "2026-12-31T23:59+01:00"),
    ],
)
def test_next_occurrence(text: str, base: str, expected: str) -> None:
    assert following(text, base) == [expected]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("60 * * * *", "60 is not a minute"),
        ("* 24 * * *", "24 is not a hour"),
        ("* * 0 * *", "0 is not a day of the month"),
        ("* * 32 * *", "32 is not a day"),
        ("* * * 13 *", "13 is not a month"),
        ("* * * 0 *", "0 is not a month"),
        ("* * * * 7", "Sunday is 0"),
        ("* * * * 1-7", "Sunday is 0"),
        ("* * * * 8", "8 is not a day of the week"),
        ("* * * * 007", "not a day of the week"),
        ("*/0 * * * *", "at least 1"),
        ("5/0 * * * *", "at least 1"),
        ("30-10 * * * *", "backwards"),
        ("*-5 * * * *", "not a minute"),
        (", * * * *", "not a minute"),
        ("1,,2 * * * *", "not a minute"),
        ("-1 * * * *", "not a minute"),
        ("JAN * * * *", "not a minute"),
        ("* * * MON *", "not a month"),
        ("٣ * * * *", "not a minute"),
        ("* * * * ?", "not a day of the week"),
        ("bad cron x y z", "not a minute"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Cron.parse(text)


@pytest.mark.parametrize("text", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_what_never_occurs_is_none(text: str) -> None:
    assert Cron.parse(text).next_after(0.0, UTC1) is None


def test_time_that_the_clocks_skip_is_made_up_for() -> None:
    assert following("30 2 * * *", "2026-03-28T12:00", SummerTime(), 2) == [
        "2026-03-29T03:30+02:00",
        "2026-03-30T02:30+02:00",
    ]


def test_nightly_task_runs_once_when_the_clocks_go_back() -> None:
    assert following("30 2 * * *", "2026-10-24T12:00", SummerTime(), 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]


class TurnedBackOverMidnight(SummerTime):
    """At half past twelve it is half past eleven of the day before again (St. John's did nearly so)."""

    END = datetime(2026, 10, 25, 0, 30)


def test_clocks_that_go_back_to_the_day_before_hide_nothing() -> None:
    assert following("0,45 * * * *", "2026-10-25T00:10", TurnedBackOverMidnight(), 3) == [
        "2026-10-24T23:45+01:00",
        "2026-10-25T00:00+01:00",
        "2026-10-25T00:45+01:00",
    ]


def test_hourly_task_runs_each_hour_when_the_clocks_change() -> None:
    autumn = following("0 * * * *", "2026-10-25T01:30", SummerTime(), 3)
    assert autumn == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"]
    spring = following("0 * * * *", "2026-03-29T00:30", SummerTime(), 3)
    assert spring == ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"]


@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    try:
        cron = Cron.parse(text)
    except ValueError:
        return
    cron.next_after(1.8e9, UTC1)


FIELDS = [(0, 59), (0, 23), (1, 28), (1, 12), (0, 6)]


@given(
    st.tuples(*(st.sets(st.integers(low, high), min_size=1, max_size=4) for low, high in FIELDS)),
    st.integers(1_600_000_000, 2_000_000_000),
)
def test_occurrence_matches_every_field_and_none_is_left_out(fields: tuple[set[int], ...], base: int) -> None:
    text = " ".join(",".join(map(str, sorted(values))) for values in fields)
    found = Cron.parse(text).next_after(base, UTC1)
    if found is None:  # a day of the month that falls on that day of the week too seldom
        return
    when = datetime.fromtimestamp(found, UTC1)
    minute, hour, day, month, weekday = fields
    assert found > base
    assert (when.minute in minute, when.hour in hour, when.second) == (True, True, 0)
    assert (when.day in day, when.month in month, when.isoweekday() % 7 in weekday) == (True, True, True)
    assert Cron.parse(text).next_after(found - 1, UTC1) == found
    assert Cron.parse(text).next_after((base + found) / 2, UTC1) == found

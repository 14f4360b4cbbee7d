"""What people type, read; both sides of each limit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.cli import formats

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800), ("2w", 1209600),
        ("1h30m", 5400), ("1m0s", 60), ("1.5h", 5400), ("500ms", 0.5), (" 5s ", 5),
    ],
)  # fmt: skip
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert formats.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5x", "s", "-5s", "0s", "1h 30m", "forever", "1e3s", "\uff19s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        formats.parse_duration(text)


def test_a_duration_ends_at_a_century() -> None:
    assert formats.parse_duration("36500d") == formats.LONGEST_S
    with pytest.raises(ValueError, match="century"):
        formats.parse_duration("36501d")
    with pytest.raises(ValueError, match="century"):
        formats.parse_duration("9" * 400 + "d")


def test_forever_is_zero_for_a_token_and_nothing_else_is() -> None:
    assert formats.parse_ttl("forever") == 0
    assert formats.parse_ttl("500ms") == 1
    with pytest.raises(ValueError, match="forever"):
        formats.parse_ttl("0")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", "2026-11-23T10:30:00+00:00"),
        ("today", "2026-11-23T00:00:00+00:00"),
        ("yesterday", "2026-11-22T00:00:00+00:00"),
        ("2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("2026-11-01T18:30", "2026-11-01T18:30:00+00:00"),
        ("2026-11-01 18:30+02:00", "2026-11-01T16:30:00+00:00"),
    ],
)
def test_a_moment_is_read(text: str, moment: str) -> None:
    assert formats.parse_moment(text, NOW) == datetime.fromisoformat(moment).timestamp() * 1000


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "12:30", "99999-01-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a moment"):
        formats.parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("none", {"disabled": True}),
        ("every 6h", {"maxFrequencyHours": 6, "clock": "CLOCK_LAST_RUN_TIME"}),
        ("every 2 days", {"maxFrequencyDays": 2, "clock": "CLOCK_LAST_RUN_TIME"}),
        ("0  4 * * MON", {"cron": "0 4 * * MON", "clock": "CLOCK_LOCAL"}),
    ],
)
def test_a_schedule_is_read(text: str, schedule: dict[str, object]) -> None:
    assert formats.parse_schedule(text) == schedule


@pytest.mark.parametrize("text", ["", "every", "every 0h", "every 5m", "@daily", "* * * *", "every 999999h"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a schedule"):
        formats.parse_schedule(text)


def test_retention_takes_the_form_that_its_counts_need() -> None:
    assert formats.retention({"last": None}, keep_all=False) is None
    assert formats.retention({"last": 3, "daily": None}, keep_all=False) == {"policyKeepLastN": 3}
    assert formats.retention({"last": 3, "daily": 7}, keep_all=False) == {
        "policyTimeBucketed": {"keepLastN": 3, "daily": 7}
    }
    assert formats.retention({}, keep_all=True) == {"policyKeepAll": True}
    with pytest.raises(ValueError, match="at least 1"):
        formats.retention({"last": 0}, keep_all=False)
    with pytest.raises(ValueError, match="combined"):
        formats.retention({"last": 1}, keep_all=True)


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("9898", ":9898"),
        (":9898", ":9898"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:0", "[::1]:0"),
        ("h:65535", "h:65535"),
    ],
)
def test_an_address_without_a_colon_is_a_port_on_all_interfaces(text: str, bind: str) -> None:
    assert formats.parse_bind(text) == bind


@pytest.mark.parametrize("text", ["", "h:", "h:65536", "::1:80", "h:-1", "h:\uff18\uff10", "localhost"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        formats.parse_bind(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (48 * 3600, "2d"), (1e9, "11574d")],
)
def test_an_age_is_said_in_one_unit(seconds: float, text: str) -> None:
    assert formats.age(seconds) == text


@given(st.integers(min_value=0, max_value=2**62))
def test_every_size_has_a_short_name(count: int) -> None:
    assert len(formats.size(count)) <= 11


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_every_number_that_a_peer_may_send_as_a_time_can_be_shown(ms: int) -> None:
    assert formats.moment(ms)

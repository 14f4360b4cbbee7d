"""Nothing that a peer wrote reaches the terminal as anything but text."""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.cli import logs, output, states
from backrest.cli.ops import kind, row

HOSTILE = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;title\x07",  # sets the window's title
    "\x9b31m",  # CSI as one character of C1
    "a\rb",  # overwrites the line
    "a\nb",  # forges a line
    "\u202egnp.exe",  # turns the text around
    "\x7f\x08\x08\x08",
    "\u2028",
    "[red]markup[/red]",  # rich's own language
    ":skull:",
]


def shown(text: str) -> bool:
    return all(unicodedata.category(char) not in output._HARMFUL for char in text)


@given(st.text())
def test_a_harmless_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    assert shown(output.harmless(text))


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_what_is_only_letters_is_left_as_it_is(text: str) -> None:
    assert output.harmless(text) == text


def test_a_long_cell_is_cut() -> None:
    assert output.harmless("x" * 200, limit=200) == "x" * 200
    assert output.harmless("x" * 201, limit=200) == "x" * 199 + "…"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_shows_hostile_text_as_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [(text, "end")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2, "no cell makes a second line"
    assert shown(lines[1])
    assert output.harmless(text).strip() in lines[1], "markup and emoji names are text, too"


@pytest.mark.parametrize("text", HOSTILE)
def test_json_shows_hostile_text_as_escapes_and_means_the_same(text: str) -> None:
    document = output.json_text({"message": text})
    assert all(shown(line) for line in document.splitlines())
    assert json.loads(document) == {"message": text}


@given(st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(0, 5)))
def test_json_text_means_what_was_given(value: dict[str, int]) -> None:
    assert json.loads(output.json_text(value)) == value


def test_without_a_terminal_nothing_is_wrapped_or_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("STATE",), [("connected",), ("x" * 150,)])
    assert capsys.readouterr().out == "STATE\nconnected\n" + "x" * 150 + "\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_an_operation_of_a_hostile_peer_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    operation = {"id": "1", "instanceId": text, "planId": text, "repoId": text, "displayMessage": text}
    output.print_table(tuple("ABCDEFGHI"), [row(operation)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(shown(line) for line in lines)


def test_each_kind_of_operation_has_its_words() -> None:
    assert kind({"operationBackup": {}}) == "backup"
    assert kind({"operationIndexSnapshot": {}}) == "index snapshot"
    assert kind({}) == "?"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_a_log_record_is_one_line_whatever_it_says(formatter: logging.Formatter, text: str) -> None:
    record = logging.makeLogRecord(
        {"name": "backrest", "levelname": "INFO", "msg": "peer says %s", "args": (text,)}
    )
    line = formatter.format(record)
    assert "\n" not in line
    assert shown(line)


def test_a_json_log_holds_what_extra_gave(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logger = logging.Logger("backrest.test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger.addHandler(handler)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed", extra={"peer": "laptop"})
    entry = json.loads(stream.getvalue())
    assert entry["message"] == "failed"
    assert entry["peer"] == "laptop"
    assert entry["level"] == "error"
    assert "ValueError: why" in entry["exception"]


# --- status --check

NOW_MS = 1_800_000_000_000


def a_status(*peers: dict[str, Any], running: bool = True) -> dict[str, Any]:
    return {"instance": {"keyId": "k"}, "daemon": {"running": running}, "peers": list(peers)}


def a_peer(state: str, heard_ms: int = NOW_MS, **more: Any) -> dict[str, Any]:
    return {
        "peerInstanceId": "p",
        "state": f"CONNECTION_STATE_{state}",
        "lastHeartbeatMillis": str(heard_ms),
        "toleranceSeconds": 7,
    } | more


def a_plan(state: str, **more: Any) -> dict[str, Any]:
    return {"plans": [{"planId": "photos", "peerInstanceId": "laptop", "state": state} | more]}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (a_status(), states.OK),
        (a_status(running=False), states.OK),
        (a_status(a_peer("CONNECTED")), states.OK),
        (a_status(a_peer("CONNECTED", warnings=["skipped"])), states.WARNING),
        (a_status(a_peer("CONNECTED"), a_peer("RETRY_WAIT")), states.WARNING),
        (a_status() | {"waitingRepos": [{"id": "nas", "fields": ["flags"]}]}, states.WARNING),
        (a_status(a_peer("DISCONNECTED", NOW_MS - 7000, role="client")), states.OK),  # a laptop that sleeps
        (a_status(a_peer("DISCONNECTED", NOW_MS - 7001, role="client")), states.CRITICAL),
        (a_status(a_peer("DISCONNECTED", 0, role="client")), states.WARNING),
        (a_status(a_peer("RETRY_WAIT", NOW_MS - 7000, role="host")), states.WARNING),
        (a_status(a_peer("RETRY_WAIT", NOW_MS - 7001, role="host")), states.CRITICAL),
        (a_status() | a_plan("OK"), states.OK),
        (a_status() | a_plan("NONE"), states.OK),
        (a_status() | a_plan("NEVER"), states.WARNING),
        (a_status() | a_plan("DOUBTED"), states.WARNING),
        (a_status() | a_plan("FORGET_FAILED"), states.WARNING),
        (a_status() | a_plan("FAILED", failedMillis="1"), states.CRITICAL),
        (a_status() | a_plan("FAILED", failedMillis="1", lastSuccessMillis="1"), states.CRITICAL),
        (
            a_status() | a_plan("FAILED", failedMillis="1", lastSuccessMillis="1", dueMillis="2"),
            states.WARNING,
        ),
        (a_status() | a_plan("LATE", failedMillis="1", dueMillis="2", usualGapSeconds=60), states.CRITICAL),
        (a_status(a_peer("CONNECTED"), running=False) | a_plan("LATE", dueMillis="2"), states.CRITICAL),
        (a_status(a_peer("ERROR_AUTH"), a_peer("CONNECTED")), states.CRITICAL),
        (a_status(a_peer("CONNECTED"), running=False), states.CRITICAL),
        ({"instance": {"keyId": ""}, "daemon": {"running": True}, "peers": []}, states.UNKNOWN),
    ],
)
def test_the_verdict_for_nagios(status: dict[str, Any], code: int) -> None:
    found, line = states.verdict(status, NOW_MS)
    assert found == code
    assert line.startswith(states.VERDICTS[code] + ":")
    if code and "plans" in status:
        assert "laptop: plan photos: " in line


# --- the bounds of the log


class Flood:
    """A log in simulated time; the places that log are numbers."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.handler = logs.Bounded(self.out)
        self.handler.setFormatter(logs.TextFormatter())
        self.now = 1_800_000_000.0

    def log(self, place: int, text: str = "x") -> None:
        record = logging.LogRecord("backrest.net", logging.INFO, "/net/server.py", place, text, None, None)
        record.created = self.now
        self.handler.handle(record)

    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


def test_place_that_logs_too_much_is_cut_for_a_minute_and_the_others_go_on() -> None:
    flood = Flood()
    for _ in range(logs.MINUTE_LINES + 5):
        flood.log(1)
    assert len(flood.lines()) == logs.MINUTE_LINES
    flood.log(2, "honest")
    assert flood.lines()[-1].endswith("honest")
    flood.now += 59
    flood.log(1)
    flood.now += 1
    flood.log(2, "later")
    *_, told, later = flood.lines()
    assert "6 more lines like those from server.py:1 were left out" in told
    assert later.endswith("later")
    flood.log(1, "again")
    assert flood.lines()[-1].endswith("again")


def test_what_was_left_out_at_the_end_is_told() -> None:
    flood = Flood()
    for _ in range(logs.MINUTE_LINES + 1):
        flood.log(1)
    flood.handler.close()
    assert "1 more lines" in flood.lines()[-1]


def test_long_lines_are_cut_and_their_bytes_are_bounded() -> None:
    flood = Flood()
    for _ in range(1000):
        flood.log(1, "\x01" * (1 << 16))
    assert logs.MINUTE_BYTES / 2 < len(flood.out.getvalue()) <= logs.MINUTE_BYTES + 1000
    assert max(map(len, flood.lines())) < 5 * logs.LONGEST + 100


def test_week_of_a_flood_is_bounded_by_the_days_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places, 200,000 lines in all, at a hundredth of the bounds of a day."""
    monkeypatch.setattr(logs, "DAY_LINES", 200)
    monkeypatch.setattr(logs, "MINUTE_LINES", 10)
    flood = Flood()
    for _hour in range(7 * 24):
        for _ in range(600):
            flood.log(1)
            flood.log(2)
        flood.now += 3600
    lines = flood.lines()
    kept = sum(line.endswith(": x") for line in lines)
    assert kept <= 2 * 200 * 7
    assert len(lines) - kept <= 2 * 7 * 24, "a summary an hour, in which there was something"
    left_out = sum(int(found[1]) for line in lines if (found := re.search(r": (\d+) more lines", line)))
    flood.handler.close()
    assert kept + left_out >= 2 * 600 * 7 * 24 - 2 * 600


def test_clock_that_is_set_back_begins_anew() -> None:
    flood = Flood()
    for _ in range(logs.MINUTE_LINES + 1):
        flood.log(1)
    flood.now -= 1_000_000
    flood.log(1, "back")
    assert flood.lines()[-1].endswith("back")

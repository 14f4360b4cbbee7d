"""The answer to a push, in fields that no schema has: bounded, and never an error whatever stands there."""

from __future__ import annotations

import pytest

from backrest import refusals
from backrest.protocol import outcome
from backrest.protocol.outcome import SENTENCES, VALUES, Outcome, ReceiveConfig
from backrest.refusals import Why, more, refusal, text

LONG_ID = "n" * 100


def message() -> ReceiveConfig:
    made = ReceiveConfig()
    made.config.modno = 7
    made.config.repos.add(id="nas")
    return made


def through(made: ReceiveConfig) -> ReceiveConfig:
    return ReceiveConfig.FromString(made.SerializeToString())


@pytest.mark.parametrize(
    "said",
    [
        Outcome(1),
        Outcome(300, (refusal("plan", LONG_ID, Why.WRITE_NOT_GRANTED),), 2),
        Outcome(
            2, (refusal("repo", "ä\n", Why.IN_USE, plans=["p", "", "q"]), refusal("", "", Why.FULL, limit=7))
        ),
        Outcome(2**40, tuple(text(f"sentence {number} äöü") for number in range(outcome.MOST_REFUSED)), 5),
    ],
)
def test_what_is_said_is_heard(said: Outcome) -> None:
    made = message()
    outcome.attach(made, said, outcome.FEATURES)
    heard = through(made)
    assert outcome.found(heard) == said
    assert heard.config == message().config


def test_without_an_outcome_there_is_none() -> None:
    assert outcome.found(message()) is None


def test_a_peer_of_version_1_gets_sentences_and_only_these() -> None:
    made = message()
    outcome.attach(made, Outcome(1, (refusal("repo", LONG_ID, Why.NO_GUID),)), (SENTENCES,))
    assert b"no-guid" not in made.SerializeToString()
    assert outcome.found(through(made)) == Outcome(1, (text(f"repo '{LONG_ID}': it has no guid"),))


@pytest.mark.parametrize("features", [(SENTENCES,), outcome.FEATURES])
def test_too_much_is_cut_and_counted(features: tuple[str, ...]) -> None:
    made = message()
    fullest = refusal("repo", "i" * 5000, Why.IN_USE, **{name: ["x" * 9] * 500 for name in "abcdef"})
    outcome.attach(made, Outcome(1, (fullest,) * 50), features)
    heard = outcome.found(through(made))
    assert heard is not None
    assert len(heard.refused) == outcome.MOST_REFUSED
    assert heard.refused[-1].reason() == "31 more"
    assert made.ByteSize() < outcome.MOST_BYTES, "what is sent is always looked at"
    if VALUES in features:
        assert heard.refused[-1] == more(31)
        assert heard.refused[0].is_about("repo", "i" * 5000)
        assert len(outcome._value(fullest)) <= outcome.REFUSAL_BYTES


def value(*parts: bytes) -> bytes:
    """Field 1003 of these parts."""
    return outcome._text(1003, b"".join(parts))


KIND, IDENT = b"\x0a\x04repo", b"\x12\x01r"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (value(KIND, IDENT, b"\x1a\x07no-guid"), refusal("repo", "r", Why.NO_GUID)),
        (value(KIND, IDENT, b"\x1a\x03new"), refusal("repo", "r", Why.UNKNOWN, code="new")),
        (value(b"\x0a\x04hook", IDENT, b"\x1a\x04more"), refusal("", "r", Why.MORE)),
        (value(KIND, b"\x12\x09"), refusal("", "", Why.UNKNOWN, code="")),  # cut off
        (value(), refusal("", "", Why.UNKNOWN, code="")),
        (
            value(KIND, IDENT, b"\x1a\x07no-guid", b"\x22\x01\xff"),
            refusal("", "", Why.UNKNOWN, code="no-guid"),
        ),
        (
            value(KIND, IDENT, b"\x1a\x06in-use", b"\x22\x0d\x0a\x04kind\x12\x01x\x12\x02yy"),
            refusal("repo", "r", Why.IN_USE),
        ),
        (
            value(KIND, IDENT, b"\x1a\x06in-use", b"\x22\x07\x0a\x05plans"),
            refusal("repo", "r", Why.IN_USE, plans=()),
        ),
    ],
)
def test_a_value_that_is_not_understood_is_a_refusal_all_the_same(
    raw: bytes, expected: refusals.Refusal
) -> None:
    """Else the push would seem to have been applied."""
    heard = outcome.found(ReceiveConfig.FromString(message().SerializeToString() + b"\xc0\x3e\x03" + raw))
    assert heard == Outcome(3, (expected,))
    assert expected.words().isprintable()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\xc2\x3e\x01x", None),  # 1000 as bytes
        (b"\xc8\x3e\x05", None),  # 1001 as a number
        (b"\xca\x3e\x02no", None),  # a sentence without a number
        (b"\xc0\x3e\x00", None),
        (b"\xc0\x3e\x03\xca\x3e\x01\xff", Outcome(3, (text("\ufffd"),))),
        (b"\xc0\x3e\x03\xc8\x3e\x05\xc2\x3e\x01x\xd2\x3e\x01x", Outcome(3)),
        (b"\xc0\x3e\x03" + b"\xca\x3e\x00" * 25_000, None),  # more than anybody says
        (b"\xc0\x3e\x03" + b"\xca\x3e\x00" * 100, Outcome(3, (text(""),) * outcome.MOST_REFUSED)),
    ],
)
def test_what_is_malformed_counts_as_absent(raw: bytes, expected: Outcome | None) -> None:
    assert outcome.found(ReceiveConfig.FromString(message().SerializeToString() + raw)) == expected

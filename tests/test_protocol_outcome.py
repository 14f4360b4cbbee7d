"""The answer to a push, in fields that no schema has: bounded, and never an error whatever stands there."""

from __future__ import annotations

import pytest

from backrest.protocol import outcome
from backrest.protocol.outcome import Outcome, ReceiveConfig


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
        Outcome(300, ("plan 'a': no",), 2),
        Outcome(2**40, tuple(f"sentence {number} äöü" for number in range(outcome.MOST_SENTENCES)), 5),
    ],
)
def test_what_is_said_is_heard(said: Outcome) -> None:
    made = message()
    outcome.attach(made, said)
    heard = through(made)
    assert outcome.found(heard) == said
    assert heard.config == message().config


def test_without_an_outcome_there_is_none() -> None:
    assert outcome.found(message()) is None


def test_too_much_is_cut_and_counted() -> None:
    made = message()
    outcome.attach(made, Outcome(1, tuple("x" * 5000 for _ in range(50))))
    heard = outcome.found(through(made))
    assert heard is not None
    assert len(heard.refused) == outcome.MOST_SENTENCES
    assert {len(sentence) for sentence in heard.refused[:-1]} == {outcome.SENTENCE_BYTES}
    assert heard.refused[-1] == "31 more"
    assert made.ByteSize() < outcome.MOST_BYTES, "what is sent is always looked at"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\xc2\x3e\x01x", None),  # 1000 as bytes
        (b"\xc8\x3e\x05", None),  # 1001 as a number
        (b"\xca\x3e\x02no", None),  # a sentence without a number
        (b"\xc0\x3e\x00", None),
        (b"\xc0\x3e\x03\xca\x3e\x01\xff", Outcome(3, ("\ufffd",))),
        (b"\xc0\x3e\x03\xc8\x3e\x05\xc2\x3e\x01x\xd2\x3e\x01x", Outcome(3)),
        (b"\xc0\x3e\x03" + b"\xca\x3e\x00" * 15_000, None),  # more than anybody says
        (b"\xc0\x3e\x03" + b"\xca\x3e\x00" * 100, Outcome(3, ("",) * outcome.MOST_SENTENCES)),
    ],
)
def test_what_is_malformed_counts_as_absent(raw: bytes, expected: Outcome | None) -> None:
    assert outcome.found(ReceiveConfig.FromString(message().SerializeToString() + raw)) == expected

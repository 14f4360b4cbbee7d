"""When to send a heartbeat, and when silence means that the other side is gone.

Silence is judged by what the peer has shown (PROTOCOL.md, section 5): a reference peer sends a heartbeat
only every 600 s, so until a second one was seen it gets 25 minutes; then two and a half times the longest
gap between two of its heartbeats, or of our own interval if that is longer. Any byte breaks the silence: a
manifest of 64 MiB over a slow line is one message, and takes longer than a heartbeat's interval.

A reference client often leaves and keeps its stream open (PROTOCOL.md, section 5), and 25 minutes are too long
to show such a client as connected. So a client that announces no features is asked: after what it may leave over,
and after PROBE_S of silence. Only the answer ends the question, because what was on its way before says nothing;
whatever comes meanwhile gives it ANSWER_S more, because the answer stands behind it in line.

No upper bound on the gap that a peer may show: it has proved its key, and an idle session costs next to
nothing and is displaced by the same peer's next one.
"""

from __future__ import annotations

import math
from typing import Final

PATIENCE: Final = 2.5  # two lost heartbeats are bad luck, half an interval more is an end
UNPROVEN_S: Final = 1500.0  # 2.5 times the reference's 600 s
ANSWER_S: Final = 30.0  # a round trip and a busy machine; as long as a client waits for the hub's first item
# With ANSWER_S these are the 150 s after which a client of ours is missed, for one small item each way: half of what
# our heartbeats cost.
PROBE_S: Final = 120.0


class Pulse:
    """Both directions' heartbeats of one established session. Times are seconds of one monotonic clock."""

    __slots__ = (
        "_asked",
        "_heard",
        "_interval",
        "_last_beat",
        "_listening",
        "_longest_gap",
        "_probed",
        "_unanswered",
        "next_beat",
    )

    def __init__(self, interval: float, now: float, *, probed: bool = False) -> None:
        """``probed``: the peer is asked whether it is there. Its first answer is due by itself."""
        self._probed = probed
        self._unanswered = 1 if probed else 0
        self._asked = now
        self._interval = interval
        self._heard = now
        self._listening = True
        self._last_beat: float | None = None
        self._longest_gap: float | None = None
        self.next_beat = now + interval

    def heard(self, now: float) -> None:
        """Something came."""
        self._heard = now

    def look_away(self) -> None:
        """We do not read now: what we do not hear is not the peer's silence."""
        self._listening = False

    def listen(self, now: float) -> None:
        """We read again: silence begins now at the earliest."""
        if not self._listening:
            self._listening = True
            self._heard = now

    def beat(self, now: float) -> None:
        """A heartbeat came."""
        if self._last_beat is not None:
            self._longest_gap = max(self._longest_gap or 0.0, now - self._last_beat)
        self._last_beat = now

    def sent(self, now: float) -> None:
        """Our heartbeat is queued. After a sleep one is sent, not all those that were missed."""
        self.next_beat = now + self._interval

    def asked(self, now: float) -> None:
        """The peer was asked whether it is there."""
        self._unanswered += 1
        self._asked = now

    def answered(self) -> None:
        """The peer answered; it answers each question, in their order."""
        self._unanswered = max(self._unanswered - 1, 0)

    @property
    def next_probe(self) -> float:
        """When to ask: not while an answer is due, and not while we look away."""
        if not self._probed or self._unanswered or not self._listening:
            return math.inf
        return self._heard + PROBE_S

    @property
    def allowance(self) -> float:
        """Seconds of silence that this peer is granted: ANSWER_S at most while it owes us an answer. At least 2.5
        intervals of our own otherwise: one who configures an interval of an hour expects the same of the peer."""
        if self._longest_gap is None:
            usual = max(UNPROVEN_S, PATIENCE * self._interval)
        else:
            usual = PATIENCE * max(self._longest_gap, self._interval)
        if not self._unanswered:
            return usual
        return min(usual, max(self._asked - self._heard, 0.0) + ANSWER_S)

    @property
    def silent_at(self) -> float:
        """The time at which the silence has lasted too long; never while we look away."""
        return self._heard + self.allowance if self._listening else math.inf

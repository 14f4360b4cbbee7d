"""Words for enum names, and the verdict of ``status --check``; no imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONNECTION = {
    "CONNECTION_STATE_UNKNOWN": "unknown",
    "CONNECTION_STATE_PENDING": "pending",
    "CONNECTION_STATE_CONNECTED": "connected",
    "CONNECTION_STATE_DISCONNECTED": "disconnected",
    "CONNECTION_STATE_RETRY_WAIT": "retry wait",
    "CONNECTION_STATE_ERROR_AUTH": "authentication error",
    "CONNECTION_STATE_ERROR_PROTOCOL": "protocol error",
    "CONNECTION_STATE_ERROR_INTERNAL": "internal error",
}

STATUS = {
    "STATUS_UNKNOWN": "unknown",
    "STATUS_PENDING": "pending",
    "STATUS_INPROGRESS": "in progress",
    "STATUS_SUCCESS": "success",
    "STATUS_WARNING": "warning",
    "STATUS_ERROR": "error",
    "STATUS_SYSTEM_CANCELLED": "cancelled",
    "STATUS_USER_CANCELLED": "cancelled",
}

# What --status takes, and which states of the message it stands for.
STATUS_CHOICES: dict[str, Sequence[str]] = {
    "pending": ("STATUS_PENDING",),
    "in-progress": ("STATUS_INPROGRESS",),
    "success": ("STATUS_SUCCESS",),
    "warning": ("STATUS_WARNING",),
    "error": ("STATUS_ERROR",),
    "cancelled": ("STATUS_SYSTEM_CANCELLED", "STATUS_USER_CANCELLED"),
}

ROLES = {"host": "hub", "client": "client"}

# Nagios' exit codes, and its words for them.
OK, WARNING, CRITICAL, UNKNOWN = range(4)
VERDICTS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

# A laptop may be away for a night and a day; a peer that was not heard of for longer has a problem.
AWAY_MS = 36 * 3600 * 1000


# What a person can do about a state, where the message alone says what happened: by what the peer is to us.
_ADVICE = {
    ("host", "CONNECTION_STATE_UNKNOWN"): "it has not been dialled yet: `backrest serve` does that",
    ("client", "CONNECTION_STATE_UNKNOWN"): "it has never been here: look at `backrest status` there",
    ("host", "CONNECTION_STATE_RETRY_WAIT"): (
        "it is tried again by itself; if it stays so, look whether `backrest serve` runs there, and whether its URL is "
        "reached from here"
    ),
    ("host", "CONNECTION_STATE_ERROR_AUTH"): (
        "if it stays so, make a new token there (`backrest token create`), and run `backrest host add` with it here"
    ),
    ("client", "CONNECTION_STATE_ERROR_AUTH"): (
        "if it stays so, remove it (`backrest client remove`), and pair it again with a new token"
    ),
}
_ADVICE_FOR_ALL = {
    "CONNECTION_STATE_ERROR_PROTOCOL": "the logs on both sides say more; update the older of the two programs",
    "CONNECTION_STATE_ERROR_INTERNAL": "the log of the daemon here says more",
}


def advice(peer: dict[str, Any], now_ms: int) -> str:
    """What to do about the peer's state, as a sentence without its end; empty when there is nothing to do."""
    state = peer["state"]
    heard = int(peer.get("lastHeartbeatMillis", 0))
    if state == "CONNECTION_STATE_DISCONNECTED" and heard and now_ms - heard > AWAY_MS:
        return "it has been away for long: look at `backrest status` there"
    return _ADVICE.get((peer.get("role", ""), state)) or _ADVICE_FOR_ALL.get(state, "")


def verdict(status: dict[str, Any], now_ms: int) -> tuple[int, str]:
    """(exit code, one line) for a monitoring system.

    Critical: peers are configured and no daemon runs; a peer is refused, breaks the protocol or fails inside;
    one was not heard of for AWAY_MS; a file is damaged; a history waits to be imported. Warning: one is not connected,
    or was never heard of, or reports something to look at; a plan is parked; a change of a shared repository waits to
    be accepted.
    """
    peers = status["peers"]
    if not status["instance"]["keyId"]:
        return UNKNOWN, "UNKNOWN: this machine has no identity yet"
    if peers and not status["daemon"]["running"]:
        damaged = "".join(f"; {sentence}" for sentence in status.get("damaged", ()))
        return CRITICAL, f"CRITICAL: no daemon runs, {len(peers)} peers are out of touch{damaged}"
    worst, words = OK, []
    for peer in peers:
        state = peer["state"]
        heard = max(int(peer.get("lastHeartbeatMillis", 0)), 0)
        level, word = OK, CONNECTION.get(state, state)
        if message := peer.get("statusMessage"):
            word = f"{word} ({message})"
        if state.startswith("CONNECTION_STATE_ERROR"):
            level = CRITICAL
        elif state != "CONNECTION_STATE_CONNECTED":
            level = CRITICAL if heard and now_ms - heard > AWAY_MS else WARNING
        elif peer.get("warnings"):
            level, word = WARNING, peer["warnings"][0]
        if level:
            words.append(f"{peer['peerInstanceId']}: {word}")
            worst = max(worst, level)
    if "historyWaits" in status:
        words.append("no hub is dialled: the history of the Go program is not imported")
        worst = CRITICAL
    for sentence in status.get("damaged", ()):
        words.append(sentence)
        worst = CRITICAL
    for one in status.get("parkedPlans", ()):
        words.append(f"plan {one['plan']['id']}: {one['state']}")
        worst = max(worst, WARNING)
    for one in status.get("waitingRepos", ()):
        words.append(f"repo {one['id']}: a change of its {', '.join(one['fields'])} waits to be accepted")
        worst = max(worst, WARNING)
    connected = sum(peer["state"] == "CONNECTION_STATE_CONNECTED" for peer in peers)
    summary = f"{VERDICTS[worst]}: {connected} of {len(peers)} peers connected"
    return worst, "; ".join([summary, *words])

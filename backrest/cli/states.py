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


def verdict(status: dict[str, Any], now_ms: int) -> tuple[int, str]:
    """(exit code, one line) for a monitoring system.

    Critical: peers are configured and no daemon runs; a peer is refused, breaks the protocol or fails inside;
    one was not heard of for AWAY_MS. Warning: one is not connected, or reports something to look at.
    """
    peers = status["peers"]
    if not status["instance"]["keyId"]:
        return UNKNOWN, "UNKNOWN: this machine has no identity yet"
    if peers and not status["daemon"]["running"]:
        return CRITICAL, f"CRITICAL: no daemon runs, {len(peers)} peers are out of touch"
    worst, words = OK, []
    for peer in peers:
        state = peer["state"]
        heard = max(int(peer.get("lastHeartbeatMillis", 0)), 0)
        level, word = OK, ""
        if state.startswith("CONNECTION_STATE_ERROR"):
            level, word = CRITICAL, CONNECTION.get(state, state)
        elif state != "CONNECTION_STATE_CONNECTED":
            level, word = (CRITICAL if now_ms - heard > AWAY_MS else WARNING), CONNECTION.get(state, state)
        elif peer.get("warnings"):
            level, word = WARNING, peer["warnings"][0]
        if level:
            words.append(f"{peer['peerInstanceId']}: {word}")
            worst = max(worst, level)
    for one in status.get("parkedPlans", ()):
        words.append(f"plan {one['plan']['id']}: {one['state']}")
        worst = max(worst, WARNING)
    connected = sum(peer["state"] == "CONNECTION_STATE_CONNECTED" for peer in peers)
    summary = f"{VERDICTS[worst]}: {connected} of {len(peers)} peers connected"
    return worst, "; ".join([summary, *words])

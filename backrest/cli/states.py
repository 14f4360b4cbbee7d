"""Words for enum names, and the verdict of ``status --check``; no imports that cost time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backrest.cli import formats

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
    if state == "CONNECTION_STATE_DISCONNECTED" and heard and now_ms - heard > _tolerance_ms(peer):
        return "it has been away for long: look at `backrest status` there"
    return _ADVICE.get((peer.get("role", ""), state)) or _ADVICE_FOR_ALL.get(state, "")


def _tolerance_ms(peer: dict[str, Any]) -> int:
    """How long the peer may be away before that is critical. A client's sleep is no warning until then; a hub that is
    away gets no history."""
    return int(peer.get("toleranceSeconds", 0)) * 1000


def plan_state(plan: dict[str, Any], now_ms: int) -> tuple[int, str]:
    """(how bad it is, in words) how a plan of ``status`` is. A failed backup is critical unless the last success is
    still in time."""
    state, message = plan["state"], plan.get("message", "")
    failed = f"the last backup failed {_since(plan, 'failedMillis', now_ms)} ago ({message or 'no reason was given'})"
    if state == "LATE":
        usual = (
            f", by its usual gap of {formats.age(plan['usualGapSeconds'])}"
            if "usualGapSeconds" in plan
            else ""
        )
        word = f"late: it was due {_since(plan, 'dueMillis', now_ms)} ago{usual}"
        return CRITICAL, f"{word}; {failed}" if "failedMillis" in plan else word
    if state == "FAILED":
        in_time = "lastSuccessMillis" in plan and "dueMillis" in plan
        return WARNING if in_time else CRITICAL, failed
    if state == "DOUBTED":
        return WARNING, f"the last backup ended as a warning ({message})"
    if state == "FORGET_FAILED":
        return WARNING, f"backed up, but not forgotten by its retention ({plan.get('forgetMessage', '')})"
    if state == "NEVER":
        return WARNING, "it has a schedule, and was never backed up"
    return OK, "ok" if state == "OK" else "never backed up"


def _since(plan: dict[str, Any], name: str, now_ms: int) -> str:
    return formats.age((now_ms - int(plan.get(name, 0))) / 1000)


def plan_name(plan: dict[str, Any]) -> str:
    """The plan's name, after its machine's where that is another."""
    whose = plan.get("peerInstanceId", "")
    return f"{whose}: plan {plan['planId']}" if whose else f"plan {plan['planId']}"


def verdict(status: dict[str, Any], now_ms: int) -> tuple[int, str]:
    """(exit code, one line) for a monitoring system.

    Critical: peers are configured and no daemon runs; a peer is refused, breaks the protocol or fails inside; a client
    is away, or a plan late, for longer than its tolerance; a backup failed, and no success is in time; a file is
    damaged; a history waits to be imported. Warning: a hub is not connected; a peer was never heard of, or reports
    something to look at; a backup failed, is doubted, or what followed it failed; a plan is parked; a change of a
    shared repository waits to be accepted.
    """
    peers, plans = status["peers"], status.get("plans", ())
    if not status["instance"]["keyId"]:
        return UNKNOWN, "UNKNOWN: this machine has no identity yet"
    worst, words = OK, []
    stopped = bool(peers) and not status["daemon"]["running"]
    if stopped:
        worst = CRITICAL
    for peer in peers if not stopped else ():
        state = peer["state"]
        heard = max(int(peer.get("lastHeartbeatMillis", 0)), 0)
        level, word = OK, CONNECTION.get(state, state)
        if message := peer.get("statusMessage"):
            word = f"{word} ({message})"
        if state.startswith("CONNECTION_STATE_ERROR"):
            level = CRITICAL
        elif state != "CONNECTION_STATE_CONNECTED":
            sleeps = peer.get("role") == "client" and state == "CONNECTION_STATE_DISCONNECTED"
            if heard and now_ms - heard > _tolerance_ms(peer):
                level = CRITICAL
            elif not (heard and sleeps):
                level = WARNING
        elif peer.get("warnings"):
            level, word = WARNING, peer["warnings"][0]
        if level:
            words.append(f"{peer['peerInstanceId']}: {word}")
            worst = max(worst, level)
    healthy = 0
    for plan in plans:
        level, word = plan_state(plan, now_ms)
        healthy += plan["state"] == "OK"
        if level:
            words.append(f"{plan_name(plan)}: {word}")
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
    if stopped:
        summary = f"{VERDICTS[worst]}: no daemon runs, {len(peers)} peers are out of touch"
    if plans:
        summary += f", {healthy} of {len(plans)} plans backed up in time"
    return worst, "; ".join([summary, *words])

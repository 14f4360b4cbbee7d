"""When a schedule or a retention policy is valid (ENGINE.md 1.8, 3.8, 3.14)."""

from __future__ import annotations

from backrest import wire
from backrest.store.cron import Cron
from backrest.store.text import quoted

RetentionPolicy = wire.config.RetentionPolicy
Schedule = wire.config.Schedule


def schedule_problem(schedule: Schedule, now: float) -> str:
    """Why it is not valid; empty when it is. One with nothing set is: it never runs."""
    kind = schedule.WhichOneof("schedule")
    if kind == "disabled" and not schedule.disabled:
        return "disabled is false, which says nothing: give a schedule, or disabled as true"
    if kind == "maxFrequencyDays" and schedule.maxFrequencyDays < 1:
        return f"invalid max frequency days {schedule.maxFrequencyDays}: at least 1"
    if kind == "maxFrequencyHours" and schedule.maxFrequencyHours < 1:
        return f"invalid max frequency hours {schedule.maxFrequencyHours}: at least 1"
    return _cron_problem(schedule.cron, now) if kind == "cron" else ""


def _cron_problem(text: str, now: float) -> str:
    what = f"invalid cron {quoted(text)}"
    try:
        if Cron.parse(text).next_after(now) is None:
            return f"{what}: it never occurs"
    except ValueError as bad:
        return f"{what}: {bad}"
    return ""


def retention_problem(retention: RetentionPolicy) -> str:
    """Why it is not valid by the reference's rules; empty when it is."""
    kind = retention.WhichOneof("policy")
    if kind is None:
        return "no policy is set"
    if kind == "policy_time_bucketed" and not any(_counts(retention)):
        return "all counts are zero"
    return ""


def retention_warning(retention: RetentionPolicy) -> str:
    """Why it makes no sense, though the reference takes it; empty when it does.

    Forgetting goes by these counts: what cannot be meant must not be guessed at when snapshots are at stake.
    """
    kind = retention.WhichOneof("policy")
    if kind == "policy_keep_last_n" and retention.policy_keep_last_n < 1:
        return "the number of snapshots to keep must be at least 1"
    if kind == "policy_time_bucketed" and min(_counts(retention)) < 0:
        return "counts cannot be negative"
    if kind == "policy_keep_all" and not retention.policy_keep_all:
        return "keep-all is false, which says nothing: give counts, or keep-all as true"
    return ""


def _counts(retention: RetentionPolicy) -> tuple[int, ...]:
    b = retention.policy_time_bucketed
    return (b.hourly, b.daily, b.weekly, b.monthly, b.yearly, b.keep_last_n)

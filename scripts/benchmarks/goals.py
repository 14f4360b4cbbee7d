"""What is to be reached (DESIGN of the project, "Speed"): for the reader, nothing fails by it.

A goal holds at its size; at others it is shown for orientation. Each is an upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIENTS = 100  # connected in the row live, where its goal holds


@dataclass(frozen=True, slots=True)
class Goal:
    row: str
    size: int
    figure: str
    most: float


GOALS = (
    Goal("first-sync", 8_000, "from_connection_s", 0.35),
    Goal("first-sync", 100_000, "from_start_s", 4),
    Goal("first-sync", 100_000, "hub_peak_mib", 300),
    Goal("first-sync", 100_000, "client_peak_mib", 300),
    Goal("reconnect", 100_000, "wall_s", 0.3),
    Goal("reconnect", 100_000, "each_us", 3),
    Goal("live", 200, "p99_ms", 50),
    Goal(
        "idle", 1_000, "cpu_percent", 0.5
    ),  # "none": what rounds to 0, with steps of 10 ms and a heartbeat at times
    Goal("idle", 1_000, "each_kib", 100),
    Goal("storm", 1_000, "wall_s", 5),
    Goal("storm", 1_000, "each_hub_cpu_ms", 3),
    Goal("open-log", 1_000_000, "wall_s", 5),
    Goal("open-log", 1_000_000, "peak_mib", 400),
    Goal("verify", 1_000_000, "peak_mib", 300),
    Goal("repair", 1_000_000, "peak_mib", 300),
    Goal("compact", 1_000_000, "peak_mib", 300),
    Goal("help", 30, "median_ms", 150),
)


def goal_of(row: str, figure: str, size: int) -> Goal | None:
    """The goal of this figure, that of this size if there is one."""
    found = [goal for goal in GOALS if (goal.row, goal.figure) == (row, figure)]
    return min(found, key=lambda goal: goal.size != size, default=None)


def is_met(row: str, figure: str, size: int, median: float) -> bool | None:
    """None: there is no goal for this figure at this size."""
    goal = goal_of(row, figure, size)
    return median <= goal.most if goal is not None and goal.size == size else None

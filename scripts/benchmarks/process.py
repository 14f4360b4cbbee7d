"""What the system says of a process. Imports nothing of the program: also what is measured itself uses this."""

from __future__ import annotations

import os
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int | str, what: str) -> float:
    """``what``: VmRSS, now; VmHWM, at its highest. ``pid`` may be "self"."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise ProcessLookupError(f"the process {pid} has ended")
    return int(found[1]) / 1024


def cpu_s(pid: int) -> float:
    """User and system time of all its threads, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS

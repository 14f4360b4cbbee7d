"""restic: backups, the index of snapshots, and what they write to the history."""

from backrest.engine.failures import Reason, ResticFailure
from backrest.engine.index import IndexResult
from backrest.engine.progress import Progress
from backrest.engine.recover import Recovered
from backrest.engine.runner import Ended, Engine

__all__ = ["Ended", "Engine", "IndexResult", "Progress", "Reason", "Recovered", "ResticFailure"]

"""Why a restic command failed, as one sentence that a person can act on.

Newer versions say it by the exit code (10 and 11 since 0.17.0, 12 since 0.17.1), older ones by their text
only; both are read here, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto

from backrest.errors import ResticError


class Reason(Enum):
    """What is wrong, where the caller does something about it."""

    NO_REPOSITORY = auto()  # surely none there
    UNREACHABLE = auto()  # its config could not be opened: perhaps none there, perhaps no way to it
    WRONG_PASSWORD = auto()
    NO_PASSWORD = auto()
    LOCKED = auto()
    HOST_KEY = auto()
    EXISTS = auto()  # init found a repository
    OTHER = auto()


class ResticFailure(ResticError):
    """A restic that ended with an error; ``reason`` is its kind."""

    def __init__(self, message: str, exit_code: int | None, reason: Reason) -> None:
        super().__init__(message, exit_code)
        self.reason = reason


_BY_CODE = {10: Reason.NO_REPOSITORY, 11: Reason.LOCKED, 12: Reason.WRONG_PASSWORD}

# In this order: the first that is found decides.
_BY_TEXT = (
    (
        Reason.HOST_KEY,
        re.compile(r"host key verification failed|remote host identification has changed", re.I),
    ),
    (Reason.WRONG_PASSWORD, re.compile(r"wrong password or no key found", re.I)),
    (
        Reason.NO_PASSWORD,
        re.compile(
            r"an empty password is not (?:a password|allowed)|resolving password failed|read password", re.I
        ),
    ),
    (Reason.LOCKED, re.compile(r"already locked", re.I)),
    (Reason.EXISTS, re.compile(r"config file already exists|already initialized", re.I)),
    (Reason.NO_REPOSITORY, re.compile(r"repository does not exist", re.I)),
    # Before 0.17 one text for "there is none" and "I cannot get there": what the backend said tells them
    # apart.
    (
        Reason.NO_REPOSITORY,
        re.compile(
            r"unable to open config file: .*(?:no such file|does not exist|not found|nosuchkey|\b404\b)", re.I
        ),
    ),
    (Reason.UNREACHABLE, re.compile(r"unable to open config file|is there a repository at", re.I)),
)

# Enough for a sentence and its cause (4.5: about 1000 bytes).
MAX_DETAIL = 1000

_NOISE = re.compile(
    r"^(?:reading repository password from stdin|\S*signal interrupt received, cleaning up)$", re.I
)


def classify(exit_code: int, said: str) -> Reason:
    """The reason of a failure from its exit code and everything restic said."""
    if exit_code in _BY_CODE:
        return _BY_CODE[exit_code]
    return next((reason for reason, pattern in _BY_TEXT if pattern.search(said)), Reason.OTHER)


def detail(lines: Sequence[str]) -> str:
    """What restic said, on one line: its fatal message if there is one, else its last words."""
    useful = [line for line in (one.strip() for one in lines) if line and not _NOISE.match(line)]
    fatal = [line for line in useful if line.startswith("Fatal:")]
    said = "; ".join(line.removeprefix("Fatal:").strip() for line in fatal or useful[-5:])
    return said if len(said) <= MAX_DETAIL else said[: MAX_DETAIL - 3] + "..."


def failure(repo_id: str, uri: str, command: str, exit_code: int, lines: Sequence[str]) -> ResticFailure:
    """The error for a command that ended with ``exit_code`` after it said ``lines`` (both already free of
    secrets).
    """
    said = detail(lines)
    if exit_code < 0:
        message = f"restic {command} was killed by signal {-exit_code}"
        return ResticFailure(f"{message}: {said}" if said else message, None, Reason.OTHER)
    reason = classify(exit_code, "\n".join(lines))
    sentence = {
        Reason.NO_REPOSITORY: f"repo {repo_id}: there is no restic repository at {uri}",
        Reason.UNREACHABLE: f"repo {repo_id}: no restic repository can be opened at {uri}: {said}",
        Reason.WRONG_PASSWORD: f"the password of repo {repo_id} is wrong",
        Reason.NO_PASSWORD: f"repo {repo_id} has no password: set it, or RESTIC_PASSWORD_FILE in its env",
        Reason.LOCKED: f"repo {repo_id} is locked by another restic: {_lock(lines) or said}",
        Reason.HOST_KEY: f"repo {repo_id}: the server's SSH host key is not trusted: {said}",
        Reason.EXISTS: f"repo {repo_id}: there is a restic repository at {uri} already",
    }.get(reason)
    if sentence is None:
        sentence = f"restic {command} failed (exit code {exit_code})" + (f": {said}" if said else "")
    return ResticFailure(sentence, exit_code, reason)


def _lock(lines: Sequence[str]) -> str:
    """Who holds the lock and since when, from restic's words."""
    found = re.search(
        r"already locked[^\n]*? by (PID [^\n]*)(?:\n(lock was created at [^\n]*))?", "\n".join(lines)
    )
    return ", ".join(part for part in found.groups() if part) if found else ""

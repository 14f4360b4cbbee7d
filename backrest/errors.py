"""The exceptions of this program, told apart by what the caller must do about them.

Each one's text is a single sentence that a person can act on, and never holds a secret. What is not
in here (a ValueError, an AssertionError) is a mistake in this program.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Code(StrEnum):
    """Connect's error codes, as they stand in an end-of-stream message (Connect protocol, "Error codes")."""

    CANCELED = "canceled"
    UNKNOWN = "unknown"
    INVALID_ARGUMENT = "invalid_argument"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DATA_LOSS = "data_loss"
    UNAUTHENTICATED = "unauthenticated"


class BackrestError(Exception):
    """Something went wrong that a person or the other side can do something about."""


class UserError(BackrestError):
    """What the user asked for or gave cannot be used: say it and change nothing.

    ``problems`` holds every problem found, when there can be several (a configuration).
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class NotFoundError(UserError):
    """The thing named does not exist."""


class ConflictError(UserError):
    """It exists already, or was changed by somebody else in the meantime."""


class StorageError(BackrestError):
    """The disk refused a write or a read. Memory and file are as before the attempt."""


class TooLargeError(StorageError):
    """A file is larger than what is read of one, or would be: nothing was read or written."""


class CorruptError(StorageError):
    """A state file holds what this program never writes: refuse to serve from it, offer the repair."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class LockedError(BackrestError):
    """Another process works on the same data directory: ``holder`` names it for people, and ``by_command`` says that it
    is a command, which may work for hours, and no daemon.
    """

    def __init__(self, message: str, *, holder: str = "", by_command: bool = False) -> None:
        super().__init__(message)
        self.holder = holder
        self.by_command = by_command


class ResticError(BackrestError):
    """restic failed. ``exit_code`` is its exit status, or None when it could not be started or was killed."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Fault(StrEnum):
    """The layer at which a peer's session failed (protocol/), each with one meaning."""

    FRAMING = "framing"  # not a Connect envelope, a wrong flag, too large, not protobuf
    KEM = "kem"  # the cleartext key exchange
    RECORD = "record"  # a wrong nonce or tag, or a cleartext item after the exchange
    HANDSHAKE = "handshake"  # version, key, signature, reflection
    REFUSED = "refused"  # a proven identity that is not let in
    ITEM = "item"  # an item that has no place here
    TIMEOUT = "timeout"  # a deadline passed
    SILENCE = "silence"  # nothing came for too long
    ENDED = "ended"  # the other side ended the stream, or it broke off


class PeerError(BackrestError):
    """The other side of a sync session broke a rule, refused us, or went away: this one session ends.

    ``code`` is the Connect code that we send (our verdict) or were sent (theirs, ``fault`` is ENDED).
    """

    def __init__(self, fault: Fault, code: Code, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.code = code

"""The exceptions of this program as Connect codes, and back: an error keeps its kind across the admin socket.

Only the kind and the sentence travel. The first class that fits, from the top, decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backrest.errors import (
    BackrestError,
    Code,
    ConflictError,
    CorruptError,
    LockedError,
    NotFoundError,
    PeerError,
    ResticError,
    StorageError,
    UserError,
)

_CODES: tuple[tuple[type[BackrestError], Code], ...] = (
    (NotFoundError, Code.NOT_FOUND),
    (ConflictError, Code.ALREADY_EXISTS),
    (UserError, Code.INVALID_ARGUMENT),
    (CorruptError, Code.DATA_LOSS),
    (StorageError, Code.RESOURCE_EXHAUSTED),
    (LockedError, Code.FAILED_PRECONDITION),
    (ResticError, Code.ABORTED),
    (PeerError, Code.UNAVAILABLE),
    (BackrestError, Code.UNKNOWN),
)

_ERRORS: dict[str, type[BackrestError]] = {
    Code.NOT_FOUND: NotFoundError,
    Code.ALREADY_EXISTS: ConflictError,
    Code.INVALID_ARGUMENT: UserError,
    Code.DATA_LOSS: StorageError,
    Code.RESOURCE_EXHAUSTED: StorageError,
    Code.FAILED_PRECONDITION: LockedError,
    Code.ABORTED: ResticError,
}


def to_code(error: BackrestError) -> tuple[Code, str]:
    """The code and the text for an error; problems of a configuration are part of the text, one a line."""
    text = str(error)
    problems = [problem for problem in getattr(error, "problems", ()) if problem not in text]
    text = "\n  ".join([text, *problems])
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, text
    raise AssertionError("BackrestError is in the table")


def from_code(code: str, message: str) -> BackrestError:
    """The error for what the daemon answered."""
    return _ERRORS.get(code, BackrestError)(message or f"the daemon answered with the error {code!r}")


@contextmanager
def as_connect() -> Iterator[None]:
    """What people can mend becomes the answer; anything else stays what it is: a mistake, for the daemon's
    log.
    """
    from backrest.net.connect import ConnectError

    try:
        yield
    except BackrestError as error:
        code, text = to_code(error)
        raise ConnectError(code, text) from error
    except BaseExceptionGroup as group:
        # A nursery wraps even the only failure. Of several, the first that has a sentence for the user.
        errors: BaseException | None = group.subgroup((BackrestError, ConnectError))
        while isinstance(errors, BaseExceptionGroup):
            errors = errors.exceptions[0]
        if errors is None or group.split((BackrestError, ConnectError))[1] is not None:
            raise
        if isinstance(errors, ConnectError):
            raise errors from group
        assert isinstance(errors, BackrestError)
        code, text = to_code(errors)
        raise ConnectError(code, text) from group

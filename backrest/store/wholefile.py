"""Small state files that are read as a whole, and hold what nobody can make again: what a damaged one becomes.

Nothing but an error: it is neither replaced nor set aside, since a person can often mend JSON. The daemon does not
start with one (it would overwrite it at the next change); what a command needs it for fails, and all else goes on
(admin/context.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TypeVar

from backrest.errors import CorruptError
from backrest.store.files import read_file, sweep_temps

T = TypeVar("T")


def load(path: str | os.PathLike[str], decode: Callable[[bytes], T], absent: T, *, holds: str) -> T:
    """What ``decode`` makes of the file, or ``absent``. ``holds``: what somebody who moves it away does without.

    StorageError when it cannot be read; CorruptError when ``decode`` raises ValueError.
    """
    sweep_temps(path)
    try:
        return decode(read_file(path))
    except FileNotFoundError:
        return absent
    except ValueError as bad:
        if isinstance(bad, json.JSONDecodeError):
            line, reason = bad.lineno, f"not JSON ({bad.msg})"
        else:
            line, reason = 1, str(bad)
        raise CorruptError(
            os.fspath(path), line, f"{reason}; repair it, or move it away to do without {holds}"
        ) from None

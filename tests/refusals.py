"""What a script's program says to options that cannot be meant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO

import pytest


def refusal(arguments: Callable[[list[str]], object], given: list[str]) -> str:
    """The last line of it; that it exits with 2 is asserted."""
    said = StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        arguments(given)
    assert ended.value.code == 2
    return said.getvalue().splitlines()[-1]

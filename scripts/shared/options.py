"""Values of a program's options, for argparse's ``type``: what cannot be meant is refused before anything begins."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

DAY_S = 86_400.0


def count(least: int) -> Callable[[str], int]:
    """For an option that is a number from ``least`` on."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} on")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """For an option that is a duration."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= DAY_S:  # and nan is not
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, up to a day")
    return number


def code_of(file: str) -> tuple[str, str]:
    """An option's value: (the file, the Python in it). ArgumentTypeError says why it could not run."""
    try:
        text = Path(file).read_text()
        compile(text, file, "exec")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{file}: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{file} is not Python: {error}") from None
    return file, text

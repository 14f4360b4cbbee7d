"""Everything that is printed goes through here: made harmless, as a table for people or one JSON document for
programs.

A peer chooses its instance id, its plan names and its messages, so each of these may hold escape sequences
that rewrite the screen, answer questions in the user's name (terminal injection), or turn text around
(bidirectional overrides). ``harmless`` takes all that away, and rich is never given markup. In JSON the same
characters are written as escapes, which changes nothing for a program that reads it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

# Control characters (C0, DEL, C1), format characters (bidirectional overrides, zero width), surrogates,
# private use, unassigned, and the two Unicode line ends.
_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# What JSON allows unescaped inside a string and a terminal may obey all the same.
_JSON_HARMFUL = re.compile(
    "[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)

# A cell longer than this is cut in tables: a message of a megabyte is for --json.
CELL = 400

# What a table is given at least, on however narrow a terminal: rather lines that the terminal breaks than columns of
# one letter.
NARROWEST = 10
TABLE_COLUMNS = 80


def harmless(text: object, *, limit: int | None = None, lines: bool = False) -> str:
    """``text`` without anything a terminal would obey: such characters are shown as escapes.

    With ``lines`` a line feed stays one. With ``limit`` the rest is cut off behind an ellipsis.
    """
    raw = str(text)
    if limit is not None and len(raw) > limit:
        raw = raw[: limit - 1] + "…"
    if raw.isascii() and raw.isprintable():
        return raw
    return "".join(
        char if (lines and char == "\n") or unicodedata.category(char) not in _HARMFUL else _escape(char)
        for char in raw
    )


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(value: object, *, indent: bool = True) -> str:
    """One JSON document, safe to show on a terminal."""
    import orjson

    raw = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    return _JSON_HARMFUL.sub(lambda match: f"\\u{ord(match[0]):04x}", raw)


def print_json(value: object) -> None:
    """The one JSON document of a command with --json."""
    click.echo(json_text(value))


def say(text: str = "") -> None:
    """A line of the result, on stdout."""
    click.echo(harmless(text, lines=True))


def note(text: str) -> None:
    """A line about the result (progress, a hint, a warning), on stderr; nowhere when the terminal is gone."""
    with contextlib.suppress(OSError):
        click.echo(harmless(text, lines=True), err=True)


def console(stream: TextIO | None = None) -> Console:
    """A rich console that interprets nothing in the text it is given.

    Without a terminal it has no colour and so much width that nothing is wrapped or cut: a pipe wants whole
    lines. NO_COLOR is rich's own affair.
    """
    from rich.console import Console

    stream = stream or sys.stdout
    width = None if stream.isatty() else 10_000
    return Console(file=stream, markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


# Words that are coloured wherever they stand in a column of states.
_STYLES = {
    "connected": "green",
    "success": "green",
    "pending": "blue",
    "in progress": "blue",
    "retry wait": "yellow",
    "warning": "yellow",
    "disconnected": "bright_black",
    "error": "red",
    "authentication error": "red",
    "protocol error": "red",
    "internal error": "red",
}


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[str] = ()) -> Any:
    """A rich table without frame; every cell harmless. ``numbers`` names the columns to be set right."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    right = set(numbers)
    for header in headers:
        if header in right:
            result.add_column(header, justify="right", no_wrap=True)
        else:
            result.add_column(header, overflow="fold", min_width=min(len(header), NARROWEST))
    for row in rows:
        cells = [harmless(cell, limit=CELL) for cell in row]
        result.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return result


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[str] = ()
) -> None:
    """The table for people, on stdout. Lines carry no blanks at their end."""
    output = console()
    output.width = max(output.width, TABLE_COLUMNS)
    with output.capture() as capture:
        output.print(table(headers, rows, numbers=numbers))
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Name and value, one a line, the values below one another."""
    pairs = [(name, harmless(value)) for name, value in fields if value not in (None, "")]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name + ':':{width + 1}}  {value}")


def print_changes(subject: str, changed: Sequence[dict[str, Any]], *, what: str = "is changed") -> None:
    """What a "set" command changed, field by field, on stdout."""
    if not changed:
        say(f"{subject} was like that already.")
        return
    say(f"{subject} {what}:")
    for one in changed:
        say(f"  {one['field']}: {changed_value(one)}")


def changed_value(one: dict[str, Any]) -> str:
    """What a field was and what it is. A secret's two masks look the same: it says so."""
    before, after = _short(one["before"]), _short(one["after"])
    return "a new secret" if before == after else f"{before} -> {after}"


def _short(value: Any) -> str:
    if value in (None, "", [], False):
        return "none" if value is not False else "no"
    if value is True:
        return "yes"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    return value if isinstance(value, str) else json_text(value, indent=False)


def silence_stdout() -> None:
    """After a broken pipe: what is still buffered must not raise again when the interpreter ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file (tests): then nothing can raise later either
        pass

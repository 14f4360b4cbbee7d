"""Texts of others, made safe to show.

Ids and messages come from peers and from files that anybody may have edited. Printed as they are, an escape
sequence in one could rewrite a terminal, and a line break could forge a line of a log.
"""

from __future__ import annotations

import unicodedata

# Cc control characters, Cf invisible ones (right-to-left overrides), Cs surrogates, Zl and Zp line breaks.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})


def is_printable(text: str) -> bool:
    """Whether the text shows as what it is, on one line."""
    return not any(unicodedata.category(char) in _UNSAFE for char in text)


def one_line(text: str, limit: int) -> str:
    """The text with each unsafe character replaced by U+FFFD, cut to ``limit`` characters."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(char) in _UNSAFE else char for char in text)


def quoted(text: str, limit: int = 80) -> str:
    """The text in double quotes, for an error message."""
    return '"' + one_line(text, limit).replace('"', '\\"') + '"'

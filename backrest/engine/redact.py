"""Secrets out of everything that is written down: task logs, command lines, error texts.

Passwords reach restic by its environment only, so what is masked here is the second line of defence:
credentials that users put into repository addresses and flags, and the unlikely case that a program repeats
one of them. Secrets shorter than ``SHORTEST`` are not searched for in free text: they cannot be told from
ordinary words, and masking every "1" would say more than it hides. In addresses and named flags they are
masked at any length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from backrest.store import mask
from backrest.store.mask import mask_uri

MASK = "***"
SHORTEST = 6

# Names of variables and flags whose value is a secret; a file's or directory's name is none.
_SECRET_NAME = re.compile(
    r"pass(?!ive)|secret|token|credential|private|(?:^|[^a-z])key(?!-hint)", re.IGNORECASE
)
_PLAIN_NAME = re.compile(r"(?:file|path|dir|hint|no-password)$", re.IGNORECASE)
# scheme://user:password@host, greedy up to the last @ of the authority: passwords hold @ more often than
# hosts do.
_USERINFO = re.compile(r"(://[^/\s:@]*):[^/\s]*@")
_SSHPASS = re.compile(r"(sshpass\s+-p\s*)(\S+)")


def is_secret_name(name: str) -> bool:
    """Whether the value of a variable or flag of this name must not be shown."""
    return bool(_SECRET_NAME.search(name)) and not _PLAIN_NAME.search(name)


def address_secrets(uri: str) -> set[str]:
    """What ``mask_uri`` hides of an address, as it stands there and decoded: the password in front of the host, and
    the query's parameters that name a secret."""
    first, *rest = mask_uri(uri).split(mask.MASK)
    found, at = set(), len(first)
    for shown in rest:
        end = uri.find(shown, at) if shown else len(uri)
        found.add(uri[at:end])
        at = end + len(shown)
    userinfo = re.search(r"://[^/\s:@]*:([^/\s]*)@", uri)
    if userinfo:
        found.add(userinfo[1])
    return found | {unquote(secret) for secret in found}


class Redactor:
    """Masks a fixed set of secrets, and whatever has the shape of one, in texts and argument lists."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {s for s in secrets if len(s) >= SHORTEST}
        # The longest first, so that a secret which holds another one is masked whole.
        ordered = sorted(known, key=lambda s: (-len(s), s))
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    @classmethod
    def for_environment(cls, environment: Mapping[str, str], extra: Iterable[str] = ()) -> Redactor:
        """A redactor for everything that a restic started with ``environment`` knows."""
        secrets = {value for name, value in environment.items() if is_secret_name(name)}
        secrets.update(extra)
        secrets.update(address_secrets(environment.get("RESTIC_REPOSITORY", "")))
        return cls(secrets)

    def __repr__(self) -> str:
        return "Redactor()"  # never its secrets

    def text(self, text: str) -> str:
        """``text`` with every secret replaced by ``***``."""
        if "://" in text:
            text = _USERINFO.sub(rf"\1:{MASK}@", text)
        if "sshpass" in text:
            text = _SSHPASS.sub(rf"\1{MASK}", text)
        return self._known.sub(MASK, text) if self._known else text

    def arguments(self, arguments: Sequence[str]) -> list[str]:
        """An argument list with values of secret flags (``--x-token=v``, ``-o x.secret=v``) masked too."""
        masked: list[str] = []
        hide_next = False
        for argument in arguments:
            name, equals, _ = argument.partition("=")
            if hide_next and not argument.startswith("-"):
                argument = MASK
            elif equals and " " not in name and "/" not in name and is_secret_name(name):
                argument = f"{name}={MASK}"
            hide_next = argument.startswith("--") and not equals and is_secret_name(argument)
            masked.append(self.text(argument))
        return masked

"""Pairing tokens: one line of text that lets a new client in, `<keyid>:<secret>#<instanceid>`.

Pure text: neither library of this package is imported here, so that a command that only makes or reads a
token starts quickly. A secret is never in a repr or in an error's text; ``format`` and ``str`` give the whole
token, since printing it is what it is for.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

_SECRET_BYTES = 32  # as many as the reference draws: cannot be guessed, whatever the rate limit


@dataclass(frozen=True, slots=True)
class PairingToken:
    """A hub's key id, a secret that it has given out, and its instance id."""

    keyid: str
    secret: str = field(repr=False)
    instance_id: str

    @classmethod
    def parse(cls, text: str) -> PairingToken:
        """Read a pasted token; ValueError says what is wrong with it without showing it.

        The instance id is what follows the last `#`; in what precedes it the key id ends at the first `:`.
        Whether the key id can be one at all is for the caller (identity.is_keyid).
        """
        text = text.strip()  # pasting brings a line's end along
        if any(character < " " or character == "\x7f" for character in text):
            raise ValueError(
                "a pairing token is one line: this one has a line break or a control character in it"
            )
        front, mark, instance_id = text.rpartition("#")
        if not mark:
            raise ValueError("a pairing token looks like KEYID:SECRET#INSTANCE: this one has no '#'")
        keyid, mark, secret = front.partition(":")
        if not mark:
            raise ValueError("a pairing token looks like KEYID:SECRET#INSTANCE: this one has no ':'")
        for part, name in ((keyid, "key id"), (secret, "secret"), (instance_id, "instance id")):
            if not part:
                raise ValueError(f"the pairing token's {name} is empty")
        return cls(keyid, secret, instance_id)

    def format(self) -> str:
        return f"{self.keyid}:{self.secret}#{self.instance_id}"

    def __str__(self) -> str:
        return self.format()


def new_secret() -> str:
    """Return a fresh secret: 64 lower-case hex digits."""
    return secrets.token_hex(_SECRET_BYTES)


def same_secret(left: str, right: str) -> bool:
    """Compare two secrets in a time that does not depend on where they differ; an empty one equals nothing.

    Without this, a client that tries tokens could find one digit after the other by the clock. An empty
    secret means "none", and must not match a token whose secret was lost from the configuration.
    """
    equal = hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))
    return equal and left != ""

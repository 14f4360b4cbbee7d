"""How a repository's password gets in.

Never as a flag: every user of the machine can read the flags of every process, and shells keep them in their
history. It comes from a file, from the environment, from a hidden prompt, or is made here.
"""

from __future__ import annotations

import codecs
import os
import secrets
import sys
from pathlib import Path

import click

from backrest.errors import UserError

# Other ways by which restic gets its password, or is told that there is none: then we need not have it.
_OWN_WAY = ("RESTIC_PASSWORD=", "RESTIC_PASSWORD_FILE=", "RESTIC_PASSWORD_COMMAND=")
_OWN_FLAGS = ("--password-file", "--password-command", "--insecure-no-password", "-p")

# 32 random bytes: more than any attack on the repository's scrypt could use.
_GENERATED_BYTES = 32
_LONGEST_FILE = 64 * 1024


def read_password(
    repo_id: str,
    file: str | None,
    variable: str | None,
    generate: bool,
    env: tuple[str, ...],
    flags: tuple[str, ...],
) -> str:
    """The password of a repository, from where the options say; else asked for. "" when ``env`` or ``flags`` give
    restic another way to it. Usage errors and UserError, none of which shows it."""
    if sum((file is not None, variable is not None, generate)) > 1:
        raise click.UsageError("give one of --password-file, --password-env and --generate-password.")
    if generate:
        return secrets.token_urlsafe(_GENERATED_BYTES)
    if variable is not None:
        if not os.environ.get(variable):
            raise UserError(f"the environment variable {variable} is not set")
        return os.environ[variable]
    if file is not None:
        return _content(file)
    if any(entry.startswith(_OWN_WAY) for entry in env) or any(flag.startswith(_OWN_FLAGS) for flag in flags):
        return ""
    if not sys.stdin.isatty():
        raise click.UsageError(
            "give the password with --password-file, --password-env or --generate-password."
        )
    entered: str = click.prompt(
        f"Password of the repository {repo_id}", hide_input=True, confirmation_prompt=True, err=True
    )
    return entered


# What restic, in Go, takes off both ends of a password file: a repository that it made must open with the same file.
_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)


def _content(file: str) -> str:
    """As restic reads a password file: without the white space around it, in UTF-16 too if it says so at its start."""
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
        raw = stream.read(_LONGEST_FILE)
    try:
        wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if wide else "utf-8-sig").strip(_SPACE)
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    if not text or "\n" in text or "\0" in text:
        raise UserError(
            f"{file} must hold the password and nothing else, on one line; to have restic itself read it each time, "
            f"give --env RESTIC_PASSWORD_FILE={file}"
        )
    return text

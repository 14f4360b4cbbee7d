"""Places that are the same from any working directory, and patterns that restic can use.

The daemon works in another directory than a command, cron in a third one. So an address, a path and a file that an
option or a variable names are whole paths ("/..."); no shell is there that would replace "~". With ``expands``, what
begins with ``${NAME}`` is let pass: it is judged when restic is to run, after the name has been replaced. Pure. Each
function gives the end of a sentence ("is not a whole path ..."), empty when all is well, and never repeats what may
be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

# What restic takes for the beginning of an address; any other text is a directory to it, or a mistake.
_SCHEME: Final = re.compile(r"(local|sftp|s3|b2|azure|gs|swift|rest|rclone):")

# restic's flags and variables that name a file or a directory of this machine. "-p" is --password-file's short form.
_FILE_FLAGS: Final = re.compile(
    r"--(?:cacert|cache-dir|i?exclude-file|files-from(?:-raw|-verbatim)?|password-file|repository-file|tls-client-cert)|-p"
)
_FILE_VARIABLES: Final = re.compile(
    r"AWS_(?:CONFIG|SHARED_CREDENTIALS|WEB_IDENTITY_TOKEN)_FILE|GOOGLE_APPLICATION_CREDENTIALS|RCLONE_CONFIG|TMPDIR"
    r"|RESTIC_(?:CACERT|CACHE_DIR|PASSWORD_FILE|REPOSITORY_FILE|TLS_CLIENT_CERT)"
)


def local_path(uri: str) -> str | None:
    """The directory of an address on this machine's own disk; None for one elsewhere."""
    found = _SCHEME.match(uri)
    if found is None:
        return uri
    return uri[found.end() :] if found[1] == "local" else None


def path_problem(path: str, *, expands: bool = False) -> str:
    """What is wrong with a path of a plan, or of a repository on this machine's disk."""
    if path.startswith("/") or (expands and path.startswith("${")):
        return ""
    if path != path.lstrip():
        return "begins with a blank: write the whole path, from / on"
    if path.startswith("~"):
        return 'begins with "~", which only a shell replaces: write the whole path, from / on'
    return "is not a whole path: what it means depends on the working directory, so write it from / on"


def uri_problem(uri: str, *, expands: bool = False) -> str:
    """What is wrong with a repository's address. A scheme that is none of restic's is restic's to refuse."""
    if uri != uri.lstrip():
        return "begins with a blank"
    path = local_path(uri)
    if path is None or (path == uri and ":" in uri.partition("/")[0]):
        return ""
    return path_problem(path, expands=expands)


def variable_problem(entry: str, *, expands: bool = False) -> str:
    """What is wrong with NAME=VALUE for restic's environment."""
    name, _, value = entry.partition("=")
    if name == "RESTIC_REPOSITORY":
        return uri_problem(value, expands=expands)
    return path_problem(value, expands=expands) if value and _FILE_VARIABLES.fullmatch(name) else ""


def flags_problem(words: Iterable[str], *, expands: bool = False) -> str:
    """What is wrong with the first of these flags, already split, that names a file by a part of its path."""
    for name, value in _named(words):
        # "-" is stdin to --files-from, which restic started by us does not have; restic says so itself.
        if value and value != "-" and (problem := path_problem(value, expands=expands)):
            return f"the file of {name} {problem}"
    return ""


def _named(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(flag, value) of each flag that names a file: --name=value, --name value, -pvalue, -p value."""
    waiting = ""
    for word in words:
        if waiting:
            yield waiting, word
            waiting = ""
            continue
        name, equals, value = word.partition("=")
        if word.startswith("-p") and word != "-p":
            yield "-p", word[2:].removeprefix("=")
        elif _FILE_FLAGS.fullmatch(name):
            if equals:
                yield name, value
            else:
                waiting = name


def pattern_problem(pattern: str) -> str:
    """Why restic would refuse this pattern, and with it the whole backup: each part between slashes must be one of Go's
    filepath.Match."""
    for part in pattern.removeprefix("!").split("/"):
        if problem := _part_problem(part):
            return problem
    return ""


def _part_problem(part: str) -> str:
    at, end = 0, len(part)

    def character() -> bool:
        """Pass over one character of a range, perhaps escaped; whether there was one, and more behind it."""
        nonlocal at
        if at >= end or part[at] in "-]":
            return False
        at += 2 if part[at] == "\\" else 1
        return at < end

    while at < end:
        if part[at] == "\\":
            at += 2
            if at > end:
                return 'ends with "\\": write "\\\\" for the character itself'
            continue
        if part[at] != "[":
            at += 1
            continue
        at += 1
        if part.startswith("^", at):
            at += 1
        filled = False
        while not (filled and part.startswith("]", at)):
            good = character()
            if good and part.startswith("-", at):
                at += 1
                good = character()
            if not good:
                return 'has a "[" without a range and its "]" behind it: write "\\[" for the character itself'
            filled = True
        at += 1
    return ""

"""restic's JSON (0.14 to 0.19) to the messages of the history.

restic's output is taken as it comes: a field that is missing, null or of another type than expected counts as
zero, because versions differ and more than one wrote each repository. What must be right is an id (64 hex
digits) and a time; for those ValueError is raised, and of a list only that entry is passed over. Texts lose what
protobuf cannot hold (lone surrogates) and are bounded, because an operation travels to other machines.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backrest.wire import restic

# One text field (a path, a message). PATH_MAX is 4096 on Linux.
MAX_TEXT = 4096

# restic names the files in work, one per reader; it has at most a few dozen readers.
MAX_CURRENT_FILES = 32

_ID = re.compile(r"[0-9a-f]{64}")
_FRACTION = re.compile(r"\.(\d{1,9})\d*")
_INT64 = 1 << 63

_COUNTS = (
    "files_new",
    "files_changed",
    "files_unmodified",
    "dirs_new",
    "dirs_changed",
    "dirs_unmodified",
    "data_blobs",
    "tree_blobs",
    "data_added",
    "total_files_processed",
    "total_bytes_processed",
)


def _whole_number(digits: str) -> int | float:
    """A number of any length, in time that does not grow with its square; what no int64 holds is infinite."""
    return int(digits) if len(digits) < 40 else math.inf


_JSON = json.JSONDecoder(parse_int=_whole_number)
_TYPE = '{"message_type"'  # restic writes it first
_BEGINNING = re.compile(r"[\[{]|^null\b", re.MULTILINE)


def is_object(found: object) -> bool:
    """Whether it may be the document of ``cat config`` or ``init``."""
    return isinstance(found, dict) and "id" in found


def is_list(found: object) -> bool:
    """Whether it may be a list of snapshots or of a forget's groups."""
    return found is None or (isinstance(found, list) and all(isinstance(item, dict) for item in found))


def document(output: bytes, fits: Callable[[Any], bool]) -> tuple[Any, str]:
    """The first JSON document in ``output`` that ``fits``, and the text around it (warnings, a wrapper's output).

    The document is None for no output at all. ValueError if there is none in it. Each byte is looked at once: what
    was read in vain, like a document that breaks off, is not searched for another one.
    """
    whole = output.decode("utf-8", "replace")
    if not whole.strip():
        return None, ""
    at = 0
    while begins := _BEGINNING.search(whole, at):
        try:
            found, at = _JSON.raw_decode(whole, begins.start())
        except json.JSONDecodeError as error:
            at = max(error.pos, begins.start() + 1)
            continue
        except RecursionError:
            raise ValueError("the JSON in its output is nested too deeply") from None
        if fits(found):
            return found, whole[: begins.start()] + whole[at:]
    raise ValueError("there is no JSON in its output that this program knows")


def message(line: bytes) -> dict[str, Any] | None:
    """The message on one line of a stream, or None if the line is text."""
    return message_in(line)[0]


def message_in(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The message that a line holds, and the text around it; None if all of it is text."""
    whole = line.decode("utf-8", "replace")
    begins = 0 if whole.startswith("{") else whole.find(_TYPE)
    if begins < 0:
        return None, whole
    try:
        found, ends = _JSON.raw_decode(whole, begins)
    except (ValueError, RecursionError):
        return None, whole
    if not isinstance(found, dict) or not isinstance(found.get("message_type"), str):
        return None, whole
    return found, (whole[:begins] + whole[ends:]).strip()


def text(value: object, limit: int = MAX_TEXT) -> str:
    """A string that protobuf can hold, cut at ``limit`` characters."""
    if not isinstance(value, str):
        return ""
    return value[:limit].encode("utf-8", "replace").decode()


def integer(value: object) -> int:
    """An int64; a number beyond it, or no number, is 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if -_INT64 <= value < _INT64 else 0  # false for a NaN, too


def number(value: object) -> float:
    """A finite float, or 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        found = float(value)
    except OverflowError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def texts(value: object) -> list[str]:
    """A list of strings; null and anything else is empty."""
    return [text(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []


def identifier(value: object) -> str:
    """A full id of restic's; ValueError otherwise (an outdated restic prints short ones)."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(
            f"{text(value, 80)!r} is not a full snapshot id of 64 characters: is this restic outdated?"
        )
    return value


def is_full_id(value: str) -> bool:
    """Whether ``value`` is a whole id."""
    return bool(_ID.fullmatch(value))


def time_ns(value: object) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with up to nine digits of a second."""
    if not isinstance(value, str):
        raise ValueError("a snapshot without a time")
    fraction = _FRACTION.search(value)
    whole = _FRACTION.sub("", value, count=1)
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError:
        raise ValueError(f"{text(value, 80)!r} is not a time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _SECOND
    return seconds * 1_000_000_000 + (int(fraction[1].ljust(9, "0")) if fraction else 0)


# The years that every clock, calendar and time zone of this program and its peers can show.
_LATEST_MS = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 1000
_SECOND = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)


def status(found: Mapping[str, Any], before: Sequence[str] = ()) -> restic.BackupProgressStatusEntry:
    """A ``status`` message. One that names no current files keeps those named ``before``."""
    files = texts(found.get("current_files"))[:MAX_CURRENT_FILES]
    return restic.BackupProgressStatusEntry(
        percent_done=number(found.get("percent_done")),
        total_files=integer(found.get("total_files")),
        total_bytes=integer(found.get("total_bytes")),
        files_done=integer(found.get("files_done")),
        bytes_done=integer(found.get("bytes_done")),
        current_file=files or before,
    )


def backup_summary(found: Mapping[str, Any]) -> restic.BackupProgressSummary:
    """A ``summary`` message; its snapshot id may be a short one (restic before 0.15) or empty (nothing was
    saved).
    """
    return restic.BackupProgressSummary(
        **{name: integer(found.get(name)) for name in _COUNTS},
        # A skipped snapshot has no end, and 0.18 says that it took minus 292 years.
        total_duration=max(0.0, number(found.get("total_duration"))),
        snapshot_id=text(found.get("snapshot_id"), 64),
    )


# restic 0.14 to 0.16 print many errors as an empty object.
UNSAID = "restic does not say why"


def backup_error(found: Mapping[str, Any]) -> restic.BackupProgressError:
    """An ``error`` message. Before 0.17.1 its reason is a PathError of Go: operation, path, errno."""
    inner = found.get("error")
    if not isinstance(inner, dict):
        inner = {"message": inner}
    reason = text(inner.get("message"))
    if not reason:
        parts = [text(inner.get("Op")), text(inner.get("Path") or inner.get("Name"))]
        reason = " ".join(part for part in parts if part)
        problem = inner.get("Err")
        if problem:
            why = _errno(problem) if isinstance(problem, int) else text(problem)
            reason = f"{reason}: {why}" if reason else why
    return restic.BackupProgressError(
        item=text(found.get("item")), during=text(found.get("during"), 100), message=text(reason) or UNSAID
    )


def _errno(number: int) -> str:
    # C's int: strerror raises for what is larger.
    return os.strerror(number).lower() if 0 < number < 1 << 31 else f"error {integer(number)}"


def snapshot(found: object) -> restic.ResticSnapshot:
    """One snapshot of ``snapshots --json`` or of a forget's list. ValueError without a full id and a time.

    The summary (restic 0.17 and later) has its duration in whole milliseconds, as the reference writes it.
    """
    if not isinstance(found, dict):
        raise ValueError("a snapshot that is not an object")
    made_ms = time_ns(found.get("time")) // 1_000_000
    if not 0 <= made_ms < _LATEST_MS:
        raise ValueError(f"{text(found['time'], 80)!r} is not a time between 1970 and 9998")
    result = restic.ResticSnapshot(
        id=identifier(found.get("id")),
        unix_time_ms=made_ms,
        hostname=text(found.get("hostname")),
        username=text(found.get("username")),
        tree=text(found.get("tree"), 64),
        parent=text(found.get("parent"), 64),
        paths=texts(found.get("paths")),
        tags=texts(found.get("tags")),
    )
    summary = found.get("summary")
    if isinstance(summary, dict):
        for name in _COUNTS:
            setattr(result.summary, name, integer(summary.get(name)))
        result.summary.total_duration = duration_ms(summary) / 1000
        result.summary.SetInParent()
    return result


def duration_ms(summary: Mapping[str, Any]) -> int:
    """Whole milliseconds between a summary's backup_start and backup_end; 0 if they are missing or make no
    sense.
    """
    try:
        return max(
            0, (time_ns(summary.get("backup_end")) - time_ns(summary.get("backup_start"))) // 1_000_000
        )
    except ValueError:
        return 0


# One snapshot as an operation, which must be far below a megabyte (sync's bound for one operation). restic's longest
# list in a snapshot is that of its paths; some hundred of them take 50 KiB.
MAX_SNAPSHOT = 512 * 1024


@dataclass(frozen=True, slots=True)
class Skipped:
    """A snapshot of the repository that this program cannot keep, and why. One such must not stop all others."""

    id: str
    """whole, or "" """
    reason: str

    def words(self) -> str:
        return f"snapshot {self.id[:8] or 'without an id'} is passed over: {self.reason}"


@dataclass(frozen=True, slots=True)
class Listing:
    """Snapshots, oldest first, and those that are passed over."""

    snapshots: list[restic.ResticSnapshot]
    skipped: list[Skipped]


def snapshots(found: object) -> Listing:
    """The list of ``snapshots --json``; null and no output are an empty one. ValueError for what is no list."""
    if found is None:
        return Listing([], [])
    if not isinstance(found, list):
        raise ValueError("its list of snapshots is not a list")
    good: list[restic.ResticSnapshot] = []
    skipped = []
    for one in found:
        try:
            made = snapshot(one)
            if made.ByteSize() > MAX_SNAPSHOT:
                raise ValueError(f"it is larger than {MAX_SNAPSHOT >> 10} KiB (its tags, its paths)")
            good.append(made)
        except ValueError as error:
            named = one.get("id") if isinstance(one, dict) else None
            skipped.append(Skipped(named if isinstance(named, str) and is_full_id(named) else "", str(error)))
    good.sort(key=lambda one: (one.unix_time_ms, one.id))
    return Listing(good, skipped)


def removed(found: object) -> Listing:
    """What ``forget --json`` removed, over all its groups."""
    if found is None:
        return Listing([], [])
    if not isinstance(found, list):
        raise ValueError("its list of groups is not a list")
    gone = [
        one
        for group in found
        if isinstance(group, dict) and isinstance(group.get("remove"), list)
        for one in group["remove"]
    ]
    return snapshots(gone)


def words_of(skipped: Sequence[Skipped]) -> list[str]:
    """A sentence for each, up to a bound."""
    return [one.words() for one in skipped[:MAX_NAMED]] + (
        [f"and {len(skipped) - MAX_NAMED} more"] if len(skipped) > MAX_NAMED else []
    )


# Of a list in a message or a log: what a person reads.
MAX_NAMED = 10


def tag(found: restic.ResticSnapshot, kind: str) -> str:
    """The value of the first tag ``<kind>:<value>``, or an empty string."""
    start = f"{kind}:"
    return next((one[len(start) :] for one in found.tags if one.startswith(start)), "")

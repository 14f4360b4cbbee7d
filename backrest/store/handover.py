"""The history of this machine passes from the Go program to this one.

A hub deletes what a client's manifest lacks. A machine that ran the Go program and starts here with an empty log would
lose its history at every hub at the first session. So while ``oplog.sqlite`` is there and its history is neither
imported nor given up, it *waits*: backups run and are recorded, and no hub is dialled.

The import writes a new log beside the old one and renames it: a kill before that leaves everything as it was, so it can
be repeated. Ids, modnos and flows stay as they are: they are what hubs know. Our log begins to count at the wall clock
in milliseconds, far above the Go program's numbers. So what was recorded here meanwhile follows what is imported.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from backrest import wire
from backrest.errors import ConflictError, StorageError, UserError
from backrest.store import opcompact, opload, opsaved, syscalls
from backrest.store.files import AppendFile, atomic_write, discard, rename_durably, sweep_temps
from backrest.store.golog import GoLog, Row
from backrest.store.opcore import modno_of_a_new_log
from backrest.store.opcut import MOST_BYTES, cut
from backrest.store.opformat import HIGHEST, MAX_LINE, Operation, mark, operation_line, problem
from backrest.store.opindex import Index
from backrest.store.opload import Progress
from backrest.store.oplog import OpLog
from backrest.store.paths import Paths
from backrest.store.syscalls import storage_error
from backrest.wire import codec

# Lines written and synced at a time.
_BATCH_BYTES = 4 << 20
# Rows that cannot be read, and other names of the machine, that are named in a result; the others are counted.
NAMED = 10
# Between two reports.
_REPORT_ROWS = 512

INTERRUPTED = "the operation was interrupted: the Go program ended while it ran"

WAITS = (
    "The history that the Go program (Backrest) has kept of this machine is not imported, and hubs would delete it: no "
    "hub is dialled. Import it with `backrest ops import --from-reference`, or go on without it with `backrest ops "
    "import --without-reference`, while no daemon runs"
)

Status = wire.operations.OperationStatus
_CANCELLED = (Status.STATUS_USER_CANCELLED, Status.STATUS_SYSTEM_CANCELLED)
# Never run; the Go program drops them, too, when it starts.
_SKIPPED = (Status.STATUS_PENDING, Status.STATUS_UNKNOWN)


def waits(paths: Paths) -> bool:
    """Whether the Go program's history is there, and neither imported nor given up."""
    if os.path.lexists(paths.history_waits):
        return True
    return os.path.lexists(paths.reference_oplog) and not os.path.lexists(paths.oplog)


def open_log(paths: Paths, hubs: int, now_ms: int) -> OpLog:
    """The operation log, made when there is none. The caller holds the lock of the data directory."""
    first = modno_of_a_new_log(hubs, now_ms)
    if waits(paths):
        first = now_ms
        _wait(paths)  # before the log is there: from then on nothing else shows it
    return OpLog.open(paths.oplog, first_modno=first)


def _wait(paths: Paths) -> None:
    if not os.path.lexists(paths.history_waits):
        atomic_write(paths.history_waits, f"{WAITS}.\n".encode())


def settle(paths: Paths) -> None:
    """It waits no more; for when our log exists."""
    sweep_temps(paths.history_waits, older_than_s=-math.inf)
    try:
        syscalls.disk.unlink(os.fspath(paths.history_waits))
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error("remove", paths.history_waits, error) from error
    # A power cut that brings it back does no harm: another import, or another giving up, finds that it was done.
    with suppress(OSError):
        syscalls.disk.fsync_dir(os.fspath(paths.data_dir))


def give_up(paths: Paths, now_ms: int) -> None:
    """Go on without that history, for good."""
    if not os.path.lexists(paths.oplog):
        atomic_write(paths.oplog, mark(now_ms, now_ms))
    settle(paths)


@dataclass(slots=True)
class Imported:
    """What became of the rows. Each own one is in exactly one of ``imported``, ``skipped`` and ``unreadable``."""

    imported: int = 0
    cancelled: int = 0  # of these
    interrupted: int = 0  # of these: they ran when the Go program ended, and are recorded as failed
    skipped: int = 0  # they waited to be run
    unreadable: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)  # of the first of these: id, reason
    foreign: int = 0  # received from other instances, which send it again
    other_names: dict[str, int] = field(default_factory=dict)  # of the imported: under other instance ids
    again: bool = False  # it was imported before: nothing was done


def take_over(
    paths: Paths,
    source: GoLog,
    instance: str,
    guids: Mapping[str, str],
    now_ms: int,
    progress: Progress | None = None,
) -> Imported:
    """Put the Go program's own operations before what our log has. ``guids``: of the repositories, by their ids.

    ConflictError: this machine has a history of its own already. UserError: it is another machine's.
    """
    if source.highest_id > HIGHEST or source.highest_modno > HIGHEST:
        raise UserError(f"{source.path} has numbers that no log has come to: it is damaged")
    waited = waits(paths)
    sweep_temps(paths.oplog, older_than_s=-math.inf)  # of an import that was killed; nobody else works here
    old = AppendFile(paths.oplog) if os.path.lexists(paths.oplog) else None
    try:
        index = Index() if old is None else opload.load(old)
        first = next(iter(index.ids), 0)
        if (
            waited and 0 < first <= source.highest_id
        ):  # ours begin at the wall clock: it was killed right before the end
            settle(paths)
            return Imported(again=True)
        if old is not None and not waited and index.origins[""].count:
            raise ConflictError(
                f"this machine has a history already ({paths.oplog}): the Go program's is imported once, before "
                "anything else is recorded"
            )
        if 0 < first <= source.highest_id:
            raise ConflictError(
                f"{paths.oplog} uses the same numbers as {source.path}: only an empty log can be followed by an import"
            )
        result = _write(paths, source, instance, guids, now_ms, old, index, progress)
    finally:
        if old is not None:
            old.close()
    settle(paths)
    return result


def _write(
    paths: Paths,
    source: GoLog,
    instance: str,
    guids: Mapping[str, str],
    now_ms: int,
    old: AppendFile | None,
    index: Index,
    progress: Progress | None,
) -> Imported:
    """The new log, in the place of the old one."""
    path = os.fspath(paths.oplog)
    temporary = opcompact.temporary(path)
    new: AppendFile | None = None
    try:
        new = AppendFile(temporary)
        new.take_owner(paths.data_dir)
        numbers = max(now_ms, source.highest_id, index.highest_id)
        copy = _Copy(
            new, source, instance, guids, max(now_ms, source.highest_modno, index.highest_modno), progress
        )
        new.append([mark(numbers, copy.modno)])
        copy.run()
        result = copy.result
        if old is not None:
            opcompact.copy_tail(old, new, 0, old.length)
        new.append([mark(numbers, copy.modno)])
        bad = opload.read_into(Index(), new.read, new.length)
        if bad is not None:
            raise StorageError(f"Cannot import {source.path}: it was changed meanwhile ({bad.reason}).")
        if old is not None:
            discard(opsaved.path_of(path))
        _wait(paths)  # until the rename is known to be durable
        rename_durably(temporary, os.path.realpath(path))
        return result
    except BaseException:
        discard(temporary)
        raise
    finally:
        if new is not None:
            new.close()


class _Copy:
    """The rows become lines."""

    def __init__(
        self,
        new: AppendFile,
        source: GoLog,
        instance: str,
        guids: Mapping[str, str],
        modno: int,
        progress: Progress | None,
    ) -> None:
        self.result = Imported(foreign=source.total - source.own)
        self.modno = modno  # the highest given out
        self._new = new
        self._source = source
        self._instance = instance
        self._guids = guids
        self._progress = progress
        self._lines: list[bytes] = []
        self._size = 0

    def run(self) -> None:
        for number, row in enumerate(self._source.rows(), 1):
            try:
                line = self._line(row)
            except ValueError as error:
                self.result.unreadable += 1
                if len(self.result.problems) < NAMED:
                    self.result.problems.append((row.id, str(error)))
                continue
            finally:
                if self._progress is not None and (number % _REPORT_ROWS == 0 or number == self._source.own):
                    self._progress(number, self._source.own)
            if line:
                self._lines.append(line)
                self._size += len(line)
                if self._size >= _BATCH_BYTES:
                    self._flush()
        self._flush()
        mine = self.result.imported - sum(self.result.other_names.values())
        if self.result.other_names and not mine:
            names = ", ".join(map(repr, self.result.other_names))
            raise UserError(
                f"{self._source.path} is the history of {names}, and this machine is {self._instance!r}: import it "
                "where it was made"
            )

    def _flush(self) -> None:
        if self._lines:
            self._new.append(self._lines)
            self._lines, self._size = [], 0

    def _line(self, row: Row) -> bytes:
        """ValueError: why it cannot be kept. Nothing: it need not be."""
        operation = self._operation(row)
        if operation.original_instance_keyid:
            self.result.foreign += 1
            return b""
        if operation.status in _SKIPPED:
            self.result.skipped += 1
            return b""
        interrupted = operation.status == Status.STATUS_INPROGRESS
        if interrupted:
            # As after a kill of our own (engine/recover.py); hubs have it as running, so it is a change.
            self.modno += 1
            operation.modno = self.modno
            operation.status = Status.STATUS_ERROR
            operation.unix_time_end_ms = operation.unix_time_start_ms
            before = operation.display_message
            operation.display_message = f"{INTERRUPTED}\n\n{before}" if before else INTERRUPTED
        doc = codec.to_dict(operation)
        reason = problem(doc)
        if reason is not None:
            raise ValueError(reason)
        line = operation_line(doc)
        if len(line) > MOST_BYTES:
            if not cut(doc, len(line)):
                raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
            line = operation_line(doc)
        self.result.imported += 1
        self.result.interrupted += interrupted
        self.result.cancelled += operation.status in _CANCELLED
        if operation.instance_id != self._instance:
            names = self.result.other_names
            name = operation.instance_id if operation.instance_id in names or len(names) < NAMED else "..."
            names[name] = names.get(name, 0) + 1
        return line

    def _operation(self, row: Row) -> Operation:
        """With the numbers of its columns, which are those of the manifest, and what older versions left out."""
        if row.body is None:
            raise ValueError(f"no operation, or one larger than {MAX_LINE >> 20} MiB")
        try:
            operation = Operation.FromString(row.body)
        except DecodeError:
            raise ValueError("not an operation: it is damaged") from None
        flow = row.flow_id or row.id
        if row.id <= 0 or row.modno <= 0 or flow <= 0 or max(row.id, row.modno, flow) > HIGHEST:
            raise ValueError("its id, modno or flow is no number that a log counts to")
        operation.id, operation.modno, operation.flow_id = row.id, row.modno, flow
        for name in ("original_id", "original_flow_id"):
            operation.ClearField(name)
        if not operation.repo_guid and operation.repo_id:  # ENGINE.md 2.6
            guid = (
                self._guids.get(operation.repo_id) or hashlib.sha256(operation.repo_id.encode()).hexdigest()
            )
            operation.repo_guid = guid
        if not operation.instance_id:
            operation.instance_id = "_unassociated_"
        return operation

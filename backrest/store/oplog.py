"""The operation log: every operation of this instance and of its clients, in one file of JSON lines.

The file (opformat.py says what its lines look like) is the truth; in memory is only an index of it
(opindex.py). A change is written and synced first, then the index changes, then the subscribers are told, and
then the writer's call returns. Writers that come while another's sync is under way are joined: the next one
to get the lock commits for all who wait, with one write and one sync. When that fails, all of them get
StorageError, and file and memory are as before.

Two locks, always taken in this order: ``_commits`` is held through a whole commit (work out, write, change,
tell), so commits and what is told of them have one order; ``_lock`` guards the index and the current file,
for moments only, so reading goes on during a write. Bodies are read from the file outside of both.

What this cannot promise: that a write which failed is absent after a power cut (it may come back whole;
nobody was told that it was stored, and a caller that tries again may then find it twice).
"""

from __future__ import annotations

import logging
import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from backrest.errors import NotFoundError, StorageError
from backrest.store import opload, opquery, opstage, syscalls
from backrest.store.files import AppendFile, atomic_write, sweep_temps
from backrest.store.opchange import Attachment, Callback, Change, Predicate
from backrest.store.opfile import LogFile, operations, read_lines
from backrest.store.opformat import SPACE, Operation, mark
from backrest.store.opheld import Held
from backrest.store.opindex import Index, Meta
from backrest.store.opquery import Query
from backrest.store.opstage import Applied, Stage
from backrest.store.syscalls import storage_error

__all__ = ["Applied", "Attachment", "Change", "Meta", "OpLog", "Query"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_Plan = Callable[[Stage], tuple[T, list[Change]]]

# Bodies read and handed out at a time by query and read: 512 is also what one message of the sync carries.
READ_BATCH = 512


class _Request:
    """One caller's part of a commit."""

    __slots__ = ("changes", "done", "error", "plan", "result")

    def __init__(self, plan: _Plan[Any]) -> None:
        self.plan = plan
        self.result: Any = None
        self.changes: list[Change] = []
        self.error: Exception | None = None
        self.done = False

    def fail(self, error: Exception) -> None:
        self.error, self.done = error, True


class OpLog:
    """See the module's text. All methods block and can be called from any thread."""

    def __init__(self, file: AppendFile, index: Index) -> None:
        """Use ``open``."""
        self.path = file.path
        self._file = LogFile(file)
        self._index = index
        self._commits = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._committer = 0  # the thread that holds _commits
        self._subscribers: tuple[Callback, ...] = ()
        self._broken = ""  # why nothing can be written any more
        self._written = False  # since the last mark
        self._directory_unsynced = False  # a compaction's rename is not known to be durable

    @classmethod
    def open(cls, path: str | os.PathLike[str], progress: opload.Progress | None = None) -> OpLog:
        """Open, or create. What a power cut left of a last, unacknowledged write is cut off.

        Raises CorruptError (file, line, reason; nothing is changed) or StorageError.
        """
        sweep_temps(path)
        if not os.path.lexists(path):
            atomic_write(path, mark(0, 0))
        file = AppendFile(path)
        try:
            return cls(file, opload.load(file, progress))
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Closes the file, after what is being written. Closing twice is allowed."""
        with self._commits:
            if self._broken == _CLOSED:
                return
            if self._written and not self._broken:
                try:  # only a help to later diagnosis (opformat.py): what was acknowledged is safe already
                    self._append([mark(self._index.highest_id, self._index.highest_modno)[1:]])
                except StorageError as error:
                    log.warning("closing the operation log: %s", error)
            self._broken = _CLOSED
            self._file.retire()

    # Writing

    def add(self, ops: Sequence[Operation]) -> list[Operation]:
        """New operations of our own, as they were stored: with id, modno and flow_id (its id, unless given).

        All or none: UserError when one is not valid or brings an id or modno of its own.
        """
        return self._submit(partial(opstage.add, operations=list(ops)))

    def update(self, ops: Sequence[Operation]) -> list[Operation]:
        """Operations of our own in the place of those with their ids, each with a fresh modno.

        All or none: NotFoundError for an unknown id, UserError for a peer's operation or an invalid one.
        """
        return self._submit(partial(opstage.update, operations=list(ops)))

    def delete(self, ids: Iterable[int]) -> list[int]:
        """The ids that existed and are gone, of whatever origin; unknown ones are ignored."""
        return self._submit(partial(opstage.delete, ids=list(ids)))

    def apply(
        self,
        keyid: str,
        upserts: Sequence[Operation] = (),
        deletes: Iterable[int] = (),
        *,
        keep_newer: bool = False,
    ) -> Applied:
        """What a peer sent, under its ids (PROTOCOL.md 6): first the operations, then the ids it deleted.

        May be repeated: what is held already in the same state is not written again. Each operation is judged
        on its own; an invalid one is reported and not stored. ``keep_newer`` leaves what is held alone when
        its modno is higher (for live changes, which the reference may send in the wrong order, W-19; not for
        answers to a request, where the manifest has decided). Fields that our schema lacks are not kept.
        """
        if not keyid:
            raise ValueError("operations of a peer need its key id")
        return self._submit(
            partial(opstage.apply, keyid=keyid, upserts=upserts, deletes=list(deletes), keep_newer=keep_newer)
        )

    def purge(self, keyid: str) -> int:
        """Delete all that is held of a peer. How many operations that were."""
        if not keyid:
            raise ValueError("our own operations cannot be purged")

        def plan(stage: Stage) -> tuple[list[int], list[Change]]:
            return opstage.delete(stage, opquery.select(stage.index, Query(origin=keyid)))

        return len(self._submit(plan))

    def _submit(self, plan: _Plan[T]) -> T:
        """Returns when the plan's lines are durable and everybody has been told; raises when they are not."""
        if self._committer == threading.get_ident():
            raise RuntimeError("a subscriber of the operation log must not write to it")
        request = _Request(plan)
        self._waiting.append(request)
        with self._commits:
            if not request.done:
                self._committer = threading.get_ident()
                try:
                    self._commit()
                finally:
                    self._committer = 0
        if request.error is not None:
            raise request.error
        return cast(T, request.result)

    def _commit(self) -> None:
        """One commit for all who wait. On return each of them is done, or failed."""
        requests = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            stage = self._plan(requests)
            if stage.lines:
                offset = self._append(stage.lines) + 1
                try:
                    with self._lock:
                        stage.settle(offset)
                except BaseException:
                    self._broken = "memory and file are out of step: restart the program"
                    raise
            for request in requests:
                if not request.done:
                    request.done = True
                    for change in request.changes:
                        self._tell(change)
        except StorageError as error:
            for request in requests:
                if not request.done:
                    # to each its own: an exception that is raised in two threads mixes up their tracebacks
                    request.fail(type(error)(str(error)) if type(error) is StorageError else error)
        finally:
            for request in requests:
                if not request.done:
                    request.fail(StorageError(f"Cannot append to {self.path}: the write was interrupted."))

    def _plan(self, requests: list[_Request]) -> Stage:
        """The stage with everything that the requests want; those that ask for what cannot be are failed."""
        while True:
            stage = Stage(self._index, self._line, bool(self._subscribers))
            for request in requests:
                if request.done:
                    continue
                lines = len(stage.lines)
                try:
                    request.result, request.changes = request.plan(stage)
                except Exception as error:
                    request.fail(error)
                    if len(stage.lines) > lines:  # it had begun: work the others out again without it
                        break
            else:
                return stage

    def _append(self, lines: list[bytes]) -> int:
        """Write and sync; the offset of the commit's leading space. StorageError, with nothing changed."""
        if self._broken:
            raise StorageError(f"Cannot append to {self.path}: {self._broken}.")
        if self._directory_unsynced:
            try:
                syscalls.disk.fsync_dir(os.path.dirname(os.path.abspath(self.path)))
            except OSError as error:
                raise storage_error("append to", self.path, error) from error
            self._directory_unsynced = False
        offset = self._file.file.append([SPACE, *lines])
        self._written = True
        return offset

    # Being told

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Calls back for every change from now on (opchange.py has the rules). Returns what ends it."""
        with self._exclusive():
            self._subscribers += (callback,)
        return partial(self._unsubscribe, callback)

    def attach(self, callback: Callback, predicate: Predicate) -> Attachment:
        """The manifest of our own operations that the predicate accepts, and every later change of them.

        In one step: each change is either in the manifest or told, and none is both. The predicate is asked
        once for each set of operations that agree in repo, plan and instance, and must not change its mind.
        """
        attachment = Attachment(self, callback, predicate)
        with self._exclusive():
            with self._lock:
                index = self._index
                groups = opquery.groups_where(index, lambda meta: not meta.origin and predicate(meta))
                rows = [row for row, group in enumerate(index.groups) if group in groups] if groups else []
                attachment.manifest_ids = array("q", [index.ids[row] for row in rows])
                attachment.manifest_modnos = array("q", [index.modnos[row] for row in rows])
            attachment.begin(partial(self._unsubscribe, attachment.tell))
            self._subscribers += (attachment.tell,)
        return attachment

    def _exclusive(self) -> threading.Lock:
        if self._committer == threading.get_ident():
            raise RuntimeError("a subscriber of the operation log must not subscribe others")
        return self._commits

    def _unsubscribe(self, callback: Callback) -> None:
        with self._lock:
            self._subscribers = tuple(other for other in self._subscribers if other != callback)

    def _tell(self, change: Change) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(change)
            except Exception:  # the write is done, and the other subscribers must hear of it
                log.exception("a subscriber of the operation log failed")

    # Reading

    def get(self, number: int) -> Operation:
        """The operation with our id ``number``; NotFoundError."""
        for operation in self.read((number,)):
            return operation
        raise NotFoundError(f"Operation {number} does not exist")

    def read(self, ids: Iterable[int], predicate: Predicate | None = None) -> Iterator[Operation]:
        """Those of the ids that exist and that the predicate accepts, in the order given."""
        numbers = list(ids)
        for start in range(0, len(numbers), READ_BATCH):
            yield from self._read(numbers[start : start + READ_BATCH], predicate)

    def _read(self, numbers: Sequence[int], predicate: Predicate | None) -> list[Operation]:
        found, places = [], []
        with self._lock:
            index = self._index
            for number in numbers:
                row = index.row(number)
                if row is not None and (predicate is None or predicate(index.metas[index.groups[row]])):
                    found.append(number)
                    places.append((index.offsets[row], index.lengths[row]))
            if not found:
                return []
            current = self._file
            current.hold()
        try:
            return operations(current.file, found, places)
        finally:
            current.release()

    def _line(self, number: int) -> bytes:
        """The line of a live operation, with its line end; called during a commit."""
        row = self._index.row(number)
        assert row is not None
        place = self._index.offsets[row], self._index.lengths[row]
        return read_lines(self._file.file, [place])[0].lstrip() + b"\n"

    def query(self, query: Query) -> Iterator[Operation]:
        """What matches now, in the order (start time, id). Bodies are read as the caller goes on.

        What is deleted meanwhile is left out; what changes meanwhile comes as it is when it is read.
        """
        ids = self.select(query)
        for start in range(0, len(ids), READ_BATCH):
            for operation in self._read(ids[start : start + READ_BATCH], None):
                if query.snapshot_id is None or operation.snapshot_id == query.snapshot_id:
                    yield operation

    def select(self, query: Query) -> array[int]:
        """The ids of what matches, in the query's order, without reading bodies (a snapshot id is compared
        by its hash)."""
        with self._lock:
            return opquery.select(self._index, query)

    def matching(self, query: Query) -> int:
        """How many operations match, whatever limit and offset say."""
        with self._lock:
            return opquery.count(self._index, query)

    def meta(self, number: int) -> Meta | None:
        """Origin, repo, plan and instance of an operation, without reading it; None when there is none."""
        with self._lock:
            return self._index.meta(number)

    def count(self, origin: str = "") -> int:
        """How many operations are held of a peer, or ("") are our own."""
        with self._lock:
            found = self._index.origins.get(origin)
            return found.count if found is not None else 0

    def origins(self) -> list[str]:
        """The key ids of the peers of whom something is held, also of those that are no clients any more."""
        with self._lock:
            return [keyid for keyid, origin in self._index.origins.items() if keyid and origin.count]

    def held(self, keyid: str) -> Mapping[int, int]:
        """Original id -> modno of all that is held of a peer, as it is now."""
        with self._lock:
            return Held(*self._index.held(keyid))

    @property
    def highest(self) -> tuple[int, int]:
        """(highest id, highest modno of our own) ever given out."""
        with self._lock:
            return self._index.highest_id, self._index.highest_modno

    @property
    def size(self) -> tuple[int, int]:
        """(bytes of the file, bytes of it that are still needed)."""
        with self._lock:
            return self._file.file.length, self._index.live_bytes


_CLOSED = "it is closed"

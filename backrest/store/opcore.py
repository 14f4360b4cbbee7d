"""The core of the operation log: the file, the index of it, and the commits that change both.

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
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Self, TypeVar, cast

from backrest.errors import StorageError
from backrest.store import opcompact, opload, opsaved, syscalls
from backrest.store.files import AppendFile, atomic_write, discard, sweep_temps
from backrest.store.opchange import Callback, Change
from backrest.store.opcompact import Compacted
from backrest.store.opfile import LogFile, read_lines
from backrest.store.opformat import SPACE, mark
from backrest.store.opindex import Index
from backrest.store.opsnapshot import Snapshot
from backrest.store.opstage import Stage
from backrest.store.syscalls import storage_error

log = logging.getLogger(__name__)
T = TypeVar("T")
#: works out one caller's part of a commit: its result, and what to tell the subscribers
Plan = Callable[[Stage], tuple[T, list[Change]]]

_CLOSED = "it is closed"


class _Request:
    """One caller's part of a commit."""

    __slots__ = ("changes", "done", "error", "plan", "result")

    def __init__(self, plan: Plan[Any]) -> None:
        self.plan = plan
        self.result: Any = None
        self.changes: list[Change] = []
        self.error: Exception | None = None
        self.done = False

    def fail(self, error: Exception) -> None:
        self.error, self.done = error, True


class OpCore:
    """See the module's text. All methods block and can be called from any thread."""

    def __init__(self, file: AppendFile, index: Index) -> None:
        """Use ``open``."""
        self.path = file.path
        self._file = LogFile(file)
        self._index = index
        self._commits = threading.Lock()
        self._lock = threading.Lock()
        self._compacting = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._committer = 0  # the thread that holds _commits
        self._subscribers: tuple[Callback, ...] = ()
        self._broken = ""  # why nothing can be written any more
        self._written = False  # since the last mark
        self._directory_unsynced = False  # a compaction's rename is not known to be durable
        self._stop_compacting = False
        self._covered = 0  # bytes of the file whose index is saved beside it (opsaved.py)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        progress: opload.Progress | None = None,
        *,
        first_modno: int = 0,
    ) -> Self:
        """Open, or create, with ids and modnos above ``first_modno``. What a power cut left of a last, unacknowledged
        write is cut off. The caller holds the lock of the data directory: what lies beside is nobody's.

        Raises CorruptError (file, line, reason; nothing is changed) or StorageError.
        """
        # At once, and not when they are old: of a log that is killed while it compacts, again and again, each leaves
        # one as large as itself.
        sweep_temps(path, older_than_s=-math.inf)
        sweep_temps(opsaved.path_of(os.fspath(path)), older_than_s=-math.inf)
        if not os.path.lexists(path):
            atomic_write(path, mark(first_modno, first_modno))
        file = AppendFile(path)
        try:
            known = opsaved.load(file, progress)
            self = cls(file, opload.load(file, progress, known))
        except BaseException:
            file.close()
            raise
        self._covered = known[1] if known is not None else 0
        self._save_index()
        return self

    def close(self) -> None:
        """Closes the file, after what is being written. Closing twice is allowed."""
        with self._commits:
            if self._broken == _CLOSED:
                return
            if not self._broken:
                try:
                    if (
                        self._written
                    ):  # a help to later diagnosis (opformat.py): what was acknowledged is safe already
                        self._append([mark(self._index.highest_id, self._index.highest_modno)[1:]])
                    else:
                        self._file.file.append(())  # what a refused write may have left must not come back
                except StorageError as error:
                    log.warning("closing the operation log: %s", error)
                self._write(self._image())
            self._broken = _CLOSED
            self._file.retire()

    # Commits

    def _submit(self, plan: Plan[T]) -> T:
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
            self._sync_directory()
        offset = self._file.file.append([SPACE, *lines])
        self._written = True
        return offset

    def _line(self, number: int) -> bytes:
        """The line of a live operation, with its line end; called during a commit."""
        row = self._index.row(number)
        assert row is not None
        place = self._index.offsets[row], self._index.lengths[row]
        return read_lines(self._file.file, [place])[0] + b"\n"

    # Being told

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Calls back for every change from now on (opchange.py has the rules). Returns what ends it."""
        with self._exclusive():
            return self._subscribe(callback)

    def _exclusive(self) -> threading.Lock:
        if self._committer == threading.get_ident():
            raise RuntimeError("a subscriber of the operation log must not subscribe others")
        return self._commits

    def _subscribe(self, callback: Callback) -> Callable[[], None]:
        """Called under the lock of the commits."""
        with self._lock:
            self._subscribers += (callback,)
        return partial(self._unsubscribe, callback)

    def _unsubscribe(self, callback: Callback) -> None:
        with self._lock:
            self._subscribers = tuple(other for other in self._subscribers if other != callback)

    def _tell(self, change: Change) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(change)
            except Exception:  # the write is done, and the other subscribers must hear of it
                log.exception("a subscriber of the operation log failed")

    # Housekeeping

    @property
    def size(self) -> tuple[int, int]:
        """(bytes of the file, bytes of it that are still needed)."""
        with self._lock:
            return self._file.file.length, self._index.live_bytes

    @property
    def overdue(self) -> bool:
        """Whether the file has grown so far beyond what is needed that peers must not write before it is compacted."""
        return opcompact.is_overdue(*self.size)

    def compact_overdue(self) -> None:
        """Compact if that is still overdue when a compaction that is under way has ended."""
        with self._compacting:
            if self.overdue:
                self._compact(None)

    def maybe_compact(self) -> bool:
        """Compact when more than half of the file, and over 16 MiB, is dead. Cheap when it is not.

        Also saves the index when the file has grown a good deal since it was saved.
        """
        if not opcompact.is_worth(*self.size):
            with self._compacting:
                self._save_index()
            return False
        self.compact()
        return True

    def _save_index(self) -> None:
        with self._exclusive():
            image = self._image()
        self._write(image)

    def _image(self) -> opsaved.Image | None:
        """The index as it is, when it is worth saving; called under the lock of the commits."""
        with self._lock:
            file = self._file.file
            if self._broken or file.checksum is None or not opsaved.is_worth(file.length, self._covered):
                return None
            return opsaved.Image(self._index, file.length, file.checksum)

    def _write(self, image: opsaved.Image | None) -> None:
        if image is None:
            return
        try:
            image.write(self.path)
        except StorageError as error:  # the next time tries again
            log.warning("%s Opening the operation log will take longer.", error)
        else:
            self._covered = image.length

    def compact(self, progress: opload.Progress | None = None) -> Compacted:
        """Write the file anew without what is dead. Reading and writing go on meanwhile.

        StorageError (no room, say): the log stays as it was. One compaction at a time: others wait.
        """
        with self._compacting:
            return self._compact(progress)

    def _compact(self, progress: opload.Progress | None) -> Compacted:
        with self._exclusive(), self._lock:
            if self._broken:
                raise StorageError(f"Cannot compact {self.path}: {self._broken}.")
            old = self._file
            snap = Snapshot(self._index, old.file.length)
            old.hold()
        try:
            opcompact.check_room("compact", self.path, snap.bytes)
            done = self._rewrite(old, snap, progress)
        finally:
            old.release()
        del snap
        self._save_index()
        return done

    def stop_compacting(self) -> None:
        """The program is ending: a compaction under way gives up at its next batch of lines, and no other begins.

        Nothing is lost but its work: until the rename the log is the old file.
        """
        self._stop_compacting = True

    def _rewrite(self, old: LogFile, snap: Snapshot, progress: opload.Progress | None) -> Compacted:
        temporary = opcompact.temporary(self.path)
        new: AppendFile | None = None

        def step(done: int, total: int) -> None:
            if self._stop_compacting:
                raise StorageError(f"Cannot compact {self.path}: the program is ending.")
            if progress is not None:
                progress(done, total)

        try:
            step(0, snap.live)
            new = AppendFile(temporary)
            new.take_owner(self.path)
            index = snap.index(opcompact.copy_live(old.file, new, snap, step))
            checksum = opcompact.checksum(old.file, 0, snap.end, 0, lambda: step(snap.live, snap.live))
            end = snap.end
            for _ in range(opcompact.MOST_ROUNDS):
                if old.file.length - end <= opcompact.CATCH_UP:
                    break
                start, end = end, old.file.length
                checksum = self._catch_up(old, new, index, start, end, checksum)
            with self._exclusive():
                if self._broken:
                    raise StorageError(f"Cannot compact {self.path}: {self._broken}.")
                # The log must still be the file that we know: over one that was put in its place, or that another
                # program has written to, nothing is renamed.
                old.file.append(())
                before = old.file.length
                checksum = self._catch_up(old, new, index, end, before, checksum)
                if checksum != old.file.checksum or index.live_bytes != self._index.live_bytes:
                    raise self._damaged()
                index.highest_id, index.highest_modno = self._index.highest_id, self._index.highest_modno
                new.append([mark(index.highest_id, index.highest_modno)])
                self._take_place(temporary, new, index)
                return Compacted(before, new.length)
        except BaseException:
            if self._file.file is not new:
                discard(temporary)
                if new is not None:
                    new.close()
            raise

    def _catch_up(
        self, old: LogFile, new: AppendFile, index: Index, start: int, end: int, checksum: int
    ) -> int:
        """What was appended to the old file goes into the new one and its index. The checksum of the old one up to
        ``end``."""
        place = new.length
        opcompact.copy_tail(old.file, new, start, end)
        if opload.read_on(index, new, place) is not None:
            raise self._damaged()
        return opcompact.checksum(old.file, start, end, checksum)

    def _damaged(self) -> StorageError:
        return StorageError(
            f"Cannot compact {self.path}: it was changed or damaged while in use. Stop the daemon, and run "
            "`backrest oplog verify`."
        )

    def _take_place(self, temporary: str, new: AppendFile, index: Index) -> None:
        """The new file becomes the log. Called under the lock of the commits."""
        try:
            syscalls.disk.rename(temporary, os.path.realpath(self.path))
        except OSError as error:
            raise storage_error("compact", self.path, error) from error
        new.path = self.path
        old = self._file
        with self._lock:
            self._index = index
            self._file = LogFile(new)
        old.retire()
        self._written = False
        self._covered = 0
        # Until the directory is synced a power cut could bring the old file back, without what is appended
        # to the new one: so nothing is, before that.
        self._directory_unsynced = True
        try:
            self._sync_directory()
        except StorageError as error:
            log.warning("compacted, but nothing can be written yet: %s", error)

    def _sync_directory(self) -> None:
        try:
            syscalls.disk.fsync_dir(os.path.dirname(os.path.realpath(self.path)))
        except OSError as error:
            raise storage_error("append to", self.path, error) from error
        self._directory_unsynced = False


def modno_of_a_new_log(hubs: int, now_ms: int) -> int:
    """Where a log that is made now begins to count. A hub may hold operations of a log that was lost: were the numbers
    to start over, a new operation could have the id and modno of an old one, and never be asked for. The wall clock is
    far above what any log has counted to. Without a hub nobody can be misled, and small numbers are easier to read.
    """
    return now_ms if hubs else 0

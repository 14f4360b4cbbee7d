"""The Go program's operation log, oplog.sqlite (ENGINE.md 2.1): opened to read, and never changed.

The only code that knows SQLite. Rows come one after the other, in the order of their ids, out of one transaction, so
a log of any size takes the memory of one operation. Whoever opens one holds that program's lock: else what is read
here could change, or belong to two.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from backrest.errors import UserError
from backrest.store.files import discard
from backrest.store.opformat import MAX_LINE

# What Backrest 1.13 and 1.14 write. Newer ones may mean something else by what is there.
_SCHEMA = 6
_MINE = "coalesce(g.original_instance_keyid, '') = ''"
_FROM = "FROM operations o LEFT JOIN operation_groups g ON g.ogid = o.ogid"
_COUNTS = (
    f"SELECT count(*), coalesce(sum({_MINE}), 0), coalesce(max(o.id), 0), "
    f"coalesce(max(CASE WHEN {_MINE} THEN o.modno END), 0) {_FROM}"
)
# Nothing larger is kept here, and it need not come into memory.
_ROWS = (
    f"SELECT o.id, o.modno, o.flow_id, CASE WHEN length(o.operation) <= {MAX_LINE} THEN o.operation END "
    f"{_FROM} WHERE {_MINE} ORDER BY o.id"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One operation as it is stored; ``body`` is the serialised message, None where it is too large."""

    id: int
    modno: int
    flow_id: int
    body: bytes | None


class GoLog:
    """One opened log. A context manager. UserError: what is there is not one, or is damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        if not os.path.isfile(self.path):
            raise UserError(f"there is no operation log of the Go program at {self.path}")
        # What a killed program has not yet merged. Reading it needs the shared memory file beside, which is not
        # ours to leave behind: made by root it would keep the Go program from starting again.
        self._made = f"{self.path}-shm" if _has_content(f"{self.path}-wal") else None
        if self._made and os.path.lexists(self._made):
            self._made = None
        whole = not _has_content(f"{self.path}-wal") and not _has_content(f"{self.path}-journal")
        uri = f"{Path(self.path).as_uri()}?mode=ro{'&immutable=1' if whole else ''}"
        with self._read():
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None)
        self._db.text_factory = _text
        try:
            with self._read():
                self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        self._db.execute("BEGIN")
        [[schema]] = self._db.execute("PRAGMA user_version")
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"operations", "operation_groups"} <= tables:
            raise UserError(f"{self.path} is a database, but not an operation log of the Go program")
        if schema > _SCHEMA:
            raise UserError(
                f"{self.path} was written by a newer version of the Go program (its schema is {schema}, this program "
                f"knows up to {_SCHEMA}): update this program"
            )
        for (verdict,) in self._db.execute("PRAGMA quick_check(1)"):
            if verdict != "ok":
                raise sqlite3.DatabaseError(str(verdict).splitlines()[-1])
        [counts] = self._db.execute(_COUNTS)
        if not all(isinstance(number, int) for number in counts):
            raise UserError(f"{self.path} holds ids that are no numbers: it is not an operation log")
        self.total, self.own, highest_id, self.highest_modno = counts
        given = [0]
        if "sqlite_sequence" in tables:
            given += [
                n for (n,) in self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'operations'")
            ]
        self.highest_id = max(highest_id, *(n for n in given if isinstance(n, int)))

    def rows(self) -> Iterator[Row]:
        """This machine's own operations, in the order of their ids. What it had received of others is left out."""
        with self._read():
            for values in self._db.execute(_ROWS):
                number, modno, flow = map(_plain, values[:3])
                yield Row(number, modno, flow, values[3] if isinstance(values[3], bytes) else None)

    @contextmanager
    def _read(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path} cannot be read as an operation log of the Go program ({_said(error)})"
            ) from None
        except (
            sqlite3.DatabaseError,
            UnicodeDecodeError,
        ) as error:  # the latter of a message that quotes damage
            raise UserError(
                f"{self.path} is no SQLite database, or is damaged ({_said(error)}): the Go program keeps copies of it "
                "beside it (*.backup), which can be imported instead"
            ) from None

    def close(self) -> None:
        self._db.close()
        if self._made is not None:
            discard(self._made)

    def __enter__(self) -> GoLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _said(error: Exception) -> str:
    """In one line: SQLite quotes whole statements."""
    return (
        "text that is none" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())[:200]
    )


def _text(data: bytes) -> str:
    return data.decode(errors="replace")  # damage may be anywhere


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


def _plain(value: Any) -> int:
    """A number as it stands; 0, which no operation has, for what is none."""
    return value if isinstance(value, int) else 0

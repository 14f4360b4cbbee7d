"""What subscribers of the operation log are told, and the view of one that may see only a part.

A change is told after its commit, in the order of the commits, by the thread that made the commit and before
the writer's call returns. A subscriber must not block, and must not write to the log (a RuntimeError).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from backrest.store.opformat import Operation, decode, parse_line
from backrest.store.opindex import Meta

CREATED, UPDATED, DELETED = "created", "updated", "deleted"

Predicate = Callable[[Meta], bool]


@dataclass(frozen=True)
class Change:
    """What one call did to operations of one origin.

    ``metas`` is empty for deletions; ``before`` holds what was known before, None for a new operation. The
    operations are read from their lines when first asked for; all subscribers share them: do not change them.
    """

    kind: str  # CREATED, UPDATED or DELETED
    origin: str  # "" for our own, else the peer's key id
    ids: tuple[int, ...]  # ours
    metas: tuple[Meta, ...]
    before: tuple[Meta | None, ...]
    lines: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes that it holds, about: one that waits for a slow reader is memory."""
        return sum(map(len, self.lines)) + 16 * len(self.ids)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """As they are now; empty for deletions."""
        return tuple(decode(parse_line(line)) for line in self.lines)


Callback = Callable[[Change], None]


class _Reader(Protocol):
    def read(self, ids: Iterable[int], predicate: Predicate | None = None) -> Iterable[Operation]: ...


class Attachment:
    """One hub's share of our own operations: the manifest, then every change, with nothing between them.

    What leaves the share by an update (its plan was moved out of scope) is told as deleted, what enters it as
    created: the other side then always holds just what a manifest of that moment would list. An id is only
    told as deleted when the other side was told of it before (PROTOCOL.md 6: the reference hub ends the
    session otherwise).
    """

    def __init__(self, log: _Reader, callback: Callback, predicate: Predicate) -> None:
        self.manifest_ids: Sequence[int] = ()
        self.manifest_modnos: Sequence[int] = ()
        self._log, self._callback, self._predicate = log, callback, predicate
        self._unsubscribe: Callable[[], None] | None = None

    def read(self, ids: Iterable[int]) -> Iterable[Operation]:
        """Those of the ids that exist and belong to the share, in the order given."""
        return self._log.read(ids, self._sees)

    def close(self) -> None:
        """No further callback begins; one under way in another thread may still end. Twice is allowed."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()

    def _sees(self, meta: Meta) -> bool:
        return not meta.origin and self._predicate(meta)

    def begin(self, unsubscribe: Callable[[], None]) -> None:
        """Called by the log at the moment of the manifest."""
        self._unsubscribe = unsubscribe

    def tell(self, change: Change) -> None:
        """Called by the log for every change."""
        if change.origin or self._unsubscribe is None:
            return
        sees = self._predicate
        was = [meta is not None and sees(meta) for meta in change.before]
        now = [sees(meta) for meta in change.metas] or [False] * len(was)
        if all(now) and all(was if change.kind == UPDATED else ()):
            self._callback(change)  # all of it, as nearly always
            return
        for kind, pick in (
            (CREATED, [n and not w for w, n in zip(was, now, strict=True)]),
            (UPDATED, [w and n for w, n in zip(was, now, strict=True)]),
            (DELETED, [w and not n for w, n in zip(was, now, strict=True)]),
        ):
            if any(pick):
                self._callback(_part(change, kind, [place for place, picked in enumerate(pick) if picked]))


def _part(change: Change, kind: str, places: list[int]) -> Change:
    gone = kind == DELETED
    return Change(
        kind,
        change.origin,
        tuple(change.ids[place] for place in places),
        () if gone else tuple(change.metas[place] for place in places),
        tuple(change.before[place] for place in places),
        () if gone else tuple(change.lines[place] for place in places),
    )

"""A map from 64-bit numbers to 64-bit numbers at 16 bytes an entry, where a dict takes over 100.

Keys that come in rising order, as a peer's ids nearly always do, are appended to a sorted array. What comes
out of order waits in a small dict and is merged in when that has grown to an eighth. Nothing is ever removed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import lt

# Merging sorts everything anew: rarely enough that a thousand stragglers do not cost a thousand sorts.
_WAIT = 1024


class SortedMap:
    """See the module's text. Numbers beyond 64 bits raise OverflowError."""

    __slots__ = ("_extra", "_keys", "_values")

    def __init__(self, items: Iterable[tuple[int, int]] = ()) -> None:
        """``items`` in rising order of their keys."""
        self._keys = array("q")
        self._values = array("q")
        self._extra: dict[int, int] = {}
        for key, value in items:
            self._keys.append(key)
            self._values.append(value)

    @classmethod
    def of(cls, keys: array[int], values: array[int]) -> SortedMap:
        """The map that gave these ``arrays``; they are taken, not copied."""
        new = cls()
        new._keys, new._values = keys, values
        return new

    @classmethod
    def sorting(cls, keys: array[int], values: array[int]) -> SortedMap:
        """A map of keys in any order, each there once. The arrays are taken."""
        if not all(map(lt, keys, islice(keys, 1, None))):
            both = sorted(zip(keys, values, strict=True))
            keys, values = array("q", [key for key, _ in both]), array("q", [value for _, value in both])
        return cls.of(keys, values)

    def copy(self) -> SortedMap:
        new = self.of(self._keys[:], self._values[:])
        new._extra = self._extra.copy()
        return new

    def __len__(self) -> int:
        return len(self._keys) + len(self._extra)

    @property
    def last(self) -> int:
        """No key is higher; 0 when there are none, or only negative ones."""
        return max(self._keys[-1], 0) if self._keys else 0

    def get(self, key: int) -> int | None:
        keys = self._keys
        if keys and key <= keys[-1]:  # most are asked for before they come, above all that is there
            place = bisect_left(keys, key)
            if keys[place] == key:
                return self._values[place]
        return self._extra.get(key) if self._extra else None

    def put(self, key: int, value: int) -> None:
        keys = self._keys
        if not keys or key > keys[-1]:
            keys.append(key)
            self._values.append(value)
            return
        place = bisect_left(keys, key)
        if keys[place] == key:
            self._values[place] = value
            return
        self._extra[key] = value
        if len(self._extra) > _WAIT + len(keys) // 8:
            self._merge()

    def extend(self, keys: Sequence[int], values: Sequence[int]) -> None:
        """Put many, whose keys rise from above ``last``; all fit into 64 bits."""
        self._keys.extend(keys)
        self._values.extend(values)

    def items(self) -> Iterator[tuple[int, int]]:
        """In rising order of the keys."""
        return zip(*self.arrays(), strict=True)

    def arrays(self) -> tuple[array[int], array[int]]:
        """The keys in rising order, and their values: to be read only."""
        if self._extra:
            self._merge()
        return self._keys, self._values

    def _merge(self) -> None:
        # a key that waited in the dict may since have been passed by the array's end, but is never in both:
        # the array only takes keys above all its own
        both = sorted([*zip(self._keys, self._values, strict=True), *self._extra.items()])
        self._keys = array("q", [key for key, _ in both])
        self._values = array("q", [value for _, value in both])
        self._extra = {}

"""What a client's quota has no room for. It is remembered, so that it is not asked for at every manifest.

Room is made when less is held than when something was left out, or when the quota changed. Then the client is asked for
its manifest anew, at most once a minute: one that deletes and creates all day must not have all of it compared each
time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from backrest.store.quota import DEFAULT, Quota

# Beyond these an operation is asked for, and refused, again; and then the rest of that manifest is not asked for.
REMEMBERED = 250_000
ASK_AGAIN_S = 60.0
LOGGED_EVERY_S = 3600.0
# An operation's line has more: with less room than this none is asked for that is new.
SMALLEST_BYTES = 256


def room(quota: Quota, used: Quota) -> int:
    """How many new operations there is room for, at most."""
    return max(quota.operations - used.operations, 0) if used.bytes + SMALLEST_BYTES <= quota.bytes else 0


class LeftOut:
    """Of one client, in the life of this process."""

    def __init__(self) -> None:
        self.modnos: dict[int, int] = {}  # by the client's ids
        self.unasked = 0  # of its last manifest
        self._quota = DEFAULT
        self._used = Quota(0, 0)  # when something was left out last
        self._asked = self._logged = -math.inf

    @property
    def count(self) -> int:
        return len(self.modnos) + self.unasked

    def remember(self, modnos: Mapping[int, int], quota: Quota, used: Quota) -> bool:
        """These were refused, under this quota, of which so much was used. False when they are too many."""
        self._quota, self._used = quota, used
        if len(self.modnos) + len(modnos) > REMEMBERED:
            self.unasked = max(self.unasked, len(modnos))
            return False
        self.modnos.update(modnos)
        return True

    def leave(self, unasked: int, quota: Quota, used: Quota) -> None:
        """So many of a manifest are not asked for."""
        self.unasked = unasked
        if unasked:
            self._quota, self._used = quota, used

    def forget(self) -> None:
        self.modnos.clear()
        self.unasked = 0

    def may_fit(self, quota: Quota, used: Quota) -> bool:
        """Whether some of it may be taken now."""
        if not self.count:
            return False
        return (
            quota != self._quota or used.bytes < self._used.bytes or used.operations < self._used.operations
        )

    def ask(self, quota: Quota, used: Quota, now: float) -> bool:
        """Whether the client is to be asked again now: then it is, and all is forgotten."""
        if not self.may_fit(quota, used) or (quota == self._quota and now < self._asked + ASK_AGAIN_S):
            return False
        self._asked = now
        self.forget()
        return True

    def to_log(self, now: float) -> bool:
        """Whether it is time for a line in the log."""
        if now < self._logged + LOGGED_EVERY_S:
            return False
        self._logged = now
        return True

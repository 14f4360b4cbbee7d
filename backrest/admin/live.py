"""From the stores' callbacks, which come from any thread, to one task that waits for "something changed".

A level, not an edge: however many changes come while nobody waits, the next wait returns at once and once,
and the waiter reads the present state itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import trio


class Watch:
    """Subscribes to stores for the length of a with block."""

    def __init__(self, *subscribe: Callable[[Callable[[Any], None]], Callable[[], None]]) -> None:
        self._subscribe = subscribe
        self._unsubscribe: list[Callable[[], None]] = []
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __enter__(self) -> Watch:
        for subscribe in self._subscribe:
            self._unsubscribe.append(subscribe(self._changed))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._unsubscribe:
            self._unsubscribe.pop()()

    def _changed(self, _: Any) -> None:
        with suppress(trio.RunFinishedError):  # the loop ended between the change and this call
            # idempotent: of many changes before the loop runs again, one call is kept
            self._token.run_sync_soon(self._set, idempotent=True)

    def _set(self) -> None:
        self._event.set()

    async def wait(self, *, at_least_every_s: float) -> None:
        """Returns after a change since the last call, or after that time."""
        with trio.move_on_after(at_least_every_s):
            await self._event.wait()
        self._event = trio.Event()

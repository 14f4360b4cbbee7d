"""The configuration, and the peers' states, as levels that tasks can wait on.

The stores call their listeners in the thread that made the change; here that becomes a wake-up in the event loop. A
waiter says what it has seen and compares: no change can be missed, and several may be seen as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from backrest import wire
from backrest.store.config import ConfigStore
from backrest.sync.link import Signal

Config = wire.config.Config


@contextmanager
def waking(subscribe: Callable[[Callable[..., None]], Callable[[], None]], signal: Signal) -> Iterator[None]:
    """While the block runs, each call of the store's listener sets ``signal`` in this event loop."""
    token = trio.lowlevel.current_trio_token()

    def listener(*_: object) -> None:
        with suppress(trio.RunFinishedError):  # the program is ending: nobody waits any more
            token.run_sync_soon(signal.set, idempotent=True)

    unsubscribe = subscribe(listener)
    try:
        yield
    finally:
        unsubscribe()


class ConfigWatch:
    """``current`` is the configuration in force; ``changed(seen)`` returns the first one that is not ``seen``."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._signal = Signal()

    @contextmanager
    def running(self) -> Iterator[None]:
        with waking(self._store.subscribe, self._signal):
            yield

    @property
    def current(self) -> Config:
        return self._store.current

    async def changed(self, seen: Config) -> Config:
        while self._store.current is seen:
            await self._signal.wait()
        return self._store.current

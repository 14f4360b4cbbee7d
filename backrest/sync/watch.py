"""What the stores tell, in whichever thread, as levels that tasks of the event loop can wait on.

A level, not an edge: however many changes come while nobody waits, the next wait returns at once and once, and the
waiter reads the present state itself. No change can be missed, and several may be seen as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType

import trio

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.store.config import ConfigStore
from backrest.sync.link import Signal

Config = wire.config.Config
Peer = wire.config.Multihost.Peer
Subscribe = Callable[[Callable[..., None]], Callable[[], None]]


@contextmanager
def waking(subscribe: Subscribe, wake: Callable[[], None]) -> Iterator[None]:
    """While the block runs, each call of the store's listener calls ``wake`` in this event loop, soon after."""
    token = trio.lowlevel.current_trio_token()
    waiting = False  # for the loop to run: of many changes before that, one call is enough

    def listener(*_: object) -> None:
        nonlocal waiting
        if not waiting:
            waiting = True
            with suppress(trio.RunFinishedError):  # the program is ending: nobody waits any more
                token.run_sync_soon(run)

    def run() -> None:
        nonlocal waiting
        waiting = False  # first: a change that comes from now on calls again
        wake()

    unsubscribe = subscribe(listener)
    try:
        yield
    finally:
        unsubscribe()


class Watch:
    """That something changed in any of several stores, for one task, for the length of a with block."""

    def __init__(self, *subscribe: Subscribe) -> None:
        self._subscribe = subscribe
        self._subscribed = ExitStack()
        self._event = trio.Event()

    def __enter__(self) -> Watch:
        for subscribe in self._subscribe:
            self._subscribed.enter_context(waking(subscribe, self._changed))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscribed.close()

    def _changed(self) -> None:
        self._event.set()

    async def wait(self, *, at_least_every_s: float = math.inf) -> None:
        """Returns after a change since the last call, or after that time."""
        with trio.move_on_after(at_least_every_s):
            await self._event.wait()
        self._event = trio.Event()


class ConfigWatch:
    """``current`` is the configuration in force; ``changed(seen)`` returns the first one that is not ``seen``. For
    any number of tasks."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._signal = Signal()
        self._clients: tuple[Config | None, dict[str, Peer]] = (None, {})
        self._identity: tuple[Config | None, Identity | None] = (None, None)

    @contextmanager
    def running(self) -> Iterator[None]:
        with waking(self._store.subscribe, self._signal.set):
            yield

    @property
    def current(self) -> Config:
        return self._store.current

    async def changed(self, seen: Config | None) -> Config:
        while self._store.current is seen:
            await self._signal.wait()
        return self._store.current

    @property
    def identity(self) -> Identity:
        """This instance's key pair, made once for each configuration. ValueError when it has no valid one."""
        config, found = self._identity
        current = self._store.current
        if found is None or config is not current:
            found = Identity.from_proto(current.multihost.identity)
            self._identity = current, found
        return found

    @property
    def clients(self) -> Mapping[str, Peer]:
        """The authorized clients of ``current`` by key id, from any thread. Made once for each configuration: every
        session asks after every change, and a thousand that search a list of a thousand take a second."""
        config, found = self._clients
        current = self._store.current
        if config is not current:
            found = {peer.keyid: peer for peer in reversed(current.multihost.authorized_clients)}
            self._clients = current, found
        return found

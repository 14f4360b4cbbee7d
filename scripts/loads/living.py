"""The daemons of a run while they must live: one that ends by itself, or does not answer, ends the run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

import trio
from benchmarks.machines import Daemon, Machine
from shared.daemons import blamed, until_answering
from shared.entry import OverdueError, within

from loads.look import LOOK_S
from loads.scene import WrongError

T = TypeVar("T")


class Living:
    """``patience``: seconds that a start and an answer may take."""

    def __init__(self, daemons: ExitStack, patience: float) -> None:
        self._daemons = daemons  # stops them all
        self._living: list[Daemon] = []
        self._patience = patience

    def serve(self, machine: Machine) -> Daemon:
        """A daemon that has started, and must live from here on. WrongError, FailedError."""
        try:
            with within(self._patience):
                daemon = self._daemons.enter_context(machine.serving())
                until_answering(daemon)
        except OverdueError as error:
            raise WrongError(f"the {machine.name} did not start: {error}") from None
        self._living.append(daemon)
        return daemon

    def kill(self, daemon: Daemon) -> None:
        self._living.remove(daemon)
        daemon.process.kill()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """The block ends at once when a daemon ends by itself, and FailedError says so, whatever else went wrong by
        that."""

        async def watch() -> None:
            while True:
                for daemon in self._living:
                    daemon.check()
                await trio.sleep(LOOK_S)

        with blamed(self._living):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                yield
                nursery.cancel_scope.cancel()

    async def in_time(self, function: Callable[..., T], *args: Any) -> T:
        """What asks a daemon, in a thread. WrongError when it does not answer."""
        try:
            with trio.fail_after(self._patience):
                return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise WrongError(f"a daemon did not answer within {self._patience:g} s") from None

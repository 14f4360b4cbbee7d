"""One session over one stream, as tasks: reader, writer, clock. The same for both roles.

The reader hands each event to the owner and reads on when the owner has returned: what the owner does not take, the
peer does not get to send. The writer drains the session's outbox. Whoever ends the session first has the say about
why; the others are cancelled, what is queued (the hub's end-of-stream message) goes out, and ``run`` returns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.protocol import events
from backrest.protocol.session import Session

log = logging.getLogger("backrest.sync")

SEND_BYTES = 256 * 1024  # progress of a slow reader is judged in steps of this many bytes
ROOM_BYTES = 1024 * 1024  # what may wait in the outbox before a sender has to wait
GOODBYE_S = 3.0  # for what is still queued when the session ends; all of SIGTERM has 5 s (DESIGN.md, Process)


class Stream(Protocol):
    """Bytes both ways. ``receive`` gives b"" at the other side's END_STREAM; both raise OSError or a BackrestError
    when the stream is gone."""

    async def receive(self) -> bytes: ...

    async def send(self, data: bytes) -> None: ...


class Signal:
    """Wakes whoever waits at that moment. A waiter checks its condition before and after; without an await between
    check and wait nothing can be missed."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Link:
    """Runs ``session`` over ``stream``, once. Everything but ``run`` may be called by any task of the event loop."""

    def __init__(self, session: Session, stream: Stream, *, stalled_after: float | None = None) -> None:
        """``stalled_after``: seconds after which a peer that takes none of what we send is ended, and a bound on what
        waits for it before its own requests are read. None waits for ever: the reference hub reads nothing while it
        stores (PROTOCOL.md section 6), and a client goes by silence alone."""
        self.session = session
        self.over = False
        self._stream = stream
        self._stalled_after = stalled_after
        self._error: BackrestError | None = None
        self._queued = Signal()
        self._room = Signal()
        self._earlier = Signal()
        self._asleep_until = math.inf
        self._tasks: trio.Nursery | None = None
        self._work = trio.CancelScope()
        self._writing = trio.CancelScope()
        self._draining = False
        self._goodbye_s = GOODBYE_S

    async def run(self, handle: Callable[[events.Event], Awaitable[None]]) -> None:
        """Run until the session ends, giving each event to ``handle``.

        Returns after a clean end (theirs, or ``end`` without an error); raises the BackrestError that ended it
        otherwise. Nothing more is sent when the caller is cancelled.
        """
        async with trio.open_nursery() as outer:
            outer.start_soon(self._write)
            with self._work:
                async with trio.open_nursery() as inner:
                    self._tasks = inner
                    self.spawn(self._keep_time)
                    await self._guard(self._read, handle)
                    inner.cancel_scope.cancel()
            self._finish(None)
            self._draining = True
            self._queued.set()
            self._writing.deadline = trio.current_time() + self._goodbye_s
        if self._error is not None:
            raise self._error

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Start a task of the owner's beside the reader: it ends with the session, and its failure ends the session."""
        if self._tasks is not None and not self.over:
            self._tasks.start_soon(self._guard, task)

    def end(
        self,
        error: BackrestError | None = None,
        code: Code | None = None,
        message: str = "",
        goodbye_s: float = GOODBYE_S,
    ) -> None:
        """End the session from this side: ``error`` is what ``run`` raises; ``code`` and ``message`` go out as the
        hub's end-of-stream, if the peer takes them within ``goodbye_s``. Only the first end counts."""
        if not self.over:
            self._goodbye_s = goodbye_s
            self.session.end(code, message)
            self._finish(error)

    def send_now(self, kind: str, message: Any) -> None:
        """Queue one item, however full the outbox is: for what is small and rare."""
        if not self.over:
            self.session.send(kind, message)
            self._queued.set()

    async def send(self, kind: str, message: Any) -> None:
        """Queue one item as soon as there is room for it."""
        await self.room()
        self.send_now(kind, message)

    def flush(self) -> None:
        """Let the writer and the clock look at the session again, after it was called directly (``accept``)."""
        self._queued.set()
        deadline = self.session.deadline
        if deadline is not None and deadline < self._asleep_until:
            self._earlier.set()

    def _finish(self, error: BackrestError | None) -> None:
        if not self.over:
            self.over = True
            self._error = error
            self._work.cancel()

    def do(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function of the owner's, unless the session is over: its failure ends the session, as a task's."""
        if not self.over:
            try:
                function(*args)
            except Exception as error:
                self._failed(error)

    async def _guard(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task of the session."""
        try:
            await task(*args)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """The one boundary: how the first part of a session fails is how the session ends."""
        if isinstance(error, PeerError):
            self.end(error, error.code, str(error))  # does nothing more to a session that raised it itself
        elif isinstance(error, BackrestError):
            self.end(error, Code.INTERNAL, "internal error")  # our trouble is not the peer's to read
        elif isinstance(error, OSError):
            self._finish(_broke_off(error))
        else:
            # One peer's session must not take anything else along, and its peer must hear an end.
            log.error("a sync session failed: this is a mistake in this program", exc_info=error)
            self.end(
                BackrestError("this program made a mistake; its log says which"),
                Code.INTERNAL,
                "internal error",
            )

    async def _read(self, handle: Callable[[events.Event], Awaitable[None]]) -> None:
        while True:
            if self._stalled_after is not None:
                await self.room()
            self.session.listen(trio.current_time())
            data = await self._stream.receive()
            now = trio.current_time()
            self.session.look_away()  # silence is what we hear while we listen, not while we store or wait for room
            found = self.session.receive_data(data, now) if data else self.session.receive_eof(now)
            self.flush()
            for event in found:
                if isinstance(event, events.Ended):
                    if event.code is None:
                        self.end()
                    else:
                        self.end(PeerError(Fault.ENDED, event.code, event.message))
                    return
                await handle(event)
            if self.session.fault is not None:  # what came behind the events
                raise self.session.fault
            if not data:
                self.end()
                return

    async def _keep_time(self) -> None:
        while True:
            deadline = self.session.deadline
            if deadline is not None and trio.current_time() >= deadline:
                self.session.tick(trio.current_time())
                self._queued.set()
                continue
            self._asleep_until = math.inf if deadline is None else deadline
            with trio.move_on_at(self._asleep_until):
                await self._earlier.wait()

    async def _write(self) -> None:
        with self._writing:
            try:
                while True:
                    data = memoryview(self.session.data_to_send())
                    if data:
                        for start in range(0, len(data), SEND_BYTES):
                            await self._send_piece(bytes(data[start : start + SEND_BYTES]))
                        self._room.set()
                    elif self._draining:
                        return
                    else:
                        await self._queued.wait()
            except OSError as error:
                self._finish(_broke_off(error))
            except BackrestError as error:
                self._finish(error)

    async def _send_piece(self, piece: bytes) -> None:
        limit = math.inf if self._stalled_after is None else self._stalled_after
        with trio.move_on_after(limit):
            await self._stream.send(piece)
            return
        raise PeerError(Fault.SILENCE, Code.INTERNAL, f"the peer has read nothing for {limit:.0f} s")

    async def room(self) -> None:
        """Wait until more may be queued: for a sender that makes its item only then, the newest."""
        while self.session.outbox_size > ROOM_BYTES:
            await self._room.wait()


class Worker:
    """A task of a session that is there only while it has something to do: ``wake`` starts ``work`` unless it runs.

    ``work`` looks whether there is more to do right before it returns, without an await in between: nothing is missed.
    """

    __slots__ = ("_link", "_running", "_work")

    def __init__(self, link: Link, work: Callable[[], Awaitable[None]]) -> None:
        self._link = link
        self._work = work
        self._running = False

    def wake(self) -> None:
        if not self._running:
            self._running = True
            self._link.spawn(self._run)

    async def _run(self) -> None:
        try:
            await self._work()
        finally:
            self._running = False


def _broke_off(error: OSError) -> PeerError:
    return PeerError(Fault.ENDED, Code.UNAVAILABLE, f"the connection broke off: {error}")

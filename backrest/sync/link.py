"""One session over one stream, for both roles: a reader, a clock, and whatever tasks the owner adds.

The reader hands each event to the owner and reads on when the owner has returned: what the owner does not take, the
peer does not get to send. What is queued goes to the stream at once; only while the peer does not take it there is a
task that waits. Whoever ends the session first has the say about why; the tasks are cancelled, what is queued (the
hub's end-of-stream message) goes out, and ``run`` returns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import trio

from backrest.errors import BackrestError, Code, Fault, PeerError
from backrest.protocol import events
from backrest.protocol.session import Session
from backrest.sync.clock import Alarm, the_clock

log = logging.getLogger("backrest.sync")

SEND_BYTES = 256 * 1024  # progress of a slow reader is judged in steps of this many bytes
ROOM_BYTES = 1024 * 1024  # what may wait in the outbox before a sender has to wait
GOODBYE_S = 3.0  # for what is still queued when the session ends; all of SIGTERM has 5 s (DESIGN.md, Process)


class Stream(Protocol):
    """Bytes both ways. All but ``has_room`` raise OSError or a BackrestError when the stream is gone."""

    async def receive(self) -> bytes:
        """What has come; b"" at the other side's END_STREAM."""

    @property
    def has_room(self) -> bool:
        """Whether the other side takes what it gets."""

    def put(self, data: bytes) -> None:
        """Send, in order, without waiting: the caller looks at ``has_room`` first."""

    async def wait_room(self) -> None:
        """Until ``has_room``."""


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
        self.ended_clean = False  # by the other side, in due form and without a code
        self._stream = stream
        self._stalled_after = stalled_after
        self._error: BackrestError | None = None
        self._unsent = memoryview(b"")  # taken from the session, and not yet put into the stream
        self._gone = False  # the stream takes no more
        self._awake: set[Callable[[], Awaitable[None]]] = set()
        self._room = Signal()
        self._alarm = Alarm(math.inf, self._look_at_clock)
        self._tasks: trio.Nursery | None = None
        self._goodbye_s = GOODBYE_S

    async def run(self, handle: Callable[[events.Event], Awaitable[None]]) -> None:
        """Run until the session ends, giving each event to ``handle``.

        Returns after a clean end (theirs, or ``end`` without an error); raises the BackrestError that ended it
        otherwise. Nothing more is sent when the caller is cancelled.
        """
        try:
            async with trio.open_nursery() as self._tasks:
                self.flush()
                await self._guard(self._read, handle)
        finally:
            self._tasks = None
            self._finish(None)  # also when the caller was cancelled
            self._alarm.cancel()
            self._awake.clear()
        self._hand_on()
        if self._is_queued:
            with trio.move_on_after(self._goodbye_s):
                await self._send()
        if self._error is not None:
            raise self._error

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Start a task of the owner's beside the reader: it ends with the session, and its failure ends the session."""
        if self._tasks is not None and not self.over:
            self._tasks.start_soon(self._guard, task)

    def wake(self, task: Callable[[], Awaitable[None]]) -> None:
        """As ``spawn``, unless this task is running: for one that is there only while it has something to do. It looks
        whether there is more right before it returns, without an await in between: so nothing is missed."""
        if task not in self._awake:
            self._awake.add(task)
            self.spawn(partial(self._stay_awake, task))

    async def _stay_awake(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        finally:
            self._awake.discard(task)

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
            self.flush()

    async def send(self, kind: str, message: Any) -> None:
        """Queue one item as soon as there is room for it."""
        await self.room()
        self.send_now(kind, message)

    async def room(self) -> None:
        """Wait until more may be queued: for a sender that makes its item only then, the newest."""
        while self.session.outbox_size > ROOM_BYTES:
            await self._room.wait()

    def flush(self) -> None:
        """Send what is queued, and look at the clock again, after the session was called directly (``accept``)."""
        if self.over:
            return  # ``run`` does the rest
        if self._send not in self._awake:
            self._hand_on()
            if self._is_queued:
                self.wake(self._send)
        self._set_alarm()

    def _finish(self, error: BackrestError | None) -> None:
        if not self.over:
            self.over = True
            self._error = error
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()

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
        while not self.over:
            if self._stalled_after is not None:
                await self.room()
            self.session.listen(trio.current_time())
            data = await self._stream.receive()
            now = trio.current_time()
            self.session.look_away()  # silence is what we hear while we listen, not while we store or wait for room
            whole = not data
            found = self.session.receive_eof(now) if whole else self.session.receive_data(data, now)
            del data  # what is known is not held while we wait for more, which may be for days
            self.flush()
            for event in found:
                if isinstance(event, events.Ended):
                    if event.code is None:
                        self.ended_clean = not self.over
                        self.end()
                    else:
                        self.end(PeerError(Fault.ENDED, event.code, event.message))
                    return
                await handle(event)
                del event
            del found
            if self.session.fault is not None:  # what came behind the events
                raise self.session.fault
            if whole:
                self.end()

    # --- the clock

    def _set_alarm(self) -> None:
        deadline = self.session.deadline
        if deadline is not None and deadline < self._alarm.at:
            self._alarm.cancel()
            self._alarm = the_clock().call_at(deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._alarm = Alarm(math.inf, self._look_at_clock)
        self.do(self._tick)

    def _tick(self) -> None:
        now = trio.current_time()
        deadline = self.session.deadline
        if deadline is not None and now >= deadline:
            self.session.tick(now)
        self.flush()

    # --- sending

    @property
    def drained(self) -> bool:
        """Whether the stream has taken all that was to be said."""
        return not (self._unsent or self.session.outbox_size)

    @property
    def _is_queued(self) -> bool:
        return not self._gone and bool(self._unsent or self.session.outbox_size)

    def _hand_on(self) -> None:
        """Put what is queued into the stream, as far as the peer takes it."""
        try:
            while self._is_queued and self._stream.has_room:
                if not self._unsent:
                    self._unsent = memoryview(self.session.data_to_send())
                self._stream.put(bytes(self._unsent[:SEND_BYTES]))
                self._unsent = self._unsent[SEND_BYTES:]
        except (OSError, BackrestError) as error:
            self._lose(error)

    async def _send(self) -> None:
        """The task that is there while the peer does not take what is queued."""
        limit = math.inf if self._stalled_after is None else self._stalled_after
        try:
            while self._is_queued:
                with trio.move_on_after(limit) as stalled:
                    await self._stream.wait_room()
                if stalled.cancelled_caught:
                    silence = f"the peer has read nothing for {limit:.0f} s"
                    raise PeerError(Fault.SILENCE, Code.INTERNAL, silence)
                self._hand_on()
                self._room.set()
        except (OSError, BackrestError) as error:
            self._lose(error)

    def _lose(self, error: OSError | BackrestError) -> None:
        self._gone = True
        self._finish(_broke_off(error) if isinstance(error, OSError) else error)


def _broke_off(error: OSError) -> PeerError:
    return PeerError(Fault.ENDED, Code.UNAVAILABLE, f"the connection broke off: {error}")

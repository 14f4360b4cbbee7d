"""A TCP proxy that is a bad network, by a seed: each direction is split, held up and stalled; some connections are cut.

Up to ``cuts`` of them are cut, each after some bytes of its own, by turns with FIN and RST; the others live, or the two
ends would only ever dial. Nothing is lost or changed inside a connection: that is TCP's promise, and what is encrypted
above it would notice. It is a good network until ``worsen``, and again when ``calm`` is set.
"""

from __future__ import annotations

import math
import random
import struct
from collections import Counter
from contextlib import suppress
from functools import partial
from socket import SO_LINGER, SOL_SOCKET

import trio

READ = 64 * 1024
TINY = 40  # bytes of a piece, at most, when a direction is being ground
GROUND = 0.05  # of what is read
LATEST_S = 0.03  # what is read is held up for at most so long
STALLED = 0.02  # of what is read
STALL_S = 1.5  # at most: nothing passes in that direction
CUT_AFTER = 20_000  # bytes of both directions, at most
RESET = struct.pack("ii", 1, 0)  # close() sends RST

GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Network:
    """Forwards what is accepted at ``port`` to ``target``, both ports of this machine."""

    def __init__(self, seed: str) -> None:
        self.port = 0
        self.target = 0
        self.calm = True
        self.cuts = 0  # that are still to come
        self.counts: Counter[str] = Counter()
        self._due: set[str] = set()
        self._random = random.Random(seed)

    def worsen(self, cuts: int) -> None:
        """From now on it is bad, and counts anew; the first that comes is stalled and ground, so that a short while has
        both."""
        self.counts.clear()
        self.cuts, self.calm, self._due = cuts, False, {"stalls", "pieces"}

    def _happens(self, what: str, chance: float) -> bool:
        if self.calm:
            return False
        due = what in self._due
        self._due.discard(what)
        return self._random.random() < chance or due

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(partial(trio.serve_listeners, self._connection, listeners))
            task_status.started()

    async def _connection(self, near: trio.SocketStream) -> None:
        self.counts["connections"] += 1
        # The one that was open when it became bad is cut as well: it is judged at each piece.
        line = _Line(self._random.randrange(CUT_AFTER))
        with suppress(*GONE):
            async with (
                near,
                await trio.open_tcp_stream("127.0.0.1", self.target) as far,
                trio.open_nursery() as nursery,
            ):
                line.ends = (near, far)
                for source, sink in ((near, far), (far, near)):
                    nursery.start_soon(self._forward, source, sink, line, nursery.cancel_scope)

    async def _forward(
        self, source: trio.SocketStream, sink: trio.SocketStream, line: _Line, both: trio.CancelScope
    ) -> None:
        with suppress(*GONE):
            while data := bytes(await source.receive_some(READ)):
                tiny = self._happens("pieces", GROUND)
                await self._hold_up()
                while data:
                    size = min(len(data), self._random.randint(1, TINY)) if tiny else len(data)
                    if self._is_cut(line, size):
                        both.cancel()
                        return
                    await sink.send_all(data[:size])
                    self.counts["pieces"] += tiny
                    data = data[size:]
            await sink.send_eof()
            return
        both.cancel()  # one end is gone: so is the other

    def _is_cut(self, line: _Line, size: int) -> bool:
        if self.calm or self.cuts <= 0:
            return False
        line.left -= size
        if line.left >= 0:
            return False
        line.left = math.inf
        self.cuts -= 1
        self.counts["cuts"] += 1
        if self.counts["cuts"] % 2 == 0:
            for end in line.ends:
                end.socket.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        return True

    async def _hold_up(self) -> None:
        if self.calm:
            return
        wait = self._random.random() * LATEST_S
        if self._happens("stalls", STALLED):
            self.counts["stalls"] += 1
            wait = self._random.random() * STALL_S
        await trio.sleep(wait)


class _Line:
    """Both directions of one connection."""

    def __init__(self, left: float) -> None:
        self.left = left  # bytes until both sides lose it, whichever direction carries them
        self.ends: tuple[trio.SocketStream, ...] = ()

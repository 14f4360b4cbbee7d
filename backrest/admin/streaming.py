"""Connect's server streaming as the admin API uses it: one message in, many out, and an end that says how it went.

A caller that leaves cancels what it asked for. One that reads slowly is waited for: what must not wait for it (a queue
that grows meanwhile) bounds itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from backrest.admin import faults
from backrest.errors import PeerError, UserError
from backrest.net.connect import ConnectStream
from backrest.protocol import framing

# As for unary requests: the largest is a batch of operations to import.
MAX_REQUEST = 64 * 1024 * 1024

Send = Callable[[bytes], Awaitable[None]]


async def answer(stream: ConnectStream, handle: Callable[[bytes, Send], Awaitable[None]]) -> None:
    """Gives the request's message to ``handle``, which sends payloads until it returns."""
    with faults.as_connect():
        request = await _message(stream)
        sending = trio.Lock()

        async def send(payload: bytes) -> None:
            async with sending:
                try:
                    await stream.send(framing.encode(0, payload))
                except OSError:  # ``gone`` is set: the use case is about to be cancelled
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_with, stream, nursery.cancel_scope)
            await handle(request, send)
            nursery.cancel_scope.cancel()
    if not stream.gone.is_set():
        await stream.send(framing.end_of_stream(None))


async def _leave_with(stream: ConnectStream, scope: trio.CancelScope) -> None:
    """A use case that waits for something would never notice that nobody listens any more."""
    await stream.gone.wait()
    scope.cancel()


async def _message(stream: ConnectStream) -> bytes:
    """The one message of the request."""
    decoder = framing.Decoder(MAX_REQUEST, encoding="gzip" if stream.encoding == "gzip" else "identity")
    while True:
        try:
            envelope = decoder.next()
        except PeerError as error:
            raise UserError(str(error)) from None
        if envelope is not None:
            return envelope.payload
        data = await stream.receive()
        if not data:
            raise UserError("the request ended before its message was complete")
        decoder.feed(data)

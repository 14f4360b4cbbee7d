"""One Connect stream, as its handler sees it: bytes both ways, and the certainty that it ends.

The handler reads the request's body and writes the response's; what the bytes mean is its own business.
Both directions wait: ``receive`` takes what has come and only then lets the client send more, ``send`` waits
for a slow client (``put`` does not, over HTTP/2, and its caller looks at ``has_room``). A client that is gone
is noticed at once, whether or not the handler reads: ``gone`` is set, and all of them raise OSError. The
handler is not cancelled for it; it may have something to finish.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import trio

from backrest.errors import Code
from backrest.net.h2server import log_failure

if TYPE_CHECKING:
    from backrest.net.h2stream import H2Stream, Message

# How long a client may take for the last bytes of a stream that is over for us.
FINAL_SEND_S = 5.0

# Messages of at most 64 KiB read ahead for HTTP/1.1, where only a reader notices that the client is gone.
READ_AHEAD = 4

_END_FLAG = 2
_ENVELOPE = struct.Struct(">BI")


class ConnectError(Exception):
    """The answer to this request is an error. ``message`` goes to the client."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Codec:
    name: str

    def media_type(self, streams: bool) -> str:
        return f"application/connect+{self.name}" if streams else f"application/{self.name}"


CODECS = (Codec("proto"), Codec("json"))


def end_of_stream(error: ConnectError) -> bytes:
    """The envelope that ends a stream with an error."""
    payload = orjson.dumps({"error": {"code": error.code, "message": error.message}})
    return _ENVELOPE.pack(_END_FLAG, len(payload)) + payload


class ConnectStream:
    """Given to the handler of a Stream route. The response's head is out already."""

    def __init__(
        self,
        *,
        path: str,
        codec: str,
        encoding: str,
        headers: Mapping[str, str],
        client: str,
        timeout_s: float | None,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        direct: H2Stream | None,
    ) -> None:
        self.path = path
        self.codec = codec  # "proto" or "json"
        self.encoding = encoding  # of the request's envelopes: "identity" or "gzip"
        self.headers = headers  # lower-case names
        self.client = client  # the socket's peer address, "" for a Unix socket
        self.timeout_s = timeout_s  # as the client asked; it is enforced around the handler
        self._receive = receive
        self._send = send
        self._ended = False
        # h2server sets its event without being asked. Elsewhere somebody must sit in receive().
        self._direct = direct
        self.gone = trio.Event() if direct is None else direct.gone

    async def receive(self) -> bytes:
        """What has come since the last call; b"" at END_STREAM, also when asked again.

        Raises OSError when the client is gone.
        """
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                raise BrokenPipeError("the client is gone")
            self._ended = not message.get("more_body", False)
            if body := message.get("body", b""):
                return bytes(body)
        return b""

    async def send(self, data: bytes) -> None:
        """Waits while the client is slow. Raises OSError when it is gone."""
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            self.gone.set()
            raise

    @property
    def has_room(self) -> bool:
        """Whether the client takes what it is sent. This and the next two are for HTTP/2 only."""
        return self._stream.has_room

    def put(self, data: bytes) -> None:
        """As ``send``, without waiting. Raises OSError when the client is gone."""
        self._stream.put(data)

    async def wait_room(self) -> None:
        """Until ``has_room``. Raises OSError when the client is gone."""
        await self._stream.wait_room()

    @property
    def _stream(self) -> H2Stream:
        if self._direct is None:
            raise RuntimeError("only a stream of HTTP/2 can be sent to without waiting")
        return self._direct

    async def run(self, handler: Callable[[ConnectStream], Awaitable[None]]) -> ConnectError | None:
        """Runs ``handler`` to its end and says how to end the stream. OSError when the client is gone."""
        if self._direct is not None:
            return await self._bounded(handler)
        forward, self_receive = trio.open_memory_channel["Message"](READ_AHEAD)
        source, self._receive = self._receive, self_receive.receive
        end: ConnectError | None = None
        lost: BrokenPipeError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, source, forward)
            try:
                end = await self._bounded(handler)
            except BrokenPipeError as error:
                lost = error  # as itself, and not in the group that a nursery makes of it
            nursery.cancel_scope.cancel()
        if lost is not None:
            raise lost
        return end

    async def _pump(
        self, source: Callable[[], Awaitable[Message]], forward: trio.MemorySendChannel[Message]
    ) -> None:
        while True:
            message = await source()
            if message["type"] == "http.disconnect":
                self.gone.set()
            await forward.send(message)
            if self.gone.is_set():
                return

    def let_in(self) -> None:
        """The handler knows whose stream this is: it is no longer among those that have to go when there are too many,
        and may send at its full speed."""
        if self._direct is not None:
            self._direct.let_in()

    async def _bounded(self, handler: Callable[[ConnectStream], Awaitable[None]]) -> ConnectError | None:
        with trio.CancelScope() as scope:
            if self.timeout_s is not None:
                scope.deadline = trio.current_time() + self.timeout_s
            if self._direct is not None:
                self._direct.standing = scope
                if self._direct.turned_away:
                    scope.cancel()
            return await self._handled(handler)
        if self._direct is not None and self._direct.turned_away:
            return ConnectError(Code.UNAVAILABLE, "too many others want to be let in: try again later")
        return ConnectError(Code.DEADLINE_EXCEEDED, f"not done within {self.timeout_s} s")

    async def _handled(self, handler: Callable[[ConnectStream], Awaitable[None]]) -> ConnectError | None:
        try:
            await handler(self)
        except ConnectError as error:
            return error
        except Exception as error:
            if self.gone.is_set() and _is_os_error(error):
                raise BrokenPipeError("the client is gone") from error
            log_failure(f"the handler of {self.path} failed", error)
            # Its text could name what a peer must not see (a path, a secret): it goes to the log only.
            return ConnectError(Code.INTERNAL, "the server failed; its log says why")
        return None


def _is_os_error(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_os_error(inner) for inner in error.exceptions)
    return isinstance(error, OSError)

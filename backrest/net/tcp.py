"""Accepted connections as trio streams, with little between them and the system.

trio's own SocketStream first tries each call, then gives the scheduler a turn, with some objects for each: for a
connection that lives for days no matter, but a thousand that come back together make twenty calls each, and that was
a tenth of their cost. Here a read waits until there is something, which lets others run, and then reads it.

The errors are those of trio's streams. One task may read and one may write.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

import trio

# What accept() says of a connection that is gone again, or of the network: the next one may be good (accept(2)).
_OF_ONE_CONNECTION = frozenset(
    (
        errno.EPERM,
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
    )
)

# Unsent bytes in the kernel beyond which a socket is not writable: what waits there can no longer be put in order.
UNSENT = 16 * 1024

READ = 64 * 1024


class TcpStream(trio.abc.HalfCloseableStream):
    """One connected, non-blocking socket, of TCP or of Unix."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(max_bytes or READ)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """A small write does not let others run: the caller has to wait for something else in between."""
        await trio.lowlevel.checkpoint_if_cancelled()
        left = memoryview(data)
        while left:
            self._check_open()
            try:
                left = left[self.socket.send(left) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._lost(error) from error
            if left:
                await trio.lowlevel.wait_writable(self.socket)

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Whoever waits for the socket gets a ClosedResourceError."""
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self.socket.fileno() == -1:
            raise trio.ClosedResourceError("this socket was already closed")

    def _lost(self, error: OSError) -> trio.BrokenResourceError:
        return trio.BrokenResourceError(f"socket connection broken: {error}")


async def close_now(stream: trio.abc.Stream) -> None:
    """As trio.aclose_forcefully, which makes and catches a cancellation: that costs more than the rest of the end."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, TcpStream):
        stream.close()
    else:
        await trio.aclose_forcefully(stream)


class TcpListener(trio.abc.Listener[TcpStream]):
    """A listening, non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def accept(self) -> TcpStream:
        """OSError when the system has no room for one more: trio.serve_listeners waits a little, then."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.socket.fileno() == -1:
                raise trio.ClosedResourceError("this listener was already closed")
            try:
                sock, _ = self.socket.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as error:
                if error.errno not in _OF_ONE_CONNECTION:
                    raise
                await trio.lowlevel.checkpoint()
            else:
                return _prepared(sock)

    async def aclose(self) -> None:
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()


def _prepared(sock: socket.socket) -> TcpStream:
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):  # gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
    return TcpStream(sock)

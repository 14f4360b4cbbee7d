"""``serve``: an ASGI application on TCP, TLS and Unix sockets, over HTTP/2 and HTTP/1.1.

Hypercorn gives the HTTP/1.1 side and the TLS settings; HTTP/2 is h2server.H2Protocol, chosen in one place
(``_Connection._serve``). Hypercorn's own server is not used: whatever fails in one of its connections can
take the process along. Here a connection is a boundary: nothing a peer does passes it, what fails inside is
one line in the log, and nobody else notices.

There are no lifespan messages: what lives as long as the server belongs beside it, where its crash is seen.
Hypercorn's parts used here are not its public interface, so the version is checked when the server starts.
"""

from __future__ import annotations

import errno
import logging
import math
import socket as stdlib_socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.worker_context import WorkerContext

from backrest.errors import UserError
from backrest.net.crowd import Crowd, Guest
from backrest.net.h1server import H1Connection
from backrest.net.h2server import RECEIVE_SIZE, App, H2Protocol, log, log_failure
from backrest.net.h2settings import ServerSettings
from backrest.net.sockets import BindError, open_listeners
from backrest.net.tcp import TcpListener, TcpStream, close_now

__all__ = ["App", "BindError", "ServerSettings", "TlsFiles", "check_hypercorn", "serve"]

HYPERCORN = "0.18.0"

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Descriptors are out: others may close some meanwhile. And what is said of it is one line a minute.
ACCEPT_AGAIN_S = 0.1
TELL_EVERY_S = 60.0

# Of the grace, what is kept for telling the peers that their streams were cut.
LAST_WORDS_S = 0.5

# A peer that lost its power says nothing. The kernel asks after a minute and gives up two minutes later.
KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of a PEM certificate chain and its private key."""

    cert: str
    key: str


class _Log(Logger):
    """What Hypercorn's HTTP/1.1 side says, to our logger; a traceback only for who debugs."""

    def __init__(self, config: Config) -> None:
        self.access_logger = None
        self.error_logger = log

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.error(message, *args, exc_info=log.isEnabledFor(logging.DEBUG))


def check_hypercorn() -> None:
    """UserError unless the installed Hypercorn is the one that this was tested with."""
    try:
        found = version("hypercorn")
    except PackageNotFoundError:
        found = "none"
    if found != HYPERCORN:
        raise UserError(
            f"backrest needs hypercorn {HYPERCORN} exactly, and {found} is installed: "
            f"run pip install hypercorn=={HYPERCORN}"
        )


async def serve(
    app: App,
    *,
    binds: Sequence[str],
    tls: TlsFiles | None = None,
    shutdown: trio.Event,
    grace_s: float = 5.0,
    settings: ServerSettings | None = None,
    crowd: Crowd | None = None,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves ``app`` until ``shutdown`` is set; returns at most ``grace_s`` after that.

    Started with the bound addresses in the order of ``binds``, TCP first: (host, port), or ("unix:/path", 0).
    TLS is for TCP only. Servers of one process share a ``crowd``. Raises BindError (a UserError and an OSError)
    for an address that cannot be had, and UserError for unusable TLS files or a wrong Hypercorn, in both cases with
    nothing left behind.
    """
    check_hypercorn()
    config = _config(tls, grace_s)
    context = _tls_context(config, tls)
    opened = open_listeners(binds)
    listeners: list[TcpListener | trio.SSLListener[TcpStream]] = []
    for listening in opened:
        listener = TcpListener(listening.sock)
        if context is not None and not listening.is_unix:
            listeners.append(trio.SSLListener(listener, context, https_compatible=True))
        else:
            listeners.append(listener)
    settings = settings or ServerSettings()
    server = _Server(app, config, settings, crowd or Crowd(settings))
    try:
        await server.run(
            listeners, [listening.address for listening in opened], shutdown, grace_s, task_status
        )
    finally:
        for listening in opened:
            listening.close()


def _config(tls: TlsFiles | None, grace_s: float) -> Config:
    config = Config()
    config.logger_class = _Log
    config.include_server_header = False
    # Streams live for days, and a proxy puts those of many clients on one connection.
    config.keep_alive_max_requests = 2**62
    config.read_timeout = None
    config.graceful_timeout = grace_s
    if tls is not None:
        config.certfile, config.keyfile = tls.cert, tls.key
    return config


def _tls_context(config: Config, tls: TlsFiles | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    try:
        context: ssl.SSLContext | None = config.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror if isinstance(error, FileNotFoundError) else error
        raise UserError(
            f"the TLS certificate {tls.cert} with the key {tls.key} cannot be used: {reason}"
        ) from error
    return context


class _Server:
    """What the connections share."""

    def __init__(self, app: App, config: Config, settings: ServerSettings, crowd: Crowd) -> None:
        self.app = app
        self.config = config
        self.settings = settings
        self.crowd = crowd
        self.worker = WorkerContext(None)
        self.connections: set[_Connection] = set()
        self._told_at = -math.inf

    async def run(
        self,
        listeners: Sequence[TcpListener | trio.SSLListener[TcpStream]],
        bound: list[tuple[str, int]],
        shutdown: trio.Event,
        grace_s: float,
        task_status: trio.TaskStatus[list[tuple[str, int]]],
    ) -> None:
        async with trio.open_nursery() as beside:
            with trio.CancelScope() as hard:
                async with trio.open_nursery() as handlers:
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, handlers)
                        task_status.started(bound)
                        await shutdown.wait()
                        accepting.cancel_scope.cancel()
                    hard.deadline = trio.current_time() + grace_s
                    beside.start_soon(self._cut, hard.deadline - min(LAST_WORDS_S, grace_s / 4))
                    await self.worker.terminated.set()
                    for connection in list(self.connections):
                        connection.shut_down()
            beside.cancel_scope.cancel()

    async def _accept(
        self, listener: TcpListener | trio.SSLListener[TcpStream], handlers: trio.Nursery
    ) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise
                    if trio.current_time() >= self._told_at + TELL_EVERY_S:
                        self._told_at = trio.current_time()
                        log.error("no connection can be accepted for now: %s", error.strerror)
                    await trio.sleep(ACCEPT_AGAIN_S)
                else:
                    handlers.start_soon(self._handle, stream)

    async def _handle(self, stream: TcpStream | trio.SSLStream[TcpStream]) -> None:
        try:
            with self.crowd.place(_peer_of(stream)) as admitted:
                if admitted:
                    connection = _Connection(self, stream)
                    self.connections.add(connection)
                    try:
                        await connection.run()
                    finally:
                        self.connections.discard(connection)
        finally:
            await close_now(stream)

    async def _cut(self, at: float) -> None:
        await trio.sleep_until(at)
        for connection in list(self.connections):
            connection.cut()


# What accept() says when the process or the system has no room for one more (accept(2)).
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))


def _peer_of(stream: TcpStream | trio.SSLStream[TcpStream]) -> str:
    sock = _socket_of(stream)
    try:
        address = _address(sock, sock.getpeername())
    except OSError:
        return ""  # gone already
    return address[0] if address else ""


class _Connection:
    """One accepted socket: the boundary that nothing passes. It is closed when ``run`` returns."""

    def __init__(self, server: _Server, stream: TcpStream | trio.SSLStream[TcpStream]) -> None:
        self._server = server
        self._stream = stream
        self._opening = trio.CancelScope(deadline=trio.current_time() + server.settings.first_stream_s)
        self._protocol: H2Protocol | H1Connection | None = None
        self._peer = "local"

    def shut_down(self) -> None:
        if self._protocol is None:
            self._opening.cancel()
        else:
            self._protocol.shut_down()

    def cut(self) -> None:
        if self._protocol is not None:
            self._protocol.cancel_apps()

    def turn_away(self) -> None:
        """Others need the room of one on which nobody is let in."""
        if self._protocol is None:
            self._opening.cancel()
        else:
            self._protocol.turn_away()

    async def run(self) -> None:
        try:
            await self._serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as gone:
            log.debug("%s: connection lost: %s", self._peer, gone.exceptions[0])
        except* Exception as failed:
            log_failure(f"{self._peer}: the connection failed", failed)

    async def _serve(self) -> None:
        secure = isinstance(self._stream, trio.SSLStream)
        sock = _socket_of(self._stream)
        client, server = _address(sock, sock.getpeername()), _address(sock, sock.getsockname())
        self._peer = client[0] if client else "local"
        _keep_alive(sock)
        known: dict[str, Any] = {"scheme": "https" if secure else "http", "client": client, "server": server}
        # Only its owner reaches a Unix socket.
        crowd = None if client is None else self._server.crowd
        guest = None if crowd is None else crowd.connection(self._peer, self.turn_away, tls=secure)
        try:
            first = await self._first_bytes()
            if first.startswith(PREFACE):
                if guest is not None:
                    guest.leave()  # from here on the protocol knows who is let in
                await self._serve_h2(first, crowd, known)
            elif first:
                await self._serve_h1(first, guest, known)
        finally:
            if guest is not None:
                guest.leave()

    async def _serve_h2(self, first: bytes, crowd: Crowd | None, known: dict[str, Any]) -> None:
        server = self._server
        self._protocol = h2 = H2Protocol(
            server.app,
            self._stream,
            settings=server.settings,
            extra_headers=partial(server.config.response_headers, "h2"),
            crowd=crowd,
            **known,
        )
        await h2.run(first, deadline=self._opening.deadline)

    async def _serve_h1(self, first: bytes, guest: Guest | None, known: dict[str, Any]) -> None:
        server = self._server
        let_in = _nothing if guest is None else guest.leave
        self._protocol = h1 = H1Connection(
            server.app, self._stream, server.config, server.worker, let_in=let_in, **known
        )
        await h1.run(first, deadline=self._opening.deadline, idle_s=server.settings.idle_s)

    async def _first_bytes(self) -> bytes:
        """What was read until it is plain whether this is HTTP/2; empty when nothing will come of it.

        The preface decides, with TLS too: a client that negotiated h2 and sends something else gets
        HTTP/1.1's answer to what it sent, and one that was not asked may speak HTTP/2 with prior knowledge.
        """
        first = b""
        with self._opening:
            if isinstance(self._stream, trio.SSLStream):
                try:
                    await self._stream.do_handshake()
                except trio.BrokenResourceError as error:
                    log.info("%s: the TLS handshake failed: %s", self._peer, error.__cause__ or error)
                    return b""
            while len(first) < len(PREFACE) and PREFACE.startswith(first):
                data = await self._stream.receive_some(RECEIVE_SIZE)
                if not data:
                    return b""
                first += data
        if self._opening.cancelled_caught:
            if not self._server.worker.terminated.is_set():
                log.info("%s: connection closed: no request came", self._peer)
            return b""
        return first


def _nothing() -> None:
    pass


def _socket_of(stream: TcpStream | trio.SSLStream[TcpStream]) -> stdlib_socket.socket:
    return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket


def _address(sock: stdlib_socket.socket, address: Any) -> tuple[str, int] | None:
    if sock.family in (stdlib_socket.AF_INET, stdlib_socket.AF_INET6):
        return str(address[0]), int(address[1])
    return None


def _keep_alive(sock: stdlib_socket.socket) -> None:
    if sock.family not in (stdlib_socket.AF_INET, stdlib_socket.AF_INET6):
        return
    sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(stdlib_socket, name):
            sock.setsockopt(stdlib_socket.IPPROTO_TCP, getattr(stdlib_socket, name), value)

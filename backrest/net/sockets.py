"""Listening sockets from bind addresses as people write them.

"127.0.0.1:9898", "[::1]:9898", "localhost:9898", ":9898" (every interface) and "unix:/path". All problems
are a BindError with a sentence that names the address. A Unix socket has mode 0600 from the moment it exists,
takes the place of the stale file of a server that is gone, and of nothing else.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backrest.errors import UserError

# sockaddr_un.sun_path holds 108 bytes with the final zero on Linux, 104 on the BSDs.
UNIX_PATH_LIMIT = 103

# A thousand clients that come back together; the kernel lowers it to net.core.somaxconn.
BACKLOG = 1_000


class BindError(UserError, OSError):
    """The address cannot be listened on. ``errno`` is the system's reason, or None."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening, non-blocking socket. ``address``: (host, port) as bound, or ("unix:/path", 0)."""

    sock: socket.socket
    address: tuple[str, int]
    identity: tuple[int, int] | None = None  # device and inode of a Unix socket's file

    @property
    def is_unix(self) -> bool:
        return self.identity is not None

    def close(self) -> None:
        """Also removes the file of a Unix socket, unless another server has put its own there."""
        self.sock.close()
        if self.identity is not None:
            path = self.address[0].removeprefix("unix:")
            with suppress(OSError):  # what cannot be removed is stale, and the next server takes its place
                if _identity(path) == self.identity:
                    os.unlink(path)


def open_listeners(binds: Sequence[str]) -> list[Listening]:
    """One for each address, TCP first (a name may stand for several), or none at all and BindError."""
    opened: list[Listening] = []
    tcp = [bind for bind in binds if not bind.startswith("unix:")]
    try:
        resolved = [(bind, *target) for bind in tcp for target in _resolve(bind)]
        # "[::]" also takes IPv4 unless told otherwise, and would then collide with "0.0.0.0" beside it.
        only_v6 = any(family == socket.AF_INET for _, family, _ in resolved)
        for bind, family, address in resolved:
            opened.append(_listen_tcp(bind, family, address, only_v6=only_v6))
        for bind in binds:
            if bind.startswith("unix:"):
                opened.append(_listen_unix(bind.removeprefix("unix:")))
    except BaseException:
        for listening in opened:
            listening.close()
        raise
    return opened


def split_bind(bind: str) -> tuple[str, int]:
    """Host ("" for every interface) and port of "host:port". BindError."""
    host, colon, port = bind.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise BindError(
            f"{bind!r} is not an address to listen on: it needs a host and a port, as in 127.0.0.1:9898"
        )
    if ":" in host and not bracketed:
        raise BindError(f"{bind!r}: put an IPv6 address in brackets, as in [::1]:9898")
    return (host[1:-1] if bracketed else host), int(port)


def _resolve(bind: str) -> list[tuple[int, tuple[str, int]]]:
    host, port = split_bind(bind)
    if not host:
        every = "0.0.0.0"  # noqa: S104  the user wrote ":port", which asks for it
        if socket.has_dualstack_ipv6():
            return [(socket.AF_INET6, ("::", port))]
        return [(socket.AF_INET, (every, port))]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BindError(f"cannot listen on {bind}: the host name is unknown ({error.strerror})") from error
    targets: list[tuple[int, tuple[str, int]]] = []
    for family, _, _, _, address in found:
        target = (int(family), (str(address[0]), int(address[1])))
        if family in (socket.AF_INET, socket.AF_INET6) and target not in targets:
            targets.append(target)
    return targets


def _listen_tcp(bind: str, family: int, address: tuple[str, int], *, only_v6: bool) -> Listening:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for the TIME_WAIT of connections that the last run closed.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on {bind}: {_reason(error)}", error.errno) from error
    name = sock.getsockname()
    return Listening(sock, (str(name[0]), int(name[1])))


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use (is another backrest running?)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 need privileges)"
    return error.strerror or str(error)


def _listen_unix(path: str) -> Listening:
    if len(os.fsencode(path)) > UNIX_PATH_LIMIT - len(".new"):
        raise BindError(f"cannot listen on {path}: the path of a Unix socket is limited to about 100 bytes")
    _check_replaceable(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound beside and renamed: the path never holds a socket that does not listen yet.
    fresh = path + ".new"
    try:
        with _unlinked(fresh), _mode_0600(sock):
            sock.bind(fresh)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        identity = _identity(fresh)
        os.rename(fresh, path)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on {path}: {error.strerror or error}", error.errno) from error
    return Listening(sock, (f"unix:{path}", 0), identity)


def _check_replaceable(path: str) -> None:
    """BindError unless ``path`` is free or the socket of a server that is gone."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise BindError(f"cannot listen on {path}: {error.strerror}", error.errno) from error
    if not stat.S_ISSOCK(mode):
        raise BindError(f"cannot listen on {path}: there is a file that is not a socket", errno.EEXIST)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers at once (EAGAIN): somebody is there
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise BindError(f"cannot listen on {path}: {error.strerror}", error.errno) from error
    raise BindError(f"cannot listen on {path}: another server answers there", errno.EADDRINUSE)


@contextmanager
def _unlinked(path: str) -> Iterator[None]:
    """Removes what a run that was killed in the middle left at our own temporary name."""
    if Path(path).is_socket():
        os.unlink(path)
    yield


@contextmanager
def _mode_0600(sock: socket.socket) -> Iterator[None]:
    """Whatever is bound inside is private from its first moment.

    Linux gives the file the mode of the unbound socket. Elsewhere the umask must do, which is the whole
    process's: files that other threads create meanwhile become too private, never too open.
    """
    if sys.platform == "linux":
        os.fchmod(sock.fileno(), 0o600)
        yield
        return
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino

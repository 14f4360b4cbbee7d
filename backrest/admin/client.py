"""How a command reaches a use case: through the daemon's socket, or, when none runs, on the files, under the
lock.

The socket is tried first. A socket nobody listens at is what a killed daemon left, and counts as none. When
the lock is held but nobody answers, a daemon is starting or stopping, or another command is at work: both
pass, so wait (locking.py), then say who holds it; what only reads goes on beside it.
HTTP/1.1 by the standard library: it is at hand within 20 ms,
where a command would wait ten times that for a real HTTP client.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from backrest.admin import faults
from backrest.admin.locking import Patience
from backrest.admin.registry import Method, arguments, find
from backrest.errors import BackrestError, Code, LockedError, UserError

if TYPE_CHECKING:
    from backrest.admin.context import Context
    from backrest.store.lock import DirLock
    from backrest.store.paths import Paths

SERVICE = "/backrest.Admin/"

# A daemon that starts with a million operations needs five seconds to answer; a command, mostly, less than
# one.
WAIT_S = 8.0

CONNECT_S = 5.0
# A use case without reports writes a file or two; compacting a large history takes the longest.
ANSWER_S = 300.0

OnEvent = Callable[[dict[str, Any]], None]
#: a use case by its name, with its arguments
Call = Callable[[str, Mapping[str, Any]], Any]
#: gets a sentence about what is waited for
Say = Callable[[str], None]


def _unsaid(_: str) -> None:
    pass


def call(
    paths: Paths,
    method: str,
    args: Mapping[str, Any],
    *,
    restic_command: str | None = None,
    wait_s: float = WAIT_S,
    say: Say = _unsaid,
) -> Any:
    """The result of a use case, its reports unheard. Raises what it raised, as its kind with its sentence."""
    unheard = (lambda _: None) if find(method).reports else None
    return _reach(paths, method, args, unheard, restic_command, Patience(wait_s, say))


def stream(
    paths: Paths,
    method: str,
    args: Mapping[str, Any],
    on_event: OnEvent,
    *,
    restic_command: str | None = None,
    wait_s: float = WAIT_S,
    say: Say = _unsaid,
) -> Any:
    """The result of a reporting use case; ``on_event`` gets each event as it comes."""
    return _reach(paths, method, args, on_event, restic_command, Patience(wait_s, say))


@contextmanager
def several(paths: Paths, *, restic_command: str | None = None, say: Say = _unsaid) -> Iterator[Call]:
    """What calls use cases without reports, one after the other. Without a daemon the files are opened once for
    all of them, since opening a long history takes seconds, and stay locked meanwhile.
    """
    lock = _daemon_or_lock(paths, say)
    if lock is None:
        yield lambda method, args: call(paths, method, args, restic_command=restic_command, say=say)
        return
    from backrest.admin.context import Context

    try:
        with Context(paths, restic_command=restic_command) as context:
            yield lambda method, args: run(context, find(method), args, None)
    finally:
        lock.release()


def _daemon_or_lock(paths: Paths, say: Say) -> DirLock | None:
    """None: a daemon answers. LockedError: neither, for as long as one waits."""
    from backrest.store.lock import DirLock

    lock = DirLock(paths, command=True)
    patience = Patience(WAIT_S, say)
    while True:
        connection = connect(paths)
        if connection is not None:
            connection.close()
            return None
        try:
            lock.acquire()
            return lock
        except LockedError as error:
            patience.wait(error)


def _reach(
    paths: Paths,
    name: str,
    args: Mapping[str, Any],
    on_event: OnEvent | None,
    restic_command: str | None,
    patience: Patience,
) -> Any:
    method = find(name)
    assert method.reports == (on_event is not None)
    try:
        body = orjson.dumps(dict(args))
    except (TypeError, ValueError) as error:  # orjson says "str is not valid UTF-8: surrogates not allowed"
        raise UserError(f"an argument is not valid text: {error}") from None
    while True:
        connection = None if method.beside else connect(paths)
        if connection is not None:
            with connection:
                if method.daemonless:
                    raise UserError("the daemon is running and has this file open: stop it first")
                return ask(connection, name, body, on_event)
        try:
            return _on_files(paths, method, args, on_event, restic_command)
        except _Held as held:
            locked = held.error
        patience.wait(locked)


class _Held(Exception):
    """The lock is held: nothing was done yet."""

    def __init__(self, error: LockedError) -> None:
        self.error = error


# --- on the files


def _on_files(
    paths: Paths,
    method: Method,
    args: Mapping[str, Any],
    on_event: OnEvent | None,
    restic_command: str | None,
) -> Any:
    from backrest.admin.context import Context
    from backrest.store.lock import DirLock

    lock = DirLock(paths, command=True)
    try:
        lock.acquire()
    except LockedError as error:
        if not method.only_reads or (method.live and not error.by_command):
            raise _Held(error) from None
        # Whoever holds the lock has long migrated what this reads, and replaces it as a whole.
        with Context(paths, beside=True) as context:
            return run(context, method, args, on_event)
    try:
        with Context(paths, restic_command=restic_command) as context:
            return run(context, method, args, on_event)
    finally:
        lock.release()


def run(context: Context, method: Method, args: Mapping[str, Any], on_event: OnEvent | None) -> Any:
    """The use case in this process. ``damaged`` of its result: the files that it did without; ``unfinished``: what did
    not follow the change that it made."""
    from backrest.admin.context import following_up

    function = method.load()
    given = arguments(function, args)
    if on_event is None:
        with following_up() as unfinished:
            result = function(context, **given)
        return result | context.remarks(unfinished)
    import trio

    async def emit(event: dict[str, Any]) -> None:
        on_event(event)

    async def main() -> Any:
        with following_up() as unfinished:
            result = await function(context, emit, **given)
        return result | context.remarks(unfinished)

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise _single(group) from None


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several failures the one to report: that the user stopped it first, then what has a sentence."""
    for kind in (KeyboardInterrupt, BackrestError, BaseException):
        found: BaseException | None = group.subgroup(kind)
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if found is not None:
            return found
    return group


# --- through the socket


class Connection(http.client.HTTPConnection):
    """HTTP/1.1 over an open Unix socket. A context manager."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("localhost")
        sock.settimeout(ANSWER_S)  # a daemon with much to do answers later than it accepts
        self.sock = sock

    def connect(self) -> None:
        raise ConnectionError("the connection is over")  # never again by itself: the first answer decides

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(paths: Paths) -> Connection | None:
    """A connection to the daemon, or None when there is none. UserError when there is one that we may not
    reach.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(os.fspath(paths.socket))
        return Connection(sock)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        return None
    except PermissionError:
        sock.close()
        raise UserError(
            f"the daemon at {paths.socket} belongs to another user: run this as that user"
        ) from None
    except OSError as error:
        sock.close()
        if error.errno is None:
            # Python's own: the path is too long, and no daemon can listen there either (the system's limit is about
            # 100 bytes).
            return None
        raise BackrestError(f"the daemon at {paths.socket} cannot be reached: {error}") from None


def ask(connection: Connection, name: str, body: bytes, on_event: OnEvent | None) -> Any:
    """One request; see ``call`` and ``stream``. What ``on_event`` raises comes out as it is."""
    if on_event is None:
        with _daemon_fails():
            return _unary(connection, name, body)
    result: Any = None
    events = _streamed(connection, name, body)
    while True:
        with _daemon_fails():
            event = next(events, None)
        if event is None:
            return result
        if "result" in event:
            result = event["result"]
        else:
            on_event(event)


@contextmanager
def _daemon_fails() -> Iterator[None]:
    """What goes wrong between us and the daemon, as a sentence."""
    try:
        yield
    except TimeoutError:
        raise BackrestError("the daemon did not answer in time; its log may say why") from None
    except (OSError, http.client.HTTPException):
        raise BackrestError(
            "the daemon went away before it had answered: look at its log, and whether it was done"
        ) from None


def _unary(connection: Connection, name: str, body: bytes) -> Any:
    connection.request("POST", SERVICE + name, body, {"content-type": "application/json"})
    response = connection.getresponse()
    data = response.read()
    if response.status == 200:
        return orjson.loads(data)
    raise _refusal(response.status, data)


def _streamed(connection: Connection, name: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Connect's server streaming: one message there, many back, and an end-of-stream message, without which
    the daemon did not finish.
    """
    from backrest.protocol import framing

    connection.sock.settimeout(None)  # a backup takes as long as it takes
    headers = {"content-type": "application/connect+json", "connect-protocol-version": "1"}
    connection.request("POST", SERVICE + name, framing.encode(0, body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise _refusal(response.status, response.read())
    while True:
        head = _exactly(response, 5)
        payload = _exactly(response, int.from_bytes(head[1:]))
        if head[0] & framing.FLAG_END:
            end = framing.parse_end(payload)
            if end.code is not None:
                raise faults.from_code(end.code, end.message)
            return
        yield orjson.loads(payload)


def _exactly(response: http.client.HTTPResponse, count: int) -> bytes:
    data = response.read(count)
    if len(data) < count:
        raise http.client.IncompleteRead(data, count - len(data))
    return data


def _refusal(status: int, data: bytes) -> BackrestError:
    try:
        error = orjson.loads(data)
        code, message = str(error["code"]), str(error.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return BackrestError(f"the daemon answered with HTTP status {status}: is it of another version?")
    if code == Code.UNIMPLEMENTED:
        return BackrestError(f"the running daemon does not know this command: restart it ({message})")
    return faults.from_code(code, message)

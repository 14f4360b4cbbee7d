"""What stands before the admin API where it is served on TCP: who asks must show the bearer token.

The Unix socket needs none of this: the file system says who may open it. On a TCP address any program, any user of
the machine and, through a browser, any web page can knock (W-50). So, in this order:

- the Host must be an address or a name that is ours: a page whose name suddenly points here (DNS rebinding) sends its
  own name;
- no Origin: programs send none, browsers always do with what could do harm;
- the token, compared in constant time. Wrong ones are counted: after some, that address hears 429 for a minute, and
  the log is not filled. The right token is let in all the same, or any user of the machine could lock its owner out;
  what the limit is for is not guessing, which 256 bits make hopeless.

Content types that a page may send without asking (forms, plain text) are refused by the API itself, with a 415.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import orjson
import trio

from backrest.errors import Code, StorageError, UserError
from backrest.net.address import limit_key
from backrest.net.h2stream import Message, Scope
from backrest.store.files import atomic_write, read_file
from backrest.sync.gate import FailureLimit

log = logging.getLogger("backrest.admin")

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHORTEST_TOKEN = 32  # characters: of a random text in hex, 128 bits
SHORT_BODY, SHORT_BODY_S = 64 * 1024, 1.0  # what a stranger's request may have of our time
LONGEST_TOKEN = 1000  # a header has room for more; a file that is longer is another file


def read_token(path: Path) -> str:
    """The token of that file, which is made, 0600, when there is none. UserError for one that is no secret."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        atomic_write(path, token.encode() + b"\n")
        log.info("made the admin token in %s", path)
        return token
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a file: it should hold the admin token")
    if mode & 0o077:
        raise UserError(
            f"others may read the admin token in {path}: run chmod 600 {path}, or let it be made anew"
        )
    token = read_file(path).decode("utf-8", "replace").strip()
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not token.isascii() or not token.isprintable():
        raise UserError(
            f"{path} holds no admin token ({SHORTEST_TOKEN} to {LONGEST_TOKEN} printable characters): remove the "
            "file, and a token is made"
        )
    return token


def is_loopback(bind: str) -> bool:
    """Whether only this machine reaches an address of "host:port"."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(bind: str, *, tls: bool, insecure: bool) -> None:
    """UserError for an address where the token would cross a network in clear, unless that was asked for."""
    if not is_loopback(bind) and not tls and not insecure:
        raise UserError(
            f"the admin address {bind} is reached from other machines, and the token would cross the network in clear: "
            "use 127.0.0.1, give --tls-cert and --tls-key, or say --admin-insecure"
        )


class Guard:
    """An ASGI application that lets through to another who shows the token."""

    def __init__(
        self, app: App, *, token: str, hosts: Iterable[str], clock: Callable[[], float] = trio.current_time
    ) -> None:
        """``hosts``: the names under which this machine is reached; "localhost" and addresses always are."""
        self._app = app
        self._digest = _digest(token.encode())
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._failures = FailureLimit()
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await _drop_body(receive)
                await _refuse(send, *refusal)
                return
            scope["state"]["backrest.let_in"]()
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, Code, str, Mapping[str, str]] | None:
        headers = _headers(scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return (
                403,
                Code.PERMISSION_DENIED,
                f"the Host {host[:100]!r} is no name of this machine: ask by its address, or serve with --admin-host",
                {},
            )
        if "origin" in headers:
            return (
                403,
                Code.PERMISSION_DENIED,
                "this API is not for web pages: a request must have no Origin",
                {},
            )
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(token.strip().encode()), self._digest):
            return None
        return self._failed(scope["client"][0] if scope.get("client") else "", bool(token))

    def _failed(self, address: str, given: bool) -> tuple[int, Code, str, Mapping[str, str]]:
        now = self._clock()
        if self._failures.refused(limit_key(address), now):
            text = "too many requests with no or a wrong token came from there: wait a minute"
            return 429, Code.RESOURCE_EXHAUSTED, text, {"retry-after": "60"}
        self._failures.failed(limit_key(address), now)
        what = "the token is wrong" if given else "the token is missing"
        log.warning("the admin API refused a request from %s: %s", address, what)
        return (
            401,
            Code.UNAUTHENTICATED,
            f"{what}: send the header 'Authorization: Bearer TOKEN' with the token that is in the daemon's token file",
            {"www-authenticate": 'Bearer realm="backrest"'},
        )

    def _is_ours(self, host: str) -> bool:
        name = host.strip().lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._hosts
        return True  # nobody else's name can be an address


def _digest(data: bytes) -> bytes:
    # Of equal length whatever comes: compare_digest tells the length of what it compares.
    return hashlib.sha256(data).digest()


def _headers(scope: Scope) -> dict[str, str]:
    """Lower-case names. What stands twice is joined, and so is no host and no token of ours."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _drop_body(receive: Receive) -> None:
    """Take a short body before refusing: curl takes an answer that overtakes its request over HTTP/2 for a broken
    connection, and does not show it."""
    left = SHORT_BODY
    with trio.move_on_after(SHORT_BODY_S):
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                return


async def _refuse(send: Send, status: int, code: Code, text: str, headers: Mapping[str, str]) -> None:
    body = orjson.dumps({"code": code, "message": text})
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})

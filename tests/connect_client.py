"""Clients of either HTTP version for Connect calls, and the small application that they call."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
from h2raw import Clock, RawClient, Server, ours

from backrest.errors import Code
from backrest.net.connect import Body, ConnectApp, ConnectError, ConnectStream, Stream, Unary, UnaryRequest

PROTO, JSON = "application/connect+proto", "application/connect+json"
LIMIT = 1000


async def describe(request: UnaryRequest) -> bytes:
    return json.dumps([request.path, request.codec, len(request.body), request.client]).encode()


async def fail(request: UnaryRequest) -> bytes:
    match request.body:
        case b"late":
            await trio.sleep(60)  # simulated
        case b"bug":
            raise FileNotFoundError("/etc/secret")
        case code:
            raise ConnectError(Code(code.decode()), "because")
    return b""


async def pieces(request: UnaryRequest) -> Body:
    def made() -> Iterator[bytes]:
        yield b"one "
        yield b"two "
        if request.body == b"bug":
            raise FileNotFoundError("/etc/secret")
        yield b"three"

    return made() if request.body != b"nothing" else iter(())


async def echo(stream: ConnectStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def describe_stream(stream: ConnectStream) -> None:
    assert await stream.receive() == b""
    assert await stream.receive() == b""
    said = [stream.path, stream.codec, stream.encoding, stream.client, stream.timeout_s]
    await stream.send(json.dumps([*said, stream.headers["x-name"]]).encode())


async def fail_stream(stream: ConnectStream) -> None:
    await stream.send(b"first")
    match await stream.receive():
        case b"late":
            await trio.sleep(60)  # simulated
        case b"bug":
            raise FileNotFoundError("/etc/secret")
        case code:
            raise ConnectError(Code(code.decode()), "because")


APP = ConnectApp(
    {
        "/s.S/Describe": Unary(describe),
        "/s.S/Fail": Unary(fail),
        "/s.S/Pieces": Unary(pieces),
        "/s.S/Sync": Stream(echo),
        "/s.S/Tail": Stream(echo, http2_only=False),
        "/s.S/DescribeStream": Stream(describe_stream, http2_only=False),
        "/s.S/FailStream": Stream(fail_stream, http2_only=False),
    },
    max_body=LIMIT,
)


class Answer:
    def __init__(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers.items()}
        self.body = body

    @property
    def error(self) -> tuple[str, str]:
        """Code and message: of a unary error's JSON, or of the end-of-stream message, which comes last."""
        found = json.loads(self.body if self.headers["content-type"] == "application/json" else self.end)
        found = found.get("error", found)
        return found["code"], found["message"]

    @property
    def end(self) -> bytes:
        at = self.body.rindex(b'{"error"') - 5
        flags, length = struct.unpack(">BI", self.body[at : at + 5])
        assert (flags, length) == (2, len(self.body) - at - 5)
        return self.body[at + 5 :]


class Http2:
    """A client of either version, for tests that hold for both: ``call`` is one whole request."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def call(
        self, path: str, content_type: str = "", body: bytes = b"", *, method: str = "POST", **headers: str
    ) -> Answer:
        extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        if content_type:
            extra.append((b"content-type", content_type.encode()))
        async with self.server.client() as client:
            stream_id = await client.request(
                path.encode(), *extra, method=method.encode(), body=body, end=True
            )
            return Answer(*await client.response(stream_id))


class Http1(Http2):
    async def call(
        self, path: str, content_type: str = "", body: bytes = b"", *, method: str = "POST", **headers: str
    ) -> Answer:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        fields += [("host", "x"), ("content-length", str(len(body)))]
        if content_type:
            fields.append(("content-type", content_type))
        http = h11.Connection(h11.CLIENT)
        data = http.send(h11.Request(method=method, target=path, headers=fields)) or b""
        data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        async with await trio.open_tcp_stream("127.0.0.1", self.server.port) as stream:
            await stream.send_all(data)
            status, head, received = 0, {}, b""
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65_536))
                elif isinstance(event, h11.Response):
                    status, head = event.status_code, dict(event.headers)
                elif isinstance(event, h11.Data):
                    received += event.data
                else:
                    assert isinstance(event, h11.EndOfMessage)
                    return Answer(status, head, received)


@pytest.fixture(params=[Http1, Http2])
async def both(
    request: pytest.FixtureRequest, jump_clock: Clock, nursery: trio.Nursery
) -> AsyncGenerator[Http2, None]:
    async with ours(APP) as server:
        yield request.param(server)


@asynccontextmanager
async def http2(app: ConnectApp = APP) -> AsyncGenerator[RawClient, None]:
    async with ours(app) as server, server.client() as client:
        yield client


def headers(path: str, content_type: str = PROTO, **more: str) -> tuple[Any, ...]:
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    return (path.encode(), (b"content-type", content_type.encode()), *extra)

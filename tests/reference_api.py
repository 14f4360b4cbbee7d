"""Requests to the admin API under the reference's names, as a script makes them: by HTTP/1.1 on the real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from admin_world import World
from google.protobuf.message import Message

from backrest import wire
from backrest.admin import client
from backrest.protocol import framing
from backrest.wire import codec

M = TypeVar("M", bound=Message)
Codec = Literal["json", "proto"]
BACKREST = "/v1.Backrest/"
STATES = "/v1sync.BackrestSyncStateService/"


class Refused(Exception):
    """The answer was an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def connection(world: World) -> client.Connection:
    made = client.connect(world.paths)
    assert made is not None
    made.sock.settimeout(None)
    return made


def encode(message: Message, kind: Codec) -> bytes:
    return codec.dumps(message) if kind == "json" else message.SerializeToString()


def decode(kind: type[M], data: bytes, name: Codec) -> M:
    return codec.loads(kind, data) if name == "json" else kind.FromString(data)


def ask(world: World, path: str, request: Message, answer: type[M], kind: Codec = "json") -> M:
    """One unary call; Refused when it is answered with an error."""
    with connection(world) as http:
        http.request("POST", path, encode(request, kind), {"content-type": f"application/{kind}"})
        response = http.getresponse()
        data = response.read()
    if response.status == 200:
        return decode(answer, data, kind)
    error = json.loads(data)
    raise Refused(error["code"], error["message"])


@contextlib.contextmanager
def following(
    world: World, path: str, request: Message, event: type[M], kind: Codec = "json"
) -> Iterator[Iterator[M]]:
    """The messages of a stream, one by one, until its end; Refused when that is an error."""
    with connection(world) as http:
        headers = {"content-type": f"application/connect+{kind}"}
        http.request("POST", path, framing.encode(0, encode(request, kind)), headers)
        response = http.getresponse()
        assert response.status == 200
        yield _events(response, event, kind)


def _events(response: http.client.HTTPResponse, event: type[M], kind: Codec) -> Iterator[M]:
    while True:
        head = response.read(5)
        assert len(head) == 5, "the stream broke off without an end"
        payload = response.read(int.from_bytes(head[1:]))
        if head[0] & framing.FLAG_END:
            end = framing.parse_end(payload)
            if end.code is not None:
                raise Refused(end.code, end.message)
            return
        yield decode(event, payload, kind)


def get_config(world: World) -> wire.config.Config:
    from google.protobuf.empty_pb2 import Empty

    return ask(world, f"{BACKREST}GetConfig", Empty(), wire.config.Config)


def set_config(world: World, config: Any, kind: Codec = "json") -> wire.config.Config:
    return ask(world, f"{BACKREST}SetConfig", config, wire.config.Config, kind)

"""The admin API under the reference's names, in JSON and in protobuf, so that curl and existing scripts work.

Each method is a few lines around a use case of the commands: what a command refuses, the API refuses in the same
words. Configurations go out masked (the reference sends passwords in clear). A method that the reference has and this
program has not is answered with ``unimplemented``, not with a 404: a script then knows which of the two is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from backrest import wire
from backrest.admin import faults, streaming
from backrest.admin.context import Context
from backrest.admin.reference import config, operations, repos, states, tasks, tokens
from backrest.errors import Code, UserError
from backrest.net.connect import Body, ConnectError, ConnectStream, Stream, Unary, UnaryRequest
from backrest.wire import codec

Service = wire.service
Sync = wire.sync


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method: its request's type, and the function that answers it."""

    request: type[Message]
    blocking: Callable[[Context, Any], Message] | None = None
    """Called in a thread."""
    pieces: Callable[[Context, Any, str], Iterator[bytes]] | None = None
    """The body of a large answer, in "json" or "proto", made piece by piece in a thread."""
    task: Callable[[Context, Any], Awaitable[Message]] | None = None
    """Awaited; cancelled when the caller's own time limit has passed."""
    events: Callable[[Context, Any, Callable[[Message], Awaitable[None]]], Awaitable[None]] | None = None
    """Sends messages until it returns, or the caller leaves."""


RPCS: Mapping[str, Rpc] = {
    "/v1.Backrest/GetConfig": Rpc(Empty, blocking=config.get_config),
    "/v1.Backrest/SetConfig": Rpc(wire.config.Config, blocking=config.set_config),
    "/v1.Backrest/AddRepo": Rpc(Service.AddRepoRequest, task=repos.add_repo),
    "/v1.Backrest/RemoveRepo": Rpc(Service.RemoveRepoRequest, blocking=repos.remove_repo),
    "/v1.Backrest/CheckRepoExists": Rpc(Service.CheckRepoExistsRequest, task=repos.check_repo_exists),
    "/v1.Backrest/GetOperations": Rpc(Service.GetOperationsRequest, pieces=operations.get_operations),
    "/v1.Backrest/GetOperationEvents": Rpc(Empty, events=operations.get_operation_events),
    "/v1.Backrest/ClearHistory": Rpc(Service.ClearHistoryRequest, blocking=operations.clear_history),
    "/v1.Backrest/Backup": Rpc(Service.BackupRequest, task=tasks.backup),
    "/v1.Backrest/DoRepoTask": Rpc(Service.DoRepoTaskRequest, task=tasks.do_repo_task),
    "/v1.Backrest/Cancel": Rpc(Service.CancelOperationRequest, task=tasks.cancel),
    "/v1.Backrest/GeneratePairingToken": Rpc(
        Service.GeneratePairingTokenRequest, blocking=tokens.generate_pairing_token
    ),
    "/v1sync.BackrestSyncStateService/GetPeerSyncStatesStream": Rpc(
        Sync.SyncStateStreamRequest, events=states.get_peer_sync_states
    ),
    "/v1sync.BackrestSyncStateService/SetRemoteClientConfig": Rpc(
        Sync.SetRemoteClientConfigRequest, task=states.set_remote_client_config
    ),
}


def routes(context: Context) -> dict[str, Unary | Stream]:
    """Path and handler of each method."""
    table: dict[str, Unary | Stream] = {}
    for path, streams in _names():
        rpc = RPCS.get(path)
        if rpc is None and streams:
            table[path] = Stream(_unimplemented, http2_only=False)
        elif rpc is None:
            table[path] = Unary(_unimplemented)
        elif rpc.events is not None:
            table[path] = Stream(partial(_events, context, rpc), http2_only=False)
        else:
            table[path] = Unary(partial(_unary, context, rpc))
    return table


def _names() -> Iterator[tuple[str, bool]]:
    """Every method of the reference's two admin services, and whether it streams."""
    for file, service in ((Service, "Backrest"), (Sync, "BackrestSyncStateService")):
        described = file.DESCRIPTOR.services_by_name[service]
        for method in described.methods:
            yield f"/{described.full_name}/{method.name}", method.server_streaming


async def _unimplemented(_: object) -> Any:
    raise ConnectError(Code.UNIMPLEMENTED, "Backrest in Go has this method, this program has not")


async def _unary(context: Context, rpc: Rpc, request: UnaryRequest) -> Body:
    with faults.as_connect():
        message = _parse(rpc.request, request.codec, request.body)
        if rpc.pieces is not None:
            pieces = rpc.pieces(context, message, request.codec)
            first = await trio.to_thread.run_sync(next, pieces, b"")  # what fails at once gets its answer
            return itertools.chain((first,), pieces)
        if rpc.blocking is not None:
            answer = await trio.to_thread.run_sync(rpc.blocking, context, message)
        else:
            assert rpc.task is not None
            answer = await rpc.task(context, message)
        return await trio.to_thread.run_sync(_dump, request.codec, answer)


async def _events(context: Context, rpc: Rpc, stream: ConnectStream) -> None:
    assert rpc.events is not None
    run = rpc.events

    async def handle(request: bytes, send: streaming.Send) -> None:
        async def send_message(message: Message) -> None:
            await send(await trio.to_thread.run_sync(_dump, stream.codec, message))

        await run(context, _parse(rpc.request, stream.codec, request), send_message)

    await streaming.answer(stream, handle)


def _dump(kind: str, message: Message) -> bytes:
    return codec.dumps(message) if kind == "json" else message.SerializeToString()


def _parse(kind: type[Message], name: str, body: bytes) -> Message:
    try:
        if name == "json":
            return codec.loads(kind, body or b"{}")
        return kind.FromString(body)
    except (ValueError, DecodeError) as error:
        raise UserError(f"the request cannot be read: {error}") from None

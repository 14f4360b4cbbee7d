"""What the suite bears of the reference: a client and hubs with its habits, in simulated time.

The client is that of go_client.py. It dials the hub that the suite plays over HTTP/2 in memory, and never closes a
stream. Cases about what it does not know (scopes, its own configuration) are not for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from go_client import GoClient
from go_hub import GoProgram
from sync_world import Pipe, pipes
from test_conformance import halves
from trio.testing import MockClock, memory_stream_pair

from backrest.crypto.tokens import PairingToken, new_secret
from conformance.__main__ import REFERENCE_REDIAL_S
from conformance.cases import load
from conformance.framing import COMPRESSED, END, envelope, gzip
from conformance.h2raw import Broken, Connection, RawStream
from conformance.hublab import MAIN, HubLab, Member, operation
from conformance.model import CASES, Failed, Role, select
from conformance.peer import PATH, AsHub
from conformance.runner import CLIENT_S, FAST_S, Judge, Result
from conformance.seats import ClientLab, Seat

load()

CONFIG = {"config/45", "config/72", "config/73", "config/76", "config/78", "config/84", "config/87"}
NOT_OF_IT = {"http/60"}  # headers, which the client on pipes has none of
BORNE = [
    case.id
    for case in select(Role.CLIENT, reference=True)
    if (not case.needs or case.id in CONFIG)
    and case.id not in NOT_OF_IT
    and not (case.id.startswith("config/") and case.id not in CONFIG)
]


class Network:
    """In the place of sync_world's: every stream of the client is a connection to the seat."""

    def __init__(self, nursery: trio.Nursery, seat: Seat) -> None:
        self.nursery = nursery
        self.up = {seat.instance_id: seat}
        self._seat = seat

    async def _serve(self, hub: Any, pipe: Pipe) -> None:
        here, there = memory_stream_pair()
        assert self.nursery is not None
        self.nursery.start_soon(self._seat.serve, there)
        connection = Connection(here, client=True)
        async with trio.open_nursery() as nursery:
            await connection.start()
            nursery.start_soon(connection.run)
            headers = [(":method", "POST"), (":scheme", "http"), (":authority", "hub"), (":path", PATH)]
            stream = await connection.open(headers)
            nursery.start_soon(_outwards, pipe, stream)
            while (data := await stream.receive()) is not None:
                await pipe.send(data)
            pipe.close()
            await trio.sleep_forever()  # the stream stays open


async def _outwards(pipe: Pipe, stream: RawStream) -> None:
    with suppress(Broken):
        while data := await pipe.receive():
            await stream.send(data)


async def judged(id: str, *, reference: bool = True) -> Result:
    """The case's verdict on the Go-like client."""
    case = CASES[id]
    lab = ClientLab(seconds=REFERENCE_REDIAL_S, redial=REFERENCE_REDIAL_S, reference=reference)
    lab.calm.set()
    seat = Seat(lab, case, 1)
    judge = Judge({}, lambda result: None)
    async with trio.open_nursery() as nursery:
        member = Member("go")
        hub: Any = SimpleNamespace(
            name=seat.instance_id,
            keyid=seat.identity.keyid,
            operation=lambda **fields: operation(member, **fields),
        )
        grants = " ".join(case.grants)
        pairs = id.startswith("handshake/") and not case.paired
        network: Any = Network(nursery, seat)
        go = GoClient(
            network,
            hub,
            secret=seat.secret if pairs else "",
            takes_shared="receive-shared-repos" in grants,
            writable="read-write-config" in grants,
            shows="config" in grants,
        )
        if "read-operations" in grants:
            for _ in range(3):
                go.add()
        nursery.start_soon(go.run)
        result = await judge.run(case, seat, CLIENT_S)
        nursery.cancel_scope.cancel()
    return result


@pytest.mark.parametrize("id", BORNE)
async def test_a_client_with_the_habits_of_the_reference_passes(autojump_clock: MockClock, id: str) -> None:
    result = await judged(id)
    assert result.outcome == "passed", result.text


@pytest.mark.parametrize("id", ["kem/32", "record/31", "order/47", "handshake/62", "config/73"])
async def test_without_the_profile_it_does_not(autojump_clock: MockClock, id: str) -> None:
    """The full profile demands what only this project promises: to close what is given up."""
    assert (await judged(id, reference=False)).outcome == "failed"


# --- hubs


class _Unlimited(set[str]):
    """The secrets of tokens without a limit of uses."""

    def remove(self, secret: str) -> None: ...


class Program(HubLab):
    """The Go-like hub of go_hub.py, reached over HTTP/2 in memory."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.program = GoProgram(SimpleNamespace(up={}))  # type: ignore[arg-type]
        token = PairingToken(self.program.keyid, new_secret(), self.program.name)
        self.program.secrets = _Unlimited({token.secret})
        self._nursery = nursery
        super().__init__("http://hub", {MAIN: token}, seconds=5, reference=True)

    @asynccontextmanager
    async def connect(self, *, window: int = 1 << 20) -> AsyncIterator[Connection]:
        here, there = memory_stream_pair()
        self._nursery.start_soon(self._listen, Connection(there, client=False))
        connection = Connection(here, client=True, window=window)
        async with trio.open_nursery() as nursery:
            await connection.start()
            nursery.start_soon(connection.run)
            yield connection
            nursery.cancel_scope.cancel()
        await connection.close()

    async def _listen(self, connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            await connection.start()
            nursery.start_soon(connection.run)
            async for stream in connection.requests:
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: RawStream) -> None:
        await stream.respond([(":status", "200"), ("content-type", "application/connect+proto")])
        here, there = pipes()
        self._nursery.start_soon(self.program.serve, there)
        self._nursery.start_soon(_inwards, stream, here)
        await _outwards(here, stream)
        with suppress(Broken):
            await stream.send(b"", end=True)


async def _inwards(stream: RawStream, pipe: Pipe) -> None:
    while (data := await stream.receive()) is not None:
        await pipe.send(data)
    pipe.close()


async def program_judged(id: str) -> Result:
    async with trio.open_nursery() as nursery:
        result = await Judge({}, lambda result: None).run(CASES[id], Program(nursery), FAST_S)
        nursery.cancel_scope.cancel()
    return result


@pytest.mark.parametrize("id", [case.id for case in select(Role.HUB, only=("history/*",), reference=True)])
async def test_a_hub_with_the_habits_of_the_reference_passes(autojump_clock: MockClock, id: str) -> None:
    """Operations are what it knows. It refuses the first session after a pairing."""
    result = await program_judged(id)
    assert result.outcome == "passed", result.text


async def test_deletes_of_what_it_does_not_hold_are_not_for_it(autojump_clock: MockClock) -> None:
    assert (await program_judged("history/19")).outcome == "failed"


Act = Callable[[AsHub], Awaitable[None]]


async def _refuse(talk: AsHub) -> None:
    await talk.finish("permission_denied")


async def _let_in(talk: AsHub) -> None:
    await talk.open()
    await talk.until_end()


async def _against(*acts: Act, reference: bool) -> None:
    """Pair a client with a hub of the suite that does one of ``acts`` in each session, and open a session then."""
    async with halves() as (seat, lab), trio.open_nursery() as nursery:

        async def hub() -> None:
            for act in acts:
                async with seat.keyed() as talk:
                    await talk.hello(seat.identity, seat.instance_id)
                    await talk.client_hello()
                    await act(talk)

        nursery.start_soon(hub)
        lab.reference = reference
        async with lab.session(await lab.member()):
            pass
        nursery.cancel_scope.cancel()


async def test_a_hub_that_is_slow_to_learn_whom_it_paired_is_asked_again() -> None:
    await _against(_refuse, _refuse, _refuse, _let_in, _refuse, _let_in, reference=True)


async def test_in_the_full_profile_it_fails() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Failed, match="permission_denied"), flatten_subgroups=True):
        await _against(_let_in, _refuse, reference=False)


async def _answers_packed(seat: Seat, declared: bool) -> None:
    async with seat.accept(respond=False) as talk:
        await talk.respond(**({"connect-content-encoding": "gzip"} if declared else {}))
        body = b'{"error": {"code": "invalid_argument"}}'
        await talk.send_bytes(envelope(gzip(body), END | COMPRESSED), end=True)
        await trio.sleep_forever()


@pytest.mark.parametrize("declared", [True, False])
async def test_an_answer_in_the_encoding_that_its_headers_declare_is_read(declared: bool) -> None:
    async with halves() as (seat, lab), trio.open_nursery() as nursery:
        nursery.start_soon(_answers_packed, seat, declared)
        judge = Judge({}, lambda result: None)
        result = await judge.run(CASES["http/22"], _Served(lab), 20)
        nursery.cancel_scope.cancel()
    assert (result.outcome == "passed") is declared, result.text


class _Served:
    """The lab of a hub that answers one stream: whether it goes on is not asked."""

    def __init__(self, lab: HubLab) -> None:
        self.dial = lab.dial

    async def serves(self) -> None: ...

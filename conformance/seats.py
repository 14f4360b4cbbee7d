"""The program under test is the client: what a case gets to work with.

A client that was refused waits before it comes back, longer each time, so one hub for all cases would take hours.
Therefore the suite plays many hubs at once: each case has a `Seat`, an identity with a port and a token of its own,
which the operator enters at the client before the run. The client dials all of them side by side.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.crypto.tokens import PairingToken, new_secret
from conformance.h2raw import Connection, RawStream
from conformance.model import Case, Failed, Skipped, check
from conformance.peer import AsHub, Handshake, Item, handshake, patience

_RUN = secrets.token_hex(2)

FIXTURE_REPOS = ("conf-a", "conf-b", "conf-c")  # nothing uses conf-c
FIXTURE_PLANS = {f"{repo}{number}": repo for repo in ("conf-a", "conf-b") for number in (1, 2, 3, 4)}
OPERATIONS_PER_PLAN = 80
"""Of eight plans more than the 512 of one message; of one plan less than the 100 that the reference keeps."""
FIXTURE_PASSWORD = "conformance-secret"


def fixture_guid(repo: str) -> str:
    return {"conf-a": "aa", "conf-b": "bb", "conf-c": "cc"}[repo] * 32


@dataclass(slots=True)
class ClientLab:
    """What all seats share."""

    seconds: float = 10.0
    redial: float = 45.0
    """How long the client may take to come back: backoff with jitter. The reference: a minute at first."""
    reference: bool = False
    fixture: bool = False
    """The client holds the repos, plans and operations of ``--setup``."""
    change: str | None = None
    """A command that makes the client create one operation of its own."""
    environment: dict[str, str] | None = None
    """Of that command; None is our own."""
    heartbeat: float | None = None
    alone: trio.Lock = field(default_factory=trio.Lock)
    """Held by a case that changes the client's configuration while it looks at it."""
    calm: trio.Event = field(default_factory=trio.Event)
    """All cases but the serial ones are over: nothing changes the client's configuration unasked."""
    first_arrival: trio.Event = field(default_factory=trio.Event)


class Seat:
    """One hub that the suite plays, for one case."""

    def __init__(self, lab: ClientLab, case: Case, number: int) -> None:
        self.lab = lab
        self.case = case
        self.identity = Identity.generate()
        self.instance_id = f"conf-hub-{_RUN}-{number}"
        self.secret = new_secret()
        self.host = ""
        self.port = 0
        self.public_url = ""
        self.doubled = False
        self._streams: list[RawStream] = []
        self._arrived = trio.Event()
        self._taken = 0
        self._listening = trio.CancelScope()
        self.partner = self
        """A second hub, for a case that plays two; else itself."""

    @property
    def token(self) -> str:
        return PairingToken(self.identity.keyid, self.secret, self.instance_id).format()

    @property
    def url(self) -> str:
        return self.public_url or f"http://{self.host}:{self.port}"

    # --- the listener

    async def serve(self, transport: trio.abc.Stream) -> None:
        """One connection of the client."""
        connection = Connection(transport, client=False)
        async with trio.open_nursery() as nursery:
            await connection.start()

            async def run() -> None:
                await connection.run()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            async for stream in connection.requests:
                nursery.start_soon(self._note_double, list(self._streams), stream)
                self._streams.append(stream)
                self.lab.first_arrival.set()
                self._arrived.set()
                self._arrived = trio.Event()
        await connection.close()

    async def _note_double(self, earlier: list[RawStream], new: RawStream) -> None:
        """Two live streams at once? What is being closed at this moment is given half a second."""
        with trio.move_on_after(0.5):
            for stream in earlier:
                await stream.connection.until(lambda stream=stream: stream.over or new.over)  # type: ignore[misc]
            return
        self.doubled = True

    async def listen(self, listeners: list[trio.SocketListener]) -> None:
        with self._listening:
            await trio.serve_listeners(self.serve, listeners)

    def leave(self) -> None:
        """The case is over: nobody listens here any more."""
        self._listening.cancel()

    # --- for the cases

    @asynccontextmanager
    async def accept(self, *, respond: bool = True) -> AsyncIterator[AsHub]:
        """The client's next stream; response headers are sent unless told otherwise."""
        async with patience(self.lab.redial, "the client to connect"):
            await self._next_arrival()
            while self._streams[-1].over:  # it came and went before its turn
                self._taken = len(self._streams)
                await self._next_arrival()
        self._taken = len(self._streams)
        stream = self._streams[-1]
        talk = AsHub(stream, self.lab.seconds)
        if respond:
            await talk.respond()
        try:
            yield talk
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await stream.abort()

    @asynccontextmanager
    async def keyed(self) -> AsyncIterator[AsHub]:
        """A stream after the key exchange; our handshake is due."""
        async with self.accept() as talk:
            await talk.exchange()
            yield talk

    @asynccontextmanager
    async def established(self) -> AsyncIterator[AsHub]:
        """An established session; nothing of what the client says in it is read yet."""
        async with self.keyed() as talk:
            await talk.hello(self.identity, self.instance_id)
            await talk.client_hello()
            await talk.open()
            yield talk

    def handshake(self, talk: AsHub) -> Handshake:
        """Our handshake on this stream, as it should be."""
        assert talk.channel is not None
        return handshake(self.identity, self.instance_id, "", talk.channel.transcript)

    async def gone(self, talk: AsHub) -> None:
        """The client must give the stream up: close it, or (the reference) come again without closing it."""
        if self.lab.reference:
            talk.seconds = max(talk.seconds, self.lab.redial)
        await self.or_again(partial(talk.until_end, "the client to leave"))

    async def or_again(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Do ``work``. The reference gives a stream up without a sign, so there it is left undone when the client
        comes again; the next ``accept`` takes that stream. Returns whether the work was done."""
        if not self.lab.reference:
            await work()
            return True
        done = False
        async with trio.open_nursery() as nursery:

            async def again() -> None:
                await self._next_arrival()
                nursery.cancel_scope.cancel()

            nursery.start_soon(again)
            await work()
            done = True
            nursery.cancel_scope.cancel()
        return done

    async def _next_arrival(self) -> None:
        while self._taken >= len(self._streams):
            await self._arrived.wait()

    async def returns(self) -> None:
        """The client must come back and be let in."""
        async with self.established() as talk:
            await talk.expect("receive_config", skip=())

    async def manifest(self, talk: AsHub) -> dict[int, int]:
        """The next manifest, as id to modno."""
        found = await talk.expect("operation_manifest")
        check(len(found.op_ids) == len(found.modnos), "the manifest's lists differ in length")
        return dict(zip(found.op_ids, found.modnos, strict=True))

    async def operations(self, talk: AsHub, ids: list[int]) -> list[wire.operations.Operation]:
        """Ask for these; what came when all of them came, or when the fence behind them is answered."""
        await talk.send("request_operation_data", Item.SyncActionRequestOperationData(op_ids=ids))
        found: list[wire.operations.Operation] = []
        while len(found) < len(ids):
            event = (await talk.expect("receive_operations")).event
            kind = event.WhichOneof("event")
            if kind == "created_operations":
                continue  # a live change, of another case
            check(kind == "updated_operations", f"answered with {kind}")
            check(len(event.updated_operations.operations) <= 512, "more than 512 operations in a message")
            found += event.updated_operations.operations
        return found

    async def change(self) -> None:
        """Make the client create one operation of its own."""
        if self.lab.change is None:
            raise Skipped("needs --change-command")
        for _ in range(10):  # a program that serves a hundred hubs at once may be slow to answer
            done = await trio.run_process(
                self.lab.change,
                shell=True,
                check=False,
                capture_stdout=True,
                capture_stderr=True,
                env=self.lab.environment,
            )
            if not done.returncode:
                return
        raise Failed(f"the change command failed: {done.stderr.decode(errors='replace')[-500:]}")

    def fixture(self) -> None:
        if not self.lab.fixture:
            raise Skipped("needs --fixture: the client's repos, plans and operations are not the suite's")


@asynccontextmanager
async def listening(seats: list[Seat], host: str, port: int) -> AsyncIterator[None]:
    """Every seat on a port of its own: ``port`` and those above it, or any when it is 0."""
    async with trio.open_nursery() as nursery:
        for number, seat in enumerate(seats):
            try:
                listeners = await trio.open_tcp_listeners(port + number if port else 0, host=host)
            except OSError as error:
                raise Failed(f"cannot listen on {host}:{port + number}: {error}") from None
            seat.host, seat.port = host, listeners[0].socket.getsockname()[1]
            nursery.start_soon(seat.listen, listeners)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()

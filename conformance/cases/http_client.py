"""HTTP and the Connect protocol, the program as the client: PROTOCOL.md sections 1 and 5."""

from __future__ import annotations

import contextlib

import trio

from conformance.framing import COMPRESSED, END, End, envelope, gzip
from conformance.h2raw import Broken
from conformance.model import Role, case, check, client
from conformance.peer import PATH, AsHub, Item, item, kind_of, patience
from conformance.seats import Seat


@client("http/60", "the client opens the sync path with POST over HTTP/2", "1")
async def _(seat: Seat) -> None:
    async with seat.accept() as talk:
        headers = talk.stream.headers or {}
        check(headers.get(":method") == "POST", f"method {headers.get(':method')}")
        check(headers.get(":path") == PATH, f"path {headers.get(':path')}")
        check(headers.get("content-type") == "application/connect+proto", f"{headers.get('content-type')}")
        check(headers.get("connect-protocol-version") == "1", "no connect-protocol-version: 1")


@client("http/61", "the client compresses nothing, neither declares nor flags it", "1", ours=True)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        headers = talk.stream.headers or {}
        check(headers.get("connect-content-encoding", "identity") == "identity", "it declares an encoding")
        check("gzip" not in headers.get("connect-accept-encoding", ""), "it offers gzip")
        check(not any(talk.flags), f"flags {talk.flags}")


@client("http/62", "a hub's output may come byte by byte", "1")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        talk.asked += 1
        for byte in talk.seal(item("operation_manifest").SerializeToString()):
            await talk.send_bytes(bytes([byte]))
        await talk.expect("operation_manifest")


@client("http/63", "several of the hub's envelopes in one DATA frame are all taken", "1")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        talk.asked += 1
        kinds = ("heartbeat", "request_resources", "operation_manifest")
        await talk.send_bytes(b"".join(talk.seal(item(kind).SerializeToString()) for kind in kinds))
        wanted = {"receive_resources", "operation_manifest"}  # in whichever order
        async with patience(talk.seconds, "the answers to both requests"):
            while wanted:
                received = await talk.next()
                check(not isinstance(received, End), f"the client ended: {received}")
                wanted.discard(kind_of(received))


@client("http/64", "the client answers PING", "HTTP.md")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.stream.connection.ping()
        await talk.fence()


def _comes_back(id: str, what: str, code: str | None, **more: bool) -> None:
    async def run(seat: Seat) -> None:
        async with seat.established() as talk:
            await talk.fence()
            await talk.finish(code, "said the conformance suite")
            await seat.gone(talk)
        await seat.returns()

    case(id, Role.CLIENT, f"after {what} the client comes back", "5", run, **more)


_comes_back("http/65", "a clean end {}", None)
_comes_back("http/66", "an end with internal", "internal")
_comes_back("http/67", "an end with invalid_argument", "invalid_argument")
_comes_back("http/68", "an end with permission_denied", "permission_denied")
_comes_back("http/69", "an end with a code that Connect does not have", "of_another_world")


def _bad_response(id: str, what: str, headers: list[tuple[str, str]]) -> None:
    async def run(seat: Seat) -> None:
        async with seat.accept(respond=False) as talk:
            with contextlib.suppress(Broken):
                await talk.stream.respond(headers, end=True)
            await seat.gone(talk)
        await seat.returns()

    case(id, Role.CLIENT, f"after {what} the client comes back", "5", run)


_bad_response("http/70", "a response with status 404", [(":status", "404"), ("content-type", "text/plain")])
_bad_response("http/71", "a response with status 502 (a proxy without its hub)", [(":status", "502")])
_bad_response("http/72", "a response with status 415", [(":status", "415")])
_bad_response(
    "http/73", "a response of another content type", [(":status", "200"), ("content-type", "text/html")]
)


def _bad_envelope(id: str, what: str, data: bytes, *, end: bool = False, **more: bool) -> None:
    async def run(seat: Seat) -> None:
        async with seat.established() as talk:
            await talk.fence()
            await talk.send_bytes(data, end=end)
            await seat.gone(talk)

    case(id, Role.CLIENT, f"{what} makes the client leave", "1", run, **more)


def _flagged(id: str, what: str, packed: bool, flags: int, **more: bool) -> None:
    """A true record, in an envelope that must not be taken: the client must not act upon it."""

    async def run(seat: Seat) -> None:
        async with seat.established() as talk:
            await talk.fence()
            record = talk.seal(item("operation_manifest").SerializeToString())[5:]
            await talk.send_envelope(gzip(record) if packed else record, flags)
            seen = len(talk.items)
            await seat.gone(talk)
            check("operation_manifest" not in talk.items[seen:], "the client answered what was in it")

    case(id, Role.CLIENT, f"{what} makes the client leave", "1", run, **more)


_flagged("http/74", "a compressed message without a declared encoding", True, COMPRESSED)
_flagged("http/75", "an unknown flag (0x04)", False, 4, ours=True)
_bad_envelope("http/76", "an end-of-stream message that is no JSON", envelope(b"\xff{", END), end=True)
_bad_envelope(
    "http/77", "the end-of-stream message alone, without END_STREAM", envelope(b"{}", END), ours=True
)


def _broken_off(id: str, what: str, data: bytes) -> None:
    async def run(seat: Seat) -> None:
        async with seat.established() as talk:
            await talk.fence()
            await talk.send_bytes(data, end=True)
            await seat.gone(talk)
        await seat.returns()

    case(id, Role.CLIENT, f"{what} is a lost connection: the client comes back", "5", run)


_broken_off("http/78", "END_STREAM without an end-of-stream message", b"")
_broken_off("http/79", "END_STREAM within an envelope", b"\0\0\0\1\0abc")


@client("http/80", "RST_STREAM is a lost connection: the client comes back", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        await talk.stream.abort()
    await seat.returns()


@client("http/81", "a closed TCP connection is a lost one: the client comes back", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        await talk.stream.connection.close()
    await seat.returns()


@client(
    "http/82",
    "on GOAWAY the client leaves the connection and comes back at once",
    "5",
    ours=True,
    direct=True,
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        await talk.stream.connection.go_away()
        said = trio.current_time()
        await talk.until_end("the client to leave a connection that goes away")
    await seat.returns()
    check(trio.current_time() - said < max(3, seat.lab.seconds / 2), "it did not come back at once")


@client(
    "http/83", "a hub that does not read for some seconds is not left, and gets all answers in the end", "6"
)
async def _(seat: Seat) -> None:
    """Much is asked for, so that the flow-control window is full if the client has operations."""
    async with seat.established() as talk:
        manifest = await seat.manifest(talk)
        talk.stream.credit = False
        everything = Item.SyncActionRequestOperationData(op_ids=list(manifest))
        for _ in range(20):
            await talk.send("request_operation_data", everything)
            await talk.send("request_resources")  # one answer may do for all of them
        with trio.move_on_after(3):
            await talk.stream.connection.until(lambda: talk.stream.over)
        check(not talk.stream.over, "the client left")
        await talk.stream.pay()
        await talk.expect("receive_resources")
        await seat.operations(talk, list(manifest))
        await talk.fence()


@client("http/84", "headers that the client does not know are ignored", "1")
async def _(seat: Seat) -> None:
    async with seat.accept(respond=False) as talk:
        await AsHub.respond(talk, **{"x-conformance": "1", "server": "other", "date": "now"})
        await talk.exchange()
        await talk.hello(seat.identity, seat.instance_id)
        await talk.client_hello()

"""Bounds, each from both sides where that can be seen: PROTOCOL.md section 3 and DESIGN.md, "Limits"."""

from __future__ import annotations

import trio

from backrest.crypto.channel import Initiator
from conformance.framing import COMPRESSED, gzip
from conformance.h2raw import open_transport
from conformance.hublab import HubLab, Member
from conformance.model import check, client, hub
from conformance.peer import Item, handshake, item, kind_of, patience
from conformance.seats import Seat


@hub("limits/1", "a first message that announces more than 16 KiB is refused before it comes", "3", ours=True)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.send_bytes(b"\0" + (16 * 1024 + 1).to_bytes(4, "big"))
        await talk.expect_end()


@hub(
    "limits/2",
    "more than 16 KiB before the client is known are refused, in small messages too",
    "3",
    ours=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.dial() as talk:
        await talk.exchange()
        await talk.hub_hello()
        assert talk.channel is not None
        hello = handshake(member.identity, member.instance_id, "", talk.channel.transcript)
        body = hello.SerializeToString() + _zeros(16000)
        await talk.send_inner(b"\x1a" + _varint(len(body)) + body)
        await talk.expect_end()


@hub("limits/3", "a handshake of 12 KiB, most of it unknown fields, is taken", "9")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        assert talk.channel is not None
        hello = handshake(member.identity, member.instance_id, "", talk.channel.transcript)
        body = hello.SerializeToString() + _zeros(12000)
        await talk.send_inner(b"\x1a" + _varint(len(body)) + body)
        await talk.expect("receive_config", skip=())


def _zeros(count: int) -> bytes:
    """Field 100: unknown, so skipped where it is read."""
    return b"\xa2\x06" + _varint(count) + bytes(count)


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@hub(
    "limits/4",
    "a small gzip message that unpacks to more than 16 KiB is refused before the client is known",
    "3",
    ours=True,
)
async def _(lab: HubLab) -> None:
    key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=Initiator().public_key)
    async with lab.dial(connect_content_encoding="gzip") as talk:
        whole = item("establish_shared_secret", key).SerializeToString() + _zeros(10_000_000)
        await talk.send_envelope(gzip(whole), COMPRESSED)
        await talk.expect_end()
        check("establish_shared_secret" not in talk.items, "the hub answered it with its half")


@hub(
    "limits/5",
    "a gzip bomb from a known client ends its session and nothing else",
    "3",
    ours=True,
    serial=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member, connect_content_encoding="gzip") as talk:
        manifest = Item.SyncActionOperationManifest(op_ids=[1], modnos=[1])
        record = talk.seal(item("operation_manifest", manifest).SerializeToString())[5:]
        # Packing and unpacking so much takes either side long on a busy machine: alone (serial), and no more of it.
        await talk.send_envelope(gzip(record + _zeros(65 << 20)), COMPRESSED)
        await talk.expect_end()
        check("request_operation_data" not in talk.items, "what was in it was acted upon")
    await lab.serves()


@hub("limits/6", "a message that announces more than 64 MiB is refused before it comes", "3", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send_bytes(b"\0" + ((64 << 20) + 1).to_bytes(4, "big"))
        await talk.expect_end()


@hub("limits/7", "a manifest of 100,000 operations is one message", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        talk.seconds *= 3
        ids = range(10**15, 10**15 + 100_000)
        manifest = Item.SyncActionOperationManifest(op_ids=ids, modnos=[1] * len(ids))
        await talk.send("operation_manifest", manifest)
        asked = await talk.expect("request_operation_data")
        check(asked.op_ids[0] == 10**15, f"asked for {asked.op_ids[0]} first")


@hub("limits/8", "twenty clients that come at the same time all get in", "3")
async def _(lab: HubLab) -> None:
    members: list[Member] = [await lab.member() for _ in range(4)]
    strangers = [lab.stranger() for _ in range(16)]

    async def come(member: Member, known: bool) -> None:
        async with lab.keyed() as talk:
            await talk.hello(member.identity, member.instance_id)
            if known:
                await talk.expect("receive_config", skip=())
            else:
                await talk.expect_end("permission_denied")

    async with patience(2 * lab.seconds, "all twenty"), trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(come, member, True)
        for member in strangers:
            nursery.start_soon(come, member, False)


@hub(
    "limits/9",
    "silent streams (eight from one address) do not keep a client out for good",
    "3",
    ours=True,
    slow=True,
    serial=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.connect() as connection:
        for _ in range(8):
            await lab.open(connection)
        await trio.sleep(5)
        async with lab.dial() as talk:
            talk.seconds = 20
            key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=Initiator().public_key)
            await talk.send_envelope(item("establish_shared_secret", key).SerializeToString())
            received = await talk.next("an answer within the 15 s that each silent stream has")
            check(kind_of(received) == "establish_shared_secret", f"came {kind_of(received)}")
    async with lab.session(member):
        pass


@hub(
    "limits/10",
    "a connection on which nothing comes is closed after 10 s",
    "3",
    ours=True,
    slow=True,
    direct=True,
)
async def _(lab: HubLab) -> None:
    transport = await open_transport(lab.url, lab.ca_file)
    async with transport, patience(20, "the hub to close a silent connection"):
        started = trio.current_time()
        try:
            while await transport.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass
        check(trio.current_time() - started > 5, "it was closed at once")


@hub("limits/11", "bytes that are no HTTP end that connection and nothing else", "3", direct=True)
async def _(lab: HubLab) -> None:
    transport = await open_transport(lab.url, lab.ca_file)
    async with transport, patience(lab.seconds, "the hub to close the connection"):
        await transport.send_all(b"\x16\x03\x01\x00\xa5not http at all\r\n\r\n" * 3)
        try:
            while await transport.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass
    await lab.serves()


# --- the program as the client


@client(
    "limits/20",
    "a message that announces more than 64 MiB makes the client leave before it comes",
    "3",
    ours=True,
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        await talk.send_bytes(b"\0" + ((64 << 20) + 1).to_bytes(4, "big"))
        await seat.gone(talk)


@client(
    "limits/21",
    "a client that is refused dials no more than ten times a minute or so",
    "5",
    ours=True,
    slow=True,
)
async def _(seat: Seat) -> None:
    dials = 0
    with trio.move_on_after(55):
        while True:
            async with seat.accept() as talk:
                dials += 1
                await talk.finish("unavailable", "the conformance suite refuses")
                await talk.stream.connection.close()
    check(2 <= dials <= 12, f"{dials} attempts within 55 s")

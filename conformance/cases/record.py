"""The encrypted records, both roles: PROTOCOL.md section 2. One table of faults, each planted at both stages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backrest.crypto.channel import Channel
from conformance.framing import End
from conformance.hublab import HubLab, created, operation
from conformance.model import Role, case, check, client, hub
from conformance.peer import Item, Talk, item
from conformance.seats import Seat

HEARTBEAT = item("heartbeat").SerializeToString()

Fault = Callable[[Talk, bytes], Awaitable[None]]


def _parts(talk: Talk, plaintext: bytes) -> tuple[bytes, bytes]:
    assert talk.channel is not None
    return talk.channel.seal(plaintext)


def _nonce(change: Callable[[bytes], bytes]) -> Fault:
    async def send(talk: Talk, plaintext: bytes) -> None:
        nonce, ciphertext = _parts(talk, plaintext)
        await talk.send_record(change(nonce), ciphertext)

    return send


def _ciphertext(change: Callable[[bytes], bytes]) -> Fault:
    async def send(talk: Talk, plaintext: bytes) -> None:
        nonce, ciphertext = _parts(talk, plaintext)
        await talk.send_record(nonce, change(ciphertext))

    return send


async def _skipped(talk: Talk, plaintext: bytes) -> None:
    """A true record, but one before it was lost."""
    _parts(talk, HEARTBEAT)
    await talk.send_record(*_parts(talk, plaintext))


async def _swapped(talk: Talk, plaintext: bytes) -> None:
    first, second = _parts(talk, HEARTBEAT), _parts(talk, plaintext)
    await talk.send_record(*second)
    await talk.send_record(*first)


async def _clear(talk: Talk, plaintext: bytes) -> None:
    await talk.send_envelope(plaintext)


async def _no_protobuf(talk: Talk, plaintext: bytes) -> None:
    await talk.send_inner(b"\xff\xff\xff\xff")


async def _garbage(talk: Talk, plaintext: bytes) -> None:
    await talk.send_envelope(b"\xff\xff\xff\xff")


async def _other_key(talk: Talk, plaintext: bytes) -> None:
    nonce, _ = _parts(talk, plaintext)
    other = Channel.from_keys(bytes(32), bytes(32), b"", sent=int.from_bytes(nonce, "big"))
    await talk.send_record(*other.seal(plaintext))


def _wrong_counter(nonce: bytes) -> bytes:
    return (int.from_bytes(nonce, "big") + 1).to_bytes(12, "big")


FAULTS: tuple[tuple[str, Fault], ...] = (
    ("a nonce that is one ahead", _nonce(_wrong_counter)),
    ("a nonce of eight bytes, the counter alone", _nonce(lambda nonce: nonce[4:])),
    ("a nonce with a byte too many", _nonce(lambda nonce: b"\0" + nonce)),
    ("an empty nonce", _nonce(lambda nonce: b"")),
    ("a nonce whose first four bytes are not zero", _nonce(lambda nonce: b"\0\0\0\1" + nonce[4:])),
    ("a lost record before it", _skipped),
    ("two records in the wrong order", _swapped),
    ("an altered tag", _ciphertext(lambda text: text[:-1] + bytes([text[-1] ^ 1]))),
    ("an altered first byte of the ciphertext", _ciphertext(lambda text: bytes([text[0] ^ 1]) + text[1:])),
    ("a ciphertext that is a byte short", _ciphertext(lambda text: text[:-1])),
    ("a ciphertext shorter than a tag", _ciphertext(lambda text: text[:15])),
    ("an empty ciphertext", _ciphertext(lambda text: b"")),
    ("a record under another key", _other_key),
    ("a cleartext item", _clear),
    ("a record whose content is no protobuf", _no_protobuf),
    ("a message that is no protobuf", _garbage),
)


def _at_hub(id: str, what: str, fault: Fault) -> None:
    """The faulty record carries an operation: the stream must end, and the operation must not be kept."""

    async def run(lab: HubLab) -> None:
        member = await lab.member()
        async with lab.session(member) as talk:
            carried = item("receive_operations", created(operation(member, 1)))
            await fault(talk, carried.SerializeToString())
            await talk.expect_end("internal")
        check(await lab.asks(member, {1: 1}) == [1], "the operation in the faulty record was stored")

    case(id, Role.HUB, f"{what} ends the session with internal, and nothing of it is stored", "2", run)


for _n, (_what, _fault) in enumerate(FAULTS, start=1):
    _at_hub(f"record/{_n}", _what, _fault)


@hub("record/20", "a record that comes again ends the session with internal", "2")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    manifest = Item.SyncActionOperationManifest(op_ids=[1], modnos=[1])
    async with lab.session(member) as talk:
        whole = talk.seal(item("operation_manifest", manifest).SerializeToString())
        await talk.send_bytes(whole + whole)
        await talk.expect_end("internal")
        check(talk.items.count("request_operation_data") <= 1, "it was acted upon again")


@hub("record/21", "the hub's own record sent back to it ends the session with internal", "2")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        whole = await talk.envelope()  # the hub's second record: ours of that number is due
        check(isinstance(whole, tuple), f"the hub ended: {whole}")
        assert isinstance(whole, tuple)
        await talk.send_envelope(whole[1])
        talk.channel = None  # what comes now need not be read
        end = await _any_end(talk)
        check(end.code == "internal", f"instead of internal came {end}")


@hub("record/22", "a wrong tag in the place of the handshake ends the stream with internal", "2")
async def _(lab: HubLab) -> None:
    async with lab.keyed() as talk:
        assert talk.channel is not None
        await talk.send_record(bytes(12), bytes(40))
        await talk.expect_end("internal")


@hub("record/23", "a handshake in the clear ends the stream with internal", "2")
async def _(lab: HubLab) -> None:
    async with lab.keyed() as talk:
        await talk.send_clear("handshake", Item.SyncActionHandshake(protocol_version=3))
        await talk.expect_end("internal")


@hub("record/24", "the counters go on beyond one byte, in both directions", "2")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        for number in range(300):
            manifest = Item.SyncActionOperationManifest(op_ids=[number + 1], modnos=[1])
            await talk.send("operation_manifest", manifest)
            await talk.expect("request_operation_data")


@hub("record/25", "a faulty record ends that session alone", "2")
async def _(lab: HubLab) -> None:
    one, other = await lab.member(), await lab.member()
    async with lab.session(one) as good, lab.session(other) as bad:
        await bad.send_record(bytes(12), bytes(40))
        await bad.expect_end("internal")
        check(await lab.fence(good, {1: 1}) == [1], "the other session does not go on")


async def _any_end(talk: Talk) -> End:
    while not isinstance(whole := await talk.envelope(), End):
        pass
    return whole


# --- the program as the client


def _at_client(id: str, what: str, fault: Fault) -> None:
    async def run(seat: Seat) -> None:
        async with seat.established() as talk:
            await talk.fence()
            await fault(talk, item("operation_manifest").SerializeToString())
            sent = len(talk.items)
            await seat.gone(talk)
            check("operation_manifest" not in talk.items[sent:], "the client answered what was in the record")

    case(id, Role.CLIENT, f"{what} makes the client leave, and it does not act upon it", "2", run)


for _n, (_what, _fault) in enumerate(FAULTS, start=31):
    _at_client(f"record/{_n}", _what, _fault)


@client("record/50", "a record that comes again makes the client leave", "2")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        whole = talk.seal(item("operation_manifest").SerializeToString())
        seen = len(talk.items)
        await talk.send_bytes(whole + whole)
        await seat.gone(talk)
        check(talk.items[seen:].count("operation_manifest") <= 1, "it was acted upon again")


@client("record/51", "the client comes back after a faulty record, with a new key exchange", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        await talk.send_record(bytes(12), bytes(40))
        await seat.gone(talk)
    await seat.returns()


@client("record/52", "the counters go on beyond one byte, in both directions", "2")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        for _ in range(300):
            await talk.fence()

"""Identity and the handshake, the program as the client: PROTOCOL.md sections 3 and 4. The pairing secret is safe."""

from __future__ import annotations

from collections.abc import Callable

import trio

from backrest.crypto.identity import Identity, handshake_digest
from conformance.model import Role, case, check, client
from conformance.peer import Handshake, handshake, item
from conformance.seats import Seat

Make = Callable[[Seat, bytes], Handshake]


@client(
    "handshake/60",
    "the client's handshake verifies: version 3, derived key id, an instance id, this transcript",
    "3",
)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.hello(seat.identity, seat.instance_id)
        hello = await talk.client_hello()
        check("=" not in hello.public_key.ed25519pub, "the public key is padded")
        check(len(hello.signature) == 64, f"a signature of {len(hello.signature)} bytes")


@client("handshake/61", "the first handshake carries the token's secret", "4")
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.hello(seat.identity, seat.instance_id)
        hello = await talk.client_hello()
        check(hello.pairing_secret == seat.secret, "the pairing secret is missing or another one")


@client("handshake/62", "after an established session the secret is gone from the client's handshake", "4")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await seat.or_again(talk.fence)
        await talk.finish()
    async with seat.keyed() as talk:
        await talk.hello(seat.identity, seat.instance_id)
        hello = await talk.client_hello()
        check(not hello.pairing_secret, "the client still shows its pairing secret")


@client("handshake/63", "the client sends its handshake only after the hub's", "3", ours=True)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        with trio.move_on_after(1.5):
            await talk.stream.connection.until(lambda: len(talk.stream._data) > 0 or talk.stream.over)
        check(not talk.stream._data, "the client sent something before the hub's handshake")
        await talk.hello(seat.identity, seat.instance_id)
        await talk.client_hello()


@client(
    "handshake/64",
    "a hub that refuses after both handshakes does not cost the client its secret",
    "4",
    ours=True,
)
async def _(seat: Seat) -> None:
    for _ in range(2):
        async with seat.keyed() as talk:
            await talk.hello(seat.identity, seat.instance_id)
            hello = await talk.client_hello()
            check(hello.pairing_secret == seat.secret, "the pairing secret is gone")
            await talk.finish("permission_denied", "the conformance suite refuses")


@client(
    "handshake/65", "a refusal while the client holds a secret is tried again within seconds", "4", ours=True
)
async def _(seat: Seat) -> None:
    for _ in range(3):
        async with seat.keyed() as talk:
            await talk.hello(seat.identity, seat.instance_id)
            await talk.client_hello()
            await talk.finish("permission_denied", "client is not an authorized peer")
        refused = trio.current_time()
    await seat.returns()
    check(trio.current_time() - refused < 15, "the third attempt after a refusal came late")


def _bad_hub(id: str, what: str, make: Make) -> None:
    async def run(seat: Seat) -> None:
        async with seat.keyed() as talk:
            assert talk.channel is not None
            await talk.send("handshake", make(seat, talk.channel.transcript))
            await talk.open()
            await seat.gone(talk)
            check("handshake" not in talk.items, "the client showed its handshake and secret to this hub")

    sentence = f"a hub with {what} is not told who the client is, nor the secret"
    case(id, Role.CLIENT, sentence, "3", run, ours=True)


def _changed(change: Callable[[Handshake], None]) -> Make:
    def make(seat: Seat, transcript: bytes) -> Handshake:
        hello = handshake(seat.identity, seat.instance_id, "", transcript)
        change(hello)
        return hello

    return make


def _signed(digest: Callable[[Seat, bytes], bytes]) -> Make:
    def make(seat: Seat, transcript: bytes) -> Handshake:
        hello = handshake(seat.identity, seat.instance_id, "", transcript)
        hello.signature = seat.identity.sign(digest(seat, transcript))
        return hello

    return make


def _impostor(seat: Seat, transcript: bytes) -> Handshake:
    hello = handshake(Identity.generate(), seat.instance_id, "", transcript)
    hello.public_key.keyid = seat.identity.keyid
    return hello


_TABLE: tuple[tuple[str, Make], ...] = (
    ("another key", lambda seat, t: handshake(Identity.generate(), seat.instance_id, "", t)),
    ("another key under the expected key id", _impostor),
    ("another instance id", lambda seat, t: handshake(seat.identity, seat.instance_id + "x", "", t)),
    ("an empty instance id", lambda seat, t: handshake(seat.identity, "", "", t)),
    ("handshake version 2", lambda seat, t: handshake(seat.identity, seat.instance_id, "", t, version=2)),
    ("handshake version 4", lambda seat, t: handshake(seat.identity, seat.instance_id, "", t, version=4)),
    ("no public key", _changed(lambda hello: hello.ClearField("public_key"))),
    ("an empty key id", _changed(lambda hello: hello.public_key.ClearField("keyid"))),
    ("no signature", _changed(lambda hello: hello.ClearField("signature"))),
    ("an altered signature", _changed(lambda hello: _flip(hello))),
    (
        "a signature over another transcript (a man in the middle)",
        _signed(lambda seat, t: handshake_digest(3, seat.instance_id, "", bytes(32))),
    ),
    (
        "a signature over another instance id",
        _signed(lambda seat, t: handshake_digest(3, seat.instance_id + "x", "", t)),
    ),
    ("handshake version 4 over a signature for version 3", _changed(lambda hello: _version(hello, 4))),
    ("no handshake version over a signature for version 3", _changed(lambda hello: _version(hello, 0))),
)


def _version(hello: Handshake, version: int) -> None:
    hello.protocol_version = version


def _flip(hello: Handshake) -> None:
    hello.signature = hello.signature[:-1] + bytes([hello.signature[-1] ^ 64])


for _n, (_what, _make) in enumerate(_TABLE, start=66):
    _bad_hub(f"handshake/{_n}", _what, _make)


@client("handshake/80", "a hub whose first record is no handshake is left, and told nothing", "3", ours=True)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.open()
        await seat.gone(talk)
        check("handshake" not in talk.items, "the client showed its handshake to this hub")


@client("handshake/81", "unknown fields of the hub's handshake are skipped", "9")
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        body = seat.handshake(talk).SerializeToString() + b"\x98\x06\x07"  # field 99, a number
        whole = item("handshake").SerializeToString()[:1] + _varint(len(body)) + body
        await talk.send_inner(whole)
        await talk.client_hello()


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@client("handshake/82", "the client comes back after a hub that it did not trust", "5", paired=True)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.hello(Identity.generate(), seat.instance_id)
        await seat.gone(talk)
    await seat.returns()


@client("handshake/83", "a hub that sends no handshake is given up after 15 s", "5", ours=True, slow=True)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        started = trio.current_time()
        talk.seconds = 25
        await seat.gone(talk)
        check(trio.current_time() - started > 10, "the client left early")


@client(
    "handshake/84",
    "a hub that sends no receive_config is given up after 30 s, and the secret stays",
    "5",
    ours=True,
    slow=True,
)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.hello(seat.identity, seat.instance_id)
        await talk.client_hello()
        started = trio.current_time()
        talk.seconds = 45
        await seat.gone(talk)
        check(trio.current_time() - started > 20, "the client left early")
    async with seat.keyed() as talk:
        await talk.hello(seat.identity, seat.instance_id)
        hello = await talk.client_hello()
        check(hello.pairing_secret == seat.secret, "the pairing secret is gone")

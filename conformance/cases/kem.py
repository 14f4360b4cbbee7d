"""The key exchange, both roles: PROTOCOL.md section 2, and the bad points and keys of conformance/vectors."""

from __future__ import annotations

from collections.abc import Callable

from backrest.crypto import hpke
from backrest.crypto.channel import Initiator, respond
from backrest.crypto.identity import verify_handshake
from conformance.hublab import HubLab
from conformance.model import Role, case, check, client, hub
from conformance.peer import AsHub, Item, item
from conformance.seats import Seat

Secret = Item.SyncEstablishSharedSecret

_P = 2**384 - 2**128 - 2**96 + 2**32 - 1
_POINT = 1568  # where the P-384 point begins, in a key and in an encapsulation


@hub("kem/1", "the hub answers with version 1 and a well-formed encapsulation, and no public key", "2")
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        initiator = Initiator()
        await talk.send_clear(
            "establish_shared_secret", Secret(protocol_version=1, kem_public_key=initiator.public_key)
        )
        reply = await talk.expect("establish_shared_secret", skip=())
        check(len(reply.kem_encapsulation) == 1665, f"{len(reply.kem_encapsulation)} bytes of encapsulation")
        check(reply.kem_encapsulation[_POINT] == 4, "the ephemeral point is not uncompressed")
        talk.finish(initiator, reply)


@hub(
    "kem/2",
    "the hub's first record opens with the exported keys, nonce 0, and its handshake binds the transcript",
    "2",
)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.exchange()
        assert talk.channel is not None
        try:
            verify_handshake(await talk.hub_hello(), talk.channel.transcript)
        except ValueError as error:
            check(False, f"the hub's handshake does not hold: {error}")


@hub("kem/3", "two exchanges with one public key give two encapsulations", "2")
async def _(lab: HubLab) -> None:
    key = Initiator().public_key
    seen = set()
    for _ in range(2):
        async with lab.dial() as talk:
            await talk.send_clear("establish_shared_secret", Secret(protocol_version=1, kem_public_key=key))
            reply = await talk.expect("establish_shared_secret", skip=())
            seen |= {reply.kem_encapsulation[:_POINT], reply.kem_encapsulation[_POINT:]}
    check(len(seen) == 4, "a part of the encapsulation is the same twice")


@hub("kem/4", "an unknown field in the first item is skipped", "2")
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        initiator = Initiator()
        first = item(
            "establish_shared_secret", Secret(protocol_version=1, kem_public_key=initiator.public_key)
        )
        unknown = b"\xa2\x06\x03abc"  # field 100, three bytes
        await talk.send_envelope(first.SerializeToString() + unknown)
        talk.finish(initiator, await talk.expect("establish_shared_secret", skip=()))


def _bad_first(id: str, what: str, first: Callable[[], Item]) -> None:
    async def run(lab: HubLab) -> None:
        async with lab.dial() as talk:
            await talk.send_envelope(first().SerializeToString())
            await talk.expect_end("invalid_argument")
            check("establish_shared_secret" not in talk.items, "the hub answered it with its half")

    case(id, Role.HUB, f"{what} ends with invalid_argument", "2", run)


def _first(key: bytes, version: int = 1) -> Item:
    return item("establish_shared_secret", Secret(protocol_version=version, kem_public_key=key))


def _key() -> bytes:
    return Initiator().public_key


_HANDSHAKE = Item.SyncActionHandshake(protocol_version=3, instance_id="too-early")

_bad_first("kem/5", "a first item of another kind (heartbeat)", lambda: item("heartbeat"))
_bad_first("kem/6", "a first item of another kind (handshake)", lambda: item("handshake", _HANDSHAKE))
_bad_first("kem/7", "a first item of another kind (encrypted)", lambda: item("encrypted"))
_bad_first("kem/8", "a first item without an action", Item)
_bad_first("kem/9", "transport version 0", lambda: _first(_key(), 0))
_bad_first("kem/10", "transport version 2", lambda: _first(_key(), 2))
_bad_first("kem/11", "an empty public key", lambda: _first(b""))
_bad_first("kem/12", "a public key that is a byte short", lambda: _first(_key()[:-1]))
_bad_first("kem/13", "a public key with a byte too many", lambda: _first(_key() + b"\0"))
_bad_first("kem/14", "a public key without its P-384 half", lambda: _first(_key()[:_POINT]))
_bad_first(
    "kem/15", "a public key with its halves swapped", lambda: _first(_key()[_POINT:] + _key()[:_POINT])
)


def _with_point(change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    def make() -> bytes:
        key = _key()
        return key[:_POINT] + change(key[_POINT:])

    return make


def _off_curve(point: bytes) -> bytes:
    return point[:-1] + bytes([point[-1] ^ 1])


def _x_is_p(point: bytes) -> bytes:
    return b"\x04" + _P.to_bytes(48, "big") + point[49:]


POINTS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("off the curve", _off_curve),
    ("in the hybrid form (06)", lambda point: bytes([6 + point[-1] % 2]) + point[1:]),
    ("in the compressed form, padded", lambda point: bytes([2 + point[-1] % 2]) + point[1:49] + bytes(48)),
    ("at infinity", lambda point: bytes(97)),
    ("04 and zeros", lambda point: b"\x04" + bytes(96)),
    ("with x = p", _x_is_p),
)
for _n, (_what, _change) in enumerate(POINTS, start=16):
    _make = _with_point(_change)
    _bad_first(f"kem/{_n}", f"a public key whose point is {_what}", lambda make=_make: _first(make()))  # type: ignore[misc]


def _coefficient_q() -> bytes:
    """The first 12-bit coefficient is 3329, q itself."""
    key = _key()
    return bytes([3329 & 0xFF, (key[1] & 0xF0) | 3329 >> 8]) + key[2:]


_bad_first("kem/22", "an ML-KEM key with a coefficient of q", lambda: _first(_coefficient_q()))
_bad_first(
    "kem/23",
    "an encapsulation instead of a public key",
    lambda: item("establish_shared_secret", Secret(protocol_version=1, kem_encapsulation=_key())),
)


@hub("kem/24", "a first message that is no protobuf ends with internal", "2")
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.send_envelope(b"\xff\xff\xff\xff")
        await talk.expect_end("internal")


@hub("kem/25", "a second key exchange on one stream ends with internal (it is a cleartext item)", "2")
async def _(lab: HubLab) -> None:
    async with lab.keyed() as talk:
        await talk.send_envelope(_first(_key()).SerializeToString())
        await talk.expect_end("internal")


# --- the program as the client


@client(
    "kem/30",
    "the client's first item is its key, version 1, well formed, sent without waiting for headers",
    "2",
)
async def _(seat: Seat) -> None:
    async with seat.accept(respond=False) as talk:
        key = await talk.client_key()
        check(key.protocol_version == 1, f"version {key.protocol_version}")
        check(len(key.kem_public_key) == hpke.PUBLIC_KEY_BYTES, f"{len(key.kem_public_key)} bytes of key")
        check(not key.kem_encapsulation, "there is an encapsulation in it")
        respond(key.kem_public_key)


@client("kem/31", "each connection has a key of its own", "2")
async def _(seat: Seat) -> None:
    keys = set()
    for _ in range(2):
        async with seat.accept() as talk:
            keys.add((await talk.client_key()).kem_public_key)
            await talk.finish("unavailable", "the conformance suite wants another connection")
    check(len(keys) == 2, "the same public key came twice")


def _bad_reply(id: str, what: str, reply: Callable[[bytes], Item], *, other_keys: bool = False) -> None:
    """``other_keys``: the client gets keys out of the reply, and they are not ours."""

    async def run(seat: Seat) -> None:
        async with seat.accept() as talk:
            key = await talk.client_key()
            encapsulation, talk.channel = respond(key.kem_public_key)
            await talk.send_envelope(reply(encapsulation).SerializeToString())
            await talk.send("handshake", seat.handshake(talk))
            if other_keys and seat.lab.reference:  # it does not wait for our handshake; its own is unreadable
                talk.channel = None
            await _no_hello(seat, talk)

    case(id, Role.CLIENT, f"{what} makes the client leave, and it does not say who it is", "2", run)


async def _no_hello(seat: Seat, talk: AsHub) -> None:
    await seat.gone(talk)
    check("handshake" not in talk.items, "the client sent its handshake")


def _reply(encapsulation: bytes, version: int = 1) -> Item:
    return item("establish_shared_secret", Secret(protocol_version=version, kem_encapsulation=encapsulation))


def _point_of(encapsulation: bytes, change: Callable[[bytes], bytes]) -> Item:
    return _reply(encapsulation[:_POINT] + change(encapsulation[_POINT:]))


_bad_reply("kem/32", "a reply with version 0", lambda e: _reply(e, 0))
_bad_reply("kem/33", "a reply with version 2", lambda e: _reply(e, 2))
_bad_reply("kem/34", "a reply without an encapsulation", lambda e: _reply(b""))
_bad_reply("kem/35", "an encapsulation that is a byte short", lambda e: _reply(e[:-1]))
_bad_reply("kem/36", "an encapsulation with a byte too many", lambda e: _reply(e + b"\0"))
_bad_reply("kem/37", "a reply of another kind (heartbeat)", lambda e: item("heartbeat"))
_bad_reply(
    "kem/38", "a reply of another kind (handshake in the clear)", lambda e: item("handshake", _HANDSHAKE)
)
_bad_reply(
    "kem/39",
    "an altered ML-KEM ciphertext (other keys)",
    lambda e: _reply(bytes([e[0] ^ 1]) + e[1:]),
    other_keys=True,
)
for _n, (_what, _change) in enumerate(POINTS, start=40):
    _bad_reply(
        f"kem/{_n}",
        f"an encapsulation whose point is {_what}",
        lambda e, change=_change: _point_of(e, change),  # type: ignore[misc]
    )
_bad_reply(
    "kem/46",
    "an encapsulation whose point is negated (other keys)",
    lambda e: _point_of(e, lambda p: p[:49] + (_P - int.from_bytes(p[49:], "big")).to_bytes(48, "big")),
    other_keys=True,
)


@client("kem/47", "a reply that is no protobuf makes the client leave", "2")
async def _(seat: Seat) -> None:
    async with seat.accept() as talk:
        await talk.client_key()
        await talk.send_envelope(b"\xff\xff\xff\xff")
        await _no_hello(seat, talk)


@client("kem/48", "a hub that does not answer the key is given up after 15 s", "5", ours=True, slow=True)
async def _(seat: Seat) -> None:
    async with seat.accept() as talk:
        await talk.client_key()
        talk.seconds = 25
        await _no_hello(seat, talk)

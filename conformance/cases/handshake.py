"""Identity and the handshake, the program as the hub: PROTOCOL.md section 3. Each refusal is permission_denied."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable

import trio

from backrest.crypto.identity import Identity, handshake_digest, keyid_of, verify_handshake
from conformance.hublab import HubLab, Member
from conformance.model import Role, case, check, hub
from conformance.peer import AsClient, Handshake, Item, handshake, item, patience

Break = Callable[[Handshake, Member, bytes], None]


@hub("handshake/1", "the hub sends its handshake without waiting for the client's", "3")
async def _(lab: HubLab) -> None:
    async with lab.keyed():
        pass


@hub(
    "handshake/2",
    "the hub's handshake has version 3, its derived key id, the token's instance id, no secret, and a "
    "signature over this connection's transcript",
    "3",
)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.exchange()
        hello = await talk.hub_hello()
        assert talk.channel is not None
        token = lab.token()
        check(hello.protocol_version == 3, f"version {hello.protocol_version}")
        check(hello.public_key.keyid == token.keyid, f"key id {hello.public_key.keyid}")
        check(keyid_of(_raw(hello.public_key.ed25519pub)) == token.keyid, "the key id is not that of the key")
        check("=" not in hello.public_key.ed25519pub, "the public key is padded")
        check(hello.instance_id == token.instance_id, f"instance id {hello.instance_id!r}")
        check(not hello.pairing_secret, "the hub sends a pairing secret")
        check(len(hello.signature) == 64, f"a signature of {len(hello.signature)} bytes")
        try:
            verify_handshake(hello, talk.channel.transcript)
        except ValueError as error:
            check(False, f"it does not verify: {error}")


def _raw(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))


@hub("handshake/3", "a paired client is let in with its key alone", "3")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member):
        pass


def _broken(id: str, what: str, change: Break, **more: bool) -> None:
    """A paired client's handshake with one fault. The same client must be let in without it afterwards."""

    async def run(lab: HubLab) -> None:
        member = await lab.member()
        async with lab.keyed() as talk:
            assert talk.channel is not None
            hello = handshake(member.identity, member.instance_id, "", talk.channel.transcript)
            change(hello, member, talk.channel.transcript)
            await talk.send("handshake", hello)
            await talk.expect_end("permission_denied")
        async with lab.session(member):
            pass

    case(id, Role.HUB, f"{what} ends with permission_denied", "3", run, **more)


def _signed(version: int) -> Break:
    def change(hello: Handshake, member: Member, transcript: bytes) -> None:
        hello.CopyFrom(handshake(member.identity, member.instance_id, "", transcript, version=version))

    return change


def _text(change: Callable[[str], str]) -> Break:
    def apply(hello: Handshake, member: Member, transcript: bytes) -> None:
        hello.public_key.ed25519pub = change(hello.public_key.ed25519pub)

    return apply


def _keyid(change: Callable[[str], str]) -> Break:
    def apply(hello: Handshake, member: Member, transcript: bytes) -> None:
        hello.public_key.keyid = change(hello.public_key.keyid)

    return apply


def _signature(change: Callable[[bytes], bytes]) -> Break:
    def apply(hello: Handshake, member: Member, transcript: bytes) -> None:
        hello.signature = change(hello.signature)

    return apply


def _sign(digest: Callable[[Member, bytes], bytes]) -> Break:
    """Sign other bytes than the bind input."""

    def apply(hello: Handshake, member: Member, transcript: bytes) -> None:
        hello.signature = member.identity.sign(digest(member, transcript))

    return apply


def _lengths_left_out(member: Member, transcript: bytes) -> bytes:
    parts = b"backrest-sync-handshake/v1\0" + (3).to_bytes(8, "big")
    return hashlib.sha256(parts + member.instance_id.encode() + transcript).digest()


def _label_left_out(member: Member, transcript: bytes) -> bytes:
    framed = b"".join(len(p).to_bytes(4, "big") + p for p in (member.instance_id.encode(), b"", transcript))
    return hashlib.sha256((3).to_bytes(8, "big") + framed).digest()


def _unhashed(member: Member, transcript: bytes) -> bytes:
    framed = b"".join(len(p).to_bytes(4, "big") + p for p in (member.instance_id.encode(), b"", transcript))
    return b"backrest-sync-handshake/v1\0" + (3).to_bytes(8, "big") + framed


def _secret_after(hello: Handshake, member: Member, transcript: bytes) -> None:
    hello.pairing_secret = "00" * 32


def _no_key(hello: Handshake, member: Member, transcript: bytes) -> None:
    hello.ClearField("public_key")


def _other_version(hello: Handshake, member: Member, transcript: bytes) -> None:
    hello.protocol_version = 4


def _foreign_key(hello: Handshake, member: Member, transcript: bytes) -> None:
    """The member's key, signed by somebody else."""
    hello.signature = Identity.generate().sign(handshake_digest(3, member.instance_id, "", transcript))


def _keyid_of_another(hello: Handshake, member: Member, transcript: bytes) -> None:
    """Another key, under the member's key id."""
    other = Identity.generate()
    hello.CopyFrom(handshake(other, member.instance_id, "", transcript))
    hello.public_key.keyid = member.identity.keyid


def _renamed(hello: Handshake, member: Member, transcript: bytes) -> None:
    """Well signed, under another name."""
    hello.CopyFrom(handshake(member.identity, member.instance_id + "-x", "", transcript))


def _renamed_after(hello: Handshake, member: Member, transcript: bytes) -> None:
    """What was signed has another name; what is shown is the true one."""
    digest = handshake_digest(3, member.instance_id + "-x", "", transcript)
    hello.signature = member.identity.sign(digest)


def _nameless(hello: Handshake, member: Member, transcript: bytes) -> None:
    hello.CopyFrom(handshake(member.identity, "", "", transcript))


def _shifted(hello: Handshake, member: Member, transcript: bytes) -> None:
    """The boundary between instance id and secret moved: the same bytes in a row, other lengths."""
    digest = handshake_digest(3, member.instance_id[:-1], member.instance_id[-1], transcript)
    hello.signature = member.identity.sign(digest)


_TABLE: tuple[tuple[str, Break], ...] = (
    ("handshake version 2, signed as such", _signed(2)),
    ("handshake version 4, signed as such", _signed(4)),
    ("handshake version 0, signed as such", _signed(0)),
    ("a negative handshake version", _signed(-3)),
    ("no public key", _no_key),
    ("an empty public key", _text(lambda text: "")),
    ("a padded public key", _text(lambda text: text + "=")),
    (
        "a public key that is a byte short",
        _text(lambda text: b64encode(_raw(text)[:31]).decode().rstrip("=")),
    ),
    (
        "a public key with a byte too many",
        _text(lambda text: b64encode(_raw(text) + b"x").decode().rstrip("=")),
    ),
    ("a public key with a space in it", _text(lambda text: text[:10] + " " + text[10:])),
    ("an empty key id", _keyid(lambda keyid: "")),
    ("a key id of another key", _keyid(lambda keyid: Identity.generate().keyid)),
    ("a key id without its prefix", _keyid(lambda keyid: keyid.partition(".")[2])),
    ("another key under a known key id", _keyid_of_another),
    ("an empty instance id, signed as such", _nameless),
    ("a known key under another instance id, signed as such", _renamed),
    ("an instance id that is not the signed one", _renamed_after),
    ("no signature", _signature(lambda signature: b"")),
    ("a signature that is a byte short", _signature(lambda signature: signature[:63])),
    ("an altered signature", _signature(lambda signature: bytes([signature[0] ^ 1]) + signature[1:])),
    ("a signature by another key", _foreign_key),
    (
        "a signature over another transcript",
        _sign(lambda m, t: handshake_digest(3, m.instance_id, "", bytes(32))),
    ),
    ("a signature over another version", _sign(lambda m, t: handshake_digest(2, m.instance_id, "", t))),
    ("a signature over the bind input without lengths", _sign(_lengths_left_out)),
    ("a signature over the bind input without its label", _sign(_label_left_out)),
    ("a signature over the bind input unhashed", _sign(_unhashed)),
    ("a signature with a moved boundary of instance id and secret", _shifted),
    ("a pairing secret that is not the signed one", _secret_after),
    ("handshake version 4 over a signature for version 3", _other_version),
)
for _n, (_what, _change) in enumerate(_TABLE, start=4):
    _broken(f"handshake/{_n}", _what, _change)


@hub("handshake/40", "an unknown key without a secret ends with permission_denied", "3")
async def _(lab: HubLab) -> None:
    await lab.refuses(lab.stranger())


@hub("handshake/41", "the hub's own handshake sent back to it ends with permission_denied", "3", ours=True)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.exchange()
        hello = await talk.hub_hello()
        await talk.send("handshake", hello)
        await talk.expect_end("permission_denied")


@hub("handshake/42", "a first record that is no handshake ends the stream, and it is not acted upon", "3")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        manifest = Item.SyncActionOperationManifest(op_ids=[1], modnos=[1])
        await talk.send("operation_manifest", manifest)
        await talk.hello(member.identity, member.instance_id)
        await talk.expect_end()
        check("request_operation_data" not in talk.items, "the manifest was answered")


@hub("handshake/43", "a second handshake in a session ends it with an error", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.hello(member.identity, member.instance_id)
        await talk.expect_end()


@hub("handshake/44", "unknown fields of a handshake are skipped, also number 1000", "9")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        assert talk.channel is not None
        hello = handshake(
            member.identity, member.instance_id, "", talk.channel.transcript
        ).SerializeToString()
        unknown = b"\xc2\x3e\x0bfuture/9000" + b"\x98\x06\x07"  # field 1000 as text, field 99 as a number
        body = hello + unknown
        whole = b"\x1a" + _varint(len(body)) + body  # field 3 of the item: handshake
        await talk.send_inner(whole)
        await talk.expect("receive_config", skip=())


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@hub("handshake/45", "a handshake from an earlier connection does not hold on another one", "3")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as first, lab.keyed() as second:
        assert first.channel is not None
        old = handshake(member.identity, member.instance_id, "", first.channel.transcript)
        await second.send("handshake", old)
        await second.expect_end("permission_denied")


@hub(
    "handshake/46",
    "a client that sends no handshake is refused after 15 s with permission_denied",
    "3",
    slow=True,
)
async def _(lab: HubLab) -> None:
    async with lab.keyed() as talk:
        await _ended_after(talk, 15, "permission_denied")


@hub("handshake/47", "a stream on which nothing comes is ended after 15 s", "3", ours=True, slow=True)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await _ended_after(talk, 15, None)


async def _ended_after(talk: AsClient, seconds: float, code: str | None) -> None:
    started = trio.current_time()
    talk.seconds = seconds + 10
    async with patience(seconds + 10, "the hub to give up"):
        end = await talk.until_end()
    took = trio.current_time() - started
    check(took > seconds - 3, f"the hub gave up after {took:.1f} s already")
    check(code is None or end.code == code, f"instead of {code} came {end}")


@hub(
    "handshake/48",
    "heartbeats do not keep an unknown client's stream open beyond 15 s",
    "3",
    ours=True,
    slow=True,
)
async def _(lab: HubLab) -> None:
    """A trickle of a half envelope: bytes come all the time, and no handshake."""
    async with lab.keyed() as talk:
        started = trio.current_time()
        talk.seconds = 25
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                whole = talk.seal(item("heartbeat").SerializeToString())
                for number in range(len(whole)):
                    await talk.send_bytes(whole[number : number + 1])
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            await talk.until_end("the hub to give up")
            nursery.cancel_scope.cancel()
        check(trio.current_time() - started < 20, "the hub waited longer than 15 s")

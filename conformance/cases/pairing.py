"""Pairing, the program as the hub: PROTOCOL.md section 4.

Those marked `limited` fail a pairing on purpose. A hub counts failures (ours: ten a minute for an address), so there
are fewer of them than that, they run last, and the very last one shows the limit.
"""

from __future__ import annotations

from base64 import b64encode

import trio

from backrest.crypto.identity import keyid_of
from conformance.framing import End
from conformance.hublab import HubLab, Member
from conformance.model import Role, case, check, hub
from conformance.peer import Handshake, kind_of


@hub("pairing/1", "a good token lets its client in at once, in the same session", "4", ours=True)
async def _(lab: HubLab) -> None:
    member = lab.stranger()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id, lab.token().secret)
        await talk.expect("receive_config", skip=())
        check(await lab.fence(talk, {1: 1}) == [1], "the manifest was not answered")


@hub("pairing/2", "a paired client needs no secret any more", "4")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member):
        pass


@hub("pairing/3", "an authorized client that still presents the secret is let in", "4")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id, lab.token().secret)
        await talk.expect("receive_config", skip=())


@hub("pairing/4", "an authorized client that presents a wrong secret is let in: its key counts", "4")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id, "ab" * 32)
        await talk.expect("receive_config", skip=())


@hub(
    "pairing/5",
    "a pairing goes on in the sessions of other clients: they get the first items again, modno higher",
    "5",
    ours=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        before = await lab.config(talk)
        await talk.expect("receive_resources", skip=())
        await lab.member()
        after = await lab.config(talk)
        check(after.modno > before.modno, f"modno {after.modno} after {before.modno}")
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")


@hub("pairing/6", "eight clients that pair at the same time are all let in", "4")
async def _(lab: HubLab) -> None:
    members: list[Member] = []

    async def pair() -> None:
        members.append(await lab.member())

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(pair)
    for member in members:
        async with lab.session(member):
            pass


def _refused_secret(id: str, what: str, change: str) -> None:
    async def run(lab: HubLab) -> None:
        member = lab.stranger()
        secret = lab.token().secret
        wrong = {"other": "ab" * 32, "prefix": secret[:-1]}[change]
        await lab.refuses(member, wrong)
        await lab.refuses(member)  # and the key did not become known

    case(id, Role.HUB, f"{what} is refused, and its client stays unknown", "4", run, limited=True)


_refused_secret("pairing/20", "a wrong secret", "other")
_refused_secret("pairing/21", "a secret without its last digit", "prefix")


@hub("pairing/22", "an expired token is refused", "4", limited=True, needs=("expired",))
async def _(lab: HubLab) -> None:
    member = lab.stranger()
    await lab.refuses(member, lab.token("expired").secret)
    await lab.refuses(member)


@hub(
    "pairing/23",
    "of two clients that race for the last use of a token one is let in",
    "4",
    limited=True,
    needs=("once",),
)
async def _(lab: HubLab) -> None:
    members = [lab.stranger(), lab.stranger()]
    results: dict[str, str] = {}
    gate = trio.Event()
    ready = 0

    async def race(member: Member) -> None:
        nonlocal ready
        async with lab.keyed() as talk:
            ready += 1
            if ready == len(members):
                gate.set()
            await gate.wait()
            await talk.hello(member.identity, member.instance_id, lab.token("once").secret)
            first = await talk.next("the hub's verdict")
            results[member.instance_id] = str(first.code) if isinstance(first, End) else kind_of(first)

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(race, member)
    if lab.reference:  # it refuses the first session of either; who is known afterwards is what counts
        results = {}
        for member in members:
            async with lab.keyed() as talk:
                await talk.hello(member.identity, member.instance_id)
                first = await talk.next("the hub's verdict")
                results[member.instance_id] = str(first.code) if isinstance(first, End) else kind_of(first)
    check(
        sorted(results.values()) == ["permission_denied", "receive_config"],
        f"the two were answered with {sorted(results.values())}",
    )


@hub("pairing/24", "a token that is used up is refused", "4", limited=True, needs=("used",))
async def _(lab: HubLab) -> None:
    await lab.member("used")
    late = lab.stranger()
    await lab.refuses(late, lab.token("used").secret)
    await lab.refuses(late)


@hub(
    "pairing/25",
    "an instance id that belongs to another client is refused, and uses up nothing",
    "4",
    limited=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    thief = lab.stranger(member.instance_id)
    await lab.refuses(thief, lab.token().secret)
    await lab.refuses(thief)
    async with lab.session(member):
        pass


@hub(
    "pairing/29",
    "a refused newcomer uses up nothing of its token",
    "4",
    limited=True,
    needs=("spare",),
)
async def _(lab: HubLab) -> None:
    known = await lab.member()
    thief = lab.stranger(known.instance_id)
    await lab.refuses(thief, lab.token("spare").secret)
    await lab.member("spare")


@hub("pairing/26", "the hub's own instance id is refused to a client", "4", limited=True)
async def _(lab: HubLab) -> None:
    thief = lab.stranger(lab.token().instance_id)
    await lab.refuses(thief, lab.token().secret)
    await lab.refuses(thief)


@hub("pairing/27", "an invalid instance id is refused", "4", limited=True, ours=True)
async def _(lab: HubLab) -> None:
    odd = lab.stranger("../etc passwd\n")
    await lab.refuses(odd, lab.token().secret)
    await lab.refuses(odd)


@hub(
    "pairing/28",
    "a key of small order, under which anybody can sign, is not paired",
    "3",
    limited=True,
    ours=True,
)
async def _(lab: HubLab) -> None:
    neutral = b"\x01" + bytes(31)  # the neutral element: this signature holds for every message
    name = lab.stranger().instance_id
    hello = Handshake(protocol_version=3, instance_id=name, pairing_secret=lab.token().secret)
    hello.public_key.keyid = keyid_of(neutral)
    hello.public_key.ed25519pub = b64encode(neutral).decode().rstrip("=")
    hello.signature = neutral + bytes(32)
    async with lab.keyed() as talk:
        await talk.send("handshake", hello)
        await talk.expect_end("permission_denied")


@hub(
    "pairing/98",
    "after ten failed pairings in a minute a wrong secret is refused unheard, and a right one still pairs",
    "4",
    limited=True,
    ours=True,
)
async def _(lab: HubLab) -> None:
    """Who knows a secret of 256 bits has not guessed it: a limit that came first would let anybody keep all others
    from pairing."""
    member = await lab.member()
    texts = [(await lab.refuses(lab.stranger(), "cd" * 32)).text for _ in range(12)]
    check(texts[-1] != texts[0], f"the twelfth wrong secret was answered as the first: {texts[0]!r}")
    await lab.member()
    async with lab.session(member):
        pass

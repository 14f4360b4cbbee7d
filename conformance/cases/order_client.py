"""The order of items, the program as the client: PROTOCOL.md section 5."""

from __future__ import annotations

import trio

from backrest import wire
from conformance.framing import End
from conformance.model import Role, case, check, client
from conformance.peer import Item, kind_of, patience
from conformance.seats import Seat


@client(
    "order/40", "the client says receive_config, receive_resources, operation_manifest, in this order", "5"
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        async with patience(
            talk.seconds, "the client's first items"
        ):  # heartbeats must not make it last for ever
            while "operation_manifest" not in talk.items:
                check(not isinstance(await talk.next(), End), "the session ended")
        kinds = [kind for kind in dict.fromkeys(talk.items) if kind not in ("heartbeat", "handshake")]
        wanted = ["establish_shared_secret", "receive_config", "receive_resources", "operation_manifest"]
        check(kinds == wanted, f"the order was {kinds}")


@client(
    "order/41", "a hub that is granted nothing is shown empty lists and an empty manifest", "5", grants=()
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = (await talk.expect("receive_config", skip=())).config
        check(not config.repos and not config.plans, "the view shows repos or plans")
        check(config.version > 0, f"version {config.version}")
        resources = await talk.expect("receive_resources", skip=())
        check(not resources.repos and not resources.plans, "the resources show repos or plans")
        check(not await seat.manifest(talk), "the manifest lists operations")


@client("order/42", "request_resources is answered with receive_resources", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        async with seat.lab.alone:  # a change of the configuration brings one unasked
            await talk.fence()
            before = talk.items.count("receive_resources")
            await talk.send("request_resources")
            async with patience(talk.seconds, "receive_resources"):
                while talk.items.count("receive_resources") == before:
                    check(not isinstance(await talk.next(), End), "the session ended")


@client("order/43", "an empty operation_manifest is answered with a fresh manifest", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        first = await seat.manifest(talk)
        talk.asked += 1
        await talk.send("operation_manifest")
        again = await seat.manifest(talk)
        check(set(first) <= set(again), "the second manifest lacks what the first has")


@client("order/44", "heartbeats are taken at any time, also many", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        for _ in range(50):
            await talk.send("heartbeat")
        await talk.fence()


@client("order/45", "the hub's receive_config and receive_resources may come again at any time", "5")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.fence()
        for modno in (2, 3):
            await talk.open(modno=modno)
        await talk.fence()


@client("order/46", "unknown fields in an item are skipped", "9")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.send_inner(b"\x22\x03\x98\x06\x07")  # heartbeat, with a field 99 in it
        await talk.fence()


def _nonsense(id: str, what: str, plaintext: bytes) -> None:
    """Whether the client leaves or ignores it is its own affair; it must be there for the next session."""

    async def run(seat: Seat) -> None:
        async with seat.established() as talk:
            await talk.fence()
            await talk.send_inner(plaintext)
            await talk.send("request_resources")

            async def answer_or_end() -> None:
                while not isinstance(received := await talk.next(), End):
                    if kind_of(received) == "receive_resources":
                        return

            async with patience(max(talk.seconds, seat.lab.redial), "an answer, an end or a new stream"):
                if await seat.or_again(answer_or_end) and talk.end is None:
                    return
        await seat.returns()

    case(id, Role.CLIENT, f"{what} from the hub does the client no harm", "5", run)


_EVENT = wire.operations.OperationEvent(deleted_operations=wire.types.Int64List(values=[1]))
_nonsense("order/47", "an action that nobody knows", b"\xaa\x06\x00")
_nonsense("order/48", "an item without an action", b"")
_nonsense("order/49", "throttle", Item(throttle=Item.SyncActionThrottle(delay_ms=10)).SerializeToString())
_nonsense(
    "order/50",
    "receive_operations (it is client to hub)",
    Item(receive_operations=Item.SyncActionReceiveOperations(event=_EVENT)).SerializeToString(),
)
_nonsense(
    "order/51",
    "receive_operations without its event",
    Item(receive_operations=Item.SyncActionReceiveOperations()).SerializeToString(),
)
_nonsense("order/52", "a second handshake", Item(handshake=Item.SyncActionHandshake()).SerializeToString())


@client("order/53", "a client never has two streams to one hub at once", "5", ours=True, direct=True)
async def _(seat: Seat) -> None:
    for code in ("internal", None, "permission_denied"):
        async with seat.established() as talk:
            await talk.fence()
            await talk.finish(code)
            await talk.until_end("the client to close its side")
    await seat.returns()
    check(not seat.doubled, "a new stream came while the old one was still open")


@client("order/54", "the client sends heartbeats at its interval", "5", needs=("heartbeat",), slow=True)
async def _(seat: Seat) -> None:
    assert seat.lab.heartbeat is not None
    async with seat.established() as talk:
        await talk.expect("operation_manifest")
        talk.seconds += 2 * seat.lab.heartbeat
        for _ in range(2):
            async with patience(talk.seconds, "two heartbeats"):
                await talk.expect("heartbeat")


@client(
    "order/55",
    "a hub that showed its pace with two heartbeats and falls silent is left",
    "5",
    ours=True,
    needs=("heartbeat",),
    slow=True,
)
async def _(seat: Seat) -> None:
    assert seat.lab.heartbeat is not None
    async with seat.established() as talk:
        for _ in range(2):
            await talk.send("heartbeat")
            await trio.sleep(seat.lab.heartbeat / 2)
        started = trio.current_time()
        talk.seconds = 2.5 * (
            seat.lab.heartbeat + talk.seconds
        )  # a busy client sees a longer gap than we made
        await talk.until_end("the client to leave a silent hub")
        check(trio.current_time() - started > seat.lab.heartbeat, "it left too early")


@client(
    "order/56",
    "a hub that never sent a heartbeat is given time",
    "5",
    ours=True,
    needs=("heartbeat",),
    slow=True,
)
async def _(seat: Seat) -> None:
    assert seat.lab.heartbeat is not None
    async with seat.established() as talk:
        await trio.sleep(4 * seat.lab.heartbeat + 1)
        await talk.fence()

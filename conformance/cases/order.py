"""The order of items and who may send what, the program as the hub: PROTOCOL.md section 5."""

from __future__ import annotations

from typing import Any

import trio
from google.protobuf.message import Message

from backrest import wire
from conformance.hublab import HubLab, created, operation
from conformance.model import Role, case, check, hub
from conformance.peer import FROM_HUB, Item, kind_of, patience


@hub("order/1", "the hub's first item after the handshakes is receive_config with version and modno", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        config = (await talk.expect("receive_config", skip=())).config
        check(config.version > 0, f"version {config.version}")
        check(config.modno > 0, f"modno {config.modno}")


@hub("order/2", "receive_resources comes second", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.expect("receive_resources", skip=())


@hub("order/3", "the hub waits for nothing from the client before it sends its three items", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        received = await talk.next("the hub's second item")
        check(kind_of(received) == "receive_resources", f"came {kind_of(received)}")


@hub("order/4", "what the client sends together with its handshake is taken", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        await talk.send("receive_config", Item.SyncActionReceiveConfig(config=wire.sync.RemoteConfig()))
        await talk.send("receive_resources")
        check(await lab.fence(talk, {1: 1}) == [1], "the manifest was not answered")


def _refused(id: str, kind: str, message: Message | None = None, **more: Any) -> None:
    async def run(lab: HubLab) -> None:
        member = await lab.member()
        async with lab.session(member) as talk:
            await talk.send(kind, message)
            await talk.expect_end("invalid_argument")
        await lab.serves()

    case(id, Role.HUB, f"{kind} from a client ends the session with invalid_argument", "5", run, **more)


_refused("order/5", "request_operation_data", Item.SyncActionRequestOperationData(op_ids=[1]))
_refused("order/6", "request_resources")
_refused("order/7", "request_log", Item.SyncActionRequestLog(log_id="x"))
_refused("order/8", "receive_log_data", Item.SyncActionReceiveLogData(log_id="x"))
_refused("order/9", "throttle", Item.SyncActionThrottle(delay_ms=1))
_refused("order/10", "signed_message")
_refused("order/11", "encrypted", Item.SyncActionEncrypted(nonce=bytes(12), ciphertext=bytes(16)))
_refused("order/12", "establish_shared_secret")


@hub("order/13", "an item without an action ends the session with invalid_argument", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send_inner(b"")
        await talk.expect_end("invalid_argument")


@hub("order/14", "an action that nobody knows ends the session with invalid_argument", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send_inner(b"\xaa\x06\x00")  # field 101, an empty message
        await talk.expect_end("invalid_argument")


def _unequal(id: str, ids: list[int], modnos: list[int]) -> None:
    async def run(lab: HubLab) -> None:
        member = await lab.member()
        async with lab.session(member) as talk:
            await talk.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=ids, modnos=modnos))
            await talk.expect_end("invalid_argument")
            check("request_operation_data" not in talk.items, "it was answered")

    sentence = f"a manifest of {len(ids)} ids and {len(modnos)} modnos ends with invalid_argument"
    case(id, Role.HUB, sentence, "5", run)


_unequal("order/15", [1, 2], [1])
_unequal("order/16", [1], [1, 2])
_unequal("order/17", [], [1])


@hub("order/18", "a receive_operations without its event does no harm to the hub", "5", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations")
        await talk.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=[1], modnos=[1]))
        async with patience(talk.seconds, "an answer or an end"):
            while kind_of(await talk.next()) in FROM_HUB:
                pass
    await lab.serves()


@hub("order/19", "a keep_alive event is ignored", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        event = wire.operations.OperationEvent(keep_alive=wire.types.Empty())
        await talk.send("receive_operations", Item.SyncActionReceiveOperations(event=event))
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")


@hub("order/20", "heartbeats are taken at any time, also many", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        for _ in range(50):
            await talk.send("heartbeat")
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")


@hub("order/21", "unknown fields in an item are skipped", "9")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        heartbeat = b"\x22\x03\x98\x06\x07"  # field 4 (heartbeat), with a field 99 in it
        await talk.send_inner(heartbeat)
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")


@hub("order/22", "a newer session of the same client displaces the older one, which ends with internal", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as older, lab.session(member) as newer:
        await older.expect_end("internal")
        check(await lab.fence(newer, {1: 1}) == [1], "the newer session does not go on")


@hub("order/23", "a newer session is let in while the older one reads nothing", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as older:
        older.stream.credit = False
        async with lab.session(member) as newer:
            check(await lab.fence(newer, {1: 1}) == [1], "the newer session does not go on")


@hub("order/24", "what a displaced session still sends is not stored", "5")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as older, lab.session(member) as newer:
        await older.send("receive_operations", created(operation(member, 1)))
        await older.until_end()
        check(await lab.fence(newer, {1: 1}) == [1], "the displaced session's operation was stored")


@hub("order/25", "the end of one client's session is nothing to another client's", "5")
async def _(lab: HubLab) -> None:
    one, other = await lab.member(), await lab.member()
    async with lab.session(one) as good:
        async with lab.session(other) as bad:
            await bad.send("throttle")
            await bad.expect_end("invalid_argument")
        check(await lab.fence(good, {1: 1}) == [1], "the other session does not go on")


@hub(
    "order/29",
    "set_config from a client without READ_WRITE_CONFIG ends the session with invalid_argument",
    "5",
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        push = Item.SyncActionSetConfig(plans_to_delete=["conf-never-was"])
        await talk.send("set_config", push)
        await talk.expect_end("invalid_argument")


@hub("order/26", "the hub sends heartbeats at its interval", "5", needs=("heartbeat",), slow=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    assert lab.heartbeat is not None
    async with lab.session(member) as talk:
        talk.seconds += 2 * lab.heartbeat
        for _ in range(2):
            async with patience(talk.seconds, "two heartbeats"):
                await talk.expect("heartbeat", skip=set(FROM_HUB) - {"heartbeat"})


@hub(
    "order/27",
    "a client that showed its pace with two heartbeats and falls silent is ended",
    "5",
    ours=True,
    needs=("heartbeat",),
    slow=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    assert lab.heartbeat is not None
    async with lab.session(member) as talk:
        for _ in range(2):
            await talk.send("heartbeat")
            await trio.sleep(lab.heartbeat / 2)
        talk.seconds = 2.5 * (lab.heartbeat + talk.seconds)  # a busy hub sees a longer gap than we made
        started = trio.current_time()
        await talk.until_end("the hub to end a silent session")
        check(trio.current_time() - started > lab.heartbeat, "it was ended too early")


@hub(
    "order/28",
    "a client that never sent a heartbeat is given time: silence of a few intervals ends nothing",
    "5",
    ours=True,
    needs=("heartbeat",),
    slow=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    assert lab.heartbeat is not None
    async with lab.session(member) as talk:
        await trio.sleep(4 * lab.heartbeat + 1)
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")

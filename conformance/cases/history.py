"""Operation history, the program as the hub: PROTOCOL.md section 6.

What the hub holds shows in what it asks for (hublab.py). Ids and modnos are small numbers: each case has a client
of its own, and another client's operations with the same ids are another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from conformance.fixtures import HUB_TOKENS
from conformance.hublab import HubLab, created, deleted, operation, updated
from conformance.model import Role, case, check, hub
from conformance.peer import AsClient, Item, patience

Manifest = Item.SyncActionOperationManifest


@hub("history/1", "of a first manifest everything is asked for, in its order", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    ids = [5, 3, 900, 4, 77]
    asked = await lab.asks(member, dict.fromkeys(ids, 1))
    check(asked == ids, f"asked for {asked}")


@hub("history/2", "what came in answer to the request is held, and not asked for again", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("operation_manifest", Manifest(op_ids=[1, 2], modnos=[4, 6]))
        asked = await talk.expect("request_operation_data")
        check(list(asked.op_ids) == [1, 2], f"asked for {list(asked.op_ids)}")
        await talk.send("receive_operations", updated(operation(member, 1, 4), operation(member, 2, 6)))
        check(await lab.fence(talk, {1: 4, 2: 6}) == [], "asked again in the same session")
    check(await lab.asks(member, {1: 4, 2: 6}) == [], "asked again in the next session")


async def _held(lab: HubLab, talk: AsClient, manifest: dict[int, int], missing: list[int], what: str) -> None:
    asked = await lab.fence(talk, manifest)
    check(asked == missing, f"{what}: asked for {asked} instead of {missing}")


def _stores(case_id: str, what: str, **changes: object) -> None:
    """A valid operation that must be stored as it is."""

    async def run(lab: HubLab) -> None:
        member = await lab.member()
        fields = {"id": 1, "modno": 1} | changes
        async with lab.session(member) as talk:
            await talk.send("receive_operations", created(operation(member, **fields)))  # type: ignore[arg-type]
            held = {int(str(fields["id"])): int(str(fields["modno"]))}
            await _held(lab, talk, held, [], "in the same session")
        check(await lab.asks(member, held) == [], "it is not held")

    case(case_id, Role.HUB, f"{what} is stored", "6", run)


_stores("history/3", "a created operation")
_stores("history/4", "an id and a modno of 63 bits", id=2**63 - 1, modno=2**62)
_stores("history/5", "an operation without a snapshot id")
_stores("history/6", "an operation with a snapshot id of 64 characters", snapshot_id="ab" * 32)
_stores("history/7", "an operation that claims an origin of its own", original_instance_keyid="ed25519.x")
_stores("history/8", "an operation that claims original ids", original_id=77, original_flow_id=78)
_stores(
    "history/9", "an operation whose instance id is another's (it is attribution)", instance_id="somebody"
)


@hub("history/10", "an operation with a greater modno is asked for again", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1, 5)))
        await _held(lab, talk, {1: 6}, [1], "modno 6 instead of 5")


@hub("history/11", "an operation with a smaller modno is asked for again (the client's log was reset)", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1, 5)))
        await _held(lab, talk, {1: 4}, [1], "modno 4 instead of 5")


@hub("history/12", "an update replaces what is held, modno included", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1, 5)))
        await talk.send("receive_operations", updated(operation(member, 1, 9)))
        await _held(lab, talk, {1: 9}, [], "after the update")


@hub("history/13", "an update of what does not exist creates it", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", updated(operation(member, 1, 5)))
        await _held(lab, talk, {1: 5}, [], "after the update")


@hub("history/14", "creating what exists is an update", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        for modno in (5, 6):
            await talk.send("receive_operations", created(operation(member, 1, modno)))
        await _held(lab, talk, {1: 6}, [], "after the second create")


@hub("history/15", "every message may be repeated safely", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        for _ in range(3):
            await talk.send("receive_operations", created(operation(member, 1), operation(member, 2)))
        await _held(lab, talk, {1: 1, 2: 1}, [], "after three times the same")


@hub("history/16", "a delete removes what it names and nothing else", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(*(operation(member, n) for n in (901, 902, 903))))
        await talk.send("receive_operations", deleted(902))
        await _held(lab, talk, {901: 1, 902: 1, 903: 1}, [902], "after the delete")


@hub("history/17", "what the manifest lacks is deleted", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(*(operation(member, n) for n in (1, 2, 3))))
        await _held(lab, talk, {1: 1, 2: 1, 3: 1}, [], "after the create")
    check(await lab.asks(member, {1: 1, 3: 1}) == [], "asked for what is held")
    asked = await lab.asks(member, {1: 1, 2: 1, 3: 1})
    check(asked == [2], f"asked for {asked}: the manifest without 2 did not delete it")


@hub("history/18", "an empty manifest deletes everything of this client", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1), operation(member, 2)))
        await talk.send("operation_manifest")
        await _held(lab, talk, {1: 1, 2: 1}, [1, 2], "after an empty manifest")


@hub(
    "history/19",
    "a manifest and deletes of one client leave another's operations alone, the same ids included",
    "6",
    ours=True,
)
async def _(lab: HubLab) -> None:
    one, other = await lab.member(), await lab.member()
    async with lab.session(one) as talk:
        await talk.send("receive_operations", created(operation(one, 1, 7), operation(one, 2, 7)))
        await _held(lab, talk, {1: 7, 2: 7}, [], "after the create")
    async with lab.session(other) as talk:
        await _held(lab, talk, {1: 7, 2: 7}, [1, 2], "the other client's manifest")
        await talk.send("receive_operations", deleted(1, 2))
        await talk.send("operation_manifest")
        await lab.fence(talk, {})
    check(await lab.asks(one, {1: 7, 2: 7}) == [], "the first client's operations are gone")


@hub("history/20", "an operation that names another client as its origin is stored as its sender's", "6")
async def _(lab: HubLab) -> None:
    one, other = await lab.member(), await lab.member()
    forged = operation(one, 1, original_instance_keyid=other.identity.keyid, original_id=1)
    async with lab.session(one) as talk:
        await talk.send("receive_operations", created(forged))
        await _held(lab, talk, {1: 1}, [], "the sender's manifest")
    check(await lab.asks(other, {1: 1}) == [1], "it was stored as the other client's")


@hub("history/21", "a delete of an unknown id is ignored, and the session goes on", "6", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1)))
        await talk.send("receive_operations", deleted(999, 1000))
        await _held(lab, talk, {1: 1}, [], "after deleting what is not there")


@hub("history/22", "a create of an id that was deleted before is stored", "6", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1)))
        await talk.send("receive_operations", deleted(1))
        await talk.send("receive_operations", created(operation(member, 1, 2)))
        await _held(lab, talk, {1: 2}, [], "after create, delete, create")


@hub(
    "history/45",
    "a smaller modno that was asked for replaces what is held (the client's log was reset)",
    "6",
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1, 5), operation(member, 2, 6)))
        await _held(lab, talk, {1: 5, 2: 6}, [], "after the create")
    async with lab.session(member) as talk:
        await talk.send("operation_manifest", Manifest(op_ids=[1, 2], modnos=[3, 4]))
        asked = await talk.expect("request_operation_data")
        check(list(asked.op_ids) == [1, 2], f"asked for {list(asked.op_ids)}")
        await talk.send("receive_operations", updated(operation(member, 1, 3), operation(member, 2, 4)))
        await _held(lab, talk, {1: 3, 2: 4}, [], "after the answer")


# --- scopes: of operations of every repo and plan, exactly those in scope are held

_NAMES = ("conf-in", "conf-mid", "conf-out")
GRID = {
    number: (repo, plan)
    for number, (repo, plan) in enumerate(((repo, plan) for repo in _NAMES for plan in _NAMES), start=1)
}


def _scope(case_id: str, token: str, inside: Callable[[str, str], bool], **more: Any) -> None:
    async def run(lab: HubLab) -> None:
        member = await lab.member(token)
        wanted = [number for number, place in GRID.items() if inside(*place)]
        grid = (operation(member, n, 1, repo_id=repo, plan_id=plan) for n, (repo, plan) in GRID.items())
        async with lab.session(member) as talk:
            await talk.send("receive_operations", created(*grid))
            await _held(lab, talk, dict.fromkeys(GRID, 1), [], "all came")
            # What was stored is gone now, so it is asked for; what was turned down is not asked for again.
            await talk.send("receive_operations", deleted(*GRID))
            await _held(lab, talk, dict.fromkeys(GRID, 1), wanted, "all that were stored were deleted")

    grants = " and ".join(HUB_TOKENS[token][2])
    case(
        case_id,
        Role.HUB,
        f"with {grants} exactly what is in scope is stored",
        "7",
        run,
        needs=(token,),
        **more,
    )


_scope("history/46", "ops-repo", lambda repo, plan: repo == "conf-in", ours=True)
_scope("history/47", "ops-plan", lambda repo, plan: plan == "conf-in", ours=True)
_scope("history/48", "ops-not-repo", lambda repo, plan: repo != "conf-out", ours=True)
_scope("history/49", "ops-not-plan", lambda repo, plan: plan != "conf-out", ours=True)
_scope("history/50", "ops-not", lambda repo, plan: "conf-out" not in (repo, plan), ours=True)
_scope("history/51", "ops-two", lambda repo, plan: repo == "conf-in" or plan == "conf-mid", ours=True)


def _invalid(case_id: str, what: str, **changes: object) -> None:
    """The bad one stands between two good ones, in one message."""

    async def run(lab: HubLab) -> None:
        member = await lab.member()
        bad = operation(member, **({"id": 2, "modno": 3} | changes))  # type: ignore[arg-type]
        async with lab.session(member) as talk:
            await talk.send("receive_operations", created(operation(member, 1), bad, operation(member, 4)))
            asked = await lab.fence(talk, {1: 1, 4: 1})
            check(asked == [], f"asked for {asked}: the good operations beside it are not held")
            if bad.id > 0 and bad.modno > 0:  # gone if it was stored, and then it is asked for
                await talk.send("receive_operations", deleted(bad.id))
                await _held(lab, talk, {bad.id: bad.modno}, [], "it was stored")

    sentence = f"an operation with {what} is refused alone; the session goes on"
    case(case_id, Role.HUB, sentence, "6", run, ours=True)


_invalid("history/23", "id 0", id=0)
_invalid("history/24", "modno 0", modno=0)
_invalid("history/25", "flow id 0", flow_id=0)
_invalid("history/26", "no repo id", repo_id="")
_invalid("history/27", "no repo guid", repo_guid="")
_invalid("history/28", "no plan id", plan_id="")
_invalid("history/29", "no instance id", instance_id="")
_invalid("history/30", "no start time", unix_time_start_ms=0)
_invalid("history/31", "a snapshot id of 63 characters", snapshot_id="a" * 63)
_invalid("history/32", "a snapshot id of 65 characters", snapshot_id="a" * 65)


_invalid("history/52", "a negative flow id", flow_id=-1)
_invalid("history/53", "a negative start time", unix_time_start_ms=-1)
_invalid("history/54", "a negative modno", modno=-1)
_invalid("history/55", "a negative id", id=-2)


def _not_kept(case_id: str, what: str, **changes: object) -> None:
    """A good version is held; the bad one after it must not take its place."""

    async def run(lab: HubLab) -> None:
        member = await lab.member()
        async with lab.session(member) as talk:
            await talk.send("receive_operations", created(operation(member, 2, 3)))
            await talk.send("receive_operations", updated(operation(member, 2, 4, **changes)))
            await _held(lab, talk, {2: 3}, [], "the good version")
            await _held(lab, talk, {2: 5}, [2], "a newer version")
            await talk.send("receive_operations", updated(operation(member, 2, 5)))
            await _held(lab, talk, {2: 5}, [], "the repaired version")

    sentence = f"a refused version ({what}) replaces nothing, and a repaired one is asked for and stored"
    case(case_id, Role.HUB, sentence, "6", run, ours=True)


_not_kept("history/33", "no plan id", plan_id="")
_not_kept("history/34", "a snapshot id of 10 characters", snapshot_id="a" * 10)


@hub("history/35", "what was refused is not asked for at every manifest", "6", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 2, 3, plan_id="")))
        await _held(lab, talk, {2: 3}, [], "in the same session")
    check(await lab.asks(member, {2: 3}) == [], "asked again in the next session")


@hub(
    "history/36",
    "an operation outside the client's scopes is not stored, and not asked for again",
    "6",
    ours=True,
    needs=("scoped",),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("scoped")
    inside = {"repo_id": "conf-in", "plan_id": "anything"}
    outside = {
        2: {"repo_id": "conf-other", "plan_id": "anything"},
        3: {"repo_id": "conf-in", "plan_id": "conf-out"},
    }
    async with lab.session(member) as talk:
        await talk.send(
            "receive_operations", created(*(operation(member, n, 1, **inside) for n in (1, 2, 3)))
        )
        await _held(lab, talk, {1: 1, 2: 1, 3: 1}, [], "in scope")
        for number, scope in outside.items():
            await talk.send("receive_operations", updated(operation(member, number, 2, **scope)))
        await _held(lab, talk, {1: 1, 2: 1, 3: 1}, [], "a version out of scope has replaced one in scope")
        await _held(lab, talk, {1: 1, 2: 2, 3: 2}, [], "the refused versions were not remembered")
    asked = await lab.asks(member, {1: 1, 2: 2, 3: 2})
    check(asked == [], f"asked for {asked} in the next session")


@hub(
    "history/37",
    "without READ_OPERATIONS nothing is asked for and nothing stored",
    "6",
    ours=True,
    needs=("bare",),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("bare")
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1)))
        await talk.send("operation_manifest", Manifest(op_ids=[1, 2], modnos=[2, 1]))
        with trio.move_on_after(1.5):  # what is stored is stored behind what is read: there is no fence
            while "request_operation_data" not in talk.items:
                await talk.next("nothing")
        check("request_operation_data" not in talk.items, "operations were asked for")


@hub(
    "history/38",
    "of a great manifest at most 4,096 ids are asked for at a time, and more as they arrive",
    "6",
    ours=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    total = 6000
    async with lab.session(member) as talk:
        await talk.send("operation_manifest", Manifest(op_ids=range(1, total + 1), modnos=[1] * total))
        asked: list[int] = []
        sent = 0
        while sent < total:
            # A hub that goes by its answers' timeout instead (two looks of 10 s each) is not meant by "as they arrive".
            async with patience(15, "the next request, now that all is answered"):
                asked += (await talk.expect("request_operation_data")).op_ids
            check(len(asked) - sent <= 4096, f"{len(asked) - sent} operations asked for and not answered")
            while sent < len(asked):
                batch = asked[sent : sent + 512]
                await talk.send("receive_operations", updated(*(operation(member, n) for n in batch)))
                sent += len(batch)
        check(asked == list(range(1, total + 1)), "not every id was asked for once, in order")
        await _held(lab, talk, dict.fromkeys(range(1, total + 1), 1), [], "after all came")


@hub(
    "history/39",
    "ids that never come do not stop the rest: what is gone at the client is left out",
    "6",
    ours=True,
    slow=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    total = 4500
    async with lab.session(member) as talk:
        talk.seconds = 45
        await talk.send("operation_manifest", Manifest(op_ids=range(1, total + 1), modnos=[1] * total))
        seen: set[int] = set()
        while total not in seen:  # nothing is answered at all
            seen |= set((await talk.expect("request_operation_data")).op_ids)


@hub("history/40", "a change during the reconciliation is stored too", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("operation_manifest", Manifest(op_ids=[1], modnos=[1]))
        await talk.expect("request_operation_data")
        await talk.send("receive_operations", created(operation(member, 2)))
        await talk.send("receive_operations", updated(operation(member, 1)))
        await _held(lab, talk, {1: 1, 2: 1}, [], "after both")


@hub("history/41", "a new manifest in the same session is reconciled like the first", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(operation(member, 1), operation(member, 2)))
        await _held(lab, talk, {1: 1}, [], "without 2")
        await _held(lab, talk, {1: 1, 2: 1}, [2], "2 was deleted by the manifest before")


@hub("history/42", "a manifest that names an id twice does no harm", "6", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("operation_manifest", Manifest(op_ids=[1, 1, 2], modnos=[1, 1, 1]))
        await talk.expect("request_operation_data")
        await talk.send("receive_operations", updated(operation(member, 1), operation(member, 2)))
        await _held(lab, talk, {1: 1, 2: 1}, [], "afterwards")
    await lab.serves()


@hub("history/43", "512 operations in one message are stored", "6")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(*(operation(member, n) for n in range(1, 513))))
        await _held(lab, talk, dict.fromkeys(range(1, 513), 1), [], "afterwards")


@hub(
    "history/44",
    "text that is not plain (unicode, control characters) in an operation does no harm",
    "6",
    ours=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    odd = operation(member, 1, display_message="\x00\x1b[31m\u202e \U0001f4be\r\n\\\"' ,{}", logref="../../x")
    async with lab.session(member) as talk:
        await talk.send("receive_operations", created(odd, operation(member, 2)))
        await _held(lab, talk, {1: 1, 2: 1}, [], "afterwards")

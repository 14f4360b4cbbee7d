"""Operation history, the program as the client: PROTOCOL.md sections 6 and 7.

With ``--fixture`` the client holds 80 operations of each of the plans conf-a1 to conf-a4 (repo conf-a) and conf-b1 to
conf-b4 (repo conf-b), so that the scopes can be judged; what the client holds besides is of other repos.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from backrest import wire
from conformance.model import Role, Skipped, case, check, client
from conformance.peer import AsHub, Item
from conformance.seats import FIXTURE_PLANS, OPERATIONS_PER_PLAN, Seat

Request = Item.SyncActionRequestOperationData


@client("history/60", "the manifest has as many modnos as ids, none zero, no id twice", "6")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        found = await talk.expect("operation_manifest")
        check(len(found.op_ids) == len(found.modnos), "the lists differ in length")
        check(all(found.op_ids) and all(found.modnos), "a zero in the manifest")
        check(len(set(found.op_ids)) == len(found.op_ids), "an id comes twice")


@client(
    "history/61", "what is asked for comes as updated_operations, with the manifest's ids and modnos", "6"
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        manifest = await _some(seat, await seat.manifest(talk))
        found = await seat.operations(talk, list(manifest))
        check({op.id: op.modno for op in found} == manifest, "other ids or modnos than the manifest's came")


async def _some(seat: Seat, manifest: dict[int, int]) -> dict[int, int]:
    if not manifest:
        raise Skipped("the client holds no operations")
    return dict(list(manifest.items())[:1000])


@client("history/62", "what the client sends is its own: no origin, its own instance id, complete", "6")
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.hello(seat.identity, seat.instance_id)
        hello = await talk.client_hello()
        await talk.open()
        manifest = await _some(seat, await seat.manifest(talk))
        for op in await seat.operations(talk, list(manifest)):
            check(not op.original_instance_keyid, f"operation {op.id} has an origin")
            check(op.instance_id == hello.instance_id, f"operation {op.id} is of {op.instance_id!r}")
            whole = (op.id, op.modno, op.flow_id, op.repo_id, op.repo_guid, op.plan_id, op.unix_time_start_ms)
            check(all(whole), f"operation {op.id} lacks something: {whole}")
            check(len(op.snapshot_id) in (0, 64), f"operation {op.id} has snapshot id {op.snapshot_id!r}")


@client("history/63", "ids that do not exist are left out of the answer", "6")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        manifest = await _some(seat, await seat.manifest(talk))
        known = next(iter(manifest))
        await talk.send("request_operation_data", Request(op_ids=[2**62, 2**62 + 1]))
        await talk.send("request_operation_data", Request(op_ids=[2**62, known, -1]))
        found = await seat.operations(talk, [known])
        check([op.id for op in found] == [known] * len(found), f"came {[op.id for op in found]}")


@client("history/64", "one operation may be asked for again and again", "6")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        known = next(iter(await _some(seat, await seat.manifest(talk))))
        for _ in range(3):
            found = await seat.operations(talk, [known])
            check([op.id for op in found] == [known], f"came {[op.id for op in found]}")


@client("history/65", "an empty request does no harm", "6")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await seat.manifest(talk)
        await talk.send("request_operation_data")
        await talk.fence()


@client("history/66", "the manifest is the same in the next session", "6")
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        first = await seat.manifest(talk)
        await talk.finish()
        await seat.gone(talk)
    async with seat.established() as talk:
        again = await seat.manifest(talk)
        check(set(first) <= set(again), "operations are missing")


def _scope(id: str, grant: str, plans: set[str], *others: str, **more: bool) -> None:
    """Exactly the operations of ``plans`` are listed, of those of the fixture."""

    async def run(seat: Seat) -> None:
        seat.fixture()
        async with seat.established() as talk:
            manifest = await seat.manifest(talk)
            found = await seat.operations(talk, list(manifest)) if manifest else []
            counts = dict.fromkeys(plans, 0)
            for op in found:
                if op.plan_id in FIXTURE_PLANS:
                    check(op.plan_id in plans, f"an operation of {op.plan_id} is listed")
                    counts[op.plan_id] += 1
            for plan, count in counts.items():
                check(count >= OPERATIONS_PER_PLAN, f"{count} operations of {plan} are listed")

    grants = tuple(f"read-operations={scopes}" for scopes in (grant, *others))
    sentence = f"with {' and '.join(grants)} exactly what is in scope is listed"
    case(id, Role.CLIENT, sentence, "7", run, grants=grants, needs=("fixture",), **more)


_A, _B = ({plan for plan, repo in FIXTURE_PLANS.items() if repo == one} for one in ("conf-a", "conf-b"))

_scope("history/67", "*", _A | _B)
_scope("history/68", "repo:conf-a", _A)
_scope("history/69", "plan:conf-b1", {"conf-b1"})
_scope("history/70", "repo:conf-a,!plan:conf-a2", _A - {"conf-a2"}, ours=True)
_scope("history/71", "*,!repo:conf-a", _B)
_scope("history/72", "!plan:conf-a1", (_A | _B) - {"conf-a1"}, ours=True)
_scope("history/73", "repo:nowhere", set())
_scope("history/79", "*,!plan:conf-a2", (_A | _B) - {"conf-a2"})
_scope("history/80", "!repo:conf-a", _B, ours=True)
_scope("history/81", "plan:conf-a1,!repo:conf-a", set())
_scope("history/82", "repo:conf-a", _A | {"conf-b1"}, "plan:conf-b1", ours=True)
_scope("history/83", "*", _A | _B, "repo:nowhere", ours=True)


@client(
    "history/74",
    "what is out of scope is not handed out on request either",
    "6",
    ours=True,
    grants=("read-operations=repo:conf-a",),
    needs=("fixture",),
)
async def _(seat: Seat) -> None:
    seat.fixture()
    async with seat.established() as talk:
        manifest = await seat.manifest(talk)
        known = next(iter(manifest))
        around = range(
            max(min(manifest) - 1000, 1), max(manifest) + 1000
        )  # a client may begin to count anywhere
        others = [n for n in around if n not in manifest]
        await talk.send("request_operation_data", Request(op_ids=others))
        found = await seat.operations(talk, [known])
        foreign = [op.id for op in found if op.repo_id != "conf-a"]
        check(not foreign, f"operations {foreign} of other repos came")
        new = max(manifest)  # what another case has just made may be in scope, and come too
        check(found[-1].id == known or found[-1].id > new, "what is in scope did not come")


@client(
    "history/75",
    "without READ_OPERATIONS nothing is listed and nothing handed out",
    "6",
    ours=True,
    grants=("receive-shared-repos=*",),
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        check(not await seat.manifest(talk), "the manifest lists operations")
        await talk.send("request_operation_data", Request(op_ids=range(1, 200)))
        before = await talk.fence()
        check("receive_operations" not in before, "operations were handed out")


@asynccontextmanager
async def _quiet(seat: Seat) -> AsyncIterator[tuple[AsHub, dict[int, int]]]:
    """A session, and its manifest, while no other case changes anything. In this order: a client that is kept waiting
    before its session gives the stream up, perhaps in the middle of the key exchange."""
    async with seat.established() as talk:
        await seat.manifest(talk)
        async with seat.lab.alone:
            talk.asked += 1
            await talk.send("operation_manifest")
            yield talk, await seat.manifest(talk)


@client(
    "history/76",
    "a new operation goes out live, as created_operations with a modno of its own",
    "6",
    needs=("change",),
)
async def _(seat: Seat) -> None:
    async with _quiet(seat) as (talk, manifest):
        await seat.change()
        while True:
            event = (await talk.expect("receive_operations")).event
            check(event.WhichOneof("event") == "created_operations", f"came {event.WhichOneof('event')}")
            new = event.created_operations.operations[0]
            if new.id not in manifest:  # else the change of another case, late
                break
        check(
            new.modno > max(manifest.values(), default=0),
            f"modno {new.modno} is not above those of the manifest",
        )


@client(
    "history/77",
    "a new operation out of scope does not go out live",
    "6",
    needs=("change",),
    grants=("read-operations=repo:conf-b",),
)
async def _(seat: Seat) -> None:
    async with _quiet(seat) as (talk, _):
        await seat.change()
        with trio.move_on_after(1):
            await talk.stream.connection.until(lambda: talk.stream.over)
        before = await talk.fence()
        check("receive_operations" not in before, "it was sent")


@client("history/78", "the client never sends what it received from a hub or another client", "6")
async def _(seat: Seat) -> None:
    """The origin of everything that it lists is empty; a forged one that we push is not echoed."""
    async with seat.established() as talk:
        manifest = await seat.manifest(talk)
        found = await seat.operations(talk, list(manifest)[:100]) if manifest else []
        foreign = [op.id for op in found if op.original_instance_keyid or op.original_id]
        check(not foreign, f"operations {foreign} have an origin")
        check(wire.operations.Operation() not in found, "an empty operation came")

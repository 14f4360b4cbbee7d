"""Pushes between instances: outcomes said, both ways; the queue; a refusal never makes anybody reconnect."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from go_hub import GoHub, GoMachine
from stranger import Stranger, authorize, visitor
from sync_world import GUID, Instance, World, pipes
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.crypto.identity import make_handshake
from backrest.protocol import items, outcome
from backrest.refusals import Refusal, Why, refusal, text
from backrest.store.pushqueue import Answer, PushQueue, SetConfig
from backrest.sync import pushing

Item = wire.sync.SyncStreamItem
Plan, Repo = wire.config.Plan, wire.config.Repo
CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
ALL = "read-write-config=*"
DAY = 86_400


def pair(
    world: World, *, hub: tuple[str, ...] = (), client: tuple[str, ...] = ()
) -> tuple[Instance, Instance]:
    """``hub``: what the hub's entry lets the client do; ``client``: what the client grants the hub."""
    one, other = world.instance("hub"), world.instance("laptop")
    for here, repo in ((one, "nas"), (other, "local")):
        add_repo(here, repo, GUID if repo == "local" else "b" * 64)
    other.add_host(one.token(*(hub or ("read-operations=*",))), *(client or ("read-operations=*",)))
    return one, other


def add_repo(here: Instance, ident: str, guid: str, **fields: Any) -> None:
    def change(config: wire.config.Config) -> bool:
        config.repos.add(
            **{"id": ident, "uri": f"/srv/{ident}", "guid": guid, "password": "hush-hush", **fields}
        )
        return True

    here.config.transform(change)


def plan(ident: str = "photos", repo: str = "local", **fields: Any) -> SetConfig:
    return SetConfig(plans=[Plan(**{"id": ident, "repo": repo, "paths": ["/srv"], **fields})])


async def answer(world: World, here: Instance, number: int) -> Answer:
    found = await world.until(
        here.pushes.subscribe, lambda: here.pushes.find(number), lambda one: isinstance(one, Answer)
    )
    assert isinstance(found, Answer)
    return found


def audited(here: Instance, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in here.paths.audit.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def sessions(world: World) -> int:
    return len(world.dials)


# --- the outcome, both ways


async def test_a_hub_changes_a_client_that_lets_it(autojump_clock: MockClock, world: World) -> None:
    hub, client = pair(world, client=(ALL,))
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        push = hub.pushes.add(client.keyid, "laptop", plan())
        assert (await answer(world, hub, push.id)).result == "applied"
        assert [one.id for one in client.config.current.plans] == ["photos"]
        modno = client.config.current.modno
        again = hub.pushes.add(client.keyid, "laptop", plan())
        assert (await answer(world, hub, again.id)).result == "applied"
        assert client.config.current.modno == modno, "nothing changed, nothing was written"
        view = hub.peer(client).remote_config
        assert view is not None
        assert [one.id for one in view.plans] == ["photos"], "what was answered is what is shown"
    assert sessions(world) == 1
    assert [line["items"] for line in audited(client, "config-changed")] == [["plan photos added"]]
    assert [line["result"] for line in audited(hub, "push-answered")] == ["applied", "applied"]


async def test_a_client_changes_its_hub_in_scope_and_no_further(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world, hub=("read-write-config=plan:photos",))
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        good = client.pushes.add(hub.keyid, "hub", plan("photos", "nas"))
        bad = client.pushes.add(hub.keyid, "hub", plan("other", "nas"))
        assert (await answer(world, client, good.id)).result == "applied"
        refused = await answer(world, client, bad.id)
        assert refused.result == "refused"
        assert refused.refused == (refusal("plan", "other", Why.WRITE_NOT_GRANTED),)
        assert client.pushes.notices(hub.keyid) == (refused.notice(),)
    assert [one.id for one in hub.config.current.plans] == ["photos"]
    assert sessions(world) == 1
    assert [line["instance"] for line in audited(hub, "config-changed")] == ["laptop"]


async def test_a_client_without_any_right_is_refused_with_a_reason(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world)
    push = client.pushes.add(hub.keyid, "hub", plan("photos", "nas"))
    async with hub.running(), client.running():
        found = await answer(world, client, push.id)
        await wait_all_tasks_blocked()
    assert (found.result, len(found.refused)) == ("refused", 1)
    assert not hub.config.current.plans
    assert sessions(world) == 1


async def test_what_passes_and_what_does_not_is_told_item_by_item(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world, client=("read-write-config=plan:photos",))
    message = plan()
    message.plans.add(id="other", repo="local", paths=["/srv"])
    message.repos_to_delete.append("local")
    async with hub.running(), client.running():
        push = hub.pushes.add(client.keyid, "laptop", message)
        found = await answer(world, hub, push.id)
        assert hub.pushes.notices(client.keyid) == (found.notice(),)
    assert found.result == "partly"
    assert [(one.kind, one.id) for one in found.refused] == [("plan", "other"), ("repo", "local")]
    assert [one.id for one in client.config.current.plans] == ["photos"]


async def test_a_result_that_is_not_valid_is_refused_as_a_whole(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world, client=(ALL,))
    async with hub.running(), client.running():
        push = hub.pushes.add(client.keyid, "laptop", plan(repo="nowhere"))
        found = await answer(world, hub, push.id)
    assert found.result == "refused"
    assert found.refused == (refusal("", "", Why.INVALID, text='plan "photos": repo "nowhere" not found'),)
    assert not client.config.current.plans


async def test_what_a_peer_may_not_see_is_not_told_by_a_refusal(
    autojump_clock: MockClock, world: World
) -> None:
    """The client shares no repo with the hub's eyes: neither ids nor plans there are named to it."""
    hub, client = pair(world, client=("read-write-config=repo:new", "receive-shared-repos"))
    secret = Repo(id="new", guid="c" * 64, uri="/srv/local", password="p")
    same = Repo(id="new", guid=GUID, uri="/srv/new", password="p")
    async with hub.running(), client.running():
        found = [
            await answer(world, hub, hub.pushes.add(client.keyid, "laptop", SetConfig(repos=[one])).id)
            for one in (secret, same)
        ]
    assert [one.refused for one in found] == [
        (refusal("repo", "new", Why.SAME_ADDRESS),),
        (refusal("repo", "new", Why.SAME_GUID),),
    ]


async def test_the_hub_shows_what_a_client_refuses_of_its_shares_until_it_no_longer_does(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world, hub=("receive-shared-repos=*",), client=("receive-shared-repos=*",))
    disk = "disk" * 25
    add_repo(hub, disk, GUID, shared=True)  # the client's own has that guid
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        here = await world.until(hub.peers.subscribe, lambda: hub.peer(client).warnings, bool)
        there = client.peer(hub).warnings
        assert here == (refusal("repo", disk, Why.SAME_GUID),), "the hub may not see which"
        assert there == (refusal("repo", disk, Why.SAME_GUID, other="local"),)

        def rename(config: wire.config.Config) -> bool:
            del config.repos[:]
            return True

        client.config.transform(rename)
        hub.config.transform(lambda config: bool(config.repos.add(id="x", uri="/x", guid="d" * 64)) or True)
        await world.until(hub.peers.subscribe, lambda: hub.peer(client).warnings, lambda found: not found)
        assert client.peer(hub).warnings == ()
        assert [repo.id for repo in client.config.current.repos] == [disk]


# --- the queue


async def test_a_client_that_is_away_gets_it_when_it_comes_also_after_a_restart(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world, client=(ALL,))
    async with hub.running():
        async with client.running():
            await hub.until_peer(client, CONNECTED)
        pushes = [hub.pushes.add(client.keyid, "laptop", plan(name)).id for name in ("one", "two")]
        await wait_all_tasks_blocked()
        assert [push.sent for push in hub.pushes.waiting()] == [0, 0]
    hub.open()
    async with hub.running(), client.running():
        for number in pushes:
            assert (await answer(world, hub, number)).result == "applied"
    assert [one.id for one in client.config.current.plans] == ["one", "two"]
    assert "one" not in PushQueue.open(hub.paths.pushes).waiting()


async def test_a_push_whose_answer_was_lost_is_sent_again(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, client = pair(world, client=(ALL,))
    breaks = 2
    give = pushing.Pushing._send

    def send(self: pushing.Pushing, message: SetConfig, what: int) -> None:
        nonlocal breaks
        give(self, message, what)
        if breaks and what > 0:
            breaks -= 1
            world.connections[-1].break_off()

    monkeypatch.setattr(pushing.Pushing, "_send", send)
    async with hub.running(), client.running():
        push = hub.pushes.add(client.keyid, "laptop", plan())
        assert (await answer(world, hub, push.id)).result == "applied"
    assert sessions(world) == 3
    assert [one.id for one in client.config.current.plans] == ["photos"]


async def test_sessions_that_end_over_a_push_again_and_again_end_the_push(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, client = pair(world, client=(ALL,))
    give = pushing.Pushing._send

    def send(self: pushing.Pushing, message: SetConfig, what: int) -> None:
        if what > 0:
            world.connections[-1].break_off()
        else:
            give(self, message, what)

    monkeypatch.setattr(pushing.Pushing, "_send", send)
    async with hub.running(), client.running():
        push = hub.pushes.add(client.keyid, "laptop", plan())
        found = await answer(world, hub, push.id)
        assert found.result == "unknown"
        before = sessions(world)
        await trio.sleep(DAY)  # simulated
    assert before == sessions(world) == pushing.MOST_SENT + 1


async def test_a_dropped_push_is_not_sent(autojump_clock: MockClock, world: World) -> None:
    hub, client = pair(world, client=(ALL,))
    push = hub.pushes.add(client.keyid, "laptop", plan("one"))
    other = hub.pushes.add(client.keyid, "laptop", plan("two"))
    hub.pushes.drop(push.id)
    async with hub.running(), client.running():
        await answer(world, hub, other.id)
    assert [one.id for one in client.config.current.plans] == ["two"]


# --- peers that do not answer


async def test_a_hub_of_the_reference_gets_no_pushes(autojump_clock: MockClock, world: World) -> None:
    heard: list[str] = []

    async def listen(go: GoHub) -> None:
        await go.let_in()
        while True:
            heard.append((await go.hear()).WhichOneof("action"))

    client = world.instance("laptop")
    machine = GoMachine(world, listen)
    machine.known_to(client)
    push = client.pushes.add(machine.keyid, "hub", plan())
    async with client.running():
        found = await answer(world, client, push.id)
    assert (found.result, found.refused) == ("refused", (refusal("", "", Why.NO_CLIENT_PUSHES),))
    assert "set_config" not in heard
    assert len(world.dials) == 1


async def test_a_push_to_a_client_of_the_reference_is_judged_by_its_next_view(
    autojump_clock: MockClock, world: World
) -> None:
    """It applies, reconnects, and shows it; one that refuses ends the session, twice, and is left alone."""
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        keyid = go.identity.keyid
        applied = hub.pushes.add(keyid, "go", plan("one"))
        refused = hub.pushes.add(keyid, "go", plan("two"))
        quiet = hub.pushes.add(keyid, "go", plan("three"))
        shown: list[Plan] = []
        for number in range(4):
            await go.shake_hands()
            await go.say(receive_config=Item.SyncActionReceiveConfig(config={"plans": shown}))
            await go.say(receive_resources=Item.SyncActionReceiveResources())
            while True:
                item = await go.hear()
                if item.WhichOneof("action") == "set_config":
                    break
                assert not outcome.found(item.receive_config), "it did not ask for that"
            [pushed] = item.set_config.plans
            assert pushed.id == ("one", "two", "two", "three")[number]
            if pushed.id == "one":
                shown = [pushed]
            if pushed.id != "three":
                await go.pipe.end()
                go = Stranger(visitor(world, hub).pipe, identity=go.identity, name="go")
        assert world.nursery is not None
        world.nursery.start_soon(go.stay)
        assert (await answer(world, hub, applied.id)).result == "applied"
        for push in (refused, quiet):
            found = await answer(world, hub, push.id)
            assert (found.result, found.refused) == ("refused", (refusal("", "", Why.PROBABLY_REFUSED),))
            assert str(found.notice()).startswith(f"push {push.id} was probably refused: ")
        assert trio.current_time() < 30, "whoever pushed and waits is told"
        await wait_all_tasks_blocked()
    assert not hub.pushes.waiting()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            SetConfig(
                repos=[Repo(id="disk", guid=GUID, uri="rest:https://u:********@h/", password="********")]
            ),
            refusal("repo", "disk", Why.NO_MASKS, names=["the password", "the address"]),
        ),
        (
            SetConfig(
                repos=[Repo(id="disk", guid=GUID, uri="/d", env=["A_KEY=********"], flags=["--key=********"])]
            ),
            refusal("repo", "disk", Why.NO_MASKS, names=["the environment", "the flags"]),
        ),
        (
            plan(hooks=[wire.config.Hook(action_slack={"webhook_url": "********"})]),
            refusal("plan", "photos", Why.NO_MASKS, names=["hook 1"]),
        ),
    ],
)
async def test_a_mask_never_leaves_towards_a_client_that_would_store_it(
    autojump_clock: MockClock, world: World, message: SetConfig, why: Refusal
) -> None:
    hub = world.instance("hub")
    go = Stranger(pipes()[0], name="go")
    authorize(hub, go)
    masked = hub.pushes.add(
        go.identity.keyid, "go", message
    )  # before it was ever here, or by an earlier version
    plain = hub.pushes.add(go.identity.keyid, "go", plan("plain"))
    async with hub.running():
        go = Stranger(visitor(world, hub).pipe, identity=go.identity, name="go")
        await go.shake_hands()
        await go.say(receive_config=Item.SyncActionReceiveConfig())
        while (item := await go.hear()).WhichOneof("action") != "set_config":
            pass
        assert [one.id for one in item.set_config.plans] == ["plain"]
        found = await answer(world, hub, masked.id)
        assert (found.result, found.refused) == ("refused", (why,))
        record = hub.peers.get(go.identity.keyid)
        assert record is not None
        assert record.answers is False
        assert hub.pushes.waiting()[0].id == plain.id


async def test_a_mask_goes_to_a_client_that_knows_what_it_means(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(world, client=(ALL,))
    repo = Repo(id="local", guid=GUID, uri="/srv/new", password="********")
    async with hub.running(), client.running():
        push = hub.pushes.add(client.keyid, "laptop", SetConfig(repos=[repo]))
        assert (await answer(world, hub, push.id)).result == "applied"
        assert hub.peer(client).answers is client.peer(hub).answers is True
    assert [(one.uri, one.password) for one in client.config.current.repos] == [("/srv/new", "hush-hush")]


async def test_a_client_of_the_reference_hears_nothing_that_it_does_not_know(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    add_repo(hub, "nas", "b" * 64)
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go, ALL)
        await go.shake_hands()
        views = []
        for message in (
            plan("photos", "nas"),
            plan("photos", "nas"),
            plan("bad", "nowhere"),
            plan("last", "nas"),
        ):
            await go.say(set_config=message)
        while not views or "last" not in [one.id for one in views[-1].config.plans]:
            item = await go.hear()
            if item.WhichOneof("action") == "receive_config":
                views.append(item.receive_config)
        await wait_all_tasks_blocked()
    assert all(outcome.found(view) is None for view in views)
    assert len(views) <= 3, "one at the start and one for each change: what changed nothing is not answered"


# --- lies


@pytest.mark.parametrize("taken", [0, 2, 77, 1 << 63])
async def test_an_outcome_of_nothing_that_was_sent_is_nothing(
    autojump_clock: MockClock, world: World, taken: int
) -> None:
    hub = world.instance("hub")
    async with hub.running():
        liar = visitor(world, hub, "go")
        authorize(hub, liar, ALL)
        push = hub.pushes.add(liar.identity.keyid, "go", plan())
        await liar.exchange_keys()
        assert liar.channel is not None
        handshake = make_handshake(liar.identity, "go", "", liar.channel.transcript)
        items.announce(handshake, (outcome.SENTENCES,))
        await liar.say(handshake=handshake)
        await liar.say(receive_config=Item.SyncActionReceiveConfig())
        while (await liar.hear()).WhichOneof("action") != "set_config":
            pass
        for number in (taken, 1):
            message = Item.SyncActionReceiveConfig()
            refused = (
                (text("\x1b[2Jno " * 300),) * 30 if number == 1 else ()
            )  # the lie says that it was applied
            outcome.attach(message, outcome.Outcome(number, refused), (outcome.SENTENCES,))
            await liar.say(receive_config=message)
        found = await answer(world, hub, push.id)
    assert found.result == "refused"
    assert len(found.refused) == 20
    assert all(len(one.words()) <= 1000 and one.words().isprintable() for one in found.refused)


# --- a day


async def test_a_day_of_a_refused_push_and_a_refused_share_is_one_session(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = pair(
        world, hub=("receive-shared-repos=*", "read-operations=*"), client=("read-operations=*",)
    )
    add_repo(hub, "disk", GUID, shared=True)
    async with hub.running(), client.running():
        pushes = [hub.pushes.add(client.keyid, "laptop", plan()), client.pushes.add(hub.keyid, "hub", plan())]
        for here, push in zip((hub, client), pushes, strict=True):
            assert (await answer(world, here, push.id)).result == "refused"
        await trio.sleep(3600)  # simulated
        before = written(hub, client)
        await trio.sleep(DAY)  # simulated
        assert written(hub, client) == before
        assert hub.peer(client).state == CONNECTED
        assert any(warning.is_about("repo", "disk") for warning in hub.peer(client).warnings)
    assert sessions(world) == 1


def written(*instances: Instance) -> list[tuple[str, bytes]]:
    """What is on disk, without the states of the peers, where heartbeats are noted."""
    return [
        (str(path), path.read_bytes())
        for here in instances
        for path in sorted(here.paths.data_dir.parent.rglob("*"))
        if path.is_file() and path != here.paths.peers
    ]

"""Shared repos between a hub and its clients: handed out, taken back, skipped; and the plans that wait for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from sync_world import BOTH, GUID, Instance, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.admin import accepting, instance, repos
from backrest.errors import ConflictError
from backrest.refusals import Why, refusal
from backrest.store.audit import read
from backrest.store.peers import MAX_OFFERED
from backrest.store.removal import remove_peer, withdrawn
from backrest.sync import client as client_module
from backrest.sync.apply import MOST_ITEMS
from backrest.sync.offers import Offers, Withdrawals

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
WRITE = (*BOTH, "read-write-config=*")
Config = wire.config.Config


def paired(
    world: World, *grants: str, name: str = "laptop", hub: Instance | None = None
) -> tuple[Instance, Instance]:
    """A hub, and a client that grants it ``grants``."""
    hub = hub or world.instance("hub")
    client = world.instance(name)
    client.add_host(hub.token(), *(grants or BOTH))
    return hub, client


def share(hub: Instance, repo_id: str = "nas", guid: str = GUID, **fields: Any) -> None:
    def change(config: Config) -> None:
        repo = next((repo for repo in config.repos if repo.id == repo_id), None)
        if repo is None:
            repo = config.repos.add(id=repo_id, uri=f"/srv/{repo_id}", guid=guid, password="p")
        repo.shared = True
        for name, value in fields.items():
            setattr(repo, name, value)

    hub.config.transform(change)


def unshare(hub: Instance) -> None:
    hub.config.transform(lambda config: setattr(config.repos[0], "shared", False))


def forget(hub: Instance) -> None:
    def drop(config: Config) -> None:
        del config.repos[:]

    hub.config.transform(drop)


def add_plan(client: Instance, **fields: Any) -> None:
    def add(config: Config) -> None:
        config.plans.add(**{"id": "photos", "repo": "nas", "paths": ["/srv"]} | fields)

    client.config.transform(add)


async def until_config(instance: Instance, good: Callable[[Config], object]) -> Config:
    current: Config = await instance.world.until(
        instance.config.subscribe, lambda: instance.config.current, lambda config: bool(good(config))
    )
    return current


async def until_withdrawn(client: Instance, *ids: str) -> None:
    await client.world.until(
        client.peers.subscribe,
        lambda: [repo.id for repo in withdrawn(client.config.current, client.peers.all())],
        lambda found: found == list(ids),
    )


# --- under another address


async def test_a_client_gets_the_address_that_is_its_own_and_a_new_one_at_once(
    autojump_clock: MockClock, world: World
) -> None:
    hub, laptop = paired(world)
    _, desk = paired(world, name="desk", hub=hub)
    hub.shares.set(GUID, {laptop.keyid: "sftp:nas:/srv"})
    share(hub)
    async with hub.running(), laptop.running(), desk.running():
        await until_config(laptop, lambda c: c.repos and c.repos[0].uri == "sftp:nas:/srv")
        await until_config(desk, lambda c: c.repos and c.repos[0].uri == "/srv/nas")
        modno = desk.config.current.modno
        hub.shares.set(GUID, {laptop.keyid: "sftp:nas:/new"})
        await until_config(laptop, lambda c: c.repos[0].uri == "sftp:nas:/new")
        hub.shares.set(GUID, {laptop.keyid: None})
        await until_config(laptop, lambda c: c.repos[0].uri == "/srv/nas")
        assert desk.config.current.modno == modno
        assert hub.config.current.repos[0].uri == "/srv/nas"
    assert len(world.dials) == 2, "nobody had to reconnect"


# --- changed


def accept(client: Instance, repo_id: str = "nas") -> dict[str, Any]:
    shown = repos.show(client.context(), repo_id)["waiting"]
    return accepting.accept(client.context(), repo_id, shown["sinceMillis"])


async def until_waiting(client: Instance, *fields: str) -> None:
    def found() -> tuple[str, ...]:
        shown = instance.status(client.context()).get("waitingRepos", ())
        return tuple(field for one in shown for field in one["fields"])

    # What waits is written before the warning about it.
    await client.world.until(client.peers.subscribe, found, lambda now: now == fields)


async def test_a_new_address_waits_through_a_restart_until_it_is_accepted(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        add_plan(client)
        share(hub, uri="/srv/moved", password="new")
        await until_waiting(client, "address")
        [repo] = client.config.current.repos
        assert (repo.uri, repo.password) == ("/srv/nas", "new")
        told = refusal("repo", "nas", Why.WAITS, names=["address"])
        assert client.peer(hub).warnings == (told,)
        await hub.world.until(
            hub.peers.subscribe, lambda: hub.peer(client).warnings, lambda now: now == (told,)
        )
        [listed] = repos.list_repos(client.context())["waiting"].values()
        assert listed["changed"] == [{"field": "uri", "before": "/srv/nas", "after": "/srv/moved"}]
    client.open()
    assert instance.status(client.context())["waitingRepos"][0]["fields"] == ["address"]
    assert accept(client)["repo"]["uri"] == "/srv/moved"
    assert client.config.current.repos[0].uri == "/srv/moved"
    assert "waitingRepos" not in instance.status(client.context())
    assert client.audited()[-1]["event"] == "repo-accepted"
    assert (client.audited()[-1]["hub"], client.audited()[-1]["fields"]) == ("hub", ["uri"])
    modno = client.config.current.modno
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await wait_all_tasks_blocked()
        assert client.peer(hub).warnings == ()
        assert client.config.current.modno == modno


async def test_what_was_seen_is_accepted_and_no_later_change(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        add_plan(client)
        with pytest.raises(ConflictError, match="no change of the repository 'nas' waits"):
            accepting.accept(client.context(), "nas", "0")
        share(hub, uri="/srv/moved")
        await until_waiting(client, "address")
        seen = repos.show(client.context(), "nas")["waiting"]["sinceMillis"]
        share(hub, uri="/srv/evil")
        await client.world.until(
            client.peers.subscribe,
            lambda: repos.show(client.context(), "nas")["waiting"]["changed"][0]["after"],
            lambda uri: uri == "/srv/evil",
        )
        with pytest.raises(ConflictError, match="again meanwhile"):
            accepting.accept(client.context(), "nas", seen)
        assert client.config.current.repos[0].uri == "/srv/nas"


@pytest.mark.parametrize("back", ["old values", "unshared"])
async def test_what_waits_is_dropped_when_the_hub_goes_back_or_takes_the_repo_away(
    autojump_clock: MockClock, world: World, back: str
) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        add_plan(client)
        share(hub, uri="/srv/moved")
        await until_waiting(client, "address")
        if back == "unshared":
            unshare(hub)
            await until_withdrawn(client, "nas")
        else:
            share(hub, uri="/srv/nas")
        await until_waiting(client)
    assert json.loads(client.paths.waiting_repos.read_text()) == {"repos": []}
    assert client.config.current.repos[0].uri == "/srv/nas"


# --- taken back


@pytest.mark.parametrize("take_back", [unshare, forget])
async def test_what_is_shared_no_longer_is_shown_and_the_plan_on_it_stays(
    autojump_clock: MockClock, world: World, take_back: Callable[[Instance], None]
) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        add_plan(client)
        before = client.config.current
        take_back(hub)
        await until_withdrawn(client, "nas")
        assert client.config.current == before, "nothing is taken away"
        share(hub)
        await until_withdrawn(client)
    assert len(world.dials) == 1


async def test_it_is_noticed_after_restarts_of_both_and_stays_known(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
    unshare(hub)
    hub.open()
    async with hub.running(), client.running():
        await until_withdrawn(client, "nas")
    client.peers.flush()
    client.open()
    assert [repo.id for repo in withdrawn(client.config.current, client.peers.all())] == ["nas"]


async def test_only_the_one_that_is_missing_is_withdrawn(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    share(hub, "a", "a" * 64)
    share(hub, "b", "b" * 64)
    async with hub.running(), client.running():
        await until_config(client, lambda c: len(c.repos) == 2)
        unshare(hub)
        await until_withdrawn(client, "a")


@pytest.mark.parametrize("take_back", [unshare, forget])
async def test_a_client_that_grants_write_permission_drops_it(
    autojump_clock: MockClock, world: World, take_back: Callable[[Instance], None]
) -> None:
    hub, client = paired(world, *WRITE)
    share(hub)
    async with hub.running():
        async with client.running():
            await until_config(client, lambda c: c.repos)
        take_back(hub)  # while the client is away; and the hub forgets what it once offered
    hub.open()
    async with hub.running(), client.running():
        await until_config(client, lambda c: not c.repos)
        share(hub)
        await until_config(client, lambda c: c.repos)
        take_back(hub)
        await until_config(client, lambda c: not c.repos)
    assert len(world.dials) == 2


async def test_a_plan_keeps_it_until_the_plan_is_removed(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world, *WRITE)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        add_plan(client)
        unshare(hub)
        await until_withdrawn(client, "nas")
        await wait_all_tasks_blocked()
        assert [plan.id for plan in client.config.current.plans] == ["photos"]
        assert client.peer(hub).warnings == (refusal("repo", "nas", Why.IN_USE, plans=["photos"]),)

        def remove(config: Config) -> None:
            del config.plans[:]

        client.config.transform(remove)
        await until_config(client, lambda c: not c.repos)


async def test_a_refused_deletion_is_asked_for_once(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "backrest.sync")
    hub, client = paired(world, *BOTH, "read-config=*")
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        unshare(hub)
        for n in range(10):
            await trio.sleep(120)
            hub.config.transform(lambda config, n=n: setattr(config.repos[0], "auto_unlock", n % 2 == 0))  # type: ignore[misc]
        await until_withdrawn(client, "nas")
        assert len(client.config.current.repos) == 1
    asked = [record for record in caplog.records if "not granted to delete" in record.getMessage()]
    assert len(asked) == 1
    assert len(world.dials) == 1


async def test_a_client_that_does_not_answer_pushes_is_never_asked(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference ends its session over a deletion that it refuses, and the hub cannot know what it grants."""
    monkeypatch.setattr(client_module, "FEATURES", ())
    hub, client = paired(world, *WRITE)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        unshare(hub)
        await until_withdrawn(client, "nas")
        await trio.sleep(3600)
        assert len(client.config.current.repos) == 1


async def test_a_hub_deletes_nothing_but_what_it_shared(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world, *WRITE)

    def own(config: Config) -> None:
        config.repos.add(id="mine", uri="/mine", guid="c" * 64)
        config.repos.add(id="other", uri="/other", guid="d" * 64, origin_instance_id="another hub")

    client.config.transform(own)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: len(c.repos) == 3)
        unshare(hub)
        await until_config(client, lambda c: len(c.repos) == 2)
        await trio.sleep(3600)
    assert [repo.id for repo in client.config.current.repos] == ["mine", "other"]


# --- skipped, and seen on both machines


@pytest.mark.parametrize(
    ("mine", "reason"),
    [
        ({"id": "mine", "uri": "/mine", "guid": GUID}, Why.SAME_GUID),
        ({"id": "nas", "uri": "/mine", "guid": "c" * 64}, Why.SAME_ID),
        ({"id": "mine", "uri": "/srv/nas", "guid": "c" * 64}, Why.SAME_ADDRESS),
        ({"id": "mine", "uri": "/srv/nas/", "guid": "c" * 64}, Why.SAME_ADDRESS),
        ({"id": "mine", "uri": "local:/srv/nas", "guid": "c" * 64}, Why.SAME_ADDRESS),
    ],
)
async def test_a_repo_that_is_here_already_is_skipped_and_both_machines_say_so(
    autojump_clock: MockClock, world: World, mine: dict[str, str], reason: Why
) -> None:
    hub, client = paired(world)
    client.config.transform(lambda config: config.repos.add(**mine) and None)  # type: ignore[arg-type]
    share(hub)
    async with hub.running(), client.running():
        for here, there in ((client, hub), (hub, client)):
            warnings = await world.until(
                here.peers.subscribe, lambda here=here, there=there: here.peers.get(there.keyid),
                lambda record: record is not None and record.warnings,
            )  # fmt: skip
            assert [(one.id, one.code) for one in warnings.warnings] == [("nas", reason)]
        await trio.sleep(3600)
        assert len(client.config.current.repos) == 1
    assert len(world.dials) == 1


# --- parked plans


def remove_hub(client: Instance, hub: Instance) -> None:
    client.config.transform(lambda config: client.parked.park(remove_peer(config, hub.keyid)))


async def test_a_plan_returns_with_its_repo_in_the_same_step(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running():
        async with client.running():
            await until_config(client, lambda c: c.repos)
            add_plan(client, schedule=wire.config.Schedule(cron="0 3 * * *"))
            remove_hub(client, hub)
        assert not client.config.current.plans
        assert len(client.parked.all()) == 1
        client.open()
        client.add_host(hub.token())
        async with client.running():
            seen: list[tuple[int, int]] = []
            client.config.subscribe(lambda config: seen.append((len(config.repos), len(config.plans))))
            config = await until_config(client, lambda c: c.plans)
    assert (config.plans[0].id, config.plans[0].schedule.cron) == ("photos", "0 3 * * *")
    assert (1, 0) not in seen, "never the repo without its plan"
    assert client.parked.all() == ()
    client.open()
    assert client.parked.all() == ()
    event = next(e for e in read(client.paths.audit) if e["event"] == "parked-plans-returned")
    assert (event["hub"], event["plans"]) == ("hub", ["photos"])


async def test_a_plan_follows_its_repo_to_a_new_name(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running():
        async with client.running():
            await until_config(client, lambda c: c.repos)
            add_plan(client)
            remove_hub(client, hub)
        share(hub, id="renamed")
        client.add_host(hub.token())
        async with client.running():
            config = await until_config(client, lambda c: c.plans)
    assert config.plans[0].repo == "renamed"


async def test_another_hub_s_repo_of_that_name_does_not_get_the_plan(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    share(hub)
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        add_plan(client)
        remove_hub(client, hub)
    stranger = world.instance("stranger")
    share(stranger, guid="b" * 64)
    client.add_host(stranger.token())
    async with stranger.running(), client.running():
        await until_config(client, lambda c: c.repos)
        await wait_all_tasks_blocked()
        assert not client.config.current.plans
        assert len(client.parked.all()) == 1


async def test_a_plan_that_cannot_return_keeps_no_repo_away(autojump_clock: MockClock, world: World) -> None:
    hub, client = paired(world)
    share(hub)
    config = Config()
    config.repos.add(id="nas", guid=GUID, origin_instance_id="hub")
    config.plans.add(id="bad", repo="nas", paths=["/x"], schedule=wire.config.Schedule(cron="61 * * * *"))
    config.multihost.known_hosts.add(keyid="k", instance_id="hub")
    client.parked.park(remove_peer(config, "k"))
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
        await wait_all_tasks_blocked()
        assert not client.config.current.plans
    assert len(client.parked.all()) == 1


# --- ids that another instance chose (W-10)


async def test_a_shared_repo_and_a_returning_plan_may_have_odd_ids_with_a_warning(
    autojump_clock: MockClock, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    hub, client = paired(world)
    hub.config.transform(
        lambda c: c.repos.add(id="my nas", uri="/srv", guid=GUID, shared=True) and None,  # type: ignore[arg-type]
        from_peer=True,
    )
    async with hub.running(), client.running():
        await until_config(client, lambda c: c.repos)
    assert client.config.current.repos[0].id == "my nas"
    assert 'the id of repo "my nas" may hold only' in caplog.text


@pytest.mark.parametrize("ident", ["-x", "..", "n\u0430s", "OWN"])
async def test_a_shared_repo_with_a_misleading_id_is_refused_alone_and_the_others_are_taken(
    autojump_clock: MockClock, world: World, ident: str
) -> None:
    hub, client = paired(world)
    client.config.transform(lambda c: c.repos.add(id="own", uri="/own", guid="0a" * 32) and None)  # type: ignore[arg-type]

    def shares(config: Config) -> None:
        config.repos.add(id=ident, uri="/srv/odd", guid=GUID, shared=True)
        config.repos.add(id="nas", uri="/srv/nas", guid="0b" * 32, shared=True)

    hub.config.transform(shares, imported=True)
    async with hub.running(), client.running():
        await until_config(client, lambda c: len(c.repos) == 2)
        await world.until(
            hub.peers.subscribe,
            lambda: hub.peers.get(client.keyid),
            lambda record: (
                record is not None and any(one.code in (Why.BAD_ID, Why.ALIKE_ID) for one in record.warnings)
            ),
        )
    assert [repo.id for repo in client.config.current.repos] == ["nas", "own"]


def test_a_deletion_is_asked_for_again_only_when_something_changed() -> None:
    def view(*plans: str, repos: tuple[str, ...] = ("nas",)) -> wire.sync.RemoteConfig:
        return wire.sync.RemoteConfig(
            repos=[wire.config.Repo(id=r, guid=f"guid of {r}", origin_instance_id="hub") for r in repos],
            plans=[wire.config.Plan(id=plan, repo="nas") for plan in plans],
        )

    mine = Withdrawals("hub")
    assert mine.due(()) == [], "nothing is known of it yet"
    for plans, due in (((), ["nas"]), ((), []), (("p",), ["nas"]), (("p",), []), ((), ["nas"])):
        mine.view(view(*plans))
        assert mine.due(()) == due
    assert mine.due(("guid of nas",)) == []
    assert mine.due(()) == ["nas"], "offered in between"
    mine.view(view(repos=("nas", "more")))
    assert mine.due(()) == ["more"]


# --- the wrong way round


@pytest.mark.parametrize("origin", ["laptop", "", "hub"])
async def test_a_client_that_may_receive_repos_cannot_hand_one_to_its_hub(
    autojump_clock: MockClock, world: World, origin: str
) -> None:
    """The permission means one direction only: on the hub's entry it is what the client gets."""
    hub, client = paired(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        await client.until_peer(hub, CONNECTED)
        link = client.clients._running[hub.keyid].host._link
        assert link is not None
        repo = wire.config.Repo(id="evil", uri="/srv/evil", guid=GUID, origin_instance_id=origin)
        link.send_now("set_config", wire.sync.SyncStreamItem.SyncActionSetConfig(repos=[repo]))
        await trio.sleep(60)
        assert not hub.config.current.repos


# --- what is remembered of the other side has a bound


def test_a_hub_that_offers_without_end_fills_no_memory() -> None:
    told: list[tuple[str, ...]] = []
    offers = Offers("hub", told.append)
    for round_ in range(5):
        repos = [
            wire.config.Repo(id="r", guid=f"{round_ * 500 + n:064x}", origin_instance_id="hub")
            for n in range(500)
        ]
        offers.shared(wire.sync.SyncStreamItem.SyncActionSetConfig(repos=repos))
    assert len(told[-1]) == MAX_OFFERED
    huge = wire.config.Repo(guid="x" * 1_000_000, origin_instance_id="hub")
    offers = Offers("hub", told.append)
    offers.shared(wire.sync.SyncStreamItem.SyncActionSetConfig(repos=[huge]))
    assert told[-1] == ()


def test_a_client_that_shows_very_many_repos_costs_little() -> None:
    view = wire.sync.RemoteConfig()
    for n in range(20_000):  # each against each would be 400 million
        view.repos.add(id=f"r{n}", guid="g", origin_instance_id="hub")
        view.plans.add(id=f"p{n}", repo=f"r{n}")
    mine = Withdrawals("hub")
    mine.view(view)
    assert len(mine.due(())) == MOST_ITEMS


async def test_a_client_that_reads_nothing_and_shows_ever_new_things_fills_no_outbox(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        await client.until_peer(hub, CONNECTED)
        await wait_all_tasks_blocked()
        link = client.clients._running[hub.keyid].host._link
        inbound = hub.hub._live[client.keyid]
        assert link is not None
        world.connections[-1].other.stuck = True
        for n in range(50):
            view = wire.sync.RemoteConfig()
            view.repos.add(id=f"{n}" + "r" * 200_000, guid=GUID, origin_instance_id="hub")
            link.send_now("receive_config", wire.sync.SyncStreamItem.SyncActionReceiveConfig(config=view))
        await trio.sleep(10)
        assert hub.peer(client).remote_config is not None
        assert inbound.link.session.outbox_size < 3_000_000  # of ten million

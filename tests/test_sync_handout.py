"""Shared repos and a client that does not say what it takes: nothing makes it reconnect for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
from stranger import Stranger, authorize, visitor
from sync_world import Instance, World
from trio.testing import MockClock

from backrest import wire
from backrest.admin import sharing
from backrest.crypto.identity import Identity
from backrest.protocol.framing import EndOfStream
from backrest.refusals import Refusal, Why, refusal
from backrest.sync.handout import ANSWER_S, FIRST_S

Item = wire.sync.SyncStreamItem
Config, Repo = wire.config.Config, wire.config.Repo
GUIDS = {"disk": "d" * 64, "good": "0" * 64, "bad": "b" * 64}
SHARED = "receive-shared-repos=*"


class Go:
    """A client of the reference: it ends its session over a set_config that it does not take, and over one that it
    takes when that changes something; behind every other one it lists its resources, as it is asked to."""

    def __init__(self, world: World, hub: Instance, *refuses: str, shows: bool = True) -> None:
        self.world, self.hub = world, hub
        self.identity = Identity.generate()
        self.keyid = self.identity.keyid
        self.refuses, self.shows = refuses, shows
        self.has: dict[str, Repo] = {}
        self.modno = 0
        self.view: list[Repo] = []
        authorize(hub, Stranger(visitor(world, hub).pipe, identity=self.identity, name="go"), SHARED)

    async def arrive(self) -> Stranger:
        go = Stranger(visitor(self.world, self.hub).pipe, identity=self.identity, name="go")
        await go.shake_hands()
        return go

    async def greet(self, go: Stranger) -> None:
        config = wire.sync.RemoteConfig(modno=self.modno, repos=self.view)
        await go.say(receive_config=Item.SyncActionReceiveConfig(config=config))
        await self.lists(go)

    async def lists(self, go: Stranger) -> None:
        message = Item.SyncActionReceiveResources()
        for repo in self.has.values() if self.shows else ():
            message.repos.add(id=repo.id, guid=repo.guid)
        await go.say(receive_resources=message)

    async def session(self, during: Callable[[], object] | None = None) -> list[list[str]]:
        """One of two minutes, or less; the ids in each set_config. ``during``: what happens after one."""
        go = await self.arrive()
        await self.greet(go)
        heard: list[list[str]] = []
        for half in (0, 1):
            if half and during is not None:
                during()
            with trio.move_on_after(60):  # simulated
                while not isinstance(item := await go.hear(), EndOfStream | None):
                    if item.WhichOneof("action") == "set_config":
                        heard.append([repo.id for repo in item.set_config.repos])
                        if not await self.takes(go, item.set_config.repos):
                            return heard
        await go.pipe.end()
        await self.gone()
        return heard

    async def takes(self, go: Stranger, repos: Iterable[Repo]) -> bool:
        """Does the session go on?"""
        new = {repo.id: repo for repo in repos}
        if new.keys() & set(self.refuses) or any(self.has.get(ident) != repo for ident, repo in new.items()):
            if not new.keys() & set(self.refuses):
                self.has |= new
            await go.pipe.end()
            await self.gone()
            return False
        await self.lists(go)
        return True

    async def gone(self) -> None:
        """Until the hub has noticed, and noted what it has to."""
        await self.world.until(
            self.hub.peers.subscribe,
            lambda: self.hub.peers.get(self.keyid),
            lambda record: record is not None and record.state != wire.sync.CONNECTION_STATE_CONNECTED,
        )

    @property
    def warnings(self) -> tuple[Refusal, ...]:
        record = self.hub.peers.get(self.keyid)
        return () if record is None else record.warnings


def share(hub: Instance, *idents: str, **fields: Any) -> None:
    def change(config: Config) -> None:
        for ident in idents:
            config.repos.add(
                **{
                    "id": ident,
                    "uri": f"/srv/{ident}",
                    "guid": GUIDS[ident],
                    "shared": True,
                    "password": "p",
                    **fields,
                }
            )

    hub.config.transform(change)


async def test_a_repo_over_which_two_sessions_ended_is_offered_no_more_also_after_a_restart(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    share(hub, "disk")
    async with hub.running():
        go = Go(world, hub, "disk")
        assert [await go.session() for _ in range(4)] == [[["disk"]], [["disk"]], [], []]
        why = refusal("repo", "disk", Why.ENDS_SESSION, count=2)
        assert go.warnings == (why,)
        [client] = sharing.receivers(hub.context(), hub.config.current.repos[0])
        assert client["message"] == why.reason()
        assert "2 sessions of the client ended" in client["message"]
    hub.open()
    async with hub.running():
        assert await go.session() == []


def by_hand(hub: Instance, go: Go) -> None:
    hub.shares.set(GUIDS["disk"], {})


def other_password(hub: Instance, go: Go) -> None:
    def change(config: Config) -> None:
        config.repos[0].password = "another"

    hub.config.transform(change)


def other_address(hub: Instance, go: Go) -> None:
    hub.shares.set(GUIDS["disk"], {go.keyid: "/mnt/disk"})


@pytest.mark.parametrize("change", [by_hand, other_password, other_address])
async def test_what_changes_at_the_hub_offers_it_again_at_once(
    autojump_clock: MockClock, world: World, change: Callable[[Instance, Go], None]
) -> None:
    hub = world.instance("hub")
    share(hub, "disk")
    async with hub.running():
        go = Go(world, hub, "disk")
        for _ in range(2):
            assert await go.session() == [["disk"]]
        assert await go.session(lambda: change(hub, go)) == [["disk"]]
        assert await go.session() == [["disk"]]
        assert await go.session() == []
        go.refuses = ()
        by_hand(hub, go)
        assert await go.session() == [["disk"]]
        assert await go.session() == [["disk"]]
        assert go.warnings == ()
        assert hub.shares.ended(go.keyid) == {}


@pytest.mark.parametrize("what", ["its configuration", "its list", "its permissions"])
async def test_what_changes_at_the_client_offers_it_again(
    autojump_clock: MockClock, world: World, what: str
) -> None:
    hub = world.instance("hub")
    share(hub, "disk")
    async with hub.running():
        go = Go(world, hub, "disk")
        for _ in range(2):
            assert await go.session() == [["disk"]]
        assert await go.session() == []
        if what == "its configuration":
            go.modno += 1
        elif what == "its list":
            go.has["mine"] = Repo(id="mine", guid="e" * 64)
        else:

            def change(config: Config) -> None:
                config.multihost.authorized_clients[0].permissions[0].scopes[:] = ["repo:disk"]

            hub.config.transform(change)
        assert [await go.session() for _ in range(3)] == [[["disk"]], [["disk"]], []]


async def test_one_that_is_refused_keeps_no_other_from_being_taken(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    share(hub, "bad", "disk", "good")
    async with hub.running():
        go = Go(world, hub, "bad")
        sessions = [await go.session() for _ in range(12)]
        assert go.has.keys() == {"disk", "good"}
        assert sessions[-1] == [["disk", "good"]]
        assert [one.code for one in go.warnings] == [Why.ENDS_SESSION]
        assert go.warnings[0].is_about("repo", "bad")


async def test_one_that_is_taken_and_not_shown_is_not_given_up(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    share(hub, "disk")
    async with hub.running():
        go = Go(world, hub, shows=False)
        assert [await go.session() for _ in range(6)] == [[["disk"]]] * 6
        assert go.warnings == (refusal("repo", "disk", Why.NOT_LISTED),)


@pytest.mark.parametrize("first", ["receive_resources", "operation_manifest", None])
async def test_it_goes_out_behind_the_clients_first_word_or_after_a_time(
    autojump_clock: MockClock, world: World, first: str | None
) -> None:
    hub = world.instance("hub")
    share(hub, "disk")
    async with hub.running():
        stranger = await Go(world, hub).arrive()
        await stranger.say(receive_config=Item.SyncActionReceiveConfig())
        kinds: list[str] = []
        with trio.move_on_after(FIRST_S / 2):  # simulated
            while True:
                kinds.append((await stranger.hear()).WhichOneof("action"))
        assert kinds[-2:] == ["receive_config", "receive_resources"]
        before = trio.current_time()
        if first == "operation_manifest":
            manifest = Item.SyncActionOperationManifest(op_ids=[1], modnos=[1])
            await stranger.say(operation_manifest=manifest)
        elif first is not None:
            await stranger.say(receive_resources=Item.SyncActionReceiveResources())
        assert (await stranger.hear()).WhichOneof("action") == "set_config", "before the manifest's answer"
        assert (trio.current_time() == before) == (first is not None)


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (Repo(id="mine", guid=GUIDS["disk"]), refusal("repo", "disk", Why.SAME_GUID, other="mine", hub="")),
        (
            Repo(id="x", guid=GUIDS["disk"], origin_instance_id="hub2"),
            refusal("repo", "disk", Why.SHARED_BY_OTHER, other="x", hub="hub2"),
        ),
        (Repo(id="disk", guid=GUIDS["disk"], origin_instance_id="hub"), None),
    ],
)
async def test_what_the_client_shows_as_its_own_is_left_out(
    autojump_clock: MockClock, world: World, theirs: Repo, why: Refusal | None
) -> None:
    hub = world.instance("hub")
    share(hub, "disk", "good")
    async with hub.running():
        go = Go(world, hub)
        go.view = [theirs]
        assert await go.session() == [["good"] if why is not None else ["disk", "good"]]
        if why is not None:
            assert await go.session() == [["good"]]
            assert go.warnings == (why,)


async def test_a_mask_in_a_shared_repo_does_not_leave(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    share(hub, "good")
    share(hub, "disk", env=["AWS_SECRET_ACCESS_KEY=********"])
    async with hub.running():
        go = Go(world, hub)
        for _ in range(2):
            assert await go.session() == [["good"]]
        assert go.warnings == (refusal("repo", "disk", Why.NO_MASKS, names=["the environment"]),)


async def test_a_client_that_neither_leaves_nor_answers_is_told_of_after_a_time(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    share(hub, "disk")
    async with hub.running():
        go = Go(world, hub)
        stream = await go.arrive()
        await go.greet(stream)
        await world.until(hub.peers.subscribe, lambda: go.warnings, bool)
        assert trio.current_time() == ANSWER_S
        assert go.warnings == (refusal("repo", "disk", Why.NOT_LISTED),)
        go.has["disk"] = Repo(id="disk", guid=GUIDS["disk"])
        await go.lists(stream)
        await world.until(hub.peers.subscribe, lambda: go.warnings, lambda found: not found)

"""What the cases of pushed configuration share: making a push, and seeing at a client what became of it.

A client's configuration shows in the receive_config that it sends, to a hub that it grants READ_CONFIG. It sends
that with every change, also with those that other cases bring about.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from backrest import wire
from conformance.model import check
from conformance.peer import AsHub, Item, patience
from conformance.seats import Seat, fixture_guid

Repo = wire.config.Repo
Plan = wire.config.Plan
Config = wire.sync.RemoteConfig
Set = Item.SyncActionSetConfig
View = Callable[[Config], object]

VIEW = "read-config=*"
SHARED = "receive-shared-repos=*"
WRITE = "read-write-config=*"


BESIDE_VIEWS = ("receive_resources", "operation_manifest", "heartbeat", "receive_operations")


async def config_of(talk: AsHub) -> Config:
    config: Config = (await talk.expect("receive_config", skip=BESIDE_VIEWS)).config
    return config


Received = Item.SyncActionReceiveConfig


class Watch:
    """A session in which pushes are made, and the client's views of its configuration are read."""

    def __init__(self, seat: Seat, talk: AsHub, streams: AsyncExitStack) -> None:
        self.talk = talk
        self._seat = seat
        self._streams = streams

    async def pushed(self, message: Set, done: View, what: str) -> Config:
        """Push; the first view of the client's configuration in which ``done`` holds.

        Views come with every change, also when another seat's pairing clears its secret: an older one may come first.
        """
        await self.talk.send("set_config", message)
        async with patience(self.talk.seconds, f"a view of the client's configuration: {what}"):
            while not done(config := (await self.view()).config):
                pass
        return config

    async def view(self) -> Received:
        """The next one. The reference begins anew when its configuration changes: there it is on the next stream, which
        then takes the place of this one."""
        found: list[Received] = []

        async def read() -> None:
            found.append(await self.talk.expect("receive_config", skip=BESIDE_VIEWS))

        if not await self._seat.or_again(read):
            self.talk = await self._streams.enter_async_context(self._seat.established())
            await read()
        return found[0]


@asynccontextmanager
async def watching(seat: Seat, *, calm: bool = False) -> AsyncIterator[Watch]:
    """An established session in which all that the client said so far has been read, and nobody else changes its
    configuration. ``calm``: for a serial case, when all others are over."""
    async with AsyncExitStack() as streams:
        talk = await streams.enter_async_context(seat.established())
        await talk.expect("operation_manifest")
        if calm:
            await seat.lab.calm.wait()
        async with seat.lab.alone:
            await talk.fence()
            yield Watch(seat, talk, streams)


def a_repo(tag: str, **changes: object) -> Repo:
    fields = {
        "id": f"conf-{tag}",
        "uri": f"/nonexistent/conf-{tag}",
        "guid": uuid.uuid4().hex * 2,
        "password": "pushed",
    }
    return Repo(**(fields | {"shared": True} | changes))  # type: ignore[arg-type]


def has_repo(guid: str) -> View:
    return lambda config: find(config, guid) is not None


def find(config: Config, guid: str) -> Repo | None:
    return next((repo for repo in config.repos if repo.guid == guid), None)


async def pushed_in_vain(talk: AsHub, message: Set) -> Config | None:
    """Push what should change nothing; the client's last view that came before the fence behind it, if any.

    The view of a change may come after the fence: who wants to be certain looks again in a new session.
    """
    talk.views.clear()
    await talk.send("set_config", message)
    await talk.fence()
    return talk.views[-1] if talk.views else None


def no_repo(id: str) -> View:
    return lambda config: id not in {repo.id for repo in config.repos}


def no_plan(id: str) -> View:
    return lambda config: id not in {plan.id for plan in config.plans}


def has_plan(id: str) -> View:
    return lambda config: id in {plan.id for plan in config.plans}


def intact(id: str) -> View:
    """The fixture's repo is as it was."""

    def holds(config: Config) -> bool:
        repo = find(config, fixture_guid(id))
        return repo is not None and (repo.id, repo.uri, repo.origin_instance_id) == (
            id,
            f"/nonexistent/{id}",
            "",
        )

    return holds


def a_plan(id: str, repo: str) -> Plan:
    return Plan(id=id, repo=repo, paths=["/conformance"], schedule=wire.config.Schedule(disabled=True))


async def writes_nothing(watch: Watch, push: Set, tag: str) -> None:
    """Between two changes, the second one's modno is one more than the first one's if ``push`` wrote nothing.

    For a serial case: a pairing that another seat completes writes, too.
    """
    one, other = a_repo(f"{tag}-1"), a_repo(f"{tag}-2")
    before = await watch.pushed(Set(repos=[one]), has_repo(one.guid), "the first repo in it")
    await watch.talk.send("set_config", push)
    after = await watch.pushed(Set(repos=[other]), has_repo(other.guid), "the second repo in it")
    check(
        after.modno == before.modno + 1, f"modno {before.modno} before it and one change, {after.modno} after"
    )

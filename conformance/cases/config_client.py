"""Configuration, the program as the client: what it shows to a hub, and what becomes of a hub's set_config.

PROTOCOL.md sections 5, 7 and 8. A seat with READ_CONFIG sees in the client's next receive_config what a push did; that
also shows what must not have happened. These cases change the client's configuration, so only one runs at a time,
and each takes back what it did, as far as it was allowed to do it.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from backrest import wire
from conformance.model import Role, case, check, client
from conformance.peer import AsHub, Item, patience
from conformance.seats import FIXTURE_PASSWORD, Seat, fixture_guid

Repo = wire.config.Repo
Plan = wire.config.Plan
Config = wire.sync.RemoteConfig
Set = Item.SyncActionSetConfig

VIEW = "read-config=*"
SHARED = "receive-shared-repos=*"
WRITE = "read-write-config=*"


@client("config/40", "READ_CONFIG shows the client's repos and plans in its scopes and no others", "7", needs=("fixture",),
        grants=("read-config=repo:conf-a,plan:conf-a1",))  # fmt: skip
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await _config(talk)
        check([repo.id for repo in config.repos] == ["conf-a"], f"repos {[repo.id for repo in config.repos]}")
        check(
            [plan.id for plan in config.plans] == ["conf-a1"], f"plans {[plan.id for plan in config.plans]}"
        )


@client("config/41", "passwords and secret environment values in the view are masked", "8", ours=True, needs=("fixture",),
        grants=(VIEW,))  # fmt: skip
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await _config(talk)
        check("conf-a" in {repo.id for repo in config.repos}, "the repo is not in the view")
        check(FIXTURE_PASSWORD.encode() not in config.SerializeToString(), "the password is in the view")


@client(
    "config/42",
    "READ_WRITE_CONFIG shows them too, and masked as well",
    "8",
    ours=True,
    needs=("fixture",),
    grants=(WRITE,),
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await _config(talk)
        check("conf-a" in {repo.id for repo in config.repos}, "the repo is not in the view")
        check(FIXTURE_PASSWORD.encode() not in config.SerializeToString(), "the password is in the view")


@client("config/43", "READ_OPERATIONS alone shows ids and guids as resources, and no configuration", "5", needs=("fixture",),
        grants=("read-operations=*",))  # fmt: skip
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await _config(talk)
        check(not config.repos and not config.plans, "the view shows repos or plans")
        resources = await talk.expect("receive_resources", skip=())
        guids = {repo.id: repo.guid for repo in resources.repos}
        check(guids.get("conf-a") == fixture_guid("conf-a"), f"resources {guids}")
        check("conf-a1" in {plan.id for plan in resources.plans}, "a plan is missing in the resources")


async def _config(talk: AsHub) -> Config:
    config: Config = (
        await talk.expect(
            "receive_config",
            skip=("receive_resources", "operation_manifest", "heartbeat", "receive_operations"),
        )
    ).config
    return config


@asynccontextmanager
async def _watching(seat: Seat) -> AsyncIterator[AsHub]:
    """An established session in which all that the client said so far has been read, and nobody else changes its
    configuration."""
    async with seat.established() as talk:
        await talk.expect("operation_manifest")
        async with seat.lab.alone:
            await talk.fence()
            yield talk


def _repo(tag: str, **changes: object) -> Repo:
    fields = {
        "id": f"conf-{tag}",
        "uri": f"/nonexistent/conf-{tag}",
        "guid": uuid.uuid4().hex * 2,
        "password": "pushed",
    }
    return Repo(**(fields | {"shared": True} | changes))  # type: ignore[arg-type]


def _has(guid: str) -> View:
    return lambda config: _find(config, guid) is not None


def _find(config: Config, guid: str) -> Repo | None:
    return next((repo for repo in config.repos if repo.guid == guid), None)


View = Callable[[Config], object]


async def _push(talk: AsHub, message: Set, done: View, what: str) -> Config:
    """Push; the first view of the client's configuration in which ``done`` holds.

    Views come with every change, also when another seat's pairing clears its secret: an older one may come first.
    """
    await talk.send("set_config", message)
    async with patience(talk.seconds, f"a view of the client's configuration: {what}"):
        while not done(config := await _config(talk)):
            pass
    return config


async def _after(talk: AsHub, message: Set) -> Config | None:
    """Push what should change nothing; the client's last view that came before the fence behind it, if any.

    The view of a change may come after the fence: who wants to be certain looks again in a new session.
    """
    talk.views.clear()
    await talk.send("set_config", message)
    await talk.fence()
    return talk.views[-1] if talk.views else None


def _pushed(id: str, what: str, tag: str, wanted: Callable[[Seat, Repo], object], *, grants: tuple[str, ...] = (VIEW, SHARED),
            ours: bool = False, **changes: object) -> None:  # fmt: skip
    """A repo that is new at the client is pushed, and must be there as ``wanted`` says."""

    async def run(seat: Seat) -> None:
        repo = _repo(tag, **changes)
        async with _watching(seat) as talk:
            config = await _push(talk, Set(repos=[repo]), _has(repo.guid), "the repo in it")
            found = _find(config, repo.guid)
            assert found is not None
            check(wanted(seat, found), f"it became {_show(found)}")

    case(id, Role.CLIENT, what, "8", run, grants=grants, ours=ours)


def _show(repo: Repo) -> str:
    shown = Repo()
    shown.CopyFrom(repo)
    shown.ClearField("password")
    return " ".join(str(shown).split())


def _from_us(seat: Seat, repo: Repo) -> bool:
    return repo.origin_instance_id == seat.instance_id


_pushed("config/45", "a shared repo is taken, with this hub as its origin", "s1", _from_us)
_pushed("config/46", "a shared repo that claims another origin gets this hub as its origin", "s2", _from_us,
        origin_instance_id="somebody-else", ours=True)  # fmt: skip
_pushed("config/47", "a shared repo is taken without its hooks", "s3", lambda seat, repo: not repo.hooks, ours=True,
        hooks=[wire.config.Hook(action_command=wire.config.Hook.Command(command="touch /tmp/conformance-ran-a-hook"))])  # fmt: skip
_pushed("config/48", "a shared repo is taken without its command prefix", "s4",
        lambda seat, repo: not repo.HasField("command_prefix"), ours=True,
        command_prefix=wire.config.CommandPrefix(io_nice=wire.config.CommandPrefix.IO_IDLE))  # fmt: skip
_pushed("config/49", "a shared repo is taken without *_COMMAND environment", "s5",
        lambda seat, repo: not any("COMMAND" in entry for entry in repo.env), ours=True,
        env=["RESTIC_PASSWORD_COMMAND=touch /tmp/conformance-ran-a-command", "AWS_REGION=x"])  # fmt: skip
_pushed("config/50", "a shared repo is taken without flags that name programs", "s6",
        lambda seat, repo: not any("command" in flag or "program" in flag for flag in repo.flags), ours=True,
        flags=["--password-command", "-o sftp.command=touch", "--option=rclone.program=touch"])  # fmt: skip
_pushed("config/51", "with READ_WRITE_CONFIG the hooks of a pushed repo are kept", "s7",
        lambda seat, repo: len(repo.hooks) == 1, ours=True, grants=(WRITE, SHARED),
        hooks=[wire.config.Hook(action_webhook=wire.config.Hook.Webhook(webhook_url="http://127.0.0.1:1/"))])  # fmt: skip


def _skipped(id: str, what: str, message: Callable[[Seat], Set], unchanged: View, *,
             grants: tuple[str, ...], ours: bool = True, fixture: bool = False, section: str = "8") -> None:  # fmt: skip
    """A push that must change nothing, and must not end the session."""

    async def run(seat: Seat) -> None:
        async with _watching(seat) as talk:
            config = await _after(talk, message(seat))
            check(config is None or unchanged(config), "it was applied")
            await talk.fence()
        async with seat.established() as talk:  # and in the next session it still is not
            check(unchanged(await _config(talk)), "it was applied")

    needs = ("fixture",) if fixture else ()
    case(id, Role.CLIENT, what, section, run, grants=grants, ours=ours, needs=needs)


def _no_repo(id: str) -> View:
    return lambda config: id not in {repo.id for repo in config.repos}


def _no_plan(id: str) -> View:
    return lambda config: id not in {plan.id for plan in config.plans}


def _has_plan(id: str) -> View:
    return lambda config: id in {plan.id for plan in config.plans}


def _intact(id: str) -> View:
    """The fixture's repo is as it was."""

    def holds(config: Config) -> bool:
        repo = _find(config, fixture_guid(id))
        return repo is not None and (repo.id, repo.uri, repo.origin_instance_id) == (
            id,
            f"/nonexistent/{id}",
            "",
        )

    return holds


def _plan(id: str, repo: str) -> Plan:
    return Plan(id=id, repo=repo, paths=["/conformance"], schedule=wire.config.Schedule(disabled=True))


_skipped("config/55", "a shared repo without RECEIVE_SHARED_REPOS is skipped, and the session goes on",
         lambda seat: Set(repos=[_repo("x1")]), _no_repo("conf-x1"), grants=(VIEW,))  # fmt: skip
_skipped("config/56", "a shared repo without a guid is skipped, and the session goes on",
         lambda seat: Set(repos=[_repo("x2", guid="")]), _no_repo("conf-x2"), grants=(VIEW, SHARED))  # fmt: skip
_skipped("config/57", "a shared repo with the guid of a local one is skipped",
         lambda seat: Set(repos=[_repo("x3", guid=fixture_guid("conf-a"))]), _intact("conf-a"),
         grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/58", "a shared repo with the guid of a local one is skipped, whatever origin it claims",
         lambda seat: Set(repos=[_repo("x4", guid=fixture_guid("conf-a"), origin_instance_id=seat.instance_id)]),
         _intact("conf-a"), grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/59", "a shared repo with the id of a local one is skipped",
         lambda seat: Set(repos=[_repo("x5", id="conf-a")]), _intact("conf-a"), grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/60", "a shared repo with the URI of a local one is skipped",
         lambda seat: Set(repos=[_repo("x6", uri="/nonexistent/conf-a")]), _no_repo("conf-x6"),
         grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/61", "a plan without READ_WRITE_CONFIG is skipped, and the session goes on",
         lambda seat: Set(plans=[_plan("conf-x7", "conf-a")]), _no_plan("conf-x7"), grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/62", "deleting a plan without READ_WRITE_CONFIG is skipped",
         lambda seat: Set(plans_to_delete=["conf-a1"]), _has_plan("conf-a1"),
         grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/63", "deleting a repo without READ_WRITE_CONFIG is skipped",
         lambda seat: Set(repos_to_delete=["conf-b"]), _intact("conf-b"), grants=(VIEW, SHARED), fixture=True)  # fmt: skip
_skipped("config/64", "a plan on a repo out of the scope of READ_WRITE_CONFIG is skipped",
         lambda seat: Set(plans=[_plan("conf-x8", "conf-b")]), _no_plan("conf-x8"),
         grants=("read-write-config=repo:conf-a,plan:conf-x8,!repo:conf-b", VIEW), fixture=True)  # fmt: skip
_skipped("config/65", "a hub limited to one repo cannot move another repo's plan into it",
         lambda seat: Set(plans=[_plan("conf-b1", "conf-a")]),
         lambda config: any(plan.id == "conf-b1" and plan.repo == "conf-b" for plan in config.plans),
         grants=("read-write-config=repo:conf-a,plan:conf-b1,!repo:conf-b", VIEW), fixture=True)  # fmt: skip
_skipped("config/66", "a hub limited to one repo cannot overwrite another one by its guid",
         lambda seat: Set(repos=[_repo("x", id="conf-a", guid=fixture_guid("conf-b"), uri="/evil")]), _intact("conf-b"),
         grants=("read-write-config=repo:conf-a", VIEW), fixture=True)  # fmt: skip
_skipped("config/67", "a plan on a repo that does not exist is not applied (the result would be invalid)",
         lambda seat: Set(plans=[_plan("conf-x9", "nowhere")]), _no_plan("conf-x9"), grants=(WRITE,))  # fmt: skip
_skipped("config/68", "an excluded plan cannot be deleted under read-write-config=*",
         lambda seat: Set(plans_to_delete=["conf-a1"]), _has_plan("conf-a1"),
         grants=("read-write-config=*,!plan:conf-a1", VIEW), fixture=True)  # fmt: skip


@client(
    "config/70",
    "the same shared repo again changes nothing: modno stays",
    "8",
    ours=True,
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    async with _watching(seat) as talk:
        push = Set(repos=[_repo("again")])
        first = await _push(talk, push, _has(push.repos[0].guid), "the repo in it")
        again = await _after(talk, push)
        # A pairing that another seat completes at this moment is a change too; a second look tells them apart.
        if again is not None and again.modno != first.modno:
            once_more = await _after(talk, push)
            check(
                once_more is None or once_more.modno == again.modno,
                f"modno {first.modno}, {again.modno} and on",
            )


@client("config/71", "the good item beside a refused one is applied", "8", ours=True, grants=(VIEW, SHARED))
async def _(seat: Seat) -> None:
    async with _watching(seat) as talk:
        good, bad = _repo("good"), _repo("bad", guid="")
        push = Set(repos=[bad, good], plans=[_plan("conf-x10", "conf-good")])
        config = await _push(talk, push, _has(good.guid), "the good repo in it")
        check(_no_repo("conf-bad")(config) and _no_plan("conf-x10")(config), "a refused item was applied")


@client(
    "config/72",
    "READ_WRITE_CONFIG: a plan is added, changed, deleted",
    "8",
    needs=("fixture",),
    grants=(WRITE,),
)
async def _(seat: Seat) -> None:
    async with _watching(seat) as talk:
        await _push(talk, Set(plans=[_plan("conf-w1", "conf-a")]), _has_plan("conf-w1"), "the plan in it")
        changed = _plan("conf-w1", "conf-a")
        changed.paths.append("/more")

        def more(config: Config) -> bool:
            return any(plan.id == "conf-w1" and "/more" in plan.paths for plan in config.plans)

        await _push(talk, Set(plans=[changed]), more, "the changed plan in it")
        await _push(talk, Set(plans_to_delete=["conf-w1"]), _no_plan("conf-w1"), "the plan gone")


@client(
    "config/73", "a shared repo that changes at its hub changes at the client", "8", grants=(VIEW, SHARED)
)
async def _(seat: Seat) -> None:
    async with _watching(seat) as talk:
        repo = _repo("moves")
        await _push(talk, Set(repos=[repo]), _has(repo.guid), "the repo in it")
        repo.uri = "/nonexistent/conf-moved"

        def moved(config: Config) -> bool:
            return any(one.guid == repo.guid and one.uri == repo.uri for one in config.repos)

        await _push(talk, Set(repos=[repo]), moved, "the change in it")


@client("config/74", "a hub cannot take over a repo that another hub shares", "8", ours=True, needs=("pair",),
        grants=(VIEW, SHARED))  # fmt: skip
async def _(seat: Seat) -> None:
    other = seat.partner
    async with _watching(other) as talk:
        repo = _repo("theirs")
        await _push(talk, Set(repos=[repo]), _has(repo.guid), "the repo in it")
    async with _watching(seat) as talk:
        evil = Repo()
        evil.CopyFrom(repo)
        evil.uri = "/evil"
        await _after(talk, Set(repos=[evil]))
    async with seat.established() as talk:
        found = _find(await _config(talk), repo.guid)
        check(found is not None and found.uri == repo.uri, "it was taken over")


@client(
    "config/75",
    "a masked view that comes back as set_config changes nothing",
    "8",
    ours=True,
    needs=("fixture",),
    grants=(WRITE,),
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        await talk.expect("operation_manifest")
        async with seat.lab.alone:
            push = Set(plans=[_plan("conf-w2", "conf-a")])
            view = await _push(talk, push, _has_plan("conf-w2"), "the plan in it")
            mine = [repo for repo in view.repos if repo.id == "conf-a"]
            back = Set(repos=mine, plans=[plan for plan in view.plans if plan.id == "conf-a1"])
            after = await _after(talk, back)
            if after is not None and after.modno != view.modno:  # another seat's pairing, perhaps: once more
                again = await _after(talk, back)
                check(again is None or again.modno == after.modno, "the mask was written as a password")
            await _push(talk, Set(plans_to_delete=["conf-w2"]), _no_plan("conf-w2"), "the plan gone")


@client("config/76", "deleting what is not there does no harm", "8", grants=(WRITE,))
async def _(seat: Seat) -> None:
    async with _watching(seat) as talk:
        await _after(talk, Set(plans_to_delete=["never-was"], repos_to_delete=["never-was"]))
        await talk.fence()

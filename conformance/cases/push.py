"""A client's set_config at the hub: PROTOCOL.md sections 7 to 9.

The hub's configuration is the fixture's (fixtures.py). What became of a push shows in the next view of a client that
may see everything. These cases change the hub's configuration: each runs alone, and leaves it as it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from backrest import wire
from conformance.hublab import HubLab, Member
from conformance.model import Role, Run, case, check, hub
from conformance.outcome import announced, extended, outcome
from conformance.peer import AsClient, Item, patience
from conformance.seats import FIXTURE_PASSWORD, fixture_guid

Repo = wire.config.Repo
Plan = wire.config.Plan
Set = Item.SyncActionSetConfig
Config = wire.sync.RemoteConfig
View = Callable[[Config], object]


def _pushing(id: str, sentence: str, section: str = "8", *needs: str) -> Callable[[Run], Run]:
    """Register a case of a client that pushes: it runs alone. The reference takes no set_config."""
    return hub(id, sentence, section, ours=True, serial=True, needs=("fixture", *needs))


@asynccontextmanager
async def _writer(lab: HubLab) -> AsyncIterator[AsClient]:
    """A client that may change everything, its hello said: the first view is on its way."""
    member = await lab.member("write")
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        yield talk


async def _look(lab: HubLab, spy: Member) -> Config:
    async with lab.keyed() as talk:
        await talk.hello(spy.identity, spy.instance_id)
        config: Config = (await talk.expect("receive_config", skip=())).config
        return config


def _refused(id: str, token: str, what: str, message: Set, unchanged: View) -> None:
    """What is not allowed changes nothing, whatever becomes of the session."""

    async def run(lab: HubLab) -> None:
        spy, member = await lab.member("write"), await lab.member(token)
        before = await _look(lab, spy)
        async with lab.session(member) as talk:
            await talk.send("set_config", message)
            await talk.send("throttle")  # ends the session: all before it has been dealt with
            await talk.expect_end("invalid_argument")
        after = await _look(lab, spy)
        check(unchanged(after), "it was applied")
        check(
            after.modno == before.modno, f"the configuration was written: modno {before.modno}, {after.modno}"
        )

    sentence = f"{what} from a client with {token!r} permissions changes nothing"
    case(id, Role.HUB, sentence, "8", run, ours=True, serial=True, needs=("fixture", "write", token))


def _plan(id: str, repo: str, path: str = "/conformance") -> Plan:
    return Plan(id=id, repo=repo, paths=[path], schedule=wire.config.Schedule(disabled=True))


def _no_plan(id: str) -> View:
    return lambda config: id not in {plan.id for plan in config.plans}


def _with_plan(id: str) -> View:
    return lambda config: id in {plan.id for plan in config.plans}


def _with_repo(id: str, uri: str) -> View:
    return lambda config: any(repo.id == id and repo.uri == uri for repo in config.repos)


_NEW = Set(plans=[_plan("conf-new", "conf-a")])
_refused("config/10", "main", "a new plan", _NEW, _no_plan("conf-new"))
_refused("config/11", "view", "a new plan", _NEW, _no_plan("conf-new"))
_refused("config/12", "main", "deleting a plan", Set(plans_to_delete=["conf-a1"]), _with_plan("conf-a1"))
_refused(
    "config/13",
    "part",
    "a plan on a repo out of scope",
    Set(plans=[_plan("conf-good", "conf-b")]),
    _no_plan("conf-good"),
)
_refused(
    "config/14",
    "part",
    "moving a plan of a repo out of scope",
    Set(plans=[_plan("conf-b1", "conf-a")]),
    lambda config: any(plan.id == "conf-b1" and plan.repo == "conf-b" for plan in config.plans),
)
_refused(
    "config/15",
    "part",
    "overwriting repo conf-b by its guid under a name in scope",
    Set(repos=[Repo(id="conf-x", guid=fixture_guid("conf-b"), uri="/evil", password="x")]),
    _with_repo("conf-b", "/nonexistent/conf-b"),
)
_refused(
    "config/16",
    "write",
    "a repo without a guid",
    Set(repos=[Repo(id="conf-z", uri="/z", password="x")]),
    lambda config: "conf-z" not in {repo.id for repo in config.repos},
)
_refused(
    "config/17",
    "write",
    "a plan on a repo that does not exist",
    Set(plans=[_plan("conf-new", "nowhere")]),
    _no_plan("conf-new"),
)
_refused(
    "config/18",
    "part",
    "deleting a repo out of scope",
    Set(repos_to_delete=["conf-c"]),
    _with_repo("conf-c", "/nonexistent/conf-c"),
)


_refused(
    "config/19",
    "guarded",
    "deleting an excluded plan",
    Set(plans_to_delete=["conf-a1"]),
    _with_plan("conf-a1"),
)
_refused(
    "config/24",
    "guarded",
    "deleting an excluded repo",
    Set(repos_to_delete=["conf-c"]),
    _with_repo("conf-c", "/nonexistent/conf-c"),
)
_refused(
    "config/25",
    "guarded",
    "changing an excluded plan",
    Set(plans=[_plan("conf-a1", "conf-a", "/evil")]),
    lambda config: all("/evil" not in plan.paths for plan in config.plans),
)
_refused(
    "config/26",
    "guarded",
    "a plan on an excluded repo",
    Set(plans=[_plan("conf-new", "conf-c")]),
    _no_plan("conf-new"),
)
_refused(
    "config/27",
    "write",
    "deleting a repo that a plan uses",
    Set(repos_to_delete=["conf-a"]),
    _with_repo("conf-a", "/nonexistent/conf-a"),
)


@_pushing("config/28", "a repo and a plan on it come in one push, and go in one push", "8", "write")
async def _(lab: HubLab) -> None:
    repo = Repo(id="conf-new", guid="dd" * 32, uri="/nonexistent/conf-new", password="x")
    async with _writer(lab) as talk:
        await lab.config(talk)
        await talk.send("set_config", Set(repos=[repo], plans=[_plan("conf-new", "conf-new")]))
        config = await lab.config(talk)
        check(_with_plan("conf-new")(config), "the plan is not there")
        check(_with_repo("conf-new", repo.uri)(config), "the repo is not there")
        await talk.send("set_config", Set(repos_to_delete=["conf-new"], plans_to_delete=["conf-new"]))
        config = await lab.config(talk)
        check(_no_plan("conf-new")(config), "the plan is still there")
        check("conf-new" not in {one.id for one in config.repos}, "the repo is still there")


async def _answer(lab: HubLab, talk: AsClient, push: Set, number: int) -> tuple[Any, list[str]]:
    """Push; the receive_config that says what became of it."""
    await talk.send("set_config", push)
    async with patience(talk.seconds, "a view that says what became of the push"):
        while not outcome(received := await talk.expect("receive_config"))[0]:
            pass
    taken, refused = outcome(received)
    check(taken == number, f"it counts {taken} set_configs, not {number}")
    return received.config, refused


@_pushing(
    "config/29",
    "a client that announced push-outcome/1 hears how many pushes were taken, and what the last one did not do",
    "9",
    "write",
)
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    async with lab.dial() as talk:
        await talk.exchange()
        check(announced(await talk.hub_hello()), "the hub does not announce push-outcome/1")
        await talk.hello(member.identity, member.instance_id, announcing=True)
        _, refused = await _answer(lab, talk, Set(plans=[_plan("conf-told", "conf-a")]), 1)
        check(not refused, f"refused: {refused}")
        bad = Set(plans=[_plan("conf-told", "nowhere")])
        config, refused = await _answer(lab, talk, bad, 2)
        check(len(refused) == 1 and "conf-told" in refused[0], f"refused: {refused}")
        check(_with_plan("conf-told")(config), "the plan of the first push is not there")
        _, refused = await _answer(lab, talk, Set(plans_to_delete=["conf-told"]), 3)
        check(not refused, f"refused: {refused}")


@_pushing(
    "config/30",
    "a client without READ_WRITE_CONFIG that announced push-outcome/1 hears that nothing was applied",
    "9",
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id, announcing=True)
        _, refused = await _answer(lab, talk, Set(plans_to_delete=["conf-a1"]), 1)
        check(len(refused) == 1, f"refused: {refused}")
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")


@_pushing(
    "config/31",
    "a client that announced nothing gets no field that the schema does not know",
    "9",
    "write",
)
async def _(lab: HubLab) -> None:
    async with _writer(lab) as talk:
        check(not extended(await talk.expect("receive_config", skip=())), "unknown fields in the first view")
        await talk.send(
            "set_config", Set(plans_to_delete=["conf-never-was"], plans=[_plan("conf-x", "conf-a")])
        )
        check(not extended(await talk.expect("receive_config")), "unknown fields after a push")
        await talk.send("set_config", Set(plans_to_delete=["conf-x"]))
        check(not extended(await talk.expect("receive_config")), "unknown fields after a push")


@_pushing(
    "config/20",
    "READ_WRITE_CONFIG: a plan is added, changed and deleted, modno rising by one each time",
    "8",
    "write",
)
async def _(lab: HubLab) -> None:
    async with _writer(lab) as talk:
        modno = (await lab.config(talk)).modno
        steps: tuple[tuple[Set, View], ...] = (
            (_NEW, _with_plan("conf-new")),
            (
                Set(plans=[_plan("conf-new", "conf-a", "/other")]),
                lambda config: any(list(plan.paths) == ["/other"] for plan in config.plans),
            ),
            (Set(plans_to_delete=["conf-new"]), _no_plan("conf-new")),
        )
        for message, done in steps:
            await talk.send("set_config", message)
            config = await lab.config(talk)
            modno += 1
            check(config.modno == modno, f"modno {config.modno} instead of {modno}")
            check(done(config), "it does not show in the view")


@_pushing("config/21", "a set_config that changes nothing writes nothing: modno stays", "8", "write")
async def _(lab: HubLab) -> None:
    member = await lab.member("write")  # it looks again at the end: another one's pairing would be a change
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        before = await lab.config(talk)
        # masks included: "unchanged"
        await talk.send("set_config", Set(plans=before.plans, repos=before.repos))
        await talk.send("set_config", Set(plans_to_delete=["never-was"], repos_to_delete=["never-was"]))
        await lab.fence(talk, {})
    after = await _look(lab, member)
    check(after.modno == before.modno, f"modno {after.modno} after {before.modno}")


@_pushing(
    "config/22",
    "each item is judged on its own: the good one beside a bad one is applied",
    "8",
    "part",
    "write",
)
async def _(lab: HubLab) -> None:
    member, spy = await lab.member("part"), await lab.member("write")
    async with lab.session(member) as talk:
        plans = [_plan("conf-bad", "conf-b"), _plan("conf-good", "conf-a")]
        nameless = Repo(id="conf-x", uri="/nonexistent/conf-x", password="x")
        await talk.send("set_config", Set(plans=plans, repos=[nameless]))
        await lab.config(talk)
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")
    after = await _look(lab, spy)
    check(_with_plan("conf-good")(after), "the allowed plan is missing")
    check(_no_plan("conf-bad")(after), "the refused plan was added")
    async with lab.session(member) as talk:
        await talk.send("set_config", Set(plans_to_delete=["conf-good"]))
        await lab.config(talk)


@_pushing("config/23", "a mask that comes back in set_config leaves the secret as it was", "8", "write")
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    async with lab.let_in(member) as (talk, config):
        _, shared = await lab.first_items(talk)
        repo = next(repo for repo in config.repos if repo.id == "conf-a")
        for unlock in (True, False):
            repo.auto_unlock = unlock
            await talk.send("set_config", Set(repos=[repo]))
            pushed = await talk.expect("set_config")
            check(pushed.repos[0].auto_unlock is unlock, "the change was not applied")
            check(pushed.repos[0].password == FIXTURE_PASSWORD, "the password was replaced by its mask")
        check(bool(shared), "no shared repo was pushed at the beginning")

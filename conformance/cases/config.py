"""Configuration, the program as the hub: what a client sees, is given and may change. PROTOCOL.md sections 5, 7, 8.

The hub's configuration is the fixture's (fixtures.py): repos conf-a (shared) and conf-b, plans conf-a1, conf-a2 and
conf-b1. The tokens carry different permissions; a case with a client of each shows what it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backrest import wire
from conformance.framing import End
from conformance.hublab import HubLab, Member
from conformance.model import Role, case, check, hub
from conformance.outcome import announced, extended, outcome
from conformance.peer import PUSHED, AsClient, Item, kind_of, patience
from conformance.seats import FIXTURE_PASSWORD, fixture_guid

Repo = wire.config.Repo
Plan = wire.config.Plan
Set = Item.SyncActionSetConfig


async def _hello(talk: AsClient, member: Member) -> tuple[wire.sync.RemoteConfig, Any, list[Repo]]:
    """The hub's first items: the view, the resources, the shared repos. A manifest's answer ends what comes first."""
    await talk.hello(member.identity, member.instance_id)
    config = (await talk.expect("receive_config", skip=())).config
    resources = await talk.expect("receive_resources", skip=())
    await talk.send("operation_manifest", Item.SyncActionOperationManifest(op_ids=[1], modnos=[1]))
    shared: list[Repo] = []
    async with patience(talk.seconds, "an answer to a manifest"):
        while (kind := kind_of(received := await talk.next())) != "request_operation_data":
            check(not isinstance(received, End) and kind in PUSHED, f"came {kind}")
            if isinstance(received, Item) and kind == "set_config":
                shared = list(received.set_config.repos)
    return config, resources, shared


async def _view(lab: HubLab, token: str) -> tuple[wire.sync.RemoteConfig, Any, list[Repo]]:
    member = await lab.member(token)
    async with lab.keyed() as talk:
        return await _hello(talk, member)


@hub("config/1", "without READ_CONFIG a client's view of repos and plans is empty", "5", needs=("fixture",))
async def _(lab: HubLab) -> None:
    config, resources, _ = await _view(lab, "main")
    check(not config.repos and not config.plans, "the view shows repos or plans")
    check(not resources.repos and not resources.plans, "the resources show repos or plans")


@hub(
    "config/2",
    "READ_CONFIG shows the repos and plans in its scopes and no others",
    "7",
    needs=("fixture", "view"),
)
async def _(lab: HubLab) -> None:
    config, resources, _ = await _view(lab, "view")
    check([repo.id for repo in config.repos] == ["conf-a"], f"repos {[repo.id for repo in config.repos]}")
    check([plan.id for plan in config.plans] == ["conf-a1"], f"plans {[plan.id for plan in config.plans]}")
    check(
        [(r.id, r.guid) for r in resources.repos] == [("conf-a", fixture_guid("conf-a"))], "resources: repos"
    )
    check([plan.id for plan in resources.plans] == ["conf-a1"], "resources: plans")


@hub(
    "config/3",
    "passwords and secret environment values in a READ_CONFIG view are masked",
    "8",
    ours=True,
    needs=("fixture", "view"),
)
async def _(lab: HubLab) -> None:
    config, _, _ = await _view(lab, "view")
    check(FIXTURE_PASSWORD.encode() not in config.SerializeToString(), "the password is in the view")


@hub(
    "config/4",
    "a READ_WRITE_CONFIG view shows everything in scope, masked",
    "8",
    ours=True,
    needs=("fixture", "write"),
)
async def _(lab: HubLab) -> None:
    config, _, _ = await _view(lab, "write")
    check({"conf-a", "conf-b"} <= {repo.id for repo in config.repos}, "a repo is missing")
    check({"conf-a1", "conf-a2", "conf-b1"} <= {plan.id for plan in config.plans}, "a plan is missing")
    check(FIXTURE_PASSWORD.encode() not in config.SerializeToString(), "the password is in the view")


@hub(
    "config/5",
    "the shared repo is pushed, with its secrets, its guid, and the hub as its origin; others are not",
    "5",
    needs=("fixture",),
)
async def _(lab: HubLab) -> None:
    _, _, shared = await _view(lab, "main")
    check([repo.id for repo in shared] == ["conf-a"], f"pushed: {[repo.id for repo in shared]}")
    check(shared[0].guid == fixture_guid("conf-a"), "another guid")
    check(shared[0].password == FIXTURE_PASSWORD, "no password: nobody could use it")
    check(shared[0].origin_instance_id == lab.token().instance_id, f"origin {shared[0].origin_instance_id!r}")


@hub(
    "config/6",
    "no set_config is sent to a client without RECEIVE_SHARED_REPOS",
    "5",
    needs=("fixture", "scoped"),
)
async def _(lab: HubLab) -> None:
    _, _, shared = await _view(lab, "scoped")
    check(not shared, f"pushed: {[repo.id for repo in shared]}")


@hub(
    "config/7",
    "a shared repo outside the scope of RECEIVE_SHARED_REPOS is not pushed",
    "7",
    needs=("fixture", "unshared"),
)
async def _(lab: HubLab) -> None:
    _, _, shared = await _view(lab, "unshared")
    check(not shared, f"pushed: {[repo.id for repo in shared]}")


# --- set_config from the client. What became of it shows in the next view of a client that may see everything.

Change = Callable[[AsClient], Any]


async def _look(lab: HubLab, spy: Member) -> wire.sync.RemoteConfig:
    async with lab.keyed() as talk:
        await talk.hello(spy.identity, spy.instance_id)
        config: wire.sync.RemoteConfig = (await talk.expect("receive_config", skip=())).config
        return config


def _refused(
    id: str, token: str, what: str, message: Set, unchanged: Callable[[wire.sync.RemoteConfig], object]
) -> None:
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


def _no_plan(id: str) -> Callable[[wire.sync.RemoteConfig], object]:
    return lambda config: id not in {plan.id for plan in config.plans}


def _with_plan(id: str) -> Callable[[wire.sync.RemoteConfig], object]:
    return lambda config: id in {plan.id for plan in config.plans}


def _with_repo(id: str, uri: str) -> Callable[[wire.sync.RemoteConfig], object]:
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


@hub(
    "config/28",
    "a repo and a plan on it come in one push, and go in one push",
    "8",
    ours=True,
    serial=True,
    needs=("fixture", "write"),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    repo = Repo(id="conf-new", guid="dd" * 32, uri="/nonexistent/conf-new", password="x")
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
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


@hub(
    "config/29",
    "a client that announced push-outcome/1 hears how many pushes were taken, and what the last one did not do",
    "9",
    ours=True,
    serial=True,
    needs=("fixture", "write"),
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


@hub(
    "config/30",
    "a client without READ_WRITE_CONFIG that announced push-outcome/1 hears that nothing was applied",
    "9",
    ours=True,
    serial=True,
    needs=("fixture",),
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id, announcing=True)
        _, refused = await _answer(lab, talk, Set(plans_to_delete=["conf-a1"]), 1)
        check(len(refused) == 1, f"refused: {refused}")
        check(await lab.fence(talk, {1: 1}) == [1], "the session does not go on")


@hub(
    "config/31",
    "a client that announced nothing gets no field that the schema does not know",
    "9",
    serial=True,
    needs=("fixture", "write"),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        check(not extended(await talk.expect("receive_config", skip=())), "unknown fields in the first view")
        await talk.send(
            "set_config", Set(plans_to_delete=["conf-never-was"], plans=[_plan("conf-x", "conf-a")])
        )
        check(not extended(await talk.expect("receive_config")), "unknown fields after a push")
        await talk.send("set_config", Set(plans_to_delete=["conf-x"]))
        check(not extended(await talk.expect("receive_config")), "unknown fields after a push")


@hub(
    "config/20",
    "READ_WRITE_CONFIG: a plan is added, changed and deleted, modno rising by one each time",
    "8",
    ours=True,
    serial=True,
    needs=("fixture", "write"),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        modno = (await lab.config(talk)).modno
        steps: tuple[tuple[Set, Callable[[wire.sync.RemoteConfig], object]], ...] = (
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


@hub(
    "config/21",
    "a set_config that changes nothing writes nothing: modno stays",
    "8",
    ours=True,
    serial=True,
    needs=("fixture", "write"),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    async with lab.keyed() as talk:
        await talk.hello(member.identity, member.instance_id)
        before = await lab.config(talk)
        await talk.send(
            "set_config", Set(plans=before.plans, repos=before.repos)
        )  # masks included: "unchanged"
        await talk.send("set_config", Set(plans_to_delete=["never-was"], repos_to_delete=["never-was"]))
        await lab.fence(talk, {})
    after = await _look(lab, member)
    check(after.modno == before.modno, f"modno {after.modno} after {before.modno}")


@hub(
    "config/22",
    "each item is judged on its own: the good one beside a bad one is applied",
    "8",
    ours=True,
    serial=True,
    needs=("fixture", "part", "write"),
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


@hub(
    "config/23",
    "a mask that comes back in set_config leaves the secret as it was",
    "8",
    ours=True,
    serial=True,
    needs=("fixture", "write"),
)
async def _(lab: HubLab) -> None:
    member = await lab.member("write")
    async with lab.keyed() as talk:
        config, _, shared = await _hello(talk, member)
        repo = next(repo for repo in config.repos if repo.id == "conf-a")
        for unlock in (True, False):
            repo.auto_unlock = unlock
            await talk.send("set_config", Set(repos=[repo]))
            pushed = await talk.expect("set_config")
            check(pushed.repos[0].auto_unlock is unlock, "the change was not applied")
            check(pushed.repos[0].password == FIXTURE_PASSWORD, "the password was replaced by its mask")
        check(bool(shared), "no shared repo was pushed at the beginning")

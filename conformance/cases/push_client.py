"""A hub's set_config at the client: PROTOCOL.md section 8, and the scopes of section 7.

These cases change the client's configuration, so only one runs at a time. Most leave a repo behind that nothing
uses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from backrest import wire
from conformance.model import Role, case, check, client
from conformance.outcome import announce, announced, extended, outcome
from conformance.peer import patience
from conformance.pushes import (
    BESIDE_VIEWS,
    SHARED,
    VIEW,
    WRITE,
    Config,
    Repo,
    Set,
    Watch,
    a_plan,
    a_repo,
    config_of,
    find,
    has_plan,
    has_repo,
    no_plan,
    no_repo,
    pushed_in_vain,
    watching,
    writes_nothing,
)
from conformance.seats import Seat, fixture_guid


def _pushed(
    id: str,
    what: str,
    tag: str,
    wanted: Callable[[Seat, Repo], object],
    *,
    grants: tuple[str, ...] = (VIEW, SHARED),
    ours: bool = False,
    **changes: object,
) -> None:
    """A repo that is new at the client is pushed, and must be there as ``wanted`` says."""

    async def run(seat: Seat) -> None:
        origin = {} if ours else {"origin_instance_id": seat.instance_id}  # the reference takes no other
        repo = a_repo(tag, **(origin | changes))
        async with watching(seat) as watch:
            config = await watch.pushed(Set(repos=[repo]), has_repo(repo.guid), "the repo in it")
            found = find(config, repo.guid)
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
_pushed(
    "config/46",
    "a shared repo that claims another origin gets this hub as its origin",
    "s2",
    _from_us,
    origin_instance_id="somebody-else",
    ours=True,
)
_pushed(
    "config/47",
    "a shared repo is taken without its hooks",
    "s3",
    lambda seat, repo: not repo.hooks,
    ours=True,
    hooks=[
        wire.config.Hook(action_command=wire.config.Hook.Command(command="touch /tmp/conformance-ran-a-hook"))
    ],
)
_pushed(
    "config/48",
    "a shared repo is taken without its command prefix",
    "s4",
    lambda seat, repo: not repo.HasField("command_prefix"),
    ours=True,
    command_prefix=wire.config.CommandPrefix(io_nice=wire.config.CommandPrefix.IO_IDLE),
)
_pushed(
    "config/49",
    "a shared repo is taken without *_COMMAND environment",
    "s5",
    lambda seat, repo: not any("COMMAND" in entry for entry in repo.env),
    ours=True,
    env=["RESTIC_PASSWORD_COMMAND=touch /tmp/conformance-ran-a-command", "AWS_REGION=x"],
)
_pushed(
    "config/50",
    "a shared repo is taken without flags that name programs",
    "s6",
    lambda seat, repo: not any("command" in flag or "program" in flag for flag in repo.flags),
    ours=True,
    flags=["--password-command", "-o sftp.command=touch", "--option=rclone.program=touch"],
)
_pushed(
    "config/51",
    "with READ_WRITE_CONFIG the hooks of a pushed repo are kept",
    "s7",
    lambda seat, repo: len(repo.hooks) == 1,
    ours=True,
    grants=(WRITE, SHARED),
    hooks=[wire.config.Hook(action_webhook=wire.config.Hook.Webhook(webhook_url="http://127.0.0.1:1/"))],
)


_pushed(
    "config/52",
    "with READ_WRITE_CONFIG the hooks of a shared repo are kept, its origin is this hub",
    "s8",
    lambda seat, repo: len(repo.hooks) == 1 and _from_us(seat, repo),
    ours=True,
    grants=(WRITE, SHARED),
    origin_instance_id="whoever",
    hooks=[wire.config.Hook(action_webhook=wire.config.Hook.Webhook(webhook_url="http://127.0.0.1:1/"))],
)


_pushed(
    "config/84",
    "the scopes of RECEIVE_SHARED_REPOS are ignored at a client: a shared repo is taken",
    "s9",
    _from_us,
    grants=(VIEW, "receive-shared-repos=repo:nowhere"),
)


@client(
    "config/78",
    "a repo and a plan on it come in one push, and go in one push",
    "8",
    grants=(WRITE,),
)
async def _(seat: Seat) -> None:
    async with watching(seat) as watch:
        repo = a_repo("both", origin_instance_id=seat.instance_id)
        push = Set(repos=[repo], plans=[a_plan("conf-both", repo.id)])
        config = await watch.pushed(push, has_repo(repo.guid), "the repo in it")
        check(has_plan("conf-both")(config), "the plan is not there")
        push = Set(repos_to_delete=[repo.id], plans_to_delete=["conf-both"])
        config = await watch.pushed(push, no_repo(repo.id), "the repo gone")
        check(no_plan("conf-both")(config), "the plan is still there")


@client(
    "config/85",
    "READ_WRITE_CONFIG: a push for a local repo changes it, and it stays local",
    "8",
    ours=True,
    needs=("fixture",),
    grants=(WRITE, SHARED),
)
async def _(seat: Seat) -> None:
    async with watching(seat) as watch:
        await watch.talk.send("request_resources")  # any view before the change will do
        view = watch.talk.views[-1]
        repo = find(view, fixture_guid("conf-c"))
        check(repo is not None, "the repo is not in the view")
        assert repo is not None
        repo.auto_unlock, repo.origin_instance_id = True, seat.instance_id

        def changed(config: Config) -> bool:
            found = find(config, repo.guid)
            return found is not None and found.auto_unlock

        config = await watch.pushed(Set(repos=[repo]), changed, "the change in it")
        found = find(config, repo.guid)
        check(found is not None and not found.origin_instance_id, "it is not local any more")


@client(
    "config/70",
    "the same shared repo again changes nothing: modno stays",
    "8",
    ours=True,
    serial=True,
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    same = Set(repos=[a_repo("again")])
    async with watching(seat, calm=True) as watch:
        await watch.pushed(same, has_repo(same.repos[0].guid), "the repo in it")
        await writes_nothing(watch, same, "again")


@client("config/71", "the good item beside a refused one is applied", "8", ours=True, grants=(VIEW, SHARED))
async def _(seat: Seat) -> None:
    async with watching(seat) as watch:
        good, bad = a_repo("good"), a_repo("bad", guid="")
        push = Set(repos=[bad, good], plans=[a_plan("conf-x10", "conf-good")])
        config = await watch.pushed(push, has_repo(good.guid), "the good repo in it")
        check(no_repo("conf-bad")(config) and no_plan("conf-x10")(config), "a refused item was applied")


@client(
    "config/72",
    "READ_WRITE_CONFIG: a plan is added, changed, deleted",
    "8",
    needs=("fixture",),
    grants=(WRITE,),
)
async def _(seat: Seat) -> None:
    async with watching(seat) as watch:
        await watch.pushed(Set(plans=[a_plan("conf-w1", "conf-a")]), has_plan("conf-w1"), "the plan in it")
        changed = a_plan("conf-w1", "conf-a")
        changed.paths.append("/more")

        def more(config: Config) -> bool:
            return any(plan.id == "conf-w1" and "/more" in plan.paths for plan in config.plans)

        await watch.pushed(Set(plans=[changed]), more, "the changed plan in it")
        await watch.pushed(Set(plans_to_delete=["conf-w1"]), no_plan("conf-w1"), "the plan gone")


@client(
    "config/73", "a shared repo that changes at its hub changes at the client", "8", grants=(VIEW, SHARED)
)
async def _(seat: Seat) -> None:
    async with watching(seat) as watch:
        repo = a_repo("moves", origin_instance_id=seat.instance_id)
        await watch.pushed(Set(repos=[repo]), has_repo(repo.guid), "the repo in it")
        repo.uri = "/nonexistent/conf-moved"

        def moved(config: Config) -> bool:
            return any(one.guid == repo.guid and one.uri == repo.uri for one in config.repos)

        await watch.pushed(Set(repos=[repo]), moved, "the change in it")


@client(
    "config/74",
    "a hub cannot take over a repo that another hub shares",
    "8",
    ours=True,
    needs=("pair",),
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    other = seat.partner
    async with watching(other) as watch:
        repo = a_repo("theirs")
        await watch.pushed(Set(repos=[repo]), has_repo(repo.guid), "the repo in it")
    async with watching(seat) as watch:
        evil = Repo()
        evil.CopyFrom(repo)
        evil.uri = "/evil"
        await pushed_in_vain(watch.talk, Set(repos=[evil]))
    async with seat.established() as talk:
        found = find(await config_of(talk), repo.guid)
        check(found is not None and found.uri == repo.uri, "it was taken over")


@client(
    "config/75",
    "a masked view that comes back as set_config writes nothing",
    "8",
    ours=True,
    serial=True,
    needs=("fixture",),
    grants=(WRITE, SHARED),
)
async def _(seat: Seat) -> None:
    async with watching(seat, calm=True) as watch:
        view = watch.talk.views[-1]
        back = Set(
            repos=[repo for repo in view.repos if repo.id == "conf-a"],
            plans=[plan for plan in view.plans if plan.id == "conf-a1"],
        )
        await writes_nothing(watch, back, "masked")


@client(
    "config/77",
    "a shared repo with the id of a local one is skipped alone: the one beside it is taken",
    "8",
    ours=True,
    needs=("fixture",),
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    good = a_repo("beside")
    async with watching(seat) as watch:
        push = Set(repos=[a_repo("x", id="conf-a"), good, a_repo("x", uri="/nonexistent/conf-b")])
        await watch.pushed(push, has_repo(good.guid), "the good repo in it")


@client(
    "config/88",
    "a shared repo whose id looks like that of a local one is skipped alone: the one beside it is taken",
    "8",
    ours=True,
    needs=("fixture",),
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    good = a_repo("beside-2")
    async with watching(seat) as watch:
        push = Set(repos=[a_repo("x16", id="Conf-A"), good])
        config = await watch.pushed(push, has_repo(good.guid), "the good repo in it")
        check(no_repo("Conf-A")(config), "it was taken")


@client(
    "config/86",
    "a hub that announced push-outcome/1 hears how many pushes were taken, and what the last one did not do",
    "9",
    ours=True,
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    async with seat.keyed() as talk:
        await talk.send("handshake", announce(seat.handshake(talk)))
        check(announced(await talk.client_hello()), "the client does not announce push-outcome/1")
        await talk.open()
        await talk.expect("operation_manifest")
        repo = a_repo("told")
        pushes = (
            (Set(repos=[repo]), ""),
            (Set(repos=[repo, a_repo("untold", guid="")]), "conf-untold"),
            (Set(plans=[a_plan("conf-x15", "conf-told")]), "conf-x15"),
            (Set(repos=[repo]), ""),
        )
        async with seat.lab.alone:
            for number, (push, refused) in enumerate(pushes, start=1):
                await talk.send("set_config", push)
                async with patience(talk.seconds, "a view that says what became of the push"):
                    while not outcome(received := await talk.expect("receive_config", skip=BESIDE_VIEWS))[0]:
                        pass
                taken, sentences = outcome(received)
                check(taken == number, f"it counts {taken} set_configs, not {number}")
                check(has_repo(repo.guid)(received.config), "the repo of the first push is not there")
                told = [sentence for sentence in sentences if refused in sentence]
                check(len(sentences) == bool(refused) == len(told), f"refused: {sentences}")


@client(
    "config/87",
    "a hub that announced nothing gets no field that the schema does not know",
    "9",
    grants=(VIEW, SHARED),
)
async def _(seat: Seat) -> None:
    async with AsyncExitStack() as streams:
        talk = await streams.enter_async_context(seat.established())
        watch = Watch(seat, talk, streams)
        check(not extended(await watch.view()), "unknown fields in the first view")
        await talk.expect("operation_manifest")
        async with seat.lab.alone:
            repo = a_repo("silent", origin_instance_id=seat.instance_id)
            await talk.send("set_config", Set(repos=[repo]))
            check(not extended(await watch.view()), "unknown fields after a push")


@client("config/76", "deleting what is not there does no harm", "8", grants=(WRITE,))
async def _(seat: Seat) -> None:
    async with watching(seat) as watch:
        await pushed_in_vain(watch.talk, Set(plans_to_delete=["never-was"], repos_to_delete=["never-was"]))
        await watch.talk.fence()

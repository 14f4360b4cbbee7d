"""Configuration, the program as the hub: what a client sees of it, and is given. PROTOCOL.md sections 5 and 7.

The hub's configuration is the fixture's (fixtures.py): repos conf-a (shared) and conf-b, plans conf-a1, conf-a2 and
conf-b1. The tokens carry different permissions; a case with a client of each shows what it gets.
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from conformance.hublab import HubLab
from conformance.model import check, hub
from conformance.seats import FIXTURE_PASSWORD, fixture_guid


async def _view(lab: HubLab, token: str) -> tuple[wire.sync.RemoteConfig, Any, list[wire.config.Repo]]:
    member = await lab.member(token)
    async with lab.let_in(member) as (talk, config):
        return config, *await lab.first_items(talk)


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

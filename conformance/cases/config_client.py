"""Configuration, the program as the client: what it shows to a hub. PROTOCOL.md sections 5, 7 and 8."""

from __future__ import annotations

from conformance.model import check, client
from conformance.pushes import VIEW, WRITE, config_of
from conformance.seats import FIXTURE_PASSWORD, Seat, fixture_guid


@client(
    "config/40",
    "READ_CONFIG shows the client's repos and plans in its scopes and no others",
    "7",
    needs=("fixture",),
    grants=("read-config=repo:conf-a,plan:conf-a1",),
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await config_of(talk)
        check([repo.id for repo in config.repos] == ["conf-a"], f"repos {[repo.id for repo in config.repos]}")
        check(
            [plan.id for plan in config.plans] == ["conf-a1"], f"plans {[plan.id for plan in config.plans]}"
        )


@client(
    "config/41",
    "passwords and secret environment values in the view are masked",
    "8",
    ours=True,
    needs=("fixture",),
    grants=(VIEW,),
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await config_of(talk)
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
        config = await config_of(talk)
        check("conf-a" in {repo.id for repo in config.repos}, "the repo is not in the view")
        check(FIXTURE_PASSWORD.encode() not in config.SerializeToString(), "the password is in the view")


@client(
    "config/43",
    "READ_OPERATIONS alone shows ids and guids as resources, and no configuration",
    "5",
    needs=("fixture",),
    grants=("read-operations=*",),
)
async def _(seat: Seat) -> None:
    async with seat.established() as talk:
        config = await config_of(talk)
        check(not config.repos and not config.plans, "the view shows repos or plans")
        resources = await talk.expect("receive_resources", skip=())
        guids = {repo.id: repo.guid for repo in resources.repos}
        check(guids.get("conf-a") == fixture_guid("conf-a"), f"resources {guids}")
        check("conf-a1" in {plan.id for plan in resources.plans}, "a plan is missing in the resources")

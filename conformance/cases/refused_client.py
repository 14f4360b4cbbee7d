"""A hub's set_config that a client must not take: PROTOCOL.md sections 7 and 8.

Each is skipped, changes nothing, and does not end the session.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from conformance.model import Role, case, check
from conformance.pushes import (
    SHARED,
    VIEW,
    WRITE,
    Set,
    View,
    a_plan,
    a_repo,
    config_of,
    has_plan,
    intact,
    no_plan,
    no_repo,
    pushed_in_vain,
    watching,
)
from conformance.seats import Seat, fixture_guid


def _skipped(
    id: str,
    what: str,
    message: Callable[[Seat], Set],
    unchanged: View,
    *,
    grants: tuple[str, ...],
    ours: bool = True,
    fixture: bool = False,
    section: str = "8",
) -> None:
    """A push that must change nothing, and must not end the session."""

    async def run(seat: Seat) -> None:
        async with watching(seat) as watch:
            config = await pushed_in_vain(watch.talk, message(seat))
            check(config is None or unchanged(config), "it was applied")
            await watch.talk.fence()
        async with seat.established() as talk:  # and in the next session it still is not
            check(unchanged(await config_of(talk)), "it was applied")

    needs = ("fixture",) if fixture else ()
    case(id, Role.CLIENT, what, section, run, grants=grants, ours=ours, needs=needs)


_shared_local = partial(_skipped, grants=(VIEW, SHARED), fixture=True)

_skipped(
    "config/55",
    "a shared repo without RECEIVE_SHARED_REPOS is skipped, and the session goes on",
    lambda seat: Set(repos=[a_repo("x1")]),
    no_repo("conf-x1"),
    grants=(VIEW,),
)
_skipped(
    "config/56",
    "a shared repo without a guid is skipped, and the session goes on",
    lambda seat: Set(repos=[a_repo("x2", guid="")]),
    no_repo("conf-x2"),
    grants=(VIEW, SHARED),
)
_shared_local(
    "config/57",
    "a shared repo with the guid of a local one is skipped",
    lambda seat: Set(repos=[a_repo("x3", guid=fixture_guid("conf-a"))]),
    intact("conf-a"),
)
_shared_local(
    "config/58",
    "a shared repo with the guid of a local one is skipped, whatever origin it claims",
    lambda seat: Set(repos=[a_repo("x4", guid=fixture_guid("conf-a"), origin_instance_id=seat.instance_id)]),
    intact("conf-a"),
)
_shared_local(
    "config/59",
    "a shared repo with the id of a local one is skipped",
    lambda seat: Set(repos=[a_repo("x5", id="conf-a")]),
    intact("conf-a"),
)
_shared_local(
    "config/60",
    "a shared repo with the URI of a local one is skipped",
    lambda seat: Set(repos=[a_repo("x6", uri="/nonexistent/conf-a")]),
    no_repo("conf-x6"),
)
_shared_local(
    "config/61",
    "a plan without READ_WRITE_CONFIG is skipped, and the session goes on",
    lambda seat: Set(plans=[a_plan("conf-x7", "conf-a")]),
    no_plan("conf-x7"),
)
_shared_local(
    "config/62",
    "deleting a plan without READ_WRITE_CONFIG is skipped",
    lambda seat: Set(plans_to_delete=["conf-a1"]),
    has_plan("conf-a1"),
)
_shared_local(
    "config/63",
    "deleting a repo without READ_WRITE_CONFIG is skipped",
    lambda seat: Set(repos_to_delete=["conf-c"]),
    intact("conf-c"),
)
_skipped(
    "config/64",
    "a plan on a repo out of the scope of READ_WRITE_CONFIG is skipped",
    lambda seat: Set(plans=[a_plan("conf-x8", "conf-b")]),
    no_plan("conf-x8"),
    grants=("read-write-config=repo:conf-a,plan:conf-x8,!repo:conf-b", VIEW),
    fixture=True,
)
_skipped(
    "config/65",
    "a hub limited to one repo cannot move another repo's plan into it",
    lambda seat: Set(plans=[a_plan("conf-b1", "conf-a")]),
    lambda config: any(plan.id == "conf-b1" and plan.repo == "conf-b" for plan in config.plans),
    grants=("read-write-config=repo:conf-a,plan:conf-b1,!repo:conf-b", VIEW),
    fixture=True,
)
_skipped(
    "config/66",
    "a hub limited to one repo cannot overwrite another one by its guid",
    lambda seat: Set(repos=[a_repo("x", guid=fixture_guid("conf-b"), uri="/evil")]),
    intact("conf-b"),
    grants=("read-write-config=repo:conf-a,repo:conf-x", VIEW),
    fixture=True,
)
_skipped(
    "config/67",
    "a plan on a repo that does not exist is not applied (the result would be invalid)",
    lambda seat: Set(plans=[a_plan("conf-x9", "nowhere")]),
    no_plan("conf-x9"),
    grants=(WRITE,),
)
_skipped(
    "config/68",
    "an excluded plan cannot be deleted under read-write-config=*",
    lambda seat: Set(plans_to_delete=["conf-a1"]),
    has_plan("conf-a1"),
    grants=("read-write-config=*,!plan:conf-a1", VIEW),
    fixture=True,
)
_skipped(
    "config/79",
    "a shared repo whose address names a program (rclone's ssh=) is skipped",
    lambda seat: Set(repos=[a_repo("x12", uri="rclone::sftp,ssh=touch /tmp/conformance-ran:x")]),
    no_repo("conf-x12"),
    grants=(VIEW, SHARED),
)
_skipped(
    "config/80",
    "a shared repo whose address is an option of ssh is skipped",
    lambda seat: Set(repos=[a_repo("x13", uri="sftp:-oProxyCommand=touch:/y")]),
    no_repo("conf-x13"),
    grants=(VIEW, SHARED),
)
_skipped(
    "config/81",
    "a repo out of the scope of READ_WRITE_CONFIG is skipped",
    lambda seat: Set(repos=[a_repo("x14")]),
    no_repo("conf-x14"),
    grants=("read-write-config=repo:conf-a", VIEW),
)
_skipped(
    "config/82",
    "a repo that a plan uses is not deleted",
    lambda seat: Set(repos_to_delete=["conf-b"]),
    intact("conf-b"),
    grants=(WRITE,),
    fixture=True,
)
_skipped(
    "config/83",
    "an excluded plan cannot be changed under read-write-config=*",
    lambda seat: Set(plans=[a_plan("conf-a2", "conf-a")]),
    lambda config: all("/conformance" not in plan.paths for plan in config.plans if plan.id == "conf-a2"),
    grants=("read-write-config=*,!plan:conf-a2", VIEW),
    fixture=True,
)

"""W-41: a repo or plan in a push is judged by the id that it carries *and* by the one that stands here.

One table. ``before`` is what stands here; the push carries the repo or plan; it passes or changes nothing at all.
"""

from __future__ import annotations

import pytest

from backrest import wire
from backrest.permissions import parse_grant
from backrest.refusals import Refusal
from backrest.sync.apply import SetConfig, apply_set_config

A, B, NEW = "a" * 64, "b" * 64, "c" * 64
Repo, Plan = wire.config.Repo, wire.config.Plan


def here() -> wire.config.Config:
    made = wire.config.Config(instance="laptop")
    made.multihost.known_hosts.add(instance_id="hub", keyid="k")
    made.repos.add(id="a", uri="/srv/a", guid=A, password="hush")
    made.repos.add(id="b", uri="/srv/b", guid=B, password="hush")
    made.plans.add(id="p", repo="a", paths=["/p"])
    made.plans.add(id="q", repo="b", paths=["/q"])
    return made


# grants; the id carried; the guid carried (whose id here is a or b); passes?
REPOS = [
    ("repo:a", "a", A, True),
    ("repo:a", "a", B, False),  # b by its guid under the name of a
    ("repo:a", "b", A, False),  # a renamed to what is out of scope
    ("repo:a", "b", B, False),
    ("repo:a", "new", NEW, False),
    ("repo:a,repo:new", "new", A, True),  # a renamed within scope
    ("repo:new", "new", NEW, True),
    ("repo:new", "new", A, False),
    ("repo:a", "a", "", False),  # an empty guid matches nothing
    ("*", "a", "", False),
    ("*", "a", B, False),  # the id is taken by another repo
    ("*", "new", B, True),
    ("*,!repo:b", "new", B, False),
    ("*,!repo:b", "b", NEW, False),
    ("*,!repo:b", "a", A, True),
    ("plan:p", "a", A, False),
]


@pytest.mark.parametrize(("scopes", "ident", "guid", "passes"), REPOS)
def test_a_repo_is_in_scope_by_both_ids(scopes: str, ident: str, guid: str, passes: bool) -> None:
    config = here()
    repo = Repo(id=ident, guid=guid, uri="/srv/pushed", password="pushed")
    report = push(config, scopes, SetConfig(repos=[repo]))
    assert bool(report) is not passes
    if passes:
        [found] = [one for one in config.repos if one.guid == guid]
        assert (found.id, found.uri, found.origin_instance_id) == (ident, "/srv/pushed", "")
    else:
        assert config == here()


# grants; the plan's id; the repo that it names; passes?
PLANS = [
    ("plan:p", "p", "a", True),
    ("plan:p", "q", "b", False),
    ("plan:p", "p", "b", True),  # a plan scope lets it use any repo
    ("plan:p,!repo:b", "p", "b", False),  # moved onto an excluded repo
    ("plan:q,!repo:b", "q", "a", False),  # moved away from an excluded repo: it stood there
    ("repo:a", "p", "a", False),  # a repo's scope lets in no plans
    ("*", "new", "a", True),
    ("*,!plan:new", "new", "a", False),
    ("plan:new", "new", "a", True),
    ("plan:new", "p", "a", False),
]


@pytest.mark.parametrize(("scopes", "ident", "repo", "passes"), PLANS)
def test_a_plan_is_in_scope_as_it_is_and_as_it_becomes(
    scopes: str, ident: str, repo: str, passes: bool
) -> None:
    config = here()
    report = push(config, scopes, SetConfig(plans=[Plan(id=ident, repo=repo, paths=["/pushed"])]))
    assert bool(report) is not passes
    if passes:
        [found] = [one for one in config.plans if one.id == ident]
        assert (found.repo, list(found.paths)) == (repo, ["/pushed"])
    else:
        assert config == here()


@pytest.mark.parametrize(
    ("scopes", "message", "passes"),
    [
        ("plan:p", SetConfig(plans_to_delete=["p"]), True),
        ("plan:p", SetConfig(plans_to_delete=["q"]), False),
        ("plan:p,!repo:a", SetConfig(plans_to_delete=["p"]), False),
        ("repo:a", SetConfig(repos_to_delete=["b"]), False),
        ("*", SetConfig(plans_to_delete=["q"], repos_to_delete=["b"]), True),
        ("*,!repo:b", SetConfig(repos_to_delete=["b"]), False),
        (
            "repo:a",
            SetConfig(repos_to_delete=["never-was"]),
            False,
        ),  # what is there is not told by the answer
        ("plan:p", SetConfig(plans_to_delete=["never-was"]), False),
        ("*", SetConfig(repos_to_delete=["never-was"], plans_to_delete=["never-was"]), True),
    ],
)
def test_a_deletion_is_judged_by_what_stands_here(scopes: str, message: SetConfig, passes: bool) -> None:
    config = here()
    assert bool(push(config, scopes, message)) is not passes
    if not passes:
        assert config == here()
    else:
        assert not {plan.id for plan in config.plans} & set(message.plans_to_delete)
        assert not {repo.id for repo in config.repos} & set(message.repos_to_delete)


def push(config: wire.config.Config, scopes: str, message: SetConfig) -> list[Refusal]:
    """What was refused."""
    peer = wire.config.Multihost.Peer(
        instance_id="hub", keyid="k", permissions=[parse_grant(f"read-write-config={scopes}")]
    )
    return apply_set_config(config, peer, message).refused

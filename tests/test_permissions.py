"""Permissions: every case of the shared table, and the texts that people type."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from backrest import permissions as perms
from backrest.permissions import (
    READ_CONFIG,
    TYPE_NAMES,
    VIEW_CONFIG,
    Grants,
    Permission,
    format_grant,
    parse_grant,
    parse_scope,
)

TABLE = json.loads((Path(__file__).parent.parent / "conformance/vectors/permissions.json").read_text())


def granted(case: dict[str, Any]) -> Grants:
    return Grants(ParseDict(entry, Permission()) for entry in case["permissions"])


def answer(grants: Grants, case: dict[str, Any]) -> bool:
    types = [Permission.Type.Value(name) for name in case["types"]]
    match case["ask"]:
        case "repo":
            return grants.repo(case["repo"], *types)
        case "plan":
            return grants.plan(case["plan"], case["repo"], *types)
        case "operation":
            return grants.operation(case["repo"], case["plan"])
        case "has":
            return grants.has(*types)
    raise AssertionError(case["ask"])


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: f"{case['name']}-{case['ask']}")
def test_each_case_of_the_table(case: dict[str, Any]) -> None:
    assert answer(granted(case), case) is case["expected"]


@pytest.mark.parametrize("text", TABLE["bad_scopes"])
def test_what_is_not_a_scope_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a scope"):
        parse_scope(text)
    with pytest.raises(ValueError, match="is not a scope"):
        Grants([Permission(type=perms.READ_CONFIG, scopes=["*", text])])


@pytest.mark.parametrize("text", TABLE["good_scopes"])
def test_scope_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_scope(text)) == text


def test_grant_reads_type_and_scopes() -> None:
    grant = parse_grant("read-write-config=*,!repo:x,plan:p")
    assert grant == Permission(type=perms.READ_WRITE_CONFIG, scopes=["*", "!repo:x", "plan:p"])
    assert format_grant(grant) == "read-write-config=*,!repo:x,plan:p"


@pytest.mark.parametrize("name", perms.TYPE_NAMES)
def test_grant_without_scopes_is_written_out_as_everything(name: str) -> None:
    assert list(parse_grant(name).scopes) == ["*"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a permission"),
        ("read", "is not a permission"),
        ("READ-CONFIG", "is not a permission"),
        ("=*", "is not a permission"),
        ("read-config=", "is not a scope"),
        ("read-config=*,", "is not a scope"),
        ("read-config=*, repo:a", "is not a scope"),
        ("read-config:repo:a", "is not a permission"),
    ],
)
def test_bad_grant_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_grant(text)


def test_peers_grant_without_scopes_reads_as_everything() -> None:
    assert format_grant(Permission(type=perms.READ_CONFIG)) == "read-config=*"


IDS = st.sampled_from(["a", "b", "p", "q"])
SCOPES = st.one_of(
    st.just("*"),
    st.builds("{}{}:{}".format, st.sampled_from(["", "!"]), st.sampled_from(["repo", "plan"]), IDS),
)
ENTRIES = st.lists(
    st.builds(
        Permission,
        type=st.sampled_from(sorted(perms.TYPE_NAMES.values())),
        scopes=st.lists(SCOPES, max_size=4),
    ),
    max_size=5,
)


@given(ENTRIES, IDS, IDS)
def test_what_any_entry_excludes_is_out_whatever_else_is_granted(
    entries: list[Permission], repo: str, plan: str
) -> None:
    grants = Grants([*entries, Permission(type=perms.READ_OPERATIONS, scopes=[f"!repo:{repo}"])])
    assert not grants.operation(repo, plan)
    assert not grants.repo(repo, perms.READ_OPERATIONS)
    assert not grants.plan(plan, repo, perms.READ_OPERATIONS)


@given(ENTRIES, st.randoms(use_true_random=False), IDS, IDS)
def test_order_of_entries_and_scopes_means_nothing(
    entries: list[Permission], random: Any, repo: str, plan: str
) -> None:
    shuffled = [Permission(type=e.type, scopes=random.sample(list(e.scopes), len(e.scopes))) for e in entries]
    random.shuffle(shuffled)
    one, other = Grants(entries), Grants(shuffled)
    for kind in perms.TYPE_NAMES.values():
        assert one.repo(repo, kind) == other.repo(repo, kind)
        assert one.plan(plan, repo, kind) == other.plan(plan, repo, kind)
    assert one.operation(repo, plan) == other.operation(repo, plan)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("read-operations=*", "read-operations=repo:a", True),
        ("read-operations=repo:a", "read-operations=*", False),
        ("read-operations=repo:a,repo:b", "read-operations=repo:a", True),
        ("read-operations=repo:a,plan:p", "read-operations=plan:p", True),
        ("read-operations=repo:a", "read-operations=plan:p", False),
        ("read-operations=*", "read-operations=!repo:a", True),
        ("read-operations=!repo:a", "read-operations=*", False),
        ("read-operations=!repo:a", "read-operations=!repo:a,!plan:p", True),
        ("read-operations=*,!plan:p", "read-operations=!repo:a", False),
        ("read-operations=repo:a,!plan:p", "read-operations=repo:a", False),
        ("read-write-config=*", "read-config=repo:a", True),
        ("read-config=*", "read-write-config=repo:a", False),
        ("read-config=*", "receive-shared-repos=repo:a", False),
        ("read-config=*", "", True),
        ("", "read-config=repo:a", False),
        ("", "", True),
    ],
)
def test_which_grants_cover_which(wide: str, narrow: str, covers: bool) -> None:
    one, other = (Grants([parse_grant(text)] if text else []) for text in (wide, narrow))
    assert one.covers(other) is covers


def test_what_covers_takes_nothing_away() -> None:
    draw = random.Random(7)
    scopes = ["*", *(f"{no}{kind}:{name}" for no in ("", "!") for kind in ("repo", "plan") for name in "ab")]

    def some() -> Grants:
        texts = draw.sample(list(TYPE_NAMES), draw.randint(0, 4))
        return Grants(
            parse_grant(f"{text}={','.join(draw.sample(scopes, draw.randint(1, 3)))}") for text in texts
        )

    def rights(grants: Grants) -> set[tuple[object, ...]]:
        groups = [(number,) for number in TYPE_NAMES.values() if number != READ_CONFIG] + [VIEW_CONFIG]
        names = "abc"
        return {
            *((types, "has") for types in groups if grants.has(*types)),
            *((types, repo) for types in groups for repo in names if grants.repo(repo, *types)),
            *((t, p, r) for t in groups for p in names for r in names if grants.plan(p, r, *t)),
            *((repo, plan) for repo in names for plan in names if grants.operation(repo, plan)),
        }

    covered = 0
    for _ in range(5000):
        wide, narrow = some(), some()
        assert wide.covers(wide)
        if wide.covers(narrow):
            covered += 1
            assert rights(narrow) <= rights(wide)
    assert covered > 200

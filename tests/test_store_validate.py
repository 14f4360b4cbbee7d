"""Each rule for a configuration, from both sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.store.places import pattern_problem
from backrest.store.validate import alike, check, id_problem, normalise, problems

Config = wire.config.Config
Multihost = wire.config.Multihost
Peer = Multihost.Peer
Permission = Multihost.Permission
Plan = wire.config.Plan
Repo = wire.config.Repo
RetentionPolicy = wire.config.RetentionPolicy
Schedule = wire.config.Schedule
Token = Multihost.PairingToken

NOW = 1_800_000_000.0
ME, HOST, CLIENT = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
GUID = "ab" * 32
READ_ALL = Permission(type=Permission.PERMISSION_READ_OPERATIONS, scopes=["*"])


def good() -> Config:
    """A configuration that breaks no rule and has one of everything."""
    return Config(
        version=6,
        instance="me",
        auth=wire.config.Auth(users=[wire.config.User(name="root", password_bcrypt="JDJh")]),
        repos=[
            Repo(
                id="local",
                uri="/srv/a",
                guid=GUID,
                env=["A=1"],
                prune_policy=wire.config.PrunePolicy(schedule=Schedule(cron="0 4 1 * *")),
                check_policy=wire.config.CheckPolicy(schedule=Schedule(maxFrequencyDays=1)),
                forget_policy=wire.config.ForgetPolicy(
                    schedule=Schedule(maxFrequencyHours=1), retention=RetentionPolicy(policy_keep_last_n=1)
                ),
            ),
            Repo(id="shared", uri="/srv/b", guid="cd" * 32, origin_instance_id="hub"),
        ],
        plans=[
            Plan(
                id="plan",
                repo="local",
                paths=["/home"],
                schedule=Schedule(disabled=True),
                retention=RetentionPolicy(policy_keep_all=True),
            )
        ],
        multihost=Multihost(
            identity=ME.to_proto(),
            known_hosts=[
                Peer(
                    instance_id="hub",
                    keyid=HOST.keyid,
                    instance_url="https://hub.example:9898",
                    permissions=[READ_ALL],
                )
            ],
            authorized_clients=[Peer(instance_id="laptop", keyid=CLIENT.keyid, permissions=[READ_ALL])],
            pairing_tokens=[
                Token(secret="0f" * 32, label="for the laptop", max_uses=1, permissions=[READ_ALL])
            ],
        ),
    )


def after(change: Callable[[Config], object]) -> Config:
    config = good()
    change(config)
    return config


def test_good_configuration_has_no_findings() -> None:
    found = check(good(), now=NOW)
    assert (found.problems, found.warnings) == ([], [])


def test_empty_configuration_has_no_problems() -> None:
    assert problems(Config()) == []


def set_retention(target: RetentionPolicy, **values: object) -> None:
    target.CopyFrom(RetentionPolicy(**values))  # type: ignore[arg-type]


def set_schedule(target: Schedule, **values: object) -> None:
    target.CopyFrom(Schedule(**values))  # type: ignore[arg-type]


Buckets = RetentionPolicy.TimeBucketedCounts

# The reference's own rules: whatever was there before.
ALWAYS: list[tuple[Callable[[Config], object], str]] = [
    (lambda c: setattr(c, "instance", "_x_"), 'the instance id "_x_" is reserved'),
    (lambda c: setattr(c, "instance", "x" * 51), "longer than 50 bytes"),
    (lambda c: setattr(c, "instance", "ü" * 26), "longer than 50 bytes"),
    (lambda c: c.auth.ClearField("users"), "there is no user"),
    (lambda c: setattr(c.auth.users[0], "name", ""), 'the user name "" is empty'),
    (lambda c: c.auth.users[0].ClearField("password_bcrypt"), "there is no password"),
    (lambda c: setattr(c.repos[0], "id", ""), "is empty"),
    (lambda c: setattr(c.repos[0], "id", "_"), "is reserved"),
    (lambda c: setattr(c.repos[1], "id", "local"), 'duplicate id: repo "local" is there twice'),
    (lambda c: setattr(c.repos[0], "guid", "ab"), "the guid must have 64 characters"),
    (lambda c: setattr(c.repos[0], "guid", "ab" * 33), "the guid must have 64 characters"),
    (lambda c: setattr(c.repos[0], "auto_initialize", True), "with a guid, auto-initialize must be off"),
    (lambda c: setattr(c.repos[0], "guid", ""), "there is no guid, and auto-initialize is off"),
    (lambda c: setattr(c.repos[0], "uri", ""), "there is no address"),
    (lambda c: c.repos[0].env.append("SECRET"), "entry 2 of its environment is not NAME=VALUE"),
    (lambda c: set_schedule(c.repos[0].prune_policy.schedule, cron="bad cron"), 'invalid cron "bad cron"'),
    (lambda c: set_schedule(c.repos[0].prune_policy.schedule, cron=""), 'invalid cron ""'),
    (lambda c: set_schedule(c.repos[0].check_policy.schedule, cron="0 0 * * 7"), "Sunday is 0"),
    (lambda c: set_schedule(c.repos[0].check_policy.schedule, cron="0 0 31 2 *"), "it never occurs"),
    (lambda c: set_schedule(c.plans[0].schedule, cron="*/0 * * * *"), "at least 1"),
    (lambda c: set_schedule(c.plans[0].schedule, maxFrequencyDays=0), "invalid max frequency days 0"),
    (lambda c: set_schedule(c.plans[0].schedule, maxFrequencyHours=-1), "invalid max frequency hours -1"),
    (lambda c: set_schedule(c.plans[0].schedule, disabled=False), "disabled is false"),
    (lambda c: c.repos[0].forget_policy.ClearField("retention"), "needs a retention policy"),
    (lambda c: set_retention(c.repos[0].forget_policy.retention), "forget policy: no policy is set"),
    (lambda c: set_retention(c.plans[0].retention), "retention: no policy is set"),
    (lambda c: set_retention(c.plans[0].retention, policy_time_bucketed=Buckets()), "all counts are zero"),
    (lambda c: setattr(c.plans[0], "id", ""), "is empty"),
    (lambda c: c.plans.append(c.plans[0]), 'duplicate id: plan "plan" is there twice'),
    (lambda c: c.plans[0].ClearField("paths"), "there is no path"),
    (lambda c: c.plans[0].paths.append(""), "a path is empty"),
    (lambda c: setattr(c.plans[0], "repo", ""), "there is no repo"),
    (lambda c: setattr(c.plans[0], "repo", "gone"), 'repo "gone" not found'),
    (lambda c: setattr(c.multihost.identity, "keyid", ""), "identity cannot be used"),
    (lambda c: setattr(c.multihost.identity, "keyid", HOST.keyid), "identity cannot be used"),
    (lambda c: setattr(c.multihost.identity, "ed25519priv", "AA"), "identity cannot be used"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_id", ""), "is empty"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_id", "x" * 51), "longer than 50 bytes"),
    (lambda c: setattr(c.multihost.known_hosts[0], "keyid", ""), "there is no key id"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_url", ""), "there is no URL"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_id", "me"), 'instance "me" is there twice'),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_id", "laptop"), '"laptop" is there twice'),
    (lambda c: setattr(c.multihost.authorized_clients[0], "keyid", HOST.keyid), "is there twice"),
    (lambda c: setattr(c.multihost.authorized_clients[0], "keyid", ME.keyid), "is there twice"),
    (lambda c: c.multihost.known_hosts[0].permissions[0].scopes.append("repo:"), "is not a scope"),
    (lambda c: c.multihost.authorized_clients[0].permissions[0].scopes.append("-repo:x"), "is not a scope"),
]


@pytest.mark.parametrize(("change", "text"), ALWAYS)
def test_rule_of_the_reference_rejects_old_and_new(change: Callable[[Config], object], text: str) -> None:
    config = after(change)
    for previous in (None, config):
        found = check(config, previous, now=NOW).problems
        assert any(text in problem for problem in found), found
        assert "SECRET" not in str(found)


# Ours: rejected where new, a warning where it was so before.
OURS: list[tuple[Callable[[Config], object], str]] = [
    (lambda c: setattr(c, "instance", "my laptop"), "may hold only letters"),
    (lambda c: setattr(c.auth.users[0], "name", "a b"), "may hold only letters"),
    (lambda c: (setattr(c.repos[0], "id", "a,b"), setattr(c.plans[0], "repo", "a,b")), "may hold only"),
    (lambda c: setattr(c.repos[1], "id", "a\x1b[2J"), "may hold only printable ASCII"),
    (lambda c: setattr(c.repos[0], "guid", "a\n" * 32), "the guid may hold only letters and digits"),
    (lambda c: setattr(c.plans[0], "id", "a#b"), "may hold only letters"),
    (
        lambda c: set_retention(c.repos[0].forget_policy.retention, policy_keep_all=True),
        "a forget schedule cannot keep everything",
    ),
    (lambda c: set_retention(c.repos[0].forget_policy.retention, policy_keep_last_n=0), "at least 1"),
    (lambda c: set_retention(c.plans[0].retention, policy_keep_last_n=-1), "at least 1"),
    (lambda c: set_retention(c.plans[0].retention, policy_keep_all=False), "keep-all is false"),
    (
        lambda c: set_retention(c.plans[0].retention, policy_time_bucketed=Buckets(daily=1, hourly=-1)),
        "counts cannot be negative",
    ),
    (lambda c: setattr(c.multihost.authorized_clients[0], "instance_id", "my pc"), "may hold only letters"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_id", "a\x00"), "may hold only printable ASCII"),
    (lambda c: setattr(c.multihost.known_hosts[0], "keyid", "ed25519.x"), "is not a key id"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_url", "hub:9898"), "the URL must be http"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_url", "ftp://hub"), "the URL must be http"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_url", "http://"), "the URL must be http"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_url", "http://h:99999"), "the URL must be"),
    (lambda c: setattr(c.multihost.known_hosts[0], "instance_url", "http://h h"), "the URL must be"),
    (lambda c: setattr(c.multihost.known_hosts[0].permissions[0], "type", 0), "no type that is known"),
    (lambda c: setattr(c.multihost.known_hosts[0].permissions[0], "type", 99), "no type that is known"),
    (lambda c: setattr(c.multihost.pairing_tokens[0], "secret", ""), "64 hex digits"),
    (lambda c: setattr(c.multihost.pairing_tokens[0], "secret", "0F" * 32), "64 hex digits"),
    (lambda c: setattr(c.multihost.pairing_tokens[0], "label", "a\nb"), "the label holds control characters"),
    (lambda c: setattr(c.multihost.pairing_tokens[0], "max_uses", -1), "cannot be negative"),
    (lambda c: setattr(c.multihost.pairing_tokens[0], "expires_at_unix", -1), "cannot be negative"),
    (lambda c: setattr(c.multihost.pairing_tokens[0], "uses", 2), "used more often"),
    (lambda c: c.multihost.pairing_tokens.append(c.multihost.pairing_tokens[0]), "has the same secret"),
    (lambda c: c.multihost.pairing_tokens[0].permissions[0].scopes.append("x"), "is not a scope"),
    (lambda c: setattr(c.repos[0], "uri", "srv/r"), "its address is not a whole path"),
    (lambda c: setattr(c.repos[0], "uri", "local:r"), "its address is not a whole path"),
    (lambda c: setattr(c.repos[0], "uri", "~/r"), 'its address begins with "~"'),
    (lambda c: setattr(c.repos[0], "uri", " /r"), "its address begins with a blank"),
    (
        lambda c: c.repos[0].env.append("RESTIC_PASSWORD_FILE=p"),
        "RESTIC_PASSWORD_FILE of its environment is not",
    ),
    (
        lambda c: c.repos[0].env.append("RESTIC_REPOSITORY=local:r"),
        "RESTIC_REPOSITORY of its environment is not",
    ),
    (
        lambda c: c.repos[0].flags.append("--password-file=p"),
        "the file of --password-file is not a whole path",
    ),
    (lambda c: c.repos[0].flags.append("-p ../p"), "the file of -p is not a whole path"),
    (lambda c: c.repos[0].flags.append("-pp"), "the file of -p is not a whole path"),
    (lambda c: c.repos[0].flags.append("--cacert 'my ca"), "a quote that is not closed"),
    (lambda c: c.plans[0].backup_flags.append('--tag="x'), "a quote that is not closed"),
    (lambda c: c.plans[0].backup_flags.append("--files-from=${HOME}/x"), "the file of --files-from is not"),
    (lambda c: c.plans[0].paths.append("photos"), 'the path "photos" is not a whole path'),
    (lambda c: c.plans[0].paths.append("${HOME}"), "is not a whole path"),
    (lambda c: c.plans[0].excludes.append("[z"), 'the pattern "[z" has a "["'),
    (lambda c: c.plans[0].iexcludes.append("/a/[b/]c"), 'has a "["'),
]


@pytest.mark.parametrize(("change", "text"), OURS)
def test_rule_of_ours_rejects_new_and_warns_of_old(change: Callable[[Config], object], text: str) -> None:
    config = after(change)
    for previous in (None, good()):
        found = check(config, previous, now=NOW)
        assert any(text in problem for problem in found.problems), found
    there = check(config, config, now=NOW)
    assert there.problems == []
    assert any(text in warning for warning in there.warnings), there
    assert "0F0F" not in str(found) + str(there)  # a token's secret is not told


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c, "instance", "x" * 50),
        lambda c: c.auth.CopyFrom(wire.config.Auth(disabled=True)),
        lambda c: c.ClearField("auth"),
        lambda c: c.ClearField("multihost"),
        lambda c: c.multihost.ClearField("identity"),
        lambda c: (setattr(c.repos[0], "guid", ""), setattr(c.repos[0], "auto_initialize", True)),
        lambda c: c.plans[0].schedule.Clear(),
        lambda c: c.plans[0].ClearField("schedule"),
        lambda c: (c.plans[0].ClearField("paths"), c.plans[0].backup_flags.append("--files-from=/x")),
        lambda c: set_schedule(c.repos[0].forget_policy.schedule, disabled=True),
        lambda c: c.repos[0].forget_policy.ClearField("schedule"),
        lambda c: set_retention(c.plans[0].retention, policy_time_bucketed=Buckets(yearly=1)),
        lambda c: setattr(c.repos[1], "id", "NAS of the office"),  # its id was chosen elsewhere
        lambda c: (
            setattr(c.multihost.known_hosts[0], "instance_id", "Office 1"),
            setattr(c.repos[1], "origin_instance_id", "Office 1"),
        ),
        lambda c: setattr(c.multihost.known_hosts[0], "instance_url", "http://[::1]:9898/x"),
        lambda c: c.multihost.pairing_tokens[0].ClearField("label"),
        lambda c: setattr(c.multihost.pairing_tokens[0], "max_uses", 0),
        lambda c: setattr(c.repos[0], "uri", "sftp:me@nas:backups"),  # of the home there, wherever this runs
        lambda c: setattr(c.repos[0], "uri", "${DISK}/r"),  # judged when restic is to run
        lambda c: c.repos[0].env.extend(
            ["RESTIC_CACHE_DIR=${HOME}/c", "TMPDIR=/x", "RESTIC_PASSWORD_FILE=/p"]
        ),
        lambda c: c.repos[0].flags.extend(["--cacert '/my ca'", "--password-file=${DIR}/p", "-o s3.x=y"]),
    ],
)
def test_accepted_when_new(change: Callable[[Config], object]) -> None:
    assert check(after(change), None, now=NOW).problems == []


# As restic 0.14 takes or refuses them; so do the later ones, whose pattern language is the same.
@pytest.mark.parametrize(
    ("patterns", "taken"),
    [
        ("*.tmp a] [a-z] [^a] [z-a] [[] [a]] \\[ [\\]] [a\\-b] [a-\\]] !x é[é-ü] **/x a//b", True),
        ("[z [] [^] []a] [a-] [-a] [a-b-c] [\\ a\\ [a/b] ![", False),
    ],
)
def test_a_pattern_is_taken_if_restic_takes_it(patterns: str, taken: bool) -> None:
    for pattern in patterns.split():
        assert (pattern_problem(pattern) == "") == taken, pattern


def test_all_problems_are_reported_at_once() -> None:
    config = good()
    for change, _ in (ALWAYS[0], ALWAYS[15], ALWAYS[30]):
        change(config)
    assert len(check(config, now=NOW).problems) == 3


def test_validation_changes_nothing() -> None:
    config = after(lambda c: (c.repos.reverse(), c.repos[0].ClearField("origin_instance_id")))
    before = config.SerializeToString(deterministic=True)
    check(config, now=NOW)
    assert config.SerializeToString(deterministic=True) == before


def test_identity_cannot_be_dropped() -> None:
    for change in (lambda c: c.ClearField("multihost"), lambda c: c.multihost.ClearField("identity")):
        assert any("identity would be lost" in text for text in problems(after(change), good()))


def test_plan_of_a_missing_host_is_kept_with_a_warning() -> None:
    config = after(lambda c: c.multihost.ClearField("known_hosts"))
    found = check(config, config, now=NOW)
    assert found.problems == []
    assert any('came from "hub", which is no peer' in text for text in found.warnings)


def test_grant_without_scopes_is_a_warning() -> None:
    config = after(lambda c: c.multihost.authorized_clients[0].permissions[0].ClearField("scopes"))
    found = check(config, now=NOW)
    assert found.problems == []
    assert any("without scopes means everything" in text for text in found.warnings)
    shared = after(lambda c: c.multihost.authorized_clients[0].permissions.add(type=4))
    assert check(shared, now=NOW).warnings == []


@pytest.mark.parametrize("text", ["a", "A.b-c_9", "_a", "a_", ".a", "a-"])
def test_good_ids(text: str) -> None:
    assert id_problem(text, 50) == ""


@pytest.mark.parametrize("text", ["", "_", "_a_", "a b", "ü", "a\n", "a/b", "a:b", "a#b", "x" * 51])
def test_bad_ids(text: str) -> None:
    assert id_problem(text, 50)


def test_length_of_an_id_is_bounded_only_where_asked() -> None:
    assert id_problem("x" * 50, 50) == ""
    assert id_problem("x" * 1000) == ""


def test_hostile_ids_are_escaped_in_messages() -> None:
    config = after(lambda c: setattr(c.plans[0], "id", "_\x1b]0;owned\x07\n" + "x" * 500 + "_"))
    (problem,) = check(config, now=NOW).problems
    assert problem.isprintable() or "\ufffd" in problem
    assert "\x1b" not in problem
    assert "\n" not in problem
    assert len(problem) < 200


def test_normalising_orders_as_the_reference_does() -> None:
    config = Config(
        repos=[Repo(id="b", env=["Z=1", "A=2"]), Repo(id="B"), Repo(id="a")],
        plans=[Plan(id="y", paths=["/b", "/a"]), Plan(id="x")],
    )
    normalise(config)
    assert [repo.id for repo in config.repos] == ["B", "a", "b"]
    assert [plan.id for plan in config.plans] == ["x", "y"]
    assert list(config.repos[2].env) == ["A=2", "Z=1"]
    assert list(config.plans[1].paths) == ["/a", "/b"]


@given(st.text(max_size=70), st.text(max_size=70), st.text(max_size=70))
def test_any_texts_are_judged_without_an_exception(one: str, two: str, three: str) -> None:
    try:
        one.encode(), two.encode(), three.encode()
    except UnicodeEncodeError:
        return
    config = Config(
        instance=one,
        repos=[Repo(id=two, uri=three, guid=one, env=[two], origin_instance_id=three)],
        plans=[Plan(id=three, repo=two, paths=[one], schedule=Schedule(cron=two))],
        multihost=Multihost(
            identity=wire.crypto.PrivateKey(keyid=one, ed25519priv=two, ed25519pub=three),
            known_hosts=[Peer(instance_id=two, keyid=three, instance_url=one)],
            pairing_tokens=[Token(secret=one, label=two, permissions=[Permission(scopes=[three])])],
        ),
    )
    for previous in (None, config):
        for text in problems(config, previous):
            assert "\n" not in text


@pytest.mark.parametrize("ident", ["a b", "a/b", "a:b", "a#b", "a,b"])
def test_what_another_instance_named_is_taken_with_a_warning_and_a_new_name_of_ours_is_not(
    ident: str,
) -> None:
    config = good()
    config.repos.add(id=ident, uri="/srv/c", guid="ef" * 32)
    config.plans.add(id=ident, repo=ident, paths=["/x"])
    theirs = check(config, good(), now=NOW, from_peer=True)
    assert theirs.problems == []
    assert [
        f'the id of {what} "{ident}" may hold only' in str(theirs.warnings) for what in ("repo", "plan")
    ] == [
        True,
        True,
    ]
    assert len(check(config, good(), now=NOW).problems) == 2
    assert check(config, config, now=NOW).problems == [], "once it is here, it is here"


MISLEADING = ["-x", ".", "..", "a.", "a ", " a", "h\u043eb", "\uff48ub", "h\u200bub", "\x1b[2J", "a\nb"]


@pytest.mark.parametrize("ident", ["", "_x_", *MISLEADING])
def test_a_name_that_misleads_or_is_reserved_is_refused_whoever_chose_it(ident: str) -> None:
    assert id_problem(ident)
    for item in ("repo", "plan"):
        config = good()
        if item == "repo":
            config.repos.add(id=ident, uri="/srv/c", guid="ef" * 32, origin_instance_id="hub")
        else:
            config.plans.add(id=ident, repo="local", paths=["/x"])
        assert check(config, good(), now=NOW, from_peer=True).problems


@pytest.mark.parametrize("ident", ["-x", ".", "a.", "ä", "\uff28UB"])
def test_a_misleading_name_of_a_configuration_that_is_in_use_is_a_warning(ident: str) -> None:
    config = good()
    config.instance = config.auth.users[0].name = ident
    config.repos[0].id = config.plans[0].id = config.plans[0].repo = ident
    config.multihost.authorized_clients[0].instance_id = ident + "x"
    found = check(config, config, now=NOW)
    assert found.problems == []
    assert len(found.warnings) >= 4
    assert check(config, good(), now=NOW, imported=True).problems == []
    assert len(check(config, good(), now=NOW).problems) >= 4


@pytest.mark.parametrize("other", [str.upper, str.title, "{} ".format, "{}.".format])
@pytest.mark.parametrize("item", ["repo", "plan", "instance"])
def test_a_new_name_that_looks_like_one_that_is_here_is_refused(
    item: str, other: Callable[[str], str]
) -> None:
    config = good()
    if item == "repo":
        name = other(config.repos[0].id)
        config.repos.add(id=name, uri="/srv/c", guid="ef" * 32)
    elif item == "plan":
        name = other(config.plans[0].id)
        config.plans.add(id=name, repo="local", paths=["/x"])
    else:
        name = other("hub")
        config.multihost.authorized_clients[0].instance_id = name
    named = f"the {item} ids"
    assert named in str(check(config, good(), now=NOW, from_peer=True).problems)
    assert named in str(check(config, config, now=NOW).warnings)
    assert check(config, config, now=NOW).problems == [], "once it is here, it is here"


def test_names_that_only_resemble_each_other_are_two() -> None:
    assert alike("\uff28UB") == alike("hub"), "full width, of a configuration that is in use"
    assert len({alike(name) for name in ("web-1", "web_1", "web1", "web.1", "web 1")}) == 5


# --- flags


@pytest.mark.parametrize("flag", ["/etc/shadow", "x", "", "${FLAGS}", " x"])
def test_a_new_flag_begins_with_a_dash_and_an_old_one_is_warned_about(flag: str) -> None:
    config = good()
    config.repos[0].flags.extend(["--no-cache", flag])
    config.plans[0].backup_flags.append(flag)
    found = check(config, good())
    assert [problem.partition(" does not")[0] for problem in found.problems] == [
        'repo "local": flag 2',
        'plan "plan": flag 1',
    ]
    assert flag not in ("/etc/shadow",) or not any(flag in problem for problem in found.problems)
    again = check(config, config)
    assert not again.problems
    assert sum('does not begin with "-"' in warning for warning in again.warnings) == 2


def test_flags_that_begin_with_a_dash_are_taken_with_blanks_before_them() -> None:
    config = good()
    config.repos[0].flags.extend(["-o sftp.args=x", " --no-cache"])
    assert not problems(config, good())

"""The command line and the environment that restic gets, and what of them may be shown."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from backrest.engine import command
from backrest.engine.redact import Redactor, is_secret_name
from backrest.errors import ResticError, UserError
from backrest.wire import config

REPO = config.Repo(id="nas", uri="/srv/nas", password="correct-horse")
BATCH = ["-o", "sftp.args=-oBatchMode=yes"]


def policy(**counts: int) -> config.RetentionPolicy:
    return config.RetentionPolicy(policy_time_bucketed=config.RetentionPolicy.TimeBucketedCounts(**counts))


def test_backup_arguments_stand_in_the_documented_order() -> None:
    plan = config.Plan(
        id="photos",
        paths=["/srv/photos", "/srv/more photos"],
        excludes=["*.tmp"],
        iexcludes=["thumbs.db"],
        backup_flags=["--one-file-system", "--host 'my laptop'"],
    )
    subcommand, flags = command.backup_arguments(
        plan, "laptop", parent="ab" * 32, dry_run=True, can_skip=True
    )
    assert subcommand == ["backup", "--json", "/srv/photos", "/srv/more photos"]
    assert flags == [
        *["--exclude-caches", "--tag", "plan:photos", "--tag", "created-by:laptop"],
        *["--exclude", "*.tmp", "--iexclude", "thumbs.db", "--parent", "ab" * 32],
        *["--one-file-system", "--host", "my laptop", "--dry-run", "-vv"],
    ]


@pytest.mark.parametrize(
    ("wanted", "known", "own", "count"),
    [
        (True, True, [], 1),
        (True, False, [], 0),
        (False, True, [], 0),
        (True, True, ["--skip-if-unchanged"], 1),
    ],
)
def test_skip_if_unchanged_is_given_once_and_only_to_a_restic_that_knows_it(
    wanted: bool, known: bool, own: list[str], count: int
) -> None:
    plan = config.Plan(id="p", paths=["/a"], skip_if_unchanged=wanted, backup_flags=own)
    _, flags = command.backup_arguments(plan, "i", parent="", dry_run=False, can_skip=known)
    assert flags.count("--skip-if-unchanged") == count


@pytest.mark.parametrize(
    "path", ["--password-command=touch /tmp/x", "-o", "--", "photos", "~/photos", " /photos"]
)
def test_a_path_never_becomes_a_flag_nor_another_place(path: str) -> None:
    with pytest.raises(UserError, match=r"plan p: the path .* whole path|plan p: the path .* begins with"):
        command.backup_arguments(
            config.Plan(id="p", paths=[path]), "i", parent="", dry_run=False, can_skip=False
        )


@pytest.mark.parametrize(("plan", "instance"), [("a,created-by:other", "i"), ("p", "i,plan:x"), ("p\0", "i")])
def test_an_id_that_restic_would_read_as_two_tags_is_refused(plan: str, instance: str) -> None:
    with pytest.raises(UserError):
        command.tags(plan, instance)


@pytest.mark.parametrize(
    ("cpu", "io", "expected"),
    [
        ("CPU_DEFAULT", "IO_DEFAULT", []),
        ("CPU_HIGH", "IO_DEFAULT", ["nice", "-n", "-10"]),
        ("CPU_LOW", "IO_IDLE", ["nice", "-n", "10", "ionice", "-c", "3"]),
        ("CPU_DEFAULT", "IO_BEST_EFFORT_LOW", ["ionice", "-c", "2", "-n", "7"]),
        ("CPU_DEFAULT", "IO_BEST_EFFORT_HIGH", ["ionice", "-c", "2", "-n", "0"]),
    ],
)
def test_prefix_has_cpu_before_io(cpu: str, io: str, expected: list[str]) -> None:
    repo = config.Repo(
        command_prefix=config.CommandPrefix(
            cpu_nice=config.CommandPrefix.CPUNiceLevel.Value(cpu),
            io_nice=config.CommandPrefix.IONiceLevel.Value(io),
        )
    )
    assert command.prefix(repo, lambda tool: f"/usr/bin/{tool}") == expected


def test_a_prefix_tool_that_is_not_installed_is_named() -> None:
    repo = config.Repo(id="nas", command_prefix=config.CommandPrefix(io_nice=config.CommandPrefix.IO_IDLE))
    with pytest.raises(ResticError, match=r"nas.*ionice"):
        command.prefix(repo, lambda tool: None)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], BATCH),
        (["--limit-upload 100", "-v"], ["--limit-upload", "100", "-v", *BATCH]),
        (["--cacert '${DIR}/my ca.pem'"], ["--cacert", "/etc/my ca.pem", *BATCH]),
        (["--x=$DIR$${UNSET}${EMPTY}"], ["--x=$DIR${UNSET}", *BATCH]),
        (["-o sftp.args='-p 2222'"], ["-o", "sftp.args=-p 2222"]),
        (["-o sftp.command='ssh nas -s sftp'"], ["-o", "sftp.command=ssh nas -s sftp"]),
    ],
)
def test_repo_flags_are_expanded_then_split(entries: list[str], expected: list[str]) -> None:
    assert (
        command.repo_flags(config.Repo(flags=entries), {"DIR": "/etc", "EMPTY": ""}, (0, 16, 1)) == expected
    )


@pytest.mark.parametrize(
    ("flag", "before", "since"),
    [
        ("--retry-lock", (0, 15, 2), (0, 16, 0)),
        ("sftp.args", (0, 16, 0), (0, 16, 1)),
        ("--skip-if-unchanged", (0, 16, 5), (0, 17, 0)),
    ],
)
def test_a_restic_gets_no_flag_that_is_newer_than_itself(
    flag: str, before: command.Version, since: command.Version
) -> None:
    assert not command.knows(before, flag)
    assert command.knows(since, flag)
    assert command.SINCE.keys() == {"--retry-lock", "sftp.args", "--skip-if-unchanged"}


def test_ssh_is_not_told_to_ask_nobody_where_restic_cannot_pass_it_on() -> None:
    assert command.repo_flags(REPO, {}, (0, 16, 0)) == []
    assert command.repo_flags(REPO, {}, (0, 16, 1)) == BATCH


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uri": "${UNSET}/r"}, r"its address names \$\{UNSET\}, which is not set"),
        ({"uri": "${NAME}/r"}, "its address is not a whole path"),
        ({"uri": "local:r"}, "its address is not a whole path"),
        ({"uri": "$${NAME}/r"}, "its address is not a whole path"),
        ({"uri": "/r", "env": ["A=${UNSET}"]}, "entry 1 of its environment names"),
        (
            {"uri": "/r", "env": ["RESTIC_PASSWORD_FILE=${NAME}/p"]},
            "RESTIC_PASSWORD_FILE of its environment is not",
        ),
        ({"uri": "/r", "flags": ["--x=${UNSET}"]}, "flag 1 names"),
        ({"uri": "/r", "flags": ["--password-file ${NAME}/p"]}, "the file of --password-file is not"),
    ],
)
def test_what_a_variable_lacks_or_makes_another_place_is_said(changes: dict[str, Any], words: str) -> None:
    repo = config.Repo(id="nas", **changes)
    environ = {"NAME": "mine"}
    build = (
        partial(command.repo_flags, repo, environ, (0, 16, 1))
        if repo.flags
        else partial(command.environment, repo, environ)
    )
    with pytest.raises(UserError, match=f"repo nas: {words}"):
        build()


def test_an_open_quote_in_a_flag_is_a_user_error_that_names_the_repo() -> None:
    with pytest.raises(UserError, match="repo nas"):
        command.repo_flags(config.Repo(id="nas", flags=["--x 'y"]), {}, (0, 19, 0))


def test_environment_is_the_process_then_the_password_then_the_repos_own() -> None:
    repo = config.Repo(
        uri="sftp:${WHO}@nas:/x", password="pw", env=["A=1=2", "B=${A}", "RESTIC_PASSWORD=other"]
    )
    process = {"A": "0", "WHO": "me", "RESTIC_REPOSITORY_FILE": "/f", "RESTIC_PASSWORD_FILE": "/p"}
    assert command.environment(repo, process) == {
        "A": "1=2",
        "B": "0",
        "WHO": "me",
        "RESTIC_PASSWORD": "other",
        "RESTIC_PASSWORD_FILE": "",
        "RESTIC_PASSWORD_COMMAND": "",
        "RESTIC_REPOSITORY": "sftp:me@nas:/x",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def test_without_a_password_the_environments_own_ways_to_one_stay() -> None:
    env = command.environment(
        config.Repo(uri="/r"), {"RESTIC_PASSWORD_FILE": "/p", "SSH_ASKPASS_REQUIRE": "force"}
    )
    assert env == {"RESTIC_PASSWORD_FILE": "/p", "RESTIC_REPOSITORY": "/r", "SSH_ASKPASS_REQUIRE": "force"}


@pytest.mark.parametrize("entry", ["hunter2-secret", "=hunter2-secret", "X=hunter2\0secret"])
def test_a_bad_environment_entry_is_refused_without_being_shown(entry: str) -> None:
    with pytest.raises(UserError) as caught:
        command.environment(config.Repo(id="nas", env=["A=1", entry]), {})
    assert "entry 2" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (config.RetentionPolicy(), []),
        (config.RetentionPolicy(policy_keep_all=True), []),
        (config.RetentionPolicy(policy_keep_last_n=2), ["--keep-last", "2"]),
        (config.RetentionPolicy(policy_keep_last_n=0), []),
        (config.RetentionPolicy(policy_keep_last_n=-1), []),
        (policy(), []),
        (
            policy(yearly=1, monthly=2, weekly=3, daily=4, hourly=5, keep_last_n=6),
            [
                *["--keep-last", "6", "--keep-hourly", "5", "--keep-daily", "4"],
                *["--keep-weekly", "3", "--keep-monthly", "2", "--keep-yearly", "1"],
            ],
        ),
        (policy(daily=7, hourly=-1), ["--keep-daily", "7"]),
    ],
)
def test_retention_as_flags(retention: config.RetentionPolicy, expected: list[str]) -> None:
    assert command.keep_flags(retention) == expected


@pytest.mark.parametrize(
    ("schedule", "active"),
    [
        (config.Schedule(), False),
        (config.Schedule(disabled=True), False),
        (config.Schedule(disabled=False), False),
        (config.Schedule(cron="0 0 * * *"), True),
        (config.Schedule(maxFrequencyDays=1), True),
        (config.Schedule(maxFrequencyHours=1), True),
    ],
)
def test_only_a_schedule_that_runs_replaces_the_plans_forget(schedule: config.Schedule, active: bool) -> None:
    repo = config.Repo(forget_policy=config.ForgetPolicy(schedule=schedule))
    assert command.has_active_forget_schedule(repo) is active


@pytest.mark.parametrize(
    "name",
    ["RESTIC_PASSWORD", "AWS_SECRET_ACCESS_KEY", "B2_ACCOUNT_KEY", "--rest-token", "OS_CREDENTIALS", "key"],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "RESTIC_PASSWORD_FILE", "PASSWORD_STORE_DIR", "--compression", "MONKEY", "--key-hint"],
)
def test_names_of_ordinary_values(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("rest:https://me:pa@ss@nas:8000/x", "rest:https://me:***@nas:8000/x"),
        ("the key is AKIAVERYSECRET", "the key is ***"),
        ("sshpass -p ab ssh nas", "sshpass -p *** ssh nas"),
        ("/home/user/file", "/home/user/file"),
    ],
)
def test_texts_lose_their_secrets(shown: str, expected: str) -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "AKIAVERYSECRET", "X_TOKEN": "user", "HOME": "/home/user"}
    assert Redactor.for_environment(environment).text(shown) == expected


def test_the_password_of_an_address_is_masked_wherever_it_turns_up() -> None:
    redactor = Redactor.for_environment({"RESTIC_REPOSITORY": "rest:https://me:hunter%32two@nas/"})
    assert redactor.text("tried hunter%32two and hunter2two") == "tried *** and ***"


def test_the_secrets_among_the_parameters_of_an_address_are_masked_too() -> None:
    redactor = Redactor.for_environment(
        {"RESTIC_REPOSITORY": "rest:https://tokenuser@nas/a?token=abcdef&b=cdefgh"}
    )
    said = redactor.text("nothing at rest:https://tokenuser@nas/a?token=abcdef&b=cdefgh")
    assert said == "nothing at rest:https://***@nas/a?token=***&b=cdefgh"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "x.secret=ab", "--tag", "a"], ["-o", "x.secret=***", "--tag", "a"]),
        (["--password-command", "echo ab", "-v"], ["--password-command", "***", "-v"]),
        (["--password-command=echo ab"], ["--password-command=***"]),
        (["--insecure-no-password", "a"], ["--insecure-no-password", "a"]),
        (["--exclude", "/srv/key=1"], ["--exclude", "/srv/key=1"]),
    ],
)
def test_arguments_of_secret_flags_are_masked_at_any_length(
    arguments: list[str], expected: list[str]
) -> None:
    assert Redactor(()).arguments(arguments) == expected


def test_a_redactor_does_not_show_its_secrets() -> None:
    assert "correct-horse" not in repr(Redactor(["correct-horse"]))


def test_variables_expanded_into_flags_are_secrets_but_the_home_directory_is_none() -> None:
    repo = config.Repo(password="correct-horse", uri="${HOME}/r", flags=["--x=${MINE}"])
    environ = {"HOME": "/root", "MINE": "abcdefgh", "OTHER": "zzzzzzzz"}
    assert command.secrets_in(repo, environ) == {"correct-horse", "abcdefgh"}

"""The commands as typed: usage, words, passwords, and how every error ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from admin_world import HUB_TOKEN_KEY, World
from cli_world import Run, document, here, run, world
from click.testing import CliRunner

from backrest import errors
from backrest.admin import hosts
from backrest.cli.main import COMMANDS, cli
from backrest.wire import operations as wire_operations
from backrest.wire import sync

__all__ = ["here", "run", "world"]  # fixtures


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_in_the_table_has_its_help(run: Run, name: str) -> None:
    assert run(name, "--help").stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("line", "meant"),
    [("statsu", "'status'"), ("client lst", "'list'"), ("clients list", "'client'"), ("xyz", "")],
)
def test_the_command_that_was_meant_is_named(run: Run, line: str, meant: str) -> None:
    said = run(*line.split(), code=2).stderr
    assert "No such command" in said
    assert meant in said
    assert ("Did you mean" in said) == bool(meant)


def test_the_help_names_every_command_and_completion(run: Run) -> None:
    text = run("--help").stdout
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "_BACKREST_COMPLETE" in text


@pytest.mark.parametrize(
    "line",
    [
        ("nope",),
        ("--nope",),
        ("token",),
        ("token", "create", "--ttl", "5"),
        ("token", "create", "--max-uses", "-1"),
        ("host", "add", "x"),
        ("plan", "add", "p", "--repo", "r"),
        ("plan", "add", "p", "--repo", "r", "--path", "/x", "--schedule", "often"),
        ("plan", "add", "p", "--repo", "r", "--path", "/x", "--keep-last", "0"),
        ("repo", "add", "r", "--uri", "/x"),
        ("repo", "add", "r", "--uri", "/x", "--password-env", "A", "--generate-password"),
        ("repo", "add", "r", "--uri", "/x", "--generate-password", "--env", "NOVALUE"),
        ("repo", "add", "r", "--uri", "/x", "--password-file", "/nonexistent/file"),
        ("ops", "list", "--status", "bad"),
        ("ops", "list", "--since", "whenever"),
        ("ops", "show", "zero"),
        ("ops", "import", "/nonexistent/file"),
        ("serve", "--bind-address", "nonsense"),
        ("serve", "--tls-cert", "/dev/null"),
        ("serve", "--heartbeat-interval", "0s"),
        ("serve", "--trusted-proxy", "proxy.example.com"),
        ("status", "--watch", "--check"),
        ("--log-format", "xml", "status"),
    ],
)
def test_wrong_usage_ends_with_2_and_touches_nothing(run: Run, world: World, line: tuple[str, ...]) -> None:
    result = run(*line, code=2)
    assert result.stdout == ""
    assert not world.paths.data_dir.exists()
    assert not world.paths.config_file.exists()


def test_the_shared_options_may_stand_before_and_behind_and_win_over_the_environment(
    run: Run, tmp_path: Path
) -> None:
    for number, order in enumerate(("before", "behind")):
        options = [
            "--config-file",
            str(tmp_path / f"{number}.json"),
            "--data-dir",
            str(tmp_path / f"d{number}"),
        ]
        run(*([*options, "init"] if order == "before" else ["init", *options]))
        assert (tmp_path / f"{number}.json").exists()
        assert (tmp_path / f"d{number}").is_dir()


def test_relative_paths_count_from_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = document(run("init", "--config-file", "x/c.json", "--data-dir", "y", "--json"))
    assert result["configFile"] == str(tmp_path / "x/c.json")


# --- the commands' own words


def test_init_says_what_it_did(run: Run, world: World) -> None:
    assert (
        f"Configuration written to {world.paths.config_file}." in run("init", "--instance-id", "nas").stdout
    )
    assert "nothing was changed" in run("init").stdout
    assert run("init", "--instance-id", "other", code=1).stderr.startswith(
        "backrest: this machine already has"
    )


def test_a_token_comes_on_stdout_with_the_command_to_paste(here: Run) -> None:
    result = here("token", "create", "--label", "laptop", "--url", "https://hub.example.com")
    token, command = result.stdout.splitlines()
    assert command == f"backrest host add '{token}' --url https://hub.example.com"
    assert token not in result.stderr
    assert token.split(":")[1].split("#")[0] not in here("token", "list").output
    created = document(here("token", "create", "--json"))
    assert created["token"] in created["command"]


def test_lists_are_one_json_document_also_when_empty(here: Run) -> None:
    assert document(here("token", "list", "--json")) == {"pairingTokens": []}
    assert document(here("host", "list", "--json")) == {"hosts": []}
    assert document(here("client", "list", "--json")) == {"clients": []}
    assert document(here("repo", "list", "--json")) == {"repos": []}
    assert document(here("plan", "list", "--json")) == {"plans": []}
    assert document(here("ops", "list", "--json")) == {"operations": []}
    assert document(here("status", "--json"))["peers"] == []


def test_an_empty_list_says_what_would_fill_it(here: Run) -> None:
    for noun in ("token", "host", "client", "repo", "plan"):
        result = here(noun, "list")
        assert result.stdout == ""
        assert "`backrest " in result.stderr


def test_a_token_can_come_by_standard_input(here: Run, world: World) -> None:
    token = f"{HUB_TOKEN_KEY}:{'1' * 64}#hub"
    here("host", "add", "-", "--url", "http://hub:9898", "--no-wait", input=token + "\n")
    assert world.config().current.multihost.known_hosts[0].initial_pairing_secret == "1" * 64
    assert "1" * 64 not in here("host", "list").output + here("status").output


def test_host_add_without_a_daemon_says_why_it_could_not_pair(here: Run, world: World) -> None:
    """Nobody listens at port 1 of this machine."""
    token = f"{HUB_TOKEN_KEY}:{'1' * 64}#hub"
    result = here("host", "add", token, "--url", "http://127.0.0.1:1", code=1)
    assert "not paired with 'hub': 127.0.0.1:1 refused the connection" in result.stderr
    assert "is the port in the URL right?" in result.stderr
    assert "Check that" not in result.stderr, "the reason is known"
    assert "The hub stays entered" in result.stderr
    [shown] = [line for line in here("status").stdout.splitlines() if line.startswith("hub ")]
    assert "disconnected" in shown
    assert "127.0.0.1:1 refused the connection" in shown, "it is not forgotten"
    assert world.config().current.multihost.known_hosts[0].instance_id == "hub"


def test_host_add_says_what_to_look_at_when_nobody_knows_why(
    here: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This daemon dials nobody."""
    monkeypatch.setattr(hosts, "WAIT_S", 0)
    token = f"{HUB_TOKEN_KEY}:{'1' * 64}#hub"
    with world.daemon():
        result = here("host", "add", token, "--url", "http://hub:9898", code=1)
    assert "not paired with 'hub': no answer within 30 s.\nCheck that the hub runs" in result.stderr
    assert "http://hub:9898 reaches it over HTTP/2" in result.stderr


def test_grants_are_shown_as_they_are_typed(here: Run) -> None:
    token = f"{HUB_TOKEN_KEY}:{'1' * 64}#hub"
    here("host", "add", token, "--url", "http://h", "--no-wait", "--grant", "read-operations=repo:a,!plan:b")
    assert "read-operations=repo:a,!plan:b" in here("host", "list").stdout
    assert here("host", "grant", "hub", "read-config").stdout == "The hub 'hub' may now: read-config=*.\n"
    assert here("host", "grant", "hub", "none").stdout == "The hub 'hub' may now: nothing.\n"


def test_a_plan_is_shown_as_it_was_typed(here: Run, world: World) -> None:
    world.add_repo()
    here("plan", "add", "p", "--repo", "r1", "--path", "/srv/x", "--schedule", "every 6h", "--keep-daily", "7",
         "--keep-last", "3", "--exclude", "*.tmp")  # fmt: skip
    [line] = here("plan", "list").stdout.splitlines()[1:]
    assert line.split() == ["p", "r1", "every", "6h", "daily", "7,", "last", "3", "/srv/x"]
    shown = here("plan", "show", "p").stdout
    assert "*.tmp" in shown


def test_a_plan_on_a_folder_that_is_not_there_is_entered_with_a_note(
    here: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_repo()
    monkeypatch.chdir(tmp_path)
    result = here("plan", "add", "p", "--repo", "r1", "--path", "absent")
    assert f"Note: {tmp_path}/absent does not exist" in result.stderr
    assert list(world.config().current.plans[0].paths) == [f"{tmp_path}/absent"]


# --- passwords


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", " \t\n\n", "\u00a0"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16"])
def test_a_password_file_is_read_as_restic_reads_it(
    here: Run, world: World, tmp_path: Path, ending: str, encoding: str
) -> None:
    (tmp_path / "pw").write_bytes(f"correct horse{ending}".encode(encoding))
    here("repo", "add", "r", "--uri", "/srv/r", "--password-file", str(tmp_path / "pw"), "--no-init")
    assert world.config().current.repos[0].password == "correct horse"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"nul\0"])
def test_a_file_that_is_no_password_is_refused_without_showing_it(
    here: Run, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "pw").write_bytes(content)
    result = here(
        "repo", "add", "r", "--uri", "/r", "--password-file", str(tmp_path / "pw"), "--no-init", code=1
    )
    assert "lines" not in result.output


def test_a_password_can_come_from_the_environment_or_standard_input(
    here: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "from-the-environment")
    here("repo", "add", "a", "--uri", "/a", "--password-env", "PW", "--no-init")
    here("repo", "add", "b", "--uri", "/b", "--password-file", "-", "--no-init", input="from-stdin\n")
    here("repo", "add", "c", "--uri", "/c", "--password-env", "NOT_SET", "--no-init", code=1)
    assert [repo.password for repo in world.config().current.repos] == ["from-the-environment", "from-stdin"]


def test_a_generated_password_is_stored_and_not_shown(here: Run, world: World) -> None:
    result = here("repo", "add", "r", "--uri", "/r", "--generate-password", "--no-init")
    password = world.config().current.repos[0].password
    assert len(password) >= 43
    assert password not in result.output
    assert str(world.paths.config_file) in result.stdout


def test_a_repo_whose_password_restic_finds_itself_needs_none(here: Run, world: World) -> None:
    here("repo", "add", "r", "--uri", "/r", "--env", "RESTIC_PASSWORD_FILE=/etc/pw", "--no-init")
    assert not world.config().current.repos[0].password


def test_a_local_repo_is_entered_with_its_whole_path(
    here: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here("repo", "add", "a", "--uri", "repo", "--generate-password", "--no-init")
    here("repo", "add", "b", "--uri", "sftp:nas:/repo", "--generate-password", "--no-init")
    assert [repo.uri for repo in world.config().current.repos] == [f"{tmp_path}/repo", "sftp:nas:/repo"]


def test_the_only_copy_of_a_password_is_not_removed_without_a_question(here: Run, world: World) -> None:
    world.add_repo("r1")
    assert "no terminal to ask at" in here("repo", "remove", "r1", code=2).stderr
    assert [repo.id for repo in world.config().current.repos] == ["r1"]
    here("repo", "remove", "r1", "--yes")
    assert not world.config().current.repos
    # Nothing is lost: nothing was made with it, or it was never here.
    here("repo", "add", "new", "--uri", "/r", "--generate-password", "--no-init")
    here("repo", "remove", "new")
    here("repo", "add", "own", "--uri", "/r", "--env", "RESTIC_PASSWORD_FILE=/etc/pw", "--no-init")
    here("repo", "remove", "own")


def test_secrets_in_an_environment_are_never_shown(here: Run) -> None:
    here(
        "repo",
        "add",
        "r",
        "--uri",
        "s3:x/y",
        "--generate-password",
        "--env",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "--no-init",
    )
    for line in (
        ("repo", "show", "r"),
        ("repo", "list", "--json"),
        ("config", "show"),
        ("repo", "show", "r", "--json"),
    ):
        assert "hunter2" not in here(*line).output


# --- the end of every error


def test_a_mistake_of_ours_is_reported_as_one(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("backrest.admin.client.call", broken)
    result = here("status", code=1)
    assert result.stderr.startswith(
        "backrest: internal error (ZeroDivisionError: division by zero). This is a bug"
    )
    assert isinstance(CliRunner().invoke(cli, ["status", "--debug"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.StorageError("Cannot write x: no space left on device."), "no space left"),
        (errors.UserError("wrong", ["this", "that"]), "wrong\n  this\n  that"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), "/etc/shadow: Permission denied."),
        (errors.UserError("evil \x1b[2J"), "evil \\x1b[2J"),
    ],
)
def test_an_error_is_one_harmless_sentence(
    here: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr("backrest.admin.client.call", failing)
    result = here("status", code=1)
    assert result.stderr == f"backrest: {words}\n" or words in result.stderr
    assert "\x1b" not in result.stderr


def test_ctrl_c_is_said_and_ends_as_shells_expect(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("backrest.admin.client.call", stopped)
    assert here("status", code=130).stderr.strip() == "backrest: stopped."


def test_every_status_of_an_operation_has_a_word() -> None:
    from backrest.cli import states

    assert set(states.STATUS) == set(wire_operations.OperationStatus.keys())
    assert set(states.CONNECTION) == set(sync.ConnectionState.keys())
    assert {name for names in states.STATUS_CHOICES.values() for name in names} == set(states.STATUS) - {
        "STATUS_UNKNOWN"
    }


def test_names_that_are_not_utf8_are_refused_in_a_sentence(here: Run, world: World) -> None:
    world.add_repo()
    result = here("plan", "add", "p", "--repo", "r1", "--path", os.fsdecode(b"/srv/caf\xe9"), code=2)
    assert "argument 7 is not UTF-8 text" in result.stderr

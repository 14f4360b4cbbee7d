"""The commands as typed: what they print, where to, and how they end. In this process, by click's runner."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_world import HUB_TOKEN_KEY, World, operation
from click.testing import CliRunner, Result

from backrest import errors
from backrest.admin.settings import Settings
from backrest.cli.main import COMMANDS, cli
from backrest.wire import operations as wire_operations
from backrest.wire import sync

Run = Callable[..., Result]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line on ``world``; exit code 0 unless ``code`` says otherwise."""
    monkeypatch.setenv("BACKREST_CONFIG", str(world.paths.config_file))
    monkeypatch.setenv("BACKREST_DATA", str(world.paths.data_dir))
    for name in ("BACKREST_PORT", "BACKREST_CA_FILE", "BACKREST_MULTIHOST_HEARTBEAT_INTERVAL"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*args: str, code: int = 0, input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, args, input=input)
        assert result.exit_code == code, f"exit {result.exit_code}: {result.output}"
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def here(run: Run) -> Run:
    """The same, of an instance that has its identity."""
    run("init", "--instance-id", "here")
    return run


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_in_the_table_has_its_help(run: Run, name: str) -> None:
    assert run(name, "--help").stdout.startswith("Usage: ")


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
    assert "not paired with 'hub'" in result.stderr
    assert "The hub stays entered" in result.stderr
    assert world.config().current.multihost.known_hosts[0].instance_id == "hub"


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


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_password_file_is_read_without_its_lines_end(
    here: Run, world: World, tmp_path: Path, ending: str
) -> None:
    (tmp_path / "pw").write_bytes(b"\xef\xbb\xbfcorrect horse" + ending.encode())
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


# --- backup: the bar and the words, without restic


def a_backup(monkeypatch: pytest.MonkeyPatch, operation: dict[str, Any]) -> None:
    from backrest.cli.base import Shared

    def stream(self: Shared, method: str, on_event: Any, **args: Any) -> Any:
        assert (method, args) == ("Backup", {"plan_id": "p", "dry_run": False})
        on_event({"progress": {"percentDone": 0.5, "filesDone": 1, "totalFiles": 2, "bytesDone": 3, "totalBytes": 4,
                               "errors": 0}})  # fmt: skip
        return {"operation": operation}

    monkeypatch.setattr(Shared, "stream", stream)


SUMMARY = {"totalFilesProcessed": "3", "filesNew": "3", "totalBytesProcessed": "60035", "dataAdded": "61796"}


def test_a_backup_says_what_it_saved(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    a_backup(monkeypatch, {"status": "STATUS_SUCCESS", "snapshotId": "0a30dfd0" + "0" * 56,
                           "operationBackup": {"lastStatus": {"summary": SUMMARY}}})  # fmt: skip
    result = here("backup", "p")
    assert (
        result.stdout
        == "Plan 'p': snapshot 0a30dfd0: 3 files (3 new, 0 changed), 58.6 KiB read, 60.3 KiB added.\n"
    )
    assert result.stderr == "", "no bar without a terminal"


def test_a_failed_backup_says_why_and_ends_with_1(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    a_backup(monkeypatch, {"status": "STATUS_ERROR", "displayMessage": "the disk is full"})
    result = here("backup", "p", code=1)
    assert "ended as error: the disk is full" in result.stderr
    assert document(here("backup", "p", "--json", code=1))["operation"]["status"] == "STATUS_ERROR"


def test_an_incomplete_backup_is_a_warning_and_ends_with_0(
    here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [{"item": "/x/\x1b[2J", "message": "permission denied"}]
    a_backup(monkeypatch, {"status": "STATUS_WARNING", "displayMessage": "some files could not be read",
                           "snapshotId": "1" * 64, "operationBackup": {"errors": errors}})  # fmt: skip
    result = here("backup", "p")
    assert "Warning: some files could not be read" in result.stderr
    assert "/x/\\x1b[2J: permission denied" in result.stderr


# --- history

LINE = '{"repoId":"r1","planId":"p","unixTimeStartMs":"1700000000000","operationBackup":{}}\n'


def test_an_import_with_a_bad_line_names_it_and_adds_nothing(here: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(LINE + "\n" + LINE.replace("r1", "") + "{}\nrubbish\n" + LINE)
    result = here("ops", "import", str(tmp_path / "x.jsonl"), code=1)
    assert [line.partition(":")[0].rpartition(" ")[2] for line in result.stderr.splitlines()[:-1]] == [
        "3",
        "4",
        "5",
    ]
    assert "3 bad lines: nothing was imported" in result.stderr
    assert document(here("ops", "list", "--json")) == {"operations": []}


def test_an_import_from_standard_input(here: Run) -> None:
    assert here("ops", "import", "-", input=LINE * 3).stdout == "3 operations imported.\n"
    assert document(here("ops", "import", "-", "--json", input=LINE)) == {"imported": 1}


def test_what_the_go_program_recorded_is_imported_and_shown(here: Run) -> None:
    recorded = Path(__file__).parent.parent / "conformance/vectors/captures/operations.jsonl"
    here("ops", "import", str(recorded))
    assert len(document(here("ops", "list", "--json"))["operations"]) == 13
    table = here("ops", "list").stdout.splitlines()
    assert len(table) == 14
    assert any("failed to backup" in line and " error " in line for line in table)
    assert len(here("ops", "list", "-n", "4").stdout.splitlines()) == 5
    failed = document(here("ops", "list", "--status", "error", "--json"))["operations"]
    assert [one["planId"] for one in failed] == ["broken"]
    shown = here("ops", "show", failed[0]["id"]).stdout
    assert "failed to backup" in shown
    assert document(here("ops", "show", failed[0]["id"], "--json"))["planId"] == "broken"


def test_a_table_shows_the_last_fifty_and_says_so(here: Run) -> None:
    here("ops", "import", "-", input=LINE * 51)
    result = here("ops", "list")
    assert len(result.stdout.splitlines()) == 51
    assert "the last 50" in result.stderr
    assert len(here("ops", "list", "-n", "0").stdout.splitlines()) == 52
    assert len(document(here("ops", "list", "--json"))["operations"]) == 51


def test_a_hostile_peer_cannot_write_on_the_hubs_terminal(here: Run, world: World) -> None:
    evil = "\x1b]0;pwned\x07\x9b2J\u202e"
    keyid = "ed25519." + "B" * 43
    with world.daemon() as daemon:
        daemon.config.transform(
            lambda c: c.multihost.authorized_clients.add(instance_id="laptop", keyid=keyid) and None
        )
        daemon.peers.update(
            keyid, instance_id="laptop", role="client", state=sync.CONNECTION_STATE_ERROR_PROTOCOL, message=evil,
            warnings=(evil,),
        )  # fmt: skip
        daemon.oplog.apply(
            keyid,
            [
                operation(
                    1,
                    id=1,
                    modno=1,
                    flow_id=1,
                    instance_id=evil,
                    plan_id=evil,
                    repo_id=evil,
                    display_message=evil,
                )
            ],
        )
        for line in (
            ("status",), ("status", "--json"), ("status", "--check"), ("ops", "list"), ("ops", "list", "--json"),
            ("ops", "show", "1"), ("ops", "show", "1", "--json"),
        ):  # fmt: skip
            result = CliRunner().invoke(cli, line)
            assert not set(result.output) & set("\x1b\x07\x9b\u202e"), line
        [one] = document(here("ops", "list", "--json"))["operations"]
        assert one["planId"] == evil, "for programs it is what it is"


# --- configuration


def test_validate_lists_all_problems(here: Run, tmp_path: Path) -> None:
    assert "is valid" in here("config", "validate").stdout
    bad = tmp_path / "bad.json"
    bad.write_text('{"version": 6, "instance": "a b", "plans": [{"id": "p", "repo": "q"}]}')
    result = here("config", "validate", str(bad), code=1)
    assert len(result.stderr.splitlines()) >= 3
    listed = document(here("config", "validate", str(bad), "--json", code=1))
    assert len(listed["problems"]) >= 2
    bad.write_text("{")
    assert "line 1" in here("config", "validate", str(bad), code=1).stderr


def test_every_command_refuses_a_broken_configuration_in_one_sentence(here: Run, world: World) -> None:
    world.paths.config_file.write_text('{"version": 6,')
    for line in (
        ("status",),
        ("token", "create"),
        ("init",),
        ("ops", "list", "--peer", "x"),
        ("config", "show"),
    ):
        result = here(*line, code=1)
        assert result.stdout == ""
        assert str(world.paths.config_file) in result.stderr
    assert world.paths.config_file.read_text() == '{"version": 6,'


def test_a_damaged_history_is_named_with_the_way_out(here: Run, world: World) -> None:
    here("ops", "import", "-", input=LINE)
    here("ops", "import", "-", input=LINE)
    lines = world.paths.oplog.read_bytes().splitlines(keepends=True)
    lines[1] = b"rubbish\n"
    world.paths.oplog.write_bytes(b"".join(lines))
    result = here("ops", "list", code=1)
    assert "line 2" in result.stderr
    result = here("oplog", "verify", code=1)
    assert "backrest oplog repair" in result.stderr
    assert "1 bad line set aside" in here("oplog", "repair").stdout
    here("oplog", "verify")
    assert "became" in here("oplog", "compact").stdout


def test_the_other_program_is_not_disturbed(here: Run, world: World) -> None:
    """Both programs may use one data directory: its files are left alone."""
    theirs = world.paths.data_dir / "oplog.sqlite"
    theirs.write_bytes(b"SQLite format 3\0")
    here("ops", "import", "-", input=LINE)
    assert theirs.read_bytes() == b"SQLite format 3\0"


# --- status


def test_check_ends_as_nagios_wants_it(run: Run, world: World) -> None:
    assert run("status", "--check", code=3).stdout.startswith("UNKNOWN: ")
    run("init")
    assert run("status", "--check", code=0).stdout.startswith("OK: ")
    run("host", "add", f"{HUB_TOKEN_KEY}:{'1' * 64}#hub", "--url", "http://h", "--no-wait")
    assert run("status", "--check", code=2).stdout.startswith("CRITICAL: no daemon runs")
    assert document(run("status", "--check", "--json", code=2))["check"]["verdict"] == "CRITICAL"
    with world.daemon() as daemon:
        daemon.peers.update(HUB_TOKEN_KEY, role="host", state=sync.CONNECTION_STATE_CONNECTED)
        run("status", "--check", code=0)
    world.paths.config_file.write_text("{")
    assert len(run("status", "--check", code=3).stdout.splitlines()) == 1


def test_status_shows_the_daemon_and_each_peer(here: Run, world: World) -> None:
    here("host", "add", f"{HUB_TOKEN_KEY}:{'1' * 64}#hub", "--url", "http://h", "--no-wait")
    assert "does not run" in here("status").stdout
    with world.daemon() as daemon:
        daemon.peers.update(
            HUB_TOKEN_KEY, role="host", state=sync.CONNECTION_STATE_RETRY_WAIT, message="no route"
        )
        text = here("status").stdout
        assert "pid 4242" in text
        assert "retry wait" in text
        assert "no route" in text
        [peer] = document(here("status", "--json"))["peers"]
        assert (peer["peerInstanceId"], peer["state"]) == ("hub", "CONNECTION_STATE_RETRY_WAIT")


# --- serve


def test_serve_hands_over_what_flags_and_environment_say(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []
    monkeypatch.setattr("backrest.app.run", given.append)
    monkeypatch.setattr("backrest.cli.logs.start", lambda *args, **kwargs: None)
    run("serve")
    assert given[-1] == Settings(world.paths.config_file, world.paths.data_dir)
    assert given[-1].binds == ("127.0.0.1:9898",), "loopback unless asked"

    monkeypatch.setenv("BACKREST_PORT", "9000")
    monkeypatch.setenv("BACKREST_MULTIHOST_HEARTBEAT_INTERVAL", "1m30s")
    monkeypatch.setenv("BACKREST_RESTIC_COMMAND", "/opt/restic")
    run("serve", "--trusted-proxy", "10.0.0.0/8")
    assert given[-1].bind_addresses == (":9000",)
    assert given[-1].binds[0].rpartition(":")[0] in ("[::]", "0.0.0.0")
    assert given[-1].heartbeat_s == 90
    assert given[-1].restic_command == "/opt/restic"
    assert given[-1].trusted_proxies == ("10.0.0.0/8",)

    run("serve", "--bind-address", "[::1]:1", "--bind-address", "127.0.0.1:2", "--heartbeat-interval", "5s")
    assert given[-1].binds == ("[::1]:1", "127.0.0.1:2"), "a flag wins over the environment"
    assert given[-1].heartbeat_s == 5


def test_serve_refuses_a_ca_file_that_is_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("rubbish")
    assert "PEM" in run("serve", "--ca-file", str(tmp_path / "ca.pem"), code=1).stderr


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
    result = here("plan", "add", "p", "--repo", "r1", "--path", os.fsdecode(b"/srv/caf\xe9"), code=1)
    assert "not valid" in result.stderr

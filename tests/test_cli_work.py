"""The commands as typed: backups, history, configuration, status, and serve."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from admin_world import HUB_TOKEN_KEY, World, add_client, operation
from cli_world import Run, document, here, run, world
from click.testing import CliRunner
from processes import BACKREST, Machine
from store_disk import largest_file

from backrest.admin import imports
from backrest.admin.context import Context
from backrest.admin.settings import Settings
from backrest.cli.main import cli
from backrest.refusals import text
from backrest.store.oplog import OpLog
from backrest.store.plannotes import Note, PlanNotes
from backrest.wire import sync

__all__ = ["here", "run", "world"]  # fixtures


# --- backup: the bar and the words, without restic


def a_backup(monkeypatch: pytest.MonkeyPatch, operation: dict[str, Any], **more: Any) -> None:
    from backrest.cli.base import Shared

    def stream(self: Shared, method: str, on_event: Any, **args: Any) -> Any:
        assert (method, args) == ("Backup", {"plan_id": "p", "dry_run": False})
        on_event({"progress": {"percentDone": 0.5, "filesDone": 1, "totalFiles": 2, "bytesDone": 3, "totalBytes": 4,
                               "errors": 0}})  # fmt: skip
        return {"operation": operation} | more

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


def test_what_fails_after_a_backup_is_said_and_ends_with_1(
    here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = {"status": "STATUS_SUCCESS", "snapshotId": "1" * 64}
    a_backup(monkeypatch, saved, problems=["failed to forget: no rights"])
    result = here("backup", "p", code=1)
    assert "snapshot 11111111" in result.stdout
    assert "the backup is saved, but then: failed to forget: no rights" in result.stderr


def test_a_confirmed_plan_is_compared_with_its_newest_snapshot(
    here: Run, world: World, tmp_path: Path
) -> None:
    world.add_repo()
    empty = tmp_path / "empty"
    empty.mkdir()
    here("plan", "add", "p1", "--repo", "r1", "--path", str(empty))
    assert "has no snapshot that could be confirmed" in here("plan", "confirm", "p1", code=1).stderr
    log = OpLog.open(world.paths.oplog)
    log.add([operation(n, snapshot_id=str(n) * 64) for n in (1, 2)] + [operation(3)])
    log.close()
    said = here("plan", "confirm", "p1").stdout
    assert "Plan 'p1': the snapshot 22222222 with 0 files is as it should be." in said
    assert f"{empty}: nothing is stored of it, on purpose" in said
    assert PlanNotes.open(world.paths.plan_notes).plan("p1") == Note("2" * 64, (str(empty),))
    here("plan", "remove", "p1")
    assert PlanNotes.open(world.paths.plan_notes).plan("p1") == Note()


# --- history

LINE = '{"repoId":"r1","planId":"p","status":3,"unixTimeStartMs":"1700000000000","operationBackup":{}}\n'


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


def test_a_removed_clients_rows_are_marked_and_its_history_is_purged_by_name(here: Run, world: World) -> None:
    """Its name is that of a client again, with another key."""
    old = add_client(world)
    with Context(world.paths) as context:
        context.oplog.apply(old, [operation(7, id=7, modno=7, flow_id=7, instance_id="laptop")])
    here("ops", "import", "-", input=LINE)
    here("client", "remove", "laptop")
    add_client(world, keyid="ed25519." + "C" * 43)
    first, second = here("ops", "list").stdout.splitlines()[1:]
    assert "here" in first
    assert "(archived)" not in first
    assert "laptop (archived)" in second
    shown = document(here("ops", "list", "--json"))["operations"]
    assert [one.get("archived") for one in shown] == [None, True]
    assert "removed, its history is archived" in here("ops", "show", shown[1]["id"]).stdout
    assert "archived:laptop" in here("client", "remove", "laptop", "--purge", code=1).stderr
    assert (
        "1 operation of its history deleted" in here("client", "remove", "archived:laptop", "--purge").stdout
    )
    assert "(archived)" not in here("ops", "list").stdout


def test_an_import_from_standard_input(here: Run) -> None:
    assert here("ops", "import", "-", input=LINE * 3).stdout == "3 operations imported.\n"
    assert document(here("ops", "import", "-", "--json", input=LINE)) == {"imported": 1}


def test_an_import_without_a_daemon_opens_the_history_once(
    here: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a long one is read again for each batch: the square of the work. Each closing leaves a mark."""
    monkeypatch.setattr(imports, "BATCH", 2)
    here("ops", "import", "-", input=LINE * 9)
    assert world.paths.oplog.read_bytes().count(b'"highestId":"9"') == 1
    assert world.paths.oplog.read_bytes().count(b'"highestId"') == 2  # the first line, and the end
    here("ops", "list")  # the lock is free again


def test_flows_of_a_file_stay_together_over_batches(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "BATCH", 2)
    flows = ("9", "4", "9", "4", "-5", "9", "-5")
    text = "".join(LINE.replace("{", f'{{"flowId":"{flow}",', 1) for flow in flows)
    assert here("ops", "import", "-", input=text).stdout == "7 operations imported.\n"
    stored = document(here("ops", "list", "--json"))["operations"]
    assert [one["flowId"] for one in stored] == ["1", "2", "1", "2", "5", "1", "5"]


def test_an_import_that_fails_half_way_says_how_far_it_came(
    here: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH", 2)
    lines = "".join(LINE.replace("{", f'{{"displayMessage":"{"x" * 400}{n}",', 1) for n in range(6))
    here("ops", "import", "-", input=LINE)
    with largest_file(world.paths.oplog.stat().st_size + 3000):
        said = here("ops", "import", "-", input="\n" + lines, code=1).stderr
    assert "4 operations of - were imported, up to line 5; the next 2 failed" in said
    assert "tail -n +6" in said
    assert len(document(here("ops", "list", "--json"))["operations"]) == 5


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("ops", "import", "history"), ("Checking", "Importing")),
        (("oplog", "verify"), ("Checking",)),
        (("oplog", "compact"), ("Compacting",)),
        (("oplog", "repair"), ("Repairing",)),
    ],
    ids=" ".join,
)
def test_what_takes_long_has_a_bar_on_a_terminal_alone(
    tmp_path: Path, command: tuple[str, ...], words: tuple[str, ...]
) -> None:
    machine = Machine(tmp_path, "here")
    machine.ok("init")
    (tmp_path / "history").write_text(LINE * 10)
    assert machine.run(*command[:2], *(str(tmp_path / name) for name in command[2:])).stderr == ""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*BACKREST, *command],
        env={**machine.env, "TERM": "xterm"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait() == 0
    assert all(word in shown.decode() for word in words)


def test_an_import_holds_a_batch_and_not_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        """KiB of the process that imports so many operations of 2 KB."""
        line = LINE.replace("{", '{"displayMessage":"' + "x" * 2000 + '",', 1)
        machine = Machine(tmp_path, f"of-{count}")
        machine.ok("init")
        (machine.directory / "history").write_text(line * count)
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, "ops", "import", str(machine.directory / "history")],
            env=machine.env,
            check=True,
            capture_output=True,
            text=True,
        )
        return int(done.stdout.splitlines()[-1])

    assert peak(20_000) - peak(2_000) < 20_000  # of 40 MB


_PEAK = """
import resource, runpy
try:
    runpy.run_module("backrest", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


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
            warnings=(text(evil),),
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
    assert "`backrest oplog repair` sets it aside" in result.stderr
    result = here("oplog", "verify", code=1)
    assert "backrest oplog repair" in result.stderr
    assert "1 bad line set aside" in here("oplog", "repair").stdout
    here("oplog", "verify")
    assert "became" in here("oplog", "compact").stdout


def test_what_repair_did_is_said(here: Run, world: World) -> None:
    here("ops", "import", "-", input=LINE * 12)
    here("oplog", "compact")
    mark, *lines = world.paths.oplog.read_bytes().splitlines(keepends=True)
    world.paths.oplog.write_bytes(b"".join(lines))
    assert "line 1: the first line is not that" in here("oplog", "verify", code=1).stderr
    said = here("oplog", "repair").stdout
    assert "a first line written" in said
    assert "aside" not in said
    assert "It has 12 operations now" in said
    world.paths.oplog.write_bytes(mark + b"".join(sorted(lines)))
    assert "line 7: operation 2 comes after" in here("oplog", "verify", code=1).stderr
    said = here("oplog", "repair").stdout
    assert "8 lines put in order" in said
    assert "first line" not in said
    assert "needs no repair" in here("oplog", "repair").stdout
    world.paths.oplog.write_bytes(mark + b"rubbish\n" + b"".join(lines))
    assert "line 2: not JSON" in here("oplog", "verify", code=1).stderr
    assert "1 bad line set aside into" in here("oplog", "repair").stdout


def test_an_unfinished_write_at_the_end_is_no_damage(here: Run, world: World) -> None:
    here("ops", "import", "-", input=LINE)
    for tail in (b' {"id":', b' {"id":\n{"id":\n'):
        with world.paths.oplog.open("ab") as file:
            file.write(tail)
        result = here("oplog", "verify")
        assert "no bad line" in result.stdout
        assert "the next start cuts it off" in result.stderr
        assert len(document(here("ops", "list", "--json"))["operations"]) == 1
        assert here("oplog", "verify").stderr == ""


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

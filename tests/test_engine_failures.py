"""Why restic failed, from what it said: the recorded outputs of five versions, and kinds that could not be recorded.

``captures/restic-failures.jsonl``: how restic 0.14.0, 0.16.5, 0.17.3, 0.18.1 and 0.19.1 failed, a line for each call:
version, case, arguments, exit status (negative: the signal) and the first 1,800 bytes of both outputs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from engine_world import World, calls, fake_backup, fake_restic, make_repo, make_source

from backrest.engine import failures
from backrest.engine.failures import Reason, failure, find_cause
from backrest.engine.restic import Repository, Restic, Said
from backrest.engine.tasklog import TaskLog
from backrest.errors import ResticError
from backrest.wire import config, operations

CAPTURES = Path(__file__).parents[1] / "conformance" / "vectors" / "captures"
RECORDED = [json.loads(line) for line in (CAPTURES / "restic-failures.jsonl").read_text().splitlines()]

# Case of the recording: its kind, and what of the cause stands in the sentence.
EXPECTED = {
    "no repository": (Reason.NO_REPOSITORY, "no such file or directory"),
    "nobody listens": (Reason.NO_CONNECTION, "connection refused"),
    "no such host": (Reason.NO_HOST, "no such host"),
    "html instead of json": (Reason.SERVER, "invalid character '<'"),
    "http 500": (Reason.SERVER, "500 Internal Server Error"),
    "http 403": (Reason.REFUSED, "403 Forbidden"),
    "ssh: permission denied": (Reason.REFUSED, "Permission denied (publickey,password)"),
    "ssh: host key": (Reason.HOST_KEY, "Host key verification failed"),
    "ssh: cannot resolve": (Reason.NO_HOST, "Could not resolve hostname nas"),
    "rclone: no section": (Reason.RCLONE, "didn't find section in config file"),
    "rclone is missing": (
        Reason.RCLONE,
        "didn't find section in config file",
    ),  # it was there, without a remote
    "wrong password": (Reason.WRONG_PASSWORD, "wrong password or no key found"),
    "keys are gone": (Reason.WRONG_PASSWORD, "keys are gone"),
    "password file is missing": (Reason.PASSWORD_SOURCE, "/nofile does not exist"),
    "password command fails": (Reason.PASSWORD_SOURCE, "exit status 1"),
    "no password": (Reason.NO_PASSWORD, "an empty password"),
    "no such scheme": (Reason.ADDRESS, "invalid backend"),
    "unknown flag": (Reason.USAGE, "unknown flag: --nonsense"),
    "bad exclude": (Reason.USAGE, "invalid pattern(s) provided: ["),
    "bad keep": (Reason.USAGE, 'invalid argument "x"'),
    "a file cannot be read": (Reason.SOURCE, "open /TOP/src/secret: permission denied"),
    "a folder cannot be read": (Reason.SOURCE, "cannot be read"),
    "one source is missing": (Reason.SOURCE, "/TOP/gone does not exist"),
    "missing source": (Reason.SOURCE, "directories/files do not exist"),
    "repository cannot be written": (Reason.DENIED, "permission denied"),
    "locked by a living process": (Reason.LOCKED, "on vm by root (UID 0, GID 0), since 2026-11-30"),
    "locked by a dead process": (Reason.LOCKED, "`backrest unlock nas`"),
    "index is gone": (Reason.DAMAGED, "not"),
    "packs are gone": (Reason.DAMAGED, "pack"),
    "config is empty": (Reason.DAMAGED, "zero size"),
    "no space in the repository": (Reason.NO_SPACE, "no space left on device"),
    "no space for a lock": (Reason.NO_SPACE, "no space left on device"),
    "no such snapshot": (Reason.NO_SNAPSHOT, "no matching ID found"),
    "no such snapshot ls": (Reason.NO_SNAPSHOT, "no matching ID found"),
    "the cache folder cannot be made": (Reason.CACHE, "permission denied"),
    "SIGINT": (Reason.INTERRUPTED, "interrupted"),
    "SIGTERM": (Reason.INTERRUPTED, "interrupted"),
    "SIGKILL": (Reason.KILLED, "signal 9"),
}
# ssh had said why when restic ended, and restic had not passed it on yet.
UNTOLD = (Reason.SSH, "unable to start the sftp session")


def said_by(row: dict[str, Any]) -> list[str]:
    """What of an output error messages are made of, by the way that every call takes."""
    used = Repository(Restic("restic", (0, 18, 1)), make_repo("/r"), os.environ, log=TaskLog())
    said = Said()
    for stream in ("stdout", "stderr"):
        for line in row[stream].encode().splitlines():
            used._said(said, line)
    return said.lines


def test_each_recorded_failure_has_its_kind_and_its_cause() -> None:
    wrong = []
    failed = [row for row in RECORDED if row["exit"] != 0]
    for row in failed:
        reason, words = EXPECTED[row["case"]]
        if row["case"].startswith("ssh: ") and "subprocess" not in row["stderr"]:
            reason, words = UNTOLD
        if row["case"] == "index is gone" and '"error":{}' in row["stderr"]:
            reason, words = Reason.SOURCE, "cannot be read"  # restic 0.14 and 0.16 do not say more
        found = failure("nas", "/TOP/repo", row["args"][0], row["exit"], said_by(row))
        short = "\n" not in str(found) and len(str(found)) < 600
        if found.reason is not reason or words not in str(found) or "goexit" in str(found) or not short:
            wrong.append((row["version"], row["case"], found.reason, str(found)))
    assert not wrong
    assert {row["case"] for row in failed} == EXPECTED.keys()


@pytest.mark.parametrize(
    ("code", "lines", "reason", "words"),
    [
        (11, ["Save(<lock/a>) failed: write /r/locks/a: no space left on device"], Reason.NO_SPACE, "no space"),
        (
            1,
            [
                "repo already locked, waiting up to 5m0s for the lock",
                "unable to create lock in backend: write /r/locks/a: no space left on device",
            ],
            Reason.NO_SPACE,
            "no space",
        ),
        (1, ["Fatal: unable to save snapshot: 507 Insufficient Storage"], Reason.NO_SPACE, ""),
        (1, ["Fatal: unable to open config file: Stat: Access Denied."], Reason.REFUSED, "Access Denied"),
        (1, ["Fatal: unable to open config file: Stat: The specified key does not exist."], Reason.NO_REPOSITORY, ""),
        (1, ["Fatal: unable to open config file: Head: x509: unknown authority"], Reason.TLS, ""),
        (1, ["Fatal: unable to open config file: http: server gave HTTP response to HTTPS client"], Reason.TLS, ""),
        (
            1,
            ['Fatal: unable to open repository at sftp:x: cmd.Start: exec: "ssh": executable file not found in $PATH'],
            Reason.NO_PROGRAM,
            "ssh",
        ),
        (
            1,
            [
                "subprocess ssh: Warning: Permanently added 'nas' (ED25519) to the list of known hosts.",
                "subprocess ssh: ssh: connect to host nas port 22: Connection timed out",
                "Fatal: unable to open repository at sftp:nas:/r: unable to start the sftp session, error: EOF",
            ],
            Reason.NO_CONNECTION,
            "connect to host nas port 22",
        ),
        (
            1,
            [
                "subprocess ssh: This account is currently not available.",
                "Fatal: unable to open repository at sftp:nas:/r: unable to start the sftp session, error: EOF",
            ],
            Reason.SSH,
            "This account is currently not available",
        ),
        (1, ["Fatal: unsupported repository version"], Reason.FORMAT, ""),
        (2, ["fatal error: runtime: out of memory", "", "runtime stack:", "runtime.throw(...)"], Reason.MEMORY, ""),
        (1, ["ionice: ioprio_set failed: Operation not permitted"], Reason.PREFIX, "command prefix"),
        (
            1,
            ["nice: cannot set niceness: Permission denied", "Fatal: wrong password or no key found"],
            Reason.WRONG_PASSWORD,
            "",
        ),
        (1, ["Fatal: unable to open: open /no space left on device/config: permission denied"], Reason.DENIED, ""),
        (1, ["Fatal: create repository at /x failed: config file already exists"], Reason.EXISTS, ""),
        (10, [], Reason.NO_REPOSITORY, "there is no restic repository at"),
        (11, [], Reason.LOCKED, "locked"),
        (12, [], Reason.WRONG_PASSWORD, "is wrong"),
        (130, [], Reason.INTERRUPTED, "interrupted"),
        (1, ["Fatal: something new"], Reason.OTHER, "failed (exit code 1): something new"),
        (2, [], Reason.OTHER, "restic backup failed (exit code 2)"),
    ],
)  # fmt: skip
def test_kinds_that_were_not_recorded(code: int, lines: list[str], reason: Reason, words: str) -> None:
    found = failure("nas", "/no space left on device", "backup", code, lines)
    assert found.reason is reason, str(found)
    assert words in str(found)
    assert found.exit_code == code


@pytest.mark.parametrize(
    ("age", "words"),
    [
        ("29m59.9s", "locked by another restic: PID 8 on vm, since 2026-11-23 09:10:28 (30 minutes ago). Wait for it"),
        ("30m1s", "locked by a restic that is gone: PID 8 on vm, since 2026-11-23 09:10:28 (30 minutes ago)"),
        ("75h3m1.5s", "that is gone: PID 8 on vm, since 2026-11-23 09:10:28 (3 days ago)"),
        ("512.1ms", "(1 seconds ago)"),
    ],
)  # fmt: skip
def test_a_lock_says_its_age_and_the_way_out(age: str, words: str) -> None:
    lines = [
        "unable to create lock in backend: repository is already locked by PID 8 on vm",
        f"lock was created at 2026-11-23 09:10:28 ({age} ago)",
    ]
    found = str(failure("nas", "/r", "forget", 1, lines))
    assert words.replace("(1 seconds", "(0 seconds" if age == "512.1ms" else "(1 seconds") in found
    assert "`backrest unlock nas`" in found


def test_the_cause_is_bounded_and_a_list_says_how_many_more() -> None:
    assert len(find_cause(1, ["x" * 5000] * 9).said) == failures.MAX_DETAIL
    assert failures.listed([*"abcde"]) == "a; b; c; d; e"
    assert failures.listed([*"abcdef"]) == "a; b; c; d; e; and 1 more"


async def test_the_first_and_the_last_lines_of_a_long_output_are_kept(tmp_path: Path) -> None:
    body = """
sys.stderr.write("subprocess ssh: me@nas: Permission denied (publickey).\\n")
sys.stderr.write("subprocess ssh: noise\\n" * 500)
sys.stderr.write("Fatal: unable to open repository at sftp:nas:/r: unable to start the sftp session, error: EOF\\n")
for n in range(300): sys.stderr.write("main.f%d\\n\\t/src/restic/main.go:%d\\n" % (n, n))
sys.exit(1)
"""
    used = World(tmp_path / "w", command=fake_restic(tmp_path, body))
    with pytest.raises(
        ResticError, match=r"refuses the login: ssh: me@nas: Permission denied.*All that restic"
    ) as caught:
        await used.engine.repo_guid(make_repo("/r"))
    used.oplog.close()
    [kept] = used.paths.tasklogs.iterdir()
    assert str(caught.value).endswith(f"All that restic said is in {kept}")
    log = kept.read_text()
    assert "main.go:9" in log
    assert log.startswith("[repo-manager] command: ")


async def test_a_backup_tells_of_damage_that_it_came_upon(tmp_path: Path) -> None:
    body = """
for n in range(3):
    say(message_type="error", error={"message": "tree %d is not known; the repository could be damaged" % n}, item="/")
done()
sys.exit(3)
"""
    used = World(tmp_path / "w", command=fake_backup(tmp_path, body))
    plan = config.Plan(id="photos", repo="nas", paths=[str(make_source(tmp_path))])
    used.configure(make_repo("/r", guid="ef" * 32), plan)
    done = await used.engine.backup("photos")
    assert done.status == operations.STATUS_WARNING
    assert "repo nas: the repository is damaged: tree 0 is not known" in done.display_message
    assert "tree 2 is not known" in used.task_log(done)
    used.oplog.close()


ODD = '[{"id": "%s", "time": "%s"}, {"id": "%s", "time": "2026-01-01T00:00:00Z"}]'


async def test_an_odd_snapshot_of_another_plan_stops_neither_backup_nor_index(tmp_path: Path) -> None:
    """The own plan's list is told by its tags."""
    odd = ODD % ("ee" * 32, "0000-01-01T00:00:00Z", "ab" * 32)
    command = fake_backup(tmp_path, snapshots=f"print('[]' if '--tag' in args else {odd!r})")
    used = World(tmp_path / "w", command=command)
    plan = config.Plan(id="photos", repo="nas", paths=[str(make_source(tmp_path))])
    used.configure(make_repo("/r", guid="ef" * 32), plan)
    done = await used.engine.backup("photos")
    words = "snapshot eeeeeeee is passed over: '0000-01-01T00:00:00Z' is not a time"
    assert words in done.display_message
    assert words in used.task_log(done)
    assert (await used.engine.index("nas")).skipped == (words,)
    assert [one.snapshot_id for one in used.operations() if one.HasField("operation_index_snapshot")] == [
        "ab" * 32
    ]
    used.oplog.close()


async def test_nothing_is_forgotten_beside_an_odd_snapshot_of_the_same_plan(tmp_path: Path) -> None:
    """restic would take the one of the year 10000 for the newest."""
    command = fake_backup(
        tmp_path, snapshots=f"print({ODD % ('ee' * 32, '10000-01-01T00:00:00Z', 'ab' * 32)!r})"
    )
    used = World(tmp_path / "w", command=command)
    keep = config.RetentionPolicy(policy_keep_last_n=1)
    plan = config.Plan(id="photos", repo="nas", paths=[str(make_source(tmp_path))], retention=keep)
    used.configure(make_repo("/r", guid="ef" * 32), plan)
    done = await used.engine.backup("photos")
    assert done.status == operations.STATUS_WARNING
    assert "no snapshot is forgotten after it" in done.display_message
    assert not any(call[0] == "forget" for call in calls(command))
    used.oplog.close()


async def test_what_surrounds_a_message_is_passed_over_and_in_the_task_log(tmp_path: Path) -> None:
    body = """
print("wrapper begins")
sys.stdout.write("\\x1b[2Kbanner: "); done()
print("wrapper ends")
"""
    used = World(
        tmp_path / "w",
        command=fake_backup(tmp_path, body, snapshots="print('mounted'); print('[]'); print('bye')"),
    )
    plan = config.Plan(id="photos", repo="nas", paths=[str(make_source(tmp_path))])
    used.configure(make_repo("/r", guid="ef" * 32), plan)
    log = used.task_log(await used.engine.backup("photos"))
    for words in ("wrapper begins", "banner:", "wrapper ends", "mounted", "bye"):
        assert words in log
    used.oplog.close()


async def test_the_tries_until_the_time_is_up_are_the_cause(tmp_path: Path) -> None:
    """restic since 0.18 tries for 15 minutes where nobody listens."""
    body = """
sys.stderr.write('Stat(<config/>) returned error, retrying after 1.2s: Head "http://127.0.0.1:1/config": dial tcp '
                 '127.0.0.1:1: connect: connection refused\\n')
sys.stderr.flush()
def end(*_): sys.stderr.write("signal interrupt received, cleaning up\\nFatal: context canceled\\n"); sys.exit(1)
signal.signal(signal.SIGINT, end)
open(__file__ + ".ready", "w").close()
signal.pause()
"""
    used = World(tmp_path / "w", command=fake_restic(tmp_path, body, "0.19.1"))
    with pytest.raises(
        failures.ResticFailure, match=r"cannot be reached: Head.*connection refused"
    ) as caught:
        await used.engine.repo_guid(make_repo("rest:http://127.0.0.1:1/"), within_s=1.0)
    assert caught.value.reason is Reason.NO_CONNECTION
    used.oplog.close()

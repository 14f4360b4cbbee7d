"""restic's JSON and exit codes: the versions differ, the messages of the history do not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.engine import parse
from backrest.engine.failures import Reason, classify, detail, failure
from backrest.engine.restic import parse_version
from backrest.wire import restic

ID = "0a30dfd0c32397262daf0d324d1dce8fdcd3093e4e71bf1c109d64534d171826"

# As restic 0.14 prints it: no summary, null for what is missing.
OLD = {"time": "2026-11-23T09:09:59.379435328Z", "tree": "ab" * 32, "paths": ["/a"], "tags": None, "id": ID}
# As restic 0.18 prints it.
NEW = OLD | {
    "time": "2026-11-23T10:09:59.379435328+01:00",
    "parent": "cd" * 32,
    "hostname": "laptop",
    "username": "root",
    "tags": ["plan:photos", "created-by:laptop"],
    "program_version": "restic 0.18.1",
    "summary": {
        "backup_start": "2026-11-23T10:09:59.379435328+01:00",
        "backup_end": "2026-11-23T10:10:00.096368603+01:00",
        "files_new": 3,
        "data_added": 61796,
        "data_added_packed": 60000,
        "total_bytes_processed": 60035,
    },
    "short_id": ID[:8],
}


def test_a_snapshot_of_an_old_restic_has_no_summary() -> None:
    assert parse.snapshot(OLD) == restic.ResticSnapshot(
        id=ID, unix_time_ms=1795424999379, tree="ab" * 32, paths=["/a"]
    )


def test_a_snapshot_of_a_new_restic_has_its_duration_in_whole_milliseconds() -> None:
    found = parse.snapshot(NEW)
    assert found.unix_time_ms == 1795424999379
    assert found.tags == ["plan:photos", "created-by:laptop"]
    assert found.summary == restic.SnapshotSummary(
        files_new=3, data_added=61796, total_bytes_processed=60035, total_duration=0.716
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
        ("2026-11-23T09:09:59.379435328Z", 1_795_424_999_379_435_328),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
    ],
)
def test_times_keep_their_nanoseconds(text: str, expected: int) -> None:
    assert parse.time_ns(text) == expected


@pytest.mark.parametrize("value", [None, 5, "", "yesterday", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z"])
def test_what_is_no_time_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="time"):
        parse.time_ns(value)


@pytest.mark.parametrize("value", [None, "9a2ed498", ID.upper(), ID + "0", "--help" * 12])
def test_only_a_full_snapshot_id_is_one(value: object) -> None:
    with pytest.raises(ValueError, match="full snapshot id"):
        parse.snapshot(OLD | {"id": value})


def test_a_status_without_files_keeps_those_named_before() -> None:
    found = {"percent_done": 0.5, "total_files": 4, "files_done": 2, "total_bytes": 8, "bytes_done": 4}
    assert list(parse.status(found, ["/a"]).current_file) == ["/a"]
    assert list(parse.status(found | {"current_files": ["/b"]}, ["/a"]).current_file) == ["/b"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"Op": "open", "Path": "/x", "Err": 13}, "open /x: permission denied"),
        ({"message": "open /x: permission denied"}, "open /x: permission denied"),
        ({"Op": "lstat", "Path": "/x", "Err": {}}, "lstat /x"),
        ("plain", "plain"),
        ({}, ""),
        (None, ""),
    ],
)
def test_errors_of_all_versions_have_a_reason(error: object, message: str) -> None:
    found = parse.backup_error({"message_type": "error", "error": error, "during": "archival", "item": "/x"})
    assert found == restic.BackupProgressError(item="/x", during="archival", message=message)


def test_the_summary_keeps_restics_duration_and_id() -> None:
    found = parse.backup_summary({"files_new": 3, "total_duration": 0.771032147, "snapshot_id": ID})
    assert found == restic.BackupProgressSummary(files_new=3, total_duration=0.771032147, snapshot_id=ID)


def test_a_skipped_snapshot_has_no_negative_duration() -> None:
    assert parse.backup_summary({"total_duration": -9223372036.854776}) == restic.BackupProgressSummary()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            *["percent_done", "total_files", "current_files", "error", "item", "during", "snapshot_id"],
            *["files_new", "total_duration", "message", "Op", "Err", "Path", "tags", "summary", "paths"],
        ]
    ),
    JSON,
)


@given(FIELDS)
def test_no_message_of_restics_is_too_strange(found: dict[str, object]) -> None:
    for message in (parse.status(found), parse.backup_summary(found), parse.backup_error(found)):
        assert type(message).FromString(message.SerializeToString(deterministic=True)).ByteSize() >= 0
    assert parse.snapshot({**found, "id": ID, "time": OLD["time"]}).id == ID


def test_a_lone_surrogate_does_not_break_the_message() -> None:
    line = b'{"message_type":"error","item":"/a\\ud800b","during":"scan","error":{"message":"x"}}'
    found = parse.message(line)
    assert found is not None
    assert parse.backup_error(found).item == "/a?b"


@pytest.mark.parametrize(
    "line",
    [b"", b"text", b"{", b"{}", b'{"message_type":1}', b"[1]", b'{"a":' * 5000],
    ids=["empty", "text", "torn", "untyped", "number", "list", "deep"],
)
def test_what_is_no_message_is_text(line: bytes) -> None:
    assert parse.message(line) is None


def test_lines_in_front_of_a_document_are_passed_over() -> None:
    assert parse.document(b"warning: x\n[oops\n[\n1]\n") == [1]
    assert parse.document(b"") is None
    assert parse.document(b"null\n") is None
    with pytest.raises(ValueError, match="no JSON"):
        parse.document(b"Fatal: no\n")


def test_forget_merges_its_groups_oldest_first() -> None:
    later = OLD | {"id": "ff" * 32, "time": "2026-11-24T00:00:00Z"}
    groups = [{"remove": [later], "keep": None}, {"remove": None}, {"remove": [OLD], "keep": [later]}]
    assert [one.id for one in parse.removed(groups)] == [ID, "ff" * 32]
    assert parse.removed(None) == []


def test_tags_attribute_by_the_first_of_their_kind() -> None:
    found = restic.ResticSnapshot(tags=["x", "plan:a", "plan:b", "created-by:"])
    assert parse.tag(found, "plan") == "a"
    assert parse.tag(found, "created-by") == ""


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (10, "", Reason.NO_REPOSITORY),
        (11, "", Reason.LOCKED),
        (12, "", Reason.WRONG_PASSWORD),
        (1, "Fatal: wrong password or no key found", Reason.WRONG_PASSWORD),
        (
            1,
            "Fatal: unable to open config file: stat /x/config: no such file or directory\nIs there",
            Reason.NO_REPOSITORY,
        ),
        (1, "Fatal: unable to open config file: dial tcp: connection refused", Reason.UNREACHABLE),
        (1, "unable to create lock in backend: repository is already locked by PID 1", Reason.LOCKED),
        (1, "Fatal: an empty password is not a password", Reason.NO_PASSWORD),
        (1, "Fatal: create repository at /x failed: config file already exists", Reason.EXISTS),
        (1, "Host key verification failed.", Reason.HOST_KEY),
        (1, "Fatal: something new", Reason.OTHER),
    ],
)
def test_reasons_by_code_or_by_text(code: int, said: str, reason: Reason) -> None:
    assert classify(code, said) is reason


@pytest.mark.parametrize(
    ("code", "lines", "sentence"),
    [
        (12, ["Fatal: wrong password or no key found"], "the password of repo nas is wrong"),
        (10, ["Fatal: repository does not exist"], "repo nas: there is no restic repository at /srv/nas"),
        (
            1,
            [
                "unable to create lock in backend: repository is already locked by PID 8 on vm by root",
                "lock was created at 2026-11-23 09:10:28 (2s ago)",
                "storage ID 1d2c",
            ],
            "repo nas is locked by another restic: PID 8 on vm by root, "
            "lock was created at 2026-11-23 09:10:28 (2s ago)",
        ),
        (1, ["scan", "Fatal: disk full"], "restic backup failed (exit code 1): disk full"),
        (2, [], "restic backup failed (exit code 2)"),
        (-9, [], "restic backup was killed by signal 9"),
    ],
)
def test_failures_are_sentences(code: int, lines: list[str], sentence: str) -> None:
    found = failure("nas", "/srv/nas", "backup", code, lines)
    assert str(found) == sentence
    assert found.exit_code == (code if code > 0 else None)


def test_the_detail_of_a_failure_is_bounded() -> None:
    assert len(detail(["x" * 5000] * 9)) == 1000


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("restic 0.14.0 compiled with go1.19.8 on linux/amd64", (0, 14, 0)),
        ("warning\nrestic 0.18.1-dev (compiled manually)", (0, 18, 1)),
        ("rustic 0.9", None),
    ],
)
def test_versions(output: str, expected: tuple[int, int, int] | None) -> None:
    assert parse_version(output) == expected


def test_messages_survive_json_as_restic_prints_it() -> None:
    found = parse.message(json.dumps({"message_type": "status", "percent_done": 1}).encode())
    assert found is not None
    assert parse.status(found).percent_done == 1.0

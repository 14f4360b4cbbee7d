"""restic's JSON and exit codes: the versions differ, the messages of the history do not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.engine import parse
from backrest.engine.restic import parse_version
from backrest.wire import restic

ID = "0a30dfd0c32397262daf0d324d1dce8fdcd3093e4e71bf1c109d64534d171826"

# As restic 0.14 prints it: no summary, null for what is missing.
OLD = {"time": "2026-11-23T09:09:59.379435328Z", "tree": "ab" * 32, "paths": ["/a"], "tags": None, "id": ID}
_KEYS = (
    "id",
    "time",
    "tags",
    "paths",
    "summary",
    "error",
    "Err",
    "Op",
    "message",
    "item",
    "current_files",
    "total_files",
)
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
        ({}, parse.UNSAID),
        (None, parse.UNSAID),
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
    assert parse.document(b"warning: x\n[oops\n[\n{}]\n", parse.is_list) == ([{}], "warning: x\n[oops\n\n")
    assert parse.document(b"", parse.is_list) == (None, "")
    assert parse.document(b"null\n", parse.is_list) == (None, "\n")
    with pytest.raises(ValueError, match="no JSON"):
        parse.document(b"Fatal: no\n", parse.is_list)


@pytest.mark.parametrize(
    "printed",
    [
        '{"level":"warn"}\n%s\nbye [1]\n',
        "[0:00] 100.00%%  2 / 2 snapshots\n%s",
        "\x1b[2K%s\r\nconnection [closed]",
        "\ufeffbanner: %s {",
    ],
)
def test_what_surrounds_a_document_is_passed_over_and_kept(printed: str) -> None:
    found, around = parse.document((printed % json.dumps([OLD])).encode(), parse.is_list)
    assert found == [OLD]
    assert around == printed % ""


@pytest.mark.parametrize(
    "printed",
    ['[{"id":"a","remove":[{"id":"b"}]},', "[" * 100_000, '{"id":1}', "[1]", '[{"id":' + "9" * 100_000],
    ids=["torn", "deep", "another kind", "no snapshots", "torn number"],
)
def test_a_document_that_breaks_off_is_no_other_document(printed: str) -> None:
    with pytest.raises(ValueError, match="JSON in its output"):
        parse.document(printed.encode(), parse.is_list)


def test_forget_merges_its_groups_oldest_first() -> None:
    later = OLD | {"id": "ff" * 32, "time": "2026-11-24T00:00:00Z"}
    groups = [{"remove": [later], "keep": None}, {"remove": None}, {"remove": [OLD], "keep": [later]}]
    assert [one.id for one in parse.removed(groups).snapshots] == [ID, "ff" * 32]
    assert parse.removed(None) == parse.Listing([], [])


def test_tags_attribute_by_the_first_of_their_kind() -> None:
    found = restic.ResticSnapshot(tags=["x", "plan:a", "plan:b", "created-by:"])
    assert parse.tag(found, "plan") == "a"
    assert parse.tag(found, "created-by") == ""


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


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from(
        [2**31, 2**40, 2**63, -(2**63) - 1, 10**400, -1, 1e308, ID, ID[:8], "0000-01-01T00:00:00Z"]
    )
    | st.sampled_from(
        ["10000-01-01T00:00:00Z", "12345-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z"]
    )
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS) | st.text(), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(JSON_VALUES, st.sampled_from(["status", "error", "summary", "exit_error", "x"]))
def test_whatever_restic_prints_is_a_message_within_bounds_or_text(value: object, kind: str) -> None:
    fields = value if isinstance(value, dict) else {"x": value}
    line = json.dumps(
        {"message_type": kind} | {k: v for k, v in fields.items() if k != "message_type"}
    ).encode()
    found, around = parse.message_in(b"before " + line + b" after")
    assert found is not None
    assert around == "before  after"
    for parser in (parse.status, parse.backup_summary, parse.backup_error):
        assert parser(found).ByteSize() < 2 * parse.MAX_CURRENT_FILES * 4 * parse.MAX_TEXT
    parse.message_in(line[: len(line) // 2])


@given(st.lists(JSON_VALUES, max_size=4))
def test_one_bad_snapshot_never_stops_the_good_ones(others: list[object]) -> None:
    found = parse.snapshots([*others, NEW])
    assert parse.snapshot(NEW) in found.snapshots
    assert len(found.snapshots) + len(found.skipped) == len(others) + 1
    assert all(one.ByteSize() <= parse.MAX_SNAPSHOT for one in found.snapshots)
    assert ID in [one.id for one in parse.removed([{"remove": [*others, NEW]}, *others]).snapshots]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"time": "0000-01-01T00:00:00Z"}, "is not a time"),
        ({"time": "10000-01-01T00:00:00Z"}, "is not a time"),
        ({"time": "12345-01-01T00:00:00+01:00"}, "is not a time"),
        ({"time": "0001-01-01T00:00:00Z"}, "is not a time between 1970 and 9998"),
        ({"time": "1969-12-31T23:59:59Z"}, "is not a time between"),
        ({"time": "9999-01-01T00:00:00Z"}, "is not a time between"),
        ({"time": 5}, "without a time"),
        ({"tags": ["x" * 1000] * 600}, "larger than 512 KiB"),
        ({"paths": ["/" + "x" * 5000] * 200}, "larger than 512 KiB"),
    ],
)
def test_a_snapshot_that_cannot_be_kept_is_passed_over_and_named(
    changed: dict[str, object], reason: str
) -> None:
    found = parse.snapshots([NEW | {"id": "ee" * 32} | changed, NEW])
    assert [one.id for one in found.snapshots] == [ID]
    [skipped] = found.skipped
    assert skipped.id == "ee" * 32
    assert reason in skipped.words()
    assert skipped.words().startswith("snapshot eeeeeeee is passed over: ")


@pytest.mark.parametrize(
    "kept", [{"time": "9998-12-31T23:59:59Z"}, {"time": "1970-01-01T00:00:00"}, {"tags": ["x" * 1000] * 500}]
)
def test_a_snapshot_just_within_the_bounds_is_kept(kept: dict[str, object]) -> None:
    assert not parse.snapshots([NEW | kept]).skipped


def test_a_list_of_what_is_passed_over_says_how_many_more() -> None:
    skipped = parse.snapshots([{}] * (parse.MAX_NAMED + 2)).skipped
    assert parse.words_of(skipped[: parse.MAX_NAMED])[-1].startswith("snapshot without an id is passed over")
    assert parse.words_of(skipped)[-1] == "and 2 more"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (13, "permission denied"),
        (2**31, "error 2147483648"),
        (2**40, "error 1099511627776"),
        (-1, "error -1"),
    ],
)
def test_an_errno_is_bounded(number: int, words: str) -> None:
    assert (
        parse.backup_error({"error": {"Op": "open", "Path": "/x", "Err": number}}).message
        == f"open /x: {words}"
    )


def test_numbers_of_any_length_cost_nothing() -> None:
    line = b'{"message_type":"status","total_files":' + b"9" * 1_000_000 + b',"percent_done":NaN}'
    found = parse.message(line)
    assert found is not None
    assert parse.status(found) == restic.BackupProgressStatusEntry()

"""The audit log: a chain of durable lines that shows every alteration."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oplog_world import QuickDisk
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, using

from backrest.errors import CorruptError, StorageError
from backrest.store import audit, daysums
from backrest.store.audit import MAX_TEXT, AuditLog, verify
from backrest.store.daysums import ONE_PEER, STRANGER, STRANGERS, Bound


def written(path: Path, count: int = 3) -> list[bytes]:
    """A log of that many events; returns its lines."""
    log = AuditLog.open(path, now_ms=lambda: 1_800_000_000_123)
    for number in range(count):
        log.append("paired", keyid=f"ed25519.{number}", number=number, token="für den Laptop")
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def test_line_is_readable_json(tmp_path: Path) -> None:
    first, second, _ = map(json.loads, written(tmp_path / "a"))
    assert first["time"] == "2027-01-15T08:00:00.123Z"
    assert (first["event"], first["keyid"], first["number"]) == ("paired", "ed25519.0", 0)
    assert (first["prev"], second["prev"]) == ("0" * 64, first["hash"])
    assert list(first) == ["time", "event", "keyid", "number", "token", "prev", "hash"]


def test_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path / "a")
    assert len(written(tmp_path / "a")) == 6
    assert verify(tmp_path / "a") == 6
    assert [entry["number"] for entry in audit.read(tmp_path / "a")] == [0, 1, 2, 0, 1, 2]


def test_absent_log_has_no_lines(tmp_path: Path) -> None:
    assert verify(tmp_path / "a") == 0
    assert list(audit.read(tmp_path / "a")) == []


def test_private_from_creation(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        written(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_texts_of_peers_are_bounded_and_stay_on_their_line(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path / "a")
    log.append("refused", instance="x\n" * 5000, reason="\ud800", names=["y" * 5000], ok=None)
    log.close()
    assert verify(tmp_path / "a") == 1
    (entry,) = audit.read(tmp_path / "a")
    assert (len(entry["instance"]), entry["reason"], len(entry["names"][0])) == (MAX_TEXT, "?", MAX_TEXT)


def test_reserved_field_is_a_mistake(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path / "a")
    with pytest.raises(ValueError, match="hash"):
        log.append("x", hash="y")
    log.close()


ALTERATIONS: list[tuple[str, Callable[[list[bytes]], list[bytes]], int, str]] = [
    (
        "altered",
        lambda lines: [lines[0], lines[1].replace(b"ed25519.1", b"ed25519.7"), lines[2]],
        2,
        "altered",
    ),
    ("removed", lambda lines: [lines[0], lines[2]], 2, "does not follow"),
    ("removed first", lambda lines: lines[1:], 1, "does not follow"),
    ("twice", lambda lines: [lines[0], lines[0], *lines[1:]], 2, "does not follow"),
    ("swapped", lambda lines: [lines[1], lines[0], lines[2]], 1, "does not follow"),
    ("blank", lambda lines: [lines[0], b"\n", *lines[1:]], 2, "does not end in a hash"),
    ("torn", lambda lines: [*lines[:2], lines[2][:-1]], 3, "not complete"),
    ("foreign", lambda lines: [*lines, b"hello\n"], 4, "does not end in a hash"),
]


@pytest.mark.parametrize(("name", "alter", "line", "reason"), ALTERATIONS)
def test_first_bad_line_is_named(
    tmp_path: Path, name: str, alter: Callable[[list[bytes]], list[bytes]], line: int, reason: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(alter(written(path))))
    with pytest.raises(CorruptError, match=reason) as caught:
        verify(path)
    assert caught.value.line == line


def test_altered_line_with_a_new_hash_of_its_own_breaks_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path)
    other = written(tmp_path / "b", 1)[0].replace(b"ed25519.0", b"ed25519.9")
    body = other[: other.index(b',"hash":')]
    digest = audit.hashlib.sha256(body).hexdigest().encode()
    path.write_bytes(b"".join([body + b',"hash":"' + digest + b'"}\n', *lines[1:]]))
    with pytest.raises(CorruptError) as caught:
        verify(path)
    assert caught.value.line == 2


def test_torn_last_line_is_cut_and_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path)
    for kept in range(len(lines[2])):
        path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
        AuditLog.open(path).close()
        entries = list(audit.read(path))
        assert verify(path) == len(entries) == (3 if kept else 2)
        if kept:
            assert entries[2]["event"] == "torn-tail"
            assert entries[2]["text"].encode() == lines[2][:kept].decode(errors="replace").encode()


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_torn_end_is_told_of_as_soon_as_the_disk_takes_it(
    tmp_path: Path, fault: Callable[[], OSError]
) -> None:
    """A full disk must not keep a daemon from starting: what it holds could then not be read."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog.open(path)
    log.append("paired", keyid="a")
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"time":"2026')

    class Full(TestDisk):
        def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            raise fault()

    with using(Full()):
        log = AuditLog.open(path)
        assert path.read_bytes() == whole
        with pytest.raises(StorageError):
            log.append("refused")
    log.append("paired", keyid="b")
    log.append("paired", keyid="c")
    log.close()
    entries = list(audit.read(path))
    assert [entry["event"] for entry in entries] == ["paired", "torn-tail", "paired", "paired"]
    assert (entries[1]["bytes"], entries[1]["text"]) == (13, '{"time":"2026')
    assert audit.verify(path) == 4


@pytest.mark.parametrize("act", [audit.verify, lambda path: list(audit.read(path))])
def test_pipe_or_directory_in_its_place_keeps_nobody_waiting(
    tmp_path: Path, act: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(StorageError, match=name):
            act(tmp_path / name)


def test_last_line_whose_blocks_were_stored_in_disorder_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path)
    path.write_bytes(b"".join(lines[:2]) + bytes(30) + lines[2][30:])
    AuditLog.open(path).close()
    assert [entry["event"] for entry in audit.read(path)] == ["paired", "paired", "torn-tail"]
    assert verify(path) == 3


def together(path: Path, count: int = 4) -> list[bytes]:
    """A log of one event, and of that many that were appended together; returns its lines."""
    written(path, 1)
    log = AuditLog.open(path)
    log.append_all([("let-in", {"keyid": f"ed25519.{number}", "text": "x" * 99}) for number in range(count)])
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def events(path: Path) -> list[str]:
    return [entry["event"] for entry in audit.read(path)]


def test_lines_of_one_append_but_the_first_begin_with_a_space(tmp_path: Path) -> None:
    assert [line[:1] for line in together(tmp_path / "a")] == [b"{", b"{", b" ", b" ", b" "]
    assert [line[:1] for line in written(tmp_path / "a", 2)[-2:]] == [b"{", b"{"]
    assert verify(tmp_path / "a") == 7


@pytest.mark.parametrize("at", [1, 2, 4], ids=["first", "in the midst", "last"])
@pytest.mark.parametrize("hole", [bytes, lambda size: b"\xa5" * size], ids=["zeros", "other bytes"])
def test_hole_in_an_append_of_several_lines_is_cut_with_what_follows(
    tmp_path: Path, at: int, hole: Callable[[int], bytes]
) -> None:
    path = tmp_path / "a"
    lines = together(path)
    for start, end in ((0, 9), (50, 150), (len(lines[at]) - 9, len(lines[at]))):
        line = lines[at][:start] + hole(end - start) + lines[at][end:]
        path.write_bytes(b"".join([*lines[:at], line, *lines[at + 1 :]]))
        assert len(events(path)) == at
        AuditLog.open(path).close()
        assert events(path)[at:] == ["torn-tail"]
        assert list(audit.read(path))[-1]["bytes"] == sum(map(len, lines[at:]))
        assert verify(path) == at + 1


def test_several_holes_in_an_append_are_cut_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = together(path)
    lines[1], lines[2] = bytes(9) + lines[1][9:], lines[2][:50] + bytes(9) + lines[2][59:]
    lines[4] = lines[4][:-20]
    path.write_bytes(b"".join(lines))
    AuditLog.open(path).close()
    assert events(path) == ["paired", "torn-tail"]
    assert verify(path) == 2


def test_hole_longer_than_any_line_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    lines = written(path, 2)
    monkeypatch.setattr(audit, "MAX_LINE", 8192)
    path.write_bytes(b"".join([*lines, lines[0][:50], bytes(20_000)]))
    AuditLog.open(path).close()
    assert events(path) == ["paired", "paired", "torn-tail"]


@pytest.mark.parametrize("append", [written, together])
@pytest.mark.parametrize("back", [1, 2])
def test_edit_that_can_be_read_is_no_crash_and_stays_to_be_found(
    tmp_path: Path, append: Callable[[Path], list[bytes]], back: int
) -> None:
    path = tmp_path / "a"
    lines = append(path)
    lines[-back] = lines[-back].replace(b"ed25519", b"ed25510")
    path.write_bytes(b"".join(lines))
    written(path, 2)
    assert path.read_bytes().startswith(b"".join(lines))
    with pytest.raises(CorruptError, match="altered") as caught:
        verify(path)
    assert caught.value.line == len(lines) - back + 1


def test_line_taken_out_of_the_last_append_is_no_crash_and_stays_missing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = together(path)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    written(path, 1)
    with pytest.raises(CorruptError, match="does not follow") as caught:
        verify(path)
    assert caught.value.line == 3


def test_space_put_before_a_line_does_not_make_an_earlier_one_cut(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path)
    path.write_bytes(b"".join([lines[0], b"unreadable\n", b" " + lines[2]]))
    before = path.read_bytes()
    AuditLog.open(path).close()
    assert path.read_bytes() == before
    with pytest.raises(CorruptError) as caught:
        verify(path)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("tail", "line"),
    [(b"bad\nbad\n", 4), (b"bad\nbad\ntorn", 4), (b"bad\n bad\nbad\n", 5), (b"x" * (audit.MAX_LINE + 1), 4)],
    ids=["two bad lines", "two bad lines and a torn one", "an append behind a bad one", "a long one"],
)
def test_more_than_a_crash_can_do_is_refused_and_kept(tmp_path: Path, tail: bytes, line: int) -> None:
    path = tmp_path / "a"
    damaged = b"".join(written(path)) + tail
    path.write_bytes(damaged)
    with pytest.raises(CorruptError) as caught:
        AuditLog.open(path)
    assert caught.value.line == line
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "tail", [b"bad\ntorn", b"bad\n bad\n", b"bad\n\0bad\n"], ids=["a torn one", "a later one", "a hole"]
)
def test_bad_lines_that_one_append_can_leave_are_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(written(path)) + tail)
    AuditLog.open(path).close()
    assert events(path)[3:] == ["torn-tail"]
    assert verify(path) == 4


def test_damage_before_the_last_append_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "a"
    lines = written(path)
    path.write_bytes(b"".join([lines[0], b"unreadable\n", lines[2]]))
    AuditLog.open(path).close()
    with pytest.raises(CorruptError, match="line 2"):
        list(audit.read(path))
    with pytest.raises(CorruptError, match="line 2"):
        verify(path)


def test_single_torn_line_leaves_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"time":')
    AuditLog.open(path).close()
    assert verify(path) == 1


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_failed_append_is_not_in_the_log(tmp_path: Path, fault: Callable[[], OSError]) -> None:
    path = tmp_path / "a"
    log = AuditLog.open(path)
    log.append("one")
    for step in range(2):
        with using(TestDisk(step, fault)), pytest.raises(StorageError):
            log.append("lost")
        assert verify(path) == 1
    log.append("two")
    log.close()
    assert [entry["event"] for entry in audit.read(path)] == ["one", "two"]
    assert verify(path) == 2


def test_power_cut_at_any_step_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "a"
    log = AuditLog.open(path)
    acknowledged = ["first"]
    log.append("first")
    for step in range(count_steps(partial(log.append, "first"))):
        acknowledged = [entry["event"] for entry in audit.read(path)]
        with using(TestDisk(step)), pytest.raises(Died):
            log.append("second")
        log.close()
        log = AuditLog.open(path)
        events = [entry["event"] for entry in audit.read(path)]
        assert events[: len(acknowledged)] == acknowledged
        assert verify(path) == len(events)
    log.close()


def test_appends_of_many_threads_make_one_chain(tmp_path: Path) -> None:
    log = AuditLog.open(tmp_path / "a")

    def work(name: str) -> None:
        for number in range(10):
            log.append(name, number=number)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert verify(tmp_path / "a") == 40


@given(data=st.binary(max_size=300), keep=st.integers(0, 2))
def test_hostile_bytes_are_cut_or_corrupt(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, keep: int
) -> None:
    directory = tmp_path_factory.mktemp("audit")
    good = b"".join(written(directory / "good", keep)) if keep else b""
    path = directory / "a"
    path.write_bytes(good + data)
    with suppress(CorruptError):
        verify(path)
    with suppress(CorruptError):
        list(audit.read(path))
    try:
        AuditLog.open(path).close()
    except CorruptError:
        assert path.read_bytes() == good + data
    else:
        assert path.read_bytes().startswith(good) or not keep


# --- several files


def turned(path: Path, monkeypatch: pytest.MonkeyPatch, count: int, size: int = 500) -> None:
    """A log of that many events, some two in each file."""
    monkeypatch.setattr(audit, "FILE_BYTES", size)
    log = AuditLog.open(path)
    for number in range(count):
        log.append("told", number=number)
    log.close()


def numbers(path: Path) -> list[int]:
    return [entry["number"] for entry in audit.read(path)]


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_full_file_is_set_aside_and_its_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    turned(path, monkeypatch, 5)
    assert names(tmp_path) == ["a", "a.000001", "a.000002"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 500
    assert numbers(path) == [0, 1, 2, 3, 4]
    assert verify(path) == 5
    turned(path, monkeypatch, 1)
    assert verify(path) == 6


def test_file_of_more_than_a_year_is_set_aside(tmp_path: Path) -> None:
    now = [1_800_000_000_000]
    for day, files in ((0, 1), (365, 1), (366, 2), (400, 2)):
        now[0] = 1_800_000_000_000 + day * 86_400_000
        log = AuditLog.open(tmp_path / "a", now_ms=lambda: now[0])
        log.append("told")
        log.close()
        assert len(names(tmp_path)) == files
    assert verify(tmp_path / "a") == 4


def test_oldest_files_go_and_the_check_begins_with_the_oldest_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    monkeypatch.setattr(audit, "KEPT", 3)
    turned(path, monkeypatch, 20)
    assert names(tmp_path) == ["a", "a.000007", "a.000008", "a.000009"]
    assert numbers(path) == list(range(12, 20))
    assert verify(path) == 8


@pytest.mark.parametrize(
    ("gone", "where"), [("a.000001", "a.000001"), ("a.000002", "a.000003"), ("a.000003", "a, line 1")]
)
def test_missing_old_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, where: str
) -> None:
    path = tmp_path / "a"
    turned(path, monkeypatch, 8)
    (tmp_path / gone).unlink()
    with pytest.raises(CorruptError) as caught:
        verify(path)
    assert where in str(caught.value)


def test_altered_line_of_an_old_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    turned(path, monkeypatch, 6)
    old = tmp_path / "a.000002"
    old.write_bytes(old.read_bytes().replace(b'"number":3', b'"number":7'))
    with pytest.raises(CorruptError, match=r"a\.000002, line 2"):
        verify(path)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_file_that_cannot_be_set_aside_takes_more_lines_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], OSError], step: int
) -> None:
    path = tmp_path / "a"
    turned(path, monkeypatch, 2)
    log = AuditLog.open(path)
    told = [0, 1]
    with using(TestDisk(step, fault)), suppress(StorageError):
        log.append("told", number=2)
        told.append(2)
    log.append("told", number=3)
    log.close()
    assert numbers(path) == [*told, 3]
    assert verify(path) == len(told) + 1


def test_reading_goes_on_over_a_file_that_is_set_aside_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    monkeypatch.setattr(audit, "KEPT", 1)
    turned(path, monkeypatch, 4)
    reader = audit.read(path)
    seen = [next(reader)["number"]]
    turned(path, monkeypatch, 4)
    assert seen + [entry["number"] for entry in reader] == [0, 1, 2, 3]


# --- on behalf of others


def test_strangers_peers_and_kinds_of_events_have_sums_of_their_own(tmp_path: Path) -> None:
    day = 86_400_000
    now = [100 * day]
    log = AuditLog.open(tmp_path / "a", now_ms=lambda: now[0])
    log.append_for([(STRANGER, "refused", {"n": n}) for n in range(STRANGERS.lines + 50)])
    log.append_for([("k1", "config-refused", {"n": n}) for n in range(ONE_PEER.lines + 7)])
    for who, event in (("k1", "config-applied"), ("k2", "config-refused")):
        log.append_for([(who, event, {"of": who})])
    log.append("client-removed")
    entries = list(audit.read(tmp_path / "a"))
    assert len(entries) == STRANGERS.lines + ONE_PEER.lines + 3
    assert [entry["event"] for entry in entries[-3:]] == [
        "config-applied",
        "config-refused",
        "client-removed",
    ]
    now[0] += day - 1
    log.append_for([(STRANGER, "refused", {})])
    now[0] += 1
    log.append_for([(STRANGER, "refused", {"n": "new"})])
    told = list(audit.read(tmp_path / "a"))[-3:]
    assert [(entry["event"], entry.get("of"), entry.get("count")) for entry in told] == [
        ("not-recorded", "strangers", 51),
        ("not-recorded", "peers", 7),
        ("refused", None, None),
    ]
    assert told[1]["keyids"] == ["k1"]
    log.append_for([(STRANGER, "refused", {}) for _ in range(STRANGERS.lines)])
    log.close()
    assert list(audit.read(tmp_path / "a"))[-1]["count"] == 1, "told at the end, too"
    assert verify(tmp_path / "a") == STRANGERS.lines * 2 + ONE_PEER.lines + 6


@pytest.mark.parametrize(("who", "bound"), [(STRANGER, STRANGERS), ("k", ONE_PEER)])
def test_long_lines_are_bounded_by_their_bytes(tmp_path: Path, who: str, bound: Bound) -> None:
    log = AuditLog.open(tmp_path / "a", now_ms=lambda: 10**12)
    for _ in range(20):
        log.append_for([(who, "refused", {"reason": "\u2028\x01" * 5000})] * 20)
    assert bound.bytes * 0.9 < (tmp_path / "a").stat().st_size <= bound.bytes
    log.close()


def test_all_peers_together_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daysums, "ALL_PEERS", Bound(30, 1 << 20))
    log = AuditLog.open(tmp_path / "a", now_ms=lambda: 10**12)
    log.append_for([(f"k{n}", "let-in", {}) for n in range(200)])
    log.close()
    *lines, told = audit.read(tmp_path / "a")
    assert (len(lines), told["count"], len(told["keyids"])) == (30, 170, daysums.NAMED)


def test_flood_of_refused_actions_stays_within_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stranger and of a peer: 200,000 in 40 days, at a hundredth of the real bounds."""
    monkeypatch.setattr(daysums, "STRANGERS", Bound(20, 10_000))
    monkeypatch.setattr(daysums, "ONE_PEER", Bound(10, 5_000))
    monkeypatch.setattr(audit, "FILE_BYTES", 20_000)
    now = [0]
    log = AuditLog.open(tmp_path / "a", now_ms=lambda: now[0])
    with using(QuickDisk()):
        for day in range(40):
            now[0] = day * 86_400_000
            for _ in range(5):
                log.append_for(
                    [(STRANGER, "refused", {"reason": "x"})] * 500 + [("k", "config-refused", {})] * 500
                )
        log.append("token-created")
        log.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000 * (audit.KEPT + 1)
    assert verify(tmp_path / "a") > 500
    left_out = sum(entry.get("count", 0) for entry in audit.read(tmp_path / "a"))
    assert left_out > 100_000

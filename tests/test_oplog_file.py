"""What oplog.jsonl may look like when it is opened: cut short, damaged, rewritten by others, hostile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oplog_world import PEER, QuickDisk, everything, op, received, reopened
from store_disk import TestDisk, full_disk, using

from backrest.errors import CorruptError, StorageError
from backrest.store import opload
from backrest.store.opformat import HIGHEST
from backrest.store.oplog import OpLog


@pytest.fixture(autouse=True)
def _no_syncs() -> Iterator[None]:
    """Nothing here is about power cuts that have happened, only about what they leave; a sync takes long."""
    with using(QuickDisk()):
        yield


MARK = b' {"oplog":1,"highestId":"0","highestModno":"0"}\n'


def make(path: Path, *, clean: bool = True) -> bytes:
    """A log of a few commits; without its last mark unless it ended cleanly."""
    log = OpLog.open(path)
    log.add([op(), op(display_message="\u2028\n")])
    log.apply(PEER, [received(1), received(2)])
    log.update([log.get(2)])
    log.delete([1])
    log.apply(PEER, [received(1, 2, plan_id="music"), received(3)], [2])
    log.close()
    data = path.read_bytes()
    if not clean:
        data = data[: data.rindex(b' {"oplog"')]
        path.write_bytes(data)
    return data


def reopen(path: Path, data: bytes) -> OpLog:
    path.write_bytes(data)
    return OpLog.open(path)


def line_ends(data: bytes) -> list[int]:
    return [place + 1 for place, byte in enumerate(data) if byte == 10]


def set_aside(path: Path) -> list[bytes]:
    return [other.read_bytes() for other in sorted(path.parent.glob(path.name + ".bad-*"))]


def test_every_prefix_opens_with_its_whole_lines_or_is_named_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path)
    ends = line_ends(data)
    states = {}
    for end in ends:
        log = reopen(path, data[:end])
        states[end] = everything(log), log.highest
        log.close()
    for length in range(len(data)):
        if length < ends[0]:
            with pytest.raises(CorruptError, match="line 1: "):
                reopen(path, data[:length])
            assert path.read_bytes() == data[:length]
            continue
        log = reopen(path, data[:length])
        whole = max(end for end in ends if end <= length)
        assert (everything(log), log.highest) == states[whole]
        assert path.stat().st_size == whole
        log.close()
    assert set_aside(path) == []


def test_torn_last_line_is_cut_before_anything_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path, clean=False)
    log = reopen(path, data + b' {"id":"9","mod')
    assert path.read_bytes() == data
    [new] = log.add([op()])
    assert new.id not in {1, 2, 3, 4}
    log.close()
    assert path.read_bytes().startswith(data + b' {"id":"')
    assert new.id in everything(OpLog.open(path))


def test_last_line_without_its_end_is_cut_though_it_reads_well(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path, clean=False)
    log = reopen(path, data[:-1])
    assert path.read_bytes() == data[: line_ends(data)[-2]]
    log.close()


@pytest.mark.parametrize("hole", [b"\0" * 30, b"garbage\n", b"\n", b'{"id":"5"\n', b"\xff\xfe\n"])
def test_bad_line_behind_the_last_commit_is_an_unfinished_write(tmp_path: Path, hole: bytes) -> None:
    """A power cut in the middle of a large write: some of its blocks are there, others are not."""
    path = tmp_path / "oplog.jsonl"
    data = make(path, clean=False)
    last = data.rindex(b"\n {") + 1
    group = data[last:]
    for damaged in (hole + group[len(hole) :], group[:40] + hole, group + hole, group + hole + group):
        before = set(set_aside(path))
        if damaged.count(b"\n ") or (damaged.startswith(b" ") and hole + b" {" in damaged):
            continue  # a later commit began behind it: the next test
        log = reopen(path, data[:last] + damaged)
        kept = path.read_bytes()
        assert (data[:last] + damaged).startswith(kept)
        assert len(kept) >= last
        if b"\n" in (data[:last] + damaged)[len(kept) :]:
            [saved] = set(set_aside(path)) - before or before
            assert saved in {damaged[len(kept) - last :]} | before
        log.close()


def test_bad_line_before_a_later_commit_is_corruption(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path)
    ends = line_ends(data)
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False), 1):
        if data[end:].count(b"\n ") == 0 and not data[end:].startswith(b" "):
            continue
        damaged = data[:start] + b"#" * (end - start - 1) + data[end - 1 :]
        with pytest.raises(CorruptError) as caught:
            reopen(path, damaged)
        assert (caught.value.path, caught.value.line) == (str(path), number)
        assert path.read_bytes() == damaged
    assert set_aside(path) == []


def test_rot_in_the_last_commit_of_a_cleanly_closed_log_is_corruption(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path)
    ends = line_ends(data)
    damaged = data[: ends[-3]] + b"#" + data[ends[-3] + 1 :]
    with pytest.raises(CorruptError, match="not JSON"):
        reopen(path, damaged)


def test_log_that_went_through_jq_opens_and_is_held_to_the_strict_rule(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path)
    log = reopen(path, data)
    state = everything(log)
    log.close()
    rewritten = subprocess.run(["jq", "-c", "."], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert rewritten.count(b"\n") == data.count(b"\n")
    assert b"\n " not in rewritten
    log = reopen(path, rewritten)
    assert everything(log) == state
    log.close()
    lines = rewritten.splitlines(keepends=True)
    with pytest.raises(CorruptError, match="line 5: not JSON"):
        reopen(path, b"".join([*lines[:4], b"#\n", *lines[5:]]))
    log = reopen(path, rewritten + b'{"id":')
    assert everything(log) == state
    log.close()


def test_without_marks_of_the_commits_only_a_line_without_its_end_is_cut(tmp_path: Path) -> None:
    """Only the first line has kept its space: it does not say that all behind it was one commit that broke off."""
    path = tmp_path / "oplog.jsonl"
    lines = [GOOD.replace(b'"id":"1"', b'"id":"%d"' % number) for number in (1, 3, 2, 4)]
    for bad in (lines[2], b"#\n", b"\0" * 40 + b"\n"):
        with pytest.raises(CorruptError, match="line 4: "):
            reopen(path, MARK + b"".join([*lines[:2], bad, lines[3]]))
        with pytest.raises(CorruptError, match="line 5: "):
            reopen(path, MARK * 2 + b"".join([*lines[:2], bad, lines[3]]))
    log = reopen(path, MARK + lines[0] + lines[1][:-1])
    assert list(everything(log)) == [1]
    log.close()
    for begun in (lines[0], b""):  # a commit, or nothing yet: what a power cut left of the first one
        log = reopen(path, MARK + (b" " + begun if begun else b"") + b"\0" * 40 + b"\n" + lines[3])
        assert len(everything(log)) == bool(begun)
        log.close()


def test_what_cannot_be_set_aside_is_not_cut_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path, clean=False) + b' {"id":"9\n' + GOOD
    for at in range(1, 6):  # the new file, its name, its content, the sync of that
        path.write_bytes(data)
        with using(TestDisk(at, full_disk)), pytest.raises(StorageError, match="no space is left"):
            OpLog.open(path)
        assert path.read_bytes() == data
        assert os.listdir(tmp_path) == ["oplog.jsonl"]
    reopen(path, data).close()
    assert set_aside(path) == [b' {"id":"9\n' + GOOD]


GOOD = (
    b'{"id":"1","modno":"1","flowId":"1","repoId":"r","repoGuid":"g","planId":"p","instanceId":"i",'
    b'"status":"STATUS_SUCCESS","unixTimeStartMs":"5","operationBackup":{}}\n'
)
FOREIGN = GOOD.replace(
    b'"modno"', b'"originalId":"7","originalFlowId":"8","originalInstanceKeyid":"k","modno"'
)
TAIL = b' {"deleted":["99"]}\n'  # a later commit, so that nothing before it can be an unfinished write

HOSTILE = [
    (GOOD.replace(b'"1"', b"1", 1), "needs id"),
    (GOOD.replace(b'"1"', b"true", 1), "needs id"),
    (GOOD.replace(b'"id":"1"', b'"id":"0"'), "must not be 0"),
    (GOOD.replace(b'"id":"1"', b'"id":"-1"'), "must not be 0"),
    (GOOD.replace(b'"id":"1"', b'"id":"x"'), "invalid literal"),
    (GOOD.replace(b'"id":"1"', b'"id":"%s"' % (b"9" * 30)), "no log has counted to"),
    (GOOD.replace(b'"id":"1"', b'"id":"%d"' % (HIGHEST + 1)), "no log has counted to"),
    (FOREIGN.replace(b'"flowId":"1"', b'"flowId":"%d"' % (HIGHEST + 1)), "no log has counted to"),
    (GOOD.replace(b'"id":"1"', b'"id":"%s"' % (b"9" * 5000)), "digits"),
    (GOOD.replace(b'"id":"1"', b'"id":["1"]'), "needs id"),
    (GOOD.replace(b'"modno":"1"', b'"modno":"0"'), "must not be 0"),
    (GOOD.replace(b'"modno":"1"', b'"modno":"9223372036854775808"'), "no log has counted to"),
    (FOREIGN.replace(b'"modno":"1"', b'"modno":"9223372036854775808"'), "64 bits"),
    (GOOD.replace(b'"modno":"1",', b""), "needs id, modno"),
    (GOOD.replace(b'"flowId":"1"', b'"flowId":null'), "needs id, modno"),
    (GOOD.replace(b'"unixTimeStartMs":"5"', b'"unixTimeStartMs":"1e99"'), "invalid literal"),
    (GOOD.replace(b'"repoId":"r"', b'"repoId":["r"]'), "needs repoId"),
    (GOOD.replace(b'"repoId":"r",', b""), "needs repoId"),
    (GOOD.replace(b'"planId":"p"', b'"planId":""'), "needs repoId"),
    (GOOD.replace(b'"planId":"p"', b'"planId":{}'), "needs repoId"),
    (GOOD.replace(b'"STATUS_SUCCESS"', b"[]"), "status"),
    (GOOD.replace(b'"STATUS_SUCCESS"', b"%d" % 2**40), "64 bits"),
    (GOOD.replace(b'"status"', b'"snapshotId":7,"status"'), "snapshotId"),
    (GOOD.replace(b'"modno"', b'"originalId":"3","modno"'), "do not go together"),
    (FOREIGN.replace(b'"originalId":"7",', b""), "do not go together"),
    (FOREIGN.replace(b'"originalFlowId":"8"', b'"originalFlowId":8'), "originalFlowId"),
    (FOREIGN.replace(b'"originalFlowId":"8"', b'"originalFlowId":"%s"' % (b"9" * 20)), "64 bits"),
    (FOREIGN.replace(b'"originalId":"7"', b'"originalId":"%s"' % (b"9" * 20)), "64 bits"),
    (FOREIGN.replace(b'"k"', b"5"), "needs repoId"),
    (b'{"deleted":"1"}\n', "without a list"),
    (b'{"deleted":[1]}\n', "without a list"),
    (b'{"deleted":["x"]}\n', "invalid literal"),
    (b'{"deleted":["1"],"more":1}\n', "without a list"),
    (b'{"oplog":2,"highestId":"0","highestModno":"0"}\n', "another version"),
    (b'{"oplog":true,"highestId":"0","highestModno":"0"}\n', "another version"),
    (b'{"oplog":1,"highestId":-1,"highestModno":"0"}\n', "without its high-water"),
    (b'{"oplog":1}\n', "without its high-water"),
    (b"{}\n", "neither"),
    (b"[]\n", "not a JSON object"),
    (b"5\n", "not a JSON object"),
    (b'"id"\n', "not a JSON object"),
    (b"null\n", "not a JSON object"),
    (b"\n", "no text"),
    (b"\0\0\0\0\n", "no text"),
    (b"[" * 3000 + b"\n", "not JSON"),
    (b"{" * 3000 + b"\n", "not JSON"),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"\n", "not JSON"),
    (b"\xef\xbb\xbf{}\n", "not JSON"),
    (b'{"id":"\xff"}\n', "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_line_is_corruption_with_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "oplog.jsonl"
    before = GOOD.replace(b'"id":"1"', b'"id":"2"') if b'"id"' not in line else b""
    with pytest.raises(CorruptError, match=reason) as caught:
        reopen(path, MARK + before + line + TAIL)
    assert caught.value.line == (3 if before else 2)
    begun = b" " + before if before else b""
    log = reopen(path, MARK + begun + line)  # the same, but never acknowledged
    assert len(everything(log)) == (1 if before else 0)
    log.close()


CONTRADICTIONS = [
    ([GOOD.replace(b'"id":"1"', b'"id":"2"'), GOOD], "comes after one with a higher id"),
    ([GOOD, FOREIGN], "was of another peer"),
    ([FOREIGN, FOREIGN.replace(b'"7"', b'"9"')], "had another original id"),
    ([FOREIGN, FOREIGN.replace(b'"id":"1"', b'"id":"2"')], "there already"),
    (
        [FOREIGN, GOOD.replace(b'"id":"1"', b'"id":"2"'), FOREIGN.replace(b'"id":"1"', b'"id":"3"')],
        "there already",
    ),
    (
        [
            FOREIGN,
            b'{"deleted":["1"]}\n',
            FOREIGN.replace(b'"id":"1"', b'"id":"2"'),
            FOREIGN,
        ],
        "there already",
    ),
]


@pytest.mark.parametrize(("lines", "reason"), CONTRADICTIONS, ids=range(len(CONTRADICTIONS)))
def test_good_lines_that_contradict_each_other_are_corruption(
    tmp_path: Path, lines: list[bytes], reason: str
) -> None:
    with pytest.raises(CorruptError, match=reason) as caught:
        reopen(tmp_path / "oplog.jsonl", MARK + b"".join(lines) + TAIL)
    assert caught.value.line == 1 + len(lines)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        GOOD,
        b"text\n",
        b"\0" * 100,
        b'{"oplog":1',
        b'{"deleted":[]}\n',
        b"SQLite format 3\0",
    ],
)
def test_file_that_is_no_operation_log_is_refused_and_kept(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "oplog.jsonl"
    with pytest.raises(CorruptError, match="line 1: "):
        reopen(path, data)
    assert path.read_bytes() == data


def test_line_that_never_ends_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opload, "MAX_LINE", 10_000)
    monkeypatch.setattr(opload, "BLOCK", 1000)
    path = tmp_path / "oplog.jsonl"
    with pytest.raises(CorruptError, match="line 3: a line of more than 10000 bytes"):
        reopen(path, MARK + GOOD + b"x" * 20_000)


def test_small_blocks_give_the_same_as_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path)
    log = reopen(path, data)
    state = everything(log)
    log.close()
    for size in (1, 7, 300, 701):
        monkeypatch.setattr(opload, "BLOCK", size)
        log = reopen(path, data)
        assert everything(log) == state
        log.close()


def test_progress_is_told_up_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    data = make(path)
    told: list[tuple[int, int]] = []
    OpLog.open(path, lambda done, total: told.append((done, total))).close()
    assert told[-1] == (len(data), len(data))


def test_what_is_read_later_and_does_not_fit_is_corruption(tmp_path: Path) -> None:
    """Rot behind the running program's back, and a body that opening does not look into."""
    path = tmp_path / "oplog.jsonl"
    log = reopen(path, MARK + GOOD + GOOD.replace(b'"id":"1"', b'"id":"2"').replace(b"{}}", b'{"errors":5}}'))
    with pytest.raises(CorruptError, match=r"line 3: operationBackup\.errors: must be an array"):
        log.get(2)
    log.get(1)
    path.write_bytes(path.read_bytes().replace(b'"id":"1"', b'"id":"7"'))
    with pytest.raises(CorruptError, match="line 2: operation 7 stands where 1 was"):
        log.get(1)
    log.close()


def test_file_changed_by_another_program_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "oplog.jsonl"
    log = reopen(path, MARK + GOOD)
    with path.open("ab") as other:
        other.write(GOOD)
    with pytest.raises(StorageError, match="another program"):
        log.add([op()])
    log.close()


def test_directory_or_nothing_readable_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "oplog.jsonl").mkdir()
    with pytest.raises(StorageError):
        OpLog.open(tmp_path / "oplog.jsonl")
    with pytest.raises(StorageError):
        OpLog.open(tmp_path / "missing" / "oplog.jsonl")


def test_symbolic_link_to_the_log_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "oplog.jsonl"
    link.symlink_to(tmp_path / "disk" / "real.jsonl")
    OpLog.open(tmp_path / "disk" / "real.jsonl").close()
    log = OpLog.open(link)
    log.add([op(), op()])
    log.delete([1])
    log.compact()
    log = reopened(log)
    assert list(everything(log)) == [2]
    log.close()
    assert link.is_symlink()
    assert os.listdir(tmp_path / "disk") == ["real.jsonl"]


@settings(max_examples=150)
@given(st.data())
def test_any_damage_opens_or_is_named_corrupt(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "oplog.jsonl"
    content = bytearray(make(path))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(
            st.binary(min_size=1, max_size=5) | st.sampled_from([b"\n", b'"', b"{", b"9", b"0", b" "])
        )
        content[place : place + len(patch)] = patch
    try:
        log = reopen(path, bytes(content))
    except CorruptError:
        return
    try:
        everything(log)
    except CorruptError:
        pass  # a body
    finally:
        log.close()

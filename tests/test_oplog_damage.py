"""Any damage at all to a log: repair ends, with one that opens, and nothing is lost that was not damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oplog_world import OTHER, PEER, QuickDisk, everything, fill, op, received
from store_disk import using

from backrest.errors import CorruptError
from backrest.store.oplog import OpLog

# A number or two may be lost with these, without a trace that they were ever given out.
TRACELESS = ("drop", "cut", "flip", "patch")
DAMAGES = ("duplicate", "swap", "move", "sort", "reverse", "garbage", "splice", *TRACELESS)


def make(path: Path) -> tuple[dict[int, Any], tuple[int, int], list[bytes]]:
    """What it held, its highest numbers, its lines."""
    log = OpLog.open(path)
    fill(log)
    log.apply(PEER, [], [44])
    log.apply(PEER, [received(44, 200)])
    log.compact()
    log.add([op() for _ in range(5)])
    log.apply(OTHER, [received(n, 7) for n in range(5, 15)], [1])
    log.update([log.get(n) for n in (1, 2, 3)])
    log.delete([4])
    state, highest = everything(log), log.highest
    log.close()
    return state, highest, path.read_bytes().splitlines(keepends=True)


def other(path: Path) -> list[bytes]:
    """The lines of another log."""
    log = OpLog.open(path)
    log.apply(PEER, [received(n, 300) for n in range(1, 30)])
    log.add([op(display_message="other") for _ in range(30)])
    log.delete([3, 35])
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def harm(kind: str, lines: list[bytes], data: st.DataObject, second: list[bytes]) -> list[bytes]:
    """The lines after one damage; the last may be without its end."""
    if not lines:
        return lines
    place = data.draw(st.integers(0, len(lines) - 1))
    there = data.draw(st.integers(0, len(lines) - 1))
    if kind == "duplicate":
        lines.insert(there, lines[place])
    elif kind == "swap":
        lines[place], lines[there] = lines[there], lines[place]
    elif kind == "move":
        lines.insert(there, lines.pop(place))
    elif kind == "sort":
        lines.sort()
    elif kind == "reverse":
        lines.reverse()
    elif kind == "garbage":
        lines[place] = data.draw(st.sampled_from([b"#\n", b"\n", b"null\n", b"\0" * 300 + b"\n", b"[1]\n"]))
    elif kind == "splice":
        lines[place:place] = second
    elif kind == "drop":
        del lines[place : place + data.draw(st.integers(1, 9))]
    else:
        content = bytearray(b"".join(lines))
        at = data.draw(st.integers(0, len(content) - 1))
        if kind == "cut":
            del content[at:]
        elif kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            junk = data.draw(st.binary(min_size=1, max_size=300) | st.sampled_from([b"\n", b'"', b"9", b" "]))
            content[at : at + len(junk)] = junk
        return bytes(content).splitlines(keepends=True) if b"\r" not in content else [bytes(content)]
    return lines


def parsed(line: bytes) -> dict[str, Any]:
    try:
        doc = json.loads(line)
    except ValueError:
        return {}
    return doc if isinstance(doc, dict) else {}


def undisputed(state: dict[int, Any], lines: list[bytes], content: bytes) -> set[int]:
    """The operations whose last line is there, and nothing that was not there of them, or speaks against them."""
    before: dict[str, list[bytes]] = {}
    for line in lines:
        if "id" in (doc := parsed(line)):
            before.setdefault(doc["id"], []).append(line.strip())
    now: dict[Any, list[bytes]] = {}
    gone: set[Any] = set()
    ids: dict[tuple[Any, Any], set[Any]] = {}
    for line in content.split(b"\n")[:-1]:
        doc = parsed(line)
        if isinstance(doc.get("id"), str):
            now.setdefault(doc["id"], []).append(line.strip(b" "))
            ids.setdefault((str(doc.get("originalInstanceKeyid")), str(doc.get("originalId"))), set()).add(
                doc["id"]
            )
        elif isinstance(doc.get("deleted"), list):
            gone.update(map(str, doc["deleted"]))
    return {
        number
        for number, one in state.items()
        if before[str(number)][-1] in now.get(str(number), ())
        and set(now[str(number)]) <= set(before[str(number)])
        and str(number) not in gone
        and (not one.original_id or len(ids[one.original_instance_keyid, str(one.original_id)]) == 1)
    }


@settings(max_examples=150)
@given(st.data())
def test_whatever_the_damage_repair_gives_a_log_that_opens_and_loses_nothing_undisputed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("log")
    path = directory / "oplog.jsonl"
    with using(QuickDisk()):
        state, highest, lines = make(path)
        second = other(directory / "second")
        kinds = data.draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=4))
        harmed = lines[:]
        for kind in kinds:
            harmed = harm(kind, harmed, data, second)
        content = b"".join(harmed)
        path.write_bytes(content)
        opens = OpLog.verify(path).opens
        try:
            OpLog.open(path).close()
        except CorruptError:
            assert not opens
        path.write_bytes(content)
        report = OpLog.repair(path)
        assert report.repaired or path.read_bytes() == content
        good = OpLog.verify(path)
        assert (good.bad, good.torn, good.opens) == ([], 0, True)
        assert good.operations == report.operations
        log = OpLog.open(path)
        kept = everything(log)
        safe = undisputed(state, lines, content)
        assert safe <= set(kept)
        for number in safe:
            assert kept[number] == state[number] or state[number].original_id
        if not set(kinds) & set(TRACELESS):
            assert log.highest[0] >= highest[0]
            assert log.highest[1] >= highest[1]
        for line in {*lines, *second} & set(harmed):
            doc = parsed(line)
            assert log.highest[0] >= int(doc.get("id", doc.get("highestId", 0)))
            if "originalId" not in doc:
                assert log.highest[1] >= int(doc.get("modno", doc.get("highestModno", 0)))
        log.close()


@settings(max_examples=60)
@given(st.data())
def test_in_any_order_the_lines_give_what_the_log_held(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "oplog.jsonl"
    with using(QuickDisk()):
        state, _, lines = make(path)
        path.write_bytes(b"".join(data.draw(st.permutations(lines))))
        report = OpLog.repair(path)
        log = OpLog.open(path)
        kept = everything(log)
        log.close()
        assert set(state) <= set(kept)
        if any("comes after" in bad.reason for bad in report.bad):  # else nothing is known of the order
            assert set(kept) == set(state)
            for number, one in state.items():
                assert kept[number] == one or one.original_id

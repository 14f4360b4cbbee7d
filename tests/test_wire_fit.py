"""Many objects looked at together (wire/fit.py): what passes is what the conversion takes, and what is usual passes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from oplog_world import RECORDED, Operation, op

from backrest import wire
from backrest.wire import codec, fit
from backrest.wire.fit import all_fit

USUAL = [codec.to_dict(operation) for operation in RECORDED]
_fit = all_fit(Operation.DESCRIPTOR)


def test_recorded_operations_pass_together_and_one_by_one() -> None:
    assert _fit(USUAL)
    assert all(_fit([doc]) for doc in USUAL)
    assert _fit([])


VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        5,
        2**31,
        2**63,
        0.5,
        "",
        "7",
        "-7",
        "x",
        "9" * 18,
        "9" * 19,
        "9" * 20,
        "\u0661",
        "1_0",
        "STATUS_SUCCESS",
        "CONDITION_ANY_ERROR",
        [],
        {},
        ["a"],
        [5],
        [None],
        [{}],
        {"x": 1},
        {"snapshot": {}},
    ]
)


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A recorded operation with one thing in it changed, at whatever depth: a value, a name, one more name."""
    doc = copy.deepcopy(draw(st.sampled_from(USUAL)))
    place: Any = doc
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner) or draw(st.integers(0, 2)) == 0:
            break
        place = inner
    how = draw(st.integers(0, 3))
    if how == 0 and isinstance(place, dict):
        place["operationPrune"] = draw(VALUES)
    elif how == 1 and isinstance(place, dict):
        place[draw(st.sampled_from(["repo_id", "unknown", "forgot", "paths", "id"]))] = place.pop(key)
    else:
        place[key] = draw(VALUES)
    return doc


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(USUAL), max_size=3), changed())
def test_what_passes_is_what_the_conversion_takes(before: list[dict[str, Any]], doc: dict[str, Any]) -> None:
    together, alone = _fit([*before, doc]), _fit([doc])
    assert together == alone
    if alone:
        codec.from_dict(Operation, doc, ignore_unknown=False)


@pytest.mark.parametrize(
    ("cls", "doc", "passes"),
    [
        (wire.restic.SnapshotSummary, {"totalDuration": 0.5}, True),
        (wire.restic.SnapshotSummary, {"totalDuration": float("inf")}, False),
        (wire.restic.SnapshotSummary, {"totalDuration": "NaN"}, False),
        (wire.restic.SnapshotSummary, {"filesNew": ""}, False),
        (wire.config.Repo, {"commandPrefix": {"ioNice": "IO_IDLE"}}, True),
        (wire.config.Repo, {"commandPrefix": {"ioNice": 3}}, False),
        (wire.config.Repo, {"autoUnlock": True}, True),
        (wire.config.Repo, {"autoUnlock": 1}, False),
        (wire.config.Config, {"modno": 5, "version": 2**31 - 1}, True),
        (wire.config.Config, {"version": True}, False),
        (wire.config.Config, {"version": 2**31}, False),
        (wire.types.BytesValue, {"value": "YQ=="}, False),
    ],
)
def test_each_kind_of_field(cls: Any, doc: dict[str, Any], passes: bool) -> None:
    assert all_fit(cls.DESCRIPTOR)([doc]) is passes
    if passes:
        codec.from_dict(cls, doc, ignore_unknown=False)


def test_every_type_that_operations_hold_is_known() -> None:
    """Of a kind of field that is not known nothing passes: slow, and no mistake."""
    seen = set()

    def walk(descriptor: Any) -> None:
        if descriptor in seen:
            return
        seen.add(descriptor)
        for field in descriptor.fields:
            assert field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_FLOAT)
            if field.message_type is not None:
                walk(field.message_type)

    walk(Operation.DESCRIPTOR)


def test_any_number_of_shapes_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_SHAPES", 1)
    doc = codec.to_dict(op(id=1, modno=1, flow_id=1))
    for name in ("logref", "displayMessage", "snapshotId"):
        assert _fit([doc, doc | {name: "x"}])
        assert not _fit([doc, doc | {name: "x", "unknown": 1}])

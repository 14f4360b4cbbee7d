"""The messages: the schema is the reference's to the last number, and codec.py says what json_format says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import empty_pb2, json_format, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backrest import wire
from backrest.wire import codec, plain_json
from backrest.wire.from_json import decoder
from backrest.wire.plain_json import DECLINED, plain

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "conformance" / "vectors"
SCHEMA = json.loads((VECTORS / "messages.json").read_text())
GOLDEN = [json.loads(line) for line in (VECTORS / "golden_messages.jsonl").read_text().splitlines()]
Operation = wire.operations.Operation
FILES = (
    wire.types,
    wire.crypto,
    wire.restic,
    wire.config,
    wire.operations,
    wire.auth,
    wire.service,
    wire.sync,
)


def all_types() -> dict[str, type[Message]]:
    """Every message type of the schema by its full name, nested ones too."""
    found: dict[str, type[Message]] = {}

    def walk(descriptor: Any) -> None:
        found[descriptor.full_name] = descriptor._concrete_class
        for nested in descriptor.nested_types:
            walk(nested)

    for file in FILES:
        for descriptor in file.DESCRIPTOR.message_types_by_name.values():
            walk(descriptor)
    return found


TYPES = all_types()


# The schema


def test_generated_code_matches_the_proto_files() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "gen-proto", "--check"],
        capture_output=True,
        text=True,
        env={"PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr


def describe(descriptor: Any) -> list[dict[str, Any]]:
    names = {value: name[5:].lower() for name, value in vars(FieldDescriptor).items() if name[:5] == "TYPE_"}
    fields = []
    for field in descriptor.fields:
        other = field.message_type or field.enum_type
        entry: dict[str, Any] = {"number": field.number, "name": field.name}
        entry["type"] = other.full_name if other else names[field.type]
        entry["json"] = field.json_name
        if field.is_repeated:
            entry["repeated"] = True
        oneof = field.containing_oneof
        if oneof is not None and oneof.name == "_" + field.name:
            entry["optional"] = True
        elif oneof is not None:
            entry["oneof"] = oneof.name
        fields.append(entry)
    return fields


def test_schema_equals_the_reference_field_by_field() -> None:
    ours: dict[str, Any] = {"messages": {}, "enums": {}, "services": {}}
    for name, cls in TYPES.items():
        ours["messages"][name] = describe(cls.DESCRIPTOR)
        for enum in cls.DESCRIPTOR.enum_types:
            ours["enums"][enum.full_name] = {value.name: value.number for value in enum.values}
    for file in FILES:
        for enum in file.DESCRIPTOR.enum_types_by_name.values():
            ours["enums"][enum.full_name] = {value.name: value.number for value in enum.values}
        for service in file.DESCRIPTOR.services_by_name.values():
            methods = ours["services"][service.full_name] = {}
            for method in service.methods:
                methods[method.name] = {
                    "input": method.input_type.full_name,
                    "output": method.output_type.full_name,
                }
                if method.client_streaming:
                    methods[method.name]["client_streaming"] = True
                if method.server_streaming:
                    methods[method.name]["server_streaming"] = True
    theirs: dict[str, Any] = {"messages": {}, "enums": {}, "services": {}}
    for file_ in SCHEMA.values():
        for part, entries in theirs.items():
            entries.update(file_[part])

    def in_order(messages: dict[str, Any]) -> dict[str, Any]:
        return {name: sorted(fields, key=lambda field: field["number"]) for name, fields in messages.items()}

    assert ours["enums"] == theirs["enums"]
    assert ours["services"] == theirs["services"]
    assert in_order(ours["messages"]) == in_order(theirs["messages"])


# The golden messages and the recorded operations


def test_every_golden_message_goes_both_ways_unchanged() -> None:
    for golden in GOLDEN:
        cls = TYPES[golden["message"]]
        binary = bytes.fromhex(golden["binary_hex"])
        message = cls.FromString(binary)
        assert codec.to_dict(message) == golden["json"], golden["message"]
        assert codec.to_dict(message) == json_format.MessageToDict(message), golden["message"]
        assert json.loads(codec.dumps(message)) == golden["json"]
        again = codec.from_dict(cls, golden["json"], ignore_unknown=False)
        assert again.SerializeToString(deterministic=True) == binary, golden["message"]
        assert again == json_format.ParseDict(golden["json"], cls()), golden["message"]


def test_every_type_of_the_schema_is_in_the_golden_messages() -> None:
    assert {golden["message"] for golden in GOLDEN} == set(TYPES)
    for cls in TYPES.values():
        assert codec.to_dict(cls()) == {}
        assert codec.from_dict(cls, {}) == cls()


def test_recorded_operations_are_written_as_the_reference_prints_them() -> None:
    for line in (VECTORS / "operations.jsonl").read_text().splitlines():
        assert codec.to_dict(codec.loads(Operation, line)) == json.loads(line)


# Against json_format, on whatever a message can hold

TEXT = st.text(max_size=8)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def value_of(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type._concrete_class, depth + 1)
    if field.enum_type is not None:
        return st.sampled_from([*field.enum_type.values_by_number, 77])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=7)
    if field.cpp_type in INTEGERS:
        low, high = INTEGERS[field.cpp_type]
        return st.sampled_from([low, high, 0, 1]) | st.integers(low, high)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return st.floats(width=32)
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats()
    return TEXT


def messages(cls: type[Message], depth: int = 0) -> st.SearchStrategy[Message]:
    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message = cls()
        for field in cls.DESCRIPTOR.fields:
            if depth > 3 or not draw(st.booleans()):
                continue
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(value_of(field, depth), max_size=2)))
            elif field.message_type is not None:
                part = draw(value_of(field, depth))
                getattr(message, field.name).SetInParent()
                getattr(message, field.name).CopyFrom(part)
            else:
                setattr(message, field.name, draw(value_of(field, depth)))
        return message

    return build()


def same(one: Message, other: Message) -> bool:
    """As bytes, because a NaN in them is not equal to itself."""
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", sorted(TYPES))
def test_codec_equals_json_format_on_generated_messages(name: str) -> None:
    cls = TYPES[name]

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(messages(cls))
    def check(message: Message) -> None:
        theirs = json_format.MessageToDict(message)
        ours = codec.to_dict(message)
        assert ours == theirs
        assert repr(sorted(ours)) == repr(sorted(theirs))
        text = codec.dumps(message)
        assert json.loads(text) == json.loads(json_format.MessageToJson(message))
        assert same(codec.loads(cls, text), json_format.Parse(text, cls()))
        assert same(codec.from_dict(cls, theirs, ignore_unknown=False), json_format.ParseDict(theirs, cls()))

    check()


def test_signs_of_zero_and_floats_of_32_bits_are_kept() -> None:
    class_ = wire.restic.SnapshotSummary
    assert (
        math.copysign(1, codec.loads(class_, codec.dumps(class_(total_duration=-0.0))).total_duration) == -1
    )
    assert codec.to_dict(class_()) == {}


def test_set_is_told_from_unset_where_the_schema_does() -> None:
    selector = wire.service.OpSelector
    assert codec.to_dict(selector(repo_guid="", flow_id=0)) == {"repoGuid": "", "flowId": "0"}
    assert codec.from_dict(selector, {"repoGuid": ""}).HasField("repo_guid")
    event = wire.operations.OperationEvent(keep_alive=wire.types.Empty())
    assert codec.to_dict(event) == {"keepAlive": {}}
    assert (
        codec.from_dict(wire.operations.OperationEvent, {"keepAlive": {}}).WhichOneof("event") == "keep_alive"
    )


# What is accepted besides, and what is not


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"id": 7}, Operation(id=7)),
        ({"id": "7", "repo_id": "r"}, Operation(id=7, repo_id="r")),
        ({"id": 7.0}, Operation(id=7)),
        ({"id": "-9223372036854775808"}, Operation(id=-(2**63))),
        ({"status": 3}, Operation(status=wire.operations.STATUS_SUCCESS)),
        ({"status": "3"}, Operation(status=wire.operations.STATUS_SUCCESS)),
        ({"id": None, "operationBackup": None}, Operation()),
        ({"tomorrow": {"a": 1}}, Operation()),
        ({"status": "STATUS_TOMORROW"}, Operation()),
    ],
)
def test_other_spellings_are_accepted(given: dict[str, Any], expected: Message) -> None:
    assert codec.from_dict(Operation, given) == expected
    assert json_format.ParseDict(given, Operation(), ignore_unknown_fields=True) == expected


@pytest.mark.parametrize("text", ["-_-_", "+/+/", "-_-_YQ", "-_-_YQ=="])
def test_both_alphabets_of_base64_are_read(text: str) -> None:
    expected = json_format.ParseDict({"value": text}, wire.types.BytesValue())
    assert codec.from_dict(wire.types.BytesValue, {"value": text}) == expected


BAD = [
    (Operation, [], "Operation must be an object, not an array"),
    (Operation, None, "Operation must be an object, not null"),
    (Operation, {"id": True}, "id: must be a whole number, not a boolean"),
    (Operation, {"id": 1.5}, "id: must be a whole number"),
    (Operation, {"id": "1_0"}, "id: '1_0' is not a whole number"),
    (Operation, {"id": " 1"}, "id: "),
    (Operation, {"id": "\u0661"}, "id: "),
    (Operation, {"id": ""}, "id: "),
    (Operation, {"id": "9223372036854775808"}, "id: the number is not between"),
    (Operation, {"id": 10**400}, "id: the number is not between"),
    (Operation, {"id": "1" * 5000}, "id: "),
    (Operation, {"id": "1", "repoId": 5}, "repoId: must be a string, not a number"),
    (Operation, {"repoId": "a\ud800"}, "Operation"),
    (Operation, {"repoId": "a", "repo_id": "b"}, "repo_id: given twice"),
    (Operation, {"status": []}, "status: must be a whole number, not an array"),
    (Operation, {"status": "--5"}, "status: "),
    (Operation, {"status": 2**31}, "status: the number is not between"),
    (Operation, {"operationBackup": 5}, "operationBackup: must be an object, not a number"),
    (Operation, {"operationBackup": {"errors": {}}}, "operationBackup.errors: must be an array"),
    (Operation, {"operationBackup": {"errors": [{}, 5]}}, r"operationBackup.errors\[1\]: must be an object"),
    (Operation, {"operationBackup": {"errors": [None]}}, r"operationBackup.errors\[0\]: "),
    (
        Operation,
        {"operationForget": {"forget": [{"paths": ["a", 1]}]}},
        r"operationForget.forget\[0\].paths\[1\]: ",
    ),
    (Operation, {"operationBackup": {}, "operationForget": {}}, "operationForget: only one of"),
    (wire.config.Plan, {"skipIfUnchanged": "yes"}, "skipIfUnchanged: must be true or false"),
    (wire.restic.SnapshotSummary, {"totalDuration": "nan"}, "totalDuration: "),
    (wire.restic.SnapshotSummary, {"totalDuration": True}, "totalDuration: must be a number"),
    (wire.restic.SnapshotSummary, {"totalDuration": "1e999"}, "totalDuration: "),
    (wire.restic.SnapshotSummary, {"totalDuration": 10**400}, "totalDuration: "),
    (wire.types.BytesValue, {"value": "a"}, "value: not base64"),
    (wire.types.BytesValue, {"value": "YQ==YQ=="}, "value: not base64"),
    (wire.types.BytesValue, {"value": "\u00e9"}, "value: not base64"),
    (wire.types.BytesValue, {"value": 5}, "value: must be base64"),
]


@pytest.mark.parametrize(("cls", "given", "reason"), BAD, ids=range(len(BAD)))
def test_bad_input_is_a_value_error_with_the_path(cls: type[Message], given: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        codec.from_dict(cls, given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"tomorrow": 1}, "tomorrow: Operation has no such field"),
        ({"operationBackup": {"x": 1}}, "operationBackup.x: OperationBackup has no such field"),
        ({"status": "STATUS_TOMORROW"}, "status: OperationStatus has no value"),
    ],
)
def test_unknown_keys_are_refused_when_asked(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        codec.from_dict(Operation, given, ignore_unknown=False)


@pytest.mark.parametrize("data", [b"", b"{", b"{}{}", b"nonsense", b"\xff", b'{"id":NaN}', b"[" * 5000, b"5"])
def test_what_is_not_a_json_object_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON|must be an object"):
        codec.loads(Operation, data)


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [f.json_name for f in Operation.DESCRIPTOR.fields] + ["lastStatus", "errors", "x"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_gives_a_message_or_a_value_error(obj: Any) -> None:
    try:
        message = codec.from_dict(Operation, obj)
    except ValueError:
        return
    assert same(codec.loads(Operation, codec.dumps(message)), message)


@pytest.mark.parametrize(
    "cls", [Operation, wire.config.Config, wire.operations.OperationEvent, wire.sync.SyncStreamItem]
)
def test_the_fast_way_from_json_gives_what_the_thorough_one_gives_or_declines(cls: type[Message]) -> None:
    """Ordinary JSON, in which one value or key anywhere is replaced by another."""
    taken = 0

    @settings(
        max_examples=300,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(messages(cls), st.data())
    def check(message: Message, data: st.DataObject) -> None:
        nonlocal taken
        doc = codec.to_dict(message)
        if data.draw(st.booleans()):
            places = list(_places(doc))
            if places:
                place, key = data.draw(st.sampled_from(places))
                old = place[key]
                if isinstance(place, dict) and data.draw(st.booleans()):
                    del place[key]
                    key = data.draw(st.sampled_from(["repo_id", "operationForget", "x", "status"]))
                place[key] = data.draw(st.sampled_from(ODD) | st.just([old]) | st.just({"id": old}))
        try:
            fast = cls(**plain(cls.DESCRIPTOR)(doc))
        except DECLINED:
            return
        taken += 1
        slow = cls(**decoder(cls.DESCRIPTOR)(doc, False))
        assert fast.SerializeToString(deterministic=True) == slow.SerializeToString(deterministic=True)

    check()
    assert taken > 10


ODD = [None, True, 0, 1, 1.0, 1.5, math.inf, math.nan, "", "1", "-1", "+1", "1_0", " 1", "\u0661", "1" * 18, "1" * 19,
       "1" * 5000, "STATUS_SUCCESS", "NaN", [], ["a"], [None], {}, {"id": "1"}, 2**31, -(2**31)]  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each (container, key) in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield value, key
        yield from _places(part)


def test_fields_that_are_left_out_are_missing_in_the_message_and_not_inside_of_it() -> None:
    operation = Operation(id=5, repo_id="nas")
    operation.operation_index_snapshot.snapshot.id = "inside"
    without_id = codec.to_dict_without(Operation, "id")
    assert without_id(operation) == {
        "repoId": "nas",
        "operationIndexSnapshot": {"snapshot": {"id": "inside"}},
    }
    with pytest.raises(ValueError, match="has no nothing"):
        codec.to_dict_without(Operation, "nothing")


@pytest.mark.parametrize("bad", [{"id": "1", "repoId": 5}, {"id": "1", "modno": "9" * 19}, {"id": []}])
def test_what_does_not_fit_leaves_nothing_in_the_list_it_was_meant_for(bad: dict[str, Any]) -> None:
    many = wire.operations.OperationList().operations
    codec.add_dict(many, wire.operations.Operation.DESCRIPTOR, {"id": "7", "repoId": "nas"})
    with pytest.raises(ValueError, match=r"repoId|modno|id"):
        codec.add_dict(many, wire.operations.Operation.DESCRIPTOR, bad)
    assert [op.id for op in many] == [7]


def test_objects_in_ever_new_shapes_are_read_without_being_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain_json, "_learned", plain_json.MOST_SHAPES)
    doc = {"unixTimeEndMs": "8", "logref": "x", "modno": "3", "id": "7", "repoGuid": "g", "flowId": "2"}
    with pytest.raises(DECLINED):
        plain(wire.operations.Operation.DESCRIPTOR)(doc)
    operation = codec.from_dict(wire.operations.Operation, doc)
    assert (operation.id, operation.flow_id, operation.logref) == (7, 2, "x")


def test_types_outside_the_schema_are_refused_not_mangled() -> None:
    assert codec.to_dict(empty_pb2.Empty()) == {}
    with pytest.raises(NotImplementedError):
        codec.to_dict(timestamp_pb2.Timestamp(seconds=1))

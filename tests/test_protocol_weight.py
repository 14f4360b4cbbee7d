"""A large message is judged by its bytes before it is parsed: what two bytes make costs hundreds in memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest import wire
from backrest.errors import Fault, PeerError
from backrest.protocol import items, weight

Item = wire.sync.SyncStreamItem
OPERATIONS = wire.operations.OperationEvent.DESCRIPTOR.fields_by_name["updated_operations"].number


def number(name: str) -> int:
    return Item.DESCRIPTOR.fields_by_name[name].number


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def manifest(ids: int) -> bytes:
    return field(number("operation_manifest"), field(1, b"\1" * ids) + field(2, b"\1" * ids))


HEAVY = {
    "empty operations": field(
        number("receive_operations"), field(1, field(OPERATIONS, b"\x0a\0" * 1_000_000))
    ),
    "empty repos": field(number("set_config"), b"\x0a\0" * 1_000_000),
    "numbers": manifest(3_000_000),
    "numbers to ask for": field(number("request_operation_data"), field(1, b"\1" * 5_000_000)),
    "behind a group": b"\xfb\x07\xfc\x07" + field(number("set_config"), b"\x0a\0" * 1_000_000),
    "in many pieces": field(number("operation_manifest"), field(1, b"\1" * 500)) * 10_000,
}


@pytest.mark.parametrize("name", HEAVY)
def test_what_would_fill_the_memory_is_refused_before_it_is_parsed(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(PeerError) as refused:
        items.parse(HEAVY[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.fault in (Fault.ITEM, Fault.FRAMING)
    assert peak < 48 << 20, "the judgement itself is bounded, too"


def test_what_an_honest_peer_sends_is_taken() -> None:
    assert len(items.parse(manifest(2_000_000)).operation_manifest.op_ids) == 2_000_000
    ids = range(10**12, 10**12 + 200_000)
    large = Item(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
    assert items.parse(large.SerializeToString()) == large
    event = wire.operations.OperationEvent()
    for n in range(512):
        op = event.updated_operations.operations.add(id=n, modno=n, repo_id="r", display_message="x" * 10_000)
        op.operation_forget.forget.add(id="a" * 64)
        op.operation_index_snapshot.snapshot.tags.extend(["a", "b"])
    many = Item(receive_operations=Item.SyncActionReceiveOperations(event=event))
    assert many.ByteSize() > weight.WEIGHED_BYTES
    assert items.parse(many.SerializeToString()) == many


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_end_in_an_error_or_in_nothing(data: bytes) -> None:
    try:
        weight.check(Item.DESCRIPTOR, data)
    except PeerError as error:
        assert error.fault is Fault.FRAMING  # noqa: PT017 - either outcome is right

"""A message is judged by its bytes before it is parsed: what two bytes make costs hundreds in memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest import wire
from backrest.errors import Code, Fault, PeerError
from backrest.protocol import framing, items, weight

Item = wire.sync.SyncStreamItem
OPERATIONS = wire.operations.OperationEvent.DESCRIPTOR.fields_by_name["updated_operations"].number


BACKUP = wire.operations.Operation.DESCRIPTOR.fields_by_name["operation_backup"].number
FORGET = wire.operations.Operation.DESCRIPTOR.fields_by_name["operation_forget"].number
ERRORS = wire.operations.OperationBackup.DESCRIPTOR.fields_by_name["errors"].number


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
    # Each of these is below 1 MiB.
    "few empty operations": field(
        number("receive_operations"), field(1, field(OPERATIONS, b"\x0a\0" * 500_000))
    ),
    "empty errors in one operation": field(
        number("receive_operations"),
        field(1, field(OPERATIONS, field(1, field(BACKUP, field(ERRORS, b"") * 250_000)))),
    ),
    "one kind after another": field(
        number("receive_operations"),
        field(1, field(OPERATIONS, field(1, (field(BACKUP, b"") + field(FORGET, b"")) * 100_000))),
    ),
    "behind something large": field(
        number("receive_operations"),
        field(1, field(OPERATIONS, field(1, field(1000, b"x" * 40_000)) + field(1, b"") * 64_000)),
    ),
    "before it is let in": field(number("set_config"), b"\x0a\0" * 8_000),
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
    assert len(items.parse(manifest(2_000_000))[0].operation_manifest.op_ids) == 2_000_000
    ids = range(10**12, 10**12 + 200_000)
    large = Item(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
    assert items.parse(large.SerializeToString())[0] == large
    event = wire.operations.OperationEvent()
    for n in range(512):
        op = event.updated_operations.operations.add(id=n, modno=n, repo_id="r", display_message="x" * 10_000)
        op.operation_forget.forget.add(id="a" * 64)
        op.operation_index_snapshot.snapshot.tags.extend(["a", "b"])
    many = Item(receive_operations=Item.SyncActionReceiveOperations(event=event))
    assert many.ByteSize() > weight.WEIGHED_BYTES
    assert items.parse(many.SerializeToString())[0] == many


def forgotten(parts: int, padding: int) -> bytes:
    """An item with so many parts, and a text besides."""
    outer = 3  # the item's, the event and the list
    op = field(FORGET, field(1, b"") * (parts - outer - 2)) + field(1000, b"x" * padding)
    return field(number("receive_operations"), field(1, field(OPERATIONS, field(1, op))))


def test_a_message_has_a_part_for_so_many_of_its_bytes_and_not_one_more() -> None:
    most = weight.FREE_PARTS
    while weight.FREE_PARTS + len(forgotten(most, 0)) // weight.PART_BYTES > most:
        most += 1
    items.parse(forgotten(most, 0))
    with pytest.raises(PeerError, match="parts"):
        items.parse(forgotten(most + 100, 0))
    items.parse(forgotten(most + 100, 100 * weight.PART_BYTES))


def test_a_message_weighs_what_it_costs() -> None:
    """The bound of the queue of what was received is in these terms: none costs far more than it is said to."""
    spread = (field(1, b"") + field(1000, b"x" * 12)) * 50_000  # not so dense that it would be walked through
    op = field(FORGET, spread)
    data = field(number("receive_operations"), field(1, field(OPERATIONS, field(1, op))))
    assert len(data) < weight.WEIGHED_BYTES
    assert items.parse(data)[1] >= len(data) + 50_000 * weight.PART_WEIGHT // 2
    assert items.parse(manifest(1_000))[1] >= 2_000


def test_an_outer_item_is_one_thing() -> None:
    """A peer can send it unencrypted, and it is parsed before that is noticed."""
    few = b'{"encrypted":{"nonce":"AA==","ciphertext":"%s"}}' % (b"A" * 1_000_000)
    items.unpack(few, "json")
    for payload, codec in (
        (b'{"x":[' + b"{}," * 100 + b"{}]}", "json"),
        (b'{"x":[' + b"[]," * 100 + b"[]]}", "json"),
        (field(number("operation_manifest"), b"") * 65, "proto"),
        (field(number("receive_operations"), field(1, field(OPERATIONS, b"\x0a\0" * 65))), "proto"),
    ):
        with pytest.raises(PeerError) as refused:
            items.unpack(payload, codec)  # type: ignore[arg-type]
        assert refused.value.fault is Fault.ITEM


def test_an_end_of_stream_message_is_a_sentence() -> None:
    text = "x" * 60_000
    assert framing.parse_end(framing.end_of_stream(Code.INTERNAL, text)[5:]).message == "x" * 499 + "…"
    with pytest.raises(PeerError, match="64 KiB"):
        framing.parse_end(b"[" + b"[]," * 30_000 + b"[]]")


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_end_in_an_error_or_in_nothing(data: bytes) -> None:
    try:
        weight.check(Item.DESCRIPTOR, data)
    except PeerError as error:
        assert error.fault is Fault.FRAMING  # noqa: PT017 - either outcome is right

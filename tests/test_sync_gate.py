"""Who may make the hub work before it is known."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from backrest.net.address import client_address, limit_key
from backrest.sync.gate import FailureLimit, Gate


async def test_one_address_cannot_take_all_places() -> None:
    gate = Gate(total=4, per_address=2)
    inside: list[str] = []
    leave = trio.Event()

    async def visitor(address: str) -> None:
        place = await gate.place(address)
        assert place is not None
        with place:
            inside.append(address)
            await leave.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(visitor, "greedy")
        await trio.testing.wait_all_tasks_blocked()
        assert inside == ["greedy"] * 2
        nursery.start_soon(visitor, "other")
        await trio.testing.wait_all_tasks_blocked()
        assert inside == ["greedy"] * 2 + ["other"]
        leave.set()
    assert len(inside) == 11, "what exceeds the bound waits its turn, it is not turned away"


async def test_a_place_is_free_again_once_the_peer_is_known() -> None:
    gate = Gate(total=1, per_address=1)
    first = await gate.place("a")
    assert first is not None
    first.leave()
    assert await gate.place("a", until=trio.current_time()) is not None
    first.leave()
    assert await gate.place("a", until=trio.current_time()) is None, "one place is left once"


async def test_a_visitor_that_gives_up_waiting_takes_no_place_with_it() -> None:
    gate = Gate(total=1, per_address=1)
    taken = await gate.place("a")
    assert taken is not None
    for address in ("a", "b"):
        with trio.move_on_after(0) as scope:
            await gate.place(address)
            raise AssertionError("there was no place")
        assert scope.cancelled_caught
        assert await gate.place(address, until=trio.current_time()) is None
    taken.leave()
    assert await gate.place("b", until=trio.current_time()) is not None


async def test_those_who_are_known_have_their_turn_between_the_work_on_others() -> None:
    gate = Gate(total=100, per_address=100)
    turns, worst = 0, 0

    async def stranger() -> None:
        nonlocal turns
        place = await gate.place("a")
        assert place is not None
        with place:
            turns += 1

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(stranger)
        while turns < 100:
            before = turns
            await trio.lowlevel.checkpoint()
            worst = max(worst, turns - before)
    assert 0 < worst <= 4


def test_failed_pairings_are_limited_for_each_address_and_in_all() -> None:
    limit = FailureLimit(per_address=3, total=5)
    for _ in range(3):
        assert not limit.refused("a", 0.0)
        limit.failed("a", 0.0)
    assert limit.refused("a", 59.9)
    assert not limit.refused("b", 59.9)
    limit.failed("b", 1.0)
    limit.failed("b", 1.0)
    assert limit.refused("c", 2.0), "the total holds for an address never seen before"
    assert not limit.refused("a", 60.5)


def test_addresses_without_number_cost_no_memory_without_number() -> None:
    limit = FailureLimit(per_address=1, total=10**9)
    for n in range(30_000):
        limit.failed(f"10.{n}", n / 1000)
    assert len(limit._addresses) <= 1_000


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "not an address", "127.0.0.1"),
        ("192.0.2.1", "203.0.113.9", "203.0.113.9"),
        ("192.0.2.77", "203.0.113.9", "192.0.2.77"),
    ],
)
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    peer: str, forwarded: str, expected: str
) -> None:
    assert client_address(peer, {"x-forwarded-for": forwarded}, ["192.0.2.0/28"]) == expected


def test_an_ipv6_client_is_its_network() -> None:
    assert limit_key("2001:db8:1:2:3::4") == limit_key("2001:db8:1:2:ffff::1")
    assert limit_key("2001:db8:1:2::") != limit_key("2001:db8:1:3::")
    assert limit_key("203.0.113.9") == "203.0.113.9"

"""What a hub asks for: the manifest's difference, and the pacing that cannot stall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest.protocol.reconcile import ANSWER_OPERATIONS, REQUEST_OPERATIONS, Diff, Pacer, diff

NUMBERS = st.integers(1, 12)


def test_new_and_different_are_asked_for_in_the_manifests_order_and_the_missing_deleted() -> None:
    held = {1: 10, 2: 20, 3: 30, 4: 40}
    assert diff([9, 3, 1, 2, 8], [90, 31, 10, 19, 80], held) == Diff(delete=[4], request=[9, 3, 2, 8])


def test_nothing_changed_asks_for_nothing() -> None:
    assert diff([1, 2], [10, 20], {2: 20, 1: 10}) == Diff([], [])


def test_empty_manifest_deletes_all() -> None:
    assert diff([], [], {1: 1, 2: 2}) == Diff([1, 2], [])


def test_refused_is_not_asked_for_until_it_changes() -> None:
    assert diff([1, 2], [10, 20], {}, {1: 10, 2: 19}).request == [2]


def test_hostile_manifest_lists_an_id_once() -> None:
    assert diff([5, 6, 5, 5], [1, 1, 2, 3], {6: 1, 5: 3}) == Diff([], [])
    assert diff([5, 6, 5], [1, 1, 2], {6: 2}) == Diff([], [5, 6])


def test_ids_that_no_operation_has_are_not_asked_for() -> None:
    assert diff([0, -3, 1], [1, 1, 1], {}).request == [1]


@given(st.dictionaries(NUMBERS, NUMBERS), st.dictionaries(NUMBERS, NUMBERS))
def test_deleting_and_fetching_makes_both_sides_equal(listed: dict[int, int], held: dict[int, int]) -> None:
    found = diff(list(listed), list(listed.values()), held)
    after = {i: m for i, m in held.items() if i not in found.delete} | {i: listed[i] for i in found.request}
    assert after == listed
    assert found.request == [i for i in listed if held.get(i) != listed[i]]


def test_sizes_are_those_of_the_protocol() -> None:
    assert (ANSWER_OPERATIONS, REQUEST_OPERATIONS) == (512, 4096)


def test_asks_for_a_batch_and_for_more_when_half_has_come() -> None:
    pacer = Pacer(range(1, 10_001))
    assert pacer.next_request() == list(range(1, 4097))
    assert pacer.next_request() == []
    assert pacer.received(range(1, 513)) == []
    assert pacer.received(range(513, 2048)) == []
    assert pacer.received([2048]) == list(range(4097, 6145))
    assert pacer.unsettled == 10_000 - 2048


def test_nothing_to_ask_for_is_done_at_once() -> None:
    pacer = Pacer([])
    assert pacer.next_request() == []
    assert pacer.done
    assert not pacer.waiting
    assert pacer.idle() == []


def test_ids_passed_over_are_not_waited_for() -> None:
    pacer = Pacer([1, 2, 3, 4, 5, 6], batch=4)
    assert pacer.next_request() == [1, 2, 3, 4]
    assert pacer.received([4]) == [5, 6]
    assert pacer.received([6]) == []
    assert pacer.done


def test_what_was_not_asked_for_settles_nothing() -> None:
    pacer = Pacer([1, 2, 3], batch=2)
    pacer.next_request()
    assert pacer.received([3, 77]) == []
    assert pacer.unsettled == 3


def test_an_answer_that_never_comes_is_given_up() -> None:
    pacer = Pacer([1, 2, 3, 4], batch=2)
    pacer.next_request()
    assert pacer.idle() == [3, 4]
    assert pacer.waiting


def test_idle_does_nothing_while_answers_come() -> None:
    pacer = Pacer(list(range(1, 9)), batch=4)
    pacer.next_request()
    pacer.received([1])
    assert pacer.idle() == []  # something came since the last look
    assert pacer.idle() == [5, 6, 7, 8]


def test_a_client_that_is_only_slow_is_asked_for_more_ever_more_rarely() -> None:
    pacer = Pacer(range(1, 1_000_001))
    pacer.next_request()
    requests = sum(bool(pacer.idle()) for _ in range(30))  # five minutes of calls every 10 s
    assert requests <= 5  # 40 messages of the 256 that the reference can queue


def test_patience_is_short_again_after_an_answer() -> None:
    pacer = Pacer(list(range(1, 100)), batch=2)
    pacer.next_request()
    pacer.idle()
    pacer.received([4])
    pacer.idle()
    assert pacer.idle() != []


def test_an_id_named_twice_does_no_harm() -> None:
    pacer = Pacer([1, 1, 2, 2], batch=4)
    assert pacer.next_request() == [1, 1, 2, 2]
    pacer.received([2])
    assert pacer.done


@given(st.data(), st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_everything_is_asked_for_once_whatever_is_left_out(
    data: st.DataObject, count: int, batch: int, answer: int
) -> None:
    """A client that leaves out any ids, answers in pieces of any size, and has live changes in between."""
    pacer = Pacer(range(1, count + 1), batch=batch)
    asked: list[int] = []
    queue: list[int] = []

    def ask(request: list[int]) -> None:
        assert len(request) <= batch
        asked.extend(request)
        queue.extend(i for i in request if data.draw(st.booleans()))

    ask(pacer.next_request())
    for _ in range(200 * (count + 1)):
        if pacer.done:
            break
        if data.draw(st.integers(0, 4)) == 0:
            ask(pacer.received([data.draw(st.integers(1, count + 5))]))
        if queue:
            piece, queue[:] = queue[:answer], queue[answer:]
            ask(pacer.received(piece))
        else:
            ask(pacer.idle())
    assert pacer.done
    assert asked == list(range(1, count + 1))


@pytest.mark.parametrize("left_out", [0, 1, 2047, 4095])
def test_never_more_than_a_batch_is_unanswered_by_a_client_in_order(left_out: int) -> None:
    pacer = Pacer(range(1, 20_001))
    queue = list(pacer.next_request())[left_out:]
    while not pacer.done:
        assert len(queue) <= 4096
        piece, queue = queue[:512], queue[512:]
        queue += pacer.received(piece) if piece else pacer.idle()

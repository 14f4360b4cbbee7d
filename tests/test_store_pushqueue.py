"""The queue of pushes: durable, bounded, in order; its file is private, and what it says of itself holds no secret."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from store_disk import TestDisk, broken_disk, count_steps, full_disk, using

from backrest import wire
from backrest.errors import CorruptError, NotFoundError, StorageError, UserError
from backrest.refusals import Why, refusal, text
from backrest.store import pushqueue
from backrest.store.pushqueue import Answer, Push, PushQueue, SetConfig


def message(plan: str = "photos", password: str = "hush-hush") -> SetConfig:
    return SetConfig(
        plans=[wire.config.Plan(id=plan, repo="nas", paths=["/srv"])],
        repos=[wire.config.Repo(id="nas", guid="a" * 64, uri="/srv/nas", password=password)],
        repos_to_delete=["old"],
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "pushes.json"


def test_what_waits_is_there_after_a_restart_in_its_order(path: Path) -> None:
    queue = PushQueue.open(path)
    assert queue.waiting() == []
    for name in ("one", "two"):
        queue.add("key", "laptop", message(name))
    queue.add("other", "desktop", message())
    again = PushQueue.open(path)
    assert again.waiting() == queue.waiting()
    assert [push.message for push in again.waiting("key")] == [message("one"), message("two")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_numbers_are_never_used_again(path: Path) -> None:
    queue = PushQueue.open(path)
    first = queue.add("key", "laptop", message())
    queue.drop(first.id)
    assert PushQueue.open(path).add("key", "laptop", message()).id == first.id + 1


def test_an_answer_takes_the_content_and_leaves_a_line(path: Path) -> None:
    queue = PushQueue.open(path)
    push = queue.add("key", "laptop", message())
    assert queue.sent(push.id)
    assert PushQueue.open(path).waiting()[0].sent == 1
    queue.answer(push.id, "refused", [text("plan 'photos': not\ngranted")])
    again = PushQueue.open(path)
    assert not again.waiting()
    [answer] = again.answered("key")
    assert (answer.result, answer.items) == ("refused", ("plan photos", "repo nas", "delete repo old"))
    assert again.notices("key") == ("push 1 was refused: plan 'photos': not\ufffdgranted",)
    assert "hush-hush" not in path.read_text()
    assert not queue.sent(push.id), "an answered one is not sent again"
    assert queue.answer(push.id, "applied") is None


def test_a_refusal_is_the_same_value_after_a_restart_and_a_sentence_of_before_stays_one(path: Path) -> None:
    queue = PushQueue.open(path)
    push = queue.add("key", "laptop", message())
    whole = refusal("plan", "p" * 100, Why.IN_USE, plans=["a", "b"])
    queue.answer(push.id, "refused", [whole])
    assert PushQueue.open(path).answered()[0].refused == (whole,)
    entries = json.loads(path.read_text())
    entries["answered"][0]["refused"] = ["plan 'p': no"]
    path.write_text(json.dumps(entries))
    assert PushQueue.open(path).answered()[0].refused == (text("plan 'p': no"),)


def test_a_later_success_or_somebody_who_read_it_ends_the_notice(path: Path) -> None:
    queue = PushQueue.open(path)
    first, second = queue.add("key", "laptop", message()), queue.add("key", "laptop", message())
    queue.answer(first.id, "refused", [text("no")])
    queue.answer(second.id, "applied")
    assert queue.notices("key") == ()
    third = queue.add("key", "laptop", message())
    queue.answer(third.id, "unknown")
    assert len(queue.notices("key")) == 1
    queue.see(third.id)
    assert queue.notices("key") == ()
    assert PushQueue.open(path).notices("key") == ()


def test_only_the_last_outcomes_of_each_peer_are_kept(path: Path) -> None:
    queue = PushQueue.open(path)
    queue.answer(queue.add("other", "desktop", message()).id, "applied")
    for _ in range(pushqueue.ANSWERED_KEPT + 3):
        queue.answer(queue.add("key", "laptop", message()).id, "applied")
    assert len(queue.answered("key")) == pushqueue.ANSWERED_KEPT
    assert len(queue.answered("other")) == 1


@pytest.mark.parametrize("bound", ["MOST_WAITING", "MOST_BYTES"])
def test_too_much_is_refused_and_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    queue = PushQueue.open(path)
    for _ in range(2):
        queue.add("key", "laptop", message())
    monkeypatch.setattr(pushqueue, bound, {"MOST_WAITING": 2, "MOST_BYTES": path.stat().st_size}[bound])
    before = path.read_bytes()
    with pytest.raises(UserError, match="drop some"):
        queue.add("key", "laptop", message())
    assert path.read_bytes() == before
    assert len(queue.waiting()) == 2


def test_what_is_about_a_removed_peer_goes(path: Path) -> None:
    queue = PushQueue.open(path)
    queue.answer(queue.add("gone", "laptop", message()).id, "applied")
    queue.add("gone", "laptop", message())
    kept = queue.add("key", "desktop", message())
    now = wire.config.Config()
    now.multihost.authorized_clients.add(keyid="key")
    assert [push.keyid for push in queue.forget_removed(now)] == ["gone"]
    assert PushQueue.open(path).waiting() == [kept]
    assert queue.answered() == []
    assert queue.forget_removed(now) == []


def test_what_is_not_there_cannot_be_dropped(path: Path) -> None:
    with pytest.raises(NotFoundError, match="push 7"):
        PushQueue.open(path).drop(7)


def test_subscribers_hear_of_each_change(path: Path) -> None:
    queue = PushQueue.open(path)
    told: list[int] = []
    unsubscribe = queue.subscribe(lambda: told.append(len(queue.waiting())))
    push = queue.add("key", "laptop", message())
    queue.answer(push.id, "applied")
    unsubscribe()
    queue.add("key", "laptop", message())
    assert told == [1, 0]


CHANGES: dict[str, Callable[[PushQueue, Push, Answer], object]] = {
    "add": lambda queue, push, answer: queue.add("key", "laptop", message()),
    "sent": lambda queue, push, answer: queue.sent(push.id),
    "answer": lambda queue, push, answer: queue.answer(push.id, "applied"),
    "see": lambda queue, push, answer: queue.see(answer.id),
    "drop": lambda queue, push, answer: queue.drop(push.id),
    "forget": lambda queue, push, answer: queue.forget_removed(wire.config.Config()),
}


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_that_fails_at_any_step_changes_nothing(
    path: Path, change: str, fault: Callable[[], OSError]
) -> None:
    def prepared(where: Path) -> tuple[PushQueue, Push, Answer]:
        queue = PushQueue.open(where)
        answer = queue.answer(queue.add("key", "laptop", message()).id, "refused", [text("no")])
        assert answer is not None
        return queue, queue.add("key", "laptop", message()), answer

    first = prepared(path)
    for at in range(count_steps(lambda: CHANGES[change](*first))):
        where = path.with_name(f"{at}.json")
        queue, push, answer = prepared(where)
        before = where.read_bytes(), queue.waiting(), queue.answered()
        try:
            with using(TestDisk(at, fault)):
                CHANGES[change](queue, push, answer)
        except StorageError:
            assert (where.read_bytes(), queue.waiting(), queue.answered()) == before
        again = PushQueue.open(where)
        assert (again.waiting(), again.answered()) == (queue.waiting(), queue.answered())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"lastId": 0, "waiting": [{"id": 1}], "answered": []}',
        '{"lastId": "hush-hush", "waiting": [], "answered": []}',
        '{"lastId": 9, "waiting": [{"id": 1, "keyId": "k", "instanceId": "i", "createdMillis": 0, "sent": 0,'
        ' "setConfig": {"repos": [{"password": {"hush-hush": 1}}]}}], "answered": []}',
        '{"lastId": 0, "waiting": [{"id": 1, "keyId": "k", "instanceId": "i", "createdMillis": 0, "sent": 0,'
        ' "setConfig": {}}], "answered": []}',
    ],
)
def test_a_damaged_file_is_said_and_not_lost(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(CorruptError, match=r"pushes\.json") as caught:
        PushQueue.open(path)
    assert path.read_text() == text
    assert "hush-hush" not in str(caught.value)


def test_a_push_and_its_outcome_show_no_content(path: Path) -> None:
    queue = PushQueue.open(path)
    push = queue.add("key", "laptop", message())
    assert "hush-hush" not in repr(push)
    assert "/srv" not in repr(push)
    answer = queue.answer(push.id, "applied")
    assert answer is not None
    assert "hush-hush" not in repr(answer) + str(pushqueue.answer_json(answer))

"""The states of peers: cheap updates, nothing lost to listeners, a file that may be damaged."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, snapshot, using

from backrest import wire
from backrest.errors import StorageError
from backrest.refusals import FIELDS_BYTES, Why, refusal, text
from backrest.store.peers import MAX_MESSAGE, MAX_WARNINGS, PeerRecord, PeerStore, _decode
from backrest.store.taken import MAX_WITHHELD, Reach, Taken, decode

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
DISCONNECTED = wire.sync.CONNECTION_STATE_DISCONNECTED


class Clock:
    def __init__(self) -> None:
        self.ms = 1000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


def opened(directory: Path) -> PeerStore:
    return PeerStore.open(directory / "peers.json", now_ms=Clock())


WARNING = refusal("repo", "r" * 100, Why.SAME_GUID, other="mine")


def fill(store: PeerStore) -> PeerRecord:
    repo = wire.config.Repo(id="r", uri="rest:http://u:hunter22@h", password="hunter22", env=["X=hunter22"])
    store.update("other", instance_id="b", role="host", state=wire.sync.CONNECTION_STATE_ERROR_AUTH)
    return store.update(
        "key",
        instance_id="a",
        role="client",
        state=CONNECTED,
        message="hello",
        last_heartbeat_ms=5,
        next_try_ms=6,
        known_repos=(wire.sync.RepoMetadata(id="r", guid="g"),),
        known_plans=(wire.sync.PlanMetadata(id="p"),),
        remote_config=wire.sync.RemoteConfig(modno=3, repos=[repo]),
        warnings=(WARNING,),
        refused=2,
        answers=False,
        sessions=("new", "old"),
        last_session="newest",
        mixed=True,
        twin_ms=11,
        taken=Taken(
            (Reach((("*", "!plan:a,b"),), 9, 1_700_000_000_009), Reach((), 1, 2)),
            frozenset((3, 4, 5, 9)),
            frozenset((7,)),
            retry_ms=8,
        ),
    )


def test_everything_survives_but_the_state(tmp_path: Path) -> None:
    store = opened(tmp_path)
    record = fill(store)
    assert (record.since_ms, store.get("key"), store.get("x")) == (1002, record, None)
    store.flush()
    again = PeerStore.open(tmp_path / "peers.json", now_ms=lambda: 9999).get("key")
    assert again is not None
    assert (again.state, again.since_ms, again.next_try_ms) == (DISCONNECTED, 9999, 0)
    assert (again.instance_id, again.role, again.message, again.last_heartbeat_ms) == (
        "a",
        "client",
        "hello",
        5,
    )
    assert (again.known_repos, again.known_plans) == (record.known_repos, record.known_plans)
    assert (again.warnings, again.refused, again.answers) == ((WARNING,), 2, False)
    assert (again.sessions, again.last_session) == (("new", "old"), "newest")
    assert (again.mixed, again.twin_ms) == (True, 11)
    assert again.remote_config is not None
    assert again.remote_config.modno == 3


def test_a_warning_of_an_earlier_version_stays_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_bytes(GOOD)
    [record] = opened(tmp_path).all()
    assert record.warnings == (text("w"),)


def test_disconnected_since_keeps_its_time_over_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.update("key", state=DISCONNECTED, since_ms=77)
    store.flush()
    again = PeerStore.open(tmp_path / "peers.json", now_ms=lambda: 9999).get("key")
    assert again is not None
    assert again.since_ms == 77


def test_secrets_are_in_memory_only(tmp_path: Path) -> None:
    store = opened(tmp_path)
    record = fill(store)
    store.flush()
    assert record.remote_config is not None
    assert record.remote_config.repos[0].password == "hunter22"
    assert "hunter22" not in (tmp_path / "peers.json").read_text()
    assert "hunter22" not in str(record.to_proto())
    assert "hunter22" not in repr(record)


def test_file_is_private_and_json(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = opened(tmp_path)
        fill(store)
        store.flush()
    finally:
        os.umask(before)
    path = tmp_path / "peers.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [peer["peerKeyid"] for peer in json.loads(path.read_text())["peers"]] == ["other", "key"]


def test_time_of_the_state_follows_the_state(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = store.update("k", state=CONNECTED).since_ms
    assert store.update("k", message="x").since_ms == first
    assert store.update("k", state=DISCONNECTED).since_ms > first
    assert store.update("k", state=CONNECTED, since_ms=5).since_ms == 5


def test_unknown_field_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="stat"):
        opened(tmp_path).update("k", stat=3)


def test_texts_of_peers_are_bounded_and_printable(tmp_path: Path) -> None:
    """Attack: an end message with escape sequences, or of megabytes, shown in a terminal."""
    record = opened(tmp_path).update(
        "k", message="\x1b[31m" + "x" * 10_000, warnings=[text("a\nb" + "w" * 9999)] * 1000
    )
    assert len(record.message) == MAX_MESSAGE
    assert "\x1b" not in record.message
    assert record.warnings[0].words().startswith("a\ufffdb")
    assert len(record.warnings[0].words()) <= FIELDS_BYTES
    assert len(record.warnings) == MAX_WARNINGS


def test_state_of_a_newer_schema_is_shown_as_unknown() -> None:
    assert PeerRecord("k", state=77).to_proto().state == 0


def test_listeners_are_told_of_changes_only(tmp_path: Path) -> None:
    store = opened(tmp_path)
    told: list[str] = []
    end = store.subscribe(told.append)
    store.update("k", message="x")
    store.update("k", message="x")
    store.remove("k")
    store.remove("k")
    end()
    store.update("k", message="y")
    assert told == ["k", "k"]


def test_listener_reads_the_store_it_is_told_of(tmp_path: Path) -> None:
    store = opened(tmp_path)
    seen: list[PeerRecord | None] = []
    store.subscribe(lambda keyid: seen.append(store.get(keyid)))
    record = store.update("k", message="x")
    store.remove("k")
    assert seen == [record, None]


def test_failing_listener_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path)
    told: list[str] = []

    def fails(keyid: str) -> None:
        raise RuntimeError

    store.subscribe(fails)
    store.subscribe(told.append)
    store.update("k", message="x")
    assert told == ["k"]
    assert "a listener" in caplog.text


def test_flush_writes_only_when_something_changed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert count_steps(store.flush) == 0
    store.update("k", message="x")
    assert count_steps(store.flush) > 0
    assert count_steps(store.flush) == 0
    store.update("k", message="x")
    assert count_steps(store.flush) == 0
    store.remove("k")
    store.flush()
    assert PeerStore.open(tmp_path / "peers.json").all() == []


def test_updates_of_many_threads_are_all_there(tmp_path: Path) -> None:
    store = opened(tmp_path)

    def work(name: str) -> None:
        for number in range(50):
            store.update(f"{name}{number}", message=name)
            if number % 10 == 0:
                store.flush()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    again = PeerStore.open(tmp_path / "peers.json").all()
    assert sorted((r.keyid, r.message) for r in again) == sorted((r.keyid, r.message) for r in store.all())
    assert len(again) == 200


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_failed_flush_keeps_the_file_and_is_made_up_for(tmp_path: Path, fault: Callable[[], OSError]) -> None:
    store = opened(tmp_path)
    store.update("k", message="0")
    for step in range(count_steps(store.flush)):
        store.update("k", message=f"{step + 1}")
        files = snapshot(tmp_path)
        try:
            with using(TestDisk(step, fault)):
                store.flush()
        except StorageError:
            assert snapshot(tmp_path) == files
            store.flush()
        (record,) = PeerStore.open(tmp_path / "peers.json").all()
        assert record.message == f"{step + 1}"


def test_power_cut_at_any_step_leaves_old_or_new(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.update("k", message="0")
    for step in range(count_steps(store.flush)):
        store.update("k", message=f"{step + 1}")
        (old,) = PeerStore.open(tmp_path / "peers.json").all()
        with using(TestDisk(step)), pytest.raises(Died):
            store.flush()
        (new,) = PeerStore.open(tmp_path / "peers.json").all()
        assert new.message in (old.message, f"{step + 1}")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b"[]",
        b'{"peers": 1}',
        b'{"peers": [1]}',
        b'{"peers": [{}]}',
        b'{"peers": [{"peerKeyid": "k"}, {"peerKeyid": "k"}]}',
        b'{"peers": [{"peerKeyid": "k", "role": "boss"}]}',
        b'{"peers": [{"peerKeyid": "k", "warnings": [1]}]}',
        b'{"peers": [{"peerKeyid": "k", "warnings": [{"kind": "repo", "id": "r"}]}]}',
        b'{"peers": [{"peerKeyid": "k", "warnings": [{"kind": "", "id": "", "code": "x", "fields": {"a": 1}}]}]}',
        b'{"peers": [{"peerKeyid": "k", "sinceMillis": -1}]}',
        b'{"peers": [{"peerKeyid": "k", "refused": "99999999999999999999"}]}',
        b'{"peers": [{"peerKeyid": 5}]}',
        b'{"peers": [{"peerKeyid": "\xff"}]}',
    ],
)
def test_damaged_file_is_set_aside(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "peers.json").write_bytes(data)
    store = opened(tmp_path)
    assert store.all() == []
    assert snapshot(tmp_path) == {"peers.json.bad": data}
    assert "is damaged" in caplog.text
    store.update("k", message="x")
    store.flush()
    assert len(opened(tmp_path).all()) == 1


def test_unreadable_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        PeerStore.open(tmp_path)


GOOD = (
    b'{"peers":[{"peerInstanceId":"a","peerKeyid":"k","state":"CONNECTION_STATE_CONNECTED","role":"client",'
    b'"knownRepos":[{"id":"r"}],"sinceMillis":"1","nextTryMillis":"0","warnings":["w"],"refused":"1"}]}'
)


@given(st.integers(0, len(GOOD)), st.integers(0, 6), st.binary(max_size=4))
def test_hostile_bytes_are_a_value_error_or_records(at: int, dropped: int, put_in: bytes) -> None:
    try:
        records = _decode(GOOD[:at] + put_in + GOOD[at + dropped :])
    except ValueError:
        return
    for record in records:
        record.to_proto()


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_json_is_a_value_error_or_records(value: object) -> None:
    try:
        data = json.dumps({"peers": [value]}).encode()
        _decode(data)
    except ValueError:
        pass


def test_the_time_of_a_heartbeat_alone_presses_nobody_to_write(tmp_path: Path) -> None:
    """A thousand idle clients would have the file written each second."""
    store = PeerStore.open(tmp_path / "peers.json")
    store.update("a", state=2, last_heartbeat_ms=1)
    assert store.pressing
    with using(TestDisk(0, full_disk)), pytest.raises(StorageError):
        store.flush()
    assert store.pressing, "it is still to be written"
    store.flush()
    assert not store.pressing
    store.update("a", last_heartbeat_ms=2)
    assert not store.pressing
    store.flush()
    again = PeerStore.open(tmp_path / "peers.json").get("a")
    assert again is not None
    assert again.last_heartbeat_ms == 2, "it is written with whatever is written next"
    for change in ({"message": "x"}, {"last_heartbeat_ms": 3, "state": 1}):
        store.update("a", **change)
        assert store.pressing
        store.flush()
    store.remove("a")
    assert store.pressing


@pytest.mark.parametrize(
    ("last", "fits"), [(MAX_WITHHELD, True), (MAX_WITHHELD + 1, False), (1 << 62, False)]
)
def test_what_is_withheld_is_bounded_as_it_is_read(last: int, fits: bool) -> None:
    value = {"reaches": [], "lost": ["1-5", f"6-{last - 1}"], "doubtful": [str(last)], "retryMillis": "0"}
    if fits:
        assert len(decode(value).lost) == last - 1
    else:
        with pytest.raises(ValueError, match="more than there can be"):
            decode(value)

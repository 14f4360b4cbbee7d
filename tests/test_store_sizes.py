"""How large a state file may become: what cannot be read back is not written, and who is refused hears it in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_world import put, rename_to, stored
from store_disk import snapshot

from backrest import refusals, wire
from backrest.errors import StorageError, TooLargeError, UserError
from backrest.store import peers, pushqueue, syscalls
from backrest.store.config import ConfigStore
from backrest.store.files import atomic_write, read_file
from backrest.store.peers import MAX_MESSAGE, NOT_KEPT, PeerStore
from backrest.store.pushqueue import PushQueue, SetConfig

Config = wire.config.Config
Repo = wire.config.Repo


def test_what_is_written_can_be_read_again_and_nothing_larger_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    most = bytes(syscalls.MAX_WHOLE_FILE)
    atomic_write(path, most)
    assert len(read_file(path)) == len(most)
    with pytest.raises(TooLargeError, match=r"file: it would be larger than 64 MiB.*remove some"):
        atomic_write(path, most + b"x")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_size == len(most)


# --- the configuration


def with_repo(text: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        del config.repos[:]
        config.repos.add(id="r", uri="/u", guid="a" * 64, password=text)

    return change


def test_a_change_that_makes_the_configuration_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    store.transform(with_repo("x" * 100))
    monkeypatch.setattr(syscalls, "MAX_WHOLE_FILE", path.stat().st_size)
    store.transform(with_repo("y" * 100))
    before, files = store.current, snapshot(tmp_path)
    for text in ("y" * 101, "\x01" * 50):
        with pytest.raises(UserError, match=r"change was not made: .*c\.json would be larger than"):
            store.transform(with_repo(text))
    assert store.current is before
    assert snapshot(tmp_path) == files
    assert store.transform(rename_to("I")).instance == "I"
    assert ConfigStore.open(path).current == store.current


def test_a_configuration_that_is_too_large_names_the_backup_that_is_not(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    ConfigStore.open(path).transform(rename_to("you"))
    with path.open("r+b") as file:
        file.truncate(syscalls.MAX_WHOLE_FILE + 1)
    with pytest.raises(
        StorageError, match=r"larger than 64 MiB.*the newest backup is .*c\.json\.bak\.2"
    ) as caught:
        ConfigStore.open(path)
    assert stored(Path(str(caught.value).partition("backup is ")[2].rstrip(")")))["instance"] == "me"


# --- the peers


def show(store: PeerStore, keyid: str, text: str, message: str = "") -> None:
    view = wire.sync.RemoteConfig(repos=[Repo(id="r", uri=text)])
    known = (wire.sync.RepoMetadata(id=text),)
    store.update(keyid, role="client", message=message, remote_config=view, config_ms=1, known_repos=known)


def kept(path: Path) -> list[str]:
    return [record.keyid for record in PeerStore.open(path).all() if record.remote_config is not None]


def test_the_largest_views_are_not_kept_when_all_are_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.json"
    store = PeerStore.open(path)
    for number in (3, 1, 2):
        show(store, f"key-{number}", "x" * 1000 * number, "z" * MAX_MESSAGE if number == 3 else "a")
    store.flush()
    frame = len(b'{"peers":[\n') + 2 * len(b",\n") + len(b"\n]}\n")
    monkeypatch.setattr(peers, "KEPT_BYTES", path.stat().st_size - frame)
    show(store, "key-1", "y" * 1000, "b")
    store.flush()
    assert kept(path) == ["key-3", "key-1", "key-2"]
    assert not caplog.records
    show(store, "key-1", "y" * 1000, "bb")
    store.flush()
    assert kept(path) == ["key-1", "key-2"]
    [large] = [record for record in PeerStore.open(path).all() if record.keyid == "key-3"]
    assert large.message.startswith("zzz")
    assert large.message.endswith(f"; {NOT_KEPT}")
    assert (large.role, large.known_repos, len(large.message)) == ("client", (), MAX_MESSAGE)
    assert "views of peers are not kept over a restart (1 of them)" in caplog.text
    in_memory = store.get("key-3")
    assert in_memory is not None
    assert in_memory.remote_config is not None, "while the program runs nothing is missing"
    store.remove("key-2")
    store.flush()
    assert kept(path) == ["key-3", "key-1"], "there is room for it again"


def test_control_characters_of_a_few_clients_do_not_make_the_file_unreadable(tmp_path: Path) -> None:
    """Attack: less than the 1 MiB that is kept of a view is 6 MiB in JSON, and every start reads it."""
    path = tmp_path / "peers.json"
    store = PeerStore.open(path)
    for number in range(6):
        show(store, f"key-{number}", "\x01" * 1_000_000)
    show(store, "honest", "/srv/nas")
    store.flush()
    assert "honest" in kept(path)
    assert len(PeerStore.open(path).all()) == 7


def test_a_file_of_peers_that_is_too_large_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    for size, name in ((syscalls.MAX_WHOLE_FILE, "not JSON"), (syscalls.MAX_WHOLE_FILE + 1, "too large")):
        with path.open("wb") as file:
            file.truncate(size)
        assert PeerStore.open(path).all() == [], name
        assert [file.name for file in tmp_path.iterdir()] == ["peers.json.bad"]


# --- the pushes


def push(size: int, text: str = "x") -> SetConfig:
    return SetConfig(repos=[Repo(id="r", guid="a" * 64, password=text * size)])


def test_pushes_are_counted_as_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "pushes.json"
    queue = PushQueue.open(path)
    queue.add("key", "laptop", push(1))
    rest = pushqueue.MOST_BYTES - path.stat().st_size + 1
    queue.drop(1)
    for message in (push(rest + 1), push(rest // 6 + 1, "\x01")):
        with pytest.raises(UserError, match="would exceed 16 MiB: drop some"):
            queue.add("key", "laptop", message)
    queue.add("key", "laptop", push(rest))
    assert path.stat().st_size == pushqueue.MOST_BYTES
    assert [len(one.message.repos[0].password) for one in PushQueue.open(path).waiting()] == [rest]


def test_old_outcomes_give_way_when_peers_say_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pushes.json"
    monkeypatch.setattr(pushqueue, "MOST_BYTES", 20_000)
    queue = PushQueue.open(path)
    for number in range(40):
        queue.answer(
            queue.add(f"key-{number}", "laptop", push(1)).id, "refused", [refusals.text("\U0001f4be" * 400)]
        )
        assert path.stat().st_size < 40_000
    assert PushQueue.open(path).answered()[-1].id == 40
    assert queue.add("key", "laptop", push(1)).id == 41, "outcomes take no room from what waits"

"""The configuration store: transactions, failing disks, backups, edits by others, listeners."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from config_world import add_a_repo, put, rename_to, stored
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, snapshot, using

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import ConflictError, StorageError, UserError
from backrest.store import backups
from backrest.store.config import TRIES, ConfigStore

Config = wire.config.Config


# --- transactions


def test_absent_file_gives_defaults_and_is_not_made(tmp_path: Path) -> None:
    store = ConfigStore.open(tmp_path / "deep" / "c.json")
    assert (store.current.version, store.current.modno, store.generation) == (6, 0, 0)
    assert snapshot(tmp_path) == {}
    store.transform(rename_to("me"))
    assert stored(tmp_path / "deep" / "c.json") == {
        "modno": 1,
        "version": 6,
        "instance": "me",
        "auth": {"disabled": True},
    }


def test_private_from_creation(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "deep" / "c.json"
        store = ConfigStore.open(path)
        store.transform(rename_to("me"))
        path.chmod(0o644)
        store.transform(rename_to("you"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_change_counts_and_makes_a_new_object(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json", modno=41))
    before = store.current
    after = store.transform(rename_to("you"))
    assert store.current is after
    assert (before.instance, before.modno, after.instance, after.modno) == ("me", 41, "you", 42)
    assert store.generation == 1


@pytest.mark.parametrize("change", [lambda c: False, lambda c: None, lambda c: c.Clear() or False])
def test_no_change_writes_nothing(tmp_path: Path, change: Callable[[Config], bool | None]) -> None:
    repos = [{"id": name, "uri": "/u", "guid": "a" * 64} for name in "ba"]  # not in order: no reason either
    store = ConfigStore.open(put(tmp_path / "c.json", repos=repos))
    before, files = store.current, snapshot(tmp_path)
    assert store.transform(change) is before
    assert (snapshot(tmp_path), store.generation) == (files, 0)


def test_caller_cannot_choose_version_or_modno(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))

    def change(config: Config) -> None:
        config.version, config.modno, config.instance = 0, 99, "you"

    assert (store.transform(change).version, store.current.modno) == (6, 1)


def test_modno_stays_positive(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json", modno=2**31 - 1))
    assert store.transform(rename_to("you")).modno == 1


def test_refused_change_leaves_memory_and_file(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))
    before, files = store.current, snapshot(tmp_path)

    def break_rules(config: Config) -> None:
        config.repos.add(id="a b")

    with pytest.raises(UserError) as caught:
        store.transform(break_rules)
    assert len(caught.value.problems) == 3

    def fail(config: Config) -> None:
        config.instance = "x"
        raise KeyError

    with pytest.raises(KeyError):
        store.transform(fail)
    assert store.current is before
    assert (snapshot(tmp_path), store.generation) == (files, 0)


def test_identity_is_changed_only_on_purpose(tmp_path: Path) -> None:
    store = ConfigStore.open(tmp_path / "c.json")
    one, two = (Identity.from_seed(bytes([n]) * 32).to_proto() for n in (1, 2))
    store.transform(lambda c: c.multihost.identity.CopyFrom(one))
    for change in (
        lambda c: c.multihost.identity.CopyFrom(two),
        lambda c: c.multihost.ClearField("identity"),
        lambda c: c.ClearField("multihost"),
    ):
        with pytest.raises(UserError, match="identity"):
            store.transform(change)
    assert store.current.multihost.identity == one
    store.transform(lambda c: c.multihost.identity.CopyFrom(two), replace_identity=True)
    assert store.current.multihost.identity == two


def test_change_inside_a_change_is_a_mistake(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))
    with pytest.raises(RuntimeError):
        store.transform(lambda config: store.transform(rename_to("you")) and None)
    assert store.transform(rename_to("her")).instance == "her"


def test_changes_of_many_threads_are_all_there(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))

    def add(name: str) -> None:
        for number in range(5):
            repo = wire.config.Repo(id=f"{name}{number}", uri="/u", guid="a" * 64)
            store.transform(partial(add_repo, repo))

    def add_repo(repo: wire.config.Repo, config: Config) -> None:
        config.repos.append(repo)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(store.current.repos), store.current.modno) == (20, 20)
    assert len(stored(tmp_path / "c.json")["repos"]) == 20


# --- failing disks


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_any_failing_step_leaves_everything_as_it_was(tmp_path: Path, fault: Callable[[], OSError]) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    steps = count_steps(lambda: store.transform(rename_to("n0")))
    failed = 0
    for step in range(steps):
        before, files = store.current, snapshot(tmp_path)
        try:
            with using(TestDisk(step, fault)):
                store.transform(rename_to(f"n{step + 1}"))
        except StorageError:
            failed += 1
            assert store.current is before
            assert snapshot(tmp_path) == files
        assert ConfigStore.open(path).current == store.current
    assert failed >= 8


def test_power_cut_at_any_step_leaves_old_or_new(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    steps = count_steps(lambda: ConfigStore.open(path).transform(rename_to("n0")))
    for step in range(steps):
        store = ConfigStore.open(path)
        old = store.current
        with using(TestDisk(step)), pytest.raises(Died):
            store.transform(rename_to(f"n{step + 1}"))
        new = ConfigStore.open(path).current
        assert new.instance in (old.instance, f"n{step + 1}")


# --- backups


def test_last_ten_and_the_first_of_the_day_are_kept_and_none_overwritten(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    (tmp_path / "c.json.bak.mine").write_text("precious")
    store = ConfigStore.open(path)
    for number in range(14):
        store.transform(rename_to(f"n{number}"))
    kept = sorted(tmp_path.glob("c.json.bak.2*"), key=lambda file: file.stat().st_mtime_ns)
    assert [stored(file)["instance"] for file in kept] == ["me", *(f"n{number}" for number in range(3, 13))]
    assert (tmp_path / "c.json.bak.mine").read_text() == "precious"


def test_first_of_each_of_ten_days_is_kept_besides(tmp_path: Path) -> None:
    """A hub that pushes again and again replaces the last ten; what was before it came stays."""
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    for day in range(13, 0, -1):
        for number in range(2):
            store.transform(rename_to(f"day{day}-{number}"))
            then = time.time() - day * 86400 + number
            os.utime(backups.all_of(path)[-1], (then, then))
    for number in range(30):
        store.transform(rename_to(f"push{number}"))
    kept = [stored(backup)["instance"] for backup in backups.all_of(path)]
    assert kept == [
        *(f"day{day + 1}-1" for day in range(9, 0, -1)),
        "day1-1",  # how yesterday ended: the first backup of today
        *(f"push{number}" for number in range(19, 29)),
    ]
    for backup in backups.all_of(path):
        os.utime(backup, (then, then))
    store.transform(rename_to("more"))
    assert len(backups.all_of(path)) == 11, "ten, and the first of the only other day"


def test_backup_has_the_references_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups.time, "strftime", lambda form: "2026-01-02-03-04-05")
    store = ConfigStore.open(put(tmp_path / "c.json"))
    for name in ("a", "b", "c"):
        store.transform(rename_to(name))
    assert sorted(snapshot(tmp_path)) == [
        "c.json",
        "c.json.bak.2026-01-02-03-04-05",
        "c.json.bak.2026-01-02-03-04-05.0001",
        "c.json.bak.2026-01-02-03-04-05.0002",
    ]


def test_a_clock_that_was_ahead_costs_no_new_backup(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    for number in range(11):
        store.transform(rename_to(f"ahead{number}"))
    future = time.time() + 4 * 365 * 86400
    for number, backup in enumerate(backups.all_of(path)):
        os.utime(backup, (future + number, future + number))
    for number in range(5):
        store.transform(rename_to(f"now{number}"))
        assert len(backups.all_of(path)) == 10
        assert stored(backups.all_of(path)[-1])["instance"] == (f"now{number - 1}" if number else "ahead10")
    kept = [stored(backup)["instance"] for backup in backups.all_of(path)]
    assert kept == [*(f"ahead{number}" for number in range(5, 11)), *(f"now{number}" for number in range(4))]
    path.write_bytes(b"{")
    with pytest.raises(UserError) as caught:
        store.reload()
    newest = str(caught.value).partition("the newest backup is ")[2].rstrip(")")
    assert stored(Path(newest))["instance"] == "now3"


def test_the_backup_just_made_stays_whatever_its_time_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    for number in range(11):
        store.transform(rename_to(f"n{number}"))
    monkeypatch.setattr(backups.time, "time_ns", lambda: 10**18)  # the clock is years behind
    for backup in backups.all_of(path):
        assert backup.stat().st_mtime_ns > 10**18
    store.transform(rename_to("behind"))
    assert stored(backups.all_of(path)[-1])["instance"] == "n10"
    assert len(backups.all_of(path)) == 10


def test_a_backup_that_cannot_be_read_keeps_no_secret_in_the_others(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    with_secret = json.dumps({"multihost": {"pairingTokens": [{"secret": "hush-hush"}]}})
    for second in ("01", "02", "03"):
        (tmp_path / f"c.json.bak.2024-01-01-00-00-{second}").write_text(with_secret)
    bad = tmp_path / "c.json.bak.2024-01-01-00-00-02"
    bad.unlink()
    bad.mkdir()
    with pytest.raises(StorageError, match="00-02: it is a directory"):
        ConfigStore.open(path).clean_backups()
    left = [file.read_text() for file in tmp_path.glob("*.bak.*") if file != bad]
    assert len(left) == 2
    assert not any("hush-hush" in text for text in left)


def test_linked_configuration_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    put(tmp_path / "dotfiles" / "c.json")
    (tmp_path / "c.json").symlink_to("dotfiles/c.json")
    ConfigStore.open(tmp_path / "c.json").transform(rename_to("you"))
    assert (tmp_path / "c.json").is_symlink()
    assert stored(tmp_path / "dotfiles" / "c.json")["instance"] == "you"
    assert list(snapshot(tmp_path / "dotfiles")) == ["c.json"]


# --- edits by others


def test_edit_by_hand_is_built_upon(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json", modno=5)
    store = ConfigStore.open(path)
    put(path, modno=5, later=1, repos=[{"id": "by-hand", "uri": "/u", "guid": "a" * 64}])
    store.transform(rename_to("you"))
    assert stored(path)["repos"][0]["id"] == "by-hand"
    assert (stored(path)["instance"], stored(path)["later"]) == ("you", 1)
    assert stored(path)["modno"] == 7  # one for the edit, which changed none, and one for the change


def edits_meanwhile(path: Path, times: int, change: Callable[[Config], None]) -> Callable[[Config], None]:
    """``change``, during whose first ``times`` calls an editor saves a repo more into the file."""
    names = iter([f"by-hand-{number}" for number in range(times)])

    def both(config: Config) -> None:
        change(config)
        if name := next(names, ""):
            document = stored(path)
            document.setdefault("repos", []).append(
                {"id": name, "uri": f"/{name}", "guid": f"{len(name):064}"}
            )
            saved = path.with_suffix(".new")  # as editors save: a new file in the old one's place
            saved.write_text(json.dumps(document))
            saved.replace(path)

    return both


@pytest.mark.parametrize("times", [1, TRIES - 1])
def test_an_edit_during_a_change_is_built_upon(tmp_path: Path, times: int) -> None:
    path = put(tmp_path / "c.json", modno=5)
    store = ConfigStore.open(path)
    told: list[Config] = []
    store.subscribe(told.append)
    after = store.transform(edits_meanwhile(path, times, rename_to("you")))
    assert [repo.id for repo in after.repos] == [f"by-hand-{number}" for number in range(times)]
    assert (stored(path)["instance"], len(stored(path)["repos"])) == ("you", times)
    assert [config.instance for config in told] == ["you"]
    [backup] = backups.all_of(path)
    assert len(stored(backup)["repos"]) == times, "the edit as it was, and nothing of the tries before"


def test_edits_without_end_refuse_the_change_and_all_stand(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    with pytest.raises(ConflictError, match="again and again"):
        store.transform(edits_meanwhile(path, TRIES, rename_to("you")))
    assert len(stored(path)["repos"]) == TRIES
    assert (stored(path)["instance"], sorted(snapshot(tmp_path))) == ("me", ["c.json"])
    assert store.transform(rename_to("you")).repos[TRIES - 1].id == f"by-hand-{TRIES - 1}"


def test_a_file_that_is_made_during_the_first_change_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    store = ConfigStore.open(path)

    def change(config: Config) -> None:
        if not path.exists():
            put(path, instance="theirs")
        config.repos.add(id="r", uri="/u", guid="a" * 64)

    assert store.transform(change).instance == "theirs"


def test_unusable_edit_during_a_change_is_refused_and_kept(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    with pytest.raises(UserError, match="line 1"):
        store.transform(lambda config: path.write_bytes(b"{") and add_a_repo(config))
    assert snapshot(tmp_path) == {"c.json": b"{"}
    assert store.current.instance == "me"


def test_edit_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    info = path.stat()
    path.write_bytes(path.read_bytes().replace(b"me", b"we"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert store.reload()
    assert store.current.instance == "we"


def test_unusable_edit_is_refused_and_kept(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    path.write_bytes(b'{"version": 6,')
    before = snapshot(tmp_path)
    for act in (store.reload, lambda: store.transform(rename_to("you"))):
        with pytest.raises(UserError, match="line 1"):
            act()
    assert store.current.instance == "me"
    assert snapshot(tmp_path) == before


def test_reload_says_whether_anything_changed(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    told: list[Config] = []
    store.subscribe(told.append)
    assert not store.reload()
    path.write_text(json.dumps({"instance": "me", "version": 6}, indent=8))  # white space only
    assert not store.reload()
    put(path, instance="you")
    assert store.reload()
    assert [config.instance for config in told] == ["you"]


def test_removed_file_stays_in_force_and_comes_back(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        store.reload()
    assert store.current.instance == "me"
    store.transform(add_a_repo)
    assert stored(path)["instance"] == "me"


def test_file_made_by_another_program_is_taken_over(tmp_path: Path) -> None:
    store = ConfigStore.open(tmp_path / "c.json")
    assert not store.reload()
    put(tmp_path / "c.json", modno=3)
    assert store.reload()
    assert (store.current.instance, store.current.modno) == ("me", 3)


# --- listeners


def test_listeners_are_told_after_the_commit(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    store = ConfigStore.open(path)
    seen: list[tuple[str, str]] = []
    end = store.subscribe(lambda config: seen.append((config.instance, stored(path)["instance"])))
    store.transform(rename_to("a"))
    store.transform(lambda config: False)
    end()
    end()
    store.transform(rename_to("b"))
    assert seen == [("a", "a")]


def test_change_by_a_listener_reaches_everybody_last(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))
    seen: list[str] = []

    def reacts(config: Config) -> None:
        if config.instance == "a":
            store.transform(rename_to("b"))

    store.subscribe(reacts)
    store.subscribe(lambda config: seen.append(config.instance))
    store.transform(rename_to("a"))
    assert seen[-1] == "b"
    assert store.current.instance == "b"


def test_failing_listener_does_not_keep_the_news_from_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))
    seen: list[str] = []

    def fails(config: Config) -> None:
        raise RuntimeError

    store.subscribe(fails)
    store.subscribe(lambda config: seen.append(config.instance))
    store.transform(rename_to("a"))
    assert seen == ["a"]
    assert "a listener" in caplog.text


def test_listener_sees_the_newest_whatever_the_threads_do(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))
    seen: list[int] = []
    store.subscribe(lambda config: seen.append(config.modno))

    def work(name: str) -> None:
        for number in range(5):
            after = store.transform(rename_to(f"{name}{number}"))
            assert seen[-1] >= after.modno  # told before transform returned

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert seen[-1] == store.current.modno == 15

"""The configuration store: reading, writing, transactions, backups, edits by others, listeners."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, snapshot, using

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import StorageError, UserError
from backrest.store import backups
from backrest.store.config import ConfigStore, load
from backrest.store.configfile import parse, serialise
from backrest.wire import codec

Config = wire.config.Config
CAPTURES = Path(__file__).parent.parent / "conformance" / "vectors" / "captures"
MINIMAL = b'{"version": 6, "instance": "me"}'


def stored(path: Path) -> Any:
    return json.loads(path.read_text())


def put(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps({"version": 6, "instance": "me"} | values))
    return path


def rename_to(name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config.instance = name

    return change


def add_a_repo(config: Config, uri: str = "u") -> None:
    config.repos.add(id="r", uri=uri, guid="a" * 64)


# --- the reference's files


@pytest.mark.parametrize("name", ["hub-config.json", "client-config.json"])
def test_captured_file_is_written_back_with_nothing_lost(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes((CAPTURES / name).read_bytes())
    store = ConfigStore.open(path)
    assert store.warnings == ()
    original = stored(path)
    store.transform(rename_to("other"))
    assert stored(path) == original | {"instance": "other", "modno": original["modno"] + 1}
    store.transform(rename_to(original["instance"]))
    assert stored(path) == original | {"modno": original["modno"] + 2}
    assert list(stored(path)) == list(original)  # the keys in the same order, too


def test_both_kinds_of_names_are_read() -> None:
    data = b"""{"version": 6, "multihost": {"known_hosts": [
        {"instance_id": "h", "keyid": "k", "instanceUrl": "http://h"}
    ]}, "plans": [], "repos": [{"id": "r", "uri": "u", "auto_initialize": true}]}"""
    config = load(data, "f").config
    assert config.multihost.known_hosts[0].instance_id == "h"
    assert config.repos[0].auto_initialize
    assert b'"sync"' in serialise(config, load(data, "f").unknown)


def test_indented_by_two_and_readable(tmp_path: Path) -> None:
    store = ConfigStore.open(put(tmp_path / "c.json"))
    store.transform(lambda c: add_a_repo(c, "/süd"))
    text = (tmp_path / "c.json").read_text()
    assert text.startswith('{\n  "modno": 1,\n  "version": 6,\n  "instance": "me",\n  "repos": [\n    {\n')
    assert "/süd" in text


def test_members_of_a_oneof_are_written_at_zero(tmp_path: Path) -> None:
    data = {"plans": [{"id": "p", "repo": "r", "paths": ["/"], "retention": {"policyKeepLastN": 0}}]}
    path = put(tmp_path / "c.json", repos=[{"id": "r", "uri": "u", "guid": "a" * 64}], **data)
    store = ConfigStore.open(path)
    store.transform(rename_to("you"))
    assert stored(path)["plans"] == data["plans"]


# --- unknown keys


def test_unknown_keys_survive_at_every_level(tmp_path: Path) -> None:
    hook = {"conditions": ["CONDITION_ANY_ERROR"], "actionCommand": {"command": "x", "shell": "zsh"}}
    other = {"conditions": ["CONDITION_ANY_ERROR"], "actionCommand": {"command": "y"}}
    path = put(
        tmp_path / "c.json",
        future={"deep": [1, {"x": None}]},
        repos=[
            {"id": "a", "uri": "u", "guid": "a" * 64, "colour": "red", "hooks": [other, hook, hook]},
            {"id": "b", "uri": "v", "guid": "b" * 64, "prunePolicy": {"later": 1.5}},
        ],
        plans=[{"id": "p", "repo": "b", "paths": ["/"], "cron": "* * * * *"}],
        sync={"knownHosts": [{"instanceId": "h", "keyId": "k", "instanceUrl": "http://h", "note": "n"}]},
        auth={"disabled": True, "users": [{"name": "u", "totp": "s"}]},
    )
    before = stored(path)
    store = ConfigStore.open(path)

    def change(config: Config) -> None:
        config.repos.add(id="A-new", uri="w", guid="c" * 64)  # sorts first: the others move
        del config.repos[0].hooks[0]

    store.transform(change)
    after = stored(path)
    assert after["future"] == before["future"]
    assert [repo["id"] for repo in after["repos"]] == ["A-new", "a", "b"]
    assert after["repos"][1] == before["repos"][0] | {"hooks": [hook, hook]}
    assert after["repos"][2] == before["repos"][1]
    assert (after["plans"], after["sync"], after["auth"]) == (before["plans"], before["sync"], before["auth"])


def test_unknown_keys_of_equal_objects_are_not_mixed_up(tmp_path: Path) -> None:
    hook = {"conditions": ["CONDITION_ANY_ERROR"], "actionCommand": {"command": "x"}}
    hooks = [hook | {"note": 1}, hook | {"note": 2}, hook]
    repo = {"id": "a", "uri": "u", "guid": "a" * 64, "hooks": hooks}
    path = put(tmp_path / "c.json", repos=[repo])
    ConfigStore.open(path).transform(rename_to("you"))
    assert stored(path)["repos"][0]["hooks"] == hooks


def test_unknown_keys_go_with_their_object(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json", repos=[{"id": "a", "uri": "u", "guid": "a" * 64, "colour": "red"}])
    store = ConfigStore.open(path)
    store.transform(lambda config: config.ClearField("repos"))
    assert "red" not in path.read_text()


# --- what is not a configuration


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xef\xbb\xbf", "line 1, column 1"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'{"version": 6,\n "instance": }', "line 2, column 14: it is not JSON"),
        (b'{"version": 6,\n "instance": "\xff"}', "line 2, byte 15: it is not text in UTF-8"),
        (b'{"version": 6, "version": 6}', "'version' stands twice"),
        (b'{"version": 6, "sync": {}, "multihost": {}}', "given twice, under both its names"),
        (b'{"version": 6, "instance": "\\ud800"}', "surrogate"),
        (b'{"version": 6, "x\\udfff": 1}', "surrogate"),
        (b'{"version": NaN}', "NaN is not JSON"),
        (b'{"version": 6, "x": 1e999}', "too large"),
        (b'{"version": 6, "x": ' + b"1" * 5000 + b"}", "too large"),
        (b'{"version": 6, "x": ' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 deep"),
        (b"[" * 200_000, "nested more than 64 deep"),
        (b'{"version": 6, "repos": {}}', "repos"),
        (b'{"version": 6, "repos": [{"id": 5}]}', r"repos\[0\].id"),
        (b'{"version": 6, "modno": 2147483648}', "modno"),
        (b'{"version": 6, "sync": {"knownHosts": [{"permissions": [{"type": "X"}]}]}}', "is none of"),
        (b'{"version": 6, "repos": [{"commandPrefix": {"ioNice": 9}}]}', "is none of"),
        (b'{"version": 6, "plans": [{"id": "p"}]}', "there is no repo"),
        (b"\x00" * 4096, "it is not JSON"),
    ],
)
def test_unusable_file_is_one_sentence_and_stays(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason) as caught:
        ConfigStore.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == {"c.json": data}


def test_all_problems_of_a_file_are_listed(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json", repos=[{"id": "a"}], plans=[{"id": "p"}])
    with pytest.raises(UserError) as caught:
        ConfigStore.open(path)
    assert len(caught.value.problems) == 4
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_newest_backup_is_named_for_an_unusable_file(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    ConfigStore.open(path).transform(rename_to("you"))
    path.write_bytes(b"")
    with pytest.raises(UserError, match=rf"newest backup is {path}\.bak\."):
        ConfigStore.open(path)


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL)
    assert ConfigStore.open(path).current.instance == "me"


def test_directory_in_the_files_place_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="it is a directory"):
        ConfigStore.open(tmp_path)


WORDS = (
    "version modno instance repos plans sync auth id uri env guid schedule cron knownHosts keyId permissions"
)
KEYS = st.sampled_from([*WORDS.split(), "type", "scopes", "identity", "hooks", "retention", "x", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=80) | JSON.map(lambda obj: json.dumps(obj).encode()))
def test_hostile_bytes_are_a_user_error(data: bytes) -> None:
    with suppress(UserError):
        load(data, "f", {})


HUB = (CAPTURES / "hub-config.json").read_bytes()


@given(st.integers(0, len(HUB)), st.integers(0, 8), st.binary(max_size=3))
def test_damaged_file_is_a_user_error_or_a_configuration(at: int, dropped: int, put_in: bytes) -> None:
    with suppress(UserError):
        load(HUB[:at] + put_in + HUB[at + dropped :], "f", {})


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_whatever_is_read_is_written_back_the_same(raw: dict[str, Any]) -> None:
    data = json.dumps({"version": 6} | raw).encode()
    try:
        config, unknown = parse(data)
    except UserError:
        return
    again, unknown_again = parse(serialise(config, unknown))
    assert (again, unknown_again) == (config, unknown)


# --- versions


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ({"version": 7}, "use a newer backrest"),
        ({"version": 1}, "start Backrest 1.4.0"),
        ({"version": 0}, "start Backrest 1.4.0"),
        ({"version": -1}, "start Backrest 1.4.0"),
        ({}, '"version": 6'),
    ],
)
def test_version_that_cannot_be_used_is_refused_with_advice(version: dict[str, int], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(json.dumps({"instance": "me"} | version).encode(), "f")


def test_empty_object_is_a_new_configuration() -> None:
    loaded = load(b"{}", "f")
    assert (loaded.config.version, loaded.config.auth.disabled, loaded.migrated) == (6, True, False)


def old_file(version: int, **values: Any) -> bytes:
    repo = {"id": "r", "uri": "u", "guid": "a" * 64} | values.pop("repo", {})
    return json.dumps({"version": version, "instance": "me", "repos": [repo]} | values).encode()


def test_version_2_counts_maintenance_from_its_last_run() -> None:
    schedule = {"cron": "0 0 * * *"}
    both = old_file(2, repo={"prunePolicy": {"schedule": schedule}, "checkPolicy": {"schedule": schedule}})
    repo = load(both, "f", {}).config.repos[0]
    assert repo.prune_policy.schedule.clock == repo.check_policy.schedule.clock == 3
    without_prune = old_file(2, repo={"checkPolicy": {"schedule": schedule}})
    assert load(without_prune, "f", {}).config.repos[0].check_policy.schedule.clock == 0
    nothing_set = load(old_file(2, repo={"prunePolicy": {}}), "f", {}).config.repos[0]
    assert not nothing_set.prune_policy.HasField("schedule")
    assert not nothing_set.HasField("check_policy")
    assert (
        load(old_file(3, repo={"prunePolicy": {"schedule": schedule}}), "f", {})
        .config.repos[0]
        .prune_policy.schedule.clock
        == 0
    )


def test_version_3_gets_guids_from_ids() -> None:
    repo = load(old_file(3, repo={"guid": ""}), "f", {}).config.repos[0]
    assert repo.guid == "454349e422f05297191ead13e21d3db520e5abef52055e4964b82fb213f593a1"
    assert load(old_file(3), "f", {}).config.repos[0].guid == "a" * 64


@pytest.mark.parametrize("name", ["RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"])
def test_contradicting_passwords_need_the_users_word(name: str) -> None:
    with pytest.raises(UserError, match=rf'{name} .*"r".*ISSUE_1139_FIX_PASSWORDS'):
        load(old_file(4, repo={"password": "old"}), "f", {name: "new"})


def test_no_contradiction_without_a_password_or_a_variable() -> None:
    assert load(old_file(4), "f", {"RESTIC_PASSWORD": "new"}).config.repos[0].password == ""
    kept = load(old_file(4, repo={"password": "old"}), "f", {"RESTIC_PASSWORD": ""}).config.repos[0]
    assert (kept.password, list(kept.env)) == ("old", [])
    assert load(old_file(5, repo={"password": "old"}), "f", {"RESTIC_PASSWORD": "x"}).config.version == 6


@pytest.mark.parametrize(
    ("environ", "password", "env"),
    [
        ({"RESTIC_PASSWORD": "new"}, "new", []),
        ({"RESTIC_PASSWORD_FILE": "/f"}, "", ["RESTIC_PASSWORD_FILE=/f"]),
        (
            {"RESTIC_PASSWORD": "new", "RESTIC_PASSWORD_COMMAND": "cmd", "RESTIC_PASSWORD_FILE": "/f"},
            "",
            ["RESTIC_PASSWORD_FILE=/f", "RESTIC_PASSWORD_COMMAND=cmd"],
        ),
    ],
)
def test_acknowledged_passwords_move_into_the_repo(
    environ: dict[str, str], password: str, env: list[str]
) -> None:
    environ = environ | {"ISSUE_1139_FIX_PASSWORDS": "1"}
    repo = load(old_file(4, repo={"password": "old"}), "f", environ).config.repos[0]
    assert (repo.password, list(repo.env)) == (password, env)


def test_version_5_drops_only_an_incomplete_identity() -> None:
    whole = codec.to_dict(Identity.from_seed(bytes(32)).to_proto())
    kept = load(old_file(5, sync={"identity": whole}), "f", {}).config
    assert kept.multihost.identity.keyid == whole["keyId"]
    for missing in ("keyId", "ed25519priv", "ed25519pub"):
        part = {key: value for key, value in whole.items() if key != missing}
        assert not load(old_file(5, sync={"identity": part}), "f", {}).config.multihost.HasField("identity")


def test_migrated_file_is_written_and_its_predecessor_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(old_file(3, repo={"guid": ""}, later="x"))
    before = path.read_bytes()
    store = ConfigStore.open(path, environ={})
    assert (stored(path)["version"], stored(path)["later"]) == (6, "x")
    kept = backups.newest(path)
    assert kept is not None
    assert kept.read_bytes() == before
    written = snapshot(tmp_path)
    assert ConfigStore.open(path, environ={}).current == store.current
    assert snapshot(tmp_path) == written


def test_refused_migration_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(old_file(4, repo={"password": "p"}))
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        ConfigStore.open(path, environ={"RESTIC_PASSWORD": "hunter22"})
    assert "hunter22" not in str(caught.value)
    assert snapshot(tmp_path) == before


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
    repos = [{"id": name, "uri": "u", "guid": "a" * 64} for name in "ba"]  # not in order: no reason either
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
            repo = wire.config.Repo(id=f"{name}{number}", uri="u", guid="a" * 64)
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


def test_last_ten_are_kept_and_none_overwritten(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json")
    (tmp_path / "c.json.bak.mine").write_text("precious")
    store = ConfigStore.open(path)
    for number in range(14):
        store.transform(rename_to(f"n{number}"))
    kept = sorted(tmp_path.glob("c.json.bak.2*"), key=lambda file: file.stat().st_mtime_ns)
    assert [stored(file)["instance"] for file in kept] == [f"n{number}" for number in range(3, 13)]
    assert (tmp_path / "c.json.bak.mine").read_text() == "precious"


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
    put(path, modno=5, later=1, repos=[{"id": "by-hand", "uri": "u", "guid": "a" * 64}])
    store.transform(rename_to("you"))
    assert stored(path)["repos"][0]["id"] == "by-hand"
    assert (stored(path)["instance"], stored(path)["later"]) == ("you", 1)
    assert stored(path)["modno"] == 7  # one for the edit, which changed none, and one for the change


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

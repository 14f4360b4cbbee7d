"""The configuration's file: as the reference writes it, older versions, keys that nobody knows, and what is none."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from config_world import CAPTURES, MINIMAL, add_a_repo, put, rename_to, stored
from hypothesis import given
from hypothesis import strategies as st
from store_disk import snapshot

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import StorageError, UserError
from backrest.store import backups
from backrest.store.config import ConfigStore, load
from backrest.store.configfile import MAX_DEPTH, for_backup, parse, serialise
from backrest.wire import codec

Config = wire.config.Config


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
    ]}, "plans": [], "repos": [{"id": "r", "uri": "/u", "auto_initialize": true}]}"""
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
    path = put(tmp_path / "c.json", repos=[{"id": "r", "uri": "/u", "guid": "a" * 64}], **data)
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
            {"id": "a", "uri": "/u", "guid": "a" * 64, "colour": "red", "hooks": [other, hook, hook]},
            {"id": "b", "uri": "/v", "guid": "b" * 64, "prunePolicy": {"later": 1.5}},
        ],
        plans=[{"id": "p", "repo": "b", "paths": ["/"], "cron": "* * * * *"}],
        sync={"knownHosts": [{"instanceId": "h", "keyId": "k", "instanceUrl": "http://h", "note": "n"}]},
        auth={"disabled": True, "users": [{"name": "u", "totp": "s"}]},
    )
    before = stored(path)
    store = ConfigStore.open(path)

    def change(config: Config) -> None:
        config.repos.add(id="A-new", uri="/w", guid="c" * 64)  # sorts first: the others move
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
    repo = {"id": "a", "uri": "/u", "guid": "a" * 64, "hooks": hooks}
    path = put(tmp_path / "c.json", repos=[repo])
    ConfigStore.open(path).transform(rename_to("you"))
    assert stored(path)["repos"][0]["hooks"] == hooks


def test_unknown_keys_go_with_their_object(tmp_path: Path) -> None:
    path = put(tmp_path / "c.json", repos=[{"id": "a", "uri": "/u", "guid": "a" * 64, "colour": "red"}])
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
    repo = {"id": "r", "uri": "/u", "guid": "a" * 64} | values.pop("repo", {})
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


@pytest.mark.parametrize("depth", [300, 900, 2000, 200_000])
def test_a_backup_that_is_nested_too_deep_stays_as_it_is(depth: int) -> None:
    """It stands beside the configuration, and whoever put it there must not keep the daemon from starting."""
    data = b'{"multihost":{"pairingTokens":[1],"a":' + b"[" * depth + b"]" * depth + b"}}"
    assert for_backup(data) == data


@pytest.mark.parametrize(("depth", "goes"), [(MAX_DEPTH - 3, True), (MAX_DEPTH - 2, False)])
def test_secrets_leave_every_backup_that_could_be_restored(depth: int, goes: bool) -> None:
    nested = b"[" * depth + b"1" + b"]" * depth
    data = b'{"version": 6, "multihost": {"pairingTokens": [{"secret": "hush"}], "a": ' + nested + b"}}"
    assert (b"hush" not in for_backup(data)) == goes
    if goes:
        parse(data)
    else:
        with pytest.raises(UserError, match="deep"):
            parse(data)

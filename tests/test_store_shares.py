"""The addresses under which clients reach shared repositories: kept, told, and forgotten with their subject."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, snapshot, using

from backrest import wire
from backrest.errors import CorruptError, StorageError
from backrest.permissions import Grants, parse_grant
from backrest.store.shares import MOST_ENDED, Ended, Shares
from backrest.sync import views

A, B = "a" * 64, "b" * 64


def config() -> wire.config.Config:
    made = wire.config.Config(instance="hub")
    made.repos.add(id="a", uri="/srv/a", guid=A, shared=True)
    made.repos.add(id="b", uri="/srv/b", guid=B, shared=True)
    for keyid in ("k1", "k2"):
        made.multihost.authorized_clients.add(instance_id=f"i-{keyid}", keyid=keyid)
    return made


def test_addresses_survive_a_restart_and_can_be_taken_back(tmp_path: Path) -> None:
    shares = Shares.open(tmp_path / "d" / "shares.json")
    shares.set(A, {"k1": "/mnt/a", "k2": "sftp:hub:/a"})
    shares.set(A, {"k2": None})
    shares.set(B, {"k1": "/mnt/b"})
    again = Shares.open(tmp_path / "d" / "shares.json")
    assert again.of_client("k1") == {A: "/mnt/a", B: "/mnt/b"}
    assert again.of_client("k2") == {}
    assert again.of_repo(A) == {"k1": "/mnt/a"}
    assert os.stat(tmp_path / "d" / "shares.json").st_mode & 0o777 == 0o600


def test_what_is_about_a_removed_client_or_repo_is_forgotten(tmp_path: Path) -> None:
    shares = Shares.open(tmp_path / "shares.json")
    for guid in (A, B):
        shares.set(guid, {"k1": "/x", "k2": "/y"})
    for keyid in ("k1", "k2"):
        shares.note(keyid, {A: Ended(1, "t"), B: Ended(2, "t")})
    less = config()
    del less.repos[1], less.multihost.authorized_clients[0]
    shares.prune(less)
    assert (shares.of_client("k1"), shares.of_client("k2")) == ({}, {A: "/y"})
    assert (shares.ended("k1"), shares.ended("k2")) == ({}, {A: Ended(1, "t")})


def test_what_is_noted_of_sessions_survives_until_somebody_shares_again(tmp_path: Path) -> None:
    shares = Shares.open(tmp_path / "shares.json")
    shares.set(B, {"k1": "/mnt/b"})
    shares.note("k1", {A: Ended(MOST_ENDED, "t"), B: Ended(1, "u")})
    shares.note("k2", {A: Ended(MOST_ENDED - 1, "t")})
    again = Shares.open(tmp_path / "shares.json")
    assert again.ended("k1") == {A: Ended(MOST_ENDED, "t"), B: Ended(1, "u")}
    assert (set(again.given_up(A)), set(again.given_up(B))) == ({"k1"}, set())
    again.note("k1", {B: None})
    assert again.ended("k1").keys() == {A}
    again.set(A, {})
    assert again.ended("k1") == again.ended("k2") == {}
    assert again.of_client("k1") == {B: "/mnt/b"}
    assert "ended" not in (tmp_path / "shares.json").read_text()


def test_subscribers_are_told_of_changes_and_of_nothing_else(tmp_path: Path) -> None:
    shares = Shares.open(tmp_path / "shares.json")
    told: list[int] = []
    stop = shares.subscribe(lambda: told.append(1))
    shares.set(A, {"k1": "/x"})
    shares.set(A, {"k1": "/x"})
    shares.set(B, {"k1": None})
    shares.prune(config())
    assert told == [1]
    stop()
    shares.set(A, {"k1": "/y"})
    assert told == [1]


def test_the_view_of_a_client_has_the_address_that_is_its_own() -> None:
    grants = Grants([parse_grant("receive-shared-repos=*")])
    assert [r.uri for r in views.shared_repos(config(), grants, {A: "/mnt/a"})] == ["/mnt/a", "/srv/b"]
    narrow = Grants([parse_grant("receive-shared-repos=repo:b")])
    assert [r.uri for r in views.shared_repos(config(), narrow, {A: "/mnt/a"})] == ["/srv/b"]


def test_only_shared_repos_of_ones_own_that_restic_knows_are_handed_on() -> None:
    made = config()
    made.repos[0].shared = False
    made.repos[1].guid = ""
    made.repos.add(id="theirs", uri="/srv/c", guid="c" * 64, shared=True, origin_instance_id="other")
    assert views.shared_repos(made, Grants([parse_grant("receive-shared-repos=*")])) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"uris": []}',
        b'{"uris": {"g": 1}}',
        b'{"uris": {"g": {"k": 1}}}',
        b'{"uris": {}, "ended": []}',
        b'{"uris": {}, "ended": {"g": {"k": 2}}}',
        b'{"uris": {}, "ended": {"g": {"k": {"times": -1, "terms": ""}}}}',
        b'{"uris": {}, "ended": {"g": {"k": {"times": 1, "terms": 1}}}}',
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(CorruptError, match="repair it, or move it away"):
        Shares.open(tmp_path / "s")
    assert snapshot(tmp_path) == {"s": data}


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_a_failing_disk_changes_nothing(tmp_path: Path, fault: Callable[[], OSError]) -> None:
    shares = Shares.open(tmp_path / "s")
    shares.set(A, {"k1": "/x"})
    for step in range(count_steps(lambda: Shares.open(tmp_path / "other").set(A, {"k1": "/x"}))):
        before, files = shares.of_client("k1"), snapshot(tmp_path)
        try:
            with using(TestDisk(step, fault)):
                shares.set(A, {"k1": f"/y{step}"})
        except StorageError:
            assert (shares.of_client("k1"), snapshot(tmp_path)) == (before, files)


def test_a_power_cut_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    def prepare() -> Shares:
        (tmp_path / "s").unlink(missing_ok=True)
        shares = Shares.open(tmp_path / "s")
        shares.set(A, {"k1": "/x"})
        return shares

    for step in range(count_steps(lambda: prepare().set(A, {"k1": "/y"}))):
        shares = prepare()
        try:
            with using(TestDisk(step)):
                shares.set(A, {"k1": "/y"})
        except Died:
            pass
        assert Shares.open(tmp_path / "s").of_client("k1")[A] in ("/x", "/y")

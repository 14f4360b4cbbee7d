"""Changes of shared repositories that wait for somebody here: kept, replaced, and forgotten with their subject."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from store_disk import FullDisk, using

from backrest import wire
from backrest.errors import CorruptError, StorageError
from backrest.store.waiting import WaitingRepos, Wanted

A, B = "a" * 64, "b" * 64
WANTED = Wanted(A, "hub", "/new", ("X=1", "Y=2"), ("--no-cache",))


def config() -> wire.config.Config:
    made = wire.config.Config(instance="laptop")
    made.repos.add(id="a", uri="/srv/a", guid=A, origin_instance_id="hub", password="hush")
    made.repos.add(id="b", uri="/srv/b", guid=B, origin_instance_id="hub")
    return made


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    waiting = WaitingRepos.open(tmp_path / "d" / "waiting-repos.json")
    waiting.settle({A: WANTED, B: None})
    found = WaitingRepos.open(tmp_path / "d" / "waiting-repos.json").of(config().repos[0])
    assert found is not None
    assert found.same(WANTED)
    assert found.since_ms
    assert os.stat(tmp_path / "d" / "waiting-repos.json").st_mode & 0o777 == 0o600
    after = found.on(config().repos[0])
    assert (after.id, after.uri, list(after.env), list(after.flags), after.password) == (
        "a",
        "/new",
        ["X=1", "Y=2"],
        ["--no-cache"],
        "hush",
    )


def test_the_same_again_keeps_its_time_and_another_gets_a_later_one(tmp_path: Path) -> None:
    waiting = WaitingRepos.open(tmp_path / "waiting-repos.json")
    repo = config().repos[0]
    times = []
    for wanted in (WANTED, WANTED, replace(WANTED, uri="/newer"), WANTED):
        waiting.settle({A: wanted})
        found = waiting.of(repo)
        assert found is not None
        times.append(found.since_ms)
    assert times[0] == times[1] < times[2] < times[3]
    waiting.settle({A: None})
    assert waiting.of(repo) is None


def test_what_is_in_force_or_of_another_hub_does_not_wait(tmp_path: Path) -> None:
    waiting = WaitingRepos.open(tmp_path / "waiting-repos.json")
    waiting.settle({A: WANTED})
    here = config()
    assert waiting.of(WANTED.on(here.repos[0])) is None
    here.repos[0].origin_instance_id = "other"
    assert waiting.of(here.repos[0]) is None
    here.repos[0].origin_instance_id = ""
    assert waiting.of(here.repos[0]) is None


def test_it_is_forgotten_with_the_repository_and_when_the_hub_takes_it_back(tmp_path: Path) -> None:
    waiting = WaitingRepos.open(tmp_path / "waiting-repos.json")
    waiting.settle({A: WANTED, B: replace(WANTED, guid=B)})
    waiting.keep("other", ())
    less = config()
    del less.repos[0]
    waiting.prune(less)
    assert waiting.of(config().repos[0]) is None
    assert waiting.of(config().repos[1]) is not None
    waiting.keep("hub", (A,))
    assert waiting.of(config().repos[1]) is None


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    waiting = WaitingRepos.open(tmp_path / "waiting-repos.json")
    with using(FullDisk()), pytest.raises(StorageError):
        waiting.settle({A: WANTED})
    assert waiting.of(config().repos[0]) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"repos": [1]}',
        '{"repos": [{"guid": "a"}]}',
        '{"repos": [{"guid": "a", "originInstanceId": "h", "uri": "u", "env": [1], "flags": [], "sinceMillis": "1"}]}',
        '{"repos": [{"guid": "a", "originInstanceId": "h", "uri": "u", "env": [], "flags": [], "sinceMillis": 1}]}',
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "waiting-repos.json").write_text(text)
    with pytest.raises(CorruptError, match="line 1"):
        WaitingRepos.open(tmp_path / "waiting-repos.json")

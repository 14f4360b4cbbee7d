"""Removing a peer loses nothing of the user's: plans are parked and come back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, snapshot, using

from backrest import wire
from backrest.errors import CorruptError, NotFoundError, StorageError
from backrest.store.config import ConfigStore
from backrest.store.configfile import serialise
from backrest.store.removal import ParkedPlans, Removal, _decode, remove_peer
from backrest.store.unknown import Unknown
from backrest.store.validate import problems

Config = wire.config.Config
Peer = wire.config.Multihost.Peer
Plan = wire.config.Plan
Repo = wire.config.Repo


def example() -> Config:
    return Config(
        version=6,
        instance="me",
        repos=[
            Repo(id="mine", uri="/a", guid="a" * 64),
            Repo(id="theirs", uri="/b", guid="b" * 64, origin_instance_id="hub"),
            Repo(id="others", uri="/c", guid="c" * 64, origin_instance_id="hub2"),
        ],
        plans=[
            Plan(id="p1", repo="mine", paths=["/"]),
            Plan(id="p2", repo="theirs", paths=["/"], schedule=wire.config.Schedule(cron="0 0 * * *")),
            Plan(id="p3", repo="others", paths=["/"]),
        ],
        multihost=wire.config.Multihost(
            known_hosts=[
                Peer(instance_id="hub", keyid="k1", instance_url="http://h"),
                Peer(instance_id="hub2", keyid="k2", instance_url="http://h"),
            ],
            authorized_clients=[Peer(instance_id="c", keyid="k3")],
        ),
    )


def test_host_goes_with_its_repos_and_the_plans_on_them() -> None:
    config = example()
    removal = remove_peer(config, "k1")
    assert (removal.peer.instance_id, [repo.id for repo in removal.repos]) == ("hub", ["theirs"])
    assert list(removal.plans) == [example().plans[1]]
    assert [peer.keyid for peer in config.multihost.known_hosts] == ["k2"]
    assert [repo.id for repo in config.repos] == ["mine", "others"]
    assert [plan.id for plan in config.plans] == ["p1", "p3"]
    assert problems(config, example()) == []  # what the Go program would load


def test_client_goes_alone() -> None:
    config = example()
    removal = remove_peer(config, "k3")
    assert (removal.peer.instance_id, removal.repos, removal.plans) == ("c", (), ())
    assert (config.repos, config.plans) == (example().repos, example().plans)


def test_unknown_peer_is_named() -> None:
    config = example()
    with pytest.raises(NotFoundError, match="k9"):
        remove_peer(config, "k9")
    assert config == example()


def parked_in(directory: Path) -> tuple[ParkedPlans, Removal]:
    parked = ParkedPlans.open(directory / "parked-plans.json")
    removal = remove_peer(example(), "k1")
    parked.park(removal, now_ms=5)
    return parked, removal


def test_parked_plan_survives_a_restart_as_it_was(tmp_path: Path) -> None:
    _, removal = parked_in(tmp_path)
    (entry,) = ParkedPlans.open(tmp_path / "parked-plans.json").all()
    assert entry.plan == removal.plans[0]
    assert (entry.repo_guid, entry.origin, entry.since_ms) == ("b" * 64, "hub", 5)
    assert entry.shown().schedule.disabled
    assert entry.plan.schedule.cron


def test_nothing_to_park_makes_no_file(tmp_path: Path) -> None:
    ParkedPlans.open(tmp_path / "p").park(remove_peer(example(), "k3"))
    assert snapshot(tmp_path) == {}


def test_parking_twice_keeps_one(tmp_path: Path) -> None:
    parked, removal = parked_in(tmp_path)
    parked.park(removal, now_ms=6)
    assert [entry.since_ms for entry in parked.all()] == [6]


def test_plan_returns_with_its_repo(tmp_path: Path) -> None:
    parked, removal = parked_in(tmp_path)
    config = example()
    remove_peer(config, "k1")
    assert parked.returning(config) == []
    config.repos.add(id="renamed", uri="/b", guid="b" * 64, origin_instance_id="hub")
    (plan,) = parked.returning(config)
    assert (plan.id, plan.repo, plan.schedule.cron) == ("p2", "renamed", "0 0 * * *")
    config.plans.append(plan)
    assert parked.returning(config) == []
    parked.settle(config)
    assert parked.all() == ParkedPlans.open(tmp_path / "parked-plans.json").all() == ()
    assert removal.plans[0].repo == "theirs"


def test_other_plan_of_the_same_id_keeps_the_parked_one(tmp_path: Path) -> None:
    parked, _ = parked_in(tmp_path)
    config = example()
    config.plans[1].paths.append("/more")
    assert parked.returning(config) == []
    parked.settle(config)
    assert len(parked.all()) == 1


def test_parked_plan_can_be_thrown_away(tmp_path: Path) -> None:
    parked, _ = parked_in(tmp_path)
    assert not parked.remove("p1")
    assert parked.remove("p2")
    assert parked.all() == ()


def test_power_cut_between_the_two_files_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.json"

    def prepare() -> ConfigStore:
        path.write_bytes(serialise(example(), Unknown()))
        (tmp_path / "parked-plans.json").unlink(missing_ok=True)
        return ConfigStore.open(path)

    def work(store: ConfigStore) -> None:
        parked = ParkedPlans.open(tmp_path / "parked-plans.json")
        store.transform(lambda config: parked.park(remove_peer(config, "k1")))

    for step in range(count_steps(partial(work, prepare()))):
        store = prepare()
        with using(TestDisk(step)), pytest.raises(Died):
            work(store)
        config = ConfigStore.open(path).current
        parked = ParkedPlans.open(tmp_path / "parked-plans.json")
        parked.settle(config)
        plans = [plan.id for plan in config.plans] + [entry.plan.id for entry in parked.all()]
        assert sorted(plans) == ["p1", "p2", "p3"]


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_failing_disk_leaves_both_as_they_were(tmp_path: Path, fault: Callable[[], OSError]) -> None:
    parked, _ = parked_in(tmp_path)
    removal = remove_peer(example(), "k2")
    for step in range(count_steps(lambda: ParkedPlans.open(tmp_path / "x").park(removal))):
        before, files = parked.all(), snapshot(tmp_path)
        try:
            with using(TestDisk(step, fault)):
                parked.park(removal)
        except StorageError:
            assert (parked.all(), snapshot(tmp_path)) == (before, files)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"plans": {}}', b'{"plans": [1]}', b'{"plans": [{}]}', b'{"plans": [{"repoGuid": "g"}]}'],
)
def test_damaged_file_is_refused_and_kept(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(CorruptError, match="repair it, or move it away"):
        ParkedPlans.open(tmp_path / "p")
    assert snapshot(tmp_path) == {"p": data}


@given(st.integers(0, 200), st.integers(0, 6), st.binary(max_size=4))
def test_hostile_bytes_are_a_value_error_or_plans(at: int, dropped: int, put_in: bytes) -> None:
    good = (
        b'{"plans":[{"plan":{"id":"p","repo":"r"},"repoGuid":"g","originInstanceId":"h","sinceMillis":"5"}]}'
    )
    try:
        entries = _decode(good[:at] + put_in + good[at + dropped :])
    except ValueError:
        return
    assert all(entry.plan.id for entry in entries)


def test_plans_return_in_the_same_write_as_their_repo_and_a_failing_file_undoes_nothing(
    tmp_path: Path,
) -> None:
    parked, _ = parked_in(tmp_path)
    path = tmp_path / "c.json"

    def repo_comes_back(config: Config) -> None:
        config.repos.add(id="theirs", uri="/b", guid="b" * 64, origin_instance_id="hub")

    def prepare() -> ConfigStore:
        config = example()
        remove_peer(config, "k1")
        path.write_bytes(serialise(config, Unknown()))
        parked.park(remove_peer(example(), "k1"), now_ms=5)
        return ConfigStore.open(path)

    store = prepare()
    steps = count_steps(lambda: parked.transform(store, repo_comes_back))
    assert [plan.id for plan in store.current.plans] == ["p1", "p2", "p3"]
    assert parked.all() == ()
    for step in range(steps):
        store = prepare()
        before = store.current
        try:
            with using(TestDisk(step, full_disk)):
                after, back = parked.transform(store, repo_comes_back)
        except StorageError:
            assert (store.current, len(parked.all())) == (before, 1)
        else:  # the configuration was written: the change is made, whatever became of the other file
            assert [plan.id for plan in back] == ["p2"]
            assert len(after.plans) == 3
            assert parked.waiting(after) == []


def test_a_change_that_brings_nothing_back_is_made_as_it_is(tmp_path: Path) -> None:
    parked, _ = parked_in(tmp_path)
    path = tmp_path / "c.json"
    config = example()
    remove_peer(config, "k1")
    path.write_bytes(serialise(config, Unknown()))
    store = ConfigStore.open(path)
    before = path.read_bytes()
    assert parked.transform(store, lambda config: False) == (store.current, ())
    assert path.read_bytes() == before
    after, back = parked.transform(store, lambda config: setattr(config.repos[0], "auto_unlock", True))
    assert (after.repos[0].auto_unlock, back, len(parked.all())) == (True, (), 1)

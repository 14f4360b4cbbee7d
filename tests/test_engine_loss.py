"""No forget takes away the last good snapshot: the decision over random histories, and with the real restic."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from engine_world import World, guid_of, make_repo, repository, restic, template, world

from backrest.engine import loss
from backrest.engine.loss import Doubt, Earlier, Why, judge
from backrest.errors import ResticError
from backrest.wire import config, operations

__all__ = ["repository", "template", "world"]  # fixtures

SUCCESS, WARNING, ERROR = operations.STATUS_SUCCESS, operations.STATUS_WARNING, operations.STATUS_ERROR
KEEP_1 = config.RetentionPolicy(policy_keep_last_n=1)


# The decision


@pytest.mark.parametrize(
    ("files", "earlier", "doubted"),
    [
        (0, [], Why.NO_FILES),
        (1, [], None),
        (0, [Earlier(0, True)], None),  # confirmed so
        (0, [Earlier(0, False)], Why.NO_FILES),  # still
        (0, [Earlier(1, True)], Why.NO_FILES),
        (50, [Earlier(100, True)], Why.LOST),  # half of it, and on the other side of the bound:
        (51, [Earlier(100, True)], None),
        (
            51,
            [Earlier(9, True), Earlier(102, False), Earlier(9, False)],
            Why.LOST,
        ),  # what was seen in between counts
        (51, [Earlier(102, False), Earlier(51, True)], None),
        (51, [Earlier(None, True)], Why.UNKNOWN),
        (51, [Earlier(100, True), Earlier(None, False)], None),
    ],
)
def test_a_backup_is_compared_with_the_most_since_the_last_trusted_one(
    files: int, earlier: list[Earlier], doubted: Why | None
) -> None:
    assert [one.why for one in judge(files, False, earlier)] == ([doubted] if doubted else [])


def test_each_reason_is_one_of_its_own_and_has_words() -> None:
    bare = [Doubt(Why.LINK, "/a"), Doubt(Why.EMPTY, "/b")]
    found = judge(1, True, [Earlier(9, True)], bare, confirmed=["/a"])
    assert found == [Doubt(Why.INCOMPLETE), bare[1], Doubt(Why.LOST, files=1, before=9)]
    assert all(Doubt(why, "/x", 1, 9).words() for why in Why)


def test_sources_that_yield_nothing_are_found(tmp_path: Path) -> None:
    for name in ("full/deep/er", "hollow/a/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "full/deep/er/x").touch()
    (tmp_path / "link").symlink_to("full")
    paths = {name: str(tmp_path / name) for name in ("full", "hollow", "link", "full/deep/er/x", "absent")}
    paths["slash"] = paths["link"] + "/"
    assert loss.bare_sources(paths.values()) == [
        Doubt(Why.EMPTY, paths["hollow"]),
        Doubt(Why.LINK, paths["link"]),
        Doubt(Why.LINK, paths["slash"]),
    ]


def test_a_wide_tree_without_a_file_is_left_to_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOOKED_AT", 3)
    for n in range(3):
        (tmp_path / str(n)).mkdir()
    assert loss.bare_sources([str(tmp_path)]) == [Doubt(Why.EMPTY, str(tmp_path))]
    (tmp_path / "3").mkdir()
    assert loss.bare_sources([str(tmp_path)]) == []


class Kept:
    """A repository by restic's rules of retention: the newest of each of the last n periods."""

    def __init__(self, rule: dict[str, int]) -> None:
        self.rule = rule
        self.snapshots: list[tuple[datetime, int, bool]] = []  # when, files, trusted

    def forget(self) -> None:
        key: dict[str, Callable[[int, datetime], object]] = {
            "last": lambda n, when: n,
            "hourly": lambda n, when: (when.date(), when.hour),
            "daily": lambda n, when: when.date(),
            "weekly": lambda n, when: when.isocalendar()[:2],
            "monthly": lambda n, when: (when.year, when.month),
            "yearly": lambda n, when: when.year,
        }
        keep: set[int] = set()
        for name, count in self.rule.items():
            seen: list[object] = []
            for n in reversed(range(len(self.snapshots))):
                period = key[name](n, self.snapshots[n][0])
                if len(seen) < count and period not in seen[-1:]:
                    seen.append(period)
                    keep.add(n)
        if self.rule:
            self.snapshots = [one for n, one in enumerate(self.snapshots) if n in keep]


RULES = [
    {},
    *({"last": n} for n in (1, 2, 5)),
    *({name: n} for name in ("hourly", "daily", "weekly", "monthly", "yearly") for n in (1, 3)),
    {"last": 2, "hourly": 3, "daily": 7, "monthly": 2},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_forget_leaves_a_plan_without_the_files_of_the_one_before(rule: dict[str, int]) -> None:
    """Sources vanish, shrink, return, cannot be read; people confirm; timers repeat. What is held throughout: the most
    that the plan was known to have since a person last agreed to less, or since a backup that had most of it."""
    chance = random.Random(str(rule))
    for _ in range(150):
        kept, files, when, forgot = Kept(rule), chance.randrange(1, 2000), datetime(2026, 1, 1, tzinfo=UTC), 0
        for _ in range(60):
            when += timedelta(hours=chance.choice((0.1, 1, 24, 24, 700)))
            event = chance.choice(("same",) * 6 + ("grow", "shrink", "vanish", "half", "back", "confirm"))
            if event == "confirm" and kept.snapshots:
                at, count, _ = kept.snapshots[-1]
                kept.snapshots[-1] = at, count, True
                continue
            change = {"grow": 1.3, "shrink": 0.9, "half": 0.5, "vanish": 0.0}.get(event, 1.0)
            files = chance.randrange(1, 2000) if event == "back" else int(files * change)
            incomplete = chance.random() < 0.1
            seen = chance.randrange(files + 1) if incomplete else files
            earlier = [Earlier(count, trusted) for _, count, trusted in kept.snapshots]
            doubts = judge(seen, incomplete, earlier)
            kept.snapshots.append((when, seen, not doubts))
            if doubts:
                continue
            before = kept.snapshots[:-1]
            kept.forget()
            forgot += len(before) + 1 - len(kept.snapshots)
            since = next((n for n in reversed(range(len(before))) if before[n][2]), 0)
            most = max((count for _, count, _ in before[since:]), default=0)
            assert max(count for _, count, _ in kept.snapshots) * 2 > most or most == 0
        assert forgot or not rule or rule.get("last", 0) > 1 or min(rule.values()) > 1


# With the real restic


def files_of(world: World, repository: Path) -> list[int]:
    """How many files each snapshot that is in the repository has by its backup's operation, oldest first."""
    there = os.listdir(repository / "snapshots")
    backups = [
        one for one in world.operations() if one.HasField("operation_backup") and one.snapshot_id in there
    ]
    assert len(backups) == len(there)
    return [one.operation_backup.last_status.summary.total_files_processed for one in backups]


def fill(directory: Path, count: int) -> None:
    """Exactly so many files."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for n in range(count):
        (directory / f"{n}.txt").write_text(str(n))


def confirmed(world: World, snapshot_id: str, *bare: str) -> None:
    world.engine.bench.plan_notes().confirm("photos", snapshot_id, bare)


async def test_a_source_that_is_not_mounted_costs_nothing_until_somebody_says_so(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = tmp_path / "disk"
    plan = config.Plan(id="photos", repo="nas", paths=[str(source)], retention=KEEP_1)
    world.configure(make_repo(repository, guid=guid_of(repository)), plan)

    async def ends(status: int, *files: int) -> str:
        ended = await world.engine.run_backup("photos")
        message = ended.operation.display_message
        assert ended.operation.status == status, message
        assert files_of(world, repository) == list(files), message
        assert (ended.forget is None) == (status == WARNING)
        assert "`backrest plan confirm photos`" in message or status == SUCCESS
        return message

    fill(source, 8)
    await ends(SUCCESS, 8)
    fill(source, 0)
    for kept in ((8, 0), (8, 0, 0)):  # a second run is a timer, not a person
        message = await ends(WARNING, *kept)
        assert "of 8 files the backup has none" in message
        assert "no snapshot is forgotten after it" in message
        assert f"{source} holds no files: is it mounted?" in message
    fill(source, 5)
    await ends(SUCCESS, 5)
    fill(source, 1)
    assert "of 5 files the backup has 1" in await ends(WARNING, 5, 1)
    confirmed(world, world.operations()[-1].snapshot_id)
    await ends(SUCCESS, 1)


async def test_one_of_two_sources_that_is_a_link_or_empty_is_a_doubt_until_it_is_confirmed(
    world: World, repository: Path, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    fill(a, 9)
    fill(b, 1)
    plan = config.Plan(id="photos", repo="nas", paths=[str(a), str(b)], retention=KEEP_1)
    world.configure(make_repo(repository, guid=guid_of(repository)), plan)
    assert (await world.engine.backup("photos")).status == SUCCESS
    (b / "0.txt").unlink()
    b.rmdir()
    b.symlink_to(a)
    operation = await world.engine.backup("photos")
    assert operation.status == WARNING
    assert f"{b} is a symbolic link: only the link is stored" in operation.display_message
    assert files_of(world, repository) == [10, 9]
    confirmed(world, operation.snapshot_id, str(b))
    assert (await world.engine.backup("photos")).status == SUCCESS
    assert files_of(world, repository) == [9]


async def test_a_snapshot_from_the_future_does_not_outlive_the_present(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = tmp_path / "disk"
    fill(source, 2)
    tags = ["--tag", "plan:photos,created-by:laptop"]
    restic(repository, "backup", "--quiet", "--time", "2099-01-01 00:00:00", *tags, str(source))
    plan = config.Plan(id="photos", repo="nas", paths=[str(source)], retention=KEEP_1)
    world.configure(make_repo(repository, guid=guid_of(repository)), plan)
    first = await world.engine.backup("photos")
    confirmed(world, first.snapshot_id)
    ended = await world.engine.run_backup("photos")
    assert ended.forget is not None
    assert ended.forget.status == ERROR
    assert "has a later time (2099-01-0" in ended.forget.display_message
    assert ended.problems == (ended.forget.display_message,)
    assert len(os.listdir(repository / "snapshots")) == 3


async def test_another_repository_at_the_address_is_an_error_and_changes_no_history(
    world: World, repository: Path, tmp_path: Path
) -> None:
    source = tmp_path / "disk"
    fill(source, 2)
    plan = config.Plan(id="photos", repo="nas", paths=[str(source)], retention=KEEP_1)
    world.configure(make_repo(repository, guid=guid_of(repository)), plan)
    await world.engine.backup("photos")
    before = world.operations()
    os.rename(repository, tmp_path / "away")
    restic(repository, "init")
    failed = await world.engine.backup("photos")
    assert failed.status == ERROR
    assert "another restic repository is at" in failed.display_message
    with pytest.raises(ResticError, match="another restic repository is at"):
        await world.engine.index("nas")
    assert world.operations() == [*before, failed]
    assert os.listdir(repository / "snapshots") == []

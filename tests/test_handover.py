"""The history of a machine passes from the Go program to this one: all of it, and no hub asks for anything twice."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from go_hub import GoHub, GoMachine
from go_log import INSTANCE, NOW_MS, RECORDED, Operation, copy_to, imported, kept, put, recorded
from oplog_world import everything, op, received
from store_disk import Died, TestDisk, count_steps, full_disk, using
from sync_world import Instance, World
from trio.testing import MockClock

from backrest import wire
from backrest.errors import BackrestError, ConflictError, StorageError, UserError
from backrest.store import handover
from backrest.store.golog import GoLog
from backrest.store.handover import INTERRUPTED, give_up, open_log, waits
from backrest.store.oplog import OpLog
from backrest.store.paths import Paths

Status = wire.operations.OperationStatus


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "config.json", tmp_path / "data")
    copy_to(made)
    return made


def held(paths: Paths) -> dict[int, Operation]:
    log = OpLog.open(paths.oplog)
    try:
        return everything(log)
    finally:
        log.close()


# --- what is taken


def test_the_recorded_log_is_taken_as_it_is(paths: Paths) -> None:
    before = paths.reference_oplog.read_bytes()
    result = imported(paths)
    assert held(paths) == kept()
    assert (result.imported, result.cancelled, result.skipped) == (44, 2, 4)
    assert (result.interrupted, result.foreign, result.unreadable, result.other_names) == (0, 0, 0, {})
    assert paths.reference_oplog.read_bytes() == before
    hooks = [one for one in kept().values() if one.HasField("operation_run_hook")]
    assert {one.operation_run_hook.parent_op for one in hooks} <= kept().keys()
    assert not waits(paths)


def test_nothing_in_the_recorded_log_is_unknown_here() -> None:
    """What our schema lacks would be lost, as it is of what a peer sends."""

    def unknown(message: object) -> None:
        known = type(message).FromString(message.SerializeToString())  # type: ignore[attr-defined]
        known.DiscardUnknownFields()
        assert known == message

    for one in recorded().values():
        unknown(one)


def test_numbers_go_on_beyond_all_that_the_go_program_gave_out(paths: Paths) -> None:
    imported(paths)
    log = open_log(paths, hubs=1, now_ms=NOW_MS)
    [new] = log.add([op()])
    log.close()
    assert (new.id, new.modno) == (NOW_MS + 1, NOW_MS + 1)
    # A clock that is wrong by decades: the Go program's counters decide, that of ids beyond what is still there.
    paths.oplog.unlink()
    imported(paths, now_ms=5)
    log = OpLog.open(paths.oplog)
    [new] = log.add([op()])
    log.close()
    assert (new.id, new.modno) == (86, 244)


def test_what_was_running_is_recorded_as_interrupted_and_is_a_change(paths: Paths) -> None:
    running = recorded()[74]
    running.status = Status.STATUS_INPROGRESS
    put(paths.reference_oplog, running)
    result = imported(paths)
    assert (result.imported, result.interrupted) == (44, 1)
    now = held(paths)[74]
    assert (now.status, now.modno, now.flow_id) == (Status.STATUS_ERROR, NOW_MS + 1, 74)
    assert now.unix_time_end_ms == now.unix_time_start_ms
    assert now.display_message.startswith(INTERRUPTED)


def test_what_came_from_other_instances_is_left_out(paths: Paths) -> None:
    put(
        paths.reference_oplog,
        op(id=200, modno=7, flow_id=200, original_id=3, original_instance_keyid="ed25519.x"),
    )
    result = imported(paths)
    assert (result.imported, result.foreign) == (44, 1)
    assert held(paths) == kept()
    log = OpLog.open(paths.oplog)
    assert log.highest == (NOW_MS, NOW_MS)
    log.close()


def test_what_cannot_be_kept_is_named_and_the_rest_is_taken(paths: Paths) -> None:
    good = {"modno": 300, "instance_id": INSTANCE}
    put(paths.reference_oplog, op(id=300, flow_id=300, **good), operation=b"\xff\xff\xff")
    put(paths.reference_oplog, op(id=301, flow_id=301, snapshot_id="abc", **good))
    put(paths.reference_oplog, op(id=302, flow_id=302, **good), modno=1 << 62 | 1)
    put(paths.reference_oplog, op(id=303, flow_id=303, **good), operation="text")
    with pytest.raises(UserError, match="numbers that no log has come to"):
        imported(paths)
    put(paths.reference_oplog, op(id=302, flow_id=302, **good), modno=0)
    put(paths.reference_oplog, op(id=304, flow_id=304, **good), modno="none")
    with pytest.raises(UserError, match="ids that are no numbers"):
        imported(paths)
    put(paths.reference_oplog, op(id=304, flow_id=304, **good), flow_id=-1)
    result = imported(paths)
    assert (result.imported, result.unreadable) == (44, 5)
    assert dict(result.problems) == {
        300: "not an operation: it is damaged",
        301: "a snapshot_id of 3 characters instead of 64",
        302: "its id, modno or flow is no number that a log counts to",
        303: "no operation, or one larger than 64 MiB",
        304: "its id, modno or flow is no number that a log counts to",
    }
    assert held(paths) == kept(RECORDED)


def test_what_is_too_large_for_our_log_is_cut(paths: Paths) -> None:
    put(
        paths.reference_oplog,
        op(id=300, modno=300, flow_id=300, instance_id=INSTANCE, display_message="x" * 3_000_000),
    )
    assert imported(paths).imported == 45
    large = held(paths)[300]
    assert (large.modno, large.instance_id) == (300, INSTANCE)
    assert large.ByteSize() < 1 << 20
    assert "[cut: this operation had 3,000," in large.display_message


def test_what_older_versions_left_out_is_filled_in(paths: Paths) -> None:
    """ENGINE.md 2.6: what the Go program itself does at its next start."""
    for number, repo in ((300, "nas"), (301, "gone")):
        bare = op(id=number, modno=number, repo_id=repo)
        bare.ClearField("repo_guid")
        bare.ClearField("instance_id")
        put(paths.reference_oplog, bare)
    result = imported(paths, guids={"nas": "ab" * 32})
    assert result.other_names == {"_unassociated_": 2}
    now = held(paths)
    assert (now[300].repo_guid, now[300].instance_id, now[300].flow_id) == ("ab" * 32, "_unassociated_", 300)
    assert now[301].repo_guid == hashlib.sha256(b"gone").hexdigest()


def test_what_a_killed_go_program_has_not_merged_is_read(paths: Paths, tmp_path: Path) -> None:
    changed = recorded()[74]
    changed.display_message = "only in the write-ahead log"
    source = tmp_path / "running.sqlite"
    shutil.copyfile(RECORDED, source)
    with closing(sqlite3.connect(source)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("UPDATE operations SET operation = ? WHERE id = 74", (changed.SerializeToString(),))
        db.commit()
        for end in ("", "-wal"):  # as a kill leaves them
            shutil.copyfile(f"{source}{end}", f"{paths.reference_oplog}{end}")
    before = sorted(paths.data_dir.iterdir())
    imported(paths)
    assert held(paths)[74].display_message == "only in the write-ahead log"
    assert [one for one in sorted(paths.data_dir.iterdir()) if one != paths.oplog] == before, (
        "nothing of SQLite's stays"
    )


# --- when it is taken


def test_a_history_waits_until_it_is_imported(paths: Paths) -> None:
    assert waits(paths)
    log = open_log(paths, hubs=0, now_ms=NOW_MS - 1000)
    [early] = log.add([op(instance_id=INSTANCE)])
    log.apply("ed25519.peer", [received(5)])
    before = everything(log)
    log.close()
    assert early.id == NOW_MS - 999
    assert waits(paths), "also when there is a log"
    imported(paths)
    assert not waits(paths)
    assert held(paths) == kept() | before


def test_a_history_is_imported_once(paths: Paths) -> None:
    imported(paths)
    before = paths.oplog.read_bytes()
    with pytest.raises(ConflictError, match="has a history already"):
        imported(paths)
    assert paths.oplog.read_bytes() == before


def test_a_log_that_is_no_longer_empty_takes_no_history_of_before(paths: Paths, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.sqlite"
    paths.reference_oplog.rename(elsewhere)
    open_log(paths, hubs=0, now_ms=NOW_MS).close()
    assert imported(paths, elsewhere).imported == 44, "there is a log, and nothing is in it"
    paths.oplog.unlink()
    log = open_log(paths, hubs=0, now_ms=NOW_MS)
    [own] = log.add([op()])
    log.delete([own.id])
    log.apply("ed25519.peer", [received(1)])
    log.close()
    with pytest.raises(ConflictError, match="same numbers"):
        imported(paths, elsewhere)


def test_a_history_that_is_given_up_waits_no_more(paths: Paths) -> None:
    give_up(paths, NOW_MS)
    assert not waits(paths)
    assert held(paths) == {}
    log = open_log(paths, hubs=1, now_ms=NOW_MS)
    [new] = log.add([op()])
    log.close()
    assert new.id > NOW_MS
    with pytest.raises(ConflictError):
        imported(paths)


def test_a_log_of_ours_beside_an_old_one_of_theirs_does_not_wait(tmp_path: Path) -> None:
    """As it is on machines that changed over before there was an import."""
    paths = Paths(tmp_path / "config.json", tmp_path / "data")
    paths.data_dir.mkdir()
    open_log(paths, hubs=0, now_ms=NOW_MS).close()
    copy_to(paths)
    assert not waits(paths)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fault", [Died, full_disk])
def test_an_import_that_ends_at_any_step_holds_back_and_can_be_repeated(
    tmp_path: Path, begun: bool, fault: Callable[[], BaseException]
) -> None:
    def make(name: str) -> Paths:
        made = Paths(tmp_path / name / "config.json", tmp_path / name / "data")
        copy_to(made)
        if begun:
            log = open_log(made, hubs=0, now_ms=NOW_MS - 1000)
            log.add([op(instance_id=INSTANCE)])
            log.close()
        return made

    own = {NOW_MS - 999} if begun else set()
    steps = count_steps(lambda: imported(make("whole")))
    assert steps > 8
    for step in range(steps):
        made = make(str(step))
        with using(TestDisk(step, fault)):
            try:
                imported(made)
            except StorageError:
                assert waits(made), step
            except Died:
                pass
        assert waits(made) or held(made).keys() == kept().keys() | own, step
        if waits(made):
            result = imported(made)
            assert result.again or result.imported == 44
        assert held(made).keys() == kept().keys() | own, step
        assert not waits(made)
        assert not [one.name for one in made.data_dir.iterdir() if one.name.endswith(".tmp")]


# --- what is no such log


def test_another_machines_history_is_refused(paths: Paths) -> None:
    with pytest.raises(UserError, match=r"the history of 'box', and this machine is 'laptop'"):
        imported(paths, instance="laptop")
    assert waits(paths)
    assert not paths.oplog.exists()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_bytes(b"This is no database.\n" * 100)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE operations (id)")


def columns(path: Path) -> None:
    foreign(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE operation_groups (ogid)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40_000])


def absent(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [empty, text, foreign, columns, newer, cut, absent])
def test_what_is_no_such_log_is_one_sentence_and_changes_nothing(
    paths: Paths, damage: Callable[[Path], None]
) -> None:
    damage(paths.reference_oplog)
    with pytest.raises(UserError) as error:
        imported(paths)
    assert str(paths.reference_oplog) in str(error.value)
    assert "\n" not in str(error.value)
    assert not paths.oplog.exists()


def test_damage_anywhere_is_found_or_does_no_harm(paths: Paths) -> None:
    """Whatever byte is another: a sentence, or a log that opens."""
    whole = RECORDED.read_bytes()
    chance = random.Random(11)
    for _ in range(80):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 40))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        paths.reference_oplog.write_bytes(damaged)
        said = ""
        try:
            result = imported(paths)
        except BackrestError as error:
            said = str(error)
        assert "\n" not in said
        assert paths.oplog.exists() is not bool(said)
        if not said:
            assert len(held(paths)) == result.imported
            paths.oplog.unlink()


# --- what hubs see of it


def box(world: World) -> Instance:
    """The machine of the recording, after the import."""
    made = world.instance(INSTANCE)
    made.oplog.close()
    made.paths.oplog.unlink()
    copy_to(made.paths)
    imported(made.paths)
    made.oplog = open_log(made.paths, hubs=1, now_ms=NOW_MS)
    return made


async def test_the_manifest_is_the_one_that_the_go_program_would_have_sent(
    autojump_clock: MockClock, world: World
) -> None:
    told: list[dict[int, int]] = []

    async def listen(go: GoHub) -> None:
        await go.let_in()
        manifest = await go.until("operation_manifest")
        told.append(dict(zip(manifest.op_ids, manifest.modnos, strict=True)))
        await go.end()

    client = box(world)
    machine = GoMachine(world, listen)
    machine.known_to(client)
    async with client.running():
        await client.until_peer(machine, wire.sync.CONNECTION_STATE_RETRY_WAIT)  # type: ignore[arg-type]
    assert told[0] == {number: one.modno for number, one in kept().items()}


async def test_a_hub_that_knows_the_machine_asks_for_nothing(autojump_clock: MockClock, world: World) -> None:
    hub, client = world.instance("hub"), box(world)
    client.add_host(hub.token())
    hub.oplog.apply(client.keyid, list(kept().values()))
    changes: list[tuple[str, int]] = []
    hub.oplog.subscribe(lambda change: changes.append((change.kind, len(change.ids))))
    async with hub.running(), client.running():
        await hub.until_peer(client, wire.sync.CONNECTION_STATE_CONNECTED)
        client.oplog.add([client.operation()])
        await hub.until_history(client)
    assert changes == [("created", 1)]


def test_the_sentence_names_commands_that_exist() -> None:
    from click.testing import CliRunner

    from backrest.cli.main import cli

    usage = CliRunner().invoke(cli, ["ops", "import", "--help"]).output
    for option in ("--from-reference", "--without-reference"):
        assert f"`backrest ops import {option}`" in handover.WAITS
        assert option in usage


def test_opened_for_reading_only(paths: Paths) -> None:
    with GoLog(paths.reference_oplog) as source, pytest.raises(sqlite3.OperationalError, match="readonly"):
        source._db.execute("DELETE FROM operations")

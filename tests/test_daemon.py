"""The daemon as a whole, in this process: what it does by itself, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from admin_world import World, add_client, operation
from store_disk import FullDisk, using

from backrest import app, wire
from backrest.admin import client
from backrest.admin.settings import Settings
from backrest.errors import BackrestError
from backrest.store import opcompact, syscalls
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue, SetConfig
from backrest.store.removal import ParkedPlans, Removal
from backrest.store.shares import Shares


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


@contextmanager
def logged(words: str) -> Iterator[threading.Event]:
    """Set as soon as the daemon has logged something with these words in it."""
    happened = threading.Event()

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                happened.set()

    logger = logging.getLogger("backrest")
    logger.addHandler(handler := Waits())
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield happened
    finally:
        happened.set()
        logger.removeHandler(handler)
        logger.setLevel(level)


def run(world: World, beside: Callable[[], None]) -> None:
    """The daemon, until ``beside``, which runs in another thread once it listens, is done and SIGTERM came."""
    failure: list[BaseException] = []

    def main() -> None:
        listening.wait()
        try:
            beside()
        except BaseException as error:
            failure.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # when the daemon has ended, it must not end the tests
    thread = threading.Thread(target=main)
    try:
        with logged("listening on") as listening:
            thread.start()
            app.run(Settings(world.paths.config_file, world.paths.data_dir, bind_addresses=("127.0.0.1:0",)))
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    if failure:
        raise failure[0]


def ask(world: World, method: str, **args: Any) -> Any:
    """As a command does, which waits while the daemon that has the lock opens its socket."""
    return client.call(world.paths, method, args, wait_s=60)


def test_a_compaction_under_way_gives_up_when_the_daemon_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OpLog.open(world.paths.oplog)
    log.add([operation(n) for n in range(opcompact._LINES * 3)])
    size = log.size
    log.close()
    in_the_middle, stopping = threading.Event(), threading.Event()

    class Slow(syscalls.Disk):
        def fsync(self, fd: int) -> None:
            if ".oplog" in os.readlink(f"/proc/self/fd/{fd}"):  # the new file beside the old one
                in_the_middle.set()
                stopping.wait()
            super().fsync(fd)

    def stop(log: OpLog) -> None:
        stop_compacting(log)
        stopping.set()

    stop_compacting = OpLog.stop_compacting
    monkeypatch.setattr(OpLog, "stop_compacting", stop)
    answers: list[Any] = []

    def beside() -> None:
        monkeypatch.setattr(syscalls, "disk", Slow())

        def compact() -> None:
            try:
                answers.append(ask(world, "CompactOplog"))
            except BackrestError as error:
                answers.append(error)

        asking = threading.Thread(target=compact)
        asking.start()
        in_the_middle.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        asking.join()

    run(world, beside)
    [answer] = answers
    assert isinstance(answer, BackrestError)
    assert "the program is ending" in str(answer) or "went away" in str(answer)
    again = OpLog.open(world.paths.oplog)
    assert again.count() == opcompact._LINES * 3
    assert again.size[0] >= size[0], "the old file is the log"
    again.close()
    assert not list(world.paths.data_dir.glob(".oplog*"))


def test_states_that_cannot_be_written_are_said_and_the_daemon_goes_on(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PEERS_WRITTEN_EVERY_S", 0)
    keyid = add_client(world)

    def beside() -> None:
        world.paths.peers.unlink(missing_ok=True)
        world.paths.peers.mkdir()  # a full disk would say no, too
        ask(world, "RemoveClient", ident=keyid)
        failed.wait()
        assert ask(world, "Status")["daemon"]["running"]
        shutil.rmtree(world.paths.peers)

    oplog = OpLog.open(world.paths.oplog)  # of a client with a history a record is kept
    oplog.apply(keyid, [operation(1, id=1, flow_id=1, modno=1)])
    oplog.close()
    with logged("states were not written") as failed:
        run(world, beside)
    assert not [record for record in caplog.records if record.exc_info], "a sentence, and no traceback"


def left_behind(world: World) -> None:
    """Something for every write that a start makes: all that a crash, and another program's edits, can leave."""
    log = OpLog.open(world.paths.oplog)
    log.add([operation(1), operation(2, status=wire.operations.STATUS_INPROGRESS)])
    log.add([operation(3, status=wire.operations.STATUS_PENDING)])
    log.close()
    peers = PeerStore.open(world.paths.peers)
    peers.update(add_client(world), role="client", state=wire.sync.CONNECTION_STATE_CONNECTED)
    peers.flush()
    Shares.open(world.paths.shares).set("b" * 64, {"ed25519.gone": "/srv"})
    PushQueue.open(world.paths.pushes).add("ed25519.gone", "gone", SetConfig(repos_to_delete=["r"]))
    world.add_repo("r1")
    plan = wire.config.Plan(id="p1", repo="r1", paths=["/srv"])
    plan.schedule.disabled = True
    store = world.config()
    store.transform(lambda config: config.plans.append(plan))
    [repo] = store.current.repos
    peer = wire.config.Multihost.Peer()
    ParkedPlans.open(world.paths.parked_plans).park(Removal(peer, (repo,), (plan,)))
    document = json.loads(world.paths.config_file.read_text())
    document["version"] = 5
    world.paths.config_file.write_text(json.dumps(document))


def statuses(world: World) -> list[str]:
    events: list[dict[str, Any]] = []
    client.stream(world.paths, "ListOperations", {}, events.append, wait_s=60)
    return [one["status"] for event in events for one in event["operations"]]


def test_a_daemon_that_starts_on_a_full_disk_serves_what_can_be_read(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind(world)

    def beside() -> None:
        assert ask(world, "Status")["instance"]["operations"] == 3
        assert sorted(statuses(world)) == ["STATUS_INPROGRESS", "STATUS_PENDING", "STATUS_SUCCESS"]
        assert [plan["id"] for plan in ask(world, "ListPlans")["plans"]] == ["p1"]
        with pytest.raises(BackrestError, match="no space is left"):
            ask(world, "CreateToken")
        with pytest.raises(BackrestError, match="no space is left"):
            client.stream(world.paths, "Backup", {"plan_id": "p1"}, lambda _: None, wait_s=60)

    with using(FullDisk()):
        run(world, beside)
    assert not [record for record in caplog.records if record.exc_info], "sentences, and no traceback"
    for name in (
        "config.json",
        "oplog.jsonl",
        "peers.json",
        "shares.json",
        "pushes.json",
        "parked-plans.json",
    ):
        assert any(name in record.getMessage() for record in caplog.records), name


def test_what_was_interrupted_is_recorded_once_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "RECOVER_AGAIN_S", 0)
    left_behind(world)

    def beside() -> None:
        assert "STATUS_INPROGRESS" in statuses(world)
        disk.full = False
        done.wait()
        assert sorted(statuses(world)) == ["STATUS_ERROR", "STATUS_SUCCESS"]

    with using(disk := FullDisk()), logged("backups can run") as done:
        run(world, beside)


def test_who_only_reads_on_a_full_disk_gets_an_answer_without_a_daemon(world: World) -> None:
    left_behind(world)
    with using(FullDisk()):
        assert ask(world, "Status")["instance"]["operations"] == 3
        assert len(ask(world, "ListPlans")["plans"]) == 1


async def test_a_mistake_in_the_housework_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    await app._housework("the dust was not wiped", broken)
    assert "the dust was not wiped: this is a mistake in this program" in caplog.text

"""The daemon as a whole, in this process: what it does by itself, and how it ends."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_world import World, add_client, operation

from backrest import app
from backrest.admin import client
from backrest.admin.settings import Settings
from backrest.errors import BackrestError
from backrest.store import opcompact, syscalls
from backrest.store.oplog import OpLog


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


def run(world: World, beside: Callable[[], None]) -> None:
    """The daemon, until ``beside``, which runs in another thread once it listens, is done and SIGTERM came."""
    failure: list[BaseException] = []
    listening = threading.Event()

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("listening"):
                listening.set()

    def main() -> None:
        listening.wait()
        try:
            beside()
        except BaseException as error:
            failure.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = Waits()
    logger = logging.getLogger("backrest")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    before = signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # when the daemon has ended, it must not end the tests
    thread = threading.Thread(target=main)
    thread.start()
    try:
        app.run(Settings(world.paths.config_file, world.paths.data_dir, bind_addresses=("127.0.0.1:0",)))
    finally:
        listening.set()
        thread.join()
        logger.removeHandler(handler)
        logger.setLevel(level)
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
    failed = threading.Event()

    class Waits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "states were not written" in record.getMessage():
                failed.set()

    logging.getLogger("backrest").addHandler(handler := Waits())

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
    run(world, beside)
    logging.getLogger("backrest").removeHandler(handler)
    assert not [record for record in caplog.records if record.exc_info], "a sentence, and no traceback"


async def test_a_mistake_in_the_housework_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    await app._housework("the dust was not wiped", broken)
    assert "the dust was not wiped: this is a mistake in this program" in caplog.text

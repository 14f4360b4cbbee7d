"""Disks that are full, broken, read-only or shortened: refused in a sentence, nothing half done, and it goes on.

Every system call of what the stores do fails once. A full disk is also a real one: the system's limit for the
size of a file, which stops a write in its middle, for this process and for a running daemon.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_stories as stories
from oplog_world import QuickDisk, everything, op, reopened
from processes import BACKREST, Machine
from store_crash import History, Recorder
from store_disk import TestDisk, broken_disk, full_disk, largest_file, using

from backrest.errors import BackrestError, StorageError
from backrest.store import opcompact
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.files import DirLock, Paths
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore


class Faulty(TestDisk):
    """One step fails; the syncs that succeed are not done, which nobody can see without a power cut."""

    def fsync(self, fd: int) -> None:
        self._step("fsync", fd)

    def fsync_dir(self, path: str) -> None:
        self._step("fsync_dir", path)


class _Failing(History):
    """Calls may fail; then nothing has changed, and a copy of the file holds what the memory holds."""

    def __init__(self, log: OpLog, aside: Path) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # nothing is recorded
        self.log = log
        self.aside = aside
        self.holds = self._now()
        self.failed: list[str] = []

    def _now(self) -> Any:
        return stories.held(self.log), self.log.highest

    def call(self, work: Callable[[], object]) -> Any:
        result = None
        try:
            result = work()
            self.holds = self._now()
        except StorageError as error:
            self.failed.append(str(error))
            assert self._now() == self.holds
            with using(QuickDisk()):
                shutil.copyfile(self.log.path, self.aside)
                copy = OpLog.open(self.aside)
            assert stories.held(copy) == stories.held(self.log)
            assert copy.highest <= self.log.highest
            copy.close()
        return result


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_every_step_of_the_operation_log_may_fail_once(
    tmp_path: Path, fault: Callable[[], OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 4)

    def run(at: int | None) -> tuple[int, list[str]]:
        """(steps, what the calls that failed said)"""
        path = tmp_path / f"{at}.jsonl"
        with using(QuickDisk()):
            log = OpLog.open(path)
        history = _Failing(log, tmp_path / "copy")
        disk = Faulty(at, fault)
        with using(disk):
            for work in stories.Operations().steps(log):
                with contextlib.suppress(BackrestError):  # what was not added cannot be read for an update
                    history.call(work)
            history.call(lambda: stories.Compacting().go_on(log, history))
        with using(QuickDisk()):
            [new] = log.add([op()])
            log = reopened(log)
            assert log.get(new.id) == new
            log.close()
        return len(disk.steps), history.failed

    steps, none = run(None)
    assert none == []
    failed = [run(at)[1] for at in range(steps)]
    assert all(text.startswith("Cannot ") and text.endswith(".") for said in failed for text in said)
    assert sum(map(bool, failed)) > 0.8 * steps  # all but what is only tidying up


def test_write_that_the_system_stops_in_its_middle_is_cut_off(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    log.add([op(), op()])
    size = os.path.getsize(log.path)
    before = everything(log)
    with largest_file(size + 1000):
        with pytest.raises(StorageError, match="append to"):
            log.add([op(display_message="x" * 5000)])
        assert os.path.getsize(log.path) == size
        assert everything(log) == before
        log.add([op()])  # what fits is taken
        with pytest.raises(StorageError):
            log.add([op(display_message="x" * 5000)])
    log.add([op(display_message="x" * 5000)])
    log = reopened(log)
    assert len(everything(log)) == 4
    log.close()


def test_compaction_that_the_system_stops_leaves_the_log(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    log.add([op(display_message="x" * 1000) for _ in range(20)])
    before, names = everything(log), sorted(os.listdir(tmp_path))
    with largest_file(5000), pytest.raises(StorageError):
        log.compact()
    assert everything(log) == before
    assert sorted(os.listdir(tmp_path)) == names
    log.add([op()])
    reopened(log).close()


def lines(tag: str, count: int, size: int = 0) -> str:
    entry = {"repoId": "nas", "planId": "p", "unixTimeStartMs": "1000", "status": "STATUS_SUCCESS"}
    return "".join(
        json.dumps(entry | {"displayMessage": f"{tag}{n}" + "x" * size}) + "\n" for n in range(count)
    )


def test_daemon_on_a_full_disk_refuses_and_goes_on_reading(tmp_path: Path) -> None:
    here = Machine(tmp_path, "here")
    here.ok("init")
    with here.serving() as daemon:
        here.ok("ops", "import", "-", input=lines("a", 3))
        size = (here.directory / "data" / "oplog.jsonl").stat().st_size
        with largest_file(size + 2000, daemon.process.pid):
            said = here.refused("ops", "import", "-", input=lines("b", 3, 5000))
            assert "oplog.jsonl" in said
            assert len(here.operations()) == 3
        here.ok("ops", "import", "-", input=lines("c", 3, 5000))
        assert len(here.operations()) == 6
        assert daemon.stop() == 0
    assert here.json("oplog", "verify")["badLines"] == 0


def test_log_that_shrank_under_the_daemon_is_said_and_not_appended_to(tmp_path: Path) -> None:
    here = Machine(tmp_path, "here")
    here.ok("init")
    path = here.directory / "data" / "oplog.jsonl"
    with here.serving() as daemon:
        here.ok("ops", "import", "-", input=lines("a", 6))
        content = path.read_bytes().splitlines(keepends=True)
        os.truncate(path, sum(map(len, content[:4])))
        assert "the file ends before it" in here.refused("ops", "show", "6")
        assert "shrank" in here.refused("ops", "import", "-", input=lines("b", 1))
        assert path.read_bytes() == b"".join(content[:4])
        here.ok("ops", "show", "2")  # what is there is served
        here.ok("status")
        daemon.stop()
    with here.serving():
        assert len(here.operations()) == 3
        here.ok("ops", "import", "-", input=lines("c", 1))
    assert here.json("oplog", "verify")["badLines"] == 0


def test_read_only_directory_is_a_sentence_and_no_end(tmp_path: Path) -> None:
    """Permission bits, with root's privileges given up; and a file system that says it is read-only."""
    home = Path(tempfile.mkdtemp(prefix="backrest-test-"))  # not in tmp_path, which only its owner may enter
    try:
        with using(QuickDisk()):
            OpLog.open(home / "oplog.jsonl").close()
            ConfigStore.open(home / "config.json", environ={}).transform(
                lambda c: setattr(c, "instance", "me")
            )
        if os.geteuid() == 0:
            for path in (home, *home.iterdir()):
                os.chown(path, 65534, 65534)
        home.chmod(0o500)
        log = OpLog.open(home / "oplog.jsonl")
        config = ConfigStore.open(home / "config.json", environ={})
        peers = PeerStore.open(home / "peers.json")
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:  # nothing here may need the disk but what is tested
            said = []
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                peers.update("k", message="m")
                for work in (
                    lambda: config.transform(lambda draft: setattr(draft, "instance", "other")),
                    peers.flush,
                    log.compact,
                    lambda: AuditLog.open(home / "audit.jsonl"),
                    lambda: log.add([op()]),  # the file is open, and may be written to
                ):
                    try:
                        work()
                        said.append("done")
                    except StorageError as error:
                        said.append(str(error))
                said.append(f"{log.count()} {config.current.instance}")
            finally:
                os.write(writer, json.dumps(said).encode())
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as stream:
            said = json.loads(stream.read())
        os.waitpid(pid, 0)
        assert [text.endswith(": permission denied.") for text in said[:4]] == [True] * 4, said
        assert said[4:] == ["done", "1 me"]
    finally:
        home.chmod(0o700)
        shutil.rmtree(home)


def test_read_only_file_system_is_a_sentence(tmp_path: Path) -> None:
    class ReadOnly(QuickDisk):
        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return super().open(path, flags, mode)

    paths = Paths(tmp_path / "config.json", tmp_path / "data")
    with DirLock(paths):
        OpLog.open(paths.oplog).close()
    with using(ReadOnly()):
        for work in (
            lambda: DirLock(paths).acquire(),
            lambda: OpLog.open(paths.oplog),
            lambda: AuditLog.open(paths.audit),
        ):
            with pytest.raises(StorageError, match="the file system is read-only"):
                work()
        assert OpLog.verify(paths.oplog).opens


# --- a copy of the log, taken while it is in use


def test_copy_taken_between_any_two_steps_opens_with_all_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcompact, "_LINES", 4)
    root = tmp_path / "log"
    root.mkdir()
    copies: list[tuple[int, Path]] = []

    class Copying(Recorder):
        def _copy(self) -> None:
            with contextlib.suppress(FileNotFoundError):
                place = tmp_path / f"copy{len(copies)}"
                shutil.copyfile(root / "oplog.jsonl", place)
                copies.append((len(self.events), place))

        def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            self._copy()
            half = super().write(fd, data[: len(data) // 2], offset)
            self._copy()
            return half or super().write(fd, data, offset)

        def rename(self, source: str, target: str) -> None:
            self._copy()
            super().rename(source, target)
            self._copy()

    recorder = Copying(root)
    history = History(recorder)
    with using(recorder):
        stories.Compacting().run(root, history)
    assert len(copies) > 100
    with using(QuickDisk()):
        for at, copy in copies:
            log = OpLog.open(copy)
            history.compare(stories.held(log), at + 1)  # a write under way may be there
            log.close()


def test_copy_of_a_running_daemons_log_opens(tmp_path: Path) -> None:
    here = Machine(tmp_path, "here")
    here.ok("init")
    path = here.directory / "data" / "oplog.jsonl"
    with here.serving():
        stop = threading.Event()

        def compact() -> None:
            while not stop.is_set():
                here.ok("oplog", "compact")

        thread = threading.Thread(target=compact)
        thread.start()
        try:
            for number in range(4):
                here.ok("ops", "import", "-", input=lines(f"{number}.", 300, 500))
                process = subprocess.Popen(
                    [*BACKREST, "ops", "import", "-"], env=here.env, stdin=subprocess.PIPE
                )
                assert process.stdin is not None
                process.stdin.write(lines(f"{number}+", 300, 500).encode())
                process.stdin.close()
                copy = tmp_path / f"copy{number}.jsonl"
                subprocess.run(["cp", str(path), str(copy)], check=True)
                assert process.wait() == 0
                log = OpLog.open(copy)
                acknowledged = 300 + 600 * number
                assert log.count() >= acknowledged
                list(everything(log))
                log.close()
        finally:
            stop.set()
            thread.join()

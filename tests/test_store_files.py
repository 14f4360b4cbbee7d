"""Paths, directories, whole files replaced, logs appended to, and the lock of the data directory."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_disk import Died, TestDisk, broken_disk, count_steps, full_disk, snapshot, using

from backrest.errors import LockedError, StorageError, UserError
from backrest.store.files import (
    AppendFile,
    DirLock,
    Paths,
    atomic_write,
    private_dir,
    read_file,
    rename_durably,
    sweep_temps,
)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that takes nothing away: what is private then was made so."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- paths


def test_defaults_are_the_references() -> None:
    paths = Paths.resolve(environ={"HOME": "/home/u"})
    assert str(paths.config_file) == "/home/u/.config/backrest/config.json"
    assert str(paths.data_dir) == "/home/u/.local/share/backrest"


def test_xdg_directories_win_over_home() -> None:
    paths = Paths.resolve(environ={"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d"})
    assert (str(paths.config_file), str(paths.data_dir)) == ("/c/backrest/config.json", "/d/backrest")


def test_relative_xdg_directory_is_ignored() -> None:
    paths = Paths.resolve(environ={"HOME": "/h", "XDG_CONFIG_HOME": "c", "XDG_DATA_HOME": ""})
    assert (str(paths.config_file), str(paths.data_dir)) == (
        "/h/.config/backrest/config.json",
        "/h/.local/share/backrest",
    )


def test_given_wins_over_environment_wins_over_default() -> None:
    environ = {"HOME": "/h", "BACKREST_CONFIG": "/e/c.json", "BACKREST_DATA": "/e/d"}
    assert str(Paths.resolve(environ=environ).config_file) == "/e/c.json"
    assert str(Paths.resolve(environ=environ).data_dir) == "/e/d"
    given = Paths.resolve("/g/c.json", "/g/d", environ)
    assert (str(given.config_file), str(given.data_dir)) == ("/g/c.json", "/g/d")


def test_empty_environment_variable_counts_as_unset() -> None:
    paths = Paths.resolve(environ={"HOME": "/h", "BACKREST_CONFIG": "", "BACKREST_DATA": ""})
    assert str(paths.config_file) == "/h/.config/backrest/config.json"


def test_relative_paths_become_absolute() -> None:
    assert Paths.resolve("c.json", "d", {}).config_file == Path.cwd() / "c.json"


def test_no_home_directory_is_a_users_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UserError, match="XDG_CONFIG_HOME"):
        Paths.resolve(environ={})


def test_our_files_do_not_meet_the_go_programs() -> None:
    paths = Paths.resolve(environ={"HOME": "/h"})
    ours = [paths.oplog, paths.peers, paths.audit, paths.lock, paths.socket, paths.parked_plans]
    theirs = {"oplog.sqlite", "oplog.sqlite.lock", "kvdb.sqlite", "jwt-secret", "restic", "install.lock"}
    assert not {path.name for path in ours} & theirs


# --- directories


@pytest.mark.usefixtures("open_umask")
def test_directories_are_private_from_their_creation(tmp_path: Path) -> None:
    private_dir(tmp_path / "a" / "b")
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


def test_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_dir(tmp_path)
    assert mode(tmp_path) == 0o755


def test_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(StorageError, match="a file is there"):
        private_dir(tmp_path / "a" / "b")


def test_new_directory_is_synced_in_its_parent(tmp_path: Path) -> None:
    disk = TestDisk()
    with using(disk):
        private_dir(tmp_path / "a" / "b")
    assert disk.names() == ["mkdir", "fsync_dir"] * 2
    assert disk.steps[1] == ("fsync_dir", str(tmp_path))


# --- reading


def test_absent_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "x")


def test_directory_and_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StorageError):
            read_file(path)


def test_size_limit_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1 << 20))
    assert len(read_file(tmp_path / "f", 1 << 20)) == 1 << 20
    with pytest.raises(StorageError, match="larger than"):
        read_file(tmp_path / "f", (1 << 20) - 1)


# --- replacing a file


@pytest.mark.usefixtures("open_umask")
def test_replaced_file_is_private_at_every_step(tmp_path: Path) -> None:
    class Watching(TestDisk):
        def fsync(self, fd: int) -> None:
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
            super().fsync(fd)

    with using(Watching()):
        atomic_write(tmp_path / "f", b"secret")
    assert mode(tmp_path / "f") == 0o600


def test_order_is_write_sync_rename_sync_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    disk = TestDisk()
    with using(disk):
        atomic_write(tmp_path / "f", b"new")
    assert disk.names()[:6] == ["open", "write", "fsync", "link", "rename", "fsync_dir"]
    assert snapshot(tmp_path) == {"f": b"new"}


def test_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "f")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert snapshot(tmp_path / "real") == {"f": b"new"}


def test_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f").read_bytes() == b"new"


def test_circle_of_links_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StorageError):
        read_file(tmp_path / "a")


@pytest.mark.parametrize("existing", [b"old", None])
@pytest.mark.parametrize("fault", [full_disk, broken_disk])
def test_any_failing_step_leaves_the_old_content_and_no_rest(
    tmp_path: Path, existing: bytes | None, fault: Callable[[], OSError]
) -> None:
    path = tmp_path / "f"

    def prepare() -> dict[str, bytes]:
        path.unlink(missing_ok=True)
        if existing is not None:
            path.write_bytes(existing)
        return snapshot(tmp_path)

    prepare()
    failed = 0
    for step in range(count_steps(lambda: atomic_write(path, b"new"))):
        before = prepare()
        try:
            with using(TestDisk(step, fault)):
                atomic_write(path, b"new")
        except StorageError:
            failed += 1
            assert snapshot(tmp_path) == before
        else:  # keeping the old one by a second name, or removing that name, is not needed for success
            assert path.read_bytes() == b"new"
    assert failed >= 4  # open, write, fsync, rename, directory's fsync


@pytest.mark.parametrize("existing", [b"old", None])
def test_power_cut_at_any_step_leaves_old_or_new(tmp_path: Path, existing: bytes | None) -> None:
    path = tmp_path / "f"
    for step in range(count_steps(lambda: atomic_write(path, b"new"))):
        path.unlink(missing_ok=True)
        if existing is not None:
            path.write_bytes(existing)
        with using(TestDisk(step)), pytest.raises(Died):
            atomic_write(path, b"new")
        assert (path.read_bytes() if path.exists() else None) in (existing, b"new")


def test_disk_that_cannot_take_it_back_says_so(tmp_path: Path) -> None:
    class Stubborn(TestDisk):
        def fsync_dir(self, path: str) -> None:
            raise broken_disk()

        def rename(self, source: str, target: str) -> None:
            if self.names().count("rename"):
                raise broken_disk()
            super().rename(source, target)

    (tmp_path / "f").write_bytes(b"old")
    with using(Stubborn()), pytest.raises(StorageError, match="holds the new content"):
        atomic_write(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_short_writes_are_continued(tmp_path: Path) -> None:
    class Short(TestDisk):
        def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            return super().write(fd, data[:3], offset)

    with using(Short()):
        atomic_write(tmp_path / "f", b"0123456789")
        file = AppendFile(tmp_path / "log")
        file.append([b"0123456789"])
        file.append([b"abcd"])
    file.close()
    assert snapshot(tmp_path) == {"f": b"0123456789", "log": b"0123456789abcd"}


def test_durable_rename_syncs_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    disk = TestDisk()
    with using(disk):
        rename_durably(tmp_path / "a", tmp_path / "b")
    assert disk.names() == ["rename", "fsync_dir"]
    with pytest.raises(StorageError):
        rename_durably(tmp_path / "a", tmp_path / "b")


def test_only_old_temporary_files_are_swept(tmp_path: Path) -> None:
    for name in (".f.00.tmp", ".f.01.tmp", ".g.00.tmp", "f"):
        (tmp_path / name).write_bytes(b"x")
    for name in (".f.00.tmp", ".g.00.tmp", "f"):
        os.utime(tmp_path / name, (0, 0))
    sweep_temps(tmp_path / "f")
    assert sorted(snapshot(tmp_path)) == [".f.01.tmp", ".g.00.tmp", "f"]


# --- appending


@pytest.mark.usefixtures("open_umask")
def test_log_is_private_from_its_creation(tmp_path: Path) -> None:
    AppendFile(tmp_path / "log").close()
    assert mode(tmp_path / "log") == 0o600


def test_open_log_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "log").touch(mode=0o644)
    AppendFile(tmp_path / "log").close()
    assert mode(tmp_path / "log") == 0o600


def test_new_log_is_synced_in_its_directory(tmp_path: Path) -> None:
    disk = TestDisk()
    with using(disk):
        AppendFile(tmp_path / "log").close()
    assert disk.steps[-1] == ("fsync_dir", str(tmp_path))


def test_append_returns_offsets_and_syncs_once(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "log")
    disk = TestDisk()
    with using(disk):
        assert file.append([b"ab", b"c"]) == 0
        assert file.append([b"d"]) == 3
    assert disk.names() == ["write", "fsync"] * 2
    assert file.length == 4
    assert file.read(1, 2) == b"bc"
    assert file.read(3, 100) == b"d"
    file.close()
    again = AppendFile(tmp_path / "log")
    assert again.append([b"e"]) == 4
    again.close()
    assert (tmp_path / "log").read_bytes() == b"abcde"


@pytest.mark.parametrize("fault", [full_disk, broken_disk])
@pytest.mark.parametrize("step", [0, 1])
def test_failed_append_is_cut_off_again(tmp_path: Path, step: int, fault: Callable[[], OSError]) -> None:
    file = AppendFile(tmp_path / "log")
    file.append([b"good"])
    with using(TestDisk(step, fault)), pytest.raises(StorageError, match="Cannot append"):
        file.append([b"lost"])
    assert (tmp_path / "log").read_bytes() == b"good"
    assert file.append([b"more"]) == 4
    file.close()
    assert (tmp_path / "log").read_bytes() == b"goodmore"


def test_failed_cut_is_made_up_for_before_the_next_append(tmp_path: Path) -> None:
    class NoCut(TestDisk):
        def truncate(self, fd: int, length: int) -> None:
            raise broken_disk()

    file = AppendFile(tmp_path / "log")
    file.append([b"good"])
    with using(NoCut(1, full_disk)), pytest.raises(StorageError):
        file.append([b"lost"])
    assert (tmp_path / "log").read_bytes() == b"goodlost"
    with using(NoCut()), pytest.raises(StorageError):
        file.append([b"more"])
    assert file.append([b"more"]) == 4
    file.close()
    assert (tmp_path / "log").read_bytes() == b"goodmore"


def test_interrupted_append_is_cut_off(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "log")
    with using(TestDisk(1, KeyboardInterrupt)), pytest.raises(KeyboardInterrupt):
        file.append([b"half"])
    assert file.append([b"whole"]) == 0
    file.close()
    assert (tmp_path / "log").read_bytes() == b"whole"


def _shrink(path: Path) -> None:
    os.truncate(path, 1)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"?")


def _replace(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.write_bytes(b"good")


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("meddle", [_shrink, _grow, _replace, _remove])
def test_file_changed_by_others_is_not_appended_to(tmp_path: Path, meddle: Callable[[Path], None]) -> None:
    path = tmp_path / "log"
    file = AppendFile(path)
    file.append([b"good"])
    meddle(path)
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match="restart the program"):
        file.append([b"more"])
    assert snapshot(tmp_path) == before
    file.close()


def test_cut_drops_the_tail_durably(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"good torn")
    file = AppendFile(tmp_path / "log")
    disk = TestDisk()
    with using(disk):
        file.cut(4)
    assert disk.names() == ["truncate", "fsync"]
    assert file.append([b"!"]) == 4
    file.close()
    assert (tmp_path / "log").read_bytes() == b"good!"


def test_closed_or_impossible_files_are_storage_errors(tmp_path: Path) -> None:
    file = AppendFile(tmp_path / "log")
    file.close()
    file.close()
    with pytest.raises(StorageError, match="closed"):
        file.append([b"x"])
    for bad in (tmp_path, tmp_path / "no" / "log", Path("/dev/null")):
        with pytest.raises(StorageError):
            AppendFile(bad)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "read-only"), (errno.EACCES, "permission denied"), (errno.EDQUOT, "quota")],
)
def test_reasons_are_in_plain_words(tmp_path: Path, number: int, words: str) -> None:
    with using(TestDisk(0, lambda: OSError(number, "?"))), pytest.raises(StorageError, match=words):
        atomic_write(tmp_path / "f", b"x")


# --- the lock


def paths_in(directory: Path) -> Paths:
    return Paths(directory / "config.json", directory / "data")


@pytest.mark.usefixtures("open_umask")
def test_lock_makes_a_private_directory_and_file(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with DirLock(paths):
        assert mode(paths.data_dir) == 0o700
        assert mode(paths.lock) == 0o600
        assert paths.lock.read_text() == f"{os.getpid()}\n"


def test_second_daemon_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with DirLock(paths), pytest.raises(LockedError, match=f"pid {os.getpid()}"):
        DirLock(paths).acquire()
    with DirLock(paths):
        pass


HOLDER = """
import sys
from pathlib import Path
from backrest.store.files import DirLock, Paths
DirLock(Paths(Path("c"), Path(sys.argv[1]))).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths.data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"pid {holder.pid}"):
            DirLock(paths).acquire()
        holder.kill()
        holder.wait()
    with DirLock(paths):
        pass


def test_programs_that_we_start_do_not_hold_the_lock(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    lock = DirLock(paths)
    lock.acquire()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        lock.release()
        with DirLock(paths):
            pass
        child.communicate()


def test_removed_lock_file_is_noticed_when_taking_it(tmp_path: Path) -> None:
    """Between open and flock the file is replaced: the lock must be on the file that has the name."""
    paths = paths_in(tmp_path)
    opened: list[str] = []

    class Racing(TestDisk):
        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            fd = super().open(path, flags, mode)
            if not opened:
                os.unlink(path)
            opened.append(path)
            return fd

    with using(Racing()):
        lock = DirLock(paths)
        lock.acquire()
    assert opened == [str(paths.lock)] * 2 + [str(paths.reference_lock)]
    with pytest.raises(LockedError):
        DirLock(paths).acquire()
    lock.release()


def test_neither_program_starts_beside_the_other(tmp_path: Path) -> None:
    """The Go program holds an flock on its own file in the same directory, and starts only if it gets it at once."""
    paths = paths_in(tmp_path)
    paths.data_dir.mkdir()
    with paths.reference_lock.open("w") as go:
        fcntl.flock(go, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(
            LockedError, match=r"^The Go program \(Backrest\) is running on .*: stop it first"
        ):
            DirLock(paths).acquire()
        fcntl.flock(go, fcntl.LOCK_UN)
        with DirLock(paths), pytest.raises(BlockingIOError):
            fcntl.flock(go, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(go, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_removing_the_lock_file_lets_no_second_process_in(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with DirLock(paths):
        paths.lock.unlink()
        with pytest.raises(LockedError, match="works on"):
            DirLock(paths).acquire()
    with DirLock(paths):
        pass


def test_lock_is_no_link_to_another_file(tmp_path: Path) -> None:
    """Attack: in a shared directory, a link named ``lock`` would have us truncate somebody's file."""
    paths = paths_in(tmp_path)
    private_dir(paths.data_dir)
    (tmp_path / "precious").write_text("x")
    paths.lock.symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError):
        DirLock(paths).acquire()
    assert (tmp_path / "precious").read_text() == "x"

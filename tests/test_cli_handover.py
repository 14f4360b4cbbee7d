"""Coming from the Go program (Backrest), as a person does: its configuration and data directory are in place."""

from __future__ import annotations

import fcntl
import shutil
import socket
from pathlib import Path

import pytest
from admin_world import HUB_TOKEN_KEY, World
from cli_world import Run, document, run, world
from go_log import CONFIG, INSTANCE, RECORDED, copy_to, kept
from test_daemon import run as run_daemon

from backrest.admin import client
from backrest.errors import LockedError
from backrest.permissions import parse_grant
from backrest.store.config import ConfigStore

__all__ = ["run", "world"]  # fixtures

HOST_ADD = ("host", "add", f"{HUB_TOKEN_KEY}:{'1' * 64}#hub", "--url", "http://127.0.0.1:1", "--no-wait")
WAITS = "no hub is dialled"


@pytest.fixture
def moved(run: Run, world: World) -> Run:
    """The Go program was stopped; nothing of ours ran yet."""
    world.paths.config_file.parent.mkdir()
    shutil.copyfile(CONFIG, world.paths.config_file)
    copy_to(world.paths)
    return run


def known_hub(world: World, url: str) -> None:
    def add(config: object) -> None:
        config.multihost.known_hosts.add(  # type: ignore[attr-defined]
            instance_id="hub",
            keyid=HUB_TOKEN_KEY,
            instance_url=url,
            permissions=[parse_grant("read-operations=*")],
        )

    ConfigStore.open(world.paths.config_file).transform(add)


def test_init_says_what_it_found_and_what_to_do(moved: Run, world: World) -> None:
    before = world.paths.config_file.read_bytes()
    for _ in range(2):  # also when something of ours ran meanwhile
        said = moved("init")
        assert f"This machine is {INSTANCE!r}" in said.stdout
        assert "was there already, and is used as it is: 1 repo, 1 plan, 0 hubs, 0 clients" in said.stderr
        assert f"history in {world.paths.reference_oplog}. Stop it for good" in said.stderr
        assert "`backrest ops import --from-reference`" in said.stderr
        moved("status")
    assert world.paths.config_file.read_bytes() == before
    moved("ops", "import", "--from-reference")
    assert "was there already" not in moved("init").stderr


def test_init_on_a_configuration_whose_data_is_elsewhere_says_so(moved: Run, world: World) -> None:
    world.paths.reference_oplog.unlink()
    known_hub(world, "http://hub:9898")
    said = moved("init").stderr
    assert "1 hub," in said
    assert "--from-reference FILE" in said
    assert "Hubs delete what they hold of a machine that comes without its history" in said


def test_a_first_run_finds_nothing(run: Run) -> None:
    assert run("init").stderr == ""
    assert "found" not in document(run("init", "--json"))


def test_no_hub_is_dialled_until_the_history_is_imported(moved: Run, world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.setblocking(False)
        known_hub(world, f"http://127.0.0.1:{hub.getsockname()[1]}")

        def look() -> None:
            status = client.call(world.paths, "Status", {})
            assert status["historyWaits"] == str(world.paths.reference_oplog)
            assert status["instance"]["operations"] == 0
            with pytest.raises(Exception, match="stop it first"):
                client.call(world.paths, "ImportReference", {})
            said = moved("status").stderr
            assert WAITS in said
            assert "has not been dialled yet" not in said
            assert "no hub is dialled: the history" in moved("status", "--check", code=2).stdout
            assert WAITS in moved(*HOST_ADD, code=1).stderr

        run_daemon(world, look)
        with pytest.raises(BlockingIOError):
            hub.accept()
        assert "44 operations (2 of them cancelled)" in moved("ops", "import", "--from-reference").stdout

        def dialled() -> None:
            hub.setblocking(True)
            hub.accept()[0].close()

        run_daemon(world, dialled)


def test_the_import_is_done_once_and_told(moved: Run, world: World) -> None:
    assert WAITS in moved("status", "--check", code=2).stdout
    done = document(moved("ops", "import", "--from-reference", str(world.paths.reference_oplog), "--json"))
    assert (done["imported"], done["skipped"], done["again"]) == (len(kept()), 4, False)
    assert "has a history already" in moved("ops", "import", "--from-reference", code=1).stderr
    assert WAITS not in moved("status").stderr
    assert document(moved("ops", "show", "73", "--json"))["flowId"] == "70"
    assert "history-imported" in world.audit_events()
    moved("oplog", "verify")
    moved(*HOST_ADD)


def test_cancelled_operations_outlive_the_next_start(moved: Run, world: World) -> None:
    moved("ops", "import", "--from-reference")
    run_daemon(world, lambda: None)
    assert len(document(moved("ops", "list", "--json"))["operations"]) == len(kept())


def test_the_history_can_be_given_up(moved: Run, world: World) -> None:
    assert "no terminal to ask at" in moved("ops", "import", "--without-reference", code=2).stderr
    assert WAITS in moved("status").stderr
    assert "is given up; the file stays" in moved("ops", "import", "--without-reference", "--yes").stdout
    assert WAITS not in moved("status").stderr
    assert "nothing to give up" in moved("ops", "import", "--without-reference", "--yes", code=1).stderr
    assert world.paths.reference_oplog.read_bytes() == RECORDED.read_bytes()
    assert "history-given-up" in world.audit_events()


@pytest.mark.parametrize(
    "words",
    [
        ["--without-reference", "--from-reference"],
        ["--without-reference", "FILE"],
        ["--yes", "FILE"],
        ["--from-reference", "-"],
        [],
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    moved: Run, world: World, words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    moved("ops", "import", *(str(file) if word == "FILE" else word for word in words), code=2)
    assert not world.paths.oplog.exists()


def test_nothing_is_written_while_the_go_program_runs(moved: Run, world: World) -> None:
    there = {one.name for one in world.paths.data_dir.iterdir()}
    with world.paths.reference_lock.open("w") as go:
        fcntl.flock(go, fcntl.LOCK_EX)
        for method, more in (("Init", {}), ("CreateToken", {"label": "x"}), ("ForgoReference", {})):
            with pytest.raises(LockedError, match=r"^The Go program .* is running on"):
                world.call(method, **more)
        assert "nas" in moved("repo", "list").stdout, "what only reads the configuration"
    assert {one.name for one in world.paths.data_dir.iterdir()} == {*there, "lock", "oplog.sqlite.lock"}


def test_a_log_elsewhere_is_not_read_while_its_go_program_runs(moved: Run, tmp_path: Path) -> None:
    shutil.copyfile(RECORDED, tmp_path / "oplog.sqlite")
    with (tmp_path / "oplog.sqlite.lock").open("w") as go:
        fcntl.flock(go, fcntl.LOCK_EX)
        said = moved("ops", "import", "--from-reference", str(tmp_path / "oplog.sqlite"), code=1).stderr
    assert f"is running on {tmp_path}:" in said

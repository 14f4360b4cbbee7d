"""What others may write is refused where a daemon starts, and what they may read is said."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backrest import app, wire
from backrest.admin import instance
from backrest.admin.context import Context
from backrest.admin.settings import Settings
from backrest.errors import UserError
from backrest.store import access
from backrest.store.access import Watched, examine, of_state
from backrest.store.paths import Paths


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others may enter: those that pytest makes are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def paths(place: Path) -> Paths:
    """A state as we make it."""
    for name in ("etc", "data", "data/tasklogs"):
        (place / name).mkdir(mode=0o700)
    paths = Paths(place / "etc" / "config.json", place / "data")
    for path in (paths.config_file, Path(f"{paths.config_file}.bak.2026-01-01-00-00-00"), paths.pushes):
        path.write_text("{}")
        path.chmod(0o600)
    return paths


def test_what_we_make_is_good(paths: Paths) -> None:
    assert examine(of_state(paths)).all() == []


def test_what_is_not_there_yet_is_judged_by_the_directories_above(place: Path) -> None:
    paths = Paths(place / "a" / "config.json", place / "b" / "c")
    assert examine(of_state(paths)).all() == []
    place.chmod(0o777)
    [found] = examine(of_state(paths)).refused
    assert f"chmod o-w {place}`" in found


@pytest.mark.parametrize(
    "which", ["etc/config.json", "etc/config.json.bak.2026-01-01-00-00-00", "data/pushes.json"]
)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_secret_that_others_may_read_is_said_where_they_may_enter(
    paths: Paths, place: Path, which: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_is_private_group", lambda info: False)
    path = place / which
    path.chmod(mode)
    assert examine(of_state(paths)).all() == [], "the directory keeps them out"
    path.parent.chmod(0o755)
    found = examine(of_state(paths))
    assert found.refused == []
    [said] = found.said
    assert f"other users may read {path}" in said
    found.require()


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
@pytest.mark.parametrize("which", ["etc/config.json", "data/pushes.json", "etc", "data"])
def test_what_others_may_write_is_refused_with_the_command_that_mends_it(
    paths: Paths, place: Path, which: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_is_private_group", lambda info: False)
    path = place / which
    if path.is_dir():
        mode |= 0o711
    else:
        path.chmod(mode)
        assert examine(of_state(paths)).all() == [], "the directory keeps them out"
        path.parent.chmod(0o755)
    path.chmod(mode)
    [refused] = examine(of_state(paths)).refused
    assert f"other users may change {path}" in refused
    with pytest.raises(UserError, match="chmod"):
        examine(of_state(paths)).require()
    command = refused.split("`")[1]
    assert os.system(command) == 0
    assert examine(of_state(paths)).refused == []


def test_sticky_directory_above_is_one_where_nobody_replaces_anothers_files(
    paths: Paths, place: Path
) -> None:
    place.chmod(0o1777)
    assert examine(of_state(paths)).all() == []
    place.chmod(0o777)
    assert examine(of_state(paths)).refused


def test_link_is_followed_and_the_directory_that_holds_it_looked_at(place: Path) -> None:
    for name in ("real", "way"):
        (place / name).mkdir(mode=0o755)
    (place / "real" / "key.pem").touch(0o600)
    (place / "way" / "key.pem").symlink_to("../real/key.pem")
    link = Watched("the TLS key", place / "way" / "key.pem")
    assert examine([link]).all() == []
    for name, mode in (("real", 0o777), ("way", 0o777)):
        (place / name).chmod(mode)
        [refused] = examine([link]).refused
        assert f"{place / name} (above the TLS key)" in refused
        (place / name).chmod(0o755)


def test_group_that_holds_only_the_owner_is_no_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "key"
    path.touch(0o660)
    path.chmod(0o660)
    monkeypatch.setattr(
        access.pwd, "getpwuid", lambda uid: pwd.struct_passwd(("me", "x", uid, 4242, "", "", ""))
    )

    class Info:
        st_uid, st_gid = 1000, 4242

    for name, members, private in (
        ("me", [], True),
        ("me", ["me"], True),
        ("me", ["you"], False),
        ("staff", [], False),
    ):
        monkeypatch.setattr(
            access.grp, "getgrgid", lambda gid, n=name, m=members: access.grp.struct_group((n, "x", gid, m))
        )
        assert access._is_private_group(Info()) is private  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["etc", "etc/config.json", "data", ""])
def test_what_belongs_to_another_user_is_refused(paths: Paths, place: Path, which: str) -> None:
    os.chown(place / which, 4242, 0)
    [refused] = examine(of_state(paths)).refused
    assert "belongs to the user 4242" in refused
    assert f"`chown root {place / which}`".rstrip("/`") in refused


def test_neither_the_daemon_nor_a_backup_begins_where_others_may_write(paths: Paths) -> None:
    for name in (paths.config_file, paths.config_file.parent):
        name.chmod(0o666 if name.is_file() else 0o755)
    (paths.data_dir / "tasklogs").rmdir()
    with pytest.raises(UserError, match=r"may change .*config\.json .*chmod o-w"):
        app.run(Settings(config_file=paths.config_file, data_dir=paths.data_dir))
    assert [path.name for path in paths.data_dir.iterdir()] == ["pushes.json"], "nothing was begun"
    with Context(paths) as context:
        with pytest.raises(UserError, match="chmod o-w"):
            _ = context.engine
        assert "chmod o-w" in instance.status(context)["access"][0]


@pytest.mark.parametrize("entry", ["RESTIC_PASSWORD_FILE={}", "--password-file={}"])
def test_password_file_that_others_may_read_is_said(paths: Paths, place: Path, entry: str) -> None:
    secret = place / "secret"
    secret.touch()
    secret.chmod(0o604)
    repo = wire.config.Repo(id="nas")
    (repo.env if "=" in entry and entry[0] == "R" else repo.flags).append(entry.format(secret))
    [said] = examine(of_state(paths, wire.config.Config(repos=[repo]))).said
    assert "password file of repo 'nas'" in said

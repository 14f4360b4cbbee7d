"""A repository over sftp: the real restic, ssh and sshd."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_world import World, make_repo, make_source, repository, template, world
from sftp_world import make_host

from backrest.wire import config, operations

__all__ = ["repository", "template", "world"]  # fixtures


async def test_the_installed_restic_backs_up_over_sftp(
    tmp_path: Path, repository: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_host(tmp_path / "ssh", monkeypatch)
    plan = config.Plan(id="photos", repo="nas", paths=[str(make_source(tmp_path))])
    world.configure(make_repo(f"sftp:nas:{repository}", auto_initialize=True), plan)
    done = await world.engine.backup("photos")
    assert (done.status, done.display_message) == (operations.STATUS_SUCCESS, "")
    assert (await world.engine.index("nas")).new == 0

"""What people said of plans: kept, replaced, gone with the plan; a damaged file is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_disk import FullDisk, using

from backrest import wire
from backrest.errors import CorruptError, StorageError
from backrest.store.plannotes import Note, PlanNotes


def test_what_was_confirmed_survives_a_restart_and_goes_with_its_plan(tmp_path: Path) -> None:
    path = tmp_path / "d" / "plan-notes.json"
    PlanNotes.open(path).confirm("photos", "a" * 64, ("/mnt/usb",))
    notes = PlanNotes.open(path)
    assert notes.plan("photos") == Note("a" * 64, ("/mnt/usb",))
    assert notes.plan("music") == Note()
    assert os.stat(path).st_mode & 0o777 == 0o600
    notes.prune(wire.config.Config(plans=[wire.config.Plan(id="photos")]))
    assert notes.plan("photos").confirmed
    notes.prune(wire.config.Config())
    assert PlanNotes.open(path).plan("photos") == Note()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plan-notes.json"
    notes = PlanNotes.open(path)
    with using(FullDisk()), pytest.raises(StorageError):
        notes.confirm("photos", "a" * 64, ())
    assert notes.plan("photos") == Note()
    assert not path.exists()


@pytest.mark.parametrize("text", ["[]", '{"plans": [{}]}', '{"plans": [{"id": "p", "bare": 1}]}', "{"])
def test_a_damaged_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan-notes.json"
    path.write_text(text)
    with pytest.raises(CorruptError):
        PlanNotes.open(path)

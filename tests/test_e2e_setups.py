"""The three typical configurations of the manual, with real processes and a real restic: typed as the README says it.

The commands are read from the README, so that they cannot go stale; what is theirs alone (the token that was printed,
the address, the paths) is put in its place.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import Daemon, Machine, connected

README = Path(__file__).parent.parent / "README.md"


def blocks(title: str) -> list[str]:
    """The code blocks of a section of the README."""
    section = re.search(rf"\n##+ {title}\n(.*?)(?=\n##+ )", README.read_text(), re.DOTALL)
    assert section is not None, f"the README has no section {title!r}"
    return re.findall(r"```\n(.*?)```", section[1], re.DOTALL)


@dataclass
class Scene:
    """Two machines, and who types."""

    directory: Path
    machines: dict[str, Machine]
    daemons: dict[str, Daemon] = field(default_factory=dict)
    token: str = ""
    said: dict[str, str] = field(default_factory=dict)

    def play(self, title: str) -> None:
        script, *documents = blocks(title)
        for text in documents:
            name = json.loads(text)["id"]
            (self.directory / f"{name}.json").write_text(self.here(text, self.machines["laptop"]))
        lines = [line.partition("$ ") for line in script.splitlines()]
        assert lines
        for who, _, line in lines:
            program, *args = shlex.split(line)
            assert program == "backrest"
            self.type(who, [self.here(arg, self.machines[who]) for arg in args])

    def here(self, text: str, machine: Machine) -> str:
        """What the README's names are in this scene."""
        text = text.replace("ed25519....#hub", self.token).replace(
            "/srv/restic", str(self.directory / "restic")
        )
        text = text.replace("https://backup.example.com", self.daemons["hub"].url)
        text = re.sub("^~|/home/me", str(machine.directory), text)
        return str(self.directory / text) if text == "photos.json" else text

    def type(self, who: str, args: list[str]) -> None:
        if args[:2] == ["repo", "show"]:  # a person looks until it is there
            self.daemons[who].until_logged(f"configuration from hub: repo '{args[2]}' added")
        if args[0] == "push" and "--dry-run" not in args:  # a person says yes
            args = [*args, "--yes"]
        said = self.machines[who].ok(*args)
        self.said[" ".join([who, *args[:2]])] = said
        if args[:2] == ["token", "create"]:
            self.token = said.split()[0]
        if args[:2] == ["host", "add"]:
            self.machines["hub"].until_status(connected)


@contextmanager
def scene(directory: Path) -> Iterator[Scene]:
    made = Scene(directory, {name: Machine(directory, name) for name in ("hub", "laptop")})
    for name, machine in made.machines.items():
        machine.ok("init", "--instance-id", name)
        (machine.directory / "photos").mkdir()
        (machine.directory / "photos" / "one.txt").write_text(f"of {name}")
    with made.machines["hub"].serving() as hub, made.machines["laptop"].serving() as laptop:
        made.daemons |= {"hub": hub, "laptop": laptop}
        yield made


def test_the_first_backup_needs_one_machine_and_no_daemon(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "laptop")
    (machine.directory / "photos").mkdir()
    (machine.directory / "photos" / "one.txt").write_text("one")
    script, *_ = blocks("The first backup")
    lines = [
        line.removeprefix("$ backrest ") for line in script.splitlines() if line.startswith("$ backrest ")
    ]
    for line in lines:
        here = line.replace("sftp:nas:/srv/restic", str(tmp_path / "restic")).replace(
            "~", str(machine.directory)
        )
        args = shlex.split(here)
        said = machine.ok(*args, *(["--generate-password"] if args[:2] == ["repo", "add"] else []))
    assert [one["status"] for one in machine.operations()] == ["STATUS_SUCCESS"] * len(machine.operations())
    assert "photos" in said


@pytest.mark.timeout(300)
def test_centralized_monitoring(tmp_path: Path) -> None:
    with scene(tmp_path) as made:
        made.play("Centralized monitoring")
        hub, laptop = made.machines["hub"], made.machines["laptop"]
        found = hub.until_operations(
            lambda ops: len(ops) == len(laptop.operations()) == 2, "--peer", "laptop"
        )
        assert [op["status"] for op in found] == ["STATUS_SUCCESS"] * 2
        assert hub.json("repo", "list")["repos"] == []


@pytest.mark.timeout(300)
def test_shared_repository(tmp_path: Path) -> None:
    with scene(tmp_path) as made:
        made.play("Shared repository")
        hub, laptop = made.machines["hub"], made.machines["laptop"]
        assert laptop.json("repo", "show", "nas")["repo"]["originInstanceId"] == "hub"
        hub.until_operations(lambda ops: any("operationBackup" in op for op in ops), "--peer", "laptop")
        assert "1 new" in made.said["hub index nas"]
        assert "read-only" in laptop.refused("repo", "set", "nas", "--auto-unlock")


@pytest.mark.timeout(300)
def test_full_config_management(tmp_path: Path) -> None:
    with scene(tmp_path) as made:
        made.play("Full config management")
        assert "snapshot" in made.said["laptop backup photos"]
        assert "photos" in made.said["hub client show"]
        assert [plan["id"] for plan in made.machines["laptop"].json("plan", "list")["plans"]] == ["photos"]

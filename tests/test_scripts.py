"""The shell scripts on a machine that lacks something: installed if that can be done, else said in a sentence."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = [ROOT / "scripts" / name for name in ("run", "test", "check", "gen-proto", "lib.sh")] + [
    ROOT / ".ci/run"
]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of commands that are all there is: no apt-get yet, and a user who is root."""
    for name in ("bash", "env", "cat", "touch", "chmod"):
        (tmp_path / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    command(tmp_path, "id", "echo 0")
    return tmp_path


def command(machine: Path, name: str, body: str) -> None:
    (machine / name).write_text(f"#!{machine}/bash\n{body}\n")
    (machine / name).chmod(0o755)


def need(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", '. scripts/lib.sh; need "$@"', "-", *arguments],
        cwd=ROOT,
        env={"PATH": str(machine)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


INSTALLS = """echo "$RUNLEVEL $*" >> "$0.log"
case " $* " in *" install "*) printf '#!/bin/sh\\n' > "${0%/*}/tool"; chmod +x "${0%/*}/tool";; esac"""


def test_what_is_there_is_not_installed(machine: Path) -> None:
    command(machine, "tool", "true")
    command(machine, "apt-get", "exit 9")
    assert need(machine, "package", "tool", "--version").returncode == 0


def test_what_is_missing_is_installed_without_starting_its_service(machine: Path) -> None:
    command(machine, "apt-get", INSTALLS)
    result = need(machine, "package", "tool", "--version")
    assert result.returncode == 0, result.stderr
    log = (machine / "apt-get.log").read_text()
    assert log == "1 -qq -y install --no-install-recommends package\n"


def test_without_package_lists_they_are_fetched_first(machine: Path) -> None:
    fetches = 'case " $* " in *" update "*) touch "$0.lists"; exit 0;; esac'
    command(machine, "apt-get", f'{fetches}\n[ -e "$0.lists" ] || exit 100\n{INSTALLS}')
    assert need(machine, "package", "tool").returncode == 0


def test_without_root_or_sudo_it_says_what_to_do(machine: Path) -> None:
    command(machine, "id", "echo 1000")
    command(machine, "apt-get", "exit 9")
    result = need(machine, "package", "tool")
    assert result.returncode == 1
    assert result.stderr == (
        "package is missing, and it cannot be installed from here: as root, run  apt-get install package\n"
    )


def test_sudo_is_used_by_who_is_not_root(machine: Path) -> None:
    command(machine, "id", "echo 1000")
    command(machine, "sudo", '[ "$1" = -n ] && shift; "$@"')
    command(machine, "true", "exit 0")
    command(machine, "apt-get", INSTALLS)
    assert need(machine, "package", "tool").returncode == 0


def test_a_system_without_apt_is_told_by_name(machine: Path) -> None:
    result = need(machine, "package", "tool")
    assert result.returncode == 1
    assert "package is missing" in result.stderr


def test_an_installation_that_does_not_help_is_said(machine: Path) -> None:
    command(machine, "apt-get", "exit 0")
    result = need(machine, "package", "tool", "version")
    assert result.returncode == 1
    assert "package was installed, but this still fails: tool version" in result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_can_be_run(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK) or script.suffix == ".sh"

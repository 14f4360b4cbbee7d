"""The shell scripts on a machine that lacks something: installed if that can be done, else said in a sentence."""

from __future__ import annotations

import os
import shutil
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


# Stands for Python: says what it is asked to install, and makes a .venv in which it is itself.
PYTHON = """
case "$*" in
-V) echo Python 3.12.1;;
*'-m venv --clear .venv') rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; pwd > .venv/home;;
*'-m pip '*) pwd >> "$LOG";;
esac"""


def checkout(machine: Path, name: str) -> Path:
    for tool in ("sha256sum", "cut", "rm", "mkdir", "cp", "dirname", "readlink", "find", "sort"):
        if not (machine / tool).exists():
            (machine / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    command(machine, "python3", PYTHON)
    (machine / name).mkdir()
    (machine / name / "pyproject.toml").write_text("[project]\n")
    return machine / name


def environment(machine: Path, folder: Path, *extras: str) -> list[str]:
    """Make the virtual environment; returns the folders where something was installed."""
    log = machine / "log"
    log.write_text("")
    script = f'. "{ROOT}/scripts/lib.sh"; environment "$@"'
    env = {"PATH": str(machine), "LOG": str(log)}
    subprocess.run(["bash", "-c", script, "-", *extras], cwd=folder, env=env, check=True, capture_output=True)
    return log.read_text().split()


def test_the_virtual_environment_is_made_once_and_serves_who_needs_less(machine: Path) -> None:
    folder = checkout(machine, "checkout")
    assert environment(machine, folder) == [str(folder)]
    assert environment(machine, folder) == []
    assert environment(machine, folder, "dev") == [str(folder)]
    assert environment(machine, folder) == []


def test_a_copied_checkout_gets_a_virtual_environment_of_its_own(machine: Path) -> None:
    folder = checkout(machine, "checkout")
    environment(machine, folder, "dev")
    moved = folder.rename(machine / "moved")
    assert environment(machine, moved, "dev") == [str(moved)]
    assert (moved / ".venv/home").read_text() == f"{moved}\n"  # and not only installed into the old one


def test_a_virtual_environment_of_another_python_is_made_anew(machine: Path) -> None:
    folder = checkout(machine, "checkout")
    environment(machine, folder)
    (folder / ".venv/home").unlink()
    (folder / "pyproject.toml").write_text("[project]\n# something else to install\n")
    environment(machine, folder)
    assert not (folder / ".venv/home").exists()  # it was kept, and installed into
    command(machine, "python3", PYTHON.replace("3.12.1", "3.13.0"))
    environment(machine, folder)
    assert (folder / ".venv/home").exists()


@pytest.mark.parametrize("script", ["bench", "gen-proto", "mutants"])
def test_a_script_can_be_run_by_a_symbolic_link(machine: Path, script: str) -> None:
    folder = checkout(machine, "checkout")
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("*.py", "*.pyc"))
    (folder / "backrest/wire").mkdir(parents=True)
    (machine / "link").symlink_to(folder / "scripts" / script)
    env = {"PATH": str(machine), "LOG": str(machine / "log")}
    done = subprocess.run(
        [machine / "bash", machine / "link"],
        cwd=machine,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (machine / "log").read_text() == f"{folder}\n"  # there is the environment


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_can_be_run(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK) or script.suffix == ".sh"

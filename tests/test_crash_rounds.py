"""``scripts/crash``: 200 kills with everything kept, and a store that forgets is found out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def crash(*args: str, broken: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """As scripts/crash runs it; ``broken`` is Python that is run first, in the same process."""
    start = f"{broken}\nimport runpy\nrunpy.run_module('crashes', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", start, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts", **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)  # of which an idle machine takes a tenth
def test_two_hundred_kills_lose_nothing() -> None:
    done = crash("--rounds", "200")
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "190 kills of a writer, 10 of daemons" in done.stdout


# What a kill can show; what a forgotten sync does only a power cut shows (test_store_crash.py).
FORGETFUL = {
    "operations": """
from backrest.store.files import AppendFile
append, late = AppendFile.append, {}
def lazy(file, chunks):
    start = file.length
    for held in late.pop(id(file), ()):
        start = append(file, held)
    late.setdefault(id(file), []).append([b"".join(chunks)])
    return start
AppendFile.append = lazy
""",
    "configuration": """
from backrest.store import config
write, late = config.atomic_write, []
def lazy(path, data):
    for held in late:
        write(*held)
    late[:] = [(path, data)]
config.atomic_write = lazy
""",
    "numbers": """
from backrest.store import opcompact, opcore, opformat
opcompact.mark = opcore.mark = lambda *_: opformat.mark(0, 0)
""",
    "whole files": """
from backrest.store import config, peers, syscalls
import os
def rewrite(path, data):
    fd = syscalls.disk.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    syscalls.write_all(fd, data, 0)
    syscalls.disk.close(fd)
config.atomic_write = peers.atomic_write = rewrite
""",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("broken", FORGETFUL.values(), ids=FORGETFUL)
def test_forgetful_store_is_found_out_and_its_seed_is_named(broken: str, tmp_path: Path) -> None:
    done = crash("--rounds", "100", "--daemons", "0", "--seed", "1", broken=broken, TMPDIR=str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert "again: scripts/crash --seed 1 --only stores/" in done.stderr
    assert "Traceback" not in done.stderr

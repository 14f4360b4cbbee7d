"""A child process: its output within bounds, its end for certain. Real children (Python), real time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backrest.engine import process
from backrest.errors import ResticError


@given(st.lists(st.binary(max_size=9).filter(lambda b: b"\n" not in b)), st.integers(1, 7), st.booleans())
def test_lines_are_the_same_for_any_chunking(lines: list[bytes], size: int, ended: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    found: list[bytes] = []
    sink = process.Lines(found.append)
    for start in range(0, len(data), size):
        sink.feed(data[start : start + size])
    sink.close()
    expected = data.split(b"\n")
    assert found == [line.removesuffix(b"\r") for line in (expected if expected[-1] else expected[:-1])]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_line_over_the_limit_is_skipped_and_the_next_one_read(size: int) -> None:
    found: list[bytes] = []
    sink = process.Lines(found.append, limit=4)
    data = b"1234\n12345\n\nab\n123456"
    for start in range(0, len(data), size):
        sink.feed(data[start : start + size])
    sink.close()
    assert found == [b"1234", b"", b"ab"]
    assert sink.skipped == 2


def test_a_document_over_the_limit_is_dropped_and_said_so() -> None:
    sink = process.Document(limit=4)
    sink.feed(b"1234")
    assert (sink.content, sink.overflow) == (b"1234", False)
    sink.feed(b"5")
    assert (sink.content, sink.overflow) == (b"", True)


async def run(
    script: str, *, on_line: Callable[[bytes], None] = lambda line: None, grace: float = 5.0
) -> tuple[int, bytes]:
    errors = process.Document()
    code = await process.run(
        [sys.executable, "-c", script],
        {"PATH": os.environ["PATH"]},
        stdout=process.Lines(on_line),
        stderr=errors,
        grace=lambda: grace,
    )
    return code, errors.content


async def test_output_and_exit_status_arrive_whole() -> None:
    found: list[bytes] = []
    script = "import sys; print('a'); print('b' * 9_000_000); sys.stderr.write('e'); sys.exit(3)"
    code, errors = await run(script, on_line=found.append)
    assert (code, errors, [len(line) for line in found]) == (3, b"e", [1, 9_000_000])


async def test_the_child_gets_its_environment_and_nothing_to_read() -> None:
    script = "import os, sys; sys.stderr.write(repr((sorted(os.environ)[-1], sys.stdin.read())))"
    code, errors = await run(script)
    assert (code, errors) == (0, b"('PATH', '')")


async def test_a_program_that_does_not_exist_is_one_sentence() -> None:
    sink = process.Document()
    with pytest.raises(ResticError, match=r"cannot start /nowhere/restic: no such file or directory"):
        await process.run(["/nowhere/restic"], {}, stdout=sink, stderr=sink, grace=lambda: 0.0)


async def cancelled_when_ready(script: str, grace: float) -> list[bytes]:
    """Run until the script's first line, cancel; all its lines."""
    found: list[bytes] = []
    with trio.CancelScope() as scope:

        def on_line(line: bytes) -> None:
            found.append(line)
            scope.cancel()

        await run(script, on_line=on_line, grace=grace)
    assert scope.cancelled_caught
    return found


async def test_a_cancelled_child_is_interrupted_and_may_finish() -> None:
    script = """
import os, signal, time
def end(*_):
    for _ in range(300):  # more than a pipe holds: somebody must still read
        os.write(1, b"x" * 1000 + b"\\n")
    os.write(1, b"unlocked\\n")
    os._exit(130)
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
time.sleep(60)
"""
    found = await cancelled_when_ready(script, grace=30.0)
    assert found[0] == b"ready"
    assert found[-1] == b"unlocked"


async def test_a_child_that_ignores_the_interrupt_is_killed_with_its_children(tmp_path: Path) -> None:
    script = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
print("ready", flush=True)
time.sleep(60)
"""
    await cancelled_when_ready(script, grace=0.05)
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        with trio.fail_after(10):
            while not gone(pid):
                await trio.lowlevel.checkpoint()


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that its new parent has not collected yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_pipes_kept_open_by_a_grandchild_do_not_hold_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LINGER_S", 0.05)
    script = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("done")
"""
    found: list[bytes] = []
    with trio.fail_after(30):
        code, _ = await run(script, on_line=found.append)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (code, found) == (0, [b"done"])


async def test_ctrl_c_on_our_terminal_does_not_reach_the_child() -> None:
    code, errors = await run("import os, sys; sys.stderr.write(str(os.getsid(0) == os.getpid()))")
    assert (code, errors) == (0, b"True")

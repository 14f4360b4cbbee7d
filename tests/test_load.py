"""``scripts/load``: a tiny run leaves nothing over, and a hub with a fault is found out, with what it is.

Each broken hub is the real one with a few functions replaced before it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def load(*args: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the figures, what was said) of a run with one client of each role, some of them twice."""
    done = subprocess.run(
        [sys.executable, "-m", "loads", "--clients", "8", "--json", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def broken(tmp_path: Path, code: str, patience: str = "3") -> tuple[list[str], str]:
    """What a run says is wrong with the hub that ran ``code`` before it served. Where something never comes, the whole
    patience is waited; where all comes, a longer one costs nothing, and no connection is still ending."""
    file = tmp_path / "broken.py"
    file.write_text(code)
    exit_code, found, said = load(
        "--seconds", "1.5", "--cuts", "0", "--patience", patience, "--hub-code", str(file)
    )
    assert exit_code == 1
    assert f"--seed {found['seed']}" in said
    return found["wrong"], said


@pytest.mark.timeout(300)  # of which an idle machine takes a twentieth
def test_everything_arrives_and_nothing_is_left_over() -> None:
    code, found, _ = load("--seconds", "2.5", "--cuts", "1")
    assert (code, found["wrong"]) == (0, [])
    assert len(found["rounds"]) == 2
    assert sum(of["network"].get("cuts", 0) for of in found["rounds"]) > 0
    for of in found["rounds"]:
        assert of["changes"] > 0
        assert of["did"].pop("dials") >= of["did"].pop("sessions") >= 8, (
            "six good ones, and the storm comes back"
        )
        assert len(of["did"]) >= 2, "each round has both sorts of bad clients"
        assert of["hub"]["held"] > 0


def test_what_is_left_over_is_found(tmp_path: Path) -> None:
    wrong, _ = broken(
        tmp_path,
        """
import os, trio
from backrest.sync.hub import Hub
serve, kept = Hub.serve, []
async def leaky(hub, stream):
    os.open("/dev/null", os.O_RDONLY)
    trio.lowlevel.spawn_system_task(trio.sleep_forever)
    kept.append(b"x" * 2**21)
    await serve(hub, stream)
Hub.serve = leaky
""",
    )
    text = "\n".join(wrong)
    assert "file descriptors more than before the load" in text
    assert "tasks more than before the load" in text
    assert "the hub's memory grew by" in text
    assert "arrived" not in text
    assert "ended its session" not in text


def test_what_was_lost_is_found(tmp_path: Path) -> None:
    wrong, _ = broken(
        tmp_path,
        """
from itertools import count
from backrest.store.oplog import OpLog
apply, numbers = OpLog.apply, count()
def forgetful(log, keyid, upserts=(), deletes=(), **how):
    return apply(log, keyid, [one for one in upserts if next(numbers) % 9 != 8], deletes, **how)
OpLog.apply = forgetful
""",
    )
    assert any("not everything has arrived" in sentence for sentence in wrong)
    assert any(" lists the hub lacks " in sentence for sentence in wrong)


def test_what_was_not_brought_up_to_date_is_found(tmp_path: Path) -> None:
    """The numbers agree: only the histories themselves tell."""
    wrong, _ = broken(
        tmp_path,
        """
from backrest.store.oplog import OpLog
apply = OpLog.apply
def stubborn(log, keyid, upserts=(), deletes=(), **how):
    held = log.held(keyid)
    return apply(log, keyid, [one for one in upserts if one.id not in held], deletes, **how)
OpLog.apply = stubborn
""",
        patience="30",
    )
    assert wrong
    assert all("lists the hub has in another state" in sentence for sentence in wrong)


def test_what_others_had_to_suffer_is_found(tmp_path: Path) -> None:
    wrong, _ = broken(
        tmp_path,
        """
from backrest.sync.hub import Hub
left = Hub._left
def contagious(hub, client, error):
    left(hub, client, error)
    if error is not None:
        hub.end_all("somebody else has failed")
Hub._left = contagious
""",
    )
    assert any("the hub ended its session: somebody else has failed" in sentence for sentence in wrong)


def test_a_mistake_in_the_hubs_log_is_found(tmp_path: Path) -> None:
    wrong, _ = broken(
        tmp_path,
        """
from backrest.sync.inbound import Inbound
received, heard = Inbound._received, []
async def mistaken(client, kind, message, size):
    heard.append(kind)
    if kind == "operation_manifest" and heard.count(kind) == 12:
        raise ZeroDivisionError
    await received(client, kind, message, size)
Inbound._received = mistaken
""",
    )
    assert any("hub's log has mistakes of its own" in sentence for sentence in wrong)

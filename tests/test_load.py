"""``scripts/load``: a tiny run leaves nothing over, and a hub with a fault is found out, with what it is.

Each broken hub is the real one with a few functions replaced before it starts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from broken_stores import fatal, late_append, lost_marks
from refusals import refusal

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))  # loads is a script: no part of the program

from loads import bad, look, world  # noqa: E402 - found by the line above
from loads.__main__ import arguments  # noqa: E402


def load(*args: str, clients: str = "8") -> tuple[int, dict[str, Any], str]:
    """(exit code, the figures, what was said) of a run with one client of each role, some of them twice."""
    done = subprocess.run(
        [sys.executable, "-m", "loads", "--clients", clients, "--json", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stderr)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def broken(tmp_path: Path, code: str, patience: str = "3", rounds: int = 1) -> tuple[list[str], str]:
    """What a run says is wrong with the hub that ran ``code`` before it served. Where something never comes, the whole
    patience is waited; where all comes, a longer one costs nothing, and no connection is still ending."""
    file = tmp_path / "broken.py"
    file.write_text(code)
    options = ("--seconds", "1.5", "--cuts", "0", "--rounds", str(rounds), "--patience", patience)
    exit_code, found, said = load(*options, "--hub-code", str(file))
    assert exit_code == 1
    assert f"--seed {found['seed']}" in said
    return found["wrong"], said


@pytest.mark.timeout(300)  # of which an idle machine takes a twentieth
def test_everything_arrives_and_nothing_is_left_over() -> None:
    code, found, said = load("--seconds", "2", "--cuts", "1")
    assert (code, found["wrong"]) == (0, [])
    assert len(found["rounds"]) == 3
    assert (
        said.index("round 2: ") < said.index("the hub was killed when it held all") < said.index("round 3: ")
    )
    assert sum(of["network"].get("cuts", 0) for of in found["rounds"]) > 0
    for of in found["rounds"]:
        assert of["network"]["stalls"] > 0
        assert of["network"]["pieces"] > 0
        assert of["changes"] > 0
        assert of["did"].pop("dials") >= of["did"].pop("sessions") >= 8, (
            "six good ones, and the storm comes back"
        )
        did = of["did"].keys()
        never = [
            kind for one in of["absent"] for kind in one.partition("kinds never played: ")[2].split(", ")
        ]
        assert did & set(map(bad.name_of, bad.HALF_OPEN))
        assert did & set(map(bad.name_of, bad.GARBAGE))
        for kind in map(bad.name_of, bad.HALF_OPEN + bad.GARBAGE):
            assert (kind in did) != (kind in never)
        assert of["hub"]["held"] > 0


def test_what_is_left_over_is_found(tmp_path: Path) -> None:
    wrong, _ = broken(
        tmp_path,
        """
import os, threading, trio
from backrest.sync.hub import Hub
serve, kept = Hub.serve, []
async def leaky(hub, stream):
    os.open("/dev/null", os.O_RDONLY)
    trio.lowlevel.spawn_system_task(trio.sleep_forever)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    kept.append(b"x" * 2**21)
    await serve(hub, stream)
Hub.serve = leaky
""",
        rounds=2,
    )
    text = "\n".join(wrong)
    assert "file descriptors more than before the load" in text
    assert "tasks more than before the load" in text
    assert "threads more than before the load" in text
    assert "the hub's memory grew by" in text
    assert "arrived" not in text
    assert "ended its session" not in text


def figures(rss_mib: float, held: int = 0) -> look.Figures:
    return look.Figures(files=9, tasks=9, threads=2, rss_mib=rss_mib, peak_mib=99.0, held=held)


def test_memory_that_grows_a_little_in_each_round_adds_up() -> None:
    steady = [figures(60.0 + 1.0 * number) for number in range(5)]
    assert look.growth("hub", steady) == [], "4 MiB since the first round"
    slow = [figures(60.0 + 1.1 * number) for number in range(5)]
    assert look.growth("hub", slow[:-1]) == []
    assert look.growth("hub", slow) == [
        "the hub's memory grew by 4.4 MiB beyond the first round; 4.0 are allowed"
    ]
    sudden = [figures(64.0), figures(60.0), figures(64.5)]
    assert look.growth("hub", sudden) == [
        "the hub's memory grew by 4.5 MiB beyond the round before; 4.0 are allowed"
    ]
    fuller = [figures(60.0), figures(60.0 + 4.0 + 500 * 4096 / 2**20, held=4096)]
    assert look.growth("hub", fuller) == [], "for what it holds"
    assert look.growth("hub", fuller[:1]) == []


def test_what_a_hub_took_as_stored_before_it_was_is_found_when_it_is_killed(tmp_path: Path) -> None:
    wrong, said = broken(tmp_path, late_append("oplog.jsonl"), patience="30")
    assert "round 1" in said
    assert [sentence.partition(" (ids")[0] for sentence in wrong] == [
        "of what idle-0 lists the hub, in its file when it was killed, has in another state 1 of 1"
    ]


def test_numbers_that_a_hub_forgot_and_gave_out_again_are_found(tmp_path: Path) -> None:
    wrong, _ = broken(tmp_path, lost_marks("id"), patience="30")
    assert len(wrong) == 1
    assert re.match("the hub gave out 1 of its ids twice, first [0-9]+: to idle-0's 2 and ", wrong[0])


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


def test_hub_that_ends_by_itself_ends_the_run(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(fatal(12))  # in the midst of the load
    code, found, _ = load("--seconds", "1000", "--hub-code", str(file))
    assert code == 1
    assert (
        "hub ended by itself (3); the last of its log: ZeroDivisionError: division by zero" in found["wrong"]
    )


def test_bad_clients_are_spread_over_all_kinds_and_addresses() -> None:
    for clients, number, firsts in ((32, 1, {0, 2, 4, 6}), (32, 2, {1, 3, 5, 7}), (64, 1, set(range(8)))):
        parts = bad.cast([world.ROLES[who % 8] for who in range(clients)], number)
        for kinds in (bad.HALF_OPEN, bad.GARBAGE):
            assert {turn % 8 for mine, turn, _ in parts.values() if mine is kinds} == firsts
        addresses = [address % bad.ADDRESSES for _, _, address in parts.values()]
        assert {addresses.count(one) for one in addresses} == {len(parts) // bad.ADDRESSES}


def test_what_a_round_did_not_have_is_said() -> None:
    _, found, said = load("--seconds", "0.1", "--cuts", "500", "--rounds", "1", clients="4")
    absent = found["rounds"][0]["absent"]
    assert re.fullmatch("[0-9]+ of 500 cuts", absent[0])
    assert absent[1] == "roles never played: slow, garbage"
    assert absent[2].startswith("kinds never played: ")
    assert f"without: {'; '.join(absent)}" in said
    assert found["options"] == {"clients": 4, "seconds": 0.1, "rounds": 1, "cuts": 500, "patience": 120.0}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--seconds", "nan"], "nan"),
        (["--seconds", "0"], "--seconds"),
        (["--patience", "inf"], "inf"),
        (["--clients", "0"], "--clients"),
        (["--rounds", "0"], "--rounds"),
        (["--cuts", "-1"], "--cuts"),
        (["--hub-code", "/no/such/file"], "/no/such/file"),
        (["--hub-code", str(ROOT / "README.md")], "is not Python"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_started(args: list[str], says: str) -> None:
    assert says in refusal(arguments, args)


def test_run_that_is_stopped_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory() as short:  # sockets have short paths
        run = subprocess.Popen(
            [sys.executable, "-m", "loads", "--clients", "8", "--seconds", "1000", "--seed", "5"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "scripts", "TMPDIR": short},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with run:
            assert run.stderr is not None
            assert any(line.startswith("before:") for line in iter(run.stderr.readline, ""))
            run.send_signal(signal.SIGTERM)  # to the script alone: its daemons are its own to end
            assert run.stderr.read() == "interrupted\n"
        assert run.returncode == 128 + signal.SIGTERM
        assert list(Path(short).iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


# -- attacks


def besieged(*args: str, code: str = "", tmp_path: Path | None = None) -> tuple[int, dict[str, Any]]:
    """(exit code, figures) of a small siege, of a hub that ran ``code`` before it served."""
    if code:
        assert tmp_path is not None
        (tmp_path / "broken.py").write_text(code)
        args = (*args, "--hub-code", str(tmp_path / "broken.py"))
    exit_code, found, _ = load("--attacks", "4", "--seconds", "2", "--patience", "60", *args)
    return exit_code, found


@pytest.mark.timeout(300)
def test_small_siege_is_survived_directly_and_behind_caddy() -> None:
    code, found = besieged("--attack", "unread-streams", "--attack", "descriptors")
    assert [(row["attack"], row["addresses"], row["by"]) for row in found["rows"]] == [
        (attack, addresses, by)
        for attack in ("unread-streams", "descriptors")
        for by in ("direct", "caddy")
        for addresses in ("one", "many")
    ]
    # How long a round trip took is the machine's; what is bounded is not.
    wrong = [sentence for sentence in found["wrong"] if "round trips" not in sentence]
    assert wrong == []
    assert code == (1 if found["wrong"] else 0)
    assert all(row["trips"] > 0 for row in found["rows"])


@pytest.mark.timeout(300)
def test_unread_streams_that_hold_the_shared_window_are_found(tmp_path: Path) -> None:
    """Behind Caddy: credit for the connection comes only when somebody reads, and that is nobody."""
    code, found = besieged(
        "--attack",
        "unread-streams",
        "--way",
        "caddy",
        "--patience",
        "4",
        code="""
from dataclasses import replace
from backrest.net import h2server, h2settings
def small(settings, window):
    return h2settings.open_h2(replace(settings, connection_window=70_000), window)
h2server.open_h2 = small
h2server.H2Protocol._credit_connection = lambda connection, octets: None
""",
        tmp_path=tmp_path,
    )
    assert code == 1
    assert any("was not let in within" in sentence for sentence in found["wrong"])


@pytest.mark.timeout(300)
def test_strangers_whose_memory_nobody_counts_are_found(tmp_path: Path) -> None:
    """As if each piece of work for a stranger left 1 MiB behind."""
    code, found = besieged(
        "--attack",
        "unread-answers",
        "--way",
        "direct",
        code="""
from backrest.net import h2server
from backrest.net.crowd import Crowd
kept = []
turn = Crowd.turn
async def hoarding(crowd):
    kept.append(bytearray(b"x" * 2**20))
    await turn(crowd)
Crowd.turn = hoarding
""",
        tmp_path=tmp_path,
    )
    assert code == 1
    assert any("MiB, and 200 are allowed" in sentence for sentence in found["wrong"])

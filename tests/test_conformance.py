"""The conformance suite: against this program in both roles, over h2c and through Caddy, and against itself.

CONFORMANCE_SLOW=1 adds the cases that wait for a deadline of the protocol (a minute more).
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import trio
from caddy import running_caddy
from processes import BACKREST, Daemon, Machine

from backrest.crypto.tokens import PairingToken
from conformance import fixtures, processes, report, selftest
from conformance.__main__ import _known_failures, main
from conformance.cases import load
from conformance.hublab import MAIN, HubLab
from conformance.model import CASES, Case, Failed, Role, Skipped, select
from conformance.peer import AsHub, Item
from conformance.runner import Judge, Result
from conformance.seats import ClientLab, Seat, listening

load()

SUITE = [sys.executable, "-m", "conformance"]
ROOT = Path(__file__).parent.parent
PACE = [] if os.environ.get("CONFORMANCE_SLOW") else ["--fast"]
# A busy machine is no failure: 168 sessions share one client, and each waits for the others. What passes takes no
# longer for it; what fails may take several times that long, and should say so before pytest ends it.
PATIENCE = ["--patience", "60"]
whole_run = pytest.mark.timeout(900)
HEARTBEAT = ["--heartbeat-interval", "1s"]


# --- this program


class Suite:
    """A run of the suite as a process; ``finish`` demands success and shows what failed."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [*SUITE, *args, *PACE, *PATIENCE, "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, text: str) -> None:
        """Read what it says up to a line with ``text``."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text in line:
                return
        raise AssertionError(f"the suite ended without saying {text!r}")

    def finish(self) -> dict[str, str]:
        try:
            out, err = self._process.communicate()
        finally:
            self._process.kill()
        assert self._process.returncode == 0, err
        return {result["id"]: result["outcome"] for result in json.loads(out)["results"]}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "tested")


def hub_arguments(machine: Machine) -> list[str]:
    """Set the machine up as a hub; what the suite must be told of it."""
    assert main(["setup", "hub", str(machine.directory)]) == 0
    return [f"@{machine.directory / 'arguments'}", "--heartbeat", "1"]


def client_set_up(machine: Machine, directory: Path) -> None:
    """Take what the suite wrote into ``directory``."""
    shutil.copy(directory / "config.json", machine.env["BACKREST_CONFIG"])
    machine.ok("ops", "import", str(directory / "operations.jsonl"))


def change_command(machine: Machine, directory: Path) -> str:
    settings = (
        f"BACKREST_CONFIG={machine.env['BACKREST_CONFIG']} BACKREST_DATA={machine.env['BACKREST_DATA']}"
    )
    return f"{settings} {' '.join(BACKREST)} ops import {directory / 'one-more.jsonl'}"


def all_ran(role: Role, outcomes: dict[str, str]) -> None:
    """Nothing was skipped, so nothing that should be given was forgotten."""
    assert set(outcomes) == {case.id for case in select(role, slow=not PACE)}
    assert set(outcomes.values()) == {"passed"}


@whole_run
def test_this_program_conforms_as_a_hub(machine: Machine) -> None:
    arguments = hub_arguments(machine)
    with machine.serving(*HEARTBEAT) as daemon:
        all_ran(Role.HUB, Suite("hub", daemon.url, *arguments).finish())


@whole_run
def test_this_program_conforms_as_a_client(machine: Machine, tmp_path: Path) -> None:
    setup = tmp_path / "setup"
    command = change_command(machine, setup)
    suite = Suite(
        "client", "--setup", str(setup), "--fixture", "--heartbeat", "1", "--change-command", command
    )
    suite.until("waiting for the client")
    client_set_up(machine, setup)
    with machine.serving(*HEARTBEAT):
        all_ran(Role.CLIENT, suite.finish())


OF_ITS_OWN = ("kem/30", "record/31", "handshake/62", "config/73", "history/67", "history/76")
"""Between them these cases use all that a client of its own gives: files, commands, and a new stream."""


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a case's name and a socket: that of a socket has about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="conf.") as folder:
        yield Path(folder)


@whole_run
def test_each_case_may_have_a_client_of_its_own(short_path: Path) -> None:
    backrest = shlex.join(BACKREST)
    serve = f"exec {backrest} serve --bind-address 127.0.0.1:0 {' '.join(HEARTBEAT)}"
    suite = Suite(
        *("client", "--profile", "reference", "--fixture", "--heartbeat", "1", "--side-by-side", "2"),
        *("--setup", str(short_path / "setup")),
        *("--client-command", f"{backrest} ops import $CONFORMANCE_DIR/operations.jsonl && {serve}"),
        *("--change-command", f"{backrest} ops import $CONFORMANCE_DIR/one-more.jsonl"),
        *(f"--only={id}" for id in OF_ITS_OWN),
    )
    assert suite.finish() == dict.fromkeys(OF_ITS_OWN, "passed")
    for id in OF_ITS_OWN:
        config = json.loads((short_path / "setup" / id.replace("/", "-") / "config.json").read_text())
        assert len(config["sync"]["knownHosts"]) == 1


def test_a_client_that_ends_by_itself_fails_its_case_and_what_it_said_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = "echo no such option; exit 3"
    arguments = ["--setup", str(tmp_path / "setup"), "--client-command", command, "--only", "kem/30"]
    assert main(["client", *arguments]) == 1
    assert "exit code 3" in capfd.readouterr().err
    assert (tmp_path / "setup" / "kem-30" / "output.txt").read_text() == "no such option\n"
    assert main(["client", *arguments]) == 2
    assert "not empty" in capfd.readouterr().err


def test_only_cases_of_pairing_begin_with_a_secret() -> None:
    seats = [Seat(ClientLab(), CASES[id], 1) for id in ("handshake/62", "handshake/82", "kem/30")]
    secrets = [host["initialPairingSecret"] for host in fixtures.known_hosts(seats)]
    assert [bool(secret) for secret in secrets] == [True, False, False]


async def test_a_client_that_ignores_sigterm_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the shell started holds a pipe open as long as it lives."""
    monkeypatch.setattr(processes, "TERM_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    async with processes.running("trap '' TERM; sleep 1000 >pipe & wait", tmp_path, dict(os.environ)):
        held = await trio.open_file(tmp_path / "pipe", "rb")
    async with held:
        assert await held.read() == b""


@whole_run
async def test_this_program_conforms_as_a_hub_behind_caddy(machine: Machine) -> None:
    arguments = hub_arguments(machine)
    with machine.serving(*HEARTBEAT) as daemon:
        async with running_caddy(_address(daemon)) as caddy:
            suite = Suite("hub", caddy.url, "--ca-file", str(caddy.ca_file), "--proxy", *arguments)
            outcomes = await trio.to_thread.run_sync(suite.finish)
    assert set(outcomes.values()) == {"passed", "skipped"}
    assert {id for id, outcome in outcomes.items() if outcome == "skipped"} == {
        case.id for case in select(Role.HUB, slow=not PACE) if case.direct
    }


@whole_run
async def test_this_program_conforms_as_a_client_through_caddy(machine: Machine, tmp_path: Path) -> None:
    """What belongs to a connection; the rest is the same bytes again."""
    setup = tmp_path / "setup"
    topics = ["--only", "http/*", "--only", "handshake/*", "--only", "order/*"]
    async with running_caddy(("127.0.0.1", 9)) as caddy:
        public = f"{caddy.url}/PORT"
        suite = Suite(
            "client", "--setup", str(setup), "--public-url", public, "--proxy", "--fixture", *topics
        )
        await trio.to_thread.run_sync(suite.until, "waiting for the client")
        client_set_up(machine, setup)
        hosts = json.loads((setup / "known-hosts.json").read_text())
        await caddy.reload_with(
            _routes(caddy.url, [host["instanceUrl"].rpartition("/")[2] for host in hosts])
        )
        with machine.serving("--ca-file", str(caddy.ca_file)):
            outcomes = await trio.to_thread.run_sync(suite.finish)
    skipped = {id for id, outcome in outcomes.items() if outcome == "skipped"}
    assert all(CASES[id].direct or "heartbeat" in CASES[id].needs for id in skipped)
    assert len(outcomes) - len(skipped) > 50


def _routes(url: str, ports: list[str]) -> str:
    """A Caddyfile that leads https://.../PORT/... to that port."""
    routes = "".join(
        f"handle_path /{port}/* {{\n reverse_proxy h2c://127.0.0.1:{port} {{\n flush_interval -1\n }}\n}}\n"
        for port in ports
    )
    return f"{url} {{\n{routes}}}\n"


def _address(daemon: Daemon) -> tuple[str, int]:
    host, _, port = daemon.url.removeprefix("http://").rpartition(":")
    return host, int(port)


# --- the suite itself


def test_there_are_enough_cases_and_every_one_says_what_it_is_about() -> None:
    assert len(CASES) >= 120
    assert len({(case.role, case.sentence) for case in CASES.values()}) == len(CASES)
    for case in CASES.values():
        assert re.fullmatch(r"[1-9]|HTTP\.md", case.section), case.id
        assert set(case.needs) <= {*fixtures.HUB_TOKENS, "fixture", "change", "heartbeat", "pair"}, case.id


def test_the_suite_uses_the_messages_and_the_cryptography_and_nothing_else_of_the_program() -> None:
    for path in (ROOT / "conformance").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            used = {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "backrest"}
            assert used <= {"backrest.wire", "backrest.crypto"}, path


def test_the_suite_s_cryptography_is_that_of_the_vectors() -> None:
    selftest.check()


def test_the_reference_profile_leaves_out_what_only_we_promise() -> None:
    full, reference = select(Role.HUB), select(Role.HUB, reference=True)
    assert {case.id for case in full} - {case.id for case in reference} == {c.id for c in full if c.ours}
    assert len(reference) >= 60


def test_the_known_failures_of_the_reference_are_cases_of_its_profile() -> None:
    known = _known_failures(str(ROOT / "conformance" / "known-failures" / "reference.txt"))
    assert known
    assert known.keys() <= {case.id for case in select(Role.CLIENT, reference=True)}


def test_cases_are_chosen_by_glob() -> None:
    assert [case.id for case in select(None, only=("kem/1", "kem/30"))] == ["kem/1", "kem/30"]
    assert all(case.id.startswith("http/") for case in select(Role.CLIENT, only=("http/*",)))


async def _passes(lab: object) -> None:
    pass


async def _fails(lab: object) -> None:
    raise Failed("it was <not> as it should be\x00")


async def _is_skipped(lab: object) -> None:
    raise Skipped("not given")


async def _stumbles(lab: object) -> None:
    raise KeyError("a mistake of the suite")


def _case(id: str, run: Any) -> Case:
    return Case(id, Role.HUB, f"the sentence of {id}", "1", run)


async def _judged(known: dict[str, str], **runs: Any) -> list[Result]:
    judge = Judge(known, lambda result: None)
    for name, run in runs.items():
        await judge.run(_case(f"{name}/1", run), None, 10)
    return judge.results


async def test_a_mistake_of_the_suite_is_a_failure() -> None:
    results = await _judged({}, a=_passes, b=_fails, c=_is_skipped, d=_stumbles)
    assert [result.outcome for result in results] == ["passed", "failed", "skipped", "failed"]
    assert "KeyError" in results[3].text


async def test_a_known_failure_must_fail() -> None:
    results = await _judged({"a/1": "issue 7", "b/1": "issue 8"}, a=_passes, b=_fails)
    assert [(result.outcome, result.good) for result in results] == [("surprise", False), ("known", True)]


async def test_a_case_that_hangs_ends_and_fails(autojump_clock: trio.testing.MockClock) -> None:
    async def hangs(lab: object) -> None:
        await trio.sleep_forever()

    (result,) = await _judged({}, a=hangs)
    assert result.outcome == "failed"
    assert "10 s" in result.text


async def test_junit_and_json_hold_every_result(tmp_path: Path) -> None:
    results = await _judged({}, a=_passes, b=_fails, c=_is_skipped)
    report.write_junit(tmp_path / "junit.xml", results)
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    (failure,) = root.iter("failure")
    assert failure.text == "it was <not> as it should be?"
    assert json.loads(report.as_json(results))["summary"] == {"passed": 1, "failed": 1, "skipped": 1}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("http/9999 never was", "no case 'http/9999'"), ("http/1", "needs a reason")],
)
def test_a_list_of_known_failures_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    known = tmp_path / "known"
    known.write_text(f"# a comment\n\n{text}\n")
    arguments = ["hub", "http://127.0.0.1:1", "--token", "a:b#c", "--known-failures", str(known)]
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_a_hub_that_is_not_there_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "http://127.0.0.1:1", "--token", "a:b#c"]) == 2
    assert capsys.readouterr().err.startswith("conformance: ")


def test_the_list_has_a_line_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CASES)


# --- the suite's two halves against each other: its hub is no program of ours, so what passes is the suite's own


@asynccontextmanager
async def halves() -> AsyncGenerator[tuple[Seat, HubLab], None]:
    """A hub that the suite plays, and the suite's clients dialling it."""
    seat = Seat(ClientLab(seconds=5), _case("half/1", _passes), 1)
    async with listening([seat], "127.0.0.1", 0):
        yield seat, HubLab(seat.url, {MAIN: PairingToken.parse(seat.token)}, seconds=5)


async def both(one: Any, other: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(other)


async def test_the_two_halves_understand_each_other() -> None:
    async with halves() as (seat, lab):

        async def hub() -> None:
            async with seat.established() as talk:
                await answer_one_manifest(talk)

        async def client() -> None:
            async with lab.session(lab.stranger()) as talk:
                assert await lab.fence(talk, {1: 1, 2: 1}) == [2]

        await both(hub, client)


async def answer_one_manifest(talk: AsHub) -> None:
    """As a hub that holds the first of the listed operations."""
    ids = (await talk.expect("operation_manifest")).op_ids
    await talk.send("request_operation_data", Item.SyncActionRequestOperationData(op_ids=ids[1:]))
    await talk.until_end()


async def verdict(run: Any, hub: Any) -> Result:
    """What the case ``run`` gets when the suite's hub behaves as ``hub`` says."""
    judge = Judge({}, lambda result: None)
    async with halves() as (seat, lab):

        async def judged() -> None:
            await judge.run(_case("half/1", run), lab, 20)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub, seat)
            nursery.start_soon(judged)
    return judge.results[0]


async def _silent(seat: Seat) -> None:
    async with seat.accept():
        await trio.sleep_forever()


async def _wrong_identity(seat: Seat) -> None:
    async with seat.keyed() as talk:
        hello = seat.handshake(talk)
        hello.signature = bytes(64)
        await talk.send("handshake", hello)
        await talk.until_end()


async def _accepts_anything(seat: Seat) -> None:
    while True:
        async with seat.accept() as talk:
            await talk.client_key()
            await talk.finish()


@pytest.mark.parametrize(
    ("id", "hub", "text"),
    [
        ("kem/1", _silent, "in vain"),
        ("handshake/2", _wrong_identity, "does not verify"),
        ("kem/9", _accepts_anything, "instead of an end-of-stream message|instead of code"),
        ("kem/2", _accepts_anything, "instead of establish_shared_secret came"),
    ],
)
async def test_a_case_in_the_middle_of_a_session_can_fail(id: str, hub: Any, text: str) -> None:
    """A failure passes through the connection's nursery: it must not be swallowed there."""
    result = await verdict(CASES[id].run, hub)
    assert result.outcome == "failed"
    assert re.search(text, result.text), result.text

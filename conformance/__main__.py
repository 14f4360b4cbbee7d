"""``python -m conformance``: the command line. Exit code 0: as it should be, 1: not, 2: it could not run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import trio

from backrest.crypto.tokens import PairingToken
from conformance import fixtures, report, selftest, setup
from conformance.cases import load
from conformance.h2raw import open_transport
from conformance.hublab import MAIN, HubLab
from conformance.model import CASES, Case, Failed, Role, select
from conformance.processes import Place, run_each
from conformance.runner import Judge, Result, client_cases, run_client, run_hub
from conformance.seats import ClientLab, Seat, listening

HUB_HELP = """\
The suite plays clients against the hub at URL. The hub must have a pairing token of unlimited uses and life with the
permissions read-operations=* and receive-shared-repos=*; that is --token. For every case to run it needs more tokens
(--extra-token NAME=TOKEN) and, with --fixture, repos and plans: `setup hub DIR` writes a configuration with all of it,
and DIR/arguments, to be given as @DIR/arguments; `setup hub` prints it as commands.

Each run leaves some two hundred clients at the hub. It also fails ten pairings: within a minute after a run the hub
refuses to pair anybody from this address.
"""

CLIENT_HELP = """\
The suite plays the hub: one for each case, on as many ports from ADDR's on (port 0: any ports), each with a token of
its own, since a client that was refused waits before it comes back. --setup DIR writes a configuration with them as
known hosts (config.json), and the operations to import before the client starts (operations.jsonl): what --fixture
promises. For a client that has a configuration already: known-hosts.json, with the permissions that each must be
granted, host-commands.sh, the same as commands, and repos-and-plans.json.

With --client-command the suite starts a client for each case, with a configuration for this case alone. In the
command's environment, and in that of --change-command, are BACKREST_CONFIG, BACKREST_DATA (an empty folder) and
CONFORMANCE_DIR (the same files as above). The client gets SIGTERM, and SIGKILL 5 s later. The folder of a case that
failed stays, with the client's output; with --setup DIR, which must not hold an earlier run, all do.
"""


PATIENCE_S = 10.0
REDIAL_S = 45.0
REFERENCE_REDIAL_S = 75.0  # it dials again 60 s after a failed attempt began, and says nothing before


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    load()
    if options.role == "setup":
        if options.directory is None:
            print(setup.hub_commands())
        else:
            setup.write_hub(Path(options.directory))
        return 0
    role = Role(options.role) if options.role else None
    cases = select(
        role, only=tuple(options.only), reference=options.profile == "reference", slow=not options.fast
    )
    if options.list or role is None:
        print(report.listing(cases))
        return 0
    try:
        results = _run(options, role, cases)
    except BaseExceptionGroup as group:
        expected, other = group.split((Failed, ValueError, RuntimeError, OSError))
        if expected is None or other is not None:
            raise
        return _cannot(_first(expected))
    except (Failed, ValueError, RuntimeError, OSError) as error:
        return _cannot(error)
    if options.json:
        print(report.as_json(results))
    if options.junit:
        report.write_junit(Path(options.junit), results)
    print(report.summary(results), file=sys.stderr)
    return 0 if all(result.good for result in results) else 1


def _run(options: argparse.Namespace, role: Role, cases: list[Case]) -> list[Result]:
    known = _known_failures(options.known_failures)
    selftest.check()
    if not cases:
        raise ValueError("no case is selected")
    judge = Judge(known, report.line, most_failures=options.max_failures)
    trio.run(_hub if role is Role.HUB else _client, options, cases, judge)
    if judge.scope.cancelled_caught:
        left = len(cases) - len(judge.results)
        print(f"stopped after {options.max_failures} failures: {left} cases not run", file=sys.stderr)
    return judge.results


def _cannot(error: BaseException) -> int:
    print(f"conformance: {error}", file=sys.stderr)
    return 2


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _hub(options: argparse.Namespace, cases: list[Case], judge: Judge) -> None:
    if not options.url.startswith(("http://", "https://")):
        raise ValueError("the hub's URL is missing, or does not begin with http:// or https://")
    if not options.token:
        raise ValueError("--token is missing: a pairing token of the hub, see `hub --help`")
    tokens = {MAIN: PairingToken.parse(options.token)}
    for text in options.extra_token:
        name, mark, token = text.partition("=")
        if not mark or name not in fixtures.HUB_TOKENS:
            raise ValueError(f"--extra-token is NAME=TOKEN, NAME one of {', '.join(fixtures.HUB_TOKENS)}")
        tokens[name] = PairingToken.parse(token)
    lab = HubLab(
        options.url.rstrip("/"),
        tokens,
        ca_file=options.ca_file,
        seconds=options.patience or PATIENCE_S,
        reference=options.profile == "reference",
        heartbeat=options.heartbeat,
    )
    await trio.aclose_forcefully(await open_transport(lab.url, lab.ca_file))  # OSError: nobody is there
    with judge.scope:
        await run_hub(cases, lab, judge, through_proxy=options.proxy, fixture=options.fixture)


async def _client(options: argparse.Namespace, cases: list[Case], judge: Judge) -> None:
    host, _, port = options.listen.rpartition(":")
    host = host.strip("[]")
    reference = options.profile == "reference"
    lab = ClientLab(
        seconds=options.patience or (REFERENCE_REDIAL_S if reference else PATIENCE_S),
        redial=options.redial or (REFERENCE_REDIAL_S if reference else REDIAL_S),
        reference=reference,
        fixture=options.fixture,
        change=options.change_command,
        heartbeat=options.heartbeat,
    )
    if options.client_command:
        await _client_processes(options, cases, lab, judge, Place(host, int(port), options.public_url))
        return
    seats = [Seat(lab, case, number) for number, case in enumerate(cases, start=1)]
    partners: list[Seat] = []
    for seat in seats:
        if "pair" in seat.case.needs:
            seat.partner = Seat(lab, seat.case, len(seats) + len(partners) + 1)
            partners.append(seat.partner)
    everyone = [*seats, *partners]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listening(everyone, host, int(port)))
        if options.public_url:
            for seat in everyone:
                seat.public_url = options.public_url.replace("PORT", str(seat.port))
        if options.setup:
            setup.write_client(Path(options.setup), everyone)
        else:
            print("Enter these hubs at the client, then start it:", file=sys.stderr)
            for command in fixtures.host_commands(everyone):
                print(f"  {command}", file=sys.stderr)
        print(f"waiting for the client ({len(everyone)} hubs)", file=sys.stderr, flush=True)
        with judge.scope:
            await run_client(seats, lab, judge, first_s=options.wait, through_proxy=options.proxy)


def _new_folder(name: str | None) -> Path:
    """What an earlier run left would be another client's data."""
    directory = Path(name or tempfile.mkdtemp(prefix="conformance-")).absolute()
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty: with --client-command, --setup names a new folder")
    return directory


async def _client_processes(
    options: argparse.Namespace, cases: list[Case], lab: ClientLab, judge: Judge, place: Place
) -> None:
    directory = _new_folder(options.setup)
    try:
        with judge.scope:
            await run_each(
                client_cases(cases, lab, judge, options.proxy),
                lab,
                judge,
                command=options.client_command,
                directory=directory,
                keep=bool(options.setup),
                place=place,
                side_by_side=options.side_by_side,
            )
    finally:
        if not options.setup:
            with suppress(OSError):  # a case that failed left its folder
                await trio.Path(directory).rmdir()


def _known_failures(path: str | None) -> dict[str, str]:
    """Lines of an id and a reason; # begins a comment. The listed cases must fail."""
    known: dict[str, str] = {}
    if path is None:
        return known
    for number, text in enumerate(Path(path).read_text().splitlines(), start=1):
        id, _, reason = text.strip().partition(" ")
        if not id or id.startswith("#"):
            continue
        if id not in CASES:
            raise ValueError(f"{path}:{number}: there is no case {id!r}")
        if not reason.strip():
            raise ValueError(f"{path}:{number}: a known failure needs a reason")
        known[id] = reason.strip()
    return known


def _common(*, again: bool) -> argparse.ArgumentParser:
    """The options of every role. ``again``: after the role; what is not given there must not undo what was given
    before it."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--list", action="store_true", help="list the cases, run none")
    common.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="cases like kem/* or http/3"
    )
    common.add_argument(
        "--fast", action="store_true", help="leave out cases that wait for a deadline (10 s to a minute)"
    )
    common.add_argument(
        "--profile",
        choices=("full", "reference"),
        default="full",
        help="reference: leave out what only Backrest in Python promises",
    )
    common.add_argument("--json", action="store_true", help="results as one JSON document on stdout")
    common.add_argument("--junit", metavar="FILE", help="results as JUnit XML")
    common.add_argument(
        "--known-failures", metavar="FILE", help="lines of an id and a reason; these must fail"
    )
    common.add_argument(
        "--patience",
        type=float,
        metavar="S",
        help="wait this long for an answer (10; 75 for a client of the reference)",
    )
    common.add_argument(
        "--heartbeat", type=float, metavar="S", help="the heartbeat interval that was configured, in seconds"
    )
    common.add_argument(
        "--proxy", action="store_true", help="through a proxy: leave out what it answers itself"
    )
    common.add_argument(
        "--fixture", action="store_true", help="the program has the repos and plans of the set-up"
    )
    common.add_argument(
        "--max-failures", type=int, default=0, metavar="N", help="stop after so many failures (0: never)"
    )
    for action in common._actions if again else ():
        action.default = argparse.SUPPRESS
    return common


def _parser() -> argparse.ArgumentParser:
    common = _common(again=True)
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Conformance of a hub or a client to the sync protocol. @FILE stands for the arguments in FILE, "
        "one a line.",
        parents=[_common(again=False)],
        fromfile_prefix_chars="@",
    )
    roles = parser.add_subparsers(dest="role", metavar="hub | client | setup")
    form = argparse.RawDescriptionHelpFormatter
    hub = roles.add_parser(
        "hub", parents=[common], formatter_class=form, description=HUB_HELP, help="test a hub"
    )
    hub.add_argument(
        "url", nargs="?", default="", metavar="URL", help="http://host:port or https://host:port"
    )
    hub.add_argument("--token", default="", metavar="T", help="the pairing token")
    hub.add_argument("--extra-token", action="append", default=[], metavar="NAME=T", help="see `setup hub`")
    hub.add_argument("--ca-file", metavar="FILE", help="certificates (PEM) to check an https:// hub against")
    client = roles.add_parser(
        "client", parents=[common], formatter_class=form, description=CLIENT_HELP, help="test a client"
    )
    client.add_argument("--listen", default="127.0.0.1:0", metavar="ADDR", help="host:port of the first hub")
    client.add_argument(
        "--public-url",
        metavar="URL",
        help="how the client reaches a hub through a proxy; PORT in it is the hub's port",
    )
    client.add_argument("--setup", metavar="DIR", help="write files for the client's set-up there")
    client.add_argument(
        "--change-command", metavar="CMD", help="makes the client create one operation of plan conf-a1"
    )
    client.add_argument(
        "--wait", type=float, default=600.0, metavar="S", help="wait this long for the client's first stream"
    )
    client.add_argument(
        "--redial",
        type=float,
        metavar="S",
        help="the client may take this long to come back (45; reference 75)",
    )
    client.add_argument(
        "--client-command",
        metavar="CMD",
        help="start a client for each case with this shell command; it finds its files by BACKREST_CONFIG, "
        "BACKREST_DATA and CONFORMANCE_DIR",
    )
    client.add_argument(
        "--side-by-side", type=int, default=4, metavar="N", help="so many of them at a time (4)"
    )
    what = roles.add_parser("setup", help="what a hub should be set up with: as commands, or as files in DIR")
    what.add_argument("what", choices=["hub"])
    what.add_argument(
        "directory", nargs="?", metavar="DIR", help="write a configuration and the arguments there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

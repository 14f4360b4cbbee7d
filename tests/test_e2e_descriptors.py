"""A daemon with few file descriptors, and a user of the machine who opens as many connections as it can."""

from __future__ import annotations

import resource
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from processes import BACKREST, Machine

from backrest.net import descriptors

pytestmark = pytest.mark.timeout(120)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def limited(tmp_path: Path, soft: int, hard: int) -> Machine:
    """A machine whose processes begin with these limits."""
    shell = f'ulimit -S -n {soft}; ulimit -H -n {hard}; exec {shlex.join(BACKREST)} "$@"'
    made = Machine(tmp_path, "hub", ["bash", "-c", shell, "backrest"])
    made.ok("init", "--instance-id", "hub")
    return made


@contextmanager
def crowd(url: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections: silent, of HTTP/2 without a stream, of a request that never ends."""
    where = httpx.URL(url)
    with ExitStack() as held:
        opened = []
        for number in range(count):
            sock = held.enter_context(socket.create_connection((where.host, where.port)))
            sock.sendall((b"", PREFACE, b"GET / HTTP/1.1\r\n")[number % 3])
            opened.append(sock)
        yield opened


def test_who_opens_all_connections_there_are_leaves_the_commands_alone(tmp_path: Path) -> None:
    hub = limited(tmp_path, 128, 128)
    with hub.serving("--admin-address", "127.0.0.1:0") as daemon:
        admin = daemon.until_logged(r"admin API at (\S+)")[1]
        with crowd(daemon.url, 200), crowd(admin, 200):
            assert hub.json("status")["daemon"]["pid"] == daemon.process.pid
            assert hub.ok("token", "create", "--label", "files are opened, too")
        log = "".join(daemon.log)
    assert "no connection can be accepted" not in log
    assert log.count("too many others want to be let in") == 1, "said once, and not for each"


def test_the_soft_limit_becomes_the_hard_one(tmp_path: Path) -> None:
    hub = limited(tmp_path, 100, 1000)
    with hub.serving() as daemon:
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == ["1000", "1000"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
@pytest.mark.parametrize(
    ("soft", "most"), [(1024, 944), (88, 8), (87, 8), (20, 8), (resource.RLIM_INFINITY, 65_456)]
)
def test_connections_leave_descriptors_for_the_rest(
    soft: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert descriptors.connections_within() == most

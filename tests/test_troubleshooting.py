"""The troubleshooting section of the manual, row by row: each trouble is provoked with real processes, and the machine
where the user looks names its cause and what to do.

Where the hub cannot be reached or does not let in, that is the client: what ``host add`` says, and ``status``.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from caddy import running_caddy
from certs import CA
from processes import Daemon, Machine, connected

NOWHERE = "ed25519." + "A" * 43 + ":" + "5e" * 32 + "#hub"


@pytest.fixture
def hub(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, "hub")
    machine.ok("init", "--instance-id", "hub")
    return machine


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, "laptop")
    machine.ok("init", "--instance-id", "laptop")
    return machine


def advice(machine: Machine, token: str, url: str, *words: str) -> str:
    """What ``host add`` says when it fails: on one line, with each of the words in it."""
    said = " ".join(machine.refused("host", "add", token, "--url", url).split())
    for word in words:
        assert re.search(word, said), f"{word!r} is not in: {said}"
    assert "goes on trying" in said or "will try on" in said, said
    return said


def shown(machine: Machine, *words: str) -> None:
    """``status`` on the client, with a daemon: the same, for who looks later."""
    with machine.serving():
        status = machine.until_status(
            lambda status: all(re.search(word, status["peers"][0].get("statusMessage", "")) for word in words)
        )
    assert not connected(status)


# --- "Client can't connect"


def test_a_name_that_does_not_exist(laptop: Machine) -> None:
    advice(
        laptop,
        NOWHERE,
        "http://no-such-host.invalid:9898",
        "no-such-host.invalid",
        "name|resolve|found",
        "Check",
    )


def test_a_port_where_nothing_listens(laptop: Machine) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        port = sock.getsockname()[1]
        advice(laptop, NOWHERE, f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", "refused", "9898")
        shown(laptop, "refused", "is the port in the URL right")


def test_a_machine_that_does_not_answer(laptop: Machine) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        port = sock.getsockname()[1]
        advice(laptop, NOWHERE, f"http://127.0.0.1:{port}", "does not answer as a hub", "Check")


class _Page(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    do_PRI = do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def another_program(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Ssh(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_web_server_of_http_1_answers(laptop: Machine) -> None:
    with another_program(_Page) as url:
        advice(laptop, NOWHERE, url, "HTTP/2", url.removeprefix("http://"))
        shown(laptop, "HTTP/2")


def test_another_program_answers(laptop: Machine) -> None:
    with another_program(_Ssh) as url:
        advice(laptop, NOWHERE, url, "HTTP/2|another program")


def test_another_page_of_the_hub_is_not_the_hub(hub: Machine, laptop: Machine) -> None:
    with hub.serving() as daemon:
        token = hub.json("token", "create")["token"]
        advice(laptop, token, f"{daemon.url}/backrest", "404", "path|URL|address")


def test_another_instance_answers(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, "other")
    other.ok("init", "--instance-id", "other")
    with other.serving() as daemon:
        token = hub.json("token", "create")["token"]
        advice(laptop, token, daemon.url, "another key", "something else answers at its address")


@contextlib.contextmanager
def serving_tls(hub: Machine, tmp_path: Path, name: str) -> Iterator[tuple[Daemon, Path]]:
    ca = CA()
    cert, key = ca.issue(name).write(tmp_path)
    with hub.serving("--tls-cert", str(cert), "--tls-key", str(key)) as daemon:
        yield daemon, ca.write(tmp_path)


def test_a_certificate_for_another_name(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    with serving_tls(hub, tmp_path, "hub.example.com") as (daemon, ca_file):
        token = hub.json("token", "create")["token"]
        laptop.env["SSL_CERT_FILE"] = str(ca_file)
        advice(
            laptop, token, daemon.url, "certificate", "not valid for '127.0.0.1'", "the URL must hold a name"
        )
        shown(laptop, "certificate", "127.0.0.1")


def test_a_certificate_that_nobody_here_trusts(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    with serving_tls(hub, tmp_path, "127.0.0.1") as (daemon, _):
        token = hub.json("token", "create")["token"]
        advice(laptop, token, daemon.url, "certificate", "unable to get local issuer", "SSL_CERT_FILE")


def test_https_and_http_mixed_up(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    with hub.serving() as daemon:
        token = hub.json("token", "create")["token"]
        advice(laptop, token, daemon.url.replace("http:", "https:"), "does not speak TLS", "write http://")
    with serving_tls(hub, tmp_path, "127.0.0.1") as (daemon, _):
        advice(laptop, token, daemon.url.replace("https:", "http:"), "TLS", "write https://")


# --- a proxy: a real Caddy, set up wrongly


async def _caddy_says(hub: Machine, laptop: Machine, sites: str, *words: str) -> None:
    in_thread = trio.to_thread.run_sync
    with hub.serving() as daemon:
        host, _, port = daemon.url.removeprefix("http://").partition(":")
        async with running_caddy((host, int(port))) as caddy:
            laptop.env["SSL_CERT_FILE"] = str(caddy.ca_file)
            token = hub.json("token", "create")["token"]
            sites = sites.replace("HUB", f"{host}:{port}").replace("PORT", str(caddy.port))
            if "protocols h1" in sites:
                options, _, sites = sites.partition("\n}\n")
                options += "\n}"
                config = caddy._config.read_text().partition("\n}\n")[0]
                caddy._config.write_text(f"{config}\n{options}\n}}\n{sites}")
                await caddy.restart()
            else:
                await caddy.reload_with(sites)
            await in_thread(partial(advice, laptop, token, caddy.url, *words))


async def test_a_proxy_that_speaks_only_http_1_to_clients(hub: Machine, laptop: Machine) -> None:
    await _caddy_says(
        hub,
        laptop,
        "servers {\n protocols h1\n}\nlocalhost:PORT {\n reverse_proxy h2c://HUB\n}\n",
        "HTTP/2",
        "proxy",
    )


async def test_a_proxy_that_speaks_http_1_to_the_hub(hub: Machine, laptop: Machine) -> None:
    await _caddy_says(
        hub, laptop, "localhost:PORT {\n reverse_proxy http://HUB\n}\n", "HTTP/2", "proxy", "h2c"
    )


async def test_a_proxy_that_does_not_pass_the_sync_path(hub: Machine, laptop: Machine) -> None:
    await _caddy_says(
        hub, laptop, "localhost:PORT {\n respond 404\n}\n", "404", r"/v1sync\.BackrestSyncService/", "proxy"
    )


async def test_a_proxy_whose_hub_is_down(hub: Machine, laptop: Machine) -> None:
    await _caddy_says(
        hub, laptop, "localhost:PORT {\n reverse_proxy h2c://127.0.0.1:1\n}\n", "502", "hub", "proxy"
    )


async def test_a_proxy_that_asks_for_a_password(hub: Machine, laptop: Machine) -> None:
    sites = "localhost:PORT {\n respond 401\n}\n"
    await _caddy_says(hub, laptop, sites, "401", "proxy|login|password")


# --- "Pairing fails"


def test_a_token_that_has_expired(hub: Machine, laptop: Machine) -> None:
    token = hub.json("token", "create", "--label", "short", "--ttl", "1s")["token"]
    _expire(hub)
    with hub.serving() as daemon:
        advice(laptop, token, daemon.url, "'short' has expired", "backrest token create")
        shown(laptop, "has expired", "backrest token create")
        refused = [e for e in hub.json("audit")["entries"] if e["event"] == "refused"]
        assert "has expired" in refused[0]["reason"]


def _expire(hub: Machine) -> None:
    """As time would."""
    config = Path(hub.env["BACKREST_CONFIG"])
    config.write_text(
        re.sub(r'"expiresAtUnix": "\d+"', f'"expiresAtUnix": "{_an_hour_ago()}"', config.read_text())
    )


def _an_hour_ago() -> int:
    import time

    return int(time.time()) - 3600


def test_a_token_that_was_used_by_another(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, "other")
    other.ok("init", "--instance-id", "other")
    token = hub.json("token", "create", "--label", "single")["token"]
    with hub.serving() as daemon:
        other.ok("host", "add", token, "--url", daemon.url)
        advice(laptop, token, daemon.url, "used up", "backrest token create")
        shown(laptop, "used up", "backrest token create")


def test_a_token_that_was_revoked(hub: Machine, laptop: Machine) -> None:
    token = hub.json("token", "create", "--label", "lost")["token"]
    hub.ok("token", "revoke", "lost")
    with hub.serving() as daemon:
        advice(laptop, token, daemon.url, "revoked", "backrest token create")


def test_a_token_that_lost_a_character(hub: Machine, laptop: Machine) -> None:
    token = hub.json("token", "create")["token"]
    said = laptop.refused("host", "add", token.partition("#")[0], "--url", "http://127.0.0.1:9")
    assert "token" in said
    assert token.partition("#")[0] not in said


def test_the_name_is_taken_by_another_machine(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    twin = Machine(tmp_path, "twin")
    twin.ok("init", "--instance-id", "laptop")
    token = hub.json("token", "create", "--max-uses", "2")["token"]
    with hub.serving() as daemon:
        twin.ok("host", "add", token, "--url", daemon.url)
        advice(
            laptop,
            token,
            daemon.url,
            "another peer has the instance id 'laptop'",
            "backrest client remove laptop",
        )


def test_two_machines_race_for_the_last_use(hub: Machine, laptop: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, "other")
    other.ok("init", "--instance-id", "other")
    token = hub.json("token", "create")["token"]
    with hub.serving() as daemon:
        codes: dict[str, int] = {}

        def pair(machine: Machine) -> None:
            codes[machine.name] = machine.run("host", "add", token, "--url", daemon.url).returncode

        threads = [threading.Thread(target=pair, args=(machine,)) for machine in (laptop, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = hub.json("client", "list")["clients"]
    assert sorted(codes.values()) == [0, 1]
    assert codes[winner["instanceId"]] == 0


def test_a_client_that_was_removed_is_told_so_and_stored_no_more(hub: Machine, laptop: Machine) -> None:
    with hub.serving() as daemon, laptop.serving():
        laptop.ok("host", "add", hub.json("token", "create")["token"], "--url", daemon.url)
        operation = (
            '{"repoId":"r","repoGuid":"' + "a" * 64 + '","planId":"p","instanceId":"laptop","status":'
            '"STATUS_SUCCESS","unixTimeStartMs":"1700000000000","operationBackup":{}}\n'
        )
        laptop.ok("ops", "import", "-", input=operation)
        hub.until_operations(lambda ops: len(ops) == 1, "--peer", "laptop")
        assert "archived" in hub.ok("client", "remove", "laptop")
        status = laptop.until_status(lambda s: s["peers"][0]["state"] == "CONNECTION_STATE_ERROR_AUTH")
        assert re.search("removed|not authorized", status["peers"][0]["statusMessage"])
        laptop.ok("ops", "import", "-", input=operation.replace("1700000000000", "1700000000001"))
        [archived] = hub.json("client", "list", "--all")["archived"]
        assert (archived["instanceId"], archived["operations"]) == ("laptop", 1)
        assert len(hub.operations("--peer", "laptop")) == 1
        assert "1 operation of its history deleted" in hub.ok("client", "remove", "laptop", "--purge")
        assert hub.json("status")["archived"] == []

"""The admin API on an address that other machines reach: with TLS, or not at all."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from pathlib import Path

import pytest
from certs import CA
from processes import Daemon, Machine

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, "m")
    made.ok("init", "--instance-id", "here")
    return made


@pytest.fixture
def ca() -> CA:
    return CA()


def tls(ca: CA, directory: Path) -> tuple[str, ...]:
    """The options for a certificate of 127.0.0.1."""
    cert, key = ca.issue("127.0.0.1").write(directory)
    return "--tls-cert", str(cert), "--tls-key", str(key)


def admin_url(daemon: Daemon) -> tuple[str, int]:
    """Scheme and port."""
    found = daemon.until_logged(r"admin API at (https?)://\S+:(\d+)")
    return found[1], int(found[2])


def get_config(machine: Machine, connection: http.client.HTTPConnection, token: str = "") -> tuple[int, str]:
    """Status and answer, as JSON text; with the daemon's own token unless another is given."""
    shown = token or (machine.directory / "data" / "admin-token").read_text().strip()
    headers = {"content-type": "application/json", "authorization": f"Bearer {shown}"}
    with contextlib.closing(connection):
        connection.request("POST", "/v1.Backrest/GetConfig", "{}", headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_who_shows_the_token_is_served_over_tls_and_in_clear_nobody_is(machine: Machine, ca: CA) -> None:
    options = tls(ca, machine.directory)
    trusting = ssl.create_default_context(cadata=ca.pem.decode())
    with machine.serving("--admin-address", "0.0.0.0:0", *options) as daemon:
        scheme, port = admin_url(daemon)
        assert scheme == "https"
        status, body = get_config(machine, http.client.HTTPSConnection("127.0.0.1", port, context=trusting))
        assert (status, json.loads(body)["instance"]) == (200, "here")
        status, body = get_config(
            machine, http.client.HTTPSConnection("127.0.0.1", port, context=trusting), "x" * 43
        )
        assert (status, json.loads(body)["code"]) == (401, "unauthenticated")
        with pytest.raises(ssl.SSLCertVerificationError):  # whoever does not know the authority is not fooled
            get_config(machine, http.client.HTTPSConnection("127.0.0.1", port))
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            get_config(machine, http.client.HTTPConnection("127.0.0.1", port))
        assert machine.json("status")["daemon"]["adminAddresses"] == [f"https://0.0.0.0:{port}"]
        assert not [line for line in daemon.log if "Traceback" in line]


def test_without_a_certificate_it_is_not_served_to_other_machines(machine: Machine) -> None:
    said = machine.refused("serve", "--bind-address", "127.0.0.1:0", "--admin-address", "0.0.0.0:0")
    assert "the token would cross the network in clear" in said
    assert "--tls-cert" in said
    with machine.serving("--admin-address", "0.0.0.0:0", "--admin-insecure") as daemon:
        scheme, port = admin_url(daemon)
        assert scheme == "http", "it was asked for"
        assert get_config(machine, http.client.HTTPConnection("127.0.0.1", port))[0] == 200


def test_on_loopback_it_is_in_clear_also_beside_a_sync_port_with_tls(machine: Machine, ca: CA) -> None:
    """Nobody listens in there, and the certificate has another name."""
    with machine.serving("--admin-address", "127.0.0.1:0", *tls(ca, machine.directory)) as daemon:
        scheme, port = admin_url(daemon)
        assert scheme == "http"
        assert get_config(machine, http.client.HTTPConnection("127.0.0.1", port))[0] == 200

"""The admin API on a TCP address: who has the token is let in, and nobody else, whatever it tries."""

from __future__ import annotations

import http.client
import json
import logging
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from admin_world import World

from backrest.admin.context import Context
from backrest.admin.guard import Guard, check_bind, is_loopback, read_token
from backrest.admin.server import admin_app
from backrest.errors import UserError
from backrest.net.server import serve
from backrest.store.config import ConfigStore
from backrest.sync.gate import FAILURE_WINDOW_S, FAILURES_PER_ADDRESS

TOKEN = "correct-horse-battery-staple-and-more"
GET_CONFIG = "/v1.Backrest/GetConfig"
Ask = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def wall() -> list[float]:
    """The guard's clock."""
    return [1000.0]


@pytest.fixture
async def ask(tmp_path: Path, wall: list[float]) -> AsyncIterator[Ask]:
    """A request to an instance's guarded API: (status, the JSON of the answer)."""
    world = World(tmp_path)
    await trio.to_thread.run_sync(lambda: world.call("Init", instance_id="here"))
    app = admin_app(Context(world.paths, config=ConfigStore.open(world.paths.config_file)))
    async with trio.open_nursery() as nursery:
        shutdown = trio.Event()

        async def start(task_status: Any) -> None:
            guarded = Guard(app, token=TOKEN, hosts=["backup.example.com"], clock=lambda: wall[0])
            await serve(
                guarded, binds=["127.0.0.1:0"], shutdown=shutdown, grace_s=0.1, task_status=task_status
            )

        [(_, port)] = await nursery.start(start)

        def request(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                data = response.read()
                return response.status, json.loads(data) if data else None
            finally:
                connection.close()

        async def asking(
            path: str = GET_CONFIG, body: bytes = b"{}", method: str = "POST", **headers: str
        ) -> tuple[int, Any]:
            given = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            return await trio.to_thread.run_sync(
                request, method, path, body, {name: value for name, value in given.items() if value}
            )

        yield asking
        shutdown.set()


async def test_the_token_lets_in(ask: Ask) -> None:
    status, config = await ask()
    assert (status, config["instance"]) == (200, "here")
    assert (await ask("/backrest.Admin/ListTokens"))[0] == 200, "all that the socket has"
    assert (await ask(authorization=f"bearer {TOKEN}"))[0] == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        "Bearer \u00fc\u00ff",
        "Bearer " + "x" * 10_000,
    ],
)
async def test_nothing_else_lets_in(ask: Ask, authorization: str, caplog: pytest.LogCaptureFixture) -> None:
    for path in (GET_CONFIG, "/backrest.Admin/Status", "/v1.Backrest/GetOperationEvents", "/", "/nothing"):
        status, answer = await ask(path, authorization=authorization)
        assert (status, answer["code"]) == (401, "unauthenticated")
        assert "send the header 'Authorization: Bearer TOKEN'" in answer["message"]
    assert TOKEN not in caplog.text
    assert "x" * 100 not in caplog.text, (
        "what was tried is not logged either: it may be a slip of the right one"
    )


@pytest.mark.parametrize(
    "host", ["evil.example.com", "127.0.0.1.evil.com", "localhost.evil.com:80", "a, b", "[x]"]
)
async def test_a_name_that_is_not_ours_is_refused_even_with_the_token(ask: Ask, host: str) -> None:
    """DNS rebinding: the page's own name points here by now, and the browser sends it as the Host."""
    status, answer = await ask(host=host)
    assert (status, answer["code"]) == (403, "permission_denied")
    assert "no name of this machine" in answer["message"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:9898", "[::1]:9898", "192.168.1.5:80", "backup.example.com"]
)
async def test_an_address_and_the_names_that_were_given_are_ours(ask: Ask, host: str) -> None:
    assert (await ask(host=host))[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example.com", "http://127.0.0.1", "null"])
async def test_a_browser_is_refused_even_with_the_token(ask: Ask, origin: str) -> None:
    status, answer = await ask(origin=origin)
    assert (status, answer["code"]) == (403, "permission_denied")
    assert "not for web pages" in answer["message"]
    assert (await ask(method="OPTIONS", origin=origin, authorization=""))[0] == 403, "no preflight passes"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_form_can_send_is_no_request(ask: Ask, kind: str) -> None:
    assert (await ask(content_type=kind))[0] == 415
    assert (await ask(method="GET", body=b""))[0] == 405


async def test_wrong_tokens_are_limited_and_the_right_one_is_not(
    ask: Ask, wall: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(FAILURES_PER_ADDRESS):
        assert (await ask(authorization="Bearer wrong"))[0] == 401
    for _ in range(20):
        status, answer = await ask(authorization="Bearer wrong")
        assert (status, answer["code"]) == (429, "resource_exhausted")
    assert (
        len([r for r in caplog.records if r.name == "backrest.admin" and r.levelno == logging.WARNING]) == 10
    )
    assert (await ask())[0] == 200, "nobody can lock the owner out"
    wall[0] += FAILURE_WINDOW_S + 1
    assert (await ask(authorization="Bearer wrong"))[0] == 401


# --- the token's file


def test_a_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    token = read_token(path)
    assert len(token) >= 43, "256 bits"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == token == path.read_text().strip()
    assert read_token(tmp_path / "other") != token


@pytest.mark.parametrize("content", ["", "\n", "short", "x" * 31, "x" * 1001, "x" * 40 + "\ny", "ü" * 40])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(UserError, match="holds no admin token"):
        read_token(path)
    assert path.read_text() == content


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("x" * 40)
    path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        read_token(path)
    path.chmod(0o400)
    assert read_token(path) == "x" * 40
    with pytest.raises(UserError, match="not a file"):
        read_token(tmp_path)


# --- where it may be served


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_on_loopback_nothing_more_is_asked(bind: str) -> None:
    assert is_loopback(bind)
    check_bind(bind, tls=False, insecure=False)


@pytest.mark.parametrize(
    "bind", ["0.0.0.0:1", "[::]:1", "192.168.1.5:1", "nas.lan:1", "localhost.evil.com:1"]
)
def test_elsewhere_it_takes_tls_or_a_word(bind: str) -> None:
    with pytest.raises(UserError, match="in clear: use 127"):
        check_bind(bind, tls=False, insecure=False)
    check_bind(bind, tls=True, insecure=False)
    check_bind(bind, tls=False, insecure=True)

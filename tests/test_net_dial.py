"""Addresses, TCP and TLS on loopback: whatever is broken is named, and nothing unchecked gets through."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import h2.errors
import h2.events
import h2peer
import pytest
import trio
import trio.testing
from certs import CA
from h2peer import HEADERS, Peer, fails, scene

from backrest.net.duplex import NetError, open_stream, parse_url, rpc_url

Codes = h2.errors.ErrorCodes


# -- addresses


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("backrest.example.com:9898", "must begin with https:// or http://"),
        ("ftp://hub.test/", "not ftp://"),
        ("https://user:secret@hub.test/", "must not hold a user name or a password"),
        ("https://", "names no host"),
        ("http://a b/", "no host name can have"),
        ("http://hub.test:99999/", "port out of range"),
        ("http://hub.test:port/", "is not a URL"),
        ("http://hub.test/?a=b", "no '?' and no '#'"),
        ("http://[::1", "is not a URL"),
        ("", "must begin with"),
    ],
)
def test_a_bad_url_is_refused_in_words(text: str, problem: str) -> None:
    with pytest.raises(NetError) as caught:
        parse_url(text)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_in_a_bad_url_is_not_shown() -> None:
    with pytest.raises(NetError) as caught:
        parse_url("ftp://user:secret@hub.test/")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "whole"),
    [
        ("https://hub.test", "https://hub.test/s.S/M"),
        (" https://hub.test/ ", "https://hub.test/s.S/M"),
        ("https://hub.test:9898/prefix/", "https://hub.test:9898/prefix/s.S/M"),
        ("http://[::1]:9898/a/b", "http://[::1]:9898/a/b/s.S/M"),
    ],
)
def test_the_rpc_path_goes_below_the_instances_url(base: str, whole: str) -> None:
    assert rpc_url(base, "/s.S/M") == whole


async def test_prefix_and_ipv6_reach_the_server_as_written() -> None:
    async with scene(rpc_url("http://[::1]:9898/prefix/", "/s.S/M")) as (_, peer):
        request = await peer.request()
    assert request[":authority"] == "[::1]:9898"
    assert request[":path"] == "/prefix/s.S/M"


# -- loopback: TCP and DNS


@asynccontextmanager
async def listening(handler: object, context: ssl.SSLContext | None = None) -> AsyncGenerator[int, None]:
    async def guarded(stream: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, OSError):  # a client that refuses breaks off
            await handler(stream)  # type: ignore[operator]

    async with trio.open_nursery() as nursery:
        listeners: list[trio.abc.Listener[trio.abc.Stream]] = list(
            await trio.open_tcp_listeners(0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]  # type: ignore[attr-defined]
        if context is not None:
            listeners = [trio.SSLListener(listener, context) for listener in listeners]  # type: ignore[type-var]
        nursery.start_soon(trio.serve_listeners, guarded, listeners)
        yield port
        nursery.cancel_scope.cancel()


async def round_trip(url: str, ca_file: Path | None = None) -> None:
    async with open_stream(url, headers=HEADERS, ca_file=ca_file) as stream:
        await stream.send(b"ping")
        assert await stream.receive() == b"ping"
        await stream.end()
        assert await stream.receive() == b""


async def refused(url: str, ca_file: Path | None = None) -> str:
    with pytest.raises(NetError) as caught:
        await round_trip(url, ca_file)
    return str(caught.value)


async def test_plain_http_is_http2_by_prior_knowledge_and_proxies_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with listening(h2peer.echo) as port:
        await round_trip(f"http://127.0.0.1:{port}/")


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: a port that refuses
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} refused the connection" in await refused(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("code", "text"),
    [(socket.EAI_NONAME, "the name hub.test is unknown to DNS"), (socket.EAI_AGAIN, "network or DNS down?")],
)
async def test_a_name_that_cannot_be_found(code: int, text: str) -> None:
    class NoDns(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            raise socket.gaierror(code, "made up")

        async def getnameinfo(self, *args: object) -> object:  # type: ignore[override]
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(NoDns())
    assert text in await refused("http://hub.test/")


async def test_a_name_too_long_for_dns() -> None:
    assert "cannot be a host name" in await refused(f"http://{'x' * 80}.test/")


async def test_a_tcp_reset_in_mid_stream_is_named() -> None:
    async def reset(stream: trio.SocketStream) -> None:
        peer = Peer(stream)
        await peer.request()
        await peer.headers()
        await peer.until_body(4)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async with listening(reset) as port, open_stream(f"http://127.0.0.1:{port}/", headers=HEADERS) as stream:
        await stream.send(b"ping")
        assert "broke off in mid-stream: Connection reset by peer" in str(await fails(stream))


# -- loopback: TLS


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


@pytest.fixture
def ca_file(ca: CA, tmp_path: Path) -> Path:
    return ca.write(tmp_path)


async def test_tls_with_a_ca_given_as_option(ca: CA, ca_file: Path) -> None:
    async with listening(h2peer.echo, ca.issue("127.0.0.1").server_context()) as port:
        await round_trip(f"https://127.0.0.1:{port}/", ca_file)


async def test_tls_with_a_ca_from_ssl_cert_file(
    ca: CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with listening(h2peer.echo, ca.issue("localhost").server_context()) as port:
        await round_trip(f"https://localhost:{port}/")


async def test_the_option_wins_over_ssl_cert_file(
    ca: CA, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CA("Other").write(tmp_path, "other.pem")))
    async with listening(h2peer.echo, ca.issue("127.0.0.1").server_context()) as port:
        await round_trip(f"https://127.0.0.1:{port}/", ca_file)


async def test_an_unknown_ca_is_refused_with_a_hint(ca: CA, tmp_path: Path) -> None:
    other = CA("Other").write(tmp_path)
    async with listening(h2peer.echo, ca.issue("127.0.0.1").server_context()) as port:
        for file in (None, other):
            text = await refused(f"https://127.0.0.1:{port}/", file)
            assert f"the certificate of 127.0.0.1:{port} is not valid here" in text
            assert "SSL_CERT_FILE" in text


async def test_a_certificate_for_another_name_is_refused(ca: CA, ca_file: Path) -> None:
    async with listening(h2peer.echo, ca.issue("elsewhere.test").server_context()) as port:
        text = await refused(f"https://127.0.0.1:{port}/", ca_file)
        assert "mismatch" in text
        assert "SSL_CERT_FILE" not in text


async def test_an_expired_certificate_is_refused(ca: CA, ca_file: Path) -> None:
    async with listening(h2peer.echo, ca.issue("127.0.0.1", expired=True).server_context()) as port:
        text = await refused(f"https://127.0.0.1:{port}/", ca_file)
        assert "certificate has expired" in text
        assert "clock of this machine" in text


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_a_tls_server_without_http2_is_refused(ca: CA, ca_file: Path, alpn: tuple[str, ...]) -> None:
    async with listening(h2peer.echo, ca.issue("127.0.0.1").server_context(alpn)) as port:
        text = await refused(f"https://127.0.0.1:{port}/", ca_file)
        assert "does not speak HTTP/2" in text
        assert "ALPN" in text


@pytest.mark.parametrize(
    ("alert", "text"),
    [
        (120, "does not speak HTTP/2"),
        (112, "no certificate for this name"),
        (80, "no certificate for this name"),
    ],
)
async def test_what_a_server_refuses_by_an_alert_is_named(ca_file: Path, alert: int, text: str) -> None:
    async def refuse(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(bytes((0x15, 3, 3, 0, 2, 2, alert)))
        await stream.receive_some()

    async with listening(refuse) as port:
        assert text in await refused(f"https://127.0.0.1:{port}/", ca_file)


@pytest.mark.parametrize("breaks", [True, False])
async def test_http_to_a_server_of_tls_that_closes_without_a_word_says_so(ca: CA, breaks: bool) -> None:
    """As Caddy's and OpenSSL's do when a connection begins with anything else than a handshake."""
    context = ca.issue("127.0.0.1").server_context()

    async def serve(tcp: trio.SocketStream) -> None:
        if await tcp.socket.recv(1, socket.MSG_PEEK) == b"\x16":
            await trio.SSLStream(tcp, context, server_side=True).do_handshake()
        elif breaks:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(tcp)

    async with listening(serve) as port:
        assert f"127.0.0.1:{port} speaks TLS: write https://" in await refused(f"http://127.0.0.1:{port}/")


async def test_http_to_a_server_that_closes_without_a_word_and_has_no_tls(ca: CA) -> None:
    async def close(stream: trio.abc.Stream) -> None:
        await stream.receive_some()

    async with listening(close) as port:
        text = await refused(f"http://127.0.0.1:{port}/")
        assert "closed the connection without an answer" in text or "broke off without an answer" in text
        assert "TLS" not in text


async def test_a_server_that_is_silent_when_tls_is_due_is_not_called_down(ca_file: Path) -> None:
    async def silent(_: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as port:
        with pytest.raises(NetError, match="accepted the connection and then said nothing to TLS"):
            async with open_stream(
                f"https://127.0.0.1:{port}/", headers=HEADERS, ca_file=ca_file, connect_timeout=0.5
            ):
                pass


async def test_https_to_a_server_without_tls_says_so(ca_file: Path) -> None:
    async def http1(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with listening(http1) as port:
        assert "does not speak TLS" in await refused(f"https://127.0.0.1:{port}/", ca_file)


async def test_a_close_during_the_tls_handshake(ca_file: Path) -> None:
    async def close(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.aclose()

    async with listening(close) as port:
        assert "during the TLS handshake" in await refused(f"https://127.0.0.1:{port}/", ca_file)


async def test_a_ca_file_that_cannot_be_used_is_named(
    ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    async with listening(h2peer.echo, ca.issue("127.0.0.1").server_context()) as port:
        url = f"https://127.0.0.1:{port}/"
        assert "holds no certificate" in await refused(url, empty)
        assert "cannot be read: No such file" in await refused(url, tmp_path / "missing.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
        assert "the CA file of SSL_CERT_FILE" in await refused(url)

"""Addresses to listen on: what is accepted, how each is bound, and the sentence for each that cannot be."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from backrest.errors import UserError
from backrest.net import server as server_module
from backrest.net.server import TlsFiles, check_hypercorn, serve
from backrest.net.sockets import BindError, Listening, open_listeners, split_bind


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: that of a Unix socket is limited to some 100 bytes."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def opened() -> Iterator[list[Listening]]:
    listening: list[Listening] = []
    yield listening
    for one in listening:
        one.close()


def reaches(listening: Listening) -> bool:
    host, port = listening.address
    family = listening.sock.family
    with socket.socket(family) as client:
        client.connect(host.removeprefix("unix:") if listening.is_unix else (host, port))
    return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9898", ("127.0.0.1", 9898)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        (":9898", ("", 9898)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert split_bind(text) == expected


@pytest.mark.parametrize(
    "text", ["", "9898", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "h:٣", "::1:9898"]
)
def test_anything_else_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(BindError) as caught:
        split_bind(text)
    assert repr(text) in str(caught.value)


def test_port_0_is_told_and_reachable_on_ipv4_ipv6_and_unix(folder: Path, opened: list[Listening]) -> None:
    opened += open_listeners(["127.0.0.1:0", "[::1]:0", f"unix:{folder}/s"])
    assert [one.address[0] for one in opened] == ["127.0.0.1", "::1", f"unix:{folder}/s"]
    assert opened[0].address[1] > 0
    assert opened[1].address[1] > 0
    assert opened[2].address[1] == 0
    assert all(reaches(one) for one in opened)


def test_every_interface_takes_ipv4_and_ipv6(opened: list[Listening]) -> None:
    opened += open_listeners([":0"])
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, opened[0].address[1])):
            pass


def test_all_of_ipv4_and_all_of_ipv6_on_the_same_port(opened: list[Listening]) -> None:
    for attempt in range(10):
        (probe,) = open_listeners(["[::]:0"])
        port = probe.address[1]
        probe.close()
        try:
            opened += open_listeners([f"0.0.0.0:{port}", f"[::]:{port}"])
        except BindError:  # another program took the port in between
            assert attempt < 9
            continue
        break
    assert [one.address for one in opened] == [("0.0.0.0", port), ("::", port)]


def test_an_address_in_use_is_an_oserror_and_a_user_error_with_a_sentence(opened: list[Listening]) -> None:
    opened += open_listeners(["127.0.0.1:0"])
    bind = f"127.0.0.1:{opened[0].address[1]}"
    with pytest.raises(BindError) as caught:
        open_listeners([bind])
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, UserError)
    assert caught.value.errno == errno.EADDRINUSE
    assert str(caught.value) == (
        f"cannot listen on {bind}: the address is in use (is another backrest running?)"
    )


def test_one_address_that_fails_leaves_none_open(folder: Path, opened: list[Listening]) -> None:
    opened += open_listeners(["127.0.0.1:0"])
    with pytest.raises(BindError):
        open_listeners([f"unix:{folder}/s", f"unix:{folder}/no/such/folder"])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("bind", "says"),
    [
        ("192.0.2.1:0", "this machine has no such address"),
        ("no-such-host.invalid:1", "the host name is unknown"),
        ("unix:/no/such/folder/s", "No such file or directory"),
        ("unix:/" + "x" * 120, "limited to about 100 bytes"),
    ],
)
def test_each_reason_is_named(bind: str, says: str) -> None:
    with pytest.raises(BindError, match=says):
        open_listeners([bind])


def test_a_unix_socket_is_private_from_its_first_moment(
    folder: Path, opened: list[Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not made private later: whoever connects in between would be in."""
    modes: list[int] = []

    def rename(source: str, target: str) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        os.replace(source, target)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "chmod", None)
    before = os.umask(0)
    try:
        opened += open_listeners([f"unix:{folder}/s"])
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600


def test_the_socket_of_a_server_that_is_gone_is_replaced(folder: Path, opened: list[Listening]) -> None:
    for _ in range(2):  # also what a run that was killed left at the temporary name
        for name in ("s", "s.new"):
            with closing(socket.socket(socket.AF_UNIX)) as stale:
                (folder / name).unlink(missing_ok=True)
                stale.bind(str(folder / name))
        opened += open_listeners([f"unix:{folder}/s"])
        assert reaches(opened[-1])


def test_the_socket_of_a_server_that_answers_is_left_alone(folder: Path, opened: list[Listening]) -> None:
    opened += open_listeners([f"unix:{folder}/s"])
    with pytest.raises(BindError, match="another server answers there"):
        open_listeners([f"unix:{folder}/s"])
    assert reaches(opened[0])


def test_a_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    (folder / "s").write_text("precious")
    with pytest.raises(BindError, match="there is a file that is not a socket"):
        open_listeners([f"unix:{folder}/s"])
    assert (folder / "s").read_text() == "precious"


def test_closing_removes_the_file_unless_somebody_else_has_put_theirs_there(folder: Path) -> None:
    (mine,) = open_listeners([f"unix:{folder}/s"])
    mine.close()
    assert list(folder.iterdir()) == []
    (mine,) = open_listeners([f"unix:{folder}/s"])
    (folder / "s").unlink()
    (theirs,) = open_listeners([f"unix:{folder}/s"])
    mine.close()
    assert reaches(theirs)
    theirs.close()


# -- what serve() refuses before it listens


async def nothing(*_: object) -> None: ...


async def test_unusable_tls_files_are_one_sentence(folder: Path) -> None:
    (folder / "junk").write_text("junk")
    for cert in ("missing", "junk"):
        files = TlsFiles(str(folder / cert), str(folder / cert))
        with pytest.raises(
            UserError, match=rf"the TLS certificate .*{cert} with the key .* cannot be used: "
        ):
            await serve(nothing, binds=["127.0.0.1:0"], tls=files, shutdown=trio.Event())


def test_the_installed_hypercorn_is_the_one_tested() -> None:
    check_hypercorn()


@pytest.mark.parametrize("found", ["0.18.1", "0.17.3"])
def test_another_hypercorn_is_refused_with_the_command_that_helps(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "version", lambda name: found)
    with pytest.raises(UserError, match=rf"0\.18\.0 exactly, and {found} is installed: run pip install"):
        check_hypercorn()

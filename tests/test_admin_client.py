"""The way from a command to its use case: by the socket, on the files, and when neither is to be had."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_world import World, operation

from backrest.admin import client, faults, locking
from backrest.admin.registry import METHODS, arguments, find
from backrest.admin.streaming import MAX_REQUEST
from backrest.errors import (
    BackrestError,
    ConflictError,
    LockedError,
    NotFoundError,
    ResticError,
    StorageError,
    UserError,
)
from backrest.store.lock import DirLock


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


Reach = Callable[[World], contextlib.AbstractContextManager[Any]]


def on_files(world: World) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


def by_socket(world: World) -> contextlib.AbstractContextManager[Any]:
    return world.daemon()


both_ways = pytest.mark.parametrize("reach", [on_files, by_socket])


@both_ways
def test_a_result_comes_back(world: World, reach: Reach) -> None:
    with reach(world):
        status = world.call("Status")
    assert status["instance"]["instanceId"] == "here"
    assert status["daemon"]["running"] is (reach is by_socket)


@both_ways
def test_an_error_keeps_its_kind_and_its_sentence(world: World, reach: Reach) -> None:
    with reach(world):
        with pytest.raises(NotFoundError, match="there is no plan 'x'"):
            world.call("ShowPlan", plan_id="x")
        with pytest.raises(ConflictError, match="already has the instance id 'here'"):
            world.call("Init", instance_id="there")
        world.add_repo()
        with pytest.raises(UserError, match="path"):
            world.call("AddPlan", plan={"id": "p", "repo": "r1"})


@both_ways
def test_an_error_of_a_reporting_use_case_keeps_its_kind(world: World, reach: Reach) -> None:
    with reach(world), pytest.raises(NotFoundError, match="there is no plan 'x'"):
        world.stream("Backup", plan_id="x")


@both_ways
def test_events_come_in_order_and_the_result_last(world: World, reach: Reach) -> None:
    count = 1201
    with reach(world):
        lines = [
            {"repoId": "r", "planId": "p", "unixTimeStartMs": str(n + 1), "status": "STATUS_ERROR"}
            for n in range(count)
        ]
        world.call("ImportOperations", operations=lines)
        result, events = world.stream("ListOperations")
    assert result == {"count": count, "more": False}
    starts = [int(one["unixTimeStartMs"]) for event in events for one in event["operations"]]
    assert starts == list(range(1, count + 1))
    assert len(events) == 3, "sent in batches"


def test_what_on_event_raises_comes_out_as_it_is(world: World) -> None:
    with world.daemon() as daemon:
        daemon.oplog.add([operation()])

        def on_event(event: dict[str, Any]) -> None:
            raise BrokenPipeError("our own stdout")

        with pytest.raises(BrokenPipeError, match="our own stdout"):
            client.stream(world.paths, "ListOperations", {}, on_event)
        assert world.call("Status")["daemon"]["running"], "the daemon goes on"


@both_ways
def test_text_that_is_not_utf8_is_refused_in_a_sentence(world: World, reach: Reach) -> None:
    with reach(world), pytest.raises(UserError, match="not valid"):
        world.call("RevokeToken", label="caf\udce9")


def test_a_socket_that_nobody_listens_at_counts_as_none(world: World) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(os.fspath(world.paths.socket))
    left.close()
    assert world.call("Status")["daemon"]["running"] is False


def test_the_socket_is_for_its_owner_only(world: World) -> None:
    with world.daemon():
        assert stat.S_IMODE(world.paths.socket.stat().st_mode) == 0o600


def test_a_lock_that_stays_held_is_named(world: World) -> None:
    with DirLock(world.paths), pytest.raises(LockedError, match=f"pid {os.getpid()}"):
        world.call("Init")


def test_what_only_reads_whole_files_goes_on_beside_the_lock(world: World) -> None:
    with DirLock(world.paths):
        assert world.call("ListTokens") == {"pairingTokens": []}


def test_a_lock_that_is_given_up_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = DirLock(world.paths)
    lock.acquire()
    monkeypatch.setattr(locking.time, "sleep", lambda _: lock.release())
    assert client.call(world.paths, "Init", {}, wait_s=60)["instanceId"] == "here"


def test_a_command_at_work_is_waited_for_and_named_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = DirLock(world.paths, command=True)
    lock.acquire()
    said: list[str] = []
    now = [0.0]

    def sleep(_: float) -> None:
        if now[0]:
            lock.release()
        now[0] = locking.COMMAND_S - 1

    monkeypatch.setattr(locking.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(locking.time, "sleep", sleep)
    assert client.call(world.paths, "Init", {}, say=said.append)["instanceId"] == "here"
    assert len(said) == 1
    assert f"pid {os.getpid()}" in said[0]


def test_a_command_at_work_is_not_waited_for_into_the_next_day(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0])
    monkeypatch.setattr(locking.time, "monotonic", lambda: next(now, locking.COMMAND_S))
    with DirLock(world.paths, command=True), pytest.raises(LockedError):
        client.call(world.paths, "Init", {})


def test_what_reads_goes_on_beside_the_lock_and_leaves_the_history_as_it_is(world: World) -> None:
    world.call(
        "ImportOperations",
        operations=[{"repoId": "r", "planId": "p", "status": "STATUS_ERROR", "unixTimeStartMs": "1"}],
    )
    torn = world.paths.oplog.read_bytes() + b' {"half": '
    world.paths.oplog.write_bytes(torn)  # another command's write is under way
    with DirLock(world.paths, command=True):
        assert world.call("Status")["instance"]["operations"] == 1
        assert world.stream("ListOperations")[0]["count"] == 1
        world.call("ListAllClients")
        world.call("VerifyAudit")
    assert world.paths.oplog.read_bytes() == torn


def test_a_daemon_that_starts_meanwhile_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = DirLock(world.paths)
    lock.acquire()
    with contextlib.ExitStack() as stack:

        def start(_: float) -> None:
            lock.release()
            stack.enter_context(world.daemon())

        monkeypatch.setattr(locking.time, "sleep", start)
        assert client.call(world.paths, "Status", {}, wait_s=60)["daemon"]["pid"] == 4242


def test_the_daemon_waits_for_a_command_to_finish(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = DirLock(world.paths)
    lock.acquire()
    monkeypatch.setattr(locking.time, "sleep", lambda _: lock.release())
    with locking.held(world.paths, patience_s=60), pytest.raises(LockedError):
        DirLock(world.paths).acquire()
    DirLock(world.paths).acquire()


def test_the_daemon_does_not_wait_for_ever(world: World) -> None:
    with DirLock(world.paths), pytest.raises(LockedError), locking.held(world.paths, patience_s=0):
        raise AssertionError("never got here")


def test_repair_is_refused_while_the_daemon_has_the_file_open(world: World) -> None:
    with world.daemon():
        with pytest.raises(UserError, match="stop it first"):
            world.call("RepairOplog")
        status, answer = post(world, "/backrest.Admin/RepairOplog", b"{}")
        assert (status, answer["code"]) == (400, "failed_precondition")
    assert world.call("RepairOplog")["setAside"] == 0


# --- an odd daemon


@contextlib.contextmanager
def answering(world: World, answer: bytes) -> Iterator[None]:
    """Somebody at the socket who reads a request and says ``answer``, then hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(world.paths.socket))
        listener.listen()

        def run() -> None:
            peer, _ = listener.accept()
            # One test listens to no answer: its end of the socket may be gone already.
            with peer, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peer.recv(65536)
                peer.sendall(answer)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):  # closing with unread bytes would take the answer back
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()
    world.paths.socket.unlink()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+json\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"])
def test_a_daemon_that_goes_away_before_its_answer_is_said(world: World, answer: bytes) -> None:
    with answering(world, answer), pytest.raises(BackrestError, match="went away"):
        world.call("Status")


@pytest.mark.parametrize("sent", [b"", b"\0\0\0", b"\0\0\0\0\x02{", b"\0\0\0\0\x0d" + b'{"result": 1}'])
def test_a_stream_without_its_end_is_no_success(world: World, sent: bytes) -> None:
    with answering(world, HEAD + sent), pytest.raises(BackrestError, match="went away"):
        world.stream("ListOperations")


def test_a_daemon_of_another_version_is_said(world: World) -> None:
    with (
        answering(world, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        pytest.raises(BackrestError, match="another version"),
    ):
        world.call("Status")


def test_an_answer_may_take_longer_than_connecting(world: World) -> None:
    with answering(world, b""):
        connection = client.connect(world.paths)
        assert connection is not None
        with connection:
            assert connection.sock.gettimeout() == client.ANSWER_S > client.CONNECT_S
            connection.sock.sendall(b"GET")


# --- the socket by hand


def post(world: World, path: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    connection = client.connect(world.paths)
    assert connection is not None
    with connection:
        connection.request("POST", path, body, {"content-type": kind})
        response = connection.getresponse()
        data = response.read()
    return response.status, json.loads(data) if data and "json" in kind else data


def test_whoever_talks_by_hand_gets_sentences(world: World) -> None:
    with world.daemon():
        for body, words in (
            (b"[]", "must be a JSON object"),
            (b"{", "not JSON"),
            (b'{"label": 5}', "'label' must be of type str"),
            (b'{"max_uses": true}', "'max_uses' must be of type int"),
            (b'{"lable": "x"}', "there is no argument 'lable'"),
        ):
            status, answer = post(world, "/backrest.Admin/CreateToken", body)
            assert (status, answer["code"]) == (400, "invalid_argument")
            assert words in answer["message"]
        status, answer = post(world, "/backrest.Admin/ShowPlan", b"{}")
        assert "'plan_id' is missing" in answer["message"]
        assert post(world, "/backrest.Admin/Nothing", b"{}")[0] == 404
        assert post(world, "/backrest.Admin/Status", b"", "application/proto")[0] == 400


def test_a_mistake_in_a_use_case_is_answered_without_its_text(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(context: Any) -> Any:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("backrest.admin.instance.status", broken)
    with world.daemon():
        with pytest.raises(BackrestError) as caught:
            world.call("Status")
        assert "hunter2" not in str(caught.value)
        assert "hunter2" in caplog.text, "the log has it"
        assert world.call("ListTokens") == {"pairingTokens": []}, "the daemon goes on"


def test_a_cut_off_request_is_refused(world: World) -> None:
    with world.daemon():
        connection = client.connect(world.paths)
        assert connection is not None
        with connection:
            headers = {"content-type": "application/connect+json"}
            connection.request("POST", "/backrest.Admin/ListOperations", b"\0\0\0\0\x09{}", headers)
            answer = connection.getresponse().read()
        assert b"ended before its message was complete" in answer


def test_a_request_that_announces_too_much_is_refused(world: World) -> None:
    with world.daemon():
        connection = client.connect(world.paths)
        assert connection is not None
        with connection:
            headers = {"content-type": "application/connect+json"}
            length = (MAX_REQUEST + 1).to_bytes(4)
            connection.request("POST", "/backrest.Admin/ListOperations", b"\0" + length, headers)
            assert b"invalid_argument" in connection.getresponse().read()


def test_a_caller_that_leaves_ends_what_it_asked_for(world: World) -> None:
    ended = threading.Event()
    with world.daemon() as daemon:
        subscribe = daemon.oplog.subscribe

        def watched(callback: Any) -> Callable[[], None]:
            unsubscribe = subscribe(callback)

            def end() -> None:
                unsubscribe()
                ended.set()

            return end

        daemon.oplog.subscribe = watched  # type: ignore[method-assign]
        daemon.oplog.add([operation()])

        class Enough(Exception):
            pass

        def on_event(event: dict[str, Any]) -> None:
            raise Enough

        with pytest.raises(Enough):
            client.stream(world.paths, "TailOperations", {}, on_event)
        ended.wait()


# --- the table


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_there_and_its_arguments_can_be_checked(name: str) -> None:
    function = METHODS[name].load()
    with pytest.raises(UserError, match="there is no argument 'nonsense'"):
        arguments(function, {"nonsense": 1})


def test_an_unknown_method_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="no admin method"):
        find("Nope")


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("x"),
        ConflictError("x"),
        UserError("x"),
        StorageError("x"),
        LockedError("x"),
        ResticError("x"),
    ],
)
def test_each_kind_of_error_survives_the_way(error: BackrestError) -> None:
    back = faults.from_code(*faults.to_code(error))
    assert type(back) is type(error)
    assert str(back) == "x"


def test_the_problems_of_a_configuration_travel_with_the_sentence() -> None:
    _, text = faults.to_code(UserError("two things are wrong", ["this", "that"]))
    assert text == "two things are wrong\n  this\n  that"


def test_http_client_never_connects_again_by_itself(world: World) -> None:
    with world.daemon():
        connection = client.connect(world.paths)
        assert connection is not None
        connection.close()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.request("POST", "/backrest.Admin/Status", b"{}")

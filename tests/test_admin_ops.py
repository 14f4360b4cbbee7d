"""The history by the use cases, its file, and the reference's names for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from admin_world import GUID, World, add_client, operation
from store_disk import snapshot, using

from backrest import wire
from backrest.crypto.tokens import PairingToken
from backrest.errors import NotFoundError, UserError
from backrest.store.mask import MASK
from backrest.store.oplog import OpLog
from backrest.store.syscalls import Disk


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


# --- history

LINE = {"repoId": "r1", "planId": "p", "unixTimeStartMs": "1700000000000", "status": "STATUS_SUCCESS"}


def test_what_is_imported_becomes_our_own(world: World) -> None:
    world.add_repo()
    entry = LINE | {
        "id": "500",
        "modno": "900",
        "instanceId": "other",
        "originalInstanceKeyid": "k",
        "originalId": "5",
    }
    assert world.call("ImportOperations", operations=[entry])["imported"] == 1
    [stored] = world.stream("ListOperations")[1][0]["operations"]
    assert stored == LINE | {"id": "1", "modno": "1", "flowId": "1", "instanceId": "here", "repoGuid": GUID}


def test_what_was_one_flow_stays_one_across_batches(world: World) -> None:
    lines = [LINE | {"id": str(n), "flowId": str(n // 3 * 10)} for n in range(3, 9)]
    first = world.call("ImportOperations", operations=lines[:2])
    world.call("ImportOperations", operations=lines[2:], flows=first["flows"])
    stored = [one for event in world.stream("ListOperations")[1] for one in event["operations"]]
    sizes: dict[str, int] = {}
    for one in stored:
        sizes[one["flowId"]] = sizes.get(one["flowId"], 0) + 1
    assert sorted(sizes.values()) == [3, 3]


def test_a_batch_is_added_in_its_order_and_in_one_commit(world: World) -> None:
    """Also those that join a flow which begins in the same batch: nothing is half done when the power fails."""
    lines = [
        LINE | {"displayMessage": f"m{n}", "flowId": flow}
        for n, flow in enumerate(("7", "8", "7", "0", "8", "7"))
    ]
    assert world.call("ImportOperations", operations=lines)["flows"] == {"7": 1, "8": 2}
    stored = [one for event in world.stream("ListOperations")[1] for one in event["operations"]]
    assert [(one["displayMessage"], one["flowId"]) for one in stored] == [
        ("m0", "1"),
        ("m1", "2"),
        ("m2", "1"),
        ("m3", "4"),
        ("m4", "2"),
        ("m5", "1"),
    ]
    # a line that begins with a space is the first of a commit (opformat.py), or a mark
    commits = [line for line in world.paths.oplog.read_bytes().splitlines() if line.startswith(b' {"id"')]
    assert len(commits) == 1


def test_a_batch_with_a_bad_operation_adds_nothing(world: World) -> None:
    with pytest.raises(UserError, match="operation 2 cannot be imported"):
        world.call("ImportOperations", operations=[LINE, LINE | {"snapshotId": "short"}])
    assert world.stream("ListOperations")[0]["count"] == 0


@pytest.mark.parametrize("status", [None, "STATUS_PENDING", "STATUS_INPROGRESS", "STATUS_USER_CANCELLED"])
def test_only_what_has_ended_is_imported(world: World, status: str | None) -> None:
    """Anything else would be gone, or another, when the daemon starts the next time."""
    line = {name: value for name, value in LINE.items() if name != "status"}
    with pytest.raises(UserError, match="only what has ended is history"):
        world.call("ImportOperations", operations=[line | ({"status": status} if status else {})])


def test_operations_are_found_by_what_they_are_about(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        failed = wire.operations.STATUS_ERROR
        daemon.oplog.add(
            [operation(1), operation(2, plan_id="p2"), operation(3, repo_id="r2", status=failed)]
        )
        daemon.oplog.apply(keyid, [operation(4, id=9, modno=1, flow_id=9, instance_id="laptop")])

        def found(**filters: Any) -> list[str]:
            _, events = world.stream("ListOperations", **filters)
            return [one["id"] for event in events for one in event["operations"]]

        assert found() == ["1", "2", "3", "4"]
        assert found(plan_id="p2") == ["2"]
        assert found(repo_id="r2") == ["3"]
        assert found(status=["STATUS_ERROR"]) == ["3"]
        assert found(peer="laptop") == ["4"]
        assert found(peer=keyid) == ["4"]
        assert found(peer="local") == found(peer="here") == ["1", "2", "3"]
        assert found(since_ms=1_700_000_000_003) == ["3", "4"]
        assert found(limit=2) == ["3", "4"]
        assert world.stream("ListOperations", limit=3)[0] == {"count": 3, "more": True}
        assert world.stream("ListOperations", limit=4)[0] == {"count": 4, "more": False}
        with pytest.raises(NotFoundError, match="no peer 'nobody'"):
            found(peer="nobody")
        with pytest.raises(UserError, match="no status 'BAD'"):
            found(status=["BAD"])
        with pytest.raises(NotFoundError):
            world.call("ShowOperation", op_id=99)
        assert world.call("ShowOperation", op_id=2)["operation"]["planId"] == "p2"


def test_tail_shows_the_last_and_then_each_change(world: World) -> None:
    with world.daemon() as daemon:
        daemon.oplog.add([operation(1), operation(2)])
        seen: list[tuple[str, list[str]]] = []

        class Enough(Exception):
            pass

        def on_event(event: dict[str, Any]) -> None:
            [(kind, body)] = event.items()
            if kind == "keepAlive":  # the promise that nothing is missed from here on
                return
            ids = body["values"] if kind == "deletedOperations" else [one["id"] for one in body["operations"]]
            seen.append((kind, ids))
            if len(seen) == 1:
                daemon.oplog.add([operation(3)])
                daemon.oplog.add([operation(4, plan_id="other")])
                daemon.oplog.update([daemon.oplog.get(3)])
                daemon.oplog.delete([3])
            if kind == "deletedOperations":
                raise Enough

        from backrest.admin import client

        with pytest.raises(Enough):
            client.stream(world.paths, "TailOperations", {"last": 1, "plan_id": "p1"}, on_event)
    assert seen == [
        ("createdOperations", ["2"]),
        ("createdOperations", ["3"]),
        ("updatedOperations", ["3"]),
        ("deletedOperations", ["3"]),
    ]


def test_tail_needs_a_daemon(world: World) -> None:
    with pytest.raises(UserError, match="no daemon runs"):
        world.stream("TailOperations")


# --- the history's file


def test_a_damaged_history_is_reported_and_repaired(world: World) -> None:
    with contextlib.closing(OpLog.open(world.paths.oplog)) as oplog:
        oplog.add([operation(1)])
        oplog.add([operation(2)])
    lines = world.paths.oplog.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"', b"'", 2)
    world.paths.oplog.write_bytes(b"".join(lines))
    found = world.call("VerifyOplog")
    assert found["badLines"] == 1
    assert found["problems"][0]["line"] == 2
    assert not found["opens"]
    done = world.call("RepairOplog")
    assert done["setAside"] == 1
    assert Path(done["asideFile"]).read_bytes() == lines[1]
    assert world.call("VerifyOplog")["badLines"] == 0
    assert world.stream("ListOperations")[0]["count"] == 1


def test_the_way_of_what_takes_long_is_told(world: World) -> None:
    with contextlib.closing(OpLog.open(world.paths.oplog)) as oplog:
        oplog.add([operation(n) for n in range(100)])
    size = world.paths.oplog.stat().st_size
    assert world.stream("VerifyOplog")[1][-1] == {"done": size, "total": size}
    with world.paths.oplog.open("ab") as file:
        file.write(b"rubbish\n")
    repaired = world.stream("RepairOplog")[1][-1]  # the last of its ways: what it wrote is read again
    size = world.paths.oplog.stat().st_size
    assert repaired == {"done": size, "total": size}
    with world.daemon():
        assert world.stream("CompactOplog")[1][-1] == {"done": 100, "total": 100}
        assert world.call("VerifyOplog")["operations"] == 100  # also beside a daemon


class Interrupted(Disk):
    """At the first sync Ctrl-C is pressed; the sync ends when the event loop has had its turns."""

    pressed = False

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        if not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
            with contextlib.suppress(trio.Cancelled):
                for _ in range(100):
                    trio.from_thread.run_sync(int)


def test_ctrl_c_ends_a_repair_before_it_has_done_anything(world: World) -> None:
    with contextlib.closing(OpLog.open(world.paths.oplog)) as oplog:
        oplog.add([operation(n) for n in range(100)])
    with world.paths.oplog.open("ab") as file:
        file.write(b"rubbish\n")
    before = snapshot(world.paths.data_dir)
    with using(Interrupted()), pytest.raises(KeyboardInterrupt):
        world.stream("RepairOplog")
    after = snapshot(world.paths.data_dir)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"lock"}


def test_a_history_without_its_first_line_is_repaired_and_said_so(world: World) -> None:
    with contextlib.closing(OpLog.open(world.paths.oplog)) as oplog:
        oplog.add([operation(n) for n in range(9)])
    data = world.paths.oplog.read_bytes()
    world.paths.oplog.write_bytes(data.split(b"\n", 1)[1])
    found = world.call("VerifyOplog")
    assert (found["opens"], found["badLines"], found["firstLineMissing"]) == (False, 1, True)
    done = world.call("RepairOplog")
    assert (done["repaired"], done["setAside"], done["asideFile"], done["moved"]) == (True, 0, "", 0)
    assert world.audit_events()[-1] == "oplog-repaired"
    assert world.call("VerifyOplog")["operations"] == 9
    assert not world.call("RepairOplog")["repaired"]


def test_compacting_says_what_it_saved(world: World) -> None:
    with world.daemon() as daemon:
        stored = daemon.oplog.add([operation(n) for n in range(100)])
        daemon.oplog.delete([one.id for one in stored])
        done = world.call("CompactOplog")
    assert done["after"] < done["before"]


# --- the reference's names


def ask_reference(world: World, method: str, body: bytes, kind: str) -> tuple[int, bytes]:
    from backrest.admin import client

    connection = client.connect(world.paths)
    assert connection is not None
    with connection:
        connection.request("POST", f"/v1.Backrest/{method}", body, {"content-type": f"application/{kind}"})
        response = connection.getresponse()
        return response.status, response.read()


def test_the_references_names_answer_in_json_and_in_protobuf(world: World) -> None:
    world.add_repo()
    with world.daemon() as daemon:
        daemon.oplog.add([operation(n) for n in range(1, 4)])
        status, body = ask_reference(world, "GetConfig", b"{}", "json")
        assert status == 200
        assert json.loads(body)["instance"] == "here"
        assert b"correct-horse" not in body
        status, body = ask_reference(world, "GetConfig", b"", "proto")
        assert wire.config.Config.FromString(body).repos[0].password == MASK

        def ids(request: dict[str, Any]) -> list[str]:
            status, body = ask_reference(world, "GetOperations", json.dumps(request).encode(), "json")
            assert status == 200
            return [one["id"] for one in json.loads(body).get("operations", [])]

        assert ids({"selector": {}}) == ["1", "2", "3"]
        assert ids({"selector": {}, "lastN": "2"}) == ["2", "3"]
        assert ids({"selector": {"ids": ["2"]}}) == ["2"]
        assert ids({"selector": {"planId": "p1", "originalInstanceKeyid": ""}}) == ["1", "2", "3"]
        assert ids({"selector": {"instanceId": "nobody"}}) == []
        assert ids({}) == ["1", "2", "3"], "no selector is all (W-33)"
        both = b'{"selector":{"ids":["1"],"planId":"p"}}'
        assert ask_reference(world, "GetOperations", both, "json")[0] == 400
        assert ask_reference(world, "GetOperations", b"\xff\xff", "proto")[0] == 400

        request = wire.service.GeneratePairingTokenRequest(label="ui", ttl_seconds=900, max_uses=1)
        request.permissions.add(type=4, scopes=["*"])
        status, body = ask_reference(world, "GeneratePairingToken", request.SerializeToString(), "proto")
        token = PairingToken.parse(wire.service.GeneratePairingTokenResponse.FromString(body).token)
        [stored] = daemon.config.current.multihost.pairing_tokens
        assert (stored.secret, stored.label) == (token.secret, "ui")

"""A removed client: nothing of it is stored any more, its history stays and is found, until it is purged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_world import World, add_client, add_host, operation

from backrest import wire
from backrest.admin import clients
from backrest.admin.context import Context
from backrest.errors import ConflictError, NotFoundError
from backrest.store import syscalls
from backrest.store.oplog import Applied, OpLog
from backrest.store.syscalls import Disk

ANOTHER_KEY = "ed25519." + "C" * 43


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    with Context(world.paths) as made:
        yield made


def sent(number: int, **fields: object) -> wire.operations.Operation:
    """As a client sends it."""
    given = {"id": number, "modno": number, "flow_id": number, "instance_id": "laptop"} | fields
    return operation(number, **given)


class HeldDisk(Disk):
    """Keeps the first write to one file waiting."""

    def __init__(self, path: Path) -> None:
        self.inode = path.stat().st_ino
        self.entered, self.go = threading.Event(), threading.Event()

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        import os

        if os.fstat(fd).st_ino == self.inode:
            self.entered.set()
            self.go.wait()
        return super().write(fd, data, offset)


def test_nothing_is_stored_for_a_client_after_its_removal_was_acknowledged(
    world: World, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store is in the middle of its write, one waits behind it, when the removal comes: the removal returns
    after the first, which it counts; the second is refused."""
    keyid = add_client(world)
    context.config.reload()
    log = context.oplog
    disk = HeldDisk(world.paths.oplog)
    monkeypatch.setattr(syscalls, "disk", disk)
    waits = threading.Event()
    settled = log.settled
    monkeypatch.setattr(log, "settled", lambda: (waits.set(), settled()))
    results: dict[str, Applied] = {}
    removed: dict[str, object] = {}

    def allowed() -> bool:  # as the hub asks (sync/inbound.py)
        return any(peer.keyid == keyid for peer in context.config.current.multihost.authorized_clients)

    def store(name: str, number: int) -> None:
        results[name] = log.apply(keyid, [sent(number)], still=allowed)

    def remove() -> None:
        try:
            removed.update(clients.remove(context, "laptop"))
        finally:
            waits.set()

    threads = [threading.Thread(target=store, args=("under way", 1))]
    threads[0].start()
    disk.entered.wait()
    threads.append(threading.Thread(target=remove))
    threads[1].start()
    waits.wait()
    threads.append(threading.Thread(target=store, args=("behind", 2)))
    threads[2].start()
    disk.go.set()
    for thread in threads:
        thread.join()
    assert removed["operations"] == 1, "what was under way is part of what the removal found"
    assert results["behind"].closed
    assert log.count(keyid) == 1
    assert log.apply(keyid, [sent(3)], still=allowed).closed


def test_the_archive_is_known_without_the_peers_file(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        daemon.oplog.apply(keyid, [sent(1)])
        world.call("RemoveClient", ident="laptop")
        before = world.call("ListAllClients")["archived"]
        daemon.peers.flush()
    world.paths.peers.unlink()
    [after] = world.call("ListAllClients")["archived"]
    assert (after["instanceId"], after["keyId"], after["operations"]) == ("laptop", keyid, 1)
    assert abs(int(after["archivedMillis"]) - int(before[0]["archivedMillis"])) < 60_000
    world.paths.peers.unlink()
    world.paths.audit.unlink()
    assert world.call("ListAllClients")["archived"][0]["instanceId"] == "laptop", "its operations name it"


def test_a_client_taken_out_by_hand_is_archived_as_well(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        daemon.oplog.apply(keyid, [sent(1)])
        daemon.config.transform(lambda c: c.multihost.ClearField("authorized_clients"))
        assert [one["keyId"] for one in world.call("Status")["archived"]] == [keyid]


def test_a_removed_client_without_a_history_leaves_nothing(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        daemon.peers.update(keyid, instance_id="laptop", role="client")
        assert world.call("RemoveClient", ident="laptop")["archived"] is False
        assert daemon.peers.get(keyid) is None
        assert world.call("ListAllClients")["archived"] == []
        with pytest.raises(NotFoundError):
            world.call("RemoveClient", ident="laptop", purge=True)


def test_the_archive_of_a_name_that_is_in_use_again_has_a_name_of_its_own(world: World) -> None:
    """A machine set up anew has its old name and a new key; its old history must not be mixed up with it."""
    old = add_client(world)
    with world.daemon() as daemon:
        daemon.oplog.apply(old, [sent(1)])
        world.call("RemoveClient", ident="laptop")
        new = add_client(world, keyid=ANOTHER_KEY)
        daemon.oplog.apply(new, [sent(1), sent(2)])
        with pytest.raises(ConflictError) as refused:
            world.call("RemoveClient", ident="laptop", purge=True)
        assert all(word in str(refused.value) for word in ("archived:laptop", old, "1 operation)", new))
        assert listed(world, peer="archived:laptop") == [(old, True)]
        assert listed(world, peer="laptop") == [(new, False)] * 2
        assert world.call("RemoveClient", ident="archived:laptop", purge=True)["purged"] == 1
        assert daemon.oplog.count(new) == 2
        assert [c["keyId"] for c in world.call("ListClients")["clients"]] == [new]
        with pytest.raises(NotFoundError, match="no archived history of 'laptop'"):
            world.call("RemoveClient", ident="archived:laptop", purge=True)


def test_of_two_archives_with_one_name_the_candidates_are_listed(world: World) -> None:
    old = add_client(world)
    with world.daemon() as daemon:
        daemon.oplog.apply(old, [sent(1)])
        world.call("RemoveClient", ident="laptop")
        new = add_client(world, keyid=ANOTHER_KEY)
        daemon.oplog.apply(new, [sent(1), sent(2)])
        assert world.call("RemoveClient", ident="laptop")["keyId"] == new, "the name is that of the client"
        for ident in ("laptop", "archived:laptop"):
            with pytest.raises(ConflictError) as refused:
                world.call("RemoveClient", ident=ident, purge=True)
            for keyid, count in ((old, "1 operation)"), (new, "2 operations)")):
                assert f"{keyid} (removed 20" in str(refused.value)
                assert count in str(refused.value)
        assert world.call("RemoveClient", ident=old, purge=True)["purged"] == 1


def listed(world: World, **wanted: object) -> list[tuple[str, bool]]:
    """The key that each operation came from, and whether it is marked as archived."""
    _, events = world.stream("ListOperations", **wanted)
    rows = [one for event in events for one in event["operations"]]
    return [(one.get("originalInstanceKeyid", ""), one.get("archived", False)) for one in rows]


def test_a_list_marks_what_is_archived_and_nothing_else(world: World) -> None:
    old = add_client(world)
    with world.daemon() as daemon:
        [mine] = daemon.oplog.add([operation()])
        daemon.oplog.apply(old, [sent(1)])
        assert listed(world) == [("", False), (old, False)]
        world.call("RemoveClient", ident="laptop")
        assert listed(world) == [("", False), (old, True)]
        theirs = mine.id + 1
        assert world.call("ShowOperation", op_id=theirs)["operation"]["archived"] is True
        assert "archived" not in world.call("ShowOperation", op_id=mine.id)["operation"]
        add_client(world)
        assert listed(world) == [("", False), (old, False)], "it is back, and its history live"


def test_an_archived_history_is_live_again_when_its_client_is_back(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        daemon.oplog.apply(keyid, [sent(1)])
        world.call("RemoveClient", ident="laptop")
        add_client(world)
        assert world.call("Status")["archived"] == []
        assert world.call("Status")["peers"][0]["operations"] == 1


def test_what_a_client_held_under_wider_permissions_is_not_its_to_change(tmp_path: Path) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    keyid = "ed25519." + "B" * 43
    log.apply(keyid, [sent(1, plan_id="secret"), sent(2)])
    result = log.apply(
        keyid,
        [sent(1, modno=9, plan_id="p1"), sent(2, modno=9)],
        [1],
        permits=lambda held: held.plan_id == "p1",
    )
    assert (result.kept, len(result.stored), result.deleted) == ([1, 1], 1, [])
    assert log.held(keyid) == {1: 1, 2: 9}
    assert log.apply(keyid, [], [1]).deleted, "with its permissions back it may"
    log.close()


@pytest.mark.parametrize("field", ["id", "modno", "flow_id", "unix_time_start_ms"])
def test_a_negative_number_of_a_peer_is_refused_for_that_operation_alone(tmp_path: Path, field: str) -> None:
    log = OpLog.open(tmp_path / "oplog.jsonl")
    for number in (-1, -(2**63)):
        result = log.apply("ed25519." + "B" * 43, [sent(1, **{field: number}), sent(2)])
        [(_, reason)] = result.invalid
        assert "negative" in reason
    assert log.count("ed25519." + "B" * 43) == 1
    log.close()


def test_a_log_made_anew_repeats_no_number_that_a_hub_may_hold(world: World) -> None:
    """The log was lost, or set aside: the hub holds (1, 1), and must ask for what is (1, ...) now."""
    with Context(world.paths) as context:
        assert context.oplog.add([operation()])[0].modno == 1
    add_host(world)
    world.paths.oplog.unlink()
    with Context(world.paths) as context:
        [op] = context.oplog.add([operation()])
        assert op.id > 1_700_000_000_000
        assert op.modno > 1_600_000_000_000
        highest = op.modno
    with Context(world.paths) as context:
        assert context.oplog.add([operation()])[0].modno == highest + 1

"""What the audit log tells a person: every event of a client's life, and whether somebody altered a line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from admin_world import World, add_client
from cli_world import Run, document, here, run, world  # noqa: F401 - fixtures
from sync_world import (
    CONNECTED,
    ERROR_AUTH,
    inline_threads,  # noqa: F401 - fixture
    paired,
)
from sync_world import World as Machines
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest.admin import clients
from backrest.errors import CorruptError
from backrest.store.audit import AuditLog, read, verify
from backrest.sync import arrivals


@pytest.fixture
async def machines(tmp_path: Path, inline_threads: None) -> AsyncIterator[Machines]:  # noqa: F811
    made = Machines(tmp_path)
    async with trio.open_nursery() as nursery:
        made.nursery = nursery
        yield made
        nursery.cancel_scope.cancel()


def test_the_log_is_shown_oldest_first_and_the_newest_n(here: Run) -> None:  # noqa: F811
    here("token", "create", "--label", "a")
    here("token", "revoke", "a")
    entries = document(here("audit", "--json"))["entries"]
    assert [e["event"] for e in entries] == ["initialised", "token-created", "token-revoked"]
    assert [e["event"] for e in document(here("audit", "-n", "1", "--json"))["entries"]] == ["token-revoked"]
    shown = here("audit").stdout
    assert shown.index("token-created") < shown.index("token-revoked")
    assert "label=a" in shown


def test_an_altered_line_is_found_and_named(here: Run, world: World) -> None:  # noqa: F811
    here("token", "create", "--label", "mine")
    assert "2 lines since " in here("audit", "--verify").stdout
    with world.daemon():
        assert document(here("audit", "--verify", "--json"))["lines"] == 2
    world.paths.audit.write_text(world.paths.audit.read_text().replace("mine", "ours"))
    result = here("audit", "--verify", code=1)
    assert "line 2" in result.stderr
    assert "altered" in result.stderr
    assert "ours" in here("audit").stdout, "what there is can still be read"


def test_a_permission_changed_and_a_client_removed_are_recorded_with_who_and_what(world: World) -> None:  # noqa: F811
    world.call("Init", instance_id="here")
    keyid = add_client(world)
    world.call("SetClientPermissions", ident="laptop", permissions=["read-config=*"])
    world.call("RemoveClient", ident="laptop")
    changed, removed = list(read(world.paths.audit))[-2:]
    assert (changed["event"], changed["keyid"], changed["permissions"]) == (
        "client-permissions", keyid, ["read-config=*"],
    )  # fmt: skip
    assert (removed["event"], removed["instance"]) == ("client-removed", "laptop")


async def test_the_life_of_a_client_is_in_the_log(autojump_clock: MockClock, machines: Machines) -> None:
    hub, client = paired(machines)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        await wait_all_tasks_blocked()
        clients.remove(hub.context(), "laptop")
        await client.until_peer(hub, ERROR_AUTH)
        await trio.sleep(60)
    events = [(e["event"], e.get("instance"), e.get("address")) for e in hub.audited()]
    assert events[0] == ("paired", "laptop", "192.0.2.7")
    assert events[1] == ("let-in", "laptop", "192.0.2.7")
    assert events[2][:2] == ("client-removed", "laptop")
    assert events[3] == ("refused", "laptop", "192.0.2.7")
    assert verify(hub.paths.audit) == len(events)


async def test_a_client_that_flaps_for_a_week_leaves_a_line_a_day(
    autojump_clock: MockClock, machines: Machines
) -> None:
    hub = machines.instance("hub")
    made = arrivals.LetIn(hub.audit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        for _ in range(7 * 24 * 60):
            made.note(arrivals.Peer(keyid="k", instance_id="laptop"), "192.0.2.1")
            await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert len(hub.audited()) == 7


async def test_another_address_is_recorded_at_once_but_not_at_every_hop(
    autojump_clock: MockClock, machines: Machines
) -> None:
    hub = machines.instance("hub")
    made = arrivals.LetIn(hub.audit)
    entry = arrivals.Peer(keyid="k", instance_id="laptop")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        made.note(entry, "192.0.2.1")
        await trio.sleep(arrivals.ADDRESS_AGAIN_S)
        for n in range(100):
            made.note(entry, f"192.0.2.{n}")
        nursery.cancel_scope.cancel()  # what was noted and not yet written is written all the same
    assert [e["address"] for e in hub.audited()] == ["192.0.2.1", "192.0.2.0"]


def test_several_events_are_one_chain_and_all_or_none(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog.open(path)
    log.append("first")
    log.append_all([("a", {"x": 1}), ("b", {"y": "z"})])
    with pytest.raises(ValueError, match="hash"):
        log.append_all([("c", {}), ("d", {"hash": "x"})])
    assert [e["event"] for e in read(path)] == ["first", "a", "b"]
    assert log.verify() == verify(path) == 3
    with open(path, "ab") as file:  # another line, just being written
        file.write(b'{"time":')
    assert log.verify() == 3
    assert [e["event"] for e in read(path)] == ["first", "a", "b"]
    with pytest.raises(CorruptError):
        verify(path)
    log.close()
    assert json.loads(path.read_text().splitlines()[2])["y"] == "z"


def test_a_permission_without_a_scope_is_said_to_mean_everything(here: Run, world: World) -> None:  # noqa: F811
    add_client(world)
    said = here("client", "permissions", "laptop", "read-write-config")
    assert "read-write-config=*" in said.stderr
    assert "means all" in said.stderr
    assert (
        "means all"
        not in here("client", "permissions", "laptop", "read-config=*", "receive-shared-repos").stderr
    )
    assert "means all" in here("token", "create", "--permission", "read-operations").stderr

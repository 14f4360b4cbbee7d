"""The key by which peers know this machine: shown without its private half, replaced with all that follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from admin_world import World, add_client, add_host
from cli_world import Run, document, here, run, world  # noqa: F401 - fixtures
from sync_world import (
    CONNECTED,
    ERROR_AUTH,
    inline_threads,  # noqa: F401 - fixture
    paired,
)
from sync_world import World as Machines
from trio.testing import MockClock

from backrest import wire
from backrest.admin import clients, hosts, identity
from backrest.errors import ConflictError, UserError

DISCONNECTED = wire.sync.CONNECTION_STATE_DISCONNECTED


@pytest.fixture
def machine(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


@pytest.fixture
async def machines(tmp_path: Path, inline_threads: None) -> object:  # noqa: F811
    made = Machines(tmp_path)
    async with trio.open_nursery() as nursery:
        made.nursery = nursery
        yield made
        nursery.cancel_scope.cancel()


def test_the_identity_is_shown_without_its_private_half(machine: World) -> None:
    private = machine.config().current.multihost.identity.ed25519priv
    shown = machine.call("ShowIdentity")
    assert shown["keyId"].startswith("ed25519.")
    assert private not in json.dumps(shown)


def test_a_rotation_replaces_the_key_and_leaves_no_trace_of_the_old_private_one(machine: World) -> None:
    add_host(machine)
    add_client(machine, "laptop")
    machine.call("CreateToken", label="open")
    before = machine.config().current
    result = machine.call("RotateIdentity", keyid=before.multihost.identity.keyid)
    after = machine.config().current
    assert after.multihost.identity.keyid == result["keyId"] != before.multihost.identity.keyid
    assert after.instance == "here"
    assert [h.instance_id for h in after.multihost.known_hosts] == ["hub"]
    assert [c.instance_id for c in after.multihost.authorized_clients] == ["laptop"]
    assert not after.multihost.pairing_tokens, "their text holds the old key id: nobody could pair with them"
    assert result["tokens"] == ["open"]
    for file in machine.paths.config_file.parent.iterdir():
        assert before.multihost.identity.ed25519priv not in file.read_text(), file
    entry = [json.loads(line) for line in machine.paths.audit.read_text().splitlines()][-1]
    assert (entry["event"], entry["old_keyid"]) == ("identity-rotated", before.multihost.identity.keyid)
    assert after.multihost.identity.ed25519priv not in machine.paths.audit.read_text()


def test_only_the_key_that_was_shown_is_replaced(machine: World) -> None:
    """Two rotations at once, or one typed twice: the second must not take away the key of the first."""
    keyid = machine.call("ShowIdentity")["keyId"]
    machine.call("RotateIdentity", keyid=keyid)
    with pytest.raises(ConflictError, match="is not this machine's key"):
        machine.call("RotateIdentity", keyid=keyid)


def test_nothing_else_replaces_the_key(machine: World) -> None:
    with pytest.raises(UserError, match="identity cannot be changed this way"):
        machine.config().transform(lambda c: setattr(c.multihost.identity, "keyid", "ed25519." + "Z" * 43))


def test_the_command_names_every_peer_and_what_to_do_on_both_machines(here: Run, world: World) -> None:  # noqa: F811
    add_host(world)
    add_client(world, "laptop")
    said = here("identity", "rotate", "--yes").stdout
    assert "backrest client remove here" in said
    assert "backrest host add TOKEN --url http://hub:9898" in said
    assert "'laptop'" in said
    assert "--new-key" in said
    result = document(here("identity", "rotate", "--yes", "--json"))
    assert any("'hub'" in line for line in result["todo"])


async def test_a_client_with_a_new_key_is_refused_until_it_is_paired_again_and_both_say_why(
    autojump_clock: MockClock, machines: Machines
) -> None:
    hub, client = paired(machines)
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await hub.until_history(client)
        old = client.keyid
        identity.rotate(client.context(), old)
        record = await client.until_peer(hub, ERROR_AUTH)
        assert "not authorized" in record.message
        assert "identity was replaced" in record.message
        [seen] = hub.hub.namesakes().items()
        assert (seen[0], seen[1][0]) == (old, 1)
        clients.remove(hub.context(), "laptop")
        await hosts.add(client.context(), _ignore, hub.token(), "http://hub:9898", wait=False)
        await hub.until_history(client)
        [archived] = clients.list_all(hub.context())["archived"]
        assert archived["keyId"] == old


async def test_a_new_key_and_its_pairing_may_follow_each_other_at_once(
    autojump_clock: MockClock, machines: Machines
) -> None:
    """As a script does it: the session of the old key has not even ended."""
    hub, client = paired(machines)
    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        old, token = client.keyid, hub.token()
        identity.rotate(client.context(), old)
        clients.remove(hub.context(), "laptop")
        said = await hosts.add(client.context(), _ignore, token, "http://hub:9898", wait=True)
        assert said["connected"], said
        assert [entry.keyid for entry in hub.config.current.multihost.authorized_clients] == [client.keyid]
        await client.until_peer(hub, CONNECTED)


async def test_a_hub_with_a_new_key_is_refused_by_its_clients_which_name_the_remedy(
    autojump_clock: MockClock, machines: Machines
) -> None:
    hub, client = paired(machines)
    client.oplog.add([client.operation()])
    async with hub.running(), client.running():
        await hub.until_history(client)
        hub.oplog.subscribe(lambda change: pytest.fail("the history is held already"))
        identity.rotate(hub.context(), hub.keyid)
        record = await machines.until(
            client.peers.subscribe,
            lambda: client.peers.all()[0],
            lambda r: r.state == ERROR_AUTH,
        )
        assert "another key" in record.message
        assert "--new-key" in record.message
        token = hub.token()
        with pytest.raises(ConflictError, match="--new-key"):
            await hosts.add(client.context(), _ignore, token, "http://hub:9898", wait=False)
        await hosts.add(client.context(), _ignore, token, "http://hub:9898", wait=False, new_key=True)
        await hub.until_peer(client, CONNECTED)
        await client.until_peer(hub, CONNECTED)
        assert [r.keyid for r in client.peers.all()] == [hub.keyid], (
            "nothing of the old key is shown any more"
        )


async def test_a_stranger_that_takes_a_clients_name_changes_nothing_of_a_live_session(
    autojump_clock: MockClock, machines: Machines
) -> None:
    from stranger import visitor

    hub, client = paired(machines)
    async with hub.running(), client.running():
        await hub.until_peer(client, CONNECTED)
        stranger = visitor(machines, hub, "laptop")
        await stranger.shake_hands()
        await stranger.until_end()
        assert hub.peer(client).message == ""
        assert hub.peer(client).state == CONNECTED


async def _ignore(event: dict[str, object]) -> None:
    await trio.lowlevel.checkpoint()


def test_a_hubs_new_key_is_taken_without_a_daemon_and_keeps_its_grants(machine: World) -> None:
    add_host(machine, permissions=["read-operations=plan:p"])
    with machine.daemon() as daemon:
        old = daemon.config.current.multihost.known_hosts[0].keyid
        daemon.peers.update(old, instance_id="hub", role="host", message="another key")
        daemon.peers.flush()
    new = "ed25519." + "D" * 43
    with pytest.raises(ConflictError, match="--new-key"):
        add_host(machine, token=f"{new}:{'1' * 64}#hub")
    add_host(machine, token=f"{new}:{'1' * 64}#hub", new_key=True)
    [host] = machine.config().current.multihost.known_hosts
    assert (host.keyid, list(host.permissions[0].scopes)) == (new, ["plan:p"])
    with machine.daemon() as daemon:
        assert daemon.peers.get(old) is None

"""Hubs and clients: what the use cases change, what they refuse, what they leave in the audit log."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_world import HUB_TOKEN_KEY, SECRET, World, add_client, add_host, operation
from store_disk import NoRoomForConfig, using

from backrest import wire
from backrest.admin import hosts
from backrest.errors import ConflictError, NotFoundError, StorageError, UserError
from backrest.store.removal import ParkedPlans
from backrest.wire import codec, sync


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


# --- hosts


def test_no_token_is_spent_at_a_new_address_that_could_not_be_kept(world: World) -> None:
    def paired(config: wire.config.Config) -> None:
        config.multihost.known_hosts.add(
            instance_id="hub", keyid=HUB_TOKEN_KEY, instance_url="http://hub:9898"
        )

    world.config().transform(paired)
    with socket.create_server(("127.0.0.1", 0)) as listener, using(NoRoomForConfig(0)):
        with pytest.raises(StorageError, match="no space is left"):
            add_host(world, url=f"http://127.0.0.1:{listener.getsockname()[1]}", wait=True)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_hub_is_entered_as_the_reference_enters_it(world: World) -> None:
    add_host(world)
    [host] = world.config().current.multihost.known_hosts
    assert codec.to_dict(host) == {
        "instanceId": "hub",
        "keyId": HUB_TOKEN_KEY,
        "instanceUrl": "http://hub:9898",
        "initialPairingSecret": SECRET,
        "permissions": [
            {"type": "PERMISSION_READ_OPERATIONS", "scopes": ["*"]},
            {"type": "PERMISSION_RECEIVE_SHARED_REPOS", "scopes": ["*"]},
        ],
    }
    assert SECRET not in world.paths.audit.read_text()
    assert SECRET not in json.dumps(world.call("ListHosts"))


def test_a_hub_added_again_gets_the_new_token_and_keeps_its_grants(world: World) -> None:
    add_host(world, permissions=["read-operations=plan:p"])
    add_host(world, token=f"{HUB_TOKEN_KEY}:{'1' * 64}#hub", url="https://hub/")
    [host] = world.config().current.multihost.known_hosts
    assert host.initial_pairing_secret == "1" * 64
    assert host.instance_url == "https://hub"
    assert list(host.permissions[0].scopes) == ["plan:p"]


@pytest.mark.parametrize(
    "token",
    ["", "x", "x#y", "a:b#", ":b#c", f"{HUB_TOKEN_KEY}:#hub", f"ed25519.short:{SECRET}#hub", "a:b#c\nd"],
)
def test_a_malformed_token_changes_nothing(world: World, token: str) -> None:
    with pytest.raises(UserError, match="token"):
        add_host(world, token=token)
    assert not world.config().current.multihost.known_hosts


@pytest.mark.parametrize(
    "url",
    ["", "hub", "hub:9898", "ftp://hub", "http://", "http://u:p@h", "http://h:0", "http://h:x", "http://h/?q",
     "http://h/#f", "http://h o", "http://h\x1b[0m", "http://[::1"],
)  # fmt: skip
def test_an_address_that_is_none_changes_nothing(world: World, url: str) -> None:
    with pytest.raises(UserError, match="URL"):
        add_host(world, url=url)
    assert not world.config().current.multihost.known_hosts


@pytest.mark.parametrize(
    "url", ["http://h", "https://h:9898", "http://[::1]:9898", "https://h/behind/a/path"]
)
def test_an_address_of_a_hub_is_taken(url: str) -> None:
    assert hosts.check_url(url) == url
    assert hosts.check_url(f" {url}/ ") == url


def test_a_token_of_this_very_machine_is_refused(world: World) -> None:
    token = world.call("CreateToken")["token"]
    with pytest.raises(UserError, match="this very machine"):
        add_host(world, token=token)


def test_a_hub_with_a_name_that_is_taken_is_refused(world: World) -> None:
    add_client(world, "hub")
    with pytest.raises(ConflictError, match="known here with another key"):
        add_host(world)
    with pytest.raises(ConflictError, match="same instance id"):
        add_host(world, token=f"{HUB_TOKEN_KEY}:{SECRET}#here")


def test_a_client_cannot_be_the_hub_as_well(world: World) -> None:
    add_client(world, "hub", HUB_TOKEN_KEY)
    with pytest.raises(ConflictError, match="is a client of this machine"):
        add_host(world)


def test_a_ca_file_is_the_daemons_affair_when_one_runs(world: World) -> None:
    with world.daemon(), pytest.raises(UserError, match="backrest serve"):
        add_host(world, ca_file="/x.pem")


def test_a_pairing_that_works_is_seen_as_such(world: World) -> None:
    with world.daemon() as daemon:
        unsubscribe = answer_pairing(daemon, sync.CONNECTION_STATE_CONNECTED, "")
        result = add_host(world, wait=True)
        unsubscribe()
    assert (result["connected"], result["message"], result["daemonRuns"]) == (True, "", True)
    assert result["host"]["state"] == "CONNECTION_STATE_CONNECTED"


def test_a_refused_pairing_is_told_with_its_reason_and_the_hub_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "REFUSAL_LASTS_S", 0.0)
    with world.daemon() as daemon:
        unsubscribe = answer_pairing(daemon, sync.CONNECTION_STATE_ERROR_AUTH, "the token has expired")
        result = add_host(world, wait=True)
        unsubscribe()
        assert (result["connected"], result["message"]) == (False, "the token has expired")
        assert daemon.config.current.multihost.known_hosts[0].initial_pairing_secret


def test_a_hub_that_does_not_answer_is_given_up_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "WAIT_S", 0.0)
    with world.daemon() as daemon:
        unsubscribe = answer_pairing(daemon, sync.CONNECTION_STATE_RETRY_WAIT, "connection refused")
        result = add_host(world, wait=True)
        unsubscribe()
    assert (result["connected"], result["message"]) == (False, "connection refused")


def answer_pairing(daemon: Any, state: int, message: str) -> Callable[[], None]:
    """The sync side in one function: on a new hub it shows a state, and forgets the secret when connected."""

    def on_config(config: wire.config.Config) -> None:
        for host in config.multihost.known_hosts:
            if host.initial_pairing_secret:
                daemon.peers.update(host.keyid, instance_id="hub", role="host", state=state, message=message)
                if state == sync.CONNECTION_STATE_CONNECTED:
                    daemon.config.transform(
                        lambda c: setattr(c.multihost.known_hosts[0], "initial_pairing_secret", "")
                    )

    unsubscribe: Callable[[], None] = daemon.config.subscribe(on_config)
    return unsubscribe


def test_a_hub_that_is_connected_needs_no_new_token(world: World) -> None:
    with world.daemon() as daemon:
        unsubscribe = answer_pairing(daemon, sync.CONNECTION_STATE_CONNECTED, "")
        add_host(world, wait=True)
        unsubscribe()
        result = add_host(world, wait=True)
        assert result["connected"]
        assert "not needed" in result["message"]
        assert not daemon.config.current.multihost.known_hosts[0].initial_pairing_secret


def test_an_old_session_is_not_taken_for_the_new_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another address: the session that is still connected is the old one, until the secret is gone."""
    monkeypatch.setattr(hosts, "WAIT_S", 0.0)
    with world.daemon() as daemon:
        unsubscribe = answer_pairing(daemon, sync.CONNECTION_STATE_CONNECTED, "")
        add_host(world, wait=True)
        unsubscribe()
        assert not add_host(world, wait=True, url="http://elsewhere")["connected"]


def test_grants_are_replaced_and_told(world: World) -> None:
    add_host(world)
    assert world.call("GrantHost", ident="hub", permissions=["read-config=repo:r"])["host"]["grants"] == [
        "read-config=repo:r"
    ]
    world.call("GrantHost", ident=HUB_TOKEN_KEY, permissions=[])
    assert not world.config().current.multihost.known_hosts[0].permissions
    with pytest.raises(NotFoundError, match="there are: hub"):
        world.call("GrantHost", ident="nope", permissions=[])
    assert world.audit_events()[1:] == ["host-added", "host-granted", "host-granted"]


def test_removing_a_hub_takes_what_it_shared_and_parks_the_plans(world: World) -> None:
    add_host(world)
    world.add_repo("shared", origin_instance_id="hub")
    world.call("AddPlan", plan={"id": "p", "repo": "shared", "paths": ["/x"]})
    result = world.call("RemoveHost", ident="hub")
    assert (result["removedRepos"], result["parkedPlans"]) == (["shared"], ["p"])
    config = world.config().current
    assert not config.repos
    assert not config.plans
    assert not config.multihost.known_hosts
    assert [entry.plan.id for entry in ParkedPlans.open(world.paths.parked_plans).all()] == ["p"]


# --- clients


def test_a_removed_clients_history_stays_until_it_is_purged(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        received = operation(1, id=7, modno=3, flow_id=7, instance_id="laptop")
        daemon.oplog.apply(keyid, [received])
        daemon.peers.update(keyid, instance_id="laptop", role="client")
        result = world.call("RemoveClient", ident="laptop")
        assert (result["purged"], result["operations"]) == (0, 1)
        status = world.call("Status")
        assert status["peers"] == []
        [archived] = status["archived"]
        assert (archived["instanceId"], archived["keyId"], archived["operations"]) == ("laptop", keyid, 1)
        assert world.call("ListAllClients")["archived"] == [archived]
        assert len(world.stream("ListOperations", peer="laptop")[1]) == 1
        with pytest.raises(ConflictError, match=r"removed already, and 1 operations.*--purge"):
            world.call("RemoveClient", ident="laptop")
        result = world.call("RemoveClient", ident="laptop", purge=True)
        assert (result["purged"], result["operations"]) == (1, 0)
        assert daemon.oplog.count(keyid) == 0
        with pytest.raises(NotFoundError):
            world.call("RemoveClient", ident="laptop", purge=True)
    assert world.audit_events()[1:] == ["client-removed", "client-purged"]


@pytest.mark.parametrize("ident", ["here", "local"])
def test_a_purge_never_reaches_our_own_history(world: World, ident: str) -> None:
    with world.daemon() as daemon:
        daemon.oplog.add([operation()])
        with pytest.raises(NotFoundError):
            world.call("RemoveClient", ident=ident, purge=True)
        assert daemon.oplog.count("") == 1


def test_a_hub_is_not_removed_as_a_client(world: World) -> None:
    add_host(world)
    for purge in (False, True):
        with pytest.raises(NotFoundError, match="there is no client 'hub'"):
            world.call("RemoveClient", ident="hub", purge=purge)


def test_a_clients_permissions_are_replaced(world: World) -> None:
    add_client(world)
    world.call("SetClientPermissions", ident="laptop", permissions=["read-operations=!plan:secret"])
    assert world.call("ListClients")["clients"][0]["grants"] == ["read-operations=!plan:secret"]

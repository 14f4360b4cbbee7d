"""SetConfig: it changes what its caller changed, and nothing that the caller did not know or may not touch."""

from __future__ import annotations

from pathlib import Path

import pytest
from admin_world import GUID, World, add_client, add_host, operation
from reference_api import Codec, Refused, get_config, set_config

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.store.mask import MASK
from backrest.store.removal import ParkedPlans

Config = wire.config.Config
HUB_REPO = "b" * 64


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    made.add_repo()
    made.call(
        "AddPlan",
        plan={"id": "photos", "repo": "r1", "paths": ["/home"], "retention": {"policyKeepLastN": 3}},
    )
    return made


def stored(world: World) -> Config:
    assert world.context is not None
    return world.context.config.current


@pytest.mark.parametrize("kind", ["json", "proto"])
def test_a_change_is_made_and_the_masks_around_it_mean_unchanged(world: World, kind: Codec) -> None:
    with world.daemon():
        config = get_config(world)
        assert config.repos[0].password == MASK
        config.plans[0].paths.append("/srv")
        answer = set_config(world, config, kind)
        assert answer.repos[0].password == MASK
        assert list(stored(world).plans[0].paths) == ["/home", "/srv"]
        assert stored(world).repos[0].password == "correct-horse"
        assert answer.modno == stored(world).modno == config.modno + 1
    assert world.audit_events()[-1] == "config-set"


def test_what_changes_nothing_writes_nothing(world: World) -> None:
    with world.daemon():
        before = world.paths.config_file.read_bytes()
        config = get_config(world)
        assert set_config(world, config).modno == config.modno
        assert world.paths.config_file.read_bytes() == before
        assert world.audit_events()[-1] != "config-set"


def test_a_change_of_an_older_configuration_is_refused_and_says_what_to_do(world: World) -> None:
    with world.daemon():
        config = get_config(world)
        world.call("CreateToken", label="x")
        before = world.paths.config_file.read_bytes()
        config.plans[0].paths.append("/srv")
        with pytest.raises(Refused, match=r"based on \d+\. Read it again with GetConfig") as refused:
            set_config(world, config)
        assert refused.value.code == "failed_precondition"
        assert world.paths.config_file.read_bytes() == before


def test_a_client_that_paired_meanwhile_is_not_lost(world: World) -> None:
    with world.daemon():
        config = get_config(world)
        keyid = add_client(world)
        with pytest.raises(Refused, match="failed_precondition"):
            set_config(world, config)
        assert [peer.keyid for peer in stored(world).multihost.authorized_clients] == [keyid]


# --- identity, version, tokens (W-04 to W-06)


def test_without_multihost_identity_peers_and_tokens_stay(world: World) -> None:
    add_host(world)
    world.call("CreateToken", label="x")
    with world.daemon():
        config, before = get_config(world), stored(world).multihost
        config.ClearField("multihost")
        config.plans[0].paths.append("/srv")
        set_config(world, config)
        assert stored(world).multihost == before
        assert "/srv" in stored(world).plans[0].paths


def test_the_identity_reduced_to_its_key_id_is_the_identity(world: World) -> None:
    with world.daemon():
        before = stored(world).multihost.identity
        config = get_config(world)
        assert config.multihost.identity.ed25519priv == MASK
        config.multihost.identity.CopyFrom(wire.crypto.PrivateKey(keyid=before.keyid))
        config.plans[0].paths.append("/srv")
        set_config(world, config)
        assert stored(world).multihost.identity == before
        assert before.ed25519priv


@pytest.mark.parametrize("with_key", ["whole", "keyid", "private key"])
def test_another_identity_is_refused(world: World, with_key: str) -> None:
    other = Identity.generate().to_proto()
    with world.daemon():
        before = stored(world)
        config = get_config(world)
        identity = config.multihost.identity
        if with_key == "whole":
            identity.CopyFrom(other)
        elif with_key == "keyid":
            identity.keyid = other.keyid
        else:
            identity.ed25519priv = other.ed25519priv
        with pytest.raises(Refused, match="identity cannot be replaced"):
            set_config(world, config)
        assert stored(world) is before


def test_the_instance_id_cannot_be_changed_nor_lost(world: World) -> None:
    with world.daemon():
        config = get_config(world)
        config.instance = "there"
        with pytest.raises(Refused, match="instance id 'here'"):
            set_config(world, config)
        config.instance = ""
        config.plans[0].paths.append("/srv")
        assert set_config(world, config).instance == "here"


def test_the_version_is_the_stores(world: World) -> None:
    with world.daemon():
        config = get_config(world)
        version, config.version = config.version, 0
        config.plans[0].paths.append("/srv")
        assert set_config(world, config).version == version


def test_a_request_without_the_tokens_does_not_wipe_them(world: World) -> None:
    world.call("CreateToken", label="x")
    with world.daemon():
        config, before = get_config(world), list(stored(world).multihost.pairing_tokens)
        del config.multihost.pairing_tokens[:]
        config.plans[0].paths.append("/srv")
        set_config(world, config)
        assert list(stored(world).multihost.pairing_tokens) == before


@pytest.mark.parametrize("change", ["new", "permissions", "uses"])
def test_a_token_cannot_be_smuggled_in_or_widened(world: World, change: str) -> None:
    world.call("CreateToken", label="x", permissions=["read-operations=*"])
    with world.daemon():
        config = get_config(world)
        tokens = config.multihost.pairing_tokens
        if change == "new":
            tokens.add(secret="5e" * 32, label="mine")
        elif change == "permissions":
            tokens[0].permissions.add(type=3, scopes=["*"])
        else:
            tokens[0].max_uses = 1000
        with pytest.raises(Refused, match="GeneratePairingToken makes one"):
            set_config(world, config)
        assert [token.label for token in stored(world).multihost.pairing_tokens] == ["x"]


# --- repositories of other instances (W-11)


def with_shared_repo(world: World) -> None:
    """A hub, a repository of it, and two plans, one of them on that repository."""
    add_host(world)

    def add(config: Config) -> None:
        config.repos.add(id="theirs", uri="/srv/hub", guid=HUB_REPO, password="pw", origin_instance_id="hub")
        plan = config.plans.add(id="on-theirs", repo="theirs", paths=["/home"])
        plan.retention.policy_keep_last_n = 3

    world.config().transform(add)


def test_a_repository_of_another_instance_cannot_be_changed(world: World) -> None:
    with_shared_repo(world)
    with world.daemon():
        before = stored(world)
        for change in ("uri", "password", "origin_instance_id"):
            config = get_config(world)
            [repo] = [repo for repo in config.repos if repo.id == "theirs"]
            setattr(repo, change, "" if change == "origin_instance_id" else "other")
            with pytest.raises(Refused, match="read-only here"):
                set_config(world, config)
        config = get_config(world)
        config.repos.add(id="n", uri="/srv/n", auto_initialize=True, origin_instance_id="hub")
        with pytest.raises(Refused, match="only that instance can share it"):
            set_config(world, config)
        assert stored(world) is before


def test_a_repository_of_another_instance_can_be_left_out(world: World) -> None:
    with_shared_repo(world)
    with world.daemon():
        config = get_config(world)
        for index, repo in reversed(list(enumerate(config.repos))):
            if repo.id == "theirs":
                del config.repos[index]
        with pytest.raises(Refused, match='"theirs" not found'):
            set_config(world, config)
        for index, plan in reversed(list(enumerate(config.plans))):
            if plan.repo == "theirs":
                del config.plans[index]
        assert [repo.id for repo in set_config(world, config).repos] == ["r1"]


# --- peers (W-45, W-46)


@pytest.mark.parametrize("left_out", ["the hub alone", "its repository too"])
def test_leaving_out_a_hub_removes_it_as_the_command_does(world: World, left_out: str) -> None:
    with_shared_repo(world)
    with world.daemon() as daemon:
        config = get_config(world)
        keyid = config.multihost.known_hosts[0].keyid
        daemon.peers.update(keyid, instance_id="hub", role="host", state=2)
        del config.multihost.known_hosts[:]
        if left_out == "its repository too":
            kept = [repo for repo in config.repos if repo.id != "theirs"]
            del config.repos[:]
            config.repos.extend(kept)
        answer = set_config(world, config)
        assert [repo.id for repo in answer.repos] == ["r1"]
        assert [plan.id for plan in answer.plans] == ["photos"]
        [parked] = ParkedPlans.open(world.paths.parked_plans).all()
        assert (parked.plan.id, parked.repo_guid) == ("on-theirs", HUB_REPO)
        assert daemon.peers.get(keyid) is None
        assert world.call("Status")["peers"] == []
    assert world.audit_events()[-2:] == ["config-set", "host-removed"]


def test_leaving_out_a_client_keeps_its_history_archived(world: World) -> None:
    keyid = add_client(world)
    with world.daemon() as daemon:
        daemon.peers.update(keyid, instance_id="laptop", role="client", state=2)
        daemon.oplog.apply(keyid, [operation(1, id=7, flow_id=7, modno=7, instance_id="laptop")])
        config = get_config(world)
        del config.multihost.authorized_clients[:]
        set_config(world, config)
        status = world.call("Status")
        assert status["peers"] == []
        assert [(one["instanceId"], one["operations"]) for one in status["archived"]] == [("laptop", 1)]
    assert world.audit_events()[-1] == "client-removed"


def test_a_refused_change_parks_and_removes_nothing(world: World) -> None:
    with_shared_repo(world)
    with world.daemon():
        config = get_config(world)
        del config.multihost.known_hosts[:]
        config.plans.add(id="bad", repo="nowhere", paths=["/x"])
        with pytest.raises(Refused, match='"nowhere" not found'):
            set_config(world, config)
        assert [plan.id for plan in stored(world).plans] == ["on-theirs", "photos"]
        assert world.audit_events()[-1] not in ("config-set", "host-removed")


def test_grants_and_new_peers_can_be_set(world: World) -> None:
    add_host(world)
    keyid = "ed25519." + "C" * 43
    with world.daemon():
        config = get_config(world)
        del config.multihost.known_hosts[0].permissions[:]
        config.multihost.authorized_clients.add(instance_id="desk", keyid=keyid).permissions.add(
            type=1, scopes=["*"]
        )
        set_config(world, config)
        [host] = stored(world).multihost.known_hosts
        assert not host.permissions
        assert host.initial_pairing_secret != MASK
        assert [peer.keyid for peer in stored(world).multihost.authorized_clients] == [keyid]


def test_all_problems_are_named_at_once(world: World) -> None:
    with world.daemon():
        config = get_config(world)
        config.plans.add(id="a/b", repo="nowhere", paths=["/x"])
        config.repos.add(id="n", guid=GUID)
        with pytest.raises(Refused) as refused:
            set_config(world, config)
        assert refused.value.code == "invalid_argument"
        for words in ('"nowhere" not found', "may hold only", "no address"):
            assert words in refused.value.message

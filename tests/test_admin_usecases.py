"""The use cases, one by one: what they change, what they refuse, what they leave in the audit log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_world import GUID, HUB_TOKEN_KEY, World, operation

from backrest import wire
from backrest.admin import context as clock
from backrest.admin import hosts, instance
from backrest.crypto.tokens import PairingToken
from backrest.errors import ConflictError, NotFoundError, UserError
from backrest.store.mask import MASK
from backrest.store.oplog import OpLog
from backrest.store.removal import ParkedPlans
from backrest.wire import codec, sync

HOUR = 3600
SECRET = "5e" * 32


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


def add_host(world: World, **args: Any) -> Any:
    given = {"token": f"{HUB_TOKEN_KEY}:{SECRET}#hub", "url": "http://hub:9898", "wait": False} | args
    return world.stream("AddHost", **given)[0]


def add_client(world: World, instance_id: str = "laptop", keyid: str = "ed25519." + "B" * 43) -> str:
    def change(config: wire.config.Config) -> None:
        client = config.multihost.authorized_clients.add(instance_id=instance_id, keyid=keyid)
        client.permissions.add(type=1, scopes=["*"])

    (world.context.config if world.context else world.config()).transform(change)
    return keyid


# --- init


def test_init_writes_a_configuration_that_is_complete(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = world.call("Init", instance_id="nas")
    config = world.config().current
    assert result["created"]
    assert config.instance == "nas"
    assert config.multihost.identity.keyid == result["keyId"]
    assert config.version == 6
    assert world.audit_events() == ["initialised"]


def test_init_twice_changes_nothing(world: World) -> None:
    before = world.paths.config_file.read_bytes()
    assert world.call("Init")["added"] == []
    assert world.paths.config_file.read_bytes() == before


def test_init_keeps_what_is_there_and_adds_what_lacks(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.paths.config_file.parent.mkdir(parents=True)
    world.paths.config_file.write_text(
        '{"version": 6, "instance": "old", "auth": {"users": [{"name": "ann", "passwordBcrypt": "x"}]}}'
    )
    result = world.call("Init")
    assert result["added"] == ["identity"]
    config = world.config().current
    assert config.instance == "old"
    assert config.auth.users[0].name == "ann"


@pytest.mark.parametrize("bad", ["", "a/b", "_x_", "x" * 51, "grün"])
def test_init_refuses_an_instance_id_that_is_none(tmp_path: Path, bad: str) -> None:
    world = World(tmp_path)
    with pytest.raises(UserError, match="the instance id"):
        world.call("Init", instance_id=bad)
    assert not world.paths.config_file.exists()


@pytest.mark.parametrize(
    ("hostname", "instance_id"),
    [
        ("laptop.example.com", "laptop"),
        ("grün", "gr_n"),
        ("x" * 80, "x" * 50),
        ("___", "backrest"),
        ("", "backrest"),
    ],
)
def test_the_default_instance_id_is_the_hosts_name_made_fit(hostname: str, instance_id: str) -> None:
    assert instance.default_instance_id(hostname) == instance_id


# --- tokens


def test_a_token_carries_this_hub_and_is_told_once(world: World) -> None:
    result = world.call("CreateToken", label="laptop")
    token = PairingToken.parse(result["token"])
    [stored] = world.config().current.multihost.pairing_tokens
    assert token.secret == stored.secret
    assert token.instance_id == "here"
    assert result["grants"] == ["read-operations=*", "receive-shared-repos=*"]
    assert stored.max_uses == 1
    assert stored.expires_at_unix - stored.created_at_unix == HOUR
    listed = json.dumps(world.call("ListTokens"))
    assert token.secret not in listed
    assert token.secret not in world.paths.audit.read_text()


def test_a_token_without_label_gets_the_next_free_one(world: World) -> None:
    assert [world.call("CreateToken")["label"] for _ in range(3)] == ["token-1", "token-2", "token-3"]
    world.call("RevokeToken", label="token-2")
    assert world.call("CreateToken")["label"] == "token-2"


def test_two_tokens_of_one_label_are_refused(world: World) -> None:
    world.call("CreateToken", label="x")
    with pytest.raises(ConflictError, match="already a token 'x'"):
        world.call("CreateToken", label="x")


@pytest.mark.parametrize("label", ["", " ", "a\nb", "\x1b[1m", "x" * 101])
def test_a_label_must_be_printable(world: World, label: str) -> None:
    with pytest.raises(UserError, match="a label has"):
        world.call("CreateToken", label=label)


@pytest.mark.parametrize(
    "permissions", [["bogus"], ["read-operations=x"], ["read-config=*", "read-config=plan:p"]]
)
def test_permissions_that_make_no_sense_are_refused(world: World, permissions: list[str]) -> None:
    with pytest.raises(UserError):
        world.call("CreateToken", permissions=permissions)
    assert not world.config().current.multihost.pairing_tokens


@pytest.mark.parametrize("uses", [-1, 2**31])
def test_uses_have_bounds(world: World, uses: int) -> None:
    with pytest.raises(UserError, match="number of uses"):
        world.call("CreateToken", max_uses=uses)
    world.call("CreateToken", max_uses=2**31 - 1)
    world.call("CreateToken", max_uses=0)


def test_a_token_needs_an_identity(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backrest init"):
        World(tmp_path).call("CreateToken")


def test_tokens_show_what_has_become_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now_ms()
    world.call("CreateToken", label="short", ttl_seconds=10)
    world.call("CreateToken", label="long", ttl_seconds=0)
    world.config().transform(lambda c: setattr(c.multihost.pairing_tokens[1], "uses", 1))

    def states(at_ms: int) -> list[str]:
        monkeypatch.setattr(clock, "now_ms", lambda: at_ms)
        return [one["state"] for one in world.call("ListTokens")["pairingTokens"]]

    assert states(now) == ["open", "used up"]
    assert states(now + 12_000) == ["expired", "used up"]


def test_revoking_an_unknown_token_names_those_that_there_are(world: World) -> None:
    world.call("CreateToken", label="x")
    with pytest.raises(NotFoundError, match="there are: 'x'"):
        world.call("RevokeToken", label="y")
    world.call("RevokeToken", label="x")
    assert world.audit_events() == ["initialised", "token-created", "token-revoked"]


# --- hosts


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
        assert world.call("Status")["peers"] == []
        with pytest.raises(NotFoundError):
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


# --- repos and plans


def test_a_repo_without_init_is_entered_to_be_made_later(world: World) -> None:
    world.stream("AddRepo", repo={"id": "r", "uri": "/srv/r", "password": "correct-horse"}, initialize=False)
    [repo] = world.config().current.repos
    assert repo.auto_initialize
    assert not repo.guid
    for shown in (world.call("ListRepos"), world.call("ShowRepo", repo_id="r"), world.call("ShowConfig")):
        assert "correct-horse" not in json.dumps(shown)
        assert MASK in json.dumps(shown)
    assert "correct-horse" not in world.paths.audit.read_text()


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ({"id": "a/b", "uri": "/x"}, "may hold only"),
        ({"id": "r", "uri": ""}, "needs a URI"),
        ({"id": "r", "uri": "/x", "guid": "a" * 64}, "comes without guid"),
        ({"id": "r", "uri": "/x", "originInstanceId": "hub"}, "comes without guid"),
        ({"id": "r", "uri": "/x", "pasword": "p"}, "cannot be read"),
        ({"id": "r1", "uri": "/x"}, "already a repository 'r1'"),
    ],
)
def test_a_repo_that_cannot_be_is_refused(world: World, repo: dict[str, Any], words: str) -> None:
    world.add_repo()
    with pytest.raises(UserError, match=words):
        world.stream("AddRepo", repo=repo, initialize=False)
    assert len(world.config().current.repos) == 1


def test_a_repo_in_use_is_not_removed(world: World) -> None:
    world.add_repo()
    world.call("AddPlan", plan={"id": "p", "repo": "r1", "paths": ["/x"]})
    with pytest.raises(ConflictError, match="is used by p"):
        world.call("RemoveRepo", repo_id="r1")
    world.call("RemovePlan", plan_id="p")
    world.call("RemoveRepo", repo_id="r1")
    assert not world.config().current.repos


def test_a_plan_is_written_as_the_reference_writes_it(world: World) -> None:
    world.add_repo()
    plan = {
        "id": "photos",
        "repo": "r1",
        "paths": ["/srv/photos"],
        "excludes": ["*.tmp"],
        "schedule": {"disabled": True},
        "retention": {"policyKeepLastN": 2},
    }
    world.call("AddPlan", plan={name: value for name, value in plan.items() if name != "schedule"})
    assert json.loads(world.paths.config_file.read_text())["plans"] == [plan]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"id": "p", "repo": "nope", "paths": ["/x"]}, "there is no repository 'nope'"),
        ({"id": "", "repo": "r1", "paths": ["/x"]}, "the plan id '' is empty"),
        ({"id": "p", "repo": "r1"}, "path"),
        ({"id": "p", "repo": "r1", "paths": ["/x"], "schedule": {"cron": "61 * * * *"}}, "cron"),
        ({"id": "p", "repo": "r1", "path": ["/x"]}, "cannot be read"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(world: World, plan: dict[str, Any], words: str) -> None:
    world.add_repo()
    with pytest.raises(UserError, match=words):
        world.call("AddPlan", plan=plan)
    assert not world.config().current.plans


# --- history

LINE = {"repoId": "r1", "planId": "p", "unixTimeStartMs": "1700000000000"}


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


def test_a_batch_with_a_bad_operation_adds_nothing(world: World) -> None:
    with pytest.raises(UserError, match="operation 2 cannot be imported"):
        world.call("ImportOperations", operations=[LINE, LINE | {"snapshotId": "short"}])
    assert world.stream("ListOperations")[0]["count"] == 0


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


# --- configuration


def test_what_is_shown_can_be_imported_again_without_a_change(world: World) -> None:
    world.add_repo()
    world.call("CreateToken", label="x")
    add_host(world)
    shown = world.call("ShowConfig")["config"]
    text = json.dumps(shown)
    for secret in ("correct-horse", SECRET):
        assert secret not in text
    before = world.paths.config_file.read_bytes()
    assert world.call("ImportConfig", text=text)["changed"] is False
    assert world.paths.config_file.read_bytes() == before
    shown["plans"] = [{"id": "p", "repo": "r1", "paths": ["/x"]}]
    assert world.call("ImportConfig", text=json.dumps(shown))["changed"] is True
    after = world.config().current
    assert after.repos[0].password == "correct-horse"
    assert after.plans[0].id == "p"


def test_an_import_without_identity_keeps_ours(world: World) -> None:
    keyid = world.call("Status")["instance"]["keyId"]
    result = world.call("ImportConfig", text='{"version": 6, "instance": "renamed"}')
    assert (result["changed"], result["newIdentity"]) == (True, False)
    config = world.config().current
    assert config.multihost.identity.keyid == keyid
    assert config.instance == "renamed"


def test_an_import_of_the_reference_brings_its_identity(world: World) -> None:
    path = Path(__file__).parent.parent / "conformance/vectors/captures/hub-config.json"
    result = world.call("ImportConfig", text=path.read_text())
    assert result["newIdentity"]
    assert world.config().current.repos[0].id == "nas"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 7}',
     '{"version": 6, "plans": [{"id": "p", "repo": "nope", "paths": ["/x"]}]}',
     '{"version": 6, "repos": [{"id": "new", "uri": "/x", "password": "********", "autoInitialize": true}]}'],
)  # fmt: skip
def test_an_import_that_cannot_be_changes_nothing(world: World, text: str) -> None:
    before = world.paths.config_file.read_bytes()
    with pytest.raises(UserError):
        world.call("ImportConfig", text=text)
    assert world.paths.config_file.read_bytes() == before


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
        assert ask_reference(world, "GetOperations", b"{}", "json")[0] == 400
        both = b'{"selector":{"ids":["1"],"planId":"p"}}'
        assert ask_reference(world, "GetOperations", both, "json")[0] == 400
        assert ask_reference(world, "GetOperations", b"\xff\xff", "proto")[0] == 400

        request = wire.service.GeneratePairingTokenRequest(label="ui", ttl_seconds=900, max_uses=1)
        request.permissions.add(type=4, scopes=["*"])
        status, body = ask_reference(world, "GeneratePairingToken", request.SerializeToString(), "proto")
        token = PairingToken.parse(wire.service.GeneratePairingTokenResponse.FromString(body).token)
        [stored] = daemon.config.current.multihost.pairing_tokens
        assert (stored.secret, stored.label) == (token.secret, "ui")

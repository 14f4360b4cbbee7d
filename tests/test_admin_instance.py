"""First configuration and pairing tokens: what the use cases change, what they refuse, what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from admin_world import World

from backrest.admin import context as clock
from backrest.admin import instance
from backrest.crypto.tokens import PairingToken
from backrest.errors import ConflictError, NotFoundError, UserError

HOUR = 3600


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


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
    with pytest.raises(NotFoundError, match="there are: x"):
        world.call("RevokeToken", label="y")
    world.call("RevokeToken", label="x")
    assert world.audit_events() == ["initialised", "token-created", "token-revoked"]

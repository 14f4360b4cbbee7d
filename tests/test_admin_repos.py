"""Repositories by the use cases: changed, shared, replaced as the reference's API does it; and read-only ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from admin_world import GUID, World, add_client, add_host, operation
from engine_world import PASSWORD, fake_restic, guid_of, repository, restic, restic_command, template
from processes import BACKREST
from store_disk import NoRoomForConfig, using

from backrest import wire
from backrest.admin import repos
from backrest.admin.context import Context
from backrest.errors import BackrestError, ConflictError, NotFoundError, ResticError, StorageError, UserError
from backrest.refusals import Why, refusal
from backrest.store.mask import MASK
from backrest.wire import sync

__all__ = ["repository", "template"]  # fixtures

Repo = wire.config.Repo
OTHER = "b" * 64


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("RESTIC_CACHE_DIR", str(tmp_path / "cache"))
    made = World(tmp_path)
    made.call("Init", instance_id="here")
    return made


def shared_by_hub(world: World, **fields: Any) -> None:
    """A hub, its repo "theirs", and a plan on it."""
    add_host(world)

    def change(config: wire.config.Config) -> None:
        config.repos.add(
            **{"id": "theirs", "uri": "/srv/t", "guid": OTHER, "password": "p", "origin_instance_id": "hub"}
            | fields
        )
        config.plans.add(id="photos", repo="theirs", paths=["/x"])

    world.config().transform(change)


def hub_keyid(world: World) -> str:
    return world.config().current.multihost.known_hosts[0].keyid


def with_context(world: World, work: Callable[[Context], Any], command: str | None = None) -> Any:
    with Context(world.paths, restic_command=command) as context:
        return trio.run(work, context)


# --- read-only


@pytest.mark.parametrize(
    ("method", "args", "streams"),
    [
        ("SetRepo", {"repo_id": "theirs", "changes": {"password": "other"}}, True),
        ("SetRepo", {"repo_id": "theirs", "changes": {}, "env": ["A=1"], "check": False}, True),
        ("ShareRepo", {"repo_id": "theirs"}, True),
        ("UnshareRepo", {"repo_id": "theirs"}, False),
    ],
)
def test_a_repo_of_another_instance_is_read_only_for_every_use_case(
    world: World, method: str, args: dict[str, Any], streams: bool
) -> None:
    shared_by_hub(world, shared=True)
    before = world.paths.config_file.read_bytes()
    with pytest.raises(ConflictError, match="came from 'hub' and is read-only here"):
        world.stream(method, **args) if streams else world.call(method, **args)
    assert world.paths.config_file.read_bytes() == before


def test_it_can_be_removed_and_is_said_to_come_again(world: World) -> None:
    shared_by_hub(world)
    world.call("RemovePlan", plan_id="photos")
    assert world.call("RemoveRepo", repo_id="theirs") == {"removed": "theirs", "offeredBy": "hub"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"id": "theirs", "uri": "/elsewhere"}, "read-only"),
        ({"id": "theirs", "uri": "/srv/t", "guid": OTHER, "origin_instance_id": "hub"}, "read-only"),
        ({"id": "new", "uri": "/srv/n", "origin_instance_id": "hub"}, "cannot be set"),
    ],
)
def test_the_api_neither_changes_nor_makes_one(world: World, given: dict[str, Any], words: str) -> None:
    shared_by_hub(world)
    before = world.config().current
    with pytest.raises(UserError, match=words):
        with_context(world, lambda context: repos.put(context, Repo(**given)))
    assert world.config().current == before


def _altered(repo: dict[str, Any]) -> None:
    repo["uri"] = "/elsewhere"


def _disowned(repo: dict[str, Any]) -> None:
    del repo["originInstanceId"]


def _renamed(repo: dict[str, Any]) -> None:
    repo["id"] = "mine"
    del repo["originInstanceId"]


def _given_away(repo: dict[str, Any]) -> None:
    repo["originInstanceId"] = "another"


@pytest.mark.parametrize("change", [_altered, _disowned, _renamed, _given_away])
def test_an_import_cannot_alter_one(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    shared_by_hub(world)
    shown = world.call("ShowConfig")["config"]
    change(shown["repos"][0])
    shown["plans"] = []
    before = world.paths.config_file.read_bytes()
    with pytest.raises(UserError, match=r"read-only|password"):  # a mask under a new id stands for nothing
        world.call("ImportConfig", text=json.dumps(shown))
    shown["repos"][0]["password"] = "p"
    with pytest.raises(UserError, match="read-only"):
        world.call("ImportConfig", text=json.dumps(shown))
    assert world.paths.config_file.read_bytes() == before


def test_an_import_cannot_invent_one_and_may_leave_one_out(world: World) -> None:
    shared_by_hub(world)
    shown = world.call("ShowConfig")["config"]
    invented = {"id": "x", "uri": "/x", "guid": GUID, "originInstanceId": "hub"}
    with pytest.raises(UserError, match="only that instance can share it"):
        world.call("ImportConfig", text=json.dumps(shown | {"repos": [*shown["repos"], invented]}))
    world.call("ImportConfig", text=json.dumps(shown | {"repos": [], "plans": []}))
    assert not world.config().current.repos


def test_a_whole_instance_that_moves_here_brings_what_was_shared_with_it(
    world: World, tmp_path: Path
) -> None:
    old = World(tmp_path / "old")
    old.call("Init", instance_id="laptop")
    shared_by_hub(old)
    assert world.call("ImportConfig", text=old.paths.config_file.read_text())["newIdentity"]
    assert world.config().current.repos[0].origin_instance_id == "hub"


# --- changed


def test_fields_are_changed_and_shown_without_their_secrets(world: World) -> None:
    world.add_repo(env=["A=1", "AWS_SECRET=hush"], flags=["--no-cache"])
    result, _ = world.stream(
        "SetRepo",
        repo_id="r1",
        changes={"flags": ["--limit-upload=9"], "autoUnlock": True, "password": "battery"},
        env=["B=2", "A=3"],
        unset_env=["AWS_SECRET"],
        check=False,
    )
    [repo] = world.config().current.repos
    assert (list(repo.env), list(repo.flags), repo.auto_unlock, repo.password) == (
        ["A=3", "B=2"], ["--limit-upload=9"], True, "battery",
    )  # fmt: skip
    assert [one["field"] for one in result["changed"]] == ["password", "env", "flags", "autoUnlock"]
    for secret in ("hush", "battery", "correct-horse"):
        assert secret not in json.dumps(result)
        assert secret not in world.paths.audit.read_text()
    assert world.audit_events()[-1] == "repo-changed"
    assert world.stream("SetRepo", repo_id="r1", changes={"autoUnlock": True})[0]["changed"] == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"changes": {"guid": OTHER}}, "cannot be changed here: guid"),
        ({"changes": {"originInstanceId": "hub"}}, "cannot be changed here: originInstanceId"),
        ({"changes": {"shared": True}}, "cannot be changed here: shared"),
        ({"changes": {"uri": ""}}, "needs a URI"),
        ({"changes": {}, "unset_env": ["NOPE"]}, "no variable 'NOPE'"),
        ({"changes": {"urii": "/x"}}, "cannot be read"),
    ],
)
def test_what_cannot_be_changed_is_refused(world: World, args: dict[str, Any], words: str) -> None:
    world.add_repo()
    with pytest.raises(UserError, match=words):
        world.stream("SetRepo", repo_id="r1", **args)


def real(world: World, repository: Path, **fields: Any) -> None:
    def append(config: wire.config.Config) -> None:
        given = {
            "id": "nas",
            "uri": str(repository),
            "password": PASSWORD,
            "guid": guid_of(repository),
        } | fields
        config.repos.add(**given)

    world.config().transform(append)


def test_a_new_address_must_be_that_of_the_same_repository(
    world: World, repository: Path, tmp_path: Path
) -> None:
    real(world, repository)
    (tmp_path / "link").symlink_to(repository)
    world.stream("SetRepo", repo_id="nas", changes={"uri": str(tmp_path / "link")})
    assert world.config().current.repos[0].uri == str(tmp_path / "link")
    other = tmp_path / "other"
    restic(other, "init")
    with pytest.raises(ConflictError, match="another repository"):
        world.stream("SetRepo", repo_id="nas", changes={"uri": str(other)})
    with pytest.raises(ResticError, match="no restic repository"):
        world.stream("SetRepo", repo_id="nas", changes={"uri": str(tmp_path / "nowhere")})
    with pytest.raises(ResticError, match="password of repo nas is wrong"):
        world.stream("SetRepo", repo_id="nas", changes={"password": "wrong"})
    assert world.config().current.repos[0].uri == str(tmp_path / "link")
    world.stream("SetRepo", repo_id="nas", changes={"uri": str(other)}, check=False)
    assert world.config().current.repos[0].uri == str(other)


# --- made only where its password is kept


@pytest.mark.parametrize("way", ["command", "API"])
def test_no_repository_is_made_where_its_password_cannot_be_kept(
    world: World, template: Path, tmp_path: Path, way: str
) -> None:
    new = {"id": "nas", "uri": str(tmp_path / "repo"), "password": PASSWORD}
    before = world.paths.config_file.read_bytes()

    def make() -> None:
        if way == "command":
            world.stream("AddRepo", repo=new)
        else:
            with_context(world, lambda context: repos.put(context, Repo(**new)), restic_command())

    with using(NoRoomForConfig(0)), pytest.raises(StorageError, match="no space is left"):
        make()
    assert not (tmp_path / "repo").exists()
    assert world.paths.config_file.read_bytes() == before


def test_what_is_made_when_the_disk_fills_keeps_its_password(
    world: World, template: Path, tmp_path: Path
) -> None:
    uri = str(tmp_path / "repo")
    with (
        using(NoRoomForConfig(1)),
        pytest.raises(StorageError, match=r"its entry stays, with its password") as error,
    ):
        world.stream("AddRepo", repo={"id": "nas", "uri": uri, "password": PASSWORD})
    assert PASSWORD not in str(error.value)
    [entry] = world.config().current.repos
    assert (entry.password, entry.guid, entry.auto_initialize) == (PASSWORD, "", True)
    with pytest.raises(ConflictError, match="not made yet: `backrest index nas` makes it"):
        world.stream("AddRepo", repo={"id": "nas", "uri": uri, "password": "other"})
    world.stream("Index", repo_id="nas")
    [entry] = world.config().current.repos
    assert (entry.guid, entry.auto_initialize) == (guid_of(tmp_path / "repo"), False)


def test_a_kill_while_restic_makes_it_keeps_the_password(world: World, tmp_path: Path) -> None:
    (tmp_path / "restic").write_text(
        '#!/bin/sh\ncase "$*" in\n*version*) echo restic 0.17.3;;\n*init*) kill -9 $PPID;;\n*) exit 10;;\nesac\n'
    )
    (tmp_path / "restic").chmod(0o755)
    command = [*BACKREST, "repo", "add", "nas", "--uri", str(tmp_path / "repo"), "--generate-password"]
    environ = {"BACKREST_CONFIG": str(world.paths.config_file), "BACKREST_DATA": str(world.paths.data_dir)}
    killed = subprocess.run(
        command,
        env=os.environ | environ | {"BACKREST_RESTIC_COMMAND": str(tmp_path / "restic")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    [entry] = world.config().current.repos
    assert (len(entry.password), entry.auto_initialize) == (43, True)


def test_where_none_can_be_made_nothing_is_entered(world: World, template: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    uri = str(tmp_path / "file" / "repo")
    with pytest.raises(ResticError):
        world.stream("AddRepo", repo={"id": "nas", "uri": uri, "password": PASSWORD})
    assert not world.config().current.repos


# --- the reference's API


def test_add_repo_makes_enters_and_replaces_and_modno_grows(world: World, tmp_path: Path) -> None:
    modno = world.config().current.modno
    new = Repo(id="nas", uri=str(tmp_path / "repo"), password=PASSWORD)
    first = with_context(world, lambda context: repos.put(context, new), restic_command())
    assert first.repos[0].guid == guid_of(tmp_path / "repo")
    again = Repo(id="nas", uri=str(tmp_path / "repo"), password=MASK, shared=True, auto_unlock=True)
    second = with_context(world, lambda context: repos.put(context, again), restic_command())
    assert (second.repos[0].password, second.repos[0].shared) == (PASSWORD, True)
    assert [first.modno, second.modno] == [modno + 1, modno + 2]
    twin = Repo(id="twin", uri=str(tmp_path / "repo"), password=PASSWORD)
    with pytest.raises(ConflictError, match="here already as 'nas'"):
        with_context(world, lambda context: repos.put(context, twin), restic_command())
    assert world.audit_events()[-2:] == ["repo-added", "repo-changed"]


def test_the_history_follows_a_repo_that_is_another_one_now(world: World, repository: Path) -> None:
    world.add_repo()

    async def work(context: Context) -> None:
        mine = context.oplog.add([operation(1), operation(2, repo_id="else", repo_guid=OTHER)])
        foreign = operation(7, instance_id="laptop", id=7, modno=7, flow_id=7)
        context.oplog.apply("ed25519.x", [foreign])
        told: list[Any] = []
        context.oplog.subscribe(told.append)
        new = Repo(id="r1", uri=str(repository), password=PASSWORD)
        guid = (await repos.put(context, new)).repos[0].guid
        assert [context.oplog.get(op.id).repo_guid for op in mine] == [guid, OTHER]
        assert [change.kind for change in told] == ["updated"], "peers hear of it (W-21)"
        [other] = [op for op in context.oplog.read(range(10)) if op.original_instance_keyid]
        assert other.repo_guid == GUID, "what a client sent is the client's"

    with_context(world, work, restic_command())


def test_a_repo_that_changed_while_restic_was_asked_is_not_overwritten(world: World, tmp_path: Path) -> None:
    world.add_repo()
    path = str(world.paths.config_file)
    body = f"""
text = open({path!r}).read()
open({path!r}, "w").write(text.replace('"/srv/r"', '"/srv/edited"'))
print(json.dumps({{"id": "ef" * 32}}))
"""
    put = Repo(id="r1", uri="/srv/new", password="x")
    with pytest.raises(ConflictError, match="changed meanwhile"):
        with_context(world, lambda context: repos.put(context, put), fake_restic(tmp_path, body))
    assert world.config().current.repos[0].uri == "/srv/edited"


def test_whether_a_repository_exists_is_answered_without_an_exception(
    world: World, repository: Path, tmp_path: Path
) -> None:
    def ask(**fields: Any) -> dict[str, Any]:
        repo = Repo(**{"id": "x", "uri": str(repository), "password": PASSWORD} | fields)
        answer: dict[str, Any] = with_context(
            world, lambda context: repos.check_exists(context, repo), restic_command()
        )
        return answer

    assert ask() == {"exists": True, "error": "", "hostKeyUntrusted": False}
    none = ask(uri=str(tmp_path / "nowhere"))
    assert not none["exists"]
    wrong = ask(password="wrong")
    assert not wrong["exists"]
    assert "password" in wrong["error"]
    assert "URI" in ask(uri="")["error"]
    real(world, repository)
    assert ask(id="nas", password=MASK)["exists"]
    assert "mask" in ask(id="unknown", password=MASK)["error"]


async def test_a_restic_that_does_not_answer_is_given_up_after_30_s(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repos, "EXISTS_S", 0.0)  # that there is one, and what it does
    command = fake_restic(tmp_path, "time.sleep(600)")
    with Context(world.paths, restic_command=command) as context:
        context.engine.bench.grace_s = 0.1
        answer = await repos.check_exists(context, Repo(id="x", uri="/x", password="p"))
    assert not answer["exists"]
    assert "did not answer within" in answer["error"]


# --- shared


def test_sharing_names_who_receives_it_and_who_cannot_and_warns_of_a_local_path(world: World) -> None:
    world.add_repo()
    may = add_client(world, "desk", "ed25519." + "C" * 43)
    add_client(world, "laptop")
    world.call("SetClientPermissions", ident="desk", permissions=["receive-shared-repos=*"])
    result, _ = world.stream("ShareRepo", repo_id="r1", wait=False)
    assert world.config().current.repos[0].shared
    assert [(one["instanceId"], one["receives"]) for one in result["clients"]] == [
        ("desk", True),
        ("laptop", False),
    ]
    assert "connects" in result["clients"][0]["message"]
    assert "client permissions laptop" in result["clients"][1]["message"]
    [warning] = result["warnings"]
    assert "/srv/r is a path on this machine's own disk" in warning
    assert "desk would look" in warning
    assert "--uri-for desk=" in warning
    result, _ = world.stream("ShareRepo", repo_id="r1", uris=["desk=sftp:nas:/r"], wait=False)
    assert result["warnings"] == []
    assert json.loads((world.paths.data_dir / "shares.json").read_text()) == {
        "uris": {GUID: {may: "sftp:nas:/r"}}
    }
    shown = world.call("ShowRepo", repo_id="r1")
    assert shown["uris"] == {"desk": "sftp:nas:/r"}
    assert shown["clients"] == result["clients"], "afterwards, too, it says who gets it, and why not"
    assert world.stream("ShareRepo", repo_id="r1", no_uris=["desk"], wait=False)[0]["warnings"]
    assert world.call("ShowRepo", repo_id="r1")["uris"] == {}
    world.call("UnshareRepo", repo_id="r1")
    assert world.call("ShowRepo", repo_id="r1")["clients"] == []


@pytest.mark.parametrize(
    ("uri", "warned"),
    [("/srv/r", True), ("local:/srv/r", True), ("sftp:nas:/r", False), ("s3:https://x/y", False),
     ("rest:http://x/", False), ("rclone:drive:r", False)],
)  # fmt: skip
def test_the_warning_is_about_paths_on_the_disk_only(world: World, uri: str, warned: bool) -> None:
    world.add_repo()

    def move(config: wire.config.Config) -> None:
        config.repos[0].uri = uri

    world.config().transform(move)
    add_client(world)
    world.call("SetClientPermissions", ident="laptop", permissions=["receive-shared-repos"])
    assert bool(world.stream("ShareRepo", repo_id="r1", wait=False)[0]["warnings"]) == warned


def test_passwords_in_an_address_are_stored_and_never_shown(world: World) -> None:
    world.add_repo()
    add_client(world)
    result, _ = world.stream(
        "ShareRepo", repo_id="r1", uris=["laptop=rest:https://me:hush-hush@nas/r"], wait=False
    )
    shown = [result, world.call("ShowRepo", repo_id="r1"), world.paths.audit.read_text()]
    assert "hush-hush" not in json.dumps(shown)
    assert "hush-hush" in (world.paths.data_dir / "shares.json").read_text()


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ({"uris": ["laptop"]}, UserError, "CLIENT=URI"),
        ({"uris": ["laptop="]}, UserError, "CLIENT=URI"),
        ({"uris": ["nobody=/x"]}, NotFoundError, "no client 'nobody'"),
        ({"no_uris": ["nobody"]}, NotFoundError, "no client 'nobody'"),
        ({"uris": ["laptop=/x", "laptop=/y"]}, UserError, "named twice"),
        ({"uris": ["laptop=x/y"]}, UserError, "not a whole path"),
        ({"repo_id": "nope"}, NotFoundError, "no repository 'nope'"),
    ],
)
def test_a_wrong_request_shares_nothing(
    world: World, args: dict[str, Any], error: type[BackrestError], words: str
) -> None:
    world.add_repo()
    add_client(world)
    with pytest.raises(error, match=words):
        world.stream("ShareRepo", **({"repo_id": "r1"} | args))
    assert not world.config().current.repos[0].shared
    assert not (world.paths.data_dir / "shares.json").exists()


def test_a_repo_without_guid_is_asked_for_it_before_it_is_shared(
    world: World, repository: Path, tmp_path: Path
) -> None:
    real(world, repository, guid="", auto_initialize=True)
    world.stream("ShareRepo", repo_id="nas")
    [repo] = world.config().current.repos
    assert (repo.guid, repo.shared) == (guid_of(repository), True)
    (tmp_path / "file").write_text("not a directory")

    def lost(config: wire.config.Config) -> None:
        config.repos.add(id="lost", uri=str(tmp_path / "file" / "x"), auto_initialize=True, password="p")

    world.config().transform(lost)
    with pytest.raises(ResticError, match="'lost' cannot be shared before restic has opened it"):
        world.stream("ShareRepo", repo_id="lost")
    assert not next(r for r in world.config().current.repos if r.id == "lost").shared


def test_addresses_go_with_the_client_or_the_repo(world: World) -> None:
    def stored() -> Any:
        return json.loads((world.paths.data_dir / "shares.json").read_text())["uris"]

    world.add_repo()
    add_client(world)
    add_client(world, "desk", "ed25519." + "C" * 43)
    world.stream("ShareRepo", repo_id="r1", uris=["laptop=/a", "desk=/b"], wait=False)
    world.call("RemoveClient", ident="laptop")
    assert list(stored()[GUID].values()) == ["/b"]
    world.call("RemoveRepo", repo_id="r1")
    assert stored() == {}


def test_unsharing_keeps_the_repo_and_names_who_has_it(world: World) -> None:
    world.add_repo()
    keyid = add_client(world)
    with world.daemon() as context:
        world.stream("ShareRepo", repo_id="r1")
        context.peers.update(keyid, role="client", known_repos=(sync.RepoMetadata(id="r1", guid=GUID),))
        assert world.call("UnshareRepo", repo_id="r1")["heldBy"] == ["laptop"]
        assert world.call("UnshareRepo", repo_id="r1")["changed"] is False
    assert not world.config().current.repos[0].shared
    assert world.audit_events()[-2:] == ["repo-shared", "repo-unshared"]


LONG_ID = "r" * 100


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"known_repos": (sync.RepoMetadata(id=LONG_ID, guid=GUID),)}, "has it"),
        (
            {"warnings": (refusal("repo", LONG_ID, Why.SAME_GUID),)},
            "refused it: a local repo has the same guid",
        ),
        (
            {
                "warnings": (refusal("repo", LONG_ID, Why.LEFT_OUT, names=["its hooks"]),),
                "known_repos": (sync.RepoMetadata(id=LONG_ID, guid=GUID),),
            },
            "has it: taken without its hooks, which may run programs or read files there",
        ),
        (
            {"warnings": (refusal("repo", LONG_ID, Why.NOT_LISTED),)},
            "it is shared, and not among the repos that the client shows: the client refused it, or does not grant "
            "read-operations for it to this hub",
        ),
        (
            {
                "warnings": (refusal("repo", "r" * 99, Why.SAME_GUID),),
                "known_repos": (sync.RepoMetadata(id="r", guid=GUID),),
            },
            "has it",
        ),
    ],
)
def test_what_a_connected_client_says_is_told(world: World, fields: dict[str, Any], words: str) -> None:
    world.add_repo(repo_id=LONG_ID)
    keyid = add_client(world)
    world.call("SetClientPermissions", ident="laptop", permissions=["receive-shared-repos"])
    with world.daemon() as context:
        context.peers.update(keyid, role="client", state=sync.CONNECTION_STATE_CONNECTED, **fields)
        result, _ = world.stream("ShareRepo", repo_id=LONG_ID)
        assert world.call("ShowRepo", repo_id=LONG_ID)["clients"] == result["clients"]
    assert result["clients"][0]["message"] == words


# --- what a hub takes back


def test_a_repo_that_its_hub_no_longer_offers_is_shown_as_such_and_its_plan_goes_on(world: World) -> None:
    shared_by_hub(world)
    keyid = hub_keyid(world)
    with world.daemon() as context:
        context.peers.update(keyid, role="host", instance_id="hub", offered=(OTHER,))
        assert "withdrawn" not in world.call("ListRepos")
        context.peers.update(keyid, offered=())
        assert world.call("ListRepos")["withdrawn"] == ["theirs"]
        assert world.call("ShowRepo", repo_id="theirs")["withdrawn"]
        [warning] = world.call("Status")["peers"][0]["warnings"]
        context.peers.flush()
    assert "repo 'theirs': no longer offered by hub; still backed up to by photos" in warning
    assert world.call("ListRepos")["withdrawn"] == ["theirs"], "also after a restart, without a daemon"
    assert [plan.id for plan in world.config().current.plans] == ["photos"]
    world.call("RemovePlan", plan_id="photos")
    assert world.call("RemoveRepo", repo_id="theirs")["offeredBy"] == ""


def test_a_local_repo_is_never_taken_for_one_that_was_withdrawn(world: World) -> None:
    world.add_repo()
    add_host(world)
    with world.daemon() as context:
        context.peers.update(hub_keyid(world), role="host", instance_id="hub", offered=())
        assert "withdrawn" not in world.call("ListRepos")

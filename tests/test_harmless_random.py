"""Made-up repositories of a hub that may only share them, thousands of them (``--made-up-repos 10000``: the full run).

Each goes the whole way: a set_config through sync/apply.py into a configuration, a plan on it, and the commands of the
engine on it up to the start of restic; every so often a whole backup, with a restic that is a shell script. Known
attacks are mixed in. What then counts as harmless is described here once more, and by other means than
backrest/harmless.py has: by what restic, ssh and a shell would make of the words that they get.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from engine_world import World, make_repo

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.engine import command, process
from backrest.errors import UserError
from backrest.permissions import parse_grant
from backrest.sync.apply import SetConfig, apply_set_config

Repo = wire.config.Repo
Config = wire.config.Config
Plan = wire.config.Plan

REAL_EVERY = 100  # of so many repositories one is used by a real process, which takes some 30 ms
ROUNDS = 5  # repositories that one configuration sees, as a hub changes its mind

OWN = {
    "RESTIC_REST_PASSWORD": "pLaNtEd-rest",
    "OS_PASSWORD": "pLaNtEd-os",
    "MY_SECRET": "pLaNtEd-mine",
}

# {run}: a command that leaves a trace; {file}: a file of this machine.
ATTACKS_URI = [
    "rclone:x:y",
    'rclone::webdav,url="http://h",bearer_token_command="{run}":',
    "rclone::sftp,ssh={run}:/x",
    "sftp:-oProxyCommand={run}:/p@y",
    "sftp:x@-oProxyCommand={run}:/p",
    "sftp://-oProxyCommand={run}/p",
    "sftp://%2DoProxyCommand={run}@h/p",
    "sftp:h;{run}:/p",
    "sftp:$({run}):/p",
    "sftp:`{run}`:/p",
    "sftp://h/../../etc",
    "rest:http+unix://{file}:/x",
    "rest:file://{file}",
    "rest:http://h/${{MY_SECRET}}",
    "s3:http://h/${{MY_SECRET}}",
    "local:../../etc",
    "local:{file}/../x",
    "{file}/..",
    "relative",
    "-r{file}",
    "--repository-file={file}",
    "--password-command={run}",
    "swift:c:/../x",
    "b2:x\n--password-command={run}",
    "s3:h/b\0x",
    "azure:evil.example.com/x:/",
]
ATTACKS_ENV = [
    "BASH_ENV={file}",
    "BASH_FUNC_date%%=() {{ {run}; }}",
    "ENV={file}",
    "PATH={file}",
    "LD_PRELOAD={file}",
    "LD_AUDIT={file}",
    "DYLD_INSERT_LIBRARIES={file}",
    "RESTIC_PASSWORD_COMMAND={run}",
    "RESTIC_PASSWORD_FILE={file}",
    "RESTIC_REPOSITORY={file}",
    "RESTIC_REPOSITORY_FILE={file}",
    "RESTIC_CACERT={file}",
    "RESTIC_TLS_CLIENT_CERT={file}",
    "RESTIC_CACHE_DIR={file}",
    "RESTIC_FROM_PASSWORD_COMMAND={run}",
    "RCLONE_SSH={run}",
    "AWS_WEB_IDENTITY_TOKEN_FILE={file}",
    "AWS_REGION=h.example.com/",
    "AWS_DEFAULT_REGION=h.example.com/",
    "AWS_DEFAULT_REGION=eu\nX=1",
    "AWS_SHARED_CREDENTIALS_FILE={file}",
    "AWS_PROFILE=root",
    "AWS_ROLE_ARN=arn:aws:iam::1:role/x",
    "RESTIC_AWS_ASSUME_ROLE_STS_ENDPOINT=h.example.com",
    "GOOGLE_APPLICATION_CREDENTIALS={file}",
    "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1",
    "AZURE_FORCE_CLI_CREDENTIAL=1",
    "AZURE_ENDPOINT_SUFFIX=h.example.com",
    "AZURE_ACCOUNT_NAME=h.example.com/",
    "OS_AUTH_URL=file://{file}",
    "ST_AUTH=file://{file}",
    "HTTPS_PROXY=http://h.example.com",
    "SSL_CERT_FILE={file}",
    "SSH_AUTH_SOCK={file}",
    "GIT_SSH_COMMAND={run}",
    "GODEBUG=x",
    "TMPDIR={file}",
    "HOME={file}",
    "AWS_SECRET_ACCESS_KEY=${{MY_SECRET}}",
    "RESTIC_PASSWORD=${{MY_SECRET}}",
    "${{MY_SECRET}}=x",
    "RESTIC_PASSWORD=x\0y",
    "=x",
    "",
    "no equals sign",
]
ATTACKS_FLAGS = [
    "{file}",
    "",
    "--",
    "--no-cache {file}",
    "--no-cache={file}",
    "--limit-upload=1 {file}",
    "--limit-upload=1\n{file}",
    "--limit-upload {file}",
    "'--limit-upload=1' {file}",
    '--repo=rclone::webdav,bearer_token_command="{run}"',
    "--repo {file}",
    "-r={file}",
    "-r{file}",
    "--repository-file={file}",
    "--password-command={run}",
    "--password-command '{run}'",
    "-p{file}",
    "--password-file={file}",
    "-o sftp.command='{run}'",
    "-osftp.command={run}",
    "-qo sftp.command={run}",
    "--option=sftp.command={run}",
    "--option=rclone.program={run}",
    "--files-from={file}",
    "--files-from-raw {file}",
    "--exclude-file={file}",
    "--stdin-from-command",
    "--stdin-filename={file}",
    "--cacert={file}",
    "--tls-client-cert={file}",
    "--cache-dir={file}",
    "--insecure-tls",
    "--no-lock",
    "--key-hint=x",
    "--limit-upload=${{MY_SECRET}}",
    "--http-user-agent=${{MY_SECRET}}",
    "'",
    "-",
    "--dry-run",
]
GOOD_URI = [
    "/srv/nas",
    "/srv/other",
    "local:/srv/nas/",
    "sftp:me@nas.example.com:/srv/restic",
    "sftp:me@other:/srv/restic",
    "sftp://me@[::1]:2222//srv/restic",
    "s3:s3.amazonaws.com/bucket/x",
    "s3:https://minio.example.com:9000/bucket",
    "b2:bucket:x",
    "azure:c:/x",
    "gs:b:/x",
    "swift:c:/x",
    "rest:https://user:pass@h.example.com:8000/x/",
    "rest:http://user:other@i.example.com/x",
]
GOOD_ENV = [
    "AWS_ACCESS_KEY_ID=AKIA",
    "AWS_SECRET_ACCESS_KEY=/x+y=",
    "AWS_DEFAULT_REGION=eu-west-1",
    "B2_ACCOUNT_ID=x",
    "AZURE_ACCOUNT_NAME=backups",
    "AZURE_ACCOUNT_KEY=x==",
    "OS_AUTH_URL=https://keystone.example.com/v3",
    "OS_USERNAME=me",
    "ST_KEY=x",
    "RESTIC_REST_USERNAME=me",
    "RESTIC_REST_PASSWORD=theirs",
    "RESTIC_PASSWORD=correct horse",
    "RESTIC_COMPRESSION=max",
    "GOOGLE_PROJECT_ID=p",
]
GOOD_FLAGS = ["--limit-upload=512", "--limit-download=9", "--pack-size=64", "--compression=off", "--no-cache"]
PIECES = ["-", "--", "=", ":", "@", "/", "//", "..", "${MY_SECRET}", " ", "'", '"', "\\", "\n", "\0", ";", "%2D",
          "a", "sftp:", "rest:", "s3:http", "rclone:", "local:", "#", "?", "[::1]", "é", "********"]  # fmt: skip


class Made:
    """Draws repositories."""

    def __init__(self, draw: random.Random, run: str, file: str) -> None:
        self._draw = draw
        self._run, self._file = run, file

    def _one(self, good: Sequence[str], attacks: Sequence[str]) -> str:
        draw, kind = self._draw, self._draw.random()
        if kind < 0.45:
            return draw.choice(good)
        text = draw.choice(attacks).format(run=self._run, file=self._file)
        if kind < 0.8:
            return text
        text = draw.choice([text, draw.choice(good)])
        for _ in range(draw.randint(1, 3)):  # a piece put in, cut out, or another end
            at = draw.randint(0, len(text))
            cut = at + draw.choice([0, 0, 1, 5])
            text = text[:at] + draw.choice([*PIECES, draw.choice(attacks).format(run=self._run, file=self._file)]) \
                + text[cut:]  # fmt: skip
        return text

    def repo(self) -> Repo:
        draw = self._draw
        uri = draw.choice(GOOD_URI) if draw.random() < 0.5 else self._one(GOOD_URI, ATTACKS_URI)
        made = Repo(
            id=draw.choice(["nas", "nas", "x", "-x", "..", "mine", "a b", "n\nas"]),
            guid=draw.choice("ab") * 64,
            uri=uri,
            password=draw.choice(["p", "q", "", "a\nb", "x\0", "${MY_SECRET}"]),
            env=[self._one(GOOD_ENV, ATTACKS_ENV) for _ in range(draw.randint(0, 4))],
            flags=[self._one(GOOD_FLAGS, ATTACKS_FLAGS) for _ in range(draw.randint(0, 4))],
            auto_unlock=draw.random() < 0.5,
            auto_initialize=draw.random() < 0.1,
            origin_instance_id=draw.choice(["hub", "", "laptop"]),
            shared=True,
        )
        if draw.random() < 0.3:
            made.hooks.add(conditions=[1]).action_command.command = self._run
        if draw.random() < 0.2:
            made.command_prefix.cpu_nice = wire.config.CommandPrefix.CPU_HIGH
        return made

    def message(self) -> SetConfig:
        """Of a hub that wants all at once; what it may not set at all is part of it."""
        draw = self._draw
        message = SetConfig(repos=[self.repo()])
        if draw.random() < 0.3:
            message.plans.add(
                id=draw.choice(["photos", "evil"]), repo="nas", paths=[self._file], backup_flags=["--x"]
            )
            message.plans_to_delete.append("photos")
            message.repos_to_delete.append(draw.choice(["mine", "nas"]))
        return message


# --- what is harmless

WORDS = {"--json", "--exclude-caches", "--tag", "--group-by", "", "plan:used", "created-by:laptop",
         "plan:used,created-by:laptop", "-o", "--no-cache", "--parent", "--retry-lock", "5m"}  # fmt: skip
SET_BY_US = {
    "RESTIC_REPOSITORY",
    "RESTIC_PASSWORD",
    "RESTIC_PASSWORD_FILE",
    "RESTIC_PASSWORD_COMMAND",
    "RESTIC_PROGRESS_FPS",
    "SSH_ASKPASS_REQUIRE",  # "never": nobody is there to be asked
}
VALUES = re.compile(
    r"RESTIC_(PASSWORD|COMPRESSION|PACK_SIZE|READ_CONCURRENCY|REST_USERNAME|REST_PASSWORD)"
    r"|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|DEFAULT_REGION)|B2_ACCOUNT_(ID|KEY)"
    r"|AZURE_(ACCOUNT_NAME|ACCOUNT_KEY|ACCOUNT_SAS|ENDPOINT_SUFFIX)|GOOGLE_(PROJECT_ID|ACCESS_TOKEN)"
    r"|ST_(AUTH|USER|KEY)|OS_[A-Z_]+|SWIFT_DEFAULT_CONTAINER_POLICY"
)


def check_arguments(argv: Sequence[str], source: str) -> None:
    """Every word is one of ours, or sets a limit."""
    command, *words = argv[1:]
    assert command in ("cat", "unlock", "snapshots", "backup", "forget"), argv
    if command == "cat":
        assert words.pop(0) == "config"
    if command == "backup":
        assert words[:2] == ["--json", source], argv
        words = words[2:]
    for word in words:
        limit = re.fullmatch(
            r"--(limit-upload|limit-download|pack-size|compression|retry-lock)=\w{1,9}", word
        )
        batch = word in ("sftp.args=-oBatchMode=yes", "sftp.command=ssh -oBatchMode=yes")
        assert word in WORDS or limit or batch, argv


def check_environment(environment: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Nothing of this machine goes to the hub, and what is new are values, each where a value is meant."""
    new = {name: value for name, value in environment.items() if before.get(name) != value}
    for name, value in new.items():
        assert name in SET_BY_US or VALUES.fullmatch(name), name
        assert not any(secret in value for secret in OWN.values() if name != "RESTIC_PASSWORD"), name
        assert "\0" not in value
        if name != "RESTIC_PASSWORD":
            assert value.isprintable(), (name, value)
        if "REGION" in name or name in (
            "AZURE_ACCOUNT_NAME",
            "AZURE_ENDPOINT_SUFFIX",
        ):  # part of a host's name
            assert re.fullmatch(r"[A-Za-z0-9-]+|core\.[a-z.]+", value), (name, value)
        if name.endswith(("URL", "ST_AUTH")):
            assert urlsplit(value).scheme in ("http", "https"), (name, value)
            assert urlsplit(value).hostname, (name, value)
    assert new.get("RESTIC_PASSWORD_FILE", "") == new.get("RESTIC_PASSWORD_COMMAND", "") == ""
    for name in ("RESTIC_REST_PASSWORD", "OS_PASSWORD"):
        assert environment.get(name) != OWN[name]


def check_address(uri: str) -> None:
    """Taken apart as restic does, and what its backend would then make of it."""
    scheme = uri.partition(":")[0]
    if uri.startswith("/") or scheme == "local":
        path = uri.removeprefix("local:")
        assert path.startswith("/"), uri
        assert (
            os.path.normpath(path) == (path.rstrip("/") or "/").replace("//", "/")
            or "//" in path
            or "/." in path
        )
        assert ".." not in path.split("/"), uri
    elif scheme == "sftp":
        host, user = ssh_target(uri)
        for word in (host, user):
            assert re.fullmatch(r"[\w.:@+-]*", word, re.ASCII), uri
            assert not word.startswith("-"), uri
        assert host, uri
    elif scheme == "rest":
        url = urlsplit(uri.removeprefix("rest:"))
        assert url.scheme in ("http", "https"), uri
        assert url.hostname, uri
        assert not url.query + url.fragment, uri
    elif scheme == "s3":
        rest = uri.removeprefix("s3:")
        if rest.startswith("http"):
            assert urlsplit(rest).scheme in ("http", "https"), uri
            assert urlsplit(rest).hostname, uri
        else:
            assert re.match(r"(//)?[\w.:\[\]-]+/\w", rest, re.ASCII), uri
    else:
        assert scheme in ("b2", "azure", "gs", "swift"), uri
    assert uri.isprintable()
    assert "${" not in uri


def ssh_target(uri: str) -> tuple[str, str]:
    """(host, user) that restic would give to ssh."""
    if uri.startswith("sftp://"):
        url = urlsplit(uri)
        return url.hostname or "", url.username or ""
    host = uri.removeprefix("sftp:").partition(":")[0]
    parts = host.split("@", 2)
    return parts[-1], "@".join(parts[:-1])


def same_place(old: str, new: str) -> bool:
    """But for the host and a password."""

    def place(uri: str) -> str:
        uri = uri.removeprefix("local:").rstrip("/")
        uri = re.sub(r"(?<=//)([^:@/]*)(:[^@/]*)?@[^/]*", r"\1", uri)  # rest:https://user:password@host
        uri = re.sub(r"(?<=//)[^@/]*(?=/|$)", "", uri)  # s3:https://host, sftp://host
        uri = re.sub(r"^(sftp:(?:.*@)?)[^@:/]+:", r"\1", uri)
        return re.sub(r"^s3:(?!//|http)[^/]*/", "s3:https:///", uri)

    return place(old) == place(new)


# --- the run


class Recorder:
    """In the place of process.run: what would be started; it answers as restic would."""

    def __init__(self) -> None:
        self.started: list[tuple[list[str], dict[str, str]]] = []

    async def run(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdout: process.Sink,
        stderr: process.Sink,
        grace: object,
    ) -> int:
        self.started.append((list(argv), dict(environment)))
        answers = {
            "version": b"restic 0.18.1 compiled with go",
            "cat": b'{"id": "' + b"ef" * 32 + b'"}',
            "snapshots": b"[]",
            "forget": b"[]",
            "backup": b'{"message_type": "summary", "snapshot_id": "' + b"ab" * 32 + b'"}\n',
        }
        stdout.feed(answers.get(argv[1], b""))
        stdout.close()
        stderr.close()
        return 0


SCRIPT = """#!/bin/bash
if [ "$1" = version ]; then echo "restic 0.18.1 compiled with go"; exit; fi
date > /dev/null
printf '%s\\0' "$@" > "$0.argv"
/usr/bin/env -0 > "$0.env"
case "$1" in
snapshots|forget) echo '[]' ;;
backup) echo '{"message_type": "summary", "snapshot_id": "SNAPSHOT"}' ;;
esac
""".replace("SNAPSHOT", "ab" * 32)


def split(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="surrogateescape").split("\0")[:-1]


async def use(
    world: World, recorder: Recorder | None, repo: Repo, plan: Plan, before: Mapping[str, str]
) -> None:
    """All that this program has restic do with a repository of another instance, and what it started for that."""
    try:
        if recorder is None:
            await world.engine.backup(plan.id)
        else:
            recorder.started.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(process, "run", recorder.run)
                repository = await world.engine.bench.repository(repo)
                await repository.guid()
                await repository.unlock()
                await repository.snapshots(tags=command.tags(plan.id, "laptop"))
                await repository.backup(plan, "laptop", parent="", dry_run=False, on_message=lambda _: None)
    except UserError:
        return
    if recorder is not None:
        started = [pair for pair in recorder.started if pair[0][1:] != ["version"]]
        assert all(argv[0] == str(world.paths.data_dir / "restic") for argv, _ in started)
    else:
        script = world.paths.data_dir / "restic"
        argv = [str(script), *split(Path(f"{script}.argv"))]
        environment = dict(entry.split("=", 1) for entry in split(Path(f"{script}.env")))
        for name in ("_", "SHLVL", "PWD", "OLDPWD"):  # the shell's own
            environment.pop(name, None)
        started = [(argv, environment)]
    for argv, environment in started:
        check_arguments(argv, plan.paths[0])
        check_environment(environment, before)
        check_address(environment["RESTIC_REPOSITORY"])


@pytest.mark.timeout(0)
async def test_no_made_up_repository_does_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    for name, value in OWN.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    canary, file, source = tmp_path / "canary", tmp_path / "file", tmp_path / "source"
    file.write_text(f"touch {canary}\n")
    source.mkdir()
    world = World(tmp_path / "world", command=str(tmp_path / "world/data/restic"))
    script = world.paths.data_dir / "restic"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    world.configure(make_repo("/srv/mine", id="mine", guid="c" * 64))
    plans = [Plan(id="photos", repo="mine", paths=[str(source)])]
    world.config.transform(lambda config: config.plans.extend(plans))
    hub = Identity.from_seed(b"h" * 32)
    grants = ["read-operations=*", "receive-shared-repos"]
    peer = wire.config.Multihost.Peer(
        instance_id="hub", keyid=hub.keyid, instance_url="http://hub", permissions=map(parse_grant, grants)
    )
    world.config.transform(lambda config: config.multihost.known_hosts.append(peer))
    clean, recorder = world.config.current, Recorder()
    count = pytestconfig.getoption("made_up_repos")
    seed = pytestconfig.getoption("hostile_seed")
    taken = waited = real = 0
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        made = Made(draw, f"touch {canary}", str(file))
        if number % ROUNDS == 0:  # an older hub, and nothing of it
            here = Config()
            here.CopyFrom(clean)
        old = Config()
        old.CopyFrom(here)
        used = {plan.repo for plan in old.plans}
        report = apply_set_config(here, peer, made.message())
        note = f"--hostile-seed {seed}, repository {number}"

        # What is ours is as it was.
        assert [r for r in here.repos if not r.origin_instance_id] == list(clean.repos), note
        assert [p for p in here.plans if p.id != "used"] == list(clean.plans), note
        theirs = [repo for repo in here.repos if repo.origin_instance_id]
        assert all(repo.origin_instance_id == "hub" for repo in theirs), note
        assert here.multihost == clean.multihost, note
        for repo in theirs:
            previous = next((one for one in old.repos if one.guid == repo.guid), None)
            if previous is not None and previous.id in used:
                assert list(previous.flags) == list(repo.flags), note
                assert same_place(previous.uri, repo.uri), f"{note}: {previous.uri} -> {repo.uri}"
        waited += any(wanted is not None for wanted in report.waits.values())

        # Each is used, as it is and as it would be once accepted; some of them as an older version had taken them.
        candidates = [*theirs, *(w.on(r) for r in theirs if (w := report.waits.get(r.guid)) is not None)]
        if draw.random() < 0.2:
            unjudged = made.repo()
            unjudged.origin_instance_id, unjudged.id, unjudged.guid = "hub", "old", "d" * 64
            candidates.append(unjudged)
        for repo in candidates:
            taken += 1
            plan = Plan(id="used", repo=repo.id, paths=[str(source)])
            one = Config()
            one.CopyFrom(clean)
            one.repos.append(repo)
            one.plans.append(plan)
            started = None if number % REAL_EVERY == 0 else recorder
            real += started is None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(world.config), "current", one)
                await use(world, started, repo, plan, before)
            assert not canary.exists(), f"{note}: {json.dumps(str(repo))}"
        if theirs and not any(plan.id == "used" for plan in here.plans):
            here.plans.add(id="used", repo=theirs[0].id, paths=[str(source)])
    world.oplog.close()
    assert taken > count / 2, "most were used at all"
    assert waited > count / 50
    assert real

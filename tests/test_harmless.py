"""What of a shared repository can do no harm: each list, on both sides of it."""

from __future__ import annotations

import pytest

from backrest import harmless
from backrest.harmless import held_back, judge, parse_address, trusts
from backrest.permissions import parse_grant
from backrest.wire import config

Repo = config.Repo


@pytest.mark.parametrize(
    ("uri", "scheme", "user", "host", "path"),
    [
        ("/srv/restic", "local", "", "", "/srv/restic"),
        ("local:/srv/my backups/", "local", "", "", "/srv/my backups"),
        ("sftp:nas:/srv/restic", "sftp", "", "nas", "/srv/restic"),
        ("sftp:me@nas.example.com:restic", "sftp", "me", "nas.example.com", "restic"),
        ("sftp:me@corp@nas:/r", "sftp", "me@corp", "nas", "/r"),
        ("sftp://me@[::1]:2222//srv/restic", "sftp", "me", "[::1]:2222", "//srv/restic"),
        ("s3:s3.amazonaws.com/bucket/restic", "s3", "", "s3.amazonaws.com", "bucket/restic"),
        ("s3://host:9000/bucket", "s3", "", "host:9000", "bucket"),
        ("s3:http://localhost:9000/bucket/a b", "s3", "", "localhost:9000", "bucket/a b"),
        ("s3:https://minio.example.com/bucket", "s3", "", "minio.example.com", "bucket"),
        ("b2:bucket", "b2", "", "", "bucket"),
        ("b2:bucket:some/path", "b2", "", "", "bucket:some/path"),
        ("azure:container:/", "azure", "", "", "container:"),
        ("gs:bucket:/restic", "gs", "", "", "bucket:/restic"),
        ("swift:container:/path", "swift", "", "", "container:/path"),
        ("rest:http://user:pass@host:8000/", "rest", "user", "host:8000", ""),
        ("rest:https://user:p%40ss@[2001:db8::1]/laptop/", "rest", "user", "[2001:db8::1]", "/laptop"),
    ],
)
def test_an_address_is_taken_apart_as_restic_does(
    uri: str, scheme: str, user: str, host: str, path: str
) -> None:
    found = parse_address(uri)
    assert (found.scheme, found.user, found.host, found.path) == (scheme, user, host, path)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "restic",  # another place for each working directory
        "./restic",
        "~/restic",
        "local:restic",
        "local:",
        "/srv/../etc",
        "c:\\restic",
        "\\\\host\\share",
        " /srv",
        "-r/srv",
        "--repo=/srv",
        "/srv\n/etc",
        "/srv\0",
        "/srv/${HOME}",
        "rest:https://evil/${AWS_SECRET_ACCESS_KEY}",
        "rclone:remote:path",
        "rclone::webdav,bearer_token_command=evil:x",
        "sftp:-oProxyCommand=x:/p@y",
        "sftp:x@-oProxyCommand=y:/p",
        "sftp:-oProxyCommand=x@host:/p",
        "sftp://-oProxyCommand=x/p",
        "sftp://%2DoProxyCommand=x@host/p",
        "sftp://host%20-oProxyCommand=x/p",
        "sftp:ho;st:/p",
        "sftp:ho$(x)st:/p",
        "sftp:`x`:/p",
        "sftp:host",
        "sftp:host:",
        "sftp:host:~/p",
        "sftp:///p",
        "sftp://host",
        "s3:http:/host/bucket",
        "s3:httpx.example.com/bucket",
        "s3:https://user:pass@host/bucket",
        "s3:https://host",
        "s3:host",
        "s3:/bucket",
        "b2:",
        "b2:-x",
        "azure:container",
        "gs:bu/cket:/",
        "swift:c:p",
        "rest:http+unix:///run/docker.sock:/x",
        "rest:file:///etc",
        "rest:ftp://host/",
        "rest:host/",
        "rest:http://",
        "rest:http://host#x",
        "rest:http://host?x",
        "rest:http://a@b@host/",
        "REST:http://host/",
        "http://host/",
        "unknown:x",
        "/" + "x" * 2048,
    ],
)
def test_any_other_address_is_refused_with_a_reason_that_does_not_repeat_it(uri: str) -> None:
    judged = judge(Repo(id="nas", uri=uri))
    assert judged.refusal.startswith("its address ")
    assert "evil" not in judged.refusal
    assert not judged.left_out


def test_an_address_may_be_as_long_as_the_bound() -> None:
    assert not judge(Repo(id="nas", uri="/" + "x" * 2047)).refusal


ENVIRONMENTS = {
    "s3:h/bucket": [
        "AWS_ACCESS_KEY_ID=AKIA",
        "AWS_SECRET_ACCESS_KEY=a/b+c=",
        "AWS_SESSION_TOKEN=x",
        "AWS_DEFAULT_REGION=eu-west-1",
    ],
    "b2:b": ["B2_ACCOUNT_ID=x", "B2_ACCOUNT_KEY=y"],
    "azure:c:/": [
        "AZURE_ACCOUNT_NAME=backups01",
        "AZURE_ACCOUNT_KEY=x==",
        "AZURE_ACCOUNT_SAS=sv=1&sig=%3D",
        "AZURE_ENDPOINT_SUFFIX=core.usgovcloudapi.net",
    ],
    "gs:b:/": ["GOOGLE_PROJECT_ID=my-project", "GOOGLE_ACCESS_TOKEN=ya29.x"],
    "swift:c:/": ["OS_AUTH_URL=https://keystone.example.com:5000/v3", "OS_USERNAME=me", "OS_PASSWORD=p w"],
    "rest:https://h/": ["RESTIC_REST_USERNAME=me", "RESTIC_REST_PASSWORD=pä ss"],
    "/srv": ["RESTIC_PASSWORD=correct horse", "RESTIC_COMPRESSION=max", "RESTIC_PACK_SIZE=128"],
    "sftp:h:/r": ["RESTIC_READ_CONCURRENCY=64"],
}


@pytest.mark.parametrize(("uri", "env"), ENVIRONMENTS.items())
def test_a_backend_gets_the_values_that_it_needs_and_no_other_backend_does(uri: str, env: list[str]) -> None:
    assert judge(Repo(id="nas", uri=uri, env=env)) == harmless.Judged(Repo(id="nas", uri=uri, env=env))
    others = judge(Repo(id="nas", uri="sftp:h:/r" if uri != "sftp:h:/r" else "/srv", env=env))
    assert all(entry.startswith("RESTIC_") and "REST_" not in entry for entry in others.repo.env)


@pytest.mark.parametrize(
    ("uri", "entry", "named"),
    [
        ("s3:h/b", "AWS_WEB_IDENTITY_TOKEN_FILE=/etc/shadow", "environment AWS_WEB_IDENTITY_TOKEN_FILE"),
        ("s3:h/b", "AWS_REGION=eu-west-1", "environment AWS_REGION"),
        ("s3:h/b", "AWS_PROFILE=root", "environment AWS_PROFILE"),
        ("s3:h/b", "AWS_DEFAULT_REGION=evil.example.com/", "environment AWS_DEFAULT_REGION with this value"),
        (
            "s3:h/b",
            "RESTIC_AWS_ASSUME_ROLE_STS_ENDPOINT=x",
            "environment RESTIC_AWS_ASSUME_ROLE_STS_ENDPOINT",
        ),
        ("s3:h/b", "AWS_SECRET_ACCESS_KEY=${HOME}", "environment AWS_SECRET_ACCESS_KEY with this value"),
        ("s3:h/b", "AWS_SECRET_ACCESS_KEY=a\nb", "environment AWS_SECRET_ACCESS_KEY with this value"),
        ("s3:h/b", "AWS_SECRET_ACCESS_KEY=", "environment AWS_SECRET_ACCESS_KEY with this value"),
        ("gs:b:/", "GOOGLE_APPLICATION_CREDENTIALS=/x", "environment GOOGLE_APPLICATION_CREDENTIALS"),
        ("azure:c:/", "AZURE_ACCOUNT_NAME=evil.com/", "environment AZURE_ACCOUNT_NAME with this value"),
        ("azure:c:/", "AZURE_ENDPOINT_SUFFIX=evil.com", "environment AZURE_ENDPOINT_SUFFIX with this value"),
        ("azure:c:/", "AZURE_FORCE_CLI_CREDENTIAL=1", "environment AZURE_FORCE_CLI_CREDENTIAL"),
        ("swift:c:/", "OS_AUTH_URL=file:///etc/passwd", "environment OS_AUTH_URL with this value"),
        ("/r", "RESTIC_PASSWORD_COMMAND=x", "environment RESTIC_PASSWORD_COMMAND"),
        ("/r", "RESTIC_PASSWORD_FILE=/x", "environment RESTIC_PASSWORD_FILE"),
        ("/r", "RESTIC_CACHE_DIR=/x", "environment RESTIC_CACHE_DIR"),
        ("/r", "RESTIC_REPOSITORY=/x", "environment RESTIC_REPOSITORY"),
        ("/r", "RESTIC_PACK_SIZE=129", "environment RESTIC_PACK_SIZE with this value"),
        ("/r", "BASH_FUNC_x%%=() { evil; }", "environment BASH_FUNC_x%%"),
        ("/r", "LD_PRELOAD=/x", "environment LD_PRELOAD"),
        ("/r", "PATH=/x", "environment PATH"),
        ("/r", "HTTPS_PROXY=http://x", "environment HTTPS_PROXY"),
        ("/r", "restic_password=x", "environment restic_password"),
        ("/r", " RESTIC_PASSWORD=x", "environment entry that is not NAME=value"),
        ("/r", "correct-horse", "environment entry that is not NAME=value"),
        ("/r", "=x", "environment entry that is not NAME=value"),
    ],
)
def test_any_other_variable_is_left_out_and_named_without_its_value(uri: str, entry: str, named: str) -> None:
    judged = judge(Repo(id="nas", uri=uri, env=["RESTIC_COMPRESSION=max", entry]))
    assert list(judged.repo.env) == ["RESTIC_COMPRESSION=max"]
    assert judged.left_out == (named,)


@pytest.mark.parametrize(
    "flag",
    [
        "--limit-upload=512",
        "--limit-download=1",
        "--pack-size=128",
        "--compression=max",
        "--retry-lock=5m",
        "--retry-lock=24h",
        "--no-cache",
    ],
)
def test_a_flag_of_the_list_is_kept(flag: str) -> None:
    assert judge(Repo(id="nas", uri="/r", flags=[flag])) == harmless.Judged(
        Repo(id="nas", uri="/r", flags=[flag])
    )


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("/etc/shadow", "a flag that is not --name=value"),
        ("correct-horse", "a flag that is not --name=value"),
        ("", "a flag that is not --name=value"),
        ("-o", "a flag that is not --name=value"),
        ("-osftp.command=x", "a flag that is not --name=value"),
        ("--", "a flag that is not --name=value"),
        ('--repo=rclone::webdav,bearer_token_command="x"', "flag --repo"),
        ("--password-command=x", "flag --password-command"),
        ("--password-file /x", "flag --password-file"),
        ("--files-from=/etc/shadow", "flag --files-from"),
        ("--cacert=/x", "flag --cacert"),
        ("--no-lock", "flag --no-lock"),
        ("--limit-upload", "flag --limit-upload in this form"),
        ("--limit-upload 512", "flag --limit-upload"),
        ("--limit-upload=512 /etc/shadow", "flag --limit-upload in this form"),
        ("--limit-upload=${X}", "flag --limit-upload in this form"),
        ("--limit-upload=1\n", "flag --limit-upload in this form"),
        ("--pack-size=129", "flag --pack-size in this form"),
        ("--retry-lock=25h", "flag --retry-lock in this form"),
        ("--no-cache=/etc/shadow", "flag --no-cache in this form"),
        ("--no-cache /etc/shadow", "flag --no-cache"),
        ("limit-upload=512", "a flag that is not --name=value"),
    ],
)
def test_any_other_flag_is_left_out_and_named_without_its_value(flag: str, named: str) -> None:
    judged = judge(Repo(id="nas", uri="/r", flags=[flag]))
    assert not judged.repo.flags
    assert judged.left_out == (named,)


def test_what_runs_programs_by_itself_is_left_out_and_the_original_stays_as_it_is() -> None:
    repo = Repo(id="nas", uri="/r", auto_initialize=True)
    repo.hooks.add().action_command.command = "evil"
    repo.command_prefix.io_nice = config.CommandPrefix.IO_IDLE
    judged = judge(repo)
    assert judged.repo == Repo(id="nas", uri="/r")
    assert judged.left_out == ("its hooks", "its command prefix", "auto-initialize")
    assert repo.hooks


@pytest.mark.parametrize(
    ("password", "taken"), [("a\nb", True), ("x" * 4096, True), ("x" * 4097, False), ("a\0b", False)]
)
def test_a_password_is_any_value_that_a_variable_can_have(password: str, taken: bool) -> None:
    assert (judge(Repo(id="nas", uri="/r", password=password)).refusal == "") is taken


def test_of_several_values_the_last_counts_as_it_would_for_restic() -> None:
    flags = ["--limit-upload=1", "--no-cache", "--limit-upload=2"]
    env = ["RESTIC_PASSWORD=a", "RESTIC_PASSWORD=b"]
    judged = judge(Repo(id="nas", uri="/r", flags=flags, env=env))
    assert (list(judged.repo.flags), list(judged.repo.env)) == (
        ["--no-cache", "--limit-upload=2"],
        ["RESTIC_PASSWORD=b"],
    )
    assert not judged.left_out


def test_only_a_hub_that_may_write_the_repository_is_trusted() -> None:
    here = config.Config()
    hub = here.multihost.known_hosts.add(instance_id="hub")
    here.multihost.authorized_clients.add(
        instance_id="client", permissions=[parse_grant("read-write-config")]
    )
    assert not trusts(here, "hub", "nas")
    hub.permissions.append(parse_grant("receive-shared-repos"))
    assert not trusts(here, "hub", "nas")
    hub.permissions.append(parse_grant("read-write-config=repo:nas"))
    assert trusts(here, "hub", "nas")
    assert not trusts(here, "hub", "other")
    assert not trusts(here, "client", "nas")
    assert not trusts(here, "", "nas")
    hub.permissions.append(config.Multihost.Permission(type=3, scopes=["nonsense"]))
    assert not trusts(here, "hub", "nas")


S3 = ["AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"]


@pytest.mark.parametrize(
    ("old", "new", "waits"),
    [
        ({"password": "a"}, {"password": "b"}, ()),
        ({"uri": "rest:https://u:a@one/x"}, {"uri": "rest:https://u:b@two:8000/x/"}, ()),
        ({"uri": "sftp:me@one:/r"}, {"uri": "sftp:me@two:/r"}, ()),
        ({"uri": "/r"}, {"uri": "local:/r"}, ()),
        ({"uri": "/r"}, {"uri": "/s"}, ("uri",)),
        ({"uri": "rest:https://u@one/x"}, {"uri": "rest:http://u@one/x"}, ("uri",)),
        ({"uri": "rest:https://u@one/x"}, {"uri": "rest:https://v@one/x"}, ("uri",)),
        ({"uri": "rest:https://u@one/x"}, {"uri": "rest:https://u@one/y"}, ("uri",)),
        ({"uri": "sftp:me@one:r"}, {"uri": "sftp://me@one/r"}, ("uri",)),
        ({"uri": "s3:h/one"}, {"uri": "s3:h/two"}, ("uri",)),
        ({"uri": "s3:h/one", "env": S3}, {"uri": "b2:one", "env": ["B2_ACCOUNT_ID=x"]}, ("uri", "env")),
        ({"uri": "rclone:x"}, {"uri": "/r"}, ("uri",)),
        (
            {"uri": "s3:h/b", "env": S3},
            {"uri": "s3:h/b", "env": ["AWS_ACCESS_KEY_ID=c", "AWS_SESSION_TOKEN=d"]},
            (),
        ),
        ({"env": []}, {"env": ["RESTIC_COMPRESSION=off"]}, ("env",)),
        ({"env": ["RESTIC_PASSWORD=a"]}, {"env": ["RESTIC_PASSWORD=b"]}, ()),
        ({"flags": ["--no-cache"]}, {"flags": []}, ("flags",)),
        ({"flags": ["--no-cache", "--pack-size=1"]}, {"flags": ["--pack-size=1", "--no-cache"]}, ()),
    ],
)
def test_what_waits_is_all_but_secrets_and_hosts(
    old: dict[str, object], new: dict[str, object], waits: tuple[str, ...]
) -> None:
    fields = {"id": "nas", "uri": "/r"}
    assert held_back(Repo(**fields | old), Repo(**fields | new)) == waits  # type: ignore[arg-type]

"""Secrets are hidden, and come back only where they were."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backrest import wire
from backrest.errors import UserError
from backrest.store import mask
from backrest.store.mask import (
    MASK,
    mask_env,
    mask_flags,
    mask_uri,
    masked,
    masked_plan,
    masked_remote_config,
    masked_repo,
    unmask,
    unmask_plan,
    unmask_repo,
)

Config = wire.config.Config
Hook = wire.config.Hook
Multihost = wire.config.Multihost
Plan = wire.config.Plan
Repo = wire.config.Repo

PLANTED = "hunter22"


def hooks() -> list[Hook]:
    return [
        Hook(conditions=[1], action_command=Hook.Command(command=f"curl -u x:{PLANTED} h")),
        Hook(conditions=[1], action_webhook=Hook.Webhook(webhook_url=f"https://h/{PLANTED}")),
        Hook(conditions=[1], action_discord=Hook.Discord(webhook_url=f"https://h/{PLANTED}", template="t")),
        Hook(conditions=[1], action_gotify=Hook.Gotify(base_url=f"https://u:{PLANTED}@h", token=PLANTED)),
        Hook(conditions=[1], action_slack=Hook.Slack(webhook_url=f"https://h/{PLANTED}")),
        Hook(conditions=[1], action_shoutrrr=Hook.Shoutrrr(shoutrrr_url=f"smtp://u:{PLANTED}@h")),
        Hook(conditions=[1], action_healthchecks=Hook.Healthchecks(webhook_url=f"https://h/{PLANTED}")),
        Hook(conditions=[1], action_telegram=Hook.Telegram(bot_token=PLANTED, chat_id="7")),
        Hook(conditions=[1]),
    ]


def full() -> Config:
    """A configuration with a secret in every place that can hold one."""
    return Config(
        modno=3,
        version=6,
        instance="me",
        auth=wire.config.Auth(users=[wire.config.User(name="u", password_bcrypt=PLANTED)]),
        repos=[
            Repo(
                id="r",
                uri=f"rest:https://u:{PLANTED}@h/x",
                password=PLANTED,
                env=[
                    f"AWS_SECRET_ACCESS_KEY={PLANTED}",
                    f"X={PLANTED}",
                    "RESTIC_FEATURES=",
                    "TZ=UTC",
                    PLANTED,
                ],
                flags=[f"--password-command=echo {PLANTED}", "--limit-upload=5", "--token", PLANTED],
                hooks=hooks(),
            ),
            Repo(id="open", uri="/srv", env=["TMPDIR=/x"]),
        ],
        plans=[Plan(id="p", repo="r", backup_flags=[f"-o sftp.command={PLANTED}", "--tag=a"], hooks=hooks())],
        multihost=Multihost(
            identity=wire.crypto.PrivateKey(keyid="ed25519.me", ed25519priv=PLANTED, ed25519pub="pub"),
            known_hosts=[
                Multihost.Peer(
                    instance_id="hub",
                    keyid="k",
                    instance_url=f"https://u:{PLANTED}@hub",
                    initial_pairing_secret=PLANTED,
                )
            ],
            authorized_clients=[Multihost.Peer(instance_id="c", keyid="l")],
            pairing_tokens=[
                Multihost.PairingToken(secret=PLANTED + "1", label="t", created_at_unix=5),
                Multihost.PairingToken(secret=PLANTED + "2", label="t", created_at_unix=5),
            ],
        ),
    )


def test_no_planted_secret_is_left() -> None:
    assert PLANTED not in str(masked(full()))


def test_what_is_no_secret_is_shown() -> None:
    shown = masked(full())
    assert shown.repos[0].uri == f"rest:https://u:{MASK}@h/x"
    assert list(shown.repos[0].env)[2:4] == ["RESTIC_FEATURES=", "TZ=UTC"]
    assert shown.repos[0].flags[1] == "--limit-upload=5"
    assert shown.repos[1] == full().repos[1]
    assert shown.multihost.identity.keyid == "ed25519.me"
    assert shown.multihost.authorized_clients[0] == full().multihost.authorized_clients[0]
    assert not Config(instance="x", multihost=Multihost()).multihost.HasField("identity")
    assert masked(Config(instance="x")) == Config(instance="x")  # nothing is made up, not even empty parts


def test_masking_leaves_the_original_and_is_idempotent() -> None:
    config = full()
    once = masked(config)
    assert config == full()
    assert masked(once) == once


def test_mask_that_comes_back_is_the_stored_secret() -> None:
    assert unmask(masked(full()), full()) == full()
    assert unmask(full(), full()) == full()


def test_changes_beside_masks_are_kept() -> None:
    shown = masked(full())
    shown.repos[0].auto_unlock = True
    shown.repos[0].env.append("NEW=1")
    del shown.repos[0].flags[1]
    shown.repos[0].hooks[0].conditions.append(2)
    shown.multihost.pairing_tokens[0].uses = 4
    expected = full()
    expected.repos[0].auto_unlock = True
    expected.repos[0].env.append("NEW=1")
    del expected.repos[0].flags[1]
    expected.repos[0].hooks[0].conditions.append(2)
    expected.multihost.pairing_tokens[0].uses = 4
    assert unmask(shown, full()) == expected


def test_new_secret_replaces_the_old() -> None:
    shown = masked(full())
    shown.repos[0].password = "new"
    shown.repos[0].uri = "rest:https://u:new@h/x"
    restored = unmask(shown, full())
    assert (restored.repos[0].password, restored.repos[0].uri) == ("new", "rest:https://u:new@h/x")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c.repos[0], "uri", f"rest:https://u:{MASK}@attacker/x"),
        lambda c: setattr(c.repos[1], "password", MASK),
        lambda c: setattr(c.repos[0], "id", "other"),
        lambda c: c.repos[0].env.append(f"ANOTHER={MASK}"),
        lambda c: c.repos[0].env.append(f"X={MASK}"),  # a second one: there was one only
        lambda c: c.plans[0].backup_flags.append(f"--other-token={MASK}"),
        lambda c: setattr(c.repos[0].hooks[3].action_gotify, "base_url", "https://attacker"),
        lambda c: c.repos[1].hooks.add(action_slack=Hook.Slack(webhook_url=MASK)),
        lambda c: setattr(c.multihost.known_hosts[0], "keyid", "other"),
        lambda c: setattr(c.multihost.known_hosts[0], "instance_url", f"https://u:{MASK}@attacker"),
        lambda c: setattr(c.multihost.pairing_tokens[0], "label", "other"),
        lambda c: setattr(c.auth.users[0], "name", "other"),
    ],
)
def test_mask_moved_elsewhere_is_refused(change: object) -> None:
    """Attack: an editor without the secret has it sent to a place of his choice."""
    shown = masked(full())
    change(shown)  # type: ignore[operator]
    with pytest.raises(UserError, match="the mask stands for no stored secret") as caught:
        unmask(shown, full())
    assert PLANTED not in str(caught.value)


def test_identity_is_carried_over() -> None:
    for shown in (Config(instance="x"), Config(multihost=Multihost())):
        assert unmask(shown, full()).multihost.identity == full().multihost.identity
    reduced = Config()
    reduced.multihost.identity.keyid = "ed25519.me"  # as the reference's API gives it
    assert unmask(reduced, full()).multihost.identity == full().multihost.identity
    other = Config()
    other.multihost.identity.keyid = "ed25519.other"  # left for validation to refuse
    assert unmask(other, full()).multihost.identity.ed25519priv == ""


def test_single_repos_and_plans() -> None:
    config = full()
    repo, plan = config.repos[0], config.plans[0]
    assert unmask_repo(masked_repo(repo), repo) == repo
    assert unmask_plan(masked_plan(plan), plan) == plan
    assert unmask_repo(repo, None) == repo
    with pytest.raises(UserError, match='repo "r": the password'):
        unmask_repo(masked_repo(repo), None)
    with pytest.raises(UserError, match='plan "p"'):
        unmask_plan(masked_plan(plan), None)
    remote = wire.sync.RemoteConfig(modno=1, repos=[repo], plans=[plan])
    assert PLANTED not in str(masked_remote_config(remote))
    assert masked_remote_config(remote).modno == 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/srv/a", "/srv/a"),
        ("sftp:user@host:/srv", "sftp:user@host:/srv"),
        ("sftp://user@host:22//srv", "sftp://user@host:22//srv"),
        ("sftp://user:pw@host//srv", f"sftp://user:{MASK}@host//srv"),
        ("rest:http://host:8000/a@b", "rest:http://host:8000/a@b"),
        ("rest:http://[::1]:8000/", "rest:http://[::1]:8000/"),
        ("rest:http://u:p@ss@host/", f"rest:http://u:{MASK}@host/"),
        ("rest:http://u:p/w@host/", f"rest:http://u:{MASK}@host/"),
        ("rest:http://u:p?w#@host/", f"rest:http://u:{MASK}@host/"),
        ("https://ghp_token@host/", f"https://{MASK}@host/"),
        ("https://h/x?access_key=abc&size=3&sig=q", f"https://h/x?access_key={MASK}&size=3&sig={MASK}"),
        ("s3:s3.amazonaws.com/bucket", "s3:s3.amazonaws.com/bucket"),
        ("", ""),
    ],
)
def test_addresses(uri: str, shown: str) -> None:
    assert mask_uri(uri) == shown
    assert mask_uri(shown) == shown


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--limit-upload=5", "-v"], ["--limit-upload=5", "-v"]),
        (["--password-command=cat x"], [f"--password-command={MASK}"]),
        (["--password-command 'cat x' --more"], [f"--password-command {MASK}"]),
        (["--password-command", "cat x", "y"], ["--password-command", MASK, "y"]),
        (["--password-file=/x", "--key-hint=ab"], ["--password-file=/x", "--key-hint=ab"]),
        (["-o", "sftp.command=ssh x"], ["-o", f"sftp.command={MASK}"]),
        (["-o rclone.args=x"], [f"-o rclone.args={MASK}"]),
        (["-o", "s3.connections=5"], ["-o", "s3.connections=5"]),
        (["--x=https://u:p@h"], [f"--x=https://u:{MASK}@h"]),
        (["--no-cache", "--tag", "monkey"], ["--no-cache", "--tag", "monkey"]),
    ],
)
def test_flags(flags: list[str], shown: list[str]) -> None:
    assert mask_flags(flags) == shown
    assert mask_flags(shown) == shown


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("A=b", f"A={MASK}"),
        ("A=", "A="),
        ("NOTHING", MASK),
        ("AWS_DEFAULT_REGION=eu", "AWS_DEFAULT_REGION=eu"),
        ("RESTIC_PASSWORD_COMMAND=x", f"RESTIC_PASSWORD_COMMAND={MASK}"),
        ("MY_TZ=x", f"MY_TZ={MASK}"),
        ("A=b=c", f"A={MASK}"),
    ],
)
def test_environment(entry: str, shown: str) -> None:
    assert mask_env(entry) == shown
    assert mask_env(shown) == shown


TEXT = st.text(alphabet="abc:/@?=&.- *", max_size=20)


@given(
    st.builds(
        lambda uri, flags, env, password: Repo(id="r", uri=uri, flags=flags, env=env, password=password),
        st.builds("{}://{}".format, st.sampled_from(["http", "sftp", "x"]), TEXT) | TEXT,
        st.lists(
            TEXT | st.builds("--{}{}".format, st.sampled_from(["token", "key", "tag"]), TEXT), max_size=4
        ),
        st.lists(TEXT, max_size=4),
        TEXT,
    )
)
def test_masked_and_back_is_the_same(repo: Repo) -> None:
    shown = masked_repo(repo)
    assert masked_repo(shown) == shown
    assert unmask_repo(shown, repo) == repo


class Counted(str):
    """A text that counts the characters that are copied out of it."""

    copied = 0

    def __getitem__(self, key: Any) -> str:
        part = super().__getitem__(key)
        Counted.copied += len(part)
        return part


@pytest.mark.parametrize("piece", ["key\x00", "pass[", "--key,", "a=key:", "key "])
def test_masking_a_flag_copies_it_a_few_times_and_not_once_for_each_name(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask, "mask_uri", lambda uri: uri)  # which makes a plain text of it
    text = Counted(piece * 2000)
    Counted.copied = 0
    mask_flags([text])
    assert Counted.copied <= 2 * len(text)


def test_masks_are_put_back_in_steps_in_proportion_to_their_number() -> None:
    def steps(count: int) -> int:
        stored = Repo(id="r", env=[f"A{n}=secret" for n in range(count)], flags=["--key=x"] * count)
        stored.hooks.extend(Hook(action_slack=Hook.Slack(webhook_url=f"https://x/{n}")) for n in range(count))
        shown, taken = masked_repo(stored), 0
        shown.env[:] = list(reversed(shown.env))  # the worst order to look for them

        def step(*_: object) -> Any:
            nonlocal taken
            taken += 1
            return step

        before = sys.gettrace()
        sys.settrace(step)
        try:
            back = unmask_repo(shown, stored)
        finally:
            sys.settrace(before)
        assert sorted(back.env) == sorted(stored.env)
        assert back.hooks == stored.hooks
        return taken

    assert steps(400) <= 2.2 * steps(200)

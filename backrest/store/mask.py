"""Configurations for showing: every secret replaced by ``MASK``, and put back when the mask comes back.

A mask that comes back means "unchanged" (PROTOCOL.md section 8). It stands for a stored value only while all
around it in the same text is as it was shown: else whoever may edit a repo, but not read its password, could
change the host in ``https://user:********@host/`` and have the password sent to himself.

The mask is the reference's (eight asterisks). Masking twice changes nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from backrest import wire
from backrest.errors import UserError

Config = wire.config.Config
Hook = wire.config.Hook
Multihost = wire.config.Multihost
Plan = wire.config.Plan
Repo = wire.config.Repo
RemoteConfig = wire.sync.RemoteConfig

MASK = "*" * 8


class UnknownMaskError(UserError):
    """A mask where nothing is stored that it could stand for. ``fields`` names the places: ("the password",)."""

    def __init__(self, message: str, problems: Sequence[str], fields: Sequence[str]) -> None:
        super().__init__(message, problems)
        self.fields = tuple(dict.fromkeys(fields))


_Problems = list[tuple[str, str]]  # what has the mask: 'repo "nas"', "the password"

# Of environment variables only these are shown: what any other name means cannot be known.
_PLAIN_ENV = re.compile(
    r"(?:AWS_DEFAULT_REGION|AWS_REGION|B2_CONNECTIONS|GOGC|GOMAXPROCS|HOME|LANG|LC_\w+|OS_REGION_NAME|PATH|TMPDIR|TZ"
    r"|RESTIC_(?:CACHE_DIR|COMPRESSION|FEATURES|HOST|KEY_HINT|PACK_SIZE|PASSWORD_FILE|PROGRESS_FPS|READ_CONCURRENCY"
    r"|REPOSITORY_FILE))"
)
# Words in the name of a flag, an extended option or a query parameter whose value may be, or hold, a secret.
# A peer chooses the texts: each pattern takes linear time (a name is matched whole first, "+" not giving back, and
# looked into afterwards), or 64 KiB of one letter would hold the event loop for minutes.
_SENSITIVE = re.compile(
    r"pass(?:word|wd|phrase)?|secret|token|credential|auth|signature|sig|key|command|args|header",
    re.IGNORECASE,
)
_NAME = re.compile(r"[\w.-]++")
_PLAIN_NAME = re.compile(r"(?:file|path|dir|hint)$", re.IGNORECASE)  # --password-file: a name, not a secret
_PARAMETER = re.compile(r"[^=&;#]++")
_VALUE = re.compile(r"[^&;#\s]++")
_AUTHORITY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://([^/?#\s]*)")
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::[0-9]*)?")

# Where hooks keep what grants access: chat webhooks carry their secret in the path, commands anywhere.
_HOOK_SECRETS = {
    "action_command": "command",
    "action_webhook": "webhook_url",
    "action_discord": "webhook_url",
    "action_gotify": "token",
    "action_slack": "webhook_url",
    "action_shoutrrr": "shoutrrr_url",
    "action_healthchecks": "webhook_url",
    "action_telegram": "bot_token",
}


def masked(config: Config) -> Config:
    """A copy without secrets, for people, the admin API and logs."""
    out = Config()
    out.CopyFrom(config)
    for repo in out.repos:
        _mask_repo(repo)
    for plan in out.plans:
        _mask_plan(plan)
    for user in out.auth.users if out.HasField("auth") else ():
        user.password_bcrypt = _mask(user.password_bcrypt)
    if out.HasField("multihost"):
        identity = out.multihost.identity
        if identity.ed25519priv:
            identity.ed25519priv = MASK
        for peer in (*out.multihost.known_hosts, *out.multihost.authorized_clients):
            peer.initial_pairing_secret = _mask(peer.initial_pairing_secret)
            peer.instance_url = mask_uri(peer.instance_url)
        for token in out.multihost.pairing_tokens:
            token.secret = _mask(token.secret)
    return out


config_masked = masked


def masked_repo(repo: Repo) -> Repo:
    out = Repo()
    out.CopyFrom(repo)
    _mask_repo(out)
    return out


def masked_plan(plan: Plan) -> Plan:
    out = Plan()
    out.CopyFrom(plan)
    _mask_plan(out)
    return out


def masked_remote_config(config: RemoteConfig) -> RemoteConfig:
    out = RemoteConfig()
    out.CopyFrom(config)
    for repo in out.repos:
        _mask_repo(repo)
    for plan in out.plans:
        _mask_plan(plan)
    return out


def unmask(new: Config, old: Config) -> Config:
    """A copy of ``new`` in which each mask is replaced by what ``old`` has in its place.

    The identity is carried over too when it is absent or reduced to its key id, as the reference shows it.
    UserError names every mask that stands for nothing.
    """
    out = Config()
    out.CopyFrom(new)
    problems: _Problems = []
    repos = {repo.id: repo for repo in old.repos}
    plans = {plan.id: plan for plan in old.plans}
    for repo in out.repos:
        _unmask_repo(repo, repos.get(repo.id) or Repo(), problems)
    for plan in out.plans:
        _unmask_plan(plan, plans.get(plan.id) or Plan(), problems)
    hashes = {user.name: user.password_bcrypt for user in old.auth.users}
    for user in out.auth.users if out.HasField("auth") else ():
        where = (f'user "{user.name}"', "the password")
        user.password_bcrypt = _back(user.password_bcrypt, hashes.get(user.name, ""), _mask, where, problems)
    if old.multihost.HasField("identity"):
        identity = out.multihost.identity
        same = identity.keyid in ("", old.multihost.identity.keyid)
        if same and identity.ed25519priv in ("", MASK):
            identity.CopyFrom(old.multihost.identity)
    if out.HasField("multihost"):
        _unmask_multihost(out.multihost, old.multihost, problems)
    _refuse(problems)
    return out


def unmask_repo(new: Repo, old: Repo | None) -> Repo:
    """As ``unmask``, for one repo; ``old`` None: there is none here, and any mask is an UnknownMaskError."""
    out = Repo()
    out.CopyFrom(new)
    problems: _Problems = []
    _unmask_repo(out, old or Repo(), problems)
    _refuse(problems)
    return out


def unmask_plan(new: Plan, old: Plan | None) -> Plan:
    out = Plan()
    out.CopyFrom(new)
    problems: _Problems = []
    _unmask_plan(out, old or Plan(), problems)
    _refuse(problems)
    return out


def mask_fields(item: Repo | Plan) -> tuple[str, ...]:
    """Where masks stand in it: ("the password",)."""
    try:
        unmask_repo(item, None) if isinstance(item, Repo) else unmask_plan(item, None)
    except UnknownMaskError as error:
        return error.fields
    return ()


def mask_uri(uri: str) -> str:
    """An address without the passwords in it: in front of the host, or among the query's parameters.

    What is in front of the host alone, without a colon, is hidden for HTTP (it may be a token) and shown else
    (a user name). A password may hold a "/" that should have been escaped: it is looked for then too.
    """
    found = _AUTHORITY.search(uri)
    if found is not None:
        start, authority = found.start(2), found[2]
        if "@" not in authority and not _PORT.fullmatch(authority):
            authority = uri[start : uri.rfind("@") + 1] or authority
        userinfo, at, _ = authority.rpartition("@")
        if at:
            user, colon, _ = userinfo.partition(":")
            if colon:
                userinfo = f"{user}:{MASK}"
            elif found[1].lower().rpartition("+")[2] in ("http", "https"):
                userinfo = MASK
            uri = uri[:start] + userinfo + uri[start + authority.rindex("@") :]
    out, done, at = [], 0, 0
    while (found := _PARAMETER.search(uri, at)) is not None:
        begins = found.start() > at and uri[found.start() - 1] in "&;"
        name = found[0] if begins else found[0].partition("?")[2]
        at = found.end()
        if not uri.startswith("=", at) or not _SENSITIVE.search(name):
            continue
        if (value := _VALUE.match(uri, at + 1)) is not None:
            out += [uri[done : at + 1], MASK]
            done = at = value.end()
    return "".join([*out, uri[done:]])


def mask_env(entry: str) -> str:
    name, equals, value = entry.partition("=")
    if not equals:
        return MASK  # not an assignment: perhaps a value that lost its name
    if not value or _PLAIN_ENV.fullmatch(name):
        return entry
    return f"{name}={MASK}"


def mask_flags(flags: Sequence[str]) -> list[str]:
    """Flags without the values that may be secret; one that stands alone hides the flag after it."""
    out, hide = [], False
    for flag in flags:
        if hide and not flag.startswith("-"):
            out.append(MASK)
            hide = False
            continue
        flag, hide = _mask_flag(flag)
        out.append(flag)
    return out


def _mask_flag(flag: str) -> tuple[str, bool]:
    flag = mask_uri(flag)
    bare = len(flag.rstrip(" ="))  # no copy of the rest for each name in it: that would be quadratic
    for found in _NAME.finditer(flag):
        if not _SENSITIVE.search(found[0]) or _PLAIN_NAME.search(found[0]):
            continue
        at = found.end()
        if at >= bare:
            return flag, flag.lstrip().startswith("-") and "=" not in flag[at:]
        if flag[at] in "= \t":
            # To the end: where a quoted value stops cannot be told for sure.
            return flag[: at + 1] + MASK, False
    return flag, False


def _mask(text: str) -> str:
    return MASK if text else ""


def _mask_repo(repo: Repo) -> None:
    repo.password = _mask(repo.password)
    repo.uri = mask_uri(repo.uri)
    repo.env[:] = [mask_env(entry) for entry in repo.env]
    repo.flags[:] = mask_flags(repo.flags)
    for hook in repo.hooks:
        _mask_hook(hook)


def _mask_plan(plan: Plan) -> None:
    plan.backup_flags[:] = mask_flags(plan.backup_flags)
    for hook in plan.hooks:
        _mask_hook(hook)


def _mask_hook(hook: Hook) -> None:
    kind = hook.WhichOneof("action")
    if kind is None:
        return
    action = getattr(hook, kind)
    name = _HOOK_SECRETS[kind]
    setattr(action, name, _mask(getattr(action, name)))
    if kind == "action_gotify":
        hook.action_gotify.base_url = mask_uri(hook.action_gotify.base_url)


def _refuse(problems: _Problems) -> None:
    if problems:
        said = [": ".join(filter(None, problem)) for problem in problems]
        raise UnknownMaskError(
            f"{'; '.join(said)}: the mask stands for no stored secret here, so give the secret itself",
            said,
            [field for _, field in problems],
        )


def _back(new: str, old: str, mask: Callable[[str], str], where: tuple[str, str], problems: _Problems) -> str:
    if MASK not in new or new == old:
        return new
    if old and mask(old) == new:
        return old
    problems.append(where)
    return new


def _back_list(
    new: Any, old: Sequence[str], shown: Sequence[str], where: tuple[str, str], problems: _Problems
) -> None:
    """Put back the masks in a list of texts: each stored entry, ``shown`` as this, is used once, in order."""
    left: dict[str, deque[str]] = {}
    for text, stored in zip(shown, old, strict=True):
        left.setdefault(text, deque()).append(stored)
    for index, text in enumerate(new):
        if MASK not in text:
            continue
        if matches := left.get(text):
            new[index] = matches.popleft()
        else:
            problems.append(where)


def _unmask_repo(new: Repo, old: Repo, problems: _Problems) -> None:
    where = f'repo "{new.id}"'
    new.password = _back(new.password, old.password, _mask, (where, "the password"), problems)
    new.uri = _back(new.uri, old.uri, mask_uri, (where, "the address"), problems)
    _back_list(new.env, old.env, [mask_env(e) for e in old.env], (where, "the environment"), problems)
    _back_list(new.flags, old.flags, mask_flags(old.flags), (where, "the flags"), problems)
    _unmask_hooks(new.hooks, old.hooks, where, problems)


def _unmask_plan(new: Plan, old: Plan, problems: _Problems) -> None:
    where = f'plan "{new.id}"'
    shown = mask_flags(old.backup_flags)
    _back_list(new.backup_flags, old.backup_flags, shown, (where, "the flags"), problems)
    _unmask_hooks(new.hooks, old.hooks, where, problems)


def _unmask_hooks(new: Any, old: Sequence[Hook], where: str, problems: _Problems) -> None:
    """A hook is found again by all that was shown of it, else (its conditions changed, say) by its place."""
    left: dict[bytes, deque[Hook]] = {}
    for hook in old:
        shown = Hook()
        shown.CopyFrom(hook)
        _mask_hook(shown)
        left.setdefault(shown.SerializeToString(deterministic=True), deque()).append(hook)
    for index, hook in enumerate(new):
        if matches := left.get(hook.SerializeToString(deterministic=True)):
            hook.CopyFrom(matches.popleft())
            continue
        kind = hook.WhichOneof("action")
        if kind is None:
            continue
        there = old[index] if index < len(old) and old[index].WhichOneof("action") == kind else Hook()
        action, stored, name = getattr(hook, kind), getattr(there, kind), _HOOK_SECRETS[kind]
        what = (where, f"hook {index + 1}")
        value = getattr(stored, name)
        if kind == "action_gotify":
            address = _back(hook.action_gotify.base_url, stored.base_url, mask_uri, what, problems)
            hook.action_gotify.base_url = address
            if address != stored.base_url:
                value = ""  # else an editor could have the token sent to a server of his own
        setattr(action, name, _back(getattr(action, name), value, _mask, what, problems))


def _unmask_multihost(new: Multihost, old: Multihost, problems: _Problems) -> None:
    peers = {peer.keyid: peer for peer in (*old.known_hosts, *old.authorized_clients)}
    for peer in (*new.known_hosts, *new.authorized_clients):
        stored = peers.get(peer.keyid) or Multihost.Peer()
        where = (f'peer "{peer.instance_id}"', "")
        peer.initial_pairing_secret = _back(
            peer.initial_pairing_secret, stored.initial_pairing_secret, _mask, where, problems
        )
        peer.instance_url = _back(peer.instance_url, stored.instance_url, mask_uri, where, problems)
    tokens: dict[tuple[str, int], list[str]] = {}
    for token in old.pairing_tokens:
        tokens.setdefault((token.label, token.created_at_unix), []).append(token.secret)
    for token in new.pairing_tokens:
        secrets = tokens.get((token.label, token.created_at_unix))
        stored_secret = secrets.pop(0) if secrets else ""
        where = (f'pairing token "{token.label}"', "")
        token.secret = _back(token.secret, stored_secret, _mask, where, problems)

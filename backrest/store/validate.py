"""What a configuration must satisfy (ENGINE.md 1.8), every violation reported at once, nothing changed.

Two kinds of rules. The reference's own reject a configuration always. Ours, stricter (the alphabet of ids,
key ids, addresses, tokens, counts), reject what is new or changed; where the previous configuration has the
same, they only warn: a file that the reference loads must load here too.

Absent on purpose: the reference's clean-up of repos whose host is gone, which deletes the user's plans from
inside a validation (W-46). See removal.py.
"""

from __future__ import annotations

import re
import shlex
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from backrest import wire
from backrest.crypto.identity import Identity, is_keyid
from backrest.permissions import RECEIVE_SHARED_REPOS, TYPE_NAMES, parse_scope
from backrest.store import places
from backrest.store.schedules import retention_problem, retention_warning, schedule_problem
from backrest.store.text import is_printable, quoted

Config = wire.config.Config
Multihost = wire.config.Multihost
Peer = wire.config.Multihost.Peer
Plan = wire.config.Plan
Repo = wire.config.Repo

INSTANCE_ID_BYTES: Final = 50  # the reference's bound
GUID_LENGTH: Final = 64  # restic's repository id: SHA-256 in hex
SECRET: Final = re.compile(r"[0-9a-f]{64}")  # what both programs generate: 32 random bytes in hex
_ID: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(slots=True)
class Findings:
    """``problems`` reject a configuration, ``warnings`` do not; one sentence each, no secrets."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    imported: bool = False  # our rules for new ids and places only warn

    def ours(self, text: str, *, known: bool) -> None:
        """A rule of ours is violated: a warning where that was so before."""
        (self.warnings if known else self.problems).append(text)


def id_problem(text: str, max_bytes: int = 0) -> str:
    """What is wrong with a new id, as the end of a sentence ("is empty"); empty when it is good.

    ``max_bytes`` 0: no bound.
    """
    return (
        _hard_id_problem(text, max_bytes)
        or ("" if _ID.fullmatch(text) else _ODD)
        or _misleading_id_problem(text)
    )


def pushed_id_problem(text: str) -> str:
    """The same for the id of a repo or plan that another instance chose: it may hold any ASCII that can be shown."""
    return _hard_id_problem(text, 0) or _misleading_id_problem(text)


def alike(text: str) -> str:
    """Two ids with the same of these look the same to a person: they differ in case, width, spaces or trailing dots.

    Letters of other scripts that look like Latin ones need no table here: a new id is ASCII.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(". ")


_ODD: Final = 'may hold only letters, digits, "_", "-" and "."'


def _misleading_id_problem(text: str) -> str:
    """What is taken from nobody as a new id, though the reference takes any text (W-10): people and shells would take
    it for something else. Its own page lets people type only ids of our alphabet."""
    if not text.isascii() or not text.isprintable() or text != text.strip():
        return "may hold only printable ASCII characters, and no space at its ends"
    if text.startswith("-"):
        return 'begins with "-", as an option of a command does'
    if text.endswith("."):
        return 'ends with "."'
    return ""


def _hard_id_problem(text: str, max_bytes: int) -> str:
    if text.startswith("_") and text.endswith("_"):
        return 'is reserved: it begins and ends with "_"'
    if not text:
        return "is empty"
    if max_bytes and len(text.encode()) > max_bytes:
        return f"is longer than {max_bytes} bytes"
    return ""


def problems(config: Config, previous: Config | None = None) -> list[str]:
    """Why this configuration cannot follow ``previous`` (None: everything in it is new)."""
    return check(config, previous).problems


def check(
    config: Config,
    previous: Config | None = None,
    *,
    now: float | None = None,
    from_peer: bool = False,
    imported: bool = False,
) -> Findings:
    """Everything that is wrong with ``config``. To judge a file as it is, give it as ``previous`` too.

    ``now`` (Unix time) is where the search for a schedule's next occurrence starts. ``from_peer``: what is new
    was named by another instance, which may know no rule for ids. ``imported``: it was in use as it is, elsewhere:
    our rules for ids and places only warn.
    """
    now = time.time() if now is None else now
    before = previous if previous is not None else Config()
    found = Findings(imported=imported)
    _check_instance(config, before, found)
    _check_users(config, before, found)
    _check_repos(config, before, found, now, from_peer)
    _check_plans(config, before, found, now, from_peer)
    if config.HasField("multihost"):
        _check_multihost(config, before, found)
    elif before.multihost.HasField("identity"):
        found.problems.append("the instance's identity would be lost, and every pairing with it")
    return found


def normalise(config: Config) -> None:
    """Put it into the order in which the reference writes it: the two programs' files then differ little."""
    config.repos.sort(key=lambda repo: repo.id)
    config.plans.sort(key=lambda plan: plan.id)
    for repo in config.repos:
        repo.env.sort()
    for plan in config.plans:
        plan.paths.sort()


def _check_id(
    what: str, text: str, found: Findings, *, known: bool, theirs: bool = False, max_bytes: int = 0
) -> None:
    """``theirs``: another instance chose it, and one here can only take it as it is."""
    if hard := _hard_id_problem(text, max_bytes):
        found.problems.append(f"{what} {hard}")
    elif misleading := _misleading_id_problem(text):
        found.ours(f"{what} {misleading}", known=known or found.imported)
    elif not _ID.fullmatch(text):
        found.ours(f"{what} {_ODD}", known=known or theirs or found.imported)


def _check_instance(config: Config, before: Config, found: Findings) -> None:
    if not config.instance:
        found.warnings.append(
            "the instance has no id: sync and backups need one (backrest init --instance-id)"
        )
        return
    known = config.instance == before.instance
    what = f"the instance id {quoted(config.instance)}"
    _check_id(what, config.instance, found, known=known, max_bytes=INSTANCE_ID_BYTES)


def _check_users(config: Config, before: Config, found: Findings) -> None:
    if not config.HasField("auth") or config.auth.disabled:
        return
    if not config.auth.users:
        found.problems.append("authentication is on, but there is no user")
    names = {user.name for user in before.auth.users}
    for user in config.auth.users:
        _check_id(f"the user name {quoted(user.name)}", user.name, found, known=user.name in names)
        if not user.password_bcrypt:
            found.problems.append(f"user {quoted(user.name)}: there is no password")


def _duplicates(what: str, values: Iterable[str], found: Findings) -> None:
    seen: set[str] = set()
    told: set[str] = set()
    for value in values:
        if value in seen and value not in told:
            told.add(value)
            found.problems.append(f"duplicate id: {what} {quoted(value)} is there twice")
        seen.add(value)


def _lookalikes(what: str, values: Iterable[str], before: Iterable[str], found: Findings) -> None:
    """Ours: an id that a person takes for another is how a stranger poses as a peer, or a repo as another."""
    earlier = set(before)
    seen: dict[str, str] = {}
    for value in values:
        other = seen.setdefault(alike(value), value)
        if other != value:
            known = found.imported or {other, value} <= earlier
            found.ours(
                f"the {what} ids {quoted(other)} and {quoted(value)} look alike: choose another", known=known
            )


def _check_repos(config: Config, before: Config, found: Findings, now: float, from_peer: bool) -> None:
    earlier = {repo.id: repo for repo in before.repos}
    peers = {
        peer.instance_id for peer in (*config.multihost.known_hosts, *config.multihost.authorized_clients)
    }
    _duplicates("repo", (repo.id for repo in config.repos), found)
    _lookalikes("repo", (repo.id for repo in config.repos), earlier, found)
    for repo in config.repos:
        old = earlier.get(repo.id)
        what = f"repo {quoted(repo.id)}"
        # A repo of another instance has the id that it has there: the user here cannot change it.
        theirs = bool(repo.origin_instance_id) or from_peer
        _check_id(f"the id of {what}", repo.id, found, known=old is not None, theirs=theirs)
        if not repo.uri:
            found.problems.append(f"{what}: there is no address (uri)")
        _check_places(what, repo, old, found)
        _check_guid(what, repo, old, found)
        for index, entry in enumerate(repo.env):
            if "=" not in entry:  # not shown: it may be a secret that lost its name
                found.problems.append(f"{what}: entry {index + 1} of its environment is not NAME=VALUE")
        _check_flags(what, repo.flags, old.flags if old is not None else (), found, expands=True)
        for name in ("prune", "check"):
            policy = repo.prune_policy if name == "prune" else repo.check_policy
            if policy.HasField("schedule"):
                _tell(f"{what}: {name} schedule", schedule_problem(policy.schedule, now), found)
        if repo.HasField("forget_policy"):
            _check_forget(what, repo, old, found, now)
        if repo.origin_instance_id and repo.origin_instance_id not in peers:
            found.warnings.append(
                f"{what} came from {quoted(repo.origin_instance_id)}, which is no peer of this instance: "
                f"Backrest in Go would delete it and the plans on it"
            )


def place_problems(item: Repo | Plan, old: Repo | Plan | None) -> Iterator[str]:
    """What is wrong with the places and patterns of an item that ``old`` does not have as well."""
    before: Repo | Plan = old if old is not None else type(item)()
    if isinstance(item, Repo) and isinstance(before, Repo):
        if item.uri != before.uri and (problem := places.uri_problem(item.uri, expands=True)):
            yield f"its address {problem}"
        for entry in item.env:
            if entry not in before.env and (problem := places.variable_problem(entry, expands=True)):
                yield f"{entry.partition('=')[0]} of its environment {problem}"
    elif isinstance(item, Plan) and isinstance(before, Plan):
        for path in item.paths:
            if path and path not in before.paths and (problem := places.path_problem(path)):
                yield f"the path {quoted(path)} {problem}"
        for patterns, known in ((item.excludes, before.excludes), (item.iexcludes, before.iexcludes)):
            for pattern in patterns:
                if pattern not in known and (problem := places.pattern_problem(pattern)):
                    yield f"the pattern {quoted(pattern)} {problem}"


def _check_places(what: str, item: Repo | Plan, old: Repo | Plan | None, found: Findings) -> None:
    new = list(place_problems(item, old))
    for problem in place_problems(item, None):
        found.ours(f"{what}: {problem}", known=found.imported or problem not in new)


def flag_problem(flags: Iterable[str], known: Iterable[str] = (), *, expands: bool = False) -> str:
    """What is wrong with the first flag that is wrong and not ``known``; empty when all are good. The flag itself is
    not repeated: it may be a secret that lost its name. ``expands``: see places.py."""
    for number, flag in enumerate(flags, 1):
        if flag in known:
            continue
        if not flag.lstrip().startswith("-"):
            return (
                f'flag {number} does not begin with "-", and restic would take it for one more path to back up: write '
                f"a flag and its value as one, --name=value"
            )
        try:
            words = shlex.split(flag)
        except ValueError:  # an open quote, or a "\\" at the end
            return f"flag {number} has a quote that is not closed, or ends with a backslash"
        if problem := places.flags_problem(words, expands=expands):
            return f"flag {number}: {problem}"
    return ""


def _check_flags(
    what: str, flags: Iterable[str], before: Iterable[str], found: Findings, *, expands: bool = False
) -> None:
    for known in (False, True):
        if problem := flag_problem(flags, set(before) if not known else (), expands=expands):
            found.ours(f"{what}: {problem}", known=known or found.imported)
            return


def _tell(what: str, problem: str, found: Findings) -> None:
    if problem:
        found.problems.append(f"{what}: {problem}")


def _check_guid(what: str, repo: Repo, old: Repo | None, found: Findings) -> None:
    if not repo.guid:
        if not repo.auto_initialize:
            found.problems.append(f"{what}: there is no guid, and auto-initialize is off")
        return
    if len(repo.guid.encode()) != GUID_LENGTH:
        found.problems.append(f"{what}: the guid must have {GUID_LENGTH} characters")
    elif not (repo.guid.isascii() and repo.guid.isalnum()):
        known = old is not None and old.guid == repo.guid
        found.ours(f"{what}: the guid may hold only letters and digits", known=known)
    if repo.auto_initialize:
        found.problems.append(f"{what}: with a guid, auto-initialize must be off")


def _check_forget(what: str, repo: Repo, old: Repo | None, found: Findings, now: float) -> None:
    policy = repo.forget_policy
    if not policy.HasField("schedule"):
        return
    _tell(f"{what}: forget schedule", schedule_problem(policy.schedule, now), found)
    if policy.schedule.WhichOneof("schedule") in (None, "disabled"):
        return
    if not policy.HasField("retention"):
        found.problems.append(f"{what}: a forget schedule needs a retention policy")
        return
    known = old is not None and old.forget_policy == policy
    _tell(f"{what}: forget policy", retention_problem(policy.retention), found)
    odd = retention_warning(policy.retention)
    if odd:
        found.ours(f"{what}: forget policy: {odd}", known=known)
    elif policy.retention.policy_keep_all:
        found.ours(f"{what}: a forget schedule cannot keep everything: disable the schedule", known=known)


def _check_plans(config: Config, before: Config, found: Findings, now: float, from_peer: bool) -> None:
    earlier = {plan.id: plan for plan in before.plans}
    repos = {repo.id for repo in config.repos}
    _duplicates("plan", (plan.id for plan in config.plans), found)
    _lookalikes("plan", (plan.id for plan in config.plans), earlier, found)
    for plan in config.plans:
        old = earlier.get(plan.id)
        what = f"plan {quoted(plan.id)}"
        _check_id(f"the id of {what}", plan.id, found, known=old is not None, theirs=from_peer)
        if plan.HasField("schedule"):
            _tell(f"{what}: schedule", schedule_problem(plan.schedule, now), found)
        if not plan.paths and not plan.backup_flags:
            found.problems.append(f"{what}: there is no path to back up")
        _check_flags(what, plan.backup_flags, old.backup_flags if old is not None else (), found)
        if not all(plan.paths):
            found.problems.append(f"{what}: a path is empty")
        _check_places(what, plan, old, found)
        if not plan.repo:
            found.problems.append(f"{what}: there is no repo")
        elif plan.repo not in repos:
            found.problems.append(f"{what}: repo {quoted(plan.repo)} not found")
        if plan.HasField("retention"):
            _tell(f"{what}: retention", retention_problem(plan.retention), found)
            odd = retention_warning(plan.retention)
            if odd:
                known = old is not None and old.retention == plan.retention
                found.ours(f"{what}: retention: {odd}", known=known)


def _check_multihost(config: Config, before: Config, found: Findings) -> None:
    multihost = config.multihost
    if multihost.HasField("identity"):
        try:
            Identity.from_proto(multihost.identity)
        except ValueError as bad:
            found.problems.append(f"the instance's identity cannot be used: {bad}")
    elif before.multihost.HasField("identity"):
        found.problems.append("the instance's identity would be lost, and every pairing with it")
    hosts = {peer.keyid: peer for peer in before.multihost.known_hosts}
    clients = {peer.keyid: peer for peer in before.multihost.authorized_clients}
    for host in multihost.known_hosts:
        _check_peer("host", host, hosts, found)
    for client in multihost.authorized_clients:
        _check_peer("client", client, clients, found)
    everybody = (*multihost.known_hosts, *multihost.authorized_clients)
    own_keyid = (multihost.identity.keyid,) if multihost.identity.keyid else ()
    own_id = (config.instance,) if config.instance else ()
    ids = (*own_id, *(p.instance_id for p in everybody if p.instance_id))
    peers_before = (*before.multihost.known_hosts, *before.multihost.authorized_clients)
    _duplicates("instance", ids, found)
    _lookalikes("instance", ids, (before.instance, *(p.instance_id for p in peers_before)), found)
    _duplicates("key", (*own_keyid, *(p.keyid for p in everybody if p.keyid)), found)
    _check_tokens(multihost, before.multihost, found)


def _check_peer(role: str, peer: Peer, earlier: Mapping[str, Peer], found: Findings) -> None:
    old = earlier.get(peer.keyid)
    what = f"{role} {quoted(peer.instance_id)}"
    known = old is not None and old.instance_id == peer.instance_id
    theirs = role == "host"  # its id was chosen there
    id_what = f"the instance id of {what}"
    _check_id(id_what, peer.instance_id, found, known=known, theirs=theirs, max_bytes=INSTANCE_ID_BYTES)
    if not peer.keyid:
        found.problems.append(f"{what}: there is no key id")
    elif not is_keyid(peer.keyid):
        found.ours(f"{what}: {quoted(peer.keyid)} is not a key id", known=old is not None)
    if role == "host":
        if not peer.instance_url:
            found.problems.append(f"{what}: there is no URL")
        elif not _is_url(peer.instance_url):
            known = old is not None and old.instance_url == peer.instance_url
            found.ours(f"{what}: the URL must be http:// or https:// and a host's name", known=known)
    before = old.permissions if old else ()
    _check_permissions(what, peer.permissions, before, found)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port  # ValueError when it is none
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname) and is_printable(text) and " " not in text


def _check_permissions(
    what: str,
    permissions: Iterable[Multihost.Permission],
    before: Iterable[Multihost.Permission],
    found: Findings,
    *,
    scopes_known: bool = False,
) -> None:
    earlier = list(before)
    for permission in permissions:
        known = permission in earlier
        for scope in permission.scopes:
            try:
                parse_scope(scope)
            except ValueError:
                text = (
                    f"{what}: {quoted(scope)} is not a scope: use *, repo:ID, plan:ID, !repo:ID or !plan:ID"
                )
                found.ours(text, known=scopes_known)
        if permission.type not in TYPE_NAMES.values():
            found.ours(f"{what}: a permission has no type that is known", known=known)
        elif not permission.scopes and permission.type != RECEIVE_SHARED_REPOS:
            name = Multihost.Permission.Type.Name(permission.type)
            found.warnings.append(f'{what}: {name} without scopes means everything: write "*" to say so')


def _check_tokens(multihost: Multihost, before: Multihost, found: Findings) -> None:
    """Rules of ours only (W-47): the reference looks at none of this."""
    earlier = {token.secret: token for token in before.pairing_tokens}
    before_secrets = Counter(token.secret for token in before.pairing_tokens)
    seen: set[str] = set()
    for token in multihost.pairing_tokens:
        old = earlier.get(token.secret)
        known = old is not None and _terms(old) == _terms(token)
        what = f"pairing token {quoted(token.label)}"
        if not SECRET.fullmatch(token.secret):
            found.ours(f"{what}: the secret must be 64 hex digits", known=known)
        if token.secret in seen:
            found.ours(f"{what}: another token has the same secret", known=before_secrets[token.secret] > 1)
        seen.add(token.secret)
        if not is_printable(token.label):
            found.ours(f"{what}: the label holds control characters", known=known)
        if min(token.created_at_unix, token.expires_at_unix, token.max_uses, token.uses) < 0:
            found.ours(f"{what}: times and counts cannot be negative", known=known)
        if 0 < token.max_uses < token.uses:
            used = known and old is not None and old.uses >= token.uses
            found.ours(f"{what}: it was used more often than it may be", known=used)
        before_permissions = old.permissions if old else ()
        _check_permissions(what, token.permissions, before_permissions, found, scopes_known=known)


def _terms(token: Multihost.PairingToken) -> bytes:
    """All of a token but how often it was used, which changes with each pairing."""
    out = Multihost.PairingToken()
    out.CopyFrom(token)
    out.uses = 0
    return out.SerializeToString(deterministic=True)

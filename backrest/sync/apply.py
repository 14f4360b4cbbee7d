"""What a ``set_config`` of the other side changes here: each item judged alone, what passes applied together.

Facts: PROTOCOL.md section 8. Pure: works on a copy of the configuration that the store hands to it; the store
validates the result and writes it, or nothing. Nobody's refusal ends the session, or the two would meet the same
refusal at every reconnect, for ever.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from backrest import wire
from backrest.errors import UserError
from backrest.permissions import READ_WRITE_CONFIG, RECEIVE_SHARED_REPOS, VIEW_RESOURCES, Grants
from backrest.store.configfile import size
from backrest.store.mask import unmask_plan, unmask_repo
from backrest.store.validate import alike, pushed_id_problem

Config = wire.config.Config
Plan = wire.config.Plan
Repo = wire.config.Repo
SetConfig = wire.sync.SyncStreamItem.SyncActionSetConfig


# A push is worked on while the configuration is locked, each item against all that is here.
MOST_ITEMS = 1000  # in one push, and repos or plans in all when a peer adds one
ITEM_BYTES = 256 * 1024
# Of all repos and plans here, as the file has them, when a peer adds to them, and of those that it adds or changes in
# one push. A thousand at their full size would be more than is read back of a file (64 MiB): then no change of the
# configuration would work any more, and no daemon start. The rest of that is the user's own.
TOTAL_BYTES = 16 * 1024 * 1024
FLAG_CHARS = 4096  # what splits a flag into words takes quadratic time


@dataclass(slots=True)
class Report:
    """What became of a push, one sentence for each item, in their order.

    ``refused`` is for the people here; ``told``, as long, is what the sender may hear of it: nothing that it could not
    see anyway. ``about`` says which item each refusal is about: ("plan" or "repo", id), or ("", "") for all.
    ``items`` names what was done, without content: ("plan photos", "added"). ``done`` counts the items that are here
    now as pushed, changed or not, also those taken with something left out.
    """

    applied: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)
    items: list[tuple[str, str]] = field(default_factory=list)
    changed: bool = False
    done: int = 0

    def did(self, kind: str, ident: str, what: str) -> None:
        self.applied.append(f"{kind} {ident!r} {what}")
        self.items.append((f"{kind} {ident}", what))

    def refuse(self, kind: str, ident: str, why: str, told: str = "", *, wholly: bool = True) -> None:
        """``told``: for the sender, where ``why`` names what is here. Not ``wholly``: the rest of the item is done."""
        self.done -= wholly
        subject = f"{kind} {ident[:80]!r}: "
        self.refused.append(subject + why)
        self.told.append(subject + (told or why))
        self.about.append((kind, ident))

    def refuse_all(self, why: str) -> None:
        """Nothing was applied, whatever the items were."""
        self.applied.clear()
        self.items.clear()
        self.refused, self.told, self.about = [why], [why], [("", "")]
        self.changed, self.done = False, 0


class _Room:
    """How much larger a push may make the configuration. Measured only when something is added or changed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ids: dict[str, set[str]] | None = None
        self._used: int | None = None
        self._measured = 0  # the work that this push has made: a small message can be a large text

    def names(self, kind: str, ident: str) -> str:
        """What keeps ``ident`` from being the id of a new item here, as the end of a sentence. None: it is taken now.

        The store would refuse the same, and with it all of the push.
        """
        if self._ids is None:
            plans, repos = self._config.plans, self._config.repos
            self._ids = {"plan": {alike(p.id) for p in plans}, "repo": {alike(r.id) for r in repos}}
        if problem := pushed_id_problem(ident):
            return f"its id {problem}"
        if (key := alike(ident)) in self._ids[kind]:
            return f"its id looks like that of another {kind} here"
        self._ids[kind].add(key)
        return ""

    def takes(self, new: Plan | Repo, here: Plan | Repo | None) -> bool:
        """Is there room for it in the place of ``here``? Then it is taken up. What makes nothing larger fits also where
        there is too much already, unless the push itself is too much work."""
        if self._measured > TOTAL_BYTES:
            return False
        if self._used is None:
            self._used = sum(map(size, (*self._config.repos, *self._config.plans)))
        added = size(new)
        self._measured += added
        more = added - (0 if here is None else size(here))
        if more > 0 and self._used + more > TOTAL_BYTES:
            return False
        self._used += more
        return True


_TOO_MUCH = f"the configuration here would be larger than {TOTAL_BYTES >> 20} MiB"


def apply_set_config(config: Config, peer: wire.config.Multihost.Peer, message: SetConfig) -> Report:
    """Apply what ``peer``'s permissions (our entry for it) allow to ``config``, in place.

    ``report.changed`` is False when the configuration is as it was: then write nothing.
    """
    report = Report()
    items = len(message.plans) + len(message.repos)
    if items + len(message.plans_to_delete) + len(message.repos_to_delete) > MOST_ITEMS:
        report.refuse_all(f"nothing was applied: more than {MOST_ITEMS} items in one push")
        return report
    before = config.SerializeToString(deterministic=True)
    report.done = items + len(message.plans_to_delete) + len(message.repos_to_delete)
    grants, origin = Grants(peer.permissions), peer.instance_id
    if not any(host.keyid == peer.keyid for host in config.multihost.known_hosts):
        # A client. On its entry RECEIVE_SHARED_REPOS is what *it* gets: the attack is to hand a repo to the hub by it.
        # And what it may write here with READ_WRITE_CONFIG is a repo of this hub, not one that came from elsewhere.
        grants = Grants(p for p in peer.permissions if p.type != RECEIVE_SHARED_REPOS)
        origin = ""
    room = _Room(config)
    for plan in message.plans:
        _set_plan(config, room, grants, plan, report)
    for repo in message.repos:
        _set_repo(config, room, origin, grants, repo, report)
    for plan_id in message.plans_to_delete:
        _delete_plan(config, grants, plan_id, report)
    for repo_id in message.repos_to_delete:
        _delete_repo(config, grants, repo_id, report)
    report.changed = config.SerializeToString(deterministic=True) != before
    return report


def _set_plan(config: Config, room: _Room, grants: Grants, plan: Plan, report: Report) -> None:
    if plan.ByteSize() > ITEM_BYTES:
        report.refuse("plan", plan.id, f"larger than {ITEM_BYTES >> 10} KiB")
        return
    here = next((p for p in config.plans if p.id == plan.id), None)
    allowed = grants.plan(plan.id, plan.repo, READ_WRITE_CONFIG)
    if here is not None:  # else a plan limited to one repo could be moved in from another
        allowed = allowed and grants.plan(here.id, here.repo, READ_WRITE_CONFIG)
    if not allowed:
        report.refuse("plan", plan.id, "READ_WRITE_CONFIG is not granted for it")
        return
    try:
        new = unmask_plan(plan, here)
    except UserError as error:  # a mask where nothing is known that it could stand for
        report.refuse("plan", plan.id, str(error))
        return
    if here is None and len(config.plans) >= MOST_ITEMS:
        report.refuse("plan", plan.id, f"there are {MOST_ITEMS} plans here already")
    elif here is None and (problem := room.names("plan", plan.id)):
        report.refuse("plan", plan.id, problem)
    elif here != new and not room.takes(new, here):
        report.refuse("plan", plan.id, _TOO_MUCH)
    elif here is None:
        config.plans.append(new)
        report.did("plan", plan.id, "added")
    elif here != new:
        here.CopyFrom(new)
        report.did("plan", plan.id, "changed")


def _set_repo(config: Config, room: _Room, sender: str, grants: Grants, repo: Repo, report: Report) -> None:
    if repo.ByteSize() > ITEM_BYTES:
        report.refuse("repo", repo.id, f"larger than {ITEM_BYTES >> 10} KiB")
        return
    if not repo.guid:
        report.refuse("repo", repo.id, "it has no guid")
        return
    here = next((r for r in config.repos if r.guid == repo.guid), None)
    may_write = grants.repo(repo.id, READ_WRITE_CONFIG) and (
        here is None or grants.repo(here.id, READ_WRITE_CONFIG)
    )
    claims_origin = bool(repo.origin_instance_id)
    if here is not None and not here.origin_instance_id:  # a local repo of the same guid
        if not may_write:
            seen = grants.repo(here.id, *VIEW_RESOURCES)
            report.refuse(
                "repo",
                repo.id,
                f"a local repo ({here.id!r}) has the same guid; it is used instead, unless it is removed",
                "" if seen else "a local repo has the same guid",
            )
        else:
            _write_repo(config, room, here, repo, "", grants, report)
        return
    if here is not None and here.origin_instance_id != sender:
        by = f"it is already shared by {here.origin_instance_id!r}"
        report.refuse("repo", repo.id, by, "it is already shared by another hub")
        return
    if grants.has(RECEIVE_SHARED_REPOS) and (claims_origin or here is not None or not may_write):
        new = Repo()
        new.CopyFrom(repo)
        if not may_write and _address_runs_program(new.uri):
            report.refuse(
                "repo", repo.id, "its address would run a program here, or show it this machine's environment"
            )
            return
        dropped = [] if may_write else strip_programs(new)
        if dropped:
            without = f"taken without {', '.join(dropped)}, which would run programs here"
            report.refuse("repo", repo.id, without, wholly=False)
        _write_repo(config, room, here, new, sender, grants, report)
    elif may_write:
        _write_repo(
            config, room, here, repo, sender if here is not None or claims_origin else "", grants, report
        )
    elif sender:
        report.refuse(
            "repo", repo.id, f"RECEIVE_SHARED_REPOS is not granted to {sender!r} ('backrest host grant')"
        )
    else:
        report.refuse("repo", repo.id, "READ_WRITE_CONFIG is not granted for it")


def _write_repo(
    config: Config, room: _Room, here: Repo | None, repo: Repo, origin: str, grants: Grants, report: Report
) -> None:
    other = next((r for r in config.repos if r is not here and r.id == repo.id), None)
    if other is None:
        place = _place(repo.uri)
        other = next((r for r in config.repos if r is not here and _place(r.uri) == place), None)
    if other is not None:
        what = "id" if other.id == repo.id else "address"
        seen = other.id == repo.id or grants.repo(other.id, *VIEW_RESOURCES)
        report.refuse(
            "repo",
            repo.id,
            f"the repo {other.id!r} here has the same {what}; one of the two has to be removed or changed",
            "" if seen else f"a repo here has the same {what}",
        )
        return
    try:
        new = unmask_repo(repo, here)
    except UserError as error:
        report.refuse("repo", repo.id, str(error))
        return
    new.origin_instance_id = origin
    if here is None and len(config.repos) >= MOST_ITEMS:
        report.refuse("repo", repo.id, f"there are {MOST_ITEMS} repos here already")
    elif (here is None or here.id != new.id) and (problem := room.names("repo", new.id)):
        report.refuse("repo", repo.id, problem)
    elif here != new and not room.takes(new, here):
        report.refuse("repo", repo.id, _TOO_MUCH)
    elif here is None:
        config.repos.append(new)
        report.did("repo", repo.id, "added")
    elif here != new:
        if here.id != new.id:  # the plans here know it by the old id
            for plan in config.plans:
                if plan.repo == here.id:
                    plan.repo = new.id
        here.CopyFrom(new)
        report.did("repo", repo.id, "changed")


def _place(uri: str) -> str:
    """The address in one way of writing it, as far as restic says the same of several."""
    return uri.removeprefix("local:").rstrip("/") or uri


def _delete_plan(config: Config, grants: Grants, plan_id: str, report: Report) -> None:
    here = next((p for p in config.plans if p.id == plan_id), None)
    # Asked first, also about what is not there: else the answer would tell a peer what it may not see.
    if not grants.plan(plan_id, here.repo if here is not None else "", READ_WRITE_CONFIG):
        report.refuse("plan", plan_id, "READ_WRITE_CONFIG is not granted to delete it")
        return
    if here is None:
        return  # deleting what is not there may be repeated safely
    config.plans.remove(here)
    report.did("plan", plan_id, "deleted")


def _delete_repo(config: Config, grants: Grants, repo_id: str, report: Report) -> None:
    here = next((r for r in config.repos if r.id == repo_id), None)
    if not grants.repo(repo_id, READ_WRITE_CONFIG):
        report.refuse("repo", repo_id, "READ_WRITE_CONFIG is not granted to delete it")
        return
    if here is None:
        return
    users = [plan for plan in config.plans if plan.repo == repo_id]
    if users:
        names = ", ".join(repr(plan.id) for plan in users)
        seen = all(grants.plan(plan.id, plan.repo, *VIEW_RESOURCES) for plan in users)
        report.refuse("repo", repo_id, f"still used by plan {names}", "" if seen else "still used by a plan")
        return
    config.repos.remove(here)
    report.did("repo", repo_id, "deleted")


def strip_programs(repo: Repo) -> list[str]:
    """Take out of a pushed repo what would run programs on this machine (W-01); returns what was taken out.

    Attack: a hub that may only share repos pushes one whose hook, password command or ``-o sftp.command=``
    is a shell command.
    """
    dropped: list[str] = []
    if repo.hooks:
        del repo.hooks[:]
        dropped.append("its hooks")
    if repo.HasField("command_prefix"):
        repo.ClearField("command_prefix")
        dropped.append("its command prefix")
    keep = [entry for entry in repo.env if not _runs_program(entry)]
    if len(keep) != len(repo.env):
        dropped.append(_names(entry.partition("=")[0] for entry in repo.env if _runs_program(entry)))
        repo.env[:] = keep
    flags = [flag for flag in repo.flags if not _names_program(flag)]
    if len(flags) != len(repo.flags):
        repo.flags[:] = flags
        dropped.append("flags that name programs")
    return dropped


def _runs_program(entry: str) -> bool:
    name = entry.partition("=")[0].strip().upper()
    # *_COMMAND is restic's and rclone's; the loader's and shells' variables make any program run another's code.
    return (
        "${" in entry  # would carry this machine's own secrets to wherever the hub points the repo
        or name.endswith("_COMMAND")
        or name.startswith(("LD_", "DYLD_", "RCLONE_"))
        or name in {"PATH", "BASH_ENV", "ENV", "SHELL", "GODEBUG"}
    )


def _names_program(flag: str) -> bool:
    if len(flag) > FLAG_CHARS or "${" in flag:
        return True  # as for the environment
    try:
        words = shlex.split(flag)
    except ValueError:
        return True  # what cannot be split cannot be judged
    # -o joins with its value and with other one-letter flags ("-qo", "-osftp.command=x").
    return any(
        word.startswith(("--password-command", "--option"))
        or (word[:1] == "-" and word[:2] != "--" and "o" in word)
        for word in words
    )


def _address_runs_program(uri: str) -> bool:
    # ssh takes a host that begins with "-" as an option (ProxyCommand); rclone takes whole backends, ssh command
    # included, from a remote that begins with ":" ("rclone::sftp,ssh=...:"). ${VAR} would be filled in from here.
    rest = uri.removeprefix("sftp:").removeprefix("//")
    return (
        "${" in uri
        or uri.startswith(("-", "rclone::"))
        or (uri.startswith("sftp:") and rest.rpartition("@")[2].startswith("-"))
    )


def _names(names: Iterable[str]) -> str:
    return "environment " + ", ".join(sorted(set(names)))

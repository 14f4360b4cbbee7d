"""What a ``set_config`` of the other side changes here: each item judged alone, what passes applied together.

Facts: PROTOCOL.md section 8. Pure: works on a copy of the configuration that the store hands to it; the store
validates the result and writes it, or nothing. Nobody's refusal ends the session, or the two would meet the same
refusal at every reconnect, for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from backrest import harmless, wire
from backrest.permissions import READ_WRITE_CONFIG, RECEIVE_SHARED_REPOS, VIEW_RESOURCES, Grants
from backrest.refusals import IN_PART, Kind, Refusal, Why, refusal
from backrest.store.configfile import size
from backrest.store.mask import UnknownMaskError, unmask_plan, unmask_repo
from backrest.store.validate import alike, flag_problem, place_problems, pushed_id_problem
from backrest.store.waiting import Wanted

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


@dataclass(slots=True)
class Report:
    """What became of a push, item by item, in their order.

    ``refused`` is for the people here; ``told``, as long, is what the sender may hear of it: nothing that it could not
    see anyway. ``applied`` is for a log. ``items`` names what was done, without content: ("plan photos", "added").
    ``done`` counts the items that are here now as pushed, changed or not, also those taken with something left out.
    """

    applied: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    told: list[Refusal] = field(default_factory=list)
    items: list[tuple[str, str]] = field(default_factory=list)
    changed: bool = False
    done: int = 0
    waits: dict[str, Wanted | None] = field(default_factory=dict)
    """Guid -> what waits until somebody here accepts it (store/waiting.py); None: nothing does any more."""

    def did(self, kind: str, ident: str, what: str) -> None:
        self.applied.append(f"{kind} {ident!r} {what}")
        self.items.append((f"{kind} {ident}", what))

    def refuse(
        self,
        kind: Kind,
        ident: str,
        code: Why,
        /,
        *,
        hidden: Collection[str] = (),
        **fields: str | int | Iterable[str],
    ) -> None:
        """``hidden``: the fields that the sender may not see."""
        self.done -= code not in IN_PART
        refused = refusal(kind, ident, code, **fields)
        self.refused.append(refused)
        self.told.append(refused.without(hidden))

    def refuse_all(self, code: Why, /, **fields: str | int) -> None:
        """Nothing was applied, whatever the items were."""
        self.applied.clear()
        self.items.clear()
        self.refused = [refusal("", "", code, **fields)]
        self.told = list(self.refused)
        self.changed, self.done = False, 0
        self.waits.clear()


class _Room:
    """How much larger a push may make the configuration. Measured only when something is added or changed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ids: dict[str, set[str]] | None = None
        self._used: int | None = None
        self._measured = 0  # the work that this push has made: a small message can be a large text

    def names(self, kind: str, ident: str, instead: str = "") -> tuple[Why, dict[str, str]] | None:
        """Why ``ident`` cannot be the id of a new item here, and the fields of that; None: it is taken now.

        The store would refuse the same, and with it all of the push.
        """
        if self._ids is None:
            plans, repos = self._config.plans, self._config.repos
            self._ids = {"plan": {alike(p.id) for p in plans}, "repo": {alike(r.id) for r in repos}}
        if problem := pushed_id_problem(ident):
            return Why.BAD_ID, {"text": problem}
        if (key := alike(ident)) in self._ids[kind] and key != alike(instead):
            return Why.ALIKE_ID, {}
        self._ids[kind].add(key)
        return None

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


def apply_set_config(config: Config, peer: wire.config.Multihost.Peer, message: SetConfig) -> Report:
    """Apply what ``peer``'s permissions (our entry for it) allow to ``config``, in place.

    ``report.changed`` is False when the configuration is as it was: then write nothing.
    """
    report = Report()
    items = len(message.plans) + len(message.repos)
    if items + len(message.plans_to_delete) + len(message.repos_to_delete) > MOST_ITEMS:
        report.refuse_all(Why.TOO_MANY_ITEMS, limit=MOST_ITEMS)
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
        report.refuse("plan", plan.id, Why.TOO_LARGE, limit=ITEM_BYTES >> 10)
        return
    here = next((p for p in config.plans if p.id == plan.id), None)
    allowed = grants.plan(plan.id, plan.repo, READ_WRITE_CONFIG)
    if here is not None:  # else a plan limited to one repo could be moved in from another
        allowed = allowed and grants.plan(here.id, here.repo, READ_WRITE_CONFIG)
    if not allowed:
        report.refuse("plan", plan.id, Why.WRITE_NOT_GRANTED)
        return
    try:
        new = unmask_plan(plan, here)
    except UnknownMaskError as error:
        report.refuse("plan", plan.id, Why.MASKED, names=error.fields)
        return
    if bad_flag := flag_problem(new.backup_flags, here.backup_flags if here is not None else ()):
        report.refuse("plan", plan.id, Why.BAD_FLAG, text=bad_flag)
    elif bad_place := next(place_problems(new, here), ""):
        report.refuse("plan", plan.id, Why.BAD_PLACE, text=bad_place)
    elif here is None and len(config.plans) >= MOST_ITEMS:
        report.refuse("plan", plan.id, Why.FULL, limit=MOST_ITEMS)
    elif here is None and (problem := room.names("plan", plan.id)):
        report.refuse("plan", plan.id, problem[0], **problem[1])
    elif here != new and not room.takes(new, here):
        report.refuse("plan", plan.id, Why.NO_ROOM, limit=TOTAL_BYTES >> 20)
    elif here is None:
        config.plans.append(new)
        report.did("plan", plan.id, "added")
    elif here != new:
        here.CopyFrom(new)
        report.did("plan", plan.id, "changed")


def _set_repo(config: Config, room: _Room, sender: str, grants: Grants, repo: Repo, report: Report) -> None:
    if repo.ByteSize() > ITEM_BYTES:
        report.refuse("repo", repo.id, Why.TOO_LARGE, limit=ITEM_BYTES >> 10)
        return
    if not repo.guid:
        report.refuse("repo", repo.id, Why.NO_GUID)
        return
    here = next((r for r in config.repos if r.guid == repo.guid), None)
    may_write = grants.repo(repo.id, READ_WRITE_CONFIG) and (
        here is None or grants.repo(here.id, READ_WRITE_CONFIG)
    )
    claims_origin = bool(repo.origin_instance_id)
    if here is not None and not here.origin_instance_id:  # a local repo of the same guid
        if not may_write:
            seen = grants.repo(here.id, *VIEW_RESOURCES)
            hidden = () if seen else ("other",)
            report.refuse("repo", repo.id, Why.SAME_GUID, other=here.id, hidden=hidden)
        else:
            _write_repo(config, room, here, repo, "", grants, report)
        return
    if here is not None and here.origin_instance_id != sender:
        report.refuse("repo", repo.id, Why.SHARED_BY_OTHER, hub=here.origin_instance_id, hidden=("hub",))
        return
    if grants.has(RECEIVE_SHARED_REPOS) and (claims_origin or here is not None or not may_write):
        _write_repo(config, room, here, repo, sender, grants, report, trusted=may_write)
    elif may_write:
        _write_repo(
            config, room, here, repo, sender if here is not None or claims_origin else "", grants, report
        )
    elif sender:
        report.refuse("repo", repo.id, Why.SHARE_NOT_GRANTED, hub=sender)
    else:
        report.refuse("repo", repo.id, Why.WRITE_NOT_GRANTED)


def _write_repo(
    config: Config,
    room: _Room,
    here: Repo | None,
    repo: Repo,
    origin: str,
    grants: Grants,
    report: Report,
    *,
    trusted: bool = True,
) -> None:
    """Not ``trusted``, against a hub that may only share repos: it pushes one whose hook, flag, environment or address
    runs a program here, or has restic read a file and send it away (W-01); or moves one that is used here."""
    other = next((r for r in config.repos if r is not here and r.id == repo.id), None)
    if other is None:
        place = _place(repo.uri)
        other = next((r for r in config.repos if r is not here and _place(r.uri) == place), None)
    if other is not None:
        same_id = other.id == repo.id
        seen = same_id or grants.repo(other.id, *VIEW_RESOURCES)
        why = Why.SAME_ID if same_id else Why.SAME_ADDRESS
        report.refuse("repo", repo.id, why, other=other.id, hidden=() if seen else ("other",))
        return
    try:
        new = unmask_repo(repo, here)
    except UnknownMaskError as error:
        report.refuse("repo", repo.id, Why.MASKED, names=error.fields)
        return
    new.origin_instance_id = origin
    left_out: Sequence[str] = ()
    held: Sequence[str] = ()
    wanted: Wanted | None = None
    if not trusted:
        judged = harmless.judge(new)
        if judged.refusal:
            report.refuse("repo", repo.id, Why.NOT_HARMLESS, text=judged.refusal)
            return
        new, left_out = judged.repo, judged.left_out
        if here is not None and any(plan.repo == here.id for plan in config.plans):
            wanted = Wanted.of(new, origin)
            held = _hold_back(here, new)
    elif bad_flag := flag_problem(new.flags, here.flags if here is not None else (), expands=True):
        report.refuse("repo", repo.id, Why.BAD_FLAG, text=bad_flag)
        return
    elif bad_place := next(place_problems(new, here), ""):
        report.refuse("repo", repo.id, Why.BAD_PLACE, text=bad_place)
        return
    if here is None and len(config.repos) >= MOST_ITEMS:
        report.refuse("repo", repo.id, Why.FULL, limit=MOST_ITEMS)
    elif (here is None or here.id != new.id) and (
        problem := room.names("repo", new.id, instead="" if here is None else here.id)
    ):
        report.refuse("repo", repo.id, problem[0], **problem[1])
    elif here != new and not room.takes(new, here):
        report.refuse("repo", repo.id, Why.NO_ROOM, limit=TOTAL_BYTES >> 20)
    else:
        _put_repo(config, here, new, report)
        if left_out:
            report.refuse("repo", repo.id, Why.LEFT_OUT, names=left_out)
        if held:
            report.refuse("repo", repo.id, Why.WAITS, names=[harmless.FIELDS[name] for name in held])
        report.waits[new.guid] = wanted if held else None


def _hold_back(here: Repo, new: Repo) -> tuple[str, ...]:
    """Give ``new`` what is in force ``here`` where a change has to wait; the fields that do."""
    judged = harmless.judge(here)
    force = here if judged.refusal else judged.repo
    held = harmless.held_back(force, new)
    if "uri" in held:
        new.uri = force.uri
    if "env" in held:
        new.env[:] = force.env
    if "flags" in held:
        new.flags[:] = force.flags
    return held


def _put_repo(config: Config, here: Repo | None, new: Repo, report: Report) -> None:
    if here is None:
        config.repos.append(new)
        report.did("repo", new.id, "added")
    elif here != new:
        if here.id != new.id:  # the plans here know it by the old id
            for plan in config.plans:
                if plan.repo == here.id:
                    plan.repo = new.id
        here.CopyFrom(new)
        report.did("repo", new.id, "changed")


def _place(uri: str) -> str:
    """The address in one way of writing it, as far as restic says the same of several."""
    return uri.removeprefix("local:").rstrip("/") or uri


def _delete_plan(config: Config, grants: Grants, plan_id: str, report: Report) -> None:
    here = next((p for p in config.plans if p.id == plan_id), None)
    # Asked first, also about what is not there: else the answer would tell a peer what it may not see.
    if not grants.plan(plan_id, here.repo if here is not None else "", READ_WRITE_CONFIG):
        report.refuse("plan", plan_id, Why.DELETE_NOT_GRANTED)
        return
    if here is None:
        return  # deleting what is not there may be repeated safely
    config.plans.remove(here)
    report.did("plan", plan_id, "deleted")


def _delete_repo(config: Config, grants: Grants, repo_id: str, report: Report) -> None:
    here = next((r for r in config.repos if r.id == repo_id), None)
    if not grants.repo(repo_id, READ_WRITE_CONFIG):
        report.refuse("repo", repo_id, Why.DELETE_NOT_GRANTED)
        return
    if here is None:
        return
    users = [plan for plan in config.plans if plan.repo == repo_id]
    if users:
        seen = all(grants.plan(plan.id, plan.repo, *VIEW_RESOURCES) for plan in users)
        plans = [plan.id for plan in users]
        report.refuse("repo", repo_id, Why.IN_USE, plans=plans, hidden=() if seen else ("plans",))
        return
    report.waits[here.guid] = None
    config.repos.remove(here)
    report.did("repo", repo_id, "deleted")

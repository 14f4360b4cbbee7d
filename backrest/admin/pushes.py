"""Changing another machine's repositories and plans: what would change, the push, and what became of it.

A push goes into the queue (store/pushqueue.py), which is the level that sessions look at: a live session sends it at
once, a later one when the peer comes. So the use case needs no way to a session; it waits for the queue to know the
outcome. What the peer allows is decided there, and only there (sync/apply.py).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from backrest import wire
from backrest.admin.context import Context, require_identity
from backrest.admin.peers import Peer, find
from backrest.errors import BackrestError, NotFoundError, UserError
from backrest.refusals import Why, refusal
from backrest.store.mask import masked_plan, masked_repo
from backrest.store.pushqueue import Answer, Push, SetConfig, answer_json, masked
from backrest.wire import codec

if TYPE_CHECKING:
    from backrest.admin.registry import Emit
    from backrest.store.peers import PeerRecord

WAIT_S = 30.0  # a peer answers within a second; what takes longer is told, and goes on

Repo = wire.config.Repo
Plan = wire.config.Plan
M = TypeVar("M", wire.config.Repo, wire.config.Plan)


def preview(
    context: Context,
    ident: str,
    repos: list[dict[str, Any]],
    plans: list[dict[str, Any]],
    repos_to_delete: list[str],
    plans_to_delete: list[str],
) -> dict[str, Any]:
    """What the peer shows now, and what it would have: for each item the two objects, secrets masked.

    ``secrets`` names the fields that a push sets although nobody sees their value here.
    """
    peer, role = target(context, ident)
    record = context.peers.get(peer.keyid)
    message = read(record, repos, plans, repos_to_delete, plans_to_delete)
    _refuse_masks(record, message)
    view = _view(record)
    found: list[dict[str, Any]] = []
    there_plans = {plan.id: plan for plan in view.plans}
    there_repos = {repo.guid: repo for repo in view.repos}
    for plan in message.plans:
        found.append(_item("plan", plan.id, there_plans.get(plan.id), masked_plan(plan), plan))
    for repo in message.repos:
        there = there_repos.get(repo.guid)
        shown = masked_repo(repo)
        if there is not None and not shown.origin_instance_id:
            shown.origin_instance_id = there.origin_instance_id  # the peer's to say
        found.append(_item("repo", repo.id, there, shown, repo))
    for plan_id in message.plans_to_delete:
        found.append(_item("plan", plan_id, there_plans.get(plan_id), None))
    for repo_id in message.repos_to_delete:
        found.append(
            _item("repo", repo_id, next((repo for repo in view.repos if repo.id == repo_id), None), None)
        )
    return {
        "peer": {"instanceId": peer.instance_id, "keyId": peer.keyid, "role": role},
        "connected": _connected(record),
        "shows": bool(view.repos or view.plans),
        "items": found,
        "changes": sum(item["action"] != "unchanged" for item in found),
    }


async def push(
    context: Context,
    emit: Emit,
    ident: str,
    repos: list[dict[str, Any]],
    plans: list[dict[str, Any]],
    repos_to_delete: list[str],
    plans_to_delete: list[str],
) -> dict[str, Any]:
    """Queue it and, when the peer is connected, wait for what becomes of it.

    ``result`` is "applied", "partly", "refused", "unknown" (nobody knows), "queued" (it is away) or "waiting" (no
    answer yet: it stays in the queue). A peer whose program says nothing has "probably" refused: the code
    probably-refused is among the ``refusals``.
    """
    import trio

    peer, role = await trio.to_thread.run_sync(target, context, ident)
    record = context.peers.get(peer.keyid)
    message = read(record, repos, plans, repos_to_delete, plans_to_delete)
    queued = await trio.to_thread.run_sync(enqueue, context, peer, message)
    await emit({"queued": queued.id})
    result: dict[str, Any] = {
        "push": queued.id,
        "peer": {"instanceId": peer.instance_id, "keyId": peer.keyid, "role": role},
        "daemonRuns": context.daemon is not None,
        "refused": [],
        "refusals": [],
        "lastHeard": record.last_heartbeat_ms if record is not None else 0,
    }
    if context.daemon is None or not _connected(record):
        return result | {"result": "queued"}
    answer = await answered(context, queued, WAIT_S)
    if answer is None:
        record = context.peers.get(peer.keyid)
        waits = context.pushes.find(queued.id)
        if isinstance(waits, Push) and waits.sent and record is not None and record.answers is False:
            doubt = refusal("", "", Why.PROBABLY_REFUSED)  # it left over it; decided when it is back
            more = {"refused": [doubt.words()], "refusals": [doubt.to_json()]}
            return result | more | {"result": "waiting"}
        return result | {"result": "waiting" if _connected(record) else "queued"}
    shown = answer_json(answer)
    return result | {key: shown[key] for key in ("result", "refused", "refusals")}


def list_pushes(context: Context) -> dict[str, Any]:
    """What waits, and the last outcomes; by id, without content."""
    return {
        "waiting": [
            {
                "id": push.id,
                "keyId": push.keyid,
                "instanceId": push.instance_id,
                "createdMillis": push.created_ms,
                "items": list(push.items),
                "sent": push.sent,
                "connected": context.daemon is not None and _connected(context.peers.get(push.keyid)),
            }
            for push in context.pushes.waiting()
        ],
        "answered": [answer_json(answer) for answer in context.pushes.answered()],
    }


def drop(context: Context, push_id: int) -> dict[str, Any]:
    """Take a push back, or forget an outcome. ``sent``: it was sent already, and may be applied."""
    context.ready_to_record()
    found = context.pushes.drop(push_id)
    if isinstance(found, Answer):
        return {"id": push_id, "instanceId": found.instance_id, "waited": False, "sent": True}
    context.record(
        "push-dropped",
        push=push_id,
        keyid=found.keyid,
        instance=found.instance_id,
        items=list(found.items),
    )
    return {"id": push_id, "instanceId": found.instance_id, "waited": True, "sent": found.sent > 0}


async def set_remote_config(
    context: Context,
    keyid: str,
    repos: list[Repo],
    plans: list[Plan],
    repos_to_delete: list[str],
    plans_to_delete: list[str],
) -> None:
    """For the admin API: returns when a connected client has taken all of it.

    NotFoundError: no such client is connected. UserError says what was refused, and why; BackrestError that no answer
    came in time, or that nobody knows (W-16). Nothing is left in the queue for later: the caller was told.
    """
    import trio

    clients = context.config.current.multihost.authorized_clients
    peer = next((client for client in clients if client.keyid == keyid), None)
    if peer is None or not _connected(context.peers.get(keyid)):
        raise NotFoundError("no client with this key id is connected")
    message = SetConfig(
        repos=repos, plans=plans, repos_to_delete=repos_to_delete, plans_to_delete=plans_to_delete
    )
    queued = await trio.to_thread.run_sync(enqueue, context, peer, message)
    answer = None
    try:
        answer = await answered(context, queued, WAIT_S)
    finally:
        if answer is None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_take_back, context, queued)
    if answer is None:
        raise BackrestError(
            f"{peer.instance_id!r} did not answer within {WAIT_S:.0f} s: it may still apply it"
        )
    if answer.result != "applied":
        words = {
            "partly": "took a part only",
            "refused": "probably refused" if answer.probably else "refused",
            "unknown": "did not say what became of it",
        }
        kind = BackrestError if answer.result == "unknown" else UserError
        raise kind(
            f"{peer.instance_id!r} {words[answer.result]}: {'; '.join(one.words() for one in answer.refused)}"
        )


# --- shared by the use cases


def target(context: Context, ident: str) -> tuple[Peer, str]:
    """The peer with that instance id or key id, and its role: "client" or "host". NotFoundError."""
    config = context.config.current
    require_identity(config)
    sync = config.multihost
    peer = find((*sync.authorized_clients, *sync.known_hosts), ident, "peer")
    return peer, "client" if peer in sync.authorized_clients else "host"


def read(
    record: PeerRecord | None,
    repos: list[dict[str, Any]],
    plans: list[dict[str, Any]],
    repos_to_delete: list[str],
    plans_to_delete: list[str],
) -> SetConfig:
    """The push of what people typed; UserError for what cannot be meant. A repo without its guid gets that of the
    peer's repo of the same id."""
    message = SetConfig(plans_to_delete=plans_to_delete, repos_to_delete=repos_to_delete)
    for number, given in enumerate(plans, 1):
        message.plans.append(_parse(Plan, given, "plan", number))
    for number, given in enumerate(repos, 1):
        message.repos.append(_parse(Repo, given, "repo", number))
    guids = {repo.id: repo.guid for repo in _view(record).repos}
    for repo in message.repos:
        repo.guid = repo.guid or guids.get(repo.id, "")
        if not repo.guid:
            raise UserError(
                f"repo {repo.id!r} has no guid, by which the other side knows it: add it (`backrest repo show` and "
                "`restic cat config`, as id, tell it)"
            )
    named = Counter(
        (
            *(("plan", plan.id) for plan in message.plans),
            *(("plan", plan_id) for plan_id in message.plans_to_delete),
            *(("repo", repo.id) for repo in message.repos),
            *(("repo", repo_id) for repo_id in message.repos_to_delete),
        )
    )
    if not named:
        raise UserError("there is nothing to push: give --repo, --plan, --delete-repo or --delete-plan")
    (kind, ident), times = named.most_common(1)[0]
    if times > 1:
        raise UserError(f"{kind} {ident} is given twice")
    return message


def _parse(message: type[M], given: dict[str, Any], kind: str, number: int) -> M:
    ident = given.get("id")
    if not isinstance(ident, str) or not ident:
        raise UserError(f"{kind} {number} has no id")
    try:
        return codec.from_dict(message, given, ignore_unknown=False)
    except ValueError as error:
        raise UserError(f"{kind} {ident!r}: {error}") from None


def enqueue(context: Context, peer: Peer, message: SetConfig) -> Push:
    """Blocking. Into the queue, and into the audit log, by id."""
    _refuse_masks(context.peers.get(peer.keyid), message)
    context.ready_to_record()
    queued = context.pushes.add(peer.keyid, peer.instance_id, message)
    context.record(
        "pushed",
        push=queued.id,
        keyid=peer.keyid,
        instance=peer.instance_id,
        items=list(queued.items[:100]),
    )
    return queued


def _refuse_masks(record: PeerRecord | None, message: SetConfig) -> None:
    """UserError for a mask to a peer whose program is known to know none; of one that was never here the session
    decides (sync/pushing.py)."""
    if record is not None and record.answers is False and (found := masked(message)):
        raise UserError("; ".join(one.words() for one in found))


async def answered(context: Context, queued: Push, wait_s: float) -> Answer | None:
    """The outcome, as soon as the queue knows it; None when it does not in time, or somebody dropped it. (A session
    that ends is no reason to stop waiting: the reference begins a new one after each change.) Who asked is told, so
    that it is no notice for a status any more."""
    import trio

    from backrest.sync.watch import Watch

    with trio.move_on_after(wait_s), Watch(context.pushes.subscribe) as changes:
        while True:
            found = context.pushes.find(queued.id)
            if isinstance(found, Answer):
                await trio.to_thread.run_sync(context.pushes.see, found.id)
                return found
            if found is None:
                return None
            await changes.wait()
    return None


def _take_back(context: Context, queued: Push) -> None:
    found = context.pushes.find(queued.id)
    if found is not None:
        drop(context, queued.id)


def _connected(record: PeerRecord | None) -> bool:
    return record is not None and record.state == wire.sync.CONNECTION_STATE_CONNECTED


def _view(record: PeerRecord | None) -> wire.sync.RemoteConfig:
    view = record.remote_config if record is not None else None
    return view if view is not None else wire.sync.RemoteConfig()


def _item(
    kind: str,
    ident: str,
    there: Repo | Plan | None,
    shown: Repo | Plan | None,
    given: Repo | Plan | None = None,
) -> dict[str, Any]:
    before = None if there is None else codec.to_dict(there)
    after = None if shown is None else codec.to_dict(shown)
    if after is None:
        action = "delete"
    elif before is None:
        action = "add"
    else:
        action = "change"
    secrets: list[str] = []
    if given is not None and after is not None:
        secrets = _differing(codec.to_dict(given), after, "")
        if before == after and not secrets:
            action = "unchanged"
    return {"kind": kind, "id": ident, "action": action, "before": before, "after": after, "secrets": secrets}


def _differing(one: Any, other: Any, path: str) -> list[str]:
    """Where two documents of the same shape differ: "password", "env[0]"."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in one:
            if key != "originInstanceId":
                found += _differing(one[key], other.get(key), f"{path}.{key}" if path else key)
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            where
            for number, pair in enumerate(zip(one, other, strict=True))
            for where in _differing(*pair, f"{path}[{number}]")
        ]
    return [] if one == other else [path]

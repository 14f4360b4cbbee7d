"""Plans: what is backed up, and where to. Edits of the configuration and nothing else.

Beside them there are the *parked* ones, which wait for the repository of a hub that was removed (store/removal.py).
They are listed and shown, and can be removed; they cannot be changed or run.
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.differences import changed_fields
from backrest.errors import ConflictError, NotFoundError, UserError
from backrest.store.mask import masked_plan
from backrest.store.removal import Parked
from backrest.store.validate import id_problem
from backrest.wire import codec

Config = wire.config.Config
Plan = wire.config.Plan


def parse(plan: dict[str, Any]) -> Plan:
    """The message; an unknown key is a typing error here, not a newer version."""
    try:
        return codec.from_dict(Plan, plan, ignore_unknown=False)
    except ValueError as error:
        raise UserError(f"the plan cannot be read: {error}") from None


def _check_repo(config: Config, plan: Plan) -> None:
    if not any(repo.id == plan.repo for repo in config.repos):
        names = ", ".join(repo.id for repo in config.repos) or "none"
        raise NotFoundError(f"there is no repository {plan.repo!r} (there are: {names})")


def add(context: Context, plan: dict[str, Any]) -> dict[str, Any]:
    """A new plan; its repository must be there."""
    new = parse(plan)
    problem = id_problem(new.id)
    if problem:
        raise UserError(f"the plan id {new.id!r} {problem}")
    if not new.HasField("schedule"):
        new.schedule.disabled = True

    def append(config: Config) -> None:
        if any(other.id == new.id for other in config.plans):
            raise ConflictError(f"there is already a plan {new.id!r}")
        _check_repo(config, new)
        config.plans.append(new)

    context.transform(append)
    context.record("plan-added", plan=new.id, repo=new.repo)
    return {"plan": codec.to_dict(masked_plan(new))}


def set_plan(
    context: Context, plan_id: str, changes: dict[str, Any], clear: list[str] | None = None
) -> dict[str, Any]:
    """Changes fields of a plan, given as its JSON names and new values (a list replaces the whole list); ``clear``
    names those that are to be empty. {"plan", "changed"}."""
    if "id" in changes:
        raise UserError("a plan's id cannot be changed: its snapshots and its history carry it")
    wanted = parse(changes)
    given = {*changes, *(clear or [])}
    fields = {field.name for field in Plan.DESCRIPTOR.fields if {field.json_name, field.name} & given}
    result: dict[str, Any] = {}

    def change(config: Config) -> None:
        here = find(config, plan_id)
        old = Plan()
        old.CopyFrom(here)
        for name in fields - {"id"}:
            here.ClearField(name)
        here.MergeFrom(wanted)
        _check_repo(config, here)
        changed = changed_fields(old, here, masked_plan(old), masked_plan(here))
        result.update(plan=codec.to_dict(masked_plan(here)), changed=changed)

    refuse_parked(context, plan_id)
    context.transform(change)
    if result["changed"]:
        fields_changed = [one["field"] for one in result["changed"]]
        context.record("plan-changed", plan=plan_id, fields=fields_changed)
    return result


def list_plans(context: Context) -> dict[str, Any]:
    """Every plan, secrets in its hooks masked; and the parked ones."""
    config = context.config.current
    result: dict[str, Any] = {"plans": [codec.to_dict(masked_plan(plan)) for plan in config.plans]}
    parked = context.if_sound(lambda: context.parked.waiting(config)) or []
    if parked:
        result["parked"] = [parked_json(entry) for entry in parked]
    return result


def parked_json(entry: Parked) -> dict[str, Any]:
    """A parked plan as it was, and what it waits for."""
    return {
        "plan": codec.to_dict(masked_plan(entry.plan)),
        "repoGuid": entry.repo_guid,
        "originInstanceId": entry.origin,
        "sinceMillis": str(entry.since_ms),
        "state": entry.sentence(),
    }


def find(config: Config, plan_id: str) -> Plan:
    """The plan of that id; NotFoundError names those that there are."""
    for plan in config.plans:
        if plan.id == plan_id:
            return plan
    names = ", ".join(plan.id for plan in config.plans) or "none"
    raise NotFoundError(f"there is no plan {plan_id!r} (there are: {names})")


def find_parked(context: Context, plan_id: str) -> Parked | None:
    """The parked plan of that id, unless one in the configuration has it."""
    config = context.config.current
    if any(plan.id == plan_id for plan in config.plans):
        return None
    return next((entry for entry in context.parked.waiting(config) if entry.plan.id == plan_id), None)


def refuse_parked(context: Context, plan_id: str) -> None:
    """ConflictError for a parked plan: what it waits for is not there."""
    entry = find_parked(context, plan_id)
    if entry is not None:
        raise ConflictError(
            f"the plan {plan_id!r} is {entry.sentence()}: it returns when that repository is shared again; "
            f"`backrest plan remove {plan_id}` gives it up"
        )


def show(context: Context, plan_id: str) -> dict[str, Any]:
    """One plan, secrets in its hooks masked; ``parked`` says what it waits for if it is."""
    entry = find_parked(context, plan_id)
    if entry is not None:
        return {"plan": codec.to_dict(masked_plan(entry.plan)), "parked": parked_json(entry)}
    return {"plan": codec.to_dict(masked_plan(find(context.config.current, plan_id)))}


def confirm(context: Context, plan_id: str) -> dict[str, Any]:
    """The plan's newest snapshot is as it should be, whatever it has lost, and so are its sources that yield nothing.

    {"snapshotId", "files", "bare"}. Nothing is forgotten now: the next backup is compared with this snapshot.
    """
    from backrest.engine.loss import bare_sources
    from backrest.store.oplog import Query

    refuse_parked(context, plan_id)
    config = context.config.current
    plan = find(config, plan_id)
    guid = next((repo.guid for repo in config.repos if repo.id == plan.repo), "")
    backups = Query(
        repo_guid=guid,
        plan_id=plan_id,
        origin="",
        kind=wire.operations.Operation.OPERATION_BACKUP_FIELD_NUMBER,
        reversed=True,
    )
    newest = next((one for one in context.oplog.query(backups) if one.snapshot_id), None) if guid else None
    if newest is None:
        raise UserError(
            f"the plan {plan_id!r} has no snapshot that could be confirmed: run `backrest backup {plan_id}`"
        )
    context.ready_to_record()
    bare = tuple(one.path for one in bare_sources(plan.paths))
    context.plan_notes.confirm(plan_id, newest.snapshot_id, bare)
    files = newest.operation_backup.last_status.summary.total_files_processed
    context.record("plan-confirmed", plan=plan_id, snapshot=newest.snapshot_id, files=files, bare=list(bare))
    return {"snapshotId": newest.snapshot_id, "files": files, "bare": list(bare)}


def remove(context: Context, plan_id: str) -> dict[str, Any]:
    """Forgets the plan. Its snapshots and its history stay."""

    def drop(config: Config) -> None:
        config.plans.remove(find(config, plan_id))

    entry = find_parked(context, plan_id)
    if entry is not None:
        context.ready_to_record()
        context.parked.remove(plan_id)
    else:
        context.transform(drop)
        context.forget_gone()
    context.record("plan-removed", plan=plan_id, parked=entry is not None)
    return {"removed": plan_id, "parked": entry is not None}

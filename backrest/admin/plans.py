"""Plans: what is backed up, and where to. Edits of the configuration and nothing else."""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.errors import ConflictError, NotFoundError, UserError
from backrest.store.mask import masked_plan
from backrest.store.validate import id_problem
from backrest.wire import codec


def parse(plan: dict[str, Any]) -> wire.config.Plan:
    """The message; an unknown key is a typing error here, not a newer version."""
    try:
        return codec.from_dict(wire.config.Plan, plan, ignore_unknown=False)
    except ValueError as error:
        raise UserError(f"the plan cannot be read: {error}") from None


def add(context: Context, plan: dict[str, Any]) -> dict[str, Any]:
    """A new plan; its repository must be there."""
    new = parse(plan)
    problem = id_problem(new.id)
    if problem:
        raise UserError(f"the plan id {new.id!r} {problem}")
    if not new.HasField("schedule"):
        new.schedule.disabled = True

    def append(config: wire.config.Config) -> None:
        if any(other.id == new.id for other in config.plans):
            raise ConflictError(f"there is already a plan {new.id!r}")
        if not any(repo.id == new.repo for repo in config.repos):
            names = ", ".join(repo.id for repo in config.repos) or "none"
            raise NotFoundError(f"there is no repository {new.repo!r} (there are: {names})")
        config.plans.append(new)

    context.config.transform(append)
    context.audit.append("plan-added", plan=new.id, repo=new.repo)
    return {"plan": codec.to_dict(masked_plan(new))}


def list_plans(context: Context) -> dict[str, Any]:
    """Every plan, secrets in its hooks masked."""
    return {"plans": [codec.to_dict(masked_plan(plan)) for plan in context.config.current.plans]}


def find(config: wire.config.Config, plan_id: str) -> wire.config.Plan:
    """The plan of that id; NotFoundError names those that there are."""
    for plan in config.plans:
        if plan.id == plan_id:
            return plan
    names = ", ".join(plan.id for plan in config.plans) or "none"
    raise NotFoundError(f"there is no plan {plan_id!r} (there are: {names})")


def show(context: Context, plan_id: str) -> dict[str, Any]:
    """One plan, secrets in its hooks masked."""
    return {"plan": codec.to_dict(masked_plan(find(context.config.current, plan_id)))}


def remove(context: Context, plan_id: str) -> dict[str, Any]:
    """Forgets the plan. Its snapshots and its history stay."""

    def drop(config: wire.config.Config) -> None:
        config.plans.remove(find(config, plan_id))

    context.config.transform(drop)
    context.audit.append("plan-removed", plan=plan_id)
    return {"removed": plan_id}

"""Repositories: where the backups go. ``add`` asks restic who the repository is, and makes it if there is
none.

A repository that came from another machine can be removed here, and nothing else. Removing one never
touches the repository itself.
"""

from __future__ import annotations

from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.registry import Emit
from backrest.errors import ConflictError, NotFoundError, UserError
from backrest.store.mask import masked_repo
from backrest.store.validate import id_problem
from backrest.wire import codec

Config = wire.config.Config
Repo = wire.config.Repo


def parse(repo: dict[str, Any]) -> Repo:
    """The message; an unknown key is a typing error here, not a newer version."""
    try:
        return codec.from_dict(Repo, repo, ignore_unknown=False)
    except ValueError as error:
        raise UserError(f"the repository cannot be read: {error}") from None


def _check_new(config: Config, new: Repo) -> None:
    for other in config.repos:
        if other.id == new.id:
            raise ConflictError(f"there is already a repository {new.id!r}")
        if new.guid and other.guid == new.guid:
            raise ConflictError(f"this is the very repository that is here already as {other.id!r}")


async def add(context: Context, emit: Emit, repo: dict[str, Any], initialize: bool = True) -> dict[str, Any]:
    """A new repository. Without ``initialize`` restic is not asked, and it is looked for when the daemon
    starts.
    """
    import trio

    new = parse(repo)
    problem = id_problem(new.id)
    if problem:
        raise UserError(f"the repository id {new.id!r} {problem}")
    if not new.uri:
        raise UserError("a repository needs a URI: a path, or what restic takes behind -r")
    if new.guid or new.origin_instance_id or new.shared:
        raise UserError("a new repository comes without guid, origin and sharing")
    _check_new(context.config.current, new)
    made = False
    if initialize:
        await emit({"message": f"asking restic about {masked_repo(new).uri}"})
        new.guid, made = await _guid(context, emit, new)
    else:
        new.auto_initialize = True

    def append(config: Config) -> None:
        _check_new(config, new)
        config.repos.append(new)

    def store() -> None:
        context.config.transform(append)
        context.audit.append("repo-added", repo=new.id, guid=new.guid, made=made)

    await trio.to_thread.run_sync(store)
    return {"repo": codec.to_dict(masked_repo(new)), "made": made}


async def _guid(context: Context, emit: Emit, repo: Repo) -> tuple[str, bool]:
    """The repository's id, and whether it was made just now. ResticError when it is neither there nor
    makeable.
    """
    from backrest.engine.failures import Reason, ResticFailure

    try:
        return await context.engine.repo_guid(repo), False
    except ResticFailure as failure:
        # Older ones cannot tell "there is none" from "no way to it"; trying to make it never overwrites one.
        if failure.reason not in (Reason.NO_REPOSITORY, Reason.UNREACHABLE):
            raise
    await emit({"message": "there is none yet: making it"})
    return await context.engine.init_repo(repo), True


def list_repos(context: Context) -> dict[str, Any]:
    """Every repository, secrets masked."""
    return {"repos": [codec.to_dict(masked_repo(repo)) for repo in context.config.current.repos]}


def find(config: Config, repo_id: str) -> Repo:
    """The repository of that id; NotFoundError names those that there are."""
    for repo in config.repos:
        if repo.id == repo_id:
            return repo
    names = ", ".join(repo.id for repo in config.repos) or "none"
    raise NotFoundError(f"there is no repository {repo_id!r} (there are: {names})")


def show(context: Context, repo_id: str) -> dict[str, Any]:
    """One repository, secrets masked, and the plans that use it."""
    config = context.config.current
    return {
        "repo": codec.to_dict(masked_repo(find(config, repo_id))),
        "plans": [plan.id for plan in config.plans if plan.repo == repo_id],
    }


def remove(context: Context, repo_id: str) -> dict[str, Any]:
    """Forgets the repository here. It, its snapshots and their history stay as they are."""

    def drop(config: Config) -> None:
        repo = find(config, repo_id)
        users = [plan.id for plan in config.plans if plan.repo == repo_id]
        if users:
            raise ConflictError(
                f"the repository {repo_id!r} is used by {', '.join(users)}: remove "
                f"{'this plan' if len(users) == 1 else 'these plans'} first"
            )
        config.repos.remove(repo)

    context.config.transform(drop)
    context.audit.append("repo-removed", repo=repo_id)
    return {"removed": repo_id}

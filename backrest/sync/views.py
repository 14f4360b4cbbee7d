"""What one side shows the other: pure functions from a configuration and a peer's grants to wire messages.

Facts: PROTOCOL.md sections 5, 7 and 8. A view is always masked: what the other side may need to *use* travels
as a shared repo, everything else is for looking at.
"""

from __future__ import annotations

from collections.abc import Mapping

from backrest import wire
from backrest.permissions import READ_CONFIG, READ_OPERATIONS, READ_WRITE_CONFIG, RECEIVE_SHARED_REPOS, Grants
from backrest.store.mask import masked_plan, masked_repo

VIEW_CONFIG = (READ_CONFIG, READ_WRITE_CONFIG)
VIEW_RESOURCES = (READ_OPERATIONS, READ_CONFIG, READ_WRITE_CONFIG)


def remote_config(config: wire.config.Config, grants: Grants) -> wire.sync.RemoteConfig:
    """The repos and plans that the holder of ``grants`` may see, without their secrets."""
    view = wire.sync.RemoteConfig(modno=config.modno, version=config.version)
    view.repos.extend(masked_repo(repo) for repo in config.repos if grants.repo(repo.id, *VIEW_CONFIG))
    view.plans.extend(
        masked_plan(plan) for plan in config.plans if grants.plan(plan.id, plan.repo, *VIEW_CONFIG)
    )
    return view


def resources(
    config: wire.config.Config, grants: Grants, types: tuple[int, ...]
) -> wire.sync.SyncStreamItem.SyncActionReceiveResources:
    """Ids (and guids) only. A hub lists what may be viewed (VIEW_CONFIG), a client what its history is about
    as well (VIEW_RESOURCES)."""
    message = wire.sync.SyncStreamItem.SyncActionReceiveResources()
    for repo in config.repos:
        if grants.repo(repo.id, *types):
            message.repos.add(id=repo.id, guid=repo.guid)
    for plan in config.plans:
        if grants.plan(plan.id, plan.repo, *types):
            message.plans.add(id=plan.id)
    return message


def shared_repos(
    config: wire.config.Config, grants: Grants, uris: Mapping[str, str] | None = None
) -> list[wire.config.Repo]:
    """The repos to push to a client: shared, in scope, with their secrets and us as their origin; under the address
    that ``uris`` (guid -> uri, of this client) has for it, if any.

    A repo that came from another hub is not passed on: its owner never gave it to this client. One without a guid
    is not known to restic yet: the client could not tell it from others, and would refuse it.
    """
    pushed = []
    for repo in config.repos:
        if not repo.shared or repo.origin_instance_id or not repo.guid:
            continue
        if grants.repo(repo.id, RECEIVE_SHARED_REPOS):
            copy = wire.config.Repo()
            copy.CopyFrom(repo)
            copy.origin_instance_id = config.instance
            copy.uri = (uris or {}).get(repo.guid, repo.uri)
            pushed.append(copy)
    return pushed

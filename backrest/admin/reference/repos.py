"""AddRepo, RemoveRepo and CheckRepoExists: the commands' own use cases. AddRepo and RemoveRepo answer with the
configuration that is then in force, its modno grown (the reference leaves it, W-08)."""

from __future__ import annotations

import trio

from backrest import wire
from backrest.admin import repos
from backrest.admin.context import Context
from backrest.store.mask import config_masked

Config = wire.config.Config
Service = wire.service


async def add_repo(context: Context, request: Service.AddRepoRequest) -> Config:
    return config_masked(await repos.put(context, request.repo))


def remove_repo(context: Context, request: Service.RemoveRepoRequest) -> Config:
    """Unlike the reference's, it keeps the history of the repository: ClearHistory deletes that."""
    repos.remove(context, request.repo_id)
    return config_masked(context.config.current)


async def check_repo_exists(
    context: Context, request: Service.CheckRepoExistsRequest
) -> Service.CheckRepoExistsResponse:
    found = await repos.check_exists(context, request.repo)
    await trio.lowlevel.checkpoint()
    return Service.CheckRepoExistsResponse(
        exists=found["exists"], error=found["error"], host_key_untrusted=found["hostKeyUntrusted"]
    )

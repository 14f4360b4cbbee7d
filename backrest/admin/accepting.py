"""What a hub wants to change of a repository that it shares, and somebody here has to accept first.

What waits is kept by store/waiting.py; why it waits is harmless.py's. Here it is shown, and taken over.
"""

from __future__ import annotations

from typing import Any

from backrest import harmless, wire
from backrest.admin.context import Context
from backrest.admin.differences import changed_fields
from backrest.admin.repos import find
from backrest.errors import ConflictError
from backrest.store.mask import masked_repo
from backrest.store.removal import withdrawn
from backrest.wire import codec

Config = wire.config.Config
Repo = wire.config.Repo


def waiting_json(context: Context, repo: Repo) -> dict[str, Any] | None:
    """{"sinceMillis", "fields": what waits, as people call it, "changed": as in changed_fields}, secrets masked. None
    when nothing waits, or the hub no longer offers the repository. Only reads."""
    wanted = context.if_sound(lambda: context.waiting_repos.of(repo)) if repo.origin_instance_id else None
    if wanted is None or repo in withdrawn(context.config.current, context.peer_records()):
        return None
    new = wanted.on(repo)
    changed = changed_fields(repo, new, masked_repo(repo), masked_repo(new))
    names = [harmless.FIELDS[one["field"]] for one in changed]
    return {"sinceMillis": str(wanted.since_ms), "fields": names, "changed": changed}


def accept(context: Context, repo_id: str, since_millis: str) -> dict[str, Any]:
    """Takes over what waits: {"repo", "changed"}. ``since_millis`` is that of what was shown, and no other is taken:
    the hub may have changed it since. NotFoundError; ConflictError: nothing waits, or another change."""
    done: list[tuple[Repo, Repo]] = []

    def take(config: Config) -> None:
        here = find(config, repo_id)
        wanted = context.waiting_repos.of(here)
        if wanted is None:
            raise ConflictError(f"no change of the repository {repo_id!r} waits to be accepted")
        if str(wanted.since_ms) != since_millis:
            raise ConflictError(
                f"{here.origin_instance_id!r} has changed the repository {repo_id!r} again meanwhile: look at it with "
                f"`backrest repo show {repo_id}` and try again"
            )
        judged = harmless.judge(wanted.on(here))
        if judged.refusal or judged.left_out:  # the file was edited, or is older than a rule
            why = judged.refusal or f"it has {', '.join(judged.left_out)}"
            raise ConflictError(f"the change of the repository {repo_id!r} cannot be accepted: {why}")
        before = Repo()
        before.CopyFrom(here)
        here.CopyFrom(judged.repo)
        done[:] = [(before, judged.repo)]

    config = context.transform(take)
    [(before, after)] = done
    failed = "it is accepted, but still stands among what waits"
    context.afterwards(failed, lambda: context.waiting_repos.prune(config))
    changed = changed_fields(before, after, masked_repo(before), masked_repo(after))
    names = [one["field"] for one in changed]
    context.record("repo-accepted", repo=repo_id, guid=after.guid, hub=after.origin_instance_id, fields=names)
    return {"repo": codec.to_dict(masked_repo(after)), "changed": changed}

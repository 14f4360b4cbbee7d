"""Repositories: where the backups go. ``add`` asks restic who the repository is, and makes it if there is
none. One that is made is entered first: its password may be in nobody else's hands, and without it what was made is
lost. So whatever fails in between (the disk, a kill), the password is in the configuration before the repository is.

A repository that came from another machine can be removed here, and nothing else: ``refuse_readonly`` says so,
for every command and every API (W-11), and nobody here sets or takes away where a repository came from. Removing
one never touches the repository itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.differences import changed_fields
from backrest.admin.registry import Emit
from backrest.errors import BackrestError, ConflictError, NotFoundError, ResticError, StorageError, UserError
from backrest.store.mask import masked_repo, unmask_repo
from backrest.store.removal import withdrawn
from backrest.store.validate import id_problem
from backrest.wire import codec

if TYPE_CHECKING:
    from backrest.engine.failures import ResticFailure

Config = wire.config.Config
Repo = wire.config.Repo

EXISTS_S = 30.0  # what the reference gives a question whether a repository exists


def refuse_readonly(repo: Repo) -> None:
    """ConflictError for a repository that another instance shares: it decides about everything but its removal."""
    if repo.origin_instance_id:
        raise ConflictError(
            f"the repository {repo.id!r} came from {repo.origin_instance_id!r} and is read-only here: "
            f"change it there, or remove it here"
        )


def check_origins(before: Config, after: Config) -> None:
    """UserError (with all problems) when ``after`` alters, invents or disowns a repository of another instance.

    For whoever replaces a whole configuration (``config import``, the API's SetConfig). To leave one out is
    allowed: that is its removal.
    """
    foreign = {repo.id: repo for repo in before.repos if repo.origin_instance_id}
    guids = {repo.guid: repo for repo in foreign.values() if repo.guid}
    problems = []
    for repo in after.repos:
        old = foreign.get(repo.id) or guids.get(repo.guid)
        if repo.origin_instance_id and old is None:
            problems.append(
                f"the repository {repo.id!r} cannot be entered as one of {repo.origin_instance_id!r}: "
                f"only that instance can share it"
            )
        elif old is not None and repo != old:
            problems.append(
                f"the repository {old.id!r} came from {old.origin_instance_id!r} and is read-only here: "
                f"it can be left out, and not be changed"
            )
    if problems:
        raise UserError("; ".join(problems), problems)


def parse(repo: dict[str, Any]) -> Repo:
    """The message; an unknown key is a typing error here, not a newer version."""
    try:
        return codec.from_dict(Repo, repo, ignore_unknown=False)
    except ValueError as error:
        raise UserError(f"the repository cannot be read: {error}") from None


def _check_given(new: Repo) -> None:
    problem = id_problem(new.id)
    if problem:
        raise UserError(f"the repository id {new.id!r} {problem}")
    if not new.uri:
        raise UserError("a repository needs a URI: a path, or what restic takes behind -r")


def _check_new(config: Config, new: Repo, replaces: str = "") -> None:
    for other in config.repos:
        if replaces and other.id == replaces:
            continue
        if other.id == new.id:
            unmade = f", not made yet: `backrest index {new.id}` makes it" if other.auto_initialize else ""
            raise ConflictError(f"there is already a repository {new.id!r}{unmade}")
        if new.guid and other.guid == new.guid:
            raise ConflictError(f"this is the very repository that is here already as {other.id!r}")


async def add(context: Context, emit: Emit, repo: dict[str, Any], initialize: bool = True) -> dict[str, Any]:
    """A new repository. Without ``initialize`` restic is not asked, and it is looked for when the daemon
    starts.
    """
    import trio

    new = parse(repo)
    _check_given(new)
    if new.guid or new.origin_instance_id or new.shared:
        raise UserError("a new repository comes without guid, origin and sharing")
    _check_new(context.config.current, new)
    await trio.to_thread.run_sync(context.ready_to_record)
    absent: ResticFailure | None = None
    if initialize:
        await emit({"message": f"asking restic about {masked_repo(new).uri}"})
        absent = await _look(context, new)
    if not new.guid:
        new.auto_initialize = True

    def append(config: Config) -> None:
        _check_new(config, new)
        config.repos.append(new)

    def store() -> None:
        context.transform(append)
        context.record("repo-added", repo=new.id, guid=new.guid)

    await trio.to_thread.run_sync(store)
    if absent is not None:
        await emit({"message": "there is none yet: making it"})
        new = await _make(context, new, absent)
    return {"repo": codec.to_dict(masked_repo(new)), "made": absent is not None}


async def _look(context: Context, repo: Repo) -> ResticFailure | None:
    """Fill in the repository's id; or how restic says that there is none. ResticError for all else."""
    from backrest.engine.failures import Reason, ResticFailure

    try:
        repo.guid = await context.engine.repo_guid(repo)
    except ResticFailure as failure:
        # Older ones cannot tell "there is none" from "no way to it"; trying to make it never overwrites one.
        if failure.reason not in (Reason.NO_REPOSITORY, Reason.UNREACHABLE):
            raise
        return failure
    return None


async def _make(context: Context, entered: Repo, absent: ResticFailure) -> Repo:
    """Make the repository of an entry, which is then complete. ResticError, with the entry taken back: nothing was
    made. Where that is not sure it stays, for its password's sake, and the error says so."""
    import trio

    try:
        made = await context.engine.adopt(entered.id)
    except StorageError as error:
        raise StorageError(f"{error} {_stays(entered)}.") from None
    except ResticError as failure:
        if not await _is_as_before(context, entered, absent):
            raise ResticError(f"{failure}. {_stays(entered)}", failure.exit_code) from None

        def take_back(config: Config) -> bool:
            mine = [repo for repo in config.repos if repo.id == entered.id and not repo.guid]
            for repo in mine:
                config.repos.remove(repo)
            return bool(mine)

        def store() -> None:
            context.transform(take_back)
            context.record("repo-removed", repo=entered.id)

        await trio.to_thread.run_sync(store)
        raise
    context.record("repo-made", repo=made.id, guid=made.guid)
    return made


async def _is_as_before(context: Context, repo: Repo, absent: ResticFailure) -> bool:
    """Whether restic still says the same of it: then nothing was made."""
    try:
        again = await _look(context, repo)
    except ResticError:
        return False
    return again is not None and again.reason == absent.reason


def _stays(entered: Repo) -> str:
    return (
        f"The repository {entered.id!r} may be made, so its entry stays, with its password: `backrest index "
        f"{entered.id}` tries again"
    )


async def put(context: Context, given: Repo) -> Config:
    """The reference's AddRepo: a repository that is new or takes the place of the one with its id, and the
    configuration that is then in force. Masks mean what is stored. Unlike there, modno grows (W-08).

    restic is asked, and makes the repository if there is none. When the id now means another repository, this
    instance's own history of it follows. UserError, ConflictError (read-only, or changed meanwhile), ResticError.
    """
    import trio

    old = next((repo for repo in context.config.current.repos if repo.id == given.id), None)
    if old is not None:
        refuse_readonly(old)
    if given.origin_instance_id:
        raise UserError("where a repository came from cannot be set: only the other instance can share one")
    new = unmask_repo(given, old)
    if old is None:
        _check_given(new)

    def ready() -> None:  # before a repository is made
        context.ready_to_record()
        context.config.check_writable()

    await trio.to_thread.run_sync(ready)
    new.ClearField("guid")
    new.auto_initialize = False
    engine = await trio.to_thread.run_sync(lambda: context.engine)
    new.guid = await engine.init_repo(new)

    def replace(config: Config) -> None:
        here = next((repo for repo in config.repos if repo.id == new.id), None)
        if here != old:
            raise ConflictError(f"the repository {new.id!r} was changed meanwhile: read it again")
        _check_new(config, new, replaces=new.id if here is not None else "")
        if here is None:
            config.repos.append(new)
        else:
            here.CopyFrom(new)

    def store() -> Config:
        config = context.transform(replace)
        if old is not None and old.guid and old.guid != new.guid:
            _move_history(context, new.id, old.guid, new.guid)
        context.forget_gone()
        context.record("repo-changed" if old is not None else "repo-added", repo=new.id, guid=new.guid)
        return config

    return await trio.to_thread.run_sync(store)


def _move_history(context: Context, repo_id: str, old_guid: str, new_guid: str) -> None:
    from backrest.store.oplog import READ_BATCH, Query

    ids = context.oplog.select(Query(origin="", repo_id=repo_id, repo_guid=old_guid))
    for start in range(0, len(ids), READ_BATCH):
        moved = list(context.oplog.read(ids[start : start + READ_BATCH]))
        for operation in moved:
            operation.repo_guid = new_guid
        context.oplog.update(moved)


async def check_exists(context: Context, given: Repo) -> dict[str, Any]:
    """The reference's CheckRepoExists: {"exists", "error", "hostKeyUntrusted"}; an answer within EXISTS_S.

    Masks mean what is stored. Whatever keeps restic from opening it is the ``error``, not an exception.
    """
    import trio

    from backrest.engine.failures import Reason, ResticFailure

    old = next((repo for repo in context.config.current.repos if repo.id == given.id), None)
    try:
        repo = unmask_repo(given, old)
        if not repo.uri:
            raise UserError("there is no URI")
        engine = await trio.to_thread.run_sync(lambda: context.engine)
        exists = await engine.check_exists(repo, EXISTS_S)
        return {"exists": exists, "error": "", "hostKeyUntrusted": False}
    except ResticFailure as failure:
        untrusted = failure.reason is Reason.HOST_KEY
        return {"exists": False, "error": str(failure), "hostKeyUntrusted": untrusted}
    except BackrestError as error:
        return {"exists": False, "error": str(error), "hostKeyUntrusted": False}


async def set_repo(
    context: Context,
    emit: Emit,
    repo_id: str,
    changes: dict[str, Any],
    env: list[str] | None = None,
    unset_env: list[str] | None = None,
    clear_env: bool = False,
    check: bool = True,
) -> dict[str, Any]:
    """Changes fields of a repository, given as its JSON names and new values; of its environment single variables.

    With ``check`` restic is asked whether what is then configured opens the same repository: another one under
    the old id would mix up two histories. ConflictError when it is another, or the repository is read-only.
    """
    import trio

    fixed = {"id", "guid", "originInstanceId", "shared", "autoInitialize", "env"} & changes.keys()
    if fixed:
        raise UserError(f"this cannot be changed here: {', '.join(sorted(fixed))}")
    wanted = parse(changes)
    names = [field.name for field in Repo.DESCRIPTOR.fields if field.json_name in changes]

    def edit(repo: Repo) -> Repo:
        new = Repo()
        new.CopyFrom(repo)
        for name in names:
            new.ClearField(name)
        new.MergeFrom(wanted)
        new.env[:] = _edited_env(repo.env, env or [], unset_env or [], clear_env)
        return new

    old = find(context.config.current, repo_id)
    refuse_readonly(old)
    new = edit(old)
    if not new.uri:
        raise UserError("a repository needs a URI: a path, or what restic takes behind -r")
    asks = any(getattr(old, name) != getattr(new, name) for name in ("uri", "password", "env", "flags"))
    if check and asks and old.guid:
        await emit({"message": f"asking restic about {masked_repo(new).uri}"})
        guid = await context.engine.repo_guid(new)
        if guid != old.guid:
            raise ConflictError(
                f"at {masked_repo(new).uri} there is another repository ({guid[:8]}) than {repo_id!r} "
                f"({old.guid[:8]}): enter it under an id of its own with `backrest repo add`"
            )

    def change(config: Config) -> None:
        here = find(config, repo_id)
        if here != old:
            raise ConflictError(f"the repository {repo_id!r} was changed meanwhile: look at it and try again")
        here.CopyFrom(new)

    def store() -> None:
        context.transform(change)
        if new != old:
            fields = [one["field"] for one in changed]
            context.record("repo-changed", repo=repo_id, guid=new.guid, fields=fields)

    changed = changed_fields(old, new, masked_repo(old), masked_repo(new))
    await trio.to_thread.run_sync(store)
    return {"repo": codec.to_dict(masked_repo(new)), "changed": changed}


def _edited_env(old: Any, entries: list[str], unset: list[str], clear: bool) -> list[str]:
    table = {} if clear else {entry.partition("=")[0]: entry for entry in old}
    for name in unset:
        if table.pop(name, None) is None:
            raise NotFoundError(f"there is no variable {name!r} in the repository's environment")
    table |= {entry.partition("=")[0]: entry for entry in entries}
    return sorted(table.values())


def list_repos(context: Context) -> dict[str, Any]:
    """Every repository, secrets masked; ``withdrawn`` has the ids of those that their owner no longer offers, and
    ``waiting`` what waits to be accepted, by id."""
    from backrest.admin.accepting import waiting_json

    config = context.config.current
    result: dict[str, Any] = {"repos": [codec.to_dict(masked_repo(repo)) for repo in config.repos]}
    gone = withdrawn(config, context.peer_records())
    if gone:
        result["withdrawn"] = [repo.id for repo in gone]
    waiting = {repo.id: found for repo in config.repos if (found := waiting_json(context, repo)) is not None}
    if waiting:
        result["waiting"] = waiting
    return result


def find(config: Config, repo_id: str) -> Repo:
    """The repository of that id; NotFoundError names those that there are."""
    for repo in config.repos:
        if repo.id == repo_id:
            return repo
    names = ", ".join(repo.id for repo in config.repos) or "none"
    raise NotFoundError(f"there is no repository {repo_id!r} (there are: {names})")


def show(context: Context, repo_id: str) -> dict[str, Any]:
    """One repository, secrets masked, the plans that use it, the clients that reach it under another address, and of
    one that this hub shares each client, and how it stands with it (sharing.receivers); ``waiting``: of one that a hub
    shares, what waits to be accepted, or None."""
    from backrest.admin.accepting import waiting_json
    from backrest.admin.sharing import receivers, shown_uris

    config = context.config.current
    repo = find(config, repo_id)
    return {
        "repo": codec.to_dict(masked_repo(repo)),
        "plans": [plan.id for plan in config.plans if plan.repo == repo_id],
        "uris": shown_uris(context, repo),
        "clients": receivers(context, repo) if repo.shared and not repo.origin_instance_id else [],
        "withdrawn": repo in withdrawn(config, context.peer_records()),
        "waiting": waiting_json(context, repo),
        # Of one that came from a hub the hub has it; where nothing was made yet nothing is lost.
        "onlyPassword": bool(repo.password and repo.guid and not repo.origin_instance_id),
    }


def remove(context: Context, repo_id: str) -> dict[str, Any]:
    """Forgets the repository here. It, its snapshots and their history stay as they are. ``offeredBy`` is the hub
    that shares it and will hand it out again."""
    gone: list[Repo] = []

    def drop(config: Config) -> None:
        repo = find(config, repo_id)
        users = [plan.id for plan in config.plans if plan.repo == repo_id]
        if users:
            raise ConflictError(
                f"the repository {repo_id!r} is used by {', '.join(users)}: remove "
                f"{'this plan' if len(users) == 1 else 'these plans'} first"
            )
        gone[:] = [Repo()]
        gone[0].CopyFrom(repo)
        config.repos.remove(repo)

    before = context.config.current
    after = context.transform(drop)
    context.forget_gone()
    context.record("repo-removed", repo=repo_id)
    origin = gone[0].origin_instance_id
    hubs = {peer.instance_id for peer in after.multihost.known_hosts}
    offered = origin in hubs and gone[0].id not in {r.id for r in withdrawn(before, context.peer_records())}
    return {"removed": repo_id, "offeredBy": origin if offered else ""}

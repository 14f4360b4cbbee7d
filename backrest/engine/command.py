"""From configuration to restic's command line and environment; pure, nothing is started here.

argv = [nice, ionice] restic <subcommand, its options and paths> <flags of the repo> <flags of the call>. The
password goes into the environment, never onto the command line, where every user of the machine could read
it. Values that come from the configuration (paths, patterns, ids), part of which another instance may have
pushed, can never become flags: patterns and tags always follow a flag that takes a value, and a path begins
with "/". A ``--`` would do as well, but the flags of the repo stand behind the paths.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from backrest import harmless
from backrest.errors import ResticError, UserError
from backrest.store import places
from backrest.wire import config

Version = tuple[int, int, int]

# What this program adds of its own accord beyond restic 0.14's flags, and the restic that has it first (restic's
# changelog). An older one ends with "unknown flag" or "invalid option".
SINCE: dict[str, Version] = {
    "--retry-lock": (0, 16, 0),
    "sftp.args": (0, 16, 1),
    "--skip-if-unchanged": (0, 17, 0),
}

_VARIABLE = re.compile(r"(?<!\$)\$\{([^}]*)\}|\$(\$\{)")

# In 4.2's order: CPU before I/O.
_CPU = {
    config.CommandPrefix.CPU_HIGH: ["nice", "-n", "-10"],
    config.CommandPrefix.CPU_LOW: ["nice", "-n", "10"],
}
_IO = {
    config.CommandPrefix.IO_IDLE: ["ionice", "-c", "3"],
    config.CommandPrefix.IO_BEST_EFFORT_LOW: ["ionice", "-c", "2", "-n", "7"],
    config.CommandPrefix.IO_BEST_EFFORT_HIGH: ["ionice", "-c", "2", "-n", "0"],
}


def expand(text: str, environ: Mapping[str, str], where: str) -> str:
    """``text`` with each ``${NAME}`` replaced from ``environ``. ``$NAME`` stays as it is, and ``$${`` is ``${`` itself.

    UserError, which begins with ``where``, for a variable that is not set: the reference takes an empty text for it,
    and so another place, or no password.
    """

    def value(match: re.Match[str]) -> str:
        if match[2]:
            return match[2]
        if match[1] not in environ:
            raise UserError(
                f"{where} names ${{{match[1]}}}, which is not set in the environment of this process: set it, or write "
                f'$${{ for the characters "${{"'
            )
        return environ[match[1]]

    return _VARIABLE.sub(value, text)


def _placed(problem: str, where: str) -> None:
    """UserError for a place that depends on the working directory: a configuration from before that rule, or the Go
    program's, may hold one."""
    if problem:
        raise UserError(f"{where} {problem}")


def split(flags: str, where: str) -> list[str]:
    """Split as a shell would. ``where`` names the flag's place in the UserError for an open quote."""
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise UserError(f"{where}: {str(error).lower()}") from None


def _flag(flag: str, where: str) -> list[str]:
    """One entry of a list of flags as arguments. UserError for one that restic would take for a path or an id: a
    configuration from before that rule, or the Go program's, may hold one.
    """
    words = split(no_nul(flag, where), where)
    if words and not words[0].startswith("-"):
        raise UserError(
            f'{where} does not begin with "-", and restic would take it for a path: '
            f"write a flag and its value as one, --name=value"
        )
    return words


def no_nul(value: str, where: str) -> str:
    """The value itself; UserError if it holds a NUL, which no argument or variable can."""
    if "\0" in value:
        raise UserError(f"{where} holds a NUL character")
    return value


def prefix(repo: config.Repo, which: Callable[[str], str | None]) -> list[str]:
    """The ``nice`` and ``ionice`` in front. ResticError if one is asked for and not installed."""
    words = _CPU.get(repo.command_prefix.cpu_nice, []) + _IO.get(repo.command_prefix.io_nice, [])
    for tool in ("nice", "ionice"):
        if tool in words and which(tool) is None:
            raise ResticError(f"repo {repo.id}: its command prefix needs {tool}, which is not installed")
    return words


def knows(version: Version, flag: str) -> bool:
    """Whether the restic of this version has the flag or option, one of SINCE."""
    return version >= SINCE[flag]


def repo_flags(repo: config.Repo, environ: Mapping[str, str], version: Version) -> list[str]:
    """The repo's own flags, plus one that keeps ssh from asking a person who is not there.

    An older restic does without it: ssh has no terminal and, by ``environment``, no window to ask in. restic refuses
    it beside the user's own sftp.command.
    """
    flags: list[str] = []
    for number, entry in enumerate(repo.flags, 1):
        where = f"repo {repo.id}: flag {number}"
        flags += _flag(expand(entry, environ, where), where)
    _placed(places.flags_problem(flags), f"repo {repo.id}:")
    if knows(version, "sftp.args") and not any(re.search(r"sftp\.(?:args|command)", flag) for flag in flags):
        flags += ["-o", "sftp.args=-oBatchMode=yes"]
    return flags


def environment(repo: config.Repo, environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a restic that works on ``repo``; later entries win."""
    values = dict(environ)
    # With it in the environment restic would refuse RESTIC_REPOSITORY as a contradiction.
    values.pop("RESTIC_REPOSITORY_FILE", None)
    values.setdefault("SSH_ASKPASS_REQUIRE", "never")
    if repo.password:
        values["RESTIC_PASSWORD"] = no_nul(repo.password, f"repo {repo.id}: the password")
        values["RESTIC_PASSWORD_FILE"] = ""
        values["RESTIC_PASSWORD_COMMAND"] = ""
    for number, entry in enumerate(repo.env, 1):
        where = f"repo {repo.id}: entry {number} of its environment"
        name, equals, value = expand(entry, environ, where).partition("=")
        # The entry itself is not repeated: it may be a secret that lacks its name.
        if not (name and equals):
            raise UserError(f"{where} is not NAME=value")
        _placed(places.variable_problem(f"{name}={value}"), f"repo {repo.id}: {name} of its environment")
        values[no_nul(name, where)] = no_nul(value, where)
    where = f"repo {repo.id}: its address"
    values["RESTIC_REPOSITORY"] = no_nul(expand(repo.uri, environ, where), where)
    _placed(places.uri_problem(values["RESTIC_REPOSITORY"]), where)
    return values


def without_own_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a repo of another instance: without what restic would send, as it is, to an address that this
    instance chose.
    """
    return {name: value for name, value in environ.items() if not harmless.OWN_SECRETS.fullmatch(name)}


def secrets_in(repo: config.Repo, environ: Mapping[str, str]) -> set[str]:
    """What of ``repo`` must not be shown beyond the secrets of its environment: variables expanded into
    flags.
    """
    names = {name for entry in (*repo.flags, repo.uri) for name, _ in _VARIABLE.findall(entry) if name}
    return {repo.password} | {
        environ[name] for name in names if name in environ and name.upper() not in _ORDINARY
    }


# Variables that people use to build paths: masking their values would make the logs unreadable.
_ORDINARY = frozenset({"HOME", "USER", "LOGNAME", "HOSTNAME", "HOST", "PWD", "TMPDIR", "XDG_CACHE_HOME"})


def tag_value(kind: str, identifier: str) -> str:
    """``plan:x`` or ``created-by:x``; UserError for an id that restic would read as several tags.

    Attack: a pushed plan with the id "a,created-by:b" would otherwise be able to choose whose snapshots its
    forget hits.
    """
    if "," in identifier:
        raise UserError(f"{kind} {identifier!r}: restic cannot use an id with a comma as a tag")
    return f"{kind}:{no_nul(identifier, kind)}"


def tags(plan_id: str, instance: str) -> tuple[str, str]:
    """The tags that attribute a snapshot to a plan and an instance."""
    return tag_value("plan", plan_id), tag_value("created-by", instance)


def backup_arguments(
    plan: config.Plan, instance: str, *, parent: str, dry_run: bool, can_skip: bool
) -> tuple[list[str], list[str]]:
    """(subcommand with its paths, flags of the call) for ``restic backup``.

    ``can_skip`` says that this restic knows --skip-if-unchanged (0.17 and later).
    """
    own = split_backup_flags(plan)
    flags = ["--exclude-caches"]
    for tag in tags(plan.id, instance):
        flags += ["--tag", tag]
    for pattern in plan.excludes:
        flags += ["--exclude", no_nul(pattern, f"plan {plan.id}: an exclude pattern")]
    for pattern in plan.iexcludes:
        flags += ["--iexclude", no_nul(pattern, f"plan {plan.id}: an exclude pattern")]
    if parent:
        flags += ["--parent", parent]
    flags += own
    if plan.skip_if_unchanged and can_skip and "--skip-if-unchanged" not in own:
        flags.append("--skip-if-unchanged")
    if dry_run:
        flags += ["--dry-run", "-vv"]
    paths = [no_nul(path, f"plan {plan.id}: a path") for path in plan.paths]
    for path in paths:
        _placed(places.path_problem(path), f"plan {plan.id}: the path {path!r}")
    return ["backup", "--json", *paths], flags


def split_backup_flags(plan: config.Plan) -> list[str]:
    """The plan's flags as separate arguments; they are not expanded from the environment (4.2)."""
    flags: list[str] = []
    for number, entry in enumerate(plan.backup_flags, 1):
        flags += _flag(entry, f"plan {plan.id}: backup flag {number}")
    _placed(places.flags_problem(flags), f"plan {plan.id}:")
    return flags


def keep_flags(policy: config.RetentionPolicy) -> list[str]:
    """Retention as restic's flags, in 3.14's order. Empty means: forget nothing.

    That is so for keep-all, for no policy and for counts that are not positive: to restic ``--keep-last 0``
    alone would be an error, and a negative count would mean "without limit".
    """
    kind = policy.WhichOneof("policy")
    if kind == "policy_keep_last_n":
        counts = {"last": policy.policy_keep_last_n}
    elif kind == "policy_time_bucketed":
        bucketed = policy.policy_time_bucketed
        counts = {
            "last": bucketed.keep_last_n,
            "hourly": bucketed.hourly,
            "daily": bucketed.daily,
            "weekly": bucketed.weekly,
            "monthly": bucketed.monthly,
            "yearly": bucketed.yearly,
        }
    else:
        counts = {}
    return [word for name, count in counts.items() if count > 0 for word in (f"--keep-{name}", str(count))]


def has_active_forget_schedule(repo: config.Repo) -> bool:
    """Whether the repo forgets by a schedule of its own, which then replaces the forget after each backup."""
    kind = repo.forget_policy.schedule.WhichOneof("schedule")
    return kind in ("cron", "maxFrequencyDays", "maxFrequencyHours")


def process_environment() -> dict[str, str]:
    """This process's environment. Values that are not UTF-8 keep their bytes (surrogate escapes)."""
    return dict(os.environ)


def quoted(arguments: Sequence[str]) -> str:
    """An argument list as one line that a person can paste."""
    return shlex.join(arguments)

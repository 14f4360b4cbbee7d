"""Who else may read or write our files: looked at by owner and mode, nothing changed.

What others may write is theirs to decide: a line in the configuration is a program that runs as us. So it is refused.
What others may read is only said. "Others" are all users but root and the one we run as; a directory on the way that
others may change counts as the file does, and one that they may not enter protects all that is below it.

Cannot see: access lists beyond the mode, who is root on a file server, links in the middle of a chain of links.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backrest import wire
from backrest.errors import StorageError, UserError
from backrest.store import backups
from backrest.store.paths import Paths
from backrest.store.syscalls import read_file

_OVERFLOW = 65534  # whom the kernel names as the owner of what belongs to nobody in this user namespace


@dataclass(frozen=True, slots=True)
class Watched:
    """A file or directory, as people call it. ``secret``: it is said when others may read it."""

    what: str
    path: str | os.PathLike[str]
    secret: bool = True


@dataclass(slots=True)
class Access:
    """Sentences: ``refused`` about what others may write, ``said`` about what they may read."""

    refused: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.refused, *self.said]

    def require(self) -> None:
        """UserError when something is refused."""
        if self.refused:
            raise UserError("; ".join(self.refused), self.refused)


def of_state(paths: Paths, config: wire.config.Config | None = None) -> list[Watched]:
    """What every daemon, and a command that runs programs, depends on."""
    found = [Watched("the configuration", paths.config_file), Watched("the data directory", paths.data_dir)]
    found += [
        Watched("a backup of the configuration", backup) for backup in backups.all_of(paths.config_file)
    ]
    found += [
        Watched("a file of the data directory", path)
        for path in (
            paths.peers,
            paths.parked_plans,
            paths.shares,
            paths.waiting_repos,
            paths.plan_notes,
            paths.pushes,
            paths.admin_token,
        )
    ]
    found += [
        Watched(
            "the history", paths.oplog, secret=False
        ),  # whoever opens these two takes away what others may read
        Watched("the audit log", paths.audit, secret=False),
        Watched("the restic program", paths.data_dir / "restic", secret=False),
    ]
    for repo in config.repos if config is not None else ():
        for text in (*repo.env, *repo.flags):
            name, _, value = text.partition("=")
            if name.strip() in ("RESTIC_PASSWORD_FILE", "--password-file") and os.path.isabs(value):
                found.append(Watched(f"the password file of repo {repo.id!r}", Path(value)))
    return found


def examine(watched: Iterable[Watched]) -> Access:
    """What is wrong with these, each path named once. What is not there, or cannot be looked at, is no finding."""
    access = Access()
    trusted = _trusted()
    seen: set[str] = set()
    for one in watched:
        for name in dict.fromkeys((os.path.abspath(one.path), os.path.realpath(one.path))):
            _examine(one, name, trusted, seen, access)
    return access


def _examine(one: Watched, name: str, trusted: set[int], seen: set[str], access: Access) -> None:
    reached = 0o077  # by whom: the bits of group and world, as far as the directories let them through
    for path, is_last in _way(name):
        try:
            info = os.stat(path)
        except OSError:
            return
        groups = 0 if _is_private_group(info) else 0o070
        mode = info.st_mode & (groups | 0o007) & reached
        writable = mode & 0o022
        if writable and stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX and not is_last:
            writable = 0  # as /tmp: nobody removes or renames what is another's
        if path not in seen:
            what = one.what if is_last else f"above {one.what}"
            if info.st_uid not in trusted:
                seen.add(path)
                access.refused.append(
                    f"{path} ({what}) belongs to the user {_user(info.st_uid)}, who may change it: run "
                    f"`chown {_user(os.geteuid())} {path}`, or run backrest as that user"
                )
            elif writable:
                seen.add(path)
                who = "g" * bool(writable & 0o020) + "o" * bool(writable & 0o002)
                access.refused.append(f"other users may change {path} ({what}): run `chmod {who}-w {path}`")
            elif is_last and one.secret and mode & 0o044 and stat.S_ISREG(info.st_mode):
                seen.add(path)
                access.said.append(f"other users may read {path} ({what}): run `chmod go-r {path}`")
        if stat.S_ISDIR(info.st_mode):
            entered = mode & 0o011
            reached = (0o070 if entered & 0o010 else 0) | (0o007 if entered & 0o001 else 0)


def _way(name: str) -> Iterator[tuple[str, bool]]:
    """Each directory from the root on, and at last the path itself."""
    parents = [os.fspath(parent) for parent in reversed(Path(name).parents)]
    yield from ((parent, False) for parent in parents)
    yield name, True


def _trusted() -> set[int]:
    trusted = {0, os.geteuid()}
    try:
        lines = read_file("/proc/self/uid_map").splitlines()
        if len(lines) != 1 or int(lines[0].split()[2]) < _OVERFLOW:
            trusted.add(_OVERFLOW)  # a container without the machine's root: its files show as nobody's
    except (OSError, StorageError, ValueError, IndexError):  # not Linux
        pass
    return trusted


def _is_private_group(info: os.stat_result) -> bool:
    """Root's group, or one that has only the file's owner in it: many systems give each user such a group, and a mask
    that lets it write."""
    if info.st_gid == 0:
        return True
    try:
        group, owner = grp.getgrgid(info.st_gid), pwd.getpwuid(info.st_uid)
    except KeyError:
        return False
    return (
        owner.pw_gid == group.gr_gid
        and group.gr_name == owner.pw_name
        and set(group.gr_mem) <= {owner.pw_name}
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

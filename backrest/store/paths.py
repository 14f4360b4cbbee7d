"""Where the state lives: the configuration file, the data directory, the names in it; and how it is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backrest.errors import StorageError, UserError
from backrest.store import syscalls
from backrest.store.syscalls import leave_to_owner, storage_error


@dataclass(frozen=True, slots=True)
class Paths:
    """The configuration file and the data directory, and what we keep in the latter.

    The Go program's files in the same directory (oplog.sqlite, kvdb.sqlite, tasklogs/logs.sqlite, ...) have
    other names than ours and are never changed; its lock is held as well as ours.
    """

    config_file: Path
    data_dir: Path

    @classmethod
    def resolve(
        cls,
        config_file: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Paths:
        """Given > $BACKREST_CONFIG, $BACKREST_DATA > XDG directories > the home directory. Always absolute.

        An empty value counts as unset; a relative XDG variable is ignored, as the XDG specification demands.
        Raises UserError when a default is needed and there is no home directory.
        """
        env = os.environ if environ is None else environ
        config = config_file or env.get("BACKREST_CONFIG") or None
        data = data_dir or env.get("BACKREST_DATA") or None
        if config is None:
            config = _xdg(env, "XDG_CONFIG_HOME", ".config") / "backrest" / "config.json"
        if data is None:
            data = _xdg(env, "XDG_DATA_HOME", ".local/share") / "backrest"
        return cls(Path(os.path.abspath(config)), Path(os.path.abspath(data)))

    @property
    def oplog(self) -> Path:
        return self.data_dir / "oplog.jsonl"

    @property
    def reference_oplog(self) -> Path:
        """The Go program's operation log, which only an import reads."""
        return self.data_dir / "oplog.sqlite"

    @property
    def reference_lock(self) -> Path:
        return self.data_dir / "oplog.sqlite.lock"

    @property
    def history_waits(self) -> Path:
        """Is there while the Go program's history is neither imported nor given up, once our log exists."""
        return self.data_dir / "history-waits.txt"

    @property
    def peers(self) -> Path:
        return self.data_dir / "peers.json"

    @property
    def audit(self) -> Path:
        return self.data_dir / "audit.jsonl"

    @property
    def parked_plans(self) -> Path:
        return self.data_dir / "parked-plans.json"

    @property
    def shares(self) -> Path:
        return self.data_dir / "shares.json"

    @property
    def waiting_repos(self) -> Path:
        return self.data_dir / "waiting-repos.json"

    @property
    def plan_notes(self) -> Path:
        return self.data_dir / "plan-notes.json"

    @property
    def pushes(self) -> Path:
        return self.data_dir / "pushes.json"

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def socket(self) -> Path:
        return self.data_dir / "admin.sock"

    @property
    def admin_token(self) -> Path:
        return self.data_dir / "admin-token"

    @property
    def tasklogs(self) -> Path:
        return self.data_dir / "tasklogs"


def _xdg(env: Mapping[str, str], name: str, below_home: str) -> Path:
    value = env.get(name, "")
    if os.path.isabs(value):
        return Path(value)
    home = env.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise UserError(f"There is no home directory: set HOME or {name}, or give the path.")
    return Path(home) / below_home


def private_dir(path: str | os.PathLike[str]) -> None:
    """Make the directory, and its missing parents, with mode 0700; its name is durable afterwards.

    One that exists keeps its mode: ``--data-dir /tmp``, run by root, must not close /tmp to everybody.
    """
    missing = []
    here = os.path.abspath(path)
    while not os.path.isdir(here):
        missing.append(here)
        parent = os.path.dirname(here)
        if parent == here:
            break
        here = parent
    for directory in reversed(missing):
        try:
            syscalls.disk.mkdir(directory, 0o700)
            fd = syscalls.disk.open_to_read(directory, os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                leave_to_owner(fd, directory)
            finally:
                syscalls.disk.close(fd)
            syscalls.disk.fsync_dir(os.path.dirname(directory))
        except FileExistsError:
            if not os.path.isdir(directory):
                raise StorageError(f"Cannot create the directory {directory}: a file is there.") from None
        except OSError as error:
            raise storage_error("create the directory", directory, error) from error

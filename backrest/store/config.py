"""The configuration file: read, migrated, validated, changed by one transaction at a time.

The format is the reference's protobuf JSON, so that a user can point either program at the file. ``current``
is a new object for each change and never altered: whoever holds one may compare and keep it. A change is a
level: listeners are called after it is on disk, with the newest configuration, and no change goes untold.

The file may be edited by hand, or by the other program, at any time. So each transaction first looks whether
it is still what was read or written last, and reads it again if not; and looks once more before it writes, and
starts over if not: nobody's edit is overwritten unseen. Cannot promise: an edit that lands after this last look,
while the new file is brought to the disk to take the old one's place (some milliseconds).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from backrest import wire
from backrest.errors import ConflictError, StorageError, TooLargeError, UserError
from backrest.store import backups, syscalls
from backrest.store.configfile import for_backup, parse, serialise
from backrest.store.files import atomic_write, check_room, private_dir, read_file, sweep_temps
from backrest.store.migrations import CURRENT_VERSION, migrate
from backrest.store.paths import Paths
from backrest.store.unknown import Unknown
from backrest.store.validate import Findings, check, normalise

log = logging.getLogger(__name__)

Config = wire.config.Config
T = TypeVar("T")

_INT32_MAX = (1 << 31) - 1

# An editor saves once, and so does a script: who writes into the file this often while we try does so without end.
TRIES = 5


class _EditedError(Exception):
    """The file is not what was read of it: nothing was written."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration as a file gives it, brought to the current version and checked by the lenient rules."""

    config: Config
    unknown: Unknown
    migrated: bool
    warnings: tuple[str, ...]


def default_config() -> Config:
    """Before the first file: the reference's defaults, without an identity (``init`` makes it)."""
    return Config(version=CURRENT_VERSION, auth=wire.config.Auth(disabled=True))


def load(data: bytes, source: str, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read the content of a configuration file. ``source`` names it in messages.

    UserError for anything that cannot be used, with all problems of its content at once.
    """
    try:
        config, unknown = parse(data)
        if not config.ByteSize() and not unknown:
            config = default_config()
        migrated = migrate(config, os.environ if environ is None else environ)
    except UserError as error:
        raise UserError(f"{source}: {error}", error.problems or [str(error)]) from error
    findings = check(config, config)
    _refuse(source, findings)
    return Loaded(config, unknown, migrated, tuple(findings.warnings))


def _refuse(source: str, findings: Findings) -> None:
    if findings.problems:
        raise UserError(f"{source}: {'; '.join(findings.problems)}", findings.problems)


def check_first_run(paths: Paths) -> None:
    """UserError where the configuration is missing, and the state of an instance is there: a new identity beside it
    would be another machine to all peers, and the passwords would seem to be gone."""
    if paths.config_file.exists():
        return
    newest = backups.newest(paths.config_file)
    if newest is not None:
        raise UserError(
            f"{paths.config_file} is missing, and this is no first run: copy its newest backup, {newest}, in its place "
            f"(to begin anew, move the backups and {paths.data_dir} away)"
        )
    for file in (paths.audit, paths.reference_oplog):
        if file.exists() and file.stat().st_size:
            raise UserError(
                f"{paths.config_file} is missing, and this is no first run, since there is {file}: put a copy of the "
                f"configuration in its place, or say where it is with --config-file (to begin anew, move "
                f"{paths.data_dir} away)"
            )


class ConfigStore:
    """One configuration file, for all threads of this process."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ
        self._lock = threading.RLock()  # held over a whole transaction
        self._telling = threading.RLock()  # held while listeners are called; never taken before _lock
        self._changing = False
        self._in_listener = False
        self._listeners: list[Callable[[Config], None]] = []
        self._config = default_config()
        self._unknown = Unknown()
        self._digest: bytes | None = None  # of the file's content when last read or written; None: no file
        self._generation = 0
        self._told = 0
        self.warnings: tuple[str, ...] = ()  # about the file as it was last read

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None) -> ConfigStore:
        """Read the file; one of an older version is written back at once, its predecessor kept as a backup.

        An absent file gives the defaults and is not made. UserError: the content cannot be used, with all
        problems listed; StorageError: it cannot be read. What cannot be written back (a full disk) is said, and is in
        force all the same: the next change writes it.
        """
        store = cls(Path(os.path.abspath(path)), os.environ if environ is None else environ)
        sweep_temps(store._path)
        store._again_if_edited(store._open)
        return store

    def _open(self) -> None:
        data = self._read()
        if data is None:
            return
        loaded = self._load(data)
        self._config, self._unknown = loaded.config, loaded.unknown
        self._digest, self.warnings = _digest(data), loaded.warnings
        if loaded.migrated:
            try:
                self._write(self._config, data)
            except StorageError as error:
                log.error("the configuration is used as version %d, but: %s", CURRENT_VERSION, error)
            else:
                log.info("%s was brought to version %d", self._path, CURRENT_VERSION)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def current(self) -> Config:
        """The configuration in force. Read only: transform() is the way to change it."""
        return self._config

    @property
    def generation(self) -> int:
        """Rises with each change that this process made or noticed."""
        return self._generation

    def transform(
        self,
        fn: Callable[[Config], bool | None],
        *,
        replace_identity: bool = False,
        from_peer: bool = False,
        imported: bool = False,
    ) -> Config:
        """Change the configuration in one atomic, durable step, and return the one that is then in force.

        ``fn`` gets a copy to alter; it returns False for "no change", and whatever it raises ends the
        transaction. A copy left as it was is no change either: nothing is written and modno stays (or two
        peers that push to each other would restart each other for ever). Else modno grows by one, the result
        is validated, written, and told to the listeners before this returns. On UserError (with all problems)
        or StorageError memory and file are as before. ``from_peer``: another instance chose the ids, which need
        not obey all of the rule for new ones (W-10); what is odd is logged. ``imported``: nor need those of a whole
        configuration, which was in use as it is. ``fn`` is called again, with a new copy, when
        somebody edits the file meanwhile; ConflictError when that does not end.
        """

        def change() -> Config:
            self._notice_edits()
            before = self._config
            draft = _copy(before)
            if fn(draft) is False:
                return before
            return self._commit(before, draft, replace_identity, from_peer, imported)

        try:
            with self._transaction():
                return self._again_if_edited(change)
        finally:
            self._tell()  # also when only an edit of the file was noticed

    def _again_if_edited(self, step: Callable[[], T]) -> T:
        for _ in range(TRIES):
            try:
                return step()
            except _EditedError:
                log.info("%s was edited while it was being changed: starting over", self._path)
        raise ConflictError(
            f"{self._path} is being edited by somebody else again and again: nothing was changed; try it later"
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            if self._changing:  # what the inner one wrote would be overwritten by the outer one
                raise RuntimeError("a configuration is changed inside another change of it")
            self._changing = True
            try:
                yield
            finally:
                self._changing = False

    def _commit(
        self, before: Config, draft: Config, replace_identity: bool, from_peer: bool, imported: bool
    ) -> Config:
        # Not the caller's to choose: a request of the reference's API carries both (W-06).
        draft.version, draft.modno = CURRENT_VERSION, before.modno
        if draft == before:  # before it is put in order: a file in another order is no reason to write
            return before
        normalise(draft)
        if draft == before:
            return before
        old_identity = before.multihost.identity
        if old_identity.keyid and draft.multihost.identity != old_identity and not replace_identity:
            raise UserError("the instance's identity cannot be changed this way: all pairings would be lost")
        findings = check(draft, before, from_peer=from_peer, imported=imported)
        _refuse("the change was not made", findings)
        if from_peer:
            known = set(check(before, before).warnings)
            for warning in findings.warnings:
                if warning not in known:
                    log.warning("from another instance: %s", warning)
        draft.modno = _next(before.modno)
        self._write(draft, self._read())
        self._set(draft)
        return draft

    def check_writable(self) -> None:
        """Whether a change could be written now, for who does something that only a change of the configuration makes
        good: StorageError. Cannot promise: that it can in a moment."""
        with self._lock:
            private_dir(self._path.parent)
            check_room(self._path, len(serialise(self._config, self._unknown)))

    def clean_backups(self, *, identity: bool = True) -> list[Path]:
        """Take the pairing secrets out of the backups that another program, or a version before, left with them; and
        unless ``identity`` the private key, after it was replaced. Returns those that were changed. StorageError."""
        with self._lock:
            return backups.rewrite(self._path, partial(for_backup, identity=identity))

    def reload(self) -> bool:
        """Read the file again (SIGHUP). False: nothing has changed.

        On UserError or StorageError the configuration in force stays.
        """
        with self._transaction():
            generation = self._generation
            if self._read() is None and self._digest is not None:
                raise UserError(
                    f"{self._path} is gone: the configuration in force stays until the next change"
                )
            self._notice_edits()
            changed = self._generation != generation
        self._tell()
        return changed

    def subscribe(self, callback: Callable[[Config], None]) -> Callable[[], None]:
        """``callback(config)`` after each change, in the thread that made it; it must not block.

        Several changes may be told as one, the newest. Returns the function that ends the subscription.
        """
        with self._lock:
            self._listeners = [*self._listeners, callback]

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                listeners = list(self._listeners)
                listeners.remove(callback)
                self._listeners = listeners

        return unsubscribe

    # --- disk

    def _read(self) -> bytes | None:
        try:
            return read_file(self._path)
        except FileNotFoundError:
            return None
        except TooLargeError as error:
            raise StorageError(f"{error}{self._newest()}") from error

    def _notice_edits(self) -> None:
        """Take over what somebody else wrote into the file since we last read or wrote it."""
        data = self._read()
        if data is None or _digest(data) == self._digest:
            return
        first, before = self._digest is None, self._config
        loaded = self._load(data)
        self._unknown, self._digest, self.warnings = loaded.unknown, _digest(data), loaded.warnings
        config = loaded.config
        if config == before:
            return  # only white space, or unknown keys: nothing that anybody must be told
        if not first and config.modno <= before.modno:
            # Who edits by hand leaves modno alone; an API client that still holds the old one must not
            # overwrite the edit. It is written with the next change.
            config.modno = _next(before.modno)
        log.info("%s was changed by somebody else: using it", self._path)
        self._set(config)

    def _load(self, data: bytes) -> Loaded:
        try:
            loaded = load(data, str(self._path), self._environ)
        except UserError as error:
            raise UserError(f"{error}{self._newest()}", error.problems) from error
        for warning in loaded.warnings:
            log.warning("%s: %s", self._path, warning)
        return loaded

    def _newest(self) -> str:
        newest = backups.newest(self._path)
        return f" (the newest backup is {newest})" if newest else ""

    def _write(self, config: Config, old: bytes | None) -> None:
        """Replace the file, keeping ``old``, its content now, as a backup. _EditedError: it has another by now.
        UserError: it would be larger than what is read back."""
        data = serialise(config, self._unknown)
        if len(data) > syscalls.MAX_WHOLE_FILE:
            raise UserError(
                f"the change was not made: {self._path} would be larger than {syscalls.MAX_WHOLE_FILE >> 20} MiB and "
                "could not be read again; remove repositories or plans first"
            )
        private_dir(self._path.parent)
        backup = backups.keep(self._path, for_backup(old)) if old is not None else None
        try:
            if (now := self._read()) is not None and _digest(now) != self._digest:
                raise _EditedError
            atomic_write(self._path, data)
        except (StorageError, _EditedError):
            if backup is not None:  # else ten failures would push out the last ten real ones
                backups.forget(backup)
            raise
        self._digest = _digest(data)
        backups.prune(self._path, backup)

    # --- listeners

    def _set(self, config: Config) -> None:
        self._config = config
        self._generation += 1

    def _tell(self) -> None:
        """Call the listeners until they have seen the newest configuration.

        A change made by a listener is told by the loop that called it; a change made by another thread
        meanwhile is told by whichever gets there first, before either transform() returns.
        """
        with self._telling:
            if self._in_listener:
                return
            self._in_listener = True
            try:
                while self._told != self._generation:
                    self._told = self._generation
                    config = self._config
                    for listener in self._listeners:
                        try:
                            listener(config)
                        except Exception:  # one listener's mistake must not keep the news from the others
                            log.exception("a listener for the configuration failed")
            finally:
                self._in_listener = False


def _copy(config: Config) -> Config:
    out = Config()
    out.CopyFrom(config)
    return out


def _next(modno: int) -> int:
    return modno + 1 if modno < _INT32_MAX else 1


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

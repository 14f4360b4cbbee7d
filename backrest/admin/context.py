"""What a use case works on: the stores of one data directory, opened when first asked for.

The daemon hands in what it has open. A command that works on the files itself hands in nothing but the paths
(and holds the lock): ``token create`` then never reads a history of a million lines. Not thread-safe while
opening, which only happens in commands; the daemon opens everything before it serves.

A small file (pushes, shares, parked plans, waiting repos) that is damaged, or that the disk does not give back, fails
the use case that needs it. One that can do without asks through ``if_sound``, and ``damaged`` then has the sentence for
the user. Only commands meet this: the daemon does not start with such a file.

A change and its line in the audit log are two writes, and the second may be refused. So, for every use case: before a
change the log is looked at, and one that is known to take no line (it was moved away, it is damaged) refuses it. Once
the change is made nothing takes it back. What the disk then refuses of all that follows it is logged by the daemon and
said beside the result, as ``unfinished``; it is no error, which would say that nothing was done, and keep the secret of
a token that exists.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from backrest.errors import StorageError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from backrest import wire
    from backrest.engine import Engine
    from backrest.store.audit import AuditLog
    from backrest.store.config import ConfigStore
    from backrest.store.files import Paths
    from backrest.store.oplog import OpLog
    from backrest.store.peers import PeerRecord, PeerStore
    from backrest.store.plannotes import PlanNotes
    from backrest.store.pushqueue import PushQueue
    from backrest.store.removal import ParkedPlans
    from backrest.store.shares import Shares
    from backrest.store.waiting import WaitingRepos


T = TypeVar("T")

log = logging.getLogger("backrest")

# Of the use case that runs now, in whatever thread or task of it; the daemon runs several in one Context.
_unfinished: ContextVar[list[str] | None] = ContextVar("unfinished", default=None)


@contextmanager
def following_up() -> Iterator[list[str]]:
    """Around one use case: the sentences about what did not follow its change."""
    sentences: list[str] = []
    token = _unfinished.set(sentences)
    try:
        yield sentences
    finally:
        _unfinished.reset(token)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What only the running daemon knows; a command that works on the files has none."""

    pid: int
    started_ms: int
    addresses: tuple[str, ...]
    admin_addresses: tuple[str, ...] = ()
    """Besides the socket."""
    namesakes: Callable[[], dict[str, tuple[int, float]]] = dict
    """Strangers that were refused under a client's name (sync/hub.py)."""
    tasks: Callable[[], int] = int
    """How many tasks its event loop has; from any other thread. What is left over when all peers are gone is a leak."""


class Context:
    """The stores, and whether a daemon stands behind them."""

    def __init__(
        self,
        paths: Paths,
        *,
        config: ConfigStore | None = None,
        oplog: OpLog | None = None,
        peers: PeerStore | None = None,
        audit: AuditLog | None = None,
        parked: ParkedPlans | None = None,
        waiting_repos: WaitingRepos | None = None,
        shares: Shares | None = None,
        pushes: PushQueue | None = None,
        engine: Engine | None = None,
        daemon: Daemon | None = None,
        restic_command: str | None = None,
        ca_file: str | None = None,
        beside: bool = False,
    ) -> None:
        """``beside``: somebody else holds the lock, so nothing in the data directory is written or cut."""
        self.paths = paths
        self._beside = beside
        self.daemon = daemon
        self.ca_file = ca_file
        self._restic_command = restic_command
        self._config = config
        self._oplog = oplog
        self._peers = peers
        self._audit = audit
        self._parked = parked
        self._waiting_repos = waiting_repos
        self._plan_notes: PlanNotes | None = None
        self._shares = shares
        self._pushes = pushes
        self._engine = engine
        self.damaged: list[str] = []  # the files that something was done without: a sentence for each
        self._opened: list[Any] = []  # what close() has to close: never what was handed in

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Writes back and closes what was opened here, the last opened first."""
        while self._opened:
            self._opened.pop()()

    @property
    def config(self) -> ConfigStore:
        if self._config is None:
            from backrest.store.config import ConfigStore, check_first_run

            check_first_run(self.paths)
            self._config = ConfigStore.open(self.paths.config_file)
        return self._config

    @property
    def oplog(self) -> OpLog:
        if self._oplog is None:
            from backrest.store.handover import open_log

            hubs = len(self.config.current.multihost.known_hosts)
            paths = self._copied() if self._beside else self.paths
            self._oplog = open_log(paths, hubs, now_ms())
            self._opened.append(self._oplog.close)
        return self._oplog

    def _copied(self) -> Paths:
        """The history as it is now, in a directory of its own until ``close``: opening one cuts what is half written
        and saves an index beside it, which only the holder of the lock may do."""
        import os
        import shutil
        import tempfile
        from pathlib import Path

        from backrest.store.opsaved import path_of
        from backrest.store.paths import Paths

        scratch = tempfile.mkdtemp(prefix="backrest-")
        self._opened.append(lambda: shutil.rmtree(scratch, ignore_errors=True))
        copy = Paths(self.paths.config_file, Path(scratch))
        for source, target in (
            (self.paths.oplog, copy.oplog),
            (path_of(os.fspath(self.paths.oplog)), path_of(os.fspath(copy.oplog))),
        ):
            try:
                shutil.copyfile(source, target)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise StorageError(
                    f"{source} cannot be copied to {target}, to be read while another backrest works: "
                    f"{error.strerror or error}."
                ) from None
        return copy

    @property
    def peers(self) -> PeerStore:
        if self._peers is None:
            from backrest.store.peers import PeerStore

            self._peers = PeerStore.open(self.paths.peers)
            if not self._beside:  # closing writes it back
                self._opened.append(self._peers.close)
        return self._peers

    def peer_records(self) -> list[PeerRecord]:
        """What is known of the peers, for who only reads: opening ``peers`` would write it back at the end, and
        somebody else may hold the lock."""
        if self._peers is not None:
            return self._peers.all()
        from backrest.store.peers import PeerStore

        return PeerStore.open(self.paths.peers).all()

    def if_sound(self, use: Callable[[], T]) -> T | None:
        """What ``use`` gives; None, and a sentence in ``damaged``, when its file is damaged or cannot be read."""
        try:
            return use()
        except StorageError as error:
            if str(error) not in self.damaged:
                self.damaged.append(str(error))
            return None

    def ready_to_record(self) -> None:
        """To be called before a change that is recorded. StorageError: the audit log is known to take no line."""
        self.audit.check()

    def transform(
        self, change: Callable[[wire.config.Config], bool | None], **how: bool
    ) -> wire.config.Config:
        """The configuration's ``transform``, for a change that is recorded."""
        self.ready_to_record()
        return self.config.transform(change, **how)

    def record(self, event: str, **fields: Any) -> None:
        """The line in the audit log about a change that is made."""
        self.afterwards("it is done, but the audit log misses it", lambda: self.audit.append(event, **fields))

    def afterwards(self, failed: str, step: Callable[[], T]) -> T | None:
        """What ``step`` gives, which follows a change that is made. None, and a sentence that begins with ``failed``,
        when the disk refuses it."""
        try:
            return step()
        except StorageError as error:
            sentences = _unfinished.get()
            if sentences is not None:
                sentences.append(f"{failed}: {error}")
            if sentences is None or self.daemon is not None:
                log.error("%s: %s", failed, error)
            return None

    def remarks(self, unfinished: list[str]) -> dict[str, Any]:
        """What is said beside a result."""
        return ({"damaged": self.damaged} if self.damaged else {}) | (
            {"unfinished": unfinished} if unfinished else {}
        )

    def forget_gone(self) -> None:
        """Throw away what the small files hold of peers and repositories that are no longer in the configuration.
        The daemon does so at each start as well, so what a file keeps for now (it is damaged, or cannot be written)
        does no harm."""
        config = self.config.current
        failed = "it is done, but what belonged to it was not thrown away"
        if (shares := self.if_sound(lambda: self.shares)) is not None:
            self.afterwards(failed, lambda: shares.prune(config))
        if (pushes := self.if_sound(lambda: self.pushes)) is not None:
            self.afterwards(failed, lambda: pushes.forget_removed(config))
        if (waiting := self.if_sound(lambda: self.waiting_repos)) is not None:
            self.afterwards(failed, lambda: waiting.prune(config))
        if (notes := self.if_sound(lambda: self.plan_notes)) is not None:
            self.afterwards(failed, lambda: notes.prune(config))

    @property
    def parked(self) -> ParkedPlans:
        if self._parked is None:
            from backrest.store.removal import ParkedPlans

            self._parked = ParkedPlans.open(self.paths.parked_plans)
        return self._parked

    @property
    def waiting_repos(self) -> WaitingRepos:
        if self._waiting_repos is None:
            from backrest.store.waiting import WaitingRepos

            self._waiting_repos = WaitingRepos.open(self.paths.waiting_repos)
        return self._waiting_repos

    @property
    def plan_notes(self) -> PlanNotes:
        if self._plan_notes is None:
            from backrest.store.plannotes import PlanNotes

            self._plan_notes = PlanNotes.open(self.paths.plan_notes)
        return self._plan_notes

    @property
    def shares(self) -> Shares:
        if self._shares is None:
            from backrest.store.shares import Shares

            self._shares = Shares.open(self.paths.shares)
        return self._shares

    @property
    def pushes(self) -> PushQueue:
        if self._pushes is None:
            from backrest.store.pushqueue import PushQueue

            self._pushes = PushQueue.open(self.paths.pushes)
        return self._pushes

    @property
    def audit(self) -> AuditLog:
        if self._audit is None:
            from backrest.store.audit import AuditLog

            self._audit = AuditLog.open(self.paths.audit)
            self._opened.append(self._audit.close)
        return self._audit

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            from backrest.engine import Engine
            from backrest.store import access

            # Hooks and command prefixes are programs: whoever may write the configuration could name them.
            access.examine(access.of_state(self.paths, self.config.current)).require()
            engine = Engine(self.paths, self.config, self.oplog, restic_command=self._restic_command)
            # Nobody else works here (we hold the lock), so what is still "in progress" was killed.
            engine.recover()
            self._engine = engine
        return self._engine

    def identified(self) -> wire.config.Config:
        """The configuration, if this instance can be told from others; UserError says how to get there."""
        config = self.config.current
        require_identity(config)
        return config


def require_identity(config: wire.config.Config) -> None:
    """UserError unless the configuration has an instance id and a key."""
    if not config.instance or not config.multihost.identity.keyid:
        raise UserError("this machine has no identity yet: run `backrest init` first")


def now_ms() -> int:
    """The wall clock in milliseconds; a function of its own so that tests can replace it."""
    return time.time_ns() // 1_000_000

"""The daemon: one nursery that holds the sync port, the admin socket, the clients and the engine.

Start: lock, self-test, stores, then what listens, then what dials. A start writes as well (what was interrupted, what
is about removed peers); on a full disk it says so and goes on, so that what is there can be read. Stop (SIGTERM,
SIGINT): the sessions say goodbye, what listens closes, the stores are written back; all within STOP_S. SIGHUP reads the
configuration again. A failure in one peer ends that peer's session; what ends the daemon is a failure of the whole (a
port that is taken).
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio

from backrest.admin.context import Context, Daemon
from backrest.admin.guard import Guard, check_bind, is_loopback, read_token
from backrest.admin.instance import init
from backrest.admin.locking import held
from backrest.admin.server import admin_app
from backrest.admin.settings import Settings
from backrest.crypto import mlkem
from backrest.engine import Engine
from backrest.errors import BackrestError, CorruptError, StorageError, UserError
from backrest.net.connect import ConnectApp, Stream
from backrest.net.crowd import Crowd
from backrest.net.descriptors import connections_within, raise_limit
from backrest.net.server import App, ServerSettings, TlsFiles, serve
from backrest.protocol.session import Limits
from backrest.store.access import Watched, examine, of_state
from backrest.store.audit import AuditLog
from backrest.store.config import Config, ConfigStore
from backrest.store.files import Paths
from backrest.store.handover import WAITS, open_log, waits
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.removal import ParkedPlans
from backrest.store.shares import Shares
from backrest.store.waiting import WaitingRepos
from backrest.sync.client import SYNC_PATH, dialer
from backrest.sync.clients import Clients
from backrest.sync.hub import Hub
from backrest.sync.watch import ConfigWatch, Watch

log = logging.getLogger("backrest")

STOP_S = 5.0  # what systemd's and Docker's users expect; both kill after 10 s or more
GRACE_S = 4.0  # of these for open connections
PEERS_WRITTEN_EVERY_S = 1.0  # a thousand changes a minute are sixty writes, not a thousand
# A thousand idle clients would have all of it written each second, for nothing but these times.
HEARTBEATS_WRITTEN_EVERY_S = 300.0
COMPACT_CHECK_S = 60.0
RECOVER_AGAIN_S = 60.0  # somebody has to make room first
# Python looks for cycles after 700 new objects. A batch of operations is some tens of thousands that live until it is
# stored, none in a cycle: looking through them again and again was a quarter of a first sync.
COLLECT_AFTER = 20_000
# And after nine times as many it looks at all there is (its own figure is 100 times, less often than it makes sense
# with so many). What is over is no circle of objects and goes at once; a connection that broke off may be one.
COLLECT_OLDER = (2, 2)


def run(settings: Settings) -> None:
    """Serve until a signal ends it. Raises BackrestError for what keeps it from starting."""
    mlkem.self_test()
    raise_limit()
    paths = Paths(settings.config_file, settings.data_dir)
    examine(_depends_on(settings, paths)).require()
    with held(
        paths, say=log.warning
    ):  # a command may be at work for a moment, or the daemon before us be stopping
        with Context(paths) as context:
            if not context.config.current.instance or not context.config.current.multihost.identity.keyid:
                init(context, instance_id=settings.instance_id)
        config = ConfigStore.open(paths.config_file)
        try:
            config.clean_backups()
        except StorageError as error:
            log.warning("pairing secrets were left in backups of the configuration: %s", error)
        for sentence in examine(_depends_on(settings, paths, config.current)).said:
            log.warning("%s", sentence)
        hubs = len(config.current.multihost.known_hosts)
        oplog = open_log(paths, hubs, time.time_ns() // 1_000_000)
        try:
            peers = PeerStore.open(paths.peers)
            gc.freeze()  # what was imported and loaded stays: no need to look at it again
            gc.set_threshold(COLLECT_AFTER, *COLLECT_OLDER)
            try:
                trio.run(partial(_Daemon(settings, paths, config, oplog, peers).main))
            # Not "except*": on Python 3.11.2 what is raised inside of that comes out wrapped in a group.
            except BaseExceptionGroup as group:
                if group.split(BackrestError)[1] is not None:
                    raise  # a mistake of this program is among them
                raise _first(group) from None
            finally:
                peers.close()
        finally:
            oplog.close()


def _depends_on(settings: Settings, paths: Paths, config: Config | None = None) -> list[Watched]:
    """The files and directories that others must not be able to change."""
    others = (
        ("the TLS key", settings.tls_key, True),
        ("the TLS certificate", settings.tls_cert, False),
        ("the CA file", settings.ca_file, False),
        ("the admin token", settings.admin_token_file, True),
    )
    given = [Watched(what, path, secret) for what, path, secret in others if path is not None]
    return [*of_state(paths, config), *given]


def _living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _first(group: BaseExceptionGroup) -> BackrestError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, BackrestError)
    return error


class _Daemon:
    """What runs side by side, and the order in which it starts and stops."""

    def __init__(
        self, settings: Settings, paths: Paths, config: ConfigStore, oplog: OpLog, peers: PeerStore
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._config = config
        self._oplog = oplog
        self._peers = peers
        self._audit = AuditLog.open(paths.audit)
        self._shares = Shares.open(paths.shares)
        self._pushes = PushQueue.open(paths.pushes)
        self._parked = ParkedPlans.open(paths.parked_plans)
        self._waiting_repos = WaitingRepos.open(paths.waiting_repos)
        for tidy in (
            self._shares.prune,
            self._pushes.forget_removed,
            self._waiting_repos.prune,
            self._parked.settle,  # a crash may have left a plan in both places
        ):
            try:
                tidy(config.current)
            except StorageError as error:  # what is too much does no harm until the next start
                log.error("a file could not be tidied up: %s", error)
        self._engine = Engine(paths, config, oplog, restic_command=settings.restic_command)
        self._watch = ConfigWatch(config)
        limits = Limits(heartbeat_s=settings.heartbeat_s)
        parts = {
            "config": config,
            "oplog": oplog,
            "peers": peers,
            "audit": self._audit,
            "watch": self._watch,
            "pushes": self._pushes,
            "limits": limits,
        }
        self._hub = Hub(**parts, shares=self._shares, trusted_proxies=settings.trusted_proxies)  # type: ignore[arg-type]
        self._clients = Clients(
            **parts,  # type: ignore[arg-type]
            parked=self._parked,
            waiting_repos=self._waiting_repos,
            dial=dialer(settings.ca_file),
        )
        self._bounds = _bounds(settings.trusted_proxies)
        self._crowd = Crowd(self._bounds)  # of all ports together: descriptors and memory are the process's
        self._stopping = trio.Event()

    async def main(self) -> None:
        await self._recover()
        with (
            self._watch.running(),
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals,
        ):
            async with trio.open_nursery() as servers:
                token = await trio.to_thread.run_sync(self._admin_token)
                addresses = await self._listen(servers)
                await self._serve_admin(servers, addresses, token)
                async with trio.open_nursery() as background:
                    background.start_soon(self._write_peers)
                    background.start_soon(self._compact)
                    background.start_soon(self._catch_up)
                    background.start_soon(self._hub.run)
                    background.start_soon(self._hub.prune_tokens)
                    async with trio.open_nursery() as sessions:
                        if waits(self._paths):  # and stays so: what settles it needs the log for itself
                            log.error("%s", WAITS)
                        else:
                            sessions.start_soon(self._clients.run)
                        await self._until_told_to_stop(signals)
                        log.info("stopping")
                        self._engine.stop()  # restic gets its interrupt, and its operation ends as what it is
                        self._oplog.stop_compacting()
                        servers.cancel_scope.deadline = trio.current_time() + STOP_S
                        sessions.cancel_scope.deadline = trio.current_time() + GRACE_S
                        self._hub.end_all("the hub is shutting down")
                        self._stopping.set()
                        self._clients.stop()
                    background.cancel_scope.cancel()

    async def _listen(self, nursery: trio.Nursery) -> list[str]:
        app = ConnectApp({SYNC_PATH: Stream(self._hub.serve)})
        addresses = await self._serve(nursery, app, self._settings.binds, self._tls())
        for address in addresses:
            log.info("listening on %s", address)
        return addresses

    def _tls(self) -> TlsFiles | None:
        if self._settings.tls_cert is None or self._settings.tls_key is None:
            return None
        return TlsFiles(str(self._settings.tls_cert), str(self._settings.tls_key))

    async def _serve(
        self, nursery: trio.Nursery, app: App, binds: Sequence[str], tls: TlsFiles | None
    ) -> list[str]:
        """The addresses where ``app`` is now served, as URLs."""
        bound = await nursery.start(
            partial(
                serve,
                app,
                binds=binds,
                tls=tls,
                shutdown=self._stopping,
                grace_s=GRACE_S,
                settings=self._bounds,
                crowd=self._crowd,
            )
        )
        scheme = "http" if tls is None else "https"
        return [f"{scheme}://{_host(host)}:{port}" for host, port in bound]

    def _admin_token(self) -> str:
        """What the TCP address of the admin API, if there is to be one, asks for."""
        bind = self._settings.admin_address
        if bind is None:
            return ""
        check_bind(bind, tls=self._tls() is not None, insecure=self._settings.admin_insecure)
        return read_token(self._settings.admin_token_file or self._paths.admin_token)

    async def _serve_admin(self, nursery: trio.Nursery, addresses: list[str], token: str) -> None:
        daemon = Daemon(
            pid=os.getpid(),
            started_ms=int(time.time() * 1000),
            addresses=tuple(addresses),
            namesakes=self._hub.namesakes,
            tasks=partial(
                trio.from_thread.run_sync, _living_tasks, trio_token=trio.lowlevel.current_trio_token()
            ),
        )
        context = Context(
            self._paths,
            config=self._config,
            oplog=self._oplog,
            peers=self._peers,
            audit=self._audit,
            parked=self._parked,
            waiting_repos=self._waiting_repos,
            shares=self._shares,
            pushes=self._pushes,
            engine=self._engine,
            daemon=daemon,
            ca_file=self._settings.ca_file,
        )
        app = admin_app(context)
        bind = self._settings.admin_address
        if bind is not None:
            guard = Guard(app, token=token, hosts=(*self._settings.admin_hosts, bind.rpartition(":")[0]))
            # On loopback nobody listens in, and a certificate has another name.
            served = await self._serve(nursery, guard, [bind], None if is_loopback(bind) else self._tls())
            context.daemon = replace(daemon, admin_addresses=tuple(served))
            log.info("admin API at %s", ", ".join(served))
        await self._serve(nursery, app, [f"unix:{self._paths.socket}"], None)

    async def _until_told_to_stop(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                return
            try:
                changed = await trio.to_thread.run_sync(self._config.reload)
                await trio.to_thread.run_sync(self._pushes.forget_removed, self._config.current)
                log.info("configuration read again: %s", "changed" if changed else "as before")
            except (UserError, StorageError) as error:
                log.error("the configuration was not read again, the one in force stays: %s", error)

    async def _write_peers(self) -> None:
        """Write the peers' states soon after they changed, however often they change, and now and then when each was
        last heard from."""
        written = trio.current_time()
        with Watch(self._peers.subscribe) as changed:
            while True:
                await changed.wait()
                await trio.sleep(PEERS_WRITTEN_EVERY_S)
                now = trio.current_time()
                if self._peers.pressing or now >= written + HEARTBEATS_WRITTEN_EVERY_S:
                    written = now
                    # A cache of states: the next change tries again.
                    await _housework("the peers' states were not written", self._peers.flush)

    async def _recover(self) -> None:
        try:
            await trio.to_thread.run_sync(self._engine.recover)
        except CorruptError:
            raise
        except StorageError as error:
            log.error(
                "operations that were interrupted stay as they are for now, and no backup runs: %s", error
            )

    async def _catch_up(self) -> None:
        """Once there is room on the disk again, without waiting for a backup to ask for it."""

        def quietly() -> None:
            with suppress(StorageError):  # said at the start; once a minute would fill the next disk
                self._engine.catch_up()
                log.info("operations that were interrupted are recorded as such: backups can run")

        while self._engine.unrecovered:
            await trio.sleep(RECOVER_AGAIN_S)
            await _housework("interrupted operations were not recorded as such", quietly)

    async def _compact(self) -> None:
        while True:
            await trio.sleep(COMPACT_CHECK_S)
            await _housework("the operation log was not compacted", self._oplog.maybe_compact)


async def _housework(failed: str, function: Callable[[], object]) -> None:
    """Blocking work that the daemon does by itself: how it fails is said, and nothing else suffers from it."""
    try:
        await trio.to_thread.run_sync(function)
    except BackrestError as error:
        log.error("%s: %s", failed, error)
    except Exception:
        log.exception("%s: this is a mistake in this program", failed)


def _bounds(trusted_proxies: Sequence[str]) -> ServerSettings:
    """A proxy brings the connections of everybody: its address has no limit of its own. And connections must leave
    descriptors for the rest."""
    default = ServerSettings()
    most = min(default.max_connections, connections_within())
    return replace(default, unlimited=(*default.unlimited, *trusted_proxies), max_connections=most)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""An instance in a directory, reached as the commands reach it: on its files, or through a real admin socket.

The socket is served by the real server in a thread of this process; the stores behind it are real, too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import trio

from backrest import wire
from backrest.admin import client
from backrest.admin.context import Context, Daemon
from backrest.admin.server import admin_app
from backrest.net.server import serve
from backrest.store.audit import AuditLog, read
from backrest.store.config import ConfigStore
from backrest.store.lock import DirLock
from backrest.store.oplog import OpLog
from backrest.store.paths import Paths
from backrest.store.peers import PeerStore
from backrest.wire import operations

GUID = "a" * 64
SECRET = "5e" * 32
HUB_TOKEN_KEY = "ed25519." + "A" * 43


class World:
    """One instance. ``call`` and ``stream`` do what a command does."""

    def __init__(self, directory: Path) -> None:
        # Short names: a Unix socket's path has 107 bytes, and pytest's directories use up most of them.
        self.paths = Paths(directory / "c" / "config.json", directory / "d")
        self.context: Context | None = None  # the daemon's, while one serves

    def call(self, method: str, **args: Any) -> Any:
        return client.call(self.paths, method, args, wait_s=0)

    def stream(self, method: str, **args: Any) -> tuple[Any, list[dict[str, Any]]]:
        events: list[dict[str, Any]] = []
        result = client.stream(self.paths, method, args, events.append, wait_s=0)
        return result, events

    def audit_events(self) -> list[str]:
        return [entry["event"] for entry in read(self.paths.audit)]

    def config(self) -> ConfigStore:
        return ConfigStore.open(self.paths.config_file)

    def add_repo(self, repo_id: str = "r1", **fields: Any) -> None:
        """Straight into the configuration: what restic has to do with it is not these tests' matter."""

        def append(config: Any) -> None:
            config.repos.add(id=repo_id, uri="/srv/r", guid=GUID, password="correct-horse", **fields)

        (self.context.config if self.context is not None else self.config()).transform(append)

    @contextlib.contextmanager
    def daemon(self) -> Iterator[Context]:
        """The admin socket, served as the daemon does."""
        with DirLock(self.paths), contextlib.ExitStack() as stack:
            oplog = OpLog.open(self.paths.oplog)
            stack.callback(oplog.close)
            audit = AuditLog.open(self.paths.audit)
            stack.callback(audit.close)
            self.context = Context(
                self.paths,
                config=ConfigStore.open(self.paths.config_file),
                oplog=oplog,
                peers=PeerStore.open(self.paths.peers),
                audit=audit,
                daemon=Daemon(pid=4242, started_ms=1_700_000_000_000, addresses=("http://127.0.0.1:9898",)),
            )
            with serving(self.context, self.paths):
                yield self.context
            self.context = None


@contextlib.contextmanager
def serving(context: Context, paths: Paths) -> Iterator[None]:
    started = threading.Event()
    stop: list[Any] = []
    failure: list[BaseException] = []

    async def main() -> None:
        shutdown = trio.Event()
        stop.append(
            partial(trio.from_thread.run_sync, shutdown.set, trio_token=trio.lowlevel.current_trio_token())
        )
        async with trio.open_nursery() as nursery:
            app = admin_app(context)
            bind = f"unix:{paths.socket}"
            await nursery.start(partial(serve, app, binds=[bind], shutdown=shutdown, grace_s=0.1))
            started.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        if failure:
            raise failure[0]
        yield
    finally:
        if not failure:
            stop[0]()
        thread.join()
    if failure:
        raise failure[0]


def operation(number: int = 1, **fields: Any) -> operations.Operation:
    """A local operation, ready to be added."""
    given: dict[str, Any] = {
        "repo_id": "r1",
        "repo_guid": GUID,
        "plan_id": "p1",
        "instance_id": "here",
        "status": operations.STATUS_SUCCESS,
        "unix_time_start_ms": 1_700_000_000_000 + number,
        "unix_time_end_ms": 1_700_000_001_000 + number,
    }
    return operations.Operation(**(given | fields), operation_backup=operations.OperationBackup())


def add_host(world: World, **args: Any) -> Any:
    given = {"token": f"{HUB_TOKEN_KEY}:{SECRET}#hub", "url": "http://hub:9898", "wait": False} | args
    return world.stream("AddHost", **given)[0]


def add_client(world: World, instance_id: str = "laptop", keyid: str = "ed25519." + "B" * 43) -> str:
    def change(config: wire.config.Config) -> None:
        client = config.multihost.authorized_clients.add(instance_id=instance_id, keyid=keyid)
        client.permissions.add(type=1, scopes=["*"])

    (world.context.config if world.context else world.config()).transform(change)
    return keyid

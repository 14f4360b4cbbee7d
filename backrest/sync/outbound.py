"""This instance's side of one session with a hub: its view, its history, and what the hub pushes.

One task owns the history: it attaches to the operation log (manifest and changes in one step, so that none slips
between), announces, and answers requests, in this order of urgency. Changes are kept as ids only, the newest state is
read when it is sent: a slow hub costs no memory. Facts: PROTOCOL.md sections 5 to 8.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from backrest import wire
from backrest.errors import Code, Fault, PeerError, StorageError
from backrest.permissions import Grants
from backrest.protocol import events
from backrest.store.oplog import Change, Meta, OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.waiting import WaitingRepos
from backrest.sync import apply, views
from backrest.sync.answers import Answers, Refusals
from backrest.sync.inbound import change_config, shown
from backrest.sync.link import Link, Signal
from backrest.sync.offers import Offers
from backrest.sync.pushing import Pushing, Record
from backrest.sync.watch import ConfigWatch, Watch
from backrest.sync.withheld import Withheld

log = logging.getLogger("backrest.sync")

BATCH_OPERATIONS = 512  # in one message, as the reference does
BATCH_BYTES = 8 * 1024 * 1024  # and no message far above this: the other side's limit is 64 MiB
REQUESTED_IDS = 4_000_000  # asked for and not yet answered, 8 bytes each; a hub asks for each operation once

Item = wire.sync.SyncStreamItem
Operations = Item.SyncActionReceiveOperations


class Outbound:
    """Handles the events of one link to a hub, the known host ``entry``."""

    def __init__(
        self,
        link: Link,
        entry: wire.config.Multihost.Peer,
        *,
        watch: ConfigWatch,
        oplog: OpLog,
        peers: PeerStore,
        write: Callable[[Callable[[wire.config.Config], bool]], object],
        on_established: Callable[[], Awaitable[None]],
        queue: PushQueue | None,
        record: Record,
        withheld: Withheld,
        waiting: WaitingRepos | None = None,
    ) -> None:
        """``write`` is how a push of the hub gets into the configuration: the store's transform, or one that knows
        what else belongs to it."""
        self._link = link
        self._entry = entry
        self._grants = Grants(entry.permissions)
        self._write = write
        self._watch = watch
        self._oplog = oplog
        self._peers = peers
        self._withheld = withheld
        self._on_established = on_established
        self._instance = watch.current.instance
        self._work = Signal()
        self._lock = threading.Lock()  # over _changes, which the log's committing threads fill
        self._changes: dict[int, str] = {}
        self._unsaid: set[int] = (
            set()
        )  # gone before their creation was said: their deletion is not said either
        self._requested: deque[array[int]] = deque()  # each of at most BATCH_OPERATIONS
        self._requested_ids = 0
        self._again = False
        self._resources_due = False
        self._answers = Answers(link, watch, self._grants)
        self._refusals = Refusals(entry.instance_id)
        self._record = record
        self._queue = queue
        self._pushing = Pushing(link, entry, peers=peers, queue=queue, record=record, to_hub=True)
        self._waiting = waiting
        self._offers = Offers(entry.instance_id, self._offered)

    async def handle(self, event: events.Event) -> None:
        if isinstance(event, events.PeerIdentified):
            self._withheld.session(self._entry.permissions, ours=bool(event.features))
            config = self._watch.current
            self._send_config(config)
            self._link.spawn(partial(self._follow_config, config))
            self._link.spawn(self._share_history)
            if self._queue is not None:
                self._link.spawn(partial(self._follow_queue, self._queue))
            self._link.spawn(self._offers.run)
        elif isinstance(event, events.Established):
            await self._on_established()
            self._pushing.began()
            self._pushing.warn(())  # what was refused of the hub is told anew in each session
        elif isinstance(event, events.HeartbeatReceived):
            self._peers.update(self._entry.keyid, last_heartbeat_ms=int(time.time() * 1000))
            if self._link.drained:
                self._withheld.alive()
        elif isinstance(event, events.Received):
            await self._received(event.kind, event.message)

    async def _received(self, kind: str, message: object) -> None:
        if isinstance(message, Item.SyncActionRequestOperationData):
            if self._requested_ids + len(message.op_ids) > REQUESTED_IDS:
                raise PeerError(
                    Fault.ITEM, Code.RESOURCE_EXHAUSTED, "the hub asks for more operations than there are"
                )
            self._ask(self._withheld.to_answer(message.op_ids))
            self._work.set()
        elif isinstance(message, Item.SyncActionOperationManifest):
            self._again = True  # whatever it holds: the hub asks for a fresh one
            self._work.set()
        elif isinstance(message, Item.SyncActionRequestResources):
            self._resources_due = True  # said when there is room: a hub may ask without end and read nothing
            self._work.set()
        elif isinstance(message, Item.SyncActionReceiveConfig | Item.SyncActionReceiveResources):
            kept = await shown(message)
            self._peers.update(self._entry.keyid, **kept)
            if isinstance(message, Item.SyncActionReceiveResources):
                self._offers.view()
            else:
                self._pushing.heard(message, kept.get("remote_config"))
        elif isinstance(message, apply.SetConfig):
            await self._answers.turn()
            report = await change_config(self._write, self._entry, message, self._record, self._waiting)
            self._offers.shared(message)
            self._pushing.warn(self._refusals.after(message, report))
            self._answers.give(report)
        else:
            raise PeerError(Fault.ITEM, Code.INVALID_ARGUMENT, f"a client does not take {kind}")

    def _offered(self, guids: tuple[str, ...]) -> None:
        self._peers.update(self._entry.keyid, offered=guids)
        if self._waiting is not None:
            # A small file, and only when something goes: not worth a thread.
            try:
                self._waiting.keep(self._entry.instance_id, guids)
            except StorageError as error:  # what is not offered is not shown as waiting either
                log.error("%s", error)

    async def _follow_queue(self, queue: PushQueue) -> None:
        with Watch(queue.subscribe) as changes:
            while True:
                self._pushing.look()
                await changes.wait()

    # --- our configuration

    async def _follow_config(self, config: wire.config.Config) -> None:
        while True:
            await self._watch.changed(config)
            await self._link.room()  # a hub that reads nothing for long gets the newest, not all of them
            config = self._watch.current
            self._send_config(config)

    def _send_config(self, config: wire.config.Config) -> None:
        view = views.remote_config(config, self._grants)
        self._link.send_now("receive_config", Item.SyncActionReceiveConfig(config=view))
        self._send_resources(config)

    def _send_resources(self, config: wire.config.Config) -> None:
        resources = views.resources(config, self._grants, views.VIEW_RESOURCES)
        self._link.send_now("receive_resources", resources)

    # --- our history

    def _sendable(self, op: Meta) -> bool:
        """The one predicate for the manifest, the live changes and the answers: made here, and granted to this hub."""
        return (
            not op.origin
            and op.instance_id == self._instance
            and self._grants.operation(op.repo_id, op.plan_id)
        )

    async def _share_history(self) -> None:
        token = trio.lowlevel.current_trio_token()

        def changed(change: Change) -> None:
            with self._lock:
                for op_id in change.ids:
                    self._note(op_id, change.kind)
            with suppress(trio.RunFinishedError):  # the program is ending
                token.run_sync_soon(self._work.set, idempotent=True)

        while True:
            with self._lock:
                self._changes.clear()
            self._unsaid.clear()
            self._again = False
            attachment = await trio.to_thread.run_sync(self._oplog.attach, changed, self._sendable)
            try:
                listed = self._withheld.manifest(attachment.manifest_ids, attachment.manifest_modnos)
                manifest = Item.SyncActionOperationManifest(op_ids=listed[0], modnos=listed[1])
                log.debug("manifest for %s: %d operations", self._entry.instance_id, len(manifest.op_ids))
                await self._link.send("operation_manifest", manifest)
                while not self._again:
                    if self._resources_due:
                        await self._link.room()
                        self._resources_due = False
                        self._send_resources(self._watch.current)
                        continue  # what was asked for while there was no room woke nobody
                    if not (await self._send_changes() or await self._answer()):
                        await self._rest()
            finally:
                attachment.close()

    async def _rest(self) -> None:
        """Everything is said: wait for more, or until what is withheld is to be tried again."""
        if self._link.drained:
            self._withheld.quiet()
        with trio.move_on_after(self._withheld.due_in()):
            await self._work.wait()
        self._again = self._again or self._withheld.retry_if_due()

    def _note(self, op_id: int, kind: str) -> None:
        """Fold one more change of an operation into what is still to be said about it."""
        pending = self._changes.pop(op_id, None)
        if pending == "created":
            if kind == "deleted":
                return  # never announced, so there is nothing to take back (the reference would end the session)
            kind = "created"
        self._changes[op_id] = kind

    async def _send_changes(self) -> bool:
        with self._lock:
            changes, self._changes = self._changes, {}
        if self._withheld.any:
            changes = {op_id: kind for op_id, kind in changes.items() if not self._withheld.withholds(op_id)}
        if not changes:
            return False
        for kind, ids in _runs(changes):
            if kind == "deleted":
                event = wire.operations.OperationEvent()
                ids, unsaid = (
                    [op_id for op_id in ids if op_id not in self._unsaid],
                    self._unsaid.intersection(ids),
                )
                self._unsaid -= unsaid
                if not ids:
                    continue
                event.deleted_operations.values.extend(ids)
                await self._link.send("receive_operations", Item.SyncActionReceiveOperations(event=event))
                continue
            if kind == "created":  # one may be gone by now: the reference ends the session over its deletion
                self._unsaid.update(ids)
            async for message in self._bodies(ids, kind):
                self._unsaid.difference_update(op.id for op in message.event.created_operations.operations)
                await self._link.send("receive_operations", message)
        return True

    def _ask(self, ids: Sequence[int]) -> None:
        """Keep what the hub asks for, in pieces that are answered one at a time."""
        start = 0
        self._requested_ids += len(ids)
        if self._requested and len(self._requested[-1]) < BATCH_OPERATIONS:
            start = BATCH_OPERATIONS - len(self._requested[-1])
            self._requested[-1].extend(ids[:start])
        for place in range(start, len(ids), BATCH_OPERATIONS):
            self._requested.append(array("q", ids[place : place + BATCH_OPERATIONS]))

    async def _answer(self) -> bool:
        """Answer one batch of what the hub asked for, leaving out what no longer exists or is not its business."""
        if not self._requested:
            return False
        asked = self._requested.popleft()
        self._requested_ids -= len(asked)
        async for message in self._bodies(asked, "updated"):
            await self._link.send("receive_operations", message)
        return True

    async def _bodies(self, ids: Sequence[int], kind: str) -> AsyncIterator[Operations]:
        """The sendable ones of ``ids`` as they are now, in messages of a reasonable size; one is held at a time."""
        start = 0

        def read() -> Operations:
            nonlocal start
            message = Operations()
            some = ids[start : start + BATCH_OPERATIONS]
            start += self._oplog.read_into(_operations(message, kind), some, self._sendable, BATCH_BYTES)
            return message

        while start < len(ids):
            message = await trio.to_thread.run_sync(read)
            if _operations(message, kind):
                yield message


def _operations(message: Operations, kind: str) -> Any:
    """Its repeated field of operations, created or updated."""
    event = message.event
    return (event.created_operations if kind == "created" else event.updated_operations).operations


def _runs(changes: dict[int, str]) -> Iterator[tuple[str, list[int]]]:
    """Neighbours of one kind together, in the order in which they happened."""
    run: list[int] = []
    current = ""
    for op_id, kind in changes.items():
        if run and kind != current:
            yield current, run
            run = []
        current = kind
        run.append(op_id)
    if run:
        yield current, run

"""One authorized client of this hub, from its acceptance to the end of its stream.

What must stay in order (a manifest, the operations, the deletions) goes through one queue to one task that stores;
the reader goes on meanwhile, as far as the queue's bound allows. Facts: PROTOCOL.md sections 5 to 7.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from backrest import wire
from backrest.errors import Code, Fault, PeerError, StorageError, UserError
from backrest.permissions import READ_OPERATIONS, READ_WRITE_CONFIG, Grants
from backrest.protocol import events, reconcile, weight
from backrest.refusals import Why
from backrest.store.mask import masked_remote_config
from backrest.store.oplog import Meta
from backrest.store.quota import Quota
from backrest.store.text import one_line
from backrest.store.waiting import WaitingRepos
from backrest.sync import apply, leftout, views
from backrest.sync.answers import Answers, only_shares
from backrest.sync.link import Link, Signal
from backrest.sync.offers import Withdrawals
from backrest.sync.pushing import Pushing, Record, answers_pushes

if TYPE_CHECKING:
    from backrest.sync.hub import Hub

log = logging.getLogger("backrest.sync")

# Received and not yet stored, as it weighs in memory (protocol/weight.py: some three times its bytes); then the client
# waits.
QUEUE_BYTES = 24 * 1024 * 1024
ANSWER_DUE_S = 10.0  # without any answer for so long, ids that were asked for may be gone at the client
QUEUED_ITEM_BYTES = (
    512  # what an item costs us beside its content: millions of empty ones are not for nothing
)
QUEUED_OPERATION_BYTES = 256  # likewise: an empty one has two bytes on the wire
NUMBER_BYTES = 32  # of an id or a modno, which may have one byte on the wire
MANIFEST_IDS = (
    2_000_000  # compared in memory, some 100 bytes each; the scale is a million operations of all clients
)
SMALL_MANIFEST = 128  # compared in less time than a thread takes to start
NO_MODNO = -1  # equal to none that is listed
REFUSED_REMEMBERED = 250_000  # beyond that an operation is asked for, and refused, again
SMALL_VIEW_BYTES = 16 * 1024  # masked in less time than a thread takes to start; most clients show nothing
VIEW_BYTES = 1024 * 1024  # a view is kept, in memory and in a file, for people to look at
VIEW_PARTS = 20_000  # of it, likewise: a thousand repos and plans of twenty parts each
REPORTED = 20  # sentences of one push that are logged, each of at most REPORTED_CHARS
REPORTED_CHARS = 500
AUDITED = 100  # items of one push that the audit log names
AUDITED_REFUSALS = 5  # a peer may push once a second, for ever
REMOVED_GOODBYE_S = 0.5  # `client remove` disconnects within a second
BATCH_OPERATIONS = 4096  # joined into one write and one fsync
BATCH_BYTES = (
    QUEUE_BYTES  # and not far above so many, as they weigh in memory: their lines come to that again
)
PART_BYTES = 8 * 1024 * 1024  # of a message that is larger alone: so many bytes of it are stored at a time
LARGE_MANIFEST = 100_000  # one such is compared at a time: 30 MB

Operation = wire.operations.Operation
Manifest = wire.sync.SyncStreamItem.SyncActionOperationManifest
ReceiveConfig = wire.sync.SyncStreamItem.SyncActionReceiveConfig
ReceiveResources = wire.sync.SyncStreamItem.SyncActionReceiveResources


@dataclass(slots=True)
class _Changes:
    """Operations to store, then original ids to delete: in this order."""

    upserts: list[Operation] = field(default_factory=list)
    deletes: list[int] = field(default_factory=list)


class Inbound:
    """The hub's side of one established session."""

    def __init__(
        self, hub: Hub, link: Link, entry: wire.config.Multihost.Peer, number: int, *, mixed: bool = False
    ) -> None:
        """``number``: of its stream; a later stream has a higher one. ``mixed``: what is held may be another machine's
        with the same key, so that equal numbers say nothing; all that is listed is asked for."""
        self.link = link
        self.number = number
        self.keyid = entry.keyid
        self.instance_id = entry.instance_id
        self._hub = hub
        self._come_under(entry)
        self._queue: deque[tuple[int, Manifest | _Changes]] = deque()
        self._queued_bytes = 0
        self._work = Signal()
        self._room = Signal()
        self._pacer: reconcile.Pacer | None = None
        self._config = hub.watch.current
        self._pushing = Pushing(
            link,
            entry,
            peers=hub.peers,
            queue=hub.pushes,
            record=hub.record,
            to_hub=False,
            shares=hub.shares,
        )
        self._withdrawals = Withdrawals(self._config.instance)
        self._offered: frozenset[str] = frozenset()
        self._uris: Mapping[str, str] = {}  # of the view that was sent: guid -> the address for this client
        self._shown = self._config
        self._view_due = False
        self._manifest_due = False
        self._answers = Answers(link, hub.watch, self._grants)
        self._spoke = False
        self._mixed = mixed
        self._answered = trio.Event()
        self._left = hub.left_out(entry.keyid)
        self._invalid = 0  # operations of this session

    def _come_under(self, entry: wire.config.Multihost.Peer) -> None:
        """The terms under which this session goes on."""
        self._entry = entry
        self._grants = Grants(entry.permissions)
        # Asked only where something may be out of scope: that is rare, and the log is not.
        self._permits = None if self._grants.every_operation() else self._may_change
        self._in_scope: dict[tuple[str, str], bool] = {}

    def start(self) -> None:
        """Say what every client hears first, and begin to store. Call once, as soon as the session accepted the
        client."""
        self._pushing.began()
        self._send_view(self._config)
        self.link.spawn(self.store)

    async def handle(self, event: events.Event) -> None:
        if not self._spoke and isinstance(event, events.HeartbeatReceived | events.Received):
            self._spoke = True
            self._hub.connected(self)
        if isinstance(event, events.HeartbeatReceived):
            self._hub.heard_from(self.keyid)
            self._ask_for_left_out()
        elif isinstance(event, events.Received):
            await self._received(event.kind, event.message, event.weight)

    async def _received(self, kind: str, message: object, weighs: int) -> None:
        if isinstance(message, Manifest):
            if len(message.op_ids) > MANIFEST_IDS:
                raise PeerError(
                    Fault.ITEM, Code.RESOURCE_EXHAUSTED, f"a manifest of more than {MANIFEST_IDS} operations"
                )
            self._pushing.spoke()
            await self._put(message, weighs + NUMBER_BYTES * (len(message.op_ids) + len(message.modnos)))
        elif isinstance(message, wire.sync.SyncStreamItem.SyncActionReceiveOperations):
            await self._operations(message.event, weighs)
        elif isinstance(message, ReceiveConfig | ReceiveResources):
            kept = await shown(message)
            self._hub.peers.update(self.keyid, **kept)
            if isinstance(message, ReceiveConfig):
                self._pushing.heard(message, kept.get("remote_config"))
                self._withdrawals.view(message.config)
                self._withdraw()
            else:
                self._pushing.listed(message)
                self._answered.set()
        elif isinstance(message, apply.SetConfig):
            await self._set_config(message)
        else:
            raise PeerError(Fault.ITEM, Code.INVALID_ARGUMENT, f"a hub does not take {kind}")

    async def _operations(self, event: wire.operations.OperationEvent, weighs: int) -> None:
        kind = event.WhichOneof("event")
        if kind == "created_operations":
            await self._upserts(event.created_operations.operations, weighs)
        elif kind == "updated_operations":
            await self._upserts(event.updated_operations.operations, weighs)
        elif kind == "deleted_operations":
            weighs += NUMBER_BYTES * len(event.deleted_operations.values)
            await self._put(_Changes(deletes=list(event.deleted_operations.values)), weighs)
        # keep_alive: nothing to do (PROTOCOL.md section 6)

    # --- storing, in order

    async def _upserts(self, operations: Iterable[Operation], weighs: int) -> None:
        upserts = list(operations)
        await self._put(_Changes(upserts=upserts), weighs + QUEUED_OPERATION_BYTES * len(upserts))

    async def _put(self, item: Manifest | _Changes, weighs: int) -> None:
        while self._queued_bytes > QUEUE_BYTES:
            await self._room.wait()
        weighs += QUEUED_ITEM_BYTES
        self._queue.append((weighs, item))
        self._queued_bytes += weighs
        self._work.set()

    async def store(self) -> None:
        """The task that stores what was received, for as long as the session lives."""
        while True:
            while not self._queue:
                if self._pacer is None or not self._pacer.waiting:
                    await self._work.wait()
                    continue
                with trio.move_on_after(ANSWER_DUE_S) as overdue:
                    await self._work.wait()
                if overdue.cancelled_caught:
                    await self._request(self._pacer.idle())
                    self._look_if_whole()
            size, item = self._queue.popleft()
            if isinstance(item, Manifest):
                await self._reconcile(item)
            else:
                size += self._join(item, size)
                for part in _parts_of(item) if size > BATCH_BYTES else (item,):
                    await self._apply(part)
            self._queued_bytes -= size
            self._room.set()

    def _join(self, changes: _Changes, joined: int) -> int:
        """Add to ``changes``, of size ``joined``, what is queued behind and may be stored with it in one go; returns
        its size."""
        size = 0
        while self._queue and len(changes.upserts) < BATCH_OPERATIONS:
            more_size, more = self._queue[0]
            if isinstance(more, Manifest) or (changes.deletes and more.upserts):
                break
            if joined + size + more_size > BATCH_BYTES:
                break
            changes.upserts += more.upserts
            changes.deletes += more.deletes
            size += more_size
            self._queue.popleft()
        return size

    async def _reconcile(self, manifest: Manifest) -> None:
        """Compare with what is held: delete what the manifest lacks, ask for what is new or differs."""
        if not self._grants.has(READ_OPERATIONS):
            self._hub.peers.update(
                self.keyid, message="its operations are not kept here: READ_OPERATIONS is not granted to it"
            )
            return
        refused = self._hub.refused(self._entry)
        left = self._left
        if left.may_fit(self._hub.quota(self.keyid), self._hub.oplog.used(self.keyid)):
            left.forget()
        mixed = self._mixed
        if mixed:
            refused.clear()
            left.forget()

        def compare() -> reconcile.Diff:
            stored = self._hub.oplog.held(self.keyid)
            if not mixed and stored.is_just(manifest.op_ids, manifest.modnos):
                return reconcile.Diff([], [])
            held: Mapping[int, int] = dict.fromkeys(stored, NO_MODNO) if mixed else stored
            turned_down = {**refused, **left.modnos} if left.modnos else refused
            return reconcile.diff(manifest.op_ids, manifest.modnos, held, turned_down)

        async with self._hub.storing(
            self.keyid
        ):  # what a displaced session is still storing is compared, too
            if self.link.over:
                return
            size = max(len(manifest.op_ids), self._hub.oplog.count(self.keyid))
            if size <= SMALL_MANIFEST:
                diff = compare()
            else:
                async with self._hub.comparing if size > LARGE_MANIFEST else nullcontext():
                    diff = await trio.to_thread.run_sync(compare)
        if left.modnos and len(manifest.op_ids) < self._hub.oplog.count(self.keyid) + left.count:
            listed = set(manifest.op_ids)  # what is gone there is left out no more
            left.modnos = {number: modno for number, modno in left.modnos.items() if number in listed}
        if diff.delete:
            await self._apply(_Changes(deletes=list(diff.delete)))
        request = self._with_room(diff.request)
        log.debug("manifest of %s: %d listed, %d asked for", self.keyid, len(manifest.op_ids), len(request))
        self._pacer = reconcile.Pacer(request)
        await self._request(self._pacer.next_request())
        self._look_if_whole()

    def _with_room(self, request: list[int]) -> list[int]:
        """Of what is to be asked for, what there may be room for: all that is held, and the first of what is new."""
        quota, used = self._hub.quota(self.keyid), self._hub.oplog.used(self.keyid)
        free = leftout.room(quota, used)
        if len(request) > free:
            asked: list[int] = []
            find = self._hub.oplog.find_original
            for number in request:
                if find(self.keyid, number) is not None:
                    asked.append(number)
                elif free:
                    asked.append(number)
                    free -= 1
            self._left.leave(len(request) - len(asked), quota, used)
            request = asked
        else:
            self._left.leave(0, quota, used)
        self._tell_left_out()
        return request

    def _tell_left_out(self) -> None:
        """What the quota left out, for people to see."""
        count = self._left.count
        record = self._hub.peers.get(self.keyid)
        if record is None or record.over_quota != count:
            self._hub.peers.update(self.keyid, over_quota=count)
        if count and self._left.to_log(trio.current_time()):
            log.warning(
                "%s: its quota has no room for %d operations: they are not kept here ('backrest client quota' changes "
                "it)",
                self._entry.instance_id,
                count,
            )

    def _ask_for_left_out(self) -> None:
        """When there is room again for what the quota left out, ask for the manifest."""
        quota, used = self._hub.quota(self.keyid), self._hub.oplog.used(self.keyid)
        if not self.link.over and self._left.ask(quota, used, trio.current_time()):
            self._tell_left_out()
            self.link.send_now("operation_manifest", Manifest())

    async def _apply(self, changes: _Changes) -> None:
        allowed = changes.upserts
        if self._permits is not None:
            allowed = [op for op in changes.upserts if self._allowed(op)]
        refused = self._hub.refused(self._entry)
        if len(allowed) != len(changes.upserts):
            out_of_scope = {op.id: op.modno for op in changes.upserts if not self._allowed(op)}
            _remember(refused, out_of_scope)
            log.info(
                "%s: %d operations out of scope were not kept", self._entry.instance_id, len(out_of_scope)
            )
        await self._hub.room_in_log()
        quota = self._hub.quota(self.keyid)
        async with self._hub.storing(self.keyid):
            if self.link.over or not self._hub.authorizes(self._entry):
                return  # displaced or removed while we waited: a newer session or nobody has the say
            # The reference may send live changes in the wrong order (W-19); while answers are due, their
            # manifest has decided, also for a log that was reset and counts from 1 again.
            live = self._pacer is None or not self._pacer.waiting
            applied = await trio.to_thread.run_sync(
                partial(
                    self._hub.oplog.apply,
                    self.keyid,
                    allowed,
                    changes.deletes,
                    keep_newer=live,
                    still=partial(self._hub.authorizes, self._entry),
                    permits=self._permits,
                    quota=quota,
                )
            )
        if applied.closed:
            return
        modnos = {}
        if applied.invalid or applied.kept or applied.over:
            modnos = {op.id: op.modno for op in allowed}
        self._log_invalid(applied.invalid)
        _remember(refused, {original_id: modnos.get(original_id, 0) for original_id, _ in applied.invalid})
        _remember(
            refused,
            {original_id: modnos[original_id] for original_id in applied.kept if original_id in modnos},
        )
        if len(allowed) != len(changes.upserts) or applied.invalid or applied.kept:
            self._hub.peers.update(self.keyid, refused=len(refused))
        if applied.over or (changes.deletes and self._left.count):
            for original_id in changes.deletes:
                self._left.modnos.pop(original_id, None)
            over = {original_id: modnos[original_id] for original_id in applied.over}
            used = self._hub.oplog.used(self.keyid)
            if applied.deleted:  # that was after the others had found no room
                used = Quota(used.bytes + 1, used.operations + len(applied.deleted))
            if over and not self._left.remember(over, quota, used):
                self._pacer = None  # more than can be remembered: enough was asked for
            self._tell_left_out()
            self._ask_for_left_out()
        if self._pacer is not None and changes.upserts:
            await self._request(self._pacer.received([op.id for op in changes.upserts]))
            self._look_if_whole()

    def _look_if_whole(self) -> None:
        """When all was asked for and has come, what is held is this machine's."""
        if self._mixed and self._pacer is not None and self._pacer.done:
            self._mixed = False
            self._hub.peers.update(self.keyid, mixed=False)

    # --- when another machine with its key comes (sync/twins.py)

    async def answers(self, within: float) -> bool:
        if self.link.over:
            return False
        if self._answered.is_set():
            self._answered = trio.Event()
        answered = self._answered
        self.link.send_now("request_resources", None)
        with trio.move_on_after(within):
            await answered.wait()
        return answered.is_set()

    def doubt(self) -> None:
        if not self._mixed:
            self._mixed = True
            self._hub.peers.update(self.keyid, mixed=True)
            self.link.send_now("operation_manifest", Manifest())

    def _log_invalid(self, invalid: list[tuple[int, str]]) -> None:
        """A session leaves so many lines of them: a peer may send such for ever."""
        for original_id, reason in invalid[: max(REPORTED - self._invalid, 0)]:
            log.warning("%s: operation %d refused: %s", self._entry.instance_id, original_id, reason)
        if self._invalid <= REPORTED < self._invalid + len(invalid):
            log.warning(
                "%s: more operations were refused; those of this session are counted in `backrest status`",
                self._entry.instance_id,
            )
        self._invalid += len(invalid)

    def _allowed(self, op: Operation) -> bool:
        key = (op.repo_id, op.plan_id)
        allowed = self._in_scope.get(key)
        if allowed is None:
            if len(self._in_scope) > 10_000:  # a hostile client invents names: this is a cache, not a record
                self._in_scope.clear()
            allowed = self._in_scope[key] = self._grants.operation(*key)
        return allowed

    def _may_change(self, held: Meta) -> bool:
        """What was stored under wider permissions stays as it was when they ended: not the client's to change."""
        return self._grants.operation(held.repo_id, held.plan_id)

    async def _request(self, op_ids: list[int]) -> None:
        if op_ids:
            await self.link.send(
                "request_operation_data",
                wire.sync.SyncStreamItem.SyncActionRequestOperationData(op_ids=op_ids),
            )

    # --- configuration

    def config_changed(self, config: wire.config.Config) -> None:
        """Send the view again. Under an entry that takes nothing away the session goes on, because the reference client
        stays away for a minute after an end. What takes something away ends it: nothing that was begun under the old
        terms can outlive it."""
        began = self._config
        if config is self._shown:
            return
        if config.instance != began.instance or config.multihost.identity != began.multihost.identity:
            self.link.end(code=Code.INTERNAL, message="this hub has another instance id or key now")
            return
        entry = self._hub.watch.clients.get(self.keyid)
        changed = entry != self._entry
        if entry is None or (changed and not self._goes_on_under(entry)):
            reason = "its permissions were changed" if entry else "it was removed from this hub"
            code = Code.INTERNAL if entry else Code.PERMISSION_DENIED
            # Who was removed is gone within a second, also when it reads nothing of what we still say.
            self.link.end(
                code=code, message=f"the client's session ends: {reason}", goodbye_s=REMOVED_GOODBYE_S
            )
            return
        if changed:
            self._come_under(entry)
            self._answers.grants = self._grants
            self._hub.peers.update(
                self.keyid, message="", refused=0
            )  # what was said was said of the old terms
            # What was out of scope, and what came between the change and now and was not stored.
            self._manifest_due = self._grants.has(READ_OPERATIONS)
        self._view_due = True
        self.link.wake(self._show)

    def _goes_on_under(self, entry: wire.config.Multihost.Peer) -> bool:
        return entry.instance_id == self.instance_id and Grants(entry.permissions).covers(self._grants)

    def shares_changed(self) -> None:
        """Send the view again when the client is to reach a repo under another address, or what it did not take when
        that is to be tried again."""
        self._pushing.shares_changed()
        self.quota_changed()
        if self._hub.uris(self.keyid) != self._uris:
            self._view_due = True
            self.link.wake(self._show)

    def quota_changed(self) -> None:
        """More of what the client has may be kept now."""
        self._ask_for_left_out()

    def pushes_changed(self) -> None:
        """The queue may hold something for the client."""
        self._pushing.look()

    async def _show(self) -> None:
        while self._view_due:
            await self.link.room()  # a client that reads nothing for long gets the newest, not all of them
            self._view_due = False
            if self._hub.authorizes(self._entry):
                self._send_view(self._hub.watch.current)
                if self._manifest_due:  # an empty one asks for the client's
                    self._manifest_due = False
                    self.link.send_now("operation_manifest", Manifest())

    def _send_view(self, config: wire.config.Config) -> None:
        item = wire.sync.SyncStreamItem
        view = views.remote_config(config, self._grants)
        self.link.send_now("receive_config", item.SyncActionReceiveConfig(config=view))
        self.link.send_now("receive_resources", views.resources(config, self._grants, views.VIEW_CONFIG))
        self._shown, self._uris = config, self._hub.uris(self.keyid)
        shared = views.shared_repos(config, self._grants, self._uris)
        self._pushing.share(shared)
        self._offered = frozenset(repo.guid for repo in shared)
        self._withdraw()

    def _withdraw(self) -> None:
        self._pushing.withdraw(self._withdrawals.due(self._offered))

    async def _set_config(self, message: apply.SetConfig) -> None:
        if not self._grants.has(READ_WRITE_CONFIG) and not answers_pushes(self.link):
            raise PeerError(
                Fault.ITEM, Code.INVALID_ARGUMENT, "set_config needs READ_WRITE_CONFIG on this hub"
            )
        await self._answers.turn()
        report = await change_config(self._hub.set_config, self._entry, message, self._hub.record)
        self._answers.give(report)


def _remember(refused: dict[int, int], more: Mapping[int, int]) -> None:
    if len(refused) + len(more) <= REFUSED_REMEMBERED:
        refused.update(more)


def _parts_of(changes: _Changes) -> Iterator[_Changes]:
    """The same in parts of some PART_BYTES."""
    part, size = _Changes(), 0
    for op in changes.upserts:
        part.upserts.append(op)
        size += op.ByteSize()
        if size >= PART_BYTES:
            yield part
            part, size = _Changes(), 0
    part.deletes = changes.deletes
    yield part


async def shown(message: ReceiveConfig | ReceiveResources) -> dict[str, Any]:
    """The fields of a peer's record that its view, or its list of resources, fills. One too large is not kept."""
    size = message.ByteSize()
    if size > VIEW_BYTES:
        return {
            "message": f"what it shows of its configuration is larger than {VIEW_BYTES >> 20} MiB: not kept"
        }
    if size > SMALL_VIEW_BYTES and await trio.to_thread.run_sync(_parts, message) > VIEW_PARTS:
        return {"message": f"what it shows of its configuration has more than {VIEW_PARTS} parts: not kept"}
    if isinstance(message, ReceiveConfig):
        if size > SMALL_VIEW_BYTES:
            view = await trio.to_thread.run_sync(masked_remote_config, message.config)
        else:
            view = masked_remote_config(message.config)
        return {"remote_config": view, "config_ms": time.time_ns() // 1_000_000}
    return {"known_repos": tuple(message.repos), "known_plans": tuple(message.plans)}


def _parts(message: ReceiveConfig | ReceiveResources) -> int:
    return weight.check(message.DESCRIPTOR, message.SerializeToString())


def _stands(config: wire.config.Config, entry: wire.config.Multihost.Peer) -> bool:
    sync = config.multihost
    return any(
        peer.keyid == entry.keyid and peer.permissions == entry.permissions
        for peer in (*sync.authorized_clients, *sync.known_hosts)
    )


async def change_config(
    write: Callable[[Callable[[wire.config.Config], bool]], object],
    entry: wire.config.Multihost.Peer,
    message: apply.SetConfig,
    record: Record | None = None,
    waiting: WaitingRepos | None = None,
) -> apply.Report:
    """Apply a peer's push through ``write`` (the store's transform), log the outcome, record in the audit log what it
    changed or wanted to change, and return it. A result that is not valid changes nothing and becomes a refusal: the
    session goes on. What somebody here has to accept first goes into ``waiting``."""
    report = apply.Report()

    def change(config: wire.config.Config) -> bool:
        nonlocal report
        if not _stands(config, entry):  # removed, or its permissions changed, since the push came
            report = apply.Report()
            report.refuse_all(Why.PERMISSIONS_CHANGED)
            return False
        report = apply.apply_set_config(config, entry, message)
        return report.changed

    try:
        await trio.to_thread.run_sync(write, change)
    except UserError as error:
        report.refuse_all(Why.INVALID, text="; ".join(error.problems) or str(error))
    if waiting is not None and report.waits:
        try:
            await trio.to_thread.run_sync(waiting.settle, report.waits)
        except StorageError as error:  # the hub hands the same out again, at the latest when it connects
            log.error(
                "what %s wants to change, and waits to be accepted, was not kept: %s",
                entry.instance_id,
                error,
            )
    refused = [one.words() for one in report.refused]
    for level, sentences in ((logging.INFO, report.applied), (logging.WARNING, refused)):
        for sentence in sentences[:REPORTED]:
            log.log(level, "configuration from %s: %s", entry.instance_id, one_line(sentence, REPORTED_CHARS))
        if len(sentences) > REPORTED:
            log.log(level, "configuration from %s: %d more", entry.instance_id, len(sentences) - REPORTED)
    # What a hub shares comes at each session: a refusal of it stands as a warning, and is not recorded each time.
    asked = report.refused and not only_shares(message, entry.instance_id)
    if record is not None and (report.changed or asked):
        await record(
            "config-changed" if report.changed else "config-refused",
            by=entry.keyid,
            keyid=entry.keyid,
            instance=entry.instance_id,
            items=[f"{item} {what}" for item, what in report.items[:AUDITED]],
            refused=[one_line(sentence, REPORTED_CHARS) for sentence in refused[:AUDITED_REFUSALS]],
        )
    return report

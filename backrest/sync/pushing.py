"""What we push to a peer in one session, and what it says of it: shared repos, and what the queue holds for it.

The queue (store/pushqueue.py) is a level: the session looks at it whenever it changed, sends one push at a time once
the peer has shown its configuration, and records the outcome. A peer that announced ``push-outcome`` says the outcome
itself (protocol/outcome.py). Of another we learn only what it shows: a hub sees it in the client's next view, in this
session or in the next, because the reference reconnects at once after a change. Over what it refuses it goes silent,
and comes back after a minute or more. So nothing is sent to such a client more than twice, and nothing with a mask,
which it would take for the secret itself. A hub that does not answer takes no pushes at all, and gets none.
What the other side refused stands as ``warnings`` in its record until it no longer holds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import trio

from backrest import wire
from backrest.errors import BackrestError, StorageError
from backrest.protocol import outcome
from backrest.refusals import Refusal, Why, cut_id, refusal
from backrest.store.audit import AuditLog
from backrest.store.mask import masked_plan, masked_repo
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import Push, PushQueue, Result, masked
from backrest.store.shares import Shares
from backrest.sync import apply
from backrest.sync.handout import Handout
from backrest.sync.link import Link, Signal

log = logging.getLogger("backrest.sync")

FEATURES = outcome.FEATURES

MOST_REFUSALS = 100  # items whose refusal is shown
# By then a client that does not answer has shown what it took; and before whoever pushed is told that no answer came
# (admin/pushes.py waits 30 s).
SHOWN_S = 20.0
UNANSWERED = 100  # set_configs of which we know what they were
MOST_SENT = 5  # sessions that ended over a push before its answer: nobody is made to reconnect for ever
MOST_SENT_SILENT = 2  # of a peer that does not answer: the reference ends the session over what it refuses
DISK_AGAIN_S = 60.0

Item = wire.sync.SyncStreamItem
ReceiveConfig = Item.SyncActionReceiveConfig
RemoteConfig = wire.sync.RemoteConfig
Repo = wire.config.Repo
Record = Callable[..., Awaitable[None]]

_SHARED, _WITHDRAWN = 0, -1  # set_configs that are none of the queue, whose numbers begin at 1


class Recorder:
    """Writes to the audit log: a coroutine function of an event and its fields. A full disk ends no session.

    A peer whose push is refused may send the same again at each change of its own and at each session, for ever: only
    what differs from the last refusal of that peer is recorded.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._refusals: dict[
            str, dict[str, Any]
        ] = {}  # of each peer, the last; there are as many as are configured

    async def __call__(self, event: str, *, by: str | None = None, **fields: Any) -> None:
        """``by``: the key id of the peer that caused it, or STRANGER: recorded as far as the day has room for it. None:
        it is the doing of the people here, or of this program."""
        if event == "config-refused":
            if self._refusals.get(fields["keyid"]) == fields:
                return
            self._refusals[fields["keyid"]] = fields
        # Shielded: what was done is recorded, also when the session ends at this moment.
        with trio.CancelScope(shield=True):
            try:
                if by is None:
                    await trio.to_thread.run_sync(lambda: self._audit.append(event, **fields))
                else:
                    await trio.to_thread.run_sync(self._audit.append_for, [(by, event, fields)])
            except BackrestError as error:
                log.error("the audit log could not record %r, %r: %s", event, fields, error)


def answers_pushes(link: Link) -> bool:
    """Did the peer announce that it says what became of a push?"""
    return outcome.spoken(features(link))


def features(link: Link) -> tuple[str, ...]:
    """What the peer announced."""
    return () if link.session.peer is None else link.session.peer.features


class Pushing:
    """The sender's side of one session."""

    def __init__(
        self,
        link: Link,
        entry: wire.config.Multihost.Peer,
        *,
        peers: PeerStore,
        queue: PushQueue | None,
        record: Record,
        to_hub: bool,
        shares: Shares | None = None,
    ) -> None:
        """``record(event, **fields)`` writes to the audit log."""
        self._link = link
        self._keyid = entry.keyid
        self._instance_id = entry.instance_id
        self._peers = peers
        self._queue = queue
        self._record = record
        self._to_hub = to_hub
        self._count = 0  # set_configs sent in this session
        self._sent: dict[
            int, int
        ] = {}  # by its number: the push of the queue that it was, _SHARED or _WITHDRAWN
        self._handout: Handout | None = None  # to a client that does not answer
        if not to_hub and not answers_pushes(link):
            self._handout = Handout(link, entry, shares, partial(self._send, push_id=_SHARED), self.warn)
        self._kept: tuple[Refusal, ...] = ()  # why repos that are shared no more stay there
        self._others: tuple[Refusal, ...] | None = None  # the other warnings; None: as they were before
        self._view: RemoteConfig | None = None
        self._view_kept = True
        self._outcomes: dict[int, outcome.Outcome] = {}  # of the push that is under way
        self._news = Signal()

    def began(self) -> None:
        """The peer is known, and let us in or was let in: note which kind of program it is."""
        self._peers.update(self._keyid, answers=answers_pushes(self._link))

    # --- shared repos

    def share(self, repos: Sequence[Repo]) -> None:
        """Push the shared repos, all of them; nothing is sent when there are none."""
        if self._handout is not None:
            self._handout.share(repos)
        elif repos:
            self._send(Item.SyncActionSetConfig(repos=repos), _SHARED)
        else:
            self.warn(())

    def shares_changed(self) -> None:
        """The file of the shares changed."""
        if self._handout is not None:
            self._handout.noted()

    def withdraw(self, repo_ids: Sequence[str]) -> None:
        """Ask the peer to delete what is shared with it no longer. One that does not answer is not asked: the
        reference ends its session over what it refuses, and then again at every reconnect."""
        if repo_ids and answers_pushes(self._link):
            self._send(Item.SyncActionSetConfig(repos_to_delete=repo_ids), _WITHDRAWN)

    def listed(self, message: Item.SyncActionReceiveResources) -> None:
        """The peer's list of its repos came."""
        if self._handout is not None:
            self._handout.listed(message)

    def spoke(self) -> None:
        """The peer's manifest came."""
        if self._handout is not None:
            self._handout.spoke()

    def warn(self, others: Iterable[Refusal] | None = None) -> None:
        """Show what does not hold: ``others`` (at a hub the shares that were refused, at a client what it refuses of
        the hub; None: as before), and what stays there that is shared no more."""
        if others is not None:
            self._others = tuple(others)
        record = self._peers.get(self._keyid)
        if record is None:
            return
        if self._others is None:  # as the last session left it
            about = {(kept.kind, kept.id) for kept in self._kept}
            self._others = tuple(one for one in record.warnings if (one.kind, one.id) not in about)
        warnings = (*self._others, *self._kept)[:MOST_REFUSALS]
        if warnings != record.warnings:
            self._peers.update(self._keyid, warnings=warnings)

    # --- what the peer says

    def heard(self, message: ReceiveConfig, view: RemoteConfig | None) -> None:
        """The peer's view came (``view`` is what was kept of it, masked), perhaps with the outcome of a push."""
        if self._handout is not None:
            self._handout.view(message.config)
        self._view_kept = view is not None
        if view is not None:
            self._view = view
        elif self._view is None:
            self._view = RemoteConfig()  # too large to be kept; the session goes on
        if self._kept:
            there = {cut_id(repo.id) for repo in self._view.repos}
            still = tuple(kept for kept in self._kept if kept.kind == "repo" and kept.id in there)
            if still != self._kept:  # gone by other hands
                self._kept = still
                self.warn()
        answer = outcome.found(message) if answers_pushes(self._link) else None
        if answer is not None and answer.taken in self._sent:  # else it is about nothing that we sent
            what = self._sent[answer.taken]
            for number in [number for number in self._sent if number <= answer.taken]:
                del self._sent[number]
            if what == _SHARED:
                self.warn(answer.refused)
            elif what == _WITHDRAWN:
                self._kept = answer.refused
                self.warn()
            else:
                self._outcomes = {what: answer}
        self.look()

    def _send(self, message: apply.SetConfig, push_id: int) -> None:
        self._link.send_now("set_config", message)
        self._count += 1
        if answers_pushes(self._link):
            self._sent[self._count] = push_id
            if len(self._sent) > UNANSWERED:
                del self._sent[next(iter(self._sent))]

    # --- the queue

    def look(self) -> None:
        """The queue changed, or the peer said something: what waits is sent once the peer has shown itself."""
        self._news.set()
        if self._queue is not None and self._view is not None and self._queue.waiting(self._keyid):
            self._link.wake(self._deliver_all)

    async def _deliver_all(self) -> None:
        """The task that sends what the queue holds for this peer, one at a time, until nothing waits."""
        queue = self._queue
        while queue is not None and (waiting := queue.waiting(self._keyid)):
            try:
                await self._deliver(queue, waiting[0])
            except StorageError as error:  # a full disk must not end the session, again and again
                log.error("a push to %s has to wait: %s", self._instance_id, error)
                await trio.sleep(DISK_AGAIN_S)

    async def _deliver(self, queue: PushQueue, push: Push) -> None:
        answers = answers_pushes(self._link)
        if not answers and self._to_hub:
            await self._settle(queue, push, "refused", [_of_all(Why.NO_CLIENT_PUSHES)])
        elif not answers and push.sent and shows(self._view, push.message):
            await self._settle(queue, push, "applied")
        elif not answers and (masks := masked(push.message)):
            await self._settle(queue, push, "refused", masks)
        elif not answers and push.sent >= MOST_SENT_SILENT:
            await self._settle(queue, push, "refused", [_of_all(Why.PROBABLY_REFUSED)])
        elif push.sent >= MOST_SENT:
            await self._settle(queue, push, "unknown", [_of_all(Why.NO_ANSWER, count=push.sent)])
        else:
            await self._link.room()
            if not await trio.to_thread.run_sync(queue.sent, push.id):
                return  # dropped
            log.info("push %d goes to %s: %s", push.id, self._instance_id, ", ".join(push.items[:20]))
            self._send(push.message, push.id)
            await (self._hear if answers else self._look)(queue, push)

    async def _hear(self, queue: PushQueue, push: Push) -> None:
        """The peer says what became of it; until then it stays, or until somebody drops it."""
        while (answer := self._outcomes.pop(push.id, None)) is None:
            if all(other.id != push.id for other in queue.waiting(self._keyid)):
                return
            await self._news.wait()
        result: Result = "applied"
        if answer.refused:
            result = "partly" if answer.done else "refused"
        await self._settle(queue, push, result, answer.refused)

    async def _look(self, queue: PushQueue, push: Push) -> None:
        """The client does not say it: its view shows it, if we may see that."""
        with trio.move_on_after(SHOWN_S):
            while not shows(self._view, push.message):
                await self._news.wait()
            await self._settle(queue, push, "applied")
            return
        if self._view_kept:  # who may change a thing is shown it (permissions.VIEW_CONFIG)
            await self._settle(queue, push, "refused", [_of_all(Why.PROBABLY_REFUSED)])
        else:
            await self._settle(queue, push, "unknown", [_of_all(Why.NOT_SHOWN)])

    async def _settle(
        self, queue: PushQueue, push: Push, result: Result, refused: Sequence[Refusal] = ()
    ) -> None:
        with trio.CancelScope(
            shield=True
        ):  # what is known is recorded, also when the session ends at this moment
            answer = await trio.to_thread.run_sync(partial(queue.answer, push.id, result, refused))
            if answer is None:
                return
            level = logging.INFO if result == "applied" else logging.WARNING
            said = [one.words() for one in answer.refused]
            why = "; ".join(said)
            log.log(
                level, "push %d to %s: %s%s", push.id, self._instance_id, result, f": {why}" if why else ""
            )
            await self._record(
                "push-answered",
                by=self._keyid,
                push=push.id,
                keyid=self._keyid,
                instance=self._instance_id,
                items=list(push.items[:MOST_REFUSALS]),
                result=result,
                refused=said,
            )


def _of_all(code: Why, **fields: str | int) -> Refusal:
    return refusal("", "", code, **fields)


def shows(view: RemoteConfig | None, message: apply.SetConfig) -> bool:
    """Does a peer's (masked) view show all that ``message`` asks for? The origin is the peer's to say."""
    if view is None:
        return False
    plans = {plan.id: plan for plan in view.plans}
    repos = {repo.guid: repo for repo in view.repos}
    return (
        all(plan.id in plans and plans[plan.id] == masked_plan(plan) for plan in message.plans)
        and all(repo.guid in repos and _same(repos[repo.guid], masked_repo(repo)) for repo in message.repos)
        and not any(plan_id in plans for plan_id in message.plans_to_delete)
        and not any(repo.id in message.repos_to_delete for repo in view.repos)
    )


def _same(one: Repo, other: Repo) -> bool:
    copies = []
    for repo in (one, other):
        copy = Repo()
        copy.CopyFrom(repo)
        copy.ClearField("origin_instance_id")
        copies.append(copy)
    return copies[0] == copies[1]

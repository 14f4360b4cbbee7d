"""What a peer pushes to us, in one session: when each push is taken, what is answered, and what is refused at present.

A push is applied by apply.py. A peer that announced ``push-outcome`` gets an answer to each (protocol/outcome.py).
What is refused stands as ``warnings`` in the peer's record here until it no longer holds.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice

import trio

from backrest import wire
from backrest.permissions import Grants
from backrest.protocol import outcome
from backrest.protocol.outcome import Outcome
from backrest.refusals import Kind, Refusal, cut_id
from backrest.sync import apply, views
from backrest.sync.link import Link, Signal
from backrest.sync.pushing import MOST_REFUSALS, answers_pushes, features
from backrest.sync.watch import ConfigWatch

PUSHES = 10  # set_configs taken in PUSHES_S; then a peer waits: each is a write to disk, and a new view for all others
PUSHES_S = 10.0
UNREAD_ANSWERS = 50  # then what it pushes next waits until it reads

ReceiveConfig = wire.sync.SyncStreamItem.SyncActionReceiveConfig


class Pace:
    """The rate at which one session's set_configs are taken: whoever pushes faster waits, and loses nothing."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=PUSHES)

    async def turn(self) -> None:
        if len(self._times) == PUSHES:
            await trio.sleep_until(self._times[0] + PUSHES_S)
        self._times.append(trio.current_time())


class Answers:
    """The receiver's side: when one session's set_configs are taken, and the answer to each."""

    def __init__(self, link: Link, watch: ConfigWatch, grants: Grants) -> None:
        """``grants``: what the peer may see of the configuration, which goes out with each answer. Set it anew when the
        session goes on under other terms."""
        self._link = link
        self._watch = watch
        self.grants = grants
        self._pace = Pace()
        self._taken = 0
        self._due: deque[Outcome] = deque()
        self._sent = Signal()

    async def turn(self) -> None:
        """Wait until one more may be taken."""
        while len(self._due) >= UNREAD_ANSWERS:
            await self._sent.wait()
        await self._pace.turn()

    def give(self, report: apply.Report) -> None:
        """One more was taken: say so, to a peer that wants to know."""
        self._taken += 1
        if answers_pushes(self._link):
            self._due.append(Outcome(self._taken, tuple(report.told), report.done))
            self._link.wake(self._send)

    async def _send(self) -> None:
        """The task that sends the answers, as there is room for them: the reader must not wait for the writer."""
        while self._due:
            await self._link.room()
            view = views.remote_config(self._watch.current, self.grants)
            message = ReceiveConfig(config=view)
            outcome.attach(message, self._due.popleft(), features(self._link))
            self._link.send_now("receive_config", message)
            self._sent.set()


_About = tuple[Kind, str]  # an item, as refusals name it


class Refusals:
    """What is refused, at present, of all that a peer pushed: the last push of an item has the say about it."""

    def __init__(self, sender: str) -> None:
        self._sender = sender
        self._by_item: dict[_About, list[Refusal]] = {}
        self._shared: set[_About] = set()

    def after(self, message: apply.SetConfig, report: apply.Report) -> tuple[Refusal, ...]:
        """Those that hold after this push."""
        items = _items(message)
        if only_shares(message, self._sender):  # all of them: what it lacks is shared no more
            gone, self._shared = self._shared, items
            items = items | gone
        for item in (*items, ("", "")):
            self._by_item.pop(item, None)
        for refused in report.refused:
            self._by_item.setdefault((refused.kind, refused.id), []).append(refused)
        return tuple(islice(chain.from_iterable(self._by_item.values()), MOST_REFUSALS))


def only_shares(message: apply.SetConfig, sender: str) -> bool:
    """Is it what a hub shares, all of it, and not a push that a person decided on?"""
    return not (message.plans or message.plans_to_delete or message.repos_to_delete) and all(
        repo.origin_instance_id == sender for repo in message.repos
    )


def _items(message: apply.SetConfig) -> set[_About]:
    return {
        *(("plan", cut_id(plan.id)) for plan in message.plans),
        *(("repo", cut_id(repo.id)) for repo in message.repos),
        *(("plan", cut_id(plan_id)) for plan_id in message.plans_to_delete),
        *(("repo", cut_id(repo_id)) for repo_id in message.repos_to_delete),
    }

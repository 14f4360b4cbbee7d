"""Pushes of one session, both ways: what we push and what the peer says of it, what it pushes and what we answer.

A peer that announced ``push-outcome/1`` answers each ``set_config`` (protocol/outcome.py). Of another we learn only
what it shows: a repo that it took is among its resources, sooner or later, because the reference reconnects after a
change. What the other side refused stands as ``warnings`` in its record until it no longer holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import trio

from backrest import wire
from backrest.protocol import outcome
from backrest.protocol.outcome import Outcome
from backrest.store.peers import PeerStore
from backrest.store.text import one_line
from backrest.sync import apply
from backrest.sync.link import Link, Signal

FEATURES = (outcome.FEATURE,)

PUSHES = 10  # set_configs taken in PUSHES_S; then a peer waits: each is a write to disk, and a new view for all others
PUSHES_S = 10.0
UNREAD_ANSWERS = 50  # then what it pushes next waits until it reads
MOST_REFUSALS = 100  # items whose refusal is shown
SHOWN_CHARS = 500
ANSWER_S = 30.0  # by then a peer that does not answer has shown what it took

Item = wire.sync.SyncStreamItem
ReceiveConfig = Item.SyncActionReceiveConfig
Repo = wire.config.Repo


def answers_pushes(link: Link) -> bool:
    """Did the peer announce that it says what became of a push?"""
    return link.session.peer is not None and outcome.FEATURE in link.session.peer.features


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

    def __init__(self, link: Link, view: Callable[[], wire.sync.RemoteConfig]) -> None:
        """``view``: what the peer may see of the configuration, as it is now."""
        self._link = link
        self._view = view
        self._pace = Pace()
        self._taken = 0
        self._due: deque[Outcome] = deque()
        self._work, self._sent = Signal(), Signal()

    async def turn(self) -> None:
        """Wait until one more may be taken."""
        while len(self._due) >= UNREAD_ANSWERS:
            await self._sent.wait()
        await self._pace.turn()

    def give(self, refused: Sequence[str]) -> None:
        """One more was taken: say so, to a peer that wants to know."""
        self._taken += 1
        if answers_pushes(self._link):
            self._due.append(Outcome(self._taken, tuple(refused)))
            self._work.set()

    async def run(self) -> None:
        """The task that sends the answers, as there is room for them: the reader must not wait for the writer."""
        while True:
            while not self._due:
                await self._work.wait()
            await self._link.room()
            message = ReceiveConfig(config=self._view())
            outcome.attach(message, self._due.popleft())
            self._link.send_now("receive_config", message)
            self._sent.set()


class Refusals:
    """What is refused, at present, of all that a peer pushed: the last push of an item has the say about it."""

    def __init__(self, sender: str) -> None:
        self._sender = sender
        self._by_item: dict[tuple[str, str], str] = {}
        self._shared: set[tuple[str, str]] = set()

    def after(self, message: apply.SetConfig, report: apply.Report) -> tuple[str, ...]:
        """The sentences that hold after this push."""
        items = _items(message)
        if self._all_shared(
            message
        ):  # all that is shared comes in one message: what it lacks is shared no more
            gone, self._shared = self._shared, items
            items = items | gone
        for item in (*items, ("", "")):
            self._by_item.pop(item, None)
        for item, sentence in zip(report.about, report.refused, strict=True):
            earlier = self._by_item.get(item)
            self._by_item[item] = f"{earlier}; {sentence}" if earlier else sentence
        return tuple(self._by_item.values())[:MOST_REFUSALS]

    def _all_shared(self, message: apply.SetConfig) -> bool:
        return not (message.plans or message.plans_to_delete or message.repos_to_delete) and all(
            repo.origin_instance_id == self._sender for repo in message.repos
        )


def _items(message: apply.SetConfig) -> set[tuple[str, str]]:
    return {
        *(("plan", plan.id) for plan in message.plans),
        *(("repo", repo.id) for repo in message.repos),
        *(("plan", plan_id) for plan_id in message.plans_to_delete),
        *(("repo", repo_id) for repo_id in message.repos_to_delete),
    }


class Pushing:
    """The sender's side of one session: the shared repos of a hub, and what it hears of them."""

    def __init__(self, link: Link, keyid: str, peers: PeerStore) -> None:
        self._link = link
        self._keyid = keyid
        self._peers = peers
        self._sent: dict[
            int, str
        ] = {}  # by its number, the set_configs that are not answered yet: what each was
        self._count = 0
        self._shared: dict[str, str] = {}  # guid -> id, of the last that was sent
        self._listed: set[str] = set()

    def share(self, repos: Sequence[Repo]) -> None:
        """Push the shared repos, all of them; nothing is sent when there are none."""
        self._shared = {repo.guid: repo.id for repo in repos}
        if not repos:
            self._warn(())
            return
        self._send(Item.SyncActionSetConfig(repos=repos), "shared")

    def withdraw(self, repo_ids: Sequence[str]) -> None:
        """Ask for the deletion of what is shared no longer; only a peer that answers is asked (sync/offers.py)."""
        if repo_ids and answers_pushes(self._link):
            self._send(Item.SyncActionSetConfig(repos_to_delete=repo_ids), "withdrawn")

    def _send(self, message: apply.SetConfig, what: str) -> None:
        self._link.send_now("set_config", message)
        self._count += 1
        if answers_pushes(self._link):
            self._sent[self._count] = what
            if len(self._sent) > MOST_REFUSALS:  # a peer that announced answers and gives none
                del self._sent[next(iter(self._sent))]

    def heard(self, message: ReceiveConfig) -> None:
        """The peer's view came, perhaps with the outcome of a push."""
        answer = outcome.found(message) if answers_pushes(self._link) else None
        what = self._sent.get(answer.taken) if answer is not None else None
        if answer is None or what is None:
            return  # nothing that we sent, whatever it says
        for number in [number for number in self._sent if number <= answer.taken]:
            del self._sent[number]
        if what == "shared":
            self._warn(one_line(sentence, SHOWN_CHARS) for sentence in answer.refused)

    def listed(self, message: Item.SyncActionReceiveResources) -> None:
        """The peer's list of its repos came: shared ones in it were taken."""
        self._listed = {repo.guid for repo in message.repos}
        if not answers_pushes(self._link) and self._shared and not self._missing():
            self._warn(())

    async def judge(self) -> None:
        """The task for a peer that does not answer: after a time, or at the end of the session (the reference ends it
        over what it refuses, and also to begin anew after a change), what is shared and not listed is told."""
        if answers_pushes(self._link):
            return
        try:
            await trio.sleep(ANSWER_S)
        finally:
            if missing := self._missing():
                self._warn(
                    f"repo {one_line(repo_id, 100)!r} is shared with it and not among the repos that it shows: it "
                    "refused it, or does not grant read-operations for it"
                    for repo_id in missing
                )

    def _missing(self) -> list[str]:
        return [repo_id for guid, repo_id in self._shared.items() if guid not in self._listed]

    def _warn(self, sentences: Iterable[str]) -> None:
        record = self._peers.get(self._keyid)
        if record is not None:
            self._peers.update(self._keyid, warnings=tuple(sentences)[:MOST_REFUSALS])

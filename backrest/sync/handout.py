"""Shared repos for a client that does not say what it takes: when they go out to it, and when no more.

The reference client ends its session over a ``set_config`` that it does not take (it grants no receive-shared-repos, or
has a repo of its own with that guid), mostly without a sign, and again at each reconnect: it would never sync. And it
begins anew after one that changes its configuration. So, in each session:

- Nothing goes out before the client's first list of resources or its first manifest: what its view shows as its own,
  or as another hub's, is left out.
- What was sent is survived when a list of resources comes after it. (The session asks for one after each set_config.)
- What was not survived is noted, in the file of the shares. A repo that was alone in two such sessions is offered no
  more as long as the terms are the same: the repo, what this hub's entry lets the client do, and what the client shows
  of its configuration; ``repo share`` forgets it, too. The reference refuses all of a message for one repo in it:
  after an end over several each of them goes alone, one after the other.

An end for another reason in that short time is noted as well: two in a row are rare, and what it costs is a repo that
is offered later. A peer that announced push-outcome is no business of this file: it answers (pushing.py).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from backrest import wire
from backrest.errors import StorageError
from backrest.refusals import Refusal, Why, refusal
from backrest.store.mask import mask_fields
from backrest.store.shares import MOST_ENDED, Ended, Shares
from backrest.sync.link import Link, Signal

log = logging.getLogger("backrest.sync")

# A client says its items right behind its handshake. One that says none of them gets what is shared all the same.
FIRST_S = 5.0
ANSWER_S = 20.0  # then it is told that the client does not show what was sent; after 30 s it counts as gone

Item = wire.sync.SyncStreamItem
Peer = wire.config.Multihost.Peer
ReceiveResources = Item.SyncActionReceiveResources
Repo = wire.config.Repo


class Handout:
    """The hub's side of one session with such a client."""

    def __init__(
        self,
        link: Link,
        entry: Peer,
        shares: Shares | None,
        send: Callable[[Item.SyncActionSetConfig], None],
        warn: Callable[[Iterable[Refusal]], None],
    ) -> None:
        """``send`` sends one set_config; ``warn`` shows what of the shares does not hold. Without ``shares`` nothing is
        noted from one session to the next."""
        self._link = link
        self._entry = entry
        self._shares = shares
        self._give = send
        self._warn = warn
        self._repos: dict[str, Repo] = {}  # all that is shared with it, by guid
        self._fresh = False  # that changed, or was not sent yet
        self._masked: dict[str, tuple[str, ...]] = {}  # guid -> where it has masks
        self._given_up: frozenset[str] = frozenset()
        self._alone: list[str] = []  # to be sent one after the other
        self._spoke = False
        self._modno = 0
        self._others: dict[str, tuple[str, str]] = {}  # not of this hub, as its view shows: (id, origin)
        self._lists: frozenset[str] = frozenset()
        self._out: dict[str, str] = {}  # sent, and not survived yet: guid -> the terms
        self._overdue_at = math.inf
        self._survived: list[str] = []  # and still noted, perhaps
        self._missing: set[str] = set()  # sent, survived or overdue, and not in its list
        self._news = False
        self._signal = Signal()

    # --- what happens

    def share(self, repos: Sequence[Repo]) -> None:
        """These are shared now, all of them."""
        self._repos = {repo.guid: repo for repo in repos}
        self._fresh = True
        if repos:
            self._link.wake(self._run)
        elif not self._spoke:
            self._warn(())
        self._wake()

    def noted(self) -> None:
        """The file of the shares changed: somebody may want a repo to be offered again."""
        if not self._given_up <= self._ended().keys():
            self._fresh = True
            self._wake()

    def view(self, config: wire.sync.RemoteConfig) -> None:
        """The client's view came."""
        self._others = {
            repo.guid: (repo.id, repo.origin_instance_id)
            for repo in config.repos
            if repo.guid in self._repos
            and repo.origin_instance_id != self._repos[repo.guid].origin_instance_id
        }
        self._modno = config.modno

    def listed(self, message: ReceiveResources) -> None:
        """Its list of resources came: it has survived what was sent before."""
        self._lists = frozenset(repo.guid for repo in message.repos)
        self._missing |= self._out.keys()
        self._survived += self._out
        self._out.clear()
        self._overdue_at = math.inf
        self.spoke()

    def spoke(self) -> None:
        """It said one of its items."""
        self._spoke = True
        self._wake()

    def _wake(self) -> None:
        self._offer()
        self._news = True
        self._signal.set()

    # --- what is done about it

    def _offer(self) -> None:
        """Send what is due. At once, in the reader's turn: what the client hears next is behind it."""
        if not self._spoke or self._link.over:
            return
        if batch := self._next():
            self._out |= {guid: self._terms(guid) for guid in batch}
            self._missing -= self._out.keys()
            self._overdue_at = trio.current_time() + ANSWER_S
            self._give(Item.SyncActionSetConfig(repos=[self._repos[guid] for guid in batch]))
        self._tell()

    async def _run(self) -> None:
        """The task that is there until the session ends."""
        with trio.move_on_after(FIRST_S):
            while not self._spoke:
                await self._signal.wait()
        try:
            if not self._spoke:
                self.spoke()
            while True:
                self._news = False
                noted = self._shares.ended(self._entry.keyid) if self._shares is not None else {}
                survived, self._survived = self._survived, []
                if past := noted.keys() & set(survived):
                    await self._note(dict.fromkeys(past))
                with trio.move_on_at(self._overdue_at) as overdue:
                    while not self._news:
                        await self._signal.wait()
                if overdue.cancelled_caught:
                    self._overdue_at = math.inf
                    self._missing |= self._out.keys()
                    self._tell()
        finally:
            if self._out:
                await self._ended_on_it()

    def _next(self) -> list[str]:
        """What to send now, by guid."""
        batch: list[str] = []
        if self._fresh:
            self._fresh = False
            ended = self._ended()
            self._masked = {guid: found for guid, repo in self._repos.items() if (found := mask_fields(repo))}
            self._given_up = frozenset(guid for guid, one in ended.items() if one.times >= MOST_ENDED)
            left_out = self._masked.keys() | self._others.keys() | self._given_up
            offered = [guid for guid in self._repos if guid not in left_out]
            self._alone = sorted(
                (guid for guid in offered if guid in ended), key=lambda guid: ended[guid].times
            )
            batch = [guid for guid in offered if guid not in ended]
        if not batch and not self._out and self._alone:
            batch = [self._alone.pop(0)]
        return batch

    def _ended(self) -> dict[str, Ended]:
        """What was noted under the terms of now, by guid."""
        if self._shares is None:
            return {}
        ended = self._shares.ended(self._entry.keyid)
        return {
            guid: one for guid, one in ended.items() if guid in self._repos and one.terms == self._terms(guid)
        }

    def _terms(self, guid: str) -> str:
        digest = hashlib.sha256(self._repos[guid].SerializeToString(deterministic=True))
        for grant in self._entry.permissions:
            digest.update(b"\0" + grant.SerializeToString(deterministic=True))
        digest.update(f"\0{self._modno} {' '.join(sorted(self._lists))}".encode())
        return digest.hexdigest()

    def _tell(self) -> None:
        found = []
        for guid, repo in self._repos.items():
            if names := self._masked.get(guid):
                found.append(refusal("repo", repo.id, Why.NO_MASKS, names=names))
            elif guid in self._others:
                ident, origin = self._others[guid]
                why = Why.SHARED_BY_OTHER if origin else Why.SAME_GUID
                found.append(refusal("repo", repo.id, why, other=ident, hub=origin))
            elif guid in self._given_up:
                found.append(refusal("repo", repo.id, Why.ENDS_SESSION, count=MOST_ENDED))
            elif guid in self._missing - self._lists:
                found.append(refusal("repo", repo.id, Why.NOT_LISTED))
        self._warn(found)

    async def _ended_on_it(self) -> None:
        """The session is over, and what was sent last was not survived."""
        ended = self._ended()
        alone = len(self._out) == 1
        noted = {
            guid: Ended((ended[guid].times if guid in ended else 0) + alone, terms)
            for guid, terms in self._out.items()
            if guid in self._repos
        }
        await self._note(noted)
        self._given_up |= {guid for guid, one in noted.items() if one.times >= MOST_ENDED}
        self._missing |= self._out.keys()
        self._tell()
        for guid in noted.keys() & self._given_up:
            log.warning(
                "repo %r is not offered to %s any more: %d of its sessions ended on it",
                self._repos[guid].id,
                self._entry.instance_id,
                MOST_ENDED,
            )

    async def _note(self, changes: Mapping[str, Ended | None]) -> None:
        if self._shares is None:
            return
        with trio.CancelScope(shield=True):  # also when the session ends at this moment
            try:
                await trio.to_thread.run_sync(self._shares.note, self._entry.keyid, changes)
            except StorageError as error:
                log.error(
                    "what %s took of the shared repos was not noted: %s", self._entry.instance_id, error
                )

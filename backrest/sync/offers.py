"""What a hub shares with a client, as it changes: noticed on the client's side, taken back on the hub's.

The protocol can hand a shared repo out and has no word for taking it back (W-17). What there is:

- A hub sends all that it shares with a client in one ``set_config`` right behind each view, and none when that is
  nothing. So a client knows what is offered from what follows a view, and shows the rest as no longer offered. It
  changes nothing by itself: a hub that was set up anew, or lost its file, must not end anybody's backups.
- A hub of ours asks a client to delete what it shares no longer, with ``repos_to_delete``. It remembers nothing for
  this, so that it works after restarts, and for a repo that was removed meanwhile: it compares what it offers now
  with what the client's view shows of *its* repos (by their origin), at each view and each change. A client shows
  them only to a hub that has READ_CONFIG or READ_WRITE_CONFIG; with the latter it deletes them, unless a plan there
  uses them (sync/apply.py). A peer that did not announce push-outcome/1 is never asked: the reference ends its
  session over what it refuses, and then again at every reconnect.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from itertools import islice

import trio

from backrest import wire
from backrest.errors import StorageError
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.peers import MAX_OFFERED
from backrest.store.removal import ParkedPlans
from backrest.store.validate import GUID_LENGTH
from backrest.sync.apply import MOST_ITEMS, SetConfig
from backrest.sync.link import Signal

log = logging.getLogger("backrest.sync")

# The three items of a view are sent in one go; ten seconds are for a slow line and a large set of repos.
SETTLED_S = 10.0

Config = wire.config.Config


class Offers:
    """The client's side of one session: which guids the hub offers, told to ``publish`` whenever that is known."""

    def __init__(self, hub: str, publish: Callable[[tuple[str, ...]], None]) -> None:
        self._hub = hub
        self._publish = publish
        self._offered: set[str] = set()
        self._due = math.inf  # when a view without shared repos counts as one that has none
        self._view_began = Signal()

    def view(self) -> None:
        """The hub's ``receive_resources`` came, which is only ever part of a view: what is shared follows."""
        self._offered = set()
        self._due = trio.current_time() + SETTLED_S
        self._view_began.set()

    def shared(self, message: SetConfig) -> None:
        """A ``set_config`` came. The first of shared repos alone after a view has them all; one that comes later, of
        which a person decided, adds to them."""
        if message.plans or message.plans_to_delete or message.repos_to_delete or not message.repos:
            return
        if all(repo.origin_instance_id == self._hub for repo in message.repos):
            # Bounded: a hub may push once a second, for ever, and each time something new.
            room = MAX_OFFERED - len(self._offered)
            fresh = {repo.guid for repo in message.repos if len(repo.guid) == GUID_LENGTH} - self._offered
            self._offered.update(islice(fresh, room))
            self._due = math.inf
            self._publish(tuple(sorted(self._offered)))

    async def run(self) -> None:
        """The task that notices that nothing is shared, for as long as the session lives."""
        while True:
            with trio.move_on_at(self._due) as waiting:
                await self._view_began.wait()
            if waiting.cancelled_caught and self._due != math.inf:
                self._due = math.inf
                self._publish(())


class Withdrawals:
    """The hub's side of one session: what the client still has of ours, and was not asked yet to delete."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._has: list[tuple[str, str, tuple[str, ...]]] = []  # id there, guid, the plans there that use it
        self._asked: dict[str, tuple[str, ...]] = {}  # id there -> the plans there when it was asked for last

    def view(self, config: wire.sync.RemoteConfig) -> None:
        """What the client shows of its configuration: whatever it likes, so in linear time and within a bound."""
        ours = (repo for repo in config.repos if repo.origin_instance_id == self._instance)
        found = {repo.id: repo.guid for repo in islice(ours, MOST_ITEMS)}
        users: dict[str, list[str]] = {repo_id: [] for repo_id in found}
        for plan in config.plans:
            if plan.repo in users:
                users[plan.repo].append(plan.id)
        self._has = [(repo_id, guid, tuple(sorted(users[repo_id]))) for repo_id, guid in found.items()]

    def due(self, offered: Collection[str]) -> list[str]:
        """The ids to delete there, each once: again only when the plans that use it have changed, or it was offered
        in between. What is refused is not asked for in a loop."""
        gone = {repo_id: plans for repo_id, guid, plans in self._has if guid not in offered}
        due = [repo_id for repo_id, plans in gone.items() if self._asked.get(repo_id) != plans]
        self._asked = gone
        return due


def write_push(
    config: ConfigStore,
    parked: ParkedPlans | None,
    audit: AuditLog,
    hub: str,
    change: Callable[[Config], bool],
) -> None:
    """Blocking. Write what a hub pushed; the plans that waited for a repo of it return with it, in the same step."""
    if parked is None:
        config.transform(change, from_peer=True)
        return
    _, back = parked.transform(config, change, from_peer=True)
    if not back:
        return
    names = [plan.id for plan in back]
    log.info("a repo of %s is back, and with it the plans that waited for it: %s", hub, ", ".join(names))
    try:
        audit.append_for([(hub, "parked-plans-returned", {"hub": hub, "plans": names})])
    except StorageError as error:
        log.error("the audit log could not record that plans returned: %s", error)

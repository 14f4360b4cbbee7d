"""Removing a peer, and what becomes of what came from it (PROTOCOL.md section 8, W-46).

The repos that the peer shared go. The plans on them are the user's own work and stay, as *parked plans*: a
plan whose repo is not there would make the whole file unreadable for the Go program, and a stand-in repo
would be backed up to by it, so they move out of the configuration into ``parked-plans.json`` of the data
directory, as they were. There they do not run, can be listed, and come back when their repo does.

Order on disk, so that a crash between two steps loses nothing: parked first, then the configuration changed;
on the way back the configuration first. A plan that is then in both places is in the configuration.

A hub that only stops sharing takes nothing away: its repo stays here, *withdrawn*, and the plans on it go on, until
the user removes them. Most likely the repository is still there, and no backup is to end because of a mark that was
taken off elsewhere.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from backrest import wire
from backrest.errors import NotFoundError, StorageError, UserError
from backrest.store import wholefile
from backrest.store.config import ConfigStore
from backrest.store.files import atomic_write, private_dir
from backrest.store.peers import PeerRecord
from backrest.store.text import quoted
from backrest.wire import codec

log = logging.getLogger(__name__)

Config = wire.config.Config
Peer = wire.config.Multihost.Peer
Plan = wire.config.Plan
Repo = wire.config.Repo


@dataclass(frozen=True, slots=True)
class Removal:
    """What ``remove_peer`` took out of the configuration."""

    peer: Peer
    repos: tuple[Repo, ...]
    plans: tuple[Plan, ...]  # to be parked


@dataclass(frozen=True, slots=True)
class Parked:
    """A plan that waits for its repo. ``plan`` is as it was, its schedule included."""

    plan: Plan
    repo_guid: str
    origin: str  # the instance that shared the repo
    since_ms: int

    def sentence(self) -> str:
        """What it waits for, for people."""
        return f"parked, waits for repo {self.plan.repo} of hub {self.origin}"

    def shown(self) -> Plan:
        """For lists: the plan as it behaves now, which is not at all."""
        out = Plan()
        out.CopyFrom(self.plan)
        out.schedule.disabled = True
        return out


def remove_peer(config: Config, keyid: str) -> Removal:
    """Take a host or a client out of ``config``, in place, with the repos it shared and the plans on them.

    To be called inside ConfigStore.transform, together with ``ParkedPlans.park(removal)`` before it returns.
    NotFoundError when there is no such peer.
    """
    multihost = config.multihost
    for peers in (multihost.known_hosts, multihost.authorized_clients):
        peer = next((peer for peer in peers if peer.keyid == keyid), None)
        if peer is not None:
            peers.remove(peer)
            return Removal(peer, *remove_repos(config, peer.instance_id))
    raise NotFoundError(f"No peer has the key id {quoted(keyid)}.")


def remove_repos(config: Config, origin: str) -> tuple[tuple[Repo, ...], tuple[Plan, ...]]:
    """Take the repos that ``origin`` shared, and the plans on them, out of ``config``; returns both."""
    repos = tuple(repo for repo in config.repos if origin and repo.origin_instance_id == origin)
    ids = {repo.id for repo in repos}
    plans = tuple(plan for plan in config.plans if plan.repo in ids)
    for repo in repos:
        config.repos.remove(repo)
    for plan in plans:
        config.plans.remove(plan)
    return repos, plans


def withdrawn(config: Config, records: Iterable[PeerRecord]) -> list[Repo]:
    """The repos here that their hub no longer offers, by what it said last; of one that said nothing yet, none."""
    offered = {record.instance_id: record.offered for record in records if record.role == "host"}
    out = []
    for repo in config.repos:
        still = offered.get(repo.origin_instance_id) if repo.origin_instance_id else None
        if still is not None and repo.guid not in still:
            out.append(repo)
    return out


class ParkedPlans:
    """The file of parked plans. Thread-safe; each change is durable when it returns."""

    def __init__(self, path: str | os.PathLike[str], entries: tuple[Parked, ...]) -> None:
        self._path = os.fspath(path)
        self._entries = entries
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ParkedPlans:
        """StorageError when it cannot be read; CorruptError when it is damaged: it holds the user's work."""
        return cls(path, wholefile.load(path, _decode, (), holds="the plans that are parked"))

    def all(self) -> tuple[Parked, ...]:
        return self._entries

    def waiting(self, config: Config) -> list[Parked]:
        """Those that are not in ``config``: what a crash left in both places is there."""
        there = {plan.id: _substance(plan) for plan in config.plans}
        return [entry for entry in self._entries if there.get(entry.plan.id) != _substance(entry.plan)]

    def park(self, removal: Removal, *, now_ms: int | None = None) -> None:
        """Keep the plans of a removal. A parked plan of the same id and repo is replaced. StorageError."""
        since_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        repos = {repo.id: repo for repo in removal.repos}
        new = [
            Parked(plan, repos[plan.repo].guid, repos[plan.repo].origin_instance_id, since_ms)
            for plan in removal.plans
        ]
        if new:
            keys = {_key(entry) for entry in new}
            with self._lock:
                self._write((*(entry for entry in self._entries if _key(entry) not in keys), *new))

    def returning(self, config: Config) -> list[Plan]:
        """The plans whose repo is back and whose id is free, ready to be added.

        It is the same repo by its guid, or by its id if the same instance shares it (it made the repository
        anew). Another's repo that happens to have the id is not: a plan must not send files to a stranger.
        """
        by_guid = {repo.guid: repo.id for repo in config.repos if repo.guid}
        ids = {(repo.id, repo.origin_instance_id) for repo in config.repos}
        taken = {plan.id for plan in config.plans}
        out: list[Plan] = []
        for entry in self._entries:
            same = (entry.plan.repo, entry.origin) in ids
            repo_id = by_guid.get(entry.repo_guid) or (entry.plan.repo if same else "")
            if repo_id and entry.plan.id not in taken:
                plan = Plan()
                plan.CopyFrom(entry.plan)
                plan.repo = repo_id
                taken.add(plan.id)
                out.append(plan)
        return out

    def settle(self, config: Config) -> None:
        """Forget the plans that are in the configuration (again): to be called after it was written."""
        there = {plan.id: _substance(plan) for plan in config.plans}
        with self._lock:
            left = tuple(e for e in self._entries if there.get(e.plan.id) != _substance(e.plan))
            if left != self._entries:
                self._write(left)

    def transform(
        self, config: ConfigStore, change: Callable[[Config], bool | None], **how: bool
    ) -> tuple[Config, tuple[Plan, ...]]:
        """``config.transform`` for a change that may bring repos back: the plans that wait for them return in the
        same step. Gives the configuration in force and these plans.

        When the result with them cannot be (a rule is stricter than when they were parked), the change is made
        without them: nobody's old plan keeps a repo away. Raises what ``config.transform`` raises.
        """
        back: list[Plan] = []

        def both(draft: Config) -> bool | None:
            changed = change(draft)
            back[:] = self.returning(draft)
            draft.plans.extend(back)
            return True if back else changed

        try:
            after = config.transform(both, **how)
        except UserError:
            if not back:
                raise
            back.clear()
            after = config.transform(change, **how)
        if back:
            try:
                self.settle(after)
            except StorageError as error:  # the change is made: the file follows at the next start
                log.error("%s", error)
        return after, tuple(back)

    def remove(self, plan_id: str) -> bool:
        """Throw one away. False when it is not there."""
        with self._lock:
            left = tuple(entry for entry in self._entries if entry.plan.id != plan_id)
            if left == self._entries:
                return False
            self._write(left)
            return True

    def _write(self, entries: tuple[Parked, ...]) -> None:
        private_dir(os.path.dirname(os.path.abspath(self._path)))
        atomic_write(self._path, _encode(entries))
        self._entries = entries


def _key(entry: Parked) -> tuple[str, str]:
    return entry.plan.id, entry.repo_guid


def _substance(plan: Plan) -> bytes:
    """What makes it the same plan: all but its schedule and the name of its repo, which may have changed."""
    out = Plan()
    out.CopyFrom(plan)
    out.ClearField("schedule")
    out.ClearField("repo")
    return out.SerializeToString(deterministic=True)


def _encode(entries: Iterable[Parked]) -> bytes:
    plans = [
        {
            "plan": codec.to_dict(entry.plan),
            "repoGuid": entry.repo_guid,
            "originInstanceId": entry.origin,
            "sinceMillis": str(entry.since_ms),
        }
        for entry in entries
    ]
    return orjson.dumps({"plans": plans}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _decode(data: bytes) -> tuple[Parked, ...]:
    whole = orjson.loads(data)
    entries = whole.get("plans") if isinstance(whole, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list of plans")
    return tuple(_decode_one(entry) for entry in entries)


def _decode_one(entry: Any) -> Parked:
    if not isinstance(entry, dict):
        raise ValueError("an entry is not an object")
    guid, origin, since = (entry.get(name) for name in ("repoGuid", "originInstanceId", "sinceMillis"))
    if not isinstance(guid, str) or not isinstance(origin, str):
        raise ValueError("an entry has no repoGuid or originInstanceId")
    if not isinstance(since, str) or not since.isascii() or not since.isdecimal() or len(since) > 18:
        raise ValueError("an entry's sinceMillis is not a number")
    plan = codec.from_dict(Plan, entry.get("plan"), ignore_unknown=False)
    if not plan.id:
        raise ValueError("a plan has no id")
    return Parked(plan, guid, origin, int(since))

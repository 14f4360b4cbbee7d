"""The stores beside the operation log, as the killed writer uses them: configuration with parked plans, audit log,
peers, pushes, shared addresses.

Each is a book with a *state*: a plain value that says what its files must hold, worked out here and never asked of the
store. The writer turns one state into the next and says both; the witness reads the files anew and finds the last
state that was acknowledged, or the one that was under way.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import orjson

from backrest import wire
from backrest.store import audit
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore
from backrest.store.files import Paths
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.removal import ParkedPlans, remove_peer
from backrest.store.shares import Shares

Config = wire.config.Config
State = Any  # compared, printed and pickled; never changed in place
Step = tuple[State, Callable[[], object]]

KEYS = ("ed25519.one", "ed25519.two", "ed25519.three")
GUIDS = ("ab" * 32, "cd" * 32)
HOST = "ed25519." + "A" * 43
MOST = 4  # pushes that wait, or whose outcome is kept: fewer than what a queue drops by itself


class Book(Protocol):
    name: str
    weight: float  # how often, among the steps of the writer
    empty: State

    def open(self, paths: Paths) -> Callable[[random.Random, str, State], Step]:
        """For the writer: what chooses a step. It gives the state after it, and what does it."""

    def read(self, paths: Paths) -> State:
        """For the witness: what the files say, opened as a daemon opens them."""


class Configured(NamedTuple):
    instance: str = ""
    modno: int = 0
    plan: str = "none"  # "active", or "parked" while the hub that shares its repo is removed


class Configuration:
    """Each change takes a modno. The plan of a hub's repo moves to a file of its own and back, and is always in one."""

    name, weight, empty = "the configuration", 5.0, Configured()

    def open(self, paths: Paths) -> Callable[[random.Random, str, Configured], Step]:
        config = ConfigStore.open(paths.config_file, environ={})
        parked = ParkedPlans.open(paths.parked_plans)
        parked.settle(config.current)

        def step(chance: random.Random, tag: str, state: Configured) -> Step:
            after = state._replace(modno=state.modno + 1)
            if not state.instance or chance.random() < 0.4:
                return after._replace(instance=tag), lambda: config.transform(rename(tag))
            if state.plan == "active":
                return after._replace(plan="parked"), lambda: config.transform(remove)
            if state.plan == "parked":
                return after._replace(plan="active"), lambda: parked.transform(config, share)
            return after._replace(plan="active"), lambda: config.transform(begin)

        def rename(tag: str) -> Callable[[Config], None]:
            return lambda draft: setattr(draft, "instance", tag)

        def remove(draft: Config) -> None:
            parked.park(remove_peer(draft, HOST))

        def share(draft: Config) -> None:
            draft.repos.add(id="theirs", uri="/b", guid=GUIDS[0], origin_instance_id="hub")
            draft.multihost.known_hosts.add(instance_id="hub", keyid=HOST, instance_url="http://h")

        def begin(draft: Config) -> None:
            share(draft)
            draft.plans.add(id="mine", repo="theirs", paths=["/home"])

        return step

    def read(self, paths: Paths) -> Configured:
        config = ConfigStore.open(paths.config_file, environ={}).current
        waits = ParkedPlans.open(paths.parked_plans).waiting(config)
        plan = "active" if config.plans else "parked" if waits else "none"
        return Configured(config.instance, config.modno, plan)


class Audit:
    name, weight, empty = "the audit log", 3.0, ()

    def open(self, paths: Paths) -> Callable[[random.Random, str, tuple[str, ...]], Step]:
        trail = AuditLog.open(paths.audit)
        return lambda _, tag, state: ((*state, tag), lambda: trail.append("told", tag=tag))

    def read(self, paths: Paths) -> tuple[str, ...]:
        AuditLog.open(paths.audit).close()
        audit.verify(paths.audit)
        return tuple(entry["tag"] for entry in audit.read(paths.audit) if entry["event"] == "told")


class Peers:
    """A cache, so only what was flushed counts."""

    name, weight, empty = "peers.json", 1.5, {}

    def open(self, paths: Paths) -> Callable[[random.Random, str, dict[str, str]], Step]:
        peers = PeerStore.open(paths.peers)

        def step(chance: random.Random, tag: str, state: dict[str, str]) -> Step:
            keyid = chance.choice(KEYS)
            if keyid in state and chance.random() < 0.3:
                return {k: v for k, v in state.items() if k != keyid}, lambda: (
                    peers.remove(keyid),
                    peers.flush(),
                )
            return {**state, keyid: tag}, lambda: (peers.update(keyid, message=tag), peers.flush())

        return step

    def read(self, paths: Paths) -> dict[str, str]:
        return {one.keyid: one.message for one in PeerStore.open(paths.peers).all()}


class Queue(NamedTuple):
    last: int = 0
    waiting: tuple[tuple[int, str, int], ...] = ()  # number, what it is about, how often it was sent
    answered: tuple[int, ...] = ()


class Pushes:
    """Added, sent, answered, dropped. No number is given out twice, so the last one is in the file."""

    name, weight, empty = "the pushes", 3.0, Queue()

    def open(self, paths: Paths) -> Callable[[random.Random, str, Queue], Step]:
        queue = PushQueue.open(paths.pushes)

        def step(chance: random.Random, tag: str, state: Queue) -> Step:
            last, waiting, answered = state
            what = chance.choice(("add", "add", "sent", "answer", "drop"))
            if len(answered) >= MOST:
                return Queue(last, waiting, answered[1:]), lambda: queue.drop(answered[0])
            if not waiting or (what == "add" and len(waiting) < MOST):
                after = Queue(last + 1, (*waiting, (last + 1, f"delete plan {tag}", 0)), answered)
                return after, lambda: queue.add(KEYS[0], "one", _push(tag))
            number, about, sent = waiting[-1]
            if what == "sent":
                after = Queue(last, (*waiting[:-1], (number, about, sent + 1)), answered)
                return after, lambda: queue.sent(number)
            if what == "answer":
                return Queue(last, waiting[:-1], (*answered, number)), lambda: queue.answer(number, "applied")
            return Queue(last, waiting[:-1], answered), lambda: queue.drop(number)

        return step

    def read(self, paths: Paths) -> Queue:
        queue = PushQueue.open(paths.pushes)
        last = orjson.loads(paths.pushes.read_bytes())["lastId"] if paths.pushes.exists() else 0
        waiting = tuple((one.id, *one.items, one.sent) for one in queue.waiting())
        return Queue(last, waiting, tuple(one.id for one in queue.answered()))


def _push(tag: str) -> wire.sync.SyncStreamItem.SyncActionSetConfig:
    return wire.sync.SyncStreamItem.SyncActionSetConfig(plans_to_delete=[tag])


class SharedAddresses:
    name, weight, empty = "the shared addresses", 2.0, {}

    def open(self, paths: Paths) -> Callable[[random.Random, str, dict[tuple[str, str], str]], Step]:
        shares = Shares.open(paths.shares)

        def step(chance: random.Random, tag: str, state: dict[tuple[str, str], str]) -> Step:
            guid, keyid = chance.choice(GUIDS), chance.choice(KEYS)
            uri = None if (guid, keyid) in state and chance.random() < 0.4 else f"sftp:{tag}:/backups"
            after = {key: old for key, old in state.items() if key != (guid, keyid)}
            if uri is not None:
                after[guid, keyid] = uri
            return after, lambda: shares.set(guid, {keyid: uri})

        return step

    def read(self, paths: Paths) -> dict[tuple[str, str], str]:
        shares = Shares.open(paths.shares)
        return {(guid, keyid): uri for guid in GUIDS for keyid, uri in shares.of_repo(guid).items()}


BOOKS: tuple[Book, ...] = (Configuration(), Audit(), Peers(), Pushes(), SharedAddresses())

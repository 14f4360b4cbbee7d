"""What the other stores do while the power fails: a story for each, with the look at what is left (store_crash.py)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oplog_world import op
from store_crash import History, Lost

from backrest import refusals, wire
from backrest.store import audit
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore, load
from backrest.store.files import DirLock, Paths, private_dir
from backrest.store.oplog import OpLog
from backrest.store.peers import PeerStore
from backrest.store.pushqueue import PushQueue
from backrest.store.removal import ParkedPlans, Removal, remove_peer
from backrest.store.shares import Ended, Shares
from backrest.wire import codec

Config = wire.config.Config
SetConfig = wire.sync.SyncStreamItem.SyncActionSetConfig
HOST = "ed25519." + "A" * 43
CLIENT = "ed25519." + "B" * 43
ELSEWHERE = "ed25519." + "C" * 43
NEVER = 1 << 62  # a number of events that no recording has
GUIDS = ("a" * 64, "b" * 64)


class Configuration:
    """Changes of the configuration, from no directory at all, with their backups."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        store = ConfigStore.open(root / "etc" / "config.json", environ={})
        history.look = lambda: self._look(store)
        for number in range(13):
            history.call(lambda number=number: store.transform(self._change(number)))  # type: ignore[misc]

    @staticmethod
    def _change(number: int) -> Callable[[Config], None]:
        def change(config: Config) -> None:
            config.instance = "me"
            config.repos.add(id=f"r{number}", uri=f"/{number}", guid=f"{number:064}", password="secret")

        return change

    @staticmethod
    def _look(store: ConfigStore) -> dict[Hashable, Any]:
        return {"config": codec.to_dict(store.current)} if store.current.modno else {}

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        path = root / "etc" / "config.json"
        store = ConfigStore.open(path, environ={})
        history.compare(self._look(store), at)
        # A backup is a configuration that was in force once; the one before what was acknowledged last is kept.
        ever = [version.value for version in history.keys["config"]]
        saved = [
            codec.to_dict(load(name.read_bytes(), str(name), {}).config)
            for name in path.parent.glob("config.json.bak.*")
        ]
        assert all(one in ever for one in saved)
        last = ever.index(history.allowed("config", at)[0])
        if last > 1 and ever[last - 1] not in saved:
            raise Lost("the configuration before this one is in no backup")
        if work_on:
            modnos = [value["modno"] for _, value in history.acknowledged(at)]
            after = store.transform(self._change(99))
            if after.modno <= max(modnos, default=0):
                raise Lost(f"modno {after.modno} was given out before")
            assert ConfigStore.open(path, environ={}).current == after


class Peers:
    """What is known of the peers, flushed now and then."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        store = PeerStore.open(root / "peers.json")
        history.look = lambda: self._look(store)
        for number in range(4):
            store.update(f"k{number}", instance_id="peer", role="client", message="m" * 200)
            store.update("k0", refused=number)
            history.call(store.flush)
            history.note(0, len(history.recorder.events), "flushed", self._look(store))
        store.remove("k1")
        store.flush()
        history.note(0, len(history.recorder.events), "flushed", self._look(store))

    @staticmethod
    def _look(store: PeerStore) -> dict[Hashable, Any]:
        return {one.keyid: (one.instance_id, one.message, one.refused) for one in store.all()}

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        store = PeerStore.open(root / "peers.json")
        found = self._look(store) or None
        allowed = history.allowed("flushed", at)
        if found not in allowed:
            raise Lost(f"found {found}, where there may be {allowed}")
        if list(root.glob("*.bad")):
            raise Lost("the file was damaged")
        if work_on:
            store.update("new", message="after")
            store.flush()
            assert self._look(PeerStore.open(root / "peers.json")) == self._look(store)


class Audit:
    """Appending to the audit log: each line carries the hash of the one before."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        log = AuditLog.open(root / "audit.jsonl")
        events = history.recorder.events
        for number in range(6):
            begun = len(events)
            log.append("told", n=number, text="x" * number * 100)
            history.note(begun, len(events), number, True)
        log.close()

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        path = root / "audit.jsonl"
        AuditLog.open(path).close()
        told = [entry["n"] for entry in audit.read(path) if entry["event"] == "told"]
        if told != sorted(told):
            raise Lost(f"the order is lost: {told}")
        history.compare(dict.fromkeys(told, True), at)
        lines = audit.verify(path)
        if work_on:
            log = AuditLog.open(path)
            log.append("after")
            log.close()
            assert audit.verify(path) == lines + 1


class AuditTogether(Audit):
    """Several entries in one append, as when many clients come back at once; on several blocks of the disk."""

    def run(self, root: Path, history: History) -> None:
        log = AuditLog.open(root / "audit.jsonl")
        events = history.recorder.events
        number = 0
        for count, size in ((1, 10), (3, 10), (2, 1000), (5, 1000), (1, 1000)):
            begun = len(events)
            some = range(number, number + count)
            log.append_all([("told", {"n": n, "text": "x" * size, "more": ["y" * size] * 2}) for n in some])
            for n in some:
                history.note(begun, len(events), n, True)
            number += count
        log.close()


class AuditTurned(Audit):
    """The log goes on in a new file with nearly each entry."""

    def run(self, root: Path, history: History) -> None:
        with self._small():
            super().run(root, history)

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        with self._small():
            super().check(root, history, at, work_on=work_on)

    @contextmanager
    def _small(self) -> Iterator[None]:
        before, audit.FILE_BYTES = audit.FILE_BYTES, 600
        try:
            yield
        finally:
            audit.FILE_BYTES = before


class AuditKilled(Audit):
    """A process is killed between its write and the sync; the next one goes on behind what the system still has."""

    def run(self, root: Path, history: History) -> None:
        events = history.recorder.events
        for first in (0, 3):
            log = AuditLog.open(root / "audit.jsonl")
            begun = len(events)
            log.append("told", n=first)
            history.note(begun, len(events), first, True)
            begun = len(events)
            with history.recorder.killed_at_a_sync():
                log.append_all([("told", {"n": first + 1}), ("told", {"n": first + 2})])
            log.close()  # as the system does it
            for number in (first + 1, first + 2):
                history.note(begun, NEVER, number, True)


class Parking:
    """A host is removed, the user's plan on its repo is parked, and comes back with the repo. The two files are in
    two directories, as they are by default: a sync of one directory does not cover for the other's."""

    def prepare(self, root: Path) -> None:
        def change(config: Config) -> None:
            config.instance = "me"
            config.repos.add(id="theirs", uri="/b", guid="b" * 64, origin_instance_id="hub")
            config.plans.add(id="mine", repo="theirs", paths=["/home"])
            config.multihost.known_hosts.add(instance_id="hub", keyid=HOST, instance_url="http://h")

        ConfigStore.open(root / "etc" / "config.json", environ={}).transform(change)

    def run(self, root: Path, history: History) -> None:
        store = ConfigStore.open(root / "etc" / "config.json", environ={})
        parked = ParkedPlans.open(root / "data" / "parked-plans.json")
        events = history.recorder.events

        def remove(config: Config) -> None:
            parked.park(remove_peer(config, HOST))

        def share(config: Config) -> None:
            config.repos.add(id="theirs", uri="/b", guid="b" * 64, origin_instance_id="hub")
            config.plans.extend(parked.returning(config))

        history.note(-1, 0, "plan", "active")
        for change, state in ((remove, "parked"), (share, "active")):
            begun = len(events)
            store.transform(change)
            parked.settle(store.current)
            history.note(begun, len(events), "plan", state)

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        config = ConfigStore.open(root / "etc" / "config.json", environ={}).current
        parked = ParkedPlans.open(root / "data" / "parked-plans.json")
        active = [plan for plan in config.plans if plan.id == "mine"]
        waiting = [entry.plan for entry in parked.all()]
        if active:  # it may still be in the other file too: the configuration counts
            history.compare({"plan": "active"}, at)
            parked.settle(config)
            assert not parked.all()
        elif waiting:
            history.compare({"plan": "parked"}, at)
        else:
            raise Lost("the user's plan is nowhere")
        assert list((active or waiting)[0].paths) == ["/home"]


class Pushes:
    """Pushes come, go out, are answered and dropped, the newest ones too: no number is given out twice."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        queue = PushQueue.open(root / "data" / "pushes.json")
        history.look = lambda: self._look(queue)
        for work in (
            lambda: queue.add(CLIENT, "laptop", self._message("one")),
            lambda: queue.add(CLIENT, "laptop", self._message("two" * 400)),
            lambda: queue.sent(1),
            lambda: queue.answer(1, "refused", [refusals.text("no")]),
            lambda: queue.see(1),
            lambda: queue.add(HOST, "hub", self._message("three")),
            lambda: queue.drop(2),
            lambda: queue.drop(3),
        ):
            history.call(work)

    @staticmethod
    def _message(uri: str) -> Any:
        message = SetConfig()
        message.repos.add(id="r", uri=uri, password="secret")
        return message

    @staticmethod
    def _look(queue: PushQueue) -> dict[Hashable, Any]:
        waiting = {push.id: ("waits", push.sent, codec.to_dict(push.message)) for push in queue.waiting()}
        return waiting | {one.id: (one.result, one.refused, one.seen) for one in queue.answered()}

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        path = root / "data" / "pushes.json"
        queue = PushQueue.open(path)
        history.compare(self._look(queue), at)
        if work_on:
            push = queue.add(CLIENT, "laptop", self._message("after"))
            if push.id <= max((number for number, _ in history.acknowledged(at)), default=0):
                raise Lost(f"number {push.id} was given out before")
            assert self._look(PushQueue.open(path)) == self._look(queue)


class SharedAddresses:
    """The addresses of shared repositories: given, taken back, thrown away with a client."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        shares = Shares.open(root / "data" / "shares.json")
        history.look = lambda: self._look(shares)
        config = Config()
        config.repos.add(id="r", guid=GUIDS[0])
        config.multihost.authorized_clients.add(instance_id="laptop", keyid=CLIENT)
        for work in (
            lambda: shares.set(GUIDS[0], {CLIENT: "/one", ELSEWHERE: "/two"}),
            lambda: shares.set(GUIDS[1], {CLIENT: "/three" * 300}),
            lambda: shares.set(GUIDS[0], {CLIENT: "/four"}),
            lambda: shares.set(GUIDS[1], {CLIENT: None}),
            lambda: shares.note(CLIENT, {GUIDS[1]: Ended(1, "terms")}),
            lambda: shares.prune(config),
        ):
            history.call(work)

    @staticmethod
    def _look(shares: Shares) -> dict[Hashable, Any]:
        uris = {(guid, keyid): uri for guid in GUIDS for keyid, uri in shares.of_repo(guid).items()}
        return uris | {(guid, "ended"): one for guid, one in shares.ended(CLIENT).items()}

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        path = root / "data" / "shares.json"
        shares = Shares.open(path)
        history.compare(self._look(shares), at)
        if work_on:
            shares.set(GUIDS[1], {ELSEWHERE: "/after"})
            assert self._look(Shares.open(path)) == self._look(shares)


class Program:
    """All of it in one data directory that was not there: what ``init`` and a first ``serve`` do, with a restart."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        history.look = lambda: everything.look()
        for turn in range(2):  # the second time with a saved index
            everything = _Everything(self._paths(root))
            for work in everything.steps(turn):
                history.call(work)
            everything.close()

    @staticmethod
    def _paths(root: Path) -> Paths:
        return Paths(root / "etc" / "config.json", root / "share" / "data")

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        paths = self._paths(root)
        with DirLock(paths):
            everything = _Everything(paths)
            found = everything.look()
            everything.close()
        history.compare(found, at)


class _Everything:
    """Every store of a data directory, open."""

    def __init__(self, paths: Paths) -> None:
        private_dir(paths.data_dir)
        self.trail_path = paths.audit
        self.config = ConfigStore.open(paths.config_file, environ={})
        self.log = OpLog.open(paths.oplog)
        self.trail = AuditLog.open(paths.audit)
        self.peers = PeerStore.open(paths.peers)
        self.parked = ParkedPlans.open(paths.parked_plans)
        self.pushes = PushQueue.open(paths.pushes)
        self.shares = Shares.open(paths.shares)
        self._written = self._peers()

    def _peers(self) -> int:
        return len(self.peers.all())

    def steps(self, turn: int) -> list[Callable[[], object]]:
        """Each makes one file hold one thing more."""
        removal = Removal(
            wire.config.Multihost.Peer(),
            (wire.config.Repo(id="theirs", guid="b" * 64, origin_instance_id="hub"),),
            (wire.config.Plan(id=f"p{turn}", repo="theirs"),),
        )
        return [
            lambda: self.config.transform(lambda draft: setattr(draft, "instance", f"me{turn}")),
            lambda: self.trail.append("told", n=turn),
            lambda: self.log.add([op()]),
            lambda: self._flush(f"k{turn}"),
            lambda: self.parked.park(removal),
            lambda: self.pushes.add(CLIENT, "laptop", SetConfig()),
            lambda: self.shares.set(GUIDS[0], {f"k{turn}": "/there"}),
        ]

    def _flush(self, keyid: str) -> None:
        self.peers.update(keyid)
        self.peers.flush()
        self._written = self._peers()

    def look(self) -> dict[Hashable, Any]:
        found = {
            "instance": self.config.current.instance,
            "audit": sum(entry["event"] == "told" for entry in audit.read(self.trail_path)),
            "log": self.log.count(),
            "peers": self._written,
            "parked": len(self.parked.all()),
            "pushes": len(self.pushes.waiting()),
            "shares": len(self.shares.of_repo(GUIDS[0])),
        }
        return {name: value for name, value in found.items() if value}

    def close(self) -> None:
        self.log.close()
        self.trail.close()

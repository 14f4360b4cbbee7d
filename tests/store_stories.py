"""What the stores do while the power fails: a story for each, with the look at what is left (store_crash.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from oplog_world import OTHER, PEER, everything, op, received
from store_crash import History, Lost

from backrest import wire
from backrest.errors import CorruptError
from backrest.store import audit
from backrest.store.audit import AuditLog
from backrest.store.config import ConfigStore, load
from backrest.store.files import DirLock, Paths, atomic_write, private_dir, read_file
from backrest.store.oplog import OpLog, Query
from backrest.store.peers import PeerStore
from backrest.store.removal import ParkedPlans, remove_peer
from backrest.wire import codec

Config = wire.config.Config
HOST = "ed25519." + "A" * 43


def held(log: OpLog) -> dict[Hashable, Any]:
    """Every operation by its id; cheaper than ``everything``, which also compares the ways to ask."""
    return {operation.id: operation for operation in log.query(Query())}


class Operations:
    """The operation log: adding, updating, deleting, what peers send, purging, closing and opening again."""

    name = "oplog.jsonl"

    def prepare(self, root: Path) -> None:
        pass

    def steps(self, log: OpLog) -> list[Callable[[], object]]:
        return [
            lambda: log.add([op(), op(display_message="two")]),
            lambda: log.apply(PEER, [received(n, n, flow_id=1 + n // 2) for n in range(1, 7)]),
            lambda: log.update([log.get(1)]),
            lambda: log.delete([2]),
            lambda: log.apply(OTHER, [received(1), received(2)]),
            lambda: log.apply(PEER, [received(1, 9, plan_id="music"), received(9)], [2, 3]),
            lambda: log.purge(OTHER),
            lambda: log.add([op(display_message="long" * 400)]),
        ]

    def run(self, root: Path, history: History) -> None:
        log = OpLog.open(root / self.name)
        history.look = lambda: held(log)
        for work in self.steps(log):
            history.call(work)
        highest = log.highest
        log.close()
        again = OpLog.open(root / self.name)
        assert again.highest == highest
        history.look = lambda: held(again)
        history.call(lambda: again.delete([highest[0]]))
        history.call(lambda: again.add([op()]))
        self.go_on(again, history)
        again.close()

    def go_on(self, log: OpLog, history: History) -> None:
        pass

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        log = OpLog.open(root / self.name)
        found: dict[Hashable, Any] = dict(everything(log))
        history.compare(found, at)
        if work_on:
            told = [value for _, value in history.acknowledged(at)]
            [new] = log.add([op()])
            number = max((operation.id for operation in told), default=0)
            own = [operation.modno for operation in told if not operation.original_instance_keyid]
            if new.id <= number or new.modno <= max(own, default=0):
                raise Lost(f"id {new.id} or modno {new.modno} was given out before")
            assert log.apply("ed25519.third", [received(5, flow_id=4)]).stored == [new.id + 1]
            log.delete([new.id])
            found = dict(everything(log))
        log.close()
        log = OpLog.open(root / self.name)
        assert held(log) == found
        log.close()


class Compacting(Operations):
    """The same, and compaction with writes in its midst, twice."""

    def go_on(self, log: OpLog, history: History) -> None:
        call = history.call

        def meanwhile(done: int, total: int) -> None:
            call(lambda: log.add([op(display_message=f"{done} of {total}")]))
            call(lambda: log.delete([log.highest[0] - 1, 1]))
            call(lambda: log.apply(PEER, [received(4, 20 + done)]))

        call(lambda: log.compact(meanwhile))
        call(lambda: log.add([op()]))
        call(lambda: log.delete([log.highest[0]]))
        call(lambda: log.compact())  # the highest id and modno are in the marks alone then
        call(lambda: log.apply(PEER, [received(30)]))


class Together(Operations):
    """Three threads write at once, and share their commits."""

    def run(self, root: Path, history: History) -> None:
        log = OpLog.open(root / self.name)
        events = history.recorder.events
        start = threading.Barrier(3)
        told = threading.Lock()

        def note(begun: int, number: int, value: Any) -> None:
            ended = len(events)
            with told:
                history.note(begun, ended, number, value)

        def write(name: str) -> None:
            start.wait()
            for turn in range(4):
                begun = len(events)
                first, second = log.add([op(plan_id=name), op(plan_id=name)])
                note(begun, first.id, first)
                note(begun, second.id, second)
                if turn == 2:
                    begun = len(events)
                    log.delete([first.id])
                    note(begun, first.id, None)

        threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log.close()


class Torn(Operations):
    """Opening a log whose last write an earlier power cut left unfinished."""

    def prepare(self, root: Path) -> None:
        log = OpLog.open(root / self.name)
        log.add([op(), op()])
        self.kept = held(log)
        log.close()
        with (root / self.name).open("ab") as file:
            file.write(b' {"deleted":["1"]}\n{"id":"9","modno"\n{"id":"1')

    def run(self, root: Path, history: History) -> None:
        for number, operation in self.kept.items():
            history.note(-1, 0, number, operation)
        log = OpLog.open(root / self.name)
        history.look = lambda: held(log)
        assert log.meta(1) is None  # the first line of that write is whole
        history.note(-1, len(history.recorder.events), 1, None)
        history.call(lambda: log.add([op()]))
        log.close()


class Indexed(Operations):
    """Opening and closing with a saved index, which is replaced without syncs; a compaction."""

    def prepare(self, root: Path) -> None:
        log = OpLog.open(root / self.name)
        log.add([op(), op(), op()])
        self.kept = held(log)
        log.close()
        assert (root / "oplog.index").exists()

    def run(self, root: Path, history: History) -> None:
        for number, operation in self.kept.items():
            history.note(-1, 0, number, operation)
        log = OpLog.open(root / self.name)
        history.look = lambda: held(log)
        history.call(lambda: log.delete([3]))
        history.call(log.compact)
        history.call(lambda: log.add([op(display_message="longer than the index knew it" * 99)]))
        log.close()


class Repairing:
    """``oplog repair`` of a log with a bad line: the old file, or a good one with the bad line beside it."""

    name = "oplog.jsonl"
    bad = b"# this is rot\n"

    def prepare(self, root: Path) -> None:
        log = OpLog.open(root / self.name)
        log.add([op(), op()])
        log.apply(PEER, [received(1), received(2)])
        log.delete([2])
        self.kept, self.highest = held(log), log.highest
        log.close()
        lines = (root / self.name).read_bytes().splitlines(keepends=True)
        (root / self.name).write_bytes(b"".join([*lines[:2], self.bad, *lines[2:]]))

    def run(self, root: Path, history: History) -> None:
        assert OpLog.repair(root / self.name).bad_lines == 1
        history.note(0, len(history.recorder.events), "repaired", True)

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        path = root / self.name
        try:
            log = OpLog.open(path)
        except CorruptError:
            if history.allowed("repaired", at) == [True]:
                raise Lost("the repair was done") from None
            assert self.bad in path.read_bytes()
            OpLog.repair(path)
            log = OpLog.open(path)
        assert held(log) == self.kept
        assert all(new >= old for new, old in zip(log.highest, self.highest, strict=True))
        log.close()
        if not any(self.bad == other.read_bytes() for other in root.glob(f"{self.name}.bad-*")):
            raise Lost("the bad line is nowhere")


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
        return {"config": codec.to_dict(store.current)} if store.path.exists() else {}

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
        assert told == sorted(told)
        history.compare(dict.fromkeys(told, True), at)
        lines = audit.verify(path)
        if work_on:
            log = AuditLog.open(path)
            log.append("after")
            log.close()
            assert audit.verify(path) == lines + 1


class Parking:
    """A host is removed, the user's plan on its repo is parked, and comes back with the repo."""

    def prepare(self, root: Path) -> None:
        def change(config: Config) -> None:
            config.instance = "me"
            config.repos.add(id="theirs", uri="/b", guid="b" * 64, origin_instance_id="hub")
            config.plans.add(id="mine", repo="theirs", paths=["/home"])
            config.multihost.known_hosts.add(instance_id="hub", keyid=HOST, instance_url="http://h")

        ConfigStore.open(root / "config.json", environ={}).transform(change)

    def run(self, root: Path, history: History) -> None:
        store = ConfigStore.open(root / "config.json", environ={})
        parked = ParkedPlans.open(root / "parked-plans.json")
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
        config = ConfigStore.open(root / "config.json", environ={}).current
        parked = ParkedPlans.open(root / "parked-plans.json")
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


class SmallFiles:
    """Two files that are replaced as a whole, as shares.json, pushes.json and whatever else is written so."""

    def prepare(self, root: Path) -> None:
        atomic_write(root / "pushes.json", b"old")

    def run(self, root: Path, history: History) -> None:
        history.note(-1, 0, "pushes.json", b"old")
        history.look = lambda: {
            path.name: path.read_bytes() for path in root.glob("*.json") if path.read_bytes() != b"old"
        }
        for content in (b"one", b"second" * 300, b"", b"last"):
            history.call(lambda content=content: atomic_write(root / "shares.json", content))  # type: ignore[misc]
            history.call(lambda content=content: atomic_write(root / "pushes.json", content))  # type: ignore[misc]

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        found: dict[Hashable, Any] = {path.name: read_file(path) for path in root.glob("*.json")}
        history.compare(found, at)
        if work_on:
            atomic_write(root / "shares.json", b"after")
            assert read_file(root / "shares.json") == b"after"


class Program:
    """All of it in one data directory that was not there: what ``init`` and a first ``serve`` do."""

    def prepare(self, root: Path) -> None:
        pass

    def run(self, root: Path, history: History) -> None:
        paths = Paths(root / "etc" / "config.json", root / "share" / "data")
        events = history.recorder.events
        private_dir(paths.data_dir)
        config = ConfigStore.open(paths.config_file, environ={})
        log = OpLog.open(paths.oplog)
        trail = AuditLog.open(paths.audit)
        peers = PeerStore.open(paths.peers)
        for number in range(2):
            begun = len(events)
            config.transform(lambda draft: setattr(draft, "instance", f"me{number}"))  # noqa: B023
            history.note(begun, len(events), "instance", f"me{number}")
            begun = len(events)
            trail.append("told", n=number)
            history.note(begun, len(events), "audit", number + 1)
            begun = len(events)
            log.add([op()])
            history.note(begun, len(events), "log", number + 1)
            peers.update(f"k{number}")
            begun = len(events)
            peers.flush()
            history.note(begun, len(events), "peers", number + 1)
        log.close()
        trail.close()

    def check(self, root: Path, history: History, at: int, *, work_on: bool = True) -> None:
        paths = Paths(root / "etc" / "config.json", root / "share" / "data")
        with DirLock(paths):
            config = ConfigStore.open(paths.config_file, environ={})
            log = OpLog.open(paths.oplog)
            trail = AuditLog.open(paths.audit)
            peers = PeerStore.open(paths.peers)
            found = {
                "instance": config.current.instance or None,
                "audit": sum(entry["event"] == "told" for entry in audit.read(paths.audit)) or None,
                "log": log.count() or None,
                "peers": len(peers.all()) or None,
            }
            log.close()
            trail.close()
        history.compare(found, at)

"""A hostile random peer, hundreds of seeded sessions in each role (``--hostile-sessions 10000 --timeout 0``: all).

A model that shares no code with the program judges after each session: the hostile peer got and changed nothing that
its permissions do not give, the session of another peer never ended, nothing went wrong inside, and at the end
nothing has grown.
"""

from __future__ import annotations

import gc
import logging
import pathlib
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from hostile_peer import Item, Mischief, Wire
from sync_world import GUID, Instance, Pipe, World, pipes
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.crypto.channel import Initiator, respond
from backrest.crypto.identity import Identity
from backrest.permissions import parse_grant
from backrest.store.oplog import Query

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
BLOCK = 25  # sessions after one another under the same terms, as a hub
# Bytes that may be added after a tenth of the sessions: in all, since caches fill up (Python's own of attributes keeps
# 4,096 names of some 55 bytes that C code looks up), and for each session less than any object that it would leave.
GROWTH = 250_000
GROWTH_A_SESSION = 32
Operation = wire.operations.Operation
Config = wire.config.Config

GUIDS = {
    "open": "1" * 64,
    "closed": "2" * 64,
    "gift": "3" * 64,
    "kept": "4" * 64,
    "mine": "5" * 64,
    "new": "6" * 64,
}
NAMES = {
    "repo": [*GUIDS, "other", "private"],
    "guid": [*GUIDS.values(), GUID, "7" * 64],
    "plan": ["open", "closed", "mine", "new", "photos", "_system_"],
    "instance": ["hub", "laptop", "evil", "witness", "new"],
}


def secret(place: str) -> str:
    return f"planted-{place}-secret"


SECRETS = {place: secret(place) for place in (*GUIDS, "plan-open", "plan-closed")} | {
    "token": "70c3" * 16,
    "pairing": "9a17" * 16,  # with a third machine
}


def furnish(config: Config) -> bool:
    """Repos and plans, each with secrets that name it; ``gift`` and ``kept`` are shared."""
    for place in ("open", "closed", "gift", "kept", "mine"):
        config.repos.add(
            id=place,
            guid=GUIDS[place],
            uri=f"rest:https://u:{secret(place)}@nas.example/{place}",
            password=secret(place),
            env=[f"AWS_SECRET_ACCESS_KEY={secret(place)}"],
            shared=place in ("gift", "kept"),
        )
    for place in ("open", "closed", "mine"):
        plan = config.plans.add(id=place, repo=place, paths=[f"/{place}"])
        plan.hooks.add(conditions=[1]).action_slack.webhook_url = f"https://h/{secret(f'plan-{place}')}"
    return True


@dataclass(frozen=True)
class Rights:
    """One set of permissions, and what they give, said once more in the model's own words."""

    grants: tuple[str, ...]
    sees: frozenset[str] = frozenset()  # repos in a view
    sees_plans: frozenset[str] = frozenset()
    receives: frozenset[str] = frozenset()  # secrets that it may have
    writes: frozenset[str] = frozenset()  # ids of repos and plans that it may change
    accepts_shared: bool = False
    operation: Callable[[Operation], bool] = lambda _: False


ALL = frozenset({"open", "closed", "gift", "kept", "mine"})
RIGHTS = (
    Rights(()),
    Rights(("read-operations=*,!repo:private,!plan:closed",), operation=lambda op: not _private(op)),
    Rights(("read-operations=repo:open,plan:photos",), operation=lambda op: _listed(op)),
    Rights(("read-config=repo:open,plan:open",), sees=frozenset({"open"}), sees_plans=frozenset({"open"})),
    Rights(
        ("read-config=!repo:closed", "receive-shared-repos=repo:gift"),
        sees=frozenset({"open", "gift", "kept", "mine"}),
        sees_plans=frozenset({"open", "mine"}),
        receives=frozenset({"gift"}),
        accepts_shared=True,
    ),
    Rights(
        ("read-write-config=repo:mine,plan:mine", "read-operations=*"),
        sees=frozenset({"mine"}),
        sees_plans=frozenset({"mine"}),
        writes=frozenset({"mine"}),
        operation=lambda _: True,
    ),
    Rights(
        ("read-operations=*", "receive-shared-repos=*"),
        receives=frozenset({"gift", "kept"}),
        accepts_shared=True,
        operation=lambda _: True,
    ),
)


def _private(op: Operation) -> bool:
    return op.repo_id == "private" or op.plan_id == "closed"


def _listed(op: Operation) -> bool:
    return op.repo_id == "open" or op.plan_id == "photos"


class Log(logging.Handler):
    """What the program logs: secrets in it, and mistakes, are kept; lines are counted; nothing else is."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        text = record.getMessage()
        if record.exc_info or any(one in text for one in SECRETS.values()):
            self.bad.append(self.format(record))


@contextmanager
def logged() -> Iterator[Log]:
    log = Log()
    logger = logging.getLogger("backrest")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # pytest keeps all it sees: that would be what grows
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
        logger.propagate = propagate


class Ruler:
    """Memory and tasks after a tenth of the sessions, and at the end; each time when no session of the peer is on.

    What a session holds while it goes on (a manifest of 20,000 ids) would be taken for growth, or would hide some.
    """

    def __init__(self, sessions: int) -> None:
        self.after = max(sessions // 10 // BLOCK * BLOCK, BLOCK)
        self.sessions = sessions
        self.tasks = self.memory = 0

    def look(self) -> None:
        self.tasks, self.memory = _tasks(), _memory()

    def judge(self) -> None:
        if not self.memory:
            return  # a run of a few sessions, to look at one of them
        grown, most = _memory() - self.memory, GROWTH + GROWTH_A_SESSION * (self.sessions - self.after)
        assert grown < most, f"{grown} bytes more than after {self.after} sessions, of at most {most}"
        assert _tasks() <= self.tasks, "tasks are left over"


def _memory() -> int:
    """Without what is allocated in pathlib: the interpreter's own table of names, which doubles at times."""
    gc.collect()
    taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
    return sum(statistic.size for statistic in taken.statistics("filename"))


def _tasks() -> int:
    def count(task: trio.lowlevel.Task) -> int:
        return 1 + sum(count(child) for nursery in task.child_nurseries for child in nursery.child_tasks)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return count(root)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def others(config: Config, rights: Rights, sender: str = "") -> bytes:
    """What of a configuration the peer may not change: all but what is its own to write, or came from it."""
    rest = Config()
    rest.CopyFrom(config)
    rest.modno = 0
    del rest.repos[:], rest.plans[:], rest.multihost.authorized_clients[:], rest.multihost.known_hosts[:]
    for repo in config.repos:
        if repo.id not in rights.writes and not (
            rights.accepts_shared and sender and repo.origin_instance_id == sender
        ):
            rest.repos.append(repo)
    rest.plans.extend(plan for plan in config.plans if plan.id not in rights.writes)
    return bytes(rest.SerializeToString(deterministic=True))


def judge_heard(end: Wire, rights: Rights) -> None:
    """Nothing secret in any byte that came, and no view of what is not in reach."""
    everything = b"\n".join(end.plain)
    for place, text in SECRETS.items():
        assert place in rights.receives or text.encode() not in everything, f"got the secret of {place}"
    for item in end.heard:
        if item.HasField("receive_config"):
            assert {r.id for r in item.receive_config.config.repos} & ALL <= rights.sees
            assert {p.id for p in item.receive_config.config.plans} & ALL <= rights.sees_plans


# --- as a client of our hub


class HostileClient:
    """Sessions with a hub, under one key and name, in every mood."""

    def __init__(self, world: World, hub: Instance, index: int) -> None:
        self.world, self.hub = world, hub
        self.identity = Identity.generate()
        self.name = f"evil{index}"
        self.left_open: list[trio.CancelScope] = []

    def authorize(self, rights: Rights) -> None:
        def add(config: Config) -> bool:
            config.multihost.authorized_clients.add(
                instance_id=self.name,
                keyid=self.identity.keyid,
                permissions=[parse_grant(grant) for grant in rights.grants],
            )
            return True

        self.hub.config.transform(add)

    async def session(self, draw: random.Random, names: dict[str, list[str]]) -> Wire:
        here, there = pipes()
        there.codec = codec = draw.choice(("proto", "proto", "json"))
        packed = draw.random() < 0.2
        there.encoding = "gzip" if packed else "identity"
        there.client = f"192.0.2.{draw.randint(1, 250)}"
        assert self.world.nursery is not None
        self.world.nursery.start_soon(self.world._serve, self.hub, there)
        end, mischief = Wire(here, draw, codec=codec, packed=packed), Mischief(draw, names)
        with trio.move_on_after(60), suppress(OSError):
            await self._opening(end, mischief)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end.listen)
                await _talk(end, mischief)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        await _leave(end, draw)
        return end

    async def _opening(self, end: Wire, mischief: Mischief) -> None:
        """To an open channel, mostly."""
        draw, initiator = end.draw, Initiator()
        mood = draw.random()
        if mood < 0.03:
            await end.pipe.send(draw.randbytes(draw.randint(1, 3000)))
            return
        if mood < 0.05:
            await end.clear(mischief.item())
            return
        key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=initiator.public_key)
        if mood < 0.08:
            key.protocol_version = draw.choice((0, 2, 2**32 - 1))
        elif mood < 0.1:
            key.kem_public_key = mischief.mutated(key.kem_public_key)
        await end.clear(Item(establish_shared_secret=key))
        answer = await end.receive()
        if answer is None or not answer.HasField("establish_shared_secret"):
            return
        end.channel = initiator.finish(answer.establish_shared_secret.kem_encapsulation)
        mood = draw.random()
        if mood < 0.85:
            await end.say(end.handshake(self.identity, self.name))
        elif mood < 0.88:  # a stranger who guesses
            await end.say(end.handshake(Identity.generate(), "stranger", draw.randbytes(32).hex()))
        elif mood < 0.91:  # its key, another's name
            await end.say(end.handshake(self.identity, draw.choice(("witness", "hub", "", "evil0"))))
        elif mood < 0.94:
            await end.say(mischief.mutated(end.handshake(self.identity, self.name)))
        elif mood < 0.97:
            await end.say(mischief.item().SerializeToString())


async def _talk(end: Wire, mischief: Mischief) -> None:
    """Up to a dozen items, right and wrong."""
    draw = end.draw
    for _ in range(draw.randint(0, 12)):
        if end.channel is None:
            return
        mood = draw.random()
        if mood < 0.88:
            await end.say(mischief.item().SerializeToString())
        elif mood < 0.93:
            await end.say(mischief.mutated(mischief.item().SerializeToString()))
        elif mood < 0.96:
            await end.misbehave(mischief)
        else:
            await wait_all_tasks_blocked()
        if draw.random() < 0.03:
            await trio.sleep(draw.choice((0.1, 3, 20)))  # simulated


async def _leave(end: Wire, draw: random.Random) -> None:
    mood = draw.random()
    if mood < 0.5:
        end.pipe.close()
    elif mood < 0.9:
        end.pipe.break_off()
    # else left as it is: silent and open, until the other side gives it up


async def _settled(pipe: Pipe) -> None:
    pipe.close()
    await wait_all_tasks_blocked()


def forget_sent(steady: Pipe) -> None:
    """The one session that outlives everything: what our pipes keep of it is not the program's memory."""
    for pipe in (steady, steady.other):
        pipe.sent.clear()


@asynccontextmanager
async def witness_of(world: World, hub: Instance, *grants: str) -> AsyncIterator[Instance]:
    """A client of ours, paired and connected, with some history: its session must outlive everything."""
    witness = world.instance("witness")
    witness.add_host(hub.token(*grants or ("read-operations=*", "receive-shared-repos=*")))
    witness.oplog.add([witness.operation(display_message=f"w{n}") for n in range(5)])
    async with witness.running():
        await witness.until_peer(hub, CONNECTED)
        await hub.until_history(witness)
        yield witness


async def test_a_hostile_client_gets_and_changes_nothing_that_is_not_its_own(
    autojump_clock: MockClock, world: World, traced: None, pytestconfig: pytest.Config
) -> None:
    sessions = pytestconfig.getoption("hostile_sessions")
    seed = pytestconfig.getoption("hostile_seed")
    hub = world.instance("hub")
    hub.config.transform(furnish)
    hub.oplog.add([hub.operation(display_message=f"h{n}") for n in range(5)])
    peers = [HostileClient(world, hub, n) for n in range(len(RIGHTS))]
    ruler = Ruler(sessions)
    with logged() as log:
        async with hub.running(), witness_of(world, hub) as witness:
            for peer, rights in zip(peers, RIGHTS, strict=True):
                peer.authorize(rights)
            hub.token(label="spare")

            def plant(config: Config) -> bool:
                config.multihost.pairing_tokens[-1].secret = SECRETS["token"]
                return True

            hub.config.transform(plant)
            SECRETS["identity"] = hub.config.current.multihost.identity.ed25519priv
            names = NAMES | {"key": [hub.keyid, witness.keyid, *(p.identity.keyid for p in peers)]}
            own, held = hub.history(), hub.history(witness)
            multihost = hub.config.current.multihost.SerializeToString(deterministic=True)
            open_pipes: list[Pipe] = []
            [steady] = world.connections
            for n in range(sessions):
                draw = random.Random(f"{seed}/{n}")
                index = draw.randrange(len(peers))
                peer, rights = peers[index], RIGHTS[index]
                before = others(hub.config.current, rights)
                end = await peer.session(draw, names)
                open_pipes.append(end.pipe)
                if len(open_pipes) > 20:
                    open_pipes.pop(0).close()
                await wait_all_tasks_blocked()

                note = f"seed {seed}, session {n}, {rights.grants}"
                judge_heard(end, rights)
                assert others(hub.config.current, rights) == before, note
                now = hub.config.current.multihost.SerializeToString(deterministic=True)
                assert now == multihost, note
                for op in hub.oplog.query(Query(origin=peer.identity.keyid)):
                    assert rights.operation(op), f"{note}: {op}"
                    assert op.original_instance_keyid == peer.identity.keyid, note
                assert hub.history() == own, note
                assert hub.history(witness) == held, note
                assert len(world.dials) == 1, f"{note}: the session of another peer was ended"
                assert hub.peer(witness).state == CONNECTED, note
                assert not log.bad, f"{note}: {log.bad}"
                forget_sent(steady)
                if n % 100 == 99:
                    restore_mine(hub)
                if n + 1 in (ruler.after, sessions):
                    del end
                    while open_pipes:
                        await _settled(open_pipes.pop())
                    await trio.sleep(3000)  # what was left silent is given up
                    forget_sent(steady)
                    if n + 1 == ruler.after:
                        ruler.look()
            ruler.judge()
            assert set(hub.hub._live) == {witness.keyid}
            assert len(hub.hub._links) == 1
            assert sum(hub.hub._gate._users.values()) == 1  # the witness
            assert len(hub.hub._storing) <= len(peers) + 1
            assert len(hub.peers.all()) <= len(peers) + 1
            # And the hub still works.
            witness.oplog.add([witness.operation(display_message="after all")])
            await hub.until_history(witness)
    assert not log.bad
    text = hub.paths.audit.read_text()
    hub.peers.flush()
    text += hub.paths.peers.read_text()
    assert not [place for place, one in SECRETS.items() if one in text]
    hub.oplog.close()
    hub.open()  # and what is on disk can be read
    assert hub.history() == own


def restore_mine(instance: Instance) -> None:
    """The admin puts back what those who may have changed."""

    def again(config: Config) -> bool:
        fresh = Config()
        furnish(fresh)
        for here, good in ((config.repos, fresh.repos), (config.plans, fresh.plans)):
            for one in [one for one in here if one.id in ("mine", "new") or _came(one)]:
                here.remove(one)
            here.extend(one for one in good if one.id == "mine")
        return True

    instance.config.transform(again)


def _came(one: Any) -> bool:
    return bool(getattr(one, "origin_instance_id", "") == "evil")


# --- as a hub of our client


class HostileHub:
    """Takes the place of the hub ``evil`` in the world."""

    def __init__(self, world: World, seed: str) -> None:
        self.identity = Identity.generate()
        self.keyid = self.identity.keyid
        self.hub = self
        self.seed = seed
        self.served = 0
        self.names: dict[str, list[str]] = {}
        self.disturb: Callable[[random.Random], None] = lambda _: None
        self.send, self.ended = trio.open_memory_channel[Wire](0)
        world.up["evil"] = self  # type: ignore[assignment]

    async def serve(self, pipe: Pipe) -> None:
        draw = random.Random(f"{self.seed}/{self.served}")
        self.served += 1
        end = Wire(pipe, draw)
        with trio.move_on_after(60), suppress(OSError):
            await self._session(end, Mischief(draw, self.names))
        if draw.random() < 0.5:
            await pipe.send(b"\x02\x00\x00\x00\x02{}") if draw.random() < 0.5 else pipe.break_off()
        with suppress(trio.BrokenResourceError):  # the test is over
            await self.send.send(end)

    async def _session(self, end: Wire, mischief: Mischief) -> None:
        draw = end.draw
        first = await end.receive()
        if first is None:
            return
        mood = draw.random()
        if mood < 0.03:
            await end.pipe.send(draw.randbytes(draw.randint(1, 3000)))
            return
        encapsulation, end.channel = respond(first.establish_shared_secret.kem_public_key)
        answer = Item.SyncEstablishSharedSecret(protocol_version=1, kem_encapsulation=encapsulation)
        if mood < 0.05:
            answer.protocol_version = 2
        elif mood < 0.08:
            answer.kem_encapsulation = mischief.mutated(encapsulation)
        await end.clear(Item(establish_shared_secret=answer))
        mood = draw.random()
        if mood < 0.88:
            await end.say(end.handshake(self.identity, "evil"))
        elif mood < 0.9:
            await end.say(end.handshake(self.identity, "good"))
        elif mood < 0.92:
            await end.say(end.handshake(Identity.generate(), "evil"))
        elif mood < 0.94:
            await end.say(mischief.mutated(end.handshake(self.identity, "evil")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.listen)
            if draw.random() < 0.9:
                await end.say(Item(receive_config=Item.SyncActionReceiveConfig()).SerializeToString())
            await wait_all_tasks_blocked()
            self.disturb(draw)
            await _talk(end, mischief)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


HUB_RIGHTS = (
    *RIGHTS,
    Rights(
        ("read-write-config=repo:mine,plan:mine", "receive-shared-repos"),
        sees=frozenset({"mine"}),
        sees_plans=frozenset({"mine"}),
        writes=frozenset({"mine"}),
        accepts_shared=True,
    ),
)


async def test_a_hostile_hub_gets_and_changes_nothing_that_is_not_its_own(
    autojump_clock: MockClock, world: World, traced: None, pytestconfig: pytest.Config
) -> None:
    sessions = pytestconfig.getoption("hostile_sessions")
    seed = pytestconfig.getoption("hostile_seed")
    good, client = world.instance("good"), world.instance("laptop")
    evil = HostileHub(world, seed)

    def share(config: Config) -> bool:
        config.repos.add(id="other", guid=GUID, uri="/srv/other", password=secret("kept"), shared=True)
        return True

    good.config.transform(share)
    client.config.transform(furnish)
    client.add_host(good.token())
    client.add_host(f"{Identity.generate().keyid}:{SECRETS['pairing']}#third")
    for place in ("open", "closed", "private"):
        client.oplog.add(
            [client.operation(repo_id=place, plan_id=plan) for plan in ("photos", "closed", "open")]
        )
    foreign = client.operation(id=3, modno=3, flow_id=3, repo_id="open", plan_id="photos")
    client.oplog.apply("ed25519.somebody", [foreign], [])
    SECRETS["identity"] = client.config.current.multihost.identity.ed25519priv
    evil.names = NAMES | {"key": [client.keyid, good.keyid, evil.keyid]}
    ruler = Ruler(sessions)
    with logged() as log:
        async with good.running(), client.running():
            await client.until_peer(good, CONNECTED)
            await good.until_history(client)

            def arrived() -> bool:
                return any(repo.origin_instance_id == "good" for repo in client.config.current.repos)

            await world.until(client.config.subscribe, arrived, bool)
            own = {op.id: (op.repo_id, op.plan_id) for op in client.oplog.query(Query(origin=""))}

            def disturb(draw: random.Random) -> None:
                if draw.random() < 0.5:  # live changes, in and out of scope
                    op = client.oplog.get(draw.choice(list(own)))
                    op.display_message = f"{draw.random()}"
                    client.oplog.update([op])

            evil.disturb = disturb
            world.dials.clear()
            [steady] = world.connections
            rights = RIGHTS[0]
            for n in range(sessions):
                if n % BLOCK == 0:
                    await part(client, evil)
                    restore_mine(client)
                    if n == ruler.after:
                        forget_sent(steady)
                        ruler.look()
                    rights = HUB_RIGHTS[n // BLOCK % len(HUB_RIGHTS)]
                    know(client, evil, rights)
                before = others(client.config.current, rights, "evil")
                end = await evil.ended.receive()
                await wait_all_tasks_blocked()
                world.connections.clear()

                note = f"seed {seed}, session {n}, {rights.grants}"
                judge_heard(end, rights if not rights.accepts_shared else without_gifts(rights))
                judge_sent(end, rights, own, client)
                now = client.config.current
                assert others(now, rights, "evil") == before, note
                for repo in now.repos:
                    if repo.origin_instance_id == "evil" and not rights.writes:
                        assert not runs_programs(repo), f"{note}: {repo}"
                assert {op.id for op in client.oplog.query(Query(origin=""))} == set(own), note
                assert not client.oplog.count(evil.keyid), note
                assert not any("good" in url for _, url in world.dials), f"{note}: another session was ended"
                world.dials.clear()
                assert client.peer(good).state == CONNECTED, note
                assert not log.bad, f"{note}: {log.bad}"
                del end
                forget_sent(steady)
                running = client.clients._running.get(evil.keyid)
                if running is not None:
                    running.host.nudge()
            await part(client, evil)
            restore_mine(client)
            forget_sent(steady)
            ruler.judge()
            assert len(client.clients._running) == 2
            client.oplog.add([client.operation(display_message="after all")])
            await good.until_history(client)
            evil.ended.close()
            del world.up["evil"]
    text = client.paths.audit.read_text() if client.paths.audit.exists() else ""
    client.peers.flush()
    text += client.paths.peers.read_text()
    assert not [place for place, one in SECRETS.items() if one in text]


async def part(client: Instance, evil: HostileHub) -> None:
    """The client knows the hub no longer; the session that went on under the terms of before is over."""
    forget(client, evil)
    with trio.move_on_after(100):
        while True:
            await evil.ended.receive()


def without_gifts(rights: Rights) -> Rights:
    """A hub never receives a secret of ours, whatever it grants to us."""
    return Rights(rights.grants, sees=rights.sees, sees_plans=rights.sees_plans)


def forget(client: Instance, evil: HostileHub) -> None:
    def remove(config: Config) -> bool:
        hosts = config.multihost.known_hosts
        for host in [host for host in hosts if host.keyid == evil.keyid]:
            hosts.remove(host)
        return True

    client.config.transform(remove)


def know(client: Instance, evil: HostileHub, rights: Rights) -> None:
    def add(config: Config) -> bool:
        config.multihost.known_hosts.add(
            instance_id="evil",
            keyid=evil.keyid,
            instance_url="http://evil:9898",
            initial_pairing_secret="5" * 64 if "read-config" in str(rights.grants) else "",
            permissions=[parse_grant(grant) for grant in rights.grants],
        )
        return True

    client.config.transform(add)


def judge_sent(end: Wire, rights: Rights, own: dict[int, tuple[str, str]], client: Instance) -> None:
    """What the client sent of its history: its own, and in scope."""
    for item in end.heard:
        event = item.receive_operations.event
        for op in (*event.created_operations.operations, *event.updated_operations.operations):
            assert rights.operation(op), f"{rights.grants}: {op}"
            assert (op.instance_id, op.original_instance_keyid) == (client.name, "")
        for op_id in (*item.operation_manifest.op_ids, *event.deleted_operations.values):
            repo_id, plan_id = own[op_id]
            assert rights.operation(Operation(repo_id=repo_id, plan_id=plan_id)), f"{rights.grants}: {op_id}"


def runs_programs(repo: wire.config.Repo) -> bool:
    return bool(
        repo.hooks
        or repo.HasField("command_prefix")
        or any("COMMAND" in entry or "LD_" in entry for entry in repo.env)
        or any("command" in flag or "option" in flag or flag == "'" for flag in repo.flags)
        or "ProxyCommand" in repo.uri
        or "rclone::" in repo.uri
        or "${" in repo.uri
    )

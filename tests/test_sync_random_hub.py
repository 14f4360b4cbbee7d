"""A hostile random hub of our client, hundreds of seeded sessions (``--hostile-sessions 10000 --timeout 0``: all).

After each the model (hostile_model.py) judges: it got and changed nothing that its permissions do not give, the session
with another hub never ended, nothing went wrong inside, and at the end nothing has grown.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from hostile_model import (
    BLOCK,
    CONNECTED,
    NAMES,
    RIGHTS,
    SECRETS,
    Rights,
    Ruler,
    forget_sent,
    furnish,
    judge_heard,
    logged,
    others,
    restore_mine,
    secret,
    talk,
)
from hostile_model import traced as traced
from hostile_peer import Item, Mischief, Wire
from sync_world import GUID, Instance, Pipe, World
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.crypto.channel import respond
from backrest.crypto.identity import Identity
from backrest.permissions import parse_grant
from backrest.store.oplog import Query

Operation = wire.operations.Operation
Config = wire.config.Config


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
            await talk(end, mischief)
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

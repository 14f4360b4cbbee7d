"""A hostile random client of our hub, hundreds of seeded sessions (``--hostile-sessions 10000 --timeout 0``: all).

After each the model (hostile_model.py) judges: it got and changed nothing that its permissions do not give, the session
of another client never ended, nothing went wrong inside, and at the end nothing has grown.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from hostile_model import (
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
    talk,
)
from hostile_model import traced as traced
from hostile_peer import Item, Mischief, Wire
from sync_world import Instance, Pipe, World, pipes
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.crypto.channel import Initiator
from backrest.crypto.identity import Identity
from backrest.permissions import parse_grant
from backrest.store.oplog import Query

Config = wire.config.Config


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
                await talk(end, mischief)
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
            assert not hub.hub._gate._users, "the witness is known, and in nobody's way"
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

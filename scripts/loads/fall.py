"""The hub falls: it is killed in the moment in which it says that it holds something, and started again.

Before that the newest operation is deleted and the hub compacts, so that the highest id it ever gave out is in no line
of its file any more. So whoever sees it fall sees two faults that no round shows: what it took as stored before it was,
and numbers that it forgets and gives out again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

import trio
from benchmarks.machines import Daemon, Machine
from shared.daemons import ask

from loads import look
from loads.good import Client
from loads.living import Living
from loads.scene import Scene

Until = Callable[
    [Callable[[], str], str, float], Awaitable[str]
]  # what is wrong, when, and s between two looks


class Ids:
    """Whose each id of the hub's log was, over all its lives."""

    def __init__(self, hub: Machine) -> None:
        self._hub = hub
        self._owners: dict[int, set[look.Owner]] = defaultdict(set)

    def look(self) -> None:
        """Blocking. Read those in the file as it is now: a compaction drops some."""
        for number, owners in look.owners(self._hub).items():
            self._owners[number] |= owners

    def twice(self, names: Mapping[str, str]) -> list[str]:
        """``names``: key id -> name."""
        twice = {number: owners for number, owners in self._owners.items() if len(owners) > 1}
        if not twice:
            return []
        number, owners = min(twice.items())
        whose = " and ".join(sorted(f"{names.get(keyid, 'the hub')}'s {theirs}" for keyid, theirs in owners))
        return [f"the hub gave out {len(twice)} of its ids twice, first {number}: to {whose}"]


async def fall(
    hub: Machine,
    daemon: Daemon,
    scene: Scene,
    client: Client,
    missing: Callable[[], str],
    until: Until,
    ids: Ids,
    living: Living,
) -> None:
    """``client`` is a good one, and alone; when this returns the daemon is dead. WrongError when the hub does not come
    to hold what it says."""

    def is_old() -> str:
        held = look.shown(hub, peer=client.identity.keyid).get(client.identity.keyid, {})
        modno, wanted = held.get(kept, (0, ""))[0], client.made[kept].modno
        return "" if modno == wanted else f"operation {kept} has the modno {modno}, not {wanted}"

    async with client.visit(scene, politely=False):
        kept, gone = await client.make(), await client.make()
        await until(missing, "before the hub was killed", look.LOOK_S)
        await trio.to_thread.run_sync(ids.look)
        await client.delete(gone)
        await until(missing, "before the hub was killed", look.LOOK_S)
        await living.in_time(ask, hub, "CompactOplog")
        await client.alter(kept)
        await until(is_old, f"before the hub was killed, of {client.name}", 0.0)
        living.kill(daemon)
    await trio.to_thread.run_sync(daemon.stop)

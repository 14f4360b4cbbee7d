"""One client that behaves, in a process of its own: how long does the hub take to answer it, whatever others do?

Reads its target from stdin, says how many seconds it took to be let in, and measures round trips until stdin ends: a
manifest with a new id, until the hub asks for that operation. Then it prints what each took, in milliseconds, and how
often it had to dial.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import Any

import httpx
import trio
from benchmarks.light import Item, Target

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.errors import BackrestError
from backrest.net.duplex import open_stream
from backrest.protocol import events
from backrest.protocol.session import Role, Session
from backrest.sync.link import Link

EACH_S = 0.05  # between two round trips
AGAIN_S = 0.2  # between two dials: a real client waits longer


class Pulse:
    def __init__(self, given: dict[str, Any]) -> None:
        self._target = Target(given["url"], given["keyid"], given["instance_id"])
        self._identity = Identity.from_seed(bytes.fromhex(given["seed"]))
        self._name, self._source = given["name"], given["source"]
        self._asked = trio.Event()
        self._number = 0
        self._began = time.monotonic()
        self.took: list[float] = []
        self._waits = 0.0  # since when an answer is due, or 0
        self.dials = 0
        self.inside = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_told, nursery.cancel_scope)
            while True:
                self.dials += 1
                try:
                    await self._visit()
                except* (BackrestError, OSError):
                    pass
                await trio.sleep(AGAIN_S)

    def count(self) -> None:
        """How long the answer took, or how long it has not come."""
        if self._waits:
            self.took.append(1000 * (time.monotonic() - self._waits))
            self._waits = 0.0

    async def _until_told(self, scope: trio.CancelScope) -> None:
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        scope.cancel()

    async def _visit(self) -> None:
        async def connect(url: httpx.URL) -> trio.abc.Stream:
            return await trio.open_tcp_stream(url.host, url.port or 80, local_address=self._source)

        headers = {"content-type": "application/connect+proto", "connect-protocol-version": "1"}
        async with open_stream(self._target.rpc, headers=headers, connect=connect) as stream:
            session = Session(
                Role.CLIENT,
                identity=self._identity,
                instance_id=self._name,
                now=trio.current_time(),
                expected_keyid=self._target.keyid,
                expected_instance_id=self._target.instance_id,
            )
            link = Link(session, stream)

            async def handle(event: events.Event) -> None:
                if isinstance(event, events.PeerIdentified):
                    config = Item.SyncActionReceiveConfig(config=wire.sync.RemoteConfig())
                    link.send_now("receive_config", config)
                    link.send_now("receive_resources", Item.SyncActionReceiveResources())
                elif isinstance(event, events.Established):
                    link.spawn(measure)
                elif isinstance(event, events.Received) and event.kind == "request_operation_data":
                    self._asked.set()

            async def measure() -> None:
                while True:
                    self._asked, self._waits = trio.Event(), time.monotonic()
                    self._number += 1
                    ids = [self._number]
                    manifest = Item.SyncActionOperationManifest(op_ids=ids, modnos=ids)
                    await link.send("operation_manifest", manifest)
                    await self._asked.wait()
                    self.count()
                    if not self.inside:
                        self.inside = True
                        print(time.monotonic() - self._began, flush=True)
                    await trio.sleep(EACH_S)

            await link.run(handle)


def main() -> None:
    pulse = Pulse(json.loads(sys.stdin.readline()))
    trio.run(pulse.run)
    pulse.count()
    with suppress(BrokenPipeError):  # whoever started this has given up on it, and said so
        print(json.dumps({"took": [round(one, 2) for one in pulse.took], "dials": pulse.dials}), flush=True)


if __name__ == "__main__":
    main()

"""Pairing tokens at the hub: who gets in at the limit, who wins the last use, what expires, what backups keep."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import trio
from stranger import Stranger, visitor
from sync_world import Instance, World, paired
from trio.testing import MockClock

from backrest import wire
from backrest.crypto.identity import Identity
from backrest.crypto.tokens import PairingToken, new_secret
from backrest.errors import Code, PeerError
from backrest.protocol.events import PeerIdentified
from backrest.store.config import ConfigStore
from backrest.sync import pairing
from backrest.sync.hub import Hub

NOW = 1_700_000_000


async def _try(world: World, hub: Instance, secret: str, name: str = "stranger") -> Stranger:
    stranger = visitor(world, hub, name)
    await stranger.shake_hands(secret)
    return stranger


async def _let_in(stranger: Stranger) -> None:
    while True:
        item = await stranger.hear()
        assert isinstance(item, wire.sync.SyncStreamItem), item
        if item.WhichOneof("action") == "receive_config":
            return


async def test_a_right_secret_gets_in_while_strangers_use_up_the_limit(
    autojump_clock: MockClock, world: World
) -> None:
    """Ten addresses that guess without pause must not keep everybody else from pairing."""
    hub = world.instance("hub")
    token = PairingToken.parse(hub.token())
    async with hub.running():
        heard = []
        for n in range(12):
            stranger = await _try(world, hub, new_secret(), f"guesser{n}")
            heard.append((await stranger.until_end()).message)
        assert "not valid" in heard[9]
        assert "too many failed pairings" in heard[10]
        assert "too many failed pairings" in heard[11]
        await _let_in(await _try(world, hub, token.secret, "laptop"))
        assert [c.instance_id for c in hub.config.current.multihost.authorized_clients] == ["laptop"]
        await trio.sleep(61)
        stranger = await _try(world, hub, new_secret())
        assert "not valid" in (await stranger.until_end()).message, "the minute is over"


async def test_a_short_secret_written_by_hand_is_not_exempt_from_the_limit(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    document = json.loads(hub.paths.config_file.read_text())
    document["sync"]["pairingTokens"] = [{"secret": "hunter2", "label": "mine"}]
    hub.paths.config_file.write_text(json.dumps(document))
    hub.open()
    async with hub.running():
        for n in range(10):
            await (await _try(world, hub, new_secret(), f"guesser{n}")).until_end()
        stranger = await _try(world, hub, "hunter2")
        assert "too many failed pairings" in (await stranger.until_end()).message
        assert not hub.config.current.multihost.authorized_clients


async def test_every_attempt_is_in_the_audit_log_without_its_secret(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    good, bad = PairingToken.parse(hub.token()).secret, new_secret()
    async with hub.running():
        await (await _try(world, hub, bad)).until_end()
        await _let_in(await _try(world, hub, good, "laptop"))
    events = [entry["event"] for entry in hub.audited()]
    assert "refused" in events
    assert "paired" in events
    text = hub.paths.audit.read_text()
    assert good not in text
    assert bad not in text


def test_the_last_use_has_one_winner_always(tmp_path: Path) -> None:
    """Threads on one store, as many clients at once: the token's uses are never exceeded, whatever the order."""
    for round in range(20):
        store = ConfigStore.open(tmp_path / f"{round}.json")
        uses, rivals = 1 + round % 3, 6
        secret = new_secret()

        def begin(config: wire.config.Config, secret: str = secret, uses: int = uses) -> None:
            config.instance = "hub"
            config.multihost.identity.CopyFrom(Identity.generate().to_proto())
            config.multihost.pairing_tokens.add(secret=secret, max_uses=uses)

        store.transform(begin)
        start, won = threading.Barrier(rivals), list[str]()

        def race(
            number: int,
            store: ConfigStore = store,
            start: threading.Barrier = start,
            won: list[str] = won,
            secret: str = secret,
        ) -> None:
            identity = Identity.generate()
            peer = PeerIdentified(
                keyid=identity.keyid, instance_id=f"c{number}", pairing_secret=secret, public_key=b""
            )
            start.wait()
            try:
                store.transform(lambda config: pairing.pair(config, peer, NOW) is not None)
            except PeerError:
                return
            won.append(peer.instance_id)

        threads = [threading.Thread(target=race, args=(n,)) for n in range(rivals)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sync = ConfigStore.open(tmp_path / f"{round}.json").current.multihost
        assert len(won) == uses
        assert sorted(c.instance_id for c in sync.authorized_clients) == sorted(won)
        assert not sync.pairing_tokens


async def test_the_daemon_drops_expired_tokens_a_day_later(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    start = int(world.wall())
    hub.token(label="short", expires=start + 900)
    hub.token(label="long", expires=start + 7 * 86400)
    hub.token(label="for ever")
    labels = lambda: [t.label for t in hub.config.current.multihost.pairing_tokens]  # noqa: E731
    made = Hub(
        config=hub.config, oplog=hub.oplog, peers=hub.peers, audit=hub.audit, watch=hub.watch, wall=world.wall
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.prune_tokens)
        await trio.sleep(900 + 3600)
        assert labels() == ["short", "long", "for ever"], "its client is still told that it has expired"
        await trio.sleep(86400)
        assert labels() == ["long", "for ever"]
        modno = hub.config.current.modno
        await trio.sleep(86400)
        assert hub.config.current.modno == modno, "nothing is written when nothing expires"
        nursery.cancel_scope.cancel()
    assert hub.audited()[-1]["event"] == "tokens-pruned"
    assert hub.audited()[-1]["labels"] == ["short"]


@pytest.mark.parametrize("spelling", ["pairingTokens", "pairing_tokens"])
def test_a_backup_of_the_configuration_holds_no_pairing_secret(tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "config.json"
    secrets = [new_secret(), new_secret(), new_secret()]
    store = ConfigStore.open(path)

    def begin(config: wire.config.Config) -> None:
        config.instance = "here"
        config.multihost.identity.CopyFrom(Identity.generate().to_proto())
        config.multihost.pairing_tokens.add(secret=secrets[0], label="t")
        config.multihost.known_hosts.add(
            instance_id="hub",
            keyid=Identity.generate().keyid,
            instance_url="http://hub",
            initial_pairing_secret=secrets[1],
        )

    store.transform(begin)
    store.transform(lambda config: config.multihost.ClearField("pairing_tokens"))
    store.transform(lambda config: config.multihost.known_hosts[0].ClearField("initial_pairing_secret"))
    old = tmp_path / "config.json.bak.2020-01-01-00-00-00"  # as another program left it
    old.write_text(json.dumps({"instance": "here", "sync": {spelling: [{"secret": secrets[2]}]}, "x": 1}))
    newest = max(tmp_path.glob("*.bak.*"), key=lambda file: file.stat().st_mtime_ns)
    assert store.clean_backups() == [old]
    assert json.loads(old.read_text()) == {"instance": "here", "sync": {}, "x": 1}
    assert max(tmp_path.glob("*.bak.*"), key=lambda file: file.stat().st_mtime_ns) == newest
    for file in tmp_path.iterdir():
        assert not any(secret in file.read_text() for secret in secrets), file
    backups = [json.loads(file.read_text()) for file in tmp_path.glob("*.bak.*")]
    assert any(b["sync"].get("identity", {}).get("ed25519priv") for b in backups), "all else can be restored"


@pytest.mark.parametrize("name", ["-x", ".", "..", "a.", "HUB", "Tower", "t\u043ewer", "\uff48ub"])
async def test_a_newcomer_whose_name_misleads_is_refused_and_its_token_stays(
    autojump_clock: MockClock, world: World, name: str
) -> None:
    hub = world.instance("hub")
    hub.config.transform(
        lambda c: (
            c.multihost.authorized_clients.add(instance_id="tower", keyid=Identity.generate().keyid) and None
        )  # type: ignore[arg-type]
    )
    secret = PairingToken.parse(hub.token()).secret
    async with hub.running():
        stranger = visitor(world, hub, name)
        await stranger.shake_hands(secret)
        assert "instance id" in (await stranger.until_end()).message
    assert len(hub.config.current.multihost.authorized_clients) == 1
    assert len(hub.config.current.multihost.pairing_tokens) == 1


async def test_a_stranger_with_the_name_of_a_client_changes_nothing_that_is_shown_of_it(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    async with hub.running():
        async with client.running():
            await hub.until_peer(client, wire.sync.CONNECTION_STATE_CONNECTED)
        away = await hub.until_peer(client, wire.sync.CONNECTION_STATE_DISCONNECTED)
        for secret in ("", "0" * 64, "1" * 64):
            stranger = visitor(world, hub, "laptop")
            await stranger.shake_hands(secret)
            assert (await stranger.until_end()).code is Code.PERMISSION_DENIED
        assert hub.peer(client) == away
        [(keyid, (count, _))] = hub.hub.namesakes().items()
        assert (keyid, count) == (client.keyid, 3)
        async with client.running():
            await hub.until_peer(client, wire.sync.CONNECTION_STATE_CONNECTED)
        assert hub.hub.namesakes() == {}, "it was not replaced"

"""Peers that mean harm, in both roles: each attack ends one session, or is waited out; nothing else notices."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from stranger import Stranger, authorize, visitor
from sync_world import CONNECTED, GUID, Instance, World, pipes
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.crypto.identity import make_handshake
from backrest.crypto.tokens import PairingToken
from backrest.errors import StorageError
from backrest.permissions import parse_grant
from backrest.protocol.session import Limits
from backrest.store import mask
from backrest.sync import answers, apply, hub, inbound
from backrest.sync.gate import Gate

Item = wire.sync.SyncStreamItem


async def test_what_only_an_attacker_does_is_refused_and_in_the_audit_log(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    async with hub.running():
        garbage = visitor(world, hub)
        await garbage.pipe.send(b"GET / HTTP/1.1\r\n\r\n")
        await garbage.until_end()

        middle = visitor(world, hub)  # signs the transcript of the other leg
        await middle.exchange_keys()
        await middle.say(handshake=make_handshake(middle.identity, "laptop", "", bytes(32)))
        assert (await middle.until_end()).code == "permission_denied"

        mirror = visitor(world, hub)  # the hub's own handshake, sent back
        await mirror.exchange_keys()
        await mirror.say(handshake=(await mirror.hear()).handshake)
        assert (await mirror.until_end()).code == "permission_denied"

        replaying = visitor(world, hub)
        authorize(hub, replaying)
        await replaying.shake_hands()
        await replaying.say(heartbeat=Item.SyncActionHeartbeat())
        await replaying.pipe.send(replaying.pipe.sent[-1])
        assert (await replaying.until_end()).code == "internal"
        await wait_all_tasks_blocked()
    events = hub.audited()
    assert [e["event"] for e in events if e["event"] != "let-in"] == ["refused"] * 4
    assert events[-1]["keyid"] == replaying.identity.keyid
    assert not hub.oplog.origins()


async def test_a_flood_of_refusals_is_counted_where_it_is_not_recorded(
    autojump_clock: MockClock, world: World
) -> None:
    hub_ = world.instance("hub")
    async with hub_.running():
        for _ in range(hub.REFUSALS_AUDITED + 7):
            stranger = visitor(world, hub_)
            await stranger.pipe.send(b"\xff" * 10)
            await stranger.until_end()
        await trio.sleep(61)
        stranger = visitor(world, hub_)
        await stranger.shake_hands()
        assert (await stranger.until_end()).code == "permission_denied"
        await wait_all_tasks_blocked()
    events = hub_.audited()
    assert len(events) == hub.REFUSALS_AUDITED + 1
    assert events[-1]["unrecorded"] == 7


async def test_a_full_disk_under_the_audit_log_lets_nobody_in(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = world.instance("hub")

    def full(event: str, **_: object) -> None:
        raise StorageError("no space left on device")

    monkeypatch.setattr(hub.audit, "append", full)
    async with hub.running():
        stranger = visitor(world, hub)
        await stranger.shake_hands("0" * 64)
        assert (await stranger.until_end()).code == "permission_denied"


async def test_a_change_of_the_entry_during_the_handshake_is_not_missed(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is removed between its pairing and its acceptance: the watch for changes began after that."""
    hub = world.instance("hub")
    token = PairingToken.parse(hub.token())

    def removing(event: str, **_: object) -> None:
        def remove(config: wire.config.Config) -> bool:
            del config.multihost.authorized_clients[:]
            return True

        if event == "paired":
            hub.config.transform(remove)

    monkeypatch.setattr(hub.audit, "append", removing)
    async with hub.running():
        stranger = visitor(world, hub)
        await stranger.shake_hands(token.secret)
        assert (await stranger.until_end()).code == "permission_denied"
        assert not hub.hub._live


async def test_a_pairing_is_recorded_even_when_its_stream_ends_meanwhile(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = world.instance("hub")
    token = PairingToken.parse(hub.token())
    transform = hub.config.transform

    def slow(change: Any, **options: Any) -> Any:
        hub.hub.end_all("the hub is shutting down")
        return transform(change, **options)

    monkeypatch.setattr(hub.config, "transform", slow)
    async with hub.running():
        stranger = visitor(world, hub)
        await stranger.shake_hands(token.secret)
        await stranger.until_end()
        await wait_all_tasks_blocked()
    assert len(hub.config.current.multihost.authorized_clients) == 1
    assert [e["event"] for e in hub.audited()] == ["paired"]


async def test_a_hub_without_an_identity_says_so(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    hub.watch._store = _Without()  # type: ignore[assignment]
    hub.config.subscribe(lambda _: None)
    stream, there = pipes()
    made = hub_of(hub)
    assert world.nursery is not None
    world.nursery.start_soon(made.serve, there)
    assert (await Stranger(stream).until_end()).code == "permission_denied"


class _Without:
    current = wire.config.Config()


def hub_of(instance: Instance) -> hub.Hub:
    return hub.Hub(
        config=instance.config,
        oplog=instance.oplog,
        peers=instance.peers,
        audit=instance.audit,
        watch=instance.watch,
        limits=Limits(),
    )


async def test_who_waits_in_vain_for_a_place_hears_why(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    async with hub.running():
        hub.hub._gate = Gate(total=0)  # as if all were taken
        late = visitor(world, hub)
        await late.pipe.send(b"a piece of work")
        assert (await late.until_end()).code == "unavailable"
        assert trio.current_time() == 14.5


async def test_who_is_silent_keeps_nobody_out(autojump_clock: MockClock, world: World) -> None:
    """All are of one address, which has eight places: for work, and not for streams."""
    hub = world.instance("hub")
    async with hub.running():
        for number in range(100):
            silent = visitor(world, hub, f"silent-{number}")
            if number % 2:
                await silent.exchange_keys()
        honest = visitor(world, hub, "honest")
        authorize(hub, honest)
        await honest.shake_hands()
        await honest.say(heartbeat=Item.SyncActionHeartbeat())
        await wait_all_tasks_blocked()
        record = hub.peers.get(honest.identity.keyid)
        assert record is not None
        assert record.state == CONNECTED
        assert trio.current_time() == 0


async def test_what_goes_wrong_in_this_program_ends_that_session_alone(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = world.instance("hub")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(hub.oplog, "apply", broken)
    async with hub.running():
        good, bad = visitor(world, hub, "good"), visitor(world, hub, "bad")
        for one in (good, bad):
            authorize(hub, one)
        await good.shake_hands()
        await good.say(heartbeat=Item.SyncActionHeartbeat())
        await bad.shake_hands()
        await bad.operations(hub.operation(id=1, modno=1, flow_id=1))
        assert (await bad.until_end()).message == "internal error"
        await wait_all_tasks_blocked()
        record = hub.peers.get(bad.identity.keyid)
        assert record is not None
        assert record.state == wire.sync.CONNECTION_STATE_ERROR_INTERNAL
        record = hub.peers.get(good.identity.keyid)
        assert record is not None
        assert record.state == CONNECTED
    assert "a mistake" in caplog.text


async def test_millions_of_empty_items_do_not_pile_up(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "QUEUE_BYTES", 10 * inbound.QUEUED_ITEM_BYTES)
    hub = world.instance("hub")
    async with hub.running():
        stranger = visitor(world, hub)
        authorize(hub, stranger)
        await stranger.shake_hands()
        await wait_all_tasks_blocked()
        client = hub.hub._live[stranger.identity.keyid]
        # As if the disk were slow.
        async with hub.hub.storing(client.keyid), trio.open_nursery() as nursery:

            async def flood() -> None:
                for _ in range(300):
                    await stranger.say(operation_manifest=Item.SyncActionOperationManifest())

            nursery.start_soon(flood)
            await wait_all_tasks_blocked()
            assert len(client._queue) <= 12
            nursery.cancel_scope.cancel()


async def test_a_manifest_beyond_the_scale_ends_the_session(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "MANIFEST_IDS", 100)
    hub = world.instance("hub")
    async with hub.running():
        stranger = visitor(world, hub)
        authorize(hub, stranger)
        await stranger.shake_hands()
        ids = list(range(1, 102))
        await stranger.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
        assert (await stranger.until_end()).code == "resource_exhausted"


async def test_hostile_ids_and_texts_in_a_manifest_and_in_operations_do_no_harm(
    autojump_clock: MockClock, world: World
) -> None:
    hub = world.instance("hub")
    ids = [0, -1, 2**63 - 1, -(2**63), 5, 5, 5, 7]
    async with hub.running():
        stranger = visitor(world, hub)
        authorize(hub, stranger)
        await stranger.shake_hands()
        await stranger.say(
            operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=list(range(1, 9)))
        )
        while True:
            heard = await stranger.hear()
            if heard.WhichOneof("action") == "request_operation_data":
                break
        assert list(heard.request_operation_data.op_ids) == [2**63 - 1, 5, 7]
        names = ["\x1b[2Jclear", "line\nbreak", "\u202egnp.exe", "\x00", "x" * 200_000, "\ud7ff\U0010ffff"]
        for n, name in enumerate(names):
            await stranger.operations(
                hub.operation(id=n + 1, modno=1, flow_id=1, repo_id=name, plan_id=name, display_message=name)
            )
        await stranger.operations(hub.operation(id=2**63 - 1, modno=2**63 - 1, flow_id=2**63 - 1))
        await world.until(
            hub.oplog.subscribe,
            lambda: hub.oplog.count(stranger.identity.keyid),
            lambda n: n == len(names),  # and not the one with names of 200,000 characters
        )
    hub.oplog.close()
    hub.open()
    assert hub.oplog.count(stranger.identity.keyid) == len(names)
    assert not hub.oplog.count("")


def test_masking_takes_linear_time() -> None:
    """A peer's view is masked in the event loop. Where one of these takes the square of its length (half a minute for
    16 KB, once), this test takes hours, and so fails without a clock of its own."""
    for text in ("a", "pass", "?", "?pass", "a.", "http://", "&key", "?=", "-"):
        long = text * (400_000 // len(text))
        mask.masked_repo(wire.config.Repo(id="a", uri=long, flags=[long], env=[f"{long}=b"]))


async def test_a_view_too_large_to_keep_is_not_kept(autojump_clock: MockClock, world: World) -> None:
    hub = world.instance("hub")
    async with hub.running():
        stranger = visitor(world, hub)
        authorize(hub, stranger)
        await stranger.shake_hands()
        view = wire.sync.RemoteConfig(repos=[wire.config.Repo(id="x" * (inbound.VIEW_BYTES + 1))])
        await stranger.say(receive_config=Item.SyncActionReceiveConfig(config=view))
        record = await world.until(
            hub.peers.subscribe,
            lambda: hub.peers.get(stranger.identity.keyid),
            lambda record: record is not None and "larger" in record.message,
        )
        assert record.remote_config is None
        assert record.state == CONNECTED


def test_a_push_of_thousands_of_items_changes_nothing() -> None:
    config = wire.config.Config(version=6, instance="laptop")
    peer = wire.config.Multihost.Peer(instance_id="hub", permissions=[parse_grant("receive-shared-repos=*")])
    config.multihost.known_hosts.append(peer)
    message = apply.SetConfig(
        repos=[
            wire.config.Repo(id=f"r{n}", guid=f"{n:064x}", uri=f"/r{n}", origin_instance_id="hub")
            for n in range(1001)
        ]
    )
    report = apply.apply_set_config(config, peer, message)
    assert not report.changed
    assert not config.repos
    assert len(report.refused) == 1


def test_pushes_one_after_the_other_do_not_grow_the_configuration_without_end() -> None:
    config = wire.config.Config(version=6, instance="laptop")
    peer = wire.config.Multihost.Peer(instance_id="hub", permissions=[parse_grant("receive-shared-repos=*")])
    config.multihost.known_hosts.append(peer)
    for round_ in range(3):
        repos = [
            wire.config.Repo(id=f"r{n}", guid=f"{n:064x}", uri=f"/r{n}", origin_instance_id="hub")
            for n in range(round_ * 500, round_ * 500 + 500)
        ]
        report = apply.apply_set_config(config, peer, apply.SetConfig(repos=repos))
    assert len(config.repos) == apply.MOST_ITEMS
    assert len(report.refused) == 500


def test_a_pushed_item_of_many_bytes_is_skipped_quickly() -> None:
    config = wire.config.Config(version=6, instance="laptop")
    peer = wire.config.Multihost.Peer(instance_id="hub", permissions=[parse_grant("receive-shared-repos=*")])
    config.multihost.known_hosts.append(peer)
    huge = wire.config.Repo(id="a", guid=GUID, uri="/a", origin_instance_id="hub", flags=["x" * 5_000_000])
    long = wire.config.Repo(id="b", guid="b" * 64, uri="/b", origin_instance_id="hub", flags=["x" * 100_000])
    report = apply.apply_set_config(config, peer, apply.SetConfig(repos=[huge, long]))
    assert [(r.id, list(r.flags)) for r in config.repos] == [("b", [])]
    assert len(report.refused) == 2


async def test_a_push_of_a_peer_that_was_removed_meanwhile_is_not_applied(inline_threads: None) -> None:
    entry = wire.config.Multihost.Peer(
        instance_id="hub", keyid="k", permissions=[parse_grant("receive-shared-repos=*")]
    )
    config = wire.config.Config(version=6, instance="laptop")  # without the hub, by now
    repo = wire.config.Repo(id="a", guid=GUID, uri="/a", origin_instance_id="hub")
    report = await inbound.change_config(lambda change: change(config), entry, apply.SetConfig(repos=[repo]))
    assert not config.repos
    assert len(report.refused) == 1


async def test_what_a_push_says_cannot_flood_the_log(
    inline_threads: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = wire.config.Multihost.Peer(instance_id="hub", keyid="k")
    config = wire.config.Config(version=6, instance="laptop")
    config.multihost.known_hosts.append(entry)
    repos = [wire.config.Repo(id=f"{n}\n" + "x" * 2000, guid=f"{n:064x}") for n in range(900)]
    await inbound.change_config(lambda change: change(config), entry, apply.SetConfig(repos=repos))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == inbound.REPORTED + 1
    assert all(len(line) < 600 and "\n" not in line for line in lines)


async def test_pushes_without_pause_have_to_wait(autojump_clock: MockClock) -> None:
    pushes = answers.Pace()
    started = trio.current_time()
    for _ in range(answers.PUSHES):
        await pushes.turn()
    assert trio.current_time() == started
    for _ in range(answers.PUSHES):
        await pushes.turn()
    assert trio.current_time() - started >= answers.PUSHES_S

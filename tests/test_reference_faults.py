"""The faults that the reference is known to have where two instances meet (W-nn), and the tests that show we have none.

``TABLE`` is the whole list: for each fault what the reference does, and the tests, here or elsewhere, that fail when
this program does it. It is itself tested: every fault is in it, every test that it names is there.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from go_hub import GoHub, GoMachine
from stranger import Stranger, authorize, visitor
from sync_world import Instance, World, paired
from test_sync_reference import deleted
from trio.testing import MockClock, wait_all_tasks_blocked

from backrest import wire
from backrest.permissions import parse_grant
from backrest.store.oplog import OpLog, Query

TABLE: dict[str, tuple[str, ...]] = {
    # A pushed repo runs programs here, and may pose as a local one.
    "W-01": (
        "test_sync_apply.py::test_what_would_run_programs_is_stripped_from_a_shared_repo",
        "test_sync_apply.py::test_a_shared_repo_has_its_sender_as_origin_whatever_it_claims",
        "test_sync_random_hub.py::test_a_hostile_hub_gets_and_changes_nothing_that_is_not_its_own",
    ),
    # Saving the settings wipes tokens, and clients that paired meanwhile.
    "W-04": (
        "test_reference_config.py::test_a_request_without_the_tokens_does_not_wipe_them",
        "test_reference_config.py::test_a_client_that_paired_meanwhile_is_not_lost",
    ),
    # SetConfig without "multihost" loses the identity.
    "W-05": (
        "test_reference_config.py::test_without_multihost_identity_peers_and_tokens_stay",
        "test_reference_config.py::test_another_identity_is_refused",
    ),
    # Notifications of changes get lost.
    "W-09": (
        "test_reference_faults.py::test_a_burst_of_changes_ends_where_the_last_one_said",
        "test_sync_hostile.py::test_a_change_of_the_entry_during_the_handshake_is_not_missed",
        "test_oplog_commits.py::test_no_change_is_lost_or_told_twice_around_a_manifest",
    ),
    # Any text is an id.
    "W-10": (
        "test_store_validate.py::test_bad_ids",
        "test_reference_faults.py::test_an_instance_id_that_is_no_id_does_not_pair",
    ),
    # Shared repos are read-only in the web page alone.
    "W-11": (
        "test_admin_repos.py::test_a_repo_of_another_instance_is_read_only_for_every_use_case",
        "test_admin_repos.py::test_the_api_neither_changes_nor_makes_one",
        "test_reference_config.py::test_a_repository_of_another_instance_cannot_be_changed",
    ),
    # Secrets travel and rest in clear.
    "W-12": (
        "test_store_mask.py::test_no_planted_secret_is_left",
        "test_secrets.py::test_what_is_secret_is_in_the_configuration_and_nowhere_else",
        "test_sync_permissions.py::test_what_a_hub_reaches_at_our_client",
    ),
    # A request for operations is answered whatever the permissions; three filters that differ.
    "W-13": ("test_sync_permissions.py::test_what_a_hub_reaches_at_our_client",),
    # A client's operations count as the hub's own when they claim to be.
    "W-14": (
        "test_sync_reference.py::test_a_client_of_the_reference_is_taken_as_it_is",
        "test_engine_runner.py::test_operations_of_other_instances_are_neither_known_nor_touched",
        "test_sync_random_client.py::test_a_hostile_client_gets_and_changes_nothing_that_is_not_its_own",
    ),
    # The list of states ends with an error.
    "W-15": ("test_reference_states.py::test_without_subscribing_all_come_and_a_clean_end",),
    # A push is never answered.
    "W-16": (
        "test_sync_pushing.py::test_what_passes_and_what_does_not_is_told_item_by_item",
        "test_sync_pushing.py::test_a_push_to_a_client_of_the_reference_is_judged_by_its_next_view",
    ),
    # What is no longer shared stays for ever, unsaid.
    "W-17": (
        "test_sync_shares.py::test_what_is_shared_no_longer_is_shown_and_the_plan_on_it_stays",
        "test_sync_shares.py::test_a_client_that_grants_write_permission_drops_it",
    ),
    # A late event overwrites a newer one.
    "W-19": (
        "test_reference_faults.py::test_an_event_that_was_overtaken_is_not_applied_and_a_manifest_has_the_last_word",
    ),
    # Ids and modnos come again after a restart.
    "W-20": ("test_oplog_store.py::test_ids_and_modnos_are_not_reused_after_deletion_and_restart",),
    # Changes of many operations at once are not forwarded.
    "W-21": (
        "test_reference_faults.py::test_a_change_of_many_operations_at_once_is_forwarded",
        "test_admin_repos.py::test_the_history_follows_a_repo_that_is_another_one_now",
    ),
    # The start ends other instances' operations.
    "W-22": (
        "test_engine_runner.py::test_what_a_killed_process_left_is_ended_or_dropped_and_its_lock_removed",
    ),
    # Of two permission entries the last wins; exclusions alone mean nothing; an excluded plan leaks.
    "W-26": (
        "test_permissions.py::test_each_case_of_the_table",
        "test_sync_permissions.py::test_what_a_client_reaches_at_our_hub",
        "test_store_validate.py::test_grant_without_scopes_is_a_warning",
    ),
    # The first session after a pairing is refused.
    "W-36": (
        "test_sync_sessions.py::test_a_token_pairs_once_and_is_forgotten_on_both_sides",
        "test_sync_reference.py::test_refused_right_after_a_pairing_that_worked",
    ),
    # A client calls itself connected, and forgets its secret, before the hub has let it in.
    "W-37": (
        "test_protocol_opening.py::test_client_is_established_by_the_hubs_first_item_not_by_its_handshake",
        "test_sync_sessions.py::test_a_token_that_does_not_hold_is_refused_and_audited",
    ),
    # A client that is gone is shown as connected.
    "W-38": ("test_reference_faults.py::test_however_a_session_ends_its_client_is_not_shown_as_connected",),
    # Deleting what is unknown ends the session.
    "W-39": (
        "test_reference_faults.py::test_deleting_what_is_unknown_and_creating_what_was_deleted_go_on",
        "test_oplog_store.py::test_delete_ignores_unknown_ids",
    ),
    # A refused push ends the session, for ever and ever.
    "W-40": (
        "test_sync_days.py::test_a_shared_repo_that_the_client_does_not_accept",
        "test_sync_days.py::test_a_shared_repo_that_the_client_has_already",
        "test_sync_days.py::test_a_reference_client_that_leaves_over_every_refused_repo",
    ),
    # Who may write repo a writes repo b, by its guid.
    "W-41": ("test_sync_apply.py::test_a_hub_limited_to_one_repo_cannot_reach_another_by_its_guid",),
    # Two quick changes of the configuration, and nothing moves any more.
    "W-42": (
        "test_reference_faults.py::test_a_burst_of_changes_ends_where_the_last_one_said",
        "test_reference_faults.py::test_old_and_new_sessions_with_a_hub_never_overlap",
    ),
    # States of removed peers stay; what a peer no longer has is still listed.
    "W-45": (
        "test_reference_faults.py::test_what_a_peer_no_longer_lists_is_no_longer_known",
        "test_sync_removal.py::test_a_hub_that_was_removed_loses_its_session_and_its_state_at_once",
    ),
    # Removing a peer deletes the user's plans, inside any validation.
    "W-46": (
        "test_admin_peers.py::test_removing_a_hub_takes_what_it_shared_and_parks_the_plans",
        "test_store_validate.py::test_validation_changes_nothing",
        "test_store_validate.py::test_plan_of_a_missing_host_is_kept_with_a_warning",
    ),
    # Tokens: nothing checked, purged, limited or compared in constant time.
    "W-47": (
        "test_admin_instance.py::test_permissions_that_make_no_sense_are_refused",
        "test_admin_instance.py::test_uses_have_bounds",
        "test_sync_tokens.py::test_the_daemon_drops_expired_tokens_a_day_later",
        "test_sync_gate.py::test_failed_pairings_are_limited_for_each_address_and_in_all",
        "test_crypto_tokens.py::test_same_secret_compares_all_of_it_and_an_empty_one_equals_nothing",
    ),
    # A handshake has no role: it can be sent back.
    "W-51": ("test_protocol_opening.py::test_our_own_handshake_sent_back_is_refused",),
    # A plan's own retention forgets in a repo that another instance keeps.
    "W-52": ("test_engine_backup.py::test_what_is_forgotten_after_a_backup",),
    # One message ends the hub's process.
    "W-53": (
        "test_protocol_session.py::test_receive_operations_without_its_event_costs_its_sender_the_session",
        "test_sync_reference.py::test_what_has_no_place_at_a_hub_ends_that_session",
    ),
    # A first sync takes the square of its size.
    "W-54": ("test_reference_faults.py::test_what_an_operation_costs_does_not_grow_with_the_log",),
    # An unknown delete, a create of what was deleted, an invalid operation end the session, and successfully.
    "W-55": (
        "test_reference_faults.py::test_deleting_what_is_unknown_and_creating_what_was_deleted_go_on",
        "test_sync_sessions.py::test_an_invalid_operation_is_refused_alone",
    ),
    # Each change of the configuration throws away others' history, and the next manifest fetches it.
    "W-56": (
        "test_reference_faults.py::test_no_change_of_the_configuration_costs_history_or_fetches_it_again",
    ),
    # Streams that say nothing stay for ever; failed pairings are not limited.
    "W-57": (
        "test_protocol_time.py::test_handshakes_have_fifteen_seconds_from_the_start",
        "test_sync_hostile.py::test_who_waits_in_vain_for_a_place_hears_why",
        "test_sync_gate.py::test_failed_pairings_are_limited_for_each_address_and_in_all",
    ),
}
NUMBERS = (1, 4, 5, *range(9, 18), *range(19, 23), 26, *range(36, 43), *range(45, 48), *range(51, 58))
TESTS = Path(__file__).parent

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
Item = wire.sync.SyncStreamItem


def test_the_table_is_complete() -> None:
    assert list(TABLE) == [f"W-{number:02}" for number in NUMBERS]


@pytest.mark.parametrize("fault", TABLE)
def test_each_test_of_the_table_is_there(fault: str) -> None:
    for place in TABLE[fault]:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        names = [node.name for node in tree.body if isinstance(node, functions) and "test_" in node.name]
        assert name in names, f"{fault}: {place}"


def grant(client: Instance, *grants: str) -> None:
    def change(config: wire.config.Config) -> bool:
        entry = config.multihost.known_hosts[0]
        del entry.permissions[:]
        entry.permissions.extend(parse_grant(text) for text in grants)
        return True

    client.config.transform(change)


async def test_a_burst_of_changes_ends_where_the_last_one_said(
    autojump_clock: MockClock, world: World
) -> None:
    """W-09, W-42: permissions and repos change on both sides, many times in one moment, while sessions come and go."""
    hub, client = paired(world, "read-operations=*", "read-config=*")
    client.oplog.add([client.operation()])

    def rename(n: int) -> None:
        def change(config: wire.config.Config) -> bool:
            del config.repos[:]
            config.repos.add(id=f"r{n}", uri=f"/srv/{n}", guid=f"{n:064x}")
            return True

        hub.config.transform(change)

    async with hub.running(), client.running():
        await client.until_peer(hub, CONNECTED)
        for n in range(60):
            rename(n)
            grant(client, "read-operations=*" if n % 2 else "read-config=*")
            if n % 7 == 0:
                await trio.lowlevel.checkpoint()
        await client.until_peer(hub, CONNECTED)
        await hub.until_history(client)
        view = await world.until(
            client.peers.subscribe,
            lambda: client.peer(hub).remote_config,
            lambda view: view is not None and view.modno == hub.config.current.modno,
        )
        assert [repo.id for repo in view.repos] == ["r59"]
        await wait_all_tasks_blocked()
        assert set(hub.hub._live) == {client.keyid}
        assert len(hub.hub._links) == 1


async def test_old_and_new_sessions_with_a_hub_never_overlap(autojump_clock: MockClock, world: World) -> None:
    """W-42: its configuration changes what it grants, and the old session is over before the new one is dialled."""
    now, most = 0, 0
    client = world.instance("laptop")

    async def serve(go: GoHub) -> None:
        nonlocal now, most
        now += 1
        most = max(now, most)
        try:
            await go.let_in()
            await go.until("nothing")
        finally:
            now -= 1

    machine = GoMachine(world, serve)
    machine.known_to(client)
    async with client.running():
        for n in range(8):
            grant(client, f"read-operations=repo:r{n}")
            await trio.sleep(60)
            await client.until_peer(machine, CONNECTED)  # type: ignore[arg-type]
            assert len(world.dials) > n
    assert most == 1


async def test_an_instance_id_that_is_no_id_does_not_pair(autojump_clock: MockClock, world: World) -> None:
    """W-10."""
    hub = world.instance("hub")
    secret = hub.token(max_uses=0).partition(":")[2].partition("#")[0]
    async with hub.running():
        for name in ("a#b", "a/b", "a,b", "../x", "a b", "hub\n", "x" * 200):
            stranger = visitor(world, hub, name)
            await stranger.shake_hands(secret)
            assert (await stranger.until_end()).code == "permission_denied"
    assert not hub.config.current.multihost.authorized_clients
    assert [token.uses for token in hub.config.current.multihost.pairing_tokens] == [0]


async def held(world: World, hub: Instance, peer: Stranger, wanted: dict[int, int]) -> None:
    await world.until(
        hub.oplog.subscribe, lambda: dict(hub.oplog.held(peer.identity.keyid)), lambda found: found == wanted
    )


async def test_an_event_that_was_overtaken_is_not_applied_and_a_manifest_has_the_last_word(
    autojump_clock: MockClock, world: World
) -> None:
    """W-19, and W-20: a log that was reset counts from the start again."""
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        await go.operations(hub.operation(id=1, modno=9, flow_id=1, display_message="newer"))
        await go.operations(
            hub.operation(id=1, modno=5, flow_id=1, display_message="older"),
            hub.operation(id=2, modno=10, flow_id=2),
        )
        await held(world, hub, go, {1: 9, 2: 10})
        await go.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=[1], modnos=[3]))
        while (item := await go.hear()).WhichOneof("action") != "request_operation_data":
            pass
        assert list(item.request_operation_data.op_ids) == [1]
        await go.operations(hub.operation(id=1, modno=3, flow_id=1, display_message="reset"))
        await held(world, hub, go, {1: 3})
    [op] = hub.oplog.query(Query(origin=go.identity.keyid))
    assert op.display_message == "reset"


async def test_a_change_of_many_operations_at_once_is_forwarded(
    autojump_clock: MockClock, world: World
) -> None:
    """W-21: a repo turns out to have another guid, and its whole history moves."""
    hub, client = paired(world)
    client.oplog.add([client.operation() for _ in range(600)])
    async with hub.running(), client.running():
        await hub.until_history(client)
        moved = list(client.oplog.query(Query(origin="")))
        for op in moved:
            op.repo_guid = "b" * 64
        client.oplog.update(moved)
        await hub.until_history(client)
        assert {op.repo_guid for op in hub.oplog.query(Query(origin=client.keyid))} == {"b" * 64}
    assert len(world.dials) == 1


@pytest.mark.parametrize("ending", ["clean", "cut", "garbage", "refused item", "silence", "hub stops"])
async def test_however_a_session_ends_its_client_is_not_shown_as_connected(
    autojump_clock: MockClock, world: World, ending: str
) -> None:
    """W-38."""
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        await wait_all_tasks_blocked()
        assert state(hub, go) == wire.sync.CONNECTION_STATE_PENDING
        await go.say(receive_resources=Item.SyncActionReceiveResources())
        await wait_all_tasks_blocked()
        assert state(hub, go) == CONNECTED
        match ending:
            case "clean":
                go.pipe.close()
            case "cut":
                go.pipe.break_off()
            case "garbage":
                await go.pipe.send(b"\xff" * 20)
            case "refused item":
                await go.say(request_resources=Item.SyncActionRequestResources())
            case "silence":
                await trio.sleep(151)
        await wait_all_tasks_blocked()
        assert (state(hub, go) == CONNECTED) == (ending == "hub stops")
    await wait_all_tasks_blocked()
    assert state(hub, go) != CONNECTED


def state(hub: Instance, go: Stranger) -> int:
    record = hub.peers.get(go.identity.keyid)
    assert record is not None
    return record.state


async def test_deleting_what_is_unknown_and_creating_what_was_deleted_go_on(
    autojump_clock: MockClock, world: World
) -> None:
    """W-39, W-55."""
    hub = world.instance("hub")
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        await go.shake_hands()
        await go.operations(hub.operation(id=1, modno=1, flow_id=1))
        await deleted(go, 1, 1, 77, -3, 0)
        await go.operations(
            hub.operation(id=1, modno=1, flow_id=1),
            hub.operation(id=2, modno=2, flow_id=2, snapshot_id="short"),
            hub.operation(id=3, modno=3, flow_id=3),
        )
        await held(world, hub, go, {1: 1, 3: 3})
        assert state(hub, go) == CONNECTED
        record = hub.peers.get(go.identity.keyid)
        assert record is not None
        assert record.refused == 1


async def test_what_a_peer_no_longer_lists_is_no_longer_known(
    autojump_clock: MockClock, world: World
) -> None:
    """W-45: the list is replaced, not added to."""
    hub, client = paired(world, "read-operations=*")

    def have(*names: str) -> None:
        def change(config: wire.config.Config) -> bool:
            del config.repos[:]
            for name in names:
                config.repos.add(id=name, uri=f"/srv/{name}", guid=name.encode().hex().zfill(64))
            return True

        client.config.transform(change)

    def known() -> list[str]:
        record = hub.peers.get(client.keyid)
        return [repo.id for repo in record.known_repos] if record else []

    have("a", "b")
    async with hub.running(), client.running():
        await world.until(hub.peers.subscribe, known, lambda names: names == ["a", "b"])
        have("b", "c")
        await world.until(hub.peers.subscribe, known, lambda names: names == ["b", "c"])
        have()
        await world.until(hub.peers.subscribe, known, lambda names: names == [])
        assert len(world.dials) == 1


def test_what_an_operation_costs_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """W-54, counted in lines of the program that run, so that a busy machine changes nothing."""
    log = OpLog.open(tmp_path / "oplog.jsonl")
    batch = [
        wire.operations.Operation(
            id=n,
            modno=n,
            flow_id=n,
            repo_id="nas",
            repo_guid="a" * 64,
            plan_id="photos",
            instance_id="laptop",
            unix_time_start_ms=1_700_000_000_000 + n,
        )
        for n in range(1, 4001)
    ]
    first = lines_run(lambda: log.apply("k", batch[:100], []))
    log.apply("k", batch[100:3900], [])
    last = lines_run(lambda: log.apply("k", batch[3900:], []))
    assert last < 2 * first
    log.close()


def lines_run(call: Any) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


async def test_no_change_of_the_configuration_costs_history_or_fetches_it_again(
    autojump_clock: MockClock, world: World
) -> None:
    """W-56: years of history, far more than the reference keeps of a kind, and a month of changes."""
    hub = world.instance("hub")
    ids = list(range(1, 301))
    asked = []
    async with hub.running():
        go = visitor(world, hub, "go")
        authorize(hub, go)
        for round_ in range(3):
            go = Stranger(visitor(world, hub).pipe, identity=go.identity, name="go")
            await go.shake_hands()
            await go.say(operation_manifest=Item.SyncActionOperationManifest(op_ids=ids, modnos=ids))
            if not round_:
                await go.operations(
                    *(hub.operation(id=n, modno=n, flow_id=n, unix_time_start_ms=n * 86_400_000) for n in ids)
                )
            for _ in range(10):
                hub.token()
                await trio.sleep(86_400 / 10)
                await go.say(heartbeat=Item.SyncActionHeartbeat())
            await held(world, hub, go, {n: n for n in ids})
            go.pipe.close()
            while (item := await go.hear()) is not None:
                if getattr(item, "request_operation_data", None):
                    asked.append(list(item.request_operation_data.op_ids))
    assert [op_id for some in asked for op_id in some] == ids

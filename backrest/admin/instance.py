"""This instance: its first configuration, and how it and each of its peers are.

``init`` only ever fills in what is missing: an identity, once peers know it, must not change by accident.
"""

from __future__ import annotations

import re
import socket
import time
from typing import Any

from backrest import __version__, wire
from backrest.admin.accepting import waiting_json
from backrest.admin.clients import quota_json
from backrest.admin.context import Context
from backrest.admin.plans import parked_json
from backrest.admin.registry import Emit
from backrest.errors import ConflictError, UserError
from backrest.store.access import examine, of_state
from backrest.store.handover import waits
from backrest.store.peers import PeerRecord
from backrest.store.plannotes import PlanNotes
from backrest.store.removal import withdrawn
from backrest.store.validate import id_problem
from backrest.wire import codec

INSTANCE_ID_BYTES = 50  # the reference's bound (ENGINE.md 1.8)


def default_instance_id(hostname: str) -> str:
    """The host's name with whatever an id may not hold replaced, or "backrest" when nothing is left."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", hostname.split(".", 1)[0])[:INSTANCE_ID_BYTES].strip("_.-")
    return name or "backrest"


def init(context: Context, instance_id: str | None = None) -> dict[str, Any]:
    """Makes sure that there is a configuration with an identity and an instance id."""
    from backrest.crypto.identity import Identity

    if instance_id is not None:
        problem = id_problem(instance_id, INSTANCE_ID_BYTES)
        if problem:
            raise UserError(f"the instance id {instance_id!r} {problem}")
    existed = context.paths.config_file.exists()
    # Nothing here was ever changed by us: another program may have made it, and may still be using it.
    ours = context.paths.audit.exists() or context.paths.oplog.exists()
    found = existed and (not ours or waits(context.paths))
    added: list[str] = []

    def complete(config: wire.config.Config) -> bool:
        added.clear()
        if instance_id and config.instance and config.instance != instance_id:
            raise ConflictError(
                f"this machine already has the instance id {config.instance!r}: peers and history know it "
                "by that name"
            )
        if not config.instance:
            config.instance = instance_id or default_instance_id(socket.gethostname())
            added.append("instance id")
        if not config.multihost.identity.keyid:
            config.multihost.identity.CopyFrom(Identity.generate().to_proto())
            added.append("identity")
        return bool(added)

    config = context.transform(complete)
    if added:
        context.record(
            "initialised", instance=config.instance, keyid=config.multihost.identity.keyid, added=added
        )
    return {
        "instanceId": config.instance,
        "keyId": config.multihost.identity.keyid,
        "configFile": str(context.paths.config_file),
        "dataDir": str(context.paths.data_dir),
        "created": not existed,
        "added": added,
    } | ({"found": _found(context, config)} if found else {})


def _found(context: Context, config: wire.config.Config) -> dict[str, Any]:
    """What a configuration holds that existed before this program wrote any file."""
    waiting = {"historyWaits": str(context.paths.reference_oplog)} if waits(context.paths) else {}
    return {
        "repos": len(config.repos),
        "plans": len(config.plans),
        "hosts": len(config.multihost.known_hosts),
        "clients": len(config.multihost.authorized_clients),
    } | waiting


def status(context: Context) -> dict[str, Any]:
    """This instance, the daemon (or that none runs), each peer with its live state, and how each plan is."""
    from backrest.admin.health import plans

    return _status(context) | {"plans": plans(context)}


def _status(context: Context) -> dict[str, Any]:
    """The same without the plans, for which the whole history is looked through."""
    from backrest.admin.archive import archived

    config = context.config.current
    result: dict[str, Any] = {
        "instance": {
            "instanceId": config.instance,
            "keyId": config.multihost.identity.keyid,
            "version": __version__,
            "configFile": str(context.paths.config_file),
            "dataDir": str(context.paths.data_dir),
            "operations": context.oplog.count(""),
        },
        "daemon": {"running": context.daemon is not None},
        "peers": [
            *(peer_json(context, peer, "host") for peer in config.multihost.known_hosts),
            *(peer_json(context, peer, "client") for peer in config.multihost.authorized_clients),
        ],
        "archived": archived(context),
    }
    if found := examine(of_state(context.paths, config)).all():
        result["access"] = found
    if waits(context.paths):
        result["historyWaits"] = str(context.paths.reference_oplog)
    parked = context.if_sound(lambda: context.parked.waiting(config)) or []
    if parked:
        result["parkedPlans"] = [parked_json(entry) for entry in parked]
    waiting = [
        {"id": repo.id, "originInstanceId": repo.origin_instance_id} | wanted
        for repo in config.repos
        if (wanted := waiting_json(context, repo)) is not None
    ]
    if waiting:
        result["waitingRepos"] = waiting
    if context.daemon is None:
        # Not shown, or not always, but no daemon starts with a damaged file.
        context.if_sound(lambda: context.shares)
        context.if_sound(lambda: context.waiting_repos)
    else:
        names = {peer.keyid: peer.instance_id for peer in config.multihost.authorized_clients}
        result["namesakes"] = [
            {"peerInstanceId": names[keyid], "refused": count, "lastMillis": str(int(at * 1000))}
            for keyid, (count, at) in context.daemon.namesakes().items()
            if keyid in names
        ]
        result["daemon"] |= {
            "pid": context.daemon.pid,
            "startedMs": str(context.daemon.started_ms),
            "addresses": list(context.daemon.addresses),
            "adminAddresses": list(context.daemon.admin_addresses),
            "tasks": context.daemon.tasks(),
        }
    return result


TWO = (
    "two machines use the key of this client at the same time, and the second is refused (`backrest audit` says from "
    'where): if it is a copy, run `backrest identity rotate` on one of them, give it another name ("instance" in its '
    "configuration), and pair it"
)
_CLOCK = (
    "its clock is {minutes} min {way} that of this machine: set the one that is wrong (`timedatectl` says whether NTP "
    "is on), or schedules and the times of backups are wrong by as much"
)


def peer_json(context: Context, peer: wire.config.Multihost.Peer, role: str) -> dict[str, Any]:
    """A configured peer: its PeerState in protobuf's names, and what we know besides."""
    record = context.peers.get(peer.keyid)
    result: dict[str, Any] = {"peerInstanceId": peer.instance_id, "peerKeyid": peer.keyid, "role": role}
    if peer.instance_url:
        result["instanceUrl"] = peer.instance_url
    result["pairing"] = bool(peer.initial_pairing_secret)
    result["state"] = wire.sync.ConnectionState.Name(record.state if record else 0)
    result["operations"] = context.oplog.count(peer.keyid)
    notes = context.if_sound(lambda: context.plan_notes) or PlanNotes.nothing()
    result["toleranceSeconds"] = notes.client_tolerance(peer.keyid)
    if role == "client":
        result["bytes"] = str(context.oplog.used(peer.keyid).bytes)
        if (quota := quota_json(context, peer.keyid)) is not None:
            result["quota"] = quota
    waiting = context.if_sound(lambda: context.pushes.waiting(peer.keyid)) or []
    if waiting:
        result["queuedPushes"] = [
            {
                "id": push.id,
                "createdMillis": str(push.created_ms),
                "items": list(push.items),
                "sent": push.sent,
            }
            for push in waiting
        ]
    notices = context.if_sound(lambda: context.pushes.notices(peer.keyid)) or ()
    if record is None:
        return result | ({"warnings": list(notices)} if notices else {})
    result["statusMessage"] = record.message
    result["sinceMillis"] = str(record.since_ms)
    result["lastHeartbeatMillis"] = str(record.last_heartbeat_ms)
    result["nextTryMillis"] = str(record.next_try_ms)
    result["knownRepos"] = [codec.to_dict(repo) for repo in record.known_repos]
    result["knownPlans"] = [codec.to_dict(plan) for plan in record.known_plans]
    ahead = record.clock_s
    two = record.has_twin(time.time_ns() // 1_000_000)
    result["warnings"] = [
        *((TWO,) if two else ()),
        *(
            (_CLOCK.format(minutes=abs(ahead) // 60, way="ahead of" if ahead > 0 else "behind"),)
            if ahead
            else ()
        ),
        *(warning.words() for warning in record.warnings),
        *notices,
        *_withdrawn(context.config.current, record),
    ]
    result["refused"] = record.refused
    result["overQuota"] = record.over_quota
    return result


def _withdrawn(config: wire.config.Config, record: PeerRecord) -> list[str]:
    """A sentence for each repository of this hub that it no longer offers: nothing of it stops by itself."""
    lines = []
    for repo in withdrawn(config, [record]):
        users = [plan.id for plan in config.plans if plan.repo == repo.id]
        goes_on = f"; still backed up to by {', '.join(users)}" if users else ""
        remove = [*(f"plan remove {user}" for user in users), f"repo remove {repo.id}"]
        how = ", ".join(f"`backrest {command}`" for command in remove)
        lines.append(
            f"repo {repo.id!r}: no longer offered by {record.instance_id}{goes_on} (to give it up: {how})"
        )
    return lines


async def watch(context: Context, emit: Emit) -> dict[str, Any]:
    """The status without the plans, and again after each change of a peer or of the configuration, until the caller
    leaves.

    Once, when no daemon runs: who holds the lock for longer would keep one from starting.
    """
    import trio

    from backrest.sync.watch import Watch

    if context.daemon is None:
        await emit({"status": await trio.to_thread.run_sync(_status, context)})
        return {}
    with Watch(context.peers.subscribe, context.config.subscribe, context.pushes.subscribe) as changes:
        while True:
            await emit({"status": await trio.to_thread.run_sync(_status, context)})
            await changes.wait(at_least_every_s=REFRESH_S)


# Heartbeats and counts of operations change without an event worth telling; a person reads no faster than
# this.
REFRESH_S = 5.0

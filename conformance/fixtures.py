"""What the program under test should be set up with: repos, plans, operations, tokens, hubs. Data only; setup.py
writes it into files.

Other implementations need the same content by their own means; the configuration's JSON is the reference's format.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

from conformance.model import Case
from conformance.seats import (
    FIXTURE_PASSWORD,
    FIXTURE_PLANS,
    FIXTURE_REPOS,
    OPERATIONS_PER_PLAN,
    Seat,
    fixture_guid,
)

HUB_TOKENS = {
    "main": ("0", "forever", ("read-operations=*", "receive-shared-repos=*")),
    "once": ("1", "forever", ("read-operations=*",)),
    "used": ("1", "forever", ("read-operations=*",)),
    "expired": ("0", "1s", ("read-operations=*",)),
    "scoped": ("0", "forever", ("read-operations=repo:conf-in,!plan:conf-out",)),
    "bare": ("0", "forever", ("receive-shared-repos=*",)),
    "view": ("0", "forever", ("read-operations=*", "read-config=repo:conf-a,plan:conf-a1")),
    "write": ("0", "forever", ("read-operations=*", "read-write-config=*", "receive-shared-repos=*")),
    "part": (
        "0",
        "forever",
        (
            "read-operations=*",
            "read-write-config=repo:conf-a,repo:conf-x,plan:conf-good,plan:conf-b1,!repo:conf-b",
            "read-config=*",
        ),
    ),
    "ops-repo": ("0", "forever", ("read-operations=repo:conf-in",)),
    "ops-plan": ("0", "forever", ("read-operations=plan:conf-in",)),
    "ops-not-repo": ("0", "forever", ("read-operations=*,!repo:conf-out",)),
    "ops-not-plan": ("0", "forever", ("read-operations=*,!plan:conf-out",)),
    "ops-not": ("0", "forever", ("read-operations=!repo:conf-out,!plan:conf-out",)),
    "ops-two": ("0", "forever", ("read-operations=repo:conf-in", "read-operations=plan:conf-mid")),
    "guarded": ("0", "forever", ("read-operations=*", "read-write-config=*,!plan:conf-a1,!repo:conf-c")),
    "spare": ("1", "forever", ("read-operations=*",)),
    "unshared": ("0", "forever", ("read-operations=*", "receive-shared-repos=!repo:conf-a")),
}
"""Name: uses, life, permissions."""


def repos_and_plans(*, shared: bool) -> dict[str, Any]:
    """The repos (conf-a is shared at a hub) and plans that never run by themselves."""
    return {
        "repos": [
            {
                "id": repo,
                "uri": f"/nonexistent/{repo}",
                "guid": fixture_guid(repo),
                "password": FIXTURE_PASSWORD,
                "env": ["AWS_SECRET_ACCESS_KEY=" + FIXTURE_PASSWORD],
                **({"shared": True} if shared and repo == "conf-a" else {}),
            }
            for repo in FIXTURE_REPOS
        ],
        "plans": [
            {"id": plan, "repo": repo, "paths": ["/nonexistent"], "schedule": {"disabled": True}}
            for plan, repo in FIXTURE_PLANS.items()
        ],
    }


def operations() -> Iterator[str]:
    """JSON lines for ``backrest ops import``; id, modno and instance are the importer's to give."""
    flow = 0
    for plan, repo in FIXTURE_PLANS.items():
        for _ in range(OPERATIONS_PER_PLAN):
            flow += 1
            yield json.dumps(one_operation(plan, repo, flow))


def one_operation(plan: str, repo: str, number: int) -> dict[str, Any]:
    start_ms = (
        int(time.time() * 1000) - 3_600_000 + number * 1000
    )  # today: the reference forgets after 30 days
    return {
        "flowId": str(number),
        "repoId": repo,
        "repoGuid": fixture_guid(repo),
        "planId": plan,
        "snapshotId": f"{number:064x}",
        "status": "STATUS_SUCCESS",
        "unixTimeStartMs": str(start_ms),
        "unixTimeEndMs": str(start_ms + 500),
        "operationBackup": {},
    }


def known_hosts(seats: Sequence[Seat]) -> list[dict[str, Any]]:
    """The seats as known hosts in the configuration's JSON.

    Only those whose case is about it are still to be paired: each pairing changes the client's configuration, which it
    then shows to all hubs, and with nearly two hundred at once it would do little else.
    """
    return [
        {
            "instanceId": seat.instance_id,
            "keyId": seat.identity.keyid,
            "instanceUrl": seat.url,
            "initialPairingSecret": seat.secret if _pairs(seat.case) else "",
            "permissions": [permission(grant) for grant in seat.case.grants],
        }
        for seat in seats
    ]


def _pairs(case: Case) -> bool:
    return case.id.startswith("handshake/") and not case.paired


def permission(grant: str) -> dict[str, Any]:
    name, _, scopes = grant.partition("=")
    return {
        "type": "PERMISSION_" + name.replace("-", "_").upper(),
        "scopes": scopes.split(",") if scopes else [],
    }


def host_commands(seats: Sequence[Seat]) -> Iterator[str]:
    """The seats as commands of this program."""
    for seat in seats:
        grants = "".join(f" --grant {shlex.quote(grant)}" for grant in seat.case.grants)
        yield f"backrest host add {shlex.quote(seat.token)} --url {seat.url}{grants} --no-wait"

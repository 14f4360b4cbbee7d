"""The files with which a program is set up for the suite, and what a person types instead.

A configuration is written whole, with an identity of its own, in the format that this program and the reference
share: nobody has to type ten tokens. It is for tests: whoever can read the directory can pair.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backrest.crypto.identity import Identity
from backrest.crypto.tokens import PairingToken, new_secret
from conformance import fixtures
from conformance.hublab import MAIN
from conformance.seats import Seat

HUB_ID, CLIENT_ID = "conf-tested-hub", "conf-tested"


def _configuration(instance_id: str, identity: Identity, content: dict[str, Any], **sync: Any) -> str:
    private = identity.to_proto()
    keys = {"keyId": private.keyid, "ed25519priv": private.ed25519priv, "ed25519pub": private.ed25519pub}
    config = {"modno": 1, "version": 6, "instance": instance_id, "auth": {"disabled": True}}
    return json.dumps(config | content | {"sync": {"identity": keys} | sync}, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    """Private from the moment it exists: there are keys in it."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def write_hub(directory: Path) -> None:
    """config.json for the hub, and ``arguments`` for the suite: ``hub URL @DIR/arguments``."""
    directory.mkdir(parents=True, exist_ok=True)
    identity, now = Identity.generate(), int(time.time())
    tokens, arguments = [], ["--fixture"]
    for name, (uses, life, permissions) in fixtures.HUB_TOKENS.items():
        secret = new_secret()
        tokens.append(
            {
                "secret": secret,
                "label": f"conf-{name}",
                "createdAtUnix": str(now - 100),
                "expiresAtUnix": "0" if life == "forever" else str(now - 50),
                "maxUses": int(uses),
                "permissions": [fixtures.permission(text) for text in permissions],
            }
        )
        token = PairingToken(identity.keyid, secret, HUB_ID).format()
        arguments.append(f"--token={token}" if name == MAIN else f"--extra-token={name}={token}")
    content = fixtures.repos_and_plans(shared=True)
    _write(directory / "config.json", _configuration(HUB_ID, identity, content, pairingTokens=tokens))
    _write(directory / "arguments", "".join(f"{argument}\n" for argument in arguments))


def write_client(directory: Path, seats: Sequence[Seat]) -> None:
    """config.json for the client and the operations to import before it starts; known-hosts.json, host-commands.sh
    and repos-and-plans.json hold the same in parts, for a client that has a configuration already."""
    directory.mkdir(parents=True, exist_ok=True)
    hosts = fixtures.known_hosts(seats)
    content = fixtures.repos_and_plans(shared=False)
    config = _configuration(CLIENT_ID, Identity.generate(), content, knownHosts=hosts)
    extra = json.dumps(fixtures.one_operation("conf-a1", "conf-a", 1000))
    for name, text in (
        ("config.json", config),
        ("known-hosts.json", json.dumps(hosts, indent=1)),
        ("repos-and-plans.json", json.dumps(content, indent=1)),
        ("operations.jsonl", "".join(f"{line}\n" for line in fixtures.operations())),
        ("one-more.jsonl", extra + "\n"),
        ("host-commands.sh", "".join(f"{line}\n" for line in fixtures.host_commands(seats))),
    ):
        _write(directory / name, text)


def hub_commands() -> str:
    """What a hub needs, as text with the commands of this program: for one that has a configuration already."""
    lines = ["# The hub's configuration needs these repos and plans (or leave out --fixture):"]
    lines += [json.dumps(fixtures.repos_and_plans(shared=True))]
    lines += ["# and these tokens (all but main are optional):"]
    for name, (uses, life, permissions) in fixtures.HUB_TOKENS.items():
        options = " ".join(f"--permission {shlex.quote(p)}" for p in permissions)
        lines.append(f"backrest token create --label conf-{name} --ttl {life} --max-uses {uses} {options}")
    lines.append(
        "# python -m conformance hub URL --token MAIN --extra-token once=... --extra-token scoped=... --fixture"
    )
    return "\n".join(lines)

"""What ``client show`` and ``host show`` print: a peer, and what it shows of its configuration."""

from __future__ import annotations

import time
from typing import Any

from backrest.cli import formats, output, states
from backrest.cli.base import shared


def show_peer(ident: str, role: str, with_config: bool, as_json: bool) -> None:
    """``role``: "client" or "host"."""
    result = shared().call("ShowPeerConfig", ident=ident, role=role)
    if as_json:
        output.print_json(result if with_config else {**result, "config": None})
        return
    peer, config = result["peer"], result["config"] or {}
    received = int(result["configMillis"])
    output.print_fields(
        [
            ("Hub" if role == "host" else "Client", peer["peerInstanceId"]),
            ("Key id", peer["peerKeyid"]),
            ("Address", peer.get("instanceUrl", "")),
            ("State", states.CONNECTION.get(peer["state"], "unknown")),
            ("Message", peer.get("statusMessage", "")),
            ("May do here", " ".join(result["grants"]) or "nothing"),
            ("Operations here", peer["operations"]),
            ("Size here", formats.size(int(peer["bytes"])) if "bytes" in peer else ""),
            ("Quota", formats.quota(peer["quota"]) if peer.get("quota") else ""),
            ("Its repos", _ids(peer.get("knownRepos", ()))),
            ("Its plans", _ids(peer.get("knownPlans", ()))),
            ("Shows settings of", _shown(config)),
            ("Received", f"{formats.age(time.time() - received / 1000)} ago" if received else "never"),
        ]
    )
    if with_config and (config.get("repos") or config.get("plans")):
        output.say()
        output.say(output.json_text({key: config[key] for key in ("repos", "plans") if key in config}))
    for line in (*peer.get("warnings", ()), *([result["hint"]] if result["hint"] else ())):
        output.note(line)


def _ids(entries: Any) -> str:
    return ", ".join(entry.get("id", "") for entry in entries)


def _shown(config: dict[str, Any]) -> str:
    counts = [(len(config.get("repos", ())), "repo"), (len(config.get("plans", ())), "plan")]
    return ", ".join(formats.plural(count, noun) for count, noun in counts if count)

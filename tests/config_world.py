"""Configuration files for the tests of the store that reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backrest import wire

Config = wire.config.Config
CAPTURES = Path(__file__).parent.parent / "conformance" / "vectors" / "captures"
MINIMAL = b'{"version": 6, "instance": "me"}'


def stored(path: Path) -> Any:
    return json.loads(path.read_text())


def put(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps({"version": 6, "instance": "me"} | values))
    return path


def rename_to(name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config.instance = name

    return change


def add_a_repo(config: Config, uri: str = "/u") -> None:
    config.repos.add(id="r", uri=uri, guid="a" * 64)

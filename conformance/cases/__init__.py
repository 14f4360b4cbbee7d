"""The cases by topic. Importing a module registers its cases; ``load`` imports all."""

from __future__ import annotations

import importlib

TOPICS = (
    "http",
    "http_client",
    "kem",
    "record",
    "handshake",
    "handshake_client",
    "pairing",
    "order",
    "order_client",
    "history",
    "history_client",
    "config",
    "config_client",
    "push",
    "push_client",
    "refused_client",
    "limits",
)


def load() -> None:
    for topic in TOPICS:
        importlib.import_module(f"conformance.cases.{topic}")

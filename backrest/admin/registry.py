"""The table of all use cases: the name under which the socket knows them, and where the function is.

A use case is a function of a Context and JSON-able arguments with a JSON-able result. A blocking one is
called in a thread; a reporting one is ``async`` (trio), gets ``emit``, an async function that takes one
event, and returns its result. Arguments come from outside, so they are checked against the signature here:
whoever talks to the socket by hand gets a sentence, not a traceback.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backrest.errors import NotFoundError, UserError

Emit = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method:
    """Where a use case is and how it may run."""

    module: str
    function: str
    reports: bool = False
    """Emits events on its way; else one answer."""
    only_reads: bool = False
    """Changes nothing: may run while somebody else holds the lock, on whole files and a copy of the history."""
    live: bool = False
    """Also says what a daemon knows: one that starts or stops is waited for, a command at work is not."""
    beside: bool = False
    """A command does it itself even while a daemon runs: it takes long, and would only keep the daemon busy."""
    daemonless: bool = False
    """Works on files that a running daemon has open: only while none runs."""

    def load(self) -> Callable[..., Any]:
        function = getattr(importlib.import_module(f"backrest.admin.{self.module}"), self.function)
        assert callable(function)
        return function  # type: ignore[no-any-return]


METHODS: Mapping[str, Method] = {
    "Init": Method("instance", "init"),
    "Status": Method("instance", "status", only_reads=True, live=True),
    "WatchStatus": Method("instance", "watch", reports=True, only_reads=True, live=True),
    "ShowIdentity": Method("identity", "show", only_reads=True),
    "RotateIdentity": Method("identity", "rotate"),
    "CreateToken": Method("tokens", "create"),
    "ListTokens": Method("tokens", "list_tokens", only_reads=True),
    "PruneTokens": Method("tokens", "prune"),
    "RevokeToken": Method("tokens", "revoke"),
    "AddHost": Method("hosts", "add", reports=True),
    "ListHosts": Method("hosts", "list_hosts", only_reads=True),
    "RemoveHost": Method("hosts", "remove"),
    "GrantHost": Method("hosts", "grant"),
    "ListClients": Method("clients", "list_clients", only_reads=True),
    "ListAllClients": Method("clients", "list_all", only_reads=True, live=True),
    "RemoveClient": Method("clients", "remove"),
    "SetClientPermissions": Method("clients", "set_permissions"),
    "SetClientQuota": Method("clients", "set_quota"),
    "AddRepo": Method("repos", "add", reports=True),
    "SetRepo": Method("repos", "set_repo", reports=True),
    "ShareRepo": Method("sharing", "share", reports=True),
    "UnshareRepo": Method("sharing", "unshare"),
    "ListRepos": Method("repos", "list_repos", only_reads=True),
    "ShowRepo": Method("repos", "show", only_reads=True),
    "AcceptRepo": Method("accepting", "accept"),
    "RemoveRepo": Method("repos", "remove"),
    "AddPlan": Method("plans", "add"),
    "SetPlan": Method("plans", "set_plan"),
    "SetTolerance": Method("health", "set_tolerance"),
    "ConfirmPlan": Method("plans", "confirm"),
    "ListPlans": Method("plans", "list_plans", only_reads=True),
    "ShowPlan": Method("plans", "show", only_reads=True),
    "RemovePlan": Method("plans", "remove"),
    "Backup": Method("backups", "backup", reports=True),
    "Index": Method("backups", "index", reports=True),
    "Unlock": Method("backups", "unlock", reports=True),
    "ListOperations": Method("ops", "list_operations", reports=True, only_reads=True, live=True),
    "ShowOperation": Method("ops", "show", only_reads=True, live=True),
    "TailOperations": Method("ops", "tail", reports=True),
    "ImportOperations": Method("imports", "import_operations"),
    "ShowConfig": Method("configs", "show", only_reads=True),
    "ImportConfig": Method("configs", "import_config"),
    "ShowAudit": Method("audits", "show", reports=True, only_reads=True),
    "VerifyAudit": Method("audits", "verify", only_reads=True),
    "PreviewPush": Method("pushes", "preview"),
    "Push": Method("pushes", "push", reports=True),
    "ListPushes": Method("pushes", "list_pushes", only_reads=True),
    "DropPush": Method("pushes", "drop"),
    "ShowPeerConfig": Method("shown", "peer_config", only_reads=True),
    "VerifyOplog": Method("oplogs", "verify", reports=True, only_reads=True, beside=True),
    "RepairOplog": Method("oplogs", "repair", reports=True, daemonless=True),
    "CompactOplog": Method("oplogs", "compact", reports=True),
    "ImportReference": Method("oplogs", "import_reference", reports=True, daemonless=True),
    "ForgoReference": Method("oplogs", "forgo_reference", daemonless=True),
}


def find(name: str) -> Method:
    """The use case of that name; NotFoundError."""
    if name not in METHODS:
        raise NotFoundError(f"there is no admin method {name!r}")
    return METHODS[name]


# An argument's annotation, as it stands in the source, and what fits it. bool is an int to Python, not to us.
_FITS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "dict[str, Any]": lambda v: isinstance(v, dict),
    "dict[str, int]": lambda v: isinstance(v, dict) and all(_FITS["int"](one) for one in v.values()),
    "list[str]": lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v),
    "list[dict[str, Any]]": lambda v: isinstance(v, list) and all(isinstance(one, dict) for one in v),
}

# Handed in by whoever runs the use case, not by the caller.
_INTERNAL = frozenset({"context", "emit"})


def arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given``, if the function can be called with it; UserError names what is missing, unknown or of a
    wrong type.
    """
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if n not in _INTERNAL}
    for name in given:
        if name not in parameters:
            raise UserError(
                f"there is no argument {name!r} here; there are: {', '.join(parameters) or 'none'}"
            )
    for name, parameter in parameters.items():
        if name not in given:
            if parameter.default is inspect.Parameter.empty:
                raise UserError(f"the argument {name!r} is missing")
            continue
        kind = str(parameter.annotation)
        optional = kind.endswith(" | None")
        if given[name] is None and optional:
            continue
        if not _FITS[kind.removesuffix(" | None")](given[name]):
            raise UserError(f"the argument {name!r} must be of type {kind.removesuffix(' | None')}")
    return dict(given)

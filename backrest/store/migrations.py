"""Configurations of older versions of the reference, brought to version 6 (ENGINE.md 1.5).

A step is a function that changes the message in place. Versions 0 and 1 are refused, as by the reference; a
version above ours too, because its meaning is unknown and a file must not be written back with half of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from backrest import wire
from backrest.errors import UserError
from backrest.store.text import quoted

Config = wire.config.Config
Schedule = wire.config.Schedule

CURRENT_VERSION: Final = 6

# In the order in which they apply: a later one wins over an earlier one's effect on the same repo.
_PASSWORD_VARIABLES = ("RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND")
_ACKNOWLEDGED = "ISSUE_1139_FIX_PASSWORDS"


def migrate(config: Config, environ: Mapping[str, str]) -> bool:
    """Bring it to the current version, in place. False: it was there already.

    UserError, the message unchanged, when that is not possible or needs the user's consent.
    """
    version = config.version
    if version == CURRENT_VERSION:
        return False
    if version > CURRENT_VERSION:
        raise UserError(
            f"it has version {version}, and this program knows versions up to {CURRENT_VERSION}: "
            f"use a newer backrest, or a backup of the file from before the upgrade"
        )
    if version <= 0:
        raise UserError(
            f'it has no version: if it was written by hand, add "version": {CURRENT_VERSION}; '
            f"if it comes from Backrest 1.3 or older, start Backrest 1.4.0 with it once"
        )
    if version == 1:
        raise UserError("it has version 1: start Backrest 1.4.0 with it once, which brings it up to date")
    draft = Config()
    draft.CopyFrom(config)
    for step in range(version, CURRENT_VERSION):
        _STEPS[step](draft, environ)
    draft.version = CURRENT_VERSION
    config.CopyFrom(draft)
    return True


def _relative_maintenance(config: Config, environ: Mapping[str, str]) -> None:
    """2 to 3: prune and check count from their last run. A repo without a prune policy is left out."""
    for repo in config.repos:
        if not repo.HasField("prune_policy"):
            continue
        for policy in (repo.prune_policy, repo.check_policy):
            if policy.HasField("schedule"):
                policy.schedule.clock = Schedule.CLOCK_LAST_RUN_TIME


def _made_up_guids(config: Config, environ: Mapping[str, str]) -> None:
    """3 to 4: a repo without a guid gets one made from its id (the real one is learnt from restic later)."""
    for repo in config.repos:
        repo.guid = repo.guid or hashlib.sha256(repo.id.encode()).hexdigest()


def _password_conflicts(config: Config, environ: Mapping[str, str]) -> None:
    """4 to 5: in older versions the environment's password won over the repo's, in newer ones it does not.

    Without the user's word a repo might be opened with another password than so far.
    """
    repos = [repo for repo in config.repos if repo.password]
    names = [name for name in _PASSWORD_VARIABLES if environ.get(name)]
    if not repos or not names:
        return
    if not environ.get(_ACKNOWLEDGED):
        raise UserError(
            f"{', '.join(names)} in the environment contradict the passwords of "
            f"{', '.join(quoted(repo.id) for repo in repos)}, and from this version on the repo's own wins: "
            f"unset what is wrong, or set {_ACKNOWLEDGED}=1 to put what is in the environment into the repos"
        )
    for repo in repos:
        for name in names:
            if name == "RESTIC_PASSWORD":
                repo.password = environ[name]
            else:
                repo.password = ""
                repo.env.append(f"{name}={environ[name]}")


def _incomplete_identity(config: Config, environ: Mapping[str, str]) -> None:
    """5 to 6: an identity that is not a whole ed25519 key goes; ``init`` and ``serve`` make a new one."""
    if config.HasField("multihost") and config.multihost.HasField("identity"):
        key = config.multihost.identity
        if not (key.keyid.startswith("ed25519.") and key.ed25519priv and key.ed25519pub):
            config.multihost.ClearField("identity")


_STEPS: dict[int, Callable[[Config, Mapping[str, str]], None]] = {
    2: _relative_maintenance,
    3: _made_up_guids,
    4: _password_conflicts,
    5: _incomplete_identity,
}

"""The whole configuration: shown without its secrets, checked, replaced."""

from __future__ import annotations

import os
from typing import Any

from backrest import wire
from backrest.admin.context import Context
from backrest.admin.repos import check_origins
from backrest.errors import UserError
from backrest.store import validate
from backrest.store.config import load
from backrest.store.configfile import parse
from backrest.store.mask import config_masked, unmask
from backrest.store.migrations import migrate
from backrest.wire import codec

Config = wire.config.Config


def show(context: Context) -> dict[str, Any]:
    """The configuration in force, masked."""
    return {"config": codec.to_dict(config_masked(context.config.current))}


def check(text: str, name: str) -> tuple[list[str], list[str]]:
    """(problems, warnings) of a configuration file's content, as they would be found when it is loaded."""
    try:
        return [], list(load(text.encode(), name).warnings)
    except UserError as error:
        return list(error.problems), []


def import_config(context: Context, text: str) -> dict[str, Any]:
    """Replaces the configuration. What the file masks, and an identity that it lacks, stay as they are.

    Repositories that another instance shares may be left out, and not be altered or invented (W-11); unless the
    file is that of another instance, which moves here with all that it has.
    """
    try:
        new, _ = parse(text.encode())
        migrate(new, os.environ)
    except UserError as error:
        raise UserError(f"the file cannot be imported: {error}", error.problems) from error
    before = context.config.current

    def replace(draft: Config) -> None:
        here = Config()
        here.CopyFrom(draft)
        draft.CopyFrom(unmask(new, draft))
        if not draft.instance:
            draft.instance = before.instance
        if draft.multihost.identity.keyid == here.multihost.identity.keyid:
            check_origins(here, draft)

    after = context.transform(replace, replace_identity=True, imported=True)
    changed = after is not before
    renewed = (
        bool(before.multihost.identity.keyid)
        and after.multihost.identity.keyid != before.multihost.identity.keyid
    )
    if changed:
        context.forget_gone()
        context.record("config-imported", modno=after.modno, new_identity=renewed)
    warnings = validate.check(after, after).warnings
    return {"changed": changed, "modno": after.modno, "newIdentity": renewed, "warnings": warnings}

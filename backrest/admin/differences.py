"""What a change changed, for people: field by field, with secrets masked."""

from __future__ import annotations

from typing import Any, TypeVar

from backrest import wire
from backrest.wire import codec

M = TypeVar("M", wire.config.Repo, wire.config.Plan)


def changed_fields(old: M, new: M, old_shown: M, new_shown: M) -> list[dict[str, Any]]:
    """[{"field", "before", "after"}] in JSON's names, in the schema's order; the values are those that may be shown
    (None: not set). A secret that became another has equal masks on both sides."""
    was, now = codec.to_dict(old), codec.to_dict(new)
    shown_was, shown_now = codec.to_dict(old_shown), codec.to_dict(new_shown)
    return [
        {"field": name, "before": shown_was.get(name), "after": shown_now.get(name)}
        for name in (field.json_name for field in type(old).DESCRIPTOR.fields)
        if was.get(name) != now.get(name)
    ]

"""Why something was not done: a value on which programs decide, put into words here and nowhere else.

A refusal names the item (kind and id), the reason (a code), and what the reason speaks of (fields). It is kept, sent
and compared as a value; ``words`` is for the moment at which a person reads it. What the sender of a push may hear of
it is the same value without the fields that it may not see (``without``): each reason has words for that, too.

Values come from other machines and from files: everything in them is bounded when they are made, and ``words`` gives
one line without control characters, whatever stands in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from string import Formatter
from typing import Any, Final, Literal

Kind = Literal["plan", "repo", ""]  # what it is about; "": all of a push
KINDS: Final[tuple[Kind, ...]] = ("plan", "repo", "")

# The reference lets ids be as long as they like. Twenty refusals with their fields have to fit one answer on the wire.
ID_BYTES: Final = 1000
FIELDS_BYTES: Final = (
    1000  # of all fields of one: some sentences of the validation, or the names of 50 variables
)
MOST_FIELDS: Final = 4  # no reason has more than two
SHOWN_ID: Final = 200  # characters of an id in a sentence


class Why(StrEnum):
    """The reasons, as they stand in files and on the wire: a name is never given another meaning."""

    TEXT = "text"  # a sentence of a peer or a file that had no values yet
    UNKNOWN = "unknown"  # a code of a later version
    MORE = "more"  # what was left out of a long list
    # What a receiver refuses (sync/apply.py).
    TOO_MANY_ITEMS = "too-many-items"
    PERMISSIONS_CHANGED = "permissions-changed"
    INVALID = "invalid"
    TOO_LARGE = "too-large"
    NO_ROOM = "no-room"
    FULL = "full"
    MASKED = "masked"
    WRITE_NOT_GRANTED = "write-not-granted"
    DELETE_NOT_GRANTED = "delete-not-granted"
    SHARE_NOT_GRANTED = "share-not-granted"
    NO_GUID = "no-guid"
    SAME_GUID = "same-guid"
    SAME_ID = "same-id"
    SAME_ADDRESS = "same-address"
    BAD_ID = "bad-id"
    ALIKE_ID = "alike-id"
    SHARED_BY_OTHER = "shared-by-other"
    NOT_HARMLESS = "not-harmless"
    BAD_FLAG = "bad-flag"
    BAD_PLACE = "bad-place"  # a path, address or pattern that is another, or none, where it is used
    LEFT_OUT = "left-out"
    WAITS = "waits"
    IN_USE = "in-use"
    # What a sender finds by itself, of a peer that does not say it (sync/pushing.py).
    NO_CLIENT_PUSHES = "no-client-pushes"
    NO_MASKS = "no-masks"
    PROBABLY_REFUSED = "probably-refused"
    NO_ANSWER = "no-answer"
    NOT_SHOWN = "not-shown"
    NOT_LISTED = "not-listed"
    ENDS_SESSION = "ends-session"


# What they are about is done, but for the part that they name.
IN_PART: Final = frozenset({Why.LEFT_OUT, Why.WAITS})
# Seen by the sender, of a peer that says nothing itself: they are no words of that peer.
SEEN: Final = frozenset(
    {Why.PROBABLY_REFUSED, Why.NO_ANSWER, Why.NOT_SHOWN, Why.NOT_LISTED, Why.ENDS_SESSION}
)

# For each reason the ways of saying it, the fullest first: the first whose fields are all there is taken.
_WORDS: Final[Mapping[Why, tuple[str, ...]]] = {
    Why.TEXT: ("{text}",),
    Why.UNKNOWN: ("the reason has a name that this version does not know ({code})",),
    Why.MORE: ("{count} more",),
    Why.TOO_MANY_ITEMS: ("nothing was applied: more than {limit} items in one push",),
    Why.PERMISSIONS_CHANGED: ("nothing was applied: its permissions were changed meanwhile",),
    Why.INVALID: ("nothing was applied: {text}",),
    Why.TOO_LARGE: ("larger than {limit} KiB",),
    Why.NO_ROOM: ("the configuration here would be larger than {limit} MiB",),
    Why.FULL: ("there are {limit} {kind}s here already",),
    Why.MASKED: ("{names}: the mask stands for no stored secret here, so give the secret itself",),
    Why.WRITE_NOT_GRANTED: ("READ_WRITE_CONFIG is not granted for it",),
    Why.DELETE_NOT_GRANTED: ("READ_WRITE_CONFIG is not granted to delete it",),
    Why.SHARE_NOT_GRANTED: ("RECEIVE_SHARED_REPOS is not granted to {hub} ('backrest host grant')",),
    Why.NO_GUID: ("it has no guid",),
    Why.SAME_GUID: (
        "a local repo ({other}) has the same guid; it is used instead, unless it is removed",
        "a local repo has the same guid",
    ),
    Why.SAME_ID: ("the repo {other} here has the same id; one of the two has to be removed or changed",),
    Why.SAME_ADDRESS: (
        "the repo {other} here has the same address; one of the two has to be removed or changed",
        "a repo here has the same address",
    ),
    Why.BAD_ID: ("its id {text}",),
    Why.ALIKE_ID: ("its id looks like that of another {kind} here",),
    Why.SHARED_BY_OTHER: ("it is already shared by {hub}", "it is already shared by another hub"),
    Why.NOT_HARMLESS: ("{text}",),
    Why.BAD_FLAG: ("{text}",),
    Why.BAD_PLACE: ("{text}",),
    Why.LEFT_OUT: ("taken without {names}, which may run programs or read files there",),
    Why.WAITS: (
        "plans use it, and its change of {names} waits until somebody accepts it on the client "
        "(`backrest repo accept`); the old values stay in force",
    ),
    Why.IN_USE: ("still used by plan {plans}", "still used by a plan"),
    Why.NO_CLIENT_PUSHES: (
        "this hub takes no changes from its clients (it runs another program, or an older version)",
    ),
    Why.NO_MASKS: (
        "{names}: give the value in full; the program there knows no masks, and would store ******** in its place",
    ),
    Why.PROBABLY_REFUSED: (
        "its program does not answer pushes, and it does not show the change, as it would within seconds",
    ),
    Why.NO_ANSWER: ("the session ended {count} times before an answer came: it may have been applied",),
    Why.NOT_SHOWN: ("its program does not answer pushes, and what it shows is too much to be kept here",),
    Why.ENDS_SESSION: (
        "it is offered no more, because {count} sessions of the client ended when it was: there, "
        "receive-shared-repos is not granted to this hub, or a repo of its own has the same guid (it is offered "
        "again when the repo, the permissions or the client's configuration change, or by `backrest repo share`)",
    ),
    Why.NOT_LISTED: (
        "it is shared, and not among the repos that the client shows: the client refused it, or does not grant "
        "read-operations for it to this hub",
    ),
}

# The other fields are names that somebody chose, and stand in quotes.
_PLAIN: Final = frozenset({"text", "code", "count", "limit", "names", "kind"})

Fields = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason about one item. Made with ``refusal``, which keeps to the bounds."""

    kind: Kind
    id: str
    code: Why
    fields: Fields = ()

    def is_about(self, kind: Kind, ident: str) -> bool:
        return (self.kind, self.id) == (kind, cut_id(ident))

    def without(self, names: Collection[str]) -> Refusal:
        """What somebody may hear who may not see these fields."""
        return replace(self, fields=tuple(pair for pair in self.fields if pair[0] not in names))

    def reason(self) -> str:
        """In words, without the item."""
        given = {"kind": self.kind, **{name: _joined(name, values) for name, values in self.fields}}
        for form in _WORDS[self.code]:
            if all(name in given for _, name, _, _ in Formatter().parse(form) if name):
                return _plain(form.format_map(given))
        return f"the reason is {self.code.value!r}"  # its fields are missing: a peer may say anything

    def words(self) -> str:
        """The sentence for a person."""
        ident = self.id if len(self.id) <= SHOWN_ID else self.id[: SHOWN_ID - 1] + "…"
        return f"{self.kind} {ident!r}: {self.reason()}" if self.kind else self.reason()

    def to_json(self) -> dict[str, Any]:
        """For files and for people's programs; ``from_json`` reads it."""
        out: dict[str, Any] = {"kind": self.kind, "id": self.id, "code": self.code.value}
        if self.fields:
            out["fields"] = {name: list(values) for name, values in self.fields}
        return out


def refusal(kind: Kind, ident: str, code: Why, /, **fields: str | int | Iterable[str]) -> Refusal:
    """Within the bounds: a longer id or field is cut, with a mark."""
    kept, room = [], FIELDS_BYTES
    for name, given in list(fields.items())[:MOST_FIELDS]:
        values: list[str] = []
        for value in [str(given)] if isinstance(given, str | int) else given:
            if room <= 0:
                values[-1:] = ["…"]
                break
            values.append(_cut(value, room))
            room -= len(values[-1].encode(errors="replace")) + 1
        kept.append((name, tuple(values)))
    return Refusal(kind, cut_id(ident), code, tuple(kept))


def cut_id(ident: str) -> str:
    """The id of an item as refusals have it: whole, but for one beyond any use."""
    return _cut(ident, ID_BYTES)


def text(sentence: str) -> Refusal:
    """A sentence of somebody who has no values: it is shown, and nothing is decided on it."""
    return refusal("", "", Why.TEXT, text=sentence)


def more(count: int) -> Refusal:
    return refusal("", "", Why.MORE, count=count)


def read(kind: str, ident: str, code: str, fields: Mapping[str, Iterable[str]]) -> Refusal:
    """What a peer or a file says. A kind or a code that is not known is no error: a later version may have more."""
    known: Kind = next((one for one in KINDS if one == kind), "")
    if code not in _CODES:
        return refusal(known, ident, Why.UNKNOWN, code=code)
    given = {name: values for name, values in fields.items() if name in _NAMES}
    return refusal(known, ident, Why(code), **given)


def from_json(entry: object) -> Refusal:
    """A text is a sentence of an earlier version. ValueError for what neither that nor ``to_json`` makes."""
    if isinstance(entry, str):
        return text(entry)
    if not isinstance(entry, dict):
        raise ValueError("a refusal is neither a text nor an object")
    names = [entry.get(name) for name in ("kind", "id", "code")]
    fields = entry.get("fields", {})
    if not all(isinstance(name, str) for name in names) or not isinstance(fields, dict):
        raise ValueError("a refusal lacks its kind, id or code")
    if not all(
        isinstance(values, list) and all(isinstance(value, str) for value in values)
        for values in fields.values()
    ):
        raise ValueError("a field of a refusal is not a list of texts")
    kind, ident, code = map(str, names)
    return read(kind, ident, code, fields)


_CODES: Final = frozenset(Why)
_NAMES: Final = frozenset(
    name for forms in _WORDS.values() for form in forms for _, name, _, _ in Formatter().parse(form) if name
) - {"kind"}


def _joined(name: str, values: tuple[str, ...]) -> str:
    return ", ".join(values if name in _PLAIN else map(repr, values))


def _cut(given: str, limit: int) -> str:
    """At most ``limit`` bytes, and a mark where something is gone."""
    data = given.encode(errors="replace")
    return data.decode() if len(data) <= limit else data[: max(limit - 3, 0)].decode(errors="ignore") + "…"


def _plain(sentence: str) -> str:
    if sentence.isprintable():
        return sentence
    return "".join(char if char.isprintable() else "\ufffd" for char in sentence)

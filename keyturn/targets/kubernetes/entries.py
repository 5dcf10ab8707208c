"""A secret's text as entries of a Secret, back again to the byte, and whose entries they are. Pure.

A text that is a JSON object becomes an entry a field; with `?key=ENTRY` the whole text is that entry. What is needed to
write the very same text again (the fields' order, which are no texts, and how the JSON was laid out) stands in the
annotation FORM beside them: the same secret must have the same bytes in each target, and at each repetition.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from keyturn.execution.errors import CloudRefused, SecretManagedElsewhere
from keyturn.foreign_json import read_json
from keyturn.targets.kubernetes.api import MANAGER
from keyturn.targets.kubernetes.paths import SecretPath, is_entry

FORM = "keyturn.dev/fields"
_WHOLE, _TEXT, _JSON = "whole", "text", "json"
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON may have as an escape
# How JSON is usually written: by Python, compact, and indented as Google's key files are.
_LAYOUTS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "plain-utf8": {"ensure_ascii": False},
    "compact": {"separators": (",", ":")},
    "compact-utf8": {"separators": (",", ":"), "ensure_ascii": False},
    "indented": {"indent": 2},
    "indented-utf8": {"indent": 2, "ensure_ascii": False},
}


@dataclass(frozen=True)
class Entries:
    """Entries of a Secret as its `data` has them, and the annotation that says how to read them."""

    data: Mapping[str, str] = field(repr=False)
    form: str | None

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self.data


def entries_of(path: SecretPath, secret: SecretStr) -> Entries:
    """Return a secret's text as entries; raises CloudRefused for a text that has no such form."""
    text = secret.get_secret_value()
    if path.entry is not None:
        return Entries(_encoded(path, {path.entry: text}), _form("whole", {path.entry: _WHOLE}))
    fields = _fields(text)
    if not fields or not all(is_entry(name) for name in fields):
        raise CloudRefused(f"the secret for {path} is no JSON object of fields that can be entries: use ?key=ENTRY")
    layout = next((name for name, style in _LAYOUTS.items() if json.dumps(fields, **style) == text), None)
    if layout is None:
        raise CloudRefused(f"the secret for {path} is JSON in a form that could not be read back: use ?key=ENTRY")
    kinds = {name: _TEXT if isinstance(value, str) else _JSON for name, value in fields.items()}
    parts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return Entries(_encoded(path, parts), _form(layout, kinds))


def own_entries(live: Mapping[str, Any]) -> Entries:
    """Return the entries of a Secret that are Keyturn's: by its annotation, else by its managed fields."""
    data = _mapping(live, "data")
    said = _mapping(_mapping(live, "metadata"), "annotations").get(FORM)
    form = _read_form(said)
    names = list(form[1]) if form is not None else sorted(_managed(live))
    own = {name: str(data[name]) for name in names if name in data}
    return Entries(own, str(said) if form is not None else None)


def text_of(path: SecretPath, live: Mapping[str, Any]) -> str | None:
    """Return the secret's text in a Secret; None if it holds none, or none that is a text.

    With `?key=ENTRY` it is that entry, whoever wrote it: it is what the consumers read.
    """
    if path.entry is not None:
        return _decode(str(_mapping(live, "data").get(path.entry, "")))
    entries = own_entries(live)
    if entries.is_empty:
        return None
    layout, kinds = _read_form(entries.form) or ("plain", {})
    fields: dict[str, Any] = {}
    for name, encoded in entries.data.items():
        part = _decode(encoded, empty="")
        if part is None:
            return None
        fields[name] = _value(part) if kinds.get(name) == _JSON else part
    return json.dumps(fields, **_LAYOUTS.get(layout, {}))


def managed_elsewhere(path: object, managers: Iterable[str]) -> SecretManagedElsewhere:
    """Return the error that names who manages what Keyturn would write."""
    return SecretManagedElsewhere(
        f"{path}: {', '.join(managers)} manages an entry or annotation that Keyturn would write"
    )


def others_entries(live: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Return the entries of a Secret that managers other than Keyturn have, by manager."""
    there = set(_mapping(live, "data"))
    found: dict[str, list[str]] = {}
    for one in _managers(live):
        names = [_plain(name) for name in sorted(_entries_in(one) & there)]
        if names and one.get("manager") != MANAGER:
            found.setdefault(_plain(str(one.get("manager", ""))), []).extend(names)
    return found


def expect_writable(path: SecretPath, live: Mapping[str, Any], wanted: Entries) -> bool:
    """Check that an apply of the wanted entries takes nothing away from anyone; returns whether it must be forced.

    An apply removes our entries that it does not name: a second key in the same Secret would lose the first one's. It
    is forced only where the other manager is Keyturn itself, by an update (`kubectl edit --field-manager=keyturn`).

    Raises:
        SecretManagedElsewhere: an entry is another manager's.
        CloudRefused: the Secret is immutable, or an entry is another key's of Keyturn.
    """
    if live.get("immutable") is True:
        raise CloudRefused(f"{path} is immutable: delete it, or create one that is not, under another name")
    owners = _owners(live, wanted.data)
    foreign = sorted({_plain(manager) for manager, _ in owners if manager != MANAGER})[:4]
    if foreign:
        raise managed_elsewhere(path, foreign)
    form = _read_form(own_entries(live).form)
    listed = set(form[1]) if form is not None else set()
    is_other = form is not None and (_WHOLE in form[1].values()) != (path.entry is not None)
    # What Keyturn manages and would now remove: fields of the form before may go, and nothing else.
    beside = (_managed(live) | listed) - set(wanted.data) - (listed if path.entry is None else set())
    if is_other or (beside & set(_mapping(live, "data"))):
        raise CloudRefused(f"{path} has other entries that are Keyturn's: give each key a Secret of its own")
    return (MANAGER, "Update") in owners


def _owners(live: Mapping[str, Any], wanted: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the managers, and by which operation, of our annotations, and of entries that would change."""
    data = _mapping(live, "data")
    changed = {name for name, value in wanted.items() if name in data and data[name] != value}
    return {
        (str(manager.get("manager", "")), str(manager.get("operation", "")))
        for manager in _managers(live)
        if changed & _entries_in(manager) or _has_our_notes(manager)
    }


def _plain(name: str) -> str:
    """A name as a message may have it: printable, and no longer than the error's own words."""
    return re.sub(r"[^ -~]", "?", name)[:64]


def _managed(live: Mapping[str, Any]) -> set[str]:
    return {name for one in _managers(live) if one.get("manager") == MANAGER for name in _entries_in(one)}


def _managers(live: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = _mapping(live, "metadata").get("managedFields")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _entries_in(manager: Mapping[str, Any]) -> set[str]:
    """The entries in a manager's fields: FieldsV1 writes a key as `f:KEY`, and the map itself as `.`."""
    fields = _mapping(_mapping(manager, "fieldsV1"), "f:data")
    return {name.removeprefix("f:") for name in fields if name.startswith("f:")}


def _has_our_notes(manager: Mapping[str, Any]) -> bool:
    fields = _mapping(_mapping(_mapping(manager, "fieldsV1"), "f:metadata"), "f:annotations")
    return any(name.startswith("f:keyturn.dev/") for name in fields)


def _mapping(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, dict) else {}


def _form(layout: str, kinds: Mapping[str, str]) -> str:
    return json.dumps({"layout": layout, "entries": kinds}, separators=(",", ":"))


def _read_form(text: Any) -> tuple[str, dict[str, str]] | None:
    found = _value(text) if isinstance(text, str) else None
    if not isinstance(found, dict):
        return None
    kinds = found.get("entries")
    if not isinstance(kinds, dict) or not set(map(str, kinds.values())) <= {_WHOLE, _TEXT, _JSON}:
        return None  # written by others: it says nothing
    return str(found.get("layout")), kinds


def _fields(text: str) -> dict[str, Any]:
    found = _value(text)
    return found if isinstance(found, dict) else {}


def _value(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:  # which holds the text: nothing is raised from here
        return None


def _encoded(path: SecretPath, parts: Mapping[str, str]) -> dict[str, str]:
    if any(_SURROGATE.search(part) for part in parts.values()):
        raise CloudRefused(f"the secret for {path} is no text that UTF-8 can hold")
    return {name: base64.b64encode(part.encode()).decode() for name, part in parts.items()}


def _decode(encoded: str, *, empty: str | None = None) -> str | None:
    try:
        return base64.b64decode(encoded).decode() or empty
    except ValueError:  # no text: a UnicodeDecodeError is a ValueError, as is what base64 raises
        return None

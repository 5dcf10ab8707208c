"""The entries of JSON documents: arrays, listings such as `{"value": [...]}`, and objects, one or several in a file.

They are streamed, whatever their size, and within limits (`BoundedText`).
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import ijson

from keyturn.foreign_json import expect_shallow
from keyturn.inventory.bounded_text import MAX_LINE, BoundedText
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow
from keyturn.inventory.text import open_text

# Where listings have their entries: Microsoft Graph and Azure, Google's REST, AWS.
LISTS = ("value", "keys", "AccessKeyMetadata", "assets", "results", "items")
# A page of several: what it leaves out would be missed in silence.
_NEXT = (
    "@odata.nextLink",
    "odata.nextLink",
    "nextLink",
    "nextPageToken",
    "next_page_token",
    "NextToken",
    "Marker",
    "IsTruncated",
    "skipToken",
)
MAX_MEMBERS = 50_000  # of an entry: Microsoft Graph's own service principal, in every tenant, has over ten thousand

TWICE = "names a member twice: what says two things says nothing"
_TWICE = object()  # a value that does
# Members of a key, and of no listing.
_KEYS_OWN = frozenset({"account_id", "key_id", "keyId", "AccessKeyId", "keyType"})
_APPLICATION = "appId"
Entry = BadRow | tuple[int, Mapping[str, Any]]


class _Page(NamedTuple):
    """The end of a listing: its place, what it is a page of, and the member by which it says that more follow."""

    line: int
    listing: object
    more: str | None


def lines_of(file: Path) -> Iterator[Entry]:
    """Yield the objects of JSON Lines by their lines' numbers, what is none as a BadRow; raises InventoryInvalid."""
    with open_text(file) as text:
        line = 0
        while row := text.readline(MAX_LINE):
            line += 1
            if len(row) == MAX_LINE and not row.endswith("\n"):
                while (rest := text.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
                yield BadRow(line, f"is longer than {MAX_LINE:,} characters", {})
                continue
            row = row.removeprefix("\ufeff")
            if not row.strip():
                continue
            try:
                expect_shallow(row)
                found = _LINE.decode(row.strip())
            except _NamedTwice:
                yield BadRow(line, TWICE, {})
                continue
            except ValueError:
                yield BadRow(line, "is not JSON", {})
                continue
            yield (line, found) if isinstance(found, dict) else BadRow(line, "is not an object", {})


def entries_of(file: Path) -> Iterator[Entry]:
    """Yield the entries of every document of a file, counted from 1; raises InventoryInvalid."""
    with open_text(file) as text:
        yield from entries_in(text, str(file))


def entries_in(text: TextIO, name: str) -> Iterator[Entry]:
    """Yield the entries of every document in `text`, which errors call `name`."""
    events = ijson.basic_parse(BoundedText(text, name), multiple_values=True, use_float=True)
    number = itertools.count(1)
    try:
        yield from _whole(found for event, value in events for found in _entries(events, event, value, number))
    except ijson.JSONError as error:
        what = "holds a number that is too large" if "overflow" in str(error) else "is not JSON from some position on"
        raise InventoryInvalid(f"{name} {what}") from None
    except UnicodeError:
        raise InventoryInvalid(f"{name} holds half of a surrogate pair") from None


def _whole(found: Iterator["Entry | _Page"]) -> Iterator[Entry]:
    """Yield the entries, and for each page whose next one is missing a BadRow: it would be missed in silence."""
    awaited: _Page | None = None
    for one in found:
        if not isinstance(one, _Page):
            yield one
            continue
        if awaited is not None and awaited.listing != one.listing:
            yield _incomplete(awaited)
        awaited = one if one.more else None
    if awaited is not None:
        yield _incomplete(awaited)


def _incomplete(page: "_Page") -> BadRow:
    advice = "list all of them; if its other pages are here, too, take their entries out (jq '.value[]')"
    return BadRow(page.line, f"the listing is one page of several ({page.more}): {advice}", {})


def _entries(events: Any, event: str, value: Any, number: Iterator[int]) -> Iterator["Entry | _Page"]:
    """Yield the entries of the value that starts with this event."""
    if event == "start_array":
        yield from _elements(events, number)
    elif event == "start_map":
        yield from _listing(events, number)
    else:
        yield _entry(next(number), value)


def _elements(events: Any, number: Iterator[int]) -> Iterator["Entry | _Page"]:
    """Yield the entries of an array, and of arrays and listings in it: `jq -s` makes one array of several files."""
    for event, value in events:
        if event == "end_array":
            return
        yield from _entries(events, event, value, number)


def _listing(events: Any, number: Iterator[int]) -> Iterator["Entry | _Page"]:
    """Yield the entries of an object that lists them; or the object itself, if it lists none.

    An application's `keys` are its own: they do not name it.
    """
    own: dict[str, Any] = {}
    lists, twice = "", False
    for members, (event, name) in enumerate(events):
        if event == "end_map":
            break
        event, value = next(events)  # noqa: PLW2901 - the member's value follows its name
        if event == "start_array" and name in LISTS and _APPLICATION not in own:
            lists = name
            yield from _elements(events, number)
        else:
            twice = twice or name in own
            own[name] = _value(events, event, value)
            twice = twice or own[name] is _TWICE
        if members >= MAX_MEMBERS:
            raise InventoryInvalid(f"an entry has more than {MAX_MEMBERS:,} members")
    if twice:
        yield BadRow(next(number), TWICE, {})
    elif not lists:
        yield _entry(next(number), own)
    elif not _KEYS_OWN.isdisjoint(own):
        yield BadRow(next(number), f"is a key, and lists others as {lists}: no key has such a member", {})
    elif _APPLICATION in own:
        raise InventoryInvalid(f"a listing names its application behind its {lists}: write {_APPLICATION} before them")
    else:
        more = next((name for name in _NEXT if own.get(name)), None)
        # Microsoft Graph alone says of each page what it is a page of.
        yield _Page(next(number) if more else 0, own.get("@odata.context") or object(), more)


def _entry(number: int, value: Any) -> Entry:
    if value is _TWICE:
        return BadRow(number, TWICE, {})
    if not isinstance(value, dict):
        return BadRow(number, "is not an object", {})
    return number, value


def _value(events: Any, event: str, value: Any) -> Any:
    """Return the value that starts with this event."""
    if event not in {"start_map", "start_array"}:
        return value
    builder = ijson.ObjectBuilder()
    builder.event(event, value)
    depth, members, twice = 1, 0, False
    names: list[set[str]] = [set()]  # of each object or array that is open
    while depth:
        event, value = next(events)
        builder.event(event, value)
        members += not event.startswith("end_") and event != "map_key"
        if event == "map_key":
            twice = twice or value in names[-1]
            names[-1].add(value)
        elif event.startswith("start_"):
            depth += 1
            names.append(set())
        elif event.startswith("end_"):
            depth -= 1
            names.pop()
        if members >= MAX_MEMBERS:
            raise InventoryInvalid(f"an entry has more than {MAX_MEMBERS:,} members")
    return _TWICE if twice else builder.value


class _NamedTwice(ValueError):
    """An object that names a member twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NamedTwice
    return found


def _constant(name: str) -> None:
    """What Python's and pandas' writers put for a gap is one; infinity is no number of JSON."""
    if name != "NaN":
        raise ValueError(name)


_LINE = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)

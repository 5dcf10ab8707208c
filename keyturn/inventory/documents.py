"""The entries of JSON documents: arrays, listings such as `{"value": [...]}`, and objects, one or several in a file.

They are streamed, whatever their size, and within limits (`BoundedText`).
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

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
KEYS_OWN = frozenset({"account_id", "key_id", "keyId", "AccessKeyId", "keyType"})
# Where an application's own listing stands beside its ID, as Microsoft's tools and people call it.
APPLICATION_IDS = frozenset({"appId", "clientId", "applicationId", "application_id", "client_id"})
Entry = BadRow | tuple[int, Mapping[str, Any]]


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


def entries_of(file: Path, *, of_one_application: bool = False) -> Iterator[Entry]:
    """Yield the entries of every document of a file, counted from 1.

    Args:
        file: to be read.
        of_one_application: whether all are one application's, which the caller names: two listings are of two.

    Raises:
        InventoryInvalid: it cannot be read, or has several listings of one application.
    """
    with open_text(file) as text:
        yield from entries_in(text, str(file), of_one_application=of_one_application)


def entries_in(text: TextIO, name: str, *, of_one_application: bool = False) -> Iterator[Entry]:
    """Yield the entries of every document in `text`, which errors call `name`."""
    documents = _Documents(ijson.basic_parse(BoundedText(text, name), multiple_values=True, use_float=True))
    try:
        for found in documents.entries():
            is_named = isinstance(found, tuple) and not APPLICATION_IDS.isdisjoint(found[1])
            if of_one_application and documents.listings > 1 and not is_named:
                raise InventoryInvalid(
                    f"{name} holds several listings, and --account names one application: write appId beside each "
                    "list, or, if all are of this one, take the entries out (jq '.value[]', or jq '.[]' of arrays)"
                )
            yield found
    except ijson.JSONError as error:
        what = "holds a number that is too large" if "overflow" in str(error) else "is not JSON from some position on"
        raise InventoryInvalid(f"{name} {what}") from None
    except UnicodeError:
        raise InventoryInvalid(f"{name} holds half of a surrogate pair") from None


class _Documents:
    """The documents of a file, by the events of their parser; `listings` is how many lists with entries there were."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self._number = itertools.count(1)
        self._lists: list[bool] = []  # of each list that is open, whether it has an entry
        self.listings = 0

    def entries(self) -> Iterator[Entry]:
        for event, value in self._events:
            yield from self._from(event, value)

    def _from(self, event: str, value: Any) -> Iterator[Entry]:
        """Yield the entries of the value that starts with this event."""
        if event == "start_array":
            yield from self._elements()
        elif event == "start_map":
            yield from self._listing()
        else:
            yield self._entry(value)

    def _entry(self, value: Any) -> Entry:
        if self._lists and not self._lists[-1]:
            self._lists[-1] = True
            self.listings += 1
        return _entry(next(self._number), value)

    def _elements(self) -> Iterator[Entry]:
        """Yield the entries of an array, and of arrays and listings in it: `jq -s` makes one array of several files."""
        self._lists.append(False)
        for event, value in self._events:
            if event == "end_array":
                break
            yield from self._from(event, value)
        self._lists.pop()

    def _listing(self) -> Iterator[Entry]:
        """Yield the entries of an object that lists them; or the object itself, if it lists none.

        An application's `keys` are its own: they do not name it. An empty object is a listing of none: so does Google
        answer for an account without keys.
        """
        own: dict[str, Any] = {}
        lists, twice = "", False
        for members, (event, name) in enumerate(self._events):
            if event == "end_map":
                break
            event, value = next(self._events)  # noqa: PLW2901 - the member's value follows its name
            if event == "start_array" and name in LISTS and APPLICATION_IDS.isdisjoint(own):
                lists = name
                yield from self._elements()
            else:
                twice = twice or name in own
                own[name] = _value(self._events, event, value)
                twice = twice or own[name] is _TWICE
            if members >= MAX_MEMBERS:
                raise InventoryInvalid(f"an entry has more than {MAX_MEMBERS:,} members")
        if twice:
            yield BadRow(next(self._number), TWICE, {})
        elif not lists:
            yield from self._entries_of_object(own)
        elif not KEYS_OWN.isdisjoint(own):
            reason = f"is a key, and lists others as {lists}: no key has such a member"
            yield BadRow(next(self._number), reason, {})
        elif names := sorted(APPLICATION_IDS & own.keys()):
            raise InventoryInvalid(f"a listing names its application behind its {lists}: write {names[0]} before them")
        else:
            yield from self._incomplete(own, lists)

    def _entries_of_object(self, own: Mapping[str, Any]) -> Iterator[Entry]:
        """Yield an object that lists nothing, or an application with its own credentials, or what one was shown."""
        nested = [name for name in LISTS if isinstance(own.get(name), list)]
        is_named = bool(nested) and not APPLICATION_IDS.isdisjoint(own)
        if is_named and not _has_credentials(own[nested[0]]):  # who asked, and not whose they are
            yield from (self._entry(one) for one in own[nested[0]])
        elif own:
            yield self._entry(own)
        if is_named:
            yield from self._incomplete(own, nested[0])

    def _incomplete(self, own: Mapping[str, Any], lists: str) -> Iterator[BadRow]:
        """Yield what is wrong with a listing that says that more follow: nothing says that what is here does."""
        if more := next((name for name in _NEXT if own.get(name)), None):
            advice = f"list all of them; if its other pages are here, too, take all entries out (jq '.{lists}[]')"
            yield BadRow(next(self._number), f"the listing is one page of several ({more}): {advice}", {})


def _has_credentials(listed: Sequence[Any]) -> bool:
    """Whether an application's list is of its credentials, and not of others' keys or of applications."""
    return not listed or not all(isinstance(one, dict) and "keyId" not in one for one in listed)


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

"""The entries of JSON documents: arrays, listings such as `{"value": [...]}`, and objects, one or several in a file.

They are streamed, whatever their size. A foreign file may be built to crash its reader: its depth, its digits and
its texts have limits, which are checked before the parser sees them. ijson 3.6 ends the process at an integer of
4,301 digits, and takes 3.9 GB for 80,000 opening brackets.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import ijson

from keyturn.foreign_json import expect_shallow
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow
from keyturn.inventory.text import PEEK, open_text

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
MAX_LINE = 1_000_000  # characters of a row, which has some hundreds: what is longer is none
MAX_DEPTH = 64  # a Cloud Asset export has eight
MAX_DIGITS = 400  # of a number: a double has 309 before its point at most
MAX_MEMBERS = 50_000  # of an entry: Microsoft Graph's own service principal, in every tenant, has over ten thousand

TWICE = "names a member twice: what says two things says nothing"
_TWICE = object()  # a value that does
# Members of a key, and of no listing.
_KEYS_OWN = frozenset({"account_id", "key_id", "keyId", "AccessKeyId", "keyType"})
Entry = BadRow | tuple[int, Mapping[str, Any]]
_DIGITS = re.compile(rb"[0-9]{%d}" % MAX_DIGITS)
# RFC 8259 allows four blanks between tokens, and none of the rest anywhere.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_TEXTS = re.compile(rb'"[^"]*"')
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b'"\\[]{}'))
_NO_STEP = itertools.repeat(0)
_STEPS = {ord(b"["): 1, ord(b"{"): 1, ord(b"]"): -1, ord(b"}"): -1}


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
    events = ijson.basic_parse(_Bounded(text, name), multiple_values=True, use_float=True)
    number = itertools.count(1)
    try:
        for event, value in events:
            if event == "start_array":
                yield from _elements(events, number)
            elif event == "start_map":
                yield from _listing(events, number)
            else:
                yield _entry(next(number), value)
    except ijson.JSONError as error:
        what = "holds a number that is too large" if "overflow" in str(error) else "is not JSON from some position on"
        raise InventoryInvalid(f"{name} {what}") from None
    except UnicodeError:
        raise InventoryInvalid(f"{name} holds half of a surrogate pair") from None


def _elements(events: Any, number: Iterator[int]) -> Iterator[Entry]:
    for event, value in events:
        if event == "end_array":
            return
        yield _entry(next(number), _value(events, event, value))


def _listing(events: Any, number: Iterator[int]) -> Iterator[Entry]:
    """Yield the entries of an object that lists them; or the object itself, if it lists none."""
    own: dict[str, Any] = {}
    lists, twice = "", False
    for members, (event, name) in enumerate(events):
        if event == "end_map":
            break
        event, value = next(events)  # noqa: PLW2901 - the member's value follows its name
        if event == "start_array" and name in LISTS:
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
    elif more := [name for name in _NEXT if own.get(name)]:
        yield BadRow(next(number), f"the listing is one page of several ({more[0]}): list all of them", {})


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


class _Bounded:
    """A text as ijson reads it, in bytes of UTF-8, looked at before it does."""

    def __init__(self, text: TextIO, name: str) -> None:
        self._text = text
        self._name = name
        self._depth = self._text_so_far = 0
        # Of the piece before: its end, a backslash at it, and the quotation mark of a text that it does not end.
        self._rest = self._carried = self._within_text = b""

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        while text := self._text.read(PEEK):
            piece = text.replace("\ufeff", "").encode()  # concatenated files may each start with a byte order mark
            if piece:
                self._look(piece)
                return piece
        return b""

    def _look(self, piece: bytes) -> None:
        around = self._rest + piece
        if _DIGITS.search(around):
            raise InventoryInvalid(f"{self._name} holds a number of {MAX_DIGITS} digits or more")
        if _CONTROLS.search(piece):
            raise InventoryInvalid(f"{self._name} is not JSON: it holds a control character")
        self._rest = around[-MAX_DIGITS:]
        self._look_at_structure(piece)
        if self._within_text:
            quote = piece.rfind(b'"')
            self._text_so_far = self._text_so_far + len(piece) if quote < 0 else len(piece) - quote
            if self._text_so_far > MAX_LINE:
                raise InventoryInvalid(f"{self._name} holds a text of over {MAX_LINE:,} characters")

    def _look_at_structure(self, piece: bytes) -> None:
        piece = self._carried + piece
        ends = len(piece) - len(piece.rstrip(b"\\"))
        self._carried = b"\\" if ends % 2 else b""  # what it escapes comes with the next piece
        piece = _ESCAPED.sub(b"", piece.removesuffix(self._carried)) if b"\\" in piece else piece
        bare = _TEXTS.sub(b"", self._within_text + piece.translate(None, _ALL_BUT_STRUCTURE))
        self._within_text = b'"' if b'"' in bare else b""
        depths = list(itertools.accumulate(map(_STEPS.get, bare.partition(b'"')[0], _NO_STEP), initial=self._depth))
        self._depth = depths[-1]
        if max(depths) > MAX_DEPTH:
            raise InventoryInvalid(f"{self._name} is nested deeper than {MAX_DEPTH} levels")


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

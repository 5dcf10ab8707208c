"""Read an inventory: recognise its format by its content, yield one row at a time, and skip bad rows."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from keyturn.foreign_json import DECODER, read_json
from keyturn.inventory.documents import KEYS_OWN, LISTS, Entry, entries_of, lines_of
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow, Origin, RowFault
from keyturn.inventory.source import Inventory, Row, Table, TableReader
from keyturn.inventory.sources import load_sources
from keyturn.inventory.tables import TableRow, read_header, rows_in, rows_in_pieces
from keyturn.inventory.text import PEEK, first_characters, open_text

# Objects of any source, an object a line or of no source that is known: what is wrong with each is said of it.
_LINES = "jsonl"
_WORDS = re.compile(r"[A-Za-z]{1,16}(?:[ _-][A-Za-z0-9]{1,16}){0,7}")  # a column's name as people write it


def read(inventory: Inventory) -> Iterator[Row]:
    """Yield each row of an inventory as its keys, or as one BadRow with the reason.

    Raises:
        InventoryInvalid: the file cannot be read, is of no source, or has neither a key nor a row that should be one;
            what was yielded before is sound.
    """
    kind = inventory.format or recognise_source(inventory.file)
    source = load_sources().get(kind)
    if source is None:
        raise InventoryInvalid(f"there is no format {kind[:48]!a}: there are {', '.join(load_sources())}")
    if source.table is not None and (source.entries is None or _holds_table(inventory.file, source.table)):
        rows = _rows_of(inventory, source.table)
    else:
        by_lines = kind == _LINES and (inventory.format == _LINES or _is_lines(first_characters(inventory.file)))
        one = inventory.account_id is not None and kind == "azure"
        entries = lines_of(inventory.file) if by_lines else entries_of(inventory.file, of_one_application=one)
        rows = _keys_of_entries(inventory, entries)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:  # a nightly run that judges nothing must not end happily
        raise InventoryInvalid(f"{inventory.file} was read as {kind} and holds no key")


def holds_table(file: Path, form: str | None = None) -> bool:
    """Return whether a file is read as a table, in an answer or not; raises InventoryInvalid.

    Args:
        file: the inventory.
        form: the name of its source; None recognises it.
    """
    source = load_sources().get(form or recognise_source(file))
    if source is None or source.table is None:
        return False
    return source.entries is None or _holds_table(file, source.table)


def recognise_source(file: Path) -> str:
    """Return the name of a file's source by its content; raises InventoryInvalid, with what was looked for."""
    head = first_characters(file)
    if not head:
        raise InventoryInvalid(f"{file} is empty")
    tables = [(name, source.table) for name, source in load_sources().items() if source.table is not None]
    for name, table in tables:
        if table.wrapped is not None and table.wrapped.knows(head):
            return name
    if head[0] in "[{":
        return _LINES if _is_lines(head) else _source_of(next(entries_of(file), None))
    names = read_header(head)[1]
    for name, table in tables:
        if table.knows(names):
            return name
    looked_for = (
        f"is none of {', '.join(load_sources())}: it is no JSON, and its first line is no header "
        f"{', nor '.join(table.looked_for for _, table in tables)}, by comma, semicolon or tab "
        "(docs/reference/inventories.md has the formats)"
    )
    # Names of columns alone: a table without a header starts with what it has, such as a secret.
    found = ", ".join(f"{name[:40]!a}" if _WORDS.fullmatch(name) else "(left out)" for name in names[:4])
    raise InventoryInvalid(f"{file} {looked_for}. It starts with {found}", without_quotes=f"{file} {looked_for}")


def _holds_table(file: Path, table: Table) -> bool:
    """Whether a file contains a table, in an answer or not, rather than entries."""
    head = first_characters(file)
    return head[:1] not in {"[", "{"} or (table.wrapped is not None and table.wrapped.knows(head))


def _is_lines(head: str) -> bool:
    """Whether a text that starts so has one object per line; a listing on one line has not, nor one over several."""
    lines = [line.strip() for line in head.splitlines()[:3] if line.strip()]
    first, is_whole = lines[0], len(lines) > 1 or len(head) < PEEK // 2
    if _has_listing(head) or _spans_lines(head):
        return False
    # A bad first line is a row like any other, if what follows is an object a line.
    followed = len(lines) > 1 and lines[1].startswith("{") and lines[1].endswith("}")
    if not (first.startswith("{") and (first.endswith("}") or (followed and not first.endswith("[")))):
        return False
    try:
        row = read_json(first)
    except ValueError:
        # Objects behind each other on one line, as downloads that were appended have them, are no object a line.
        return is_whole and not _is_begun_by_object(first)  # else it is the beginning of a longer one
    return not _is_listing(row)


def _is_listing(row: Mapping[str, Any]) -> bool:
    return KEYS_OWN.isdisjoint(row) and any(isinstance(row.get(name), list) for name in LISTS)


def _has_listing(head: str) -> bool:
    """Whether one of its lines is a listing, which is no object of a key."""
    for line in head.splitlines():
        if line.lstrip().startswith("{") and any(f'"{name}"' in line for name in LISTS):
            with suppress(ValueError):
                if _is_listing(read_json(line.strip())):
                    return True
    return False


def _spans_lines(head: str) -> bool:
    """Whether a document in it spans several lines, of documents that stand behind each other."""
    place = 0
    while rest := head[place:].lstrip():
        place = len(head) - len(rest)
        try:
            _, end = DECODER.raw_decode(head, place)
        except (ValueError, RecursionError):  # broken, or it goes on behind the head
            first, _, others = rest.partition("\n")
            return first.rstrip() in {"{", "["} and not _is_object(others.partition("\n")[0])
        if "\n" in head[place:end]:
            return True
        place = end
    return False


def _is_object(line: str) -> bool:
    try:
        return isinstance(read_json(line.strip()), dict)
    except ValueError:
        return False


def _is_begun_by_object(line: str) -> bool:
    try:
        _, end = DECODER.raw_decode(line)
    except (ValueError, RecursionError):
        return False
    return line[end:].lstrip().startswith(("{", "["))


def _source_of(first: Entry | None) -> str:
    if first is not None and not isinstance(first, BadRow):
        for name, source in load_sources().items():
            if source.entries is not None and source.entries.knows(first[1]):
                return name
    return _LINES


def _keys_of_entries(inventory: Inventory, entries: Iterator[Entry]) -> Iterator[Row]:
    origin = inventory.origin("inventory")
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
            continue
        try:
            yield from _keys_of(*entry, inventory, origin)
        except _UnknownEntry as fault:  # it may be anything: a Secret of Kubernetes, with all that is in it
            yield BadRow(entry[0], str(fault), {})
        except RowFault as fault:
            yield BadRow(entry[0], str(fault), entry[1])


class _UnknownEntry(RowFault):
    """An entry of no source."""


def _keys_of(line: int, row: Mapping[str, Any], inventory: Inventory, origin: Origin) -> Iterator[Row]:
    sources = load_sources()
    # A format that was named has the first look: an entry may carry the members of several sources.
    named = [sources[inventory.format]] if inventory.format is not None else []
    readers = [source.entries for source in (*named, *sources.values()) if source.entries is not None]
    for entries in readers:
        if entries.knows(row):
            return entries.keys_of(line, row, inventory, origin)
    *others, last = dict.fromkeys(entries.looked_for for entries in readers)
    raise _UnknownEntry(f"has no known format: it has neither {', '.join(others)}, nor {last}")


def _rows_of(inventory: Inventory, table: Table) -> Iterator[Row]:
    reader = table.open(inventory)
    wrapped = table.wrapped
    if wrapped is not None and wrapped.knows(first_characters(inventory.file)):
        for made, pieces in wrapped.tables(inventory.file):
            yield from _keys_of_rows(rows_in_pieces(pieces), reader, made)
    else:
        with open_text(inventory.file) as text:
            yield from _keys_of_rows(rows_in(text, first_characters(inventory.file)), reader, None)
    yield from reader.rest()


def _keys_of_rows(rows: Iterator[TableRow], reader: TableReader, made: str | None) -> Iterator[Row]:
    has_begun = False
    for row, header in rows:
        if not has_begun:
            reader.begin(header, made)
            has_begun = True
        if isinstance(row, BadRow):
            yield row
            continue
        line, cells = row
        try:
            keys = list(reader.keys(line, cells))  # all of a row's keys, or none
        except RowFault as fault:
            yield BadRow(line, str(fault), dict(zip(header, cells, strict=True)))
            continue
        yield from keys

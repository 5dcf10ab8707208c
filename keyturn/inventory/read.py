"""Read an inventory: recognise its format by its content, yield one row at a time, and skip bad rows."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keyturn.foreign_json import read_json
from keyturn.inventory.cells import unescape_formula
from keyturn.inventory.documents import LISTS, MAX_LINE, Entry, entries_of, lines_of
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow, Origin, RowFault
from keyturn.inventory.source import Inventory, Row, Table, TableReader
from keyturn.inventory.sources import load_sources
from keyturn.inventory.text import PEEK, first_characters, open_text

# Objects of any source, an object a line or of no source that is known: what is wrong with each is said of it.
_LINES = "jsonl"
# Spreadsheets write what their country writes: a comma, a semicolon, a tab.
_SEPARATORS = ",;\t|"


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
        rows = _keys_of_entries(inventory, lines_of(inventory.file) if by_lines else entries_of(inventory.file))
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:  # a nightly run that judges nothing must not end happily
        raise InventoryInvalid(f"{inventory.file} was read as {kind} and holds no key")


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
    names = _header(head)[1]
    for name, table in tables:
        if table.knows(names):
            return name
    looked_for = (
        f"is none of {', '.join(load_sources())}: it is no JSON, and its first line is no header "
        f"{', nor '.join(table.looked_for for _, table in tables)}, by comma, semicolon or tab "
        "(docs/reference/inventories.md has the formats)"
    )
    found = ", ".join(f"{name[:40]!a}" for name in names[:4])
    raise InventoryInvalid(f"{file} {looked_for}. It starts with {found}", without_quotes=f"{file} {looked_for}")


def _holds_table(file: Path, table: Table) -> bool:
    """Whether a file contains a table, in an answer or not, rather than entries."""
    head = first_characters(file)
    return head[:1] not in {"[", "{"} or (table.wrapped is not None and table.wrapped.knows(head))


def _is_lines(head: str) -> bool:
    """Whether a text that starts so has one object per line; a listing on one line has not, nor one over several."""
    lines = [line.strip() for line in head.splitlines()[:3] if line.strip()]
    first, is_whole = lines[0], len(lines) > 1 or len(head) < PEEK // 2
    # A bad first line is a row like any other, if what follows is an object a line.
    followed = len(lines) > 1 and lines[1].startswith("{") and lines[1].endswith("}")
    if not (first.startswith("{") and (first.endswith("}") or (followed and not first.endswith("[")))):
        return False
    try:
        row = read_json(first)
    except ValueError:
        return is_whole  # else it is the beginning of a longer one
    return not any(isinstance(row.get(name), list) for name in LISTS)


def _source_of(first: Entry | None) -> str:
    if first is not None and not isinstance(first, BadRow):
        for name, source in load_sources().items():
            if source.entries is not None and source.entries.knows(first[1]):
                return name
    return _LINES


def _header(head: str) -> tuple[str, list[str]]:
    """Return the separator and the names of a CSV that starts so."""
    lines = [line for line in head.splitlines() if line.strip()]
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # as Excel writes and reads it
        return lines[0][4], _names(lines[1] if len(lines) > 1 else "", lines[0][4])
    first = lines[0] if lines else ""
    found = [(separator, _names(first, separator)) for separator in _SEPARATORS]
    known = {name for source in load_sources().values() if source.table for name in source.table.columns}
    return max(found, key=lambda one: (len(known & set(one[1])), len(one[1])))


def _names(line: str, separator: str) -> list[str]:
    return [unescape_formula(name).strip() for name in next(csv.reader([line], delimiter=separator), [])]


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
            yield from _keys_of_rows(_rows_in(pieces), reader, made)
    else:
        with open_text(inventory.file) as text:
            yield from _keys_of_rows(_rows(text, first_characters(inventory.file)), reader, None)
    yield from reader.rest()


TableRow = tuple[BadRow | tuple[int, list[str]], Sequence[str]]  # with its header


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


def _rows_in(pieces: Iterator[str]) -> Iterator[TableRow]:
    head = next(pieces, "")
    yield from _rows(_lines(itertools.chain([head], pieces)), head)


def _rows(lines: Iterable[str], head: str) -> Iterator[TableRow]:
    """Yield the rows of a CSV, each a line: no export has a line break in a cell.

    What spans several lines is due to a quotation mark that was not meant: each of these lines is then read alone.
    """
    separator, names = _header(head)
    taken: list[str] = []  # the lines of the row that is being read
    rows = csv.reader(_noted(lines, taken), delimiter=separator)
    header: list[str] | None = None
    number = 0
    while True:
        taken.clear()
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            cells = []
        found: Iterable[list[str] | str] = [cells]
        closes = "".join(taken).count('"') % 2 == 0
        if len(taken) > 1 and closes and header is not None and len(cells) == len(header):
            # A line break within a cell, or a quotation mark that the next one ends: which, nothing says.
            ends = f"spans lines {number + 1} to {number + len(taken)}, which no export does: none of them was read"
            yield BadRow(number + 1, ends, {}), header
            number += len(taken)
            continue
        if len(taken) != 1 or not cells:
            found = _each_alone(taken, separator)
        for one in found:
            number += 1
            if isinstance(one, str):
                yield BadRow(number, one, {}), header or names
                continue
            row = [unescape_formula(cell) for cell in one]
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                if not row[0].lower().startswith("sep="):
                    header = [name.strip() for name in row]
            elif len(row) != len(header):
                reason = f"has {len(row)} cells, and the header {len(header)}"
                yield BadRow(number, reason, dict(zip(header, row, strict=False))), header
            elif row[0].strip() != header[0] or [name.strip() for name in row] != header:  # files that were joined
                yield (number, row), header


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _each_alone(lines: Sequence[str], separator: str) -> Iterator[list[str] | str]:
    """Yield the cells of each line, or what is wrong with it."""
    for line in lines:
        try:
            yield next(csv.reader([line], delimiter=separator, strict=True), [])
        except csv.Error as error:
            of_a_mark = "unexpected end" in str(error) or "expected after" in str(error)
            yield "holds a quotation mark that does not end in the same line" if of_a_mark else f"is not CSV: {error}"


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        if len(rest) > MAX_LINE:
            raise InventoryInvalid(f"the report has a line of over {MAX_LINE:,} characters")
        yield from (f"{line}\n" for line in whole)
    if rest:
        yield rest

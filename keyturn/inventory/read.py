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
from keyturn.inventory.source import Inventory, Row, RowReader, Table
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
        except RowFault as fault:
            yield BadRow(entry[0], str(fault), entry[1])


def _keys_of(line: int, row: Mapping[str, Any], inventory: Inventory, origin: Origin) -> Iterator[Row]:
    sources = load_sources()
    # A format that was named has the first look: an entry may carry the members of several sources.
    named = [sources[inventory.format]] if inventory.format is not None else []
    readers = [source.entries for source in (*named, *sources.values()) if source.entries is not None]
    for entries in readers:
        if entries.knows(row):
            return entries.keys_of(line, row, inventory, origin)
    *others, last = dict.fromkeys(entries.looked_for for entries in readers)
    raise RowFault(f"has no known format: it has neither {', '.join(others)}, nor {last}")


def _rows_of(inventory: Inventory, table: Table) -> Iterator[Row]:
    wrapped = table.wrapped
    if wrapped is not None and not wrapped.knows(first_characters(inventory.file)):
        wrapped = None
    observed = None if wrapped is None else wrapped.observed(inventory.file)
    keys_of: RowReader | None = None
    for row, header in _table(inventory.file, None if wrapped is None else wrapped.pieces(inventory.file)):
        if keys_of is None:
            keys_of = table.open(inventory, header, observed)
        if isinstance(row, BadRow):
            yield row
            continue
        line, cells = row
        try:
            keys = list(keys_of(line, cells))  # all of a row's keys, or none
        except RowFault as fault:
            yield BadRow(line, str(fault), dict(zip(header, cells, strict=True)))
            continue
        yield from keys


def _table(
    file: Path, pieces: Iterator[str] | None = None
) -> Iterator[tuple[BadRow | tuple[int, list[str]], Sequence[str]]]:
    """Yield the rows of a CSV, each with the header; of `pieces` of text, if the file only wraps it."""
    if pieces is not None:
        head = next(pieces, "")
        yield from _rows(_lines(itertools.chain([head], pieces)), head)
        return
    head = first_characters(file)
    with open_text(file) as text:
        yield from _rows(text, head)


def _rows(lines: Iterable[str], head: str) -> Iterator[tuple[BadRow | tuple[int, list[str]], Sequence[str]]]:
    separator, names = _header(head)
    rows = csv.reader(lines, delimiter=separator)
    header: list[str] | None = None
    while True:
        line = rows.line_num + 1
        try:
            cells = [unescape_formula(cell) for cell in next(rows)]
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, f"is not CSV: {error}", {}), header or names
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            if cells[0].lower().startswith("sep="):
                continue
            header = [name.strip() for name in cells]
        elif len(cells) == len(header):
            yield (line, cells), header
        else:
            reason = f"has {len(cells)} cells, and the header {len(header)}"
            if rows.line_num > line:  # a quotation mark that was not meant takes in what follows
                reason += f"; a quotation mark in it is closed in line {rows.line_num}: none of these lines was read"
            yield BadRow(line, reason, dict(zip(header, cells, strict=False))), header


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        if len(rest) > MAX_LINE:
            raise InventoryInvalid(f"the report has a line of over {MAX_LINE:,} characters")
        yield from (f"{line}\n" for line in whole)
    if rest:
        yield rest

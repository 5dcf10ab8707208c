"""The rows of a CSV, as spreadsheets, scripts and clouds write it; a header, and a line each."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from keyturn.inventory.bounded_text import MAX_LINE
from keyturn.inventory.cells import unescape_formula
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow
from keyturn.inventory.sources import load_sources

# Spreadsheets write what their country writes: a comma, a semicolon, a tab.
_SEPARATORS = ",;\t|"
_UNNAMED = re.compile(r"Unnamed: \d+(?:\.\d+)?")  # as pandas calls a column without a name
TableRow = tuple[BadRow | tuple[int, list[str]], Sequence[str]]  # with its header


def read_header(head: str) -> tuple[str, list[str]]:
    """Return the separator and the names of a CSV that starts so."""
    lines = [line for line in head.splitlines() if line.strip()]
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # as Excel writes and reads it
        return lines[0][4], _names(lines[1] if len(lines) > 1 else "", lines[0][4])
    first = lines[0] if lines else ""
    found = [(separator, _names(first, separator)) for separator in _SEPARATORS]
    known = _known()
    return max(found, key=lambda one: (len(known & set(one[1])), len(one[1])))


@cache
def _known() -> frozenset[str]:
    """Return the columns of all tables, in small letters."""
    return frozenset(
        name.lower() for source in load_sources().values() if source.table for name in source.table.columns
    )


def _names(line: str, separator: str) -> list[str]:
    return [unescape_formula(name).strip() for name in next(csv.reader([line], delimiter=separator), [])]


def rows_in_pieces(pieces: Iterator[str]) -> Iterator[TableRow]:
    """Yield the rows of a CSV whose text comes in pieces; raises InventoryInvalid for a line of over a megabyte."""
    head = next(pieces, "")
    yield from rows_in(_lines(itertools.chain([head], pieces)), head)


def rows_in(lines: Iterable[str], head: str) -> Iterator[TableRow]:
    """Yield the rows of a CSV, each a line: no export has a line break in a cell.

    What spans several lines is due to a quotation mark that was not meant: each of these lines is then read alone.
    """
    separator, names = read_header(head)
    taken: list[str] = []  # the lines of the row that is being read
    rows = csv.reader(_noted(lines, taken), delimiter=separator)
    header: list[str] | None = None
    all_names: list[str] = []  # of the header's cells, empty ones too
    index: int | None = None  # what pandas and R have numbered the last row
    columns: frozenset[str] = frozenset()
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
        if (
            len(taken) > 1
            and header is not None
            and len(cells) == len(all_names)
            and "".join(taken).count('"') % 2 == 0
        ):
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
            row[0] = row[0].removeprefix("\ufeff")  # of a file that was joined behind another one
            if header is None:
                if not row[0].lower().startswith("sep="):
                    all_names = _header_of(row, number)
                    header = [name for name in all_names if name]
                    columns = _known() | {name.lower() for name in header}
            elif not _is_header(row, all_names, columns, number):
                named = _named_cells(row, all_names, index)
                index = int(row[0]) if not all_names[0] and row[0].strip().isdecimal() else index
                raw = dict(zip(all_names, row, strict=False))
                yield (BadRow(number, named, raw) if isinstance(named, str) else (number, named)), header


def _header_of(row: Sequence[str], number: int) -> list[str]:
    """Return the names of a header's columns, "" for one without; raises InventoryInvalid if none has one."""
    names = ["" if _UNNAMED.fullmatch(name.strip()) else name.strip() for name in row]
    if not any(names):
        raise InventoryInvalid(f"line {number} is the header, and names no column")
    return names


def _named_cells(row: list[str], names: Sequence[str], last: int | None) -> list[str] | str:
    """Return a row's cells of the columns that have a name, or what is wrong with it.

    A separator at the ends of all lines makes a column without a name or a value. pandas and R write the numbers of
    rows in front, which count up from the `last` one: else it may be an account. A cell too many is never left out,
    even an empty one: the others may stand in each other's columns.
    """
    if len(row) != len(names):
        return f"has {len(row)} cells, and the header {len(names)}"
    if all(names):
        return row
    for place, (cell, name) in enumerate(zip(row, names, strict=True)):
        if not name and cell.strip() and not (place == 0 and cell.strip().isdecimal()):
            return "has a value in a column without a name"
    if not names[0] and row[0].strip() and last is not None and int(row[0]) != last + 1:
        return "is not numbered as the next row: write the table without row numbers (in pandas, index=False)"
    return [cell for cell, name in zip(row, names, strict=True) if name]


def _is_header(row: Sequence[str], names: Sequence[str], columns: frozenset[str], number: int) -> bool:
    """Return whether a row is the header of another file, which was joined; raises InventoryInvalid if it differs.

    The other file may have other columns, in another order and in other letters.
    """
    if columns.isdisjoint(cell.strip().lower() for cell in row[:2]):  # the usual case
        return False
    found = [name.strip().lower() for name in row]
    if len(set(found) & columns) < 2:  # an account may be called as a column is
        return False
    if [name for name in found if name] != [name.lower() for name in names if name]:
        raise InventoryInvalid(f"line {number} is a header of other columns: read joined files one by one")
    return True


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

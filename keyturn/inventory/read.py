"""Read an inventory: its format is recognised by its content, rows come one at a time, a bad one stops nobody else."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from keyturn.errors import InventoryInvalid
from keyturn.foreign_json import read_json
from keyturn.inventory import aws, listings
from keyturn.inventory.cells import unguarded
from keyturn.inventory.documents import LISTS, MAX_LINE, Entry, entries_of, lines_of
from keyturn.inventory.rows import BadRow, InventoryKey, Origin, RowFault
from keyturn.inventory.text import PEEK, beginning, opened

Format = Literal["aws", "gcloud", "azure", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
Row = InventoryKey | BadRow
# Spreadsheets write what their country writes: a comma, a semicolon, a tab.
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Inventory:
    """A file of keys, and how to read it.

    `observed_at` is the evidence's own time; None takes what the export says, or else when the file was written.
    `account_id` is the Azure application, which its listing does not name. `access_keys` is the output of
    `aws iam list-access-keys`.
    """

    file: Path
    format: Format | None = None
    observed_at: datetime | None = None
    account_id: str | None = None
    access_keys: Path | None = None


def read(inventory: Inventory) -> Iterator[Row]:
    """Yield each row of an inventory as its keys, or as one BadRow with the reason.

    Raises:
        InventoryInvalid: the file cannot be read, is none of the formats, or holds neither a key nor a row that should
            be one; what was yielded before is sound.
    """
    kind = inventory.format or recognised(inventory.file)
    if kind == "aws":
        rows = _credential_report(inventory)
    elif kind == "csv":
        rows = _plain_csv(inventory)
    else:
        by_lines = kind == "jsonl" and (inventory.format == "jsonl" or _is_lines(beginning(inventory.file)))
        rows = _objects(inventory, lines_of(inventory.file) if by_lines else entries_of(inventory.file))
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:  # a nightly run that judges nothing must not end happily
        raise InventoryInvalid(f"{inventory.file} was read as {kind} and holds no key")


def recognised(file: Path) -> Format:
    """Return the format of a file by its content; raises InventoryInvalid, with what was looked for."""
    head = beginning(file)
    if not head:
        raise InventoryInvalid(f"{file} is empty")
    if aws.is_answer(head):
        return "aws"
    if head[0] in "[{":
        return "jsonl" if _is_lines(head) else _format_of(next(entries_of(file), None))
    names = _header(head)[1]
    if set(aws.COLUMNS) <= set(names):
        return "aws"
    if {"account_id", "key_id"} & set(names):
        return "csv"
    looked_for = (
        f"is none of {', '.join(FORMATS)}: it is no JSON, and its first line is no header with account_id and key_id, "
        "nor with AWS's user, arn and access_key_1_active, by comma, semicolon or tab "
        "(docs/reference/inventories.md has the formats)"
    )
    found = ", ".join(f"{name[:40]!a}" for name in names[:4])
    raise InventoryInvalid(f"{file} {looked_for}. It begins with {found}", without_quotes=f"{file} {looked_for}")


def _is_lines(head: str) -> bool:
    """Whether a text that begins so is an object a line; a listing on one line is none, and an object over several."""
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


def _format_of(first: Entry | None) -> Format:
    if first is None or isinstance(first, BadRow):
        return "jsonl"
    return listings.format_of(first[1])


def _header(head: str) -> tuple[str, list[str]]:
    """Return the separator and the names of a CSV that begins so."""
    lines = [line for line in head.splitlines() if line.strip()]
    if lines and lines[0].lower().startswith("sep=") and len(lines[0]) == 5:  # as Excel writes and reads it
        return lines[0][4], _names(lines[1] if len(lines) > 1 else "", lines[0][4])
    first = lines[0] if lines else ""
    found = [(separator, _names(first, separator)) for separator in _SEPARATORS]
    known = {*aws.COLUMNS, *listings.COLUMNS}
    return max(found, key=lambda one: (len(known & set(one[1])), len(one[1])))


def _names(line: str, separator: str) -> list[str]:
    return [unguarded(name).strip() for name in next(csv.reader([line], delimiter=separator), [])]


def _objects(inventory: Inventory, entries: Iterator[Entry]) -> Iterator[Row]:
    origin = _origin(inventory, "inventory")
    for entry in entries:
        if isinstance(entry, BadRow):
            yield entry
        else:
            yield from listings.keys_of(*entry, origin, inventory.account_id)


def _origin(inventory: Inventory, source: str, observed: str | None = None) -> Origin:
    moment = inventory.observed_at
    if moment is None and observed is not None:
        try:
            moment = datetime.fromisoformat(observed)
        except ValueError:
            raise InventoryInvalid(f"{inventory.file}: GeneratedTime is not a moment") from None
    if moment is None:
        moment = datetime.fromtimestamp(inventory.file.stat().st_mtime, UTC)
    return Origin(moment, source)


def _credential_report(inventory: Inventory) -> Iterator[Row]:
    key_ids = None if inventory.access_keys is None else aws.read_key_ids(inventory.access_keys)
    in_answer = aws.is_answer(beginning(inventory.file))
    observed = aws.generated_in(inventory.file) if in_answer else None
    report: aws.CredentialReport | None = None
    for row, header in _table(inventory.file, aws.report_in(inventory.file) if in_answer else None):
        if report is None:
            missing = [name for name in aws.COLUMNS if name not in header]
            if missing:
                raise InventoryInvalid(f"{inventory.file} is no credential report: it has no column {missing[0]}")
            report = aws.CredentialReport(header, _origin(inventory, aws.SOURCE, observed), key_ids)
        if isinstance(row, BadRow):
            yield row
            continue
        line, cells = row
        try:
            keys = list(report.keys(line, cells))  # all of a row's keys, or none
        except RowFault as fault:
            yield BadRow(line, str(fault), dict(zip(header, cells, strict=True)))
            continue
        yield from keys


def _plain_csv(inventory: Inventory) -> Iterator[Row]:
    origin: Origin | None = None
    for row, header in _table(inventory.file):
        if origin is None:
            _expect_known(inventory.file, header)
            origin = _origin(inventory, "inventory")
        if isinstance(row, BadRow):
            yield row
            continue
        line, cells = row
        yield from listings.keys_of(line, dict(zip(header, cells, strict=True)), origin, None)


def _table(
    file: Path, pieces: Iterator[str] | None = None
) -> Iterator[tuple[BadRow | tuple[int, list[str]], Sequence[str]]]:
    """Yield the rows of a CSV, each with the header; of `pieces` of text, if it does not stand in the file itself."""
    if pieces is not None:
        head = next(pieces, "")
        yield from _rows(_lines(itertools.chain([head], pieces)), head)
        return
    head = beginning(file)
    with opened(file) as text:
        yield from _rows(text, head)


def _rows(lines: Iterable[str], head: str) -> Iterator[tuple[BadRow | tuple[int, list[str]], Sequence[str]]]:
    separator, names = _header(head)
    rows = csv.reader(lines, delimiter=separator)
    header: list[str] | None = None
    while True:
        line = rows.line_num + 1
        try:
            cells = [unguarded(cell) for cell in next(rows)]
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


def _expect_known(file: Path, header: Sequence[str]) -> None:
    unknown = [name for name in header if name not in (*listings.COLUMNS, *listings.NOTES)]
    if unknown:  # a misspelt column would be evidence that is ignored in silence
        known = ", ".join(listings.COLUMNS)
        raise InventoryInvalid(
            f"{file} has a column {unknown[0][:40]!a}, which is none of {known}",
            without_quotes=f"{file} has a column that is none of {known}",
        )
    if len(set(header)) != len(header):
        raise InventoryInvalid(f"{file} names a column twice")

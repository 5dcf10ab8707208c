"""Read an inventory: its format is recognised, rows come one at a time, and a bad one stops nobody else."""

import base64
import binascii
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import ijson

from keyturn.errors import InventoryInvalid
from keyturn.inventory import aws, listings
from keyturn.inventory.cells import unguarded
from keyturn.inventory.rows import BadRow, InventoryKey, Origin, RowFault

Format = Literal["aws", "gcloud", "azure", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_LINE = 1_000_000  # characters: a row is some hundreds; what is longer is not one
_PEEK = 65_536
Row = InventoryKey | BadRow
T = TypeVar("T")


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
        InventoryInvalid: the file cannot be read, or is none of the formats; what was yielded before is sound.
    """
    kind = inventory.format or recognised(inventory.file)
    if kind == "aws":
        rows: Iterator[Row] = _credential_report(inventory)
    elif kind == "csv":
        rows = _plain_csv(inventory)
    else:
        rows = _objects(inventory, json_lines if kind == "jsonl" else _entries)
    yield from told_plainly(inventory.file, rows)


def told_plainly(file: Path, rows: Iterator[T]) -> Iterator[T]:
    """Yield `rows` of a file; raises InventoryInvalid where it cannot be read any further."""
    try:
        yield from rows
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InventoryInvalid(f"{file} cannot be read: {reason}") from None
    except ijson.JSONError:
        raise InventoryInvalid(f"{file} is not JSON from some place on") from None


def _objects(
    inventory: Inventory, objects: Callable[[Path], Iterator[BadRow | tuple[int, Mapping[str, Any]]]]
) -> Iterator[Row]:
    origin = _origin(inventory, "inventory")
    yield from _each(objects(inventory.file), lambda line, row: _any_object(line, row, origin, inventory))


def recognised(file: Path) -> Format:
    """Return the format of a file by how it begins; raises InventoryInvalid."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as opened:
            head = opened.read(_PEEK).lstrip()
    except OSError as error:
        raise InventoryInvalid(f"{file} cannot be read: {error.strerror}") from None
    first = head.partition("\n")[0].strip()
    if first.startswith(("[", "{")):
        if '"GeneratedTime"' in head or '"ReportFormat"' in head:
            return "aws"
        if first.startswith("{") and first.endswith("}"):
            return "jsonl"
        return "azure" if '"keyId"' in head else "gcloud"
    names = next(csv.reader([first]), [])
    if set(aws.COLUMNS) <= set(names):
        return "aws"
    if "account_id" in names and "key_id" in names:
        return "csv"
    raise InventoryInvalid(f"{file} is none of {', '.join(FORMATS)}: say which by --format (docs/bulk.md has them)")


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
    with inventory.file.open(encoding="utf-8-sig", newline="") as opened:
        first = opened.read(1)
        opened.seek(0)
        observed, text = None, opened
        if first == "{":  # the answer of get-credential-report as it is; it is at most some megabytes
            try:
                answer = aws.report_of(json.load(opened))
                if answer is None:
                    raise ValueError
                observed = answer[1]
                text = io.StringIO(base64.b64decode(answer[0], validate=True).decode())  # type: ignore[assignment]
            except (ValueError, binascii.Error, AttributeError):
                raise InventoryInvalid(f"{inventory.file} is not an answer of get-credential-report") from None
        rows = csv.reader(text)
        header = next(rows, [])
        missing = [name for name in aws.COLUMNS if name not in header]
        if missing:
            raise InventoryInvalid(f"{inventory.file} is no credential report: it has no column {missing[0]}")
        report = aws.CredentialReport(header, _origin(inventory, aws.SOURCE, observed), key_ids)
        for row in _rows(rows, header):
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
    with inventory.file.open(encoding="utf-8-sig", newline="") as opened:
        rows = csv.reader(opened)
        header = [unguarded(name) for name in next(rows, [])]
        _expect_known(inventory.file, header)
        origin = _origin(inventory, "inventory")

        def as_mappings() -> Iterator[BadRow | tuple[int, Mapping[str, Any]]]:
            for row in _rows(rows, header):
                yield row if isinstance(row, BadRow) else (row[0], dict(zip(header, row[1], strict=True)))

        yield from _each(as_mappings(), lambda line, row: listings.plain_key(line, row, origin))


def _rows(rows: Any, header: Sequence[str]) -> Iterator[BadRow | tuple[int, list[str]]]:
    """Yield the rows of a CSV reader that have as many cells as the header."""
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, f"is not CSV: {error}", {})
            continue
        if not row:
            continue
        row = [unguarded(cell) for cell in row]
        if len(row) != len(header):
            yield BadRow(
                line, f"has {len(row)} cells, and the header {len(header)}", dict(zip(header, row, strict=False))
            )
            continue
        yield line, row


def json_lines(file: Path) -> Iterator[BadRow | tuple[int, Mapping[str, Any]]]:
    """Yield the objects of JSON Lines with their lines' numbers, and what is none as a BadRow.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read any further.
    """
    with file.open(encoding="utf-8-sig") as opened:
        line = 0
        while text := opened.readline(MAX_LINE):
            line += 1
            if len(text) == MAX_LINE and not text.endswith("\n"):
                while (rest := opened.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
                yield BadRow(line, f"is longer than {MAX_LINE:,} characters", {})
                continue
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                yield BadRow(line, "is not JSON", {})
                continue
            yield (line, row) if isinstance(row, dict) else BadRow(line, "is not an object", {})


def _entries(file: Path) -> Iterator[BadRow | tuple[int, Mapping[str, Any]]]:
    """Yield the objects of an array, or of the array `keys`, counted from 1."""
    with file.open("rb") as opened:
        first = opened.read(1)
        opened.seek(0)
        place = "item" if first == b"[" else "keys.item"
        for number, entry in enumerate(ijson.items(opened, place), 1):
            yield (number, entry) if isinstance(entry, dict) else BadRow(number, "is not an object", {})


def _each(rows: Iterator[BadRow | tuple[int, Mapping[str, Any]]], key: Any) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        line, raw = row
        try:
            yield key(line, raw)
        except RowFault as fault:
            yield BadRow(line, str(fault), raw)


def _any_object(line: int, row: Mapping[str, Any], origin: Origin, inventory: Inventory) -> InventoryKey:
    """An object says by its fields what it is, so that rejects of any listing can be mended and read again."""
    if "keyId" in row:
        return listings.azure_key(line, row, Origin(origin.observed_at, "azure"), inventory.account_id)
    if "name" in row and "account_id" not in row:
        return listings.gcloud_key(line, row, Origin(origin.observed_at, "gcloud"))
    unknown = [name for name in row if name not in (*listings.COLUMNS, *listings.NOTES)]
    if unknown:
        raise RowFault(f"{str(unknown[0])[:40]!a} is no column; there are {', '.join(listings.COLUMNS)}")
    return listings.plain_key(line, row, origin)


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

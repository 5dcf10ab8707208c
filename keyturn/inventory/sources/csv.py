"""A CSV of one's own, of the plain form's columns, by comma, semicolon or tab."""

from collections.abc import Collection, Iterator, Sequence

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.plain import COLUMNS, NOTES, plain_key
from keyturn.inventory.source import Inventory, Row, RowReader, Source, Table


def _knows(names: Collection[str]) -> bool:
    return bool({"account_id", "key_id"} & set(names))


def _open(inventory: Inventory, header: Sequence[str], _observed: str | None) -> RowReader:
    unknown = [name for name in header if name not in (*COLUMNS, *NOTES)]
    if unknown:  # a misspelt column would be evidence that is ignored in silence
        known = ", ".join(COLUMNS)
        raise InventoryInvalid(
            f"{inventory.file} has a column {unknown[0][:40]!a}, which is none of {known}",
            without_quotes=f"{inventory.file} has a column that is none of {known}",
        )
    if len(set(header)) != len(header):
        raise InventoryInvalid(f"{inventory.file} names a column twice")
    origin = inventory.origin("inventory")

    def keys(line: int, cells: Sequence[str]) -> Iterator[Row]:
        yield plain_key(line, dict(zip(header, cells, strict=True)), origin)

    return keys


SOURCE = Source(
    "csv",
    exports="one's own, with a header",
    table=Table(columns=COLUMNS, knows=_knows, looked_for="with account_id and key_id", open=_open),
)

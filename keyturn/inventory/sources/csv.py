"""A CSV of one's own, of the plain form's columns, by comma, semicolon or tab."""

from collections.abc import Collection, Iterator, Sequence

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.plain import COLUMNS, NOTES, plain_key
from keyturn.inventory.source import Inventory, Row, Source, Table


def _knows(names: Collection[str]) -> bool:
    return bool({"account_id", "key_id"} & set(names))


class _PlainTable:
    def __init__(self, inventory: Inventory) -> None:
        self._file = inventory.file
        self._origin = inventory.origin("inventory")
        self._header: Sequence[str] = ()

    def begin(self, header: Sequence[str], _observed: str | None) -> None:
        unknown = [name for name in header if name not in (*COLUMNS, *NOTES)]
        if unknown:  # a misspelt column would be evidence that is ignored in silence
            known = ", ".join(COLUMNS)
            raise InventoryInvalid(
                f"{self._file} has a column {unknown[0][:40]!a}, which is none of {known}",
                without_quotes=f"{self._file} has a column that is none of {known}",
            )
        if len(set(header)) != len(header):
            raise InventoryInvalid(f"{self._file} names a column twice")
        self._header = header

    def keys(self, line: int, cells: Sequence[str]) -> Iterator[Row]:
        yield plain_key(line, dict(zip(self._header, cells, strict=True)), self._origin)

    def rest(self) -> Iterator[Row]:
        return iter(())


SOURCE = Source(
    "csv",
    exports="one's own, with a header",
    table=Table(columns=COLUMNS, knows=_knows, looked_for="with account_id and key_id", open=_PlainTable),
)

"""JSON of one's own: an object a key, of the plain form's columns."""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.inventory.plain import COLUMNS, NOTES, plain_key
from keyturn.inventory.rows import Origin, RowFault
from keyturn.inventory.source import Entries, Inventory, Row, Source


def _knows(row: Mapping[str, Any]) -> bool:
    return bool({"account_id", "key_id"} & row.keys())


def _keys_of(line: int, row: Mapping[str, Any], _inventory: Inventory, origin: Origin) -> Iterator[Row]:
    unknown = [name for name in row if name not in (*COLUMNS, *NOTES)]
    if unknown:
        raise RowFault(f"{str(unknown[0])[:40]!a} is no column; there are {', '.join(COLUMNS)}")
    yield plain_key(line, row, origin)


SOURCE = Source(
    "jsonl",
    exports="one's own, an object a line or in an array",
    entries=Entries(_knows, "account_id and key_id", _keys_of),
)

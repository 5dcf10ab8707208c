"""An inventory source: a listing that calls accounts `robot` and keys `badge`, as `[{"robot": ..., "badge": ...}]`."""

from collections.abc import Iterator, Mapping
from typing import Any

from keyturn.inventory.rows import Origin, key_of
from keyturn.inventory.source import Entries, Inventory, Row, Source


def knows(entry: Mapping[str, Any]) -> bool:
    """Return True if an entry is of this source."""
    return {"robot", "badge"} <= entry.keys()


def keys_of(line: int, entry: Mapping[str, Any], _inventory: Inventory, origin: Origin) -> Iterator[Row]:
    """Yield an entry's one key; `key_of` raises RowFault for what cannot be used, which makes it a reject."""
    yield key_of(
        line,
        entry["robot"],
        idle=None if entry.get("on", True) else "inactive",
        key_id=entry["badge"],
        kind="access_key",
        last_rotated_at=entry.get("since"),
        observed_at=origin.observed_at,
        source="example",
    )


SOURCE = Source(
    "example", exports="the example's listing of badges", entries=Entries(knows, "robot and badge", keys_of)
)

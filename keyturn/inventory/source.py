"""An inventory source: an export that Keyturn reads, as tables of rows or as JSON entries."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.rows import BadRow, InventoryKey, Origin

Row = InventoryKey | BadRow


@dataclass(frozen=True)
class Inventory:
    """A file of keys, and how to read it.

    `format` is the name of a source; None recognises it by its content. `observed_at` is the evidence's own time; None
    takes what the export says, or else when the file was written. `account_id` is the Azure application, which its
    listing does not name. `access_keys` is the output of `aws iam list-access-keys`.
    """

    file: Path
    format: str | None = None
    observed_at: datetime | None = None
    account_id: str | None = None
    access_keys: Path | None = None

    def origin(self, source: str, observed: str | None = None) -> Origin:
        """Return what is the same for all of its keys.

        Args:
            source: what the evidence calls the export.
            observed: when the export says that it was made.

        Raises:
            InventoryInvalid: `observed` is needed and no moment.
        """
        moment = self.observed_at
        if moment is None and observed is not None:
            try:
                moment = datetime.fromisoformat(observed)
            except ValueError:
                raise InventoryInvalid(f"{self.file}: GeneratedTime is not a moment") from None
        if moment is None:
            moment = datetime.fromtimestamp(self.file.stat().st_mtime, UTC)
        return Origin(moment, source)


@dataclass(frozen=True)
class Entries:
    """How a source reads JSON: arrays, listings, JSON Lines. One file may contain entries of several sources.

    Attributes:
        knows: whether an entry is this source's.
        looked_for: what such an entry has, for the message that no source knows one.
        keys_of: yields an entry's keys, or a BadRow with the reason: of its line, itself, the inventory and what is the
            same for all of it. It raises RowFault for what is wrong with the whole entry.
    """

    knows: Callable[[Mapping[str, Any]], bool]
    looked_for: str
    keys_of: Callable[[int, Mapping[str, Any], Inventory, Origin], Iterator[Row]]


class TableReader(Protocol):
    """The keys of the tables of one inventory, which are read one after the other."""

    def begin(self, header: Sequence[str], observed: str | None) -> None:
        """Start a table of this header, made at `observed` if it says so; raises InventoryInvalid."""
        ...

    def keys(self, line: int, cells: Sequence[str]) -> Iterator[Row]:
        """Yield a row's keys, or a BadRow for what it leaves out; raises RowFault, and none of them is then used."""
        ...

    def rest(self) -> Iterator[Row]:
        """Yield what no table had, once all are read."""
        ...


@dataclass(frozen=True)
class WrappedTables:
    """Tables within the JSON answers of an API.

    Attributes:
        knows: whether a file that starts so is such an answer.
        tables: yields each table, one after the other: when it was made, if its answer says so, and its text, piece by
            piece. It raises InventoryInvalid.
    """

    knows: Callable[[str], bool]
    tables: Callable[[Path], Iterator[tuple[str | None, Iterator[str]]]]


@dataclass(frozen=True)
class Table:
    """How a source reads a CSV, by comma, semicolon or tab.

    Attributes:
        columns: the names that its header may have.
        knows: whether a header of these names is this source's.
        looked_for: what such a header has, for the message that no source knows a file.
        open: makes the reader of an inventory; raises InventoryInvalid.
        wrapped: how an answer wraps tables; None if none ever does.
    """

    columns: Collection[str]
    knows: Callable[[Collection[str]], bool]
    looked_for: str
    open: Callable[[Inventory], TableReader]
    wrapped: WrappedTables | None = None


@dataclass(frozen=True)
class Source:
    """An inventory source, as `--format` names it.

    Attributes:
        name: unique.
        exports: what it reads, for the documentation: commands and files.
        entries: how it reads JSON; None if it has none.
        table: how it reads a CSV; None if it has none.
    """

    name: str
    exports: str
    entries: Entries | None = None
    table: Table | None = None

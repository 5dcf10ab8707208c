"""Rejects: the rows that could not be used, in a form that can be mended and read again, each with line and reason."""

import csv
import json
from pathlib import Path
from typing import Any

from keyturn.inventory.listings import NOTES
from keyturn.inventory.rows import BadRow

# The first letters of a secret, or a secret: Azure's listing has them. They are not written anywhere.
_SECRETS = frozenset({"hint", "secretText"})


class Rejects:
    """Writes rejects to `file`, which is made with the first one: CSV if its name ends so, JSON Lines otherwise."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._opened: Any = None
        self._table: Any = None
        self.count = 0

    def add(self, row: BadRow) -> None:
        """Write one reject."""
        self.count += 1
        whole = {name: value for name, value in row.raw.items() if name not in _SECRETS}
        whole |= dict(zip(NOTES, (row.line, row.reason), strict=True))
        if self._opened is None:
            self._opened = self.file.open("w", encoding="utf-8", newline="")
        if self.file.suffix == ".csv":
            if self._table is None:
                self._table = csv.DictWriter(self._opened, fieldnames=list(whole), extrasaction="ignore")
                self._table.writeheader()
            self._table.writerow(whole)
        else:
            self._opened.write(json.dumps(whole, default=str) + "\n")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._opened is not None:
            self._opened.close()

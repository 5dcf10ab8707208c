"""Rejects: the rows that could not be used, in a form that can be fixed and read again, each with line and reason."""

import csv
import filecmp
import itertools
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keyturn.inventory.cells import escape_formula
from keyturn.inventory.errors import InventoryInvalid
from keyturn.inventory.plain import NOTES
from keyturn.inventory.rows import BadRow
from keyturn.private_data import holds_private_data, holds_secret

# Names of fields with a secret, or its first letters; not names of facts about one, such as AWS's password_last_used.
_SECRET_NAME = re.compile(
    r"secret|passw|\bpass\b|pwd|token|hint|private.?key|api.?key|credential|access.?key$|signature|\bauth|cookie",
    re.IGNORECASE,
)
_ABOUT_A_SECRET = re.compile(
    r"(?:_(?:enabled|active|rotated|used|changed|rotation|date|region|service)|[kK]ey_?[iI]d|Type|Time|Date|Name)$"
)


class Rejects:
    """Takes rejects, and writes them to `file` when closed: CSV if its name ends so, JSON Lines otherwise.

    An existing file is never overwritten, for its rejects may be being fixed: then `file` is the name with a number
    behind it that was taken instead. The same rejects once more are not written again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._kept: Any = None
        self._columns: dict[str, None] = {}  # of all rejects: the first may be a short row
        self.count = 0

    def add(self, row: BadRow) -> None:
        """Take one reject."""
        self.count += 1
        whole = _without_secrets(row.raw)
        whole |= dict(zip(NOTES, (row.line, row.reason), strict=True))
        if self._kept is None:
            self._kept = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - until it is closed
        self._columns |= dict.fromkeys(whole)
        self._kept.write(json.dumps(whole, default=str) + "\n")

    def close(self) -> None:
        """Write them, if there are any; raises InventoryInvalid if there they cannot be written."""
        if self._kept is None:
            return
        kept, self._kept = self._kept, None
        written = self.file.with_name(f".{self.file.name}.{secrets.token_hex(4)}")
        try:
            # Half a surrogate pair in a cell is written as its escape: nothing of the rejects is lost by it.
            # They hold names of accounts and keys: for their owner alone.
            number = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with kept, open(number, "w", encoding="utf-8", errors="backslashreplace", newline="") as opened:
                kept.seek(0)
                if self.file.suffix == ".csv":
                    # The notes last, behind the columns that were read.
                    columns = [name for name in self._columns if name not in NOTES]
                    table = csv.DictWriter(opened, fieldnames=[*columns, *NOTES])
                    table.writerow({name: escape_formula(name) for name in (*columns, *NOTES)})
                    for row in map(json.loads, kept):
                        table.writerow({name: escape_formula(value) for name, value in row.items()})
                else:
                    opened.writelines(kept)
            if self.file.is_dir():
                raise InventoryInvalid(f"the file of rejects {self.file} is a folder")
            self.file = next(place for place in self._places() if _is_free(place, written))
            written.replace(self.file)
        except OSError as error:
            raise InventoryInvalid(f"the file of rejects {self.file} cannot be written: {error.strerror}") from None
        finally:
            written.unlink(missing_ok=True)

    def _places(self) -> Iterator[Path]:
        yield self.file
        for number in itertools.count(2):
            yield self.file.with_name(f"{self.file.stem}-{number}{self.file.suffix}")


def _without_secrets(value: Any) -> Any:
    """A row, or a part of it, without what is a secret by its name or by its form, at any depth."""
    if isinstance(value, Mapping):
        return {name: _without_secrets(part) for name, part in value.items() if not _is_secret(str(name), part)}
    if isinstance(value, list):
        return [_without_secrets(part) for part in value]
    return "(left out)" if isinstance(value, str) and holds_private_data(value, allow_key_ids=True) else value


def _is_secret(name: str, value: Any) -> bool:
    is_named_so = _SECRET_NAME.search(name) is not None and _ABOUT_A_SECRET.search(name) is None
    # Of Terraform's passwords, and of Azure's old credentials.
    is_named_so = is_named_so or (name == "value" and isinstance(value, str))
    # Lists of credentials are entries, with names and dates that are to be fixed; what is secret in them is left out.
    return (is_named_so and not isinstance(value, list)) or holds_secret(name)


def _is_free(place: Path, written: Path) -> bool:
    return not place.exists() or (place.is_file() and filecmp.cmp(place, written, shallow=False))

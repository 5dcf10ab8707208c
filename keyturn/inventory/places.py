"""Which files a worker may read: regular ones, of bounded size, below a folder that its operator names.

A schedule's path comes from whoever may create schedules, and is read on the worker's machine, where other files lie.
"""

import os
import stat
from pathlib import Path

from keyturn.errors import InventoryInvalid, InventoryRefused

# Ten million keys of a hundred bytes: larger than any export, and read in minutes.
MAX_BYTES = 1 << 30


def expect_regular(file: Path) -> None:
    """Refuse what is no regular file of bounded size; raises InventoryRefused, or InventoryInvalid if it is not there.

    A device or a pipe would be read for ever.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise InventoryInvalid(f"{file} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InventoryRefused(f"{file} is not a regular file")
    if found.st_size > MAX_BYTES:
        raise InventoryRefused(f"{file} has {found.st_size:,} bytes, and {MAX_BYTES:,} is the most")


def expect_below(path: Path, root: Path | None) -> None:
    """Refuse a path that does not lie below `root`, links followed; raises InventoryRefused."""
    if root is None:
        raise InventoryRefused("KEYTURN_INVENTORY_ROOT is not set: a worker reads inventories below it, and no others")
    real, above = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if real != above and above not in real.parents:
        raise InventoryRefused(f"the inventory does not lie below KEYTURN_INVENTORY_ROOT ({root})")

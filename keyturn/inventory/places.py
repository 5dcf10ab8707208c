"""Which files a worker may read: regular ones, of bounded size, below a folder that its operator names.

A schedule's path comes from any user who may create schedules, and is read on the worker's machine, beside its files.
"""

import os
import stat
from pathlib import Path

from keyturn.inventory.errors import InventoryInvalid, InventoryRefused

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
        raise InventoryRefused(f"{file} has {found.st_size:,} bytes, and the limit is {MAX_BYTES:,}")


def expect_file(file: Path) -> None:
    """Refuse a pipe or a device, which can be read only once, or for ever; raises InventoryInvalid."""
    if file.exists() and not file.is_file():
        raise InventoryInvalid(f"{file} is no regular file: save it to one, because it is read more than once")


def file_below(path: str, root: Path | None) -> Path:
    """Return the regular file that `path` names below `root`, links followed; of a folder, the newest in it.

    The result is the file's resolved path: a link that is changed afterwards leads nowhere else.

    Raises:
        InventoryRefused: it lies elsewhere, whatever is there.
        InventoryInvalid: it cannot be read, or the folder has no file. The path is not repeated.
    """
    if root is None:
        raise InventoryRefused("KEYTURN_INVENTORY_ROOT is not set: a worker reads inventories below it only")
    try:
        path.encode()  # no error message could repeat half a surrogate pair
        real = _below(path, root)
        return _below(newest(real), root)
    except (OSError, ValueError):  # a name that is too long, or contains a NUL; a folder that may not be listed
        raise InventoryInvalid("the inventory's path cannot be read on this machine") from None


def _below(path: str | Path, root: Path) -> Path:
    real, above = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if real != above and above not in real.parents:
        raise InventoryRefused(f"the inventory is not below KEYTURN_INVENTORY_ROOT ({root})")
    return real


def newest(path: Path) -> Path:
    """Return `path`, or the file in it that was written last; raises InventoryInvalid, OSError.

    The manifest beside a snapshot, which is written right after it, is no inventory.
    """
    if not path.is_dir():
        return path
    files = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    files = [entry for entry in files if entry.suffix != ".json" or entry.with_suffix("") not in files]
    if not files:
        raise InventoryInvalid(f"{path} holds no file")
    return max(files, key=lambda entry: (entry.stat().st_mtime, entry.name))

"""Files that are there whole or not at all, whatever kills the process or the machine."""

import glob
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from keyturn.snapshots.errors import SnapshotUnwritable

# Named so that what a killed process left behind is recognised.
_UNFINISHED = ".unfinished-"


def write_whole(file: Path, pieces: Iterable[bytes], *, mode: int = 0o666) -> None:
    """Write a file beside its place, and put it there once it is on the disk; raises SnapshotUnwritable."""
    with written(file):
        _write_whole(file, pieces, mode)


@contextmanager
def written(place: Path) -> Iterator[None]:
    """Raise SnapshotUnwritable if what is written at `place` cannot be."""
    try:
        yield
    except OSError as error:
        raise SnapshotUnwritable(f"{place} cannot be written: {error.strerror or type(error).__name__}") from None


def _write_whole(file: Path, pieces: Iterable[bytes], mode: int) -> None:
    beside = file.with_name(f"{_UNFINISHED}{secrets.token_hex(4)}-{file.name}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            opened.writelines(pieces)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    # Without this, the name may be lost in a power failure, although the file's content is not.
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(folder: Path, *names: str) -> None:
    """Remove what killed processes left of these files; of every file in the folder, if none is named."""
    digits = "[0-9a-f]" * 8
    patterns = [f"{_UNFINISHED}{digits}-{glob.escape(name)}" for name in names] or [f"{_UNFINISHED}*"]
    for pattern in patterns:
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)

"""Files of settings that a long-running process reads again when they are changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from keyturn.errors import KeyturnError

_log = structlog.get_logger("keyturn.files")
T = TypeVar("T")


class LiveFile(Generic[T]):
    """What a file holds now. One that cannot be read any more leaves what it held before in force, and is logged.

    Args:
        file: the file; None for what `load` returns without one.
        load: reads it.

    Raises:
        KeyturnError: it cannot be read at the start.
    """

    def __init__(self, file: Path | None, load: Callable[[Path | None], T]) -> None:
        self._file, self._load = file, load
        self._seen = self._state()
        self._held = load(file)

    def __call__(self) -> T:
        """Return what the file holds."""
        if self._file is not None and (state := self._state()) != self._seen:
            self._seen = state  # also of a faulty one: it is said once
            try:
                self._held = self._load(self._file)
                _log.info("file_read_again", file=str(self._file))
            except KeyturnError as error:
                _log.error("file_not_read_again", file=str(self._file), because=str(error)[:1_000], hint=error.hint)
        return self._held

    def _state(self) -> tuple[int, int, int] | None:
        """By which a change is known: the file was written, replaced, or is a link to another one, as in Kubernetes."""
        try:
            found = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)

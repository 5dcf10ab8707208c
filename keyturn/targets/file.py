"""Secrets in files of a folder, for development: mode 0600, replaced as a whole, the one before stored beside it."""

import os
import tempfile
from pathlib import Path

from pydantic import SecretStr

from keyturn.execution.errors import SecretNotStored
from keyturn.jobs.executor import SecretTarget


class SecretFiles:
    """A file a name, `FOLDER/NAME`; the folder is one that only this user may enter (0700)."""

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret of `name`, keeping the one before."""
        now = self._read(Path(name))
        if now is None or now != secret.get_secret_value():
            # First the one before: a crash between the two leaves the current one where it is.
            self._write(_before(Path(name)), now or "")
            self._write(Path(name), secret.get_secret_value())

    async def current(self, name: str) -> SecretStr | None:
        """Return the current secret; None if there is none."""
        text = self._read(Path(name))
        return SecretStr(text) if text else None

    async def restore(self, name: str) -> None:
        """Make the one before current again, or forget the file if it was the first."""
        before = self._read(_before(Path(name)))
        if before:
            self._write(Path(name), before)
        else:
            os.unlink(name)

    def _read(self, file: Path) -> str | None:
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise SecretNotStored(f"{file} cannot be read") from None

    def _write(self, file: Path, text: str) -> None:
        folder = file.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                raise SecretNotStored(f"{folder} is accessible to other users: chmod 700")
            # mkstemp makes it 0600. Written beside, then put in its place: a crash leaves the old one or the new one.
            handle, beside = tempfile.mkstemp(dir=folder, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(beside, file)
        except OSError as error:
            raise SecretNotStored(f"{folder} cannot be written: {error.strerror}") from None


def _before(file: Path) -> Path:
    return file.with_name(f".{file.name}.before")


TARGET = SecretTarget("file", path="FOLDER/NAME", open=SecretFiles, for_production=False)

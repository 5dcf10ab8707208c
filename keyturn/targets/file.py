"""Secrets in files of a folder, for development: mode 0600, replaced as a whole, the one before stored beside it."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from keyturn.execution.errors import SecretNotKept
from keyturn.jobs.executor import SecretTarget


class SecretFiles:
    """One file a name in `folder`, which only this user may enter (0700)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
        """Make this the current secret of `name`, keeping the one before."""
        now = self._read(name)
        value: dict[str, object] = {"AccessKeyId": key_id, "SecretAccessKey": secret.get_secret_value()}
        if now is None or now.get("AccessKeyId") != key_id:
            before = None if now is None else {key: now[key] for key in ("AccessKeyId", "SecretAccessKey")}
            self._write(name, value | {"before": before})

    async def current(self, name: str) -> tuple[str, SecretStr] | None:
        """Return the current key id and secret; None if there is none."""
        now = self._read(name)
        return None if now is None else (now["AccessKeyId"], SecretStr(now["SecretAccessKey"]))

    async def restore(self, name: str, *, instead_of: str) -> None:
        """Make the one before current again, or forget the file if it was the first."""
        now = self._read(name)
        if now is None or now["AccessKeyId"] != instead_of:
            return
        if now.get("before"):
            self._write(name, now["before"] | {"before": None})
        else:
            self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '_')}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(self._file(name).read_text(encoding="utf-8"))
            return value if isinstance(value, dict) and "SecretAccessKey" in value else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise SecretNotKept(f"{self._file(name)} cannot be read") from None

    def _write(self, name: str, value: object) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.stat().st_mode & 0o077:
                raise SecretNotKept(f"{self._folder} is accessible to other users: chmod 700")
            # mkstemp makes it 0600. Written beside, then put in its place: a crash leaves the old one or the new one.
            handle, beside = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._file(name))
        except OSError as error:
            raise SecretNotKept(f"{self._folder} cannot be written: {error.strerror}") from None


TARGET = SecretTarget("file", open=lambda place: SecretFiles(Path(place)), place="FOLDER", for_production=False)

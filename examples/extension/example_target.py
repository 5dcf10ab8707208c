"""A secret target: the JSON file that EXAMPLE_SECRETS names. To try out: it has no lock."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from keyturn.jobs.executor import SecretTarget


class OneFile:
    """Secrets by name, each a list of version and secret, the current one last."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret, keeping those before; the same version twice changes nothing."""
        content = self._read()
        if [entry[0] for entry in content.get(name, [])][-1:] != [version]:
            content.setdefault(name, []).append([version, secret.get_secret_value()])
            self._file.write_text(json.dumps(content), encoding="utf-8")

    async def current(self, name: str) -> SecretStr | None:
        """Return the current secret; None if there is none."""
        entries = self._read().get(name)
        return SecretStr(entries[-1][1]) if entries else None

    async def restore(self, name: str) -> None:
        """Make the one before current again."""
        content = self._read()
        content[name].pop()
        self._file.write_text(json.dumps(content), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._file.read_text(encoding="utf-8"))) if self._file.exists() else {}


TARGET = SecretTarget(
    "example", path="NAME", open=lambda: OneFile(Path(os.environ["EXAMPLE_SECRETS"])), for_production=False
)

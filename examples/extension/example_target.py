"""A secret target: one JSON file, as KEYTURN_EXECUTOR_SECRETS=example:FILE names it. To try out: it has no lock."""

import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from keyturn.jobs.executor import SecretTarget


class OneFile:
    """Secrets by name, each a list of key id and secret, the current one last."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
        """Make this the current secret, keeping those before."""
        kept = self._read()
        if [entry[0] for entry in kept.get(name, [])][-1:] != [key_id]:
            kept.setdefault(name, []).append([key_id, secret.get_secret_value()])
            self._file.write_text(json.dumps(kept), encoding="utf-8")

    async def current(self, name: str) -> tuple[str, SecretStr] | None:
        """Return the current key id and secret; None if there is none."""
        entries = self._read().get(name)
        return (entries[-1][0], SecretStr(entries[-1][1])) if entries else None

    async def restore(self, name: str, *, instead_of: str) -> None:
        """Make the one before current again."""
        kept = self._read()
        if kept.get(name) and kept[name][-1][0] == instead_of:
            kept[name].pop()
            self._file.write_text(json.dumps(kept), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._file.read_text(encoding="utf-8"))) if self._file.exists() else {}


TARGET = SecretTarget("example", open=lambda place: OneFile(Path(place)), place="FILE", for_production=False)

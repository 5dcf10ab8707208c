"""An executor for a cloud that is a folder: a key is a file `USER/KEY_ID` in the folder that EXAMPLE_CLOUD names.

An executor says how its cloud's keys are listed, created, used, deactivated and deleted, one call each. What makes a
rotation safe to repeat is Keyturn's (docs/explanation/executor.md says how).
"""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from keyturn.execution.contracts import KeyUse
from keyturn.execution.errors import AccountMismatch, KeyLimit, NewKeyMissing, UserGone
from keyturn.execution.protocols import CloudKey, CloudKeys
from keyturn.jobs.executor import Executor


class FolderKeys:
    """The keys in the folder `cloud`."""

    most_keys = 2
    visible_within = state_shown_within = timedelta(0)  # a file is listed as soon as it is there
    has_inactive_state = True

    def __init__(self, cloud: Path) -> None:
        self._cloud = cloud

    async def account(self) -> str:
        """Return the name of the cloud's account: the folder's."""
        return self._cloud.name

    def account_named_in(self, account_id: str) -> str | None:
        """Return None: an account ID names a user only."""
        return None

    def user_of(self, account_id: str, own: str) -> str:
        """Return the user, which the account ID is."""
        if "/" in account_id or account_id.startswith("."):
            raise AccountMismatch("the job's account is no folder's name")
        return account_id

    async def list_keys(self, user: str) -> list[CloudKey]:
        """Return the user's keys, oldest first."""
        if not (self._cloud / user).is_dir():
            raise UserGone("the user has no folder")
        keys = [self._key_of(file) for file in (self._cloud / user).iterdir()]
        return sorted(keys, key=lambda key: key.created_at)

    async def create(self, user: str, *, job_id: str) -> tuple[str, SecretStr]:
        """Create a key; its file has the secret's hash, and the job."""
        if len(await self.list_keys(user)) >= self.most_keys:
            raise KeyLimit("the user has two keys")
        key_id, word = f"badge_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        self._write(user, key_id, {"sha256": hashlib.sha256(word.encode()).hexdigest(), "job": job_id, "active": True})
        return key_id, SecretStr(json.dumps({"badge": key_id, "word": word}))

    def key_in(self, secret: SecretStr) -> str | None:
        """Return the ID of the key that a stored secret is of."""
        try:
            return str(json.loads(secret.get_secret_value())["badge"])
        except (ValueError, TypeError, KeyError):
            return None

    async def verify(self, user: str, secret: SecretStr) -> str:
        """Compare the secret with the key's hash, as the cloud's door does."""
        key_id, word = self.key_in(secret), json.loads(secret.get_secret_value()).get("word", "")
        file = self._cloud / user / str(key_id)
        if not file.exists() or self._read(file).get("sha256") != hashlib.sha256(word.encode()).hexdigest():
            raise NewKeyMissing("no door opens by the stored secret")
        return f"{user} in {self._cloud.name}"

    async def use_of(self, user: str, key_id: str) -> KeyUse:
        """Return that the key was never used; a cloud that cannot say returns `KeyUse(is_known=False)`."""
        return KeyUse()

    async def set_active(self, user: str, key_id: str, is_active: bool) -> None:
        """Activate or deactivate a key."""
        self._write(user, key_id, self._read(self._cloud / user / key_id) | {"active": is_active})

    async def delete(self, user: str, key_id: str) -> None:
        """Delete a key."""
        (self._cloud / user / key_id).unlink(missing_ok=True)

    def _key_of(self, file: Path) -> CloudKey:
        content = self._read(file)
        created = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        return CloudKey(file.name, content.get("active", True), created, content.get("job"))

    def _read(self, file: Path) -> dict[str, Any]:
        return dict(json.loads(file.read_text(encoding="utf-8") or "{}"))

    def _write(self, user: str, key_id: str, content: dict[str, Any]) -> None:
        (self._cloud / user / key_id).write_text(json.dumps(content), encoding="utf-8")


def open_keys() -> Sequence[CloudKeys]:
    """Return the keys of the one account, the folder that EXAMPLE_CLOUD names."""
    return [FolderKeys(Path(os.environ["EXAMPLE_CLOUD"]))]


EXECUTOR = Executor("example", kind="access_key", open=open_keys)

"""The calls of Secrets Manager."""

import json
from typing import Any

from pydantic import SecretStr

from keyturn.aws import ONE_TRY, Absent, ask, client_of


class SecretsManager:
    """AWS Secrets Manager. A version's token is the key's id: a `put` whose answer was lost is repeated safely."""

    def __init__(self, **settings: Any) -> None:
        self._client = client_of("secretsmanager", {"config": ONE_TRY} | settings)

    async def put(self, name: str, key_id: str, secret: SecretStr) -> None:
        """Make this the current secret of `name`."""
        await self._put(name, _token(key_id), _as_json(key_id, secret))

    async def current(self, name: str) -> tuple[str, SecretStr] | None:
        """Return the current key id and secret."""
        return _read(await self._value(name, "AWSCURRENT"))

    async def restore(self, name: str, *, instead_of: str) -> None:
        """Make the one before current again."""
        now = await self.current(name)
        if now is None or now[0] != instead_of:
            return
        before = await self._value(name, "AWSPREVIOUS")
        if before is not None:
            await self._put(name, _token(f"instead-of-{instead_of}"), before)
        else:
            # It was the first, and its key is about to be deleted: nothing is left to recover.
            await ask(lambda: self._client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True))

    async def _put(self, name: str, token: str, text: str) -> None:
        arguments = {"ClientRequestToken": token, "SecretString": text}
        try:
            await ask(lambda: self._client.put_secret_value(SecretId=name, **arguments), absent="none yet")
        except Absent:
            await ask(lambda: self._client.create_secret(Name=name, **arguments))

    async def _value(self, name: str, stage: str) -> str | None:
        try:
            found = await ask(
                lambda: self._client.get_secret_value(SecretId=name, VersionStage=stage), absent="none yet"
            )
        except Absent:
            return None
        text: str | None = found.get("SecretString")
        return text


def _token(key_id: str) -> str:
    return key_id.ljust(32, "-")[:64]  # Secrets Manager wants 32 to 64 characters


def _as_json(key_id: str, secret: SecretStr) -> str:
    return json.dumps({"AccessKeyId": key_id, "SecretAccessKey": secret.get_secret_value()})


def _read(text: str | None) -> tuple[str, SecretStr] | None:
    try:
        value = json.loads(text or "null")
        return value["AccessKeyId"], SecretStr(value["SecretAccessKey"])
    except (ValueError, KeyError, TypeError):
        return None  # a secret of this name that we did not write: it stays as the version before
